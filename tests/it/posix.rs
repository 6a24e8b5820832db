//! Cases of POSIX that programs depend on, on a real mount or with the calls that the kernel would make.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ossvault::files::attributes::Change;
use ossvault::fs::error::Error;

use crate::fixture::*;
use crate::other_writers::{block, mounted_with};

/// The names that a descriptor reads, from its current position.
fn read_names(directory: &File, rewind: bool) -> Vec<String> {
    if rewind {
        unsafe { libc::lseek(directory.as_raw_fd(), 0, libc::SEEK_SET) };
    }
    let mut names = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        let fd = directory.as_raw_fd();
        let into = buffer.as_mut_ptr();
        let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, into, buffer.len()) };
        assert!(got >= 0, "{}", io::Error::last_os_error());
        if got == 0 {
            break;
        }
        let mut at = 0;
        while at < got as usize {
            let len = u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]) as usize;
            let name = &buffer[at + 19..at + len];
            let end = name.iter().position(|byte| *byte == 0).unwrap();
            names.push(String::from_utf8(name[..end].to_vec()).unwrap());
            at += len;
        }
    }
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

/// Regression: the first read showed the directory as it was when it was opened.
#[test]
fn a_directory_is_read_as_it_is_at_the_first_read_and_after_rewinding() {
    let Some(mount) = Mount::new(&[]) else { return };
    let other = mount.second(&[]);
    fs::create_dir(mount.path("d")).unwrap();
    let open = || {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_DIRECTORY);
        options.open(mount.path("d")).unwrap()
    };
    let (early, late) = (open(), open());
    for name in ["a", "b", "c"] {
        fs::write(mount.path("d").join(name), name).unwrap();
    }
    assert_eq!(read_names(&early, false), ["a", "b", "c"]);
    fs::write(other.path("d/e"), "e").unwrap();
    fs::remove_file(mount.path("d/b")).unwrap();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(read_names(&late, false), ["a", "c", "e"]);
    assert_eq!(read_names(&early, true), ["a", "c", "e"]);
    assert_eq!(read_names(&late, true), ["a", "c", "e"]);
}

fn access_time(path: &Path) -> (i64, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.atime(), meta.atime_nsec())
}

/// "Reads do not update the access time; nothing does except setting it."
///
/// Regression: it changed along with the change time, if none was stored.
#[test]
fn the_access_time_is_kept_when_something_changes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let (file, directory) = (mount.path("f"), mount.path("d"));
    fs::write(&file, "1").unwrap();
    fs::create_dir(&directory).unwrap();
    let before = [access_time(&file), access_time(&directory)];
    let pause = || thread::sleep(Duration::from_millis(20));
    pause();
    fs::write(&file, "22").unwrap();
    fs::write(directory.join("new"), "x").unwrap();
    assert_eq!([access_time(&file), access_time(&directory)], before);
    pause();
    OpenOptions::new()
        .append(true)
        .open(&file)
        .unwrap()
        .write_all(b"3")
        .unwrap();
    fs::remove_file(directory.join("new")).unwrap();
    OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(2)
        .unwrap();
    shell(
        mount.root(),
        "touch -m f d; chmod 600 f; mv f g; cat g >/dev/null; mv g f",
    );
    assert_eq!([access_time(&file), access_time(&directory)], before);
    mount.remount(&[]);
    assert_eq!([access_time(&file), access_time(&directory)], before);
    shell(mount.root(), "touch -a -d @5 f d");
    assert_eq!([access_time(&file), access_time(&directory)], [(5, 0); 2]);
}

