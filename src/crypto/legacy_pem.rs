//! Private keys in the PEM encryption that preceded PKCS#8: `Proc-Type: 4,ENCRYPTED` and `DEK-Info`.
//!
//! PyCrypto wrote this format when given a passphrase, and so did `openssl genrsa` for decades. The key is
//! derived with one round of MD5, which is weak: read, but never written.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::key_cipher::Cipher;
use super::key_error::KeyError;

/// Decrypts the body of a PEM block with its `DEK-Info` value, for instance `AES-128-CBC,<hex IV>`.
///
/// # Errors
/// [`KeyError::UnsupportedEncryption`]; [`KeyError::Damaged`] for an impossible header or length;
/// [`KeyError::WrongPassphrase`] if the padding is wrong, as it is for 255 of 256 wrong passphrases.
pub(crate) fn decrypt(
    dek_info: &str,
    body: &[u8],
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    const HEADER: KeyError = KeyError::Damaged("its DEK-Info header is malformed");
    let (name, iv) = dek_info.split_once(',').ok_or(HEADER)?;
    let iv = hex::decode(iv.trim()).map_err(|_| HEADER)?;
    let name = name.trim();
    let cipher = Cipher::named(name)
        .ok_or_else(|| KeyError::UnsupportedEncryption(name.escape_debug().to_string()))?;
    let salt = iv.first_chunk::<8>().ok_or(HEADER)?;
    if cipher.block_len() != Some(iv.len()) {
        return Err(HEADER);
    }
    let key = bytes_to_key(passphrase.as_bytes(), salt, cipher.key_len());
    cipher.decrypt(&key, &iv, body)
}

/// OpenSSL's EVP_BytesToKey with MD5 and one iteration.
fn bytes_to_key(passphrase: &[u8], salt: &[u8; 8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(len + 16));
    let mut previous = Zeroizing::new(Vec::with_capacity(16));
    while key.len() < len {
        let mut md5 = Md5::new();
        md5.update(&*previous);
        md5.update(passphrase);
        md5.update(salt);
        previous.clear();
        previous.extend_from_slice(&md5.finalize());
        key.extend_from_slice(&previous);
    }
    key.truncate(len);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_header_is_an_error_and_not_a_panic() {
        for (dek_info, body_len, expected) in [
            ("", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC,", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC,0g", 16, "its DEK-Info header is malformed"),
            (
                "AES-128-CBC,+f112233445566778899aabbccddeeff",
                16,
                "its DEK-Info header is malformed",
            ),
            (
                "AES-128-CBC,00112233445566",
                16,
                "its DEK-Info header is malformed",
            ),
            (
                "AES-128-CBC,0011223344556677",
                16,
                "its DEK-Info header is malformed",
            ),
            (
                "DES-EDE3-CBC,00112233445566778899aabbccddeeff",
                16,
                "its DEK-Info header is malformed",
            ),
            (
                "AES-128-CBC,00112233445566778899aabbccddeeff",
                15,
                "its length is not a multiple of the cipher's block size",
            ),
            (
                "AES-128-CBC,00112233445566778899aabbccddeeff",
                0,
                "its length is not a multiple of the cipher's block size",
            ),
        ] {
            assert_eq!(
                decrypt(dek_info, &vec![0; body_len], "x").err(),
                Some(KeyError::Damaged(expected)),
                "{dek_info}"
            );
        }
        assert_eq!(
            decrypt("RC4,00", b"", "x").err(),
            Some(KeyError::UnsupportedEncryption("RC4".into()))
        );
    }
}
