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

// ---- listings ----

/// Objects with only a name, directly in the bucket.
fn put_bare_objects(rig: &Rig, n: u64) {
    rig.block_on(async {
        for i in 0..n {
            let key = ObjectKey::new(name(i)).unwrap();
            let body = Body::from_bytes(vec![0; 10]);
            let headers = ObjectHeaders::default();
            let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
    // Modes and times are cached permanently only once they are two seconds old: the bucket has whole
    // seconds.
    std::thread::sleep(Duration::from_millis(2100));
}

#[test]
fn ls_costs_a_list_per_thousand_names_and_ls_l_a_head_per_file_many_at_once() {
    if !can_mount() {
        return;
    }
    const N: u64 = 2500;
    let rig = Rig::new();
    put_bare_objects(&rig, N);
    let mount = rig.mount("mnt", LASTING);
    let ls = |options: &str| {
        rig.requests(|| {
            let listed = bash(
                &mount.path,
                &format!("ls {options} \"$MNT\" | grep -c file-"),
            );
            assert_eq!(listed.trim(), N.to_string());
        })
    };
    assert_costs(
        "ls of a directory that was never listed",
        &ls(""),
        &[(ListObjectsV2, 3)],
    );
    assert_costs("ls again", &ls(""), &[]);
    rig.instruments().set_latency(Duration::from_millis(10));
    let first = ls("-l");
    assert_costs("ls -l", &first, &[(HeadObject, N)]);
    assert!(
        first.most_in_flight(HeadObject) >= 32,
        "{:?}",
        first.most_in_flight
    );
    rig.instruments().set_latency(Duration::ZERO);
    assert_costs("ls -l again", &ls("-l"), &[]);
    mount.end_well();
}

#[test]
fn names_looked_up_one_after_another_in_a_large_directory_cost_one_request_each() {
    if !can_mount() {
        return;
    }
    const N: u64 = 2500;
    let rig = Rig::new();
    put_bare_objects(&rig, N);
    let mount = rig.mount("mnt", LASTING);
    let looks = rig.requests(|| {
        for i in 0..N {
            assert_eq!(fs::metadata(mount.path.join(name(i))).unwrap().len(), 10);
        }
    });
    println!("{N} names looked up: {:?}", looks.requests);
    assert!(looks.total() <= N + besides(N), "{:?}", looks.requests);
    mount.end_well();
}

/// While a program walks a directory of more than a thousand names, the first `stat()` of each name returns
/// its attributes as listed, which may be as old as one millisecond per name in the directory.
///
/// Regression: when the listing expired during the walk, each following name cost a HEAD and a LIST, one
/// after the other.
#[test]
fn walking_a_directory_costs_a_list_per_thousand_names_and_a_head_each_however_long_it_takes() {
    walk_through(3000);
}

#[test]
fn walking_fifteen_thousand_names_costs_no_more_per_name() {
    walk_through(15_000);
}

fn walk_through(n: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    put_bare_objects(&rig, n);
    // In order, out of order if there are many (find sorts by inode), and all names before the first stat.
    for walk in [
        "ls -l \"$MNT\" | grep -c file-",
        "find \"$MNT\" -type f -size +1c | wc -l",
        "python3 -c 'import os, sys\nfor name in os.listdir(sys.argv[1]): print(os.stat(sys.argv[1] + \"/\" + name).st_size)' \"$MNT\" | wc -l",
    ] {
        if walk.starts_with("python3") && !has_program("python3") {
            continue;
        }
        let mount = rig.mount("mnt", &["--metadata-ttl", "0.2"]);
        rig.instruments().set_latency(Duration::from_millis(20));
        let began = Instant::now();
        let mut took = Duration::ZERO;
        let counts = rig.requests(|| {
            assert_eq!(bash(&mount.path, walk).trim(), n.to_string(), "{walk}");
            took = began.elapsed();
        });
        rig.instruments().set_latency(Duration::ZERO);
        println!("{n} names, {walk}: {took:.1?}, {:?}", counts.requests);
        let heads = counts.of(HeadObject);
        assert!(heads <= n + besides(n), "{walk}: {:?}", counts.requests);
        // On a slow machine some pages expire before their names are looked up.
        let lists = counts.of(ListObjectsV2);
        assert!(lists <= n / 1000 * 2 + 5, "{walk}: {:?}", counts.requests);
        // find asks for the type of the file system, and with it for its size: once in five minutes.
        assert!(counts.of(GetBucketStat) <= 1);
        let others = counts.others(&[HeadObject, ListObjectsV2, GetBucketStat]);
        assert_eq!(others, 0, "{walk}: {:?}", counts.requests);
        mount.end_well();
    }
}

/// Regression: a listing that took longer than its TTL was repeated again and again, and was never used.
#[test]
fn a_new_file_in_a_directory_too_large_to_list_in_time_costs_a_list_and_a_put() {
    if !can_mount() {
        return;
    }
    const N: u64 = 6000;
    const MADE: u64 = 20;
    let rig = Rig::new();
    put_bare_objects(&rig, N);
    rig.block_on(async {
        // A directory and an object, among names with the same beginning.
        for key in ["like-1", "like/x", "like-2", "one", "one-more"] {
            let (key, headers) = (ObjectKey::new(key).unwrap(), ObjectHeaders::default());
            let put = rig
                .store
                .put(&key, &headers, Body::empty(), Overwrite::Allowed);
            put.await.unwrap();
        }
    });
    let mount = rig.mount("mnt", &["--metadata-ttl", "1"]);
    // Seven pages take longer than half of the TTL.
    rig.instruments().set_latency(Duration::from_millis(100));
    let make = |what: &str| {
        for i in 0..MADE {
            write_and_close(&mount.path.join(format!("{what}-{i:03}")), b"x").unwrap();
        }
    };
    make("first");
    let counts = rig.requests(|| make("second"));
    println!("{MADE} new files among {N}: {:?}", counts.requests);
    assert_costs(
        "one after the other",
        &counts,
        &[(PutObject, MADE), (ListObjectsV2, MADE)],
    );
    // Existing names are still found, also right after a name that does not exist.
    let kind = |name: &str| {
        assert!(!mount.path.join("third").exists());
        fs::metadata(mount.path.join(name)).map(|meta| meta.is_dir())
    };
    assert!(kind("like").unwrap());
    assert!(!kind("one").unwrap());
    assert!(!kind(&name(4321)).unwrap());
    assert!(kind("file-0").is_err(), "thousands of names begin like it");
    rig.instruments().set_latency(Duration::ZERO);
    mount.end_well();
}

#[test]
fn ls_l_of_an_unchanged_directory_costs_only_the_lists() {
    if !can_mount() {
        return;
    }
    const N: u64 = 1000;
    let rig = Rig::new();
    put_bare_objects(&rig, N);
    let mount = rig.mount("mnt", &["--metadata-ttl", "2"]);
    let ls = || {
        rig.requests(|| {
            let listed = bash(&mount.path, "ls -l \"$MNT\" | grep -c file-");
            assert_eq!(listed.trim(), N.to_string());
        })
    };
    // On a slow machine the TTL may expire in the meantime, and a few are requested twice.
    let first = ls();
    let heads = first.of(HeadObject);
    assert!(
        (N..=N + besides(N)).contains(&heads),
        "{:?}",
        first.requests
    );
    std::thread::sleep(Duration::from_millis(2100));
    let again = ls();
    println!("ls -l after the TTL: {:?}", again.requests);
    assert_one_list(&again);
    mount.end_well();
}

/// One page, and one more for each time that it expired in the meantime.
#[track_caller]
fn assert_one_list(counts: &Counts) {
    assert_eq!(counts.others(&[ListObjectsV2]), 0, "{:?}", counts.requests);
    let lists = counts.of(ListObjectsV2);
    assert!((1..=3).contains(&lists), "{:?}", counts.requests);
}

fn write_tree(root: &Path, folders: u64, files: u64) {
    for folder in 0..folders {
        let folder = root.join(format!("tree/folder-{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for i in 0..files {
            write_and_close(&folder.join(name(i)), &content(i)).unwrap();
        }
    }
}

/// Calls stat on all files of a tree.
#[track_caller]
fn walk_tree(root: &Path, files: u64) {
    let found = bash(root, "find \"$MNT\" -type f -size +1c | wc -l");
    assert_eq!(found.trim(), files.to_string());
}

/// Twelve directories of five files, which a program walks again and again.
#[test]
fn an_expired_small_tree_costs_one_list_and_not_one_per_directory() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--metadata-ttl", "3"]);
    write_tree(&mount.path, 12, 5);
    let walk = || rig.requests(|| walk_tree(&mount.path, 60));
    walk();
    std::thread::sleep(Duration::from_millis(3100));
    let again = walk();
    println!("a walk after the TTL: {:?}", again.requests);
    assert_one_list(&again);
    mount.end_well();
}

/// A tree that has not been visited before: everything is requested once, and before the program waits for
/// it.
#[test]
fn a_first_walk_through_a_tree_costs_a_list_and_a_head_per_directory_and_a_head_per_file() {
    if !can_mount() {
        return;
    }
    const FOLDERS: u64 = 10;
    const FILES: u64 = 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    write_tree(&mount.path, FOLDERS, FILES);
    mount.end_well();
    let mount = rig.mount("mnt", LASTING);
    rig.instruments().set_latency(Duration::from_millis(20));
    let walk = rig.requests(|| walk_tree(&mount.path, FOLDERS * FILES));
    rig.instruments().set_latency(Duration::ZERO);
    println!("a first walk: {:?}", walk.requests);
    let directories = FOLDERS + 2;
    assert_eq!(walk.of(ListObjectsV2), directories, "{:?}", walk.requests);
    // The root has no marker.
    assert_eq!(
        walk.of(HeadObject) + walk.of(GetObject),
        FOLDERS * FILES + directories - 1,
        "{:?}",
        walk.requests
    );
    // As above, of find.
    assert!(walk.of(GetBucketStat) <= 1);
    let others = walk.others(&[ListObjectsV2, HeadObject, GetObject, GetBucketStat]);
    assert_eq!(others, 0, "{:?}", walk.requests);
    let at_once = walk
        .most_in_flight(HeadObject)
        .max(walk.most_in_flight(GetObject));
    assert!(at_once >= 8, "{at_once}");
    mount.end_well();
}

#[test]
fn mounting_and_the_first_ls_cost_at_most_four_requests() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    write_and_close(&mount.path.join("a"), b"a").unwrap();
    mount.end_well();
    let mut mounted = None;
    let counts = rig.requests(|| {
        let mount = rig.mount("mnt", LASTING);
        assert_eq!(bash(&mount.path, "ls \"$MNT\""), "a\n");
        mounted = Some(mount);
    });
    println!("mount and ls: {:?}", counts.requests);
    assert!(counts.total() <= 4, "{:?}", counts.requests);
    mounted.unwrap().end_well();
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

// ---- attributes ----

/// Sets every attribute to its current value: mode, owner, times, an extended attribute and, for a file, the
/// size.
#[track_caller]
fn set_what_is_so(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    fs::set_permissions(path, meta.permissions()).unwrap();
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(meta.modified().unwrap())
        .set_accessed(meta.accessed().unwrap());
    fs::File::open(path).unwrap().set_times(times).unwrap();
    set_xattr(path, "user.same", b"value");
    if meta.is_file() {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let cut = unsafe { libc::truncate(name.as_ptr(), meta.len() as i64) };
        assert_eq!(cut, 0, "{}", std::io::Error::last_os_error());
    }
}

#[track_caller]
fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    let set = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// "A call that changes nothing is not stored; the change time that it updates is shown until the mount
/// ends."
///
/// Regression: chmod of a 0644 file to 0644, chown to the same owner and the same times again cost a copy
/// each, which desktops, rsync and build tools do all the time.
#[test]
fn setting_attributes_to_what_they_are_costs_nothing() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    // (the kind, how it was created, its path)
    const SUBJECTS: &[(&str, &str)] = &[
        ("a file", "f"),
        ("a directory", "d"),
        ("a file in it", "d/f"),
        ("the root", ""),
    ];
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "cd $MNT; echo x > f; mkdir d; echo y > d/f");
    for (_, name) in SUBJECTS {
        let path = mount.path.join(name);
        // Once: this stores values that were never set, and deferred ones.
        set_what_is_so(&path);
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
    for (what, name) in SUBJECTS {
        let path = mount.path.join(name);
        let before = fs::metadata(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_costs(what, &rig.requests(|| set_what_is_so(&path)), &[]);
        let after = fs::metadata(&path).unwrap();
        let ctime = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec());
        assert!(
            ctime(&after) > ctime(&before),
            "{what}: the time of change moves"
        );
        assert_eq!(
            after.modified().unwrap(),
            before.modified().unwrap(),
            "{what}"
        );
    }
    mount.end_well();
    // In a mount that did not create it, and has looked it up.
    let mount = rig.mount("mnt", LASTING);
    for (what, name) in SUBJECTS {
        let path = mount.path.join(name);
        fs::metadata(&path).unwrap();
        let counts = rig.requests(|| set_what_is_so(&path));
        assert_eq!(counts.of(CopyObject), 0, "{what}: {:?}", counts.requests);
        assert_eq!(counts.of(PutObject), 0, "{what}: {:?}", counts.requests);
    }
    mount.end_well();
}

#[test]
fn setting_attributes_to_what_they_are_costs_nothing_while_the_file_is_open_or_pending() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    // Open, and clean.
    let path = mount.path.join("open");
    write_and_close(&path, b"x").unwrap();
    set_what_is_so(&path);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let counts = rig.requests(|| {
        set_what_is_so(&path);
        close(file).unwrap();
    });
    assert_costs("an open file", &counts, &[]);
    // Changed: its upload includes the new attributes, once. A HEAD checks that the base of the append is
    // still there.
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    let counts = rig.requests(|| {
        file.write_all(b"y").unwrap();
        set_what_is_so(&path);
        close(file).unwrap();
    });
    let expected = [(PutObject, 1), (HeadObject, 1)];
    assert_costs("a changed file", &counts, &expected);
    // Under a temporary name, waiting for its rename.
    let path = mount.path.join(".waiting.a1B2c3");
    let mut file = fs::File::create_new(&path).unwrap();
    let counts = rig.requests(|| {
        file.write_all(b"y").unwrap();
        close(file).unwrap();
        set_what_is_so(&path);
        fs::rename(&path, mount.path.join("renamed")).unwrap();
        set_what_is_so(&mount.path.join("renamed"));
    });
    assert_costs("a pending file", &counts, &[(PutObject, 1)]);
    mount.end_well();
}

#[test]
fn copies_that_keep_attributes_cost_one_copy_besides_the_content() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let source = rig.path("source");
    fs::write(&source, noise(1, 20_000)).unwrap();
    bash(&source, "chmod 640 $MNT; touch -d 2020-01-01 $MNT");
    bash(
        &mount.path,
        &format!("cd $MNT; ls; cp -a {} f", source.display()),
    );
    // cp -a within the mount: content, then owner, mode and times through the open descriptor.
    let copied = rig.requests(|| drop(bash(&mount.path, "cp -a $MNT/f $MNT/g")));
    println!("cp -a within the mount: {:?}", copied.requests);
    // cp creates its file with O_EXCL, which is checked at the service.
    assert_costs("cp -a", &copied, &[(ListObjectsV2, 1), (CopyObject, 2)]);
    // From outside, the upload includes them.
    let line = format!("cp -a {} $MNT/h", source.display());
    let copied = rig.requests(|| drop(bash(&mount.path, &line)));
    assert_costs(
        "cp -a from outside",
        &copied,
        &[(ListObjectsV2, 1), (PutObject, 1)],
    );
    // As desktops paste: write and close, then set the mode, which is the same already, and the times.
    let path = mount.path.join("pasted");
    let pasted = rig.requests(|| {
        write_and_close(&path, &noise(2, 5000)).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, mode).unwrap();
        let times = fs::FileTimes::new()
            .set_modified(SystemTime::UNIX_EPOCH)
            .set_accessed(SystemTime::UNIX_EPOCH);
        fs::File::open(&path).unwrap().set_times(times).unwrap();
    });
    assert_costs("a paste", &pasted, &[(PutObject, 1), (CopyObject, 1)]);
    mount.end_well();
    let mount = rig.mount("other", LASTING);
    for name in ["g", "h"] {
        let meta = fs::metadata(mount.path.join(name)).unwrap();
        let expected = fs::metadata(&source).unwrap();
        assert_eq!(meta.mode(), expected.mode(), "{name}");
        assert_eq!(meta.mtime(), expected.mtime(), "{name}");
    }
    mount.end_well();
}

