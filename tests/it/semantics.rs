//! docs/semantics.md, sentence by sentence, on real mounts. Sentences that `mount.rs` proves are not
//! repeated.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;

use crate::fixture::*;

/// As another client, without caches.
const AT_ONCE: &[&str] = &["--metadata-ttl", "0", "--dir-ttl", "0"];

fn refuse(operation: Operation) -> Fault {
    let action = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    Fault::once(operation, action).always()
}

// ---- Security ----

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

    let public = include_str!("../vectors/keys/rsa2048.pub.spki.pem");
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

// ---- When a file is in the bucket ----

/// "A file's object appears or is replaced only as a whole. No client ever sees a partial file, a
/// placeholder, or a mix of two versions."
#[test]
fn no_client_sees_a_partial_file() {
    let Some(mount) = Mount::new(&["--part-size", "128K", "--stream-after", "256K"]) else {
        return;
    };
    let other = mount.second(AT_ONCE);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..12u8 {
                let mut file = File::create(mount.path("f")).unwrap();
                for _ in 0..16 {
                    file.write_all(&vec![round; 100_000]).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut seen = 0;
        while !done.load(Ordering::Relaxed) {
            match fs::read(other.path("f")) {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), 1_600_000);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "mixed");
                    seen += 1;
                }
                Err(error) => {
                    let number = error.raw_os_error().unwrap();
                    assert!([libc::ENOENT, libc::ESTALE].contains(&number), "{error}");
                }
            }
        }
        assert!(seen > 0);
    });
}

/// "When `fsync()` has returned 0, or `close()` of a descriptor through which the file was changed, the
/// whole file is in the bucket."
#[test]
fn synced_and_closed_files_are_in_the_bucket() {
    let Some(mount) = Mount::new(&[]) else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"one").unwrap();
    assert_eq!(mount.bucket().keys(), [""; 0]);
    file.sync_all().unwrap();
    assert_eq!(mount.bucket().head("f").size, 3);
    file.write_all(b"two").unwrap();
    file.sync_data().unwrap();
    assert_eq!(mount.bucket().head("f").size, 6);
    file.write_all(b"three").unwrap();
    drop(file);
    assert_eq!(mount.bucket().head("f").size, 11);
}

/// "`ossvault umount` returns when the daemon has ended, with the daemon's exit code." "If the upload
/// failed, the call returns the error. The data then stays staged and visible in the mount, and the upload
/// is retried with increasing delays until it succeeds, the file is unlinked, or the unmount reports it."
/// "The exit code is 0 if everything is in the bucket; otherwise it is 40, and the message and the log name
/// the files that are not."
#[test]
fn a_failed_upload_is_reported_and_retried() {
    let Some(mut mount) = Mount::served(&[]) else {
        return;
    };
    mount.instruments().add_fault(refuse(Operation::PutObject));
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"precious").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EACCES);
    drop(file);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"precious");
    mount.instruments().clear_faults();
    let bucket = mount.bucket();
    eventually("it is tried again", || bucket.keys() == ["f"]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"precious");

    mount.instruments().add_fault(refuse(Operation::PutObject));
    fs::write(mount.path("unlinked"), "x").unwrap_or_default();
    fs::remove_file(mount.path("unlinked")).unwrap();
    fs::write(mount.path("unsaved"), "x").unwrap_or_default();
    let (code, message) = mount.try_unmount(&[]);
    assert_eq!(code, Some(40), "{message}");
    for text in [message, mount.log()] {
        assert!(
            text.contains("unsaved") && !text.contains("unlinked\" could"),
            "{text}"
        );
    }
}

/// "If the descriptor was duplicated, only the close of the last copy uploads: shells duplicate descriptors
/// before they write."
#[test]
fn an_empty_file_waits_for_its_last_writer() {
    let Some(mount) = Mount::served(&[]) else {
        return;
    };
    let file = File::create(mount.path("f")).unwrap();
    drop(file.try_clone().unwrap());
    assert_eq!(mount.instruments().counts().of(Operation::PutObject), 0);
    drop(file);
    let bucket = mount.bucket();
    eventually("it is published", || bucket.keys() == ["f"]);
    mount.instruments().reset_counts();
    shell(mount.root(), "echo x > g");
    assert_eq!(mount.instruments().counts().of(Operation::PutObject), 1);
    // A reader does not delay it.
    let reader = File::open(mount.path("g")).unwrap();
    shell(mount.root(), ": > g");
    eventually("it is emptied", || bucket.head("g").size == 0);
    drop(reader);
}

