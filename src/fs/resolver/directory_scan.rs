//! Listing directories: one listing of a directory at a time, shared by all callers, readable
//! while its pages come.

use std::collections::hash_map::Entry as MapEntry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::{Resolver, Scans};
use crate::base::log_limit::LogLimit;
use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::encrypted::reserved::RESERVED;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::change_log::Epoch;
use crate::fs::namespace::entry::{Entry, Object};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::{Directory, Ino, Marker};
use crate::fs::namespace::inode_hold::InodeHold;
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::listing::BYTES_PER_ENTRY;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::scan::{DirectoryScan, EntryKind, Rest, ScanScope};
use crate::fs::namespace::tree::Namespace;
use crate::store::listing::PageToken;
use crate::store::object_store::{ListPage, ListRequest, ListedObject, ObjectKey};

/// Any client may have stored such keys, and directories are listed all the time.
static HIDDEN_LOG: LogLimit = LogLimit::new();
const HIDDEN_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A listing that others may join. However it ends, a panic included, its waiters are notified.
pub(crate) struct ScanGuard {
    pub resolver: Arc<Resolver>,
    pub ino: Ino,
    pub scan: Arc<DirectoryScan>,
    /// The directory stays meanwhile. None only while this is dropped.
    hold: Option<InodeHold>,
}

impl ScanGuard {
    /// Lists the directory by itself.
    pub(crate) async fn run(self, whole: bool) {
        let end = self.resolver.run_scan(&self.scan, self.ino, whole).await;
        self.end(end);
    }

    /// With the only page that there is of the directory.
    pub(crate) fn end_with_page(self, page: ListPage, prefix: &str, epoch: Epoch) {
        let mut listed = ScannedEntries::default();
        let names = listed.take_page(page, prefix, self.ino == Ino::ROOT);
        let resolver = self.resolver.clone();
        resolver.apply_whole(&self.scan, self.ino, epoch, names, listed);
        self.end(Ok(ScanScope::Whole));
    }

    pub(crate) fn end(self, end: Result<ScanScope>) {
        self.scan.end(end);
    }
}

impl Drop for ScanGuard {
    fn drop(&mut self) {
        // First, so that nothing is held any more when the listing does not count as under way.
        drop(self.hold.take());
        let ScanGuard {
            resolver,
            ino,
            scan,
            ..
        } = self;
        let (ino, ended) = (*ino, scan.clone());
        let end = move |resolver: &Resolver| {
            if let MapEntry::Occupied(slot) = lock(&resolver.scans).entry(ino)
                && Arc::ptr_eq(&slot.get().0, &ended)
            {
                slot.remove();
            }
        };
        let was_late = resolver.settings.is_overdue(scan.sent, Instant::now());
        match scan.has_timed_out() && was_late {
            true => resolver.after_a_moment(end),
            false => end(resolver),
        }
        scan.break_off();
    }
}

pub(crate) fn object_of(listed: &ListedObject) -> Object {
    Object {
        size: listed.size,
        etag: listed.etag.clone(),
        last_modified: unix_seconds(listed.last_modified),
        uploaded_here: false,
        known: None,
    }
}

/// One page of a directory that is read page by page.
pub struct Page<T = PageToken> {
    pub names: Vec<(Name, EntryKind)>,
    /// When it was requested.
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
struct ScannedEntries {
    /// A name that is both file and prefix comes twice, last as the directory that is shown.
    entries: Vec<(Name, Entry)>,
    marker: Option<Marker>,
    pages: u32,
    /// Keys that are no valid path below the directory. They keep it in the bucket all the same.
    hidden: u32,
}

impl ScannedEntries {
    /// Adds a page, and returns its names in order. Keys that are no valid path below the directory are left
    /// out.
    fn take_page(&mut self, page: ListPage, prefix: &str, at_root: bool) -> Vec<(Name, EntryKind)> {
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
            if !object_name::is_component(name) || (at_root && name == RESERVED) {
                hidden += 1;
                continue;
            }
            let name = Name::from(name);
            fresh_names.push((name.clone(), EntryKind::Object(object.size)));
            self.entries.push((name, Entry::Object(object_of(&object))));
        }
        for folder in page.prefixes {
            let Some(name) = folder
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix('/'))
            else {
                continue;
            };
            if at_root && name == RESERVED {
                continue;
            }
            if !object_name::is_component(name) {
                hidden += 1;
                continue;
            }
            let name = Name::from(name);
            fresh_names.push((name.clone(), EntryKind::Directory));
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
        revalidatable: date >= last_modified + 2,
        uploaded_here: false,
    }
}

