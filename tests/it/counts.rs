//! Costs: requests, counted at the server. The counts are exact, because users wait and pay for requests; a
//! change that increases one of them must justify it.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ossvault::server::instruments::{Action, Counts, Fault};
use ossvault::server::operation::Operation::{self, *};
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::fixture::{
    Rig, bash, can_mount, close, eventually, has_program, noise, read, write_and_close,
};

mod attributes;
mod caching;
mod listings;
mod prefetching;
mod replacing;

pub(crate) use replacing::{rsync, rsync_differences};

/// Long enough that nothing expires while a test runs.
const LASTING: &[&str] = &["--metadata-ttl", "60"];

/// The requests that n files may cost in addition to one each.
fn besides(n: u64) -> u64 {
    n / 50 + 5
}

fn name(i: u64) -> String {
    format!("file-{i:05}")
}

fn content(i: u64) -> Vec<u8> {
    format!("this is the content of file {i}\n").into_bytes()
}

#[track_caller]
fn assert_costs(what: &str, counts: &Counts, expected: &[(Operation, u64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|&(operation, n)| (operation, n))
        .collect();
    let mut found: Vec<_> = counts.requests.iter().map(|(&o, &n)| (o, n)).collect();
    found.retain(|(_, n)| *n > 0);
    found.sort();
    let mut expected = expected;
    expected.sort();
    assert_eq!(found, expected, "{what}");
}

// ---- many small files ----

#[test]
fn new_small_files_cost_one_put_each_and_reading_them_one_get_each() {
    small_files(1000);
}

#[test]
#[ignore = "takes long: scripts/exercise small-files"]
fn five_thousand_new_small_files_cost_one_put_each_and_reading_them_one_get_each() {
    small_files(5000);
}

fn small_files(n: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let written = rig.requests(|| {
        for i in 0..n {
            write_and_close(&mount.path.join(name(i)), &content(i)).unwrap();
        }
    });
    println!("{n} new small files: {:?}", written.requests);
    assert_eq!(written.of(PutObject), n);
    assert!(
        written.others(&[PutObject]) <= besides(n),
        "{:?}",
        written.requests
    );
    mount.end_well();

    let mount = rig.mount("mnt", LASTING);
    let got = rig.requests(|| {
        let mut names: Vec<_> = fs::read_dir(&mount.path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names.len() as u64, n);
        for (i, found) in names.iter().enumerate() {
            assert_eq!(*found, *name(i as u64));
            assert_eq!(read(&mount.path.join(found)).unwrap(), content(i as u64));
        }
    });
    println!("{n} small files read after a listing: {:?}", got.requests);
    assert_eq!(got.of(GetObject), n, "{:?}", got.requests);
    assert!(got.others(&[GetObject]) <= besides(n), "{:?}", got.requests);
    mount.end_well();
}

// ---- one command each ----

#[test]
fn commands_cost_no_more_than_necessary() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls \"$MNT\"; mkdir \"$MNT/full\"");
    for (script, expected) in [
        ("echo x > f", &[(PutObject, 1)][..]),
        ("echo y > f", &[(PutObject, 1)]),
        ("cat f", &[]),
        // It creates the copy with O_EXCL, which is checked in the bucket.
        ("cp f g", &[(ListObjectsV2, 1), (CopyObject, 1)]),
        ("mv g h", &[(CopyObject, 1), (DeleteObject, 1)]),
        ("chmod 600 h", &[(CopyObject, 1)]),
        ("chmod 600 h", &[]),
        ("touch -d 2020-01-01 h", &[(CopyObject, 1)]),
        ("stat h", &[]),
        ("rm h", &[(DeleteObject, 1)]),
        ("touch empty", &[(PutObject, 1)]),
        ("cat empty", &[]),
        ("ln -s f link", &[(PutObject, 1)]),
        ("mkdir d", &[(PutObject, 1)]),
        ("ls d", &[]),
        ("chmod 700 d", &[(CopyObject, 1)]),
        ("echo x > d/f", &[(PutObject, 1)]),
        ("rm d/f", &[(DeleteObject, 1)]),
        ("rmdir d", &[(DeleteObject, 1)]),
        ("test ! -e nothing", &[]),
        // The way editors save.
        (
            "echo new > .f.swp; mv .f.swp f",
            &[(PutObject, 1), (CopyObject, 1), (DeleteObject, 1)],
        ),
        ("sed -i s/new/newer/ f", &[(PutObject, 1)]),
        (
            "head -c 20M /dev/zero > large",
            &[
                (InitiateMultipartUpload, 1),
                (UploadPart, 3),
                (CompleteMultipartUpload, 1),
            ],
        ),
    ] {
        let counts = rig.requests(|| {
            bash(&mount.path, &format!("cd \"$MNT\"; {script}"));
        });
        assert_costs(script, &counts, expected);
    }
    mount.end_well();
    rig.assert_no_unfinished_uploads();
}
