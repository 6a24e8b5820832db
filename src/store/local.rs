//! A bucket in a folder on disk: the embedded default, and what the server serves.
//!
//! A SQLite database says which objects exist ([`index`], [`uploads`], [`record`]); content files that never change
//! hold their bytes ([`content`]). A write first creates its content and then, in one transaction, checks its
//! condition and changes the object's row; at that moment the object is replaced ([`objects`], [`multipart`]). Any
//! number of processes may have the folder open, such as a `file://` mount beside a server, and conditions hold
//! between all of them. [`folder`] describes the layout, [`mod@bucket`] is the folder once it is open.
//!
//! A call that takes one small read is answered on the calling thread; listings, bodies, and whatever waits for
//! another writer or for the disk, run on the blocking pool.

pub mod bucket;
pub mod class;
pub mod clock;
pub mod content;
pub mod directory;
pub mod disk;
pub mod folder;
pub mod index;
mod multipart;
mod objects;
mod place;
mod reading;
mod received;
pub mod record;
pub mod uploads;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::Error;
use super::listing::{self, RawObject, RawPage};
use super::object_store::*;
use bucket::Bucket;
use class::Class;
use clock::now;
use directory::Directory;
use disk::message;
use index::{Found, From, Page, Query};
use objects::RACES;
use reading::Reading;
use uploads::Part;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Every change is on the disk before it is acknowledged.
    pub sync: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { sync: true }
    }
}

/// Cheap to clone; the clones are one instance.
#[derive(Clone)]
pub struct LocalStore {
    bucket: Arc<Bucket>,
    hidden: listing::Hidden,
}

/// An object as it was when it was opened: its bytes stay readable even if it is replaced or deleted.
pub struct OpenObject {
    pub meta: ObjectMeta,
    pub multipart: bool,
    /// The MD5 of the content where the tag is one.
    pub md5: Option<[u8; 16]>,
    reading: Reading,
    pub range: Range<u64>,
}

impl OpenObject {
    pub fn body(self) -> BoxStream<'static, Result<Bytes>> {
        self.reading.stream()
    }
}

impl LocalStore {
    /// Opens the bucket in `folder`; makes it, if the folder is absent or empty. Blocks.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the folder holds something else; the disk's.
    pub fn open(folder: &Path, settings: Settings) -> Result<LocalStore> {
        LocalStore::open_in(folder::open_folder(folder)?, settings)
    }

    /// As [`LocalStore::open`], in a folder that is open already.
    pub fn open_in(root: Directory, settings: Settings) -> Result<LocalStore> {
        LocalStore::create_in(root, Class::default(), settings)
    }

    /// As [`LocalStore::open_in`]; a bucket that is made gets this class. One that is there keeps its own.
    pub fn create_in(root: Directory, class: Class, settings: Settings) -> Result<LocalStore> {
        Ok(LocalStore {
            bucket: Arc::new(Bucket::open(root, class, settings.sync)?),
            hidden: listing::Hidden::default(),
        })
    }

    /// See [`folder::is_there`].
    pub fn is_there(folder: &Path) -> bool {
        folder::is_there(folder)
    }

    /// For messages, and to open the bucket again.
    pub fn folder(&self) -> &Path {
        self.bucket.root().path()
    }

    /// The folder as it is open here: whatever its path names now.
    pub fn root(&self) -> &Directory {
        self.bucket.root()
    }

    /// Deletes the bucket if it is empty; its folder stays, empty. Nothing is removed that this store has not
    /// made.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when it holds objects, unfinished uploads, or files that are not a bucket's.
    pub async fn destroy(&self) -> Result<()> {
        self.blocking(Bucket::destroy).await
    }

    pub fn class(&self) -> Class {
        self.bucket.class()
    }

    /// What an object that is stored with these headers has.
    fn completed(&self, headers: &ObjectHeaders) -> ObjectHeaders {
        let mut headers = headers.clone();
        if headers.storage_class.is_none() && self.bucket.class() != Class::Standard {
            headers.storage_class = Some(self.bucket.class().name().to_string());
        }
        headers
    }

    /// How many objects there are. Reads all of them.
    pub fn len(&self) -> Result<usize> {
        self.bucket.look(index::count)
    }

    /// Whether there are neither objects nor uploads.
    pub fn is_empty(&self) -> Result<bool> {
        self.bucket.look(index::is_empty)
    }

