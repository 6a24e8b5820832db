//! Memory in large pieces, for bytes that come and go by the megabyte.
//!
//! It is mapped, not allocated: it goes back to the system when dropped whatever the allocator thinks, so that
//! memory stays within the budget, it comes zeroed without being touched, and it may use huge pages: a page
//! fault for each 4 KiB is a fifth of the cost of reading or writing a file. `unsafe` is what handing out the two
//! [`halves`] of a huge page takes, and parts of a buffer to its owners.

#![expect(
    unsafe_code,
    reason = "memory with several owners: halves of huge pages"
)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, UncheckedAdvice};

/// Below this many bytes memory comes from the allocator: a mapping is worth its system calls only
/// when it is larger than what allocators keep together.
pub const MAPPED: usize = 128 << 10;

/// From this many bytes on, huge pages are asked for.
pub const HUGE: usize = 2 << 20;

/// Initialised bytes at a stable address, freed on drop.
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
    backing: Backing,
}

/// What `start` points into. It is never accessed but through `start`.
enum Backing {
    Allocated { _bytes: Vec<u8> },
    Mapped(MmapMut),
}

// SAFETY: plain bytes, owned; who may read or write which of them is the owner's business.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zeroes, or `None` if the system has no memory. `len` is not 0.
    pub fn new(len: usize) -> Option<Memory> {
        if len < MAPPED {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).ok()?;
            bytes.resize(len, 0);
            return Some(Memory {
                start: NonNull::new(bytes.as_mut_ptr())?,
                len,
                backing: Backing::Allocated { _bytes: bytes },
            });
        }
        let mut mapping = MmapMut::map_anon(len).ok()?;
        if len >= HUGE {
            // Advice: the system may refuse it.
            let _ = mapping.advise(Advice::HugePage);
        }
        Some(Memory {
            start: NonNull::new(mapping.as_mut_ptr())?,
            len,
            backing: Backing::Mapped(mapping),
        })
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins, for owners who share it out by rules of their own.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

/// The bytes of a huge page, in two halves: one page fault for both.
pub fn halves() -> Option<[Half; 2]> {
    let whole = Arc::new(Memory::new(HUGE)?);
    let half = |at| Half {
        whole: whole.clone(),
        at,
    };
    Some([half(0), half(Half::LEN)])
}

/// One half. What one writes, the other does not see.
pub struct Half {
    whole: Arc<Memory>,
    /// 0 or [`Half::LEN`]; no other half has the same.
    at: usize,
}

impl Half {
    /// In bytes.
    pub const LEN: usize = HUGE / 2;

    fn start(&self) -> NonNull<u8> {
        // SAFETY: both offsets are inside the memory.
        unsafe { self.whole.start().add(self.at) }
    }
}

impl Deref for Half {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: inside the memory, which lives as long as this does; initialised; there is no other reference.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), Half::LEN) }
    }
}

impl DerefMut for Half {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), Half::LEN) }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // The other half may stay for long: this one's pages go back by themselves.
        if let Backing::Mapped(mapping) = &self.whole.backing
            && Arc::strong_count(&self.whole) > 1
        {
            // SAFETY: this half of the mapping, whole pages, that are not read any more.
            let _ = unsafe {
                mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, self.at, Half::LEN)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_two() {
        let [mut a, mut b] = halves().unwrap();
        assert!(a.iter().chain(b.iter()).all(|byte| *byte == 0));
        a.fill(1);
        b.fill(2);
        assert!(a.len() == Half::LEN && a.iter().all(|byte| *byte == 1));
        drop(a);
        assert!(b.len() == Half::LEN && b.iter().all(|byte| *byte == 2));
    }
}
