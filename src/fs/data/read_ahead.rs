//! What to fetch when a range is read: a pure policy, one per open handle.
//!
//! A handle is read in a few *runs*, each a stretch of reads in order. At the beginning of the object a window
//! opens in front of it at once, that grows with what the run has consumed, up to as many parallel parts as keep a
//! link full. After a seek a run begins with what is asked for and little more, for it may be a member of an
//! archive, and the kernel reads ahead as well: the window opens when the run has gone on for `SEEK`.
//! Random reads never prove a run, so each costs its own grains.
//!
//! What makes it hard, and where it is answered:
//! - the kernel's own read-ahead keeps several reads in flight and session threads reorder them:
//!   a run takes reads a little before and after its edge (`SLACK`), and a gap counts against the
//!   run until the reads that fill it have come (`Run::take`);
//! - large requests are cheap, early requests are quick: the frontier moves in steps that grow with
//!   the window ([`ReadAhead::plan`]);
//! - memory may be short: a refusal moves the frontier back and halves the window, consumption opens
//!   it again ([`ReadAhead::refused`]);
//! - several handles that are read at once keep the link full together: the window is divided among
//!   them ([`Sharers`]). What more would be fetched is memory the mount has to have at once, and fresh
//!   memory costs more than all else that a byte goes through.
//!
//! What always holds: a plan lies inside the object, covers the read, begins and ends at multiples of
//! [`GRAIN`] (or at the object's end), ahead of it of [`BLOCK`], and nothing ahead of a run is planned twice. Whether something
//! planned is in memory already is not known here.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::base::sync::lock;

/// The unit of fetching and caching, in bytes, where reads are in order.
pub const BLOCK: u64 = 128 << 10;

/// The same after a seek: a quarter of what the kernel reads ahead at most.
pub const GRAIN: u64 = 32 << 10;

/// How far a run goes on after a seek before anything is fetched ahead of it, in bytes: a picture in an archive,
/// and what the kernel reads ahead of it.
const SEEK: u64 = 1 << 20;

/// An object of which at least this share, as a divisor, would be whole blocks around the places that were read is
/// read all over, like a small database: then whole blocks are the better bargain.
const DENSE: u64 = 4;

/// How far from its edge, in bytes, a run still takes a read: more than two session threads can put
/// four reads of the kernel's largest size (1 MiB) out of order by.
const SLACK: u64 = 4 << 20;

/// The window is this many times what its run has consumed: at one round trip per window, an object
/// is read at full speed after three.
const GROWTH: u64 = 4;

/// Parts in a full window: enough requests in flight that one's end does not drain the link.
const PARTS_AHEAD: u64 = 4;

/// Windows are not cut into requests smaller than this, in bytes: at a gigabit a second, 8 ms.
const SMALLEST_SPLIT: u64 = 1 << 20;

/// An object up to this size, in bytes, is fetched whole when its beginning is read: one request.
pub const WHOLE: u64 = 512 << 10;

/// Runs remembered per handle: a player reads two (sound and picture), a linker a few.
const RUNS: usize = 4;

/// A handle shares in the window if one of the last so many plans was its own.
const RECENT: usize = 16;

/// The settings of the policy, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far a run is fetched ahead at most, when no other handle is read.
    pub window: u64,
    /// The largest request: a power of two, [`BLOCK`] to `window`.
    pub part: u64,
}

impl Limits {
    /// For a memory budget of `limit` bytes: a quarter of it per run, at most 64 MiB (3.2 GB/s at a
    /// round trip of 20 ms), in requests of at most 8 MiB.
    pub fn for_memory(limit: u64) -> Limits {
        let window = (limit / 4).clamp(BLOCK * PARTS_AHEAD, 64 << 20);
        Limits {
            window,
            part: step(window / PARTS_AHEAD).min(8 << 20),
        }
    }
}

/// What a read asks for. Both ranges are in bytes of the object; either may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The grains or blocks of the read itself.
    pub demand: Range<u64>,
    /// What is wanted soon: begins at or after `demand`'s end.
    pub ahead: Range<u64>,
    /// How to cut both into requests: at multiples of this.
    pub split: u64,
}

impl Plan {
    /// The grains of `range`, which lies inside an object of `size` bytes, and nothing ahead.
    pub fn only(range: Range<u64>, size: u64) -> Plan {
        let demand = floor(range.start, GRAIN)..ceiling(range.end, GRAIN).min(size);
        Plan {
            ahead: demand.end..demand.end,
            demand,
            split: SMALLEST_SPLIT,
        }
    }
}

/// The handles of a file system whose windows are open. One that is no longer read is out of it as soon as
/// others have been, a few times.
#[derive(Debug, Default)]
pub struct Sharers {
    /// The readers that planned last, the latest at the end. A leaf.
    recent: Mutex<VecDeque<u64>>,
    next: AtomicU64,
}

impl Sharers {
    /// Takes note of one and says how many there are now, at least 1.
    fn count_with(&self, handle: u64) -> u64 {
        let mut recent = lock(&self.recent);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(handle);
        let others = |at: &usize| !recent.range(..at).any(|seen| *seen == recent[*at]);
        (0..recent.len()).filter(others).count() as u64
    }
}

#[derive(Debug)]
pub struct ReadAhead {
    limits: Limits,
    sharers: Arc<Sharers>,
    /// Among the sharers.
    handle: u64,
    /// The most recently used one last.
    runs: Vec<Run>,
    /// How many runs have begun.
    places: u64,
}

