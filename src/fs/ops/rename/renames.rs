//! Renames: what they work over, and what is still to be deleted behind them.

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

pub(crate) struct Renames {
    pub(super) bucket: Arc<EncryptedBucket>,
    pub(super) settings: Arc<Settings>,
    pub(super) names: Arc<Names>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    pub(super) markers: Arc<Markers>,
    pub(super) this_mount: Arc<ThisMount>,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) writeback: Arc<Writeback>,
    pub(super) intents: Arc<Intents>,
    pub(super) deferred_deletes: Arc<DeferredDeletes>,
    /// What renames of directories take of the memory budget, in bytes.
    pub(super) renaming: Renaming,
}

/// What renames work over.
pub(crate) struct Parts {
    pub bucket: Arc<EncryptedBucket>,
    pub settings: Arc<Settings>,
    pub names: Arc<Names>,
    pub cache: Arc<ObjectCache>,
    pub objects: Arc<Objects>,
    pub markers: Arc<Markers>,
    pub this_mount: Arc<ThisMount>,
    pub open_files: Arc<OpenFiles>,
    pub writeback: Arc<Writeback>,
    pub intents: Arc<Intents>,
    pub deferred_deletes: Arc<DeferredDeletes>,
}

impl Renames {
    pub(crate) fn new(parts: Parts) -> Arc<Renames> {
        Arc::new(Renames {
            bucket: parts.bucket,
            settings: parts.settings,
            names: parts.names,
            cache: parts.cache,
            objects: parts.objects,
            markers: parts.markers,
            this_mount: parts.this_mount,
            open_files: parts.open_files,
            writeback: parts.writeback,
            intents: parts.intents,
            deferred_deletes: parts.deferred_deletes,
            renaming: Renaming::default(),
        })
    }

    /// Renames whose old names are still to be deleted.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred_deletes.len()
    }

    /// Tries once more to delete old names that are left, and returns what stays.
    pub(crate) async fn drain(&self) -> Vec<FailedUpload> {
        self.deferred_deletes.drain().await
    }
}
