//! put, get and sync of whole trees.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;

use super::*;
use crate::fixture::{can_mount, has_program};

fn rsync(arguments: &[&str]) {
    let output = Command::new("rsync").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_tree_that_is_put_is_what_rsync_into_a_mount_leaves() {
    if !can_mount() || !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let tree = rig.path("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let mount = rig.mount_source("mnt", &oss("/mounted"), &[]);
    let (from, to) = (
        format!("{}/", tree.display()),
        format!("{}/", mount.path.display()),
    );
    rsync(&["-a", &from, &to]);
    mount.end_well();
    rig.run(&["put", &from, &oss("/put")]).succeeds();
    let (mut put, mut mounted) = (rig.described("put/"), rig.described("mounted/"));
    // Of the root, rsync sets only what differs from what the mount shows by default.
    for name in ["mode", "uid", "gid"] {
        put.get_mut("").unwrap().remove(name);
        mounted.get_mut("").unwrap().remove(name);
    }
    assert_eq!(put, mounted);
    // And read by a mount, and by get, it is the tree.
    let mount = rig.mount_source("mnt", &oss("/put"), &[]);
    assert_same(&mount.path, &tree);
    mount.end_well();
    rig.run(&["get", &oss("/mounted/"), "back"]).succeeds();
    assert_same(&rig.path("back"), &tree);
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let rig = Rig::new();
    let tree = rig.path("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    rig.run(&["put", "tree", &oss("")]).succeeds();
    assert!(rig.keys().contains(&"tree/sub/one".to_owned()));
    fs::create_dir(rig.path("out")).unwrap();
    rig.run(&["get", &oss("/tree"), "out"]).succeeds();
    assert_same(&rig.path("out/tree"), &tree);
    // The root itself too.
    let times = |path: &str| fs::metadata(rig.path(path)).unwrap().modified().unwrap();
    assert_eq!(times("out/tree"), times("tree"));
    rig.assert_no_unfinished_uploads();
}

#[test]
fn extended_attributes_go_along() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/file"), "x").unwrap();
    if xattr::set(rig.path("tree/file"), "user.comment", b"hello").is_err() {
        eprintln!("skipped: no extended attributes here");
        return;
    }
    xattr::set(rig.path("tree"), "user.of", b"root").unwrap();
    rig.run(&["put", "tree/", &oss("/p")]).succeeds();
    rig.run(&["get", &oss("/p/"), "back"]).succeeds();
    let value = |path: &str, name: &str| xattr::get(rig.path(path), name).unwrap();
    assert_eq!(value("back/file", "user.comment").unwrap(), b"hello");
    // A change of attributes alone does not send the content again.
    xattr::set(rig.path("tree/file"), "user.comment", b"again").unwrap();
    let run = rig.run(&["put", "-v", "tree/", &oss("/p")]).succeeds();
    assert!(run.text().contains("attributes: p/file"), "{}", run.text());
    rig.run(&["get", "-v", &oss("/p/"), "back"])
        .succeeds()
        .has(&["attributes: p/file"]);
    assert_eq!(value("back/file", "user.comment").unwrap(), b"again");
}

#[test]
fn large_files_are_sent_and_fetched_in_parts() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/large"), noise(7, 33_000_001)).unwrap();
    for format in ["seed", "sdk"] {
        let counts = rig.counted(|| {
            rig.run(&["put", "--format", format, "-I", "tree/", &oss("/p")])
                .succeeds();
        });
        assert_eq!(counts.of(Operation::UploadPart), 4, "{counts:?}");
        let back = format!("back-{format}");
        rig.run(&["get", &oss("/p/"), &back]).succeeds();
        assert_same(&rig.path(&back), &rig.path("tree"));
    }
    rig.assert_no_unfinished_uploads();
}

#[test]
fn the_requests_are_one_for_each_file_and_listings() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    for number in 0..50 {
        fs::write(rig.path(&format!("tree/{number}")), number.to_string()).unwrap();
    }
    let counts = rig.counted(|| {
        rig.run(&["put", "tree/", &oss("/p")]).succeeds();
    });
    assert_eq!(counts.of(Operation::PutObject), 51, "{counts:?}");
    // Of the destination, and whether it is a file.
    assert_eq!(counts.of(Operation::ListObjectsV2), 2, "{counts:?}");
    assert_eq!(counts.total(), 53, "{counts:?}");
    // Nothing has changed: that is known without asking for headers.
    for command in ["put", "sync"] {
        let counts = rig.counted(|| {
            let run = rig
                .run(&[command, "tree/", &oss("/p"), "--json"])
                .succeeds();
            let summary = run.json().pop().unwrap();
            assert_eq!(summary["summary"]["outcomes"]["unchanged"], 51);
        });
        assert_eq!(
            counts.of(Operation::ListObjectsV2),
            2,
            "{command}: {counts:?}"
        );
        assert_eq!(counts.total(), 2, "{command}: {counts:?}");
    }
    let counts = rig.counted(|| {
        rig.run(&["get", &oss("/p/"), "back"]).succeeds();
    });
    assert_eq!(counts.of(Operation::GetObject), 50, "{counts:?}");
    assert_eq!(counts.of(Operation::HeadObject), 0, "{counts:?}");
    let counts = rig.counted(|| {
        rig.run(&["sync", "--delete", &oss("/p"), "back"])
            .succeeds();
    });
    assert_eq!(counts.of(Operation::GetObject), 0, "{counts:?}");
    assert_eq!(counts.of(Operation::HeadObject), 0, "{counts:?}");
    // Without the records, every object is asked for, and then they are there again.
    fs::remove_dir_all(rig.path("state")).unwrap();
    let counts = rig.counted(|| {
        rig.run(&["sync", "tree", &oss("/p")]).succeeds();
    });
    assert_eq!(counts.of(Operation::HeadObject), 51, "{counts:?}");
    assert_eq!(counts.of(Operation::PutObject), 0, "{counts:?}");
}

