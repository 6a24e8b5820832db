//! Keys from the bytes of the files people have: PEM and DER of PKCS#1, PKCS#8 (plain and encrypted)
//! and SubjectPublicKeyInfo, and PEM in its pre-PKCS#8 encryption.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pkcs8::der::Decode;
use pkcs8::der::asn1::{AnyRef, BitStringRef, OctetStringRef};
use pkcs8::{
    AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, ObjectIdentifier, PrivateKeyInfoRef,
    SecretDocument, pkcs5,
};
use rsa::pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use zeroize::Zeroizing;

use super::key_pair::{KeyError, PrivateKey, PublicKey};
use super::legacy_pem;

/// Asked at most once, and only when the key is protected. None means that there is no passphrase.
pub type Passphrase<'a> = &'a mut dyn FnMut() -> Option<Zeroizing<String>>;

type Spki<'a> = pkcs8::SubjectPublicKeyInfo<AnyRef<'a>, BitStringRef<'a>>;

const RSA_ENCRYPTION: ObjectIdentifier = rsa::pkcs1::ALGORITHM_OID;

/// A private key from a file's bytes.
///
/// # Errors
/// Each way to fail has its own [`KeyError`].
pub fn private_key(bytes: &[u8], passphrase: Passphrase<'_>) -> Result<PrivateKey, KeyError> {
    let Some(pem) = Pem::find(bytes)? else {
        return private_from_der(bytes, passphrase);
    };
    match pem.label {
        "PRIVATE KEY" => private_from_pkcs8(&pem.body),
        "ENCRYPTED PRIVATE KEY" => private_from_encrypted(&pem.body, passphrase),
        "RSA PRIVATE KEY" => match pem.dek_info {
            None => private_from_pkcs1(&pem.body),
            Some(dek_info) => {
                let passphrase = passphrase().ok_or(KeyError::PassphraseNeeded)?;
                let plain = legacy_pem::decrypt(dek_info, &pem.body, &passphrase)?;
                // One wrong passphrase in 256 leaves a padding that looks right, but no key.
                private_from_pkcs1(&plain).map_err(|error| match error {
                    KeyError::NotAKey => KeyError::WrongPassphrase,
                    other => other,
                })
            }
        },
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Err(KeyError::PublicOnly),
        other => Err(KeyError::NotRsa(kind_of(other))),
    }
}

/// A public key from a file's bytes.
///
/// # Errors
/// Each way to fail has its own [`KeyError`].
pub fn public_key(bytes: &[u8]) -> Result<PublicKey, KeyError> {
    let Some(pem) = Pem::find(bytes)? else {
        return public_from_der(bytes);
    };
    match pem.label {
        "PUBLIC KEY" => public_from_spki(&pem.body),
        "RSA PUBLIC KEY" => PublicKey::from_pkcs1_der(&pem.body),
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "RSA PRIVATE KEY" => Err(KeyError::PrivateGiven),
        other => Err(KeyError::NotRsa(kind_of(other))),
    }
}

fn kind_of(label: &str) -> String {
    format!("a PEM file of kind \"{}\"", label.escape_debug())
}

fn private_from_der(der: &[u8], passphrase: Passphrase<'_>) -> Result<PrivateKey, KeyError> {
    if PrivateKeyInfoRef::from_der(der).is_ok() {
        private_from_pkcs8(der)
    } else if RsaPrivateKeyRef::from_der(der).is_ok() {
        private_from_pkcs1(der)
    } else if EncryptedPrivateKeyInfoRef::from_der(der).is_ok() {
        private_from_encrypted(der, passphrase)
    } else if Spki::from_der(der).is_ok() || RsaPublicKeyRef::from_der(der).is_ok() {
        Err(KeyError::PublicOnly)
    } else {
        Err(KeyError::NotAKey)
    }
}

fn public_from_der(der: &[u8]) -> Result<PublicKey, KeyError> {
    if Spki::from_der(der).is_ok() {
        public_from_spki(der)
    } else if RsaPublicKeyRef::from_der(der).is_ok() {
        PublicKey::from_pkcs1_der(der)
    } else if PrivateKeyInfoRef::from_der(der).is_ok()
        || RsaPrivateKeyRef::from_der(der).is_ok()
        || EncryptedPrivateKeyInfoRef::from_der(der).is_ok()
    {
        Err(KeyError::PrivateGiven)
    } else {
        Err(KeyError::NotAKey)
    }
}

pub(super) fn private_from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let info = PrivateKeyInfoRef::from_der(der).map_err(|_| KeyError::NotAKey)?;
    rsa_only(&info.algorithm)?;
    private_from_pkcs1(info.private_key.as_bytes())
}

/// aws-lc takes PKCS#8 only, so the numbers are wrapped up again.
fn private_from_pkcs1(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let numbers = RsaPrivateKeyRef::from_der(der).map_err(|_| KeyError::NotAKey)?;
    let public = rsa::pkcs1::der::Encode::to_der(&numbers.public_key())
        .map_err(|_| KeyError::Damaged("its numbers cannot be encoded"))?;
    let public = PublicKey::from_pkcs1_der(&public)?;
    let octets = OctetStringRef::new(der).map_err(|_| KeyError::NotAKey)?;
    let info = PrivateKeyInfoRef::new(rsa::pkcs1::ALGORITHM_ID, octets);
    let pkcs8 = SecretDocument::encode_msg(&info)
        .map_err(|_| KeyError::Damaged("its numbers cannot be encoded"))?;
    PrivateKey::from_pkcs8_der(pkcs8.as_bytes(), public)
}

