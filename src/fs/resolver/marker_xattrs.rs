//! Extended attributes of directories: a marker carries them, sealed, in its metadata.

use std::time::Instant;

use super::markers::Markers;
use super::objects::TRIES;
use crate::encrypted::{self, Xattrs};
use crate::envelope::Format;
use crate::files::attributes::Attributes;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Directory, Ino, Marker, now};
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::object_name;
use crate::store::object_store::{CopyHeaders, ObjectKey, ObjectMeta, Overwrite};

impl Markers {
    /// A directory's marker carries an envelope of its own when it has extended attributes. What else its
    /// headers say, others' entries included, stays.
    pub(crate) async fn change_xattrs(
        &self,
        ino: Ino,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let _locked = self
            .names
            .lock_keys_in_time(Instant::now(), |namespace| {
                Some(vec![Scope::Key(self.marker_key(namespace, ino)?)])
            })
            .await?;
        let key = self.marker_key(&self.names.lock(), ino);
        let key = object_name::object_key(key.ok_or(Error::Stale)?)?;
        for _ in 0..TRIES {
            let sent = Instant::now();
            let meta = self.marker_headers(ino, &key).await?;
            let changed = match &meta {
                Some(meta) => self.change_marker(&key, meta, &change).await,
                None => self.make_marker(ino, &key, &change).await.map(Some),
            };
            let forget = || self.cache.forget_object(&key);
            match changed {
                // Replaced or removed by another client: requested anew.
                Err(Error::Stale | Error::NotFound) => forget(),
                Err(error) => {
                    if !error.is_refusal() {
                        // The answer may have been lost.
                        forget();
                        if let Some(directory) = self.names.lock().directory(ino) {
                            directory.invalidate_attributes();
                        }
                    }
                    return Err(error);
                }
                Ok(None) => {
                    self.names.lock().confirm_attributes(ino, Some(now()));
                    return Ok(());
                }
                Ok(Some((attributes, marker))) => {
                    if ino == Ino::ROOT {
                        self.set_root_stored(true);
                    }
                    self.names
                        .lock()
                        .set_directory(ino, attributes, Some(marker), sent);
                    return Ok(());
                }
            }
        }
        Err(Error::Busy)
    }

    /// None: it was so already.
    async fn change_marker(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<Option<(Attributes, Marker)>> {
        let mut xattrs = match self.bucket.object_at(key, meta) {
            Ok(envelope) if envelope.format != Format::Plain => {
                self.bucket.open_xattrs(&envelope, &meta.headers).await?
            }
            Ok(_) | Err(encrypted::Error::NotEncrypted) if meta.size == 0 => Xattrs::new(),
            // Another tool's, with content that no envelope of ours would belong to.
            Ok(_) | Err(encrypted::Error::NotEncrypted) => return Err(Error::NotSupported),
            Err(error) => return Err(error.into()),
        };
        let before = xattrs.clone();
        change(&mut xattrs)?;
        if xattrs == before {
            return Ok(None);
        }
        let attributes = changed_now(meta, true);
        let mut headers = meta.headers.clone();
        attributes.write(&mut headers.user);
        if meta.size == 0 {
            // There is no content that an envelope would have to stay with: each change draws a new key.
            headers = self.bucket.headers_with(headers, &xattrs)?;
        } else {
            self.bucket.seal_xattrs(&xattrs, &mut headers)?;
        }
        let replace = CopyHeaders::Replace(headers.clone());
        let answer = self
            .objects
            .copy_object(key, meta, key, replace, Overwrite::Allowed)
            .await?;
        let marker = self.remember_marker(key, headers, answer);
        Ok(Some((attributes, marker)))
    }

    async fn make_marker(
        &self,
        ino: Ino,
        key: &ObjectKey,
        change: impl Fn(&mut Xattrs) -> Result<()>,
    ) -> Result<(Attributes, Marker)> {
        let mut xattrs = Xattrs::new();
        change(&mut xattrs)?;
        let stored = self
            .names
            .lock()
            .directory_ref(ino)
            .and_then(Directory::stored);
        let mut attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
        attributes.ctime = Some(now());
        let marker = self.put_marker_with(key, &attributes, &xattrs).await?;
        Ok((attributes, marker))
    }
}

/// The attributes of an object whose metadata change now.
pub(crate) fn changed_now(meta: &ObjectMeta, directory: bool) -> Attributes {
    Attributes {
        ctime: Some(now()),
        ..Attributes::read(meta, directory)
    }
}
