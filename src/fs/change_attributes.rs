//! setattr and extended attributes: metadata changes are copies of an object onto itself.
//!
//! Every such copy carries the whole truth and a precondition: all the headers as they were read, and the
//! tag of the version they were read from.
//!
//! Copies cost as much as small files, and programs set attributes freely. So what changes nothing sends nothing;
//! changes that arrive while one copy is under way share the next; and where it is known that another request
//! follows which can carry a change, and that its caller hears what became of it, the change is [`Deferred`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributes::{Attributes, Change};
use super::error::{Error, Result};
use super::filesystem::{Filesystem, Notice};
use super::gate::Scope;
use super::listing::{Entry, Object, fresh};
use super::lookup::Looks;
use super::names;
use super::namespace::{Ino, Marker, Outcome, now};
use super::open_file::OpenFile;
use super::supervisor::contained;
use super::uploads::{headers_of, meta_of};
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::encrypted::{Plaintext, Xattrs};
use crate::envelope::Format;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    Body, CopyHeaders, ETag, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite, PutAnswer,
};

/// A change of what `--allow-plaintext` shows. Deleting and renaming it is not one.
const READ_ONLY_PLAIN: Error = Error::Denied("unencrypted objects are served read-only");

/// How often a change is tried over again when other clients replace the object in between.
pub(super) const TRIES: usize = 8;

/// How long the times of a new directory wait to be stored, at first and after failures. At first for less than
/// the default TTL: within it, the marker's headers need not be asked for.
const LATE: Duration = Duration::from_millis(750);
const LATEST: Duration = Duration::from_secs(60);

/// What attribute changes wait for that are shown and not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deferred {
    /// Who makes a directory sets its times, its mode, and its times again when the files are in it: times of a
    /// directory that this mount made wait a moment, and what else is set meanwhile waits with them.
    Moment,
    /// The program that sets them has the file open for writing: its close stores them and says how that went.
    Close,
    /// The file has a tool's temporary name: the copy that renames it carries them.
    Rename,
}

impl Filesystem {
    /// Changes attributes and, with `size`, truncates. Returns when the bucket has it, or, for a file whose
    /// content is still to be uploaded, when the upload will carry it.
    pub async fn setattr(
        self: &Arc<Self>,
        ino: Ino,
        size: Option<u64>,
        change: Change,
    ) -> Result<Looks> {
        self.setattr_by(0, ino, size, change).await
    }

    /// As [`Filesystem::setattr`], for this thread; 0 where the kernel does not say.
    pub async fn setattr_by(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        size: Option<u64>,
        mut change: Change,
    ) -> Result<Looks> {
        self.writable()?;
        self.check_shown(change.uid, change.gid)?;
        if let Some(size) = size {
            if !change.is_empty() || change.ctime.is_some() {
                // The upload that the truncation causes carries them.
                change.ctime = Some(now());
            }
            self.truncate_with(thread, ino, size, &change).await?;
        } else {
            if !change.is_empty() {
                change.ctime = Some(change.ctime.unwrap_or_else(now));
            }
            self.change_attributes(thread, ino, change).await?;
        }
        self.getattr(ino).await
    }

    async fn truncate_with(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        size: u64,
        change: &Change,
    ) -> Result<()> {
        let before = self.look_at(ino, Instant::now()).await?;
        if before.size == size {
            return self.change_attributes(thread, ino, change.clone()).await;
        }
        let file = self.hold_file(ino, Instant::now()).await?;
        let defaults = &self.settings.defaults;
        let alone = {
            let state = file.lock();
            !state.is_dirty() && state.handles == 1
        };
        let result = async {
            self.refuse_plain(&file).await?;
            self.take_xattrs_along(&file).await?;
            self.truncate_open(&file, size, false).await?;
            if let Some(local) = self.namespace().local_mut(ino) {
                change.apply(&mut local.attributes, defaults);
                local.revision += 1;
            }
            let flushed_later = file.lock().writers > 0;
            if !flushed_later {
                self.publish(&file).await?;
            }
            Ok(())
        }
        .await;
        if alone && result.is_err() {
            self.undo_truncation(&file);
        }
        self.end_hold(&file);
        result
    }

