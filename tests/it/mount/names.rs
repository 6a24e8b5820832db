//! Names, renames, and files that live on without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use super::{SMALL_PARTS, read_write};
use crate::fixture::*;

#[test]
fn odd_names_survive_a_round_trip() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let odd = [
        "new\nline",
        "\u{1}\u{7f}\t",
        "a+b c%20?#&=;:@!$'()*,",
        "trailing.",
        "trailing ",
        " leading",
        "...",
        "back\\slash",
        "quote\"<>|",
        "e\u{301} is not \u{e9}",
        "\u{e9} is not e\u{301}",
        "日本語 🦀",
        "-rf",
        "name_$folder$",
    ];
    for name in odd {
        fs::write(mount.path(name), name).unwrap();
        fs::create_dir(mount.path(format!("{name} d"))).unwrap();
        fs::write(mount.path(format!("{name} d")).join(name), name).unwrap();
    }
    let mut expected: Vec<String> = odd
        .iter()
        .flat_map(|name| [name.to_string(), format!("{name} d")])
        .collect();
    expected.sort();
    for _ in 0..2 {
        assert_eq!(names(mount.root()), expected);
        for name in odd {
            assert_eq!(fs::read_to_string(mount.path(name)).unwrap(), name);
            let inner = mount.path(format!("{name} d"));
            assert_eq!(names(&inner), [name]);
            assert_eq!(fs::read_to_string(inner.join(name)).unwrap(), name);
        }
        mount.remount(&["--metadata-ttl", "0"]);
    }
    for name in odd {
        fs::rename(mount.path(name), mount.path(format!("{name}2"))).unwrap();
        fs::rename(
            mount.path(format!("{name} d")),
            mount.path(format!("{name}3")),
        )
        .unwrap();
        fs::remove_file(mount.path(format!("{name}2"))).unwrap();
        fs::remove_dir_all(mount.path(format!("{name}3"))).unwrap();
    }
    assert!(names(mount.root()).is_empty());
}

/// "A path whose key would be longer than 1023 bytes fails with ENAMETOOLONG. A name that is not UTF-8
/// fails with EILSEQ."
#[test]
fn names_are_as_long_as_keys_can_be() {
    use std::os::unix::ffi::OsStrExt;
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let longest = "n".repeat(255);
    fs::write(mount.path(&longest), "x").unwrap();
    let longer = "n".repeat(256);
    assert_eq!(
        errno(fs::write(mount.path(&longer), "x")),
        libc::ENAMETOOLONG
    );
    // Three components of 255 bytes and their slashes leave 255 of 1023.
    let component = "d".repeat(255);
    let deep = mount.path(&component).join(&component).join(&component);
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("k".repeat(255)), "deep").unwrap();
    fs::create_dir(deep.join("d".repeat(254))).unwrap();
    for (what, result) in [
        (
            "a file",
            fs::write(deep.join("d".repeat(254)).join("x"), ""),
        ),
        ("a directory", fs::create_dir(deep.join("e".repeat(255)))),
        ("a link", symlink("x", deep.join("d".repeat(254)).join("x"))),
        (
            "a new name",
            fs::rename(mount.path(&longest), deep.join("d".repeat(254)).join("x")),
        ),
    ] {
        assert_eq!(errno(result), libc::ENAMETOOLONG, "{what}");
    }
    let wrong = std::ffi::OsStr::from_bytes(b"not\xffUTF-8");
    assert_eq!(errno(fs::write(mount.path(wrong), "x")), libc::EILSEQ);
    assert_eq!(errno(fs::create_dir(mount.path(".ossvault"))), libc::EPERM);
    assert_eq!(errno(fs::write(mount.path(".ossvault"), "x")), libc::EPERM);
    assert_eq!(
        errno(fs::rename(mount.path(&longest), mount.path(".ossvault"))),
        libc::EPERM
    );
    mount.remount(&[]);
    assert_eq!(fs::read(deep.join("k".repeat(255))).unwrap(), b"deep");
    assert_eq!(fs::read(mount.path(&longest)).unwrap(), b"x");
}

fn rename_with(from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<libc::c_int> {
    let (from, to) = (c_path(from), c_path(to));
    checked(unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            flags,
        )
    })
}

