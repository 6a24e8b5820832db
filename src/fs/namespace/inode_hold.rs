//! Inodes that must stay while a request about them is in flight.
//!
//! The kernel may forget an inode, and what is asked ahead may be given up, while a request about that inode is on
//! its way for another caller. Without a hold the inode would be gone when the answer comes, and a name that exists
//! would look as if it did not.

use std::sync::Arc;

use super::inode::Ino;
use super::names::Names;
use super::tree::Namespace;
use crate::fs::error::{Error, Result};

/// Keeps an inode until dropped. Never to be dropped while the namespace is locked.
pub(crate) struct InodeHold {
    names: Arc<Names>,
    ino: Ino,
}

impl Drop for InodeHold {
    fn drop(&mut self) {
        self.names.lock().unpin(self.ino);
    }
}

impl Names {
    /// # Errors
    /// [`Error::Stale`] for an inode that is not known any more: the kernel resolves the path anew.
    pub(crate) fn hold_inode(self: &Arc<Self>, ino: Ino) -> Result<InodeHold> {
        let held = self.hold_in(&mut self.lock(), ino);
        held.ok_or(Error::Stale)
    }

    /// As [`Names::hold_inode`], of the namespace that the caller has locked.
    pub(crate) fn hold_in(
        self: &Arc<Self>,
        namespace: &mut Namespace,
        ino: Ino,
    ) -> Option<InodeHold> {
        namespace.pin(ino).then(|| InodeHold {
            names: self.clone(),
            ino,
        })
    }
}