/// "Attributes that a program sets on a file it has open for writing are stored by its `close()` or
/// `fsync()`, which return the error."
#[test]
fn attributes_set_on_a_file_being_written_are_stored_or_refused_at_its_close() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let path = mount.path.join("f");
    write_and_close(&path, b"x").unwrap();
    let stored_time = || {
        let head = rig.block_on(rig.store.head(&ObjectKey::new("f").unwrap()));
        head.unwrap().headers.user["mtime"].clone()
    };
    let at = |seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::FileTimes::new().set_modified(time)
    };
    let open = || fs::File::options().write(true).open(&path).unwrap();
    // Visible at once; stored by the close, by fsync, and by changes of other programs.
    let file = open();
    file.set_times(at(1000)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mtime(), 1000);
    assert_ne!(stored_time(), "1000");
    close(file).unwrap();
    assert_eq!(stored_time(), "1000");
    let file = open();
    file.set_times(at(2000)).unwrap();
    file.sync_all().unwrap();
    assert_eq!(stored_time(), "2000");
    file.set_times(at(3000)).unwrap();
    bash(&path, "chmod 600 $MNT");
    assert_eq!(stored_time(), "3000");
    // A later write takes precedence.
    file.set_times(at(4000)).unwrap();
    file.write_all_at(b"y", 0).unwrap();
    close(file).unwrap();
    let written: f64 = stored_time().parse().unwrap();
    assert!(written > 1e9, "{written}");
    // Refused.
    let file = open();
    file.set_times(at(5000)).unwrap();
    let refused = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    rig.fault(Fault::once(CopyObject, refused).always());
    let error = close(file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    rig.instruments().clear_faults();
    eventually("nothing has changed", || {
        fs::metadata(&path).unwrap().mtime() as f64 == written.floor()
    });
    mount.end_well();
}

