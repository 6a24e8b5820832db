//! Memory of staged blocks: what is allocated is reserved, and buffers are used again.
//!
//! A fresh megabyte costs 256 page faults, which is more than encrypting it. So buffers of a whole block
//! go to a small pool, and the next block takes one from there. What is idle there is not reserved: it is
//! what the process may have beyond its limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::budget::{MemoryBudget, Reservation};

/// What one strip spills, and what goes up meanwhile: 16 MiB idle at most.
const POOL_MAX: usize = 16;
/// The smallest buffer: small files are many.
const SMALLEST: usize = 1 << 10;

/// The first bytes of a block. Bytes that were never written are zero or leftovers of what was
/// truncated: the file's ranges say which count.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Of at least the capacity, but for buffers of a budget smaller than a few blocks.
    reservation: Option<Reservation>,
    pool: Arc<Pool>,
}

impl Buffer {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// What dropping it gives back, in bytes.
    pub fn reserved(&self) -> u64 {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    /// Makes the capacity `capacity` if it is less, covered by `more`.
    pub fn grow(&mut self, capacity: usize, more: Reservation) {
        self.bytes
            .reserve_exact(capacity.saturating_sub(self.bytes.len()));
        match &mut self.reservation {
            Some(reservation) => reservation.absorb(more),
            None => self.reservation = Some(more),
        }
    }

    /// Within the capacity.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        debug_assert!(at + data.len() <= self.bytes.capacity());
        if at > self.bytes.len() {
            self.bytes.resize(at, 0);
        }
        let overlap = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + overlap].copy_from_slice(&data[..overlap]);
        self.bytes.extend_from_slice(&data[overlap..]);
    }

    /// For filling an empty one; it stays within the capacity.
    pub fn fill(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Memory first, then the permission to use as much again.
        self.pool.put(std::mem::take(&mut self.bytes));
        self.reservation = None;
    }
}

pub(super) struct Pool {
    block: usize,
    max: usize,
    /// Of a whole block each. A leaf.
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    pub fn new(budget: &MemoryBudget, block: usize) -> Arc<Pool> {
        // Beside a small budget there is no room for a large pool.
        let share = budget.limit() / 16 / block as u64;
        Arc::new(Pool {
            max: usize::try_from(share).unwrap_or(POOL_MAX).min(POOL_MAX),
            block,
            idle: Mutex::default(),
        })
    }

    /// An empty buffer of `capacity`, covered by `reservation`.
    pub fn buffer(self: &Arc<Self>, capacity: usize, reservation: Reservation) -> Buffer {
        let idle = match capacity == self.block {
            true => self.idle().pop(),
            false => None,
        };
        Buffer {
            bytes: idle.unwrap_or_else(|| Vec::with_capacity(capacity)),
            reservation: Some(reservation),
            pool: self.clone(),
        }
    }

    fn put(&self, mut bytes: Vec<u8>) {
        if bytes.capacity() != self.block {
            return;
        }
        bytes.clear();
        let mut idle = self.idle();
        if idle.len() < self.max {
            idle.push(bytes);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How large a buffer is made for the first `end` bytes of block `index`. A file's first block
/// grows with what is written; a file that has a second one is worth whole buffers, which are
/// never copied.
pub(super) fn capacity(block: usize, index: u64, end: usize) -> usize {
    if index > 0 {
        block
    } else {
        end.next_power_of_two().max(SMALLEST).min(block)
    }
}
