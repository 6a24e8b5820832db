//! setattr and extended attributes: metadata changes are copies of an object onto itself.
//!
//! Every such copy carries the whole truth and a precondition: all the headers as they were read, and the
//! tag of the version they were read from.
//!
//! Copies cost as much as small files, and programs set attributes freely. So what changes nothing sends nothing;
//! changes that arrive while one copy is under way share the next; and where it is known that another request
//! follows which can carry a change, and that its caller hears what became of it, the change is `Deferred`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deferred::Deferred;
use super::publish::Writeback;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::files::attributes::{Attributes, Change};
use crate::fs::error::{Error, READ_ONLY_PLAIN, Result};
use crate::fs::namespace::entry::Entry;
use crate::fs::namespace::inode::{Directory, Ino, Outcome, now};
use crate::fs::namespace::kernel::Invalidation;
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::object_name;
use crate::fs::namespace::tree::Namespace;
use crate::fs::resolver::objects::TRIES;
use crate::fs::supervisor::contained;
use crate::store::object_store::{CopyHeaders, ObjectKey, Overwrite};

/// How long the times of a new directory wait to be stored, at first and after failures. At first for less than
/// the default TTL: within it, the marker's headers need not be requested.
const LATE: Duration = Duration::from_millis(750);
const LATEST: Duration = Duration::from_secs(60);

impl Writeback {
    pub(crate) async fn change_attributes(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        change: Change,
    ) -> Result<()> {
        self.resolver.getattr(ino, Instant::now()).await?;
        if change.is_empty() {
            return Ok(());
        }
        let file = self.open_files.file_of(ino);
        let by_writer = || {
            let file = file.as_ref();
            file.is_some_and(|file| file.lock().refs.is_written_by(thread))
        };
        let waits_for_close = by_writer();
        let outcome = {
            let mut namespace = self.names.lock();
            let defaults = &self.settings.defaults;
            if let Some(local) = namespace.dirty_mut(ino) {
                if change.changes_nothing_of(&local.attributes, defaults) {
                    namespace.confirm_attributes(ino, change.ctime);
                } else {
                    // The upload carries it.
                    change.apply(&mut local.attributes, defaults);
                    local.revision += 1;
                }
                return Ok(());
            }
            if namespace.is_replaced(ino) {
                // What would be stored belongs to the version that another client has put there.
                return Err(Error::Stale);
            }
            if namespace.place(ino).is_none() && ino != Ino::ROOT {
                // Open and unlinked: there is nothing to store it in, and only open handles see it.
                self.open_files.snapshot_attributes(&mut namespace, ino);
                if let Some(local) = namespace.dirty_mut(ino) {
                    change.apply(&mut local.attributes, &self.settings.defaults);
                }
                return Ok(());
            }
            // Changes in a directory are not stored in its times: setting them back costs nothing.
            if change.mtime.is_some()
                && let Some(directory) = namespace.directory(ino)
            {
                directory.untouch();
            }
            let refused = namespace
                .key(ino)
                .is_some_and(|key| self.bucket.serves_plaintext(&key));
            let stored = namespace.stored_attributes(ino).filter(|_| !refused);
            let waiting = lock(&self.deferred_times).get(&ino).copied();
            let idle = stored.is_some_and(|stored| change.changes_nothing_of(&stored, defaults));
            if idle && (waiting == Some(Deferred::Moment) || namespace.pending(ino).is_none()) {
                namespace.confirm_attributes(ino, change.ctime);
                return Ok(());
            }
            let made_here = namespace
                .directory_ref(ino)
                .is_some_and(|directory| directory.is_made_here() && directory.marker().is_some());
            let deferred = if made_here {
                (change.is_of_times() || waiting.is_some()).then_some(Deferred::Moment)
            } else if waits_for_close {
                Some(Deferred::Close)
            } else if namespace.awaits_rename(ino) && !self.settings.rename_grace.is_zero() {
                Some(Deferred::Rename)
            } else {
                None
            };
            let outcome = namespace.add_pending(ino, &change);
            drop(namespace);
            if let Some(deferred) = deferred {
                self.defer(ino, deferred);
                if deferred != Deferred::Close || by_writer() {
                    return Ok(());
                }
                // Closed meanwhile: the close that would have stored it is over.
                lock(&self.deferred_times).remove(&ino);
            }
            outcome
        };
        self.store_pending(ino, &outcome, Some(Instant::now()))
            .await
    }

