//! Modes, owners, times, links, special files, extended attributes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use ossvault::server::operation::Operation;

use super::Attributes;
use crate::fixture::*;

#[test]
fn attributes_survive_a_remount() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let time = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
    let old = time(1_000_000_000, 123_456_789);
    fs::write(mount.path("f"), "x").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    for name in ["f", "d"] {
        let path = mount.path(name);
        set_mode(&path, 0o1751);
        if is_root() {
            chown(&path, Some(1234), Some(5678)).unwrap();
        }
        let times = fs::FileTimes::new()
            .set_modified(old)
            .set_accessed(time(5, 0));
        File::open(&path).unwrap().set_times(times).unwrap();
    }
    // In the future, before the epoch: the limits of a Timestamp.
    fs::write(mount.path("future"), "x").unwrap();
    let future = fs::FileTimes::new().set_modified(time(1 << 34, 1));
    File::open(mount.path("future"))
        .unwrap()
        .set_times(future)
        .unwrap();
    mount.remount(&[]);
    for name in ["f", "d"] {
        let meta = fs::metadata(mount.path(name)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o1751, "{name}");
        assert_eq!(meta.modified().unwrap(), old, "{name}");
        assert_eq!(meta.accessed().unwrap(), time(5, 0), "{name}");
        if is_root() {
            assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{name}");
        }
    }
    let future = fs::metadata(mount.path("future")).unwrap();
    assert_eq!(future.modified().unwrap(), time(1 << 34, 1));
}

#[test]
fn changes_update_the_times() {
    let Some(mount) = Mount::new(&[]) else { return };
    fs::create_dir(mount.path("d")).unwrap();
    let times = |name: &str| {
        let meta = fs::metadata(mount.path(name)).unwrap();
        (
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        )
    };
    let pause = || thread::sleep(Duration::from_millis(20));
    let mut before = times("d");
    let mut moved = |what: &str| {
        let after = times("d");
        assert!(after.0 > before.0 && after.1 > before.1, "{what}");
        before = after;
        pause();
    };
    pause();
    fs::write(mount.path("d/f"), "x").unwrap();
    moved("create");
    fs::rename(mount.path("d/f"), mount.path("d/g")).unwrap();
    moved("rename");
    fs::create_dir(mount.path("d/sub")).unwrap();
    moved("mkdir");
    symlink("x", mount.path("d/link")).unwrap();
    moved("symlink");
    fs::remove_file(mount.path("d/link")).unwrap();
    moved("unlink");
    fs::remove_dir(mount.path("d/sub")).unwrap();
    moved("rmdir");

    let created = times("d/g");
    set_mode(&mount.path("d/g"), 0o600);
    let changed = times("d/g");
    assert!(changed.0 == created.0 && changed.1 > created.1, "chmod");
    pause();
    fs::write(mount.path("d/g"), "y").unwrap();
    let written = times("d/g");
    assert!(written.0 > changed.0 && written.1 > changed.1, "write");
    pause();
    fs::read(mount.path("d/g")).unwrap();
    assert_eq!(times("d/g"), written, "read");

    // A previous change in the directory is kept when the directory itself is changed.
    for mode in [0o700, 0o700] {
        let before = times("d");
        pause();
        set_mode(&mount.path("d"), mode);
        let after = times("d");
        assert!(after.0 == before.0 && after.1 > before.1, "chmod {mode:o}");
    }
    for name in ["d", "d/g"] {
        let (path, before) = (mount.path(name), times(name));
        pause();
        Attributes(&path).set("user.a", b"1", 0).unwrap();
        let set = times(name);
        assert!(set.0 == before.0 && set.1 > before.1, "setxattr {name}");
        pause();
        Attributes(&path).remove("user.a").unwrap();
        let removed = times(name);
        assert!(
            removed.0 == before.0 && removed.1 > set.1,
            "removexattr {name}"
        );
    }
}

