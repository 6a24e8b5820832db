//! An in-memory bucket: small, and complete.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::base::crc64;
use crate::base::sync::lock;
use crate::object::listing::{self, Hidden, PageToken, RawObject, RawPage};
use crate::store::error::Error;
use crate::store::object_store::*;

/// The minimum size of parts, except the last one.
const MIN_PART: usize = 100 << 10;

/// Bodies arrive in pieces of this size.
const CHUNK: usize = 64 << 10;

#[derive(Clone)]
struct Stored {
    content: Bytes,
    /// Of the content.
    crc64: u64,
    headers: ObjectHeaders,
    modified: SystemTime,
}

struct Upload {
    key: ObjectKey,
    headers: ObjectHeaders,
    initiated: SystemTime,
    parts: BTreeMap<u16, Bytes>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    uploads: HashMap<UploadId, Upload>,
    last_upload: u64,
}

/// An object's ETag is computed from its bytes: equal bytes have equal ETags. Parts may be of any size.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    min_part: usize,
    hidden: Hidden,
}

impl MemoryStore {
    /// A bucket that refuses small parts, as the service does.
    pub fn with_minimum_parts() -> MemoryStore {
        MemoryStore {
            min_part: MIN_PART,
            ..MemoryStore::default()
        }
    }

    /// The bytes of an existing object.
    pub fn stored(&self, key: &str) -> Bytes {
        self.state().objects[key].content.clone()
    }

    /// Changes an existing object in a way that is not possible through a bucket.
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Bytes, &mut ObjectHeaders)) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).expect("an object that is there");
        change(&mut object.content, &mut object.headers);
        object.crc64 = crc64::of(&object.content);
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.state().objects.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn find(&self, key: &ObjectKey) -> Result<&Stored> {
        self.objects.get(key.as_str()).ok_or(Error::NotFound)
    }

    /// The version of an object that has this ETag.
    fn version(&self, key: &ObjectKey, etag: &ETag) -> Result<&Stored> {
        let object = self.find(key)?;
        match tag(object.crc64) == *etag {
            true => Ok(object),
            false => Err(Error::PreconditionFailed),
        }
    }

    fn store(
        &mut self,
        key: &ObjectKey,
        headers: ObjectHeaders,
        content: Bytes,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        if overwrite == Overwrite::Forbidden && self.objects.contains_key(key.as_str()) {
            return Err(Error::AlreadyExists);
        }
        let crc64 = crc64::of(&content);
        let answer = PutAnswer {
            etag: tag(crc64),
            crc64: Some(crc64),
            date: now(),
        };
        let object = Stored {
            content,
            crc64,
            headers,
            modified: answer.date,
        };
        self.objects.insert(key.as_str().to_owned(), object);
        Ok(answer)
    }

    fn upload(&mut self, key: &ObjectKey, upload: &UploadId) -> Result<&mut Upload> {
        let found = self.uploads.get_mut(upload);
        found
            .filter(|upload| upload.key == *key)
            .ok_or(Error::NoSuchUpload)
    }
}

fn tag(crc64: u64) -> ETag {
    ETag::new(format!("\"{crc64:016X}\""))
}

/// Whole seconds, as in a service.
fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UNIX_EPOCH + Duration::from_secs(since.map_or(0, |since| since.as_secs()))
}

fn meta_of(object: &Stored) -> ObjectMeta {
    ObjectMeta {
        size: object.content.len() as u64,
        etag: tag(object.crc64),
        last_modified: object.modified,
        headers: object.headers.clone(),
        crc64: Some(object.crc64),
        date: now(),
    }
}

/// The bytes of a body, read once.
///
/// # Errors
/// The body's own error.
pub async fn read(body: &Body) -> Result<Bytes> {
    let mut content = Vec::new();
    let mut stream = body.open();
    while let Some(chunk) = stream.try_next().await? {
        content.extend_from_slice(&chunk);
    }
    assert_eq!(content.len() as u64, body.len(), "a body of another length");
    Ok(content.into())
}

