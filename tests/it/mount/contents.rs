//! Writing, mapping, truncating and reading.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{SMALL_PARTS, read_write};
use crate::fixture::*;

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
        // Over a base in the bucket: inside it, across its end, far beyond it.
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
                    // One write per line: the lines of several appenders follow each other.
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
fn files_are_truncated_and_extended_open_and_closed() {
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
    // Including handles that have read before it was uploaded.
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
    // Data stored through the mapping after the last close arrives as well.
    drop(file);
    shared[19_999] = 42;
    expected[19_999] = 42;
    unmap(shared);
    unmap(private);
    mount.remount(&[]);
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn closing_a_duplicated_descriptor_publishes_the_written_data() {
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
fn space_can_be_allocated_and_other_modes_of_fallocate_are_refused() {
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
fn files_unlinked_or_replaced_while_open_stay_readable() {
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

/// Regression: an open during a last close found the file just before it was removed from the table, and the
/// next open created a second one for the same inode: a truncation went to one, writes to the other.
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
