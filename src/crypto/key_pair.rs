//! Generates keys and encodes them. [`key_parse`] reads them.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoOwned, LineEnding, SecretDocument};
use zeroize::Zeroizing;

use super::key_error::{KeyError, Strength};
use super::key_parse::{self, Passphrase};
use super::random;
use super::rsa_key::{self, PrivateKey, ProofFailed, PublicKey};

/// A key whose private numbers are still available for encoding.
pub struct KeyPair {
    private: PrivateKey,
    pkcs8: SecretDocument,
}

impl KeyPair {
    /// scrypt's log2(N), r and p: the strongest that OpenSSL 3 opens by default (32 MiB).
    const SCRYPT: (u8, u32, u32) = (14, 8, 5);

    /// 2048, 3072 or 4096 bits. Can take seconds.
    ///
    /// # Errors
    /// [`KeyError::TooSmall`] or [`KeyError::TooLarge`] for any other number, and [`KeyError::Damaged`] if
    /// the generator fails.
    pub fn generate(bits: usize) -> Result<KeyPair, KeyError> {
        const FAILED: KeyError = KeyError::Damaged("it could not be generated");
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
        let private = key_parse::private_key(pkcs8.as_bytes(), &mut || None)?;
        Ok(KeyPair { private, pkcs8 })
    }

    /// The private key in a file's bytes, to be written in another form.
    ///
    /// # Errors
    /// Those of [`key_parse::private_key_of`].
    pub fn read(
        bytes: &[u8],
        strength: Strength,
        passphrase: Passphrase<'_>,
    ) -> Result<KeyPair, KeyError> {
        key_parse::private_numbers(bytes, passphrase, &|numbers| {
            Ok(KeyPair {
                private: PrivateKey::new(numbers, strength)?,
                pkcs8: rsa_key::pkcs8_of(numbers)?,
            })
        })
    }

    pub fn public(&self) -> &PublicKey {
        self.private.public()
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
        const FAILED: KeyError = KeyError::Damaged("it could not be encoded");
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
        self.private.public().to_pem()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // `rsa` as the second opinion on what aws-lc and we agree on.
mod tests {
    use rsa::pkcs8::DecodePrivateKey;
    use rsa::{Oaep, Pkcs1v15Encrypt};
    use std::sync::LazyLock;

    use super::*;

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
        let other = rsa::PrivateKey::from_pkcs8_pem(&pem).unwrap();
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
