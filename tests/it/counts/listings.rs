//! What listings, and walks through directories, cost.

use super::*;

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
