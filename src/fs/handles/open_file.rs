//! An open file: its content between the bucket and the programs that have it open.
//!
//! There is one [`OpenFile`] per inode that has handles or bytes that are not in the bucket yet. Bytes are
//! frozen from the moment they are handed to the cipher: a later write copies them, it never changes them.
//!
//! | state | content | write, truncate | flush by a writer, fsync |
//! |---|---|---|---|
//! | Clean | the version in the bucket | Dirty on top of it | nothing |
//! | Dirty | staged bytes over the version | stays | uploads a snapshot |
//! | Streaming | as Dirty; full parts of a file written in order are on their way | in order: goes on; back over frozen bytes: the upload is abandoned, Dirty, a fresh key later, and no second streaming for this file | sends the rest, completes |
//! | Uploading | as Dirty | Dirty again; the snapshot finishes, newer bytes go under another key | waits, then uploads what is newer |
//! | Failed | as Dirty, may be on disk | Dirty | tries again |
//!
//! In [`State`] these are: Clean, `data.version == data.committed`; otherwise Dirty, and besides Streaming while
//! `stream` is active, Uploading while `upload` runs, Failed while it has failed. The parts are `file_state`'s.
//! Everything here is memory; the lock is never held across a wait.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::file_state::{
    Creation, FileData, Fingerprint, Link, OpenCounts, Stream, Timers, Upload,
};
use crate::base::sync::lock;
use crate::encrypted::Xattrs;
use crate::fs::data::content::{Content, Reader};
use crate::fs::error::Error;
use crate::fs::namespace::inode::Ino;
use crate::store::object_store::ObjectKey;

pub struct OpenFile {
    pub ino: Ino,
    /// Comes before the namespace's lock when both are needed.
    state: Mutex<State>,
    /// An upload ended, or a stream has something to look at.
    pub moved: Notify,
    /// The kernel may have pages of the inode.
    pub paged: AtomicBool,
}

/// What an open file is, and where it stands on its way into the bucket.
#[derive(Default)]
pub struct State {
    pub data: FileData,
    pub upload: Upload,
    pub timers: Timers,
    pub stream: Stream,
    pub refs: OpenCounts,
    /// None once the bucket has had it.
    pub creation: Option<Creation>,
    pub link: Link,
    /// The `user.*` attributes that go up with changed content. None: there are none.
    pub xattrs: Option<Arc<Xattrs>>,
    /// Where the object was copied for handles that still read it; deleted at the last close.
    pub aside: Option<ObjectKey>,
}

