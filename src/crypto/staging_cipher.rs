//! The cipher for data staged on this machine: AES-256-GCM under a key that exists only as long as the
//! process, with nonces that are never reused.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::random;

/// Returned by [`StagingCipher::seal`] and required by [`StagingCipher::open`]. Not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    nonce: u64,
    tag: [u8; TAG_LEN],
}

const TAG_LEN: usize = 16;

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The staged data was changed, or belongs elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the staged data was changed on disk")]
pub struct Tampered;

pub struct StagingCipher {
    key: LessSafeKey,
    /// The next nonce. The key is random per process and never stored, so counting from 0 is enough for
    /// nonces never to repeat under it; 2^64 of them cannot be used up.
    next: AtomicU64,
}

impl StagingCipher {
    /// How much longer than the data the output buffer must be.
    pub const SPARE: usize = TAG_LEN;

    /// A fresh random key. Created after the last fork: parent and child must not share one.
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

    /// Encrypts `plain` into the beginning of `out`, which is longer by [`SPARE`](Self::SPARE); the bytes
    /// after it are of no use. `aad` identifies the data (file, block, generation): sealed data that is moved
    /// elsewhere cannot be opened.
    pub fn seal(&self, aad: &[u8], plain: &[u8], out: &mut [u8]) -> Seal {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.key
            .seal_in_place_scatter(nonce(number), Aad::from(aad), &mut [], plain, out)
            .expect("AES-GCM seals up to 64 GiB, into room for the tag");
        let tag = out[plain.len()..].try_into().expect("as long as a tag");
        Seal { nonce: number, tag }
    }

    /// Decrypts `sealed` into `plain`, which has the same length.
    ///
    /// # Errors
    /// [`Tampered`]; the content of `plain` is then of no use.
    pub fn open(
        &self,
        seal: &Seal,
        aad: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Tampered> {
        self.key
            .open_separate_gather(nonce(seal.nonce), Aad::from(aad), sealed, &seal.tag, plain)
            .map_err(|_| Tampered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(cipher: &StagingCipher, aad: &[u8], plain: &[u8]) -> (Seal, Vec<u8>) {
        let mut out = vec![0; plain.len() + StagingCipher::SPARE];
        let seal = cipher.seal(aad, plain, &mut out);
        out.truncate(plain.len());
        (seal, out)
    }

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let (cipher, other) = (StagingCipher::generate(), StagingCipher::generate());
        for len in [0, 1, 16, 1000, 128 << 10] {
            let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let (seal, bytes) = sealed(&cipher, b"file 1", &plain);
            let mut opened = vec![0; len];
            assert_eq!(cipher.open(&seal, b"file 1", &bytes, &mut opened), Ok(()));
            assert_eq!(opened, plain);
            if len < 16 {
                continue;
            }
            assert_ne!(bytes, plain);
            let mut flipped = bytes.clone();
            flipped[2] ^= 1;
            let another = Seal { nonce: 99, ..seal };
            for (what, cipher, seal, aad, bytes) in [
                ("flipped", &cipher, seal, b"file 1", &flipped),
                ("moved", &cipher, seal, b"file 2", &bytes),
                ("nonce", &cipher, another, b"file 1", &bytes),
                ("process", &other, seal, b"file 1", &bytes),
            ] {
                let result = cipher.open(&seal, aad, bytes, &mut opened);
                assert_eq!(result, Err(Tampered), "{what}");
            }
            let short = cipher.open(&seal, b"file 1", &bytes[1..], &mut opened[1..]);
            assert_eq!(short, Err(Tampered));
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let cipher = StagingCipher::generate();
        let (a, b) = (sealed(&cipher, b"", b""), sealed(&cipher, b"", b""));
        assert_ne!(a.0.nonce, b.0.nonce);
    }
}
