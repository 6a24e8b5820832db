//! RSA keys: public keys wrap data keys, private keys unwrap them.
//!
//! The `rsa` crate handles the public half: numbers and fingerprint. Everything that needs the private half
//! runs in aws-lc-rs, which is constant-time (except for weak keys, see [`Strength`]), and so does OAEP
//! wrapping, which is faster there. Unwrapping takes 0.2 ms (2048 bits) to 1.4 ms (4096): async callers use
//! `spawn_blocking`. Wrapping is twenty times cheaper and may run anywhere.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use crypto_bigint::ConcatenatingSquare;
use crypto_primes::Flavor;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::{EncodePublicKey, LineEnding, PrivateKeyInfoRef, SecretDocument};
use rand::rngs::SysRng;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::rand_core::UnwrapErr;
use rsa::traits::PublicKeyParts;
use rsa::{
    BoxedUint, Oaep, Pkcs1v15Encrypt, PrivateKey as RsaPrivateKey, PublicKey as RsaPublicKey,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key_error::{KeyError, MAX_BITS, MIN_BITS, Strength, WEAK_BITS};
use super::recover::Numbers;
use super::stack::wiped_deep;
use super::{ber, random, recover};

/// The public half of a key. Wraps data keys.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key: RsaPublicKey,
    /// The same key in aws-lc, which wraps three times as fast and wipes its temporary values. Every file
    /// that is written waits for it.
    fast: Option<Arc<FastWrap>>,
    fingerprint: String,
}

struct FastWrap {
    oaep: OaepPublicEncryptingKey,
    pkcs1: Pkcs1PublicEncryptingKey,
}

impl FastWrap {
    fn new(spki: &[u8]) -> Option<FastWrap> {
        let key = PublicEncryptingKey::from_der(spki).ok()?;
        Some(FastWrap {
            oaep: OaepPublicEncryptingKey::new(key.clone()).ok()?,
            pkcs1: Pkcs1PublicEncryptingKey::new(key).ok()?,
        })
    }
}

impl fmt::Debug for FastWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastWrap")
    }
}

impl PublicKey {
    pub const MIN_BITS: usize = MIN_BITS;
    /// The accepted sizes if weak keys are allowed.
    pub const WEAK_BITS: usize = WEAK_BITS;
    pub const MAX_BITS: usize = MAX_BITS;
    /// A larger exponent would make each wrapping slow; aws-lc has the same limit.
    const MAX_EXPONENT_BITS: usize = 33;

    /// From modulus and exponent, big-endian without leading zeros.
    ///
    /// # Errors
    /// [`KeyError::TooSmall`], [`KeyError::TooLarge`], [`KeyError::Unusable`], [`KeyError::Damaged`].
    pub fn new(modulus: &[u8], exponent: &[u8], strength: Strength) -> Result<PublicKey, KeyError> {
        const NO_KEY: KeyError = KeyError::Damaged("its numbers are not an RSA public key");
        let bits = bits(modulus);
        let least = match strength {
            Strength::Enforced => Self::MIN_BITS,
            Strength::WeakAllowed => Self::WEAK_BITS,
        };
        if bits < least {
            return Err(KeyError::TooSmall(bits));
        }
        if bits > Self::MAX_BITS {
            return Err(KeyError::TooLarge(bits));
        }
        if self::bits(exponent) > Self::MAX_EXPONENT_BITS {
            return Err(KeyError::Unusable(
                "its public exponent has more than 33 bits, which is not supported",
            ));
        }
        let number = |bytes: &[u8]| {
            BoxedUint::from_be_slice(bytes, (bytes.len() as u32 * 8).next_multiple_of(64))
                .map_err(|_| NO_KEY)
        };
        let key = RsaPublicKey::new(number(modulus)?, number(exponent)?).map_err(|_| NO_KEY)?;
        let spki = key
            .to_public_key_der()
            .map_err(|_| KeyError::Damaged("its numbers cannot be encoded"))?;
        // It may refuse an unusual exponent; then the `rsa` crate is used.
        let fast = FastWrap::new(spki.as_bytes());
        Ok(PublicKey {
            fingerprint: hex::encode(Sha256::digest(spki.as_bytes())),
            fast: fast.map(Arc::new),
            key,
        })
    }

