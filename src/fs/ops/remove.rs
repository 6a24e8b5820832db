//! unlink and rmdir.

use std::sync::Arc;
use std::time::Instant;

use super::filesystem::Filesystem;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::tree::Target;

impl Filesystem {
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let target = self.resolver.target(parent, name, Instant::now()).await?;
        match target.ok_or(Error::NotFound)? {
            Target::Directory(_) => return Err(Error::IsDirectory),
            Target::Uncommitted(ino) => {
                self.delete_object(parent, name, Some(ino)).await?;
                self.writeback.after_removal(ino);
            }
            Target::Object(object, ino) => {
                let key = self.names.lock().child_key(parent, name);
                self.delete_object(parent, name, ino).await?;
                if let Some(Ok(key)) = key.map(object_name::object_key) {
                    self.cache.forget_kept(&key, &object.etag);
                }
                if let Some(ino) = ino {
                    self.writeback.after_removal(ino);
                }
            }
        }
        self.names.lock().touch_directory(parent, now());
        Ok(())
    }

    /// Removes a name and its object; open handles go on reading.
    async fn delete_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        ino: Option<Ino>,
    ) -> Result<()> {
        let _changing = self.names.begin_change([(parent, name)]).and_unlinking(ino);
        let file = ino.and_then(|ino| self.open_files.file_of(ino));
        if let Some(file) = &file {
            self.writeback.orphan(file).await?;
        }
        let result = async {
            // An upload under way ends first. What was to be preserved may have taken its time.
            let begin = Instant::now();
            let _locked = self.names.lock_key_of(parent, name, begin).await?;
            self.markers.keep_directory(parent, name).await?;
            if ino.is_some_and(|ino| !self.open_files.shadows_object(ino)) {
                // The bucket never had it.
                self.names.lock().forget_name(parent, name);
                return Ok(());
            }
            let key = self.names.lock().child_key(parent, name);
            let key = object_name::object_key(key.ok_or(Error::Stale)?)?;
            let deleted = self.bucket.store().delete(&key).await;
            let deleted = deleted.map_err(Error::from);
            self.objects.note_deletion(key.as_str(), &deleted);
            self.cache.forget_object(&key);
            deleted?;
            self.names.lock().removed(parent, name, Instant::now());
            Ok(())
        }
        .await;
        if result.is_err()
            && let Some(file) = &file
        {
            self.writeback.restore(file);
        }
        self.names.after_change(parent, name, result)
    }

    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let start = Instant::now();
        let ino = match self
            .resolver
            .target(parent, name, start)
            .await?
            .ok_or(Error::NotFound)?
        {
            Target::Directory(ino) => ino,
            _ => return Err(Error::NotDirectory),
        };
        let _changing = self.names.begin_change([(parent, name)]);
        let _locked = self
            .names
            .lock_keys_in_time(start, |namespace| {
                Some(vec![Scope::Subtree(namespace.key(ino)?)])
            })
            .await?;
        self.markers.check_empty(ino, start).await?;
        self.markers.keep_directory(parent, name).await?;
        let key = self.names.lock().key(ino).ok_or(Error::Stale)?;
        let key = object_name::object_key(key)?;
        let deleted = self.bucket.store().delete(&key).await;
        let deleted = deleted.map_err(Error::from);
        self.objects.note_deletion(key.as_str(), &deleted);
        self.cache.forget_object(&key);
        self.names.after_change(parent, name, deleted)?;
        let mut namespace = self.names.lock();
        namespace.removed(parent, name, Instant::now());
        namespace.touch_directory(parent, now());
        Ok(())
    }
}
