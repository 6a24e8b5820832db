//! How a directory is walked through, and what is likely to be looked up next: a pure policy.
//!
//! Two kinds of walkers come by. One looks at every entry of a directory in order (`ls -l`, rsync, git status); one
//! goes down into each directory before it looks at the next (find, du). So files and directories are counted
//! apart, and directories are requested ahead only as far as the walker will come while the answers still count.
//!
//! And some are no walkers: git looks up its objects here and there among 256 directories. So asking ahead
//! measures what of it is used: a probe costs one of a credit, a probed name that is then looked up
//! brings two. What begins it is evidence: the directory was read, or names are looked up in their order.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::freshness::fresh;
use super::inode_order::InodeOrder;
use super::object_name::Name;
use crate::files::attributes::Kind;

/// A program that walks a directory may pause for so long, or wait for a request that takes it, and is still the same
/// one. Without it, one slow request ended the prefetching of a whole walk.
const PAUSE: Duration = Duration::from_secs(5);

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
    /// The last name that was requested alone was not there: programs that create files look up more absent names.
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

    /// A file was looked up. Returns how many of those behind it should be known or requested now, if any.
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

    /// Whether a program goes through the files of the directory, one after another.
    pub fn is_sequential(&self, ttl: Duration, now: Instant) -> bool {
        /// More than the few names that a program may look for anyway.
        const MANY: u32 = 16;
        let Sequence { count, last, .. } = self.files;
        count >= MANY && last.is_some_and(|last| fresh(last, ttl, now))
    }

    /// The child directory resolved most recently, if within three lifetimes.
    pub fn last_child_dir(&self, ttl: Duration, now: Instant) -> Option<&Name> {
        // The kernel asks once in each lifetime, however often a path leads through.
        let entered = self.entered.as_ref()?;
        fresh(entered.last, 3 * ttl, now).then_some(&entered.name)
    }

    /// What was requested ahead may be out of date.
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
    /// It had to be requested, and was not answered from memory.
    pub requested: bool,
    /// It comes right after the one that was looked up before, among its kind.
    pub follows: bool,
    /// The number of its inode.
    pub ino: u64,
}

/// Lookups of one kind of entry, and what asking ahead of them has brought.
#[derive(Debug, Default)]
pub struct Sequence {
    /// From the first lookup on that had to be requested.
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
    /// Those of them that had to be requested.
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
    /// What a name brings that had to be requested and was next in order.
    const IN_ORDER: u32 = 2;
    /// The most that is not used yet: what is in vain when the walk ends.
    const CREDIT: u32 = 64;
    /// So many names that had to be requested after the directory was read, in whatever order, show a program that
    /// looks at all of them: some tools look at large directories in the order of inodes.
    const SCAN: u32 = 16;

    /// How many names behind the walker should be known or requested: doubled with every step, for the first few do not
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
        let goes_on = self
            .last
            .is_some_and(|last| fresh(last, ttl.max(PAUSE), now));
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
    /// requested, the probe's answer had expired.
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
                // A program that comes back, having looked at some names further on first, begins anew.
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
mod tests;
