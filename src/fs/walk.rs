//! How a directory is walked through, and what is likely to be looked up next: a pure policy.
//!
//! Two kinds of walkers come by. One looks at every entry of a directory in order (`ls -l`, rsync, git status); one
//! goes down into each directory before it looks at the next (find, du). So files and directories are counted
//! apart, and directories are asked ahead only as far as the walker will come while the answers still count.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::listing::fresh;
use super::names::Name;

/// From this balance of opens and lookups on, the next lookups are expected to be followed by opens.
const READING: i32 = 0;
/// A few of either kind turn the expectation.
const BALANCE: RangeInclusive<i32> = -4..=4;

/// How a directory's entries are being looked at.
#[derive(Debug, Default)]
pub struct Walk {
    pub files: Steps,
    pub directories: Steps,
    /// Twice the opens after lookups, less the lookups; at most a few.
    opened: i32,
    /// When somebody last began to read the directory: its entries may be looked at next.
    read: Option<Instant>,
    /// The directory below that was looked up last.
    entered: Option<Entered>,
    /// The name that was asked for alone last was not there: who makes files goes on to ask for such.
    pub finds_nothing: bool,
}

#[derive(Debug)]
struct Entered {
    name: Name,
    /// The first of the lookups in a row.
    since: Instant,
    last: Instant,
}

impl Walk {
    pub fn begin_reading(&mut self, now: Instant) {
        self.read = Some(now);
    }

    /// Whether files are looked up to be opened.
    pub fn expects_opens(&self) -> bool {
        self.opened >= READING
    }

    pub fn opened_after_lookup(&mut self) {
        self.opened = (self.opened + 2).min(*BALANCE.end());
    }

    /// A file was looked up, which had to be asked for (`asks`) or was answered from memory. Returns how many of
    /// those behind it should be known or asked for now, if any.
    pub fn looks_at_file(&mut self, asks: bool, ttl: Duration, now: Instant) -> Option<u32> {
        let expected = self.was_read(ttl, now);
        let ahead = self.files.step(asks, expected, Steps::MOST, now);
        if self.files.count > 0 {
            self.opened = (self.opened - 1).max(*BALANCE.start());
        }
        ahead
    }

    /// As [`Walk::looks_at_file`], of a directory below.
    pub fn looks_at_directory(
        &mut self,
        name: &str,
        asks: bool,
        ttl: Duration,
        now: Instant,
    ) -> Option<u32> {
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
        let expected = self.was_read(ttl, now);
        self.directories.step(asks, expected, most, now)
    }

    /// Whether somebody goes through the files of the directory, one after another.
    pub fn goes_on(&self, ttl: Duration, now: Instant) -> bool {
        /// More than a few names that somebody may know by heart.
        const MANY: u32 = 16;
        let Steps { count, last, .. } = self.files;
        count >= MANY && last.is_some_and(|last| fresh(last, ttl, now))
    }

    /// The directory below through which paths led of late.
    pub fn entered_of_late(&self, ttl: Duration, now: Instant) -> Option<&Name> {
        // The kernel asks once in each lifetime, however often it comes by.
        let entered = self.entered.as_ref()?;
        fresh(entered.last, 3 * ttl, now).then_some(&entered.name)
    }

    /// What was asked ahead may be out of date.
    pub fn was_listed(&mut self) {
        self.files.probed = None;
        self.directories.probed = None;
    }

    fn was_read(&self, ttl: Duration, now: Instant) -> bool {
        self.read.is_some_and(|read| fresh(read, ttl, now))
    }
}

/// Lookups of one kind of entry, in order or nearly so.
#[derive(Debug, Default)]
pub struct Steps {
    /// From the first lookup on that had to ask.
    count: u32,
    /// The latest.
    last: Option<Instant>,
    /// Probes under way.
    ahead: u32,
    /// The first and the last name of what has been probed.
    probed: Option<(Name, Name)>,
}

impl Steps {
    const MOST: u32 = 192;
    /// Steps that reading the directory counts for.
    const READING: u32 = 2;

