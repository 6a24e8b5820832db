//! Memory of staged blocks: what is allocated is reserved, and buffers are used again.
//!
//! A fresh megabyte costs 256 page faults, which is more than encrypting it. So buffers of a whole block
//! go to a small pool, and the next block takes one from there. What is idle there is not reserved: it is
//! what the process may have beyond its limit.

use std::sync::{Arc, Mutex, MutexGuard};

use zeroize::Zeroize;

use crate::base::sync::lock;
use crate::fs::data::budget::{MemoryBudget, Reservation};
use crate::fs::data::memory::{self, Half};

/// What one strip spills, and what goes up meanwhile: 16 MiB idle at most.
const POOL_MAX: usize = 16;
/// The smallest buffer: small files are many.
const SMALLEST: usize = 1 << 10;

/// The first bytes of a block. Bytes that were never written are zero or leftovers of what was
/// truncated: the file's ranges say which count.
pub(super) struct Buffer {
    memory: Memory,
    /// How many bytes of it are in use.
    len: usize,
    /// Of at least the capacity, but for buffers of a budget smaller than a few blocks.
    reservation: Option<Reservation>,
    pool: Arc<Pool>,
}

enum Memory {
    /// Of a whole block.
    Half(Half),
    Own(Vec<u8>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Memory::Half(half) => half,
            Memory::Own(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Half(half) => half,
            Memory::Own(bytes) => bytes,
        }
    }
}

impl Buffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn capacity(&self) -> usize {
        self.memory.bytes().len()
    }

    /// What dropping it gives back, in bytes.
    pub(super) fn reserved(&self) -> u64 {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    /// Makes the capacity `capacity` if it is less, covered by `more`.
    pub(super) fn grow(&mut self, capacity: usize, more: Reservation) {
        if capacity > self.capacity() {
            let mut larger = self.pool.memory(capacity);
            larger.bytes_mut()[..self.len].copy_from_slice(self.bytes());
            self.pool.put(std::mem::replace(&mut self.memory, larger));
        }
        match &mut self.reservation {
            Some(reservation) => reservation.absorb(more),
            None => self.reservation = Some(more),
        }
    }

    /// Within the capacity.
    pub(super) fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        let bytes = self.memory.bytes_mut();
        if at > self.len {
            bytes[self.len..at].fill(0);
        }
        bytes[at..end].copy_from_slice(data);
        self.len = self.len.max(end);
    }

    /// Its first `len` bytes, within the capacity, to be filled.
    pub(super) fn fill(&mut self, len: usize) -> &mut [u8] {
        self.len = len;
        &mut self.memory.bytes_mut()[..len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Memory first, then the permission to use as much again.
        let nothing = Memory::Own(Vec::new());
        self.pool.put(std::mem::replace(&mut self.memory, nothing));
        self.reservation = None;
    }
}

pub(super) struct Pool {
    block: usize,
    max: usize,
    /// Buffers are wiped when they are dropped: nothing on this machine may read what was written.
    wipes: bool,
    /// Of a whole block each. A leaf.
    idle: Mutex<Vec<Half>>,
}

impl Pool {
    pub(super) fn new(budget: &MemoryBudget, block: usize, wipes: bool) -> Arc<Pool> {
        // Beside a small budget there is no room for a large pool.
        let share = budget.limit() / 16 / block as u64;
        Arc::new(Pool {
            max: usize::try_from(share).unwrap_or(POOL_MAX).min(POOL_MAX),
            block,
            wipes,
            idle: Mutex::default(),
        })
    }

    /// An empty buffer of `capacity`, covered by `reservation`.
    pub(super) fn buffer(self: &Arc<Self>, capacity: usize, reservation: Reservation) -> Buffer {
        Buffer {
            memory: self.memory(capacity),
            len: 0,
            reservation: Some(reservation),
            pool: self.clone(),
        }
    }

    fn memory(&self, capacity: usize) -> Memory {
        // Tests have blocks of other sizes.
        if capacity == self.block && capacity == Half::LEN {
            let mut idle = self.idle();
            if let Some(half) = idle.pop() {
                return Memory::Half(half);
            }
            if let Some([half, other]) = memory::halves() {
                idle.push(other);
                return Memory::Half(half);
            }
        }
        Memory::Own(vec![0; capacity])
    }

    fn put(&self, mut memory: Memory) {
        if self.wipes {
            memory.bytes_mut().zeroize();
        }
        if let Memory::Half(half) = memory {
            let mut idle = self.idle();
            if idle.len() < self.max {
                idle.push(half);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Half>> {
        lock(&self.idle)
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
