//! docs/semantics.md, sentence by sentence, on real mounts. Sentences that `mount.rs` proves are not
//! repeated.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;

use crate::fixture::*;

mod kinds_of_mounts;
mod operations;
mod publishing;
mod readers;
mod security;

/// As another client, without caches.
const AT_ONCE: &[&str] = &["--metadata-ttl", "0", "--dir-ttl", "0"];

fn refuse(operation: Operation) -> Fault {
    let action = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    Fault::once(operation, action).always()
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
