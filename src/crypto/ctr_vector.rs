//! AES-256-CTR on 64-byte registers, for processors with VAES and AVX-512: the fast kernel of [`ctr`](super::ctr).
//!
//! Compiling the portable one for such a processor does not help: the `aes` crate moves blocks through memory
//! in small pieces that 64-byte loads then wait for. The `unsafe` here is loads and stores through slices of
//! just that length, and calls of functions whose processor features a [`Schedule`] proves.

use std::arch::x86_64::*;
use zeroize::Zeroizing;

/// The round keys; having them means that the processor has the features. Wiped on drop.
pub struct Schedule(Zeroizing<[[u8; 16]; 15]>);

impl Schedule {
    /// None where this kernel cannot run.
    pub fn new(key: &[u8; 32]) -> Option<Schedule> {
        let available = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        // Safety: the features were just detected.
        available.then(|| unsafe { expand(key) })
    }

    /// Combines `source` with the keystream from block `counter` on, into `destination` of the same length.
    pub fn apply(&self, counter: u128, source: &[u8], destination: &mut [u8]) {
        assert_eq!(source.len(), destination.len());
        // Safety: `new` detected the features.
        unsafe { apply(&self.0, counter, source, destination) }
    }
}

#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
fn apply(keys: &[[u8; 16]; 15], mut counter: u128, source: &[u8], destination: &mut [u8]) {
    let mut wide = [_mm512_setzero_si512(); 15];
    for (wide, key) in wide.iter_mut().zip(keys) {
        // Safety: a round key has 16 bytes.
        *wide = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) });
    }
    for (s, d) in source.chunks(1024).zip(destination.chunks_mut(1024)) {
        let stream = keystream(&wide, counter);
        counter = counter.wrapping_add(64);
        let ((s, s_rest), (d, d_rest)) = (s.as_chunks::<64>(), d.as_chunks_mut::<64>());
        for ((s, d), k) in s.iter().zip(d).zip(&stream) {
            // Safety: source and destination have 64 bytes.
            let text = unsafe { _mm512_loadu_si512(s.as_ptr().cast()) };
            unsafe { _mm512_storeu_si512(d.as_mut_ptr().cast(), _mm512_xor_si512(text, *k)) };
        }
        if !s_rest.is_empty() {
            let mut last = [0u8; 64];
            // Safety: `last` has 64 bytes.
            unsafe { _mm512_storeu_si512(last.as_mut_ptr().cast(), stream[s.len()]) };
            (0..s_rest.len()).for_each(|i| d_rest[i] = s_rest[i] ^ last[i]);
        }
    }
}

/// 64 blocks, four in each register.
#[inline]
#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
fn keystream(keys: &[__m512i; 15], counter: u128) -> [__m512i; 16] {
    let mut blocks = [_mm512_setzero_si512(); 16];
    let pair = |n: u128| ((n >> 64) as i64, n as i64);
    // Turns the bytes of each 128-bit number round.
    let turn = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f));
    let mut next = _mm512_setzero_si512();
    for (block, n) in blocks.iter_mut().zip((0u128..).step_by(4)) {
        // Lanes are added without a carry between their halves: numbered anew where the low half wraps.
        if n == 0 || counter as u64 > u64::MAX - 64 {
            let (a, b) = (counter.wrapping_add(n), counter.wrapping_add(n + 1));
            let (c, d) = (counter.wrapping_add(n + 2), counter.wrapping_add(n + 3));
            let (a, b, c, d) = (pair(a), pair(b), pair(c), pair(d));
            next = _mm512_set_epi64(d.0, d.1, c.0, c.1, b.0, b.1, a.0, a.1);
        }
        *block = _mm512_xor_si512(_mm512_shuffle_epi8(next, turn), keys[0]);
        next = _mm512_add_epi64(next, _mm512_set_epi64(0, 4, 0, 4, 0, 4, 0, 4));
    }
    for key in &keys[1..14] {
        for block in &mut blocks {
            *block = _mm512_aesenc_epi128(*block, *key);
        }
    }
    for block in &mut blocks {
        *block = _mm512_aesenclast_epi128(*block, keys[14]);
    }
    blocks
}

/// FIPS 197's key expansion with the processor's S-box: no table, no timing.
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8; 32]) -> Schedule {
    let mut schedule = Schedule(Zeroizing::new([[0; 16]; 15]));
    let keys = &mut schedule.0;
    let mix = |key: &[u8; 16], word: __m128i| {
        // Safety: a round key has 16 bytes.
        let key = unsafe { _mm_loadu_si128(key.as_ptr().cast()) };
        let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
        _mm_xor_si128(_mm_xor_si128(key, _mm_slli_si128::<8>(key)), word)
    };
    keys[0].copy_from_slice(&key[..16]);
    keys[1].copy_from_slice(&key[16..]);
    for i in 2..15 {
        // Safety: a round key has 16 bytes, also below.
        let previous = unsafe { _mm_loadu_si128(keys[i - 1].as_ptr().cast()) };
        let assist = _mm_aeskeygenassist_si128::<0>(previous);
        let round = _mm_set1_epi32(1 << (i / 2 - 1));
        let word = match i % 2 {
            0 => _mm_xor_si128(_mm_shuffle_epi32::<0xff>(assist), round),
            _ => _mm_shuffle_epi32::<0xaa>(assist),
        };
        let key = mix(&keys[i - 2], word);
        unsafe { _mm_storeu_si128(keys[i].as_mut_ptr().cast(), key) };
    }
    schedule
}