    /// A file that was clean and that nobody has open is again what the bucket has.
    fn undo_truncation(&self, file: &Arc<OpenFile>) {
        let mut state = file.lock();
        if state.handles > 1 || state.upload.is_some() || state.gone {
            return;
        }
        state.staged = None;
        state.uploaded = state.written;
        state.failure = None;
        let mut namespace = self.namespace();
        namespace.end_local(file.ino);
        if let Some((parent, name)) = namespace.place(file.ino) {
            // The answer may have been lost.
            namespace.doubt(parent, &name);
        }
    }

    pub(super) async fn change_attributes(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        change: Change,
    ) -> Result<()> {
        self.look_at(ino, Instant::now()).await?;
        if change.is_empty() {
            return Ok(());
        }
        let file = self.file_of(ino);
        let by_writer = || {
            let file = file.as_ref();
            file.is_some_and(|file| file.lock().is_written_by(thread))
        };
        let waits_for_close = by_writer();
        let outcome = {
            let mut namespace = self.namespace();
            let defaults = &self.settings.defaults;
            if let Some(local) = namespace.local_mut(ino) {
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
                // Open and unlinked: there is nothing to store it in, and nobody to see it but its holder.
                self.localize(&mut namespace, ino);
                if let Some(local) = namespace.local_mut(ino) {
                    change.apply(&mut local.attributes, &self.settings.defaults);
                }
                return Ok(());
            }
            // Changes in a directory are not stored in its times: setting them back costs nothing.
            if change.mtime.is_some() {
                namespace.untouch_directory(ino);
            }
            let refused = namespace
                .key(ino)
                .is_some_and(|key| self.bucket.serves_plaintext(&key));
            let stored = namespace.stored_attributes(ino).filter(|_| !refused);
            let waiting = lock(&self.late).get(&ino).copied();
            let idle = stored.is_some_and(|stored| change.changes_nothing_of(&stored, defaults));
            if idle && (waiting == Some(Deferred::Moment) || namespace.pending(ino).is_none()) {
                namespace.confirm_attributes(ino, change.ctime);
                return Ok(());
            }
            let deferred =
                if namespace.is_made_here(ino) && namespace.directory_marker(ino).is_some() {
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
                lock(&self.late).remove(&ino);
            }
            outcome
        };
        self.store_pending(ino, &outcome).await
    }

    /// What is pending of an inode is stored later: see [`Deferred`].
    fn defer(self: &Arc<Self>, ino: Ino, deferred: Deferred) {
        let first = match deferred {
            Deferred::Moment => Some(LATE),
            Deferred::Rename => Some(self.settings.rename_grace),
            Deferred::Close => None,
        };
        let before = lock(&self.late).insert(ino, deferred);
        let watched = matches!(before, Some(Deferred::Moment | Deferred::Rename));
        let Some(first) = first.filter(|_| !watched) else {
            return;
        };
        let fs = self.clone();
        self.runtime.spawn(async move {
            let mut wait = first;
            loop {
                tokio::time::sleep(wait).await;
                let Some((change, _)) = fs.namespace().pending(ino) else {
                    break;
                };
                match contained(fs.store_what_is_pending(ino)).await {
                    Ok(()) | Err(Error::NotFound | Error::Stale) => break,
                    Err(error) => {
                        let place = fs.describe_place(ino);
                        log::warn!("the attributes of {place}: {}, trying again", chain(&error));
                        let mut namespace = fs.namespace();
                        if namespace.pending(ino).is_none() {
                            namespace.add_pending(ino, &change);
                        }
                        wait = (2 * wait).clamp(LATE, LATEST);
                    }
                }
            }
            let deferred = lock(&fs.late).remove(&ino);
            // Set while the last was being stored.
            if fs.namespace().pending(ino).is_some()
                && let Some(deferred) = deferred
            {
                fs.defer(ino, deferred);
            }
        });
    }

