//! What can go wrong with staged bytes.

use std::io;
use std::sync::Arc;

use crate::store;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Neither memory nor the cache directory has room: the directory's size limit is reached, or
    /// its disk is full.
    #[error("no room left for staged bytes in memory and in the cache directory")]
    NoSpace,
    /// What was read back from the cache directory is not what was written there.
    #[error("staged bytes on disk are damaged")]
    Damaged,
    #[error("no memory became free in time")]
    TimedOut,
    #[error("reading or writing the cache directory failed")]
    Io(#[source] Arc<io::Error>),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Error::NoSpace,
            _ => Error::Io(Arc::new(error)),
        }
    }
}

/// For the streams of snapshots, which the store's uploads read.
impl From<Error> for store::error::Error {
    fn from(error: Error) -> store::error::Error {
        match error {
            Error::NoSpace => store::error::Error::NoSpace(Arc::new(error)),
            Error::Damaged => store::error::Error::Corrupt(Arc::new(error)),
            Error::TimedOut => store::error::Error::TimedOut(Arc::new(error)),
            Error::Io(_) => store::error::Error::Other(Arc::new(error)),
        }
    }
}