/// Another client's change is found although everything here is as it was: of the content, by the tag; of the
/// attributes, by the time at which they were stored.
#[test]
fn what_others_have_changed_is_put_right() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(rig.path(&format!("tree/{name}")), name).unwrap();
    }
    rig.run(&["sync", "tree", &oss("/p")]).succeeds();
    fs::write(rig.path("b"), "x").unwrap();
    rig.run(&["put", "b", &oss("/p/b")]).succeeds();
    next_second();
    let mode = fs::metadata(rig.path("tree/c")).unwrap().mode() & 0o777;
    fs::create_dir(rig.path("other")).unwrap();
    fs::copy(rig.path("tree/c"), rig.path("other/c")).unwrap();
    set_mode(&rig.path("other/c"), 0o751);
    rig.run(&["put", "--size-only", "other/c", &oss("/p/c")])
        .succeeds();
    let stored = |rig: &Rig| rig.meta("p/c").headers.user["mode"].parse::<u32>().unwrap() & 0o777;
    assert_eq!(stored(&rig), 0o751);
    let run = rig.run(&["sync", "-v", "tree", &oss("/p")]).succeeds();
    let run = run.has(&["unchanged: p/a", "stored: p/b"]);
    assert!(run.text().contains(": p/c"), "{}", run.text());
    assert_eq!(stored(&rig), mode);
    rig.run(&["get", &oss("/p/"), "back"]).succeeds();
    assert_eq!(fs::read(rig.path("back/b")).unwrap(), b"b");
}

