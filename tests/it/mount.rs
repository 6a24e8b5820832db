//! What programs do to a directory, done to a real mount.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ossvault::server::operation::Operation;

use super::support::*;

/// Small parts and a little memory: files of some MiB are streamed, spilled and laid over their base.
const SMALL_PARTS: &[&str] = &[
    "--memory-limit",
    "16M",
    "--part-size",
    "128K",
    "--stream-after",
    "512K",
];

fn read_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

// ---- contents ----

/// "Holes read as zeros, and are stored as zeros."
#[test]
fn writes_go_anywhere_and_holes_read_as_zeros() {
    for options in [&[][..], SMALL_PARTS] {
        let Some(mut mount) = Mount::new(options) else {
            return;
        };
        let path = mount.path("sparse");
        let file = read_write(&path);
        let mut expected = vec![0u8; 3 << 20];
        for (at, len) in [(2 << 20, 1 << 20), (700_001, 99_999), (0, 1), (5000, 3)] {
            let bytes = pattern(len, at as u32);
            file.write_all_at(&bytes, at as u64).unwrap();
            expected[at..at + len].copy_from_slice(&bytes);
        }
        assert_eq!(file.metadata().unwrap().len(), 3 << 20);
        assert!(
            fs::read(&path).unwrap() == expected,
            "before it is uploaded"
        );
        drop(file);
        assert!(fs::read(&path).unwrap() == expected, "after");

        mount.remount(options);
        assert!(fs::read(&path).unwrap() == expected, "by another daemon");
        // Over a base that is in the bucket: in it, across its end, far behind it.
        let file = read_write(&path);
        for (at, len) in [(100, 1000), ((3 << 20) - 10, 20), (4 << 20, 4096)] {
            let bytes = pattern(len, !at as u32);
            if expected.len() < at + len {
                expected.resize(at + len, 0);
            }
            file.write_all_at(&bytes, at as u64).unwrap();
            expected[at..at + len].copy_from_slice(&bytes);
        }
        drop(file);
        mount.remount(options);
        assert!(fs::read(&path).unwrap() == expected, "overlaid");
    }
}

/// "Appending (`O_APPEND`) through several descriptors loses nothing."
#[test]
fn appenders_with_handles_of_their_own_lose_nothing() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let path = mount.path("log");
    const LINES: usize = 200;
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .unwrap();
                for line in 0..LINES {
                    // One write a line: what is appended by several is a line of one after another.
                    let text = format!("{writer} {line:05} {}\n", "x".repeat(line));
                    file.write_all(text.as_bytes()).unwrap();
                }
            });
        }
    });
    mount.remount(&[]);
    let text = fs::read_to_string(&path).unwrap();
    for writer in 0..4 {
        let own: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{writer} ")))
            .collect();
        assert_eq!(own.len(), LINES);
        for (at, line) in own.iter().enumerate() {
            assert_eq!(**line, format!("{writer} {at:05} {}", "x".repeat(at)));
        }
    }
    assert_eq!(text.lines().count(), 4 * LINES);
}

#[test]
fn files_are_cut_and_grown_open_and_closed() {
    for options in [&[][..], SMALL_PARTS] {
        let Some(mut mount) = Mount::new(options) else {
            return;
        };
        let path = mount.path("f");
        let bytes = pattern(1_500_000, 1);
        fs::write(&path, &bytes).unwrap();
        let mut expected = bytes;
        for size in [1_000_000, 1_200_000, 70_000, 0, 5, 3_000_000, 1, 0] {
            expected.resize(size, 0);
            let c_path = c_path(&path);
            checked(unsafe { libc::truncate(c_path.as_ptr(), size as libc::off_t) }).unwrap();
            assert!(fs::read(&path).unwrap() == expected, "truncate to {size}");
        }
        let file = read_write(&path);
        file.write_all_at(&pattern(1_500_000, 2), 0).unwrap();
        expected = pattern(1_500_000, 2);
        for size in [1_400_000, 1_450_000, 0, 10] {
            expected.resize(size, 0);
            file.set_len(size as u64).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size as u64);
            assert!(fs::read(&path).unwrap() == expected, "ftruncate to {size}");
        }
        drop(file);
        mount.remount(options);
        assert!(fs::read(&path).unwrap() == expected);
        drop(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&path)
                .unwrap(),
        );
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        let too_large = read_write(&path).set_len(1 << 60);
        assert_eq!(errno(too_large), libc::EFBIG);
    }
}

