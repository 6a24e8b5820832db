//! Responses of a bucket, and the conditions of a write.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::error::Result;
use super::meta::{ETag, ObjectMeta};

/// Whether a write may replace an existing object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    Allowed,
    /// `x-oss-forbid-overwrite`: [`AlreadyExists`](super::error::Error::AlreadyExists) if the key is taken.
    /// Buckets that have or had versioning ignore it.
    Forbidden,
}

/// An object's content as it arrives.
pub struct GetAnswer {
    pub meta: ObjectMeta,
    /// The range of the object that the body holds: the requested range, cut at the object's end.
    pub range: Range<u64>,
    /// Ends after `range` is complete; a body that breaks off is resumed or is an error, never truncated.
    pub body: BoxStream<'static, Result<Bytes>>,
}

/// The result of a write.
#[derive(Clone, Debug)]
pub struct PutAnswer {
    pub etag: ETag,
    pub crc64: Option<u64>,
    /// The server's clock in the response, in whole seconds: not earlier than the object's Last-Modified.
    pub date: SystemTime,
}

/// How much a bucket holds, as the service last counted it: that may be hours ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStat {
    /// Of all objects and parts.
    pub bytes: u64,
    pub objects: u64,
}

#[derive(Clone, Debug, Default)]
pub struct BucketInfo {
    pub region: Option<String>,
    /// Versioning is or was enabled: [`Overwrite::Forbidden`] is not enforced there.
    pub versioned: bool,
    pub hierarchical: bool,
}
