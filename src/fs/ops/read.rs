//! read: staged bytes over the content of the version that was opened. (See [`reading`](crate::fs::handles::reading).)

use std::sync::Arc;

use bytes::Bytes;

use super::filesystem::Filesystem;
use crate::fs::error::{Error, Result};

impl Filesystem {
    /// Bytes from `offset` on, fewer only at the end of the file.
    pub async fn read(self: &Arc<Self>, handle: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.open_files.handle(handle)?;
        if !self.bucket.can_read() {
            if !handle.readable {
                return Err(Error::BadHandle);
            }
            // What is kept for its writer is not for readers.
            if !handle.file.lock().is_dirty() {
                return Err(Error::Denied("this mount has no private key"));
            }
        }
        let range = offset..offset.saturating_add(len as u64);
        /// Versions that a read meets at most: our own uploads, and others' before it has returned a byte.
        const VERSIONS: usize = 8;
        for _ in 0..VERSIONS {
            let (content, pieces) = {
                let state = handle.file.lock();
                let pieces = match &state.data.staged {
                    Some(staged) => {
                        if let Some(bytes) = staged.read_now(range.clone()) {
                            return Ok(bytes);
                        }
                        Some(staged.pieces(range.clone()))
                    }
                    None => None,
                };
                (handle.reader(&state), pieces)
            };
            let over_changes = pieces.is_some();
            let result = match (&content, pieces) {
                (_, Some(pieces)) => {
                    let ino = handle.file.ino;
                    self.open_files
                        .read_pieces(ino, pieces, content.clone(), len)
                        .await
                }
                (Some(reader), None) if offset < reader.content().size() => {
                    let result = reader.read(range.clone()).await;
                    result.map_err(|error| {
                        self.open_files
                            .read_failed(handle.file.ino, reader.content(), error)
                    })
                }
                _ => return Ok(Bytes::new()),
            };
            match (result, content) {
                (Err(Error::Stale), Some(reader)) => {
                    let content = reader.content();
                    self.open_files
                        .read_on(&handle.file, content, over_changes)
                        .await?;
                }
                (result, _) => return result,
            }
        }
        Err(Error::Stale)
    }
}