#[test]
fn what_one_handle_writes_the_others_read() {
    let Some(mount) = Mount::new(&[]) else { return };
    let path = mount.path("shared");
    let writer = File::create(&path).unwrap();
    let reader = File::open(&path).unwrap();
    let other = read_write(&path);
    let mut buffer = [0; 64];
    writer.write_all_at(b"one", 0).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 3);
    other.write_all_at(b"two", 3).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 6);
    assert_eq!(&buffer[..6], b"onetwo");
    // Also those that have read before it went up.
    drop(writer);
    other.write_all_at(b"2", 3).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 6);
    assert_eq!(&buffer[..6], b"one2wo");
    other.set_len(2).unwrap();
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 2);
    drop(other);
    assert_eq!(fs::read(&path).unwrap(), b"on");
}

/// "Data written through a shared mapping after the last close is uploaded when the kernel writes it back."
#[test]
fn mappings_show_and_change_the_file() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let path = mount.path("mapped");
    fs::write(&path, pattern(20_000, 3)).unwrap();
    let file = read_write(&path);
    let map = |protection, flags| unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            20_000,
            protection,
            flags,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        std::slice::from_raw_parts_mut(at.cast::<u8>(), 20_000)
    };
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let shared = map(both, libc::MAP_SHARED);
    let private = map(both, libc::MAP_PRIVATE);
    assert!(*shared == *pattern(20_000, 3));
    private[7] = !private[7];
    shared[10_000] = !shared[10_000];
    let unmap = |map: &mut [u8]| unsafe { libc::munmap(map.as_mut_ptr().cast(), map.len()) };
    checked(unsafe { libc::msync(shared.as_mut_ptr().cast(), 20_000, libc::MS_SYNC) }).unwrap();
    let mut expected = pattern(20_000, 3);
    expected[10_000] = !expected[10_000];
    assert!(fs::read(&path).unwrap() == expected);
    // Writes through a descriptor show in the mapping.
    file.write_all_at(b"here", 4096).unwrap();
    expected[4096..4100].copy_from_slice(b"here");
    assert!(*shared == *expected);
    // Pages stored through the mapping after the last close arrive as well.
    drop(file);
    shared[19_999] = 42;
    expected[19_999] = 42;
    unmap(shared);
    unmap(private);
    mount.remount(&[]);
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn a_copy_of_a_descriptor_that_closes_publishes_what_was_written() {
    let Some(mount) = Mount::new(&[]) else { return };
    let other = mount.second(&["--metadata-ttl", "0"]);
    let file = File::create(mount.path("f")).unwrap();
    let mut copy = file.try_clone().unwrap();
    copy.write_all(b"first").unwrap();
    drop(copy);
    assert_eq!(fs::read(other.path("f")).unwrap(), b"first");
    // A child that inherited it closes it, too.
    (&file).write_all(b", second").unwrap();
    let mut child = Command::new("true")
        .stdout(file.try_clone().unwrap())
        .spawn()
        .unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(other.path("f")).unwrap(), b"first, second");
    (&file).write_all(b", third").unwrap();
    drop(file);
    assert_eq!(fs::read(other.path("f")).unwrap(), b"first, second, third");
    shell(
        mount.root(),
        "(echo one; echo two; exec echo three) > shell",
    );
    assert_eq!(fs::read(other.path("shell")).unwrap(), b"one\ntwo\nthree\n");
}

/// "`fallocate()` extends a file; its other modes fail with EOPNOTSUPP."
#[test]
fn space_is_allocated_and_other_ways_of_fallocate_are_refused() {
    let Some(mount) = Mount::new(&[]) else { return };
    let file = read_write(&mount.path("f"));
    file.write_all_at(b"abc", 0).unwrap();
    let allocate = |mode, offset, length| {
        checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
    };
    allocate(0, 1, 10_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_001);
    allocate(0, 0, 5).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_001);
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let mut modes = vec![keep, libc::FALLOC_FL_PUNCH_HOLE | keep];
    modes.extend([libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_ZERO_RANGE]);
    for mode in modes {
        assert_eq!(errno(allocate(mode, 0, 4096)), libc::EOPNOTSUPP, "{mode:x}");
    }
    let mut text = vec![0; 10_001];
    text[..3].copy_from_slice(b"abc");
    assert!(fs::read(mount.path("f")).unwrap() == text);
}

