//! The parts of an open file's state: what its bytes rest on, how far their upload has come, what has it open, and what
//! its name is for.
//!
//! Each part changes by its methods, so that what excludes each other cannot be set at once. `open_file` puts them
//! together, and has the table of the states that they make.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::writers::{WriterSet, same_process};
use crate::encrypted::{EncryptedUpload, Xattrs};
use crate::files::attributes::Timestamp;
use crate::fs::data::content::Content;
use crate::fs::data::staging::StagedFile;
use crate::fs::error::Error;

/// The bytes of an open file: those of a version in the bucket, under those that were changed since.
#[derive(Default)]
pub struct FileData {
    /// The version in the bucket that this file rests on. None: there is none.
    pub base: Option<Arc<Content>>,
    /// Changed bytes over `base`. Kept after an upload while a program may write on.
    pub staged: Option<StagedFile>,
    /// `base` is a newer version, of another client's, than the one that was opened.
    pub moved_on: bool,
    /// Everything that the bucket does not have was appended: to this many bytes of `base`.
    pub appended_to: Option<u64>,
    /// The id of what was staged when the bucket got all of it, as `base`.
    pub committed_staging: Option<u64>,
    /// Counts changes of the content.
    pub version: u64,
    /// The `version` that the bucket has.
    pub committed: u64,
    /// The processes that changed it since it was last uploaded.
    pub changed_by: WriterSet,
    /// Empty since it was created or truncated by its open: not uploaded before its last close.
    pub emptied: bool,
}

/// How far bringing the file into the bucket has come.
#[derive(Default)]
pub struct Upload {
    attempt: Attempt,
    /// Failures since the last success.
    failures: u32,
    /// An attempt may have brought an object into being that is not known to be there.
    may_have_stored: bool,
}

#[derive(Default)]
enum Attempt {
    /// None is under way, and the last one did not fail.
    #[default]
    Idle,
    /// Of this version of the file.
    Running(u64),
    /// The last one failed, and is repeated.
    Failed(Error),
    /// A copy inside the bucket has the place of an upload. The failure before it, if it comes to nothing.
    Copying(u64, Option<Error>),
}

impl Upload {
    /// An upload begins. A caller that waits for it must not take the last one's failure for its own.
    pub fn begin(&mut self, version: u64) {
        self.attempt = Attempt::Running(version);
    }

    /// A copy inside the bucket begins, in the place of an upload. Followed by [`Upload::end_copy`].
    pub fn begin_copy(&mut self, version: u64) {
        let failure = match std::mem::take(&mut self.attempt) {
            Attempt::Failed(error) => Some(error),
            _ => None,
        };
        self.attempt = Attempt::Copying(version, failure);
    }

    pub fn end_copy(&mut self) {
        if let Attempt::Copying(_, failure) = &mut self.attempt {
            self.attempt = failure.take().map_or(Attempt::Idle, Attempt::Failed);
        }
    }

    pub fn succeed(&mut self) {
        self.attempt = Attempt::Idle;
        self.failures = 0;
    }

    pub fn fail(&mut self, error: Error) {
        self.attempt = Attempt::Failed(error);
        self.failures += 1;
    }

    /// It ended without saying how: it does not count as one more failure.
    pub fn break_off(&mut self, error: Error) {
        self.attempt = Attempt::Failed(error);
    }

    /// What failed is not wanted any more.
    pub fn forget_failure(&mut self) {
        if self.has_failed() {
            self.attempt = Attempt::Idle;
        }
    }

    /// The version that is being uploaded.
    pub fn version(&self) -> Option<u64> {
        match self.attempt {
            Attempt::Running(version) | Attempt::Copying(version, _) => Some(version),
            Attempt::Idle | Attempt::Failed(_) => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.version().is_some()
    }

    /// Why the last one failed, if it has ended.
    pub fn failure(&self) -> Option<&Error> {
        match &self.attempt {
            Attempt::Failed(error) => Some(error),
            _ => None,
        }
    }

    pub fn has_failed(&self) -> bool {
        self.failure().is_some()
    }

    /// Since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    pub fn may_have_stored(&self) -> bool {
        self.may_have_stored
    }

    /// False once what is in the bucket is known, or is not ours.
    pub fn set_may_have_stored(&mut self, may: bool) {
        self.may_have_stored = may;
    }
}

/// Background tasks that wait for their time; there is at most one of each.
#[derive(Default)]
pub struct Timers {
    /// Waits to upload what has failed, or what no program will flush.
    pub retry: bool,
    /// Watches the age of the changes since the last upload.
    pub age: bool,
}

/// What has the file open.
#[derive(Default)]
pub struct OpenCounts {
    /// Handles, and calls that hold the file.
    pub handles: u32,
    /// Since when there have been any.
    pub since: Option<Instant>,
    /// Handles that may read.
    pub readers: u32,
    pub writers: u32,
    /// Handles through which the kernel runs this as a program.
    pub runners: u32,
    /// The threads that opened it for writing and have not closed it, as far as the kernel says.
    openers: Vec<u32>,
}

impl OpenCounts {
    /// Counts one more handle.
    pub fn acquire(&mut self) {
        if self.handles == 0 {
            self.since = Some(Instant::now());
        }
        self.handles += 1;
    }

    /// What an acquired handle is for; `opener` is the thread that opened it.
    pub fn open(&mut self, reads: bool, writes: bool, runs: bool, opener: u32) {
        self.readers += u32::from(reads);
        self.writers += u32::from(writes);
        self.runners += u32::from(runs);
        if writes {
            self.openers.push(opener);
        }
    }

    /// One handle less.
    pub fn release(&mut self, reads: bool, writes: bool, runs: bool) {
        self.handles -= 1;
        self.readers -= u32::from(reads);
        self.writers -= u32::from(writes);
        self.runners -= u32::from(runs);
    }