fn private_from_encrypted(der: &[u8], passphrase: Passphrase<'_>) -> Result<PrivateKey, KeyError> {
    let info = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| KeyError::NotAKey)?;
    let passphrase = passphrase().ok_or(KeyError::PassphraseNeeded)?;
    let plain = info
        .decrypt(passphrase.as_bytes())
        .map_err(|error| match error {
            pkcs8::Error::EncryptedPrivateKey(
                pkcs5::Error::UnsupportedAlgorithm { oid }
                | pkcs5::Error::AlgorithmParametersInvalid { oid },
            ) => KeyError::UnsupportedEncryption(oid.to_string()),
            pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::NoPbes1CryptSupport) => {
                KeyError::UnsupportedEncryption("PBES1".into())
            }
            // A wrong key shows in the padding, or in what is decrypted being no document.
            _ => KeyError::WrongPassphrase,
        })?;
    private_from_pkcs8(plain.as_bytes()).map_err(|error| match error {
        KeyError::NotAKey => KeyError::WrongPassphrase,
        other => other,
    })
}

fn public_from_spki(der: &[u8]) -> Result<PublicKey, KeyError> {
    let info = Spki::from_der(der).map_err(|_| KeyError::NotAKey)?;
    rsa_only(&info.algorithm)?;
    let numbers = info
        .subject_public_key
        .as_bytes()
        .ok_or(KeyError::NotAKey)?;
    PublicKey::from_pkcs1_der(numbers)
}

fn rsa_only(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    if algorithm.oid == RSA_ENCRYPTION {
        return Ok(());
    }
    Err(KeyError::NotRsa(match algorithm.oid.to_string().as_str() {
        "1.2.840.10045.2.1" => "an elliptic-curve key".into(),
        "1.3.101.112" => "an Ed25519 key".into(),
        "1.2.840.113549.1.1.10" => "an RSA key for signatures only (PSS)".into(),
        oid => format!("a key of algorithm {oid}"),
    }))
}

/// The first PEM block of a file. Text around it is allowed, as OpenSSL does.
struct Pem<'a> {
    label: &'a str,
    /// The value of the `DEK-Info` header, in blocks that are encrypted the old way.
    dek_info: Option<&'a str>,
    body: Zeroizing<Vec<u8>>,
}

impl<'a> Pem<'a> {
    /// None if the bytes are not PEM at all.
    fn find(bytes: &'a [u8]) -> Result<Option<Pem<'a>>, KeyError> {
        const BEGIN: &str = "-----BEGIN ";
        const DAMAGED: KeyError = KeyError::Damaged("its PEM text is incomplete");
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Ok(None);
        };
        let mut lines = text.lines().map(str::trim);
        let Some(first) = lines.find(|line| line.starts_with(BEGIN)) else {
            return Ok(None);
        };
        let label = first[BEGIN.len()..].strip_suffix("-----").ok_or(DAMAGED)?;
        let mut dek_info = None;
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        for line in lines {
            if let Some(end) = line.strip_prefix("-----END ") {
                if end.strip_suffix("-----") != Some(label) {
                    return Err(DAMAGED);
                }
                let mut body = Zeroizing::new(Vec::with_capacity(base64.len()));
                BASE64_STANDARD
                    .decode_vec(base64.as_bytes(), &mut body)
                    .map_err(|_| KeyError::Damaged("its base64 is malformed"))?;
                return Ok(Some(Pem {
                    label,
                    dek_info,
                    body,
                }));
            }
            match line.split_once(':') {
                Some(("DEK-Info", value)) => dek_info = Some(value.trim()),
                Some(_) => {}
                None => base64.push_str(line),
            }
        }
        Err(DAMAGED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> (KeyError, KeyError) {
        (
            private_key(bytes, &mut || None).err().unwrap(),
            public_key(bytes).err().unwrap(),
        )
    }

    #[test]
    fn what_is_no_key_is_called_by_its_name() {
        let incomplete = KeyError::Damaged("its PEM text is incomplete");
        let ec = "-----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY-----\n";
        for (text, expected) in [
            ("", KeyError::NotAKey),
            ("hello", KeyError::NotAKey),
            ("-----BEGIN PRIVATE KEY", incomplete.clone()),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n", incomplete.clone()),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PUBLIC KEY-----",
                incomplete,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----",
                KeyError::Damaged("its base64 is malformed"),
            ),
            (
                ec,
                KeyError::NotRsa("a PEM file of kind \"EC PRIVATE KEY\"".into()),
            ),
        ] {
            let (private, public) = refused(text.as_bytes());
            assert_eq!(private, expected, "{text}");
            assert_eq!(public, expected, "{text}");
        }
        let empty = "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----";
        assert_eq!(
            refused(empty.as_bytes()),
            (KeyError::NotAKey, KeyError::PrivateGiven)
        );
        assert_eq!(refused(&[0x30, 0x80]).0, KeyError::NotAKey);
        assert_eq!(refused(&[0xff; 3000]).0, KeyError::NotAKey);
    }

    #[test]
    fn a_small_key_is_refused_with_its_size() {
        // A throw-away key of 1024 bits.
        let private = include_str!("testdata/rsa1024.pem");
        let public = include_str!("testdata/rsa1024.pub.pem");
        assert_eq!(
            private_key(private.as_bytes(), &mut || None).err(),
            Some(KeyError::TooSmall(1024))
        );
        assert_eq!(
            public_key(public.as_bytes()).err(),
            Some(KeyError::TooSmall(1024))
        );
    }
}
