//! What things cost: requests, counted at the server. The counts are exact, and what a user waits and pays
//! for; a change that makes one of them larger has to say why.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ossvault::server::call::Operation::{self, *};
use ossvault::server::instruments::Counts;
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};

use crate::rig::{Rig, can_mount, has_program, noise, read, shell, write_and_close};

/// Long enough that nothing expires while a test runs.
const LASTING: &[&str] = &["--metadata-ttl", "60"];

/// What n files may cost besides the one request each.
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

/// Objects with a name and nothing else, straight into the bucket.
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
    // Modes and times are remembered for good only when they are two seconds old: the bucket has whole seconds.
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
            let listed = shell(
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

/// While a program goes through a directory of more than a thousand names, `stat()` shows each of them once as it was
/// listed, at most a millisecond for each name ago.
///
/// When the listing expired on the way, each name that followed cost a HEAD and a LIST, one after the other.
#[test]
fn going_through_a_directory_costs_a_list_a_thousand_names_and_a_head_each_however_long_it_takes() {
    walk_through(3000);
}

#[test]
fn going_through_fifteen_thousand_names_costs_no_more_for_each() {
    walk_through(15_000);
}

fn walk_through(n: u64) {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    put_bare_objects(&rig, n);
    // In order, out of order where there are many (find sorts by inode), and all names before the first look.
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
            assert_eq!(shell(&mount.path, walk).trim(), n.to_string(), "{walk}");
            took = began.elapsed();
        });
        rig.instruments().set_latency(Duration::ZERO);
        println!("{n} names, {walk}: {took:.1?}, {:?}", counts.requests);
        let heads = counts.of(HeadObject);
        assert!(heads <= n + besides(n), "{walk}: {:?}", counts.requests);
        // On a slow machine some pages expire before their names are looked at.
        let lists = counts.of(ListObjectsV2);
        assert!(lists <= n / 1000 * 2 + 5, "{walk}: {:?}", counts.requests);
        assert_eq!(counts.others(&[HeadObject, ListObjectsV2]), 0);
        mount.end_well();
    }
}

/// A listing that took longer than it counted was made again and again, and answered nothing.
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
        // A directory and an object, among names that begin like theirs.
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
    // What is there is found all the same, also right after a name that is not there.
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
fn ls_l_of_what_is_unchanged_costs_the_lists_alone() {
    if !can_mount() {
        return;
    }
    const N: u64 = 1000;
    let rig = Rig::new();
    put_bare_objects(&rig, N);
    let mount = rig.mount("mnt", &["--metadata-ttl", "2"]);
    let ls = || {
        rig.requests(|| {
            let listed = shell(&mount.path, "ls -l \"$MNT\" | grep -c file-");
            assert_eq!(listed.trim(), N.to_string());
        })
    };
    // On a slow machine the TTL may pass meanwhile, and a few are asked twice.
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

/// Of one page, and another for each time that it had expired meanwhile.
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

/// Looks at all the files in a tree.
#[track_caller]
fn walk_tree(root: &Path, files: u64) {
    let found = shell(root, "find \"$MNT\" -type f -size +1c | wc -l");
    assert_eq!(found.trim(), files.to_string());
}

/// Twelve directories of five files, which somebody goes through again and again.
#[test]
fn a_small_tree_whose_time_is_over_costs_one_list_and_not_one_for_each_directory() {
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

/// A tree that nobody has looked at before: what is to be asked is asked once, and ahead of who waits for it.
#[test]
fn a_first_walk_through_a_tree_costs_a_list_and_a_head_a_directory_and_a_head_a_file() {
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
    assert_eq!(walk.others(&[ListObjectsV2, HeadObject, GetObject]), 0);
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
        assert_eq!(shell(&mount.path, "ls \"$MNT\""), "a\n");
        mounted = Some(mount);
    });
    println!("mount and ls: {:?}", counts.requests);
    assert!(counts.total() <= 4, "{:?}", counts.requests);
    mounted.unwrap().end_well();
}

// ---- one command each ----

#[test]
fn commands_cost_what_they_have_to() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount("mnt", LASTING);
    shell(&mount.path, "ls \"$MNT\"; mkdir \"$MNT/full\"");
    for (script, expected) in [
        ("echo x > f", &[(PutObject, 1)][..]),
        ("echo y > f", &[(PutObject, 1)]),
        ("cat f", &[(GetObject, 1)]),
        ("cat f", &[]),
        ("cp f g", &[(CopyObject, 1)]),
        ("mv g h", &[(CopyObject, 1), (DeleteObject, 1)]),
        ("chmod 600 h", &[(CopyObject, 1)]),
        ("chmod 600 h", &[(CopyObject, 1)]),
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
        // What editors do.
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
            shell(&mount.path, &format!("cd \"$MNT\"; {script}"));
        });
        let mut expected = expected.to_vec();
        // What cat and cp read of `f` may have been cached by the write before it.
        if script.starts_with("cat f") || script.starts_with("sed") || script.starts_with("cp") {
            assert!(counts.of(GetObject) <= 1, "{script}: {:?}", counts.requests);
            expected.retain(|(operation, _)| *operation != GetObject);
            expected.extend((counts.of(GetObject) > 0).then_some((GetObject, 1)));
        }
        assert_costs(script, &counts, &expected);
    }
    mount.end_well();
    rig.assert_no_unfinished_uploads();
}

/// "A directory is renamed by copying what is in it; other clients may see it half moved."
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
    shell(
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
    // What was written is what a new mount, with nothing but the key, finds.
    let mount = rig.mount("other", &["--metadata-ttl", "0"]);
    for source in [&flat, &deep] {
        let target = mount.path.join(source.file_name().unwrap());
        assert_eq!(rsync_differences(source, &target), "");
    }
    mount.end_well();
}

pub fn rsync(source: &Path, target: &Path, options: &[&str]) {
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

/// What `rsync -anc --delete` would do, in either direction.
pub fn rsync_differences(one: &Path, other: &Path) -> String {
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

/// "Renaming a file of 1 GB or more moves its bytes through this machine."
#[test]
fn what_is_too_large_for_one_copy_is_copied_in_parts() {
    if !can_mount() {
        return;
    }
    const LIMIT: usize = 1 << 20;
    let bytes = noise(7, 3 * LIMIT);
    for format in ["seed", "sdk"] {
        // The limit of 1 GB, made small on both sides.
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
            let counts = rig.requests(|| drop(shell(&mount.path, line)));
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

/// "A file that goes up while it is written keeps the time of change that its upload began with, unless it is
/// still written a minute later, or the time is set."
///
/// An upload cannot change its headers at its end, and every write moved the time of change: each large
/// file was copied onto itself once more, to correct it.
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
    // By a process of its own: one that another test forks from this one would close a duplicate of the
    // descriptor in the midst of it.
    let counts = rig.requests(|| {
        let line = format!(
            "dd bs={PIECE} status=none if={} of={}",
            source.display(),
            path.display()
        );
        shell(&mount.path, &line);
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
    // One that is set counts.
    let line = format!(
        "{{ cat {}; touch -d @1000 {}; }} > {1}",
        source.display(),
        path.display()
    );
    shell(&mount.path, &line);
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
