//! Which files are open, by inode, and what handles there are of them.
//!
//! A file is in the table from its first open or its creation until its last close, and longer if the bucket does not
//! have all of it by then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use super::directory_handle::DirectoryHandle;
use super::open_file::{FileHandle, OpenFile, OpenHow, State};
use crate::base::sync::{lock, read_lock, write_lock};
use crate::encrypted::EncryptedBucket;
use crate::fs::background::BackgroundTasks;
use crate::fs::data::budget::MemoryBudget;
use crate::fs::data::staging::{StagedFile, StagingArea};
use crate::fs::error::{Error, Result};
use crate::fs::instance::ThisMount;
use crate::fs::namespace::entry::Object;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::names::Names;
use crate::fs::namespace::object_name;
use crate::fs::resolver::markers::Markers;
use crate::fs::resolver::object_cache::ObjectCache;
use crate::fs::resolver::objects::Objects;
use crate::fs::resolver::requests::Resolver;
use crate::fs::settings::Settings;

/// What the kernel is told about an open file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub handle: u64,
    /// The pages that the kernel has show this content.
    pub keep_pages: bool,
}

/// The files that are open or not uploaded yet, and the handles of files and directories.
pub(crate) struct OpenFiles {
    pub(super) bucket: Arc<EncryptedBucket>,
    pub(super) settings: Arc<Settings>,
    pub(super) names: Arc<Names>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    pub(super) markers: Arc<Markers>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) this_mount: Arc<ThisMount>,
    pub(super) staging: Arc<StagingArea>,
    tasks: Arc<BackgroundTasks>,
    /// Never locked while the state of one of them is.
    files: Mutex<HashMap<Ino, Arc<OpenFile>>>,
    handles: RwLock<HashMap<u64, Arc<FileHandle>>>,
    directories: Mutex<HashMap<u64, Arc<DirectoryHandle>>>,
    next_handle: AtomicU64,
}

/// What open files are kept over.
pub(crate) struct Parts {
    pub bucket: Arc<EncryptedBucket>,
    pub settings: Arc<Settings>,
    pub names: Arc<Names>,
    pub cache: Arc<ObjectCache>,
    pub objects: Arc<Objects>,
    pub markers: Arc<Markers>,
    pub resolver: Arc<Resolver>,
    pub this_mount: Arc<ThisMount>,
    pub staging: Arc<StagingArea>,
    pub tasks: Arc<BackgroundTasks>,
}

