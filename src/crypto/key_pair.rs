//! RSA keys: public ones wrap data keys, private ones unwrap them.
//!
//! `rsa` knows the public half: numbers, fingerprint. Whatever needs the private half runs in aws-lc-rs,
//! which is constant-time (but for weak keys, see [`Strength`]), and so does OAEP wrapping, which is faster there. Unwrapping takes 0.2 ms (2048
//! bits) to 1.4 ms (4096): callers in async code use `spawn_blocking`. Wrapping is twenty times cheaper and
//! may run anywhere.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use crypto_bigint::ConcatenatingSquare;
use crypto_primes::Flavor;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{
    EncodePublicKey, EncryptedPrivateKeyInfoOwned, LineEnding, PrivateKeyInfoRef, SecretDocument,
};
use rand::rngs::SysRng;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::rand_core::UnwrapErr;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, Oaep, Pkcs1v15Encrypt, RsaPrivateKey, RsaPublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::stack::wiped_deep;
use super::{ber, random, recover};

/// Why a key cannot be had from some bytes. Never carries any of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not an RSA key (expected PEM or DER: PKCS#1, PKCS#8, or a public key)")]
    NotAKey,
    #[error("not an RSA key but {0}; make one with `ossvault keygen`")]
    NotRsa(String),
    #[error("the key is damaged: {0}")]
    Damaged(&'static str),
    /// Whole, and of a kind that is not supported.
    #[error("the key cannot be used: {0}")]
    Unusable(&'static str),
    #[error("the key is protected by a passphrase, and none was given")]
    PassphraseNeeded,
    #[error("wrong passphrase")]
    WrongPassphrase,
    #[error("a passphrase may not be empty; ask for no passphrase instead")]
    EmptyPassphrase,
    #[error(
        "the key is encrypted in a way that is not supported ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE -provider legacy -provider default"
    )]
    UnsupportedEncryption(String),
    #[error(
        "the key's encryption asks for too much ({0}); convert it with: openssl pkcs8 -topk8 -in FILE -out NEWFILE"
    )]
    TooCostly(&'static str),
    #[error("this is {what}: {advice}")]
    Foreign {
        what: &'static str,
        advice: &'static str,
    },
    #[error(
        "the key has {0} bits, at least {min} are needed (to read what an old key of {weak} bits or more protects: --allow-weak-keys)",
        min = PublicKey::MIN_BITS,
        weak = PublicKey::WEAK_BITS
    )]
    TooSmall(usize),
    #[error("the key has {0} bits, at most {max} are supported", max = PublicKey::MAX_BITS)]
    TooLarge(usize),
    #[error("this is a public key; the private key is needed here")]
    PublicOnly,
    #[error("this is a private key; the public key is needed here")]
    PrivateGiven,
}

/// Which sizes of keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Those that protect something.
    Enforced,
    /// Smaller ones as well, to read what they were used for once.
    WeakAllowed,
}

/// What everybody may know of a key. Wraps data keys.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key: RsaPublicKey,
    /// The same key where it wraps three times as fast, for which every file that is written waits, and
    /// wipes what it computes with.
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
    pub const MIN_BITS: usize = 2048;
    /// What is taken where weak keys are.
    pub const WEAK_BITS: usize = 1024;
    pub const MAX_BITS: usize = 4096;
    /// More would make each wrapping slow; aws-lc draws the same line.
    const MAX_EXPONENT_BITS: usize = 33;

    /// From modulus and exponent, big-endian without leading zeros.
    ///
    /// # Errors
    /// [`KeyError::TooSmall`], [`KeyError::TooLarge`], [`KeyError::Unusable`], [`KeyError::Damaged`].
    pub fn new(modulus: &[u8], exponent: &[u8], strength: Strength) -> Result<PublicKey, KeyError> {
        const NO_KEY: KeyError = KeyError::Damaged("its numbers are no RSA public key");
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
        // It may refuse an unusual exponent; then the other one does.
        let fast = FastWrap::new(spki.as_bytes());
        Ok(PublicKey {
            fingerprint: hex::encode(Sha256::digest(spki.as_bytes())),
            fast: fast.map(Arc::new),
            key,
        })
    }

    /// What can be told of a modulus without its factors: nobody made it for protection if it is a prime, a
    /// square, or has a small factor. For keys whose private half is not there to prove itself.
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
                    "its modulus has a small factor: it protects nothing",
                ));
            }
        }
        let root = modulus.floor_sqrt_vartime();
        if root.concatenating_square() == *modulus {
            return Err(KeyError::Unusable(
                "its modulus is a square: it protects nothing",
            ));
        }
        if crypto_primes::is_prime(Flavor::Any, modulus) {
            return Err(KeyError::Unusable(
                "its modulus is a prime: it protects nothing",
            ));
        }
        Ok(())
    }

    /// Whether it is one of those that only [`Strength::WeakAllowed`] takes. Nothing is to be written with it.
    pub fn is_weak(&self) -> bool {
        self.bits() < Self::MIN_BITS
    }

    /// SHA-256 of the DER of the SubjectPublicKeyInfo, 64 lower-case hex digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The first 16 digits of the fingerprint: what `x-oss-meta-ossvault-key` says.
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

    /// RSAES-PKCS1-v1_5, which the SDK format demands. `secret` has at most 64 bytes here.
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

