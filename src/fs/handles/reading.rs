//! Reading what is open: staged bytes over the content of the version that was opened.
//!
//! One version at a time. The kernel has a size, attributes and pages of an inode, which it got at different
//! moments; a read is right only if all of them are of the version that answers it. Case by case:
//!
//! - Another client replaces the object, and a lookup, a listing or an open finds out: the name gets another
//!   inode (see [`inode_table`](crate::fs::namespace::inode_table)), so that nothing that the kernel has of the old one can meet
//!   anything of the new one, whatever is on its way between here and there. An open of the old inode is
//!   ESTALE, at which the kernel looks the name up and opens what it finds. Descriptors of the old one go on
//!   with its version, and get ESTALE for what of it is not here.
//! - A read finds out, because the service refuses it (If-Match). Where bytes of the version may be with a
//!   program, or in the kernel's pages, the read is ESTALE. Otherwise the file moves on to the new version,
//!   under the same inode, which has no pages then. Programs may have been told a size all the same: where
//!   the new version has another one, the file moves on only if everything that was told had expired when it
//!   was opened, and nothing was told since (a mapping is made as long as the size says). The kernel is made
//!   to forget the attributes before the read is answered, and an answer about them that is on its way from
//!   before then does not count (the kernel numbers its changes of an inode's attributes).
//! - A write or an upload finds out: see `writeback/upload`.
//! - A mapping reads pages as a read does, and direct I/O asks for bytes of the same handle: nothing differs.
//! - The kernel's time for what it was told ends before this mount's, see `resolver/stat`: what it
//!   shows without asking was never known here to be wrong for longer than the TTL.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::base::error_chain::chain;
use crate::fs::data::content::{self, Content, Reader};
use crate::fs::data::staging::Piece;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::entry::Entry;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::kernel::Invalidation;
use crate::fs::namespace::object_name;

/// What meets a version that others have replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// A write that belongs at the end of whatever the file is.
    Append,
}

impl OpenFiles {
    /// The bytes of a changed file: what is staged, over what `base` has.
    pub(crate) async fn read_pieces(
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
    pub(crate) async fn read_on(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
        over_changes: bool,
    ) -> Result<()> {
        {
            let state = file.lock();
            if !state.rests_on(content) || (!over_changes && state.data.staged.is_some()) {
                return Ok(());
            }
        }
        if over_changes {
            return Err(Error::Stale);
        }
        self.move_on(file, content, Access::Read).await
    }

    /// The object was replaced by others: the file is the new version, if no program can tell that it was
    /// another before. Either way the next open finds the new version.
    ///
    /// # Errors
    /// [`Error::Stale`]: it stays with `content`, or there is no new version.
    pub(crate) async fn move_on(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
        access: Access,
    ) -> Result<()> {
        let unread = content.retire();
        let unread_here = access == Access::Append && file.lock().refs.readers == 0;
        let ino = file.ino;
        let (key, parent, name) = {
            let mut namespace = self.names.lock();
            let key = namespace.key(ino).ok_or(Error::Stale)?;
            let (parent, name) = namespace.place(ino).ok_or(Error::Stale)?;
            let known = namespace.directory(parent).map(|directory| {
                let last = directory.listing.last_known(&name);
                matches!(last, Some(Entry::Object(object)) if object.etag != content.etag())
            });
            if !unread && !unread_here && known == Some(true) {
                return Err(Error::Stale);
            }
            (object_name::object_key(key)?, parent, name)
        };
        let sent = Instant::now();
        let found = match self.bucket.store().head(&key).await {
            Ok(meta) => Some(self.cache.describe(&key, meta, sent)),
            Err(crate::store::error::Error::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let moves = {
            let mut state = file.lock();
            if !state.rests_on(content)
                || state.data.staged.is_some()
                || state.is_dirty()
                || state.link.is_gone()
            {
                // Moved on, written to or unlinked meanwhile.
                return Ok(());
            }
            let mut namespace = self.names.lock();
            if namespace.key(ino).as_deref() != Some(key.as_str()) {
                // Renamed meanwhile.
                return Ok(());
            }
            let opened = state.refs.since.unwrap_or(sent);
            let moves = found.as_ref().is_some_and(|found| match access {
                Access::Read => {
                    unread
                        && (found.size == content.size() || !namespace.was_shown_after(ino, opened))
                }
                Access::Write | Access::Append => unread || unread_here,
            });
            if moves && let Some(object) = &found {
                state.data.base = Some(self.cache.content_of(&key, object));
                state.data.moved_on = true;
                namespace.set_open(ino, Some(object.clone()));
                namespace.pages_show(ino, None);
            }
            if let Some(directory) = namespace.directory(parent) {
                match found {
                    Some(object) => directory.listing.put(&name, Entry::Object(object), sent),
                    None => directory.listing.invalidate(&name),
                }
            }
            moves
        };
        if !moves {
            self.names
                .kernel()
                .notify(Invalidation::Name(parent, name.to_string()));
            return Err(Error::Stale);
        }
        let expired = self.names.kernel().expire_attributes(ino).await;
        self.names.kernel().notify(Invalidation::Content(ino));
        match expired {
            true => Ok(()),
            false => Err(Error::Stale),
        }
    }

    /// Whether a version whose bytes are in memory still stands in the bucket. What is written over it takes the
    /// rest from it, and no request for that rest would tell that others have replaced it.
    ///
    /// # Errors
    /// [`Error::Stale`] if it does not.
    pub(crate) async fn check_stands(&self, content: &Content) -> Result<()> {
        loop {
            let (key, etag) = content.place();
            let there = match self.bucket.store().head(&key).await {
                Ok(meta) => Some(meta.etag),
                Err(crate::store::error::Error::NotFound) => None,
                Err(error) => return Err(error.into()),
            };
            if there.as_ref() == Some(&etag) {
                return Ok(());
            }
            // Unless we have renamed or copied it meanwhile.
            if content.place() == (key, etag) {
                return Err(Error::Stale);
            }
        }
    }

    /// Logs why, with the file's name, once for each content.
    pub(crate) fn read_failed(&self, ino: Ino, content: &Content, error: content::Error) -> Error {
        match &error {
            content::Error::Changed => Error::Stale,
            content::Error::Bucket(_) | content::Error::Corrupt | content::Error::Short => {
                if content.first_report() {
                    log::error!(
                        "reading {}: {}",
                        self.names.describe_place(ino),
                        chain(&error)
                    );
                }
                Error::from(error).logged()
            }
            content::Error::NoMemory | content::Error::Cancelled => error.into(),
        }
    }
}