impl Resolver {
    /// Lists a directory, or joins a listing of it that began late enough for a call that began at
    /// `start`, or of which nothing has come for so long that another is not worth waiting for. `whole`: not only
    /// the first page.
    pub(crate) fn list(
        self: &Arc<Self>,
        ino: Ino,
        whole: bool,
        start: Instant,
    ) -> Arc<DirectoryScan> {
        let overdue = lock(&self.scans).get(&ino).and_then(|(scan, all)| {
            let is_overdue = scan.len() == 0 && self.settings.is_overdue(scan.sent, start);
            (*all >= whole && is_overdue).then(|| scan.clone())
        });
        overdue.unwrap_or_else(|| self.list_since(ino, whole, start))
    }

    /// As [`Resolver::list`], for a reader that takes what comes whenever the listing began.
    pub(crate) fn list_since(
        self: &Arc<Self>,
        ino: Ino,
        whole: bool,
        start: Instant,
    ) -> Arc<DirectoryScan> {
        let ttl = self.settings.metadata_ttl;
        let under_way = |scans: &Scans, ino| match scans.get(&ino) {
            Some((scan, all)) if fresh(scan.sent, ttl, start) && *all >= whole => {
                Some(scan.clone())
            }
            _ => None,
        };
        if let Some(scan) = under_way(&lock(&self.scans), ino) {
            return scan;
        }
        let hold = match self.names.hold_inode(ino) {
            Ok(hold) => hold,
            Err(error) => return DirectoryScan::failed(error),
        };
        let tree = self.subtree_with(ino, start);
        let mut scans = lock(&self.scans);
        // Another call may have begun meanwhile.
        if let Some(scan) = under_way(&scans, ino) {
            return scan;
        }
        let mut begin = |ino, whole, hold| {
            let scan = DirectoryScan::new(Instant::now());
            scans.insert(ino, (scan.clone(), whole));
            ScanGuard {
                resolver: self.clone(),
                ino,
                scan,
                hold: Some(hold),
            }
        };
        let begun = begin(ino, whole || tree.is_some(), hold);
        let scan = begun.scan.clone();
        match tree {
            None => drop(self.runtime.spawn(begun.run(whole))),
            Some(mut tree) => {
                let others = std::mem::take(&mut tree.holds).into_iter();
                let others = others.map(|(other, hold)| begin(other, true, hold));
                let begun = std::iter::once(begun).chain(others).collect();
                drop(self.runtime.spawn(tree.run(begun)));
            }
        }
        scan
    }

    async fn run_scan(&self, scan: &DirectoryScan, ino: Ino, whole: bool) -> Result<ScanScope> {
        // The keys of what is listed stay while it is.
        let listing = |namespace: &Namespace| Some(vec![Scope::Listing(namespace.key(ino)?)]);
        let _locked = self.names.lock_keys(listing).await?;
        let (prefix, epoch) = {
            let mut namespace = self.names.lock();
            let prefix = namespace.key(ino).ok_or(Error::Stale)?;
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            (prefix, directory.listing.begin())
        };
        let extent = self.read_pages(scan, ino, &prefix, epoch, whole).await;
        extent.inspect_err(|_| self.names.give_up(ino, epoch))
    }

