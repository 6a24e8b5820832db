//! What is known of the names in one directory, as the bucket has them.
//!
//! Difficulties, and what answers each:
//! - A finished listing answers every name, absent ones too, until it expires; in large directories a name
//!   is also asked for alone. `complete` is when the whole was true, a slot's `checked` when that name was.
//! - What was asked before one of our own changes ended says nothing about the changed name. Every change
//!   of ours gets a number ([`Listing::put`], [`Listing::remove`]); an answer carries the number of the last
//!   change before its request ([`Epoch`]), and names changed since keep what we know of them. So do names
//!   whose change is under way ([`Listing::begin_change`]): the bucket may show it before we hear of it.
//! - A listing shows neither modes nor times. [`Known`] attributes are carried over to the next listing when
//!   the object's tag and time are the same and nothing can have hidden in the same second.
//!
//! Pure: the clock is an argument. Instants are those at which a request was sent, never later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::object_name::Name;
use crate::fs::attributes::Attributes;
use crate::store::object_store::ETag;

/// How long what is known counts.
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    pub objects: Duration,
    pub directories: Duration,
}

impl Ttl {
    /// How long it counts that a directory is there: never less than what is known of it.
    pub fn of_directories(&self) -> Duration {
        self.directories.max(self.objects)
    }
}

/// What an object's headers said.
#[derive(Clone, Debug)]
pub struct Known {
    pub attributes: Attributes,
    /// No later change of the metadata can show the same tag and time: they were read two seconds or more
    /// after Last-Modified, which has whole seconds.
    pub settled: bool,
    pub xattrs: bool,
}

/// An object as a listing or its headers show it.
#[derive(Clone, Debug)]
pub struct Object {
    /// In bytes.
    pub size: u64,
    pub etag: ETag,
    /// Seconds since the epoch. Of what we uploaded ourselves: the second in which the answer came, which
    /// is not before the true one.
    pub last_modified: u64,
    /// Uploaded by this mount and not listed since: `last_modified` is an upper bound.
    pub ours: bool,
    pub known: Option<Arc<Known>>,
}

impl Object {
    /// Whether `listed` is this very object with this very metadata, so that what is known still counts.
    fn is_unchanged_in(&self, listed: &Object) -> bool {
        self.etag == listed.etag
            && match &self.known {
                None => false,
                Some(_) if self.ours => listed.last_modified <= self.last_modified,
                Some(known) => known.settled && listed.last_modified == self.last_modified,
            }
    }

    /// What is known stays known after a listing that showed the object unchanged. Of our own uploads it
    /// is settled from then on: a change that another client made in the very second of the upload is the
    /// one thing that could be overlooked.
    fn known_once_listed(&self) -> Option<Arc<Known>> {
        if !self.ours {
            return self.known.clone();
        }
        self.known.as_deref().map(|known| {
            Arc::new(Known {
                settled: true,
                ..known.clone()
            })
        })
    }
}

#[derive(Clone, Debug)]
pub enum Entry {
    /// A common prefix, with or without a marker.
    Directory,
    Object(Object),
}

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

/// Somebody reads the directory, and looks up what it has in it.
#[derive(Clone, Copy, Debug)]
struct Traversal {
    began: Instant,
    /// When a name was read or looked up last.
    last: Instant,
}

/// When the whole was true, the last change of ours, how many names there are.
pub type ListingVersion = (Option<Instant>, u64, usize);

/// What can be said of a name.
#[derive(Debug)]
pub enum Answer<'a> {
    /// And when that was true.
    Present(&'a Entry, Instant),
    Absent(Instant),
    Unknown,
}

#[derive(Debug, Default)]
pub struct Listing {
    id: ListingId,
    slots: BTreeMap<Name, Slot>,
    /// Names asked for alone that were not there.
    absent: HashMap<Name, Instant>,
    /// When the request for the last whole listing was sent.
    complete: Option<Instant>,
    /// How long the last whole listing took.
    took: Duration,
    /// How many pages that one had; at least so many where only the first was read, and none before.
    pages: u32,
    /// Names asked for alone since it expired.
    asked: u32,
    epoch: u64,
    /// Our own changes while requests were under way.
    changes: HashMap<Name, u64>,
    /// How many of our own changes are under way for a name.
    changing: HashMap<Name, u32>,
    under_way: u32,
    /// Whether the directory has a marker, as the last listing showed.
    marker: Option<bool>,
    /// Whether there are keys below that are no valid paths, as the last listing showed.
    hidden: bool,
    /// It has more names than are remembered.
    too_large: bool,
    traversal: Option<Traversal>,
    /// The name that was asked for last, and how many before it came in ascending order.
    sequence: Option<(Name, u32)>,
}

