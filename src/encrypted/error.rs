//! Errors of encrypted objects, classified by what a file system does about them.

use std::sync::Arc;

use crate::crypto::ctr::Unopened;
use crate::crypto::xattr;
use crate::envelope;
use crate::envelope::write::NotWritten;
use crate::store;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The key is not available: a mount with only the public key, an object that names another key, or a
    /// PKCS#1 v1.5 envelope after those were disabled.
    #[error("the key for this object is missing")]
    KeyMissing(#[source] envelope::Error),
    /// None of the keys opens it, and it does not name its key.
    #[error("no available key opens this object")]
    WrongKey,
    /// An invalid envelope, encrypted attribute value or content.
    #[error("the object is damaged: {0}")]
    Damaged(Arc<str>),
    #[error("the object is not encrypted")]
    NotEncrypted,
    /// A key management service, an unknown algorithm, or a later version of the format.
    #[error("not supported: {0}")]
    Unsupported(Arc<str>),
    /// The data to be sent differs from what was sent before under the same key, or does not fit the upload:
    /// none of it left this machine. The upload must be abandoned.
    #[error("the upload is abandoned: {0}")]
    Abandoned(&'static str),
    #[error(transparent)]
    Store(#[from] store::error::Error),
}

impl Error {
    pub(super) fn damaged(why: impl ToString) -> Error {
        Error::Damaged(why.to_string().into())
    }
}

impl From<envelope::Error> for Error {
    fn from(error: envelope::Error) -> Error {
        use envelope::Error as E;
        match error {
            E::NoPrivateKey | E::ForeignKey(_) | E::Pkcs1Stopped(_) => Error::KeyMissing(error),
            E::NotOpened => Error::WrongKey,
            E::Kms(_) | E::UnknownWrap(_) | E::UnknownCipher(_) | E::UnknownVersion(_) => {
                Error::Unsupported(error.to_string().into())
            }
            E::Incomplete { .. }
            | E::Malformed { .. }
            | E::WrongContent(_)
            | E::WrongStart
            | E::WrongKind { .. }
            | E::SealMissing => Error::damaged(error),
        }
    }
}

impl From<Unopened> for Error {
    fn from(_: Unopened) -> Error {
        Error::WrongKey
    }
}

impl From<xattr::OpenError> for Error {
    fn from(error: xattr::OpenError) -> Error {
        match error {
            xattr::OpenError::Damaged => Error::damaged(error),
            xattr::OpenError::UnknownVersion => Error::Unsupported(error.to_string().into()),
            xattr::OpenError::NotOpened | xattr::OpenError::Unopened(_) => Error::WrongKey,
        }
    }
}

impl From<NotWritten> for Error {
    fn from(error: NotWritten) -> Error {
        Error::Unsupported(error.to_string().into())
    }
}