/// "A new file under a temporary name that a known tool will rename (rsync's `.NAME.XXXXXX`, git's
/// `tmp_obj_*` and `*.lock`, `NAME.XXXXXX`, `*.tmp`, `.goutputstream-*`, and others) is uploaded when it is
/// renamed, under the final name. `rename()` returns the upload's error. The upload no longer waits for the
/// rename after `fsync()` of the file or its directory, after `--rename-grace` seconds (5), or at unmount."
/// "GLib calls `fsync()` right before it renames a `.goutputstream-*`, so that such a file still waits for
/// its rename."
#[test]
fn temporary_names_wait_for_their_rename() {
    let Some(mut mount) = Mount::served(&["--rename-grace", "1s"]) else {
        return;
    };
    let create = |name: &str| {
        let path = mount.path(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.write_all(b"text").unwrap();
        file
    };
    let puts = || mount.instruments().counts().of(Operation::PutObject);
    for (temporary, name) in [
        (".file.Ab3dE6", "file"),
        ("tmp_obj_Ab3dE6", "0123"),
        ("config.lock", "config"),
        (".goutputstream-Ab3dE6", "text"),
    ] {
        let before = puts();
        drop(create(temporary));
        assert_eq!(puts(), before, "{temporary}");
        fs::rename(mount.path(temporary), mount.path(name)).unwrap();
        assert_eq!(puts(), before + 1, "{temporary}");
        assert_eq!(mount.bucket().head(name).size, 4);
    }
    // As g_file_replace() does.
    let before = puts();
    create(".goutputstream-W9K3E1").sync_all().unwrap();
    assert_eq!(puts(), before);
    fs::rename(mount.path(".goutputstream-W9K3E1"), mount.path("text")).unwrap();
    assert_eq!(puts(), before + 1);
    assert_eq!(mount.bucket().head("text").size, 4);
    drop(create(".failing.Ab3dE6"));
    mount.instruments().add_fault(refuse(Operation::PutObject));
    let renamed = fs::rename(mount.path(".failing.Ab3dE6"), mount.path("failing"));
    assert_eq!(errno(renamed), libc::EACCES);
    mount.instruments().clear_faults();
    assert_eq!(fs::read(mount.path(".failing.Ab3dE6")).unwrap(), b"text");
    fs::remove_file(mount.path(".failing.Ab3dE6")).unwrap();

    let before = puts();
    create(".synced.Ab3dE6").sync_all().unwrap();
    assert_eq!(puts(), before + 1);
    drop(create(".beside.Ab3dE6"));
    File::open(mount.root()).unwrap().sync_all().unwrap();
    assert_eq!(mount.bucket().head(".beside.Ab3dE6").size, 4);
    drop(create(".left.Ab3dE6"));
    let bucket = mount.bucket();
    eventually("nobody renames it", || {
        bucket.keys().contains(&".left.Ab3dE6".to_owned())
    });
    drop(create(".last.Ab3dE6"));
    mount.unmount();
    assert_eq!(mount.bucket().head(".last.Ab3dE6").size, 4);
}

/// "Times that are set on a directory created by this mount are visible at once and stored within a
/// second." "Other attributes that are set in the meantime are stored with them." "`fsync()` of the
/// directory and unmount store them at once." "A change in a directory updates its times at once, until the
/// mount ends; the times are stored when they are set."
#[test]
fn times_of_a_new_directory_are_stored_a_little_later() {
    let Some(mut mount) = Mount::served(&[]) else {
        return;
    };
    let path = mount.path("d");
    fs::create_dir(&path).unwrap();
    let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let set = |seconds| {
        let times = fs::FileTimes::new().set_modified(time(seconds));
        File::open(&path).unwrap().set_times(times).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), seconds as i64);
    };
    let stored = |mount: &Mount| {
        let user = mount.bucket().head("d/").headers.user;
        (user.get("mtime").cloned(), user["mode"].clone())
    };
    let expected = |seconds: u64, mode: u32| {
        let mode = libc::S_IFDIR | mode;
        (Some(seconds.to_string()), mode.to_string())
    };
    let mode_before = mode(&path);
    set(1000);
    eventually("it is stored", || {
        stored(&mount) == expected(1000, mode_before)
    });
    // As tar and rsync do.
    let make = || {
        mount.instruments().reset_counts();
        let changes = || {
            let counts = mount.instruments().counts();
            counts.of(Operation::CopyObject) + counts.of(Operation::PutObject)
        };
        set(2000);
        set_mode(&path, 0o700);
        assert_eq!(mode(&path), 0o700);
        set(2000);
        let waiting = changes();
        File::open(&path).unwrap().sync_all().unwrap();
        assert_eq!(stored(&mount), expected(2000, 0o700));
        (waiting, changes())
    };
    // Unless more than a second passes in between.
    let all_wait = |(waiting, stored)| waiting == 0 && stored <= 1;
    assert!((0..5).any(|_| all_wait(make())), "three changes wait");
    set(3000);
    File::open(&path).unwrap().sync_all().unwrap();
    assert_eq!(stored(&mount), expected(3000, 0o700));

    fs::write(path.join("f"), "x").unwrap();
    assert!(fs::metadata(&path).unwrap().mtime() > 1_000_000_000);
    assert_eq!(stored(&mount), expected(3000, 0o700));
    set(4000);
    mount.remount(&[]);
    assert_eq!(stored(&mount), expected(4000, 0o700));
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 4000);
    // Also for a directory that others, or an earlier mount, have created.
    set(5000);
    assert_eq!(stored(&mount), expected(5000, 0o700));
}

