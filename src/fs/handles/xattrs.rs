//! The extended attributes of a file, as it is open or as the bucket has it.

use std::sync::Arc;
use std::time::Instant;

use super::open_file::OpenFile;
use super::open_files::OpenFiles;
use crate::base::error_chain::chain;
use crate::encrypted::Xattrs;
use crate::files::attributes::XATTR;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Directory, Ino, now};
use crate::fs::namespace::names::Destination;
use crate::fs::namespace::object_name;
use crate::fs::resolver::marker_xattrs::changed_now;
use crate::fs::resolver::object_cache::CachedHeaders;
use crate::fs::resolver::objects::TRIES;
use crate::store::object_store::ObjectKey;

impl OpenFiles {
    /// A file's extended attributes, as it stands here.
    pub(crate) async fn xattrs(self: &Arc<Self>, ino: Ino) -> Result<Arc<Xattrs>> {
        self.resolver
            .getattr_traversing(ino, Instant::now())
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
                match namespace.directory_ref(ino).and_then(Directory::marker) {
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
                log::error!("reading the extended attributes of {key}: {}", chain(error));
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
            state.data.version += 1;
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

    /// Changes the extended attributes of a file or a directory: in its object's metadata, or with the upload that is
    /// to come.
    pub(crate) async fn change_xattrs(
        self: &Arc<Self>,
        ino: Ino,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        self.resolver.getattr(ino, Instant::now()).await?;
        if self.names.lock().is_directory(ino) {
            return self.markers.change_xattrs(ino, change).await;
        }
        for _ in 0..TRIES {
            if let Some(file) = self.file_of(ino) {
                let mut state = file.lock();
                if state.is_dirty() {
                    // The upload carries them; it counts as a change of the content, so that one under way
                    // is followed by another.
                    let before = state.xattrs.as_deref().cloned().unwrap_or_default();
                    let mut xattrs = before.clone();
                    change(&mut xattrs)?;
                    if xattrs == before {
                        self.names.lock().confirm_attributes(ino, Some(now()));
                        return Ok(());
                    }
                    state.xattrs = (!xattrs.is_empty()).then(|| Arc::new(xattrs));
                    state.data.version += 1;
                    if let Some(local) = self.names.lock().dirty_mut(ino) {
                        local.attributes.ctime = Some(now());
                        local.revision += 1;
                    }
                    return Ok(());
                }
            }
            let Some(at) = self.names.lock_destination(ino).await? else {
                return Err(Error::NotPermitted);
            };
            let Destination {
                key, parent, name, ..
            } = &at;
            let _changing = self.names.begin_change([(*parent, name)]);
            let object = self.names.lock().object(ino).ok_or(Error::Stale)?;
            let described = self
                .cache
                .headers(key, &object.etag, Instant::now())
                .await?;
            if described.is_plain() {
                return Err(Error::Denied("unencrypted objects are served read-only"));
            }
            let before = self.stored_xattrs(key, &described).await?;
            let mut xattrs = (*before).clone();
            change(&mut xattrs)?;
            if !self.bucket.can_read() {
                return Err(Error::Denied("this mount has no private key"));
            }
            if xattrs == *before {
                self.names.lock().confirm_attributes(ino, Some(now()));
                return Ok(());
            }
            let mut headers = described.meta.headers.clone();
            self.bucket.seal_xattrs(&xattrs, &mut headers)?;
            changed_now(&described.meta, false).write(&mut headers.user);
            match self
                .objects
                .replace_headers(key, &described.meta, headers)
                .await
            {
                Ok(object) => {
                    self.took_new_tag(ino, key, &described.meta.etag, &object);
                    self.keep_xattrs(ino, xattrs);
                    self.names
                        .lock()
                        .published(*parent, name, object, Instant::now());
                    return Ok(());
                }
                Err(Error::Stale) => {
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(key).await?;
                    let object = self.cache.describe(key, meta, sent);
                    self.names.lock().published(*parent, name, object, sent);
                }
                Err(error) => return self.names.after_change(*parent, name, Err(error)),
            }
        }
        Err(Error::Busy)
    }
}
