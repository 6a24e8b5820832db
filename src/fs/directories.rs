//! Reading directories.
//!
//! An open directory is a list of names that grows while pages of the listing come; an offset is an index
//! into it, so that it stays valid while the directory changes. Names that have gone meanwhile are skipped.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::attributes::Kind;
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::lister::{Build, Come, Page, Rest, Shape};
use super::listing::{Entry, Object};
use super::lookup::Looks;
use super::names::Name;
use super::namespace::{Directory, Ino, Look};
use super::page_window::{PageWindow, Seek};
use crate::base::sync::lock;
use crate::store::listing::PageToken;
use crate::store::object_store::ETag;

/// Objects above this many bytes are regular files: a link's target is no longer.
const LONGEST_TARGET: u64 = 4095;

/// Entries before the first name: `.` and `..`.
const DOTS: u64 = 2;

/// One open directory.
pub struct DirectoryHandle {
    ino: Ino,
    /// None: nothing of it was read yet. What is there counts when the reading begins, not when it was opened.
    state: Mutex<Option<Reading>>,
}

struct Reading {
    build: Arc<Build>,
    /// Names that stood here when the reading began, whatever the bucket has. They come after the bucket's,
    /// unless they are among these by then.
    local: Vec<(Name, Ino)>,
    /// How many names the bucket had, once that is known.
    listed: Option<u64>,
    /// Behind what the listing has, where that was cut: in a directory that is too large to be remembered.
    rest: Option<PageWindow<PageToken>>,
    /// Of the names that stood here, those that the pages of the rest have brought.
    passed: HashSet<Name>,
}

impl DirectoryHandle {
    /// Of a name behind the `listed` ones of a listing that was cut at `rest`.
    fn seek(&self, index: u64, listed: usize, rest: Rest) -> Seek<PageToken> {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return Seek::End;
        };
        let window = state
            .rest
            .get_or_insert_with(|| PageWindow::new(listed as u64, rest));
        window.seek(index)
    }
}

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
    pub looks: Option<Looks>,
    /// What the inode stood for when this was known.
    version: Option<ETag>,
}

impl Filesystem {
    pub async fn opendir(self: &Arc<Self>, ino: Ino) -> Result<u64> {
        {
            let namespace = self.namespace();
            if !namespace.is_directory(ino) {
                let known = namespace.exists(ino);
                return Err(if known {
                    Error::NotDirectory
                } else {
                    Error::Stale
                });
            }
        }
        let handle = self.new_handle();
        let directory = DirectoryHandle {
            ino,
            state: Mutex::default(),
        };
        lock(&self.directory_handles).insert(handle, Arc::new(directory));
        Ok(handle)
    }

    pub fn releasedir(&self, handle: u64) {
        lock(&self.directory_handles).remove(&handle);
    }

    /// The listing that is known, if it is recent enough, else a new one.
    fn begin_reading(self: &Arc<Self>, ino: Ino) -> Reading {
        let start = Instant::now();
        let (known, local) = {
            let mut namespace = self.namespace();
            let local = namespace.changed_files(ino);
            let ttl = namespace.ttl();
            let known = namespace.directory(ino).and_then(|directory| {
                directory.walk.begin_reading(start);
                directory.listing.begin_traversal(start);
                if directory.listing.is_too_large() {
                    return Some(Build::cut_at_beginning(start));
                }
                let fresh = directory.listing.is_fresh(ttl, start);
                fresh.then(|| self.reading_of(directory, start))
            });
            (known, local)
        };
        Reading {
            build: known.unwrap_or_else(|| self.list(ino, true, start)),
            local,
            listed: None,
            rest: None,
            passed: HashSet::new(),
        }
    }

    /// The names that are known: one copy of them for all who read while they stay as they are.
    fn reading_of(&self, directory: &mut Directory, start: Instant) -> Arc<Build> {
        let version = directory.listing.version();
        if let Some((of, build)) = &directory.reading
            && *of == version
            && let Some(build) = build.upgrade()
        {
            return build;
        }
        let names = directory.listing.names();
        let names = names.map(|(name, entry)| (name.clone(), Shape::of(entry)));
        let build = Build::of_names(names.collect(), start, self.staging.budget());
        directory.reading = Some((version, Arc::downgrade(&build)));
        build
    }

