//! Features that programs rely on: locks, executables, sparse files, the clock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::Attributes;
use super::{SMALL_PARTS, read_write};
use crate::fixture::*;

/// "Opening a running program for writing or with O_TRUNC fails with ETXTBSY."
#[test]
fn a_running_program_cannot_be_changed() {
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

/// For holes, the kernel reports the same as for every file system without them: everything is data, up to
/// the end.
#[test]
fn seeking_holes_and_direct_io_work() {
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
    // Without alignment: no disk below requires it.
    direct.write_all_at(b"odd", 12_345).unwrap();
    expected[12_345..12_348].copy_from_slice(b"odd");
    let mut seen = vec![0; expected.len()];
    direct.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == expected);
    // Between a descriptor that uses the kernel's pages and one that does not.
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
        // The whole file, as cp requests it.
        assert_eq!(copy("a", "b", 0, 0x7fff_f000), (1_000_000, 1_000_000));
        assert!(fs::read(mount.path("b")).unwrap() == bytes);
        assert_eq!(mode(&mount.path("b")), 0o644, "its own");
        let copied = mount.path("b");
        assert_eq!(errno(Attributes(&copied).get("user.x")), libc::ENODATA);
        // A part, and over existing data.
        assert_eq!(copy("a", "c", 1000, 5000).1, 6000);
        assert!(fs::read(mount.path("c")).unwrap()[1000..] == bytes[1000..6000]);
        fs::write(mount.path("b"), "other").unwrap();
        assert_eq!(copy("a", "b", 0, 3), (3, 5));
        // The two files change independently.
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