    /// The object, with `choose`'s range of it open for reading; none is the whole. `choose` sees the object
    /// it decides about: what is opened is that version.
    pub fn open_object(
        &self,
        key: &ObjectKey,
        mut choose: impl FnMut(&ObjectMeta) -> Result<Option<ByteRange>>,
    ) -> Result<OpenObject> {
        for _ in 0..RACES {
            let (found, parts) = self.bucket.find_with_parts(key)?;
            let meta = found.meta();
            let range = choose(&meta)?.unwrap_or(0..meta.size);
            match self.bucket.read(key, &found, &parts, range.clone()) {
                Err(Error::NotFound) => continue,
                reading => {
                    return Ok(OpenObject {
                        meta,
                        multipart: found.facts.multipart,
                        md5: found.md5(),
                        reading: reading?,
                        range,
                    });
                }
            }
        }
        Err(objects::missing_content(key))
    }

    /// What HEAD tells, and whether a multipart upload made the object.
    pub fn describe(&self, key: &ObjectKey) -> Result<(ObjectMeta, bool, Option<[u8; 16]>)> {
        let found = self.bucket.find(key)?;
        Ok((found.meta(), found.facts.multipart, found.md5()))
    }

    pub async fn page(
        &self,
        prefix: &str,
        delimiter: &str,
        from: From,
        max: usize,
    ) -> Result<Page> {
        let (prefix, delimiter) = (prefix.to_string(), delimiter.to_string());
        self.blocking(move |bucket| {
            bucket.look(|connection| {
                let query = Query {
                    prefix: &prefix,
                    delimiter: &delimiter,
                    from,
                    max,
                };
                index::list(connection, &query)
            })
        })
        .await
    }

    /// A write whose length may be unknown. Nothing happens when `body` ends with an error.
    pub async fn put_stream(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        checked(headers)?;
        let received = self.bucket.contents().receive(body, expected).await?;
        let (key, headers) = (key.clone(), self.completed(headers));
        self.blocking(move |bucket| objects::put(bucket, &key, &headers, received, overwrite))
            .await
    }