    /// How many names behind the walker should be known or asked for: doubled with every step, for the first few do not
    /// show yet whether the walker goes on, or opens what it looks up.
    fn step(&mut self, asks: bool, expected: bool, most: u32, now: Instant) -> Option<u32> {
        if self.count == 0 {
            match (asks, expected) {
                (false, _) => return None,
                (true, false) => {}
                (true, true) => self.count = Steps::READING,
            }
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
        let distance = (1 << self.count.min(16)).min(Steps::MOST).min(most);
        let enough = !asks && self.ahead * 8 >= distance * 7;
        (self.count >= 2 && distance > 0 && !enough).then_some(distance)
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
        let room = distance.saturating_sub(self.ahead) as usize;
        // Who comes back from further on, having looked at some names first, begins anew.
        let (first, reached) = match self.probed.take() {
            Some((first, reached)) if *first <= *name => (first, Some(reached)),
            _ => (Name::from(name), None),
        };
        let next: Vec<_> = following
            .take(distance as usize)
            .skip_while(|(name, _)| reached.as_ref().is_some_and(|reached| *name <= reached))
            .filter_map(|(name, wanted)| Some((name.clone(), wanted?.clone())))
            .take(room)
            .collect();
        self.ahead += next.len() as u32;
        let last = next.last().map(|(name, _)| name.clone());
        self.probed = last.or(reached).map(|reached| (first, reached));
        next
    }

    /// A probe has ended.
    pub fn probe_ended(&mut self) {
        self.ahead = self.ahead.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(1);

    fn probe(steps: &mut Steps, at: usize, distance: u32) -> Vec<String> {
        let name = format!("{at:03}");
        let names: Vec<_> = (at + 1..200)
            .map(|number| Name::from(format!("{number:03}").as_str()))
            .collect();
        let following = names.iter().map(|name| (name, Some(&())));
        let probed = steps.probe(&name, distance, following);
        probed.iter().map(|(name, ())| name.to_string()).collect()
    }

    #[test]
    fn a_walk_shows_with_its_second_lookup_that_asks() {
        let now = Instant::now();
        let mut walk = Walk::default();
        assert_eq!(walk.looks_at_file(false, TTL, now), None);
        assert_eq!(walk.looks_at_file(true, TTL, now), None);
        assert_eq!(walk.looks_at_file(false, TTL, now), Some(4));
        for _ in 0..20 {
            walk.looks_at_file(true, TTL, now);
        }
        assert_eq!(walk.looks_at_file(true, TTL, now), Some(Steps::MOST));
        assert!(walk.goes_on(TTL, now));
        assert!(!walk.goes_on(TTL, now + 2 * TTL));
    }

    #[test]
    fn who_read_the_directory_is_expected_to_look_at_its_entries() {
        let now = Instant::now();
        let mut walk = Walk::default();
        walk.begin_reading(now);
        assert_eq!(walk.looks_at_file(true, TTL, now), Some(8));
        let mut walk = Walk::default();
        walk.begin_reading(now);
        assert_eq!(walk.looks_at_file(true, TTL, now + 2 * TTL), None);
    }

    #[test]
    fn directories_are_asked_ahead_as_far_as_the_walker_comes_in_time() {
        for (pace, ahead) in [(1, Some(8)), (100, Some(5)), (300, Some(1)), (600, None)] {
            let mut walk = Walk::default();
            let mut now = Instant::now();
            let mut last = None;
            for name in ["a", "b", "c"] {
                now += Duration::from_millis(pace);
                last = walk.looks_at_directory(name, true, TTL, now);
                // Who goes on inside is no step further.
                assert_eq!(walk.looks_at_directory(name, true, TTL, now), None);
            }
            assert_eq!(last, ahead, "{pace} ms");
            let entered = walk.entered_of_late(TTL, now + TTL);
            assert_eq!(entered.map(Name::to_string).as_deref(), Some("c"));
            assert_eq!(walk.entered_of_late(TTL, now + 4 * TTL), None);
        }
    }

    #[test]
    fn opens_after_lookups_show_a_reader() {
        let now = Instant::now();
        let mut walk = Walk::default();
        assert!(walk.expects_opens());
        for _ in 0..3 {
            walk.looks_at_file(true, TTL, now);
        }
        assert!(!walk.expects_opens());
        for _ in 0..3 {
            walk.opened_after_lookup();
        }
        assert!(walk.expects_opens());
    }

    #[test]
    fn nothing_is_probed_twice_and_nothing_too_far_ahead() {
        let mut steps = Steps::default();
        assert_eq!(probe(&mut steps, 10, 3), ["011", "012", "013"]);
        assert!(probe(&mut steps, 11, 3).is_empty(), "three are under way");
        steps.probe_ended();
        assert_eq!(probe(&mut steps, 11, 3), ["014"]);
        for _ in 0..3 {
            steps.probe_ended();
        }
        assert_eq!(probe(&mut steps, 100, 2), ["101", "102"], "it went on");
    }

    /// Small files may be symbolic links: who reads a directory asks for their types first, then for all.
    #[test]
    fn who_comes_back_to_the_beginning_is_asked_ahead_for_anew() {
        let mut steps = Steps::default();
        assert_eq!(probe(&mut steps, 3, 2), ["004", "005"]);
        steps.probe_ended();
        steps.probe_ended();
        assert_eq!(probe(&mut steps, 0, 2), ["001", "002"]);
    }
}