/// A body as it arrives: in pieces of up to `size` bytes.
pub fn chunks(content: &Bytes, size: usize) -> Vec<Result<Bytes>> {
    let pieces = content.chunks(size);
    pieces.map(|piece| Ok(content.slice_ref(piece))).collect()
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        Ok(meta_of(self.state().find(key)?))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let object = self.state().find(key)?.clone();
        let meta = meta_of(&object);
        if if_match.is_some_and(|etag| *etag != meta.etag) {
            return Err(Error::PreconditionFailed);
        }
        let range = match range {
            Some(range) if range.start >= meta.size.min(range.end) => {
                return Err(Error::InvalidRange);
            }
            Some(range) => range.start..range.end.min(meta.size),
            None => 0..meta.size,
        };
        let content = object
            .content
            .slice(range.start as usize..range.end as usize);
        Ok(GetAnswer {
            meta,
            range,
            body: stream::iter(chunks(&content, CHUNK)).boxed(),
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let content = read(&body).await?;
        self.state().store(key, headers.clone(), content, overwrite)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.state().objects.remove(key.as_str());
        Ok(())
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key.as_str());
        }
        Ok(Vec::new())
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        let mut state = self.state();
        let source = state.version(&request.source, &request.source_etag)?;
        let source = source.clone();
        let headers = match &request.headers {
            CopyHeaders::Keep => source.headers,
            CopyHeaders::Replace(headers) => headers.clone(),
        };
        state.store(
            &request.destination,
            headers,
            source.content,
            request.overwrite,
        )
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let page = {
            let state = self.state();
            let after = request.token.as_ref().map(PageToken::as_str);
            let after = after.or(request.start_after.as_deref()).unwrap_or_default();
            page(&state.objects, request, after)
        };
        listing::check(request, page, &self.hidden)
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        let mut state = self.state();
        state.last_upload += 1;
        let id = UploadId(state.last_upload.to_string());
        let upload = Upload {
            key: key.clone(),
            headers: headers.clone(),
            initiated: now(),
            parts: BTreeMap::new(),
        };
        state.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        let content = read(&body).await?;
        let crc64 = crc64::of(&content);
        let part = UploadedPart {
            number,
            etag: tag(crc64),
            crc64: Some(crc64),
            size: content.len() as u64,
        };
        let mut state = self.state();
        state.upload(key, upload)?.parts.insert(number, content);
        Ok(part)
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        let (source, etag) = (&request.source, Some(&request.source_etag));
        let source = self.get(source, Some(request.range.clone()), etag).await?;
        let content: Vec<Bytes> = source.body.try_collect().await?;
        let body = Body::from_bytes(content.concat());
        self.upload_part(&request.key, &request.upload, request.number, body)
            .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let mut state = self.state();
        let begun = state.upload(key, upload)?;
        let mut content = Vec::new();
        let in_order = parts.is_sorted_by(|one, other| one.number < other.number);
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            match begun.parts.get(&part.number) {
                Some(bytes)
                    if in_order
                        && tag(crc64::of(bytes)) == part.etag
                        && (is_last || bytes.len() >= self.min_part) =>
                {
                    content.extend_from_slice(bytes);
                }
                _ => return Err(wrong_parts()),
            }
        }
        if parts.is_empty() {
            return Err(wrong_parts());
        }
        let headers = begun.headers.clone();
        let answer = state.store(key, headers, content.into(), overwrite)?;
        state.uploads.remove(upload);
        Ok(answer)
    }

    async fn abort_multipart(&self, _: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.state().uploads.remove(upload);
        Ok(())
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let state = self.state();
        let pending = state.uploads.iter().map(|(id, upload)| PendingUpload {
            key: upload.key.as_str().to_owned(),
            upload: id.clone(),
            initiated: upload.initiated,
        });
        Ok(pending
            .filter(|upload| upload.key.starts_with(prefix))
            .collect())
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        Ok(BucketInfo::default())
    }
}

fn wrong_parts() -> Error {
    Error::other(std::io::Error::other("not the parts of this upload"))
}

/// The part after `after`, a key or a prefix including everything that begins with it.
fn page(objects: &BTreeMap<String, Stored>, request: &ListRequest, after: &str) -> RawPage {
    let prefix = request.prefix.as_str();
    let max = match request.max_keys {
        0 => 1000,
        max => usize::from(max.min(1000)),
    };
    let mut page = RawPage {
        objects: Vec::new(),
        prefixes: Vec::new(),
        next: None,
        date: now(),
    };
    let start = match after < prefix {
        true => Bound::Included(prefix),
        false => Bound::Excluded(after),
    };
    // The page before ended with all that begins with this; an object in the listing's own name is no such thing.
    let ends_folded = request.token.is_some() && after.ends_with('/') && after.len() > prefix.len();
    let mut folded = (request.delimited && ends_folded).then(|| after.to_owned());
    let mut last = String::new();
    for (key, object) in objects.range::<str, _>((start, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else {
            break;
        };
        if folded
            .as_ref()
            .is_some_and(|folded| key.starts_with(folded))
        {
            continue;
        }
        if page.objects.len() + page.prefixes.len() == max {
            page.next = Some(last);
            break;
        }
        match rest.find('/').filter(|_| request.delimited) {
            Some(end) => {
                last = key[..=prefix.len() + end].to_owned();
                page.prefixes.push(last.clone().into_bytes());
                folded = Some(last.clone());
            }
            None => {
                last.clone_from(key);
                page.objects.push(RawObject {
                    key: key.clone().into_bytes(),
                    size: Some(object.content.len() as u64),
                    etag: tag(object.crc64),
                    last_modified: Some(object.modified),
                    storage_class: String::new(),
                });
            }
        }
    }
    page
}
