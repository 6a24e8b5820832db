//! Errors of the disk and of the database as errors of a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::database::error::Error as Failure;
use crate::store::error::Error;
use crate::store::object_store::Result;

/// An I/O error with the place where it happened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct DiskError {
    pub path: PathBuf,
    pub what: &'static str,
    #[source]
    pub source: io::Error,
}

/// A message and nothing beneath it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Message(pub String);

pub fn message(text: impl Into<String>) -> Arc<Message> {
    Arc::new(Message(text.into()))
}

/// For `map_err`.
pub fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| {
        let kind = source.kind();
        let cause = Arc::new(DiskError {
            path: path.to_path_buf(),
            what,
            source,
        });
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace(cause),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::AccessDenied(cause)
            }
            io::ErrorKind::FileTooLarge => Error::TooLarge(cause),
            // Not what this store makes: see directory::Foreign.
            io::ErrorKind::InvalidData => Error::Corrupt(cause),
            _ => Error::Other(cause),
        }
    }
}

/// Why a query or a change of the bucket's database failed: an error of a store, which those of SQLite and of the
/// database become by `?`.
#[derive(Debug)]
pub struct QueryError(pub Error);

pub type QueryResult<T> = std::result::Result<T, QueryError>;

impl From<Failure> for QueryError {
    fn from(error: Failure) -> QueryError {
        let cause = Arc::new(error.clone());
        QueryError(match error {
            Failure::Busy => Error::TimedOut(cause),
            Failure::Full(_) => Error::NoSpace(cause),
            Failure::Damaged(_) | Failure::Unsound(_) => Error::Corrupt(cause),
            Failure::TooLarge => Error::TooLarge(cause),
            Failure::Denied(_) => Error::AccessDenied(cause),
            Failure::Irregular(_)
            | Failure::Journal(_)
            | Failure::Foreign
            | Failure::Newer { .. } => Error::Misconfigured(cause),
            Failure::Disk(_) | Failure::Other(_) | Failure::Abandoned => Error::Other(cause),
        })
    }
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> QueryError {
        Failure::from(error).into()
    }
}

impl From<Error> for QueryError {
    fn from(error: Error) -> QueryError {
        QueryError(error)
    }
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Error {
        error.0
    }
}

/// What a task on the blocking pool returned.
pub async fn finished<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|error| Err(Error::other(error)))
}