/// "Attributes that are set on a file under a temporary name wait for its rename as well."
///
/// Regression: a file larger than a part was uploaded under its temporary name, and copied there once for
/// each of its attributes before it was copied to its final name.
#[test]
fn rsync_of_a_large_file_costs_its_upload_and_one_copy() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), noise(1, 3 << 20)).unwrap();
    bash(
        &source,
        "cd $MNT; chmod 640 large; touch -d 2020-01-01 large",
    );
    let options = [LASTING, &["--part-size", "1M"]].concat();
    let mount = rig.mount("mnt", &options);
    bash(&mount.path, "ls $MNT");
    let counts = rig.requests(|| rsync(&source, &mount.path.join("copy"), &[]));
    println!("rsync -a of a large file: {:?}", counts.requests);
    assert_eq!(counts.of(UploadPart), 3, "{:?}", counts.requests);
    assert_eq!(counts.of(DeleteObject), 1, "{:?}", counts.requests);
    // One of them is for the directory.
    assert!(counts.of(CopyObject) <= 2, "{:?}", counts.requests);
    let stored = rig.block_on(rig.store.head(&ObjectKey::new("copy/large").unwrap()));
    let user = stored.unwrap().headers.user;
    assert_eq!(user["mode"], (libc::S_IFREG | 0o640).to_string());
    mount.end_well();
    let mount = rig.mount("other", &options);
    assert_eq!(rsync_differences(&source, &mount.path.join("copy")), "");
    mount.end_well();
}

