//! docs/semantics.md: Operations.

use super::*;

/// "Files that are written sequentially are uploaded in parts while they are written."
#[test]
fn sequential_files_are_uploaded_while_they_are_written() {
    let Some(mount) = Mount::served(&["--part-size", "128K", "--stream-after", "256K"]) else {
        return;
    };
    let bytes = pattern(4 << 20, 3);
    let sent = || mount.instruments().counts().of(Operation::UploadPart);
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(&bytes[..1 << 20]).unwrap();
    eventually("parts go up", || sent() > 2);
    assert_eq!(mount.bucket().keys(), [""; 0], "nobody sees half a file");
    file.write_all(&bytes[1 << 20..]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(mount.bucket().head("f").size, bytes.len() as u64);
    drop(file);
    assert!(fs::read(mount.path("f")).unwrap() == bytes);
}

/// "Staged data is kept in memory and then, encrypted, in the cache directory; when there is no room left,
/// `write()` fails with ENOSPC."
#[test]
fn a_write_without_space_is_refused() {
    // Nothing is uploaded before it is closed.
    let options = ["--memory-limit", "16M", "--stream-after", "1G"];
    let limited = [&options[..], &["--cache-limit", "8M"]].concat();
    let Some(mut mount) = Mount::new(&limited) else {
        return;
    };
    fill_up(&mount);
    if !is_root() {
        eprintln!("skipped: only root can mount a small disk");
        return;
    }
    // A cache directory on a disk that is full.
    mount.unmount();
    let _disk = SmallDisk::new(&mount.beside("cache"), 24 << 20);
    mount.start_again(&options);
    fill_up(&mount);
    mount.unmount();
}

/// Writes until there is no space, and then frees some.
fn fill_up(mount: &Mount) {
    const PIECE: usize = 1 << 20;
    let path = mount.path("large");
    let mut bytes = Vec::new();
    let file = File::create(&path).unwrap();
    let error = loop {
        let piece = pattern(PIECE, bytes.len() as u32);
        match file.write_at(&piece, bytes.len() as u64) {
            Ok(written) => bytes.extend_from_slice(&piece[..written]),
            Err(error) => break error,
        }
        assert!(bytes.len() < 200 * PIECE, "nothing is full");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!(bytes.len() > 4 * PIECE, "only {} bytes fit", bytes.len());
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    // Accepted data is there, is uploaded, and thereby frees space.
    file.sync_all().unwrap();
    assert_eq!(mount.bucket().head("large").size, bytes.len() as u64);
    drop(file);
    assert!(fs::read(&path).unwrap() == bytes);
    fs::write(mount.path("another"), &bytes[..8 * PIECE]).unwrap();
    fs::remove_file(mount.path("another")).unwrap();
    fs::remove_file(&path).unwrap();
}

/// A file system of a few MiB, removed when it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(path: &Path, bytes: u64) -> SmallDisk {
        let line = format!("mount -t tmpfs -o size={bytes},mode=700 disk .");
        shell(path, &line);
        SmallDisk(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = checked(unsafe { libc::umount2(c_path(&self.0).as_ptr(), libc::MNT_DETACH) });
    }
}

/// "Other namespaces fail with EOPNOTSUPP, without a request to the service."
#[test]
fn foreign_namespaces_of_extended_attributes_cost_no_request() {
    let Some(mount) = Mount::served(&["--metadata-ttl", "60s"]) else {
        return;
    };
    fs::write(mount.path("f"), "x").unwrap();
    let path = c_path(&mount.path("f"));
    mount.instruments().reset_counts();
    for name in [
        "security.capability",
        "system.posix_acl_access",
        "trusted.x",
    ] {
        let attribute = c_path(Path::new(name));
        let (path, name_) = (path.as_ptr(), attribute.as_ptr());
        let mut value = [0u8; 64];
        let got = unsafe { libc::getxattr(path, name_, value.as_mut_ptr().cast(), 64) };
        let set = unsafe { libc::setxattr(path, name_, value.as_ptr().cast(), 28, 0) };
        let removed = unsafe { libc::removexattr(path, name_) };
        for result in [got as i32, set, removed] {
            let number = errno(checked(result));
            // The kernel hides trusted attributes from users other than root.
            let refused = [libc::EOPNOTSUPP, libc::EPERM, libc::ENODATA];
            let refused = if is_root() { &refused[..1] } else { &refused };
            assert!(refused.contains(&number), "{name}: {number}");
        }
    }
    assert_eq!(mount.instruments().counts().total(), 0);
}

/// "`flock()` and `fcntl()` locks work between the programs of one machine, not between mounts." "Share
/// locks between machines."
#[test]
fn locks_apply_to_one_mount() {
    let Some(mount) = Mount::new(AT_ONCE) else {
        return;
    };
    let other = mount.second(AT_ONCE);
    fs::write(mount.path("f"), "text").unwrap();
    let open = |mount: &Mount| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(mount.path("f"))
            .unwrap()
    };
    let whole = |file: &File| {
        checked(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
    };
    // A lock of an open file description, as in fcntl(2): like locks between programs, but one program can
    // test it.
    let range = |file: &File, start| {
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        (lock.l_type, lock.l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
        (lock.l_start, lock.l_len) = (start, 10);
        checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })
    };
    let (one, two, elsewhere) = (open(&mount), open(&mount), open(&other));
    whole(&one).unwrap();
    assert_eq!(errno(whole(&two)), libc::EWOULDBLOCK);
    whole(&elsewhere).unwrap();
    range(&one, 0).unwrap();
    assert_eq!(errno(range(&two, 5)), libc::EAGAIN);
    range(&two, 10).unwrap();
    range(&elsewhere, 0).unwrap();
    drop(one);
    range(&two, 0).unwrap();
    whole(&two).unwrap();
}

