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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    const LIMITS: Limits = Limits {
        window: 64 * MIB,
        part: 8 * MIB,
    };

    fn alone(limits: Limits) -> ReadAhead {
        ReadAhead::new(limits, &Arc::default())
    }

    #[test]
    fn the_window_is_a_share_of_the_memory() {
        for (memory, window, part) in [
            (512 * MIB, 64 * MIB, 8 * MIB),
            (4 * GIB, 64 * MIB, 8 * MIB),
            (128 * MIB, 32 * MIB, 8 * MIB),
            (100 * MIB, 25 * MIB, 4 * MIB),
            (64 * MIB, 16 * MIB, 4 * MIB),
            (0, 512 * KIB, 128 * KIB),
        ] {
            let limits = Limits::for_memory(memory);
            assert_eq!(limits, Limits { window, part }, "{memory}");
            alone(limits);
        }
    }

    #[test]
    fn each_read_is_planned_as_it_fits_what_came_before() {
        // (what it shows, object size, reads (offset, len) before, the read, demand, ahead)
        type Case = (
            &'static str,
            u64,
            &'static [(u64, u64)],
            (u64, u64),
            (u64, u64),
            (u64, u64),
        );
        const CASES: &[Case] = &[
            (
                "an empty object wants nothing",
                0,
                &[],
                (0, 4096),
                (0, 0),
                (0, 0),
            ),
            (
                "beyond the end wants nothing",
                10,
                &[],
                (10, 1),
                (0, 0),
                (0, 0),
            ),
            (
                "a small object is one request",
                300 * KIB,
                &[],
                (0, 4096),
                (0, 128 * KIB),
                (128 * KIB, 300 * KIB),
            ),
            (
                "the beginning is fetched a little ahead",
                GIB,
                &[],
                (0, 128 * KIB),
                (0, 128 * KIB),
                (128 * KIB, 640 * KIB),
            ),
            (
                "a tiny read at the beginning costs a block",
                GIB,
                &[],
                (0, 4096),
                (0, 128 * KIB),
                (128 * KIB, 128 * KIB),
            ),
            (
                "a random read costs its grain",
                GIB,
                &[],
                (777 * MIB + 5, 4096),
                (777 * MIB, 777 * MIB + 32 * KIB),
                (777 * MIB + 128 * KIB, 777 * MIB + 128 * KIB),
            ),
            (
                "across two grains costs two",
                GIB,
                &[],
                (777 * MIB - 5, 10),
                (777 * MIB - 32 * KIB, 777 * MIB + 32 * KIB),
                (777 * MIB + 128 * KIB, 777 * MIB + 128 * KIB),
            ),
            (
                "a read that follows a seek fetches nothing ahead at first",
                GIB,
                &[(100 * MIB, 128 * KIB), (100 * MIB + 128 * KIB, 256 * KIB)],
                (100 * MIB + 384 * KIB, 100 * KIB),
                (100 * MIB + 384 * KIB, 100 * MIB + 512 * KIB),
                (100 * MIB + 512 * KIB, 100 * MIB + 512 * KIB),
            ),
            (
                "the second read in order opens the window",
                GIB,
                &[(100 * MIB, MIB)],
                (101 * MIB, MIB),
                (101 * MIB, 102 * MIB),
                (102 * MIB, 103 * MIB),
            ),
            (
                "the window stays inside the object",
                102 * MIB + 512 * KIB,
                &[(100 * MIB, MIB)],
                (101 * MIB, MIB),
                (101 * MIB, 102 * MIB),
                (102 * MIB, 102 * MIB + 512 * KIB),
            ),
            (
                "what is planned is not planned again",
                GIB,
                &[(100 * MIB, MIB), (101 * MIB, MIB)],
                (101 * MIB, MIB),
                (101 * MIB, 102 * MIB),
                (103 * MIB, 104 * MIB),
            ),
            (
                "a seek away is random again",
                GIB,
                &[(0, MIB), (MIB, MIB), (2 * MIB, MIB)],
                (500 * MIB, MIB),
                (500 * MIB, 501 * MIB),
                (501 * MIB, 501 * MIB),
            ),
            (
                "the tail of an object costs its grains",
                100 * MIB + 7,
                &[],
                (100 * MIB - KIB, 64 * KIB),
                (100 * MIB - 32 * KIB, 100 * MIB + 7),
                (100 * MIB + 7, 100 * MIB + 7),
            ),
            (
                "offsets that overflow are outside",
                GIB,
                &[],
                (u64::MAX, u64::MAX),
                (0, 0),
                (0, 0),
            ),
        ];
        for (name, size, before, read, demand, ahead) in CASES {
            let mut policy = alone(LIMITS);
            for (offset, len) in *before {
                policy.plan(*offset, *len, *size);
            }
            let plan = policy.plan(read.0, read.1, *size);
            assert_eq!((plan.demand.start, plan.demand.end), *demand, "{name}");
            assert_eq!((plan.ahead.start, plan.ahead.end), *ahead, "{name}");
        }
    }

    /// Reads in order, each round trip as far as the round before has planned; returns where each
    /// round ended.
    fn rounds(policy: &mut ReadAhead, read: u64, size: u64, count: usize) -> Vec<u64> {
        let (mut at, mut planned) = (0, 0);
        let mut ends = Vec::new();
        for _ in 0..count {
            let plan = policy.plan(at, read, size);
            planned = planned.max(plan.ahead.end);
            let reachable = planned;
            while at + read <= reachable {
                at += read;
                planned = planned.max(policy.plan(at, read, size).ahead.end);
            }
            ends.push(at);
        }
        ends
    }

    #[test]
    fn reading_in_order_is_at_full_speed_after_five_round_trips() {
        for read in [64 * KIB, 128 * KIB, 256 * KIB, MIB] {
            let mut policy = alone(LIMITS);
            let ends = rounds(&mut policy, read, 8 * GIB, 8);
            let step = ends[6] - ends[5];
            assert!(step >= 56 * MIB, "{read}: {ends:?}");
        }
    }

    #[test]
    fn reads_reordered_by_threads_keep_the_window_open() {
        let mut policy = alone(LIMITS);
        let order = [1, 0, 3, 2, 2, 0, 1, 3, 3, 2, 1, 0];
        let (mut end, mut planned) = (0, 0);
        for group in 0..64 {
            for place in order.iter().skip(group % 3 * 4).take(4) {
                let offset = group as u64 * 4 * MIB + place * MIB;
                let plan = policy.plan(offset, MIB, 8 * GIB);
                end = end.max(offset + MIB);
                planned = planned.max(plan.ahead.end);
            }
        }
        assert!(planned >= end + 52 * MIB, "{}", planned - end);
    }

    #[test]
    fn large_requests_are_large() {
        let mut policy = alone(LIMITS);
        let mut requests = Vec::new();
        for at in 0..1024 {
            let plan = policy.plan(at * MIB, MIB, GIB);
            let mut from = plan.ahead.start;
            while from < plan.ahead.end {
                let to = ((from / plan.split + 1) * plan.split).min(plan.ahead.end);
                requests.push(to - from);
                from = to;
            }
        }
        assert!(requests.len() < 150, "{requests:?}");
        assert_eq!(requests.iter().sum::<u64>(), GIB - MIB);
    }

    #[test]
    fn scattered_reads_fetch_their_blocks_only() {
        let mut policy = alone(LIMITS);
        let mut fetched = 0;
        for index in 0..2000u64 {
            let offset = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (GIB / 4096) * 4096;
            let plan = policy.plan(offset, 4096, GIB);
            fetched += plan.demand.end - plan.demand.start + plan.ahead.end - plan.ahead.start;
        }
        assert!(fetched <= 2000 * BLOCK + 8 * BLOCK, "{}", fetched / BLOCK);
    }

    /// What unzip asks for that reads one picture of an archive: its table of contents at the end, then the
    /// picture, and what the kernel reads ahead of it.
    #[test]
    fn a_member_of_an_archive_costs_little_more_than_its_size() {
        const SIZE: u64 = 78_940_822;
        const MEMBER: u64 = 263_000;
        let kernels: [&[(u64, u64)]; 2] = [
            // (offset, length) in KiB
            &[
                (77_088, 4),
                (77_064, 8),
                (77_072, 16),
                (16_184, 8),
                (16_192, 16),
                (16_208, 32),
                (16_240, 64),
                (16_304, 128),
                (16_432, 128),
                (16_560, 128),
            ],
            &[
                (77_088, 4),
                (77_068, 20),
                (69_872, 128),
                (70_000, 128),
                (70_128, 128),
                (70_256, 128),
                (70_384, 128),
            ],
        ];
        for reads in kernels {
            let mut policy = alone(LIMITS);
            let mut blocks = std::collections::BTreeSet::new();
            for (offset, len) in reads {
                let plan = policy.plan(offset * KIB, len * KIB, SIZE);
                for range in [plan.demand, plan.ahead] {
                    blocks.extend(range.start / GRAIN..range.end.div_ceil(GRAIN));
                }
            }
            let fetched = blocks.len() as u64 * GRAIN;
            assert!(fetched <= 2 * MEMBER + 256 * KIB, "{fetched}");
        }
    }

    #[test]
    fn an_object_that_is_read_all_over_is_fetched_in_whole_blocks() {
        let mut policy = alone(LIMITS);
        const SIZE: u64 = 128 * MIB;
        let lengths: Vec<u64> = (1..=600u64)
            .map(|index| {
                let offset = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE / 4096) * 4096;
                let plan = policy.plan(offset, 4096, SIZE);
                plan.demand.end - plan.demand.start
            })
            .collect();
        assert!(lengths[..100].iter().all(|len| *len == GRAIN));
        assert!(
            lengths[590..].iter().all(|len| *len == BLOCK),
            "{lengths:?}"
        );
    }

    #[test]
    fn strides_do_not_fetch_what_lies_between() {
        let mut policy = alone(LIMITS);
        for index in 1..512u64 {
            let plan = policy.plan(index * 2 * MIB, 4096, GIB);
            assert!(plan.ahead.is_empty(), "{plan:?}");
        }
    }

    #[test]
    fn two_runs_on_one_handle_both_have_a_window() {
        let mut policy = alone(LIMITS);
        let mut planned = [0, 0];
        for index in 0..64 {
            for (run, start) in [10 * MIB, 600 * MIB].into_iter().enumerate() {
                let plan = policy.plan(start + index * MIB, MIB, GIB);
                planned[run] = plan.ahead.end.max(planned[run]);
            }
        }
        assert!(
            planned[0] >= 122 * MIB && planned[1] >= 712 * MIB,
            "{planned:?}"
        );
    }

    #[test]
    fn handles_that_are_read_at_once_share_the_window() {
        let sharers = Arc::default();
        // (how many, how far each is fetched ahead at least and at most)
        for (count, least, most) in [
            (1, 56 * MIB, 64 * MIB),
            (2, 24 * MIB, 32 * MIB),
            (4, 12 * MIB, 16 * MIB),
            (30, 6 * MIB, 8 * MIB),
        ] {
            let mut policies: Vec<_> = (0..count)
                .map(|_| (ReadAhead::new(LIMITS, &sharers), 0))
                .collect();
            for at in (0..256 * MIB).step_by(MIB as usize) {
                for (policy, planned) in &mut policies {
                    let plan = policy.plan(at, MIB, 8 * GIB);
                    *planned = plan.ahead.end.max(*planned);
                }
            }
            for (_, planned) in policies {
                let ahead = planned - 256 * MIB;
                assert!((least..=most).contains(&ahead), "{ahead} of {count}");
            }
        }
    }

    #[test]
    fn the_last_one_that_is_read_has_the_window_again() {
        let sharers = Arc::default();
        let mut policies = [(); 4].map(|()| ReadAhead::new(LIMITS, &sharers));
        for at in (0..64 * MIB).step_by(MIB as usize) {
            for policy in &mut policies {
                policy.plan(at, MIB, 8 * GIB);
            }
        }
        let mut planned = 0;
        for at in (64 * MIB..96 * MIB).step_by(MIB as usize) {
            planned = policies[2].plan(at, MIB, 8 * GIB).ahead.end.max(planned);
        }
        assert!(planned >= 96 * MIB + 56 * MIB, "{planned}");
    }

    #[test]
    fn refused_memory_halves_the_window_and_reading_opens_it_again() {
        let mut policy = alone(LIMITS);
        let mut planned = 0;
        for at in 0..32 {
            planned = policy.plan(at * MIB, MIB, 8 * GIB).ahead.end.max(planned);
        }
        assert!(planned >= 88 * MIB);
        policy.refused(40 * MIB);
        let plan = policy.plan(32 * MIB, MIB, 8 * GIB);
        assert_eq!(plan.ahead, 40 * MIB..64 * MIB, "planned again, and less");
        for at in 33..80 {
            planned = policy.plan(at * MIB, MIB, 8 * GIB).ahead.end;
        }
        assert!(planned >= 136 * MIB, "{planned}");
    }

    proptest! {
        #[test]
        fn a_plan_covers_the_read_and_stays_inside_the_object(
            size in 0..40 * MIB,
            memory in 0..1024 * MIB,
            reads in proptest::collection::vec((0..41 * MIB, 0..3 * MIB, any::<bool>()), 1..60),
        ) {
            let limits = Limits::for_memory(memory);
            let mut policy = alone(limits);
            let mut next = 0;
            for (offset, len, in_order) in reads {
                let offset = if in_order { next } else { offset };
                let plan = policy.plan(offset, len, size);
                let end = (offset + len).min(size);
                next = end;
                if offset < end {
                    prop_assert!(plan.demand.start <= offset && end <= plan.demand.end);
                }
                for edge in [plan.demand.start, plan.demand.end] {
                    prop_assert!(edge % GRAIN == 0 || edge == size, "{:?}", plan);
                }
                for edge in [plan.ahead.start, plan.ahead.end] {
                    prop_assert!(edge % BLOCK == 0 || edge == size, "{:?}", plan);
                }
                prop_assert!(plan.demand.end <= plan.ahead.start);
                prop_assert!(plan.ahead.start <= plan.ahead.end && plan.ahead.end <= size);
                prop_assert!(plan.ahead.end - plan.ahead.start <= limits.window.max(WHOLE));
            }
        }
    }
}
