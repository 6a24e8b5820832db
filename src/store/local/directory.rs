//! Directories held by descriptor, whose entries are reached without leaving them.
//!
//! A bucket folder can be synchronised, shared or restored from somewhere else: its entries come from outside.
//! A symbolic link where the store expects a folder or a file must not make it read, truncate or delete
//! something elsewhere. So nothing below the bucket folder is reached by a path of the process: every call
//! starts at a descriptor, refuses symbolic links in every component, and opens regular files only.
//!
//! Where the kernel has openat2() it resolves a relative path in one call (`RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`); before Linux 5.6, or where a sandbox forbids it, the components are opened one by
//! one with `O_NOFOLLOW`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// Cheap to clone; the clones share one descriptor.
#[derive(Clone, Debug)]
pub struct Directory {
    descriptor: Arc<OwnedFd>,
    /// For messages only.
    path: Arc<Path>,
}

/// An entry as it is, not what it may point to.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub is_file: bool,
    pub is_directory: bool,
    /// In bytes.
    pub len: u64,
    pub modified: SystemTime,
    /// The file's number in its file system.
    pub inode: u64,
}

/// Why an entry is not used. The kind of such an error is [`io::ErrorKind::InvalidData`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    #[error("a symbolic link, which a bucket folder never has")]
    Link,
    #[error("not a regular file")]
    NotAFile,
    #[error("not a folder")]
    NotADirectory,
}

impl From<Foreign> for io::Error {
    fn from(foreign: Foreign) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, foreign)
    }
}

/// Set once the kernel has said that it has no openat2().
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// How often a resolution is repeated that a rename elsewhere disturbed.
const DISTURBED: usize = 16;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

