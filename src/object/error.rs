//! What can go wrong in a bucket, in the words its callers act on.

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
    #[error("the object exists already")]
    AlreadyExists,
    #[error("the range begins after the object's end")]
    InvalidRange,
    #[error("not a possible object name: {}", .0.escape_debug())]
    InvalidName(String),
    /// Credentials, policy, an account that is locked.
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
    /// What the account or the bucket may hold is used up.
    #[error("the bucket's quota is used up")]
    Quota(#[source] Cause),
    /// No room left where the store keeps its data.
    #[error("no space left in the store")]
    NoSpace(#[source] Cause),
    /// Wrong endpoint, region or clock: nothing will work until the user changes something.
    #[error("misconfigured")]
    Misconfigured(#[source] Cause),
    #[error("timed out")]
    TimedOut(#[source] Cause),
    /// Tried as often and as long as the policy allows.
    #[error("unavailable")]
    Unavailable(#[source] Cause),
    /// A checksum did not match.
    #[error("damaged in transit or in the store")]
    Corrupt(#[source] Cause),
    #[error("unexpected")]
    Other(#[source] Cause),
}

/// Of everything that a bucket does.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Other(Arc::new(cause))
    }
}
