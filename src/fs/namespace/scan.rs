//! A directory's names while a listing brings them: readable before the last page has come.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::entry::Entry;
use super::listing::ListingVersion;
use super::object_name::Name;
use crate::base::sync::lock;
use crate::base::wait::until;
use crate::fs::data::budget::{MemoryBudget, Reservation};
use crate::fs::error::{Error, Result};
use crate::store::listing::PageToken;

/// A listing that is under way or has just ended.
pub struct DirectoryScan {
    /// When its first request was sent.
    pub sent: Instant,
    state: Mutex<State>,
    grew: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of the bucket, as far as it has come.
    names: Vec<(Name, EntryKind)>,
    end: Option<Result<ScanScope>>,
    /// The page that follows, where the listing was cut.
    rest: Option<Rest>,
    /// What the names take of the memory budget.
    memory: Option<Reservation>,
}

/// Where the pages of a directory are that is too large to be remembered whole. None: at its beginning.
pub type Rest = Option<PageToken>;

/// What a name takes in a listing under way, in bytes: the name itself is shared with what is remembered.
const BYTES_PER_NAME: u64 = 64;

/// A listing as it stood, for those who begin to read the directory while nothing changes.
pub type SharedReading = (ListingVersion, Weak<DirectoryScan>);

/// What a listing tells of an entry's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    /// An object of so many bytes.
    Object(u64),
}

/// What has come of a listing that may still be under way.
pub enum ScanEntry {
    Entry(Name, EntryKind),
    /// There is no such entry.
    End,
    /// It is in the pages that follow, from this one on, which are not remembered.
    Cut(Rest),
    /// Its page is on its way, or failed.
    NotYet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanScope {
    Whole,
    /// The first page was all that was wanted, and there are more.
    FirstPage,
    /// There are more names than are remembered: the rest is read page by page by those who want it.
    Cut,
}

impl DirectoryScan {
    pub(crate) fn new(sent: Instant) -> Arc<DirectoryScan> {
        Arc::new(DirectoryScan {
            sent,
            state: Mutex::default(),
            grew: Notify::new(),
        })
    }

    /// Names that were there already at `start`, as a listing that has ended.
    pub fn of_names(
        names: Vec<(Name, EntryKind)>,
        start: Instant,
        budget: &MemoryBudget,
    ) -> Arc<DirectoryScan> {
        let scan = DirectoryScan::new(start);
        *scan.lock() = State {
            memory: Some(budget.charge(names.len() as u64 * BYTES_PER_NAME)),
            names,
            end: Some(Ok(ScanScope::Whole)),
            rest: None,
        };
        scan
    }

    /// One of a directory that is known to be too large: all its pages are to be read.
    pub fn cut_at_beginning(start: Instant) -> Arc<DirectoryScan> {
        let scan = DirectoryScan::new(start);
        scan.end_cut(None);
        scan
    }

    pub(crate) fn end_cut(&self, rest: Rest) {
        let mut state = self.lock();
        state.rest = Some(rest);
        state.end = Some(Ok(ScanScope::Cut));
    }

    /// One that could not begin.
    pub(crate) fn failed(error: Error) -> Arc<DirectoryScan> {
        let scan = DirectoryScan::new(Instant::now());
        scan.lock().end = Some(Err(error));
        scan
    }

    /// How it ended, for those that wait for it once [`DirectoryScan::break_off`] was called as well.
    pub(crate) fn end(&self, end: Result<ScanScope>) {
        self.lock().end = Some(end);
    }

    /// Whether it ended because the bucket did not answer in time.
    pub(crate) fn has_timed_out(&self) -> bool {
        matches!(self.lock().end, Some(Err(Error::TimedOut(_))))
    }

    /// It is over. One that has not ended by then fails.
    pub(crate) fn break_off(&self) {
        let mut state = self.lock();
        let broken = || Err(Error::io("a listing was broken off"));
        state.end.get_or_insert_with(broken);
        drop(state);
        self.grew.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until [`DirectoryScan::entry_now`] tells of the entry at `index`.
    pub async fn wait_for(&self, index: usize) -> Result<()> {
        until(&self.grew, || {
            let state = self.lock();
            match &state.end {
                _ if index < state.names.len() => Some(Ok(())),
                Some(Ok(_)) => Some(Ok(())),
                Some(Err(error)) => Some(Err(error.clone())),
                None => None,
            }
        })
        .await
    }

    /// The entry at `index`, as far as is known now.
    pub fn entry_now(&self, index: usize) -> ScanEntry {
        let state = self.lock();
        match (state.names.get(index), &state.end) {
            (Some((name, kind)), _) => ScanEntry::Entry(name.clone(), *kind),
            (None, Some(Ok(_))) => match &state.rest {
                Some(rest) => ScanEntry::Cut(rest.clone()),
                None => ScanEntry::End,
            },
            (None, _) => ScanEntry::NotYet,
        }
    }

    /// Names that are known from now on.
    pub(crate) fn add(
        &self,
        names: impl IntoIterator<Item = (Name, EntryKind)>,
        budget: &MemoryBudget,
    ) {
        let mut state = self.lock();
        state.names.extend(names);
        let bytes = state.names.len() as u64 * BYTES_PER_NAME;
        let memory = state.memory.get_or_insert_with(|| budget.charge(0));
        memory.resize(bytes);
        drop(state);
        self.grew.notify_waiters();
    }

    /// How many names have come.
    pub(crate) fn len(&self) -> usize {
        self.lock().names.len()
    }

    /// Leaves out those names that have come.
    pub fn without<T>(&self, names: &mut Vec<(Name, T)>) {
        if names.is_empty() {
            return;
        }
        let wanted: HashSet<&Name> = names.iter().map(|(name, _)| name).collect();
        let state = self.lock();
        let listed = state.names.iter().map(|(name, _)| name);
        let listed: HashSet<Name> = listed
            .filter(|name| wanted.contains(name))
            .cloned()
            .collect();
        drop(state);
        names.retain(|(name, _)| !listed.contains(name));
    }

    pub async fn ended(&self) -> Result<ScanScope> {
        until(&self.grew, || self.lock().end.clone()).await
    }
}

impl EntryKind {
    pub fn of(entry: &Entry) -> EntryKind {
        match entry {
            Entry::Directory => EntryKind::Directory,
            Entry::Object(object) => EntryKind::Object(object.size),
        }
    }

    pub(crate) fn is_object(self) -> bool {
        matches!(self, EntryKind::Object(_))
    }
}