    /// Stores what waits for a close of the file, and says how that went. Of a file that has lost its name there
    /// is nothing to store.
    pub(super) async fn store_at_close(self: &Arc<Self>, ino: Ino) -> Result<()> {
        {
            let mut late = lock(&self.late);
            match late.get(&ino) {
                Some(Deferred::Close) => drop(late.remove(&ino)),
                _ => return Ok(()),
            }
        }
        match self.store_what_is_pending(ino).await {
            Err(Error::NotFound | Error::Stale) => Ok(()),
            Err(error) => {
                // The kernel was told that they are so.
                self.notify(Notice::Content(ino));
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Stores what waits, of those inodes that are `wanted`. Returns what could not be stored.
    pub(super) async fn store_late(
        self: &Arc<Self>,
        wanted: impl Fn(Ino) -> bool,
    ) -> Vec<(Ino, Error)> {
        let waiting: Vec<Ino> = lock(&self.late).keys().copied().collect();
        let mut failed = Vec::new();
        for ino in waiting {
            if wanted(ino)
                && let Err(error) = self.store_what_is_pending(ino).await
                && !matches!(error, Error::NotFound | Error::Stale)
            {
                // The kernel was told that they are so.
                self.notify(Notice::Content(ino));
                failed.push((ino, error));
            }
        }
        failed
    }

    /// Stores a change that its caller was told is stored, in the background.
    pub(super) fn store_after_all(self: &Arc<Self>, ino: Ino, change: &Change) {
        {
            let mut namespace = self.namespace();
            let newer = namespace.pending(ino);
            namespace.add_pending(ino, change);
            if let Some((newer, _)) = newer {
                namespace.add_pending(ino, &newer);
            }
        }
        let fs = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = fs.store_what_is_pending(ino).await {
                log::error!(
                    "the attributes of {} are not stored: {}",
                    fs.describe_place(ino),
                    chain(&error)
                );
                fs.notify(Notice::Content(ino));
            }
        });
    }

    async fn store_what_is_pending(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let outcome = {
            let mut namespace = self.namespace();
            if namespace.pending(ino).is_none() {
                return Ok(());
            }
            namespace.add_pending(ino, &Change::default())
        };
        self.store_pending(ino, &outcome).await
    }

    /// Stores the pending changes of an inode until `outcome` tells what became of one of them: another
    /// call's copy may carry it.
    async fn store_pending(self: &Arc<Self>, ino: Ino, outcome: &Outcome) -> Result<()> {
        loop {
            if let Some(result) = outcome.get() {
                return result.clone();
            }
            let entered = self
                .enter(|namespace| Some(vec![Scope::Key(self.marker_key_or_key(namespace, ino)?)]))
                .await;
            let (key, pending) = {
                let mut namespace = self.namespace();
                let key = self.marker_key_or_key(&namespace, ino);
                if entered.is_err() || key.is_none() {
                    // Its name went while the change waited.
                    namespace.end_pending(ino, usize::MAX, &Err(Error::Stale));
                }
                (key, namespace.pending(ino))
            };
            let (Ok(_pass), Some(key)) = (entered, key) else {
                return outcome.get().cloned().unwrap_or(Err(Error::Stale));
            };
            let Some((change, carried)) = pending else {
                continue;
            };
            let result = async {
                let key = names::object_key(key)?;
                let directory = self.namespace().is_directory(ino);
                match directory {
                    true => self.store_directory(ino, &key, &change).await,
                    false => self.store_object(ino, &key, &change).await,
                }
            }
            .await;
            self.namespace().end_pending(ino, carried, &result);
        }
    }

    fn marker_key_or_key(
        &self,
        namespace: &super::namespace::Namespace,
        ino: Ino,
    ) -> Option<String> {
        match namespace.is_directory(ino) {
            true => self.marker_key(namespace, ino),
            false => namespace.key(ino),
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
                let namespace = self.namespace();
                if namespace.local(ino).is_some() {
                    // It was written to meanwhile, which took the change along: its upload carries it.
                    return Ok(());
                }
                let object = namespace.object(ino).ok_or(Error::Stale)?;
                (object, namespace.place(ino).ok_or(Error::Stale)?)
            };
            let (parent, name) = place;
            let _changing = self.begin_change([(parent, &name)]);
            let described = self.headers(key, &object.etag, Instant::now()).await?;
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
                .replace_attributes(key, &described.meta, &attributes)
                .await
            {
                Ok(object) => {
                    self.took_new_tag(ino, key, &described.meta.etag, &object);
                    self.namespace()
                        .published(parent, &name, object, Instant::now());
                    return Ok(());
                }
                Err(Error::Stale) => {
                    // Replaced by another client: its attributes, and then ours on top.
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(key).await?;
                    let object = self.describe(key, meta, sent);
                    if let Some(directory) = self.namespace().directory(parent) {
                        directory.listing.put(&name, Entry::Object(object), sent);
                    }
                }
                Err(error) => return self.settled(parent, &name, Err(error)),
            }
        }
        Err(Error::Busy)
    }

