//! AES-256-CTR on 64-byte registers, for processors with VAES and AVX-512: the fast kernel of
//! [`ctr`](super::ctr).
//!
//! Compiling the portable kernel for such a processor does not help: the `aes` crate moves blocks through
//! memory in small pieces, for which 64-byte loads then have to wait. The `unsafe` code consists of loads and
//! stores through slices of exactly that length, and calls of functions whose processor features a
//! [`Schedule`] proves.

#![expect(
    unsafe_code,
    reason = "vector instructions; measured at twice the portable speed"
)]

use std::arch::x86_64::*;
use zeroize::Zeroizing;

/// The round keys; their existence proves that the processor has the features. Wiped on drop.
pub(super) struct Schedule(Zeroizing<[[u8; 16]; 15]>);

impl Schedule {
    /// None if this kernel cannot run.
    pub(super) fn new(key: &[u8; 32]) -> Option<Schedule> {
        let available = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        // Safety: the features were just detected.
        available.then(|| unsafe { expand(key) })
    }

    /// Combines `source` with the keystream from block `counter` on, into `destination`, which has the same
    /// length.
    pub(super) fn apply(&self, counter: u128, source: &[u8], destination: &mut [u8]) {
        assert_eq!(source.len(), destination.len());
        // Safety: `new` detected the features.
        unsafe { apply(&self.0, counter, source, destination) }
    }
}

/// Blocks per iteration: eight registers of four, which leaves registers for the rest of the work.
const BLOCKS: usize = 32;
const TURN: usize = BLOCKS * 16;

/// The prefetch distance in the source, in bytes. Data to be sent comes from memory that is in no cache, and
/// the processor's own prefetcher stops at the end of a page.
const AHEAD: usize = 4096;

#[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
fn apply(keys: &[[u8; 16]; 15], mut counter: u128, source: &[u8], destination: &mut [u8]) {
    let mut wide = [_mm512_setzero_si512(); 15];
    for (wide, key) in wide.iter_mut().zip(keys) {
        // Safety: a round key has 16 bytes.
        *wide = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(key.as_ptr().cast()) });
    }
    // Reverses the bytes of each 128-bit number.
    let turn = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f));
    let mut last = Zeroizing::new([0u8; TURN]);
    for (s, d) in source.chunks(TURN).zip(destination.chunks_mut(TURN)) {
        // The rest of a piece is processed in a copy, so that there is only one loop.
        let whole = s.len() == TURN;
        let (from, to) = if whole {
            (s.as_ptr(), d.as_mut_ptr())
        } else {
            last[..s.len()].copy_from_slice(s);
            (last.as_ptr(), last.as_mut_ptr())
        };
        let mut blocks = counters(counter);
        counter = counter.wrapping_add(BLOCKS as u128);
        for block in &mut blocks {
            *block = _mm512_xor_si512(_mm512_shuffle_epi8(*block, turn), wide[0]);
        }
        for key in &wide[1..14] {
            for block in &mut blocks {
                *block = _mm512_aesenc_epi128(*block, *key);
            }
        }
        for (i, block) in blocks.into_iter().enumerate() {
            let stream = _mm512_aesenclast_epi128(block, wide[14]);
            // Safety: eight times 64 bytes are one iteration, which both have; a prefetch may name any
            // address.
            unsafe {
                let from = from.add(64 * i);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                let text = _mm512_xor_si512(_mm512_loadu_si512(from.cast()), stream);
                _mm512_storeu_si512(to.add(64 * i).cast(), text);
            }
        }
        if !whole {
            d.copy_from_slice(&last[..d.len()]);
        }
    }
}

/// The counters of one iteration's blocks, four in each register, in the processor's byte order.
#[inline]
#[target_feature(enable = "avx512f")]
fn counters(counter: u128) -> [__m512i; 8] {
    if counter as u64 > u64::MAX - BLOCKS as u64 {
        return counters_with_carry(counter);
    }
    let (high, low) = ((counter >> 64) as i64, counter as i64);
    let pair = _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
    let first = _mm512_add_epi64(pair, _mm512_set_epi64(0, 3, 0, 2, 0, 1, 0, 0));
    let mut blocks = [first; 8];
    for (i, block) in (0..).step_by(4).zip(&mut blocks) {
        *block = _mm512_add_epi64(first, _mm512_set_epi64(0, i, 0, i, 0, i, 0, i));
    }
    blocks
}

/// The 64-bit halves of the counters are added separately; if the low half of one wraps, the carries are
/// handled one by one.
#[cold]
#[target_feature(enable = "avx512f")]
fn counters_with_carry(counter: u128) -> [__m512i; 8] {
    let half = |n: u128| {
        let n = counter.wrapping_add(n);
        ((n >> 64) as i64, n as i64)
    };
    let mut blocks = [_mm512_setzero_si512(); 8];
    for (n, block) in (0..).step_by(4).zip(&mut blocks) {
        let (a, b, c, d) = (half(n), half(n + 1), half(n + 2), half(n + 3));
        *block = _mm512_set_epi64(d.0, d.1, c.0, c.1, b.0, b.1, a.0, a.1);
    }
    blocks
}

/// FIPS 197's key expansion with the processor's S-box: no table, and constant time.
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
        // Safety: a round key has 16 bytes.
        let previous = unsafe { _mm_loadu_si128(keys[i - 1].as_ptr().cast()) };
        let assist = _mm_aeskeygenassist_si128::<0>(previous);
        let round = _mm_set1_epi32(1 << (i / 2 - 1));
        let word = match i % 2 {
            0 => _mm_xor_si128(_mm_shuffle_epi32::<0xff>(assist), round),
            _ => _mm_shuffle_epi32::<0xaa>(assist),
        };
        let key = mix(&keys[i - 2], word);
        // Safety: a round key has 16 bytes.
        unsafe { _mm_storeu_si128(keys[i].as_mut_ptr().cast(), key) };
    }
    schedule
}