    /// What is pending of an inode is stored later: see `Deferred`.
    fn defer(self: &Arc<Self>, ino: Ino, deferred: Deferred) {
        let first = match deferred {
            Deferred::Moment => Some(LATE),
            Deferred::Rename => Some(self.settings.rename_grace),
            Deferred::Close => None,
        };
        let before = lock(&self.deferred_times).insert(ino, deferred);
        let watched = matches!(before, Some(Deferred::Moment | Deferred::Rename));
        let Some(first) = first.filter(|_| !watched) else {
            return;
        };
        let writeback = self.clone();
        self.runtime.spawn(async move {
            let mut wait = first;
            loop {
                tokio::time::sleep(wait).await;
                let Some((change, _)) = writeback.names.lock().pending(ino) else {
                    break;
                };
                match contained(writeback.store_what_is_pending(ino)).await {
                    Ok(()) | Err(Error::NotFound | Error::Stale) => break,
                    Err(error) => {
                        let place = writeback.names.describe_place(ino);
                        log::warn!(
                            "cannot store the attributes of {place}: {}; trying again",
                            chain(&error)
                        );
                        let mut namespace = writeback.names.lock();
                        if namespace.pending(ino).is_none() {
                            namespace.add_pending(ino, &change);
                        }
                        wait = (2 * wait).clamp(LATE, LATEST);
                    }
                }
            }
            let deferred = lock(&writeback.deferred_times).remove(&ino);
            // Set while the last was being stored.
            if writeback.names.lock().pending(ino).is_some()
                && let Some(deferred) = deferred
            {
                writeback.defer(ino, deferred);
            }
        });
    }

    /// Stores what waits for a close of the file, and says how that went. Of a file that has lost its name there
    /// is nothing to store.
    pub(crate) async fn store_at_close(self: &Arc<Self>, ino: Ino) -> Result<()> {
        {
            let mut late = lock(&self.deferred_times);
            match late.get(&ino) {
                Some(Deferred::Close) => drop(late.remove(&ino)),
                _ => return Ok(()),
            }
        }
        match self.store_what_is_pending(ino).await {
            Err(Error::NotFound | Error::Stale) => Ok(()),
            Err(error) => {
                // The kernel was told that they are so.
                self.names.kernel().notify(Invalidation::Content(ino));
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Stores what waits, of those inodes that are `wanted`. Returns what could not be stored.
    pub(crate) async fn store_late(
        self: &Arc<Self>,
        wanted: impl Fn(Ino) -> bool,
    ) -> Vec<(Ino, Error)> {
        let waiting: Vec<Ino> = lock(&self.deferred_times).keys().copied().collect();
        let mut failed = Vec::new();
        for ino in waiting {
            if wanted(ino)
                && let Err(error) = self.store_what_is_pending(ino).await
                && !matches!(error, Error::NotFound | Error::Stale)
            {
                // The kernel was told that they are so.
                self.names.kernel().notify(Invalidation::Content(ino));
                failed.push((ino, error));
            }
        }
        failed
    }

    /// Stores a change that its caller was told is stored, in the background.
    pub(crate) fn store_after_all(self: &Arc<Self>, ino: Ino, change: &Change) {
        {
            let mut namespace = self.names.lock();
            let newer = namespace.pending(ino);
            namespace.add_pending(ino, change);
            if let Some((newer, _)) = newer {
                namespace.add_pending(ino, &newer);
            }
        }
        let writeback = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = writeback.store_what_is_pending(ino).await {
                log::error!(
                    "the attributes of {} are not stored: {}",
                    writeback.names.describe_place(ino),
                    chain(&error)
                );
                writeback.names.kernel().notify(Invalidation::Content(ino));
            }
        });
    }

    async fn store_what_is_pending(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let outcome = {
            let mut namespace = self.names.lock();
            if namespace.pending(ino).is_none() {
                return Ok(());
            }
            namespace.add_pending(ino, &Change::default())
        };
        self.store_pending(ino, &outcome, None).await
    }

    /// Stores the pending changes of an inode until `outcome` tells what became of one of them: another
    /// call's copy may carry it. A call that began at `start` waits for its turn no longer than it may; then the
    /// change is stored later.
    async fn store_pending(
        self: &Arc<Self>,
        ino: Ino,
        outcome: &Outcome,
        start: Option<Instant>,
    ) -> Result<()> {
        loop {
            if let Some(result) = outcome.get() {
                return result.clone();
            }
            let scopes = |namespace: &Namespace| {
                let key = self.markers.marker_key_or_key(namespace, ino)?;
                Some(vec![Scope::Key(key)])
            };
            let entered = match start {
                Some(start) => self.names.lock_keys_in_time(start, scopes).await,
                None => self.names.lock_keys(scopes).await,
            };
            if let Err(Error::TimedOut(cause)) = entered {
                self.defer(ino, Deferred::Moment);
                return Err(Error::TimedOut(cause));
            }
            let (key, pending) = {
                let mut namespace = self.names.lock();
                let key = self.markers.marker_key_or_key(&namespace, ino);
                if entered.is_err() || key.is_none() {
                    // Its name went while the change waited.
                    namespace.end_pending(ino, usize::MAX, &Err(Error::Stale));
                }
                (key, namespace.pending(ino))
            };
            let (Ok(_locked), Some(key)) = (entered, key) else {
                return outcome.get().cloned().unwrap_or(Err(Error::Stale));
            };
            let Some((change, carried)) = pending else {
                continue;
            };
            let result = async {
                let key = object_name::object_key(key)?;
                let directory = self.names.lock().is_directory(ino);
                match directory {
                    true => self.store_directory(ino, &key, &change).await,
                    false => self.store_object(ino, &key, &change).await,
                }
            }
            .await;
            self.names.lock().end_pending(ino, carried, &result);
        }
    }

    async fn store_object(
        self: &Arc<Self>,
        ino: Ino,
        key: &ObjectKey,
        change: &Change,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let (object, place) = {
                let namespace = self.names.lock();
                if namespace.local(ino).is_some() {
                    // It was written to meanwhile, which took the change along: its upload carries it.
                    return Ok(());
                }
                let object = namespace.object(ino).ok_or(Error::Stale)?;
                (object, namespace.place(ino).ok_or(Error::Stale)?)
            };
            let (parent, name) = place;
            let _changing = self.names.begin_change([(parent, &name)]);
            let described = self
                .cache
                .headers(key, &object.etag, Instant::now())
                .await?;
            if described.is_plain() {
                return Err(READ_ONLY_PLAIN);
            }
            let mut attributes = Attributes::read(&described.meta, false);
            if change.changes_nothing_of(&attributes, &self.settings.defaults) {
                // Another call's copy has carried it.
                return Ok(());
            }
            change.apply(&mut attributes, &self.settings.defaults);
            match self
                .objects
                .replace_attributes(key, &described.meta, &attributes)
                .await
            {
                Ok(object) => {
                    self.open_files
                        .took_new_tag(ino, key, &described.meta.etag, &object);
                    self.names
                        .lock()
                        .published(parent, &name, object, Instant::now());
                    return Ok(());
                }
                Err(Error::Stale) => {
                    // Replaced by another client: its attributes, and then ours on top.
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(key).await?;
                    let object = self.cache.describe(key, meta, sent);
                    if let Some(directory) = self.names.lock().directory(parent) {
                        directory.listing.put(&name, Entry::Object(object), sent);
                    }
                }
                Err(error) => return self.names.after_change(parent, &name, Err(error)),
            }
        }
        Err(Error::Busy)
    }

