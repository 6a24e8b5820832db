//! A guarded mount point: nobody can put files into the bare directory while nothing is mounted on it, where they would
//! stay in plaintext.
//!
//! The directory gets mode 000, which stops everyone but root, and, if root mounts and its file system can do that, the
//! flag that makes it immutable, which stops root too. The next mount lifts both.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// The mode of a directory whose guard was lifted.
const LIFTED: u32 = 0o700;

/// The directory below a mount. Guards it when dropped.
pub(crate) struct Guard {
    /// Opened before the mount, so that it is not the mount's root.
    directory: File,
    path: PathBuf,
}

impl Guard {
    /// # Errors
    /// The directory cannot be opened.
    pub(crate) fn of(mountpoint: &Path) -> io::Result<Guard> {
        Ok(Guard {
            directory: open(mountpoint)?,
            path: mountpoint.to_owned(),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let guarded = self
            .directory
            .set_permissions(Permissions::from_mode(0o000));
        if let Err(error) = guarded {
            let path = self.path.display();
            log::warn!("cannot guard the mount point {path}: {error}");
            return;
        }
        // Not every file system has the flag, and only root may set it.
        if nix::unistd::geteuid().is_root()
            && let Ok(flags) = ioctl_getflags(&self.directory)
            && let Err(error) = ioctl_setflags(&self.directory, flags | IFlags::IMMUTABLE)
        {
            log::debug!("the mount point cannot be made immutable: {error}");
        }
    }
}

/// Lifts the guard of a directory, if it has one.
///
/// # Errors
/// It cannot be lifted.
pub(super) fn lift(mountpoint: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(mountpoint)?.mode() & 0o7777 != 0 {
        return Ok(());
    }
    if nix::unistd::geteuid().is_root() {
        let directory = open(mountpoint)?;
        if let Ok(flags) = ioctl_getflags(&directory)
            && flags.contains(IFlags::IMMUTABLE)
        {
            ioctl_setflags(&directory, flags - IFlags::IMMUTABLE)?;
        }
    }
    std::fs::set_permissions(mountpoint, Permissions::from_mode(LIFTED))
}

fn open(directory: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(directory)
}