/// Opens what its public key wrapped.
pub struct PrivateKey {
    numbers: PrivateNumbers,
    public: PublicKey,
}

enum PrivateNumbers {
    /// In aws-lc, which computes in constant time and wipes them.
    Constant {
        oaep: OaepPrivateDecryptingKey,
        pkcs1: Pkcs1PrivateDecryptingKey,
    },
    /// Of a weak key, which aws-lc does not take. Blinded, and not constant in time: a key of this size is
    /// protected by nothing anyway.
    Weak(Box<RsaPrivateKey>),
}

/// The numbers of a private key with two primes, big-endian.
pub(super) struct Numbers<'a> {
    pub modulus: &'a [u8],
    pub exponent: &'a [u8],
    pub private_exponent: &'a [u8],
    /// p, q, d mod p - 1, d mod q - 1, and the inverse of q modulo p; none where the file has not all of them.
    pub crt: Option<[&'a [u8]; 5]>,
}

impl PrivateKey {
    /// # Errors
    /// Those of [`PublicKey::new`], and [`KeyError::Damaged`] for numbers that do not belong together.
    pub(super) fn new(numbers: &Numbers<'_>, strength: Strength) -> Result<PrivateKey, KeyError> {
        const NOT_TOGETHER: KeyError = KeyError::Damaged("its numbers do not belong together");
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
        let [p, q, dp, dq, inverse] = crt;
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
        // aws-lc takes PKCS#8 only.
        let octets = OctetStringRef::new(&pkcs1).map_err(|_| NOT_TOGETHER)?;
        let info = PrivateKeyInfoRef::new(rsa::pkcs1::ALGORITHM_ID, octets);
        let pkcs8 = SecretDocument::encode_msg(&info).map_err(|_| NOT_TOGETHER)?;
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

    /// What [`PublicKey::wrap`] wrapped. None if it was not for this key, or was changed. Blocks.
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

    /// What [`PublicKey::wrap_pkcs1`] wrapped. Whether this is None must not be observable from outside:
    /// only [`KeyRing`](super::key_ring::KeyRing) calls it, by its rules. Blocks.
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

    /// Wraps and unwraps once.
    ///
    /// # Errors
    /// [`ProofFailed`] when what comes back is not what was wrapped.
    pub fn prove(&self) -> Result<(), ProofFailed> {
        let mut secret = Zeroizing::new([0u8; 32]);
        random::fill(secret.as_mut_slice());
        match self.unwrap(&self.public.wrap(secret.as_slice())) {
            Some(back) if *back == secret.as_slice() => Ok(()),
            _ => Err(ProofFailed),
        }
    }
}

/// The one private operation that is not aws-lc's.
#[allow(clippy::disallowed_methods)]
fn decrypt_weak<P: rsa::traits::PaddingScheme>(
    key: &RsaPrivateKey,
    padding: P,
    wrapped: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let opened = key.decrypt_blinded(&mut UnwrapErr(SysRng), padding, wrapped);
    opened.ok().map(Zeroizing::new)
}

/// A key that cannot open what it wrapped must not be used: nothing written with it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot open what it wrapped")]
pub struct ProofFailed;

/// A key that was just generated, with its private numbers still at hand for writing them down.
pub struct KeyPair {
    private: PrivateKey,
    pkcs8: SecretDocument,
}

impl KeyPair {
    /// scrypt's log2(N), r and p: the strongest that OpenSSL 3 opens by default (32 MiB).
    const SCRYPT: (u8, u32, u32) = (14, 8, 5);

    /// 2048, 3072 or 4096 bits. Takes up to seconds.
    ///
    /// # Errors
    /// [`KeyError::TooSmall`] or [`KeyError::TooLarge`] for any other number, and
    /// [`KeyError::Damaged`] if the generator fails.
    pub fn generate(bits: usize) -> Result<KeyPair, KeyError> {
        const FAILED: KeyError = KeyError::Damaged("generating it failed");
        let size = match bits {
            2048 => KeySize::Rsa2048,
            3072 => KeySize::Rsa3072,
            4096 => KeySize::Rsa4096,
            less if less < 4096 => return Err(KeyError::TooSmall(bits)),
            _ => return Err(KeyError::TooLarge(bits)),
        };
        let key = PrivateDecryptingKey::generate(size).map_err(|_| FAILED)?;
        let der = AsDer::<Pkcs8V1Der>::as_der(&key).map_err(|_| FAILED)?;
        let pkcs8 = SecretDocument::try_from(der.as_ref()).map_err(|_| FAILED)?;
        let private = super::key_parse::private_key(pkcs8.as_bytes(), &mut || None)?;
        Ok(KeyPair { private, pkcs8 })
    }

