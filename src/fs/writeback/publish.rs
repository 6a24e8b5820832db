//! When changed files are uploaded: at once for a flush, again after a failure, in the end in any case.
//!
//! `Writeback::publish` is what a flush waits for. The upload itself is a task of its own, so that a
//! caller that goes away does not break it off, and one at a time per file. What fails is tried again in the
//! background until it is up or unlinked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::runtime::Handle;

use super::deferred::Deferred;
use crate::base::backoff;
use crate::base::error_chain::chain;
use crate::base::wait::until;
use crate::encrypted::EncryptedBucket;
use crate::fs::background::BackgroundTasks;
use crate::fs::error::{Error, Result};
use crate::fs::handles::open_file::{OpenFile, State};
use crate::fs::handles::open_files::OpenFiles;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::names::Names;
use crate::fs::resolver::markers::Markers;
use crate::fs::resolver::object_cache::ObjectCache;
use crate::fs::resolver::objects::Objects;
use crate::fs::resolver::requests::Resolver;
use crate::fs::settings::Settings;

/// Files uploaded at once when all are.
const PARALLEL_FILES: usize = 32;

/// The wait after the first failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A file whose bytes could not be uploaded.
#[derive(Clone, Debug)]
pub struct FailedUpload {
    /// Below the mount point; empty for a file without a name.
    pub path: String,
    pub error: Error,
}

impl std::fmt::Display for FailedUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, chain(&self.error))
    }
}

/// What is on its way into the bucket, or has to get there.
pub(crate) struct Writeback {
    pub(super) bucket: Arc<EncryptedBucket>,
    pub(super) settings: Arc<Settings>,
    pub(super) runtime: Handle,
    pub(super) names: Arc<Names>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    pub(super) markers: Arc<Markers>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) tasks: Arc<BackgroundTasks>,
    /// Inodes whose pending attributes are stored later, and when.
    pub(super) deferred_times: Mutex<HashMap<Ino, Deferred>>,
}

/// What writeback works over.
pub(crate) struct Parts {
    pub bucket: Arc<EncryptedBucket>,
    pub settings: Arc<Settings>,
    pub runtime: Handle,
    pub names: Arc<Names>,
    pub cache: Arc<ObjectCache>,
    pub objects: Arc<Objects>,
    pub markers: Arc<Markers>,
    pub resolver: Arc<Resolver>,
    pub open_files: Arc<OpenFiles>,
    pub tasks: Arc<BackgroundTasks>,
}

impl Writeback {
    pub(crate) fn new(parts: Parts) -> Arc<Writeback> {
        Arc::new(Writeback {
            bucket: parts.bucket,
            settings: parts.settings,
            runtime: parts.runtime,
            names: parts.names,
            cache: parts.cache,
            objects: parts.objects,
            markers: parts.markers,
            resolver: parts.resolver,
            open_files: parts.open_files,
            tasks: parts.tasks,
            deferred_times: Mutex::default(),
        })
    }

    /// Returns when the bucket has everything that was written to the file before the call.
    ///
    /// # Errors
    /// Those of the upload; it is tried again in the background.
    pub(crate) async fn publish(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let wanted = file.lock().data.version;
        // An upload that was under way already may have taken its snapshot before the call.
        loop {
            let begun = {
                let mut state = file.lock();
                state.check_lost()?;
                if state.link.is_gone() || state.data.committed >= wanted {
                    return Ok(());
                }
                match state.upload.version() {
                    Some(version) => version,
                    None => self.begin_upload(file, &mut state),
                }
            };
            let failure = until(&file.moved, || {
                let state = file.lock();
                let ended = state.upload.version() != Some(begun);
                ended.then(|| state.upload.failure().filter(|_| begun >= wanted).cloned())
            });
            if let Some(error) = failure.await {
                return Err(error);
            }
        }
    }

