//! What is kept of objects: their headers, and contents that are not open, by key and tag.
//!
//! Headers hold the attributes, the envelope that opens the content, and what a metadata change has to send back.
//! Both are kept within a share of the memory budget each; what was used longest ago goes first.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::base::sync::lock;
use crate::base::time::unix_seconds;
use crate::encrypted::{self, EncryptedBucket, EncryptedObject, Uploaded};
use crate::envelope::Format;
use crate::files::attributes::{Attributes, XATTR};
use crate::fs::data::budget::MemoryBudget;
use crate::fs::data::byte_lru::ByteLru;
use crate::fs::data::content::{Content, ContentCache};
use crate::fs::error::Result;
use crate::fs::namespace::entry::{CachedAttributes, Object};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::Marker;
use crate::fs::settings::Settings;
use crate::store::object_store::{ETag, ObjectKey, ObjectMeta};

/// So much of the memory budget, as a divisor, may go to objects' headers, of some 2 KB each.
const DESCRIBED_SHARE: u64 = 32;

/// And so much to contents that are not open, beside their bytes.
const CONTENTS_SHARE: u64 = 32;

/// What a content takes in memory besides its bytes.
const CONTENT_WEIGHT: u64 = 2048;

/// An object's headers, and what they say about how to read it.
pub(crate) struct CachedHeaders {
    pub meta: ObjectMeta,
    pub object: std::result::Result<Arc<EncryptedObject>, encrypted::Error>,
    pub checked: Instant,
}

impl CachedHeaders {
    /// What it takes in memory, in bytes: besides the headers, what was made of them.
    pub(crate) fn weight(&self) -> u64 {
        const BESIDES: usize = 1024;
        const EACH: usize = 64;
        let headers = &self.meta.headers;
        let entries = headers.user.iter().chain(&headers.standard);
        let entries = entries.map(|(name, value)| name.len() + value.len() + EACH);
        (2 * entries.sum::<usize>() + BESIDES) as u64
    }

    /// Served although it is not encrypted.
    pub(crate) fn is_plain(&self) -> bool {
        let object = self.object.as_ref();
        object.is_ok_and(|object| object.format == Format::Plain)
    }
}

pub(crate) struct ObjectCache {
    bucket: Arc<EncryptedBucket>,
    settings: Arc<Settings>,
    content_cache: Arc<ContentCache>,
    /// One version a key: objects whose bytes are equal have the same tag, whatever their headers say.
    headers: Mutex<ByteLru<ObjectKey, Arc<CachedHeaders>>>,
    /// Contents that are not open: bodies that came with headers, what was just written, and what was read.
    contents: Mutex<ByteLru<ObjectKey, Arc<Content>>>,
}

impl ObjectCache {
    pub(crate) fn new(
        bucket: Arc<EncryptedBucket>,
        settings: Arc<Settings>,
        content_cache: Arc<ContentCache>,
        budget: &MemoryBudget,
    ) -> Arc<ObjectCache> {
        let headers = ByteLru::new(budget.limit() / DESCRIBED_SHARE, Some(budget.charge(0)));
        // Their bytes are counted as cached content is.
        let contents = ByteLru::new(budget.limit() / CONTENTS_SHARE, Some(budget.charge(0)));
        Arc::new(ObjectCache {
            bucket,
            settings,
            content_cache,
            headers: Mutex::new(headers),
            contents: Mutex::new(contents),
        })
    }

    /// Reads an object's headers into what is known of it, and keeps them for a while.
    pub(crate) fn describe(&self, key: &ObjectKey, meta: ObjectMeta, sent: Instant) -> Object {
        let mut known = known_of(&meta);
        let described = self.remember_headers(key, meta, sent);
        if described.is_plain() {
            known.attributes.show_plain();
        }
        Object {
            size: described.meta.size,
            etag: described.meta.etag.clone(),
            last_modified: unix_seconds(described.meta.last_modified),
            uploaded_here: false,
            known: Some(Arc::new(known)),
        }
    }

