//! The description of an object besides its content.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

/// An entity tag as the service sent it, including the quotes. Opaque: equal ETags mean equal content, though
/// not equal metadata, and nothing else may be concluded from one.
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

/// A half-open range of bytes of the object, never empty.
pub type ByteRange = Range<u64>;

/// Headers that the service stores with an object, besides `content-type`.
pub const STANDARD_HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

/// The headers that a writer chooses for an object, and that a metadata change must send back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// User metadata: names without the `x-oss-meta-` prefix, in lower case.
    pub user: BTreeMap<String, String>,
    pub content_type: Option<String>,
    /// Of [`STANDARD_HEADERS`].
    pub standard: BTreeMap<String, String>,
    pub storage_class: Option<String>,
}

/// The result of HEAD and GET.
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
    /// The server's clock in the response, in whole seconds.
    pub date: SystemTime,
}
