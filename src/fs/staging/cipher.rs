//! Stand-in for `crypto::staging_cipher` until that is merged.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};

#[derive(Clone, Copy)]
pub struct Nonce([u8; 12]);
pub struct StagingCipher(LessSafeKey, AtomicU64);
#[derive(Debug)]
pub struct OpenError;

impl StagingCipher {
    pub fn new() -> StagingCipher {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).unwrap();
        StagingCipher(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap()), AtomicU64::new(0))
    }
    pub fn seal(&self, aad: &[u8], buffer: &mut Vec<u8>) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.1.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        self.0.seal_in_place_append_tag(aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce), Aad::from(aad), buffer).unwrap();
        Nonce(nonce)
    }
    pub fn open(&self, nonce: Nonce, aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), OpenError> {
        let len = self.0.open_in_place(aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.0), Aad::from(aad), buffer).map_err(|_| OpenError)?.len();
        buffer.truncate(len);
        Ok(())
    }
}