    /// Keeps an object's headers: they hold its envelope, and a metadata change must send them all back. They were
    /// true at `checked`; what was true later stays.
    pub(crate) fn remember_headers(
        &self,
        key: &ObjectKey,
        meta: ObjectMeta,
        checked: Instant,
    ) -> Arc<CachedHeaders> {
        let mut described = lock(&self.headers);
        let overtaken = described
            .peek(key)
            .is_some_and(|known| known.checked > checked);
        // The data key that was unwrapped stays with the version as long as its envelope does.
        let object = match described.get(key) {
            Some(before)
                if before.meta.etag == meta.etag
                    && before.meta.headers.user == meta.headers.user =>
            {
                before.object.clone()
            }
            _ => self.bucket.object_at(key, &meta),
        };
        let entry = Arc::new(CachedHeaders {
            meta,
            object,
            checked,
        });
        if !overtaken {
            let weight = entry.weight();
            described.put(key.clone(), entry.clone(), weight);
        }
        entry
    }

    /// As [`remember_headers`](Self::remember_headers), of an upload of ours: its key is at hand, and need not
    /// be unwrapped.
    pub(crate) fn remember_upload(&self, key: &ObjectKey, uploaded: &Uploaded, checked: Instant) {
        let entry = Arc::new(CachedHeaders {
            meta: meta_of(uploaded),
            object: Ok(uploaded.object.clone()),
            checked,
        });
        let mut described = lock(&self.headers);
        let weight = entry.weight();
        described.put(key.clone(), entry, weight);
    }

    /// An object's headers as they are now, or were at most the TTL ago for a call that began at `start`.
    pub(crate) async fn headers(
        &self,
        key: &ObjectKey,
        etag: &ETag,
        start: Instant,
    ) -> Result<Arc<CachedHeaders>> {
        if let Some(described) = self.known_headers(key, etag)
            && fresh(described.checked, self.settings.metadata_ttl, start)
        {
            return Ok(described);
        }
        let sent = Instant::now();
        let meta = self.bucket.store().head(key).await?;
        Ok(self.remember_headers(key, meta, sent))
    }

    /// What stands under a key, if anything does, is another object from now on, or was found to be: what is known
    /// of the one before may not be taken for it, though the tag be the same.
    pub(crate) fn forget_object(&self, key: &ObjectKey) {
        lock(&self.headers).pop(key);
        lock(&self.contents).pop(key);
    }

