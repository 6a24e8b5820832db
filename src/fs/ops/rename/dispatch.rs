//! rename(2): what stands under the two names decides how it is done.

use std::sync::Arc;
use std::time::Instant;

use super::file::FileMove;
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::object_name::Name;
use crate::fs::namespace::tree::Target;
use crate::fs::ops::filesystem::Filesystem;
use crate::store::object_store::Overwrite;

impl Filesystem {
    /// `replace`: whatever stands under the new name gives way, as POSIX has it.
    pub async fn rename(
        self: &Arc<Self>,
        from: (Ino, Name),
        to: (Ino, Name),
        replace: bool,
    ) -> Result<()> {
        self.writable()?;
        let start = Instant::now();
        if self.names.is_reserved(from.0, &from.1) {
            return Err(Error::NotPermitted);
        }
        self.names.check_new_name(to.0, &to.1)?;
        let source = self.resolver.target(from.0, &from.1, start).await?;
        let source = source.ok_or(Error::NotFound)?;
        let mut target = self.resolver.target(to.0, &to.1, start).await?;
        if let (Target::Uncommitted(_), None, false) = (&source, &target, replace) {
            // Its upload, which finds out, may be long in coming.
            self.resolver.confirm_absent(to.0, &to.1, start).await?;
            target = self.resolver.target(to.0, &to.1, start).await?;
        }
        if target.is_some() && !replace {
            return Err(Error::Exists);
        }
        if from == to {
            return Ok(());
        }
        match (&source, &target) {
            (Target::Directory(_), Some(Target::Uncommitted(_) | Target::Object(..))) => {
                return Err(Error::NotDirectory);
            }
            (Target::Uncommitted(_) | Target::Object(..), Some(Target::Directory(_))) => {
                return Err(Error::IsDirectory);
            }
            _ => {}
        }
        if let Target::Directory(ino) = source {
            let replaced = match target {
                Some(Target::Directory(ino)) => Some(ino),
                _ => None,
            };
            self.renames
                .rename_directory(ino, &from, &to, replaced, replace)
                .await?;
        } else {
            let overwrite = match replace {
                true => Overwrite::Allowed,
                false => Overwrite::Forbidden,
            };
            let (from, to) = (&from, &to);
            let path = FileMove {
                from,
                to,
                target,
                overwrite,
            };
            self.renames.rename_file(source, &path).await?;
        }
        let mut namespace = self.names.lock();
        namespace.touch_directory(from.0, now());
        namespace.touch_directory(to.0, now());
        Ok(())
    }
}