    pub fn public(&self) -> &PublicKey {
        &self.private.public
    }

    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    pub fn into_private(self) -> PrivateKey {
        self.private
    }

    /// # Errors
    /// See [`PrivateKey::prove`].
    pub fn prove(&self) -> Result<(), ProofFailed> {
        self.private.prove()
    }

    /// PKCS#8; with a passphrase PBES2 with scrypt and AES-256-CBC.
    ///
    /// # Errors
    /// [`KeyError::EmptyPassphrase`].
    pub fn private_pem(&self, passphrase: Option<&str>) -> Result<Zeroizing<String>, KeyError> {
        const FAILED: KeyError = KeyError::Damaged("encoding it failed");
        let Some(passphrase) = passphrase else {
            return self
                .pkcs8
                .to_pem("PRIVATE KEY", LineEnding::LF)
                .map_err(|_| FAILED);
        };
        if passphrase.is_empty() {
            return Err(KeyError::EmptyPassphrase);
        }
        let mut salt = [0; 16];
        let mut iv = [0; 16];
        random::fill(&mut salt);
        random::fill(&mut iv);
        let (log_n, r, p) = Self::SCRYPT;
        let params = scrypt::Params::new(log_n, r, p).map_err(|_| FAILED)?;
        let scheme =
            pbes2::Parameters::generate_scrypt_aes256cbc(params, &salt, iv).map_err(|_| FAILED)?;
        let encrypted = scheme
            .encrypt(passphrase, self.pkcs8.as_bytes())
            .map_err(|_| FAILED)?;
        let info = EncryptedPrivateKeyInfoOwned {
            encryption_algorithm: scheme.into(),
            encrypted_data: pkcs8::der::asn1::OctetString::new(encrypted).map_err(|_| FAILED)?,
        };
        SecretDocument::encode_msg(&info)
            .and_then(|document| document.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF))
            .map_err(|_| FAILED)
    }

    /// SubjectPublicKeyInfo.
    pub fn public_pem(&self) -> String {
        self.private.public.to_pem()
    }
}

/// Of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    number.len() * 8
        - number
            .first()
            .map_or(0, |byte| byte.leading_zeros() as usize)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // `rsa` as the second opinion on what aws-lc and we agree on.
mod tests {
    use super::*;
    use rsa::pkcs8::DecodePrivateKey;
    use std::sync::LazyLock;

    static PAIR: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(2048).unwrap());

    #[test]
    fn unwraps_what_it_wrapped_and_nothing_else() {
        let wrapped = PAIR.public().wrap(b"secret");
        assert_eq!(wrapped.len(), 256);
        assert_eq!(**PAIR.private().unwrap(&wrapped).unwrap(), *b"secret");
        let mut flipped = wrapped.clone();
        flipped[100] ^= 1;
        for bad in [
            flipped,
            vec![],
            vec![0; 256],
            vec![0xff; 256],
            wrapped[..255].to_vec(),
        ] {
            assert!(PAIR.private().unwrap(&bad).is_none());
            assert!(PAIR.private().unwrap_pkcs1(&bad).is_none());
        }
        let wrapped = PAIR.public().wrap_pkcs1(b"secret");
        assert_eq!(**PAIR.private().unwrap_pkcs1(&wrapped).unwrap(), *b"secret");
        assert!(PAIR.private().unwrap(&wrapped).is_none());
    }

    #[test]
    fn an_independent_implementation_unwraps_it_too() {
        let pem = PAIR.private_pem(None).unwrap();
        let other = rsa::RsaPrivateKey::from_pkcs8_pem(&pem).unwrap();
        let opened = other.decrypt(Oaep::<sha1::Sha1>::new(), &PAIR.public().wrap(b"a"));
        assert_eq!(opened.unwrap(), b"a");
        let opened = other.decrypt(Pkcs1v15Encrypt, &PAIR.public().wrap_pkcs1(b"b"));
        assert_eq!(opened.unwrap(), b"b");
    }

    #[test]
    fn proves_itself() {
        PAIR.prove().unwrap();
        assert_eq!(PAIR.public().bits(), 2048);
        assert_eq!(PAIR.public().fingerprint().len(), 64);
        assert!(
            PAIR.public()
                .fingerprint()
                .starts_with(PAIR.public().key_id())
        );
        assert_eq!(PAIR.public().key_id().len(), 16);
    }

    #[test]
    fn only_three_sizes_are_generated() {
        for (bits, expected) in [
            (0, KeyError::TooSmall(0)),
            (1024, KeyError::TooSmall(1024)),
            (2047, KeyError::TooSmall(2047)),
            (8192, KeyError::TooLarge(8192)),
        ] {
            assert_eq!(KeyPair::generate(bits).err(), Some(expected));
        }
    }
}
