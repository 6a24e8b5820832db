//! Memory for parts: filled from the front by one writer while readers already hold slices of what is
//! filled. One contiguous buffer per part, so that a read at any alignment is one slice of it.
//!
//! It needs `unsafe` because the filled front is shared while the tail is written. The two never overlap:
//! [`Filling`] is the only writer (one per buffer, not `Clone`), it writes from the watermark on, and
//! readers are cut at the watermark, which only grows.
//!
//! A buffer carries its share of the memory budget and gives it back only when the last slice is
//! gone. Idle buffers in the [`Pool`] keep theirs.

#![expect(
    unsafe_code,
    reason = "the filled front of a buffer is read while its tail is written"
)]

use std::ops::Range;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::super::budget::Reservation;
use super::super::memory::Memory;
use crate::base::sync::lock;

/// Lengths of which idle buffers are kept.
const KINDS: usize = 3;

/// Memory with its share of the budget, not in use.
pub struct Space {
    // The order matters: memory is freed before its share is given back.
    memory: Memory,
    reservation: Reservation,
}

impl Space {
    /// `len` bytes under `reservation`; the reservation comes back if the system has no memory.
    /// `len` is not 0.
    pub fn new(len: usize, reservation: Reservation) -> Result<Space, Reservation> {
        match Memory::new(len) {
            Some(memory) => Ok(Space {
                memory,
                reservation,
            }),
            None => Err(reservation),
        }
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }
}

/// Bytes that are filled from the front. See the module's documentation.
pub struct Buffer {
    space: Option<Space>,
    filled: AtomicUsize,
    pool: Arc<Pool>,
}

/// The right to fill a buffer: there is one per buffer.
pub struct Filling {
    buffer: Arc<Buffer>,
}

impl Buffer {
    /// The buffer has the space's length; its memory goes to `pool` in the end.
    pub fn new(space: Space, pool: Arc<Pool>) -> (Arc<Buffer>, Filling) {
        let buffer = Arc::new(Buffer {
            space: Some(space),
            filled: AtomicUsize::new(0),
            pool,
        });
        let filling = Filling {
            buffer: buffer.clone(),
        };
        (buffer, filling)
    }

    fn memory(&self) -> &Memory {
        &self.space.as_ref().expect("taken only on drop").memory
    }

    pub fn len(&self) -> usize {
        self.memory().len()
    }

    /// How many bytes from the front can be read.
    pub fn filled(&self) -> usize {
        self.filled.load(Ordering::Acquire)
    }

    /// Those bytes, without copying, if all of them are filled. They keep the buffer alive.
    pub fn slice(self: &Arc<Self>, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.filled() {
            return None;
        }
        Some(Bytes::from_owner(Slice {
            buffer: self.clone(),
            range,
        }))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(space) = self.space.take() {
            self.pool.give(space);
        }
    }
}

/// Filled bytes: `range` was below the watermark when this was made.
struct Slice {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: inside the memory, initialised, and below the watermark, where no one writes any
        // more; the buffer lives as long as this does.
        unsafe {
            let start = self.buffer.memory().start().add(self.range.start);
            slice::from_raw_parts(start.as_ptr(), self.range.len())
        }
    }
}

impl Filling {
    /// What is still to be filled.
    pub fn tail(&mut self) -> &mut [u8] {
        let filled = self.buffer.filled();
        let memory = self.buffer.memory();
        // SAFETY: inside the memory and initialised (zeroes, or what an earlier use left). This is
        // the only writer, borrowed mutably, and readers end at the watermark, where this begins.
        unsafe {
            slice::from_raw_parts_mut(memory.start().add(filled).as_ptr(), memory.len() - filled)
        }
    }

    /// Publishes the next `len` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, len: usize) {
        let filled = self.buffer.filled();
        assert!(len <= self.buffer.len() - filled);
        self.buffer.filled.store(filled + len, Ordering::Release);
    }
}

/// Idle buffers of the lengths that come again and again: a block, a full part, and half of one, which is what
/// readers fetch who share the window.
///
/// Their pages are there already, so using one again costs no page faults.
pub struct Pool {
    /// How many idle buffers of which length are kept.
    kept: [(usize, usize); KINDS],
    /// Guards the idle buffers. A leaf: nothing else is locked while it is held.
    idle: Mutex<[Vec<Space>; KINDS]>,
}

