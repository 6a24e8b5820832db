//! Why one file was not transferred.

use std::io;
use std::path::Path;

use super::entry::finding;
use crate::base::error_chain::chain;
use crate::encrypted;
use crate::store::error::Error as StoreError;
use crate::store::object_store::ListedObject;
use crate::tools::finding::{Finding, Grade};
use crate::tools::local_file::LocalFileError;

#[derive(Debug)]
pub(crate) enum Failure {
    Object(encrypted::Error),
    Reading(io::Error),
    Writing(io::Error),
    /// The user has ended the command.
    Interrupted,
}

impl From<encrypted::Error> for Failure {
    fn from(error: encrypted::Error) -> Failure {
        Failure::Object(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Object(error.into())
    }
}

impl Failure {
    /// As a finding about the file.
    ///
    /// # Errors
    /// An error that does not concern this file alone.
    pub(crate) fn found(self, listed: &ListedObject, local: &Path) -> Result<Finding, StoreError> {
        let bad = |outcome, error: &io::Error| {
            let shown = local.display();
            let found = finding(listed.key.clone(), listed.size, Grade::Bad, outcome);
            found.detail(format!("{shown}: {}", chain(error)))
        };
        match self {
            Failure::Object(encrypted::Error::Abandoned(why)) => {
                let found = finding(listed.key.clone(), listed.size, Grade::Bad, "changed");
                Ok(found.detail(format!("it was changed while it was read: {why}")))
            }
            Failure::Object(error) => Finding::failed(listed, error),
            Failure::Reading(error) => Ok(bad("unreadable", &error)),
            Failure::Writing(error) => match error.raw_os_error() {
                // The next file would fail as well.
                Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS) => {
                    Err(LocalFileError::writing(local, error).into())
                }
                _ => Ok(bad("not-written", &error)),
            },
            Failure::Interrupted => Ok(finding(
                listed.key.clone(),
                listed.size,
                Grade::Left,
                "interrupted",
            )),
        }
    }
}