/// "A whole file that is in the bucket is copied into an empty one inside the bucket, without its data
/// passing through this machine (`cp a b` does this)." "Any range can be read without fetching the rest of
/// the file." "A file that is in the bucket is renamed by a copy inside the bucket, without its data
/// passing through this machine."
#[test]
fn data_is_transferred_only_when_necessary() {
    let Some(mut mount) = Mount::served(&[]) else {
        return;
    };
    let bytes = pattern(20 << 20, 1);
    fs::write(mount.path("f"), &bytes).unwrap();
    mount.remount(&[]);
    mount.instruments().reset_counts();
    let mut one = [0];
    let file = File::open(mount.path("f")).unwrap();
    file.read_exact_at(&mut one, 13 << 20).unwrap();
    assert_eq!(one[0], bytes[13 << 20]);
    drop(file);
    let sent = mount.instruments().counts().bytes_out;
    assert!(sent <= 1 << 20, "{sent} bytes for one");
    mount.instruments().reset_counts();
    fs::rename(mount.path("f"), mount.path("g")).unwrap();
    // A copy within the mount transfers no data either.
    shell(mount.root(), "cp g h");
    let counts = mount.instruments().counts();
    assert!(counts.bytes_out + counts.bytes_in < 1 << 20, "{counts:?}");
    assert_eq!(counts.of(Operation::CopyObject), 2, "{counts:?}");
    assert_eq!(counts.of(Operation::PutObject), 0, "{counts:?}");
    assert!(fs::read(mount.path("g")).unwrap() == bytes);
    assert!(fs::read(mount.path("h")).unwrap() == bytes);
}

/// "When a file has been read completely and sequentially, its checksum is compared if the service returned
/// one; on a mismatch, the read that completes it fails with EIO."
#[test]
fn damage_in_transit_is_detected() {
    let Some(mut mount) = Mount::served(&[]) else {
        return;
    };
    let bytes = pattern(300_000, 1);
    fs::write(mount.path("f"), &bytes).unwrap();
    mount.remount(&[]);
    let damage = Fault::once(Operation::GetObject, Action::CorruptBody { at: 1000 });
    mount.instruments().add_fault(damage.always());
    assert_eq!(errno(fs::read(mount.path("f"))), libc::EIO);
    mount.instruments().clear_faults();
    mount.remount(&[]);
    assert!(fs::read(mount.path("f")).unwrap() == bytes);
}

/// "These calls return when the change is in the bucket. If a change cannot be stored, the call returns the
/// error." "Reads do not update the access time; nothing does except setting it."
#[test]
fn attribute_changes_are_stored_or_refused() {
    let Some(mount) = Mount::served(AT_ONCE) else {
        return;
    };
    fs::write(mount.path("f"), "x").unwrap();
    set_mode(&mount.path("f"), 0o640);
    let stored = mount.bucket().head("f");
    let expected = (libc::S_IFREG | 0o640).to_string();
    assert_eq!(stored.headers.user.get("mode"), Some(&expected));
    mount.instruments().add_fault(refuse(Operation::CopyObject));
    use std::os::unix::fs::PermissionsExt;
    let refused = fs::set_permissions(mount.path("f"), fs::Permissions::from_mode(0o600));
    assert_eq!(errno(refused), libc::EACCES);
    mount.instruments().clear_faults();
    assert_eq!(mode(&mount.path("f")), 0o640, "nothing has changed");
    let accessed = || {
        let meta = fs::metadata(mount.path("f")).unwrap();
        (meta.atime(), meta.atime_nsec())
    };
    let before = accessed();
    fs::read(mount.path("f")).unwrap();
    assert_eq!(accessed(), before);
}
