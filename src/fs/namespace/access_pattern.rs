//! How a directory is walked through, and what is likely to be looked up next: a pure policy.
//!
//! Two kinds of walkers come by. One looks at every entry of a directory in order (`ls -l`, rsync, git status); one
//! goes down into each directory before it looks at the next (find, du). So files and directories are counted
//! apart, and directories are asked ahead only as far as the walker will come while the answers still count.
//!
//! And some are no walkers: git looks up its objects here and there among 256 directories. So asking ahead
//! measures what of it is used: a probe costs one of a [credit](Sequence::credit), a probed name that is then looked up
//! brings two. What begins it is evidence: the directory was read, or names are looked up in their order.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::freshness::fresh;
use super::inode_order::InodeOrder;
use super::object_name::Name;
use crate::fs::attributes::Kind;

/// From this balance of opens and lookups on, the next lookups are expected to be followed by opens.
const READING: i32 = 0;
/// A few of either kind turn the expectation.
const BALANCE: RangeInclusive<i32> = -4..=4;

/// How a directory's entries are being looked at.
#[derive(Debug, Default)]
pub struct AccessPattern {
    pub files: Sequence,
    pub directories: Sequence,
    /// Twice the opens after lookups, less the lookups; at most a few.
    opened: i32,
    /// The last reading of the directory: its entries may be looked at next.
    read: Option<Reading>,
    /// The directory below that was looked up last.
    entered: Option<Entered>,
    /// The name that was asked for alone last was not there: who makes files goes on to ask for such.
    pub last_lookup_missed: bool,
}

/// A reading of the names of a directory, which takes a while where there are many.
#[derive(Clone, Copy, Debug)]
struct Reading {
    began: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Entered {
    name: Name,
    /// The first of the lookups in a row.
    since: Instant,
    last: Instant,
}

impl AccessPattern {
    pub fn begin_reading(&mut self, now: Instant) {
        self.read = Some(Reading {
            began: now,
            last: now,
        });
    }

    /// More of the names were read.
    pub fn read_on(&mut self, now: Instant) {
        if let Some(read) = &mut self.read {
            read.last = now;
        }
    }

    /// Whether files are looked up to be opened.
    pub fn expects_opens(&self) -> bool {
        self.opened >= READING
    }

    pub fn on_open(&mut self) {
        self.opened = (self.opened + 2).min(*BALANCE.end());
    }

    /// A file was looked up. Returns how many of those behind it should be known or asked for now, if any.
    pub fn on_file_lookup(&mut self, look: Step<'_>, ttl: Duration, now: Instant) -> Option<u32> {
        let read = self.was_read(ttl, now);
        let ahead = self.files.step(look, read, Sequence::MOST, ttl, now);
        if self.files.scanned >= Sequence::SCAN {
            self.files.credit = Sequence::CREDIT;
        }
        if self.files.count > 0 {
            self.opened = (self.opened - 1).max(*BALANCE.start());
        }
        ahead
    }

    /// As [`AccessPattern::on_file_lookup`], of a directory below.
    pub fn on_directory_lookup(
        &mut self,
        look: Step<'_>,
        ttl: Duration,
        now: Instant,
    ) -> Option<u32> {
        let name = look.name;
        let pace = match &mut self.entered {
            Some(entered) if *entered.name == *name => {
                entered.last = now;
                return None;
            }
            entered => {
                let before = entered.replace(Entered {
                    name: Name::from(name),
                    since: now,
                    last: now,
                });
                before.map(|before| now.saturating_duration_since(before.since))
            }
        };
        // Half of the time that an answer counts, for the other half goes by before it is wanted.
        let in_time = pace.map_or(0, |pace| (ttl / 2).as_micros() / pace.as_micros().max(1));
        let most = u32::try_from(in_time).unwrap_or(u32::MAX);
        let read = self.was_read(ttl, now);
        self.directories.step(look, read, most, ttl, now)
    }