    /// Detects weaknesses of a modulus that are visible without its factors: it is prime, is a square, or has
    /// a small factor. For keys whose private half is not available for a test.
    ///
    /// # Errors
    /// [`KeyError::Unusable`].
    pub fn check_modulus(&self) -> Result<(), KeyError> {
        let modulus = self.key.n().as_ref();
        let bytes = self.modulus();
        for factor in (3..10_000u64).step_by(2) {
            let rest = bytes
                .iter()
                .fold(0, |rest, byte| (rest << 8 | u64::from(*byte)) % factor);
            if rest == 0 {
                return Err(KeyError::Unusable(
                    "its modulus has a small factor, so it offers no protection",
                ));
            }
        }
        let root = modulus.floor_sqrt_vartime();
        if root.concatenating_square() == *modulus {
            return Err(KeyError::Unusable(
                "its modulus is a square, so it offers no protection",
            ));
        }
        if crypto_primes::is_prime(Flavor::Any, modulus) {
            return Err(KeyError::Unusable(
                "its modulus is a prime, so it offers no protection",
            ));
        }
        Ok(())
    }

    /// Whether only [`Strength::WeakAllowed`] accepts it. Such a key must not be used to write.
    pub fn is_weak(&self) -> bool {
        self.bits() < Self::MIN_BITS
    }

    /// SHA-256 of the DER of the SubjectPublicKeyInfo, 64 lower-case hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The first 16 digits of the fingerprint: the value of `x-oss-meta-ossvault-key`.
    pub fn key_id(&self) -> &str {
        &self.fingerprint[..16]
    }

    pub fn bits(&self) -> usize {
        self.key.n().bit_width() as usize
    }

    /// The modulus, big-endian without leading zeros.
    pub fn modulus(&self) -> Box<[u8]> {
        self.key.n().to_be_bytes_trimmed_vartime()
    }

    /// RSA-OAEP with SHA-1, MGF1 with SHA-1, empty label. `secret` has at most 64 bytes here.
    pub fn wrap(&self, secret: &[u8]) -> Vec<u8> {
        wiped_deep(|| {
            let fast = self.fast.as_deref().and_then(|FastWrap { oaep, .. }| {
                let mut wrapped = vec![0; oaep.ciphertext_size()];
                let len = oaep
                    .encrypt(&OAEP_SHA1_MGF1SHA1, secret, &mut wrapped, None)
                    .ok()?
                    .len();
                wrapped.truncate(len);
                Some(wrapped)
            });
            fast.unwrap_or_else(|| {
                self.key
                    .encrypt(&mut UnwrapErr(SysRng), Oaep::<sha1::Sha1>::new(), secret)
                    .expect("a key of 2048 bits or more wraps 64 bytes")
            })
        })
    }

    /// RSAES-PKCS1-v1_5, which the SDK format requires. `secret` has at most 64 bytes here.
    pub fn wrap_pkcs1(&self, secret: &[u8]) -> Vec<u8> {
        wiped_deep(|| {
            let fast = self.fast.as_deref().and_then(|FastWrap { pkcs1, .. }| {
                let mut wrapped = vec![0; pkcs1.ciphertext_size()];
                let len = pkcs1.encrypt(secret, &mut wrapped).ok()?.len();
                wrapped.truncate(len);
                Some(wrapped)
            });
            fast.unwrap_or_else(|| {
                self.key
                    .encrypt(&mut UnwrapErr(SysRng), Pkcs1v15Encrypt, secret)
                    .expect("a key of 2048 bits or more wraps 64 bytes")
            })
        })
    }

    /// SubjectPublicKeyInfo.
    pub fn to_pem(&self) -> String {
        self.key
            .to_public_key_pem(LineEnding::LF)
            .expect("it was encoded for its fingerprint")
    }

