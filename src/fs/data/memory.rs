//! Memory in large pieces, for bytes that come and go by the megabyte.
//!
//! It is mapped, not allocated: it goes back to the system when dropped whatever the allocator thinks, so that
//! memory stays within the budget, it comes zeroed without being touched, and it may use huge pages: a page
//! fault for each 4 KiB is a fifth of the cost of reading or writing a file. `unsafe` is what mapping takes,
//! and what handing out the two [`halves`] of a huge page does.

#![expect(unsafe_code, reason = "mapped memory and halves of huge pages")]

use std::alloc;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

/// Below this many bytes memory comes from the allocator: a mapping is worth its system calls only
/// when it is larger than what allocators keep together.
pub const MAPPED: usize = 128 << 10;

/// From this many bytes on, huge pages are asked for.
pub const HUGE: usize = 2 << 20;

/// Initialised bytes at a stable address, freed on drop.
pub struct Memory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain bytes, owned; who may read or write which of them is the owner's business.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// `len` zeroes, or `None` if the system has no memory. `len` is not 0.
    pub fn new(len: usize) -> Option<Memory> {
        if len < MAPPED {
            let layout = alloc::Layout::array::<u8>(len).ok()?;
            // SAFETY: the layout is not empty; `len` is not 0.
            let start = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
            return Some(Memory { start, len });
        }
        // SAFETY: a new private anonymous mapping touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        if len >= HUGE {
            // SAFETY: the mapping just made; advice changes no contents, and may be refused.
            unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        }
        Some(Memory {
            start: NonNull::new(start.cast())?,
            len,
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

impl Drop for Memory {
    fn drop(&mut self) {
        if self.len < MAPPED {
            let layout =
                alloc::Layout::array::<u8>(self.len).expect("it was made with this layout");
            // SAFETY: allocated in `new` with the same layout, freed once.
            unsafe { alloc::dealloc(self.start.as_ptr(), layout) };
        } else {
            // SAFETY: mapped in `new` with the same length, unmapped once.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
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
        if Arc::strong_count(&self.whole) > 1 {
            // SAFETY: our half of the mapping, whole pages, that are not read any more.
            unsafe { libc::madvise(self.start().as_ptr().cast(), Half::LEN, libc::MADV_DONTNEED) };
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
