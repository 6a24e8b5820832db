//! Directory markers: the objects that hold the attributes of directories, and keep empty ones in being.
//!
//! The marker of a directory has the directory's key, with its trailing `/`; that of the root of a mount without a
//! prefix, which can have no such key, stands below `.ossvault/`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::object_cache::{ObjectCache, meta_of};
use super::objects::Objects;
use crate::base::error_chain::chain;
use crate::base::time::unix_seconds;
use crate::encrypted::reserved::RESERVED;
use crate::encrypted::{EncryptedBucket, Plaintext, Xattrs};
use crate::files::attributes::{Attributes, headers_of_marker};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::{Directory, Ino, Marker, now};
use crate::fs::namespace::names::Names;
use crate::fs::namespace::object_name;
use crate::fs::namespace::tree::Namespace;
use crate::fs::settings::Settings;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    Body, ETag, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite, PutAnswer,
};

pub(crate) struct Markers {
    pub(super) bucket: Arc<EncryptedBucket>,
    settings: Arc<Settings>,
    pub(super) names: Arc<Names>,
    pub(super) cache: Arc<ObjectCache>,
    pub(super) objects: Arc<Objects>,
    /// The root of a mount without a prefix has a marker.
    root_stored: AtomicBool,
}

impl Markers {
    pub(crate) fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Arc<Settings>,
        names: Arc<Names>,
        cache: Arc<ObjectCache>,
        objects: Arc<Objects>,
    ) -> Arc<Markers> {
        Arc::new(Markers {
            bucket,
            settings,
            names,
            cache,
            objects,
            root_stored: AtomicBool::new(false),
        })
    }

    /// The key of the object that holds a directory's attributes.
    pub(crate) fn marker_key(&self, namespace: &Namespace, ino: Ino) -> Option<String> {
        if ino == Ino::ROOT && self.settings.prefix.is_empty() {
            return Some(format!("{}/root", RESERVED));
        }
        namespace.key(ino)
    }

    pub(crate) fn marker_key_or_key(&self, namespace: &Namespace, ino: Ino) -> Option<String> {
        match namespace.is_directory(ino) {
            true => self.marker_key(namespace, ino),
            false => namespace.key(ino),
        }
    }

    pub(crate) fn root_is_stored(&self) -> bool {
        self.root_stored.load(Ordering::Relaxed)
    }

    pub(crate) fn set_root_stored(&self, stored: bool) {
        self.root_stored.store(stored, Ordering::Relaxed);
    }

    /// A directory's marker, as it is now.
    pub(crate) async fn marker_at(&self, key: &str) -> Result<Option<ObjectMeta>> {
        match self
            .bucket
            .store()
            .head(&object_name::object_key(key.to_owned())?)
            .await
        {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The headers of a directory's marker, as they are now or were at most the TTL ago; None if there is none.
    pub(crate) async fn marker_headers(
        &self,
        ino: Ino,
        key: &ObjectKey,
    ) -> Result<Option<ObjectMeta>> {
        let sent = Instant::now();
        let (marker, confirmed) = {
            let namespace = self.names.lock();
            (
                namespace.directory_ref(ino).and_then(Directory::marker),
                namespace.directory_ref(ino).and_then(Directory::checked),
            )
        };
        // All markers have the tag of no bytes: only what was just read or written, or what a listing has just
        // shown to be unchanged, is as good as a HEAD.
        if let Some(marker) = marker
            && let Some(described) = self.cache.known_headers(key, &marker.etag)
            && let checked = confirmed.map_or(described.checked, |at| at.max(described.checked))
            && fresh(checked, self.settings.metadata_ttl, sent)
        {
            return Ok(Some(described.meta.clone()));
        }
        match self.bucket.store().head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a directory's marker.
    pub(crate) async fn put_marker(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        overwrite: Overwrite,
    ) -> Result<Marker> {
        let headers = headers_of_marker(attributes);
        let answer = self
            .bucket
            .store()
            .put(key, &headers, Body::empty(), overwrite)
            .await?;
        Ok(self.remember_marker(key, headers, answer))
    }

    /// Writes a directory's marker with extended attributes, and with the envelope that seals them.
    pub(crate) async fn put_marker_with(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
        xattrs: &Xattrs,
    ) -> Result<Marker> {
        let headers = headers_of_marker(attributes);
        let nothing = Plaintext::empty();
        let put = self
            .bucket
            .put(key, &nothing, headers, Some(xattrs), Overwrite::Allowed);
        let uploaded = put.await?;
        let meta = meta_of(&uploaded);
        let marker = marker_of_ours(meta.etag.clone(), meta.date);
        self.cache.remember_headers(key, meta, Instant::now());
        Ok(marker)
    }

    /// The directory that was to give way has its own attributes again.
    pub(crate) async fn put_marker_back(&self, key: &str, marker: Option<ObjectMeta>) {
        let Some(marker) = marker else { return };
        let put = async {
            let key = object_name::object_key(key.to_owned())?;
            let store = self.bucket.store();
            let put = store.put(&key, &marker.headers, Body::empty(), Overwrite::Allowed);
            Ok::<_, Error>(put.await?)
        };
        if let Err(error) = put.await {
            log::error!(
                "\"{}\" has the attributes of the directory that was to replace it: {}",
                key.escape_debug(),
                chain(&error)
            );
        }
    }

    /// Keeps what a marker of ours holds now, so that the next change need no request.
    pub(crate) fn remember_marker(
        &self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        answer: PutAnswer,
    ) -> Marker {
        let meta = ObjectMeta {
            size: 0,
            etag: answer.etag.clone(),
            last_modified: answer.date,
            headers,
            crc64: answer.crc64,
            date: answer.date,
        };
        self.cache.remember_headers(key, meta, Instant::now());
        marker_of_ours(answer.etag, answer.date)
    }

    /// A directory whose last name is about to go gets a marker, or it would go along.
    pub(crate) async fn keep_directory(&self, parent: Ino, last: &str) -> Result<()> {
        if parent == Ino::ROOT {
            return Ok(());
        }
        let (key, attributes) = {
            let mut namespace = self.names.lock();
            let key = namespace.key(parent).ok_or(Error::Stale)?;
            let stored = namespace.directory_ref(parent).and_then(Directory::stored);
            let Some(directory) = namespace.directory(parent) else {
                return Ok(());
            };
            let listing = &directory.listing;
            let others = listing.has_hidden() || listing.names().any(|(name, _)| **name != *last);
            if listing.marker() != Some(false) || others || listing.freshness.complete.is_none() {
                return Ok(());
            }
            let attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
            (object_name::object_key(key)?, attributes)
        };
        let marker = self
            .put_marker(&key, &attributes, Overwrite::Allowed)
            .await?;
        self.names
            .lock()
            .set_directory(parent, attributes, Some(marker), Instant::now());
        Ok(())
    }

    /// Nothing of the directory changes meanwhile: the caller has a pass for its subtree, so it is not listed.
    ///
    /// # Errors
    /// [`Error::NotEmpty`].
    pub(crate) async fn check_empty(&self, ino: Ino, start: Instant) -> Result<()> {
        let key = {
            let mut namespace = self.names.lock();
            if !namespace.uncommitted_children(ino).is_empty() {
                return Err(Error::NotEmpty);
            }
            let key = namespace.key(ino).ok_or(Error::Stale)?;
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::NotDirectory)?;
            if directory.listing.freshness.is_fresh(ttl, start) {
                return match directory.listing.is_empty() {
                    true => Ok(()),
                    false => Err(Error::NotEmpty),
                };
            }
            key
        };
        match self.objects.is_bare(&key).await? {
            true => Ok(()),
            false => Err(Error::NotEmpty),
        }
    }
}

pub(crate) fn marker_of_ours(etag: ETag, date: std::time::SystemTime) -> Marker {
    Marker {
        etag,
        last_modified: unix_seconds(date),
        revalidatable: false,
        uploaded_here: true,
    }
}