/// "If a process only inherited a descriptor and changed nothing through it, closing it does not wait."
///
/// Regression: whether a sequentially written file was uploaded once, or also in between, depended on any
/// process that happened to be started in the meantime.
#[test]
fn a_process_that_has_only_inherited_a_descriptor_publishes_nothing() {
    let Some(mount) = Mount::served(&[]) else {
        return;
    };
    let puts = || mount.instruments().counts().of(Operation::PutObject);
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"half").unwrap();
    for _ in 0..3 {
        shell(Path::new("/"), "true");
    }
    assert_eq!(puts(), 0, "nobody who wrote has closed it");
    file.write_all(b" and half").unwrap();
    drop(file);
    assert_eq!(puts(), 1);
    // A process that writes through an inherited descriptor waits like any other.
    shell(mount.root(), "{ /bin/echo one; /bin/echo two; } > g");
    assert_eq!(fs::read(mount.path("g")).unwrap(), b"one\ntwo\n");
    assert_eq!(puts(), 3);
    assert_eq!(mount.bucket().head("g").size, 8);
}

/// "A write, a truncation and a change of owner clear the set-user-ID and set-group-ID bits."
#[test]
fn writing_clears_the_set_id_bits() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let Some(mut mount) = Mount::new(&["--allow-other"]) else {
        return;
    };
    let path = mount.path("f");
    for (what, line) in [
        ("a write", "echo y >> f"),
        ("a truncation", "truncate -s 1 f"),
        ("O_TRUNC", ": > f"),
    ] {
        fs::write(&path, "some text").unwrap();
        set_mode(&path, 0o6777);
        assert_eq!(mode(&path), 0o6777);
        let (done, text) = shell_as(65534, mount.root(), line);
        assert!(done, "{what}: {text}");
        assert_eq!(mode(&path), 0o777, "{what}");
        mount.remount(&["--allow-other"]);
        assert_eq!(mode(&path), 0o777, "{what}, stored");
    }
    for (before, after) in [(0o6777, 0o777), (0o4644, 0o644), (0o2644, 0o2644)] {
        set_mode(&path, before);
        chown(&path, Some(65534), None).unwrap();
        assert_eq!(mode(&path), after, "chown of {before:o}");
    }
}

#[test]
fn the_kernel_checks_permissions() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let Some(mount) = Mount::new(&["--allow-other"]) else {
        return;
    };
    fs::create_dir(mount.path("sticky")).unwrap();
    set_mode(&mount.path("sticky"), 0o1777);
    fs::write(mount.path("sticky/roots"), "x").unwrap();
    fs::write(mount.path("secret"), "x").unwrap();
    set_mode(&mount.path("secret"), 0o600);
    fs::create_dir(mount.path("closed")).unwrap();
    set_mode(&mount.path("closed"), 0o700);
    let nobody = |line: &str| shell_as(65534, mount.root(), line).0;
    assert!(!nobody("cat secret"));
    assert!(!nobody("echo x > secret"));
    assert!(!nobody("echo x > new"));
    assert!(!nobody("ls closed"));
    assert!(!nobody("chmod 777 secret"));
    assert!(!nobody("rm -f sticky/roots"));
    assert!(!nobody("mv sticky/roots sticky/mine"));
    // A file may inherit the group of its directory, even if the directory has just been renamed.
    fs::create_dir(mount.path("group")).unwrap();
    chown(mount.path("group"), None, Some(4242)).unwrap();
    set_mode(&mount.path("group"), 0o2777);
    fs::rename(mount.path("group"), mount.path("grouped")).unwrap();
    fs::write(mount.path("grouped/f"), "x").unwrap();
    fs::create_dir(mount.path("grouped/d")).unwrap();
    symlink("x", mount.path("grouped/link")).unwrap();
    for name in ["f", "d", "link"] {
        let made = fs::symlink_metadata(mount.path("grouped").join(name)).unwrap();
        assert_eq!(made.gid(), 4242, "{name}");
    }
    assert!(nobody(
        "echo x > sticky/own && mv sticky/own sticky/own2 && rm sticky/own2"
    ));
    assert!(nobody(
        "umask 027; echo x > sticky/masked; mkdir sticky/masked.d"
    ));
    assert_eq!(mode(&mount.path("sticky/masked")), 0o640);
    assert_eq!(mode(&mount.path("sticky/masked.d")), 0o750);
    assert_eq!(
        fs::metadata(mount.path("sticky/masked")).unwrap().uid(),
        65534
    );
    // A directory's group is inherited if that is requested.
    fs::create_dir(mount.path("group")).unwrap();
    chown(mount.path("group"), None, Some(4242)).unwrap();
    set_mode(&mount.path("group"), 0o2777);
    assert!(nobody("echo x > group/f; mkdir group/d"));
    assert_eq!(fs::metadata(mount.path("group/f")).unwrap().gid(), 4242);
    let folder = fs::metadata(mount.path("group/d")).unwrap();
    assert_eq!((folder.gid(), folder.mode() & 0o2000), (4242, 0o2000));
}

