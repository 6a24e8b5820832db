//! Reading directories.
//!
//! An open directory is a list of names that grows while pages of the listing come; an offset is an index
//! into it, so that it stays valid while the directory changes. Names that have gone meanwhile are skipped.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filesystem::Filesystem;
use crate::files::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::handles::directory_handle::DirectoryHandle;
use crate::fs::handles::page_window::Seek;
use crate::fs::namespace::entry::{Entry, Object};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::names::Names;
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::scan::{DirectoryScan, EntryKind, ScanEntry};
use crate::fs::namespace::stat::Stat;
use crate::fs::namespace::tree::{CachedLookup, Namespace};
use crate::fs::resolver::directory_scan::Page;
use crate::store::object_store::ETag;

/// Objects above this many bytes are regular files: a link's target is no longer.
const LONGEST_TARGET: u64 = 4095;

/// Entries before the first name: `.` and `..`.
const DOTS: u64 = 2;

/// An entry as readdir returns it.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    pub name: Name,
    pub ino: Ino,
    /// The offset of what follows.
    pub next: u64,
    /// None: not known without asking.
    pub kind: Option<Kind>,
    /// What is known of it, for readdirplus; the kernel may be given it as a lookup's answer.
    pub stat: Option<Stat>,
    /// What the inode stood for when this was known.
    version: Option<ETag>,
}

impl Filesystem {
    pub async fn opendir(self: &Arc<Self>, ino: Ino) -> Result<u64> {
        {
            let mut namespace = self.names.lock();
            if !namespace.is_directory(ino) {
                let known = namespace.exists(ino);
                return Err(if known {
                    Error::NotDirectory
                } else {
                    Error::Stale
                });
            }
            // It stays until it is closed.
            namespace.pin(ino);
        }
        Ok(self.open_files.open_directory(ino))
    }

    pub fn releasedir(&self, handle: u64) {
        if let Some(ino) = self.open_files.release_directory(handle) {
            self.names.lock().unpin(ino);
        }
    }

    /// The listing that is known, if it is recent enough, else a new one, and the names that stand here whatever it says.
    fn begin_reading(self: &Arc<Self>, ino: Ino) -> (Arc<DirectoryScan>, Vec<(Name, Ino)>) {
        let start = Instant::now();
        let (known, local) = {
            let mut namespace = self.names.lock();
            let local = namespace.changed_files(ino);
            let ttl = namespace.ttl();
            let known = namespace.directory(ino).and_then(|directory| {
                directory.pattern.begin_reading(start);
                directory.listing.freshness.begin_traversal(start);
                if directory.listing.freshness.too_large {
                    return Some(DirectoryScan::cut_at_beginning(start));
                }
                let fresh = directory.listing.freshness.is_fresh(ttl, start);
                fresh.then(|| self.resolver.reading_of(directory, start))
            });
            (known, local)
        };
        let scan = known.unwrap_or_else(|| self.resolver.list_since(ino, true, start));
        (scan, local)
    }

    /// Up to `most` entries from `offset` on; none at the end. Offset 0 begins anew.
    pub async fn readdir(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        most: usize,
        plus: bool,
    ) -> Result<Vec<DirectoryEntry>> {
        let directory = self.open_files.directory(handle)?;
        let ino = directory.ino();
        let start = Instant::now();
        if offset == 0 || !directory.is_reading() {
            // The first read, or rewinddir: what the directory holds now.
            let (scan, local) = self.begin_reading(ino);
            directory.begin(scan, local);
        }
        {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            if let Some(directory) = namespace.directory(ino) {
                directory
                    .listing
                    .freshness
                    .continue_traversal(ttl.objects, start);
            }
        }
        let mut entries = Vec::new();
        let mut at = offset;
        while entries.len() < most {
            if at < DOTS {
                entries.push(dots(&self.names.lock(), ino, at));
                at += 1;
                continue;
            }
            // What has come already is returned before waiting for more.
            let scan = directory.scan().expect("begun above");
            let index = (at - DOTS) as usize;
            let entry = match scan.entry_now(index) {
                ScanEntry::Entry(name, listed_as) => Some((name, listed_as, scan.sent)),
                ScanEntry::End => None,
                ScanEntry::NotYet if entries.is_empty() => {
                    self.settings.in_time(start, scan.wait_for(index)).await??;
                    continue;
                }
                ScanEntry::NotYet => break,
                ScanEntry::Cut(rest) => match directory.seek(index as u64, scan.len(), rest) {
                    Seek::Entry(name, listed_as, since) => Some((name, listed_as, since)),
                    Seek::End => None,
                    Seek::Wanted(first, page) if entries.is_empty() => {
                        // A task, so that a caller that gives up does not break it off: the listing counts on its end.
                        let fs = self.clone();
                        let work = async move { fs.resolver.list_page(ino, page).await };
                        let task = self.runtime.spawn(work);
                        let broken = |_| Error::io("a page of a listing was broken off");
                        let page = self
                            .settings
                            .in_time(start, task)
                            .await?
                            .map_err(broken)??;
                        took_page(&self.names, &directory, first, page);
                        continue;
                    }
                    Seek::Wanted(..) => break,
                },
            };
            let next = at + 1;
            match entry {
                Some((name, listed_as, since)) => {
                    at = next;
                    if let Some(entry) = self.entry_of(ino, name, listed_as, since, next, plus) {
                        entries.push(entry);
                    }
                }
                None => {
                    // The names that only this mount has come after as many as the bucket has.
                    let unpublished = || self.names.lock().uncommitted_children(ino);
                    let Some(name) = directory.local_name(index as u64, unpublished) else {
                        break;
                    };
                    at = next;
                    entries.extend(local_entry(&mut self.names.lock(), ino, name, next));
                }
            }
        }
        if let Some(directory) = self.names.lock().directory(ino) {
            directory.pattern.read_on(Instant::now());
        }
        Ok(entries)
    }