    /// Up to `most` entries from `offset` on; none at the end. Offset 0 begins anew.
    pub async fn readdir(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        most: usize,
        plus: bool,
    ) -> Result<Vec<DirectoryEntry>> {
        let directory = lock(&self.directory_handles)
            .get(&handle)
            .cloned()
            .ok_or(Error::BadHandle)?;
        let ino = directory.ino;
        let start = Instant::now();
        if offset == 0 || lock(&directory.state).is_none() {
            // The first read, or rewinddir: what the directory holds now.
            let reading = self.begin_reading(ino);
            *lock(&directory.state) = Some(reading);
        }
        {
            let mut namespace = self.namespace();
            let ttl = namespace.ttl();
            if let Some(directory) = namespace.directory(ino) {
                directory.listing.continue_traversal(ttl.objects, start);
            }
        }
        let mut entries = Vec::new();
        let mut at = offset;
        while entries.len() < most {
            if at < DOTS {
                entries.push(self.dots(ino, at));
                at += 1;
                continue;
            }
            // What has come already is returned before waiting for more.
            let build = lock(&directory.state)
                .as_ref()
                .map(|state| state.build.clone());
            let build = build.expect("begun above");
            let index = (at - DOTS) as usize;
            let entry = match build.entry_now(index) {
                Come::Entry(name, shape) => Some((name, shape, build.sent)),
                Come::End => None,
                Come::NotYet if entries.is_empty() => {
                    self.in_time(start, build.wait_for(index)).await??;
                    continue;
                }
                Come::NotYet => break,
                Come::Cut(rest) => match directory.seek(index as u64, build.len(), rest) {
                    Seek::Entry(name, shape, since) => Some((name, shape, since)),
                    Seek::End => None,
                    Seek::Wanted(first, page) if entries.is_empty() => {
                        // A task: who gives up waiting does not break it off, for the listing counts on its end.
                        let fs = self.clone();
                        let work = async move { fs.list_page(ino, page).await };
                        let task = self.runtime.spawn(work);
                        let broken = |_| Error::io("a page of a listing was broken off");
                        let page = self.in_time(start, task).await?.map_err(broken)??;
                        self.took_page(&directory, first, page);
                        continue;
                    }
                    Seek::Wanted(..) => break,
                },
            };
            let next = at + 1;
            match entry {
                Some((name, shape, since)) => {
                    at = next;
                    if let Some(entry) = self.entry_of(ino, name, shape, since, next, plus) {
                        entries.push(entry);
                    }
                }
                None => {
                    let Some(name) = self.local_name(&directory, index as u64) else {
                        break;
                    };
                    at = next;
                    entries.extend(self.local_entry(ino, name, next));
                }
            }
        }
        Ok(entries)
    }

    /// A page of the rest of a directory that is too large to be remembered.
    fn took_page(&self, directory: &DirectoryHandle, first: u64, page: Page) {
        let local: HashSet<Name> = {
            let mut namespace = self.namespace();
            let mut local = namespace.changed_files(directory.ino);
            local.extend(namespace.unpublished_children(directory.ino));
            // It may have become smaller.
            let most = namespace.most_names() as u64;
            if page.next.is_none()
                && first + page.names.len() as u64 <= most
                && let Some(known) = namespace.directory(directory.ino)
            {
                known.listing.set_too_large(false);
            }
            local.into_iter().map(|(name, _)| name).collect()
        };
        let mut state = lock(&directory.state);
        let Some(state) = state.as_mut() else {
            return;
        };
        let passed = page.names.iter().map(|(name, _)| name);
        let passed = passed.filter(|name| local.contains(*name));
        state.passed.extend(passed.cloned());
        if let Some(rest) = &mut state.rest {
            rest.put(first, page);
        }
    }

    fn dots(&self, ino: Ino, at: u64) -> DirectoryEntry {
        let (name, ino) = match at {
            0 => (".", ino),
            _ => {
                let parent = self.namespace().place(ino);
                ("..", parent.map_or(Ino::ROOT, |(parent, _)| parent))
            }
        };
        DirectoryEntry {
            name: Name::from(name),
            ino,
            next: at + 1,
            kind: Some(Kind::Directory),
            looks: None,
            version: None,
        }
    }

