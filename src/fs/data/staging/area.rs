//! What all staged files share: memory from the budget, the spill file, and the way between.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use super::block::{Block, Spilled};
use super::buffer::{Buffer, Pool};
use super::error::Error;
use super::spill_file::{BlockName, SpillFile, Stored};
use crate::base::sync::lock;
use crate::fs::data::budget::{Class, MemoryBudget, Reservation};

/// The unit of memory, sharing and spilling, in bytes. Larger ones waste memory on scattered
/// writes; smaller ones cost more bookkeeping for each megabyte of a long file.
pub const BLOCK: usize = 1 << 20;

/// Spills at once at most: one seals while the other waits for the disk.
const SPILLS: usize = 2;
/// Of the memory that staged bytes may have, what is reserved for sealing takes at most one part in so many,
/// or a single block: a write that crosses from one block to the next needs both at once.
const SEALING_SHARE: u64 = 8;
/// How many blocks are spilled before it is asked again whether that is enough.
const STRIP: u64 = 8;
/// How long a write that waits for memory leaves it to the spiller, and to owners of memory that is
/// free for the asking (caches), before it spills by itself.
const OTHERS_FIRST: Duration = Duration::from_millis(2);
/// When nothing could be spilled: uploads and reads that hold the memory may be about to end.
const SPILL_AGAIN: Duration = Duration::from_millis(20);
/// With no room on disk, how long a write hopes for memory before it fails.
const NO_SPACE_GRACE: Duration = Duration::from_millis(500);
/// How long the spiller rests when the disk is full or fails.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The list of blocks is searched for dead ones when it has grown by this many.
const DEAD_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The cache directory; made with mode 0700 if it is not there.
    pub directory: PathBuf,
    /// Bytes of disk at most.
    pub limit: u64,
    /// Bytes that stay free on that disk.
    pub free_reserve: u64,
    /// How long a write or read waits for memory at most.
    pub timeout: Duration,
    /// [`BLOCK`], or less in tests; at least 1.
    pub block: usize,
    /// Memory that held staged bytes is wiped before it is freed or used again.
    pub wipes: bool,
}

impl Settings {
    pub fn new(directory: impl Into<PathBuf>, limit: u64, timeout: Duration) -> Settings {
        Settings {
            directory: directory.into(),
            limit,
            // Enough for others on that disk to notice that it is nearly full.
            free_reserve: 64 << 20,
            timeout,
            block: BLOCK,
            wipes: false,
        }
    }
}

pub struct StagingArea {
    pub(super) block: usize,
    pub(super) budget: MemoryBudget,
    pub(super) pool: Arc<Pool>,
    file: Arc<SpillFile>,
    timeout: Duration,
    /// Blocks in memory, oldest first; also some that have been spilled or dropped since. A leaf.
    queue: Mutex<Queue>,
    /// For sealing, a block each; their memory is reserved for good, so that spilling always can go on. One
    /// for each permit of the gate: taken out by the spill that runs, on a blocking thread.
    scratches: Mutex<Vec<Vec<u8>>>,
    _reserved: Option<Reservation>,
    /// [`SPILLS`] permits, or fewer where memory is small; other spills wait without a thread.
    gate: Arc<Semaphore>,
    /// Told when the spiller should have a look.
    wake: Arc<Notify>,
    next_file: AtomicU64,
    next_generation: AtomicU64,
}

#[derive(Default)]
struct Queue {
    blocks: VecDeque<Weak<Block>>,
    /// Those whose bytes have gone up already: they are not wanted again, unless the upload is abandoned.
    sent: VecDeque<Weak<Block>>,
    /// How many were left when dead ones were last thrown out.
    alive: usize,
}

impl StagingArea {
    /// # Errors
    /// [`Error::Io`] when the directory or the file in it cannot be made.
    pub fn open(settings: Settings, budget: MemoryBudget) -> Result<Arc<StagingArea>, Error> {
        let wake = Arc::<Notify>::default();
        let file = SpillFile::open(
            &settings.directory,
            settings.block,
            settings.limit,
            settings.free_reserve,
            wake.clone(),
        )?;
        if file.on_tmpfs() {
            log::warn!(
                "the cache directory {} is on tmpfs: what is staged there takes memory beyond --memory-limit; choose one on a disk with --cache-dir",
                settings.directory.display()
            );
        }
        let share = budget.allowance(Class::Normal) / SEALING_SHARE;
        let spills = (share as usize / settings.block).clamp(1, SPILLS);
        Ok(Arc::new(StagingArea {
            block: settings.block,
            pool: Pool::new(&budget, settings.block, settings.wipes),
            timeout: settings.timeout,
            queue: Mutex::default(),
            scratches: Mutex::new(vec![Vec::new(); spills]),
            _reserved: budget.try_reserve((spills * settings.block) as u64),
            file: Arc::new(file),
            budget,
            gate: Arc::new(Semaphore::new(spills)),
            wake,
            next_file: AtomicU64::new(0),
            next_generation: AtomicU64::new(0),
        }))
    }

    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Whether what is spilled is memory all the same.
    pub fn on_tmpfs(&self) -> bool {
        self.file.on_tmpfs()
    }