    /// Starts the task; returns what it uploads.
    fn begin_upload(self: &Arc<Self>, file: &Arc<OpenFile>, state: &mut State) -> u64 {
        let (version, row) = (state.data.version, state.state_name());
        state.upload.begin(version);
        state.trace_transition("upload", row);
        let (writeback, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            let ended = UploadEnds(&file);
            let result = writeback.upload(&file).await;
            drop(ended);
            writeback.upload_ended(&file, result);
        });
        version
    }

    fn upload_ended(self: &Arc<Self>, file: &Arc<OpenFile>, result: Result<()>) {
        {
            let mut state = file.lock();
            let row = state.state_name();
            match result {
                Ok(()) => state.upload.succeed(),
                Err(error) => {
                    log::error!(
                        "uploading {} failed: {}",
                        self.names.describe_place(file.ino),
                        chain(&error)
                    );
                    state.upload.fail(error);
                    // What was sent is of no use to the next attempt, which has another key.
                    state.stream.abandon();
                }
            }
            state.trace_transition("upload", row);
        }
        file.moved.notify_waiters();
        self.schedule_upload(file);
        self.open_files.drop_if_idle(file);
    }

    /// Schedules the upload of a file whose last attempt failed, or that no flush will upload.
    pub(crate) fn schedule_upload(self: &Arc<Self>, file: &Arc<OpenFile>) {
        {
            let mut state = file.lock();
            let wanting = state.is_dirty() && !state.link.is_gone();
            // Readers do not hold up what other handles have written.
            let due =
                state.upload.has_failed() || (state.refs.writers == 0 && !state.is_temporary());
            if !wanting || !due || state.timers.retry || state.upload.is_running() {
                return;
            }
            state.timers.retry = true;
        }
        let (writeback, file) = (self.clone(), file.clone());
        self.runtime.spawn(async move {
            let failures = file.lock().upload.failures();
            if failures > 0 {
                let longest = backoff::exponential(FIRST_WAIT, failures + 1, LONGEST_WAIT);
                let wait = backoff::jittered(longest, rand::random());
                tokio::time::sleep(wait).await;
            }
            file.lock().timers.retry = false;
            // Logged where it failed; a failure tends again.
            let _ = writeback.publish(&file).await;
        });
    }

    /// Uploads a snapshot of a file that is still changed and not uploaded when it has been so for `age`.
    /// Once a file, until it is uploaded.
    pub(crate) fn upload_after(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        state: &mut State,
        age: Duration,
    ) {
        if std::mem::replace(&mut state.timers.age, true) {
            return;
        }
        let (writeback, file) = (self.clone(), Arc::downgrade(file));
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(age).await;
                let Some(file) = file.upgrade() else { return };
                let due = {
                    let mut state = file.lock();
                    state.timers.age = state.is_dirty() && !state.link.is_gone();
                    if !state.timers.age {
                        return;
                    }
                    !state.may_wait(writeback.settings.uploads.part_size)
                };
                if due {
                    // Logged where it fails, and tried again there.
                    let _ = writeback.publish(&file).await;
                }
            }
        });
    }

    /// Uploads everything that is pending, temporary names included.
    pub(crate) async fn upload_everything(
        self: &Arc<Self>,
    ) -> std::result::Result<(), Vec<FailedUpload>> {
        let files = self.open_files.all();
        let unsaved: Vec<FailedUpload> = stream::iter(files)
            .map(|file| async move {
                let result = self.publish(&file).await;
                result.err().map(|error| FailedUpload {
                    path: self.names.describe_place(file.ino),
                    error,
                })
            })
            .buffer_unordered(PARALLEL_FILES)
            .filter_map(|unsaved| async move { unsaved })
            .collect()
            .await;
        if unsaved.is_empty() {
            Ok(())
        } else {
            Err(unsaved)
        }
    }
}

/// A panic in an upload must not leave its waiters waiting.
struct UploadEnds<'a>(&'a OpenFile);

impl Drop for UploadEnds<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.lock();
            state.upload.break_off(Error::io("the upload panicked"));
            // The stream's task may be gone: the next attempt must not wait for its handover.
            state.stream.abandon();
            drop(state);
            self.0.moved.notify_waiters();
        }
    }
}
