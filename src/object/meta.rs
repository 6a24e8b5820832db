//! What there is to say of an object beside its bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

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

/// Headers the service stores with an object, beside `content-type`.
pub const STANDARD_HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

/// What a writer decides about an object beside its bytes, and what a metadata change must send back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// User metadata: names without the `x-oss-meta-` prefix, in lower case.
    pub user: BTreeMap<String, String>,
    pub content_type: Option<String>,
    /// Of [`STANDARD_HEADERS`].
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
