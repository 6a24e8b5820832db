//! A block of a staged file: in memory, then on disk, never back.

use std::sync::{Arc, Mutex, MutexGuard};

use super::buffer::Buffer;
use super::error::Error;
use super::spill_file::{BlockName, SpillFile, Stored};
use crate::base::sync::lock;

pub(super) struct Block {
    name: BlockName,
    /// Where the bytes are. Held while a state is looked at or exchanged, never while bytes are
    /// copied, sealed, read or written. May be held when the pool or the budget is locked.
    state: Mutex<State>,
}

enum State {
    Memory(Arc<Buffer>),
    /// The buffer is with the file, which is writing into it: see [`Taken`]. Only the spiller can
    /// come by meanwhile, and it passes on.
    Writing,
    Disk(Arc<Stored>),
}

/// A block's bytes, wherever they are. Frozen as long as this is held.
pub(super) enum Held {
    Memory(Arc<Buffer>),
    Disk(Arc<Stored>),
}

impl Held {
    pub(super) fn len(&self) -> usize {
        match self {
            Held::Memory(buffer) => buffer.len(),
            Held::Disk(stored) => stored.len(),
        }
    }
}

/// What became of an attempt to spill.
pub(super) enum Spilled {
    /// On disk now; so many bytes of memory are free.
    Freed(u64),
    /// Was on disk already.
    Before,
    /// Being written to.
    Busy,
}

impl Block {
    pub(super) fn new(name: BlockName, buffer: Buffer) -> Arc<Block> {
        Arc::new(Block {
            name,
            state: Mutex::new(State::Memory(Arc::new(buffer))),
        })
    }

    /// Told apart from every other block ever made.
    pub(super) fn generation(&self) -> u64 {
        self.name.generation
    }

    /// `None` while the file is writing into it, which the file itself and its readers never see:
    /// writing takes the file exclusively, and blocks that snapshots or pieces hold are not written.
    pub(super) fn held(&self) -> Option<Held> {
        match &*self.state() {
            State::Memory(buffer) => Some(Held::Memory(buffer.clone())),
            State::Writing => None,
            State::Disk(stored) => Some(Held::Disk(stored.clone())),
        }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.held().map_or(0, |held| held.len())
    }

    /// Takes the buffer for writing in place, if it is in memory and there is no other reference to it:
    /// `owner` is the only reference to the block (the caller being its file), and the block holds
    /// the only one to the buffer.
    pub(super) fn take(owner: &Arc<Block>) -> Option<Taken> {
        if Arc::strong_count(owner) > 1 {
            return None;
        }
        let mut state = owner.state();
        let State::Memory(buffer) = &mut *state else {
            return None;
        };
        Arc::get_mut(buffer)?;
        match std::mem::replace(&mut *state, State::Writing) {
            State::Memory(buffer) => {
                drop(state);
                Some(Taken {
                    block: owner.clone(),
                    buffer: Some(buffer),
                })
            }
            other => {
                *state = other;
                None
            }
        }
    }

    /// Seals the block and writes it to `file`, for all who share it. Blocks on the disk.
    pub(super) fn spill(
        &self,
        file: &Arc<SpillFile>,
        scratch: &mut [u8],
    ) -> Result<Spilled, Error> {
        let buffer = match self.held() {
            Some(Held::Memory(buffer)) => buffer,
            Some(Held::Disk(_)) => return Ok(Spilled::Before),
            None => return Ok(Spilled::Busy),
        };
        // Nothing writes into the buffer while we hold it, so what is stored is what it holds.
        let stored = Arc::new(file.store(self.name, buffer.bytes(), scratch)?);
        let mut state = self.state();
        let old = match &*state {
            State::Memory(current) if Arc::ptr_eq(current, &buffer) => {
                std::mem::replace(&mut *state, State::Disk(stored))
            }
            // A buffer that we hold is not exchanged; were it, what we stored would be of no use.
            _ => return Ok(Spilled::Busy),
        };
        drop(state);
        drop(old);
        // An upload or a read may still hold it; then the memory comes back when they are done.
        Ok(Spilled::Freed(
            Arc::into_inner(buffer).map_or(0, |buffer| buffer.reserved()),
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A block's buffer while its file writes into it. Goes back on drop.
pub(super) struct Taken {
    block: Arc<Block>,
    buffer: Option<Arc<Buffer>>,
}

impl Taken {
    pub(super) fn buffer(&mut self) -> &mut Buffer {
        self.buffer.as_mut().and_then(Arc::get_mut).expect(
            "it was the only reference when it was taken, and the block no longer gives any",
        )
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            *self.block.state() = State::Memory(buffer);
        }
    }
}