    fn entry_of(
        &self,
        parent: Ino,
        name: Name,
        shape: Shape,
        listed: Instant,
        next: u64,
        plus: bool,
    ) -> Option<DirectoryEntry> {
        let mut namespace = self.namespace();
        let unpublished = namespace
            .child(parent, &name)
            .is_some_and(|ino| namespace.holds_local(ino));
        let listing = &namespace.directory(parent)?.listing;
        let known = listing.last_known(&name).cloned();
        let gone = listing.went_since(&name, listed) || listing.is_changing(&name);
        if known.is_none() && !unpublished && gone {
            return None;
        }
        let kind = match (&known, shape) {
            (
                Some(Entry::Object(Object {
                    known: Some(known), ..
                })),
                _,
            ) => Some(known.attributes.kind),
            (Some(entry), _) => kind_of(Shape::of(entry)),
            (None, shape) => kind_of(shape),
        };
        let looks = match plus && known.is_some() {
            true => match namespace.look(parent, &name, Instant::now()) {
                Look::Known(view) => {
                    // Until the reply is written.
                    namespace.pin(view.ino);
                    if let Some(directory) = namespace.directory(parent) {
                        directory.walk.was_offered(&name, view.attributes.kind);
                    }
                    Some(view)
                }
                Look::AskDirectory(ino) => {
                    // Nobody is told of the inode that it got.
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
            looks: looks.map(|view| self.looks(view)),
            version,
        })
    }

    /// The names that only this mount has, after as many as the bucket has.
    fn local_name(&self, directory: &DirectoryHandle, index: u64) -> Option<Name> {
        let mut state = lock(&directory.state);
        let state = state.as_mut()?;
        let listed = match state.listed {
            Some(listed) => listed,
            None => {
                let Reading {
                    build,
                    local,
                    passed,
                    ..
                } = &mut *state;
                local.extend(self.namespace().unpublished_children(directory.ino));
                local.sort_unstable();
                local.dedup_by(|later, earlier| later.0 == earlier.0);
                build.without(local);
                local.retain(|(name, _)| !passed.contains(name));
                *state.listed.insert(index)
            }
        };
        let at = index.checked_sub(listed)?;
        state.local.get(at as usize).map(|(name, _)| name.clone())
    }

    /// None if it is gone meanwhile. One that has gone up and was forgotten since is the bucket's now.
    fn local_entry(&self, parent: Ino, name: Name, next: u64) -> Option<DirectoryEntry> {
        let mut namespace = self.namespace();
        let kind = match namespace.child(parent, &name) {
            Some(ino) if namespace.is_directory(ino) => Some(Kind::Directory),
            Some(_) => Some(Kind::File),
            None => {
                let listing = &namespace.directory(parent)?.listing;
                kind_of(Shape::of(listing.last_known(&name)?))
            }
        };
        Some(DirectoryEntry {
            ino: namespace.ino_of_child(parent, &name),
            name,
            next,
            kind,
            looks: None,
            version: None,
        })
    }

    /// An entry that readdirplus is about to give to the kernel counts as looked up. False: its inode does not
    /// stand for what the entry shows any more, and the kernel must not have it.
    pub fn entry_was_taken(&self, entry: &DirectoryEntry) -> bool {
        let Some(looks) = &entry.looks else {
            return true;
        };
        let mut namespace = self.namespace();
        let same = namespace.exists(looks.ino) && namespace.version(looks.ino) == entry.version;
        if same {
            namespace.remember(looks.ino);
            self.forget_surplus(&mut namespace);
        }
        same
    }

    /// The reply is written: what of its entries was looked at for the kernel and not taken is forgotten.
    pub fn entries_were_offered(&self, entries: &[DirectoryEntry]) {
        let mut namespace = self.namespace();
        for looks in entries.iter().filter_map(|entry| entry.looks.as_ref()) {
            namespace.unpin(looks.ino);
        }
    }

    /// How long the kernel may keep an answer that it has asked for now.
    pub fn lifetime(&self) -> Duration {
        self.settings.metadata_ttl
    }
}

/// None: not known without asking.
fn kind_of(shape: Shape) -> Option<Kind> {
    match shape {
        Shape::Directory => Some(Kind::Directory),
        Shape::Object(size) => (size > LONGEST_TARGET).then_some(Kind::File),
    }
}
