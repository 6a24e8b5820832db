//! What the whole file system keeps of its objects' contents, within the memory budget.
//!
//! Parts stand in four queues: *spent* ones, every byte of which has been handed out once (the
//! kernel has those pages; a few are kept for a reader close behind); *used* ones, read in part, the
//! least recently read first; *kept* ones, of small objects, of what was just written and of files that were
//! closed, which are likely to be opened again; and *unread* ones, fetched ahead. Fetching ahead may displace
//! the first three, never what was fetched ahead for others; a read that waits, and pressure, displace all.
//!
//! Parts belong to their contents and know nothing of the cache; it holds them weakly and takes their
//! bytes away. A content takes its parts out of the queues when it is dropped.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lru::LruCache;
use tokio::runtime::Handle;

use super::super::budget::{Class, MemoryBudget};
use super::super::read_ahead::{GRAIN, Limits, Sharers};
use super::buffer::{Buffer, Filling, Pool, Space};
use super::part::Part;
use crate::base::sync::lock;

/// The budget's share, as a divisor, that spent parts may keep.
const SPENT_SHARE: u64 = 32;

/// The budget's share, as a divisor, that kept parts may have.
const KEPT_SHARE: u64 = 2;

/// The budget's share, as a divisor, that idle parts of each length may keep.
const IDLE_SHARE: u64 = 16;

/// Idle grains kept: a random read takes one, and gives one back when it displaces another.
const IDLE_GRAINS: usize = 64;

/// One per file system.
pub struct ContentCache {
    budget: MemoryBudget,
    runtime: Handle,
    limits: Limits,
    sharers: Arc<Sharers>,
    /// How long a read waits for memory.
    timeout: Duration,
    pool: Arc<Pool>,
    /// Guards the queues; nothing else is locked while it is held, and no part is evicted.
    queues: Mutex<Queues>,
    /// Held by the one thread at a time that unwraps a key where it answers the kernel.
    opening: Mutex<()>,
}

/// By part id. A part stands in at most one.
struct Queues {
    /// With the parts' lengths, whose sum `spent_bytes` is.
    spent: LruCache<u64, (Weak<Part>, u64)>,
    spent_bytes: u64,
    used: LruCache<u64, Weak<Part>>,
    /// As `spent`.
    kept: LruCache<u64, (Weak<Part>, u64)>,
    kept_bytes: u64,
    unread: LruCache<u64, Weak<Part>>,
}

/// How many bytes the queues have at most that have such a limit.
#[derive(Clone, Copy)]
struct Most {
    spent: u64,
    kept: u64,
}

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A read waits for it.
    Read,
    /// It may be read one day.
    Ahead,
}

impl ContentCache {
    /// Fetches run on `runtime`; a read waits at most `timeout` for memory.
    pub fn new(budget: MemoryBudget, runtime: Handle, timeout: Duration) -> Arc<ContentCache> {
        let limits = Limits::for_memory(budget.limit());
        let half_part = limits.part / 2;
        let idle = |len: u64| ((budget.limit() / IDLE_SHARE / len).clamp(1, 8)) as usize;
        Arc::new(ContentCache {
            runtime,
            limits,
            sharers: Arc::default(),
            timeout,
            pool: Pool::new([
                (GRAIN as usize, IDLE_GRAINS),
                (half_part as usize, idle(half_part)),
                (limits.part as usize, idle(limits.part)),
            ]),
            queues: Mutex::new(Queues {
                spent: LruCache::unbounded(),
                spent_bytes: 0,
                used: LruCache::unbounded(),
                kept: LruCache::unbounded(),
                kept_bytes: 0,
                unread: LruCache::unbounded(),
            }),
            opening: Mutex::default(),
            budget,
        })
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Those who read ahead at the same time.
    pub fn sharers(&self) -> &Arc<Sharers> {
        &self.sharers
    }

    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Leave to unwrap a key on the calling thread, unless another does.
    pub fn turn_to_open(&self) -> Option<MutexGuard<'_, ()>> {
        self.opening.try_lock().ok()
    }

    /// Drops cached bytes, those least worth keeping first, until `bytes` have been given back to the
    /// budget or nothing is left. Returns how many were; slices still held are given back later.
    pub fn evict(&self, bytes: u64) -> u64 {
        let idle = self.pool.release(bytes);
        let dropped = self.displace(bytes.saturating_sub(idle), Purpose::Read);
        // What was displaced went to the pool.
        self.pool.release(dropped);
        idle + dropped
    }

    /// Memory for `len` bytes, not 0, if there is some or it can be made at once.
    pub fn space(&self, len: u64, purpose: Purpose) -> Option<Space> {
        if let Some(space) = self.pool.take(len as usize) {
            return Some(space);
        }
        // What is cached stays below what fetching ahead may use, or one day nothing more would be
        // fetched ahead.
        let excess = (self.budget.used() + len).saturating_sub(self.comfortable());
        if excess == 0
            && let Some(space) = self.new_space(len, purpose)
        {
            return Some(space);
        }
        // Above that a read takes the place of as much as it needs; fetching ahead must make room down
        // to the limit it has.
        let bytes = match purpose {
            Purpose::Read => len,
            Purpose::Ahead => excess.max(len),
        };
        if let Some(space) = self.space_by_displacing(len, purpose, bytes, Purpose::Ahead) {
            return Some(space);
        }
        match purpose {
            Purpose::Read => self.space_by_displacing(len, purpose, len, Purpose::Read),
            Purpose::Ahead => None,
        }
    }

    /// Displaces `bytes` of what may be displaced for `whom`, then tries again.
    fn space_by_displacing(
        &self,
        len: u64,
        purpose: Purpose,
        bytes: u64,
        whom: Purpose,
    ) -> Option<Space> {
        self.displace(bytes, whom);
        if let Some(space) = self.pool.take(len as usize) {
            return Some(space);
        }
        self.pool.release(bytes);
        self.new_space(len, purpose)
    }

