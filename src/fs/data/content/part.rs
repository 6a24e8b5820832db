//! A stretch of an object that is fetched by one request and kept as one buffer.
//!
//! Reads wait here for their bytes, each for as many as it needs; the task that fills the part hands them
//! to those who wait (not a word that they are there: memory may be so short that the part is gone
//! again before its reader runs). A part fails as a whole: what was read from it stays read.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::buffer::{Buffer, Filling};
use super::error::Error;
use crate::base::sync::lock;

pub struct Part {
    /// Never used twice in a process.
    pub id: u64,
    /// Bytes of the object, never empty.
    pub range: Range<u64>,
    /// A leaf: memory only, nothing else is locked while it is held.
    state: Mutex<State>,
    /// Bytes handed to readers, those read twice counted twice.
    served: AtomicU64,
    /// It is worth keeping when it was read, too: programs open small files again, and what they have just
    /// written.
    kept: AtomicBool,
    /// It is a whole object with a checksum: nothing of it is handed out before that was compared.
    whole: AtomicBool,
    /// Of its ciphertext, once all of it has come.
    crc: OnceLock<u64>,
    /// The task that fills it.
    task: OnceLock<AbortHandle>,
}

struct State {
    stage: Stage,
    waiters: Vec<Waiter>,
}

struct Waiter {
    /// In bytes of the part.
    range: Range<usize>,
    reader: oneshot::Sender<Bytes>,
}

enum Stage {
    /// Memory is not there yet.
    Waiting,
    /// The whole ciphertext, not yet published: opened when it is first read.
    Sealed(Arc<Buffer>, Filling),
    Filling(Arc<Buffer>),
    Complete(Arc<Buffer>),
    /// All of it, from elsewhere.
    Held(Bytes),
    Failed(Error),
    /// Dropped from the cache.
    Evicted,
}

/// What a part can say about a range at once.
pub enum Answer {
    Ready(Bytes),
    /// The bytes are on their way.
    Later,
    /// The ciphertext is here, and is still to be opened.
    Sealed,
    Failed(Error),
    /// Not in memory any more.
    Gone,
}

impl Part {
    pub fn new(range: Range<u64>) -> Arc<Part> {
        Part::in_stage(range, Stage::Waiting)
    }

    /// `filling` holds the ciphertext of the whole part.
    pub fn sealed(range: Range<u64>, buffer: Arc<Buffer>, filling: Filling) -> Arc<Part> {
        Part::in_stage(range, Stage::Sealed(buffer, filling))
    }

    /// `bytes` are those of the object: nothing is fetched.
    pub fn held(range: Range<u64>, bytes: Bytes) -> Arc<Part> {
        debug_assert_eq!(range.end - range.start, bytes.len() as u64);
        let part = Part::in_stage(range, Stage::Held(bytes));
        part.keep();
        part
    }

    fn in_stage(range: Range<u64>, stage: Stage) -> Arc<Part> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        assert!(range.start < range.end);
        Arc::new(Part {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            range,
            state: Mutex::new(State {
                stage,
                waiters: Vec::new(),
            }),
            served: AtomicU64::new(0),
            kept: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            crc: OnceLock::new(),
            task: OnceLock::new(),
        })
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// What can be said of `range` now. It is in bytes of the object and inside the part.
    pub fn answer(&self, range: &Range<u64>) -> Answer {
        self.answer_in(&self.lock(), range)
    }

    /// The bytes of `range`, or why not; never [`Answer::Later`].
    pub async fn wait(&self, range: &Range<u64>) -> Answer {
        let bytes = {
            let mut state = self.lock();
            match self.answer_in(&state, range) {
                Answer::Later => {}
                answer => return answer,
            }
            let (reader, bytes) = oneshot::channel();
            let range = self.local(range);
            state.waiters.push(Waiter { range, reader });
            bytes
        };
        match bytes.await {
            Ok(bytes) => Answer::Ready(bytes),
            // Before a waiter is dropped, the part has failed or was completed.
            Err(_) => match self.answer(range) {
                Answer::Later => Answer::Gone,
                answer => answer,
            },
        }
    }

    /// Those bytes if they are in memory, not counted as handed out.
    pub fn peek(&self, range: &Range<u64>) -> Option<Bytes> {
        match &self.lock().stage {
            Stage::Complete(buffer) => buffer.slice(self.local(range)),
            Stage::Held(bytes) => Some(bytes.slice(self.local(range))),
            _ => None,
        }
    }

    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Of a part that is not read yet.
    pub fn set_whole(&self) {
        self.whole.store(true, Ordering::Relaxed);
    }

    fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    pub fn set_crc(&self, crc: u64) {
        // It is filled once.
        let _ = self.crc.set(crc);
    }

    /// None if it did not come from the service, or is not in memory.
    pub fn crc(&self) -> Option<u64> {
        match &self.lock().stage {
            Stage::Complete(_) => self.crc.get().copied(),
            _ => None,
        }
    }

    fn answer_in(&self, state: &State, range: &Range<u64>) -> Answer {
        match &state.stage {
            Stage::Waiting => Answer::Later,
            Stage::Sealed(..) => Answer::Sealed,
            Stage::Filling(_) if self.is_whole() => Answer::Later,
            Stage::Filling(buffer) | Stage::Complete(buffer) => {
                match buffer.slice(self.local(range)) {
                    Some(bytes) => Answer::Ready(self.hand_out(bytes)),
                    None => Answer::Later,
                }
            }
            Stage::Held(bytes) => Answer::Ready(self.hand_out(bytes.slice(self.local(range)))),
            Stage::Failed(error) => Answer::Failed(error.clone()),
            Stage::Evicted => Answer::Gone,
        }
    }

    fn hand_out(&self, bytes: Bytes) -> Bytes {
        self.served.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }

    /// Memory has come: from now on the part has bytes.
    pub fn begin(&self, buffer: Arc<Buffer>) {
        self.lock().stage = Stage::Filling(buffer);
    }

    /// The ciphertext is here and not opened yet.
    pub fn is_sealed(&self) -> bool {
        matches!(self.lock().stage, Stage::Sealed(..))
    }

    /// Takes the ciphertext out of a sealed part; the caller that gets it fills the part.
    pub fn unseal(&self) -> Option<Filling> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.stage, Stage::Waiting) {
            Stage::Sealed(buffer, filling) => {
                state.stage = Stage::Filling(buffer);
                Some(filling)
            }
            other => {
                state.stage = other;
                None
            }
        }
    }

    /// Hands out the bytes that have come to those who wait for them.
    pub fn advanced(&self) {
        if self.is_whole() {
            return;
        }
        let mut state = self.lock();
        let State { stage, waiters } = &mut *state;
        if let (Stage::Filling(buffer), false) = (stage, waiters.is_empty()) {
            let filled = buffer.filled();
            for waiter in waiters.extract_if(.., |waiter| waiter.range.end <= filled) {
                if let Some(bytes) = buffer.slice(waiter.range)
                    && waiter.reader.send(bytes.clone()).is_ok()
                {
                    self.hand_out(bytes);
                }
            }
        }
    }

    pub fn complete(&self) {
        let mut state = self.lock();
        if let Stage::Filling(buffer) = &state.stage {
            debug_assert_eq!(buffer.filled() as u64, self.len());
            state.stage = Stage::Complete(buffer.clone());
        }
        state.waiters.clear();
    }

    pub fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.stage = Stage::Failed(error);
        state.waiters.clear();
    }

    /// Lets go of the bytes of a complete or sealed part; slices of it stay valid.
    /// Returns how many bytes that were.
    pub fn evict(&self) -> u64 {
        let mut state = self.lock();
        match &state.stage {
            Stage::Complete(_) | Stage::Held(_) | Stage::Sealed(..) => {
                let old = std::mem::replace(&mut state.stage, Stage::Evicted);
                drop(state);
                drop(old);
                self.len()
            }
            _ => 0,
        }
    }

    /// Neither bytes nor a task that brings them.
    pub fn is_over(&self) -> bool {
        matches!(self.lock().stage, Stage::Failed(_) | Stage::Evicted)
    }

    /// In bytes; 0 when nothing is on its way.
    pub fn missing(&self) -> u64 {
        match &self.lock().stage {
            Stage::Waiting => self.len(),
            Stage::Filling(buffer) => self.len() - buffer.filled() as u64,
            _ => 0,
        }
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub fn set_task(&self, task: AbortHandle) {
        // Only the one who made the part spawns its task.
        let _ = self.task.set(task);
    }

    pub fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    fn local(&self, range: &Range<u64>) -> Range<usize> {
        debug_assert!(self.range.start <= range.start && range.end <= self.range.end);
        // A part is at most a few MiB long.
        (range.start - self.range.start) as usize..(range.end - self.range.start) as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