/// Of which listing, and the number of our last change before a request was sent. Given back with the
/// answer. A directory may be forgotten, or removed and made anew, while a request is on its way: the answer
/// says nothing about the listing that stands there then.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    listing: ListingId,
    change: u64,
}

/// No two listings have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ListingId(u64);

impl Default for ListingId {
    fn default() -> ListingId {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ListingId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Whoever asked looks at the answer within this time.
pub const LOOKED_AT: Duration = Duration::from_secs(1);
/// Absent names kept at most.
const MAX_ABSENT: usize = 4096;
/// What a name takes in memory, in bytes: its slot and the tree's share, the name, the tag, its attributes.
pub const BYTES_PER_ENTRY: u64 = 400;
/// A directory of no more names is listed anew with one request.
const ONE_PAGE: usize = 1000;
/// How long one traversal may take for each name: so much older may be what it is shown.
const TRAVERSAL_PER_NAME: Duration = Duration::from_millis(1);
/// After so many names in ascending order those that follow are likely to be asked for next.
const SEQUENTIAL: u32 = 3;

impl Listing {
    /// Of a directory that we made just now: known whole. To list it will take as long as it took to list its
    /// parent.
    pub fn of_new_directory(parent: &Listing, now: Instant) -> Listing {
        Listing {
            complete: Some(now),
            took: parent.took,
            pages: 1,
            marker: Some(true),
            ..Listing::default()
        }
    }

    /// Whether the last whole listing is recent enough for a call that began at `start`.
    pub fn is_fresh(&self, ttl: Ttl, start: Instant) -> bool {
        self.complete
            .is_some_and(|complete| fresh(complete, ttl.objects, start))
    }

    /// When the last whole listing was true.
    pub fn complete(&self) -> Option<Instant> {
        self.complete
    }

    /// Whether one request would make the whole of it fresh again, and it is not.
    pub fn is_stale_page(&self, ttl: Ttl, start: Instant) -> bool {
        self.is_one_page() && !self.is_fresh(ttl, start)
    }

    /// Whether the directory should be listed anew now, so that who goes on asking for its names need not wait
    /// when the last listing expires: one page only, unless the asking is for one name after another, and no sooner than
    /// that takes, twice over.
    pub fn wants_refreshing(&self, ttl: Ttl, walked: bool, now: Instant) -> bool {
        let ahead = (2 * self.took).min(ttl.objects / 4);
        let walked = walked && !self.is_traversed(ttl.objects, now);
        (self.is_one_page() || (walked && self.took < ttl.objects / 4))
            && self.complete.is_some_and(|complete| {
                !fresh(complete, ttl.objects - ahead, now) && fresh(complete, ttl.objects, now)
            })
    }

    pub fn set_duration(&mut self, took: Duration) {
        self.took = took;
    }

    /// Whether a whole listing is one request, as far as is known.
    pub fn is_one_page(&self) -> bool {
        self.pages <= 1 && !self.too_large
    }

    /// Whether it has more names than are remembered, so that it is read page by page.
    pub fn is_too_large(&self) -> bool {
        self.too_large
    }

    pub fn set_too_large(&mut self, too_large: bool) {
        self.too_large = too_large;
    }

    /// Notes that a name must be asked for, and tells whether names are asked for in order, so that a page from
    /// this one on is likely to answer the next.
    pub fn asks_in_order(&mut self, name: &Name) -> bool {
        let steps = match &self.sequence {
            Some((last, steps)) if **last < **name => steps.saturating_add(1),
            _ => 0,
        };
        self.sequence = Some((name.clone(), steps));
        steps >= SEQUENTIAL
    }

    // ---- traversals ----

    /// Somebody begins to read the directory from its beginning.
    pub fn begin_traversal(&mut self, now: Instant) {
        self.traversal = Some(Traversal {
            began: now,
            last: now,
        });
    }

    /// Who reads the directory goes on.
    pub fn continue_traversal(&mut self, ttl: Duration, now: Instant) {
        if self.is_traversed(ttl, now)
            && let Some(traversal) = &mut self.traversal
        {
            traversal.last = traversal.last.max(now);
        }
    }

    fn is_traversed(&self, ttl: Duration, now: Instant) -> bool {
        self.traversal
            .is_some_and(|traversal| fresh(traversal.last, ttl.max(LOOKED_AT), now))
    }

    /// How long what was listed counts for somebody who goes through a directory of many pages.
    fn lifetime_in_traversal(&self, ttl: Duration, now: Instant) -> Duration {
        match self.is_traversed(ttl, now) && self.slots.len() > ONE_PAGE {
            true => TRAVERSAL_PER_NAME * self.slots.len() as u32,
            false => Duration::ZERO,
        }
    }

    /// As [`Listing::look`], for who goes through the directory and looks at each name: a traversal that began on
    /// a listing may end on it. So what was listed since shortly before it began counts for one look at each
    /// name, which may be several calls in a row.
    pub fn look_traversing(&mut self, name: &str, ttl: Ttl, start: Instant) -> Answer<'_> {
        self.continue_traversal(ttl.objects, start);
        let longest = self.lifetime_in_traversal(ttl.objects, start);
        let (complete, traversal) = (self.complete, self.traversal);
        let mut relaxed = Duration::ZERO;
        if let Some(Traversal { began, .. }) = traversal
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
        self.look_within(name, ttl, relaxed, start)
    }

    /// Counts a name that is asked for alone, and tells whether listing anew is the better bargain by now. It
    /// never is where a listing takes half as long as it counts.
    pub fn should_list_again(&mut self, ttl: Ttl) -> bool {
        self.asked += 1;
        self.asked > 2 * self.pages && self.took < ttl.objects / 2
    }

    pub fn marker(&self) -> Option<bool> {
        self.marker
    }

    pub fn set_marker(&mut self, present: bool) {
        self.marker = Some(present);
    }

    pub fn look(&self, name: &str, ttl: Ttl, start: Instant) -> Answer<'_> {
        self.look_within(name, ttl, Duration::ZERO, start)
    }