    /// Reading the directory gave the kernel what is known of an entry, which it need not look up.
    pub fn on_entry_offered(&mut self, name: &str, kind: Kind) {
        match kind {
            Kind::Directory => self.directories.use_probe(name, false),
            _ => self.files.use_probe(name, false),
        }
    }

    /// Whether somebody goes through the files of the directory, one after another.
    pub fn is_sequential(&self, ttl: Duration, now: Instant) -> bool {
        /// More than a few names that somebody may know by heart.
        const MANY: u32 = 16;
        let Sequence { count, last, .. } = self.files;
        count >= MANY && last.is_some_and(|last| fresh(last, ttl, now))
    }

    /// The directory below through which paths led of late.
    pub fn last_child_dir(&self, ttl: Duration, now: Instant) -> Option<&Name> {
        // The kernel requested once in each lifetime, however often it comes by.
        let entered = self.entered.as_ref()?;
        fresh(entered.last, 3 * ttl, now).then_some(&entered.name)
    }

    /// What was asked ahead may be out of date.
    pub fn on_listed(&mut self) {
        self.files.on_listed();
        self.directories.on_listed();
    }

    /// When the last reading of the directory began, if it went on until lately.
    fn was_read(&self, ttl: Duration, now: Instant) -> Option<Instant> {
        let read = self.read.filter(|read| fresh(read.last, ttl, now));
        read.map(|read| read.began)
    }
}

/// A name that is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub name: &'a str,
    /// It had to be asked for, and was not answered from memory.
    pub requested: bool,
    /// It comes right after the one that was looked up before, among its kind.
    pub follows: bool,
    /// The number of its inode.
    pub ino: u64,
}

/// Lookups of one kind of entry, and what asking ahead of them has brought.
#[derive(Debug, Default)]
pub struct Sequence {
    /// From the first lookup on that had to ask.
    count: u32,
    /// The latest, and its name.
    last: Option<Instant>,
    previous: Option<Name>,
    /// Probes under way.
    ahead: u32,
    /// The first and the last name of what has been probed.
    probed: Option<(Name, Name)>,
    /// How many probes may be sent.
    credit: u32,
    /// Names that were probed and not looked up since, and whether they have been answered.
    unused: HashMap<Name, bool>,
    /// The reading of the directory that counted as evidence.
    read: Option<Instant>,
    /// The directory was read, and lookups have come one soon after the other since then.
    scanning: bool,
    /// Those of them that had to ask.
    scanned: u32,
    inode_order: InodeOrder,
}

impl Sequence {
    const MOST: u32 = 192;
    /// Sequence that reading the directory counts for, and the credit that it gives.
    const READING: u32 = 2;
    const READ: u32 = 8;
    /// What a probe brings that was used.
    const USED: u32 = 2;
    /// What a name brings that had to be asked for and was next in order.
    const IN_ORDER: u32 = 2;
    /// The most that is not used yet: what a walker leaves behind who goes away.
    const CREDIT: u32 = 64;
    /// So many names that had to be asked for after the directory was read, in whatever order, show somebody who
    /// looks at all of them: some tools look at large directories in the order of inodes.
    const SCAN: u32 = 16;

    /// How many names behind the walker should be known or asked for: doubled with every step, for the first few do not
    /// show yet whether the walker goes on, or opens what it looks up.
    fn step(
        &mut self,
        look: Step<'_>,
        read: Option<Instant>,
        most: u32,
        ttl: Duration,
        now: Instant,
    ) -> Option<u32> {
        let Step {
            name,
            requested,
            follows,
            ino,
        } = look;
        self.use_probe(name, requested);
        self.inode_order.step(ino);
        self.previous = Some(Name::from(name));
        if self.count == 0 && !requested {
            return None;
        }
        let goes_on = self.last.is_some_and(|last| fresh(last, ttl, now));
        self.scanning = read.is_some() || (self.scanning && goes_on);
        self.scanned = match self.scanning {
            true => self.scanned + u32::from(requested),
            false => 0,
        };
        if requested && read.is_some() && read != self.read {
            (self.read, self.scanned) = (read, 1);
            self.count = self.count.max(Sequence::READING);
            self.credit = self.credit.max(Sequence::READ);
        }
        if requested && follows {
            self.earn(Sequence::IN_ORDER);
        }
        self.count = self.count.saturating_add(1);
        let distance = (1 << self.count.min(16)).min(Sequence::MOST).min(most);
        let enough = !requested && self.ahead * 8 >= distance * 7;
        self.last = Some(now);
        (self.count >= 2 && self.credit > 0 && distance > 0 && !enough).then_some(distance)
    }

