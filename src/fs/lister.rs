//! Listing directories: one listing of a directory at a time, shared by everybody who needs it, readable
//! while its pages come.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::budget::{MemoryBudget, Reservation};
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::gate::Scope;
use super::inode_hold::InodeHold;
use super::listing::{BYTES_PER_ENTRY, Entry, Epoch, ListingVersion, Object, fresh};
use super::names::{self, Name};
use super::namespace::{Ino, Marker, Namespace};
use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::base::wait::until;
use crate::store::listing::PageToken;
use crate::store::log_limit::LogLimit;
use crate::store::object_store::{ListPage, ListRequest, ListedObject, ObjectKey};

/// Anybody may have stored such keys, and directories are listed all the time.
static HIDDEN_LOG: LogLimit = LogLimit::new();
const HIDDEN_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The listings that are under way, and whether each is of the whole directory.
pub(super) type Builds = HashMap<Ino, (Arc<Build>, bool)>;

/// A listing that is under way or has just ended.
pub struct Build {
    /// When its first request was sent.
    pub sent: Instant,
    state: Mutex<State>,
    grew: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of the bucket, as far as it has come.
    names: Vec<(Name, Shape)>,
    end: Option<Result<Extent>>,
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
pub type SharedReading = (ListingVersion, Weak<Build>);

/// What a listing tells of an entry's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Directory,
    /// An object of so many bytes.
    Object(u64),
}

/// What has come of a listing that may still be under way.
pub enum Come {
    Entry(Name, Shape),
    /// There is no such entry.
    End,
    /// It is in the pages that follow, from this one on, which are not remembered.
    Cut(Rest),
    /// Its page is on its way, or failed.
    NotYet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// The first page was all that was wanted, and there are more.
    FirstPage,
    /// There are more names than are remembered: the rest is read page by page by those who want it.
    Cut,
}

impl Build {
    fn new(sent: Instant) -> Arc<Build> {
        Arc::new(Build {
            sent,
            state: Mutex::default(),
            grew: Notify::new(),
        })
    }

    /// Names that were there already at `start`, as a listing that has ended.
    pub fn of_names(
        names: Vec<(Name, Shape)>,
        start: Instant,
        budget: &MemoryBudget,
    ) -> Arc<Build> {
        let build = Build::new(start);
        *build.lock() = State {
            memory: Some(budget.charge(names.len() as u64 * BYTES_PER_NAME)),
            names,
            end: Some(Ok(Extent::Whole)),
            rest: None,
        };
        build
    }

    /// One of a directory that is known to be too large: all its pages are to be read.
    pub fn cut_at_beginning(start: Instant) -> Arc<Build> {
        let build = Build::new(start);
        build.end_cut(None);
        build
    }

    fn end_cut(&self, rest: Rest) {
        let mut state = self.lock();
        state.rest = Some(rest);
        state.end = Some(Ok(Extent::Cut));
    }

