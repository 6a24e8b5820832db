//! What a disk says, in the words of a store.

use std::fs::{self, File};
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
            _ => Error::Other(cause),
        }
    }
}

/// Makes the entries of a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file or a folder with files. Nobody refers to it any more, so a failure costs only room.
pub fn discard(path: &Path) {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir_all(path),
        // What POSIX names for unlink() of a directory.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fs::remove_dir_all(path),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

pub fn into_inner<T>(poisoned: std::sync::PoisonError<T>) -> T {
    // Whoever panicked left data that is replaced in one assignment, or re-read from the disk.
    poisoned.into_inner()
}