/// "A directory is renamed by copying its contents; other clients may see it partly moved."
#[test]
fn renaming_a_directory_of_a_hundred_files_costs_a_copy_each_and_five_more() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    fs::create_dir(mount.path.join("old")).unwrap();
    for i in 0..100 {
        write_and_close(&mount.path.join("old").join(name(i)), &content(i)).unwrap();
    }
    let counts = rig.requests(|| {
        fs::rename(mount.path.join("old"), mount.path.join("new")).unwrap();
    });
    println!("renaming a directory of 100 files: {:?}", counts.requests);
    assert!(counts.total() <= 105, "{:?}", counts.requests);
    for i in 0..100 {
        assert_eq!(
            read(&mount.path.join("new").join(name(i))).unwrap(),
            content(i)
        );
    }
    mount.end_well();
    assert!(
        rig.keys().iter().all(|key| key.starts_with("new/")),
        "{:?}",
        rig.keys()
    );
}

#[test]
fn reading_one_byte_of_a_large_file_fetches_at_most_a_mebibyte() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let bytes = noise(1, 40 << 20);
    write_and_close(&mount.path.join("large"), &bytes).unwrap();
    mount.end_well();
    for offset in [0, 1, 12_345_678, (40 << 20) - 1] {
        let mount = rig.mount("mnt", LASTING);
        let counts = rig.requests(|| {
            let file = fs::File::open(mount.path.join("large")).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            assert_eq!(byte[0], bytes[offset as usize]);
        });
        println!(
            "one byte at {offset}: {} bytes fetched, {:?}",
            counts.bytes_out, counts.requests
        );
        // Listings are counted too: some hundred bytes.
        assert!(
            counts.bytes_out <= (1 << 20) + 4096,
            "at {offset}: {}",
            counts.bytes_out
        );
        mount.end_well();
    }
}

// ---- what was read or written is kept ----

/// Bypasses the kernel's cache.
fn read_directly(path: &Path, len: usize) -> Vec<u8> {
    const PAGE: usize = 4096;
    let file = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; len.next_multiple_of(PAGE) + PAGE];
    let start = bytes.as_ptr().align_offset(PAGE);
    let mut filled = 0;
    while filled < len {
        let end = (start + len).next_multiple_of(PAGE).min(bytes.len());
        let read = file
            .read_at(&mut bytes[start + filled..end], filled as u64)
            .unwrap();
        assert!(read > 0, "{} ends after {filled}", path.display());
        filled += read;
    }
    bytes[start..start + len].to_vec()
}

