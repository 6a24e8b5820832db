//! docs/semantics.md: Security.

use super::*;

/// "Counter mode hides contents; it does not detect tampering. With write access to the bucket, an attacker
/// can flip bits in files, truncate, swap, roll back or delete them; with the public key, also forge them."
/// "Detect tampering, rollback or deletion."
#[test]
fn write_access_to_the_bucket_is_enough_to_change_file_contents() {
    let Some(mut mount) = Mount::new(AT_ONCE) else {
        return;
    };
    let bytes = pattern(10_000, 1);
    fs::write(mount.path("f"), &bytes).unwrap();
    let bucket = mount.bucket();
    let (headers, stored) = (bucket.head("f").headers, bucket.get("f"));
    let see = |name: &str| {
        let bytes = fs::read(mount.path(name));
        // Whole seconds distinguish versions.
        thread::sleep(Duration::from_millis(1100));
        bytes.unwrap()
    };

    let mut flipped = stored.clone();
    flipped[5000] ^= 0x20;
    bucket.put_with("f", &headers, &flipped);
    let mut expected = bytes.clone();
    expected[5000] ^= 0x20;
    assert!(see("f") == expected, "flipped");
    bucket.put_with("f", &headers, &stored[..3000]);
    assert!(see("f") == bytes[..3000], "cut");
    fs::write(mount.path("f"), "newer").unwrap();
    bucket.put_with("f", &headers, &stored);
    assert!(see("f") == bytes, "rolled back");
    bucket.put_with("g", &headers, &stored);
    assert!(see("g") == bytes, "swapped");
    bucket.delete("g");
    assert_eq!(errno(fs::read(mount.path("g"))), libc::ENOENT, "deleted");

    let public = include_str!("../../vectors/keys/rsa2048.pub.spki.pem");
    fs::write(mount.beside("key.pub"), public).unwrap();
    mount.remount(&["--public-key", "key.pub"]);
    fs::write(mount.path("f"), "forged").unwrap();
    mount.remount(&[]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"forged");
}

/// "Names, sizes, times, modes and owners are visible in the bucket."
/// "Hide names, sizes or times."
#[test]
fn metadata_is_visible_in_the_bucket() {
    let Some(mount) = Mount::new(&[]) else { return };
    let path = mount.path("a telling name");
    fs::write(&path, vec![0; 12_345]).unwrap();
    set_mode(&path, 0o640);
    let times = fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_000_000_000, 5));
    File::open(&path).unwrap().set_times(times).unwrap();
    if is_root() {
        chown(&path, Some(12), Some(34)).unwrap();
    }
    let owner = fs::metadata(&path).unwrap();
    let stored = mount.bucket().head("a telling name");
    assert_eq!(stored.size, 12_345);
    for (name, value) in [
        ("mode", owner.mode().to_string()),
        ("mtime", "1000000000.000000005".to_owned()),
        ("uid", owner.uid().to_string()),
        ("gid", owner.gid().to_string()),
    ] {
        assert_eq!(stored.headers.user.get(name), Some(&value), "{name}");
    }
}

/// "A data key and counter never encrypt two different contents: every upload generates a new key." "Other
/// writes work too: the file is staged and uploaded whole, under a fresh key." "Change a part of an object
/// in place: any change uploads the whole file."
#[test]
fn every_upload_is_the_whole_file_under_a_key_of_its_own() {
    let Some(mount) = Mount::served(&[]) else {
        return;
    };
    const LEN: usize = 300_000;
    let path = mount.path("f");
    let mut bytes = pattern(LEN, 1);
    fs::write(&path, &bytes).unwrap();
    let before = mount.bucket().get("f");
    for (at, text) in [(LEN - 5, "after"), (0, "first"), (LEN / 2, "within")] {
        let before = mount.bucket().get("f");
        mount.instruments().reset_counts();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(text.as_bytes(), at as u64).unwrap();
        drop(file);
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        assert!(mount.instruments().counts().bytes_in >= LEN as u64);
        let after = mount.bucket().get("f");
        let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
        assert!(same < LEN / 100, "{same} of {LEN} bytes are the same");
    }
    // Also the same content again.
    fs::write(&path, pattern(LEN, 1)).unwrap();
    let after = mount.bucket().get("f");
    let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
    assert!(same < LEN / 100, "{same} of {LEN} bytes are the same");
}

