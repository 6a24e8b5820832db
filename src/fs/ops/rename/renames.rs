//! The component that renames: what it works over.

use std::sync::Arc;

use super::deferred_delete::DeferredDeletes;
use super::intent::Intents;
use super::memory::Renaming;
use crate::encrypted::EncryptedBucket;
use crate::fs::handles::open_files::OpenFiles;
use crate::fs::instance::ThisMount;
use crate::fs::namespace::names::Names;
use crate::fs::resolver::markers::Markers;
use crate::fs::resolver::object_cache::ObjectCache;
use crate::fs::resolver::objects::Objects;
use crate::fs::settings::Settings;
use crate::fs::writeback::publish::{FailedUpload, Writeback};

/// Renames of files and directories, and what is still to be deleted behind them.
pub(crate) struct Renames {
    pub(in crate::fs::ops) bucket: Arc<EncryptedBucket>,
    pub(in crate::fs::ops) settings: Arc<Settings>,
    pub(in crate::fs::ops) names: Arc<Names>,
    pub(in crate::fs::ops) cache: Arc<ObjectCache>,
    pub(in crate::fs::ops) objects: Arc<Objects>,
    pub(in crate::fs::ops) markers: Arc<Markers>,
    pub(in crate::fs::ops) this_mount: Arc<ThisMount>,
    pub(in crate::fs::ops) open_files: Arc<OpenFiles>,
    pub(in crate::fs::ops) writeback: Arc<Writeback>,
    pub(in crate::fs::ops) intents: Arc<Intents>,
    pub(in crate::fs::ops) deferred_deletes: Arc<DeferredDeletes>,
    /// What renames of directories take of the memory budget, in bytes.
    pub(in crate::fs::ops) renaming: Renaming,
}

impl Renames {
    /// Renames whose old names are still to be deleted.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred_deletes.len()
    }

    /// Tries once more to delete old names that are left, and returns what stays.
    pub(crate) async fn drain(&self) -> Vec<FailedUpload> {
        self.deferred_deletes.drain().await
    }
}