/// Regression: an image viewer reads the beginning of each file, and opens it again twice: this cost three
/// requests per file.
#[test]
fn a_small_file_is_fetched_once_however_often_it_is_opened() {
    if !can_mount() {
        return;
    }
    const FILES: u64 = 40;
    const LEN: usize = 300_000;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    for i in 0..FILES {
        write_and_close(&mount.path.join(name(i)), &noise(i, LEN)).unwrap();
    }
    mount.end_well();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls -l $MNT");
    let heads = rig.requests(|| {
        let line = format!(
            "cd $MNT; head -c 4096 {0} >&2; head -c 20000 {0} >&2",
            name(0)
        );
        bash(&mount.path, &format!("{{ {line}; }} 2> /dev/null"));
    });
    assert_costs("head and head", &heads, &[(GetObject, 1)]);
    let rounds = rig.requests(|| {
        for _ in 0..3 {
            for i in 1..FILES {
                let path = mount.path.join(name(i));
                let mut start = [0; 4096];
                fs::File::open(&path)
                    .unwrap()
                    .read_exact_at(&mut start, 0)
                    .unwrap();
                assert!(read_directly(&path, LEN) == noise(i, LEN));
            }
        }
    });
    assert_costs("three rounds", &rounds, &[(GetObject, FILES - 1)]);
    mount.end_well();

    // Within the memory budget, and not beyond it.
    let options = [LASTING, &["--memory-limit", "16M"]].concat();
    let mount = rig.mount("mnt", &options);
    for _ in 0..2 {
        for i in 0..FILES {
            assert!(read_directly(&mount.path.join(name(i)), LEN) == noise(i, LEN));
        }
    }
    let again = rig.requests(|| drop(read_directly(&mount.path.join(name(FILES - 1)), LEN)));
    assert_costs("the last one", &again, &[]);
    assert!(mount.peak_memory() < 80 << 20, "{}", mount.peak_memory());
    mount.end_well();
}

/// After another client has replaced a file, its cached data must not be used.
#[test]
fn cached_data_of_one_version_is_not_shown_for_another() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", &["--metadata-ttl", "0"]);
    let other = rig.mount("other", &["--metadata-ttl", "0"]);
    for round in 0..10u64 {
        let (writer, reader) = match round % 2 {
            0 => (&mount.path, &other.path),
            _ => (&other.path, &mount.path),
        };
        let bytes = noise(round, 10_000);
        write_and_close(&writer.join("f"), &bytes).unwrap();
        assert!(read_directly(&reader.join("f"), 10_000) == bytes, "{round}");
        assert!(read_directly(&writer.join("f"), 10_000) == bytes, "{round}");
    }
    mount.end_well();
    other.end_well();
}

/// Regression: `echo x >> f` fetched the whole file, also right after this mount had written it.
#[test]
fn written_data_is_not_fetched_again() {
    if !can_mount() {
        return;
    }
    const LARGE: usize = 20 << 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls $MNT");
    let path = mount.path.join("small");
    let small = rig.requests(|| {
        write_and_close(&path, &noise(1, 5000)).unwrap();
        assert!(read_directly(&path, 5000) == noise(1, 5000));
        for _ in 0..3 {
            bash(&path, "echo x >> $MNT");
        }
        bash(
            &mount.path,
            "cd $MNT; chmod 600 small; mv small renamed; echo x >> renamed",
        );
        bash(&mount.path, "cd $MNT; cp renamed copy; echo x >> copy");
        let expected = [&noise(1, 5000)[..], b"x\nx\nx\nx\nx\n"].concat();
        let found = read_directly(&mount.path.join("copy"), expected.len());
        assert!(found == expected);
    });
    // A HEAD checks that the base of the append is still there, and a LIST whether the copy's name is free.
    let expected = [
        (ListObjectsV2, 1),
        (PutObject, 6),
        (CopyObject, 3),
        (DeleteObject, 1),
        (HeadObject, 5),
    ];
    assert_costs("a small file", &small, &expected);

    let path = mount.path.join("large");
    let mut expected = noise(2, LARGE);
    let large = rig.requests(|| {
        write_and_close(&path, &expected).unwrap();
        for _ in 0..5 {
            bash(&path, "echo x >> $MNT");
            expected.extend(b"x\n");
        }
        // And a write in the middle.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"changed", 7 << 20).unwrap();
        close(file).unwrap();
        expected[7 << 20..][..7].copy_from_slice(b"changed");
    });
    println!("a file of 20 MiB and six changes: {:?}", large.requests);
    assert_eq!(large.of(GetObject), 0, "{:?}", large.requests);
    assert_eq!(large.of(CompleteMultipartUpload), 7, "{:?}", large.requests);
    let read = rig.requests(|| assert!(read_directly(&path, expected.len()) == expected));
    assert_costs("reading it", &read, &[]);
    mount.end_well();
    let mount = rig.mount("other", LASTING);
    assert!(fs::read(mount.path.join("large")).unwrap() == expected);
    mount.end_well();
}

#[test]
fn a_write_only_mount_caches_nothing_that_it_wrote() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let mount = rig.mount_with_keys("mnt", "oss://bucket", &keys, LASTING);
    let path = mount.path.join("f");
    write_and_close(&path, b"secret").unwrap();
    for error in [
        fs::read(&path).unwrap_err(),
        fs::File::options().append(true).open(&path).unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
    mount.end_well();
}

// ---- looking ahead ----

/// A directory with 256 directories of a few objects each, like git's object store.
fn write_fan_out(root: &Path, objects: u64) {
    for i in 0..objects {
        let folder = root.join(format!("objects/{:02x}", i * 97 % 256));
        fs::create_dir_all(&folder).unwrap();
        write_and_close(&folder.join(name(i)), &content(i)).unwrap();
    }
}

