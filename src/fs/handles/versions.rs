//! Open files when their version gets another key or another tag by a copy of ours.

use std::sync::Arc;
use std::time::Instant;

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::fs::error::{READ_ONLY_PLAIN, Result};
use crate::fs::namespace::entry::Object;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name;
use crate::store::object_store::{ETag, ObjectKey};

impl OpenFiles {
    /// Our own copy of version `copied` may have given the content another tag: open files read on under it.
    pub(crate) fn took_new_tag(&self, ino: Ino, key: &ObjectKey, copied: &ETag, object: &Object) {
        self.names.lock().retag(ino, copied, &object.etag);
        let Some(file) = self.file_of(ino) else {
            self.cache.move_kept((key, copied), (key, &object.etag));
            return;
        };
        let state = file.lock();
        // What is open may be another version than the one that was copied: that one was replaced.
        let same = state
            .data
            .base
            .as_ref()
            .filter(|content| content.etag() == *copied);
        let Some(content) = same else {
            return;
        };
        if let Some(described) = self.cache.known_headers(key, &object.etag)
            && let Ok(envelope) = &described.object
        {
            content.set_object(key.clone(), envelope.clone());
        }
        let mut namespace = self.names.lock();
        namespace.set_open(ino, Some(object.clone()));
        if !state.is_dirty() {
            namespace.pages_show(ino, Some(&object.etag));
        }
    }

    /// Open files of version `copied` read from its copy, `etag`, from now on.
    pub(crate) fn redirect(&self, ino: Ino, key: &ObjectKey, copied: &ETag, etag: &ETag) {
        let content = self
            .file_of(ino)
            .and_then(|file| file.lock().data.base.clone());
        let Some(content) = content.filter(|content| content.etag() == *copied) else {
            return;
        };
        match content.object() {
            Some(envelope) => content.set_object(key.clone(), envelope.with_etag(etag.clone())),
            None => content.set_key(key.clone()),
        }
    }

    /// Open files read on from the new name, if version `copied`, which was moved there, is what they read.
    pub(crate) fn moved_content(&self, ino: Ino, key: &ObjectKey, copied: &ETag, object: &Object) {
        self.redirect(ino, key, copied, &object.etag);
        let Some(file) = self.file_of(ino) else {
            return;
        };
        let state = file.lock();
        let content = state.data.base.as_ref();
        if content.is_none_or(|content| content.etag() != object.etag) {
            return;
        }
        let mut namespace = self.names.lock();
        namespace.set_open(ino, Some(object.clone()));
        if !state.is_dirty() {
            namespace.pages_show(ino, Some(&object.etag));
        }
    }

    /// # Errors
    /// `Denied` for a file whose object is served although it is not encrypted.
    pub(crate) async fn refuse_plain(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let Some(key) = self.names.lock().key(file.ino) else {
            return Ok(());
        };
        let etag = {
            let state = file.lock();
            let content = state.data.base.as_ref().filter(|_| !state.is_dirty());
            content.map(|content| content.etag())
        };
        let Some(etag) = etag.filter(|_| self.bucket.serves_plaintext(&key)) else {
            return Ok(());
        };
        let key = object_name::object_key(key)?;
        match self
            .cache
            .headers(&key, &etag, Instant::now())
            .await?
            .is_plain()
        {
            true => Err(READ_ONLY_PLAIN),
            false => Ok(()),
        }
    }
}
