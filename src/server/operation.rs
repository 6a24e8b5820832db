//! What can be asked of the service.

use serde::{Deserialize, Serialize};

/// The operations of the service, by the names its documentation has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operation {
    ListBuckets,
    PutBucket,
    DeleteBucket,
    GetBucketInfo,
    GetBucketLocation,
    GetBucketStat,
    /// There are none here; clients that clear a bucket ask.
    ListLiveChannels,
    ListObjects,
    ListObjectsV2,
    /// Each object has one; clients that clear a bucket ask.
    ListObjectVersions,
    ListMultipartUploads,
    DeleteMultipleObjects,
    PutObject,
    CopyObject,
    GetObject,
    HeadObject,
    GetObjectMeta,
    DeleteObject,
    InitiateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    /// What this server does not do.
    Unknown,
}

impl Operation {
    /// The actions that a policy must allow for it. A copy needs the first one for its source.
    pub fn actions(self) -> &'static [&'static str] {
        use Operation::*;
        match self {
            ListBuckets => &["oss:ListBuckets"],
            PutBucket => &["oss:PutBucket"],
            DeleteBucket => &["oss:DeleteBucket"],
            GetBucketInfo => &["oss:GetBucketInfo"],
            GetBucketLocation => &["oss:GetBucketLocation"],
            GetBucketStat => &["oss:GetBucketStat"],
            ListLiveChannels => &["oss:ListLiveChannel"],
            ListObjects | ListObjectsV2 => &["oss:ListObjects"],
            ListObjectVersions => &["oss:ListObjectVersions"],
            ListMultipartUploads => &["oss:ListMultipartUploads"],
            ListParts => &["oss:ListParts"],
            GetObject | HeadObject | GetObjectMeta => &["oss:GetObject"],
            CopyObject | UploadPartCopy => &["oss:GetObject", "oss:PutObject"],
            PutObject | InitiateMultipartUpload | UploadPart | CompleteMultipartUpload => {
                &["oss:PutObject"]
            }
            AbortMultipartUpload => &["oss:AbortMultipartUpload"],
            DeleteObject | DeleteMultipleObjects => &["oss:DeleteObject"],
            Unknown => &[],
        }
    }

    /// Whether it can change what is in a bucket.
    pub fn writes(self) -> bool {
        use Operation::*;
        !matches!(
            self,
            ListBuckets
                | GetBucketInfo
                | GetBucketLocation
                | GetBucketStat
                | ListLiveChannels
                | ListObjects
                | ListObjectsV2
                | ListObjectVersions
                | ListMultipartUploads
                | GetObject
                | HeadObject
                | GetObjectMeta
                | ListParts
                | Unknown
        )
    }
}
