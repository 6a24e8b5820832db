//! Objects that the checks make, and their removal.

use std::sync::{Arc, Mutex};

use crate::base::sync::lock;
use crate::crypto::random;
use crate::encrypted::reserved::RESERVED;
use crate::store::error::{Error, Result};
use crate::store::object_store::{ObjectKey, ObjectStore, UploadId};

/// Below a prefix of its own. Everything is noted before it is made.
pub(super) struct Scratch {
    prefix: String,
    /// A leaf: nothing is locked or awaited while it is held.
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    keys: Vec<ObjectKey>,
    uploads: Vec<(ObjectKey, UploadId)>,
}

impl Scratch {
    /// For a mount of `prefix`.
    pub(super) fn new(prefix: &str) -> Arc<Scratch> {
        let mut bytes = [0; 8];
        random::fill(&mut bytes);
        Arc::new(Scratch {
            prefix: format!("{prefix}{RESERVED}/doctor-{}/", hex::encode(bytes)),
            made: Mutex::default(),
        })
    }

    /// An object that may exist from now on.
    ///
    /// # Errors
    /// The prefix is too long.
    pub(super) fn key(&self, name: &str) -> Result<ObjectKey> {
        let key = ObjectKey::new(format!("{}{name}", self.prefix))?;
        lock(&self.made).keys.push(key.clone());
        Ok(key)
    }

    pub(super) fn began(&self, key: &ObjectKey, upload: &UploadId) {
        let mut made = lock(&self.made);
        made.uploads.push((key.clone(), upload.clone()));
    }

    /// What has been deleted already is deleted again, which is no error. Returns how many objects may have existed, and
    /// the keys of those that could not be removed.
    pub(super) async fn remove(&self, store: &dyn ObjectStore) -> (usize, Vec<(ObjectKey, Error)>) {
        let made = std::mem::take(&mut *lock(&self.made));
        let mut left = Vec::new();
        for (key, upload) in &made.uploads {
            if let Err(error) = store.abort_multipart(key, upload).await {
                left.push((key.clone(), error));
            }
        }
        for key in &made.keys {
            if let Err(error) = store.delete(key).await {
                left.push((key.clone(), error));
            }
        }
        (made.keys.len(), left)
    }
}
