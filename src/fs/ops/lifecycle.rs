//! How a mount begins and ends.

use std::sync::Arc;

use super::filesystem::Filesystem;
use crate::base::error_chain::chain;
use crate::encrypted::key_check::Listed;
use crate::encrypted::key_marker;
use crate::encrypted::reserved::RESERVED;
use crate::fs::writeback::publish::FailedUpload;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ListRequest;

impl Filesystem {
    /// Proves that the bucket is there, and finishes what an earlier mount left undone.
    ///
    /// Says whether the bucket was seen to have a key marker.
    ///
    /// # Errors
    /// What the bucket answers, in the store's words.
    pub async fn start(self: &Arc<Self>) -> Result<Listed, StoreError> {
        let own = ListRequest {
            prefix: format!("{}{}/", self.settings.prefix, RESERVED),
            ..ListRequest::default()
        };
        let page = match self.bucket.store().list(&own).await {
            Err(StoreError::AccessDenied(refusal)) => {
                return self
                    .start_without_own_objects(StoreError::AccessDenied(refusal))
                    .await;
            }
            page => page?,
        };
        let has = |name: &str| {
            let key = format!("{}{name}", own.prefix);
            page.objects.iter().any(|object| object.key == key)
        };
        self.markers.set_root_stored(has("root"));
        self.renames.finish_for_earlier_mounts(&page).await;
        Ok(match (has(key_marker::NAME), page.next.is_some()) {
            (true, _) => Listed::Yes,
            (false, true) => Listed::Unknown,
            (false, false) => Listed::No,
        })
    }

    /// A policy may refuse what is below `.ossvault/` and allow everything else.
    async fn start_without_own_objects(&self, refusal: StoreError) -> Result<Listed, StoreError> {
        let any = ListRequest {
            prefix: self.settings.prefix.clone(),
            max_keys: 1,
            ..ListRequest::default()
        };
        if self.bucket.store().list(&any).await.is_err() {
            return Err(refusal);
        }
        log::warn!(
            "the bucket refuses to list {}{RESERVED}/: what earlier mounts left there is not finished: {}",
            self.settings.prefix.escape_debug(),
            chain(&refusal)
        );
        Ok(Listed::Unknown)
    }

    /// Uploads what is pending. Afterwards nothing is left, but for what is returned.
    pub async fn shutdown(self: &Arc<Self>) -> Result<(), Vec<FailedUpload>> {
        let mut unsaved = self
            .writeback
            .upload_everything()
            .await
            .err()
            .unwrap_or_default();
        let times = self.writeback.store_late(|_| true).await;
        unsaved.extend(self.renames.drain().await);
        self.tasks.ended().await;
        self.resolver.forget_prefetched();
        unsaved.extend(times.into_iter().map(|(ino, error)| FailedUpload {
            path: self.names.describe_place(ino),
            error,
        }));
        if unsaved.is_empty() {
            let files = self.open_files.all();
            if files.iter().all(|file| file.lock().aside.is_none()) {
                self.this_mount.end_instance();
            }
            Ok(())
        } else {
            Err(unsaved)
        }
    }
}