    /// PKCS#1.
    pub fn to_pkcs1_der(&self) -> Vec<u8> {
        self.key
            .to_pkcs1_der()
            .expect("it was encoded for its fingerprint")
            .into_vec()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for PublicKey {}

/// Unwraps what its public key wrapped.
pub struct PrivateKey {
    numbers: PrivateNumbers,
    public: PublicKey,
}

enum PrivateNumbers {
    /// In aws-lc, which computes in constant time and wipes the numbers.
    Constant {
        oaep: OaepPrivateDecryptingKey,
        pkcs1: Pkcs1PrivateDecryptingKey,
    },
    /// A weak key, which aws-lc does not accept. Blinded, but not constant-time: a key of this size offers no
    /// protection anyway.
    Weak(Box<RsaPrivateKey>),
}

const NOT_TOGETHER: KeyError = KeyError::Damaged("its numbers do not belong together");

impl PrivateKey {
    /// # Errors
    /// Those of [`PublicKey::new`], and [`KeyError::Damaged`] for numbers that do not belong together.
    pub(super) fn new(numbers: &Numbers<'_>, strength: Strength) -> Result<PrivateKey, KeyError> {
        let Some(crt) = numbers.crt else {
            let recovered = recover::primes(numbers).ok_or(NOT_TOGETHER)?;
            return PrivateKey::new(&recovered.numbers(numbers), strength);
        };
        let public = PublicKey::new(numbers.modulus, numbers.exponent, strength)?;
        let [p, q, ..] = crt;
        if public.is_weak() {
            let number = |bytes: &[u8]| {
                BoxedUint::from_be_slice(bytes, (bytes.len() as u32 * 8).next_multiple_of(64))
                    .map_err(|_| NOT_TOGETHER)
            };
            let key = RsaPrivateKey::from_components(
                number(numbers.modulus)?,
                number(numbers.exponent)?,
                number(numbers.private_exponent)?,
                vec![number(p)?, number(q)?],
            );
            let key = Box::new(key.map_err(|_| NOT_TOGETHER)?);
            let numbers = PrivateNumbers::Weak(key);
            return Ok(PrivateKey { numbers, public });
        }
        let pkcs8 = pkcs8_of(numbers)?;
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8.as_bytes()).map_err(|_| NOT_TOGETHER)?;
        let numbers = PrivateNumbers::Constant {
            oaep: OaepPrivateDecryptingKey::new(key.clone()).map_err(|_| NOT_TOGETHER)?,
            pkcs1: Pkcs1PrivateDecryptingKey::new(key).map_err(|_| NOT_TOGETHER)?,
        };
        Ok(PrivateKey { numbers, public })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Unwraps the result of [`PublicKey::wrap`]. None if it was wrapped for another key, or was changed.
    /// Blocks.
    pub fn unwrap(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        wiped_deep(|| match &self.numbers {
            PrivateNumbers::Constant { oaep, .. } => {
                let mut out = Zeroizing::new(vec![0; oaep.min_output_size()]);
                let len = oaep
                    .decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut out, None)
                    .ok()?
                    .len();
                out.truncate(len);
                Some(out)
            }
            PrivateNumbers::Weak(key) => decrypt_weak(key, Oaep::<sha1::Sha1>::new(), wrapped),
        })
    }

    /// Unwraps the result of [`PublicKey::wrap_pkcs1`]. Whether this is None must not be observable from
    /// outside: only [`KeyRing`](super::key_ring::KeyRing) calls it, following its rules. Blocks.
    pub(super) fn unwrap_pkcs1(&self, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        wiped_deep(|| match &self.numbers {
            PrivateNumbers::Constant { pkcs1, .. } => {
                let mut out = Zeroizing::new(vec![0; pkcs1.min_output_size()]);
                let len = pkcs1.decrypt(wrapped, &mut out).ok()?.len();
                out.truncate(len);
                Some(out)
            }
            PrivateNumbers::Weak(key) => decrypt_weak(key, Pkcs1v15Encrypt, wrapped),
        })
    }

    /// Tests the key with one wrap and unwrap.
    ///
    /// # Errors
    /// [`ProofFailed`] if the result differs from the input.
    pub fn prove(&self) -> Result<(), ProofFailed> {
        let mut secret = Zeroizing::new([0u8; 32]);
        random::fill(secret.as_mut_slice());
        match self.unwrap(&self.public.wrap(secret.as_slice())) {
            Some(back) if *back == secret.as_slice() => Ok(()),
            _ => Err(ProofFailed),
        }
    }
}

/// The numbers as PKCS#8, which is all that aws-lc accepts.
///
/// # Errors
/// [`KeyError::Damaged`] for numbers that do not belong together.
pub(super) fn pkcs8_of(numbers: &Numbers<'_>) -> Result<SecretDocument, KeyError> {
    let Some([p, q, dp, dq, inverse]) = numbers.crt else {
        let recovered = recover::primes(numbers).ok_or(NOT_TOGETHER)?;
        return pkcs8_of(&recovered.numbers(numbers));
    };
    let pkcs1 = ber::sequence_of_numbers(&[
        &[],
        numbers.modulus,
        numbers.exponent,
        numbers.private_exponent,
        p,
        q,
        dp,
        dq,
        inverse,
    ]);
    let octets = OctetStringRef::new(&pkcs1).map_err(|_| NOT_TOGETHER)?;
    let info = PrivateKeyInfoRef::new(rsa::pkcs1::ALGORITHM_ID, octets);
    SecretDocument::encode_msg(&info).map_err(|_| NOT_TOGETHER)
}

/// The only private-key operation outside aws-lc.
#[allow(clippy::disallowed_methods)]
fn decrypt_weak<P: rsa::traits::PaddingScheme>(
    key: &RsaPrivateKey,
    padding: P,
    wrapped: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let opened = key.decrypt_blinded(&mut UnwrapErr(SysRng), padding, wrapped);
    opened.ok().map(Zeroizing::new)
}

/// A key that cannot unwrap its own output must not be used: nothing written with it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot unwrap what it wrapped")]
pub struct ProofFailed;

/// The bit length of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    number.len() * 8
        - number
            .first()
            .map_or(0, |byte| byte.leading_zeros() as usize)
}
