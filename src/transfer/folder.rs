//! Folders of this machine, held by descriptor.
//!
//! What a command reads or writes locally is reached name by name from the folder that the user gave, and no name is
//! followed if it is a symbolic link: keys of a bucket come from outside, and so may links that are in the destination
//! already. A file is written under a temporary name and renamed when it is complete.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use crate::encrypted::Xattrs;
use crate::files::attributes::{Kind, Timestamp};

/// The part of names in mounts that is not the user's: attributes that describe an object.
const OF_MOUNTS: &str = "user.ossvault.";

/// How temporary names begin. What follows is random.
pub(crate) const TEMPORARY: &str = ".ossvault-get-";

/// A file as lstat shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub rdev: u32,
    /// Device and inode.
    pub id: (u64, u64),
}

impl From<nix::sys::stat::FileStat> for Stat {
    fn from(found: nix::sys::stat::FileStat) -> Stat {
        Stat {
            kind: Kind::from_mode(found.st_mode).unwrap_or(Kind::File),
            size: u64::try_from(found.st_size).unwrap_or(0),
            mode: found.st_mode & 0o7777,
            uid: found.st_uid,
            gid: found.st_gid,
            mtime: Timestamp {
                seconds: found.st_mtime,
                nanos: u32::try_from(found.st_mtime_nsec).unwrap_or(0),
            },
            rdev: u32::try_from(found.st_rdev).unwrap_or(0),
            id: (found.st_dev, found.st_ino),
        }
    }
}

/// What a file is given beside its content. None: it stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Folder {
    descriptor: OwnedFd,
    /// For messages.
    path: PathBuf,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

impl Folder {
    /// Follows links: the path is the user's.
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        Ok(Folder {
            descriptor: nix::fcntl::open(path, DIRECTORY, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// ENOTDIR or ELOOP for a link.
    pub(crate) fn child(&self, name: &OsStr) -> io::Result<Folder> {
        let flags = DIRECTORY | OFlag::O_NOFOLLOW;
        Ok(Folder {
            descriptor: openat(&self.descriptor, single(name)?, flags, Mode::empty())?,
            path: self.path.join(name),
        })
    }

    /// Of all entries, in no order.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = Dir::openat(&self.descriptor, ".", DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(fstatat(&self.descriptor, single(name)?, flags)?.into())
    }

    /// Of the folder itself.
    pub(crate) fn stat_self(&self) -> io::Result<Stat> {
        Ok(fstat(&self.descriptor)?.into())
    }

    /// A regular file, for reading.
    pub(crate) fn open_file(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        // A named pipe without a writer must not stop the open; on regular files the flag has no effect.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = openat(&self.descriptor, single(name)?, flags, Mode::empty())?;
        let found = Stat::from(fstat(&file)?);
        match found.kind {
            Kind::File => Ok((file.into(), found)),
            _ => Err(io::Error::other("it is not a regular file any more")),
        }
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(readlinkat(&self.descriptor, single(name)?)?)
    }

    /// A new file that only this user can read.
    pub(crate) fn create(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        Ok(openat(&self.descriptor, single(name)?, flags, mode)?.into())
    }

    pub(crate) fn make_link(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.descriptor, single(name)?)?)
    }

    /// A pipe, a socket or a device.
    pub(crate) fn make_special(&self, kind: Kind, rdev: u32, name: &OsStr) -> io::Result<()> {
        let kind = SFlag::from_bits_truncate(kind.type_bits());
        let mode = Mode::from_bits_truncate(0o600);
        Ok(mknodat(
            &self.descriptor,
            single(name)?,
            kind,
            mode,
            rdev.into(),
        )?)
    }

