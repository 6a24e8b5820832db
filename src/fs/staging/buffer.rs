//! Memory of staged blocks: what is allocated is reserved, and buffers are used again.
//!
//! A fresh megabyte costs 256 page faults, which on a virtual machine is more than encrypting it.
//! So buffers of a whole block go to a small pool when nobody is short of memory, reservation
//! included, and the next block takes one from there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::budget::{MemoryBudget, Reservation};

/// More than one write touches and one strip spills; 16 MiB idle at most.
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
        if let Some(reservation) = self.reservation.take() {
            self.pool
                .put(std::mem::take(&mut self.bytes), reservation);
        }
    }
}

pub(super) struct Pool {
    budget: MemoryBudget,
    block: usize,
    max: usize,
    /// Buffers of a whole block, with as much reserved. A leaf: the budget is not called under it.
    idle: Mutex<Vec<(Vec<u8>, Reservation)>>,
}

impl Pool {
    pub fn new(budget: MemoryBudget, block: usize) -> Arc<Pool> {
        // A small budget has no sixteenth to leave idle.
        let share = budget.limit() / 16 / block as u64;
        Arc::new(Pool {
            max: usize::try_from(share).unwrap_or(POOL_MAX).min(POOL_MAX),
            budget,
            block,
            idle: Mutex::default(),
        })
    }

    /// An empty buffer of `capacity`, covered by `reservation`.
    pub fn buffer(self: &Arc<Self>, capacity: usize, reservation: Reservation) -> Buffer {
        Buffer {
            bytes: Vec::with_capacity(capacity),
            reservation: Some(reservation),
            pool: self.clone(),
        }
    }

    /// An idle buffer of a whole block, empty.
    pub fn take(self: &Arc<Self>) -> Option<Buffer> {
        let (bytes, reservation) = self.idle().pop()?;
        Some(Buffer {
            bytes,
            reservation: Some(reservation),
            pool: self.clone(),
        })
    }

    /// Gives all idle memory back; returns how much it was, in bytes.
    pub fn drain(&self) -> u64 {
        let idle = std::mem::take(&mut *self.idle());
        idle.iter().map(|(_, reservation)| reservation.bytes()).sum()
    }

    /// In bytes.
    pub fn idle_bytes(&self) -> u64 {
        (self.idle().len() * self.block) as u64
    }

    fn put(&self, mut bytes: Vec<u8>, mut reservation: Reservation) {
        let whole = bytes.capacity() == self.block && reservation.bytes() >= self.block as u64;
        if whole && self.budget.wanted() == 0 {
            reservation.shrink_to(self.block as u64);
            bytes.clear();
            let mut idle = self.idle();
            if idle.len() < self.max {
                idle.push((bytes, reservation));
                return;
            }
        }
        // Memory first, then the permission to use it.
        drop(bytes);
        drop(reservation);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Vec<u8>, Reservation)>> {
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