    /// One that could not begin.
    fn failed(error: Error) -> Arc<Build> {
        let build = Build::new(Instant::now());
        build.lock().end = Some(Err(error));
        build
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until [`Build::entry_now`] tells of the entry at `index`.
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
    pub fn entry_now(&self, index: usize) -> Come {
        let state = self.lock();
        match (state.names.get(index), &state.end) {
            (Some((name, shape)), _) => Come::Entry(name.clone(), *shape),
            (None, Some(Ok(_))) => match &state.rest {
                Some(rest) => Come::Cut(rest.clone()),
                None => Come::End,
            },
            (None, _) => Come::NotYet,
        }
    }

    /// Names that are known from now on.
    fn come(&self, names: impl IntoIterator<Item = (Name, Shape)>, budget: &MemoryBudget) {
        let mut state = self.lock();
        state.names.extend(names);
        let bytes = state.names.len() as u64 * BYTES_PER_NAME;
        let memory = state.memory.get_or_insert_with(|| budget.charge(0));
        memory.resize(bytes);
        drop(state);
        self.grew.notify_waiters();
    }

    /// How many names have come.
    pub fn len(&self) -> usize {
        self.lock().names.len()
    }

    /// Leaves out those names that have come.
    pub fn without<T>(&self, names: &mut Vec<(Name, T)>) {
        if names.is_empty() {
            return;
        }
        let wanted: HashSet<&Name> = names.iter().map(|(name, _)| name).collect();
        let state = self.lock();
        let come = state.names.iter().map(|(name, _)| name);
        let come: HashSet<Name> = come.filter(|name| wanted.contains(name)).cloned().collect();
        drop(state);
        names.retain(|(name, _)| !come.contains(name));
    }

    pub async fn ended(&self) -> Result<Extent> {
        until(&self.grew, || self.lock().end.clone()).await
    }
}

impl Filesystem {
    /// Lists a directory, or joins a listing of it that began late enough for a call that began at
    /// `start`. `whole`: not only the first page.
    pub(super) fn list(self: &Arc<Self>, ino: Ino, whole: bool, start: Instant) -> Arc<Build> {
        let ttl = self.settings.metadata_ttl;
        let under_way = |builds: &Builds, ino| match builds.get(&ino) {
            Some((build, all)) if fresh(build.sent, ttl, start) && *all >= whole => {
                Some(build.clone())
            }
            _ => None,
        };
        if let Some(build) = under_way(&lock(&self.builds), ino) {
            return build;
        }
        let hold = match self.hold_inode(ino) {
            Ok(hold) => hold,
            Err(error) => return Build::failed(error),
        };
        let tree = self.small_tree_with(ino, start);
        let mut builds = lock(&self.builds);
        // Somebody else may have begun meanwhile.
        if let Some(build) = under_way(&builds, ino) {
            return build;
        }
        let mut begin = |ino, whole, hold| {
            let build = Build::new(Instant::now());
            builds.insert(ino, (build.clone(), whole));
            Begun {
                fs: self.clone(),
                ino,
                build,
                hold: Some(hold),
            }
        };
        let begun = begin(ino, whole || tree.is_some(), hold);
        let build = begun.build.clone();
        match tree {
            None => drop(self.runtime.spawn(begun.run(whole))),
            Some(mut tree) => {
                let others = std::mem::take(&mut tree.holds).into_iter();
                let others = others.map(|(other, hold)| begin(other, true, hold));
                let begun = std::iter::once(begun).chain(others).collect();
                drop(self.runtime.spawn(tree.run(begun)));
            }
        }
        build
    }

    async fn run_build(&self, build: &Build, ino: Ino, whole: bool) -> Result<Extent> {
        // The keys of what is listed stay while it is.
        let listing = |namespace: &Namespace| Some(vec![Scope::Listing(namespace.key(ino)?)]);
        let _pass = self.enter(listing).await?;
        let (prefix, epoch) = {
            let mut namespace = self.namespace();
            let prefix = namespace.key(ino).ok_or(Error::Stale)?;
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            (prefix, directory.listing.begin())
        };
        let extent = self.read_pages(build, ino, &prefix, epoch, whole).await;
        extent.inspect_err(|_| self.give_up(ino, epoch))
    }

