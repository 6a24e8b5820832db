//! What requests take and answers give, in the protocol's own terms.

use std::collections::BTreeMap;
use std::time::SystemTime;

/// Begins the name of every user metadata header.
pub const META_PREFIX: &str = "x-oss-meta-";
/// Standard headers the service stores with an object, beside `content-type`.
pub const STANDARD_HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];

/// What is stored beside an object's bytes, borrowed for a request.
#[derive(Clone, Copy)]
pub struct HeadersRef<'a> {
    /// Names without [`META_PREFIX`].
    pub user: &'a BTreeMap<String, String>,
    pub content_type: Option<&'a str>,
    /// Of [`STANDARD_HEADERS`].
    pub standard: &'a BTreeMap<String, String>,
    pub storage_class: Option<&'a str>,
}

/// What HEAD and GET tell of an object.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    /// Of the whole object, in bytes.
    pub size: u64,
    /// As sent, quotes included.
    pub etag: String,
    pub last_modified: SystemTime,
    /// Names without [`META_PREFIX`].
    pub user: BTreeMap<String, String>,
    pub content_type: Option<String>,
    /// Of [`STANDARD_HEADERS`].
    pub standard: BTreeMap<String, String>,
    pub storage_class: Option<String>,
    pub crc64: Option<u64>,
    /// The server's clock.
    pub date: SystemTime,
}

/// What a write left behind.
#[derive(Clone, Debug)]
pub struct Stored {
    pub etag: String,
    pub crc64: Option<u64>,
    /// The server's clock.
    pub date: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub struct ListQuery<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    pub start_after: Option<&'a str>,
    pub continuation_token: Option<&'a str>,
    /// 1 to 1000; anything else means 1000.
    pub max_keys: u16,
}

/// An entry of a listing as the answer has it, unchecked.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Decoded; not always UTF-8. Empty if the entry has none.
    pub key: Vec<u8>,
    /// In bytes. None if the entry has none that can be right.
    pub size: Option<u64>,
    pub etag: String,
    pub last_modified: Option<SystemTime>,
    pub storage_class: String,
}

/// A page of a listing as the answer has it: that it is of the prefix that was asked for, in order and behind
/// the page before is for the caller to check.
#[derive(Clone, Debug)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Decoded.
    pub prefixes: Vec<Vec<u8>>,
    /// The continuation token of the page that follows.
    pub next: Option<String>,
    /// The server's clock.
    pub date: SystemTime,
}

/// A part of a multipart upload.
#[derive(Clone, Debug)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u16,
    pub etag: String,
    pub crc64: Option<u64>,
    /// In bytes.
    pub size: u64,
}

/// A multipart upload that was begun.
#[derive(Clone, Debug)]
pub struct Upload {
    pub key: String,
    pub id: String,
    pub initiated: SystemTime,
}

/// What GetBucketInfo tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketDescription {
    /// Without `oss-`.
    pub region: Option<String>,
    /// Versioning is on, or was.
    pub versioned: bool,
    pub hierarchical: bool,
    /// `Standard`, `IA`, ...
    pub storage_class: Option<String>,
}