/// "Allocating more than memory and the cache directory can hold together fails with ENOSPC."
///
/// Regression: it was EFBIG, which means too large for a file, not for this mount.
#[test]
fn allocating_more_than_the_available_space_fails_with_no_space() {
    let limits = ["--memory-limit", "64M", "--cache-limit", "256M"];
    let Some(mount) = Mount::new(&limits) else {
        return;
    };
    let path = mount.path("f");
    let file = File::create(&path).unwrap();
    let allocate =
        |offset, len| checked(unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, len) });
    let space = nix::sys::statvfs::statvfs(mount.root()).unwrap();
    let free = (space.blocks_available() * space.fragment_size()) as i64;
    for len in [free, free + 1024, free / 2, 1 << 40, (320 << 20) + 1] {
        assert_eq!(errno(allocate(0, len)), libc::ENOSPC, "{len} bytes");
    }
    assert_eq!(file.metadata().unwrap().len(), 0);
    // More than any object can hold.
    assert_eq!(errno(allocate(1 << 50, 1)), libc::EFBIG);
    allocate(0, 300 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 300 << 20);
    file.set_len(0).unwrap();
}

/// Regression: the FUSE library logged warnings about requests that the adapter did not answer.
#[test]
fn no_request_of_programs_is_logged_as_unsupported() {
    let Some(mount) = Mount::new(&[]) else { return };
    let path = mount.path("f");
    fs::write(&path, "some text").unwrap();
    let mut file = File::open(&path).unwrap();
    let mut poll = [libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN | libc::POLLOUT,
        revents: 0,
    }];
    assert_eq!(unsafe { libc::poll(poll.as_mut_ptr(), 1, 1000) }, 1);
    assert_eq!(poll[0].revents, libc::POLLIN | libc::POLLOUT);
    let seek = |offset, whence| unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    assert_eq!((seek(2, libc::SEEK_DATA), seek(2, libc::SEEK_HOLE)), (2, 9));
    assert_eq!(seek(9, libc::SEEK_DATA), -1);
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), 8);
    let mut block: libc::c_int = 0;
    // FIBMAP
    unsafe { libc::ioctl(file.as_raw_fd(), 1, &mut block) };
    let name = c_path(&path);
    assert_eq!(unsafe { libc::access(name.as_ptr(), libc::R_OK) }, 0);
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_RDLCK as i16;
        checked(libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock)).unwrap();
        checked(libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock)).unwrap();
        libc::syncfs(file.as_raw_fd());
    }
    let log = mount.log();
    assert!(!log.contains("Not Implemented"), "{log}");
}

/// "Access control lists are not supported: reading one fails with ENODATA, setting one with EOPNOTSUPP."
#[test]
fn access_control_lists_are_absent_and_cannot_be_set() {
    let Some(mount) = Mount::new(&[]) else { return };
    fs::write(mount.path("f"), "x").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    for name in ["f", "d"] {
        let path = c_path(&mount.path(name));
        for list in ["system.posix_acl_access", "system.posix_acl_default"] {
            let list = CString::new(list).unwrap();
            let mut value = [0u8; 64];
            let (into, len) = (value.as_mut_ptr().cast(), value.len());
            let got = unsafe { libc::getxattr(path.as_ptr(), list.as_ptr(), into, len) };
            assert_eq!(got, -1);
            assert_eq!(
                io::Error::last_os_error().raw_os_error(),
                Some(libc::ENODATA),
                "{name}"
            );
            // A list of one entry: the owner has all permissions.
            let entry = [2u8, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255];
            let (from, len) = (entry.as_ptr().cast(), entry.len());
            let set = unsafe { libc::setxattr(path.as_ptr(), list.as_ptr(), from, len, 0) };
            assert_eq!(set, -1);
        }
    }
}