    /// `relaxed`: what is there counts that long at least.
    fn look_within(&self, name: &str, ttl: Ttl, relaxed: Duration, start: Instant) -> Answer<'_> {
        let complete = self.complete;
        if let Some(slot) = self.slots.get(name) {
            let Some(checked) = slot.checked.max(complete) else {
                return Answer::Unknown;
            };
            let lifetime = match slot.entry {
                Entry::Directory => ttl.of_directories(),
                Entry::Object(_) => ttl.objects,
            };
            let lifetime = lifetime.max(relaxed);
            return if fresh(checked, lifetime, start) || self.is_changing(name) {
                Answer::Present(&slot.entry, checked)
            } else {
                Answer::Unknown
            };
        }
        match self.absent.get(name).copied().max(complete) {
            Some(checked) if fresh(checked, ttl.objects, start) || self.is_changing(name) => {
                Answer::Absent(checked)
            }
            _ => Answer::Unknown,
        }
    }

    /// From here to [`Listing::end_change`] the name keeps what is known of it, whatever the bucket answers.
    pub fn begin_change(&mut self, name: &Name) {
        *self.changing.entry(name.clone()).or_default() += 1;
    }

    pub fn end_change(&mut self, name: &Name) {
        // An answer that is on its way tells of the time before.
        self.note_change(name);
        if let Some(count) = self.changing.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.changing.remove(name);
            }
        }
    }

    pub fn is_changing(&self, name: &str) -> bool {
        self.changing.contains_key(name)
    }

    /// The last that was known of a name, however long ago.
    pub fn last_known(&self, name: &str) -> Option<&Entry> {
        self.slots.get(name).map(|slot| &slot.entry)
    }

    /// Whether the name was asked for, or removed by us, since then, and is not there.
    pub fn went_since(&self, name: &str, since: Instant) -> bool {
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
        (self.complete, self.epoch, self.slots.len())
    }

    pub fn names(&self) -> impl Iterator<Item = (&Name, &Entry)> {
        self.slots.iter().map(|(name, slot)| (name, &slot.entry))
    }

    /// Entries after `name`, in order, up to the first that a call which begins at `start` would ask for.
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

    /// The entry of this name, unless a call which begins at `start` would ask for it.
    pub fn fresh_entry(&self, name: &str, lifetime: Duration, start: Instant) -> Option<&Entry> {
        let lifetime = lifetime.max(self.lifetime_in_traversal(lifetime, start));
        let slot = self.slots.get(name)?;
        self.was_checked_within(slot, lifetime, start)
            .then_some(&slot.entry)
    }

    fn was_checked_within(&self, slot: &Slot, lifetime: Duration, start: Instant) -> bool {
        let checked = slot.checked.max(self.complete);
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
        self.note_change(name);
        self.absent.remove(name);
        self.slots.insert(name.clone(), Slot::new(entry, Some(now)));
    }

    /// A change of ours that is done: the name is gone.
    pub fn remove(&mut self, name: &Name, now: Instant) {
        self.note_change(name);
        self.slots.remove(name);
        self.note_absent(name, now);
    }

    /// What is known of this name may be wrong: the next look asks.
    pub fn doubt(&mut self, name: &Name) {
        self.note_change(name);
        self.absent.remove(name);
        if let Some(slot) = self.slots.get_mut(name) {
            slot.checked = None;
            if let Entry::Object(object) = &mut slot.entry {
                (object.known, object.ours) = (None, false);
            }
        }
        self.complete = None;
    }

    /// Everything must be asked anew.
    pub fn expire(&mut self) {
        self.complete = None;
        self.absent.clear();
        for slot in self.slots.values_mut() {
            slot.checked = None;
        }
    }

    /// Gives up what answers nothing any more; names that are held keep what was last known of them. False
    /// if it is still good, or being asked for. What has been answered just now is good, however long it took and
    /// even where nothing is remembered: who asked is about to look at it, and would find nothing and ask again.
    pub fn drop_expired(&mut self, ttl: Ttl, now: Instant, held: impl Fn(&str) -> bool) -> bool {
        let lasts = ttl.objects.max(LOOKED_AT) + self.took;
        let good = |at: Instant| fresh(at, lasts, now);
        if self.under_way > 0 || self.complete.is_some_and(good) {
            return false;
        }
        self.complete = None;
        self.absent.retain(|_, at| good(*at));
        let changing = &self.changing;
        self.slots.retain(|name, slot| {
            held(name) || changing.contains_key(name) || slot.checked.is_some_and(good)
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
        let complete = self.complete.take();
        let slots = self.slots.values();
        let times = slots.map(|slot| slot.checked.max(complete));
        let absent = self.absent.values().map(|at| Some(*at));
        let mut times: Vec<_> = times.chain(absent).collect();
        let (_, oldest, _) = times.select_nth_unstable(surplus - 1);
        let oldest = *oldest;
        self.absent.retain(|_, at| Some(*at) > oldest);
        let changing = &self.changing;
        self.slots.retain(|name, slot| {
            slot.checked = slot.checked.max(complete);
            slot.checked > oldest || held(name) || changing.contains_key(name)
        });
    }

    /// Before a request is sent. Every call is followed by one of [`Listing::apply`],
    /// [`Listing::apply_name`] and [`Listing::give_up`].
    pub fn begin(&mut self) -> Epoch {
        self.under_way += 1;
        Epoch {
            listing: self.id,
            change: self.epoch,
        }
    }

    /// The request failed.
    pub fn give_up(&mut self, epoch: Epoch) {
        if epoch.listing == self.id {
            self.end();
        }
    }

    /// A whole listing, asked for at `sent`: of a name that comes twice, the last counts. Returns the names that
    /// it lacks: those that we made since.
    pub fn apply(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        pages: u32,
        marker: bool,
        listed: Vec<(Name, Entry)>,
    ) -> Vec<Name> {
        if epoch.listing != self.id {
            return Vec::new();
        }
        let mut overtaken = HashSet::new();
        let slots: Vec<_> = listed
            .into_iter()
            .filter_map(|(name, entry)| {
                if self.changed_since(&name, epoch) {
                    overtaken.insert(name);
                    return None;
                }
                let before = self.slots.get(&name);
                if let Some(before) = before
                    && before.checked.is_some_and(|at| at > sent)
                {
                    // Its page came later than the first, or it was asked for alone since.
                    return Some((name, before.clone()));
                }
                let visited = before.and_then(|slot| slot.visited);
                let mut slot = Slot::new(self.with_what_is_known(&name, entry), None);
                slot.visited = visited;
                Some((name, slot))
            })
            .collect();
        let mut before = std::mem::take(&mut self.slots);
        before.retain(|name, _| self.changed_since(name, epoch));
        let made = before.keys().filter(|name| !overtaken.contains(*name));
        let made = made.cloned().collect();
        // Collected, not inserted one after the other, which would leave every node half empty.
        self.slots = slots.into_iter().collect();
        self.slots.append(&mut before);
        self.absent.clear();
        self.complete = Some(sent);
        self.pages = pages;
        self.too_large = false;
        self.asked = 0;
        self.marker = Some(marker);
        self.end();
        made
    }

    /// Some names of a listing that goes on, asked for at `sent`.
    pub fn apply_some(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        listed: impl IntoIterator<Item = (Name, Entry)>,
    ) {
        if epoch.listing != self.id {
            return;
        }
        for (name, entry) in listed {
            self.under_way += 1;
            let entry = self.with_what_is_known(&name, entry);
            self.apply_name(epoch, sent, &name, Some(entry));
        }
        self.pages = self.pages.max(2);
    }

    /// The directory of this name was seen to be gone at `sent`; a change of ours since then counts more.
    pub fn doubt_directory(&mut self, name: &Name, sent: Instant) {
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

    /// One name, asked for at `sent`. Returns false if a change of ours made the answer worthless.
    pub fn apply_name(
        &mut self,
        epoch: Epoch,
        sent: Instant,
        name: &Name,
        entry: Option<Entry>,
    ) -> bool {
        if epoch.listing != self.id {
            return false;
        }
        let current = !self.changed_since(name, epoch);
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
        self.end();
        current
    }

    /// What the headers of an object said: kept if the listing shows that object, and no change of ours came
    /// between. Returns whether it was.
    pub fn learn(&mut self, epoch: Epoch, name: &str, etag: &ETag, known: Arc<Known>) -> bool {
        if epoch.listing != self.id {
            return false;
        }
        let current = !self.changed_since(name, epoch);
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
        self.end();
        learnt
    }

    fn changed_since(&self, name: &str, epoch: Epoch) -> bool {
        self.is_changing(name) || self.changes.get(name).is_some_and(|&at| at > epoch.change)
    }

    fn note_change(&mut self, name: &Name) {
        self.epoch += 1;
        if self.under_way > 0 {
            self.changes.insert(name.clone(), self.epoch);
        }
    }

    fn note_absent(&mut self, name: &Name, now: Instant) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.clear();
        }
        self.absent.insert(name.clone(), now);
    }

    fn end(&mut self) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.changes.clear();
        }
    }
}

