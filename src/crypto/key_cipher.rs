//! The ciphers of encrypted key files. Most of them are weak by now: read, but never written.

use aes::{Aes128, Aes192, Aes256};
use aria::{Aria128, Aria192, Aria256};
use blowfish::Blowfish;
use camellia::{Camellia128, Camellia192, Camellia256};
use cast5::Cast5;
use cbc::cipher::{
    Block, BlockCipherDecrypt, BlockModeDecrypt, InnerIvInit, KeyInit, StreamCipher,
};
use des::{Des, TdesEde2, TdesEde3};
use idea::Idea;
use rc2::Rc2;
use rc4::Rc4;
use zeroize::Zeroizing;

use super::key_error::KeyError;

/// In CBC mode, unless it is a stream cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    Aria128,
    Aria192,
    Aria256,
    Blowfish,
    Camellia128,
    Camellia192,
    Camellia256,
    Cast5,
    Des,
    DesEde2,
    DesEde3,
    Idea,
    /// With a key of this many bytes, of which this many bits are effective.
    Rc2 {
        key_len: usize,
        bits: usize,
    },
    Rc4 {
        key_len: usize,
    },
}

impl Cipher {
    /// By the name in a `DEK-Info` header.
    pub(crate) fn named(name: &str) -> Option<Cipher> {
        Some(match name.to_ascii_uppercase().as_str() {
            "AES-128-CBC" => Cipher::Aes128,
            "AES-192-CBC" => Cipher::Aes192,
            "AES-256-CBC" => Cipher::Aes256,
            "ARIA-128-CBC" => Cipher::Aria128,
            "ARIA-192-CBC" => Cipher::Aria192,
            "ARIA-256-CBC" => Cipher::Aria256,
            "BF-CBC" => Cipher::Blowfish,
            "CAMELLIA-128-CBC" => Cipher::Camellia128,
            "CAMELLIA-192-CBC" => Cipher::Camellia192,
            "CAMELLIA-256-CBC" => Cipher::Camellia256,
            "CAST5-CBC" => Cipher::Cast5,
            "DES-CBC" => Cipher::Des,
            "DES-EDE-CBC" => Cipher::DesEde2,
            "DES-EDE3-CBC" => Cipher::DesEde3,
            "IDEA-CBC" => Cipher::Idea,
            "RC2-CBC" => Cipher::rc2(16),
            "RC2-64-CBC" => Cipher::rc2(8),
            "RC2-40-CBC" => Cipher::rc2(5),
            _ => return None,
        })
    }

    /// With all bits of the key effective.
    pub(crate) const fn rc2(key_len: usize) -> Cipher {
        Cipher::Rc2 {
            key_len,
            bits: key_len * 8,
        }
    }

    pub(crate) fn key_len(self) -> usize {
        match self {
            Cipher::Des => 8,
            Cipher::Aes128
            | Cipher::Aria128
            | Cipher::Blowfish
            | Cipher::Camellia128
            | Cipher::Cast5
            | Cipher::DesEde2
            | Cipher::Idea => 16,
            Cipher::Aes192 | Cipher::Aria192 | Cipher::Camellia192 | Cipher::DesEde3 => 24,
            Cipher::Aes256 | Cipher::Aria256 | Cipher::Camellia256 => 32,
            Cipher::Rc2 { key_len, .. } | Cipher::Rc4 { key_len } => key_len,
        }
    }

    /// The length of a block, and so of the IV. None for a stream cipher.
    pub(crate) fn block_len(self) -> Option<usize> {
        match self {
            Cipher::Rc4 { .. } => None,
            Cipher::Aes128
            | Cipher::Aes192
            | Cipher::Aes256
            | Cipher::Aria128
            | Cipher::Aria192
            | Cipher::Aria256
            | Cipher::Camellia128
            | Cipher::Camellia192
            | Cipher::Camellia256 => Some(16),
            _ => Some(8),
        }
    }

    /// `key` has [`key_len`](Self::key_len) bytes; `iv` is that of CBC.
    ///
    /// # Errors
    /// [`KeyError::WrongPassphrase`] if the padding is wrong, as it is for 255 of 256 wrong passphrases;
    /// [`KeyError::Damaged`] for impossible lengths.
    pub(crate) fn decrypt(
        self,
        key: &[u8],
        iv: &[u8],
        body: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let cbc = Cbc {
            key,
            iv,
            body,
            block_len: self.block_len().unwrap_or(1),
        };
        match self {
            Cipher::Aes128 => cbc.decrypt::<Aes128>(),
            Cipher::Aes192 => cbc.decrypt::<Aes192>(),
            Cipher::Aes256 => cbc.decrypt::<Aes256>(),
            Cipher::Aria128 => cbc.decrypt::<Aria128>(),
            Cipher::Aria192 => cbc.decrypt::<Aria192>(),
            Cipher::Aria256 => cbc.decrypt::<Aria256>(),
            Cipher::Blowfish => cbc.decrypt::<Blowfish>(),
            Cipher::Camellia128 => cbc.decrypt::<Camellia128>(),
            Cipher::Camellia192 => cbc.decrypt::<Camellia192>(),
            Cipher::Camellia256 => cbc.decrypt::<Camellia256>(),
            Cipher::Cast5 => cbc.decrypt::<Cast5>(),
            Cipher::Des => cbc.decrypt::<Des>(),
            Cipher::DesEde2 => cbc.decrypt::<TdesEde2>(),
            Cipher::DesEde3 => cbc.decrypt::<TdesEde3>(),
            Cipher::Idea => cbc.decrypt::<Idea>(),
            Cipher::Rc2 { bits, .. } => cbc.decrypt_with(Rc2::new_with_eff_key_len(key, bits)),
            Cipher::Rc4 { .. } => {
                let mut plain = Zeroizing::new(body.to_vec());
                let mut stream = Rc4::new_from_slice(key).map_err(|_| LENGTH)?;
                stream.apply_keystream(&mut plain);
                Ok(plain)
            }
        }
    }
}

const LENGTH: KeyError =
    KeyError::Damaged("its length is not a multiple of the cipher's block size");

struct Cbc<'a> {
    key: &'a [u8],
    iv: &'a [u8],
    body: &'a [u8],
    block_len: usize,
}

impl Cbc<'_> {
    fn decrypt<C: BlockCipherDecrypt + KeyInit>(self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let cipher = C::new_from_slice(self.key)
            .map_err(|_| KeyError::Damaged("its key does not fit the cipher"))?;
        self.decrypt_with(cipher)
    }

    fn decrypt_with<C: BlockCipherDecrypt>(
        self,
        cipher: C,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut mode = cbc::Decryptor::<C>::inner_iv_slice_init(cipher, self.iv)
            .map_err(|_| KeyError::Damaged("its IV does not have the length of a block"))?;
        let mut plain = Zeroizing::new(self.body.to_vec());
        if plain.is_empty() || !plain.len().is_multiple_of(self.block_len) {
            return Err(LENGTH);
        }
        for block in plain.chunks_exact_mut(self.block_len) {
            let block: &mut Block<cbc::Decryptor<C>> = block
                .try_into()
                .expect("a chunk is as long as the IV, which is a block");
            mode.decrypt_block(block);
        }
        let padding = usize::from(plain[plain.len() - 1]);
        let padded = (1..=self.block_len).contains(&padding)
            && plain[plain.len() - padding..]
                .iter()
                .all(|byte| usize::from(*byte) == padding);
        if !padded {
            return Err(KeyError::WrongPassphrase);
        }
        let len = plain.len() - padding;
        plain.truncate(len);
        Ok(plain)
    }
}