#[test]
fn sync_with_delete_makes_both_sides_the_same() {
    let rig = Rig::new();
    let tree = rig.path("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    rig.run(&["sync", "tree", &oss("/p")]).succeeds();
    rig.run(&["sync", &oss("/p"), "copy"]).succeeds();
    assert_same(&rig.path("copy"), &tree);
    // Changes of every kind: gone, new, a file in the place of a directory, and the reverse.
    fs::remove_file(tree.join("a.txt")).unwrap();
    fs::remove_dir_all(tree.join("sub/deep")).unwrap();
    fs::write(tree.join("sub/deep"), "a file now").unwrap();
    fs::remove_file(tree.join("a")).unwrap();
    fs::create_dir(tree.join("a")).unwrap();
    fs::write(tree.join("a/inside"), "x").unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    symlink("elsewhere", tree.join("link")).unwrap();
    set_mode(&tree.join("private"), 0o640);
    // Without --delete nothing goes, and a directory does not make way.
    rig.run(&["sync", "tree", &oss("/p")])
        .fails(43, &["directory-there: p/sub/deep"]);
    assert!(rig.keys().contains(&"p/a.txt".to_owned()));
    let keys = rig.keys();
    let would = rig.run(&["sync", "--delete", "--dry-run", "tree", &oss("/p")]);
    would
        .succeeds()
        .has(&["would-delete: p/a.txt", "would-store: p/sub/deep"]);
    assert_eq!(rig.keys(), keys);
    rig.run(&["sync", "--delete", "tree", &oss("/p")])
        .succeeds();
    let before = snapshot(&rig.path("copy"));
    let would = rig.run(&["sync", "--delete", "-n", &oss("/p"), "copy"]);
    would
        .succeeds()
        .has(&["would-delete: a.txt", "would-fetch: p/sub/deep"]);
    assert_eq!(snapshot(&rig.path("copy")), before);
    rig.run(&["sync", "--delete", &oss("/p"), "copy"])
        .succeeds();
    assert_same(&rig.path("copy"), &tree);
    // Between places of a bucket, too.
    rig.look(&["sync", "--delete", &oss("/p"), &oss("/q")])
        .succeeds();
    rig.run(&["get", &oss("/q/"), "copy2"]).succeeds();
    assert_same(&rig.path("copy2"), &tree);
}

/// It may be a mount point that nothing is mounted on, or the wrong bucket.
#[test]
fn an_empty_source_deletes_nothing_unless_that_is_meant() {
    let rig = Rig::new();
    fs::create_dir(rig.path("empty")).unwrap();
    fs::create_dir(rig.path("full")).unwrap();
    fs::write(rig.path("full/a"), "a").unwrap();
    rig.run(&["sync", "--delete", &oss(""), "full"])
        .fails(43, &["is empty"]);
    assert!(rig.path("full/a").exists());
    rig.run(&["sync", "full", &oss("/p")]).succeeds();
    rig.run(&["sync", "--delete", "empty", &oss("/p")])
        .fails(43, &["empty is empty"]);
    assert_eq!(rig.keys(), ["p/", "p/a"]);
    rig.run(&["sync", "--delete", "--allow-empty", "empty", &oss("/p")])
        .succeeds();
    assert_eq!(rig.keys(), ["p/"]);
    // A directory does not take a file's name.
    rig.run(&["put", "full/a", &oss("/f")]).succeeds();
    rig.run(&["put", "full/", &oss("/f")])
        .fails(2, &["oss://bucket/f is a file"]);
    rig.look(&["mv", &oss("/p"), &oss("/f")])
        .fails(2, &["oss://bucket/f is a file"]);
    assert_eq!(rig.keys(), ["f", "p/"]);
}

#[test]
fn an_interrupted_put_goes_on_where_it_was() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    for number in 0..200 {
        fs::write(rig.path(&format!("tree/{number:03}")), noise(number, 100)).unwrap();
    }
    rig.instruments().set_latency(Duration::from_millis(50));
    let mut command = rig.plain(&["put", "tree/", &oss("/p"), "--parallel", "2"]);
    command.arg("--private-key").arg(rig.key());
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command.process_group(0);
    let child = command.spawn().unwrap();
    while rig.instruments().counts().of(Operation::PutObject) < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    run.fails(
        130,
        &["interrupted: put:", "stored", "run the same command again"],
    );
    rig.instruments().set_latency(Duration::ZERO);
    let done = rig.keys().len() as u64;
    assert!((20..100).contains(&done), "{done}");
    let counts = rig.counted(|| {
        rig.run(&["put", "tree/", &oss("/p")]).succeeds();
    });
    assert_eq!(counts.of(Operation::PutObject), 201 - done, "{counts:?}");
    assert_eq!(rig.keys().len(), 201);
    rig.assert_no_unfinished_uploads();
}

#[test]
fn the_rest_is_done_when_one_file_fails() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(rig.path(&format!("tree/{name}")), name).unwrap();
    }
    let refused = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    rig.fault(
        Fault::once(Operation::PutObject, refused)
            .on_keys("p/b")
            .always(),
    );
    rig.run(&["put", "tree/", &oss("/p")])
        .fails(43, &["failed: p/b", "1 of 4 files"]);
    assert!(rig.keys().contains(&"p/c".to_owned()));
}