    /// As the trait's `copy`, without a condition when there is no tag.
    pub async fn copy_if(
        &self,
        source: &ObjectKey,
        source_etag: Option<&ETag>,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<(PutAnswer, SystemTime)> {
        let headers = match headers {
            CopyHeaders::Replace(headers) => {
                checked(&headers)?;
                CopyHeaders::Replace(self.completed(&headers))
            }
            CopyHeaders::Keep => CopyHeaders::Keep,
        };
        let (source, etag, destination) =
            (source.clone(), source_etag.cloned(), destination.clone());
        self.blocking(move |bucket| {
            objects::copy(
                bucket,
                &source,
                etag.as_ref(),
                &destination,
                &headers,
                overwrite,
            )
        })
        .await
    }

    pub async fn part_stream(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
    ) -> Result<UploadedPart> {
        // Before gigabytes are taken in for nothing.
        self.bucket.upload(key, upload)?;
        let received = self.bucket.contents().receive(body, expected).await?;
        let (key, upload) = (key.clone(), upload.clone());
        self.blocking(move |bucket| multipart::add_part(bucket, &key, &upload, number, received))
            .await
    }

    /// What was said when the upload began.
    pub fn upload_headers(&self, key: &ObjectKey, upload: &UploadId) -> Result<ObjectHeaders> {
        Ok(self.bucket.upload(key, upload)?.headers)
    }

    /// By number.
    pub async fn list_parts(&self, key: &ObjectKey, upload: &UploadId) -> Result<Vec<Part>> {
        let (key, upload) = (key.clone(), upload.clone());
        self.blocking(move |bucket| {
            bucket.look(|connection| {
                let what = uploads::load(connection, &key, &upload)?;
                let parts = uploads::parts(connection, what.content)?;
                Ok(parts.into_values().collect())
            })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Bucket>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let bucket = self.bucket.clone();
        tokio::task::spawn_blocking(move || work(&bucket))
            .await
            .unwrap_or_else(|error| Err(Error::other(error)))
    }
}

impl Found {
    fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            size: self.facts.size,
            etag: self.facts.tag.etag(),
            last_modified: self.facts.last_modified(),
            headers: self.headers.clone(),
            crc64: Some(self.facts.crc64),
            date: now(),
        }
    }

    /// The MD5 of the content if the tag is one.
    fn md5(&self) -> Option<[u8; 16]> {
        (self.facts.tag.parts == 0).then_some(self.facts.tag.digest)
    }
}

/// # Errors
/// [`Error::TooLarge`] for headers that would not be read again.
fn checked(headers: &ObjectHeaders) -> Result<()> {
    match record::is_bounded(headers) {
        true => Ok(()),
        false => Err(Error::TooLarge(message(
            "more metadata than an object can have",
        ))),
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn name(&self) -> String {
        format!("file://{}", self.folder().display())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        Ok(self.bucket.find(key)?.meta())
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let object = self.open_object(key, |meta| {
            if if_match.is_some_and(|etag| *etag != meta.etag) {
                return Err(Error::PreconditionFailed);
            }
            match &range {
                Some(range) if range.start >= meta.size || range.start >= range.end => {
                    Err(Error::InvalidRange)
                }
                Some(range) => Ok(Some(range.start..range.end.min(meta.size))),
                None => Ok(None),
            }
        })?;
        Ok(GetAnswer {
            meta: object.meta.clone(),
            range: object.range.clone(),
            body: object.body(),
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        self.put_stream(key, headers, body.open(), Some(body.len()), overwrite)
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let keys = vec![key.clone()];
        self.blocking(move |bucket| objects::delete(bucket, keys))
            .await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let keys = keys.to_vec();
        self.blocking(move |bucket| objects::delete(bucket, keys))
            .await?;
        Ok(Vec::new())
    }

    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer> {
        let etag = Some(&request.source_etag);
        let copied = self
            .copy_if(
                &request.source,
                etag,
                &request.destination,
                request.headers.clone(),
                request.overwrite,
            )
            .await?;
        Ok(copied.0)
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let from = match (&request.token, &request.start_after) {
            (Some(token), _) => from_token(token.as_str())
                .ok_or_else(|| Error::Other(message("not a token of this store's listings")))?,
            (None, Some(key)) => From::After(key.clone()),
            (None, None) => From::Start,
        };
        let delimiter = if request.delimited { "/" } else { "" };
        let max = match request.max_keys {
            0 => 1000,
            max => usize::from(max.min(1000)),
        };
        let page = self.page(&request.prefix, delimiter, from, max).await?;
        let page = RawPage {
            objects: page
                .objects
                .into_iter()
                .map(|(key, facts)| RawObject {
                    key: key.into_bytes(),
                    size: Some(facts.size),
                    etag: facts.tag.etag(),
                    last_modified: Some(facts.last_modified()),
                    storage_class: String::new(),
                })
                .collect(),
            prefixes: page.prefixes.into_iter().map(String::into_bytes).collect(),
            next: page.next.map(|next| to_token(&next)),
            date: now(),
        };
        listing::check(request, page, &self.hidden)
    }

    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId> {
        checked(headers)?;
        let (key, headers) = (key.clone(), self.completed(headers));
        self.blocking(move |bucket| multipart::begin(bucket, &key, headers))
            .await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        self.part_stream(key, upload, number, body.open(), Some(body.len()))
            .await
    }

    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        let range = Some(request.range.clone());
        let source = self.get(&request.source, range, Some(&request.source_etag));
        let source = source.await?;
        let len = source.range.end - source.range.start;
        let (key, upload, number) = (&request.key, &request.upload, request.number);
        self.part_stream(key, upload, number, source.body, Some(len))
            .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let (key, upload, parts) = (key.clone(), upload.clone(), parts.to_vec());
        self.blocking(move |bucket| multipart::complete(bucket, &key, &upload, &parts, overwrite))
            .await
    }

    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let (key, upload) = (key.clone(), upload.clone());
        match self
            .blocking(move |bucket| multipart::abort(bucket, &key, &upload))
            .await
        {
            Err(Error::NoSuchUpload) => Ok(()),
            aborted => aborted,
        }
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let prefix = prefix.to_string();
        self.blocking(move |bucket| bucket.look(|connection| uploads::list(connection, &prefix)))
            .await
    }

    async fn bucket_info(&self) -> Result<BucketInfo> {
        self.bucket.check()?;
        Ok(BucketInfo::default())
    }
}

/// A place in a listing as text.
pub fn to_token(from: &From) -> String {
    match from {
        From::Start => String::new(),
        From::After(key) => format!("a{key}"),
        From::Behind(lead) => format!("b{lead}"),
    }
}

/// None if it is no token.
pub fn from_token(token: &str) -> Option<From> {
    let (kind, name) = token.split_at_checked(1)?;
    match kind {
        "a" => Some(From::After(name.to_string())),
        "b" => Some(From::Behind(name.to_string())),
        _ => None,
    }
}