/// "With `--flush-after SECONDS`, a file that has been open with changes for that long is uploaded as a
/// consistent snapshot."
#[test]
fn files_that_stay_open_are_uploaded_periodically() {
    let Some(mount) = Mount::new(&["--flush-after", "1s"]) else {
        return;
    };
    let mut file = File::create(mount.path("log")).unwrap();
    file.write_all(b"one line\n").unwrap();
    let bucket = mount.bucket();
    eventually("it is published", || bucket.keys() == ["log"]);
    file.write_all(b"another\n").unwrap();
    drop(file);
    assert_eq!(fs::read(mount.path("log")).unwrap(), b"one line\nanother\n");
}

/// "If the daemon is killed, staged data that was not acknowledged is lost. Acknowledged data is complete."
#[test]
fn a_crash_loses_only_what_was_not_acknowledged() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    let bytes = pattern(3_000_000, 4);
    fs::write(mount.path("closed"), &bytes).unwrap();
    let mut half = File::create(mount.path("half")).unwrap();
    half.write_all(&bytes).unwrap();
    let over = OpenOptions::new()
        .write(true)
        .open(mount.path("closed"))
        .unwrap();
    over.write_all_at(b"not acknowledged", 5).unwrap();
    mount.kill();
    drop((half, over));
    mount.start_again(&[]);
    assert_eq!(names(mount.root()), ["closed"]);
    assert!(fs::read(mount.path("closed")).unwrap() == bytes);
    assert_eq!(
        names(&mount.beside("cache")),
        [""; 0],
        "nothing is left behind"
    );
}

// ---- What readers see ----