/// Regression: random lookups among 256 directories were mistaken for a walk: each lookup listed ten of the
/// siblings.
#[test]
fn random_lookups_over_many_directories_list_only_the_visited_ones() {
    if !can_mount() {
        return;
    }
    const OBJECTS: u64 = 500;
    const LOOKUPS: u64 = 700;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    write_fan_out(&mount.path, OBJECTS);
    mount.end_well();
    std::thread::sleep(Duration::from_millis(2100));
    let mount = rig.mount("mnt", &["--metadata-ttl", "1"]);
    rig.instruments().set_latency(Duration::from_millis(5));
    let look = |i: u64| {
        let i = i * 307 % OBJECTS;
        let path = format!("objects/{:02x}/{}", i * 97 % 256, name(i));
        assert_eq!(read(&mount.path.join(path)).unwrap(), content(i));
    };
    let began = std::time::Instant::now();
    let counts = rig.requests(|| (0..LOOKUPS).for_each(look));
    let seconds = began.elapsed().as_secs() + 1;
    rig.instruments().set_latency(Duration::ZERO);
    println!("{LOOKUPS} lookups in {seconds} s: {:?}", counts.requests);
    // Until all are cached, each visited directory; then all together, like their parents, once per TTL.
    let lists = counts.of(ListObjectsV2);
    assert!(lists <= OBJECTS + 8 * seconds, "{:?}", counts.requests);
    // Each object once, each directory's marker, the first file in each, and a few that were not needed.
    assert!(counts.of(GetObject) <= OBJECTS, "{:?}", counts.requests);
    assert!(
        counts.of(HeadObject) <= 256 + 256 + 30,
        "{:?}",
        counts.requests
    );
    mount.end_well();
}

#[test]
fn removing_a_cached_tree_costs_no_lookups_except_the_lists() {
    if !can_mount() {
        return;
    }
    const OBJECTS: u64 = 300;
    let rig = Rig::new();
    // A marker that is listed within its TTL after it was created is requested once more; the TTL is long
    // enough to create the tree even on a slow machine.
    let mount = rig.mount("mnt", &["--metadata-ttl", "8"]);
    write_fan_out(&mount.path, OBJECTS);
    std::thread::sleep(Duration::from_millis(8100));
    let counts = rig.requests(|| drop(bash(&mount.path, "rm -rf $MNT/objects")));
    println!("rm -rf of {OBJECTS} objects: {:?}", counts.requests);
    assert_eq!(counts.of(HeadObject), 0, "{:?}", counts.requests);
    assert_eq!(counts.of(GetObject), 0, "{:?}", counts.requests);
    // A directory is listed once, and its parents again when their TTL has expired.
    assert!(
        counts.of(ListObjectsV2) <= 256 + 30,
        "{:?}",
        counts.requests
    );
    mount.end_well();
    // In a tree that has not been visited, each name is requested once.
    let mount = rig.mount("mnt", LASTING);
    write_fan_out(&mount.path, OBJECTS);
    mount.end_well();
    let mount = rig.mount("mnt", LASTING);
    let counts = rig.requests(|| drop(bash(&mount.path, "rm -rf $MNT/objects")));
    println!("the same, on a new mount: {:?}", counts.requests);
    let asked = counts.of(HeadObject) + counts.of(GetObject);
    assert!(asked <= OBJECTS + 257, "{:?}", counts.requests);
    assert!(counts.of(ListObjectsV2) <= 256 + 5, "{:?}", counts.requests);
    mount.end_well();
}

/// Lookups of git one second after the previous ones cost little more than those within the TTL.
#[test]
fn cloning_from_loose_objects_costs_little_more_than_with_a_long_lifetime() {
    if !can_mount() || !has_program("git") {
        return;
    }
    let rig = Rig::new();
    let source = rig.path("source");
    fs::create_dir(&source).unwrap();
    bash(
        &source,
        "export HOME=$MNT GIT_CONFIG_NOSYSTEM=1
        cd $MNT; git init -q .; git config user.name n; git config user.email e; git config gc.auto 0
        for i in $(seq 120); do echo $i > f$((i % 9)); git add .; git commit -qm $i; done",
    );
    let mount = rig.mount("mnt", LASTING);
    bash(
        &source,
        &format!("cp -r $MNT {}/repository", mount.path.display()),
    );
    mount.end_well();
    let clone = |ttl: &str, into: &str| {
        let mount = rig.mount("mnt", &["--metadata-ttl", ttl]);
        bash(&mount.path, "find $MNT -type f -size +1c | wc -l");
        rig.instruments().set_latency(Duration::from_millis(10));
        let line = format!(
            "export HOME=$MNT GIT_CONFIG_NOSYSTEM=1
            git config --file /dev/null --list
            git -c safe.directory='*' clone -q file://$MNT/repository {}",
            rig.path(into).display()
        );
        let counts = rig.requests(|| drop(bash(&mount.path, &line)));
        rig.instruments().set_latency(Duration::ZERO);
        println!(
            "clone with a TTL of {ttl} s: {:?}, {}",
            counts.requests,
            counts.total()
        );
        mount.end_well();
        counts
    };
    let long = clone("60", "long").total();
    let short = clone("1", "short");
    assert!(
        short.total() * 10 <= long * 13 + 100,
        "{long}: {:?}",
        short.requests
    );
}

// ---- seeking ----

/// Regression: reading a member of an archive fetched sixteen times its size.
#[test]
fn a_member_of_a_large_archive_costs_little_more_than_its_size() {
    if !can_mount() {
        return;
    }
    const SIZE: usize = 78_940_822;
    const MEMBER: usize = 263_000;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let bytes = noise(5, SIZE);
    write_and_close(&mount.path.join("archive"), &bytes).unwrap();
    mount.end_well();
    // (the read size, the member's position)
    for (step, at) in [(8192, 16_572_416), (MEMBER, 33_333_333), (4096, 71_548_928)] {
        let mount = rig.mount("mnt", LASTING);
        let counts = rig.requests(|| {
            let file = fs::File::open(mount.path.join("archive")).unwrap();
            let expect = |from: usize, len: usize| {
                let mut read = vec![0; len];
                file.read_exact_at(&mut read, from as u64).unwrap();
                assert!(read == bytes[from..from + len]);
            };
            // The end of the table of contents, the whole table, and the member's own header.
            expect(SIZE - 22, 22);
            expect(SIZE - 20_000, 20_000);
            expect(at, 30);
            for from in (at + 30..at + MEMBER).step_by(step) {
                expect(from, step.min(at + MEMBER - from));
            }
        });
        println!(
            "{MEMBER} bytes, {step} at a time: {} fetched, {:?}",
            counts.bytes_out, counts.requests
        );
        let most = 2 * MEMBER as u64 + (256 << 10);
        assert!(counts.bytes_out <= most, "{step}: {}", counts.bytes_out);
        assert!(counts.of(GetObject) <= 14, "{:?}", counts.requests);
        mount.end_well();
    }
}