/// "A file that is unlinked, replaced or renamed over while it is open stays readable through its
/// descriptors." "The link count is 1 for a file, 2 for a directory, and 0 for a file that was unlinked
/// while open."
#[test]
fn what_is_unlinked_or_replaced_while_open_stays_as_it_is_for_its_holders() {
    for options in [&[][..], SMALL_PARTS] {
        let Some(mount) = Mount::new(options) else {
            return;
        };
        let bytes = pattern(900_000, 5);
        for (case, dirty, replace) in [
            ("clean, unlinked", false, false),
            ("clean, replaced", false, true),
            ("changed, unlinked", true, false),
            ("changed, replaced", true, true),
        ] {
            let path = mount.path("victim");
            fs::write(&path, &bytes).unwrap();
            let file = read_write(&path);
            let mut expected = bytes.clone();
            if dirty {
                file.write_all_at(b"dirty", 400_000).unwrap();
                expected[400_000..400_005].copy_from_slice(b"dirty");
            }
            if replace {
                fs::write(mount.path("new"), b"new").unwrap();
                fs::rename(mount.path("new"), &path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            let mut seen = vec![0; bytes.len()];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == expected, "{case}");
            assert_eq!(file.metadata().unwrap().nlink(), 0, "{case}");
            file.write_all_at(b"after", 10).unwrap();
            file.set_len(1000).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .unwrap();
            expected[10..15].copy_from_slice(b"after");
            seen.truncate(1000);
            file.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == expected[..1000], "{case}");
            assert_eq!(file.metadata().unwrap().len(), 1000, "{case}");
            file.sync_all().unwrap();
            drop(file);
            if replace {
                assert_eq!(fs::read(&path).unwrap(), b"new", "{case}");
            } else {
                assert_eq!(errno(fs::read(&path)), libc::ENOENT, "{case}");
            }
        }
    }
}

/// The open that meets a last close once found the file just before it went out of the table, and the next
/// open made a second one of the same inode: a cut went to one, writes to the other.
#[test]
fn a_file_that_is_opened_while_its_last_handle_closes_stays_one_file() {
    let Some(mount) = Mount::new(&[]) else { return };
    let path = mount.path("f");
    let c_path = c_path(&path);
    let until = Instant::now() + Duration::from_secs(3);
    let mut expected = Vec::new();
    let mut round = 0u32;
    while Instant::now() < until {
        round += 1;
        let file = read_write(&path);
        let bytes = pattern(100, round);
        file.write_all_at(&bytes, 50).unwrap();
        expected.resize(150, 0);
        expected[50..150].copy_from_slice(&bytes);
        let size = 60 + (round % 80) as usize;
        checked(unsafe { libc::truncate(c_path.as_ptr(), size as libc::off_t) }).unwrap();
        expected.truncate(size);
        file.write_all_at(b"!", 0).unwrap();
        expected[0] = b'!';
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), expected, "round {round}");
    }
}

#[test]
fn a_file_of_many_parts_is_read_back_in_any_order() {
    let Some(mut mount) = Mount::new(SMALL_PARTS) else {
        return;
    };
    let bytes = pattern(24 << 20, 9);
    let path = mount.path("large");
    fs::write(&path, &bytes).unwrap();
    mount.remount(SMALL_PARTS);
    let mut file = File::open(&path).unwrap();
    let mut buffer = vec![0; 100_000];
    for at in [23 << 20, 1, 12 << 20, 5 << 20, (24 << 20) - 7] {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        let len = buffer.len().min(bytes.len() - at);
        file.read_exact(&mut buffer[..len]).unwrap();
        assert!(buffer[..len] == bytes[at..at + len], "at {at}");
    }
    assert!(fs::read(&path).unwrap() == bytes);
}

// ---- names ----