    async fn read_pages(
        &self,
        scan: &DirectoryScan,
        ino: Ino,
        prefix: &str,
        epoch: Epoch,
        whole: bool,
    ) -> Result<ScanScope> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            delimited: true,
            ..ListRequest::default()
        };
        let budget = &self.budget;
        let most = self.names.lock().most_names();
        let mut listed = ScannedEntries::default();
        let mut memory = budget.charge(0);
        loop {
            let sent = Instant::now();
            let page = self.bucket.store().list(&request).await?;
            let next = page.next.clone();
            let last = last_key(&page);
            let at_root = ino == Ino::ROOT;
            let before = listed.entries.len();
            let names = listed.take_page(page, prefix, at_root);
            memory.resize(listed.entries.len() as u64 * BYTES_PER_ENTRY / 4);
            if next.is_none() {
                self.apply_whole(scan, ino, epoch, names, listed);
                return Ok(ScanScope::Whole);
            }
            {
                let mut namespace = self.names.lock();
                if let Some(directory) = namespace.directory(ino) {
                    let sure = sure_of(&listed.entries[before..], prefix, &last);
                    directory.listing.apply_some(epoch, sent, sure);
                }
                namespace.account(ino, sent);
            }
            scan.add(names, budget);
            if !whole {
                self.names.give_up(ino, epoch);
                return Ok(ScanScope::FirstPage);
            }
            if listed.entries.len() > most {
                if let Some(directory) = self.names.lock().directory(ino) {
                    directory.listing.freshness.too_large = true;
                    directory.listing.give_up(epoch);
                }
                scan.end_cut(next);
                return Ok(ScanScope::Cut);
            }
            request.token = next;
        }
    }

    /// One page of a directory, from that place on, whatever is remembered of it.
    pub(crate) async fn list_page(&self, ino: Ino, at: Rest) -> Result<Page> {
        let listing = |namespace: &Namespace| Some(vec![Scope::Listing(namespace.key(ino)?)]);
        let _locked = self.names.lock_keys(listing).await?;
        let (prefix, epoch) = {
            let mut namespace = self.names.lock();
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
        let page = page.inspect_err(|_| self.names.give_up(ino, epoch))?;
        Ok(self.apply_page(ino, epoch, sent, page, &prefix, None))
    }

    /// The page from a name on, which is likely to tell of those that are requested next. Returns whether the name
    /// itself is there; None if the page does not settle it.
    pub(crate) async fn list_from(&self, parent: Ino, name: &Name) -> Result<Option<bool>> {
        let (prefix, start_after, epoch) = {
            let mut namespace = self.names.lock();
            let prefix = namespace.key(parent).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let start_after = format!("{prefix}{}", object_name::just_before(name));
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
        let page = page.inspect_err(|_| self.names.give_up(parent, epoch))?;
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
        let mut listed = ScannedEntries::default();
        let names = listed.take_page(page, prefix, ino == Ino::ROOT);
        let mut namespace = self.names.lock();
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
        scan: &DirectoryScan,
        ino: Ino,
        epoch: Epoch,
        names: Vec<(Name, EntryKind)>,
        listed: ScannedEntries,
    ) {
        let ScannedEntries {
            entries,
            marker,
            pages,
            hidden,
        } = listed;
        let mut namespace = self.names.lock();
        let nothing = entries.is_empty() && hidden == 0 && marker.is_none();
        let vanished = nothing && ino != Ino::ROOT;
        let Some(directory) = namespace.directory(ino) else {
            scan.add(names, &self.budget);
            return;
        };
        // How it is being walked stays true; what was requested ahead may be out of date.
        directory.pattern.on_listed();
        let listing = &mut directory.listing;
        listing.freshness.took = scan.sent.elapsed();
        listing.set_hidden(hidden > 0);
        let made = listing.apply(epoch, scan.sent, pages, marker.is_some(), entries);
        let made = made.into_iter().filter_map(|name| {
            let kind = EntryKind::of(listing.last_known(&name)?);
            Some((name, kind))
        });
        scan.add(names.into_iter().chain(made), &self.budget);
        namespace.account(ino, Instant::now());
        if vanished && namespace.uncommitted_children(ino).is_empty() {
            // Not even a marker: the directory was removed.
            if let Some((parent, name)) = namespace.place(ino)
                && let Some(parent) = namespace.directory(parent)
            {
                parent.listing.mark_directory_absent(&name, scan.sent);
            }
        } else if (ino != Ino::ROOT || !self.settings.prefix.is_empty())
            && let Some(directory) = namespace.directory(ino)
        {
            directory.confirm_marker(marker.as_ref(), scan.sent);
        }
    }

    /// The names that are known: one copy of them for all who read while they stay as they are.
    pub(crate) fn reading_of(
        &self,
        directory: &mut Directory,
        start: Instant,
    ) -> Arc<DirectoryScan> {
        let version = directory.listing.version();
        if let Some((of, scan)) = &directory.reading
            && *of == version
            && let Some(scan) = scan.upgrade()
        {
            return scan;
        }
        let names = directory.listing.names();
        let names = names.map(|(name, entry)| (name.clone(), EntryKind::of(entry)));
        let scan = DirectoryScan::of_names(names.collect(), start, &self.budget);
        directory.reading = Some((version, Arc::downgrade(&scan)));
        scan
    }
}