/// "All reads through one open file come from one version of it, and so do its size and its attributes. If
/// the object is replaced in the meantime, a descriptor that has returned data gets ESTALE for everything
/// that is not cached; one that has returned none switches to the new version, unless its size differs from
/// the size that programs may have seen. The next `open()` finds the new version."
#[test]
fn one_open_file_is_one_version() {
    let Some(mut mount) = Mount::new(&["--memory-limit", "16M"]) else {
        return;
    };
    let (old, new) = (vec![b'o'; 40 << 20], vec![b'n'; 40 << 20]);
    fs::write(mount.path("f"), &old).unwrap();
    mount.remount(&["--memory-limit", "16M"]);
    let other = mount.second(AT_ONCE);
    let begun = File::open(mount.path("f")).unwrap();
    let mut block = [0; 4096];
    begun.read_exact_at(&mut block, 0).unwrap();
    let fresh = File::open(mount.path("f")).unwrap();
    fs::write(other.path("f"), &new).unwrap();
    let mut stale = false;
    for at in (0..40u64 << 20).step_by(1 << 20) {
        match begun.read_exact_at(&mut block, at) {
            Ok(()) => assert!(block.iter().all(|byte| *byte == b'o'), "at {at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
                stale = true;
            }
        }
    }
    assert!(stale);
    drop(begun);
    let mut all = Vec::new();
    match (&fresh).read_to_end(&mut all) {
        Ok(_) => assert!(all == new),
        // Its pages were read ahead through the other descriptor of the inode.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
    drop(fresh);
    thread::sleep(Duration::from_millis(1100));
    assert!(fs::read(mount.path("f")).unwrap() == new);
}

/// "A mount sees its own writes at once." "It sees the writes of other clients after at most
/// `--metadata-ttl` (1 s) for files and `--dir-ttl` (60 s) for the existence of directories. `open()` never
/// serves a version that was replaced longer ago than that."
#[test]
fn changes_by_others_are_seen_in_time() {
    let Some(mount) = Mount::new(&["--dir-ttl", "1s"]) else {
        return;
    };
    let other = mount.second(&["--metadata-ttl", "60s"]);
    let ttl = || thread::sleep(Duration::from_millis(1050));
    let see = |name: &str| fs::read_to_string(mount.path(name));
    // Both have cached it.
    assert!(names(mount.root()).is_empty() && names(other.root()).is_empty());

    fs::write(other.path("f"), "created").unwrap();
    assert_eq!(fs::read_to_string(other.path("f")).unwrap(), "created");
    ttl();
    assert_eq!(see("f").unwrap(), "created");
    fs::write(other.path("f"), "replaced").unwrap();
    ttl();
    assert_eq!(see("f").unwrap(), "replaced");
    set_mode(&other.path("f"), 0o600);
    ttl();
    assert_eq!(mode(&mount.path("f")), 0o600);
    fs::rename(other.path("f"), other.path("g")).unwrap();
    ttl();
    assert_eq!(names(mount.root()), ["g"]);
    fs::remove_file(other.path("g")).unwrap();
    ttl();
    assert_eq!(errno(see("g")), libc::ENOENT);

    // A prefix that appears and disappears, and a directory that becomes a file.
    mount.bucket().put("prefix/inside", "x");
    ttl();
    assert_eq!(names(&mount.path("prefix")), ["inside"]);
    mount.bucket().delete("prefix/inside");
    ttl();
    ttl();
    assert_eq!(errno(fs::metadata(mount.path("prefix"))), libc::ENOENT);
    fs::create_dir(other.path("d")).unwrap();
    ttl();
    assert!(fs::metadata(mount.path("d")).unwrap().is_dir());
    fs::remove_dir(other.path("d")).unwrap();
    fs::write(other.path("d"), "a file").unwrap();
    ttl();
    ttl();
    assert_eq!(see("d").unwrap(), "a file");

    // The kernel caches the target of a link that it has followed.
    let link = |mount: &Mount| fs::read_link(mount.path("link")).unwrap();
    symlink("one", other.path("link")).unwrap();
    ttl();
    assert_eq!(link(&mount).to_str(), Some("one"));
    fs::remove_file(other.path("link")).unwrap();
    symlink("another", other.path("link")).unwrap();
    ttl();
    assert_eq!(link(&mount).to_str(), Some("another"));
}

/// "If the network is down, a call fails with EIO or ETIMEDOUT within `--timeout` (60 s) of the last
/// progress; unrelated calls do not wait for it."
#[test]
fn a_call_ends_when_nothing_responds() {
    let Some(mount) = Mount::served(&["--timeout", "2s", "--metadata-ttl", "60s"]) else {
        return;
    };
    fs::write(mount.path("here"), "x").unwrap();
    let stall = Fault::once(Operation::PutObject, Action::Stall { ms: 20_000 });
    mount
        .instruments()
        .add_fault(stall.on_keys("gone").always());
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            let begun = Instant::now();
            fs::write(mount.path("beside"), "y").unwrap();
            assert_eq!(fs::read(mount.path("here")).unwrap(), b"x");
            assert!(begun.elapsed() < Duration::from_secs(1));
        });
        let mut file = File::create(mount.path("gone")).unwrap();
        file.write_all(b"x").unwrap();
        let number = errno(file.sync_all());
        assert!([libc::EIO, libc::ETIMEDOUT].contains(&number), "{number}");
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(8), "{waited:?}");
    });
    mount.instruments().clear_faults();
    fs::remove_file(mount.path("gone")).unwrap();
}

// ---- Names ----

