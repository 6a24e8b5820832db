//! Why content cannot be read.

use crate::encrypted;
use crate::store::error::Error as StoreError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This version is not in the bucket any more: replaced, or deleted.
    #[error("the object has been replaced")]
    Changed,
    /// The object was read whole and its checksum is not the one the service keeps.
    #[error("the object's checksum does not match its content")]
    Corrupt,
    /// The bucket gave fewer bytes than the object has.
    #[error("the object's content ended early")]
    Short,
    /// No memory could be had within the time limit.
    #[error("no memory for the read within the time limit")]
    NoMemory,
    /// The fetch was given up, by the last close or by a panic.
    #[error("the fetch was given up")]
    Cancelled,
    #[error(transparent)]
    Bucket(encrypted::Error),
}

impl From<encrypted::Error> for Error {
    fn from(error: encrypted::Error) -> Error {
        match error {
            encrypted::Error::Store(
                StoreError::PreconditionFailed | StoreError::NotFound | StoreError::InvalidRange,
            ) => Error::Changed,
            error => Error::Bucket(error),
        }
    }
}
