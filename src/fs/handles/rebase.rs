//! Bytes that were appended to a version that another client has replaced meanwhile: they start over on the
//! version that stands there.
//!
//! Of a large file only what was written is here; the rest comes from its object when the whole is uploaded,
//! and the service refuses it (If-Match) if that is another one by then. What was only ever appended does not
//! depend on what is before it. So it is staged anew, behind the new version, unless a program could tell:
//! one that reads has a view of the version that is gone.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::fs::data::staging::{Piece, StagedFile};
use crate::fs::error::Result;
use crate::fs::namespace::entry::Entry;
use crate::fs::namespace::kernel::Invalidation;
use crate::store::object_store::ObjectKey;

/// Zeros are staged so many at a time, in bytes.
const ZEROS: u64 = 1 << 20;

impl OpenFiles {
    /// Puts what was appended to a file behind the version that is under `key` now. False if that cannot be:
    /// something else was written, the file is open for reading, or there is no such version.
    pub(crate) async fn rebase(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        key: &ObjectKey,
    ) -> Result<bool> {
        let (written, before, pieces) = {
            let state = file.lock();
            let (Some(end), Some(staged), Some(content)) =
                (state.data.appended_to, &state.data.staged, &state.data.base)
            else {
                return Ok(false);
            };
            if state.refs.readers > 0 || state.link.is_gone() {
                return Ok(false);
            }
            (
                state.data.version,
                content.clone(),
                staged.pieces(end..staged.len()),
            )
        };
        let sent = Instant::now();
        let meta = match self.bucket.store().head(key).await {
            Ok(meta) => meta,
            Err(crate::store::error::Error::NotFound) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let object = self.cache.describe(key, meta, sent);
        let content = self.cache.content_of(key, &object);
        let end = content.size();
        let mut staged = match end > self.settings.uploads.part_size {
            true => StagedFile::new(&self.staging, Some(end)),
            false => StagedFile::new(&self.staging, None),
        };
        if staged.base() == 0 && end > 0 {
            self.fill(&mut staged, &content.reader(), 0..end).await?;
        }
        for piece in pieces {
            match piece {
                Piece::Staged(piece) => self.stage_behind(&mut staged, piece.read().await?).await?,
                Piece::Zero(mut left) => {
                    while left > 0 {
                        let zeros = left.min(ZEROS);
                        let zeros_bytes = Bytes::from(vec![0; zeros as usize]);
                        self.stage_behind(&mut staged, zeros_bytes).await?;
                        left -= zeros;
                    }
                }
                Piece::Base(_) => return Ok(false),
            }
        }
        {
            let mut state = file.lock();
            if state.data.version != written || state.link.is_gone() || !state.rests_on(&before) {
                // What was written meanwhile is missing: once more, as long as the caller tries.
                return Ok(true);
            }
            state.data.staged = Some(staged);
            state.data.base = Some(content);
            state.data.appended_to = Some(end);
            state.data.moved_on = true;
            let mut namespace = self.names.lock();
            if let Some(local) = namespace.dirty_mut(file.ino) {
                local.size = state.size();
            }
            namespace.set_open(file.ino, Some(object.clone()));
            namespace.pages_show(file.ino, None);
            if let Some((parent, name)) = namespace.place(file.ino)
                && let Some(directory) = namespace.directory(parent)
            {
                directory.listing.put(&name, Entry::Object(object), sent);
            }
        }
        // Where they do not expire, no program has the file open that could be shown them.
        self.names.kernel().expire_attributes(file.ino).await;
        self.names.kernel().notify(Invalidation::Content(file.ino));
        Ok(true)
    }

    async fn stage_behind(&self, staged: &mut StagedFile, bytes: Bytes) -> Result<()> {
        let at = staged.len();
        loop {
            let room = staged.room_for(at, bytes.len()).await?;
            if staged.write_with(at, &bytes, room).is_ok() {
                return Ok(());
            }
        }
    }
}