impl Directory {
    /// Follows symbolic links: `path` is the user's own word.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let descriptor = nix::fcntl::open(path, DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Directory {
            descriptor: Arc::new(descriptor),
            path: path.into(),
        })
    }

    /// For messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// `path` is relative and may have several components.
    pub fn directory(&self, path: &str) -> io::Result<Directory> {
        let descriptor = self.resolve(path, DIRECTORY, Mode::empty())?;
        Ok(Directory {
            descriptor: Arc::new(descriptor),
            path: self.path.join(path).into(),
        })
    }

    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`].
    pub fn create_directory(&self, name: &str) -> io::Result<()> {
        Ok(mkdirat(
            &self.descriptor,
            single(name)?,
            Mode::from_bits_truncate(0o777),
        )?)
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, path: &str) -> io::Result<File> {
        self.open_regular(path, OFlag::O_RDONLY)
    }

    /// A new file, for reading and writing.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], whatever is there.
    pub fn create_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(self.resolve(path, flags, FILE_MODE)?.into())
    }

    /// At most `limit` bytes of a regular file.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] for a longer one.
    pub fn read(&self, path: &str, limit: u64) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let file = self.open_file(path)?;
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    pub fn entry(&self, name: &str) -> io::Result<Entry> {
        let found = fstatat(
            &self.descriptor,
            single(name)?,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let is = |kind: nix::libc::mode_t| found.st_mode & nix::libc::S_IFMT == kind;
        let since = Duration::new(
            u64::try_from(found.st_mtime).unwrap_or(0),
            u32::try_from(found.st_mtime_nsec).unwrap_or(0),
        );
        Ok(Entry {
            is_file: is(nix::libc::S_IFREG),
            is_directory: is(nix::libc::S_IFDIR),
            len: u64::try_from(found.st_size).unwrap_or(0),
            modified: UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH),
            inode: found.st_ino,
        })
    }

    /// The names of the entries, in no order.
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
        // A descriptor of its own: the position in a directory belongs to it.
        let flags = DIRECTORY | OFlag::O_CLOEXEC;
        let entries = Dir::openat(&self.descriptor, ".", flags, Mode::empty())?;
        Ok(entries.into_iter().filter_map(|entry| match entry {
            Ok(entry) => {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                (name != "." && name != "..").then(|| Ok(name.to_owned()))
            }
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// Replaces what has the new name, unless that is a directory.
    pub fn rename(&self, name: &str, to: &Directory, new_name: &str) -> io::Result<()> {
        let (name, new_name) = (single(name)?, single(new_name)?);
        Ok(renameat(&self.descriptor, name, &to.descriptor, new_name)?)
    }

    /// A hard link to the entry itself, also where that is a symbolic link.
    pub fn link(&self, name: &str, to: &Directory, new_name: &str) -> io::Result<()> {
        let (name, new_name) = (single(name)?, single(new_name)?);
        let none = AtFlags::empty();
        Ok(linkat(
            &self.descriptor,
            name,
            &to.descriptor,
            new_name,
            none,
        )?)
    }

    /// Never a directory; a symbolic link goes itself.
    pub fn remove_file(&self, name: &str) -> io::Result<()> {
        let flag = UnlinkatFlags::NoRemoveDir;
        Ok(unlinkat(&self.descriptor, single(name)?, flag)?)
    }

    /// Only an empty one.
    pub fn remove_directory(&self, name: &str) -> io::Result<()> {
        let flag = UnlinkatFlags::RemoveDir;
        Ok(unlinkat(&self.descriptor, single(name)?, flag)?)
    }

    /// Makes the entries durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.descriptor)?)
    }

    /// Waits until no other holder has the directory's lock; it is let go when the file is dropped. Entries can
    /// be reached without it.
    pub fn lock(&self) -> io::Result<File> {
        // A descriptor of its own: a lock belongs to it.
        let flags = DIRECTORY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.descriptor, ".", flags, Mode::empty())?);
        file.lock()?;
        Ok(file)
    }

    /// Whether both are one directory.
    pub fn is_same(&self, other: &Directory) -> io::Result<bool> {
        let (this, other) = (fstat(&self.descriptor)?, fstat(&other.descriptor)?);
        Ok((this.st_dev, this.st_ino) == (other.st_dev, other.st_ino))
    }

    fn open_regular(&self, path: &str, flags: OFlag) -> io::Result<File> {
        // A named pipe without a writer must not stop the open; on regular files the flag has no effect.
        let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let descriptor = self.resolve(path, flags, FILE_MODE)?;
        let FileStat { st_mode, .. } = fstat(&descriptor)?;
        if st_mode & nix::libc::S_IFMT != nix::libc::S_IFREG {
            return Err(Foreign::NotAFile.into());
        }
        Ok(descriptor.into())
    }

    fn resolve(&self, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let mode = match flags.contains(OFlag::O_CREAT) {
            true => mode,
            false => Mode::empty(),
        };
        for component in path.split('/') {
            single(component)?;
        }
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            let how = OpenHow::new()
                // Without O_NOFOLLOW, which would call a link to a directory no directory.
                .flags(flags | OFlag::O_CLOEXEC)
                .mode(mode)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
            for _ in 0..DISTURBED {
                match openat2(&self.descriptor, path, how) {
                    Err(Errno::EAGAIN) => continue,
                    Err(Errno::ENOSYS) => {
                        NO_OPENAT2.store(true, Ordering::Relaxed);
                        break;
                    }
                    // What some sandboxes say of calls they do not know.
                    Err(Errno::EPERM) => break,
                    opened => return opened.map_err(explained),
                }
            }
        }
        self.resolve_by_steps(path, flags, mode)
    }

    /// What openat2() does, for kernels without it.
    fn resolve_by_steps(&self, path: &str, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let guard = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some((component, behind)) = rest.split_once('/') {
            let through = OFlag::O_PATH | OFlag::O_DIRECTORY | guard;
            let from = at.as_ref().map_or(self.descriptor.as_fd(), AsFd::as_fd);
            let next = openat(from, component, through, Mode::empty())
                .map_err(|e| self.explained_by_entry(from, component, e))?;
            at = Some(next);
            rest = behind;
        }
        let from = at.as_ref().map_or(self.descriptor.as_fd(), AsFd::as_fd);
        openat(from, rest, flags | guard, mode)
            .map_err(|errno| self.explained_by_entry(from, rest, errno))
    }

    /// `O_DIRECTORY` with `O_NOFOLLOW` says of a symbolic link that it is no directory.
    fn explained_by_entry(&self, from: impl AsFd, name: &str, errno: Errno) -> io::Error {
        let is_link = errno == Errno::ENOTDIR
            && fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|found| found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFLNK);
        explained(if is_link { Errno::ELOOP } else { errno })
    }
}

const FILE_MODE: Mode = Mode::from_bits_truncate(0o666);

fn explained(errno: Errno) -> io::Error {
    match errno {
        Errno::ELOOP | Errno::EXDEV => Foreign::Link.into(),
        Errno::ENOTDIR => Foreign::NotADirectory.into(),
        // A socket, or a device without a driver.
        Errno::ENXIO | Errno::ENODEV | Errno::EISDIR => Foreign::NotAFile.into(),
        errno => errno.into(),
    }
}

/// A name that stands for an entry of the directory and nothing else.
fn single(name: &str) -> io::Result<&str> {
    let valid = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    match valid {
        true => Ok(name),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn foreign<T>(result: io::Result<T>) -> Option<Foreign> {
        result
            .err()?
            .get_ref()
            .and_then(|cause| cause.downcast_ref::<Foreign>())
            .copied()
    }

    /// Both ways of resolving a path refuse the same things, with the same words.
    #[test]
    fn nothing_is_opened_through_a_symbolic_link_or_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("inner")).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/file"), "content").unwrap();
        symlink(outside.path(), at("away")).unwrap();
        symlink(outside.path().join("secret"), at("a/secret")).unwrap();
        symlink("b", at("a/beside")).unwrap();
        symlink("file", at("a/b/alias")).unwrap();
        nix::unistd::mkfifo(&at("a/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let directory = Directory::open(folder.path()).unwrap();

        let cases = [
            ("a/b/file", None),
            ("away/secret", Some(Foreign::Link)),
            ("a/secret", Some(Foreign::Link)),
            ("a/beside/file", Some(Foreign::Link)),
            ("a/b/alias", Some(Foreign::Link)),
            ("a/pipe", Some(Foreign::NotAFile)),
            ("a/b", Some(Foreign::NotAFile)),
            ("a/b/file/x", Some(Foreign::NotADirectory)),
        ];
        for (path, wanted) in cases {
            assert_eq!(foreign(directory.open_file(path)), wanted, "{path}");
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            let stepped = directory
                .resolve_by_steps(path, flags, Mode::empty())
                .map(File::from)
                .and_then(|file| match file.metadata()?.is_file() {
                    true => Ok(file),
                    false => Err(Foreign::NotAFile.into()),
                });
            assert_eq!(foreign(stepped), wanted, "{path}, by steps");
        }
        for (path, wanted) in [
            ("a/b", None),
            ("away", Some(Foreign::Link)),
            ("away/inner", Some(Foreign::Link)),
            ("a/beside", Some(Foreign::Link)),
            ("a/b/file", Some(Foreign::NotADirectory)),
        ] {
            assert_eq!(foreign(directory.directory(path)), wanted, "{path}");
            let stepped = directory.resolve_by_steps(path, DIRECTORY, Mode::empty());
            assert_eq!(foreign(stepped), wanted, "{path}, by steps");
        }
        for path in [
            "..",
            "../x",
            "a/../..",
            "/etc/passwd",
            "a//b",
            ".",
            "",
            "a/b/",
        ] {
            assert!(directory.open_file(path).is_err(), "{path:?}");
            assert!(directory.directory(path).is_err(), "{path:?}");
            assert!(directory.remove_file(path).is_err(), "{path:?}");
            assert!(directory.create_directory(path).is_err(), "{path:?}");
        }
        for path in ["away/new", "a/secret", "a/beside/new"] {
            assert!(directory.create_file(path).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_is_removed_itself_and_a_folder_only_when_empty() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let folder = tempfile::tempdir().unwrap();
        symlink(outside.path(), folder.path().join("away")).unwrap();
        fs::create_dir(folder.path().join("full")).unwrap();
        fs::write(folder.path().join("full/x"), "x").unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        assert!(directory.remove_file("full").is_err());
        assert!(directory.remove_directory("full").is_err());
        assert!(directory.remove_directory("away").is_err());
        directory.remove_file("away").unwrap();
        assert!(folder.path().join("full/x").exists());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn files_move_and_are_shared_between_directories() {
        let folder = tempfile::tempdir().unwrap();
        let root = Directory::open(folder.path()).unwrap();
        root.create_directory("from").unwrap();
        root.create_directory("to").unwrap();
        let (from, to) = (
            root.directory("from").unwrap(),
            root.directory("to").unwrap(),
        );
        root.create_file("from/a")
            .unwrap()
            .write_all(b"abc")
            .unwrap();
        assert_eq!(
            root.create_file("from/a").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        from.link("a", &to, "b").unwrap();
        from.rename("a", &to, "c").unwrap();
        for path in ["to/b", "to/c"] {
            assert_eq!(root.read(path, 3).unwrap(), b"abc");
            assert_eq!(
                root.read(path, 2).unwrap_err().kind(),
                io::ErrorKind::FileTooLarge
            );
        }
        let mut names: Vec<_> = to.names().unwrap().map(Result::unwrap).collect();
        names.sort();
        assert_eq!(names, ["b", "c"]);
        let entry = to.entry("b").unwrap();
        assert!(entry.is_file && entry.len == 3);
        assert!(
            root.is_same(&Directory::open(folder.path()).unwrap())
                .unwrap()
        );
        assert!(!root.is_same(&to).unwrap());
    }
}