impl OpenFiles {
    pub(crate) fn new(parts: Parts) -> Arc<OpenFiles> {
        Arc::new(OpenFiles {
            bucket: parts.bucket,
            settings: parts.settings,
            names: parts.names,
            cache: parts.cache,
            objects: parts.objects,
            markers: parts.markers,
            resolver: parts.resolver,
            this_mount: parts.this_mount,
            staging: parts.staging,
            tasks: parts.tasks,
            files: Mutex::default(),
            handles: RwLock::default(),
            directories: Mutex::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    // ---- files ----

    /// All that are open or not uploaded yet.
    pub(crate) fn all(&self) -> Vec<Arc<OpenFile>> {
        lock(&self.files).values().cloned().collect()
    }

    /// The inodes of all.
    pub(crate) fn inodes(&self) -> Vec<Ino> {
        lock(&self.files).keys().copied().collect()
    }

    /// Adds the file that `make` returns, which is called when none can be added meanwhile.
    pub(crate) fn insert_with(&self, make: impl FnOnce() -> Arc<OpenFile>) -> Arc<OpenFile> {
        let mut files = lock(&self.files);
        let file = make();
        files.insert(file.ino, file.clone());
        file
    }

    /// The files in a directory that the bucket does not have yet, and that are not open.
    pub(crate) fn closed_uncommitted_in(&self, directory: Ino) -> Vec<Arc<OpenFile>> {
        let files = lock(&self.files);
        let children = self.names.lock().uncommitted_children(directory);
        let files = children.iter().filter_map(|(_, ino)| files.get(ino));
        files
            .filter(|file| file.lock().refs.handles == 0)
            .cloned()
            .collect()
    }

    /// What bytes in memory count against.
    pub(crate) fn budget(&self) -> &MemoryBudget {
        self.staging.budget()
    }

    /// An empty file in the staging area, or one over so many bytes of a base.
    pub(crate) fn new_staged(&self, base: Option<u64>) -> StagedFile {
        StagedFile::new(&self.staging, base)
    }

    pub(crate) fn file_of(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        lock(&self.files).get(&ino).cloned()
    }

    /// Whether there may be an object under the name of a file that the bucket does not have yet: one that
    /// it is to replace, or what an upload that was broken off has left. An object that another client made
    /// meanwhile is not ours to delete.
    pub(crate) fn shadows_object(&self, ino: Ino) -> bool {
        let stored = self
            .file_of(ino)
            .is_some_and(|file| file.lock().upload.may_have_stored());
        let namespace = self.names.lock();
        stored || namespace.shadows_object(ino) || !namespace.is_uncommitted(ino)
    }

    /// The file of an inode, as the bucket has it or as it stands here. It counts as open until
    /// `Writeback::release_held`, or until the handle made of it is released.
    ///
    /// # Errors
    /// [`Error::Stale`] when the name of the inode stands for something else by now.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<Arc<OpenFile>> {
        // What is being removed is opened before that, or not at all.
        self.settings
            .in_time(start, self.names.wait_not_unlinking(ino))
            .await?;
        // A changed file is what it is here; what others made of its object does not matter.
        if let Some(file) = lock(&self.files).get(&ino) {
            let mut state = file.lock();
            if state.is_dirty() || self.names.lock().place(ino).is_none() {
                if self.names.lock().is_replaced(ino) {
                    // Its name stands for another version, which the kernel looks up.
                    return Err(Error::Stale);
                }
                state.refs.acquire();
                return Ok(file.clone());
            }
        }
        self.resolver.getattr(ino, start).await?;
        // Counted as open while the map is locked, so that it is not removed meanwhile.
        let mut files = lock(&self.files);
        let (object, key) = {
            let namespace = self.names.lock();
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
            state.refs.acquire();
            if let Some(object) = object
                && !state.is_dirty()
            {
                self.open_again(file, &mut state, object, key);
            }
            return Ok(file.clone());
        }
        let object = object.ok_or(Error::Stale)?;
        let content = self
            .cache
            .content_of(&object_name::object_key(key.ok_or(Error::Stale)?)?, &object);
        let file = OpenFile::new(ino, Some(content));
        file.lock().refs.acquire();
        files.insert(ino, file.clone());
        let mut namespace = self.names.lock();
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
            .data
            .base
            .as_ref()
            .is_some_and(|content| content.etag() == object.etag);
        if !current {
            if state.refs.handles > 1 || state.upload.is_running() {
                return;
            }
            let Some(Ok(key)) = key.map(object_name::object_key) else {
                return;
            };
            state.data.base = Some(self.cache.content_of(&key, &object));
            state.data.staged = None;
        }
        self.names.lock().set_open(file.ino, Some(object));
    }

    /// Without a private key, what is in the bucket can be replaced, and nothing else.
    pub(crate) fn check_access(&self, file: &Arc<OpenFile>, how: OpenHow) -> Result<()> {
        let state = file.lock();
        let Some(content) = &state.data.base else {
            return Ok(());
        };
        if state.data.staged.is_some() || how.truncate || content.size() == 0 {
            return Ok(());
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        Ok(())
    }

    /// Makes a handle of a file that is held.
    pub(crate) fn open_handle(&self, file: &Arc<OpenFile>, how: OpenHow) -> Opened {
        let keep_pages = {
            let mut state = file.lock();
            state
                .refs
                .open(how.read, how.write, how.execute, how.thread);
            let shows_version = |etag| self.names.lock().pages_show(file.ino, Some(&etag));
            // Pages of a changed file are what was written into them; they stay until the version changes.
            match &state.data.base {
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

    pub(crate) fn handle(&self, handle: u64) -> Result<Arc<FileHandle>> {
        read_lock(&self.handles)
            .get(&handle)
            .cloned()
            .ok_or(Error::BadHandle)
    }

    pub(crate) fn new_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Drops a file that is not open and whose bytes are in the bucket.
    pub(crate) fn drop_if_idle(self: &Arc<Self>, file: &Arc<OpenFile>) {
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
                let store = self.bucket.store().clone();
                let this_mount = Arc::downgrade(&self.this_mount);
                self.tasks.spawn(async move {
                    if let Err(error) = store.delete(&aside).await {
                        log::warn!("cannot delete {aside}: {error}");
                        if let Some(this_mount) = this_mount.upgrade() {
                            this_mount.leave_something();
                        }
                    }
                });
            }
            let mut namespace = self.names.lock();
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
            state.data.base.clone().filter(|_| !state.link.is_gone())
        };
        if let Some(content) = content.filter(|_| self.bucket.can_read())
            && content.keep()
        {
            self.cache.keep_content(content);
        }
    }

    /// The bucket has what is staged. A writer may write on: what is here saves fetching it back, and without the
    /// private key there is no fetching it.
    pub(crate) fn drop_staged(&self, state: &mut State) {
        if state.refs.writers > 0 {
            return;
        }
        let stored = state.data.committed_staging.take();
        if let Some(staged) = state.data.staged.take()
            && stored == Some(staged.id())
            && self.bucket.can_read()
            && let Some(content) = &state.data.base
        {
            content.adopt(&staged);
        }
    }

    // ---- handles ----

    /// Of files and directories.
    pub(crate) fn handle_count(&self) -> usize {
        read_lock(&self.handles).len() + lock(&self.directories).len()
    }

    pub(crate) fn remove_handle(&self, handle: u64) -> Option<Arc<FileHandle>> {
        write_lock(&self.handles).remove(&handle)
    }

    pub(crate) fn open_directory(&self, ino: Ino) -> u64 {
        let handle = self.new_handle();
        let directory = Arc::new(DirectoryHandle::new(ino));
        lock(&self.directories).insert(handle, directory);
        handle
    }

    /// # Errors
    /// [`Error::BadHandle`].
    pub(crate) fn directory(&self, handle: u64) -> Result<Arc<DirectoryHandle>> {
        let directories = lock(&self.directories);
        directories.get(&handle).cloned().ok_or(Error::BadHandle)
    }

    /// The directory that the handle was of.
    pub(crate) fn release_directory(&self, handle: u64) -> Option<Ino> {
        let directory = lock(&self.directories).remove(&handle);
        directory.map(|directory| directory.ino())
    }
}
