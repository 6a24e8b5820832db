//! What is known of the names in one directory, as the bucket has them.
//!
//! Difficulties, and what answers each:
//! - A finished listing answers every name, absent ones too, until it expires; in large directories a name
//!   is also requested alone. `complete` is when the whole was true, a slot's `checked` when that name was.
//! - What was requested before one of our own changes ended says nothing about the changed name: the
//!   `ChangeLog` tells which responses count.
//! - When the whole is listed anew is up to its [`Freshness`].
//! - A listing shows neither modes nor times. [`CachedAttributes`] attributes are carried over to the next listing when
//!   the object's tag and time are the same and nothing can have hidden in the same second.
//!
//! Pure: the clock is an argument. Instants are those at which a request was sent, never later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::change_log::{ChangeLog, Epoch};
use super::entry::{CachedAttributes, Entry};
use super::freshness::{Freshness, LOOKED_AT, Ttl, fresh};
use super::object_name::Name;
use crate::store::object_store::ETag;

#[derive(Clone, Debug)]
struct Slot {
    entry: Entry,
    /// When this name alone was last known to be so.
    checked: Option<Instant>,
    /// When it was looked up first in the traversal that goes on, if that is later than its beginning.
    visited: Option<Instant>,
}

impl Slot {
    fn new(entry: Entry, checked: Option<Instant>) -> Slot {
        Slot {
            entry,
            checked,
            visited: None,
        }
    }
}

/// When the whole was true, the last change of ours, how many names there are.
pub type ListingVersion = (Option<Instant>, u64, usize);

/// What can be said of a name.
#[derive(Debug)]
pub enum CachedEntry<'a> {
    /// And when that was true.
    Hit(&'a Entry, Instant),
    Negative(Instant),
    Miss,
}

#[derive(Debug, Default)]
pub struct Listing {
    slots: BTreeMap<Name, Slot>,
    /// Names requested alone that were not there.
    absent: HashMap<Name, Instant>,
    /// How recent the whole is.
    pub freshness: Freshness,
    changes: ChangeLog,
    /// Whether the directory has a marker, as the last listing showed.
    marker: Option<bool>,
    /// Whether there are keys below that are no valid paths, as the last listing showed.
    hidden: bool,
    /// The name that was requested last, and how many before it came in ascending order.
    sequence: Option<(Name, u32)>,
}

/// Absent names kept at most.
const MAX_ABSENT: usize = 4096;
/// What a name takes in memory, in bytes: its slot and the tree's share, the name, the tag, its attributes.
pub const BYTES_PER_ENTRY: u64 = 400;
/// After so many names in ascending order those that follow are likely to be requested next.
const SEQUENTIAL: u32 = 3;

impl Listing {
    /// Of a directory that we made just now: known whole. To list it will take as long as it took to list its
    /// parent.
    pub fn of_new_directory(parent: &Listing, now: Instant) -> Listing {
        Listing {
            freshness: Freshness::of_new_directory(&parent.freshness, now),
            marker: Some(true),
            ..Listing::default()
        }
    }

    /// Notes that a name must be requested, and tells whether names are requested in order, so that a page from
    /// this one on is likely to answer the next.
    pub fn record_request(&mut self, name: &Name) -> bool {
        let steps = match &self.sequence {
            Some((last, steps)) if **last < **name => steps.saturating_add(1),
            _ => 0,
        };
        self.sequence = Some((name.clone(), steps));
        steps >= SEQUENTIAL
    }

