//! What is done to objects by their keys: they are copied, given other headers, listed and deleted.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::delete_permission::DeletePermissions;
use super::object_cache::ObjectCache;
use crate::base::error_chain::chain;
use crate::base::sync::lock;
use crate::encrypted::EncryptedBucket;
use crate::encrypted::copy::CopyLimits;
use crate::envelope::Format;
use crate::files::attributes::{Attributes, CTIME, Change};
use crate::fs::error::{Error, READ_ONLY_PLAIN, Refusal, Result};
use crate::fs::namespace::entry::Object;
use crate::fs::namespace::object_name;
use crate::fs::settings::Settings;
use crate::store::object_store::{
    CopyHeaders, CopyRequest, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite,
    PutAnswer,
};

/// Keys in one batch delete.
const BATCH: usize = 1000;

/// How often a change is tried over again when other clients replace the object in between.
pub(crate) const TRIES: usize = 8;

pub(crate) struct Objects {
    bucket: Arc<EncryptedBucket>,
    settings: Arc<Settings>,
    cache: Arc<ObjectCache>,
    delete_permissions: Mutex<DeletePermissions>,
}

impl Objects {
    pub(crate) fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Arc<Settings>,
        cache: Arc<ObjectCache>,
    ) -> Arc<Objects> {
        Arc::new(Objects {
            bucket,
            settings,
            cache,
            delete_permissions: Mutex::default(),
        })
    }

    /// Copies an object whole, by whichever way the service allows.
    ///
    /// # Errors
    /// [`Error::Stale`] if the source is not the version that `meta` describes any more.
    pub(crate) async fn copy_object(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let limits = CopyLimits {
            copy: self.settings.uploads.copy_limit,
            ..CopyLimits::default()
        };
        let copied = self
            .bucket
            .copy(source, meta, destination, headers, overwrite, limits);
        Ok(copied.await?)
    }

    /// Copies an object of which only the listing's line is known.
    pub(crate) async fn copy_listed(
        &self,
        source: &ObjectKey,
        object: &Object,
        destination: &ObjectKey,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        if object.size < self.settings.uploads.copy_limit {
            let store = self.bucket.store();
            let request = CopyRequest {
                source: source.clone(),
                source_etag: object.etag.clone(),
                destination: destination.clone(),
                headers: CopyHeaders::Keep,
                overwrite,
            };
            let copied = store.copy(&request);
            return Ok(copied.await?);
        }
        let described = self
            .cache
            .headers(source, &object.etag, Instant::now())
            .await?;
        if described.meta.etag != object.etag {
            return Err(Error::Stale);
        }
        let keep = CopyHeaders::Keep;
        self.copy_object(source, &described.meta, destination, keep, overwrite)
            .await
    }

    /// What a copy that failed would have been answered, if it was made all the same.
    pub(crate) async fn copy_that_is_there(
        &self,
        source: &ObjectKey,
        object: &Object,
        copy: &ObjectKey,
        change: Option<&Change>,
    ) -> Option<(PutAnswer, Option<ObjectMeta>)> {
        let store = self.bucket.store();
        let (mut source, copy) = tokio::try_join!(store.head(source), store.head(copy)).ok()?;
        if let Some(change) = change {
            let mut attributes = Attributes::read(&source, false);
            change.apply(&mut attributes, &self.settings.defaults);
            attributes.write(&mut source.headers.user);
        }
        let same = source.etag == object.etag && is_copy(&source, &copy);
        let answer = PutAnswer {
            etag: copy.etag.clone(),
            crc64: copy.crc64,
            date: copy.last_modified,
        };
        same.then_some((answer, change.map(|_| copy)))
    }

    /// Copies an object onto itself with these attributes, and with everything else as it was. Returns the
    /// object as it is now.
    ///
    /// # Errors
    /// [`Error::Stale`] if it is not the version that `meta` describes any more.
    pub(crate) async fn replace_attributes(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        attributes: &Attributes,
    ) -> Result<Object> {
        let mut headers = meta.headers.clone();
        attributes.write(&mut headers.user);
        self.replace_headers(key, meta, headers).await
    }

    pub(crate) async fn replace_headers(
        &self,
        key: &ObjectKey,
        meta: &ObjectMeta,
        headers: ObjectHeaders,
    ) -> Result<Object> {
        if let Ok(object) = self.bucket.object_at(key, meta)
            && object.format == Format::Plain
        {
            return Err(READ_ONLY_PLAIN);
        }
        let replace = CopyHeaders::Replace(headers.clone());
        let answer = self
            .copy_object(key, meta, key, replace, Overwrite::Allowed)
            .await?;
        let meta = ObjectMeta {
            etag: answer.etag,
            last_modified: answer.date,
            date: answer.date,
            headers,
            ..meta.clone()
        };
        let mut object = self.cache.describe(key, meta, Instant::now());
        object.uploaded_here = true;
        Ok(object)
    }

    /// Whether there is neither an object of that key nor anything below it. False also where too many keys
    /// begin like it to tell by one page.
    pub(crate) async fn is_nothing(&self, key: &str) -> Result<bool> {
        /// `f1`, and `f10` to `f19` with the tools' temporary names beside them.
        const LIKE_IT: u16 = 32;
        let like_it = ListRequest {
            prefix: key.to_owned(),
            delimited: true,
            max_keys: LIKE_IT,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&like_it).await?;
        let is_it = |found: &str| found == key || found.strip_suffix('/') == Some(key);
        let mut found = page.objects.iter().map(|object| &object.key);
        Ok(page.next.is_none()
            && page.hidden == 0
            && !found.any(|found| is_it(found))
            && !page.prefixes.iter().any(|found| is_it(found)))
    }

    /// Whether there is no object below this prefix but its marker.
    pub(crate) async fn is_bare(&self, prefix: &str) -> Result<bool> {
        let below = ListRequest {
            prefix: prefix.to_owned(),
            max_keys: 2,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&below).await?;
        // What is hidden is there all the same.
        Ok(page.hidden == 0 && page.objects.iter().all(|object| object.key == prefix))
    }

    /// Deletes in batches, up to the first of which something cannot be deleted.
    pub(crate) async fn delete_all<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut keys = keys.map(|key| object_name::object_key(key.to_owned()));
        loop {
            let batch: Vec<ObjectKey> = keys.by_ref().take(BATCH).collect::<Result<_>>()?;
            let result = match &batch[..] {
                [] => return Ok(()),
                [key] => self.bucket.store().delete(key).await.map_err(Error::from),
                batch => self.delete_batch(batch).await,
            };
            self.note_deletion(batch[0].as_str(), &result);
            result?;
        }
    }

    async fn delete_batch(&self, batch: &[ObjectKey]) -> Result<()> {
        let failed = self.bucket.store().delete_many(batch).await?;
        let mut worst = None;
        for (key, error) in failed {
            let error = Error::from(error);
            // A refusal counts more than what may succeed later.
            let counts = worst.is_none() || error.is_refusal();
            if counts {
                worst = Some((key, error));
            }
        }
        match worst {
            None => Ok(()),
            Some((key, error)) => {
                log::error!("{key} could not be deleted: {}", chain(&error));
                Err(error)
            }
        }
    }

    /// Remembers how the DELETE of a key ended.
    pub(crate) fn note_deletion<T>(&self, key: &str, result: &Result<T>) {
        let allowed = match result {
            Ok(_) => true,
            Err(Error::Refused(Refusal::Denied | Refusal::NotPermitted, _)) => false,
            Err(_) => return,
        };
        lock(&self.delete_permissions).note(key, allowed, Instant::now());
    }

    /// Before a rename from this key copies anything.
    ///
    /// # Errors
    /// Those of a DELETE that is refused.
    pub(crate) async fn check_deletable(&self, key: &ObjectKey, replaces: bool) -> Result<()> {
        let known = lock(&self.delete_permissions).known(key.as_str(), Instant::now());
        if known.unwrap_or(!replaces) {
            return Ok(());
        }
        let nothing = format!(
            "{}.ossvault-{:016x}",
            key.as_str().trim_end_matches('/'),
            rand::random::<u64>()
        );
        let Ok(nothing) = object_name::object_key(nothing) else {
            return Ok(());
        };
        let result = self.bucket.store().delete(&nothing).await;
        let result = result.map_err(Error::from);
        self.note_deletion(key.as_str(), &result);
        match result {
            Err(error) if error.is_refusal() => Err(error),
            // Without an answer the rename goes on, and its own DELETE is tried as often as it takes.
            _ => Ok(()),
        }
    }
}

/// Whether an object has the bytes and the headers of another, but for the time of change, which a rename moves.
pub(crate) fn is_copy(source: &ObjectMeta, copy: &ObjectMeta) -> bool {
    // A copy of an object that was uploaded in parts has another tag.
    let same_bytes = source.crc64.is_some() && source.crc64 == copy.crc64;
    source.size == copy.size
        && (source.etag == copy.etag || same_bytes)
        && entries_but_ctime(source).eq(entries_but_ctime(copy))
}

fn entries_but_ctime(meta: &ObjectMeta) -> impl Iterator<Item = (&String, &String)> {
    meta.headers.user.iter().filter(|(name, _)| *name != CTIME)
}