    async fn read_pages(
        &self,
        build: &Build,
        ino: Ino,
        prefix: &str,
        epoch: Epoch,
        whole: bool,
    ) -> Result<Extent> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            delimited: true,
            ..ListRequest::default()
        };
        let budget = self.staging.budget();
        let most = self.namespace().most_names();
        let mut listed = Listed::default();
        let mut memory = budget.charge(0);
        loop {
            let sent = Instant::now();
            let page = self.bucket.store().list(&request).await?;
            let next = page.next.clone();
            let last = last_key(&page);
            let at_root = ino == Ino::ROOT;
            let before = listed.entries.len();
            let come = listed.take_page(page, prefix, at_root);
            memory.resize(listed.entries.len() as u64 * BYTES_PER_ENTRY / 4);
            if next.is_none() {
                self.apply_whole(build, ino, epoch, come, listed);
                return Ok(Extent::Whole);
            }
            {
                let mut namespace = self.namespace();
                if let Some(directory) = namespace.directory(ino) {
                    let sure = sure_of(&listed.entries[before..], prefix, &last);
                    directory.listing.apply_some(epoch, sent, sure);
                }
                namespace.account(ino, sent);
            }
            build.come(come, budget);
            if !whole {
                self.give_up(ino, epoch);
                return Ok(Extent::FirstPage);
            }
            if listed.entries.len() > most {
                if let Some(directory) = self.namespace().directory(ino) {
                    directory.listing.set_too_large(true);
                    directory.listing.give_up(epoch);
                }
                build.end_cut(next);
                return Ok(Extent::Cut);
            }
            request.token = next;
        }
    }

    /// One page of a directory, from that place on, whatever is remembered of it.
    pub(super) async fn list_page(&self, ino: Ino, at: Rest) -> Result<Page> {
        let listing = |namespace: &Namespace| Some(vec![Scope::Listing(namespace.key(ino)?)]);
        let _pass = self.enter(listing).await?;
        let (prefix, epoch) = {
            let mut namespace = self.namespace();
            let prefix = namespace.key(ino).ok_or(Error::Stale)?;
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            (prefix, directory.listing.begin())
        };
        let request = ListRequest {
            prefix: prefix.clone(),
            delimited: true,
            token: at,
            ..ListRequest::default()
        };
        let sent = Instant::now();
        let page = self.bucket.store().list(&request).await;
        let page = page.inspect_err(|_| self.give_up(ino, epoch))?;
        Ok(self.apply_page(ino, epoch, sent, page, &prefix, None))
    }

    /// The page from a name on, which is likely to tell of those that are asked for next. Returns whether the name
    /// itself is there; None if the page does not settle it.
    pub(super) async fn list_from(&self, parent: Ino, name: &Name) -> Result<Option<bool>> {
        let (prefix, start_after, epoch) = {
            let mut namespace = self.namespace();
            let prefix = namespace.key(parent).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let start_after = format!("{prefix}{}", names::just_before(name));
            if start_after.len() > ObjectKey::MAX_LEN {
                // The service may not take it.
                return Ok(None);
            }
            (prefix, start_after, directory.listing.begin())
        };
        let request = ListRequest {
            prefix: prefix.clone(),
            delimited: true,
            start_after: Some(start_after),
            ..ListRequest::default()
        };
        let sent = Instant::now();
        let page = self.bucket.store().list(&request).await;
        let page = page.inspect_err(|_| self.give_up(parent, epoch))?;
        let covered = page.next.is_none() || format!("{prefix}{name}/") <= last_key(&page);
        let covered = covered.then_some(name);
        let page = self.apply_page(parent, epoch, sent, page, &prefix, covered);
        let found = page.names.iter().any(|(found, _)| found == name);
        Ok(covered.map(|_| found))
    }

    /// `covered`: a name of which the page settles whether it is there.
    fn apply_page(
        &self,
        ino: Ino,
        epoch: Epoch,
        sent: Instant,
        page: ListPage,
        prefix: &str,
        covered: Option<&Name>,
    ) -> Page {
        let next = page.next.clone();
        let last = last_key(&page);
        let mut listed = Listed::default();
        let names = listed.take_page(page, prefix, ino == Ino::ROOT);
        let mut namespace = self.namespace();
        let moving = namespace.is_moving(ino);
        if let Some(directory) = namespace.directory(ino) {
            if !moving {
                let mut sure = sure_of(&listed.entries, prefix, &last);
                let mut all = listed.entries.iter().cloned();
                let entries: &mut dyn Iterator<Item = _> = match next {
                    None => &mut all,
                    Some(_) => &mut sure,
                };
                directory.listing.apply_some(epoch, sent, entries);
            }
            let absent = covered.filter(|name| !names.iter().any(|(found, _)| found == *name));
            match absent {
                Some(name) if !moving => {
                    directory.listing.apply_name(epoch, sent, name, None);
                }
                _ => directory.listing.give_up(epoch),
            }
        }
        namespace.account(ino, sent);
        Page { names, sent, next }
    }

    fn apply_whole(
        &self,
        build: &Build,
        ino: Ino,
        epoch: Epoch,
        come: Vec<(Name, Shape)>,
        listed: Listed,
    ) {
        let Listed {
            entries,
            marker,
            pages,
            hidden,
        } = listed;
        let mut namespace = self.namespace();
        let nothing = entries.is_empty() && hidden == 0 && marker.is_none();
        let vanished = nothing && ino != Ino::ROOT;
        let Some(directory) = namespace.directory(ino) else {
            build.come(come, self.staging.budget());
            return;
        };
        // How it is being walked stays true; what was asked ahead may be out of date.
        directory.walk.was_listed();
        let listing = &mut directory.listing;
        listing.set_duration(build.sent.elapsed());
        listing.set_hidden(hidden > 0);
        let made = listing.apply(epoch, build.sent, pages, marker.is_some(), entries);
        let made = made.into_iter().filter_map(|name| {
            let shape = Shape::of(listing.last_known(&name)?);
            Some((name, shape))
        });
        build.come(come.into_iter().chain(made), self.staging.budget());
        namespace.account(ino, Instant::now());
        if vanished && namespace.unpublished_children(ino).is_empty() {
            // Not even a marker: somebody removed the directory.
            if let Some((parent, name)) = namespace.place(ino)
                && let Some(parent) = namespace.directory(parent)
            {
                parent.listing.doubt_directory(&name, build.sent);
            }
        } else if ino != Ino::ROOT || !self.settings.prefix.is_empty() {
            namespace.confirm_directory(ino, marker.as_ref(), build.sent);
        }
    }
}