    /// As [`Listing::lookup`], for a program that goes through the directory and looks at each name: a traversal that began on
    /// a listing may end on it. So what was listed since shortly before it began counts for one look at each
    /// name, which may be several calls in a row.
    pub fn lookup_traversing(&mut self, name: &str, ttl: Ttl, start: Instant) -> CachedEntry<'_> {
        self.freshness.continue_traversal(ttl.objects, start);
        let longest = self.lifetime_in_traversal(ttl.objects, start);
        let complete = self.freshness.complete;
        let mut relaxed = Duration::ZERO;
        if let Some(began) = self.freshness.traversed_since()
            && let Some(slot) = self.slots.get_mut(name)
        {
            let visited = slot.visited.filter(|at| *at >= began);
            let one_look = visited.is_none_or(|at| fresh(at, ttl.objects.max(LOOKED_AT), start));
            let checked = slot.checked.max(complete);
            if one_look && checked.is_some_and(|checked| fresh(checked, ttl.objects, began)) {
                relaxed = longest;
            }
            if visited.is_none() {
                slot.visited = Some(start.max(began));
            }
        }
        self.lookup_within(name, ttl, relaxed, start)
    }

    /// Until [`Listing::end_change`] the name keeps what is known of it, whatever the bucket answers.
    pub fn begin_change(&mut self, name: &Name) {
        self.changes.begin_change(name);
    }

    pub fn end_change(&mut self, name: &Name) {
        self.changes.end_change(name);
    }

    pub fn is_changing(&self, name: &str) -> bool {
        self.changes.is_changing(name)
    }

    fn lifetime_in_traversal(&self, ttl: Duration, now: Instant) -> Duration {
        self.freshness
            .lifetime_in_traversal(self.slots.len(), ttl, now)
    }

    pub fn marker(&self) -> Option<bool> {
        self.marker
    }

    pub fn set_marker(&mut self, present: bool) {
        self.marker = Some(present);
    }

    pub fn lookup(&self, name: &str, ttl: Ttl, start: Instant) -> CachedEntry<'_> {
        self.lookup_within(name, ttl, Duration::ZERO, start)
    }

    /// `relaxed`: what is there counts that long at least.
    fn lookup_within(
        &self,
        name: &str,
        ttl: Ttl,
        relaxed: Duration,
        start: Instant,
    ) -> CachedEntry<'_> {
        let complete = self.freshness.complete;
        if let Some(slot) = self.slots.get(name) {
            let Some(checked) = slot.checked.max(complete) else {
                return CachedEntry::Miss;
            };
            let lifetime = match slot.entry {
                Entry::Directory => ttl.of_directories(),
                Entry::Object(_) => ttl.objects,
            };
            let lifetime = lifetime.max(relaxed);
            return if fresh(checked, lifetime, start) || self.changes.is_changing(name) {
                CachedEntry::Hit(&slot.entry, checked)
            } else {
                CachedEntry::Miss
            };
        }
        match self.absent.get(name).copied().max(complete) {
            Some(checked)
                if fresh(checked, ttl.objects, start) || self.changes.is_changing(name) =>
            {
                CachedEntry::Negative(checked)
            }
            _ => CachedEntry::Miss,
        }
    }

    /// The last that was known of a name, however long ago.
    pub fn last_known(&self, name: &str) -> Option<&Entry> {
        self.slots.get(name).map(|slot| &slot.entry)
    }

    /// Whether the name was requested, or removed by us, since then, and is not there.
    pub fn absent_since(&self, name: &str, since: Instant) -> bool {
        self.absent.get(name).is_some_and(|&at| at >= since)
    }

    /// Whether nothing is in the directory, as far as is known; keys that are not shown count.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && !self.hidden
    }

    /// Whether nothing is remembered.
    pub fn is_bare(&self) -> bool {
        self.slots.is_empty() && self.absent.is_empty()
    }

    pub fn has_hidden(&self) -> bool {
        self.hidden
    }

    pub fn set_hidden(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Changes whenever the names do.
    pub fn version(&self) -> ListingVersion {
        (
            self.freshness.complete,
            self.changes.last(),
            self.slots.len(),
        )
    }

    pub fn names(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.slots.iter().map(|(name, slot)| (name, &slot.entry))
    }

    /// Entries after `name`, in order, up to the first that a call which begins at `start` would request.
    pub fn fresh_after(
        &self,
        name: &str,
        lifetime: Duration,
        start: Instant,
    ) -> impl Iterator<Item = (&Name, &Entry)> {
        let lifetime = lifetime.max(self.lifetime_in_traversal(lifetime, start));
        self.slots
            .range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
            .take_while(move |(_, slot)| self.was_checked_within(slot, lifetime, start))
            .map(|(name, slot)| (name, &slot.entry))
    }

    /// The entry of this name, unless a call which begins at `start` would request it.
    pub fn fresh_entry(&self, name: &str, lifetime: Duration, start: Instant) -> Option<&Entry> {
        let lifetime = lifetime.max(self.lifetime_in_traversal(lifetime, start));
        let slot = self.slots.get(name)?;
        self.was_checked_within(slot, lifetime, start)
            .then_some(&slot.entry)
    }

    fn was_checked_within(&self, slot: &Slot, lifetime: Duration, start: Instant) -> bool {
        let checked = slot.checked.max(self.freshness.complete);
        checked.is_some_and(|checked| fresh(checked, lifetime, start))
    }

    /// Whether `name` comes right after `previous` among the entries of its kind, few of the others between them.
    pub fn follows(
        &self,
        name: &str,
        previous: Option<&Name>,
        of_kind: impl Fn(&Entry) -> bool,
    ) -> bool {
        /// Entries of another kind that are skipped.
        const FEW: usize = 16;
        previous.is_some_and(|previous| {
            let bounds = (Bound::Excluded(&**previous), Bound::Unbounded);
            let mut after = self.slots.range::<str, _>(bounds).take(FEW);
            let next = after.find(|(_, slot)| of_kind(&slot.entry));
            next.is_some_and(|(next, _)| **next == *name)
        })
    }

    /// A change of ours that is done: the name is now this.
    pub fn put(&mut self, name: &Name, entry: Entry, now: Instant) {
        self.changes.note_change(name);
        self.absent.remove(name);
        self.slots.insert(name.clone(), Slot::new(entry, Some(now)));
    }

    /// A change of ours that is done: the name is gone.
    pub fn remove(&mut self, name: &Name, now: Instant) {
        self.changes.note_change(name);
        self.slots.remove(name);
        self.note_absent(name, now);
    }

    /// What is known of this name may be wrong: the next lookup requests it.
    pub fn invalidate(&mut self, name: &Name) {
        self.changes.note_change(name);
        self.absent.remove(name);
        if let Some(slot) = self.slots.get_mut(name) {
            slot.checked = None;
            if let Entry::Object(object) = &mut slot.entry {
                (object.known, object.uploaded_here) = (None, false);
            }
        }
        self.freshness.complete = None;
    }

    /// Everything must be requested anew.
    pub fn expire(&mut self) {
        self.freshness.complete = None;
        self.absent.clear();
        for slot in self.slots.values_mut() {
            slot.checked = None;
        }
    }

    /// Gives up what answers nothing any more; names that are held keep what was last known of them. False
    /// if it is still good, or being requested. What has been answered just now is good, however long it took and
    /// even where nothing is remembered: the call that requested it is about to read it, and would find nothing and request it again.
    pub fn drop_expired(&mut self, ttl: Ttl, now: Instant, held: impl Fn(&str) -> bool) -> bool {
        let lasts = ttl.objects.max(LOOKED_AT) + self.freshness.took;
        let good = |at: Instant| fresh(at, lasts, now);
        if self.changes.has_requests() || self.freshness.complete.is_some_and(good) {
            return false;
        }
        self.freshness.complete = None;
        self.absent.retain(|_, at| good(*at));
        let changes = &self.changes;
        self.slots.retain(|name, slot| {
            held(name) || changes.is_changing(name) || slot.checked.is_some_and(good)
        });
        true
    }

    /// What it takes in memory, in bytes.
    pub fn weight(&self) -> u64 {
        (self.slots.len() + self.absent.len()) as u64 * BYTES_PER_ENTRY
    }

    /// Keeps about that many names, those last known, and those that are `held` or changing. What it says of
    /// others it does not know any more.
    pub fn trim(&mut self, most: usize, held: impl Fn(&str) -> bool) {
        let surplus = (self.slots.len() + self.absent.len()).saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let complete = self.freshness.complete.take();
        let slots = self.slots.values();
        let times = slots.map(|slot| slot.checked.max(complete));
        let absent = self.absent.values().map(|at| Some(*at));
        let mut times: Vec<_> = times.chain(absent).collect();
        let (_, oldest, _) = times.select_nth_unstable(surplus - 1);
        let oldest = *oldest;
        self.absent.retain(|_, at| Some(*at) > oldest);
        let changes = &self.changes;
        self.slots.retain(|name, slot| {
            slot.checked = slot.checked.max(complete);
            slot.checked > oldest || held(name) || changes.is_changing(name)
        });
    }

    /// Before a request is sent. Every call is followed by one of [`Listing::apply`],
    /// [`Listing::apply_name`] and [`Listing::give_up`].
    pub fn begin(&mut self) -> Epoch {
        self.changes.begin()
    }

    /// The request failed.
    pub fn give_up(&mut self, epoch: Epoch) {
        if self.changes.is_of_this(epoch) {
            self.changes.end();
        }
    }

    /// A whole listing, requested at `sent`: of a name that comes twice, the last counts. Returns the names that
    /// it lacks: those that we made since.
    pub fn apply(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        pages: u32,
        marker: bool,
        listed: Vec<(Name, Entry)>,
    ) -> Vec<Name> {
        if !self.changes.is_of_this(epoch) {
            return Vec::new();
        }
        let mut overtaken = HashSet::new();
        let slots: Vec<_> = listed
            .into_iter()
            .filter_map(|(name, entry)| {
                if self.changes.changed_since(&name, epoch) {
                    overtaken.insert(name);
                    return None;
                }
                let before = self.slots.get(&name);
                if let Some(before) = before
                    && before.checked.is_some_and(|at| at > sent)
                {
                    // Its page came later than the first, or it was requested alone since.
                    return Some((name, before.clone()));
                }
                let visited = before.and_then(|slot| slot.visited);
                let mut slot = Slot::new(self.with_what_is_known(&name, entry), None);
                slot.visited = visited;
                Some((name, slot))
            })
            .collect();
        let mut before = std::mem::take(&mut self.slots);
        before.retain(|name, _| self.changes.changed_since(name, epoch));
        let made = before.keys().filter(|name| !overtaken.contains(*name));
        let made = made.cloned().collect();
        // Collected, not inserted one after the other, which would leave every node half empty.
        self.slots = slots.into_iter().collect();
        self.slots.append(&mut before);
        self.absent.clear();
        self.freshness.listed(sent, pages);
        self.marker = Some(marker);
        self.changes.end();
        made
    }

    /// Some names of a listing that goes on, requested at `sent`.
    pub fn apply_some(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        listed: impl IntoIterator<Item = (Name, Entry)>,
    ) {
        if !self.changes.is_of_this(epoch) {
            return;
        }
        for (name, entry) in listed {
            self.changes.begin();
            let entry = self.with_what_is_known(&name, entry);
            self.apply_name(epoch, sent, &name, Some(entry));
        }
        self.freshness.pages = self.freshness.pages.max(2);
    }

    /// The directory of this name was seen to be gone at `sent`; a change of ours since then counts more.
    pub fn mark_directory_absent(&mut self, name: &Name, sent: Instant) {
        if let Some(slot) = self.slots.get(name)
            && matches!(slot.entry, Entry::Directory)
            && slot.checked.is_none_or(|checked| checked < sent)
        {
            self.slots.remove(name);
            self.note_absent(name, sent);
        }
    }

    fn with_what_is_known(&self, name: &str, mut entry: Entry) -> Entry {
        if let Some(Slot {
            entry: Entry::Object(old),
            ..
        }) = self.slots.get(name)
            && let Entry::Object(new) = &mut entry
            && old.is_unchanged_in(new)
        {
            new.known = old.known_once_listed();
        }
        entry
    }

    /// One name, requested at `sent`. Returns false if a change of ours made the answer worthless.
    pub fn apply_name(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        name: &Name,
        entry: Option<Entry>,
    ) -> bool {
        if !self.changes.is_of_this(epoch) {
            return false;
        }
        let current = !self.changes.changed_since(name, epoch);
        if current {
            match entry {
                Some(entry) => {
                    self.absent.remove(name);
                    let mut slot = Slot::new(entry, Some(sent));
                    slot.visited = self.slots.get(name).and_then(|slot| slot.visited);
                    self.slots.insert(name.clone(), slot);
                }
                None => {
                    self.slots.remove(name);
                    self.note_absent(name, sent);
                }
            }
        }
        self.changes.end();
        current
    }

    /// What the headers of an object said: kept if the listing shows that object, and no change of ours came
    /// between. Returns whether it was.
    pub fn learn(
        &mut self,
        epoch: Epoch,
        name: &str,
        etag: &ETag,
        known: Arc<CachedAttributes>,
    ) -> bool {
        if !self.changes.is_of_this(epoch) {
            return false;
        }
        let current = !self.changes.changed_since(name, epoch);
        let mut learnt = false;
        if current
            && let Some(Slot {
                entry: Entry::Object(object),
                ..
            }) = self.slots.get_mut(name)
            && object.etag == *etag
        {
            object.known = Some(known);
            learnt = true;
        }
        self.changes.end();
        learnt
    }

    fn note_absent(&mut self, name: &Name, now: Instant) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.clear();
        }
        self.absent.insert(name.clone(), now);
    }
}

#[cfg(test)]
mod tests;