#[test]
fn odd_names_come_back_as_they_were() {
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
fn a_new_file_under_an_old_name_is_another_inode() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    // As vim and git save: the old one stays open and mapped under its new name.
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
    // Both see the name free: who uploads second is told.
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

// ---- attributes ----

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
    // In the future, before the epoch: what a Timestamp can be.
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
fn changes_move_the_times() {
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

    // Something has changed in the directory: that stays so when the directory itself is changed.
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
/// Whether a file that is written in order goes up once, or is published in between, was decided by any
/// process that happened to be started meanwhile.
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
    // Those who write what they have inherited wait for it like everybody else.
    shell(mount.root(), "{ /bin/echo one; /bin/echo two; } > g");
    assert_eq!(fs::read(mount.path("g")).unwrap(), b"one\ntwo\n");
    assert_eq!(puts(), 3);
    assert_eq!(mount.bucket().head("g").size, 8);
}

/// "A write, a truncation and a change of owner clear the set-user-ID and set-group-ID bits."
#[test]
fn writing_takes_the_set_id_bits_away() {
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
    // What is made in a directory may get its group, also when that has just been renamed.
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
    // A directory's group is passed on where that is wanted.
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
fn special_files_are_what_they_were_made_as() {
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
    // A fifo works as one.
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
        // Nobody gets a device out of a bucket.
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

struct Attributes<'a>(&'a Path);

impl Attributes<'_> {
    fn set(&self, name: &str, value: &[u8], flags: i32) -> io::Result<libc::c_int> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        checked(unsafe {
            libc::setxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                flags,
            )
        })
    }

    fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        let mut value = vec![0; 65_536];
        let len = unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        value.truncate(checked(len as libc::c_int)? as usize);
        Ok(value)
    }

    fn remove(&self, name: &str) -> io::Result<libc::c_int> {
        let (path, name) = (c_path(self.0), c_path(Path::new(name)));
        checked(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
    }

    fn list(&self) -> BTreeSet<String> {
        let path = c_path(self.0);
        let mut list = vec![0u8; 65_536];
        let len = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
        list.truncate(checked(len as libc::c_int).unwrap() as usize);
        list.split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8(name.to_vec()).unwrap())
            .collect()
    }
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
    // A copy of metadata, a move, and new content: they stay.
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
fn sizes_are_told_as_programs_expect_them() {
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

// ---- directories ----

/// A stream of a directory, as libc gives it.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Stream {
        let stream = unsafe { libc::opendir(c_path(path).as_ptr()) };
        assert!(!stream.is_null());
        Stream(stream)
    }

    /// The next name but `.` and `..`.
    fn next(&mut self) -> Option<String> {
        loop {
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            let name = unsafe { std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()) };
            let name = name.to_str().unwrap().to_owned();
            if name != "." && name != ".." {
                return Some(name);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        unsafe { libc::closedir(self.0) };
    }
}

#[test]
fn a_directory_is_read_once_each_while_it_changes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    const MANY: usize = 2500;
    fs::create_dir(mount.path("many")).unwrap();
    thread::scope(|scope| {
        for part in 0..4 {
            let mount = &mount;
            scope.spawn(move || {
                for at in (part..MANY).step_by(4) {
                    fs::write(mount.path(format!("many/{at:05}")), "x").unwrap();
                }
            });
        }
    });
    let expected: Vec<String> = (0..MANY).map(|at| format!("{at:05}")).collect();
    for again in [false, true] {
        if again {
            mount.remount(&[]);
        }
        let folder = mount.path("many");
        assert!(names(&folder) == expected, "again: {again}");

        // While names come and go, those that stay are seen once each.
        let mut stream = Stream::open(&folder);
        let mut seen = Vec::new();
        let mut places = Vec::new();
        while let Some(name) = stream.next() {
            if seen.len() % 500 == 250 {
                places.push((unsafe { libc::telldir(stream.0) }, seen.len()));
                let passing = format!("passing{}", seen.len());
                fs::write(folder.join(&passing), "x").unwrap();
                fs::remove_file(folder.join(&passing)).unwrap();
                fs::remove_file(folder.join(&expected[seen.len() / 2])).unwrap();
                fs::write(folder.join(&expected[seen.len() / 2]), "x").unwrap();
            }
            if !name.starts_with("passing") {
                seen.push(name);
            }
        }
        seen.sort();
        let all = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), all, "twice");
        let staying = |name: &&String| seen.binary_search(name).is_err();
        let missing: Vec<_> = expected.iter().filter(staying).collect();
        assert!(missing.is_empty(), "{missing:?}");

        // Back to a place: on from there.
        let (place, read) = places[2];
        unsafe { libc::seekdir(stream.0, place) };
        let mut rest = BTreeSet::new();
        while let Some(name) = stream.next() {
            rest.insert(name);
        }
        let expected_rest = MANY - read;
        assert!(
            rest.len() + 3 >= expected_rest && rest.len() <= expected_rest + 3,
            "{} after a place with {expected_rest} to come",
            rest.len()
        );
        unsafe { libc::rewinddir(stream.0) };
        let mut count = 0;
        while stream.next().is_some() {
            count += 1;
        }
        assert_eq!(count, MANY);
    }
    fs::remove_dir_all(mount.path("many")).unwrap();
    assert!(names(mount.root()).is_empty());
}

