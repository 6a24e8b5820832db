//! Overwrites what operations on a secret leave on the stack.
//!
//! Dropping a secret wipes its current location. It does not wipe where it was moved from, what a cipher
//! computed from it, or spilled registers: those stay below a thread's stack pointer until deeper calls
//! happen to overwrite them. So such operations run in a frame of their own, and the stack below is
//! overwritten afterwards. Their return value must not be a secret by value.

use std::hint::black_box;

/// More than the ciphers use, in bytes: the portable one processes many blocks at once, and uses over 8 KiB.
const SHALLOW: usize = 16 << 10;

/// More than an RSA operation uses, in bytes.
const DEEP: usize = 64 << 10;

/// Runs `work` and overwrites the stack that it used: for ciphers and digests, which need little of it.
pub(super) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite::<SHALLOW>();
    result
}

/// The same for RSA.
pub(super) fn wiped_deep<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite::<DEEP>();
    result
}

/// Not inlined, so that everything `work` uses is below the caller's frame.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Its frame begins where the frame of [`apart`] began.
#[inline(never)]
fn overwrite<const DEPTH: usize>() {
    let mut below = [0u8; DEPTH];
    // Keeps the compiler from removing the writes.
    black_box(&mut below);
}