#[test]
fn links_hold_any_target() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let longest = "t".repeat(4095);
    let targets = ["absent", "/absolute", "../..", "a b\nc", "日本", &longest];
    for (at, target) in targets.iter().enumerate() {
        symlink(target, mount.path(format!("l{at}"))).unwrap();
    }
    for _ in 0..2 {
        for (at, target) in targets.iter().enumerate() {
            let path = mount.path(format!("l{at}"));
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
            let meta = fs::symlink_metadata(&path).unwrap();
            assert!(meta.is_symlink());
            assert_eq!(meta.len() as usize, target.len());
            assert_eq!(meta.mode() & 0o7777, 0o777);
        }
        mount.remount(&[]);
    }
    fs::write(mount.path("target"), "through").unwrap();
    symlink("target", mount.path("link")).unwrap();
    assert_eq!(fs::read(mount.path("link")).unwrap(), b"through");
    fs::rename(mount.path("link"), mount.path("link2")).unwrap();
    assert_eq!(
        fs::read_link(mount.path("link2")).unwrap(),
        Path::new("target")
    );
    symlink("loop", mount.path("loop")).unwrap();
    assert_eq!(errno(fs::read(mount.path("loop"))), libc::ELOOP);
    let nofollow = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(mount.path("link2"));
    assert_eq!(errno(nofollow), libc::ELOOP);
}

/// "FIFOs, sockets and device nodes are empty objects that record their type; as every mount is nodev,
/// opening a device node fails with EACCES."
#[test]
fn special_files_keep_their_type() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let make = |name: &str, mode, device| {
        let path = c_path(&mount.path(name));
        checked(unsafe { libc::mknod(path.as_ptr(), mode, device) })
    };
    make("fifo", libc::S_IFIFO | 0o640, 0).unwrap();
    make("plain", libc::S_IFREG | 0o600, 0).unwrap();
    if is_root() {
        make("char", libc::S_IFCHR | 0o600, libc::makedev(1, 3)).unwrap();
        make("block", libc::S_IFBLK | 0o600, libc::makedev(259, 65_537)).unwrap();
    }
    let listener = UnixListener::bind(mount.path("socket")).unwrap();
    // A FIFO works as one.
    let text = shell(mount.root(), "echo through > fifo & cat fifo; wait");
    assert_eq!(text, "through\n");
    drop(listener);
    mount.remount(&[]);
    let kind = |name: &str| fs::symlink_metadata(mount.path(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert_eq!(kind("fifo").mode() & 0o777, 0o640);
    assert!(kind("socket").file_type().is_socket());
    assert!(kind("plain").file_type().is_file());
    if is_root() {
        assert!(kind("char").file_type().is_char_device());
        assert_eq!(kind("char").rdev(), libc::makedev(1, 3));
        assert!(kind("block").file_type().is_block_device());
        assert_eq!(kind("block").rdev(), libc::makedev(259, 65_537));
        // A device from a bucket can never be used.
        assert_eq!(errno(File::open(mount.path("char"))), libc::EACCES);
    }
    let found: Vec<bool> = fs::read_dir(mount.root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            entry.file_type().unwrap() == kind(entry.file_name().to_str().unwrap()).file_type()
        })
        .collect();
    assert!(found.iter().all(|same| *same));
}