    /// Bytes of disk in use.
    pub fn disk_used(&self) -> u64 {
        self.file.used()
    }

    /// Moves blocks to disk, those first that have gone up, and then the oldest, until `at_least` bytes of memory are free again or
    /// there is no more to move; returns how many bytes that were.
    ///
    /// # Errors
    /// When nothing could be moved: [`Error::NoSpace`], [`Error::Io`].
    pub async fn spill(self: &Arc<Self>, at_least: u64) -> Result<u64, Error> {
        self.spill_blocks(None, at_least).await
    }

    /// Spills from `blocks`, or from the queue. Goes on to the end when the future is dropped.
    pub(super) async fn spill_blocks(
        self: &Arc<Self>,
        blocks: Option<Vec<Weak<Block>>>,
        at_least: u64,
    ) -> Result<u64, Error> {
        let Ok(permit) = self.gate.clone().acquire_owned().await else {
            return Ok(0);
        };
        let area = self.clone();
        blocking(move || {
            let _permit = permit;
            match blocks {
                Some(blocks) => {
                    let mut blocks = blocks.into_iter();
                    area.spill_each(|| blocks.next(), at_least)
                }
                None => {
                    // Those that are busy go to the end and are not met again.
                    let mut left = area.queue().blocks.len();
                    let next = || {
                        let mut queue = area.queue();
                        queue.sent.pop_front().or_else(|| {
                            left = left.checked_sub(1)?;
                            queue.blocks.pop_front()
                        })
                    };
                    area.spill_each(next, at_least)
                }
            }
        })
        .await
    }

    fn spill_each(
        &self,
        next: impl FnMut() -> Option<Weak<Block>>,
        at_least: u64,
    ) -> Result<u64, Error> {
        let taken = self.scratches().pop();
        let mut scratch = taken.unwrap_or_default();
        scratch.resize(self.file.scratch_len(), 0);
        let result = self.spill_with(&mut scratch, next, at_least);
        self.scratches().push(scratch);
        result
    }

    fn spill_with(
        &self,
        scratch: &mut [u8],
        mut next: impl FnMut() -> Option<Weak<Block>>,
        at_least: u64,
    ) -> Result<u64, Error> {
        let mut freed = 0;
        while freed < at_least {
            let Some(candidate) = next() else { break };
            let Some(block) = candidate.upgrade() else {
                continue;
            };
            match block.spill(&self.file, scratch) {
                Ok(Spilled::Freed(bytes)) => freed += bytes,
                Ok(Spilled::Before) => {}
                Ok(Spilled::Busy) => self.queue().blocks.push_back(candidate),
                Err(error) => {
                    self.queue().blocks.push_front(candidate);
                    return if freed > 0 { Ok(freed) } else { Err(error) };
                }
            }
        }
        log::trace!("{freed} bytes are spilled");
        Ok(freed)
    }

    pub(super) fn new_file_id(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes a block of a filled buffer; it may be spilled from now on.
    pub(super) fn adopt(&self, file: u64, index: u64, buffer: Buffer) -> Arc<Block> {
        let name = BlockName {
            file,
            index,
            generation: self.next_generation.fetch_add(1, Ordering::Relaxed),
        };
        let block = Block::new(name, buffer);
        let mut queue = self.queue();
        if queue.blocks.len() > 2 * queue.alive + DEAD_MAX {
            queue.blocks.retain(|block| block.strong_count() > 0);
            queue.alive = queue.blocks.len();
        }
        queue.blocks.push_back(Arc::downgrade(&block));
        block
    }

    /// These have gone up.
    pub(super) fn sent<'a>(&self, blocks: impl Iterator<Item = &'a Arc<Block>>) {
        self.queue().sent.extend(blocks.map(Arc::downgrade));
    }