    fn entry_of(
        &self,
        parent: Ino,
        name: Name,
        listed_as: EntryKind,
        listed: Instant,
        next: u64,
        plus: bool,
    ) -> Option<DirectoryEntry> {
        let mut namespace = self.names.lock();
        let unpublished = namespace
            .child(parent, &name)
            .is_some_and(|ino| namespace.is_dirty_below(ino));
        let listing = &namespace.directory(parent)?.listing;
        let known = listing.last_known(&name).cloned();
        let gone = listing.absent_since(&name, listed) || listing.is_changing(&name);
        if known.is_none() && !unpublished && gone {
            return None;
        }
        let kind = match (&known, listed_as) {
            (
                Some(Entry::Object(Object {
                    known: Some(known), ..
                })),
                _,
            ) => Some(known.attributes.kind),
            (Some(entry), _) => kind_of(EntryKind::of(entry)),
            (None, listed_as) => kind_of(listed_as),
        };
        let cached = match plus && known.is_some() {
            true => match namespace.peek(parent, &name, Instant::now()) {
                CachedLookup::Hit(cached) => {
                    // Until the reply is written.
                    namespace.pin(cached.ino);
                    if let Some(directory) = namespace.directory(parent) {
                        directory
                            .pattern
                            .on_entry_offered(&name, cached.attributes.kind);
                    }
                    Some(cached)
                }
                CachedLookup::NeedsMarker(ino) => {
                    // The kernel is not given the inode that it got.
                    namespace.forget(ino, 0);
                    None
                }
                _ => None,
            },
            false => None,
        };
        let ino = namespace.ino_of_child(parent, &name);
        let version = namespace.version(ino);
        drop(namespace);
        Some(DirectoryEntry {
            name,
            ino,
            next,
            kind,
            stat: cached.map(|cached| self.resolver.shown(cached)),
            version,
        })
    }

    /// An entry that readdirplus is about to give to the kernel counts as looked up. False: its inode does not
    /// stand for what the entry shows any more, and the kernel must not have it.
    pub fn entry_was_taken(&self, entry: &DirectoryEntry) -> bool {
        let Some(stat) = &entry.stat else {
            return true;
        };
        let mut namespace = self.names.lock();
        let same = namespace.exists(stat.ino) && namespace.version(stat.ino) == entry.version;
        if same {
            namespace.remember(stat.ino);
            self.names.kernel().forget_surplus(&mut namespace);
        }
        same
    }

    /// The reply is written: what of its entries was looked at for the kernel and not taken is forgotten.
    pub fn entries_were_offered(&self, entries: &[DirectoryEntry]) {
        let mut namespace = self.names.lock();
        for stat in entries.iter().filter_map(|entry| entry.stat.as_ref()) {
            namespace.unpin(stat.ino);
        }
    }

    /// How long the kernel may keep an answer that it has asked for now.
    pub fn lifetime(&self) -> Duration {
        self.settings.metadata_ttl
    }

    /// fsync of a directory: what waits in it for a rename, waits no longer.
    pub async fn fsync_directory(self: &Arc<Self>, ino: Ino) -> Result<()> {
        for file in self.open_files.closed_uncommitted_in(ino) {
            self.writeback.publish(&file).await?;
        }
        let of_directory = |waiting| {
            let place = self.names.lock().place(waiting);
            waiting == ino || place.is_some_and(|(parent, _)| parent == ino)
        };
        match self.writeback.store_late(of_directory).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// None: not known without asking.
fn kind_of(listed_as: EntryKind) -> Option<Kind> {
    match listed_as {
        EntryKind::Directory => Some(Kind::Directory),
        EntryKind::Object(size) => (size > LONGEST_TARGET).then_some(Kind::File),
    }
}

fn dots(namespace: &Namespace, ino: Ino, at: u64) -> DirectoryEntry {
    let (name, ino) = match at {
        0 => (".", ino),
        _ => {
            let parent = namespace.place(ino);
            ("..", parent.map_or(Ino::ROOT, |(parent, _)| parent))
        }
    };
    DirectoryEntry {
        name: Name::from(name),
        ino,
        next: at + 1,
        kind: Some(Kind::Directory),
        stat: None,
        version: None,
    }
}

/// None if it is gone meanwhile. One that has gone up and was forgotten since is the bucket's now.
fn local_entry(
    namespace: &mut Namespace,
    parent: Ino,
    name: Name,
    next: u64,
) -> Option<DirectoryEntry> {
    let kind = match namespace.child(parent, &name) {
        Some(ino) if namespace.is_directory(ino) => Some(Kind::Directory),
        Some(_) => Some(Kind::File),
        None => {
            let listing = &namespace.directory(parent)?.listing;
            kind_of(EntryKind::of(listing.last_known(&name)?))
        }
    };
    Some(DirectoryEntry {
        ino: namespace.ino_of_child(parent, &name),
        name,
        next,
        kind,
        stat: None,
        version: None,
    })
}

/// A page of the rest of a directory that is too large to be remembered.
fn took_page(names: &Names, directory: &DirectoryHandle, first: u64, page: Page) {
    let local: HashSet<Name> = {
        let mut namespace = names.lock();
        let mut local = namespace.changed_files(directory.ino());
        local.extend(namespace.uncommitted_children(directory.ino()));
        // It may have become smaller.
        let most = namespace.most_names() as u64;
        if page.next.is_none()
            && first + page.names.len() as u64 <= most
            && let Some(known) = namespace.directory(directory.ino())
        {
            known.listing.freshness.too_large = false;
        }
        local.into_iter().map(|(name, _)| name).collect()
    };
    directory.put_page(first, page, &local);
}