    fn earn(&mut self, credit: u32) {
        self.credit = (self.credit + credit).min(Sequence::CREDIT.max(self.credit));
    }

    /// The name was looked up, or taken from a reading of the directory. If it was probed and still had to be
    /// asked for, the probe's answer had expired.
    pub fn use_probe(&mut self, name: &str, requested: bool) {
        if let Some(answered) = self.unused.remove(name)
            && !(requested && answered)
        {
            self.earn(Sequence::USED);
        }
    }

    /// The name that was looked up last.
    pub fn previous(&self) -> Option<&Name> {
        self.previous.as_ref()
    }

    fn on_listed(&mut self) {
        self.probed = None;
        self.unused.retain(|_, answered| !*answered);
    }

    /// Of the names that follow `name`, in order, those that are still to be probed: as many as there is room for
    /// in `distance`. Never further from the walker than that, or bodies that came along would be dropped
    /// before they are read.
    pub fn probe<'a, T: Clone + 'a>(
        &mut self,
        name: &str,
        distance: u32,
        following: impl Iterator<Item = (&'a Name, Option<&'a T>)>,
    ) -> Vec<(Name, T)> {
        let room = distance.saturating_sub(self.ahead).min(self.credit) as usize;
        let in_order = self.scanned < Sequence::SCAN;
        let (first, reached) = match self.probed.take() {
            Some((first, reached)) if *first <= *name && in_order => (first, Some(reached)),
            _ => {
                // Who comes back from further on, having looked at some names first, begins anew.
                self.unused.retain(|_, answered| !*answered);
                (Name::from(name), None)
            }
        };
        let next: Vec<_> = following
            .take(distance as usize)
            .skip_while(|(name, _)| reached.as_ref().is_some_and(|reached| *name <= reached))
            .filter(|(name, _)| !self.unused.contains_key(*name))
            .filter_map(|(name, wanted)| Some((name.clone(), wanted?.clone())))
            .take(room)
            .collect();
        self.sent(&next);
        let last = next.last().map(|(name, _)| name.clone());
        self.probed = last.or(reached).map(|reached| (first, reached));
        next
    }

    /// Whether the names that follow are those that come next by inode number.
    pub fn is_by_inode(&self) -> bool {
        self.scanning && self.inode_order.is_followed()
    }

    /// As [`Sequence::probe`], of the names that follow by inode number. `plan` is as in [`InodeOrder::next`]; `wanted`
    /// is what there is to probe of a name.
    pub fn probe_by_inode<T>(
        &mut self,
        distance: u32,
        plan: impl Fn(u64) -> Vec<(u64, Name)>,
        wanted: impl Fn(&Name) -> Option<T>,
    ) -> Vec<(Name, T)> {
        let room = distance.saturating_sub(self.ahead).min(self.credit) as usize;
        let mut next = Vec::new();
        while next.len() < room {
            let Some(name) = self.inode_order.next(&plan) else {
                break;
            };
            if let Some(wanted) = wanted(&name) {
                next.push((name, wanted));
            }
        }
        self.sent(&next);
        next
    }

    /// Probes are under way.
    fn sent<T>(&mut self, probes: &[(Name, T)]) {
        self.ahead += probes.len() as u32;
        self.credit -= probes.len() as u32;
        if self.unused.len() > 4 * Sequence::MOST as usize {
            self.unused.clear();
        }
        let sent = probes.iter().map(|(name, _)| (name.clone(), false));
        self.unused.extend(sent);
    }

