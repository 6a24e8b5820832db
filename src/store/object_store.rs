//! The one seam of the program: what a bucket can do.
//!
//! Two implementations: [`oss`](super::oss) speaks to the service, [`local`](super::local) keeps a
//! bucket in a folder. What they promise alike is stated here and checked by one conformance suite:
//!
//! - an object appears or is replaced whole, or not at all;
//! - after a call that changed something returned, every later call sees the change;
//! - a precondition that does not hold changes nothing;
//! - every call ends: each wait has a deadline, and dropping the future cancels the call.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::Error;
use super::page_token::PageToken;

pub type Result<T> = std::result::Result<T, Error>;

/// The name of an object: 1 to 1023 bytes of UTF-8 that begin with neither `/` nor `\`
/// (error codes 0016-00000002 and 0016-00000005 of the service).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// The longest key the service takes, in bytes.
    pub const MAX_LEN: usize = 1023;

    /// # Errors
    /// [`Error::InvalidName`] when the service would refuse the name.
    pub fn new(key: impl Into<Arc<str>>) -> Result<ObjectKey> {
        let key = key.into();
        if key.is_empty() || key.len() > Self::MAX_LEN || key.starts_with(['/', '\\']) {
            return Err(Error::InvalidName(key.to_string()));
        }
        Ok(ObjectKey(key))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Escaped: a key may hold anything, and logs are read in terminals.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// An entity tag as the service sent it, quotes included. Opaque: equal tags mean equal content,
/// though not equal metadata, and nothing else may be concluded from one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(Arc<str>);

impl ETag {
    pub fn new(tag: impl Into<Arc<str>>) -> ETag {
        ETag(tag.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Half open, in bytes of the object, never empty.
pub type ByteRange = Range<u64>;

/// What a writer decides about an object beside its bytes, and what a metadata change must send back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// User metadata: names without the `x-oss-meta-` prefix, in lower case.
    pub user: BTreeMap<String, String>,
    pub content_type: Option<String>,
    /// The other headers the service stores with an object (`cache-control`, `content-disposition`,
    /// `content-encoding`, `content-language`, `expires`): names in lower case.
    pub standard: BTreeMap<String, String>,
    pub storage_class: Option<String>,
}

/// What HEAD and GET tell of an object.
#[derive(Clone, Debug)]
pub struct ObjectMeta {
    /// Of the whole object, in bytes.
    pub size: u64,
    pub etag: ETag,
    /// Whole seconds.
    pub last_modified: SystemTime,
    pub headers: ObjectHeaders,
    /// CRC-64/XZ of the stored bytes; copies may lack it.
    pub crc64: Option<u64>,
    /// The server's clock when it answered, whole seconds.
    pub date: SystemTime,
}

/// A request body that can be sent again: a retry must send the same bytes.
#[derive(Clone)]
pub struct Body {
    len: u64,
    open: Arc<dyn Fn() -> BoxStream<'static, Result<Bytes>> + Send + Sync>,
}

impl Body {
    /// `open` is called for every attempt and yields exactly `len` bytes, the same each time.
    pub fn new(
        len: u64,
        open: impl Fn() -> BoxStream<'static, Result<Bytes>> + Send + Sync + 'static,
    ) -> Body {
        Body {
            len,
            open: Arc::new(open),
        }
    }

    pub fn from_bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body::new(bytes.len() as u64, move || {
            let bytes = bytes.clone();
            Box::pin(futures_util::stream::once(async move { Ok(bytes) }))
        })
    }

    pub fn empty() -> Body {
        Body::from_bytes(Bytes::new())
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn open(&self) -> BoxStream<'static, Result<Bytes>> {
        (self.open)()
    }
}

/// Whether a write may replace an object that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    Allowed,
    /// `x-oss-forbid-overwrite`: [`Error::AlreadyExists`] when the key is taken. Buckets that have or
    /// had versioning ignore it.
    Forbidden,
}

/// An object's content as it arrives.
pub struct GetAnswer {
    pub meta: ObjectMeta,
    /// Which bytes of the object the body holds: what was asked for, cut at the object's end.
    pub range: Range<u64>,
    /// Ends after `range` is complete; a body that breaks off is resumed or is an error, never short.
    pub body: BoxStream<'static, Result<Bytes>>,
}

/// What a write left behind.
#[derive(Clone, Debug)]
pub struct PutAnswer {
    pub etag: ETag,
    pub crc64: Option<u64>,
    /// The server's clock when it answered, whole seconds: not earlier than the object's Last-Modified.
    pub date: SystemTime,
}

/// What becomes of an object's headers in a copy.
#[derive(Clone, Debug)]
pub enum CopyHeaders {
    /// As they are in the source. Not for a copy of an object onto itself.
    Keep,
    /// These and no others.
    Replace(ObjectHeaders),
}

#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold keys that have a `/` after the prefix into [`ListPage::prefixes`].
    pub delimited: bool,
    /// Only keys after this one, in byte order. Ignored when `token` is given.
    pub start_after: Option<String>,
    /// From the previous page's [`ListPage::next`].
    pub token: Option<PageToken>,
    /// 1 to 1000; 0 means 1000.
    pub max_keys: u16,
}

