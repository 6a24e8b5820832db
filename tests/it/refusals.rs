//! Calls that a mount refuses: with the errno that POSIX or Linux defines, and without changing anything in
//! the mount or in the bucket.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libc::{c_int, off_t};

use crate::fixture::*;

/// The call, its expected result, and a name for it.
type Refusal<'a> = (&'a str, c_int, Box<dyn Fn() -> io::Result<()> + 'a>);

/// What a mount shows for a name.
#[derive(Debug, PartialEq)]
struct Shown {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    times: [i64; 4],
    /// Or the target.
    content: Vec<u8>,
}

/// Everything that a call could have changed.
#[derive(Debug, PartialEq)]
struct State {
    shown: BTreeMap<String, Shown>,
    /// Keys, ETags and metadata.
    stored: Vec<(String, String, BTreeMap<String, String>)>,
}

impl State {
    fn of(mount: &Mount) -> State {
        let mut shown = BTreeMap::new();
        let mut folders = vec![mount.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for name in names(&folder) {
                let path = folder.join(name);
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = if meta.is_dir() {
                    folders.push(path.clone());
                    Vec::new()
                } else if meta.is_symlink() {
                    fs::read_link(&path)
                        .unwrap()
                        .as_os_str()
                        .as_bytes()
                        .to_vec()
                } else if meta.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                let times = [
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.ctime(),
                    meta.ctime_nsec(),
                ];
                let what = Shown {
                    mode: meta.mode(),
                    owner: (meta.uid(), meta.gid()),
                    size: meta.size(),
                    times,
                    content,
                };
                shown.insert(path.to_str().unwrap().to_owned(), what);
            }
        }
        let bucket = mount.bucket();
        let stored = bucket.keys().into_iter().map(|key| {
            let meta = bucket.head(&key);
            (key, meta.etag.as_str().to_owned(), meta.headers.user)
        });
        State {
            stored: stored.collect(),
            shown,
        }
    }
}

fn done(result: c_int) -> io::Result<()> {
    checked(result).map(drop)
}

fn rename_with(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    let here = libc::AT_FDCWD;
    done(unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) })
}

fn make_node(path: &Path, mode: libc::mode_t, device: libc::dev_t) -> io::Result<()> {
    done(unsafe { libc::mknod(c_path(path).as_ptr(), mode, device) })
}

fn truncate(path: &Path, size: off_t) -> io::Result<()> {
    done(unsafe { libc::truncate(c_path(path).as_ptr(), size) })
}

fn open(path: &Path, flags: c_int) -> io::Result<()> {
    let opened = unsafe { libc::open(c_path(path).as_ptr(), flags, 0o600) };
    let opened = checked(opened)?;
    done(unsafe { libc::close(opened) })
}

fn set_xattr(path: &Path, name: &str, len: usize, flags: c_int) -> io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    let value = vec![7u8; len];
    let value = value.as_ptr().cast();
    done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value, len, flags) })
}

fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })
}

fn get_xattr(path: &Path, name: &str, room: usize) -> io::Result<()> {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    let mut value = vec![0u8; room];
    let value = value.as_mut_ptr().cast();
    let got = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value, room) };
    done(got as c_int)
}