/// A stretch of reads in order.
#[derive(Debug)]
struct Run {
    /// The end of the furthest read.
    high: u64,
    /// Everything below, from `high` on, has been planned.
    frontier: u64,
    /// Bytes read in order, less the gaps jumped over.
    consumed: u64,
    /// The window's limit since memory was refused.
    cap: u64,
    /// It began at the object's beginning.
    from_start: bool,
    /// A second read came, or the first was at the object's beginning.
    proven: bool,
}

impl Run {
    fn begin(at: u64, limits: Limits) -> Run {
        Run {
            high: at,
            frontier: at,
            consumed: 0,
            cap: limits.window,
            from_start: at == 0,
            proven: at == 0,
        }
    }

    fn is_near(&self, offset: u64) -> bool {
        offset.saturating_add(SLACK) >= self.high
            && (offset <= self.high.saturating_add(SLACK) || offset < self.frontier)
    }

    /// A read that jumps takes away what it jumped over; reads that come late give it back.
    fn take(&mut self, offset: u64, end: u64, limits: Limits) {
        let gap = offset.saturating_sub(self.high);
        self.consumed = (self.consumed + (end - offset)).saturating_sub(gap);
        if end > self.high {
            self.cap = (self.cap + (end - self.high)).min(limits.window);
            self.high = end;
        }
    }

    fn window(&self) -> u64 {
        let window = match self.from_start {
            true => self.consumed.saturating_mul(GROWTH),
            // Never more than twice what was read is fetched.
            false => self.consumed.saturating_sub(SEEK),
        };
        match self.proven {
            true => window.min(self.cap),
            false => 0,
        }
    }

    /// What its reads are rounded to.
    fn unit(&self) -> u64 {
        match self.from_start || self.consumed > SEEK {
            true => BLOCK,
            false => GRAIN,
        }
    }
}

impl ReadAhead {
    pub fn new(limits: Limits, sharers: &Arc<Sharers>) -> ReadAhead {
        assert!(limits.part.is_power_of_two() && limits.part >= BLOCK);
        assert!(limits.window >= limits.part);
        ReadAhead {
            limits,
            handle: sharers.next.fetch_add(1, Ordering::Relaxed),
            sharers: sharers.clone(),
            runs: Vec::with_capacity(RUNS),
            places: 0,
        }
    }

    /// Takes note of a read of `len` bytes at `offset` of an object of `size` bytes and says what it
    /// wants fetched. To be called once per read. A read outside the object wants nothing.
    pub fn plan(&mut self, offset: u64, len: u64, size: u64) -> Plan {
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Plan {
                demand: 0..0,
                ahead: 0..0,
                split: self.limits.part,
            };
        }
        let limits = self.limits;
        let dense = self.places.saturating_mul(BLOCK) >= size / DENSE;
        let run = self.run_for(offset);
        run.take(offset, end, limits);
        let unit = if dense { BLOCK } else { run.unit() };
        let demand = floor(offset, unit)..ceiling(end, unit).min(size);

        let wanted = run.window();
        let window = self.share(wanted);
        let run = self.runs.last_mut().expect("it was made the last one");
        let grain = step(window / PARTS_AHEAD).min(limits.part);
        let target = run.high.saturating_add(window);
        let to = if target >= size || (offset == 0 && size <= WHOLE) {
            size
        } else {
            // In whole steps, or every read would move the frontier by its own small length.
            floor(target, grain)
        };
        let from = run
            .frontier
            .max(ceiling(run.high, BLOCK))
            .max(demand.end)
            .min(size);
        run.frontier = from.max(to);
        run.proven = true;

        let plan = Plan {
            demand,
            ahead: from..from.max(to),
            split: grain.max(SMALLEST_SPLIT.min(limits.part)),
        };
        debug_assert!(plan.demand.start <= offset && end <= plan.demand.end);
        debug_assert!(plan.demand.end <= plan.ahead.start && plan.ahead.end <= size);
        plan
    }

    /// There was no memory for what is planned from `at` on: it is planned anew by later reads, in a
    /// window half as large that grows again with what is consumed.
    pub fn refused(&mut self, at: u64) {
        let part = self.limits.part;
        for run in &mut self.runs {
            if run.high <= at && at < run.frontier {
                run.cap = (run.window() / 2).max(part);
                run.frontier = at;
            }
        }
    }

    /// A part is everybody's; what is more is shared.
    fn share(&self, window: u64) -> u64 {
        if window <= self.limits.part {
            return window;
        }
        let share = self.limits.window / self.sharers.count_with(self.handle);
        window.min(share.max(self.limits.part))
    }

    /// The run this read belongs to, made the most recently used one; a new run if there is none.
    fn run_for(&mut self, offset: u64) -> &mut Run {
        let run = match self.runs.iter().rposition(|run| run.is_near(offset)) {
            Some(index) => self.runs.remove(index),
            None => {
                if self.runs.len() == RUNS {
                    self.runs.remove(0);
                }
                self.places += 1;
                Run::begin(offset, self.limits)
            }
        };
        self.runs.push(run);
        self.runs.last_mut().expect("one was pushed")
    }
}

fn floor(offset: u64, unit: u64) -> u64 {
    offset - offset % unit
}

fn ceiling(offset: u64, unit: u64) -> u64 {
    offset.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

/// The largest power of two up to `bytes`, but at least a block.
fn step(bytes: u64) -> u64 {
    1 << bytes.max(BLOCK).ilog2()
}

#[cfg(test)]
mod tests;
