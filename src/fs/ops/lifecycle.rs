//! How a mount begins and ends.

use std::sync::Arc;

use super::filesystem::Filesystem;
use crate::fs::namespace::object_name;
use crate::fs::writeback::publish::FailedUpload;
use crate::store::object_store::ListRequest;

impl Filesystem {
    /// Proves that the bucket is there, and finishes what an earlier mount left undone.
    ///
    /// # Errors
    /// What the bucket answers, in the store's words.
    pub async fn start(self: &Arc<Self>) -> std::result::Result<(), crate::store::error::Error> {
        let own = ListRequest {
            prefix: format!("{}{}/", self.settings.prefix, object_name::RESERVED),
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&own).await?;
        let root = format!("{}root", own.prefix);
        let stored = page.objects.iter().any(|object| object.key == root);
        self.markers.set_root_stored(stored);
        self.renames.finish_for_earlier_mounts(&page).await;
        Ok(())
    }

    /// Uploads what is pending. Afterwards nothing is left, but for what is returned.
    pub async fn shutdown(self: &Arc<Self>) -> std::result::Result<(), Vec<FailedUpload>> {
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
