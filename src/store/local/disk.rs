//! What a disk says, in the words of a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::error::Error;

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

pub fn into_inner<T>(poisoned: std::sync::PoisonError<T>) -> T {
    // Whoever panicked left data that is replaced in one assignment, or re-read from the disk.
    poisoned.into_inner()
}
