//! The only source of random bytes: the operating system's generator, called each time.
//!
//! There is no generator with state in this process, so a fork cannot repeat its output.

use rand::TryRng;
use rand::rngs::SysRng;

/// Fills `destination`.
///
/// # Panics
/// If the operating system provides no randomness. Nothing may be encrypted then, and no caller could do
/// better than stop.
pub fn fill(destination: &mut [u8]) {
    SysRng
        .try_fill_bytes(destination)
        .expect("the operating system's generator answers");
}