// ---- the root ----

/// "Attributes of the root that other clients set become visible after at most `--dir-ttl`: they are stored
/// in an object of their own."
///
/// Regression: once they were stored, every TTL began with three sequential requests.
#[test]
fn the_roots_attributes_cost_no_more_than_any_directorys() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let ttl = ["--metadata-ttl", "1", "--dir-ttl", "8"];
    let mount = rig.mount("mnt", &ttl);
    bash(
        &mount.path,
        "mkdir $MNT/d; echo x > $MNT/d/f; chmod 750 $MNT $MNT/d",
    );
    // Modes and times are cached permanently only once they are two seconds old.
    std::thread::sleep(Duration::from_millis(2100));
    mount.end_well();
    let mount = rig.mount("mnt", &ttl);
    bash(&mount.path, "ls -l $MNT $MNT/d");
    let expired = Duration::from_millis(1100);
    std::thread::sleep(expired);
    let root = rig.requests(|| drop(bash(&mount.path, "stat $MNT; ls $MNT")));
    assert_costs("the root", &root, &[(ListObjectsV2, 1)]);
    std::thread::sleep(expired);
    let below = rig.requests(|| drop(bash(&mount.path, "ls -l $MNT/d")));
    println!("a directory below: {:?}", below.requests);
    assert_eq!(below.of(HeadObject), 0, "{:?}", below.requests);
    assert!(below.of(ListObjectsV2) <= 2, "{:?}", below.requests);
    // Another client's change.
    let other = rig.mount("other", &ttl);
    bash(&other.path, "chmod 700 $MNT");
    std::thread::sleep(Duration::from_millis(8100));
    let mode = fs::metadata(&mount.path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    other.end_well();
    mount.end_well();
}

// ---- temporary names ----

#[test]
fn files_that_tools_write_beside_and_rename_cost_one_put() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    bash(&mount.path, "ls $MNT; echo old > $MNT/settings.ini");
    // (the temporary name, whether the tool calls fsync)
    for (temporary, sync) in [
        ("settings.ini.B7K2Q9", false),
        (".goutputstream-W9K3E1", false),
        (".goutputstream-W9K3E2", true),
        ("settings.ini.hJwQbz", false),
        ("settings.ini.tmp", false),
        (".settings.ini.a1b2c3", false),
    ] {
        let path = mount.path.join(temporary);
        let counts = rig.requests(|| {
            let mut file = fs::File::create_new(&path).unwrap();
            file.write_all(temporary.as_bytes()).unwrap();
            if sync {
                file.sync_all().unwrap();
            }
            close(file).unwrap();
            fs::rename(&path, mount.path.join("settings.ini")).unwrap();
        });
        // O_EXCL checks at the service whether the name is free, except for random names.
        match temporary {
            "settings.ini.tmp" => {
                assert_costs(temporary, &counts, &[(ListObjectsV2, 1), (PutObject, 1)]);
            }
            _ => assert_costs(temporary, &counts, &[(PutObject, 1)]),
        }
        let found = read(&mount.path.join("settings.ini")).unwrap();
        assert_eq!(found, temporary.as_bytes());
    }
    // What vim tries before it writes.
    let path = mount.path.join("4913");
    let counts = rig.requests(|| {
        close(fs::File::create_new(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
    });
    assert_costs(
        "a test whether a file can be made",
        &counts,
        &[(ListObjectsV2, 1)],
    );
    mount.end_well();
}

// ---- rsync ----

#[test]
fn rsync_of_new_files_costs_at_most_a_third_more_than_a_put_each_and_nothing_the_second_time() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let flat = rig.path("flat");
    fs::create_dir(&flat).unwrap();
    for i in 0..500 {
        fs::write(flat.join(name(i)), content(i)).unwrap();
    }
    let deep = rig.path("deep");
    for folder in 0..20 {
        let folder = deep.join(format!("folder-{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for i in 0..10 {
            fs::write(folder.join(name(i)), content(i)).unwrap();
        }
    }
    // Another time than now: it has to be set, on directories too.
    bash(
        &rig.path(""),
        "find \"$MNT/flat\" \"$MNT/deep\" -exec touch -d 2021-02-03T04:05:06.789 {} +",
    );
    let mount = rig.mount("mnt", LASTING);
    for (source, files) in [(&flat, 500), (&deep, 200)] {
        let target = mount.path.join(source.file_name().unwrap());
        let first = rig.requests(|| {
            rsync(source, &target, &[]);
            // The times of new directories are stored within a second.
            std::thread::sleep(Duration::from_millis(1500));
        });
        let each = first.total() as f64 / f64::from(files);
        println!(
            "rsync -a of {files} new files: {:?}, {each:.3} a file",
            first.requests
        );
        assert!(each <= 1.3, "{each} a file: {:?}", first.requests);
        let second = rig.requests(|| rsync(source, &target, &[]));
        println!("the same again: {:?}", second.requests);
        assert_eq!(second.others(&[ListObjectsV2]), 0, "{:?}", second.requests);
    }
    mount.end_well();
    // A new mount, with nothing but the key, finds everything that was written.
    let mount = rig.mount("other", &["--metadata-ttl", "0"]);
    for source in [&flat, &deep] {
        let target = mount.path.join(source.file_name().unwrap());
        assert_eq!(rsync_differences(source, &target), "");
    }
    mount.end_well();
}

pub(crate) fn rsync(source: &Path, target: &Path, options: &[&str]) {
    let output = Command::new("rsync")
        .arg("-a")
        .args(options)
        .arg(slashed(source))
        .arg(slashed(target))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The changes that `rsync -anc --delete` would make, in either direction.
pub(crate) fn rsync_differences(one: &Path, other: &Path) -> String {
    let mut differences = String::new();
    for (source, target) in [(one, other), (other, one)] {
        let output = Command::new("rsync")
            .args(["-anci", "--delete"])
            .arg(slashed(source))
            .arg(slashed(target))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        differences += &String::from_utf8(output.stdout).unwrap();
    }
    differences
}

fn slashed(path: &Path) -> PathBuf {
    path.join("")
}

/// "Renaming a file of 1 GB or more transfers its data through this machine."
#[test]
fn objects_too_large_for_one_copy_are_copied_in_parts() {
    if !can_mount() {
        return;
    }
    const LIMIT: usize = 1 << 20;
    let bytes = noise(7, 3 * LIMIT);
    for format in ["seed", "sdk"] {
        // The limit of 1 GB, reduced on both sides.
        let rig = Rig::with(|config| config.copy_limit = LIMIT as u64);
        let options = [LASTING, &["--copy-limit", "1M", "--format", format]].concat();
        let mount = rig.mount("mnt", &options);
        fs::create_dir(mount.path.join("d")).unwrap();
        fs::write(mount.path.join("d/large"), &bytes).unwrap();
        for line in [
            "mv $MNT/d/large $MNT/d/renamed",
            "mv $MNT/d $MNT/e",
            "chmod 600 $MNT/e/renamed",
            "cp -p $MNT/e/renamed $MNT/copy",
        ] {
            let counts = rig.requests(|| drop(bash(&mount.path, line)));
            let moved = counts.bytes_in.min(counts.bytes_out) as usize;
            let in_parts = counts.of(UploadPartCopy);
            if format == "seed" {
                assert_eq!(in_parts % 3, 0, "{line}: {:?}", counts.requests);
                assert!(in_parts > 0 && moved < LIMIT, "{line}: {moved} bytes");
            } else {
                assert_eq!(in_parts, 0, "{line}: {:?}", counts.requests);
                assert!(moved >= 3 * LIMIT, "{line}: {moved} bytes");
            }
            // The directory's marker.
            assert!(counts.of(CopyObject) <= 1, "{line}: {:?}", counts.requests);
        }
        mount.end_well();
        rig.assert_no_unfinished_uploads();
        let mount = rig.mount("other", &[]);
        let path = mount.path.join("e/renamed");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), bytes);
        assert_eq!(read(&mount.path.join("copy")).unwrap(), bytes);
        mount.end_well();
    }
}

