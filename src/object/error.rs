//! Errors of a bucket, classified by what callers do about them.

use std::sync::Arc;

use crate::base::error_chain::Cause;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no such object")]
    NotFound,
    #[error("no such bucket: {0}")]
    NoSuchBucket(String),
    #[error("no such multipart upload")]
    NoSuchUpload,
    #[error("the object has been replaced")]
    PreconditionFailed,
    #[error("the object already exists")]
    AlreadyExists,
    #[error("the range begins after the object's end")]
    InvalidRange,
    #[error("not a valid object name: {}", .0.escape_debug())]
    InvalidName(String),
    /// Credentials, a policy, or a suspended account.
    #[error("access denied")]
    AccessDenied(#[source] Cause),
    /// An archived object that must be restored first.
    #[error("the object is archived")]
    Archived(#[source] Cause),
    /// A retention policy keeps the object as it is.
    #[error("the object is immutable")]
    Immutable(#[source] Cause),
    #[error("too large for the service")]
    TooLarge(#[source] Cause),
    /// The service's rules on `client-side-encryption-*` metadata forbid it.
    #[error("refused by the service's rules on client-side encryption")]
    EncryptionRule(#[source] Cause),
    #[error("not supported by the bucket")]
    Unsupported(#[source] Cause),
    /// The limit of the account or the bucket is exhausted.
    #[error("the bucket's quota is exhausted")]
    Quota(#[source] Cause),
    /// No space left where the store keeps its data.
    #[error("no space left in the store")]
    NoSpace(#[source] Cause),
    /// Wrong endpoint, region or clock: nothing will work until the user changes something.
    #[error("misconfigured")]
    Misconfigured(#[source] Cause),
    #[error("timed out")]
    TimedOut(#[source] Cause),
    /// Retried as often and as long as the policy allows.
    #[error("unavailable")]
    Unavailable(#[source] Cause),
    /// A checksum did not match.
    #[error("damaged in transit or in the store")]
    Corrupt(#[source] Cause),
    #[error("unexpected")]
    Other(#[source] Cause),
}

/// The result of every operation of a bucket.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Other(Arc::new(cause))
    }
}