/// A listing that others may join. However it ends, a panic included, those who wait for it hear of it.
pub(super) struct Begun {
    pub fs: Arc<Filesystem>,
    pub ino: Ino,
    pub build: Arc<Build>,
    /// The directory stays meanwhile. None only while this is dropped.
    hold: Option<InodeHold>,
}

impl Begun {
    /// Lists the directory by itself.
    pub async fn run(self, whole: bool) {
        let end = self.fs.run_build(&self.build, self.ino, whole).await;
        self.end(end);
    }

    /// With the only page that there is of the directory.
    pub fn end_with_page(self, page: ListPage, prefix: &str, epoch: Epoch) {
        let mut listed = Listed::default();
        let come = listed.take_page(page, prefix, self.ino == Ino::ROOT);
        let fs = self.fs.clone();
        fs.apply_whole(&self.build, self.ino, epoch, come, listed);
        self.end(Ok(Extent::Whole));
    }

    pub fn end(self, end: Result<Extent>) {
        self.build.lock().end = Some(end);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // First, so that nothing is held any more when the listing does not count as under way.
        drop(self.hold.take());
        let Begun { fs, ino, build, .. } = self;
        let mut builds = lock(&fs.builds);
        if let MapEntry::Occupied(slot) = builds.entry(*ino)
            && Arc::ptr_eq(&slot.get().0, build)
        {
            slot.remove();
        }
        drop(builds);
        let mut state = build.lock();
        let broken = || Err(Error::io("a listing was broken off"));
        state.end.get_or_insert_with(broken);
        drop(state);
        build.grew.notify_waiters();
    }
}

impl Shape {
    pub fn of(entry: &Entry) -> Shape {
        match entry {
            Entry::Directory => Shape::Directory,
            Entry::Object(object) => Shape::Object(object.size),
        }
    }

    fn is_object(self) -> bool {
        matches!(self, Shape::Object(_))
    }
}