    /// A probe has ended.
    pub fn probe_ended(&mut self, name: &str) {
        self.ahead = self.ahead.saturating_sub(1);
        if let Some(answered) = self.unused.get_mut(name) {
            *answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inode_order;
    use super::*;

    const TTL: Duration = Duration::from_secs(1);

    fn probe(steps: &mut Sequence, at: usize, distance: u32) -> Vec<String> {
        let name = format!("{at:03}");
        let names: Vec<_> = (at + 1..200)
            .map(|number| Name::from(format!("{number:03}").as_str()))
            .collect();
        let following = names.iter().map(|name| (name, Some(&())));
        let probed = steps.probe(&name, distance, following);
        probed.iter().map(|(name, ())| name.to_string()).collect()
    }

    /// A lookup of a name that is next in order, or of one somewhere else.
    fn look(name: &str, requested: bool, follows: bool) -> Step<'_> {
        Step {
            name,
            requested,
            follows,
            ino: 0,
        }
    }

    fn names() -> Vec<String> {
        (0..1000).map(|number| format!("{number:03}")).collect()
    }

    /// A directory of a thousand files or directories whose answers come at once.
    struct Directory {
        walk: AccessPattern,
        names: Vec<Name>,
        known: std::collections::HashSet<Name>,
        probes: usize,
        misses: usize,
        now: Instant,
    }

    impl Directory {
        fn new() -> Directory {
            Directory {
                walk: AccessPattern::default(),
                names: names().iter().map(|name| Name::from(&**name)).collect(),
                known: std::collections::HashSet::new(),
                probes: 0,
                misses: 0,
                now: Instant::now(),
            }
        }

        fn look(&mut self, at: usize, directory: bool) {
            self.look_at(at, 0, directory);
        }

        fn look_at(&mut self, at: usize, ino: u64, directory: bool) {
            self.now += Duration::from_micros(100);
            let name = self.names[at].clone();
            let requested = !self.known.contains(&name);
            self.misses += usize::from(requested);
            let steps = match directory {
                true => &self.walk.directories,
                false => &self.walk.files,
            };
            let follows = at > 0 && steps.previous() == Some(&self.names[at - 1]);
            let step = Step {
                ino,
                ..look(&name, requested, follows)
            };
            let distance = match directory {
                true => self.walk.on_directory_lookup(step, TTL, self.now),
                false => self.walk.on_file_lookup(step, TTL, self.now),
            };
            self.known.insert(name.clone());
            let Some(distance) = distance else { return };
            let steps = match directory {
                true => &mut self.walk.directories,
                false => &mut self.walk.files,
            };
            let known = &self.known;
            if steps.is_by_inode() {
                let numbered = |(at, name): (usize, &Name)| (inode(at), name.clone());
                let plan = |after| {
                    let names = self.names.iter().enumerate().map(numbered);
                    inode_order::plan(names, after)
                };
                let sent = steps
                    .probe_by_inode(distance, plan, |name| (!known.contains(name)).then_some(()));
                for (name, ()) in sent {
                    self.probes += 1;
                    steps.probe_ended(&name);
                    self.known.insert(name);
                }
                return;
            }
            let following = self.names[at + 1..].iter();
            let following = following.map(|name| (name, (!known.contains(name)).then_some(&())));
            let sent = steps.probe(&name, distance, following);
            for (name, ()) in sent {
                self.probes += 1;
                steps.probe_ended(&name);
                self.known.insert(name);
            }
        }

        /// What was known has expired.
        fn expire(&mut self) {
            self.known.clear();
        }
    }

    /// The number of the inode of the name at `at`: in no order.
    fn inode(at: usize) -> u64 {
        (at as u64 * 619 + 1) % 1009
    }

    /// As if shuffled.
    fn scattered(count: usize) -> impl Iterator<Item = usize> {
        (0..count).map(|step| step * 619 % 1000)
    }

    #[test]
    fn a_walk_shows_with_its_second_lookup_in_order_that_asks() {
        let now = Instant::now();
        let mut walk = AccessPattern::default();
        assert_eq!(walk.on_file_lookup(look("a", false, false), TTL, now), None);
        assert_eq!(walk.on_file_lookup(look("b", true, false), TTL, now), None);
        assert_eq!(
            walk.on_file_lookup(look("c", true, true), TTL, now),
            Some(4)
        );
        for name in names().iter().take(20) {
            walk.on_file_lookup(look(name, true, true), TTL, now);
        }
        let far = walk.on_file_lookup(look("z", true, true), TTL, now);
        assert_eq!(far, Some(Sequence::MOST));
        assert!(walk.is_sequential(TTL, now));
        assert!(!walk.is_sequential(TTL, now + 2 * TTL));
    }

    #[test]
    fn who_walks_in_order_waits_for_the_first_few_only() {
        for directory in [false, true] {
            for read in [false, true] {
                let mut world = Directory::new();
                if read {
                    world.walk.begin_reading(world.now);
                }
                for at in 0..1000 {
                    world.look(at, directory);
                }
                assert!(world.misses <= 3, "{directory} {read}: {}", world.misses);
                assert_eq!(world.probes + world.misses, 1000, "each is asked once");
            }
        }
    }

    #[test]
    fn who_looks_here_and_there_is_hardly_asked_ahead_for() {
        for directory in [false, true] {
            let mut world = Directory::new();
            for _ in 0..10 {
                for at in scattered(300) {
                    world.look(at, directory);
                }
                world.expire();
            }
            let (probes, misses) = (world.probes, world.misses);
            assert!(
                probes <= 30,
                "{directory}: {probes} probes, {misses} lookups"
            );
            // Nor after somebody has walked through it: what that has earned is soon spent.
            for at in 0..1000 {
                world.look(at, directory);
            }
            world.expire();
            let before = world.probes;
            for _ in 0..10 {
                for at in scattered(300) {
                    world.look(at, directory);
                }
                world.expire();
            }
            let wasted = world.probes - before;
            assert!(wasted <= 400, "{directory}: {wasted} probes");
        }
    }

    /// find sorts large directories by inode numbers, which are in no order.
    #[test]
    fn who_reads_a_directory_and_looks_at_all_of_it_in_another_order_is_asked_ahead_for() {
        let mut world = Directory::new();
        world.walk.begin_reading(world.now);
        for at in scattered(1000) {
            world.look(at, false);
        }
        assert!(world.misses <= 100, "{}", world.misses);
        assert_eq!(world.probes + world.misses, 1000, "each is asked once");
    }

    /// Out of order by name, each lookup would have to wait, as what is probed around it expires before it is wanted.
    #[test]
    fn who_goes_by_inode_numbers_is_asked_ahead_for_in_their_order() {
        let mut order: Vec<usize> = (0..1000).collect();
        order.sort_by_key(|at| inode(*at));
        let mut world = Directory::new();
        world.walk.begin_reading(world.now);
        for at in order {
            world.look_at(at, inode(at), false);
        }
        assert!(world.misses <= 20, "{}", world.misses);
        assert_eq!(world.probes + world.misses, 1000, "each is asked once");
    }

    #[test]
    fn a_walk_that_begins_anew_after_the_lifetime_is_asked_ahead_for_at_once() {
        let mut world = Directory::new();
        for _ in 0..3 {
            for at in 0..100 {
                world.look(at, true);
            }
            world.expire();
            world.walk.on_listed();
        }
        assert!(world.misses <= 9, "{}", world.misses);
    }

    #[test]
    fn who_read_the_directory_is_expected_to_look_at_its_entries() {
        let now = Instant::now();
        let mut walk = AccessPattern::default();
        walk.begin_reading(now);
        assert_eq!(
            walk.on_file_lookup(look("a", true, false), TTL, now),
            Some(8)
        );
        let mut walk = AccessPattern::default();
        walk.begin_reading(now);
        let late = now + 2 * TTL;
        assert_eq!(walk.on_file_lookup(look("a", true, false), TTL, late), None);
    }

    /// To read fifteen thousand names took longer than a lifetime: the walk that followed was not expected.
    #[test]
    fn a_reading_that_takes_longer_than_a_lifetime_counts_from_its_end() {
        let now = Instant::now();
        let mut walk = AccessPattern::default();
        walk.begin_reading(now);
        let later = now + 3 * TTL;
        walk.read_on(later);
        assert_eq!(
            walk.on_file_lookup(look("a", true, false), TTL, later),
            Some(8)
        );
    }

    #[test]
    fn directories_are_asked_ahead_as_far_as_the_walker_comes_in_time() {
        for (pace, ahead) in [(1, Some(8)), (100, Some(5)), (300, Some(1)), (600, None)] {
            let mut walk = AccessPattern::default();
            let mut now = Instant::now();
            let mut last = None;
            for name in ["a", "b", "c"] {
                now += Duration::from_millis(pace);
                last = walk.on_directory_lookup(look(name, true, name != "a"), TTL, now);
                // Who goes on inside is no step further.
                let inside = walk.on_directory_lookup(look(name, true, true), TTL, now);
                assert_eq!(inside, None);
            }
            assert_eq!(last, ahead, "{pace} ms");
            let entered = walk.last_child_dir(TTL, now + TTL);
            assert_eq!(entered.map(Name::to_string).as_deref(), Some("c"));
            assert_eq!(walk.last_child_dir(TTL, now + 4 * TTL), None);
        }
    }

    #[test]
    fn opens_after_lookups_show_a_reader() {
        let now = Instant::now();
        let mut walk = AccessPattern::default();
        assert!(walk.expects_opens());
        for name in ["a", "b", "c"] {
            walk.on_file_lookup(look(name, true, true), TTL, now);
        }
        assert!(!walk.expects_opens());
        for _ in 0..3 {
            walk.on_open();
        }
        assert!(walk.expects_opens());
    }

    fn with_credit() -> Sequence {
        Sequence {
            credit: Sequence::CREDIT,
            ..Sequence::default()
        }
    }

    #[test]
    fn nothing_is_probed_twice_and_nothing_too_far_ahead() {
        let mut steps = with_credit();
        assert_eq!(probe(&mut steps, 10, 3), ["011", "012", "013"]);
        assert!(probe(&mut steps, 11, 3).is_empty(), "three are under way");
        steps.probe_ended("011");
        assert_eq!(probe(&mut steps, 11, 3), ["014"]);
        for name in ["012", "013", "014"] {
            steps.probe_ended(name);
        }
        assert_eq!(probe(&mut steps, 100, 2), ["101", "102"], "it went on");
    }

    /// Small files may be symbolic links: who reads a directory requested for their types first, then for all.
    #[test]
    fn who_comes_back_to_the_beginning_is_asked_ahead_for_anew() {
        let mut steps = with_credit();
        assert_eq!(probe(&mut steps, 3, 2), ["004", "005"]);
        steps.probe_ended("004");
        steps.probe_ended("005");
        assert_eq!(probe(&mut steps, 0, 2), ["001", "002"]);
    }

    #[test]
    fn an_answer_that_expired_before_it_was_wanted_was_not_used() {
        let mut steps = Sequence {
            credit: 3,
            ..Sequence::default()
        };
        assert_eq!(
            probe(&mut steps, 0, 9).len(),
            3,
            "as many as the credit allows"
        );
        steps.use_probe("001", true);
        assert_eq!(steps.credit, 2, "joined while it is under way");
        steps.probe_ended("002");
        steps.use_probe("002", true);
        assert_eq!(steps.credit, 2, "expired");
        steps.probe_ended("003");
        steps.use_probe("003", false);
        assert_eq!(steps.credit, 4, "answered from memory");
        steps.use_probe("003", false);
        assert_eq!(steps.credit, 4, "once");
    }
}
