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
//! In [`State`] these are: Clean, `written == uploaded`; otherwise Dirty, and besides Streaming while
//! `stream` is active, Uploading while `upload` is set, Failed while `failure` is set. Everything here is
//! memory; the lock is never held across a wait.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::writers::{WriterSet, same_process};
use crate::base::sync::lock;
use crate::encrypted::{EncryptedUpload, Xattrs};
use crate::fs::attributes::Timestamp;
use crate::fs::data::content::{Content, Reader};
use crate::fs::data::staging::StagedFile;
use crate::fs::error::Error;
use crate::fs::namespace::inode_table::Ino;
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

pub struct State {
    /// The version in the bucket that this file rests on. None: there is none.
    pub content: Option<Arc<Content>>,
    /// Changed bytes over `content`. Kept after an upload while somebody may write on.
    pub staged: Option<StagedFile>,
    /// It is a newer version of another client's than the one that was opened.
    pub moved_on: bool,
    /// Everything that the bucket does not have was appended: to this many bytes of `content`.
    pub appended_to: Option<u64>,
    /// The id of what was staged when the bucket got all of it, as `content`.
    pub stored: Option<u64>,
    /// Counts changes of the content.
    pub written: u64,
    /// The `written` that the bucket has.
    pub uploaded: u64,
    /// Who changed it since it was last uploaded.
    pub changers: WriterSet,
    /// The `written` that is being uploaded.
    pub upload: Option<u64>,
    pub stream: Stream,
    pub failure: Option<Error>,
    /// Failures since the last success.
    pub failures: u32,
    /// A background task is seeing to the upload.
    pub tended: bool,
    /// Its age since the last upload is being watched.
    pub aging: bool,
    pub handles: u32,
    /// Since when there have been handles.
    pub opened: Option<Instant>,
    /// Handles that may read.
    pub readers: u32,
    pub writers: u32,
    /// The threads that opened it for writing and have not closed it, as far as the kernel says.
    pub openers: Vec<u32>,
    /// Handles through which the kernel runs this as a program.
    pub runners: u32,
    /// Created with O_EXCL: the upload must not replace anything.
    pub exclusive: bool,
    /// Of an exclusive file: the uploads of which it is not known whether they took effect. What stands there
    /// may be one of them.
    pub unsure: Vec<Fingerprint>,
    /// Under a tool's temporary name, waiting for its rename.
    pub temporary: bool,
    /// Empty since it was created or truncated by its open: not uploaded before its last close.
    pub emptied: bool,
    /// The `user.*` attributes that go up with changed content. None: there are none.
    pub xattrs: Option<Arc<Xattrs>>,
    /// Where the object was copied for handles that still read it; deleted at the last close.
    pub aside: Option<ObjectKey>,
    /// Unlinked or replaced: it is never uploaded again.
    pub gone: bool,
    /// Another client had made the name before this new file was uploaded: its bytes have nowhere to go.
    pub lost: bool,
    /// A rename tries the upload under a new name that must be free: where it is not, the old name stays.
    pub renaming: bool,
    /// Its name is being taken away, which may fail yet: it is kept until that is known.
    pub leaving: bool,
    /// An upload may have brought an object into being that is not known to be there.
    pub maybe_stored: bool,
}

/// The upload that goes on while the file is being written.
pub enum Stream {
    /// May begin.
    Possible,
    Active {
        /// Parts from the second on, up to here, are frozen.
        sent_to: u64,
        /// The end of the first part, which is sent last.
        first_end: u64,
        /// Set by who completes the upload: gets everything when the parts under way have ended.
        handover: Option<oneshot::Sender<Handover>>,
        /// Tells one stream of a file from another.
        id: u64,
    },
    /// Was abandoned or has ended; there is no second one.
    Over,
}

/// What tells an upload of ours from another client's: nobody else's has this size and, to the nanosecond,
/// this time of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// In bytes.
    pub size: u64,
    pub ctime: Option<Timestamp>,
}

/// A streaming upload whose parts under way have ended.
pub struct Handover {
    pub upload: EncryptedUpload,
    pub key: String,
    pub xattrs: Option<Arc<Xattrs>>,
    /// The attributes' revision that its headers carry, and the time of change among them.
    pub revision: u64,
    pub ctime: Option<Timestamp>,
    pub sent_to: u64,
    pub next_part: u16,
}

