//! What a rename leaves behind: the old objects, which are deleted once their copies are there.
//!
//! From the last copy on the rename has happened, whatever becomes of the old name: it is not shown any more,
//! nobody makes anything under it, and deleting it is tried as often as it takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::memory::RenameMemory;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::fs::error::{Error, Result};
use crate::fs::filesystem::Filesystem;
use crate::fs::namespace::inode_table::Ino;
use crate::fs::namespace::key_locks::{Pass, Scope};
use crate::fs::namespace::names::Changing;
use crate::fs::namespace::object_name::Name;
use crate::fs::writeback::publish::Unsaved;
use crate::store::object_store::ObjectKey;

/// The wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Leftover {
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
    pub pass: Pass,
    pub changing: Changing,
}

/// What the bucket refuses to delete.
pub(crate) struct Refused {
    pub error: Error,
    /// The names stay marked as changing, and their keys ours, until the rename is undone.
    _leftover: Leftover,
}

/// Those that are being deleted in the background.
pub(crate) struct Leftovers {
    tasks: Mutex<JoinSet<std::result::Result<(), Unsaved>>>,
    /// Whether the mount ends: then each is tried once more.
    ending: watch::Sender<bool>,
}

impl Default for Leftovers {
    fn default() -> Leftovers {
        Leftovers {
            tasks: Mutex::default(),
            ending: watch::Sender::new(false),
        }
    }
}

impl Leftovers {
    pub fn len(&self) -> usize {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }
}

impl Filesystem {
    /// Deletes it, now or later.
    ///
    /// # Errors
    /// When the bucket refuses: the rename is to be undone.
    pub(crate) async fn clear_away(
        self: &Arc<Self>,
        mut leftover: Leftover,
    ) -> std::result::Result<(), Box<Refused>> {
        match self.clear(&leftover).await {
            Err(error) if !error.is_refusal() => {
                leftover.pass.narrow(vec![leftover.scope.clone()]);
                leftover.changing.keep_only(&leftover.from);
                let later = self.clone().clear_later(leftover, error);
                lock(&self.leftovers.tasks).spawn_on(later, &self.runtime);
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
    async fn clear(self: &Arc<Self>, leftover: &Leftover) -> Result<()> {
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
            let dropped = self.drop_intent(intent).await;
            accept_refusal(dropped, || {
                format!("{intent} is left of a rename that is done")
            })?;
        }
        Ok(())
    }

    async fn clear_later(
        self: Arc<Self>,
        leftover: Leftover,
        mut error: Error,
    ) -> std::result::Result<(), Unsaved> {
        let old = leftover.keys.first().map_or("", |key| key).to_owned();
        let mut ending = self.leftovers.ending.subscribe();
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
                    return Err(Unsaved { path, error });
                }
                Err(again) => error = again,
            }
        }
    }

    /// Tries once more what is still left, and returns what stays.
    pub(crate) async fn clear_all(&self) -> Vec<Unsaved> {
        self.leftovers.ending.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.leftovers.tasks));
        let mut left = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            // One that was broken off has said why.
            left.extend(ended.ok().and_then(std::result::Result::err));
        }
        self.leftovers.ending.send_replace(false);
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