/// "In an ordinary user's mount without `--allow-other`, everything belongs to that user, and to the stored
/// group if the user is a member of it; setting an owner or group that would not be shown fails with
/// EPERM."
///
/// Regression: chgrp was accepted, stored and never shown: rsync set it again each time.
#[test]
fn a_group_or_owner_that_is_accepted_is_shown() {
    block(async {
        let (world, kernel) = mounted_with(|world| world.settings.show_owner = false).await;
        kernel.save("f", b"x").await;
        kernel.mkdir("d").await;
        let own = nix::unistd::getegid().as_raw();
        let stranger = 54_321;
        for name in ["f", "d"] {
            let ino = kernel.look(name).await.ino;
            let set = async |uid, gid| {
                let change = Change {
                    uid,
                    gid,
                    ..Change::default()
                };
                kernel.fs.setattr(ino, None, change).await
            };
            for (uid, gid, shown) in [
                (None, Some(own), Some(own)),
                (None, Some(stranger), None),
                (Some(stranger), None, None),
                (Some(stranger), Some(own), None),
                (Some(1000), Some(1000), Some(1000)),
            ] {
                let before = kernel.look(name).await;
                match (set(uid, gid).await, shown) {
                    (Ok(looks), Some(gid)) => assert_eq!((looks.uid, looks.gid), (1000, gid)),
                    (Err(Error::NotPermitted), None) => {}
                    (result, _) => panic!("{uid:?} {gid:?}: {result:?}"),
                }
                if shown.is_none() {
                    assert_eq!(kernel.look(name).await, before);
                }
            }
        }
        drop(world);
    });
}

/// struct file_handle.
#[repr(C)]
#[derive(Clone)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

fn handle_of(path: &Path) -> Handle {
    let mut handle = Handle {
        len: 128,
        kind: 0,
        bytes: [0; 128],
    };
    let mut mount: libc::c_int = 0;
    let path = c_path(path);
    let (at, into) = (libc::AT_FDCWD, &raw mut handle);
    let got = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            at,
            path.as_ptr(),
            into,
            &mut mount,
            0,
        )
    };
    checked(got as libc::c_int).unwrap();
    handle
}

fn open_handle(root: &File, handle: &Handle, flags: libc::c_int) -> io::Result<File> {
    let mut handle = handle.clone();
    let from = &raw mut handle;
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, root.as_raw_fd(), from, flags) };
    let fd = checked(fd as libc::c_int)?;
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// "Files can be opened by handle (`open_by_handle_at()`) until the mount ends, even after the kernel has
/// forgotten them, unless it has forgotten tens of thousands since."
#[test]
fn files_can_be_opened_by_handle_even_after_the_kernel_has_forgotten_them() {
    let Some(mount) = Mount::new(&[]) else { return };
    if !is_root() {
        eprintln!("skipped: only root opens by handle");
        return;
    }
    fs::create_dir_all(mount.path("d/e")).unwrap();
    for name in ["f", "d/g", "d/e/h", "gone", "d/moved"] {
        fs::write(mount.path(name), name).unwrap();
    }
    let handles: Vec<_> = ["f", "d/g", "d/e/h"]
        .map(|name| (name, handle_of(&mount.path(name))))
        .into();
    let directory = handle_of(&mount.path("d/e"));
    let (gone, moved) = (
        handle_of(&mount.path("gone")),
        handle_of(&mount.path("d/moved")),
    );
    fs::remove_file(mount.path("gone")).unwrap();
    fs::rename(mount.path("d/moved"), mount.path("d/e/found")).unwrap();
    let root = File::open(mount.root()).unwrap();
    for round in 0..3 {
        if round > 0 {
            // Unused dentries and inodes.
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        }
        for (name, handle) in &handles {
            let file = open_handle(&root, handle, libc::O_RDWR).unwrap();
            assert_eq!(io::read_to_string(&file).unwrap(), *name);
        }
        let opened = open_handle(&root, &directory, libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        assert_eq!(read_names(&opened, false), ["found", "h"]);
        assert_eq!(
            errno(open_handle(&root, &gone, libc::O_RDONLY)),
            libc::ESTALE
        );
        let file = open_handle(&root, &moved, libc::O_RDONLY).unwrap();
        assert_eq!(io::read_to_string(&file).unwrap(), "d/moved");
    }
    let mut unknown = handle_of(&mount.path("f"));
    unknown.bytes[..8].copy_from_slice(&0x1234_5678_9abc_def0_u64.to_ne_bytes());
    assert_eq!(
        errno(open_handle(&root, &unknown, libc::O_RDONLY)),
        libc::ESTALE
    );
}