    /// Until its attributes are known, only this user's.
    pub(crate) fn make_folder(&self, name: &OsStr) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(0o700);
        Ok(mkdirat(&self.descriptor, single(name)?, mode)?)
    }

    /// Replaces what has the new name, unless that is a folder.
    pub(crate) fn rename(&self, name: &OsStr, new_name: &OsStr) -> io::Result<()> {
        let (name, new_name) = (single(name)?, single(new_name)?);
        Ok(renameat(
            &self.descriptor,
            name,
            &self.descriptor,
            new_name,
        )?)
    }

    /// Not a folder; of a link, the link.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        let flag = UnlinkatFlags::NoRemoveDir;
        Ok(unlinkat(&self.descriptor, single(name)?, flag)?)
    }

    /// Only an empty one.
    pub(crate) fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        let flag = UnlinkatFlags::RemoveDir;
        Ok(unlinkat(&self.descriptor, single(name)?, flag)?)
    }

    /// A folder with everything in it; no link is followed. Each folder is read once.
    pub(crate) fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        let opened = |folder: Folder, name: OsString| -> io::Result<_> {
            let names = folder.names()?.into_iter();
            Ok((folder, name, names))
        };
        let mut open = vec![opened(self.child(name)?, name.to_owned())?];
        while let Some((folder, _, names)) = open.last_mut() {
            if let Some(name) = names.next() {
                match folder.stat(&name)?.kind {
                    Kind::Directory => {
                        let below = opened(folder.child(&name)?, name)?;
                        open.push(below);
                    }
                    _ => folder.remove(&name)?,
                }
                continue;
            }
            if let Some((_, name, _)) = open.pop() {
                let parent = open.last().map_or(self, |(parent, ..)| parent);
                parent.remove_folder(&name)?;
            }
        }
        Ok(())
    }

    /// Not of a link. The C library's call that follows no link is refused by some of them, and by kernels before
    /// 6.6 it has to go this way in any case.
    fn set_mode(&self, name: &OsStr, mode: Mode) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let entry = openat(&self.descriptor, name, flags, Mode::empty())?;
        if SFlag::from_bits_truncate(fstat(&entry)?.st_mode & SFlag::S_IFMT.bits())
            == SFlag::S_IFLNK
        {
            return Err(Errno::ELOOP.into());
        }
        let entry = format!("/proc/self/fd/{}", entry.as_raw_fd());
        Ok(fchmodat(
            AT_FDCWD,
            entry.as_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )?)
    }

    /// Sets attributes of an entry itself. Owners are set as far as the system lets this user.
    pub(crate) fn give(&self, name: &OsStr, kind: Kind, given: &Given) -> io::Result<()> {
        let name = single(name)?;
        let (uid, gid) = owners(given);
        if uid.is_some() || gid.is_some() {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            allowed(fchownat(&self.descriptor, name, uid, gid, flags))?;
        }
        if let (Some(mode), true) = (given.mode, kind != Kind::Symlink) {
            self.set_mode(name, Mode::from_bits_truncate(mode))?;
        }
        if let Some(mtime) = given.mtime {
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(
                &self.descriptor,
                name,
                &TimeSpec::UTIME_OMIT,
                &timespec(mtime),
                flags,
            )?;
        }
        Ok(())
    }

    /// As [`give`](Self::give), for the folder itself.
    pub(crate) fn give_self(&self, given: &Given) -> io::Result<()> {
        let (uid, gid) = owners(given);
        if uid.is_some() || gid.is_some() {
            allowed(fchown(&self.descriptor, uid, gid))?;
        }
        if let Some(mode) = given.mode {
            fchmod(&self.descriptor, Mode::from_bits_truncate(mode))?;
        }
        if let Some(mtime) = given.mtime {
            futimens(&self.descriptor, &TimeSpec::UTIME_OMIT, &timespec(mtime))?;
        }
        Ok(())
    }

    /// The folder's own extended attributes.
    pub(crate) fn xattrs(&self) -> io::Result<Xattrs> {
        xattrs_of(&File::from(self.descriptor.try_clone()?))
    }

    pub(crate) fn set_xattrs(&self, xattrs: &Xattrs) -> io::Result<()> {
        set_xattrs_of(&File::from(self.descriptor.try_clone()?), xattrs)
    }
}

/// The user's extended attributes of an open file. A file system without any has none.
///
/// # Errors
/// More than an object can hold.
pub(crate) fn xattrs_of(file: &File) -> io::Result<Xattrs> {
    use xattr::FileExt;
    let mut xattrs = Xattrs::new();
    let names = match file.list_xattr() {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(xattrs),
        names => names?,
    };
    for name in names {
        let Some(text) = name.to_str() else { continue };
        if !Xattrs::is_name(text) || text.starts_with(OF_MOUNTS) {
            continue;
        }
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.set(text, &value).map_err(io::Error::other)?;
        }
    }
    Ok(xattrs)
}

/// Sets these, and removes the others of the user.
pub(crate) fn set_xattrs_of(file: &File, xattrs: &Xattrs) -> io::Result<()> {
    use xattr::FileExt;
    let before = xattrs_of(file)?;
    for (name, value) in xattrs.iter() {
        if before.get(name) != Some(value) {
            file.set_xattr(name, value)?;
        }
    }
    for (name, _) in before.iter() {
        if xattrs.get(name).is_none() {
            file.remove_xattr(name)?;
        }
    }
    Ok(())
}

/// Only root gives files away; a group may be refused.
fn owners(given: &Given) -> (Option<Uid>, Option<Gid>) {
    let uid = given.uid.filter(|_| Uid::effective().is_root());
    (uid.map(Uid::from_raw), given.gid.map(Gid::from_raw))
}

fn allowed(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::EPERM | Errno::EINVAL) if !Uid::effective().is_root() => Ok(()),
        result => Ok(result?),
    }
}

fn timespec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanos.into())
}

/// A name that stands for an entry of the folder and nothing else.
fn single(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    let valid =
        !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|b| matches!(b, b'/' | 0));
    match valid {
        true => Ok(name),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        symlink(outside.path(), folder.path().join("away")).unwrap();
        symlink(outside.path().join("secret"), folder.path().join("link")).unwrap();
        let open = Folder::open(folder.path()).unwrap();
        assert!(open.child("away".as_ref()).is_err());
        assert!(open.open_file("link".as_ref()).is_err());
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            let name = OsStr::new(name);
            assert!(open.child(name).is_err(), "{name:?}");
            assert!(open.create(name).is_err(), "{name:?}");
            assert!(open.remove(name).is_err(), "{name:?}");
            assert!(open.make_folder(name).is_err(), "{name:?}");
            assert!(open.make_link("x".as_ref(), name).is_err(), "{name:?}");
        }
        let given = Given {
            mtime: Some(Timestamp {
                seconds: 1,
                nanos: 2,
            }),
            ..Given::default()
        };
        open.give("link".as_ref(), Kind::Symlink, &given).unwrap();
        let secret = fs::metadata(outside.path().join("secret")).unwrap();
        assert_ne!(
            Timestamp::from_system(secret.modified().unwrap()),
            given.mtime.unwrap()
        );
    }

    #[test]
    fn a_tree_is_removed_and_what_its_links_lead_to_is_not() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir_all(at("a/d")).unwrap();
        fs::write(at("a/b/c/file"), "x").unwrap();
        symlink(outside.path(), at("a/b/away")).unwrap();
        let open = Folder::open(folder.path()).unwrap();
        open.remove_tree("a".as_ref()).unwrap();
        assert!(open.names().unwrap().is_empty());
        assert!(outside.path().join("kept").exists());
    }
}