    /// The headers of that very content, however old.
    pub(crate) fn known_headers(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<CachedHeaders>> {
        let mut described = lock(&self.headers);
        let described = described.get(key)?;
        (described.meta.etag == *etag).then(|| described.clone())
    }

    /// The headers of an object that a listing has just shown, if they are known and it shows that they are as they
    /// were.
    pub(crate) fn headers_as_listed(
        &self,
        key: &ObjectKey,
        etag: &ETag,
        last_modified: u64,
        start: Instant,
    ) -> Option<Arc<CachedHeaders>> {
        let described = self.known_headers(key, etag)?;
        let (modified, read) = (described.meta.last_modified, described.meta.date);
        // A change within the second would not show.
        let settled = unix_seconds(read) >= unix_seconds(modified) + 2;
        let unchanged = settled && unix_seconds(modified) == last_modified;
        (unchanged || fresh(described.checked, self.settings.metadata_ttl, start))
            .then_some(described)
    }

    /// The readable content of a version, with the body that came with its headers if there was one.
    pub(crate) fn content_of(&self, key: &ObjectKey, object: &Object) -> Arc<Content> {
        if let Some(content) = self.take_kept(key, &object.etag) {
            return content;
        }
        let described = self.known_headers(key, &object.etag);
        let envelope = match described.as_ref().map(|described| &described.object) {
            Some(Ok(envelope)) => Some(envelope.clone()),
            _ => None,
        };
        self.new_content(key, object.etag.clone(), object.size, envelope)
    }

    /// Keeps a body that came with its headers until the file is opened.
    pub(crate) fn keep_small(&self, key: &ObjectKey, etag: &ETag, body: Bytes) {
        let Some(described) = self.known_headers(key, etag) else {
            return;
        };
        let Ok(envelope) = &described.object else {
            return;
        };
        let content = self.new_content(
            key,
            etag.clone(),
            described.meta.size,
            Some(envelope.clone()),
        );
        content.preload(envelope.clone(), &body);
        lock(&self.contents).put(key.clone(), content, CONTENT_WEIGHT);
    }

    /// The readable content of a version that nothing is kept of.
    pub(crate) fn new_content(
        &self,
        key: &ObjectKey,
        etag: ETag,
        size: u64,
        envelope: Option<Arc<EncryptedObject>>,
    ) -> Arc<Content> {
        let (bucket, cache) = (self.bucket.clone(), self.content_cache.clone());
        Content::new(bucket, cache, key.clone(), etag, size, envelope)
    }

    /// Keeps a content that is not open any more.
    pub(crate) fn keep_content(&self, content: Arc<Content>) {
        let key = content.place().0;
        lock(&self.contents).put(key, content, CONTENT_WEIGHT);
    }

    /// Drops so many bytes of contents that are open or kept, if there are. Returns how many were dropped.
    pub(crate) fn evict(&self, bytes: u64) -> u64 {
        self.content_cache.evict(bytes)
    }

    /// Drops all that is kept of what is not open.
    pub(crate) fn clear(&self) {
        lock(&self.headers).clear();
        lock(&self.contents).clear();
    }

    fn take_kept(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<Content>> {
        let content = self.pop_kept(key, etag)?;
        content.reuse();
        Some(content)
    }

    /// Another version than the one requested stays.
    fn pop_kept(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<Content>> {
        let mut contents = lock(&self.contents);
        contents
            .get(key)
            .is_some_and(|content| content.etag() == *etag)
            .then(|| contents.pop(key))?
    }

    /// What is kept of a version is found under its new name and tag: we copied it.
    pub(crate) fn move_kept(&self, from: (&ObjectKey, &ETag), to: (&ObjectKey, &ETag)) {
        if from == to {
            return;
        }
        let Some(content) = self.pop_kept(from.0, from.1) else {
            return;
        };
        let Some(envelope) = content.object() else {
            return;
        };
        content.set_object(to.0.clone(), envelope.with_etag(to.1.clone()));
        lock(&self.contents).put(to.0.clone(), content, CONTENT_WEIGHT);
    }

    /// The version is gone.
    pub(crate) fn forget_kept(&self, key: &ObjectKey, etag: &ETag) {
        self.pop_kept(key, etag);
    }
}

/// What an object's headers say of it.
pub(crate) fn known_of(meta: &ObjectMeta) -> CachedAttributes {
    let (date, modified) = (unix_seconds(meta.date), unix_seconds(meta.last_modified));
    CachedAttributes {
        attributes: Attributes::read(meta, false),
        revalidatable: date >= modified + 2,
        xattrs: meta.headers.user.contains_key(XATTR),
    }
}

pub(crate) fn marker_of(meta: &ObjectMeta) -> Marker {
    let (date, modified) = (unix_seconds(meta.date), unix_seconds(meta.last_modified));
    Marker {
        etag: meta.etag.clone(),
        last_modified: modified,
        revalidatable: date >= modified + 2,
        uploaded_here: false,
    }
}

/// What a HEAD would say of an object that was just uploaded.
pub(crate) fn meta_of(uploaded: &Uploaded) -> ObjectMeta {
    ObjectMeta {
        size: uploaded.object.size,
        etag: uploaded.object.etag.clone(),
        last_modified: uploaded.date,
        headers: uploaded.headers.clone(),
        crc64: uploaded.object.crc64,
        date: uploaded.date,
    }
}

/// An object of ours as its upload's answer shows it.
pub(crate) fn object_of_ours(
    size: u64,
    etag: ETag,
    date: SystemTime,
    attributes: &Attributes,
    xattrs: bool,
) -> Object {
    Object {
        size,
        etag,
        last_modified: unix_seconds(date),
        uploaded_here: true,
        known: Some(Arc::new(CachedAttributes {
            attributes: attributes.clone(),
            revalidatable: false,
            xattrs,
        })),
    }
}