#[derive(Clone, Debug)]
pub struct ListedObject {
    pub key: String,
    /// In bytes.
    pub size: u64,
    pub etag: ETag,
    /// Whole seconds.
    pub last_modified: SystemTime,
    /// `Standard`, `IA`, `Archive`, ...; empty where the store does not say.
    pub storage_class: String,
}

/// One page of a listing, checked by [`listing`](super::listing). `objects` and `prefixes` are each in byte
/// order, below the prefix that was asked for, and behind those of the pages before.
#[derive(Clone, Debug)]
pub struct ListPage {
    pub objects: Vec<ListedObject>,
    /// With the trailing `/`.
    pub prefixes: Vec<String>,
    /// The token for the page that follows; none on the last one.
    pub next: Option<PageToken>,
    /// The server's clock when it answered, whole seconds.
    pub date: SystemTime,
    /// Entries that are there and are not shown: their names or sizes cannot be right.
    pub hidden: usize,
}

/// Names a multipart upload, together with its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// A part as `complete_multipart` names it.
#[derive(Clone, Debug)]
pub struct UploadedPart {
    /// 1 to 10,000.
    pub number: u16,
    pub etag: ETag,
    /// CRC-64/XZ of the part; copied parts may lack it.
    pub crc64: Option<u64>,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone, Debug)]
pub struct PendingUpload {
    pub key: String,
    pub upload: UploadId,
    pub initiated: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub struct BucketInfo {
    pub region: Option<String>,
    /// Versioning is or was on: [`Overwrite::Forbidden`] is not enforced there.
    pub versioned: bool,
    pub hierarchical: bool,
}

/// A bucket. See the module's documentation for what every implementation promises.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// For messages: `oss://bucket`, `file:///folder`.
    fn name(&self) -> String;

    /// # Errors
    /// [`Error::NotFound`].
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta>;

    /// The object from `range.start` on, cut at `range.end` and at the object's end; the whole object
    /// without a range.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`] if the object's tag is not `if_match`;
    /// [`Error::InvalidRange`] if the range begins at or after the object's end.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer>;

    /// # Errors
    /// [`Error::AlreadyExists`] with [`Overwrite::Forbidden`].
    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer>;

    /// Deleting what does not exist is no error.
    async fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// At most 1000 keys. Returns those that could not be deleted, with the reason.
    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>>;

    /// One request; the service takes sources below 1 GB. Tags go along. Onto itself it changes the
    /// headers only, and the tag stays.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`] if the source's tag is not `source_etag`.
    async fn copy(
        &self,
        source: &ObjectKey,
        source_etag: &ETag,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<PutAnswer>;

    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// `headers` become the object's when the upload is completed.
    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId>;

    /// Parts have 100 KiB to 5 GiB, the last one may be smaller; a number sent again replaces the part.
    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart>;

    /// # Errors
    /// [`Error::PreconditionFailed`] if the source's tag is not `source_etag`.
    async fn copy_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        source: &ObjectKey,
        source_etag: &ETag,
        range: ByteRange,
    ) -> Result<UploadedPart>;

    /// `parts` in ascending order. An answer that was lost is found out, not reported as a failure.
    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer>;

    /// An upload that is gone is no error.
    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()>;

    /// Unfinished multipart uploads of keys that begin with `prefix`, all of them.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>>;

    async fn bucket_info(&self) -> Result<BucketInfo>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_the_service_takes() {
        for (key, valid) in [
            ("a", true),
            ("a//b", true),
            (".", true),
            ("", false),
            ("/a", false),
            ("\\a", false),
            (&"x".repeat(1023), true),
            (&"x".repeat(1024), false),
        ] {
            assert_eq!(ObjectKey::new(key).is_ok(), valid, "{key:?}");
        }
    }
}