impl OpenFile {
    /// A file that the bucket has, or of which nothing is known yet but that it is new (`base` None).
    pub fn new(ino: Ino, base: Option<Arc<Content>>) -> Arc<OpenFile> {
        let state = State {
            data: FileData {
                base,
                ..FileData::default()
            },
            ..State::default()
        };
        Arc::new(OpenFile {
            ino,
            state: Mutex::new(state),
            moved: Notify::new(),
            paged: AtomicBool::new(false),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The bucket does not have what the file holds.
    pub fn is_dirty(&self) -> bool {
        self.data.version != self.data.committed
    }

    /// # Errors
    /// [`Error::Exists`] if another client made the name first.
    pub fn check_lost(&self) -> Result<(), Error> {
        match self.link {
            Link::Lost => Err(Error::Exists),
            _ => Ok(()),
        }
    }

    /// It is dirty, and that matters: it has a name.
    pub fn is_unsaved(&self) -> bool {
        !self.link.is_gone() && (self.is_dirty() || self.upload.is_running())
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        match (&self.data.staged, &self.data.base) {
            (Some(staged), _) => staged.len(),
            (None, Some(content)) => content.size(),
            (None, None) => 0,
        }
    }

    /// Whether it is new, or was emptied by its open, and nothing has been written to it: see the exceptions of rule 2
    /// in docs/semantics.md.
    pub fn is_still_empty(&self) -> bool {
        self.data.emptied && self.size() == 0
    }

    /// Whether a flush leaves the upload to the rename that is to come, as those exceptions say.
    pub fn waits_for_rename(&self, largest: u64) -> bool {
        self.is_temporary() && self.size() <= largest && !self.upload.has_failed()
    }

    /// Whether the age of the change is no reason to upload it.
    pub fn may_wait(&self, largest_temporary: u64) -> bool {
        self.is_still_empty() || self.waits_for_rename(largest_temporary)
    }

    /// Whether some of what is visible is only in the bucket.
    pub fn needs_base(&self) -> bool {
        match &self.data.staged {
            Some(staged) => staged.needs_base(),
            None => self
                .data
                .base
                .as_ref()
                .is_some_and(|content| content.size() > 0),
        }
    }

    /// Whether `content` is the version in the bucket that the file rests on.
    pub fn rests_on(&self, content: &Arc<Content>) -> bool {
        let current = self.data.base.as_ref();
        current.is_some_and(|current| Arc::ptr_eq(current, content))
    }

    /// Nothing needs it any more.
    pub fn is_finished(&self) -> bool {
        let saved = self.link.is_gone() || !self.is_dirty();
        self.refs.handles == 0 && !self.upload.is_running() && !self.link.is_removing() && saved
    }

    /// Under a tool's temporary name, waiting for its rename.
    pub fn is_temporary(&self) -> bool {
        let creation = self.creation.as_ref();
        creation.is_some_and(|creation| creation.temporary)
    }

    /// It waits for its rename no longer.
    pub fn end_temporary(&mut self) {
        if let Some(creation) = &mut self.creation {
            creation.temporary = false;
        }
    }

    /// Whether the upload must not replace anything.
    pub fn is_exclusive(&self) -> bool {
        let creation = self.creation.as_ref();
        creation.is_some_and(|creation| creation.exclusive.is_some())
    }

    /// What stands under the name is ours, and may be replaced.
    pub fn allow_replacing(&mut self) {
        if let Some(creation) = &mut self.creation {
            creation.exclusive = None;
        }
    }

    /// Of an exclusive file, the uploads of which it is not known whether they took effect.
    pub fn attempts(&self) -> &[Fingerprint] {
        let creation = self.creation.as_ref();
        creation
            .and_then(|creation| creation.exclusive.as_deref())
            .unwrap_or_default()
    }

    /// Notes an upload that must not replace anything, before it is sent.
    pub fn record_attempt(&mut self, attempt: Fingerprint) {
        /// Each is of a content of its own, or the time of change would be the same.
        const MOST: usize = 64;
        let creation = self.creation.as_mut();
        if let Some(attempts) = creation.and_then(|creation| creation.exclusive.as_mut())
            && !attempts.contains(&attempt)
        {
            attempts.truncate(MOST - 1);
            attempts.insert(0, attempt);
        }
    }

    /// Which row of the table above this is.
    pub fn state_name(&self) -> &'static str {
        match &self.stream {
            _ if self.upload.is_running() => "Uploading",
            Stream::Active { .. } => "Streaming",
            _ if self.upload.has_failed() => "Failed",
            _ if self.is_dirty() => "Dirty",
            _ => "Clean",
        }
    }

    /// Says which edge of the table was taken: a run of fsx counts them.
    pub fn trace_transition(&self, cause: &str, from: &str) {
        log::trace!("{cause}: {from} to {}", self.state_name());
    }
}

/// The origin of a write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer {
    /// The thread's id; 0 where the kernel does not say.
    pub thread: u32,
    /// The process lacks the capability to keep the set-id bits.
    pub clear_set_id: bool,
    /// The write goes to the end of the file.
    pub append: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenHow {
    pub read: bool,
    pub write: bool,
    pub truncate: bool,
    pub exclusive: bool,
    /// To be run as a program.
    pub execute: bool,
    /// By a process that lacks the capability to keep the set-id bits.
    pub clear_set_id: bool,
    /// The thread's id; 0 where the kernel does not say.
    pub thread: u32,
}

/// What `open` returned to a program.
pub struct FileHandle {
    pub file: Arc<OpenFile>,
    pub readable: bool,
    pub writable: bool,
    /// Opened for writing, or truncating: its close waits for the upload.
    pub changes: bool,
    pub runs: bool,
    /// The thread that opened it.
    pub opener: u32,
    /// The view of the version this handle reads, as far as it is in the bucket.
    reader: Mutex<Option<Arc<Reader>>>,
}

impl FileHandle {
    pub fn new(file: Arc<OpenFile>, how: OpenHow) -> Arc<FileHandle> {
        Arc::new(FileHandle {
            file,
            readable: how.read,
            writable: how.write,
            changes: how.write || how.truncate,
            runs: how.execute,
            opener: how.thread,
            reader: Mutex::new(None),
        })
    }

    /// This handle's view of `state`'s version.
    pub fn reader(&self, state: &State) -> Option<Arc<Reader>> {
        let mut slot = lock(&self.reader);
        let content = state.data.base.as_ref()?;
        if let Some(reader) = &*slot
            && Arc::ptr_eq(reader.content(), content)
        {
            return Some(reader.clone());
        }
        let reader = content.reader();
        *slot = Some(reader.clone());
        Some(reader)
    }
}
