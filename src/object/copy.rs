//! Copies made by the service: of an object, and of a part of one.

use super::answer::Overwrite;
use super::key::ObjectKey;
use super::meta::{ByteRange, ETag, ObjectHeaders};
use super::upload::UploadId;

/// The headers of a copy.
#[derive(Clone, Debug)]
pub enum CopyHeaders {
    /// As they are in the source. Not for a copy of an object onto itself.
    Keep,
    /// Exactly these.
    Replace(ObjectHeaders),
}

/// A copy of an object in one request. A copy onto itself changes only the headers, and the ETag stays.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    pub source: ObjectKey,
    /// Only this version is copied.
    pub source_etag: ETag,
    pub destination: ObjectKey,
    pub headers: CopyHeaders,
    pub overwrite: Overwrite,
}

/// A part of an upload whose bytes come from another object.
#[derive(Clone, Debug)]
pub struct CopyPartRequest {
    /// The object that the upload will create.
    pub key: ObjectKey,
    pub upload: UploadId,
    /// 1 to [`MAX_PARTS`](super::upload::MAX_PARTS).
    pub number: u16,
    pub source: ObjectKey,
    /// Only this version is copied.
    pub source_etag: ETag,
    /// Of the source.
    pub range: ByteRange,
}
