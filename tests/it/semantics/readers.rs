//! docs/semantics.md: What readers see, and Names.

use super::*;

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