    /// Copies an object onto itself with these attributes, and with everything else as it was. Returns the
    /// object as it is now.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not the version that `meta` describes any more.
    pub(super) async fn replace_attributes(
        self: &Arc<Self>,
        key: &ObjectKey,
        meta: &ObjectMeta,
        attributes: &Attributes,
    ) -> Result<Object> {
        let mut headers = meta.headers.clone();
        attributes.write(&mut headers.user);
        self.replace_headers(key, meta, headers).await
    }

    pub(super) async fn replace_headers(
        self: &Arc<Self>,
        key: &ObjectKey,
        meta: &ObjectMeta,
        headers: ObjectHeaders,
    ) -> Result<Object> {
        if let Ok(object) = self.bucket.object_at(key, meta)
            && object.format == Format::Plain
        {
            return Err(READ_ONLY_PLAIN);
        }
        let replace = CopyHeaders::Replace(headers.clone());
        let answer = self
            .copy_object(key, meta, key, replace, Overwrite::Allowed)
            .await?;
        let meta = ObjectMeta {
            etag: answer.etag,
            last_modified: answer.date,
            date: answer.date,
            headers,
            ..meta.clone()
        };
        let mut object = self.describe(key, meta, Instant::now());
        object.ours = true;
        Ok(object)
    }

    /// Our own copy of version `copied` may have given the content another tag: open files read on under it.
    pub(super) fn took_new_tag(&self, ino: Ino, key: &ObjectKey, copied: &ETag, object: &Object) {
        self.namespace().retag(ino, copied, &object.etag);
        let Some(file) = lock(&self.files).get(&ino).cloned() else {
            self.move_kept((key, copied), (key, &object.etag));
            return;
        };
        let state = file.lock();
        // What is open may be another version than the one that was copied: that one was replaced.
        let same = state
            .content
            .as_ref()
            .filter(|content| content.etag() == *copied);
        let Some(content) = same else {
            return;
        };
        if let Some(described) = self.known_headers(key, &object.etag)
            && let Ok(envelope) = &described.object
        {
            content.set_object(key.clone(), envelope.clone());
        }
        let mut namespace = self.namespace();
        namespace.set_open(ino, Some(object.clone()));
        if !state.is_dirty() {
            namespace.pages_show(ino, Some(&object.etag));
        }
    }

    /// # Errors
    /// [`Error::Denied`] for a file whose object is served although it is not encrypted.
    pub(super) async fn refuse_plain(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let Some(key) = self.namespace().key(file.ino) else {
            return Ok(());
        };
        let etag = {
            let state = file.lock();
            let content = state.content.as_ref().filter(|_| !state.is_dirty());
            content.map(|content| content.etag())
        };
        let Some(etag) = etag.filter(|_| self.bucket.serves_plaintext(&key)) else {
            return Ok(());
        };
        let key = names::object_key(key)?;
        match self.headers(&key, &etag, Instant::now()).await?.is_plain() {
            true => Err(READ_ONLY_PLAIN),
            false => Ok(()),
        }
    }

    // ---- directories ----