impl OpenFile {
    /// A file that the bucket has, or of which nothing is known yet but that it is new (`content` None).
    pub fn new(ino: Ino, content: Option<Arc<Content>>) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            ino,
            state: Mutex::new(State {
                content,
                staged: None,
                moved_on: false,
                appended_to: None,
                stored: None,
                written: 0,
                uploaded: 0,
                changers: WriterSet::default(),
                upload: None,
                stream: Stream::Possible,
                failure: None,
                failures: 0,
                tended: false,
                aging: false,
                handles: 0,
                opened: None,
                readers: 0,
                writers: 0,
                openers: Vec::new(),
                runners: 0,
                exclusive: false,
                unsure: Vec::new(),
                temporary: false,
                emptied: false,
                xattrs: None,
                aside: None,
                gone: false,
                lost: false,
                renaming: false,
                leaving: false,
                maybe_stored: false,
            }),
            moved: Notify::new(),
            paged: AtomicBool::new(false),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Counts one more handle.
    pub fn hold(&mut self) {
        if self.handles == 0 {
            self.opened = Some(Instant::now());
        }
        self.handles += 1;
    }

    /// The bucket does not have what the file holds.
    pub fn is_dirty(&self) -> bool {
        self.written != self.uploaded
    }

    /// # Errors
    /// [`Error::Exists`] if another client made the name first.
    pub fn check_lost(&self) -> Result<(), Error> {
        match self.lost {
            true => Err(Error::Exists),
            false => Ok(()),
        }
    }

    /// It is dirty, and that matters: it has a name.
    pub fn is_unsaved(&self) -> bool {
        !self.gone && (self.is_dirty() || self.upload.is_some())
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        match (&self.staged, &self.content) {
            (Some(staged), _) => staged.len(),
            (None, Some(content)) => content.size(),
            (None, None) => 0,
        }
    }

    /// Whether it is new, or was emptied by its open, and nothing has been written to it: see the exceptions of rule 2
    /// in docs/semantics.md.
    pub fn is_still_empty(&self) -> bool {
        self.emptied && self.size() == 0
    }

    /// Whether a flush leaves the upload to the rename that is to come, as those exceptions say.
    pub fn waits_for_rename(&self, largest: u64) -> bool {
        self.temporary && self.size() <= largest && self.failure.is_none()
    }

    /// Whether the age of the change is no reason to upload it.
    pub fn may_wait(&self, largest_temporary: u64) -> bool {
        self.is_still_empty() || self.waits_for_rename(largest_temporary)
    }

    /// Whether the process of this thread has it open for writing: then that process will close it, and hear
    /// what became of its changes.
    pub fn is_written_by(&self, thread: u32) -> bool {
        let mut openers = self.openers.iter();
        openers.any(|&opener| same_process(opener, thread))
    }

    /// Whether some of what is visible is only in the bucket.
    pub fn needs_base(&self) -> bool {
        match &self.staged {
            Some(staged) => staged.needs_base(),
            None => self
                .content
                .as_ref()
                .is_some_and(|content| content.size() > 0),
        }
    }

    /// Whether `content` is the version in the bucket that the file rests on.
    pub fn rests_on(&self, content: &Arc<Content>) -> bool {
        let current = self.content.as_ref();
        current.is_some_and(|current| Arc::ptr_eq(current, content))
    }

    /// Nobody needs it any more.
    pub fn is_finished(&self) -> bool {
        let saved = self.gone || !self.is_dirty();
        self.handles == 0 && self.upload.is_none() && !self.leaving && saved
    }

    /// Notes an upload that must not replace anything, before it is sent.
    pub fn record_attempt(&mut self, attempt: Fingerprint) {
        /// Each is of a content of its own, or the time of change would be the same.
        const MOST: usize = 64;
        if !self.unsure.contains(&attempt) {
            self.unsure.truncate(MOST - 1);
            self.unsure.insert(0, attempt);
        }
    }

    /// Which row of the table above this is.
    pub fn state_name(&self) -> &'static str {
        match (&self.upload, &self.stream, &self.failure) {
            (Some(_), ..) => "Uploading",
            (_, Stream::Active { .. }, _) => "Streaming",
            (.., Some(_)) => "Failed",
            _ if self.is_dirty() => "Dirty",
            _ => "Clean",
        }
    }

    /// Says which edge of the table was taken: a run of fsx counts them.
    pub fn trace_transition(&self, cause: &str, from: &str) {
        log::trace!("{cause}: {from} to {}", self.state_name());
    }

    /// The content changed from `offset` on, or at all: a stream that has sent what changes is abandoned.
    pub fn abandon_stream_over(&mut self, changed: std::ops::Range<u64>) {
        if let Stream::Active {
            sent_to, first_end, ..
        } = self.stream
            && changed.start < sent_to
            && changed.end > first_end
        {
            self.stream = Stream::Over;
        }
    }

    /// Who uploads from now on starts anew.
    pub fn abandon_stream(&mut self) {
        if matches!(self.stream, Stream::Active { .. }) {
            self.stream = Stream::Over;
        }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer {
    /// The thread's id; 0 where the kernel does not say.
    pub thread: u32,
    /// Somebody whose write takes the set-id bits away.
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
    /// By somebody whose truncation takes the set-id bits away.
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
        let content = state.content.as_ref()?;
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
