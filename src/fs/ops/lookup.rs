//! Lookup, getattr, readlink: what names and inodes look like to a program.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::filesystem::Filesystem;
use crate::files::attributes::Kind;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::stat::{Lookup, Stat};
use crate::fs::usage::Space;

impl Filesystem {
    /// What a name stands for. A name that is there counts as known to the kernel once more.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Lookup> {
        let start = Instant::now();
        if self.names.is_reserved(parent, name) {
            return Ok(Lookup::Absent(self.settings.metadata_ttl));
        }
        self.resolver.lookup(parent, name, start).await
    }

    /// What an inode is that the kernel has a file handle of, and may have forgotten. It counts as known to the
    /// kernel once more.
    ///
    /// # Errors
    /// [`Error::Stale`] when its name is gone or stands for something else, or nothing is remembered of it.
    pub async fn lookup_inode(self: &Arc<Self>, ino: Ino) -> Result<Stat> {
        if !self.names.lock().recall(ino) {
            return Err(Error::Stale);
        }
        let stat = self.resolver.getattr(ino, Instant::now()).await;
        stat.inspect_err(|_| self.forget(ino, 1))
    }

    /// The directory above one, as [`Filesystem::lookup_inode`].
    pub async fn lookup_parent(self: &Arc<Self>, ino: Ino) -> Result<Stat> {
        let place = self.names.lock().place(ino);
        match place {
            Some((parent, _)) => self.lookup_inode(parent).await,
            None if ino == Ino::ROOT => self.lookup_inode(ino).await,
            None => Err(Error::Stale),
        }
    }

    /// The inode of a call of the kernel's. A directory that was forgotten here, but not there, is known again.
    pub fn recalled(&self, ino: Ino) -> Ino {
        self.names.lock().recall_if_forgotten(ino);
        ino
    }

    pub async fn getattr(self: &Arc<Self>, ino: Ino) -> Result<Stat> {
        let start = Instant::now();
        self.resolver.getattr_traversing(ino, start).await
    }

    pub fn forget(&self, ino: Ino, lookups: u64) {
        self.names.lock().forget(ino, lookups);
    }

    /// A link's target. Programs go on to resolve it, and the names in it are asked of the bucket: what is not
    /// known to be a target is not told to the kernel. What claims to be a link looks like one all the same,
    /// and can be removed.
    ///
    /// # Errors
    /// [`Error::Io`] where the length is that of no target, where the object's key says that it is a file, and
    /// where it does not say, unless [`trust_links`](crate::fs::settings::Settings::trust_links). Nothing of the
    /// content has been fetched then.
    pub async fn readlink(self: &Arc<Self>, ino: Ino) -> Result<Bytes> {
        let stat = self.resolver.getattr(ino, Instant::now()).await?;
        if stat.kind != Kind::Symlink {
            return Err(Error::Invalid);
        }
        if !self.bucket.can_read() {
            return Err(Error::Denied("this mount has no private key"));
        }
        let file = self.open_files.acquire(ino, Instant::now()).await?;
        let content = file.lock().data.base.clone();
        let result = match content {
            Some(content) => self.open_files.link_target(ino, &content).await,
            None => Err(Error::io("the object is no symbolic link")),
        };
        self.writeback.release_held(&file);
        result
    }

    /// The size of the file system, as such a thing can be told of a bucket.
    pub fn space(&self) -> Space {
        self.usage.space()
    }
}