/// "A directory remains when its last entry is removed."
#[test]
fn a_directory_that_loses_its_last_name_stays_until_it_is_removed() {
    let Some(mut mount) = Mount::new(&["--metadata-ttl", "0", "--dir-ttl", "0"]) else {
        return;
    };
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/b/c/f"), "x").unwrap();
    fs::remove_file(mount.path("a/b/c/f")).unwrap();
    mount.remount(&[]);
    fs::remove_dir(mount.path("a/b/c")).unwrap();
    assert_eq!(names(&mount.path("a")), ["b"]);
    assert!(names(&mount.path("a/b")).is_empty());
    // One that is open when it goes.
    let folder = File::open(mount.path("a/b")).unwrap();
    fs::remove_dir(mount.path("a/b")).unwrap();
    assert_eq!(errno(fs::metadata(mount.path("a/b"))), libc::ENOENT);
    assert_eq!(folder.metadata().unwrap().nlink(), 0);
    let inside = format!("/proc/self/fd/{}/x", folder.as_raw_fd());
    assert_eq!(errno(File::create(inside)), libc::ENOENT);
    drop(folder);
    fs::create_dir(mount.path("a/b")).unwrap();
    assert!(names(&mount.path("a/b")).is_empty());
}

// ---- programs ----

/// "Opening a running program for writing or with O_TRUNC fails with ETXTBSY."
#[test]
fn a_program_that_runs_is_not_changed_under_it() {
    let Some(mount) = Mount::new(&[]) else { return };
    fs::copy("/bin/sleep", mount.path("sleep")).unwrap();
    set_mode(&mount.path("sleep"), 0o755);
    let mut running = Command::new(mount.path("sleep")).arg("20").spawn().unwrap();
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR,
        libc::O_TRUNC,
        libc::O_WRONLY | libc::O_TRUNC,
    ] {
        let path = c_path(&mount.path("sleep"));
        let opened = checked(unsafe { libc::open(path.as_ptr(), flags) });
        assert_eq!(errno(opened), libc::ETXTBSY, "{flags:o}");
    }
    assert!(running.try_wait().unwrap().is_none(), "it goes on");
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(fs::read(mount.path("sleep")).unwrap() == fs::read("/bin/sleep").unwrap());
}

#[test]
fn locks_exclude_one_another() {
    let Some(mount) = Mount::new(&[]) else { return };
    let (one, two) = (read_write(&mount.path("f")), read_write(&mount.path("f")));
    let lock =
        |file: &File, how| checked(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) });
    lock(&one, libc::LOCK_EX).unwrap();
    assert_eq!(errno(lock(&two, libc::LOCK_SH)), libc::EWOULDBLOCK);
    lock(&one, libc::LOCK_UN).unwrap();
    lock(&two, libc::LOCK_SH).unwrap();
    lock(&one, libc::LOCK_SH).unwrap();
}

