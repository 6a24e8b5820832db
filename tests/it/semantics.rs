//! docs/semantics.md, sentence by sentence, on real mounts. What `mount.rs` shows is not shown again.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ossvault::server::call::Operation;
use ossvault::server::instruments::{Action, Fault};

use super::support::*;

/// As another client, one that looks every time.
const AT_ONCE: &[&str] = &["--metadata-ttl", "0", "--dir-ttl", "0"];

fn refuse(operation: Operation) -> Fault {
    let action = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    Fault::once(operation, action).always()
}

// ---- Security ----

/// "Contents and symbolic link targets are encrypted, and so are the names and values of extended
/// attributes."
/// "ossvault writes nothing in plaintext: not to the bucket, the cache directory, a log or a core file."
#[test]
fn nothing_is_written_in_plaintext() {
    let options = ["--memory-limit", "16M", "-v", "-v"];
    let Some(mut mount) = Mount::new(&options) else {
        return;
    };
    // Long enough to be no accident, and in no name.
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
    // Also what is staged, and not uploaded.
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

/// "An object without a whole, valid envelope is never served as a file's content: opening or reading it
/// gives EIO, the log says why, and everything beside it works. With `--allow-plaintext PREFIX`,
/// unencrypted objects under that prefix are served read-only, with mode 0444."
#[test]
fn what_has_no_envelope_is_not_served() {
    let Some(mut mount) = Mount::new(AT_ONCE) else {
        return;
    };
    fs::write(mount.path("good"), "good").unwrap();
    mount.bucket().put("bad", "plain");
    mount.bucket().put("open/plain", "plain text");
    assert_eq!(names(mount.root()), ["bad", "good", "open"]);
    assert_eq!(errno(fs::read(mount.path("bad"))), libc::EIO);
    assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
    assert!(mount.log().contains("bad"), "{}", mount.log());
    mount.remount(&["--allow-plaintext", "open/"]);
    assert_eq!(errno(fs::read(mount.path("bad"))), libc::EIO);
    assert_eq!(fs::read(mount.path("open/plain")).unwrap(), b"plain text");
    assert_eq!(mode(&mount.path("open/plain")), 0o444);
}

// ---- When a file is in the bucket ----

/// "A file's object appears, or is replaced, only whole. Nobody ever sees half a file, a stub, or two
/// versions mixed."
#[test]
fn nobody_sees_half_a_file() {
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

/// "When `fsync()`, or `close()` of a descriptor through which the file was changed, returned 0, the whole
/// file is in the bucket."
#[test]
fn what_was_synced_or_closed_is_in_the_bucket() {
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

/// "If the upload failed, they return the error. The bytes then stay staged and visible in the mount, and
/// are tried again with growing pauses until they are up, unlinked, or reported at unmount."
/// "The exit code is 0 if all of it is in the bucket; otherwise it is 40, and the message and the log name
/// what is not."
#[test]
fn a_failed_upload_is_reported_and_tried_again() {
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

/// "A new file, or one that was emptied by opening it, is published when its last writer closes it if it is
/// still empty then."
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
    // A reader does not hold it up.
    let reader = File::open(mount.path("g")).unwrap();
    shell(mount.root(), ": > g");
    eventually("it is emptied", || bucket.head("g").size == 0);
    drop(reader);
}

/// "A new file under a temporary name that a known tool will rename (rsync's `.NAME.XXXXXX`, git's
/// `tmp_obj_*` and `*.lock`, `.goutputstream-*`, and others) is uploaded at its rename, under the final
/// name. `rename()` returns the upload's error. `fsync()` of the file or its directory, `--rename-grace`
/// seconds (5) without a rename, and unmount end the waiting."
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

/// "With `--flush-after SECONDS`, files that are kept open and changed that long are published as they are
/// at one moment."
#[test]
fn files_that_stay_open_are_published_now_and_then() {
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

/// "What was staged and not acknowledged is lost when the daemon is killed. What had been acknowledged is
/// whole."
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

// ---- What one sees ----

/// "Reads through one open file come from one version of it. If the object is replaced meanwhile, a
/// descriptor that has returned bytes gets ESTALE for what it has not cached; one that has returned none
/// moves to the new version."
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
        // Its pages were read ahead by the other descriptor of the inode.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
    drop(fresh);
    thread::sleep(Duration::from_millis(1100));
    assert!(fs::read(mount.path("f")).unwrap() == new);
}

/// "What this mount wrote, it sees at once."
/// "What others wrote, it sees after at most `--metadata-ttl` (1 s) for files and `--dir-ttl` (60 s) for
/// the existence of directories. `open()` never serves a version that was replaced longer ago than that."
#[test]
fn what_others_did_is_seen_in_time() {
    let Some(mount) = Mount::new(&["--dir-ttl", "1s"]) else {
        return;
    };
    let other = mount.second(&["--metadata-ttl", "60s"]);
    let ttl = || thread::sleep(Duration::from_millis(1050));
    let see = |name: &str| fs::read_to_string(mount.path(name));
    // Both have looked.
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

    // A prefix that comes and goes, and a directory that becomes a file.
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

    // The kernel keeps the target of a link that it has followed.
    let link = |mount: &Mount| fs::read_link(mount.path("link")).unwrap();
    symlink("one", other.path("link")).unwrap();
    ttl();
    assert_eq!(link(&mount).to_str(), Some("one"));
    fs::remove_file(other.path("link")).unwrap();
    symlink("another", other.path("link")).unwrap();
    ttl();
    assert_eq!(link(&mount).to_str(), Some("another"));
}

/// "A call ends within `--timeout` (60 s) of the last progress, with EIO or ETIMEDOUT, when the network is
/// gone; nothing unrelated waits for it."
#[test]
fn a_call_ends_when_nothing_answers() {
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

/// "A file is the object whose key is the mount's prefix and the file's path. A directory that was made is
/// an empty object whose key ends with `/`; a common prefix of keys is a directory too. A name that is both
/// shows the directory."
/// "Keys that are no valid path (`//`, `.`, `..`, a leading `/`) are hidden."
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

/// "Any range can be read without fetching the rest of the file."
/// "Renaming a file that exists in the bucket copies it there without its bytes passing through this
/// machine."
#[test]
fn bytes_move_only_when_they_must() {
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
    // A copy within the mount moves none either.
    shell(mount.root(), "cp g h");
    let counts = mount.instruments().counts();
    assert!(counts.bytes_out + counts.bytes_in < 1 << 20, "{counts:?}");
    assert_eq!(counts.of(Operation::CopyObject), 2, "{counts:?}");
    assert_eq!(counts.of(Operation::PutObject), 0, "{counts:?}");
    assert!(fs::read(mount.path("g")).unwrap() == bytes);
    assert!(fs::read(mount.path("h")).unwrap() == bytes);
}

/// "When a file has been read whole and in order, its checksum is compared where the service gave one; the
/// read that completes it gives EIO on a mismatch."
#[test]
fn damage_on_the_way_is_found() {
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

/// "They return when the change is in the bucket. A change that cannot be stored is an error."
/// "Reads do not update the access time."
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

/// "With `--read-only`, every change is EROFS."
#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    fs::write(mount.path("f"), "x").unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    mount.remount(&["--read-only"]);
    assert_eq!(fs::read(mount.path("f")).unwrap(), b"x");
    for (what, result) in [
        ("create", fs::write(mount.path("new"), "x")),
        ("write", fs::write(mount.path("f"), "y")),
        ("mkdir", fs::create_dir(mount.path("new"))),
        ("symlink", symlink("x", mount.path("new"))),
        ("unlink", fs::remove_file(mount.path("f"))),
        ("rmdir", fs::remove_dir(mount.path("d"))),
        ("rename", fs::rename(mount.path("f"), mount.path("g"))),
    ] {
        assert_eq!(errno(result), libc::EROFS, "{what}");
    }
}

/// "Without a private key, opening for reading, `readlink()`, and opening an existing file for writing
/// without O_TRUNC are EACCES. Creating, replacing, listing, renaming and deleting work. After an upload,
/// nothing on this machine can open what was written. While a writer still has the file open, its bytes stay
/// in memory so that it can write on; nobody can read them, and its close drops them."
#[test]
fn a_mount_without_the_private_key_only_writes() {
    let Some(mut mount) = Mount::new(&[]) else {
        return;
    };
    fs::write(mount.path("f"), "text").unwrap();
    symlink("target", mount.path("link")).unwrap();
    let public = include_str!("../vectors/keys/rsa2048.pub.spki.pem");
    fs::write(mount.beside("key.pub"), public).unwrap();
    mount.remount(&["--public-key", "key.pub"]);
    assert_eq!(errno(fs::read(mount.path("f"))), libc::EACCES);
    assert_eq!(errno(fs::read_link(mount.path("link"))), libc::EACCES);
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
    // Each of the two closes what it has inherited, and so uploads what is there by then.
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

/// "`SIGTERM`, `SIGINT` and an unmount from outside upload everything that is pending."
/// "A mount that is in use stays (exit code 15), unless `--lazy` detaches it."
#[test]
fn an_unmount_saves_what_is_pending() {
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

// ---- What we do not do ----

/// "Two mounts that write one file at once: the last upload wins, whole."
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
