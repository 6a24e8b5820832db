//! chmod, chown, utimens and truncate.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::files::attributes::Change;
use crate::fs::error::Result;
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::stat::Stat;

impl Filesystem {
    /// Changes attributes and, with `size`, truncates. Returns when the bucket has it, or, for a file whose
    /// content is still to be uploaded, when the upload will carry it.
    pub async fn setattr(
        self: &Arc<Self>,
        ino: Ino,
        size: Option<u64>,
        change: Change,
    ) -> Result<Stat> {
        self.setattr_by(0, ino, size, change).await
    }

    /// As [`Filesystem::setattr`], for this thread; 0 where the kernel does not say.
    pub async fn setattr_by(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        size: Option<u64>,
        mut change: Change,
    ) -> Result<Stat> {
        self.writable()?;
        self.resolver.check_shown(change.uid, change.gid)?;
        if let Some(size) = size {
            if !change.is_empty() || change.ctime.is_some() {
                // The upload that the truncation causes carries them.
                change.ctime = Some(now());
            }
            self.truncate_with(thread, ino, size, &change).await?;
        } else {
            if !change.is_empty() {
                change.ctime = Some(change.ctime.unwrap_or_else(now));
            }
            self.writeback
                .change_attributes(thread, ino, change)
                .await?;
        }
        self.resolver.getattr_traversing(ino, Instant::now()).await
    }

    async fn truncate_with(
        self: &Arc<Self>,
        thread: u32,
        ino: Ino,
        size: u64,
        change: &Change,
    ) -> Result<()> {
        let before = self.resolver.getattr(ino, Instant::now()).await?;
        if before.size == size {
            return self
                .writeback
                .change_attributes(thread, ino, change.clone())
                .await;
        }
        let file = self.open_files.acquire(ino, Instant::now()).await?;
        let defaults = &self.settings.defaults;
        let alone = {
            let state = file.lock();
            !state.is_dirty() && state.refs.handles == 1
        };
        let result = async {
            self.open_files.refuse_plain(&file).await?;
            self.open_files.take_xattrs_along(&file).await?;
            self.writeback.truncate_open(&file, size, false).await?;
            if let Some(local) = self.names.lock().dirty_mut(ino) {
                change.apply(&mut local.attributes, defaults);
                local.revision += 1;
            }
            let flushed_later = file.lock().refs.writers > 0;
            if !flushed_later {
                self.writeback.publish(&file).await?;
            }
            Ok(())
        }
        .await;
        if alone && result.is_err() {
            self.writeback.undo_truncation(&file);
        }
        self.writeback.release_held(&file);
        result
    }
}
