//! Open, create, flush, fsync, release: the life of what is open.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::attributes::{Attributes, Kind};
use super::change_attributes::Deferred;
use super::content::Content;
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::listing::Object;
use super::lookup::{Caller, Looks};
use super::names::{self, Name};
use super::namespace::{Ino, Target, now};
use super::open_file::{FileHandle, OpenFile, OpenHow, State};
use super::processes::{leaves_copies, process_of};
use super::staging::StagedFile;
use super::temporary_names;
use crate::base::error_chain::chain;
use crate::base::sync::{lock, read_lock, write_lock};
use crate::store::object_store::{ETag, ObjectKey};

/// What a content takes in memory besides its bytes.
const CONTENT_WEIGHT: u64 = 2048;

/// What the kernel is told about an open file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub handle: u64,
    /// The pages that the kernel has show this content.
    pub keep_pages: bool,
}

impl Filesystem {
    // ---- open ----

    pub async fn open(self: &Arc<Self>, ino: Ino, how: OpenHow) -> Result<Opened> {
        if how.write || how.truncate {
            self.writable()?;
        }
        let file = self.hold_file(ino, Instant::now()).await?;
        let opened = self.open_handle(&file, how);
        if let Err(error) = self.check_access(&file, how) {
            self.release_now(opened.handle);
            return Err(error);
        }
        let result = self.prepare_changes(&file, how).await;
        if let Err(error) = result {
            self.release_now(opened.handle);
            return Err(error);
        }
        if how.read {
            let content = file.lock().content.clone();
            if let Some(content) = content {
                content.expect_reading();
            }
        }
        let place = self.namespace().place(ino);
        if let Some((parent, _)) = place {
            self.opened_after_lookup(parent);
        }
        Ok(opened)
    }

    async fn prepare_changes(self: &Arc<Self>, file: &Arc<OpenFile>, how: OpenHow) -> Result<()> {
        // The kernel itself refuses writers, but asks for O_RDONLY | O_TRUNC before it looks.
        if how.truncate && file.lock().runners > 0 {
            return Err(Error::Running);
        }
        if how.write || how.truncate {
            self.refuse_plain(file).await?;
            self.take_xattrs_along(file).await?;
        }
        if how.truncate {
            self.truncate_open(file, 0, true).await?;
            if how.clear_set_id
                && let Some(local) = self.namespace().local_mut(file.ino)
            {
                local.attributes.clear_set_id(&self.settings.defaults);
                local.revision += 1;
            }
        }
        Ok(())
    }