#[test]
fn extended_attributes_go_where_the_file_goes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    fs::write(mount.path("f"), "content").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    for name in ["f", "d"] {
        let path = mount.path(name);
        let on = Attributes(&path);
        on.set("user.one", b"1", 0).unwrap();
        on.set("user.\u{fc}", &[0, 255, 10], 0).unwrap();
        assert_eq!(
            errno(on.set("user.one", b"x", libc::XATTR_CREATE)),
            libc::EEXIST
        );
        assert_eq!(
            errno(on.set("user.no", b"x", libc::XATTR_REPLACE)),
            libc::ENODATA
        );
        assert_eq!(errno(on.get("user.no")), libc::ENODATA, "{name}");
        assert_eq!(errno(on.remove("user.no")), libc::ENODATA);
        assert_eq!(errno(on.set("user.big", &[7; 3000], 0)), libc::ENOSPC);
        if is_root() {
            assert_eq!(errno(on.set("trusted.x", b"x", 0)), libc::EOPNOTSUPP);
            assert_eq!(errno(on.set("security.x", b"x", 0)), libc::EOPNOTSUPP);
        }
        assert_eq!(errno(on.set("user.ossvault.format", b"x", 0)), libc::EPERM);
    }
    // They survive a copy of metadata, a move, and new content.
    set_mode(&mount.path("f"), 0o600);
    fs::rename(mount.path("f"), mount.path("d/g")).unwrap();
    fs::write(mount.path("d/g"), "other content").unwrap();
    fs::rename(mount.path("d"), mount.path("e")).unwrap();
    for _ in 0..2 {
        for name in ["e", "e/g"] {
            let path = mount.path(name);
            let on = Attributes(&path);
            assert_eq!(on.get("user.one").unwrap(), b"1", "{name}");
            assert_eq!(on.get("user.\u{fc}").unwrap(), [0, 255, 10], "{name}");
            let expected = ["user.one", "user.\u{fc}"].map(str::to_owned);
            assert_eq!(on.list(), BTreeSet::from(expected), "{name}");
        }
        mount.remount(&[]);
    }
    let path = mount.path("e/g");
    let on = Attributes(&path);
    assert_eq!(on.get("user.ossvault.format").unwrap(), b"seed");
    assert_eq!(on.get("user.ossvault.encrypted").unwrap(), b"yes");
    assert!(!on.get("user.ossvault.etag").unwrap().is_empty());
    assert_eq!(on.get("user.ossvault.key-id").unwrap().len(), 16);
    on.remove("user.one").unwrap();
    assert_eq!(errno(on.get("user.one")), libc::ENODATA);
    mount.remount(&[]);
    let path = mount.path("e/g");
    assert_eq!(errno(Attributes(&path).get("user.one")), libc::ENODATA);
    assert_eq!(fs::read(&path).unwrap(), b"other content");
}

/// "The link count is 1 for a file, 2 for a directory, and 0 for a file that was unlinked while open." "A
/// bucket has no fixed size; 1 PiB is reported as free."
#[test]
fn sizes_are_reported_as_programs_expect_them() {
    let Some(mount) = Mount::new(&[]) else { return };
    fs::write(mount.path("f"), vec![1; 1000]).unwrap();
    let meta = fs::metadata(mount.path("f")).unwrap();
    assert_eq!((meta.size(), meta.blocks(), meta.nlink()), (1000, 2, 1));
    assert!(meta.blksize() >= 128 << 10);
    assert_eq!(fs::metadata(mount.root()).unwrap().nlink(), 2);
    let path = c_path(mount.root());
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    checked(unsafe { libc::statvfs(path.as_ptr(), &mut space) }).unwrap();
    assert_eq!(space.f_bavail * space.f_frsize, 1 << 50);
    assert!(space.f_favail > 1 << 30);
    assert_eq!(space.f_namemax, 255);
    assert_ne!(space.f_flag & libc::ST_NOSUID, 0);
    assert_ne!(space.f_flag & libc::ST_NODEV, 0);
}
