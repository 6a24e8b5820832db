//! docs/semantics.md: Read-only and write-only mounts, and the end of a mount.

use super::*;

// ---- Read-only and write-only mounts ----

/// "With `--read-only`, every change fails with EROFS."
#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    fs::write(mount.path("f"), "x").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    mount.remount(&["--read-only"]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    let before = mount.bucket().keys();
    let call = |call: &dyn Fn(*const libc::c_char) -> i32, name: &str| {
        checked(call(c_path(&mount.path(name)).as_ptr())).map(drop)
    };
    let (attribute, value) = (c"user.a".as_ptr(), b"x".as_ptr().cast());
    for (what, result) in [
        ("create", fs::write(mount.path("new"), "x")),
        ("write", fs::write(mount.path("f"), "y")),
        ("mkdir", fs::create_dir(mount.path("new"))),
        ("symlink", symlink("x", mount.path("new"))),
        ("unlink", fs::remove_file(mount.path("f"))),
        ("rmdir", fs::remove_dir(mount.path("d"))),
        ("rename", fs::rename(mount.path("f"), mount.path("g"))),
        ("link", fs::hard_link(mount.path("f"), mount.path("g"))),
        (
            "mknod",
            call(&|path| unsafe { libc::mkfifo(path, 0o600) }, "new"),
        ),
        (
            "truncate",
            call(&|path| unsafe { libc::truncate(path, 0) }, "f"),
        ),
        (
            "chmod",
            call(&|path| unsafe { libc::chmod(path, 0o600) }, "f"),
        ),
        (
            "chown",
            call(&|path| unsafe { libc::chown(path, 1, 1) }, "f"),
        ),
        (
            "utimes",
            call(&|path| unsafe { libc::utimes(path, std::ptr::null()) }, "f"),
        ),
        (
            "setxattr",
            call(
                &|path| unsafe { libc::setxattr(path, attribute, value, 1, 0) },
                "f",
            ),
        ),
        (
            "removexattr",
            call(&|path| unsafe { libc::removexattr(path, attribute) }, "f"),
        ),
        (
            "chmod of a directory",
            call(&|path| unsafe { libc::chmod(path, 0o700) }, "d"),
        ),
        (
            "chmod of the root",
            call(&|path| unsafe { libc::chmod(path, 0o700) }, ""),
        ),
    ] {
        assert_eq!(errno(result), libc::EROFS, "{what}");
    }
    assert_eq!(mount.bucket().keys(), before);
}

/// "Without a private key, these fail with EACCES: opening for reading, `readlink()`, reading extended
/// attributes if there are any, and opening an existing file for writing without O_TRUNC. Creating,
/// replacing, listing, renaming and deleting work. After an upload, nothing on this machine can decrypt
/// what was written. While a writer still has the file open, its data stays in memory so that writing can
/// continue; no program can read it, and the close discards it."
#[test]
fn a_mount_without_the_private_key_only_writes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    fs::write(mount.path("f"), "text").unwrap();
    symlink("target", mount.path("link")).unwrap();
    let attributed = c_path(&mount.path("f"));
    let (attributed, name) = (attributed.as_ptr(), c"user.a".as_ptr());
    let set = unsafe { libc::setxattr(attributed, name, b"1".as_ptr().cast(), 1, 0) };
    checked(set).unwrap();
    let public = include_str!("../../vectors/keys/rsa2048.pub.spki.pem");
    fs::write(mount.beside("key.pub"), public).unwrap();
    mount.remount(&["--public-key", "key.pub"]);
    assert_eq!(errno(fs::read(mount.path("f"))), libc::EACCES);
    assert_eq!(errno(fs::read_link(mount.path("link"))), libc::EACCES);
    let got = unsafe { libc::getxattr(attributed, name, [0u8; 9].as_mut_ptr().cast(), 9) };
    assert_eq!(errno(checked(got as i32)), libc::EACCES);
    let existing = OpenOptions::new().write(true).open(mount.path("f"));
    assert_eq!(errno(existing), libc::EACCES);
    fs::write(mount.path("new"), "new").unwrap();
    fs::write(mount.path("f"), "replaced").unwrap();
    fs::rename(mount.path("new"), mount.path("new2")).unwrap();
    fs::remove_file(mount.path("link")).unwrap();
    assert_eq!(names(mount.root()), ["f", "new2"]);
    assert_eq!(
        errno(fs::read(mount.path("new2"))),
        libc::EACCES,
        "not even its own"
    );
    // Each of the two closes its inherited descriptor, and so uploads what is there by then.
    shell(
        mount.root(),
        "{ /bin/echo one; /bin/echo two; } > lines; head -c 9M /dev/zero > large",
    );
    let large = OpenOptions::new()
        .write(true)
        .truncate(true)
        .read(true)
        .open(mount.path("large"))
        .unwrap();
    large.write_all_at(&vec![1; 9 << 20], 0).unwrap();
    large.sync_all().unwrap();
    eventually("the kernel drops its pages", || {
        let read = large.read_at(&mut [0; 9], 0);
        read.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    });
    large.write_all_at(b"x", 5 << 20).unwrap();
    large.sync_all().unwrap();
    drop(large);
    mount.remount(&[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"replaced");
    assert_eq!(fs::read(mount.path("new2")).unwrap(), b"new");
    assert_eq!(fs::read(mount.path("lines")).unwrap(), b"one\ntwo\n");
    let mut expected = vec![1; 9 << 20];
    expected[5 << 20] = b'x';
    assert!(fs::read(mount.path("large")).unwrap() == expected);
}

// ---- The end of a mount ----

/// "`SIGTERM`, `SIGINT` and an external unmount upload everything that is pending." "A mount that is in use
/// stays mounted (exit code 15), unless `--lazy` detaches it."
#[test]
fn an_unmount_uploads_what_is_pending() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let file = File::create(mount.path("f")).unwrap();
    file.write_all_at(b"pending", 0).unwrap();
    let (code, message) = mount.try_unmount(&[]);
    assert_eq!(code, Some(15), "{message}");
    assert!(mount.is_mounted());
    file.write_all_at(b"P", 0).unwrap();
    mount.try_unmount(&["--lazy"]);
    assert!(!mount.is_mounted());
    file.write_all_at(b"!", 7).unwrap();
    drop(file);
    let bucket = mount.bucket();
    eventually("it is uploaded", || {
        bucket.keys() == ["f"] && bucket.head("f").size == 8
    });
    mount.start_again(&[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"Pending!");
}