    /// Without a private key, what is in the bucket can be replaced, and nothing else.
    fn check_access(&self, file: &Arc<OpenFile>, how: OpenHow) -> Result<()> {
        let state = file.lock();
        let Some(content) = &state.content else {
            return Ok(());
        };
        if state.staged.is_some() || how.truncate || content.size() == 0 {
            return Ok(());
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        Ok(())
    }

    /// The file of an inode, as the bucket has it or as it stands here. It counts as open until
    /// [`Filesystem::end_hold`], or until the handle made of it is released.
    ///
    /// # Errors
    /// [`Error::Stale`] when the name of the inode stands for something else by now.
    pub(super) async fn hold_file(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<Arc<OpenFile>> {
        // What is being removed is opened before that, or not at all.
        self.in_time(start, self.not_leaving(ino)).await?;
        // A changed file is what it is here; what others made of its object does not matter.
        if let Some(file) = lock(&self.files).get(&ino) {
            let mut state = file.lock();
            if state.is_dirty() || self.namespace().place(ino).is_none() {
                if self.namespace().is_replaced(ino) {
                    // Its name stands for another version, which the kernel looks up.
                    return Err(Error::Stale);
                }
                state.hold();
                return Ok(file.clone());
            }
        }
        self.look_at(ino, start).await?;
        // Counted as open while the map is locked, so that nobody takes it out of there meanwhile.
        let mut files = lock(&self.files);
        let (object, key) = {
            let namespace = self.namespace();
            if namespace.is_directory(ino) {
                return Err(Error::IsDirectory);
            }
            let object = namespace.object(ino);
            if let Some(object) = &object
                && namespace.local(ino).is_none()
                && !namespace.stands_for(ino, &object.etag)
            {
                // Another client has replaced it since it was looked at: the kernel looks the name up.
                return Err(Error::Stale);
            }
            (object, namespace.key(ino))
        };
        if let Some(file) = files.get(&ino) {
            let mut state = file.lock();
            state.hold();
            if let Some(object) = object
                && !state.is_dirty()
            {
                self.open_again(file, &mut state, object, key);
            }
            return Ok(file.clone());
        }
        let object = object.ok_or(Error::Stale)?;
        let content = self.content_of(&names::object_key(key.ok_or(Error::Stale)?)?, &object);
        let file = OpenFile::new(ino, Some(content));
        file.lock().hold();
        files.insert(ino, file.clone());
        let mut namespace = self.namespace();
        namespace.pin(ino);
        namespace.set_open(ino, Some(object));
        Ok(file)
    }

    /// A file that was still there, from its last upload: others may have replaced its object since then.
    fn open_again(
        &self,
        file: &Arc<OpenFile>,
        state: &mut State,
        object: Object,
        key: Option<String>,
    ) {
        let current = state
            .content
            .as_ref()
            .is_some_and(|content| content.etag() == object.etag);
        if !current {
            if state.handles > 1 || state.upload.is_some() {
                return;
            }
            let Some(Ok(key)) = key.map(names::object_key) else {
                return;
            };
            state.content = Some(self.content_of(&key, &object));
            state.staged = None;
        }
        self.namespace().set_open(file.ino, Some(object));
    }

    /// Nothing is done with the file any more by who held it.
    pub(super) fn end_hold(self: &Arc<Self>, file: &Arc<OpenFile>) {
        self.end_handle(file, None);
    }

    /// The readable content of a version, with the body that came with its headers if there was one.
    pub(super) fn content_of(&self, key: &ObjectKey, object: &Object) -> Arc<Content> {
        if let Some(content) = self.take_kept(key, &object.etag) {
            return content;
        }
        let described = self.known_headers(key, &object.etag);
        let envelope = match described.as_ref().map(|described| &described.object) {
            Some(Ok(envelope)) => Some(envelope.clone()),
            _ => None,
        };
        Content::new(
            self.bucket.clone(),
            self.cache.clone(),
            key.clone(),
            object.etag.clone(),
            object.size,
            envelope,
        )
    }

    /// Keeps a body that came with its headers until the file is opened.
    pub(super) fn keep_small(&self, key: &ObjectKey, etag: &ETag, body: Bytes) {
        let Some(described) = self.known_headers(key, etag) else {
            return;
        };
        let Ok(envelope) = &described.object else {
            return;
        };
        let content = Content::new(
            self.bucket.clone(),
            self.cache.clone(),
            key.clone(),
            etag.clone(),
            described.meta.size,
            Some(envelope.clone()),
        );
        content.preload(envelope.clone(), &body);
        lock(&self.contents).put(key.clone(), content, CONTENT_WEIGHT);
    }

    fn take_kept(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<Content>> {
        let content = self.pop_kept(key, etag)?;
        content.reuse();
        Some(content)
    }

    /// Another version than the one asked for stays.
    fn pop_kept(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<Content>> {
        let mut contents = lock(&self.contents);
        contents
            .get(key)
            .is_some_and(|content| content.etag() == *etag)
            .then(|| contents.pop(key))?
    }

    /// What is kept of a version is found under its new name and tag: we copied it.
    pub(super) fn move_kept(&self, from: (&ObjectKey, &ETag), to: (&ObjectKey, &ETag)) {
        if from == to {
            return;
        }
        let Some(content) = self.pop_kept(from.0, from.1) else {
            return;
        };
        let Some(envelope) = content.object() else {
            return;
        };
        content.set_object(to.0.clone(), envelope.with_etag(to.1.clone()));
        lock(&self.contents).put(to.0.clone(), content, CONTENT_WEIGHT);
    }

    /// The version is gone.
    pub(super) fn forget_kept(&self, key: &ObjectKey, etag: &ETag) {
        self.pop_kept(key, etag);
    }

    /// Makes a handle of a file that is held.
    fn open_handle(&self, file: &Arc<OpenFile>, how: OpenHow) -> Opened {
        let keep_pages = {
            let mut state = file.lock();
            state.readers += u32::from(how.read);
            state.writers += u32::from(how.write);
            if how.write {
                state.openers.push(how.thread);
            }
            state.runners += u32::from(how.execute);
            let shows_version = |etag| self.namespace().pages_show(file.ino, Some(&etag));
            // Pages of a changed file are what was written into them; they stay until the version changes.
            match &state.content {
                Some(content) => {
                    let keep = state.is_dirty() || shows_version(content.etag());
                    if keep {
                        content.seen();
                    }
                    keep
                }
                None => true,
            }
        };
        if keep_pages {
            file.paged.store(true, Ordering::SeqCst);
        }
        let handle = self.new_handle();
        let opened = FileHandle::new(file.clone(), how);
        write_lock(&self.handles).insert(handle, opened);
        Opened { handle, keep_pages }
    }

    pub(super) fn handle(&self, handle: u64) -> Result<Arc<FileHandle>> {
        read_lock(&self.handles)
            .get(&handle)
            .cloned()
            .ok_or(Error::BadHandle)
    }

    // ---- create ----

    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        caller: Caller,
        how: OpenHow,
    ) -> Result<(Looks, Opened)> {
        self.writable()?;
        self.check_new_name(parent, name)?;
        let start = Instant::now();
        let mut asked = !how.exclusive || temporary_names::is_random(name);
        loop {
            // A name that others remove between the two looks is one to be made.
            while let Some(target) = self.target(parent, name, start).await? {
                if how.exclusive {
                    return Err(Error::Exists);
                }
                if let Target::Directory(_) = target {
                    return Err(Error::IsDirectory);
                }
                if let Ok(view) = self.look_up(parent, name, start).await? {
                    let opened = self.open(view.ino, how).await;
                    if opened.is_err() {
                        self.forget(view.ino, 1);
                    }
                    return Ok((self.looks(view), opened?));
                }
            }
            if std::mem::replace(&mut asked, true) {
                break;
            }
            // Whether it is there is the bucket's to say, and not what was remembered of it.
            self.ask_whether_absent(parent, name, start).await?;
        }
        // What is made in a directory may get its group from it.
        self.look_at(parent, start).await?;
        let (ino, file) = {
            let mut files = lock(&self.files);
            let mut namespace = self.namespace();
            let attributes = self.new_attributes(&namespace, parent, Kind::File, mode, caller);
            let ino = namespace.create(parent, name, attributes);
            namespace.pin(ino);
            namespace.touch_directory(parent, now());
            let temporary = how.exclusive && temporary_names::is_temporary(name);
            namespace.set_awaits_rename(ino, temporary);
            drop(namespace);
            let file = OpenFile::new(ino, None);
            {
                let mut state = file.lock();
                state.hold();
                state.staged = Some(StagedFile::new(&self.staging, None));
                state.written = 1;
                state.emptied = true;
                state.exclusive = how.exclusive;
                state.temporary = temporary;
            }
            if let Some(age) = self.settings.flush_after {
                self.upload_after(&file, &mut file.lock(), age);
            }
            files.insert(ino, file.clone());
            (ino, file)
        };
        let opened = self.open_handle(&file, how);
        let view = self.look_at(ino, start).await?;
        Ok((self.entered(view, start), opened))
    }

    // ---- flush, fsync, release ----

    /// Every close of every descriptor, by this thread. (0: the kernel does not say.)
    pub async fn flush(self: &Arc<Self>, handle: u64, thread: u32) -> Result<()> {
        let handle = self.handle(handle)?;
        if !handle.changes {
            return Ok(());
        }
        let (publishes, still_empty) = {
            let state = handle.file.lock();
            state.check_lost()?;
            let publishes = state.is_dirty()
                && !state.gone
                && !state.waits_for_rename(self.settings.part_size)
                // It has inherited the descriptor; those who write go on, or the last close sees to it.
                && !state.changers.are_others_than(thread, process_of);
            (publishes, state.is_still_empty())
        };
        let ino = handle.file.ino.0;
        if publishes && !(still_empty && leaves_copies(handle.opener, thread, ino)) {
            self.publish(&handle.file).await?;
        }
        self.store_at_close(handle.file.ino).await
    }

    pub async fn fsync(self: &Arc<Self>, handle: u64) -> Result<()> {
        let handle = self.handle(handle)?;
        let publishes = {
            let state = handle.file.lock();
            state.check_lost()?;
            let waits = state.temporary && state.may_wait(self.settings.part_size);
            state.is_dirty() && !(waits && self.is_synced_before_rename(handle.file.ino))
        };
        if publishes {
            self.publish(&handle.file).await?;
        }
        let of_file = |ino| ino == handle.file.ino;
        match self.store_late(of_file).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn is_synced_before_rename(&self, ino: Ino) -> bool {
        let place = self.namespace().place(ino);
        place.is_some_and(|(_, name)| temporary_names::is_synced_before_rename(&name))
    }

    /// fsync of a directory: what waits in it for a rename, waits no longer.
    pub async fn fsync_directory(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let waiting: Vec<_> = {
            let files = lock(&self.files);
            let children = self.namespace().unpublished_children(ino);
            let files = children.iter().filter_map(|(_, ino)| files.get(ino));
            files
                .filter(|file| file.lock().handles == 0)
                .cloned()
                .collect()
        };
        for file in waiting {
            self.publish(&file).await?;
        }
        let of_directory = |waiting| {
            let place = self.namespace().place(waiting);
            waiting == ino || place.is_some_and(|(parent, _)| parent == ino)
        };
        match self.store_late(of_directory).await.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// The last close. Its error would go nowhere: what is pending is our own duty from here on.
    pub fn release_now(self: &Arc<Self>, handle: u64) {
        let Some(handle) = write_lock(&self.handles).remove(&handle) else {
            return;
        };
        let file = handle.file.clone();
        let writable = handle.writable;
        if writable {
            let mut state = file.lock();
            if let Some(at) = state.openers.iter().position(|&of| of == handle.opener) {
                state.openers.swap_remove(at);
            }
        }
        if writable && lock(&self.late).get(&file.ino) == Some(&Deferred::Close) {
            let (fs, ino) = (self.clone(), file.ino);
            self.runtime.spawn(async move {
                if let Err(error) = fs.store_at_close(ino).await {
                    let place = fs.describe_place(ino);
                    log::warn!(
                        "the attributes of {place} are not stored: {}",
                        chain(&error)
                    );
                }
            });
        }
        self.end_handle(&file, Some(handle));
    }

    /// `handle`: None where the file was only held.
    fn end_handle(self: &Arc<Self>, file: &Arc<OpenFile>, handle: Option<Arc<FileHandle>>) {
        let uses = handle
            .as_deref()
            .map(|handle| [handle.readable, handle.writable, handle.runs]);
        // Its fetches end, without the lock.
        drop(handle);
        let waits = {
            let mut state = file.lock();
            let [reads, writes, runs] = uses.unwrap_or_default();
            state.handles -= 1;
            state.readers -= u32::from(reads);
            state.writers -= u32::from(writes);
            state.runners -= u32::from(runs);
            if state.writers == 0 && !state.is_dirty() && !state.gone {
                // Where the object is gone, what is staged is all there is.
                if self.namespace().key(file.ino).is_some() {
                    self.drop_staged(&mut state);
                }
            }
            state.writers == 0 && state.temporary && state.is_dirty() && !state.gone
        };
        if waits {
            self.wait_for_rename(file);
        } else {
            self.tend(file);
        }
        self.let_go(file);
    }

    /// Uploads a file under its temporary name, if nobody renames it in time.
    fn wait_for_rename(self: &Arc<Self>, file: &Arc<OpenFile>) {
        let (fs, file) = (self.clone(), file.clone());
        let grace: Duration = self.settings.rename_grace;
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            let still = {
                let mut state = file.lock();
                let still = state.temporary && state.is_dirty() && state.writers == 0;
                state.temporary &= !still;
                still
            };
            if still {
                fs.tend(&file);
            }
        });
    }

    /// Forgets a file that nobody has open and whose bytes are in the bucket.
    pub(super) fn let_go(self: &Arc<Self>, file: &Arc<OpenFile>) {
        let mut files = lock(&self.files);
        if !file.lock().is_finished() {
            return;
        }
        let current = files
            .get(&file.ino)
            .is_some_and(|current| Arc::ptr_eq(current, file));
        if current {
            files.remove(&file.ino);
            self.keep_content(file);
            if let Some(aside) = file.lock().aside.take() {
                let (store, fs) = (self.bucket.store().clone(), Arc::downgrade(self));
                self.spawn_upload(async move {
                    if let Err(error) = store.delete(&aside).await {
                        log::warn!("{aside} is left in the bucket: {error}");
                        if let Some(fs) = fs.upgrade() {
                            fs.leaves_something.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
            let mut namespace = self.namespace();
            namespace.set_open(file.ino, None);
            namespace.unpin(file.ino);
        }
    }

    /// What was read or written of a file that is closed stays while memory allows: programs open small files
    /// again and again, and append to what they have just written. Of one whose envelope did not open the kernel
    /// has no pages: reading it once more asks the service for as little.
    fn keep_content(&self, file: &OpenFile) {
        let content = {
            let state = file.lock();
            state.content.clone().filter(|_| !state.gone)
        };
        if let Some(content) = content.filter(|_| self.bucket.can_read())
            && content.keep()
        {
            lock(&self.contents).put(content.place().0, content, CONTENT_WEIGHT);
        }
    }

    /// The bucket has what is staged. A writer may write on: what is here saves fetching it back, and without the
    /// private key there is no fetching it.
    pub(super) fn drop_staged(&self, state: &mut State) {
        if state.writers > 0 {
            return;
        }
        let stored = state.stored.take();
        if let Some(staged) = state.staged.take()
            && stored == Some(staged.id())
            && self.bucket.can_read()
            && let Some(content) = &state.content
        {
            content.adopt(&staged);
        }
    }

    /// The attributes of a file that is about to differ from its object.
    pub(super) fn localize(&self, namespace: &mut super::namespace::Namespace, ino: Ino) {
        if namespace.local(ino).is_some() {
            return;
        }
        // A listing may have shown that somebody changed the metadata, and nobody has asked for it since:
        // what was known when the file was opened is the best there is.
        let (now_there, opened) = (namespace.object(ino), namespace.open_version(ino));
        let size = now_there
            .as_ref()
            .or(opened.as_ref())
            .map_or(0, |object| object.size);
        let versions: Vec<Object> = [now_there, opened].into_iter().flatten().collect();
        let known = versions.iter().find_map(|object| object.known.as_deref());
        let headers = || {
            let key = names::object_key(namespace.key(ino)?).ok()?;
            let mut described = versions
                .iter()
                .filter_map(|object| self.known_headers(&key, &object.etag));
            Some(Attributes::read(&described.next()?.meta, false))
        };
        let mut attributes = known
            .map(|known| known.attributes.clone())
            .or_else(headers)
            .unwrap_or_else(|| Attributes::new(Kind::File, 0o600, 0, 0, now()));
        if let Some((change, _)) = namespace.pending(ino) {
            change.apply(&mut attributes, &self.settings.defaults);
        }
        namespace.make_local(ino, attributes, size);
        // The upload carries what was on its way.
        namespace.end_pending(ino, usize::MAX, &Ok(()));
    }
}
