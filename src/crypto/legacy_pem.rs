//! Private keys encrypted the way PEM did before PKCS#8: `Proc-Type: 4,ENCRYPTED` and `DEK-Info`.
//!
//! PyCrypto wrote these when it was given a passphrase, and so did `openssl genrsa` for decades. The key
//! is one round of MD5, which protects little: read here, never written.

use aes::{Aes128, Aes192, Aes256};
use cbc::cipher::{Block, BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::TdesEde3;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::key_pair::KeyError;

/// Decrypts the body of a PEM block with its `DEK-Info` value, for instance `AES-128-CBC,<hex IV>`.
///
/// # Errors
/// [`KeyError::UnsupportedEncryption`]; [`KeyError::Damaged`] for a header or length that cannot be;
/// [`KeyError::WrongPassphrase`] when the padding is wrong, which a wrong passphrase shows in 255 cases of 256.
pub fn decrypt(
    dek_info: &str,
    body: &[u8],
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    const HEADER: KeyError = KeyError::Damaged("its DEK-Info header is malformed");
    let (cipher, iv) = dek_info.split_once(',').ok_or(HEADER)?;
    let iv = from_hex(iv.trim()).ok_or(HEADER)?;
    match cipher.trim() {
        "AES-128-CBC" => cbc::<Aes128>(body, passphrase, &iv, 16),
        "AES-192-CBC" => cbc::<Aes192>(body, passphrase, &iv, 24),
        "AES-256-CBC" => cbc::<Aes256>(body, passphrase, &iv, 32),
        "DES-EDE3-CBC" => cbc::<TdesEde3>(body, passphrase, &iv, 24),
        other => Err(KeyError::UnsupportedEncryption(
            other.escape_debug().to_string(),
        )),
    }
}

fn cbc<C: BlockCipherDecrypt + KeyInit>(
    body: &[u8],
    passphrase: &str,
    iv: &[u8],
    key_len: usize,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let salt = iv
        .first_chunk::<8>()
        .ok_or(KeyError::Damaged("its DEK-Info header is malformed"))?;
    let key = bytes_to_key(passphrase.as_bytes(), salt, key_len);
    let mut mode = cbc::Decryptor::<C>::new_from_slices(&key, iv)
        .map_err(|_| KeyError::Damaged("its DEK-Info header is malformed"))?;
    let mut plain = Zeroizing::new(body.to_vec());
    let block_len = iv.len();
    if plain.is_empty() || !plain.len().is_multiple_of(block_len) {
        return Err(KeyError::Damaged(
            "its length is no multiple of the cipher's blocks",
        ));
    }
    for block in plain.chunks_exact_mut(block_len) {
        let block: &mut Block<cbc::Decryptor<C>> = block
            .try_into()
            .expect("a chunk is as long as the IV, which is a block");
        mode.decrypt_block(block);
    }
    let padding = usize::from(plain[plain.len() - 1]);
    let padded = (1..=block_len).contains(&padding)
        && plain[plain.len() - padding..]
            .iter()
            .all(|&b| usize::from(b) == padding);
    if !padded {
        return Err(KeyError::WrongPassphrase);
    }
    let len = plain.len() - padding;
    plain.truncate(len);
    Ok(plain)
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

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_header_is_an_error_and_no_panic() {
        for (dek_info, body_len, expected) in [
            ("", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC,", 16, "its DEK-Info header is malformed"),
            ("AES-128-CBC,0g", 16, "its DEK-Info header is malformed"),
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
                "its length is no multiple of the cipher's blocks",
            ),
            (
                "AES-128-CBC,00112233445566778899aabbccddeeff",
                0,
                "its length is no multiple of the cipher's blocks",
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