/// "RENAME_EXCHANGE fails with EINVAL." "`fallocate()` extends a file; its other modes fail with
/// EOPNOTSUPP." "`rmdir()` of a directory that is not empty fails with ENOTEMPTY." "Hard links are refused
/// with EPERM: an object has one name." "A path whose key would be longer than 1023 bytes fails with
/// ENAMETOOLONG. A name that is not UTF-8 fails with EILSEQ." "`.ossvault/` under the mount's prefix is
/// reserved: it is hidden, and creating it fails with EPERM." "`user.*` attributes are stored, at most 2 KB
/// of names and values per file (ENOSPC above that)." "Support hard links, RENAME_EXCHANGE, access control
/// lists or quotas." "O_TMPFILE fails with EOPNOTSUPP."
#[test]
fn refused_calls_have_their_errno_and_change_nothing() {
    let Some(mount) = Mount::new(&[]) else { return };
    for folder in ["empty", "full", "full/sub", "own"] {
        fs::create_dir(mount.path(folder)).unwrap();
    }
    for file in ["file", "other", "full/inside"] {
        fs::write(mount.path(file), file).unwrap();
    }
    symlink("file", mount.path("link")).unwrap();
    symlink("loop", mount.path("loop")).unwrap();
    make_node(&mount.path("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
    set_xattr(&mount.path("file"), "user.there", 10, 0).unwrap();
    // Three components of 255 bytes and their slashes leave 255 of 1023.
    let long = "d".repeat(255);
    let deep = mount.path(&long).join(&long).join(&long);
    fs::create_dir_all(deep.join("d".repeat(254))).unwrap();
    mount.bucket().put(".ossvault/something", "of ours");
    // Changes by this mount in the background have been completed.
    thread::sleep(Duration::from_millis(1100));

    let at = |name: &str| mount.path(name);
    let too_deep = deep.join("d".repeat(254)).join("x");
    let too_long = mount.path("n".repeat(256));
    let not_text = mount.path(OsStr::from_bytes(b"not\xffUTF-8"));
    let not_text = not_text.as_path();
    let reserved = at(".ossvault");
    let create = |path: &Path| open(path, libc::O_CREAT | libc::O_WRONLY);
    let write = || OpenOptions::new().read(true).write(true).open(at("file"));
    let fallocate = |mode| {
        let file = write()?;
        done(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, 100) })
    };
    let ioctl = |request, argument: &mut c_int| {
        let file = write()?;
        done(unsafe { libc::ioctl(file.as_raw_fd(), request, argument) })
    };
    let copy = |from: &Path, to: &Path| {
        let (from, to) = (File::open(from)?, OpenOptions::new().write(true).open(to)?);
        let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
        let null = std::ptr::null_mut();
        let copied = unsafe { libc::copy_file_range(from, null, to, null, 10, 1) };
        done(copied as c_int)
    };

    let mut refusals: Vec<Refusal> = Vec::new();
    let mut refuse = |name, errno, call: Box<dyn Fn() -> io::Result<()>>| {
        refusals.push((name, errno, call));
    };
    macro_rules! refused {
        ($($name:literal $errno:ident: $call:expr;)*) => {
            $(refuse($name, libc::$errno, Box::new(|| $call));)*
        };
    }
    refused! {
        "a hard link" EPERM: fs::hard_link(at("file"), at("hard"));
        "a hard link over a file" EEXIST: fs::hard_link(at("file"), at("other"));
        "a hard link to a directory" EPERM: fs::hard_link(at("empty"), at("hard"));

        "rename of what is absent" ENOENT: fs::rename(at("absent"), at("x"));
        "rename below what is absent" ENOENT: fs::rename(at("file"), at("absent/x"));
        "rename below a file" ENOTDIR: fs::rename(at("file"), at("other/x"));
        "rename of a file to a directory" EISDIR: fs::rename(at("file"), at("empty"));
        "rename of a directory to a file" ENOTDIR: fs::rename(at("empty"), at("file"));
        "rename of a directory to a link" ENOTDIR: fs::rename(at("empty"), at("link"));
        "rename to a directory with something" ENOTEMPTY: fs::rename(at("empty"), at("full"));
        "rename into itself" EINVAL: fs::rename(at("full"), at("full/sub/x"));
        "rename to its own parent" ENOTEMPTY: fs::rename(at("full/sub"), at("full"));
        "rename that must not replace" EEXIST:
            rename_with(&at("file"), &at("other"), libc::RENAME_NOREPLACE);
        "rename of a directory that must not replace" EEXIST:
            rename_with(&at("full"), &at("empty"), libc::RENAME_NOREPLACE);
        "RENAME_EXCHANGE" EINVAL: rename_with(&at("file"), &at("other"), libc::RENAME_EXCHANGE);
        "RENAME_WHITEOUT" EINVAL: rename_with(&at("file"), &at("x"), libc::RENAME_WHITEOUT);
        "rename to another file system" EXDEV: fs::rename(at("file"), mount.beside("x"));

        "mkdir of what is there" EEXIST: fs::create_dir(at("file"));
        "mkdir of a link" EEXIST: fs::create_dir(at("link"));
        "mkdir below a file" ENOTDIR: fs::create_dir(at("file/x"));
        "mkdir below what is absent" ENOENT: fs::create_dir(at("absent/x"));
        "symlink of what is there" EEXIST: symlink("x", at("file"));
        "symlink to nothing" ENOENT: symlink("", at("x"));
        "symlink to 4096 bytes" ENAMETOOLONG: symlink("t".repeat(4096), at("x"));
        "mknod of what is there" EEXIST: make_node(&at("file"), libc::S_IFIFO | 0o600, 0);
        "O_EXCL of what is there" EEXIST:
            open(&at("file"), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY);
        "O_EXCL of a link" EEXIST:
            open(&at("link"), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY);

        "rmdir with something in it" ENOTEMPTY: fs::remove_dir(at("full"));
        "rmdir of a file" ENOTDIR: fs::remove_dir(at("file"));
        "rmdir of a link" ENOTDIR: fs::remove_dir(at("link"));
        "rmdir of what is absent" ENOENT: fs::remove_dir(at("absent"));
        "rmdir of the root" EBUSY: fs::remove_dir(at(""));
        "unlink of a directory" EISDIR: done(unsafe { libc::unlink(c_path(&at("empty")).as_ptr()) });
        "unlink of what is absent" ENOENT: fs::remove_file(at("absent"));

        "a name of 256 bytes, made" ENAMETOOLONG: create(&too_long);
        "a name of 256 bytes, looked up" ENAMETOOLONG: fs::metadata(&too_long).map(drop);
        "a key of 1024 bytes, created" ENAMETOOLONG: create(&too_deep);
        "a key of 1024 bytes, mkdir" ENAMETOOLONG: fs::create_dir(&too_deep);
        "a directory whose marker has 1024 bytes" ENAMETOOLONG:
            fs::create_dir(deep.join("e".repeat(255)));
        "a key of 1024 bytes, symlink" ENAMETOOLONG: symlink("x", &too_deep);
        "a key of 1024 bytes, mknod" ENAMETOOLONG: make_node(&too_deep, libc::S_IFIFO | 0o600, 0);
        "a key of 1024 bytes, rename" ENAMETOOLONG: fs::rename(at("file"), &too_deep);
        "a directory whose file would have it" ENAMETOOLONG:
            fs::rename(at("full"), deep.join("d".repeat(254)).join("d".repeat(200)));
        "no UTF-8, created" EILSEQ: create(not_text);
        "no UTF-8, mkdir" EILSEQ: fs::create_dir(not_text);
        "no UTF-8, symlink" EILSEQ: symlink("x", not_text);
        "no UTF-8, mknod" EILSEQ: make_node(not_text, libc::S_IFIFO | 0o600, 0);
        "no UTF-8, rename" EILSEQ: fs::rename(at("file"), not_text);

        "what is reserved, looked up" ENOENT: fs::metadata(&reserved).map(drop);
        "what is reserved, created" EPERM: create(&reserved);
        "what is reserved, mkdir" EPERM: fs::create_dir(&reserved);
        "what is reserved, symlink" EPERM: symlink("x", &reserved);
        "what is reserved, mknod" EPERM: make_node(&reserved, libc::S_IFIFO | 0o600, 0);
        "what is reserved, rename" EPERM: fs::rename(at("file"), &reserved);
        "what is reserved, rename of a directory" EPERM: fs::rename(at("full"), &reserved);

        "O_TMPFILE" EOPNOTSUPP: open(&at("own"), libc::O_TMPFILE | libc::O_WRONLY);
        "a directory for writing" EISDIR: open(&at("empty"), libc::O_WRONLY);
        "a directory, created" EISDIR: create(&at("empty"));
        "a file as a directory" ENOTDIR: open(&at("file"), libc::O_RDONLY | libc::O_DIRECTORY);
        "a link not to be followed" ELOOP: open(&at("link"), libc::O_RDONLY | libc::O_NOFOLLOW);
        "a link to itself" ELOOP: open(&at("loop"), libc::O_RDONLY);
        "what is absent" ENOENT: open(&at("absent"), libc::O_WRONLY);
        "readlink of a file" EINVAL: fs::read_link(at("file")).map(drop);
        "a directory, read" EISDIR: File::open(at("empty"))?.read_at(&mut [0; 10], 0).map(drop);
        "a write without the right" EBADF: File::open(at("file"))?.write_at(b"x", 0).map(drop);
        "a read without the right" EBADF:
            OpenOptions::new().write(true).open(at("file"))?.read_at(&mut [0; 10], 0).map(drop);

        "a write beyond what can be" EFBIG: write()?.write_at(b"x", 1 << 60).map(drop);
        "ftruncate beyond what can be" EFBIG: write()?.set_len(1 << 60);
        "truncate beyond what can be" EFBIG: truncate(&at("file"), 1 << 60);
        "truncate below zero" EINVAL: truncate(&at("file"), -1);
        "truncate of a directory" EISDIR: truncate(&at("empty"), 0);
        "truncate of what is absent" ENOENT: truncate(&at("absent"), 0);
        "fallocate of what stays" EOPNOTSUPP: fallocate(libc::FALLOC_FL_KEEP_SIZE);
        "fallocate of a hole" EOPNOTSUPP:
            fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
        "fallocate of zeros" EOPNOTSUPP: fallocate(libc::FALLOC_FL_ZERO_RANGE);
        "fallocate without a range" EOPNOTSUPP: fallocate(libc::FALLOC_FL_COLLAPSE_RANGE);
        "fallocate in between" EOPNOTSUPP: fallocate(libc::FALLOC_FL_INSERT_RANGE);
        "copy_file_range with flags" EINVAL: copy(&at("file"), &at("other"));

        "trusted.*" EOPNOTSUPP: set_xattr(&at("file"), "trusted.x", 1, 0);
        "security.*" EOPNOTSUPP: set_xattr(&at("file"), "security.x", 1, 0);
        "system.*" EOPNOTSUPP: set_xattr(&at("file"), "system.x", 1, 0);
        "an access control list" EOPNOTSUPP:
            set_xattr(&at("file"), "system.posix_acl_access", 28, 0);
        "a default access control list" EOPNOTSUPP:
            set_xattr(&at("empty"), "system.posix_acl_default", 28, 0);
        "an attribute that is too large" ENOSPC: set_xattr(&at("file"), "user.big", 2100, 0);
        "attributes that are too many" ENOSPC: set_xattr(&at("empty"), "user.big", 3000, 0);
        "a name that is too long" ERANGE:
            set_xattr(&at("file"), &format!("user.{}", "x".repeat(255)), 1, 0);
        "an attribute of ours" EPERM: set_xattr(&at("file"), "user.ossvault.format", 1, 0);
        "an attribute of ours, removed" EPERM: remove_xattr(&at("file"), "user.ossvault.etag");
        "an attribute that is new" EEXIST:
            set_xattr(&at("file"), "user.there", 1, libc::XATTR_CREATE);
        "an attribute that is not there" ENODATA:
            set_xattr(&at("file"), "user.absent", 1, libc::XATTR_REPLACE);
        "an absent attribute, removed" ENODATA: remove_xattr(&at("file"), "user.absent");
        "an absent attribute, read" ENODATA: get_xattr(&at("file"), "user.absent", 100);
        "a small buffer" ERANGE: get_xattr(&at("file"), "user.there", 5);
        "an attribute of a link" EPERM: set_xattr(&at("link"), "user.x", 1, 0);
        "an attribute of a fifo" EPERM: set_xattr(&at("fifo"), "user.x", 1, 0);

        "flags of files" ENOTTY: ioctl(libc::FS_IOC_SETFLAGS, &mut 16);
        "quotas" ENOSYS: {
            const Q_GETINFO: c_int = 0x0080_0005;
            let root = File::open(at(""))?;
            let mut answer = [0u8; 256];
            let command = (Q_GETINFO as u32) << 8;
            let (fd, answer) = (root.as_raw_fd(), answer.as_mut_ptr());
            done(unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, 0, answer) } as c_int)
        };
    }
    if !is_root() {
        refusals.retain(|(name, ..)| *name != "trusted.*");
    }

    let before = State::of(&mount);
    assert!(!before.shown.keys().any(|path| path.contains(".ossvault")));
    let mut wrong = Vec::new();
    for (name, errno, call) in &refusals {
        let expected = io::Error::from_raw_os_error(*errno);
        match call() {
            Ok(()) => wrong.push(format!("{name}: done")),
            Err(error) if error.raw_os_error() == Some(*errno) => {}
            Err(error) => wrong.push(format!("{name}: {error}, not {expected}")),
        }
        let after = State::of(&mount);
        assert!(
            after == before,
            "{name} changed something: {before:#?}\n{after:#?}"
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} refusals", refusals.len());
}