/// Of holes the kernel says what it says of every file system that has none: all is data, up to the end.
#[test]
fn holes_are_sought_and_caches_passed_by() {
    let Some(mount) = Mount::new(SMALL_PARTS) else {
        return;
    };
    let path = mount.path("f");
    let file = read_write(&path);
    file.write_all_at(b"end", 1_000_000).unwrap();
    let seek = |at, whence| unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
    for closed in [false, true] {
        assert_eq!(seek(0, libc::SEEK_DATA), 0, "closed: {closed}");
        assert_eq!(seek(500_000, libc::SEEK_DATA), 500_000);
        assert_eq!(seek(0, libc::SEEK_HOLE), 1_000_003);
        assert_eq!(seek(1_000_003, libc::SEEK_DATA), -1);
        assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENXIO));
        file.sync_all().unwrap();
    }

    let mut expected = pattern(64 << 10, 1);
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .custom_flags(libc::O_DIRECT)
        .open(mount.path("direct"))
        .unwrap();
    direct.write_all_at(&expected, 0).unwrap();
    // Aligned to nothing: there is no disk below that asks for it.
    direct.write_all_at(b"odd", 12_345).unwrap();
    expected[12_345..12_348].copy_from_slice(b"odd");
    let mut seen = vec![0; expected.len()];
    direct.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == expected);
    // Between one that goes by the kernel's pages and one that does not.
    let paged = read_write(&mount.path("direct"));
    paged.write_all_at(b"paged", 20_000).unwrap();
    expected[20_000..20_005].copy_from_slice(b"paged");
    direct.read_exact_at(&mut seen[..5], 20_000).unwrap();
    assert_eq!(&seen[..5], b"paged");
    direct.write_all_at(b"by", 20_000).unwrap();
    expected[20_000..20_002].copy_from_slice(b"by");
    paged.read_exact_at(&mut seen[..5], 20_000).unwrap();
    assert_eq!(&seen[..5], b"byged");
    drop((direct, paged));
    assert!(fs::read(mount.path("direct")).unwrap() == expected);
}

#[test]
fn the_clock_of_the_mount_is_the_machines() {
    let Some(mount) = Mount::new(&[]) else { return };
    let before = SystemTime::now() - Duration::from_millis(20);
    fs::write(mount.path("f"), "x").unwrap();
    let modified = fs::metadata(mount.path("f")).unwrap().modified().unwrap();
    assert!(modified >= before && modified <= SystemTime::now());
}

/// "Any other copy reads and writes the data."
#[test]
fn a_copy_within_the_mount_is_a_file_of_its_own() {
    for options in [&[][..], SMALL_PARTS] {
        let Some(mut mount) = Mount::new(options) else {
            return;
        };
        let bytes = pattern(1_000_000, 8);
        fs::write(mount.path("a"), &bytes).unwrap();
        set_mode(&mount.path("a"), 0o750);
        Attributes(&mount.path("a")).set("user.x", b"1", 0).unwrap();
        let copy = |from: &str, to: &str, offset: i64, len: usize| {
            let from = File::open(mount.path(from)).unwrap();
            let to = read_write(&mount.path(to));
            let (mut at_from, mut at_to) = (offset, offset);
            let copied = unsafe {
                libc::copy_file_range(
                    from.as_raw_fd(),
                    &mut at_from,
                    to.as_raw_fd(),
                    &mut at_to,
                    len,
                    0,
                )
            };
            assert!(copied > 0, "{}", io::Error::last_os_error());
            let size = to.metadata().unwrap().len();
            (copied as usize, size)
        };
        // Whole, as cp asks for it.
        assert_eq!(copy("a", "b", 0, 0x7fff_f000), (1_000_000, 1_000_000));
        assert!(fs::read(mount.path("b")).unwrap() == bytes);
        assert_eq!(mode(&mount.path("b")), 0o644, "its own");
        let copied = mount.path("b");
        assert_eq!(errno(Attributes(&copied).get("user.x")), libc::ENODATA);
        // A part, and over something.
        assert_eq!(copy("a", "c", 1000, 5000).1, 6000);
        assert!(fs::read(mount.path("c")).unwrap()[1000..] == bytes[1000..6000]);
        fs::write(mount.path("b"), "other").unwrap();
        assert_eq!(copy("a", "b", 0, 3), (3, 5));
        // Each goes its own way.
        shell(
            mount.root(),
            "cp a d; printf X | dd of=d bs=1 seek=10 conv=notrunc status=none",
        );
        shell(mount.root(), "cp -p a e; rm a");
        mount.remount(options);
        let mut changed = bytes.clone();
        changed[10] = b'X';
        assert!(fs::read(mount.path("d")).unwrap() == changed);
        assert!(fs::read(mount.path("e")).unwrap() == bytes);
        assert_eq!(mode(&mount.path("e")), 0o750);
        assert_eq!(fs::read(mount.path("b")).unwrap()[3..], b"other"[3..]);
    }
}
