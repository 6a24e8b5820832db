//! copy_file_range: a whole clean file into an empty one is copied inside the bucket; no byte moves.
//!
//! Everything else is refused as not supported, and the kernel copies by reading and writing.

use std::sync::Arc;

use super::filesystem::Filesystem;
use crate::fs::error::{Error, Result};

/// A part of a file, as copy_file_range names it.
pub struct Place {
    pub handle: u64,
    /// In bytes.
    pub offset: u64,
}

impl Filesystem {
    /// Returns how many bytes were copied.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where the bytes have to be read and written.
    pub async fn copy_range(self: &Arc<Self>, from: Place, to: Place, len: u64) -> Result<u64> {
        let (source, target) = (
            self.open_files.handle(from.handle)?,
            self.open_files.handle(to.handle)?,
        );
        if from.offset != 0 || to.offset != 0 || Arc::ptr_eq(&source.file, &target.file) {
            return Err(Error::NotSupported);
        }
        self.writeback
            .copy_whole(&source.file, &target.file, len)
            .await
    }
}