/// "Contents and symbolic link targets are encrypted, and so are the names and values of extended
/// attributes."
/// "The target is encrypted like a file's content."
/// "ossvault writes nothing in plaintext: not to the bucket, the cache directory, a log or a core file."
#[test]
fn nothing_is_written_in_plaintext() {
    let options = ["--memory-limit", "16M", "-v", "-v"];
    let Some(mut mount) = Mount::new(&options) else {
        return;
    };
    // Long enough not to occur by accident, and in no name.
    let marker = "eeL7quoh-marker-Oow0sheiThaa";
    let mut text = marker.repeat(1_500_000);
    fs::write(mount.path("large"), &text).unwrap();
    text.truncate(2000);
    fs::write(mount.path("small"), &text).unwrap();
    symlink(marker, mount.path("link")).unwrap();
    let path = c_path(&mount.path("small"));
    let name = c_path(std::path::Path::new(&format!("user.{marker}")));
    let value = marker.as_ptr().cast();
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value, marker.len(), 0) };
    checked(set).unwrap();
    // Also staged data that is not uploaded yet.
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(marker.repeat(1_500_000).as_bytes()).unwrap();
    let found = |folder: &str| {
        let line = format!("grep -rlF {marker} {folder} || true");
        shell(&mount.beside(""), &line)
    };
    assert_eq!(found("bucket cache mnt.log"), "");
    drop(open);
    mount.unmount();
    let line = format!("grep -rlF {marker} bucket cache mnt.log || true");
    assert_eq!(shell(&mount.beside(""), &line), "");
}

/// "An object without a complete, valid envelope is never served as a file's content." "The log gives the
/// reason, once while the file is open; other files are not affected. With `--allow-plaintext PREFIX`,
/// unencrypted objects under that prefix are served read-only, with mode 0444." "With `--allow-plaintext
/// DIRECTORY`, opening an unencrypted object for writing, truncating it and changing its attributes fail
/// with EACCES. It can be deleted, renamed and replaced by an encrypted file like any other."
#[test]
fn objects_without_an_envelope_are_not_served() {
    let Some(mut mount) = Mount::new(AT_ONCE) else {
        return;
    };
    fs::write(mount.path("good"), "good").unwrap();
    mount.bucket().put("bad", "plain");
    mount.bucket().put("open/plain", "plain text");
    assert_eq!(names(mount.root()), ["bad", "good", "open"]);
    assert_eq!(errno(fs::read(mount.path("bad"))), libc::EIO);
    assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
    let told = || mount.log().matches("\"bad\"").count();
    let file = File::open(mount.path("bad")).unwrap();
    let before = told();
    assert_eq!(errno(file.read_at(&mut [0; 10], 0)), libc::EIO);
    assert_eq!(errno(file.read_at(&mut [0; 10], 3)), libc::EIO);
    assert_eq!(told(), before + 1, "{}", mount.log());
    drop(file);

    mount.remount(&["--allow-plaintext", "open/"]);
    assert_eq!(errno(fs::read(mount.path("bad"))), libc::EIO);
    let path = mount.path("open/plain");
    assert_eq!(fs::read(&path).unwrap(), b"plain text");
    assert_eq!(mode(&path), 0o444);
    let write = OpenOptions::new().write(true).open(&path);
    assert_eq!(errno(write), libc::EACCES);
    let truncated = checked(unsafe { libc::truncate(c_path(&path).as_ptr(), 3) });
    assert_eq!(errno(truncated), libc::EACCES);
    let mode_set = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
    assert_eq!(errno(mode_set), libc::EACCES);
    let times = fs::FileTimes::new().set_modified(UNIX_EPOCH);
    let times_set = File::open(&path).unwrap().set_times(times);
    assert_eq!(errno(times_set), libc::EACCES);
    if is_root() {
        assert_eq!(errno(chown(&path, Some(1), Some(1))), libc::EACCES);
    }
    assert_eq!(fs::read(&path).unwrap(), b"plain text");
    fs::rename(&path, mount.path("open/moved")).unwrap();
    assert_eq!(fs::read(mount.path("open/moved")).unwrap(), b"plain text");
    fs::write(mount.path("open/new"), "encrypted").unwrap();
    fs::rename(mount.path("open/new"), mount.path("open/moved")).unwrap();
    assert_eq!(fs::read(mount.path("open/moved")).unwrap(), b"encrypted");
    assert_ne!(mount.bucket().get("open/moved"), b"encrypted");
    mount.bucket().put("open/second", "plain text");
    thread::sleep(Duration::from_millis(1100));
    fs::remove_file(mount.path("open/second")).unwrap();
    assert_eq!(names(&mount.path("open")), ["moved"]);
}
