//! Files on this machine that a command over a bucket also reads or writes. Their errors end the command, and
//! must not be mistaken for errors of the bucket.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error_chain::Cause;
use crate::store::error::Error as StoreError;
use crate::text;

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", text::path(path))]
pub struct LocalFileError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl LocalFileError {
    pub fn reading(path: &Path, source: io::Error) -> LocalFileError {
        LocalFileError {
            verb: "read",
            path: path.to_owned(),
            source,
        }
    }

    pub fn writing(path: &Path, source: io::Error) -> LocalFileError {
        LocalFileError {
            verb: "write",
            path: path.to_owned(),
            source,
        }
    }

    /// The local file error that caused a run's error, if any.
    pub fn in_chain<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a LocalFileError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            if let Some(shared) = error.downcast_ref::<Cause>()
                && let Some(found) = shared.downcast_ref()
            {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// As an error of a run, one that ends the run.
impl From<LocalFileError> for StoreError {
    fn from(error: LocalFileError) -> StoreError {
        StoreError::NoSpace(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_be_found_in_the_error_of_a_run() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = StoreError::from(LocalFileError::writing(Path::new("env.out"), full));
        let found = LocalFileError::in_chain(&error).unwrap();
        assert_eq!(found.to_string(), "cannot write env.out");
        assert!(LocalFileError::in_chain(&StoreError::NotFound).is_none());
        let other = StoreError::other(io::Error::other("x"));
        assert!(LocalFileError::in_chain(&other).is_none());
    }
}
