//! Attributes as they are shown, with the mount's defaults and overrides, and for how long.

use std::time::{Duration, Instant};

use super::requests::Resolver;
use crate::files::attributes::{Attributes, Kind};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::inode::{Directory, Ino, now};
use crate::fs::namespace::stat::{Caller, Stat};
use crate::fs::namespace::tree::{CachedStat, Namespace};

impl Resolver {
    /// The inode is given to the kernel as an entry.
    pub(crate) fn remember(&self, ino: Ino) {
        let mut namespace = self.names.lock();
        namespace.remember(ino);
        self.names.kernel().forget_surplus(&mut namespace);
    }

    /// What is shown of an inode.
    pub(crate) fn shown(&self, cached: CachedStat) -> Stat {
        let CachedStat {
            ino,
            attributes,
            size,
            checked,
            named,
        } = cached;
        let defaults = &self.settings.defaults;
        let (uid, gid) = if self.settings.show_owner {
            (
                attributes.uid.unwrap_or(defaults.uid),
                attributes.gid.unwrap_or(defaults.gid),
            )
        } else {
            let shown = attributes.gid.filter(|gid| self.groups.contains(gid));
            (defaults.uid, shown.unwrap_or(defaults.gid))
        };
        let overrides = &self.settings.overrides;
        let (uid, gid) = (overrides.uid.unwrap_or(uid), overrides.gid.unwrap_or(gid));
        let mode = attributes.permissions(defaults);
        let mut mode = overrides.permissions(attributes.kind, mode);
        if self.settings.read_only {
            mode &= !0o222;
        }
        let size = match attributes.kind {
            Kind::File | Kind::Symlink => size,
            _ => 0,
        };
        Stat {
            ino,
            kind: attributes.kind,
            size,
            mode,
            uid,
            gid,
            atime: attributes.atime.unwrap_or(attributes.mtime),
            mtime: attributes.mtime,
            ctime: attributes.ctime.unwrap_or(attributes.mtime),
            rdev: attributes.rdev,
            links: match (named, attributes.kind) {
                (false, _) => 0,
                // Subdirectories are not counted: that would take a listing.
                (true, Kind::Directory) => 2,
                (true, _) => 1,
            },
            valid: self.valid(checked),
        }
    }

    /// How long the kernel may count on what was known at `checked`: for less time than this mount does.
    pub(crate) fn valid(&self, checked: Instant) -> Duration {
        /// The answer has to get there, and the kernel counts in ticks, of which it takes one more.
        const MARGIN: Duration = Duration::from_millis(20);
        let ttl = self.settings.metadata_ttl.saturating_sub(MARGIN);
        ttl.saturating_sub(checked.elapsed())
    }

    /// # Errors
    /// [`Error::NotPermitted`] for an owner or a group that would be stored and not shown.
    pub(crate) fn check_shown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let defaults = &self.settings.defaults;
        let hides_uid = uid.is_some_and(|uid| uid != defaults.uid);
        let hides_gid = gid.is_some_and(|gid| gid != defaults.gid && !self.groups.contains(&gid));
        match !self.settings.show_owner && (hides_uid || hides_gid) {
            true => Err(Error::NotPermitted),
            false => Ok(()),
        }
    }

    /// The attributes of something that is made now.
    pub(crate) fn new_attributes(
        &self,
        namespace: &Namespace,
        parent: Ino,
        kind: Kind,
        mode: u32,
        caller: Caller,
    ) -> Attributes {
        let mut gid = caller.gid;
        let mut mode = mode;
        // In a set-group-id directory everything belongs to the directory's group.
        if let Some(directory) = namespace.directory_ref(parent).and_then(Directory::stored)
            && directory.permissions(&self.settings.defaults) & libc::S_ISGID != 0
        {
            gid = directory.gid.unwrap_or(self.settings.defaults.gid);
            if kind == Kind::Directory {
                mode |= libc::S_ISGID;
            }
        }
        Attributes::new(kind, mode, caller.uid, gid, now())
    }
}
