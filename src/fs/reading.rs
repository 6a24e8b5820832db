//! Reading what is open: staged bytes over the content of the version that was opened.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::content::{self, Content, Reader};
use super::error::{Error, Result};
use super::filesystem::{Filesystem, Notice};
use super::listing::Entry;
use super::names;
use super::namespace::Ino;
use super::open_file::OpenFile;
use super::staging::Piece;
use crate::oss::error::chain;

impl Filesystem {
    /// Bytes from `offset` on, fewer only at the end of the file.
    pub async fn read(self: &Arc<Self>, handle: u64, offset: u64, len: usize) -> Result<Bytes> {
        let handle = self.handle(handle)?;
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
                let pieces = match &state.staged {
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
                    self.read_pieces(ino, pieces, content.clone(), len).await
                }
                (Some(reader), None) if offset < reader.content().size() => {
                    let result = reader.read(range.clone()).await;
                    result
                        .map_err(|error| self.read_failed(handle.file.ino, reader.content(), error))
                }
                _ => return Ok(Bytes::new()),
            };
            match (result, content) {
                (Err(Error::Stale), Some(reader)) => {
                    let content = reader.content();
                    self.read_on(&handle.file, content, over_changes).await?;
                }
                (result, _) => return result,
            }
        }
        Err(Error::Stale)
    }

    /// The bytes of a changed file: what is staged, over what `base` has.
    async fn read_pieces(
        &self,
        ino: Ino,
        pieces: Vec<Piece>,
        base: Option<Arc<Reader>>,
        len: usize,
    ) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity(len);
        for piece in pieces {
            match piece {
                Piece::Staged(piece) => out.extend_from_slice(&piece.read().await?),
                Piece::Zero(len) => out.resize(out.len() + len as usize, 0),
                Piece::Base(range) => {
                    let base = base
                        .as_ref()
                        .ok_or_else(|| Error::io("staged over an object that is not there"))?;
                    let len = range.end - range.start;
                    let bytes = base
                        .read(range)
                        .await
                        .map_err(|error| self.read_failed(ino, base.content(), error))?;
                    if bytes.len() as u64 != len {
                        return Err(Error::io("the object below the changes ended early"));
                    }
                    out.extend_from_slice(&bytes);
                }
            }
        }
        Ok(out.freeze())
    }

    /// The object that a read of `content` wanted was replaced. If by our own upload, the read goes on with
    /// what that brought; if by others, and nothing of the version was shown yet, with their version.
    ///
    /// # Errors
    /// [`Error::Stale`] if the file stays with the version that is gone.
    async fn read_on(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
        over_changes: bool,
    ) -> Result<()> {
        {
            let state = file.lock();
            if !state.rests_on(content) || (!over_changes && state.staged.is_some()) {
                return Ok(());
            }
        }
        if over_changes {
            return Err(Error::Stale);
        }
        self.move_on(file, content).await
    }

    /// The object was replaced by others: the file is the new version, unless a program may have bytes of
    /// `content`.
    ///
    /// # Errors
    /// [`Error::Stale`]: it stays with `content`, or there is no new version.
    pub(super) async fn move_on(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
    ) -> Result<()> {
        if !content.retire() {
            return Err(Error::Stale);
        }
        let ino = file.ino;
        let key = self.namespace().key(ino).ok_or(Error::Stale)?;
        let key = names::object_key(key)?;
        let sent = Instant::now();
        let meta = match self.bucket.store().head(&key).await {
            Ok(meta) => meta,
            Err(crate::store::error::Error::NotFound) => return Err(Error::Stale),
            Err(error) => return Err(error.into()),
        };
        let object = self.describe(&key, meta, sent);
        let successor = self.content_of(&key, &object);
        let mut state = file.lock();
        if !state.rests_on(content) || state.staged.is_some() || state.is_dirty() || state.gone {
            // Moved on, written to or unlinked meanwhile.
            return Ok(());
        }
        {
            let mut namespace = self.namespace();
            if namespace.key(ino).as_deref() != Some(key.as_str()) {
                return Ok(());
            }
            state.content = Some(successor);
            namespace.set_open(ino, Some(object.clone()));
            namespace.pages_show(ino, None);
            if let Some((parent, name)) = namespace.place(ino)
                && let Some(directory) = namespace.directory(parent)
            {
                directory.listing.put(&name, Entry::Object(object), sent);
            }
        }
        drop(state);
        self.notify(Notice::Content(ino));
        Ok(())
    }

    /// Logs why, with the file's name, once for each content.
    pub(super) fn read_failed(&self, ino: Ino, content: &Content, error: content::Error) -> Error {
        match &error {
            content::Error::Changed => Error::Stale,
            content::Error::Bucket(_) | content::Error::Corrupt | content::Error::Short => {
                if content.to_be_told() {
                    log::error!("reading {}: {}", self.describe_place(ino), chain(&error));
                }
                Error::from(error).told()
            }
            content::Error::NoMemory | content::Error::Cancelled => error.into(),
        }
    }
}
