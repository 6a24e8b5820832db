//! Changes of our own to the names of a directory, and what responses say that were requested before them.
//!
//! What was requested before one of our changes ended says nothing about the changed name. Every change gets a number;
//! a response carries the number of the last change before its request ([`Epoch`]), and names changed since keep what
//! is known of them. So do names whose change is under way (`ChangeLog::begin_change`): the bucket may show it before
//! its acknowledgement arrives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::object_name::Name;

#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    id: ListingId,
    epoch: u64,
    /// Our own changes while requests were under way.
    changes: HashMap<Name, u64>,
    /// How many of our own changes are under way for a name.
    changing: HashMap<Name, u32>,
    under_way: u32,
}

/// Of which listing, and the number of our last change before a request was sent. Given back with the
/// response. A directory may be forgotten, or removed and made anew, while a request is on its way: the response
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

impl ChangeLog {
    /// Before a request is sent. Followed by one [`ChangeLog::end`].
    pub(super) fn begin(&mut self) -> Epoch {
        self.under_way += 1;
        Epoch {
            listing: self.id,
            change: self.epoch,
        }
    }

    /// The request has ended.
    pub(super) fn end(&mut self) {
        self.under_way -= 1;
        if self.under_way == 0 {
            self.changes.clear();
        }
    }

    /// Whether a request of that epoch was for this listing.
    pub(super) fn is_of_this(&self, epoch: Epoch) -> bool {
        epoch.listing == self.id
    }

    pub(super) fn has_requests(&self) -> bool {
        self.under_way > 0
    }

    /// From here to [`ChangeLog::end_change`] the name keeps what is known of it.
    pub(super) fn begin_change(&mut self, name: &Name) {
        *self.changing.entry(name.clone()).or_default() += 1;
    }

    pub(super) fn end_change(&mut self, name: &Name) {
        // A response that is on its way tells of the time before.
        self.note_change(name);
        if let Some(count) = self.changing.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.changing.remove(name);
            }
        }
    }

    pub(super) fn is_changing(&self, name: &str) -> bool {
        self.changing.contains_key(name)
    }

    /// Whether a response to a request of that epoch says nothing about the name.
    pub(super) fn changed_since(&self, name: &str, epoch: Epoch) -> bool {
        self.is_changing(name) || self.changes.get(name).is_some_and(|&at| at > epoch.change)
    }

    pub(super) fn note_change(&mut self, name: &Name) {
        self.epoch += 1;
        if self.under_way > 0 {
            self.changes.insert(name.clone(), self.epoch);
        }
    }

    /// The number of the last change.
    pub(super) fn last(&self) -> u64 {
        self.epoch
    }
}