/// "A file that is uploaded while it is written keeps the modification time at which its upload began,
/// unless it is still being written a minute later or the time is set explicitly."
///
/// Regression: an upload cannot change its headers at its end, and every write updated the modification time,
/// so each large file was copied onto itself once more to correct it.
#[test]
fn a_large_file_written_in_order_is_not_copied_to_correct_its_time() {
    if !can_mount() {
        return;
    }
    const PIECE: usize = 1 << 20;
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    let path = mount.path.join("large");
    let bytes = noise(3, 80 * PIECE);
    let source = rig.path("source");
    fs::write(&source, &bytes).unwrap();
    // In a separate process: a process that another test forks from this one would close a duplicate of the
    // descriptor in the middle of it.
    let counts = rig.requests(|| {
        let line = format!(
            "dd bs={PIECE} status=none if={} of={}",
            source.display(),
            path.display()
        );
        bash(&mount.path, &line);
    });
    assert_eq!(
        counts.of(InitiateMultipartUpload),
        1,
        "{:?}",
        counts.requests
    );
    assert_eq!(counts.of(CopyObject), 0, "{:?}", counts.requests);
    assert_eq!(counts.of(UploadPartCopy), 0, "{:?}", counts.requests);
    let shown = fs::metadata(&path).unwrap().modified().unwrap();
    mount.end_well();
    let mount = rig.mount("other", &[]);
    let path = mount.path.join("large");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), shown);
    assert_eq!(read(&path).unwrap(), bytes);
    // A time that is set explicitly is kept.
    let line = format!(
        "{{ cat {}; touch -d @1000 {}; }} > {1}",
        source.display(),
        path.display()
    );
    bash(&mount.path, &line);
    mount.end_well();
    let mount = rig.mount("again", &[]);
    assert_eq!(
        fs::metadata(mount.path.join("large")).unwrap().mtime(),
        1000
    );
    mount.end_well();
}

#[test]
#[ignore = "takes long: scripts/exercise slow-writer"]
fn a_large_file_that_is_written_for_more_than_a_minute_has_the_time_of_its_last_write() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let options = ["--part-size", "128K", "--stream-after", "256K"];
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("slow");
    let mut file = fs::File::create(&path).unwrap();
    for _ in 0..2 {
        file.write_all(&noise(3, 4 << 20)).unwrap();
        std::thread::sleep(Duration::from_secs(65));
    }
    let before_the_last = SystemTime::now();
    file.write_all(b"the end").unwrap();
    drop(file);
    let shown = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(shown + Duration::from_secs(1) > before_the_last);
    mount.end_well();
    let mount = rig.mount("other", &[]);
    let stored = fs::metadata(mount.path.join("slow")).unwrap();
    assert_eq!(stored.modified().unwrap(), shown);
    mount.end_well();
}
