//! Why a database cannot be opened, or a call failed.

use std::io;
use std::sync::Arc;

use rusqlite::{ErrorCode, ffi};

/// Cheap to clone: one failed commit is the outcome of several calls.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not a regular file")]
    Irregular(String),
    #[error("{0} is a rollback journal, which this program never writes")]
    Journal(String),
    #[error("not a database of this program")]
    Foreign,
    #[error(
        "version {found} of the database is newer than this program, which knows version {known}"
    )]
    Newer { found: i32, known: i32 },
    #[error("another process holds the lock of the database")]
    Busy,
    #[error("no space left for the database")]
    Full(#[source] Arc<rusqlite::Error>),
    #[error("the database is damaged")]
    Damaged(#[source] Arc<rusqlite::Error>),
    #[error("the database is damaged: {0}")]
    Unsound(String),
    #[error("too large for the database")]
    TooLarge,
    #[error("the database cannot be accessed")]
    Denied(#[source] Arc<rusqlite::Error>),
    #[error("the database cannot be opened")]
    Disk(#[source] Arc<io::Error>),
    #[error("the database failed")]
    Other(#[source] Arc<rusqlite::Error>),
    #[error("a change failed before it was committed")]
    Abandoned,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy,
            Some(ErrorCode::DiskFull) => Error::Full(Arc::new(error)),
            Some(ErrorCode::SystemIoFailure) if extended == ffi::SQLITE_IOERR_SHMSIZE => {
                Error::Full(Arc::new(error))
            }
            Some(ErrorCode::DatabaseCorrupt) => Error::Damaged(Arc::new(error)),
            Some(ErrorCode::NotADatabase) => Error::Foreign,
            Some(ErrorCode::TooBig) => Error::TooLarge,
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Error::Denied(Arc::new(error))
            }
            _ => Error::Other(Arc::new(error)),
        }
    }
}