#[test]
fn contents_are_compared_with_checksum() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/a"), "one").unwrap();
    set_mtime(&rig.path("tree/a"), 1_600_000_000, 0);
    rig.run(&["put", "tree/", &oss("/p")]).succeeds();
    rig.run(&["get", &oss("/p/"), "back"]).succeeds();
    // The same size and time, another content.
    fs::write(rig.path("tree/a"), "two").unwrap();
    set_mtime(&rig.path("tree/a"), 1_600_000_000, 0);
    rig.run(&["put", "-v", "tree/", &oss("/p")])
        .succeeds()
        .has(&["unchanged: p/a"]);
    rig.run(&["put", "-vc", "tree/", &oss("/p")])
        .succeeds()
        .has(&["stored: p/a"]);
    rig.run(&["put", "-vc", "tree/", &oss("/p")])
        .succeeds()
        .has(&["unchanged: p/a"]);
    rig.run(&["get", "-v", &oss("/p/"), "back"])
        .succeeds()
        .has(&["unchanged: p/a"]);
    rig.run(&["get", "-vc", &oss("/p/"), "back"])
        .succeeds()
        .has(&["fetched: p/a"]);
    assert_eq!(fs::read(rig.path("back/a")).unwrap(), b"two");
    // Only the time differs: nothing is sent again.
    set_mtime(&rig.path("tree/a"), 1_600_000_001, 0);
    rig.run(&["put", "-vc", "tree/", &oss("/p")])
        .succeeds()
        .has(&["attributes: p/a"]);
}

#[test]
fn single_files_go_where_cp_would_put_them() {
    let rig = Rig::new();
    fs::write(rig.path("a"), "aaa").unwrap();
    fs::write(rig.path("b"), "b").unwrap();
    fs::create_dir(rig.path("dir")).unwrap();
    rig.run(&["put", "a", &oss("/x")]).succeeds();
    rig.run(&["put", "a", "b", &oss("/d")]).succeeds();
    rig.run(&["put", "a", &oss("/d/")])
        .succeeds()
        .has(&["1 unchanged"]);
    rig.run(&["put", "b", &oss("/d")]).succeeds();
    rig.run(&["put", "a", &oss("/new/")]).succeeds();
    assert_eq!(rig.keys(), ["d/a", "d/b", "new/a", "x"]);
    rig.run(&["get", &oss("/x"), "dir"]).succeeds();
    rig.run(&["get", &oss("/x"), "y"]).succeeds();
    rig.run(&["get", &oss("/d/a"), &oss("/d/b"), "dir"])
        .succeeds();
    assert_eq!(fs::read(rig.path("dir/x")).unwrap(), b"aaa");
    assert_eq!(fs::read(rig.path("y")).unwrap(), b"aaa");
    assert_eq!(fs::read(rig.path("dir/b")).unwrap(), b"b");
    // A copy in the current directory.
    fs::remove_file(rig.path("a")).unwrap();
    rig.run(&["get", &oss("/d/a"), "."]).succeeds();
    assert_eq!(fs::read(rig.path("a")).unwrap(), b"aaa");
}

#[test]
fn a_bucket_in_a_folder_is_a_bucket() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/a"), "aaa").unwrap();
    let place = format!("file://{}#p", rig.path("store").display());
    // Nothing is made by a command that only looks, or would do something.
    rig.look(&["ls", &place]).fails(35, &["no bucket"]);
    rig.run(&["put", "--dry-run", "tree/", &place])
        .fails(35, &["no bucket"]);
    assert!(!rig.path("store").exists());
    rig.run(&["put", "tree/", &place]).succeeds();
    rig.run(&["get", &format!("{place}/a"), "a"]).succeeds();
    assert_eq!(fs::read(rig.path("a")).unwrap(), b"aaa");
    rig.run(&["cp", "-r", &format!("{place}/"), &oss("/q")])
        .succeeds();
    rig.run(&["cat", &oss("/q/a")]).succeeds().has(&["aaa"]);
}

#[test]
fn a_destination_that_is_missing_is_made_and_no_folder_above_it() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/file"), "content").unwrap();
    rig.run(&["put", "tree", &oss("")]).succeeds();
    // A directory under its name, and what is in it.
    rig.run(&["get", &oss("/tree"), "new"]).succeeds();
    assert_eq!(fs::read(rig.path("new/tree/file")).unwrap(), b"content");
    rig.run(&["get", &oss("/tree/"), "other"]).succeeds();
    assert_eq!(fs::read(rig.path("other/file")).unwrap(), b"content");
    for source in ["/tree", "/tree/"] {
        rig.run(&["get", &oss(source), "no/such"])
            .fails(42, &["cannot write", "no/such"]);
    }
    rig.run(&["get", "--dry-run", &oss("/tree"), "unmade"])
        .succeeds();
    assert!(!rig.path("unmade").exists() && !rig.path("no").exists());
}
