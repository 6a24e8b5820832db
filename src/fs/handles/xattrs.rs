//! The extended attributes of a file, as it is open or as the bucket has it.

use std::sync::Arc;
use std::time::Instant;

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::base::error_chain::chain;
use crate::encrypted::Xattrs;
use crate::fs::attributes::XATTR;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode_table::Ino;
use crate::fs::namespace::object_name;
use crate::fs::resolver::object_cache::CachedHeaders;
use crate::store::object_store::ObjectKey;

impl OpenFiles {
    /// A file's extended attributes, as it stands here.
    pub(crate) async fn xattrs(self: &Arc<Self>, ino: Ino) -> Result<Arc<Xattrs>> {
        self.resolver
            .look_at_traversing(ino, Instant::now())
            .await?;
        if let Some(file) = self.file_of(ino)
            && let state = file.lock()
            && state.is_dirty()
        {
            return Ok(state.xattrs.clone().unwrap_or_default());
        }
        let Some((key, described)) = self.stored_headers(ino).await? else {
            return Ok(Arc::default());
        };
        self.stored_xattrs(&key, &described).await
    }

    /// The headers that hold an inode's extended attributes; None where there can be none.
    async fn stored_headers(
        self: &Arc<Self>,
        ino: Ino,
    ) -> Result<Option<(ObjectKey, Arc<CachedHeaders>)>> {
        let (key, etag) = {
            let namespace = self.names.lock();
            if namespace.is_directory(ino) {
                let key = self
                    .markers
                    .marker_key(&namespace, ino)
                    .ok_or(Error::Stale)?;
                match namespace.directory_marker(ino) {
                    Some(marker) => (key, marker.etag),
                    None => return Ok(None),
                }
            } else {
                let Some(object) = namespace.object(ino) else {
                    return Ok(None);
                };
                if object.known.as_ref().is_some_and(|known| !known.xattrs) {
                    return Ok(None);
                }
                let Some(key) = namespace.key(ino) else {
                    return Ok(None);
                };
                (key, object.etag)
            }
        };
        let key = object_name::object_key(key)?;
        let described = self.cache.headers(&key, &etag, Instant::now()).await?;
        Ok(Some((key, described)))
    }

    pub(crate) async fn stored_xattrs(
        &self,
        key: &ObjectKey,
        described: &CachedHeaders,
    ) -> Result<Arc<Xattrs>> {
        if !described.meta.headers.user.contains_key(XATTR) {
            return Ok(Arc::default());
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let object = described.object.as_ref().map_err(|error| error.clone())?;
        let xattrs = self
            .bucket
            .open_xattrs(object, &described.meta.headers)
            .await
            .inspect_err(|error| {
                log::error!("extended attributes of {key}: {}", chain(error));
            })?;
        Ok(Arc::new(xattrs))
    }

    /// What is written to an open file later takes these along, not those of when it was opened.
    pub(crate) fn keep_xattrs(&self, ino: Ino, xattrs: Xattrs) {
        let Some(file) = self.file_of(ino) else {
            return;
        };
        let mut state = file.lock();
        state.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
        if state.is_dirty() {
            // An upload under way carries the old ones.
            state.written += 1;
        }
    }

    /// Before a file's content is changed: what goes up next takes the extended attributes along. Without
    /// the private key they go with the old content.
    pub(crate) async fn take_xattrs_along(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        if !self.bucket.can_read() || file.lock().is_dirty() {
            return Ok(());
        }
        let xattrs = match self.stored_headers(file.ino).await? {
            Some((key, described)) => self.stored_xattrs(&key, &described).await?,
            None => Arc::default(),
        };
        let mut state = file.lock();
        if !state.is_dirty() {
            state.xattrs = (!xattrs.is_empty()).then_some(xattrs);
        }
        Ok(())
    }
}