/// "Files and whole directories can be renamed; RENAME_NOREPLACE also respects a name that another client
/// has just created. RENAME_EXCHANGE fails with EINVAL."
#[test]
fn renames_follow_posix() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let at = |name: &str| mount.path(name);
    for folder in ["empty", "empty2", "full", "full/sub", "full2"] {
        fs::create_dir(at(folder)).unwrap();
    }
    for file in [
        "file",
        "file2",
        "full/inside",
        "full/sub/deep",
        "full2/inside2",
    ] {
        fs::write(at(file), file).unwrap();
    }
    for (from, to, expected) in [
        ("absent", "x", libc::ENOENT),
        ("file", "absent/x", libc::ENOENT),
        ("file", "file2/x", libc::ENOTDIR),
        ("file", "empty", libc::EISDIR),
        ("empty", "file", libc::ENOTDIR),
        ("empty", "full", libc::ENOTEMPTY),
        ("full", "full2", libc::ENOTEMPTY),
        ("full", "full/sub/x", libc::EINVAL),
        ("full/sub", "full", libc::ENOTEMPTY),
    ] {
        assert_eq!(
            errno(fs::rename(at(from), at(to))),
            expected,
            "{from} to {to}"
        );
    }
    let noreplace = |from, to| rename_with(&at(from), &at(to), libc::RENAME_NOREPLACE);
    assert_eq!(errno(noreplace("file", "file2")), libc::EEXIST);
    assert_eq!(errno(noreplace("empty", "empty2")), libc::EEXIST);
    let exchange = rename_with(&at("file"), &at("file2"), libc::RENAME_EXCHANGE);
    assert_eq!(errno(exchange), libc::EINVAL);
    assert_eq!(errno(fs::hard_link(at("file"), at("hard"))), libc::EPERM);

    // Nothing has changed so far.
    assert_eq!(
        names(mount.root()),
        ["empty", "empty2", "file", "file2", "full", "full2"]
    );
    assert_eq!(fs::read(at("file2")).unwrap(), b"file2");

    fs::rename(at("file"), at("file")).unwrap();
    fs::rename(at("file"), at("file2")).unwrap();
    fs::rename(at("empty"), at("empty2")).unwrap();
    fs::rename(at("full"), at("empty2")).unwrap();
    noreplace("full2", "empty2/sub/full2").unwrap();
    assert_eq!(names(mount.root()), ["empty2", "file2"]);
    mount.remount(&[]);
    let at = |name: &str| mount.path(name);
    assert_eq!(names(mount.root()), ["empty2", "file2"]);
    assert_eq!(names(&at("empty2")), ["inside", "sub"]);
    assert_eq!(names(&at("empty2/sub")), ["deep", "full2"]);
    assert_eq!(
        fs::read(at("empty2/sub/full2/inside2")).unwrap(),
        b"full2/inside2"
    );
    assert_eq!(fs::read(at("file2")).unwrap(), b"file");
    assert_eq!(errno(fs::remove_dir(at("empty2"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(at("file2"))), libc::ENOTDIR);
    let unlinked = checked(unsafe { libc::unlink(c_path(&at("empty2")).as_ptr()) });
    assert_eq!(errno(unlinked), libc::EISDIR);
}

#[test]
fn files_are_renamed_while_they_are_written() {
    for options in [&[][..], SMALL_PARTS] {
        let Some(mut mount) = Mount::new(options) else {
            return;
        };
        fs::create_dir(mount.path("a")).unwrap();
        let mut new = File::create(mount.path("a/new")).unwrap();
        new.write_all(&pattern(700_000, 1)).unwrap();
        fs::write(mount.path("a/old"), pattern(700_000, 2)).unwrap();
        let old = read_write(&mount.path("a/old"));
        old.write_all_at(b"changed", 3).unwrap();
        // Over one another, and with the whole directory.
        fs::rename(mount.path("a/new"), mount.path("a/new2")).unwrap();
        new.write_all(b"more").unwrap();
        fs::rename(mount.path("a"), mount.path("b")).unwrap();
        new.write_all(b", and more").unwrap();
        old.write_all_at(b"again", 100_000).unwrap();
        fs::rename(mount.path("b/new2"), mount.path("b/new3")).unwrap();
        drop(new);
        drop(old);
        mount.remount(options);
        assert_eq!(names(mount.root()), ["b"]);
        assert_eq!(names(&mount.path("b")), ["new3", "old"]);
        let mut expected = pattern(700_000, 1);
        expected.extend_from_slice(b"more, and more");
        assert!(fs::read(mount.path("b/new3")).unwrap() == expected);
        let mut expected = pattern(700_000, 2);
        expected[3..10].copy_from_slice(b"changed");
        expected[100_000..100_005].copy_from_slice(b"again");
        assert!(fs::read(mount.path("b/old")).unwrap() == expected);
    }
}

/// "Inode numbers are the same in every mount, for names that have not been renamed in between."
#[test]
fn a_new_file_under_an_old_name_gets_a_new_inode() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    // As vim and git save: the old file stays open and mapped under its new name.
    fs::write(mount.path("f"), b"old").unwrap();
    let old = File::open(mount.path("f")).unwrap();
    fs::rename(mount.path("f"), mount.path("f~")).unwrap();
    fs::write(mount.path("f"), b"new one").unwrap();
    let (before, after) = (
        old.metadata().unwrap().ino(),
        fs::metadata(mount.path("f")).unwrap().ino(),
    );
    assert_ne!(before, after);
    assert_eq!(fs::metadata(mount.path("f~")).unwrap().ino(), before);
    let mut text = String::new();
    (&old).read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    drop(old);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"new one");
    assert_eq!(fs::read(mount.path("f~")).unwrap(), b"old");

    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/x"), b"x").unwrap();
    let inode = |mount: &Mount, name: &str| fs::metadata(mount.path(name)).unwrap().ino();
    let before: Vec<u64> = ["d", "d/x"].map(|name| inode(&mount, name)).to_vec();
    mount.remount(&[]);
    let after: Vec<u64> = ["d", "d/x"].map(|name| inode(&mount, name)).to_vec();
    assert_eq!(before, after, "they are the same after a remount");
}

#[test]
fn a_name_that_is_taken_is_not_created_again() {
    let Some(mount) = Mount::new(&[]) else { return };
    let other = mount.second(&[]);
    let exclusive = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    fs::write(mount.path("taken"), b"first").unwrap();
    assert_eq!(errno(exclusive(&mount.path("taken"))), libc::EEXIST);
    assert_eq!(errno(exclusive(&other.path("taken"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(other.path("taken"))), libc::EEXIST);
    assert_eq!(errno(symlink("x", other.path("taken"))), libc::EEXIST);
    // Both see the name free: the second uploader gets the error.
    let mut here = exclusive(&mount.path("race")).unwrap();
    let mut there = exclusive(&other.path("race")).unwrap();
    here.write_all(b"here").unwrap();
    there.write_all(b"there").unwrap();
    here.sync_all().unwrap();
    assert_eq!(errno(there.sync_all()), libc::EEXIST);
    drop(here);
    assert_eq!(fs::read(mount.path("race")).unwrap(), b"here");
    fs::remove_file(other.path("race")).unwrap();
}
