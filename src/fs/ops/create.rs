//! mkdir, mknod and symlink: names whose objects are made at once.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::encrypted::Plaintext;
use crate::envelope::format::LONGEST_LINK;
use crate::files::attributes::{Kind, headers_of};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::stat::{Caller, Lookup, Stat};
use crate::fs::namespace::tree::Namespace;
use crate::fs::resolver::object_cache::object_of_ours;
use crate::store::object_store::Overwrite;

impl Filesystem {
    pub async fn mkdir(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        caller: Caller,
    ) -> Result<Stat> {
        let start = self.begin_making(parent, name).await?;
        let _held;
        let ino = {
            let _changing = self.names.begin_change([(parent, name)]);
            let marker_key = |namespace: &Namespace| {
                let key = namespace.child_key(parent, name)?;
                Some(format!("{key}/"))
            };
            let _locked = self
                .names
                .lock_keys_in_time(start, |namespace| {
                    Some(vec![Scope::Key(marker_key(namespace)?)])
                })
                .await?;
            let (key, attributes) = {
                let namespace = self.names.lock();
                let key = marker_key(&namespace).ok_or(Error::Stale)?;
                let attributes =
                    self.resolver
                        .new_attributes(&namespace, parent, Kind::Directory, mode, caller);
                (object_name::object_key(key)?, attributes)
            };
            let marker = self
                .markers
                .put_marker(&key, &attributes, Overwrite::Forbidden)
                .await;
            let marker = self.names.after_change(parent, name, marker)?;
            let mut namespace = self.names.lock();
            namespace.touch_directory(parent, now());
            let now = Instant::now();
            let ino = namespace.made_directory(parent, name, attributes, marker, now);
            _held = self.names.hold_in(&mut namespace, ino);
            ino
        };
        let stat = self.resolver.getattr(ino, start).await?;
        self.resolver.remember(ino);
        Ok(stat)
    }

    pub async fn symlink(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        target: &[u8],
        caller: Caller,
    ) -> Result<Stat> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() as u64 > LONGEST_LINK {
            return Err(Error::NameTooLong);
        }
        let target = bytes::Bytes::copy_from_slice(target);
        self.make_object(parent, name, Kind::Symlink, 0o777, 0, target, caller)
            .await
    }

    /// Special files are empty objects that say what they are. So is a regular file that mknod makes.
    pub async fn mknod(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Stat> {
        let kind = Kind::from_mode(mode).ok_or(Error::Invalid)?;
        if matches!(kind, Kind::Directory | Kind::Symlink) {
            return Err(Error::NotPermitted);
        }
        let content = bytes::Bytes::new();
        self.make_object(parent, name, kind, mode, rdev, content, caller)
            .await
    }

    #[allow(clippy::too_many_arguments)] // what mknod and symlink have together
    async fn make_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        kind: Kind,
        mode: u32,
        rdev: u32,
        content: bytes::Bytes,
        caller: Caller,
    ) -> Result<Stat> {
        let start = self.begin_making(parent, name).await?;
        {
            let _changing = self.names.begin_change([(parent, name)]);
            let _locked = self.names.lock_key_of(parent, name, start).await?;
            let (key, attributes) = {
                let namespace = self.names.lock();
                let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
                let mut attributes = self
                    .resolver
                    .new_attributes(&namespace, parent, kind, mode, caller);
                attributes.rdev = rdev;
                (object_name::object_key(key)?, attributes)
            };
            let size = content.len() as u64;
            let plain = Plaintext::from_bytes(content);
            let headers = headers_of(&attributes);
            let put = self
                .bucket
                .put(&key, &plain, headers, None, Overwrite::Forbidden);
            let uploaded = put.await.map_err(Error::from);
            if uploaded.is_err() {
                self.cache.forget_object(&key);
            }
            let uploaded = self.names.after_change(parent, name, uploaded)?;
            self.cache.remember_upload(&key, &uploaded, Instant::now());
            let etag = uploaded.object.etag.clone();
            let object = object_of_ours(size, etag, uploaded.date, &attributes, false);
            let mut namespace = self.names.lock();
            namespace.published(parent, name, object, Instant::now());
            namespace.touch_directory(parent, now());
        }
        match self.resolver.lookup(parent, name, start).await? {
            Lookup::Present(stat) => Ok(stat),
            Lookup::Absent(_) => Err(Error::NotFound),
        }
    }

    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    async fn begin_making(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Instant> {
        self.writable()?;
        self.names.check_new_name(parent, name)?;
        let start = Instant::now();
        if self.resolver.target(parent, name, start).await?.is_some() {
            return Err(Error::Exists);
        }
        // What is made in a directory may get its group from it.
        self.resolver.getattr(parent, start).await?;
        Ok(start)
    }
}
