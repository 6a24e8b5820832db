//! What a rename leaves behind: the old objects, which are deleted once their copies are there.
//!
//! From the last copy on the rename has happened, whatever becomes of the old name: it is not shown any more,
//! nobody makes anything under it, and deleting it is tried as often as it takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::intent::Intents;
use super::memory::RenameMemory;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::key_locks::{KeyGuard, Scope};
use crate::fs::namespace::names::NameGuard;
use crate::fs::namespace::object_name::Name;
use crate::fs::resolver::markers::Markers;
use crate::fs::resolver::objects::Objects;
use crate::fs::writeback::publish::FailedUpload;
use crate::store::object_store::ObjectKey;

/// The wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(crate) struct DeferredDelete {
    /// The old name.
    pub from: (Ino, Name),
    /// Its keys.
    pub scope: Scope,
    /// What is to be deleted.
    pub keys: Vec<String>,
    /// The marker of a directory that gave way to one without a marker: its attributes go with it.
    pub replaced_marker: Option<String>,
    /// The note that tells a later mount to go on; it goes last.
    pub intent: Option<ObjectKey>,
    /// What the keys of a directory take of the memory budget.
    pub _memory: Option<RenameMemory>,
    pub locked: KeyGuard,
    pub changing: NameGuard,
}

/// What the bucket refuses to delete.
pub(crate) struct Refused {
    pub error: Error,
    /// The names stay marked as changing, and their keys ours, until the rename is undone.
    _leftover: DeferredDelete,
}

/// Those that are being deleted in the background.
pub(crate) struct DeferredDeletes {
    runtime: Handle,
    objects: Arc<Objects>,
    markers: Arc<Markers>,
    intents: Arc<Intents>,
    tasks: Mutex<JoinSet<std::result::Result<(), FailedUpload>>>,
    /// Whether the mount ends: then each is tried once more.
    ending: watch::Sender<bool>,
}

impl DeferredDeletes {
    pub(crate) fn new(
        runtime: Handle,
        objects: Arc<Objects>,
        markers: Arc<Markers>,
        intents: Arc<Intents>,
    ) -> Arc<DeferredDeletes> {
        Arc::new(DeferredDeletes {
            runtime,
            objects,
            markers,
            intents,
            tasks: Mutex::default(),
            ending: watch::Sender::new(false),
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    /// Deletes it, now or later.
    ///
    /// # Errors
    /// When the bucket refuses: the rename is to be undone.
    pub(crate) async fn delete_source(
        self: &Arc<Self>,
        mut leftover: DeferredDelete,
    ) -> std::result::Result<(), Box<Refused>> {
        match self.clear(&leftover).await {
            Err(error) if !error.is_refusal() => {
                leftover.locked.downgrade(vec![leftover.scope.clone()]);
                leftover.changing.keep_only(&leftover.from);
                let later = self.clone().retry(leftover, error);
                lock(&self.tasks).spawn_on(later, &self.runtime);
                Ok(())
            }
            Err(error) => Err(Box::new(Refused {
                error,
                _leftover: leftover,
            })),
            Ok(()) => Ok(()),
        }
    }

    /// # Errors
    /// A refusal means that some of the old name is still there.
    async fn clear(self: &Arc<Self>, leftover: &DeferredDelete) -> Result<()> {
        let (parent, name) = &leftover.from;
        self.markers.keep_directory(*parent, name).await?;
        self.objects
            .delete_all(leftover.keys.iter().map(String::as_str))
            .await?;
        // The old name is gone: what is refused from here on does not bring it back.
        if let Some(marker) = &leftover.replaced_marker {
            let deleted = self.objects.delete_all([marker.as_str()].into_iter()).await;
            accept_refusal(deleted, || {
                format!(
                    "\"{}\" keeps the attributes of the directory that was replaced",
                    marker.escape_debug()
                )
            })?;
        }
        if let Some(intent) = &leftover.intent {
            let dropped = self.intents.drop_intent(intent).await;
            accept_refusal(dropped, || {
                format!("{intent} is left of a rename that is done")
            })?;
        }
        Ok(())
    }

    async fn retry(
        self: Arc<Self>,
        leftover: DeferredDelete,
        mut error: Error,
    ) -> std::result::Result<(), FailedUpload> {
        let old = leftover.keys.first().map_or("", |key| key).to_owned();
        let mut ending = self.ending.subscribe();
        let mut wait = FIRST_WAIT;
        loop {
            log::warn!(
                "\"{}\" is renamed and not yet deleted, trying again: {}",
                old.escape_debug(),
                chain(&error)
            );
            let last = tokio::select! {
                () = tokio::time::sleep(wait) => false,
                _ = ending.wait_for(|ending| *ending) => true,
            };
            wait = (2 * wait).min(LONGEST_WAIT);
            match self.clear(&leftover).await {
                Ok(()) => return Ok(()),
                Err(error) if last => {
                    let path = format!("\"{}\" (renamed, not deleted)", old.escape_debug());
                    return Err(FailedUpload { path, error });
                }
                Err(again) => error = again,
            }
        }
    }

    /// Tries once more what is still left, and returns what stays.
    pub(crate) async fn drain(&self) -> Vec<FailedUpload> {
        self.ending.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let mut left = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            // One that was broken off has said why.
            left.extend(ended.ok().and_then(std::result::Result::err));
        }
        self.ending.send_replace(false);
        left
    }
}

/// Says what a refusal leaves, and goes on.
fn accept_refusal(result: Result<()>, left: impl FnOnce() -> String) -> Result<()> {
    match result {
        Err(error) if error.is_refusal() => {
            log::error!("{}: {}", left(), chain(&error));
            Ok(())
        }
        result => result,
    }
}