/// "A file is the object whose key is the mount's prefix followed by the file's path. A directory that was
/// created is an empty object whose key ends with `/`, its marker; a common prefix of keys is also a
/// directory. If a name is both a file and a directory, the directory is shown." "Keys that are not a valid
/// path (`//`, `.`, `..`, a leading `/`) or not UTF-8 are hidden."
#[test]
fn keys_are_paths() {
    let Some(mut mount) = Mount::new(&["--prefix", "some/prefix"]) else {
        return;
    };
    fs::create_dir(mount.path("d")).unwrap();
    fs::write(mount.path("d/f"), "x").unwrap();
    let bucket = mount.bucket();
    assert_eq!(bucket.keys(), ["some/prefix/d/", "some/prefix/d/f"]);
    assert_eq!(bucket.head("some/prefix/d/").size, 0);
    for key in [
        "p/below",
        "both",
        "both/below",
        "e//f",
        "e/./f",
        "e/../f",
        "e/g",
        "beside",
    ] {
        bucket.put(&format!("some/prefix/{key}"), "x");
    }
    bucket.put("some/prefix//f", "x");
    bucket.put("some/prefixed", "x");
    drop(bucket);
    mount.remount(&["--prefix", "some/prefix/"]);
    assert_eq!(names(mount.root()), ["beside", "both", "d", "e", "p"]);
    assert!(fs::metadata(mount.path("both")).unwrap().is_dir());
    assert_eq!(names(&mount.path("both")), ["below"]);
    assert_eq!(names(&mount.path("e")), ["g"]);
    assert_eq!(names(&mount.path("p")), ["below"]);
}

// ---- Operations ----

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
    let public = include_str!("../vectors/keys/rsa2048.pub.spki.pem");
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

// ---- What ossvault does not do ----

/// "The exception is a change of part of a file of more than 8 MiB, which keeps the rest of it: it fails
/// with ESTALE if another client has replaced the file."
#[test]
fn a_partial_change_never_mixes_two_versions() {
    for (len, expected) in [(7 << 20, None), (9 << 20, Some(libc::ESTALE))] {
        let Some(mut mount) = Mount::new(&[]) else {
            return;
        };
        fs::write(mount.path("f"), vec![b'o'; len]).unwrap();
        mount.remount(&[]);
        let other = mount.second(AT_ONCE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(mount.path("f"))
            .unwrap();
        file.write_all_at(b"changed", 1000).unwrap();
        fs::write(other.path("f"), vec![b'n'; len]).unwrap();
        let synced = file.sync_all();
        assert_eq!(
            synced.err().and_then(|error| error.raw_os_error()),
            expected
        );
        drop(file);
        let seen = fs::read(other.path("f")).unwrap();
        let mut whole = vec![b'n'; len];
        if expected.is_none() {
            whole.fill(b'o');
            whole[1000..1007].copy_from_slice(b"changed");
        }
        assert!(seen == whole);
        fs::remove_file(mount.path("f")).unwrap();
    }
}

/// "Upload on `sync()` and `syncfs()`: only `fsync()` does."
#[test]
fn only_fsync_uploads() {
    let Some(mount) = Mount::new(&[]) else { return };
    let mut file = File::create(mount.path("f")).unwrap();
    file.write_all(b"text").unwrap();
    checked(unsafe { libc::syncfs(file.as_raw_fd()) }).unwrap();
    let root = File::open(mount.root()).unwrap();
    checked(unsafe { libc::syncfs(root.as_raw_fd()) }).unwrap();
    assert_eq!(mount.bucket().keys(), [""; 0]);
    file.sync_all().unwrap();
    assert_eq!(mount.bucket().keys(), ["f"]);
}

/// "If two mounts write one file at the same time, the last upload wins, as a whole."
#[test]
fn of_two_writers_the_last_one_wins() {
    let Some(mount) = Mount::new(&[]) else { return };
    let other = mount.second(&[]);
    fs::write(mount.path("f"), "before").unwrap();
    thread::sleep(Duration::from_millis(1100));
    let open = |mount: &Mount| {
        OpenOptions::new()
            .write(true)
            .open(mount.path("f"))
            .unwrap()
    };
    let (here, there) = (open(&mount), open(&other));
    here.write_all_at(b"HERE", 0).unwrap();
    there.write_all_at(b"WHERE", 1).unwrap();
    drop(here);
    drop(there);
    thread::sleep(Duration::from_millis(1100));
    for mount in [&mount, &other] {
        assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "bWHERE");
    }
}