    async fn store_directory(
        self: &Arc<Self>,
        ino: Ino,
        key: &ObjectKey,
        change: &Change,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let sent = Instant::now();
            let meta = self.markers.marker_headers(ino, key).await?;
            let result = match &meta {
                Some(meta) => {
                    let mut attributes = Attributes::read(meta, true);
                    if change.changes_nothing_of(&attributes, &self.settings.defaults) {
                        return Ok(());
                    }
                    change.apply(&mut attributes, &self.settings.defaults);
                    let mut headers = meta.headers.clone();
                    attributes.write(&mut headers.user);
                    let replace = CopyHeaders::Replace(headers.clone());
                    let copied = self
                        .objects
                        .copy_object(key, meta, key, replace, Overwrite::Allowed)
                        .await;
                    copied.map(|answer| {
                        let marker = self.markers.remember_marker(key, headers, answer);
                        (attributes, marker)
                    })
                }
                None => {
                    let stored = self
                        .names
                        .lock()
                        .directory_ref(ino)
                        .and_then(Directory::stored);
                    let mut attributes =
                        stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
                    change.apply(&mut attributes, &self.settings.defaults);
                    self.markers
                        .put_marker(key, &attributes, Overwrite::Allowed)
                        .await
                        .map(|marker| (attributes, marker))
                }
            };
            match result {
                Ok((attributes, marker)) => {
                    let mut namespace = self.names.lock();
                    namespace.set_directory(ino, attributes, Some(marker), sent);
                    if ino == Ino::ROOT {
                        self.markers.set_root_stored(true);
                    }
                    return Ok(());
                }
                // Replaced or removed by another client: requested anew.
                Err(Error::Stale | Error::NotFound) => {
                    self.cache.forget_object(key);
                }
                Err(error) => {
                    if !error.is_refusal() {
                        // The answer may have been lost.
                        self.cache.forget_object(key);
                        if let Some(directory) = self.names.lock().directory(ino) {
                            directory.invalidate_attributes();
                        }
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Busy)
    }
}