    pub fn forget_opener(&mut self, thread: u32) {
        if let Some(at) = self.openers.iter().position(|&opener| opener == thread) {
            self.openers.swap_remove(at);
        }
    }

    /// Whether the process of this thread has it open for writing: then that process will close it, and hear
    /// what became of its changes.
    pub fn is_written_by(&self, thread: u32) -> bool {
        let mut openers = self.openers.iter();
        openers.any(|&opener| same_process(opener, thread))
    }
}

/// What is special about a file that the bucket does not have yet under its name.
pub struct Creation {
    /// The upload must not replace anything: created with O_EXCL, or renamed to a name that must be free. Then,
    /// the uploads of which it is not known whether they took effect: what stands there may be one of them.
    pub exclusive: Option<Vec<Fingerprint>>,
    /// Under a tool's temporary name, waiting for its rename.
    pub temporary: bool,
}

/// What the file's name is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Its uploads go there.
    #[default]
    Named,
    /// A rename tries the upload under a new name that must be free: where it is not, the old name stays.
    Renaming,
    /// Its name is being taken away, which may fail yet. It is not uploaded meanwhile.
    Removing,
    /// Unlinked or replaced: it is never uploaded again.
    Gone,
    /// Another client had made the name before this new file was uploaded: its bytes have nowhere to go.
    Lost,
}

impl Link {
    /// Whether nothing of it is to be uploaded.
    pub fn is_gone(self) -> bool {
        matches!(self, Link::Removing | Link::Gone | Link::Lost)
    }

    pub fn is_lost(self) -> bool {
        self == Link::Lost
    }

    /// Whether it may yet get its name back.
    pub fn is_removing(self) -> bool {
        self == Link::Removing
    }

    /// Followed by [`Link::restore`] or [`Link::end_removal`].
    pub fn begin_removal(&mut self) {
        if !self.is_lost() {
            *self = Link::Removing;
        }
    }

    /// It could not be removed after all.
    pub fn restore(&mut self) {
        if !self.is_lost() {
            *self = Link::Named;
        }
    }

    pub fn end_removal(&mut self) {
        if self.is_removing() {
            *self = Link::Gone;
        }
    }

    /// There is nowhere to upload it to.
    pub fn lose_name(&mut self) {
        if !self.is_gone() {
            *self = Link::Gone;
        }
    }

    /// The name turned out to be another client's. False during a rename: the old name stays.
    pub fn lose_creation(&mut self) -> bool {
        let lost = *self != Link::Renaming;
        if lost {
            *self = Link::Lost;
        }
        lost
    }

    /// Followed by [`Link::end_rename`].
    pub fn begin_rename(&mut self) {
        if *self == Link::Named {
            *self = Link::Renaming;
        }
    }

    pub fn end_rename(&mut self) {
        if *self == Link::Renaming {
            *self = Link::Named;
        }
    }
}

/// The upload that goes on while the file is being written.
#[derive(Default)]
pub enum Stream {
    /// May begin.
    #[default]
    Possible,
    Active {
        /// Parts from the second on, up to here, are frozen.
        sent_to: u64,
        /// The end of the first part, which is sent last.
        first_end: u64,
        /// Set by the upload that completes this: gets everything when the parts under way have ended.
        handover: Option<oneshot::Sender<Handover>>,
        /// Tells one stream of a file from another.
        id: u64,
    },
    /// Was abandoned or has ended; there is no second one.
    Over,
}

impl Stream {
    /// Of which nothing more is sent.
    pub fn abandon(&mut self) {
        if matches!(self, Stream::Active { .. }) {
            *self = Stream::Over;
        }
    }

    /// The content changed in this range: a stream that has sent some of it is abandoned.
    pub fn abandon_over(&mut self, changed: std::ops::Range<u64>) {
        if let Stream::Active {
            sent_to, first_end, ..
        } = self
            && changed.start < *sent_to
            && changed.end > *first_end
        {
            *self = Stream::Over;
        }
    }
}

/// What tells an upload of ours from another client's: no other has this size and, to the nanosecond, this time of
/// change.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_lost_its_name_to_another_client_is_lost_whatever_follows() {
        let mut link = Link::Named;
        assert!(link.lose_creation() && link.is_gone());
        link.begin_removal();
        link.restore();
        link.begin_rename();
        link.end_removal();
        assert_eq!(link, Link::Lost);
    }

    #[test]
    fn a_rename_that_finds_its_name_taken_keeps_the_old_one() {
        let mut link = Link::Named;
        link.begin_rename();
        assert!(!link.lose_creation() && !link.is_gone());
        link.end_rename();
        assert_eq!(link, Link::Named);
    }

    #[test]
    fn a_removal_ends_with_the_name_or_without_it() {
        let mut link = Link::Named;
        link.begin_removal();
        assert!(link.is_gone() && link.is_removing());
        link.restore();
        assert_eq!(link, Link::Named);
        link.begin_removal();
        link.end_removal();
        assert_eq!(link, Link::Gone);
        link.begin_rename();
        assert_eq!(
            link,
            Link::Gone,
            "without a name there is nothing to rename"
        );
    }

    #[test]
    fn a_copy_in_the_place_of_an_upload_leaves_its_failure_as_it_was() {
        let mut upload = Upload::default();
        upload.begin(1);
        upload.fail(Error::NoSpace);
        upload.begin_copy(2);
        assert_eq!((upload.version(), upload.has_failed()), (Some(2), false));
        upload.end_copy();
        assert!(upload.has_failed());
        upload.begin(3);
        assert_eq!((upload.has_failed(), upload.failures()), (false, 1));
        upload.succeed();
        assert_eq!((upload.is_running(), upload.failures()), (false, 0));
    }
}
