//! What work with a secret leaves on the stack is overwritten.
//!
//! Dropping a secret wipes the place it has then. It does not wipe where it was moved from, what a cipher
//! computed of it, or registers that were spilled: those stay below the stack pointer of a thread until
//! deeper calls happen to go over them. So such work runs in a frame of its own, and the stack below is
//! overwritten before anything else is done. What the work returns must not be a secret by value.

use std::hint::black_box;

/// More than the ciphers use, in bytes: the portable one takes many blocks at once, and uses over 8 KiB.
const SHALLOW: usize = 16 << 10;

/// More than an RSA operation uses, in bytes.
const DEEP: usize = 64 << 10;

/// Runs `work` and overwrites the stack it used: for ciphers and digests, which need little of it.
pub fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite::<SHALLOW>();
    result
}

/// The same for RSA.
pub fn wiped_deep<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    overwrite::<DEEP>();
    result
}

/// Not inlined, so that all the work uses is below the caller's frame.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Its frame begins where the one of [`apart`] did.
#[inline(never)]
fn overwrite<const DEPTH: usize>() {
    let mut below = [0u8; DEPTH];
    // Somebody might look at them: they are written.
    black_box(&mut below);
}
