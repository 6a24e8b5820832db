//! Multipart uploads.

use std::time::SystemTime;

use super::meta::ETag;

/// The maximum number of parts of an upload, and the greatest part number.
pub const MAX_PARTS: u16 = 10_000;

/// Identifies a multipart upload, together with its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// A part, as `complete_multipart` names it.
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