    /// Memory for `len` bytes, not 0, waiting for it; `None` if it does not come in time. A read that
    /// waits gives its memory back soon, so it may use what is kept for such.
    pub async fn space_in_time(&self, len: u64) -> Option<Space> {
        if let Some(space) = self.space(len, Purpose::Read) {
            return Some(space);
        }
        let reservation = self.budget.reserve_for(Class::Drain, len);
        let reservation = tokio::time::timeout(self.timeout, reservation).await.ok()?;
        Space::new(len as usize, reservation).ok()
    }

    fn new_space(&self, len: u64, purpose: Purpose) -> Option<Space> {
        let class = match purpose {
            Purpose::Read => Class::Normal,
            Purpose::Ahead => Class::Prefetch,
        };
        Space::new(len as usize, self.budget.try_reserve_for(class, len)?).ok()
    }

    pub fn buffer(&self, space: Space) -> (Arc<Buffer>, Filling) {
        Buffer::new(space, self.pool.clone())
    }

    /// A part is complete, or sealed: from now on it can be displaced.
    pub fn insert(&self, part: &Arc<Part>) {
        let mut queues = self.lock();
        queues.remove(part.id);
        let over = queues.put(part, self.most());
        drop(queues);
        evict_all(over);
    }

    /// Their content is not open: they stay until memory is wanted.
    pub fn keep<'a>(&self, parts: impl Iterator<Item = &'a Arc<Part>>) {
        let mut over = Vec::new();
        let mut queues = self.lock();
        for part in parts {
            part.keep();
            if queues.remove(part.id) {
                over.extend(queues.put(part, self.most()));
            }
        }
        drop(queues);
        evict_all(over);
    }

    /// Whether memory that is in use already may go on to be used by kept parts: what is cached stays below what
    /// fetching ahead may use.
    pub fn may_keep(&self) -> bool {
        let excess = || self.budget.used().saturating_sub(self.comfortable());
        if excess() > 0 {
            let bytes = excess();
            self.displace(bytes, Purpose::Ahead);
            self.pool.release(bytes);
        }
        excess() == 0
    }

    /// Bytes of the part have been handed out.
    pub fn touched(&self, part: &Arc<Part>) {
        let mut queues = self.lock();
        if queues.spent.contains(&part.id) || !queues.remove(part.id) {
            // Spent, or not complete yet.
            return;
        }
        let over = queues.put(part, self.most());
        drop(queues);
        evict_all(over);
    }

    /// They are leaving their content.
    pub fn forget<'a>(&self, parts: impl Iterator<Item = &'a Arc<Part>>) {
        let mut queues = self.lock();
        for part in parts {
            queues.remove(part.id);
        }
    }

    fn most(&self) -> Most {
        Most {
            spent: self.budget.limit() / SPENT_SHARE,
            kept: self.budget.limit() / KEPT_SHARE,
        }
    }

    /// So much may be in use when something is cached.
    fn comfortable(&self) -> u64 {
        self.budget.limit() / 4 * 3
    }

    fn displace(&self, bytes: u64, purpose: Purpose) -> u64 {
        let mut displaced = 0;
        while displaced < bytes {
            let Some(part) = self.lock().pop(purpose) else {
                break;
            };
            displaced += evict(&part);
        }
        displaced
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }
}

impl Queues {
    /// Returns parts that are too many.
    fn put(&mut self, part: &Arc<Part>, most: Most) -> Vec<Weak<Part>> {
        let weak = Arc::downgrade(part);
        let served = part.served();
        if part.is_kept() {
            self.kept.put(part.id, (weak, part.len()));
            self.kept_bytes += part.len();
        } else if served == 0 {
            self.unread.put(part.id, weak);
        } else if served < part.len() {
            self.used.put(part.id, weak);
        } else {
            self.spent.put(part.id, (weak, part.len()));
            self.spent_bytes += part.len();
        }
        let mut over = Vec::new();
        while self.spent_bytes > most.spent {
            over.extend(self.pop_spent());
        }
        while self.kept_bytes > most.kept {
            over.extend(self.pop_kept());
        }
        over
    }

    /// False if it was in none.
    fn remove(&mut self, id: u64) -> bool {
        if let Some((_, len)) = self.spent.pop(&id) {
            self.spent_bytes -= len;
            return true;
        }
        if let Some((_, len)) = self.kept.pop(&id) {
            self.kept_bytes -= len;
            return true;
        }
        self.used.pop(&id).is_some() || self.unread.pop(&id).is_some()
    }

    fn pop_kept(&mut self) -> Option<Weak<Part>> {
        let (_, (part, len)) = self.kept.pop_lru()?;
        self.kept_bytes -= len;
        Some(part)
    }

    fn pop_spent(&mut self) -> Option<Weak<Part>> {
        let (_, (part, len)) = self.spent.pop_lru()?;
        self.spent_bytes -= len;
        Some(part)
    }

    fn pop(&mut self, purpose: Purpose) -> Option<Weak<Part>> {
        if let Some(part) = self.pop_spent() {
            return Some(part);
        }
        if let Some((_, part)) = self.used.pop_lru() {
            return Some(part);
        }
        if let Some(part) = self.pop_kept() {
            return Some(part);
        }
        match purpose {
            Purpose::Read => self.unread.pop_lru().map(|(_, part)| part),
            Purpose::Ahead => None,
        }
    }
}

fn evict_all(parts: Vec<Weak<Part>>) {
    for part in parts {
        evict(&part);
    }
}

fn evict(part: &Weak<Part>) -> u64 {
    part.upgrade().map_or(0, |part| part.evict())
}
