//! The cipher of bytes that wait on this machine: AES-256-GCM under a key that lives and dies with the
//! process, with a nonce that is never used again.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use super::random;

/// What [`StagingCipher::seal`] returns and [`StagingCipher::open`] wants back. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(u64);

impl Nonce {
    fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }
}

/// What was staged has been changed, or belongs elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("staged bytes have been changed on disk")]
pub struct Tampered;

pub struct StagingCipher {
    key: LessSafeKey,
    /// The next nonce. The key is random per process and never stored, so counting from 0 is enough
    /// for nonces never to repeat under it; 2^64 of them are not used up.
    next: AtomicU64,
}

impl StagingCipher {
    /// What [`seal`](Self::seal) adds to a buffer, in bytes.
    pub const TAG_LEN: usize = 16;

    /// A fresh random key. Made after the last fork: parent and child must not share one.
    pub fn generate() -> StagingCipher {
        let mut key = Zeroizing::new([0u8; 32]);
        random::fill(key.as_mut_slice());
        StagingCipher {
            key: LessSafeKey::new(
                UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("32 bytes are a key"),
            ),
            next: AtomicU64::new(0),
        }
    }

    /// Encrypts `buffer` and appends the tag. `aad` says what the bytes are (file, block, generation):
    /// sealed bytes moved elsewhere do not open.
    pub fn seal(&self, aad: &[u8], buffer: &mut Vec<u8>) -> Nonce {
        let nonce = Nonce(self.next.fetch_add(1, Ordering::Relaxed));
        self.key
            .seal_in_place_append_tag(
                aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.bytes()),
                Aad::from(aad),
                buffer,
            )
            .expect("AES-GCM seals up to 64 GiB");
        nonce
    }

    /// Decrypts `buffer` and cuts the tag off.
    ///
    /// # Errors
    /// [`Tampered`]; the buffer is then empty.
    pub fn open(&self, nonce: Nonce, aad: &[u8], buffer: &mut Vec<u8>) -> Result<(), Tampered> {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce.bytes());
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(aad), buffer)
            .map(|plain| plain.len());
        match opened {
            Ok(len) => {
                buffer.truncate(len);
                Ok(())
            }
            Err(_) => {
                buffer.clear();
                Err(Tampered)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let cipher = StagingCipher::generate();
        let mut sealed = b"staged".to_vec();
        let nonce = cipher.seal(b"file 1", &mut sealed);
        assert_eq!(sealed.len(), 6 + StagingCipher::TAG_LEN);
        assert!(!sealed.windows(6).any(|w| w == b"staged"));

        let mut flipped = sealed.clone();
        flipped[2] ^= 1;
        let other = StagingCipher::generate();
        for (name, cipher, nonce, aad, bytes, expected) in [
            ("itself", &cipher, nonce, "file 1", sealed.clone(), Ok(())),
            ("flipped", &cipher, nonce, "file 1", flipped, Err(Tampered)),
            (
                "moved",
                &cipher,
                nonce,
                "file 2",
                sealed.clone(),
                Err(Tampered),
            ),
            (
                "nonce",
                &cipher,
                Nonce(99),
                "file 1",
                sealed.clone(),
                Err(Tampered),
            ),
            ("short", &cipher, nonce, "file 1", vec![1; 5], Err(Tampered)),
            (
                "process",
                &other,
                nonce,
                "file 1",
                sealed.clone(),
                Err(Tampered),
            ),
        ] {
            let mut buffer = bytes;
            assert_eq!(
                cipher.open(nonce, aad.as_bytes(), &mut buffer),
                expected,
                "{name}"
            );
            let left: &[u8] = if expected.is_ok() { b"staged" } else { b"" };
            assert_eq!(buffer, left, "{name}");
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let cipher = StagingCipher::generate();
        let a = cipher.seal(b"", &mut vec![]);
        let b = cipher.seal(b"", &mut vec![]);
        assert_ne!(a, b);
    }
}
