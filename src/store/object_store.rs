//! The one seam of the program: the interface of every bucket.
//!
//! There are two implementations: [`oss`](super::oss) accesses the service, [`local`](super::local) keeps a
//! bucket in a folder. Their common guarantees are stated here and checked by one conformance suite:
//!
//! - an object appears or is replaced as a whole, or not at all;
//! - after a call that changed something has returned, every later call sees the change;
//! - if a precondition does not hold, nothing changes;
//! - every call ends: each wait has a deadline, and dropping the future cancels the call.

#![warn(missing_docs)]

use async_trait::async_trait;

pub use crate::object::answer::*;
pub use crate::object::body::Body;
pub use crate::object::copy::{CopyHeaders, CopyPartRequest, CopyRequest};
use crate::object::error::Error;
pub use crate::object::error::Result;
pub use crate::object::key::ObjectKey;
pub use crate::object::listing::{ListPage, ListRequest, ListedObject};
pub use crate::object::meta::*;
pub use crate::object::upload::{PendingUpload, UploadId, UploadedPart};

/// A bucket. See the module's documentation for the guarantees of every implementation.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// For messages: `oss://bucket`, `file:///folder`.
    fn name(&self) -> String;

    /// The object's headers, size and version.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta>;

    /// The object from `range.start` on, cut at `range.end` and at the object's end; the whole object without
    /// a range.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`] if the object's ETag is not `if_match`;
    /// [`Error::InvalidRange`] if the range begins at or after the object's end.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer>;

    /// Stores an object in one request. The service accepts up to 5 GB.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with [`Overwrite::Forbidden`].
    async fn put(
        &self,
        key: &ObjectKey,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer>;

    /// Deleting a nonexistent object is not an error.
    async fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// At most 1000 keys. Returns those that could not be deleted, with the reason.
    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>>;

    /// One request; the service accepts sources below 1 GB. Object tags are copied too.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::PreconditionFailed`] if the source is another version;
    /// [`Error::AlreadyExists`] with [`Overwrite::Forbidden`].
    async fn copy(&self, request: &CopyRequest) -> Result<PutAnswer>;

    /// One page of a listing, checked: see [`listing`](crate::object::listing).
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// The object gets `headers` when the upload is completed.
    async fn create_multipart(&self, key: &ObjectKey, headers: &ObjectHeaders) -> Result<UploadId>;

    /// Parts have 100 KiB to 5 GiB, the last one may be smaller; sending a number again replaces the part.
    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart>;

    /// As [`ObjectStore::upload_part`], with bytes of an object that the bucket has.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if the source is another version.
    async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart>;

    /// `parts` in ascending order. If the response is lost, the outcome is determined, not reported as a
    /// failure.
    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer>;

    /// A missing upload is not an error.
    async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()>;

    /// All unfinished multipart uploads of keys that begin with `prefix`.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>>;

    /// What does not change while a bucket is mounted.
    async fn bucket_info(&self) -> Result<BucketInfo>;

    /// How much the bucket holds, as it was last counted. None: this store does not count.
    async fn bucket_stat(&self) -> Result<Option<BucketStat>> {
        Ok(None)
    }
}
