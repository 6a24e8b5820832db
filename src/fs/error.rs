//! What a file system says when it cannot do what was asked.

use std::sync::Arc;

use super::data::{content, staging};
use crate::base::error_chain::Cause;
use crate::encrypted::Error as EncryptedError;
use crate::store::error::Error as StoreError;

pub type Result<T> = std::result::Result<T, Error>;

/// A cause that is in the log already, with the name of the file.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Logged(Cause);

/// What the bucket refused, as programs are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("permission denied: the bucket refused")]
    Denied,
    /// A retention policy, or the service's rules on encrypted objects.
    #[error("operation not permitted: the bucket refused")]
    NotPermitted,
    #[error("no space left where the bucket is kept")]
    NoSpace,
    #[error("the bucket's quota is used up")]
    Quota,
    #[error("too large for the bucket")]
    TooLarge,
    #[error("not supported by the bucket")]
    NotSupported,
}

/// Cloned into every call that waited for the same failed work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("no such file or directory")]
    NotFound,
    #[error("exists already")]
    Exists,
    #[error("not a directory")]
    NotDirectory,
    #[error("is a directory")]
    IsDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("the name is longer than the bucket can hold")]
    NameTooLong,
    #[error("the name is not UTF-8")]
    NotUnicode,
    #[error("invalid argument")]
    Invalid,
    /// Reserved names, hard links, what an object store has no place for.
    #[error("operation not permitted")]
    NotPermitted,
    #[error("permission denied: {0}")]
    Denied(&'static str),
    /// Not for the moment or for want of luck: the bucket says no. The cause says why, with the codes that the
    /// provider's support asks for.
    #[error("{0}")]
    Refused(Refusal, #[source] Cause),
    #[error("mounted read-only")]
    ReadOnly,
    /// The object was replaced while this handle was reading it.
    #[error("the object was replaced by another writer")]
    Stale,
    #[error("no space left for what is staged")]
    NoSpace,
    #[error("too large")]
    TooLarge,
    #[error("not supported")]
    NotSupported,
    #[error("no such attribute")]
    NoAttribute,
    #[error("the caller's buffer is too small")]
    BufferTooSmall,
    #[error("bad file handle")]
    BadHandle,
    #[error("busy")]
    Busy,
    /// A directory with more in it than can be renamed at once: programs move what is in it.
    #[error("more is in the directory than there is memory to rename it")]
    TooMany,
    /// A program that is being run is not changed under it.
    #[error("the program is running")]
    Running,
    #[error("timed out")]
    TimedOut(#[source] Cause),
    /// The object's envelope names a key we do not have, or the mount has no private key.
    #[error("no key for this object")]
    NoKey(#[source] Cause),
    /// The object is wrapped in a way this program does not read.
    #[error("unsupported envelope")]
    UnsupportedEnvelope(#[source] Cause),
    #[error("input/output error")]
    Io(#[source] Cause),
}

/// A change of what `--allow-plaintext` shows. Deleting and renaming it is not one.
pub(crate) const READ_ONLY_PLAIN: Error = Error::Denied("unencrypted objects are served read-only");

impl Error {
    pub fn io(message: impl Into<String>) -> Error {
        Error::Io(Arc::new(std::io::Error::other(message.into())))
    }

    /// The log has it already.
    #[must_use]
    pub fn logged(self) -> Error {
        let logged = |cause| -> Cause { Arc::new(Logged(cause)) };
        match self {
            Error::NoKey(cause) => Error::NoKey(logged(cause)),
            Error::UnsupportedEnvelope(cause) => Error::UnsupportedEnvelope(logged(cause)),
            Error::TimedOut(cause) => Error::TimedOut(logged(cause)),
            Error::Io(cause) => Error::Io(logged(cause)),
            Error::Refused(refusal, cause) => Error::Refused(refusal, logged(cause)),
            other => other,
        }
    }

    pub fn is_logged(&self) -> bool {
        matches!(self, Error::NoKey(cause) | Error::UnsupportedEnvelope(cause) | Error::TimedOut(cause)
            | Error::Io(cause) | Error::Refused(_, cause) if cause.is::<Logged>())
    }

    /// Whether nothing was done. After anything else a request may have had its effect all the same.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Error::Io(_) | Error::TimedOut(_))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::NotFound => Error::NotFound,
            StoreError::AlreadyExists => Error::Exists,
            StoreError::PreconditionFailed => Error::Stale,
            StoreError::InvalidName(_) => Error::Invalid,
            StoreError::AccessDenied(cause) => Error::Refused(Refusal::Denied, cause),
            StoreError::Immutable(cause) | StoreError::EncryptionRule(cause) => {
                Error::Refused(Refusal::NotPermitted, cause)
            }
            StoreError::TooLarge(cause) => Error::Refused(Refusal::TooLarge, cause),
            StoreError::Unsupported(cause) => Error::Refused(Refusal::NotSupported, cause),
            StoreError::NoSpace(cause) => Error::Refused(Refusal::NoSpace, cause),
            StoreError::Quota(cause) => Error::Refused(Refusal::Quota, cause),
            StoreError::TimedOut(cause) => Error::TimedOut(cause),
            StoreError::NoSuchBucket(_)
            | StoreError::NoSuchUpload
            | StoreError::InvalidRange
            | StoreError::Archived(_)
            | StoreError::Misconfigured(_)
            | StoreError::Unavailable(_)
            | StoreError::Corrupt(_)
            | StoreError::Other(_) => Error::Io(Arc::new(error)),
        }
    }
}

impl From<EncryptedError> for Error {
    fn from(error: EncryptedError) -> Error {
        match error {
            EncryptedError::Store(error) => error.into(),
            EncryptedError::KeyMissing(_) => Error::NoKey(Arc::new(error)),
            EncryptedError::Unsupported(_) => Error::UnsupportedEnvelope(Arc::new(error)),
            EncryptedError::WrongKey
            | EncryptedError::Damaged(_)
            | EncryptedError::NotEncrypted
            | EncryptedError::Abandoned(_) => Error::Io(Arc::new(error)),
        }
    }
}

impl From<content::Error> for Error {
    fn from(error: content::Error) -> Error {
        match error {
            content::Error::Changed => Error::Stale,
            content::Error::NoMemory => Error::TimedOut(Arc::new(error)),
            content::Error::Bucket(error) => error.into(),
            content::Error::Corrupt | content::Error::Short | content::Error::Cancelled => {
                Error::Io(Arc::new(error))
            }
        }
    }
}

impl From<staging::Error> for Error {
    fn from(error: staging::Error) -> Error {
        match error {
            staging::Error::NoSpace => Error::NoSpace,
            staging::Error::TimedOut => Error::TimedOut(Arc::new(error)),
            staging::Error::Damaged | staging::Error::Io(_) => Error::Io(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error_chain::chain;

    #[test]
    fn what_the_bucket_refused_keeps_its_cause() {
        let cause = || -> Cause { Arc::new(std::io::Error::other("status 403 Code (request R)")) };
        type Make = fn(Cause) -> StoreError;
        let cases: [(Make, Refusal); 7] = [
            (StoreError::AccessDenied, Refusal::Denied),
            (StoreError::Immutable, Refusal::NotPermitted),
            (StoreError::EncryptionRule, Refusal::NotPermitted),
            (StoreError::TooLarge, Refusal::TooLarge),
            (StoreError::Unsupported, Refusal::NotSupported),
            (StoreError::NoSpace, Refusal::NoSpace),
            (StoreError::Quota, Refusal::Quota),
        ];
        for (make, expected) in cases {
            let error = Error::from(EncryptedError::from(make(cause())));
            assert!(
                matches!(error, Error::Refused(refusal, _) if refusal == expected),
                "{error:?}"
            );
            assert!(error.is_refusal());
            assert!(!error.is_logged() && error.clone().logged().is_logged());
            for error in [error.clone(), error.logged()] {
                let text = chain(&error);
                assert!(text.contains("status 403 Code (request R)"), "{text}");
            }
        }
    }
}