impl Pool {
    /// `kept`: (length in bytes, how many) of each kind.
    pub fn new(kept: [(usize, usize); KINDS]) -> Arc<Pool> {
        Arc::new(Pool {
            kept,
            idle: Mutex::default(),
        })
    }

    /// An idle buffer of exactly `len` bytes.
    pub fn take(&self, len: usize) -> Option<Space> {
        let kind = self.kind(len)?;
        self.lock()[kind].pop()
    }

    /// Frees idle buffers until `bytes` have been given back to the budget; returns how many were.
    pub fn release(&self, bytes: u64) -> u64 {
        let mut freed = Vec::new();
        let mut released = 0;
        {
            let mut idle = self.lock();
            while released < bytes {
                let Some(space) = idle.iter_mut().rev().find_map(Vec::pop) else {
                    break;
                };
                released += space.reservation.bytes();
                freed.push(space);
            }
        }
        released
    }

    fn give(&self, space: Space) {
        if let Some(kind) = self.kind(space.len()) {
            let mut idle = self.lock();
            if idle[kind].len() < self.kept[kind].1 {
                idle[kind].push(space);
            }
        }
    }

    fn kind(&self, len: usize) -> Option<usize> {
        self.kept.iter().position(|(kept, _)| *kept == len)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Vec<Space>; KINDS]> {
        lock(&self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::budget::MemoryBudget;
    use super::super::super::memory::{HUGE, MAPPED};
    use super::*;

    fn space(budget: &MemoryBudget, len: usize) -> Space {
        let reservation = budget.try_reserve(len as u64).unwrap();
        Space::new(len, reservation).ok().unwrap()
    }

    #[test]
    fn what_is_filled_can_be_read_while_the_rest_is_written() {
        for len in [1, 4096, MAPPED - 1, MAPPED, 3 * MAPPED + 5, HUGE, 2 * HUGE] {
            let budget = MemoryBudget::new(64 << 20);
            let pool = Pool::new([(MAPPED, 1), (HUGE, 1), (2 * HUGE, 0)]);
            let (buffer, mut filling) = Buffer::new(space(&budget, len), pool);
            assert!(buffer.slice(0..1).is_none());
            let half = len / 2;
            filling.tail()[..half].fill(1);
            filling.advance(half);
            let front = buffer.slice(0..half).unwrap();
            assert!(buffer.slice(0..half + 1).is_none());
            filling.tail().fill(2);
            assert!(front.iter().all(|byte| *byte == 1));
            filling.advance(len - half);
            drop(filling);
            let all = buffer.slice(0..len).unwrap();
            assert!(buffer.slice(0..len + 1).is_none());
            drop((buffer, front));
            assert_eq!(
                budget.used(),
                len as u64,
                "a slice keeps its buffer's share"
            );
            assert!(all[..half].iter().all(|byte| *byte == 1));
            assert!(all[half..].iter().all(|byte| *byte == 2));
        }
    }

    #[test]
    fn idle_buffers_keep_their_share_and_are_used_again_or_released() {
        let budget = MemoryBudget::new(64 << 20);
        let pool = Pool::new([(MAPPED, 1), (HUGE, 2), (2 * HUGE, 0)]);
        for len in [MAPPED, MAPPED, HUGE, HUGE, HUGE, 77] {
            drop(space(&budget, len));
        }
        let buffers: Vec<_> = [MAPPED, MAPPED, HUGE, HUGE, HUGE, 77]
            .map(|len| Buffer::new(space(&budget, len), pool.clone()).0)
            .into_iter()
            .collect();
        drop(buffers);
        assert_eq!(budget.used(), (MAPPED + 2 * HUGE) as u64);
        assert_eq!(pool.take(HUGE).unwrap().len(), HUGE);
        assert!(pool.take(77).is_none());
        assert_eq!(pool.release(1), HUGE as u64);
        assert_eq!(budget.used(), MAPPED as u64);
        assert_eq!(pool.release(u64::MAX), MAPPED as u64);
        assert_eq!(budget.used(), 0);
    }
}