/// Whether what was true at `checked` counts for a call that began at `start`.
pub fn fresh(checked: Instant, lifetime: Duration, start: Instant) -> bool {
    checked + lifetime >= start
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Ttl = Ttl {
        objects: Duration::from_secs(1),
        directories: Duration::from_secs(60),
    };

    fn object(tag: &str, time: u64) -> Entry {
        Entry::Object(Object {
            size: 1,
            etag: ETag::new(tag),
            last_modified: time,
            ours: false,
            known: None,
        })
    }

    fn name(text: &str) -> Name {
        Name::from(text)
    }

    fn listed(names: &[&str]) -> Vec<(Name, Entry)> {
        names.iter().map(|n| (name(n), object(n, 1))).collect()
    }

    #[test]
    fn a_whole_listing_answers_absent_names_until_it_expires() {
        let start = Instant::now();
        let mut listing = Listing::default();
        assert!(matches!(listing.look("a", TTL, start), Answer::Unknown));
        let epoch = listing.begin();
        listing.apply(epoch, start, 1, false, listed(&["a"]));
        let later = start + Duration::from_millis(999);
        assert!(matches!(
            listing.look("a", TTL, later),
            Answer::Present(Entry::Object(_), _)
        ));
        assert!(matches!(listing.look("b", TTL, later), Answer::Absent(_)));
        let expired = start + Duration::from_millis(1001);
        assert!(matches!(listing.look("a", TTL, expired), Answer::Unknown));
        assert!(matches!(listing.look("b", TTL, expired), Answer::Unknown));
    }

    #[test]
    fn a_listing_is_renewed_shortly_before_it_expires_if_it_is_short_or_being_walked() {
        let start = Instant::now();
        let wants = |pages, walked, took, age| {
            let mut listing = Listing::default();
            let epoch = listing.begin();
            listing.apply(epoch, start, pages, false, listed(&["a"]));
            listing.set_duration(Duration::from_millis(took));
            listing.wants_refreshing(TTL, walked, start + Duration::from_millis(age))
        };
        for (pages, walked, took, age, expected) in [
            (1, false, 20, 959, false),
            (1, false, 20, 961, true),
            (1, false, 20, 1001, false),
            // Not all the time, however slow the bucket is.
            (1, false, 900, 749, false),
            (1, false, 900, 751, true),
            (2, false, 20, 961, false),
            (2, true, 20, 959, false),
            (2, true, 20, 961, true),
            (9, true, 240, 751, true),
            (9, true, 260, 751, false),
        ] {
            let case = (pages, walked, took, age);
            assert_eq!(wants(pages, walked, took, age), expected, "{case:?}");
        }
        assert!(!Listing::default().wants_refreshing(TTL, true, start));
    }

    #[test]
    fn a_directory_whose_first_page_was_not_all_is_listed_whole_when_that_is_the_better_bargain() {
        let start = Instant::now();
        let mut listing = Listing::default();
        assert!(listing.is_one_page());
        let epoch = listing.begin();
        listing.apply_some(epoch, start, listed(&["a"]));
        assert!(!listing.is_one_page());
        let asked = (1..).find(|_| listing.should_list_again(TTL));
        assert_eq!(asked, Some(5));
        // It would have expired before it could be used.
        listing.set_duration(TTL.objects);
        assert!(!(1..100).any(|_| listing.should_list_again(TTL)));
    }

    /// Of so many names, `00000` and on, asked for at `sent`.
    fn many(count: usize, sent: Instant) -> Listing {
        let names: Vec<_> = (0..count).map(|i| format!("{i:05}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut listing = Listing::default();
        let epoch = listing.begin();
        listing.apply(epoch, sent, 2, false, listed(&names));
        listing
    }

    #[test]
    fn a_traversal_that_began_on_a_listing_may_end_on_it_with_one_look_at_each_name() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let late = start + ms(5000);
        fn present(answer: Answer<'_>) -> bool {
            matches!(answer, Answer::Present(..))
        }
        let traversed = |count: usize, began: Instant, until: Instant| {
            let mut listing = many(count, start);
            listing.begin_traversal(began);
            let mut now = began;
            while now < until {
                listing.continue_traversal(TTL.objects, now);
                now += ms(500);
            }
            listing
        };
        let mut listing = traversed(10_000, start + ms(900), late);
        assert!(!present(listing.look("00001", TTL, late)), "not for all");
        assert!(present(listing.look_traversing("00001", TTL, late)));
        // lstat, and then getxattr.
        assert!(present(listing.look_traversing(
            "00001",
            TTL,
            late + ms(900)
        )));
        assert!(!present(listing.look_traversing(
            "00001",
            TTL,
            late + ms(1100)
        )));
        assert!(present(listing.look_traversing(
            "00002",
            TTL,
            late + ms(1100)
        )));
        // At most a millisecond for each name.
        assert!(!present(listing.look_traversing(
            "00003",
            TTL,
            start + ms(9999)
        )));
        let mut listing = traversed(10_000, start, start + ms(9999));
        assert!(present(listing.look_traversing(
            "00003",
            TTL,
            start + ms(9999)
        )));
        assert!(!present(listing.look_traversing(
            "00004",
            TTL,
            start + ms(10_001)
        )));
        // Who was looked up before the traversal has no part in it; who polls a name sees it change.
        let mut listing = traversed(10_000, start, start + ms(500));
        assert!(present(listing.look_traversing(
            "00005",
            TTL,
            start + ms(500)
        )));
        let mut at = start + ms(500);
        while at < late {
            at += ms(100);
            listing.continue_traversal(TTL.objects, at);
            let fresh_or_first = at <= start + ms(1500);
            let answer = listing.look_traversing("00005", TTL, at);
            assert_eq!(present(answer), fresh_or_first, "{:?}", at - start);
        }
        // One page is renewed with one request; what was listed long before says nothing.
        let mut listing = traversed(1000, start, late);
        assert!(!present(listing.look_traversing("00001", TTL, late)));
        let mut listing = traversed(10_000, start + ms(2000), late);
        assert!(!present(listing.look_traversing("00001", TTL, late)));
        // Nobody reads on.
        let mut listing = traversed(10_000, start, start + ms(500));
        assert!(!present(listing.look_traversing("00001", TTL, late)));
    }

    #[test]
    fn what_was_known_last_is_kept_when_there_is_room_for_some() {
        let start = Instant::now();
        let mut listing = many(100, start);
        for (i, name_of) in (40..50).map(|i| (i, format!("{i:05}"))) {
            let epoch = listing.begin();
            let at = start + Duration::from_millis(i);
            listing.apply_name(epoch, at, &name(&name_of), Some(object("new", 1)));
        }
        assert_eq!(listing.weight(), 100 * BYTES_PER_ENTRY);
        listing.trim(5, |name| name == "00007");
        let kept: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
        let expected = ["00007", "00045", "00046", "00047", "00048", "00049"];
        assert_eq!(kept, expected);
        // What is not kept is not known; what is counts as long as before.
        assert!(matches!(listing.look("00001", TTL, start), Answer::Unknown));
        assert!(matches!(
            listing.look("00007", TTL, start),
            Answer::Present(..)
        ));
        listing.trim(0, |_| false);
        assert!(listing.is_bare());
    }

    #[test]
    fn names_that_are_asked_for_in_ascending_order_are_seen_to_be() {
        let mut listing = Listing::default();
        let asked = ["b", "a", "c", "d", "e", "f", "e", "f"];
        let in_order = asked.map(|text| listing.asks_in_order(&name(text)));
        assert_eq!(
            in_order,
            [false, false, false, false, true, true, false, false]
        );
    }

    /// Where memory was short, an answer was dropped before who had asked looked at it, and so on until EBUSY.
    #[test]
    fn an_answer_outlives_a_want_of_memory_until_it_is_looked_at() {
        let start = Instant::now();
        let none = Ttl {
            objects: Duration::ZERO,
            directories: Duration::ZERO,
        };
        for took in [Duration::ZERO, Duration::from_secs(5)] {
            let mut listing = Listing::default();
            let epoch = listing.begin();
            listing.set_duration(took);
            listing.apply(epoch, start, 1, false, listed(&["a"]));
            let answered = start + took;
            assert!(!listing.drop_expired(none, answered, |_| false));
            assert!(matches!(
                listing.look("a", none, start),
                Answer::Present(..)
            ));
            let later = answered + 2 * LOOKED_AT;
            let epoch = listing.begin();
            listing.apply_name(epoch, later, &name("b"), None);
            assert!(listing.drop_expired(none, later, |_| false));
            assert!(matches!(listing.look("b", none, later), Answer::Absent(_)));
            assert!(matches!(listing.look("a", none, start), Answer::Unknown));
        }
    }

    #[test]
    fn a_name_that_is_listed_twice_is_a_directory() {
        let start = Instant::now();
        let mut listing = Listing::default();
        let epoch = listing.begin();
        let whole = vec![
            (name("a"), object("t", 1)),
            (name("b"), object("t", 1)),
            (name("a"), Entry::Directory),
        ];
        listing.apply(epoch, start, 2, false, whole);
        assert!(matches!(listing.last_known("a"), Some(Entry::Directory)));
        assert_eq!(listing.len(), 2);
    }

    #[test]
    fn directories_outlive_objects() {
        let start = Instant::now();
        let mut listing = Listing::default();
        let epoch = listing.begin();
        let whole = vec![(name("d"), Entry::Directory)];
        listing.apply(epoch, start, 1, false, whole);
        let later = start + Duration::from_secs(59);
        assert!(matches!(
            listing.look("d", TTL, later),
            Answer::Present(Entry::Directory, _)
        ));
    }

    #[test]
    fn an_answer_from_before_our_change_does_not_undo_it() {
        let start = Instant::now();
        let mut listing = Listing::default();
        let epoch = listing.begin();
        listing.put(&name("made"), object("new", 2), start);
        listing.remove(&name("gone"), start);
        let made = listing.apply(epoch, start, 1, false, listed(&["gone", "other"]));
        assert_eq!(made, [name("made")]);
        let names: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["made", "other"]);

        let epoch = listing.begin();
        listing.put(&name("made"), object("newer", 3), start);
        assert!(!listing.apply_name(epoch, start, &name("made"), None));
        let epoch = listing.begin();
        assert!(listing.apply_name(epoch, start, &name("made"), None));
    }

    #[test]
    fn a_name_keeps_what_is_known_of_it_while_it_is_changed() {
        // The DELETE of a rename had taken effect, and its answer was still on the way: a HEAD found nothing,
        // and the inode that was being renamed lost its name.
        let start = Instant::now();
        let later = start + Duration::from_secs(2);
        let mut listing = Listing::default();
        let epoch = listing.begin();
        listing.apply(epoch, start, 1, false, listed(&["a", "b"]));
        listing.begin_change(&name("a"));
        let (before, whole) = (listing.begin(), listing.begin());
        assert!(!listing.apply_name(before, later, &name("a"), None));
        listing.apply(whole, later, 1, false, listed(&["b"]));
        let much_later = later + Duration::from_secs(5);
        assert!(matches!(
            listing.look("a", TTL, much_later),
            Answer::Present(Entry::Object(_), _)
        ));
        let during = listing.begin();
        listing.remove(&name("a"), later);
        listing.end_change(&name("a"));
        let stale = listing.apply_name(during, later, &name("a"), Some(object("a", 1)));
        assert!(!stale, "it was asked for before the end");
        assert!(matches!(listing.look("a", TTL, later), Answer::Absent(_)));
        let epoch = listing.begin();
        assert!(listing.apply_name(epoch, later, &name("a"), Some(object("a", 2))));
    }

    #[test]
    fn an_answer_for_a_listing_that_was_forgotten_is_not_taken_for_its_successor() {
        // A directory was forgotten while it was listed, and looked up again: the counter of requests under
        // way fell below zero, and numbers of changes were compared across listings.
        let start = Instant::now();
        let mut before = Listing::default();
        let epochs: Vec<_> = (0..5).map(|_| before.begin()).collect();
        let mut listing = Listing::of_new_directory(&Listing::default(), start);
        listing.put(&name("made"), object("new", 2), start);
        listing.apply(epochs[0], start, 1, false, listed(&["ghost"]));
        listing.apply_some(epochs[1], start, listed(&["ghost"]));
        assert!(!listing.apply_name(epochs[2], start, &name("made"), None));
        listing.give_up(epochs[3]);
        let names: Vec<_> = listing.names().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["made"]);
        let epoch = listing.begin();
        assert!(listing.apply_name(epoch, start, &name("made"), None));
    }

    #[test]
    fn attributes_are_carried_over_only_when_nothing_can_have_hidden() {
        for (ours, settled, listed_time, listed_tag, carried) in [
            (false, true, 10, "t", true),
            (false, false, 10, "t", false),
            (false, true, 11, "t", false),
            (false, true, 10, "u", false),
            (true, false, 9, "t", true),
            (true, false, 10, "t", true),
            (true, false, 11, "t", false),
        ] {
            let now = Instant::now();
            let mut listing = Listing::default();
            let known = Known {
                attributes: Attributes::implicit_directory(crate::fs::attributes::Timestamp {
                    seconds: 0,
                    nanos: 0,
                }),
                settled,
                xattrs: false,
            };
            let entry = Entry::Object(Object {
                size: 1,
                etag: ETag::new("t"),
                last_modified: 10,
                ours,
                known: Some(Arc::new(known)),
            });
            listing.put(&name("a"), entry, now);
            let epoch = listing.begin();
            let whole = vec![(name("a"), object(listed_tag, listed_time))];
            listing.apply(epoch, now, 1, false, whole);
            let Some(Entry::Object(object)) = listing.last_known("a") else {
                panic!("the name is listed");
            };
            assert_eq!(object.known.is_some(), carried);
        }
    }
}