    async fn store_directory(
        self: &Arc<Self>,
        ino: Ino,
        key: &ObjectKey,
        change: &Change,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let sent = Instant::now();
            let meta = self.marker_headers(ino, key).await?;
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
                        .copy_object(key, meta, key, replace, Overwrite::Allowed)
                        .await;
                    copied.map(|answer| {
                        let marker = self.remember_marker(key, headers, answer);
                        (attributes, marker)
                    })
                }
                None => {
                    let stored = self.namespace().stored_directory(ino);
                    let mut attributes =
                        stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
                    change.apply(&mut attributes, &self.settings.defaults);
                    self.put_marker(key, &attributes, Overwrite::Allowed)
                        .await
                        .map(|marker| (attributes, marker))
                }
            };
            match result {
                Ok((attributes, marker)) => {
                    let mut namespace = self.namespace();
                    namespace.set_directory(ino, attributes, Some(marker), sent);
                    if ino == Ino::ROOT {
                        self.set_root_stored(true);
                    }
                    return Ok(());
                }
                // Replaced or removed by another client: asked for anew.
                Err(Error::Stale | Error::NotFound) => {
                    self.forget_object(key);
                }
                Err(error) => {
                    if !error.is_refusal() {
                        // The answer may have been lost.
                        self.forget_object(key);
                        self.namespace().doubt_attributes(ino);
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Busy)
    }

    /// The headers of a directory's marker, as they are now or were at most the TTL ago; None if there is none.
    pub(super) async fn marker_headers(
        &self,
        ino: Ino,
        key: &ObjectKey,
    ) -> Result<Option<ObjectMeta>> {
        let sent = Instant::now();
        let (marker, confirmed) = {
            let namespace = self.namespace();
            (
                namespace.directory_marker(ino),
                namespace.directory_checked(ino),
            )
        };
        // All markers have the tag of no bytes: only what was just read or written, or what a listing has just
        // shown to be unchanged, is as good as a HEAD.
        if let Some(marker) = marker
            && let Some(described) = self.known_headers(key, &marker.etag)
            && let checked = confirmed.map_or(described.checked, |at| at.max(described.checked))
            && fresh(checked, self.settings.metadata_ttl, sent)
        {
            return Ok(Some(described.meta.clone()));
        }
        match self.bucket.store().head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a directory's marker.
    pub(super) async fn put_marker(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        overwrite: Overwrite,
    ) -> Result<Marker> {
        let headers = headers_of_marker(attributes);
        let answer = self
            .bucket
            .store()
            .put(key, &headers, Body::empty(), overwrite)
            .await?;
        Ok(self.remember_marker(key, headers, answer))
    }

    /// Keeps what a marker of ours holds now, so that the next change need not ask.
    pub(super) fn remember_marker(
        &self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        answer: PutAnswer,
    ) -> Marker {
        let meta = ObjectMeta {
            size: 0,
            etag: answer.etag.clone(),
            last_modified: answer.date,
            headers,
            crc64: answer.crc64,
            date: answer.date,
        };
        self.remember_headers(key, meta, Instant::now());
        marker_of_ours(answer.etag, answer.date)
    }

    /// Writes a directory's marker with extended attributes, and with the envelope that seals them.
    pub(super) async fn put_marker_with(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        xattrs: &Xattrs,
    ) -> Result<Marker> {
        let headers = headers_of_marker(attributes);
        let nothing = Plaintext::empty();
        let put = self
            .bucket
            .put(key, &nothing, headers, Some(xattrs), Overwrite::Allowed);
        let uploaded = put.await?;
        let meta = meta_of(&uploaded);
        let marker = marker_of_ours(meta.etag.clone(), meta.date);
        self.remember_headers(key, meta, Instant::now());
        Ok(marker)
    }
}

fn headers_of_marker(attributes: &Attributes) -> ObjectHeaders {
    let mut headers = headers_of(attributes);
    headers.content_type = Some("application/x-directory".to_owned());
    headers
}

pub(super) fn marker_of_ours(etag: ETag, date: std::time::SystemTime) -> Marker {
    Marker {
        etag,
        last_modified: unix_seconds(date),
        settled: false,
        ours: true,
    }
}
