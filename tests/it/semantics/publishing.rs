//! docs/semantics.md: When a file is in the bucket.

use super::*;

/// "A file's object appears or is replaced only as a whole. No client ever sees a partial file, a
/// placeholder, or a mix of two versions."
#[test]
fn no_client_sees_a_partial_file() {
    let Some(mount) = Mount::new(&["--part-size", "128K", "--stream-after", "256K"]) else {
        return;
    };
    let other = mount.second(AT_ONCE);
    let done = AtomicBool::new(false);
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..=u8::MAX {
                // On a slow machine, until the reader has come between two replacements.
                if round >= 12 && seen.load(Ordering::Relaxed) > 0 {
                    break;
                }
                let mut file = File::create(mount.path("f")).unwrap();
                for _ in 0..16 {
                    file.write_all(&vec![round; 100_000]).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            match fs::read(other.path("f")) {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), 1_600_000);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "mixed");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let number = error.raw_os_error().unwrap();
                    assert!([libc::ENOENT, libc::ESTALE].contains(&number), "{error}");
                }
            }
        }
    });
    assert!(seen.into_inner() > 0);
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
