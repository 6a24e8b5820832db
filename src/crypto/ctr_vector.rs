//! The fast kernel of [`ctr`](super::ctr): portable code compiled for a better processor than the
//! binary as a whole, and chosen at run time.
//!
//! The `aes` crate picks VAES by itself; what limits the `ctr` crate is that counters are made, and the
//! keystream is combined with the data, in code compiled for the oldest x86-64. The functions below are
//! plain Rust without intrinsics, compiled again with AVX2 enabled. This is the crate's only `unsafe`:
//! one call of a function whose processor features were just detected.

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, array::Array};

/// Blocks of keystream made at once: 4 KiB stays in the first-level cache beside source and destination.
const BATCH: usize = 256;

/// Whether this processor has what [`apply`] is compiled for.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("movbe");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Combines `source` with the keystream that begins at block `counter`, into `destination`. Both have
/// the same length, which is checked.
pub fn apply(cipher: &Aes256Enc, counter: u128, source: &[u8], destination: &mut [u8]) {
    assert_eq!(source.len(), destination.len());
    #[cfg(target_arch = "x86_64")]
    if available() {
        // Safety: the features the function is compiled for were detected in the condition.
        return unsafe { apply_avx2(cipher, counter, source, destination) };
    }
    apply_batches(cipher, counter, source, destination);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2,movbe")]
fn apply_avx2(cipher: &Aes256Enc, counter: u128, source: &[u8], destination: &mut [u8]) {
    apply_batches(cipher, counter, source, destination);
}

#[inline(always)]
fn apply_batches(cipher: &Aes256Enc, mut counter: u128, source: &[u8], destination: &mut [u8]) {
    let mut keystream = [[0u8; 16]; BATCH];
    for (source, destination) in source
        .chunks(BATCH * 16)
        .zip(destination.chunks_mut(BATCH * 16))
    {
        let blocks = &mut keystream[..source.len().div_ceil(16)];
        for (block, i) in blocks.iter_mut().zip(0u64..) {
            *block = counter.wrapping_add(u128::from(i)).to_be_bytes();
        }
        counter = counter.wrapping_add(blocks.len() as u128);
        cipher.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
        let keystream = blocks.as_flattened();
        for ((d, s), k) in destination.iter_mut().zip(source).zip(keystream) {
            *d = s ^ k;
        }
    }
}