pub(super) fn object_of(listed: &ListedObject) -> Object {
    Object {
        size: listed.size,
        etag: listed.etag.clone(),
        last_modified: unix_seconds(listed.last_modified),
        ours: false,
        known: None,
    }
}

/// One page of a directory that is read page by page.
pub struct Page<T = PageToken> {
    pub names: Vec<(Name, Shape)>,
    /// When it was asked for.
    pub sent: Instant,
    /// Where the next one is; None after the last.
    pub next: Option<T>,
}

/// The entries of a page that are known with it: of other names, the keys below may be still to come.
fn sure_of<'a>(
    entries: &'a [(Name, Entry)],
    prefix: &'a str,
    last: &'a str,
) -> impl Iterator<Item = (Name, Entry)> + 'a {
    let sure = entries.iter().filter(move |(name, entry)| {
        matches!(entry, Entry::Directory) || *format!("{prefix}{name}/") <= *last
    });
    sure.cloned()
}

/// What the pages of one listing have brought.
#[derive(Default)]
struct Listed {
    /// A name that is both file and prefix comes twice, last as the directory that is shown.
    entries: Vec<(Name, Entry)>,
    marker: Option<Marker>,
    pages: u32,
    /// Keys that are no valid path below the directory. They keep it in the bucket all the same.
    hidden: u32,
}

impl Listed {
    /// Adds a page, and returns its names in order. Keys that are no valid path below the directory are left
    /// out.
    fn take_page(&mut self, page: ListPage, prefix: &str, at_root: bool) -> Vec<(Name, Shape)> {
        self.pages += 1;
        let mut fresh_names = Vec::with_capacity(page.objects.len() + page.prefixes.len());
        // The store has left out some already, and told of them.
        let left_out = u32::try_from(page.hidden).unwrap_or(u32::MAX);
        self.hidden = self.hidden.saturating_add(left_out);
        let mut hidden = 0;
        for object in page.objects {
            let Some(name) = object.key.strip_prefix(prefix) else {
                continue;
            };
            if name.is_empty() {
                self.marker = Some(marker_of(&object, page.date));
                continue;
            }
            if !names::is_component(name) || (at_root && name == names::RESERVED) {
                hidden += 1;
                continue;
            }
            let name = Name::from(name);
            fresh_names.push((name.clone(), Shape::Object(object.size)));
            self.entries.push((name, Entry::Object(object_of(&object))));
        }
        for folder in page.prefixes {
            let Some(name) = folder
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix('/'))
            else {
                continue;
            };
            if at_root && name == names::RESERVED {
                continue;
            }
            if !names::is_component(name) {
                hidden += 1;
                continue;
            }
            let name = Name::from(name);
            fresh_names.push((name.clone(), Shape::Directory));
            self.entries.push((name, Entry::Directory));
        }
        self.hidden = self.hidden.saturating_add(hidden);
        if hidden > 0 && HIDDEN_LOG.admits(Instant::now(), HIDDEN_LOG_INTERVAL) {
            log::warn!(
                "{hidden} keys below \"{}\" are no valid paths and are not shown",
                prefix.escape_debug()
            );
        }
        fresh_names
            .sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.is_object().cmp(&b.1.is_object())));
        fresh_names.dedup_by(|later, earlier| later.0 == earlier.0);
        fresh_names
    }
}

/// The greatest key or prefix of a page: what is still to come is greater.
fn last_key(page: &ListPage) -> String {
    let object = page.objects.last().map(|object| &object.key);
    object
        .max(page.prefixes.last())
        .cloned()
        .unwrap_or_default()
}

fn marker_of(listed: &ListedObject, date: std::time::SystemTime) -> Marker {
    let last_modified = unix_seconds(listed.last_modified);
    let date = unix_seconds(date);
    Marker {
        etag: listed.etag.clone(),
        last_modified,
        settled: date >= last_modified + 2,
        ours: false,
    }
}