    /// Memory for staged bytes, if there is some without waiting.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Reservation> {
        self.budget.try_reserve(bytes)
    }

    /// Memory for staged bytes: spills when it has to wait.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the disk has no room either, [`Error::TimedOut`], [`Error::Io`].
    pub(super) async fn take(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Error> {
        if let Some(reservation) = self.try_take(bytes) {
            return Ok(reservation);
        }
        let mut reserve = pin!(self.budget.reserve(bytes));
        let at_least = bytes.max(STRIP * self.block as u64);
        let make_room = async {
            // Polled after `reserve`, which by then stands in the queue.
            loop {
                tokio::time::sleep(OTHERS_FIRST).await;
                match self.spill(at_least).await {
                    Ok(0) => tokio::time::sleep(SPILL_AGAIN).await,
                    Ok(_) => {}
                    Err(error) => {
                        tokio::time::sleep(NO_SPACE_GRACE).await;
                        return error;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            reservation = &mut reserve => Ok(reservation),
            error = make_room => Err(error),
            () = tokio::time::sleep(self.timeout) => Err(Error::TimedOut),
        }
    }

    /// Spilled bytes are read in chunks of this at most, and where they end at multiples of it: two
    /// leaves.
    pub(super) fn chunk(&self) -> usize {
        2 * self.file.leaf()
    }

    /// Reads `range` of a spilled block. The memory is of the kept slice: the caller is about to
    /// answer a read or to send it, and gives it back after that.
    pub(super) async fn load(
        &self,
        stored: Arc<Stored>,
        range: Range<usize>,
    ) -> Result<Bytes, Error> {
        let reserve = self
            .budget
            .reserve_for(Class::Drain, (range.len() + self.file.leaf()) as u64);
        let mut reservation = tokio::time::timeout(self.timeout, reserve)
            .await
            .map_err(|_| Error::TimedOut)?;
        blocking(move || {
            let len = range.len();
            let mut bytes = vec![0; len];
            stored.read(range, &mut bytes)?;
            reservation.shrink_to(len as u64);
            Ok(Bytes::from_owner(Loaded {
                bytes,
                _reservation: reservation,
            }))
        })
        .await
    }

    /// Called after memory was taken: wakes the spiller before a write has to wait for it.
    pub(super) fn mind_the_level(&self) {
        if self.excess() > 0 {
            self.wake.notify_one();
        }
    }

    /// How much should be spilled, in bytes: a strip when memory is nearly full.
    fn excess(&self) -> u64 {
        let strip = STRIP * self.block as u64;
        match self.budget.wanted() {
            0 if self.budget.is_tight() => strip,
            0 => 0,
            wanted => wanted,
        }
    }

    fn scratches(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        lock(&self.scratches)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    #[cfg(test)]
    pub(super) fn spill_file(&self) -> &SpillFile {
        &self.file
    }
}

impl Drop for StagingArea {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

struct Loaded {
    bytes: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Loaded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs `work` where blocking on the disk is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io(Arc::new(std::io::Error::other(error)))),
    }
}

/// Spills when memory is short or nearly so, and returns the disk's room of what was dropped. To be
/// spawned once for each area; ends when the area is dropped. Writes that need room spill by
/// themselves too, but later.
pub async fn run_spiller(area: Arc<StagingArea>) {
    let mut pressure = area.budget.pressure();
    let wake = area.wake.clone();
    let area = {
        let weak = Arc::downgrade(&area);
        drop(area);
        weak
    };
    loop {
        tokio::select! {
            // Caches were woken together with us, and dropping blocks takes them no time: they first.
            () = pressure.wait() => tokio::task::yield_now().await,
            () = wake.notified() => {}
        }
        let Some(area) = area.upgrade() else { return };
        // While memory is short, what was dropped is used again as it is.
        if area.file.has_dropped() && !area.budget.is_tight() {
            let file = area.file.clone();
            // Cannot fail; what cannot be punched is used again as it is.
            let _ = blocking(move || Ok(file.punch_dropped())).await;
        }
        loop {
            let excess = area.excess();
            if excess == 0 {
                break;
            }
            let strip = excess.min(STRIP * area.block as u64);
            let half = strip.div_ceil(SPILLS as u64);
            match tokio::join!(area.spill(half), area.spill(strip - half)) {
                (Ok(0), Ok(0)) => break,
                (Ok(_), Ok(_)) => {}
                (Err(error), _) | (_, Err(error)) => {
                    log::warn!("cannot move staged bytes to the cache directory: {error}");
                    tokio::time::sleep(AFTER_FAILURE).await;
                    break;
                }
            }
        }
    }
}
