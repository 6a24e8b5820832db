//! A copy inside the bucket in the place of an upload: a whole clean file into an empty one, and no byte moves.
//!
//! The copy has the source's bytes, and so its envelope; its attributes are its own. It is in the bucket when the call
//! returns: nothing is left to be uploaded.

use std::sync::Arc;
use std::time::Instant;

use super::publish::Writeback;
use crate::base::error_chain::chain;
use crate::encrypted::{EncryptedObject, Uploaded};
use crate::files::attributes::XATTR;
use crate::fs::data::content::Content;
use crate::fs::error::{Error, Result};
use crate::fs::handles::open_file::OpenFile;
use crate::fs::namespace::inode::now;
use crate::fs::namespace::object_name;
use crate::store::object_store::{CopyHeaders, ETag, ObjectKey, Overwrite};

/// The kernel is answered how much was copied in 32 bits.
const LARGEST: u64 = u32::MAX as u64;

/// What is copied: one version of one object.
struct Source {
    key: ObjectKey,
    etag: ETag,
    size: u64,
    content: Arc<Content>,
}

/// However a copy ends, the next upload of the file can begin.
struct CopyEnds<'a>(&'a OpenFile);

impl Drop for CopyEnds<'_> {
    fn drop(&mut self) {
        self.0.lock().upload.end_copy();
        self.0.moved.notify_waiters();
    }
}

impl Writeback {
    /// Copies the whole of one file into another, which is empty. Returns how many bytes that were.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where the bytes have to be read and written.
    pub(crate) async fn copy_whole(
        self: &Arc<Self>,
        source: &OpenFile,
        file: &Arc<OpenFile>,
        len: u64,
    ) -> Result<u64> {
        let source = self.source_of(source, len)?;
        let written = begin_copy(file)?;
        let ends = CopyEnds(file);
        let copied = self.copy_into(file, &source, written).await;
        drop(ends);
        self.schedule_upload(file);
        self.open_files.drop_if_idle(file);
        match copied {
            Ok(()) => Ok(source.size),
            Err(error) => {
                // Reading and writing may work all the same, and reports what does not.
                log::debug!("a copy inside the bucket failed: {}", chain(&error));
                Err(Error::NotSupported)
            }
        }
    }

    /// The version that a handle reads, if the bucket has it whole and all of it is wanted.
    fn source_of(&self, file: &OpenFile, len: u64) -> Result<Source> {
        let state = file.lock();
        let content = match &state.data.base {
            Some(content) if !state.is_dirty() && !state.link.is_gone() => content,
            _ => return Err(Error::NotSupported),
        };
        let size = content.size();
        if size == 0 || size > len || size > LARGEST {
            return Err(Error::NotSupported);
        }
        let key = self.names.lock().key(file.ino);
        Ok(Source {
            key: object_name::object_key(key.ok_or(Error::NotSupported)?)?,
            etag: content.etag(),
            size,
            content: content.clone(),
        })
    }

    async fn copy_into(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        source: &Source,
        written: u64,
    ) -> Result<()> {
        let described = self
            .cache
            .headers(&source.key, &source.etag, Instant::now())
            .await?;
        let object: Arc<EncryptedObject> = match &described.object {
            Ok(object) if described.meta.etag == source.etag => object.clone(),
            _ => return Err(Error::NotSupported),
        };
        let at = self
            .names
            .lock_destination(file.ino)
            .await?
            .ok_or(Error::Stale)?;
        let (attributes, revision) = {
            let mut namespace = self.names.lock();
            let local = namespace.dirty_mut(file.ino).ok_or(Error::Stale)?;
            let time = now();
            local.attributes.set_mtime(time);
            local.attributes.ctime = Some(time);
            local.revision += 1;
            (local.attributes.clone(), local.revision)
        };
        let mut headers = described.meta.headers.clone();
        headers.user.remove(XATTR);
        attributes.write(&mut headers.user);
        let sent = Instant::now();
        let copy = CopyHeaders::Replace(headers.clone());
        let overwrite = match file.lock().is_exclusive() {
            true => Overwrite::Forbidden,
            false => Overwrite::Allowed,
        };
        let answer = self
            .objects
            .copy_object(&source.key, &described.meta, &at.key, copy, overwrite)
            .await?;
        {
            let mut state = file.lock();
            if state.data.version != written || state.link.is_gone() {
                // Written to through a mapping meanwhile: its own upload replaces the copy.
                return Err(Error::NotSupported);
            }
            state.data.staged = None;
            if let Some(local) = self.names.lock().dirty_mut(file.ino) {
                local.size = source.size;
            }
        }
        let etag = answer.etag.clone();
        let uploaded = Uploaded {
            object: object.with_etag(answer.etag),
            headers,
            date: answer.date,
        };
        self.commit(file, written, &at, uploaded, revision, sent)
            .await?;
        let content = file.lock().data.base.clone();
        if let Some(content) = content.filter(|content| content.etag() == etag) {
            content.inherit(&source.content, std::iter::once(0..source.size));
        }
        Ok(())
    }
}

/// Takes the place of an upload of a file that is empty and has no attributes that a source's envelope
/// could not carry. Returns which `written` it stands for.
fn begin_copy(file: &OpenFile) -> Result<u64> {
    let mut state = file.lock();
    let free = state.is_dirty()
        && state.size() == 0
        && !state.upload.is_running()
        && state.xattrs.is_none()
        && !state.link.is_gone()
        && !state.is_temporary();
    if !free {
        return Err(Error::NotSupported);
    }
    let version = state.data.version;
    state.upload.begin_copy(version);
    Ok(version)
}
