//! cp, mv and rm.

use ossvault::server::operation::Operation;

use super::*;

fn filled() -> Rig {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    make_tree(&rig.path("tree"));
    rig.run(&["put", "tree", &oss("")]).succeeds();
    rig
}

#[test]
fn copies_inside_a_bucket_need_no_key_and_move_no_data() {
    let rig = filled();
    let counts = rig.counted(|| {
        rig.look(&["cp", "-r", &oss("/tree"), &oss("/copy")])
            .succeeds();
    });
    assert!(counts.of(Operation::CopyObject) > 10, "{counts:?}");
    for operation in [Operation::GetObject, Operation::PutObject] {
        assert_eq!(counts.of(operation), 0, "{counts:?}");
    }
    assert_eq!(rig.described("copy/"), rig.described("tree/"));
    rig.run(&["get", &oss("/copy/"), "back"]).succeeds();
    assert_same(&rig.path("back"), &rig.path("tree"));
    // Into a directory that is there, under its name; what is in it, with a slash.
    rig.look(&["cp", "-r", &oss("/tree"), &oss("/copy")])
        .succeeds();
    assert_eq!(rig.described("copy/tree/"), rig.described("tree/"));
    rig.look(&["cp", "-r", &oss("/tree/"), &oss("/flat")])
        .succeeds();
    assert_eq!(rig.described("flat/"), rig.described("tree/"));
    rig.look(&[
        "cp",
        &oss("/tree/a"),
        &oss("/tree/sub/one"),
        &oss("/flat/sub/"),
    ])
    .succeeds();
    assert_eq!(rig.described("")["flat/sub/a"], rig.described("")["tree/a"]);
    rig.look(&["cp", &oss("/tree/a"), &oss("/alone")])
        .succeeds();
    assert_eq!(rig.described("")["alone"], rig.described("")["tree/a"]);
}

#[test]
fn other_buckets_get_keys_of_their_own() {
    let rig = filled();
    let other = format!("file://{}", rig.path("other").display());
    rig.run(&["cp", "-r", &oss("/tree/"), &format!("{other}#p")])
        .succeeds();
    rig.run(&["get", &format!("{other}#p/"), "back"]).succeeds();
    assert_same(&rig.path("back"), &rig.path("tree"));
    rig.run(&["sync", "-v", &oss("/tree"), &format!("{other}#p")])
        .succeeds()
        .has(&["unchanged: p/sub/one", "unchanged: p/a.txt"]);
    rig.run(&["mv", &format!("{other}#p"), &oss("/moved")])
        .succeeds();
    rig.run(&["get", &oss("/moved/"), "back2"]).succeeds();
    assert_same(&rig.path("back2"), &rig.path("tree"));
    rig.look(&["ls", &format!("{other}#p")])
        .fails(43, &["nothing at"]);
}

#[test]
fn moves_are_renames() {
    let rig = filled();
    let before = rig.described("tree/");
    rig.look(&["mv", &oss("/tree"), &oss("/renamed")])
        .succeeds();
    assert_eq!(rig.described("renamed/"), before);
    assert!(rig.described("tree/").is_empty());
    rig.look(&["mv", &oss("/renamed/a"), &oss("/renamed/b")])
        .succeeds();
    assert!(!rig.keys().contains(&"renamed/a".to_owned()));
    assert!(rig.keys().contains(&"renamed/b".to_owned()));
    // A directory without a marker remains when its last file goes, as in a mount.
    rig.look(&["cp", &oss("/renamed/b"), &oss("/bare/b")])
        .succeeds();
    rig.look(&["mv", &oss("/bare/b"), &oss("/c")]).succeeds();
    assert!(rig.keys().contains(&"bare/".to_owned()));
    rig.look(&["cp", &oss("/c"), &oss("/bare2/b")]).succeeds();
    rig.look(&["rm", &oss("/bare2/b")]).succeeds();
    assert!(rig.keys().contains(&"bare2/".to_owned()));
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let rig = filled();
    let keys = rig.keys();
    for (arguments, code, words) in [
        (
            &["cp", "oss://bucket/tree", "oss://bucket/x"][..],
            2,
            &["-r"][..],
        ),
        (
            &["cp", "-r", "oss://bucket/tree", "oss://bucket/tree/sub"],
            2,
            &["into itself"],
        ),
        (
            &["mv", "oss://bucket/tree", "oss://bucket/tree/sub/x"],
            2,
            &["into itself"],
        ),
        (
            &["cp", "oss://bucket/tree/a", "oss://bucket/tree/a"],
            2,
            &["into itself"],
        ),
        (&["mv", "oss://bucket/tree/a", "here"], 2, &["put or get"]),
        (&["cp", "tree/a", "here"], 2, &["oss://"]),
        (&["put", "tree/a", "here"], 2, &["not in a bucket"]),
        (
            &["put", "oss://bucket/tree/a", "oss://bucket/x"],
            2,
            &["get or cp"],
        ),
        (&["get", "tree/a", "here"], 2, &["not in a bucket"]),
        (&["rm", "oss://bucket/tree"], 2, &["-r"]),
        (&["rm", "-r", "oss://bucket"], 2, &["--whole-bucket"]),
        (
            &["rm", "oss://bucket/tree/A.txt"],
            43,
            &["did you mean oss://bucket/tree/a.txt"],
        ),
        (
            &["get", "oss://bucket/tres", "x"],
            43,
            &["did you mean oss://bucket/tree/"],
        ),
        (&["cat", "oss://bucket/tree"], 43, &["is a directory"]),
        (&["cat", "oss://bucket/.ossvault/x"], 2, &["reserved"]),
        (&["ls", "s3://bucket/tree"], 2, &["not a scheme"]),
        (&["ls", "oss://nosuchbucket"], 30, &["nosuchbucket"]),
        (&["put", "nowhere", "oss://bucket/x"], 42, &["nowhere"]),
        (
            &["get", "oss://bucket/tree", "no/such/place"],
            42,
            &["no/such/place"],
        ),
        (
            &["find", "oss://bucket/tree", "-name", "nothing*"],
            43,
            &["matches"],
        ),
        (&["find", "oss://bucket/tree", "-size", "big"], 2, &["+10M"]),
    ] {
        let run = match arguments[0] {
            "put" | "get" | "cat" => rig.run(arguments),
            _ => rig.look(arguments),
        };
        run.fails(code, words);
    }
    assert_eq!(rig.keys(), keys);
    assert!(!rig.path("x").exists() && !rig.path("here").exists());
    // Without a key, nothing is decrypted.
    rig.look(&["get", &oss("/tree/a"), "x"])
        .fails(20, &["--private-key"]);
    // The public key alone is enough to put.
    let mut command = rig.plain(&["put", "tree/a", &oss("/public")]);
    command.arg("--public-key").arg(rig.path("key.pub"));
    Run::of(command.output().unwrap()).succeeds();
    rig.run(&["cat", &oss("/public")]).succeeds().has(&["a"]);
}

#[test]
fn a_prefix_goes_with_everything_below() {
    let rig = filled();
    rig.look(&["cp", "-r", &oss("/tree"), &oss("/kept")])
        .succeeds();
    let kept = rig.described("kept/");
    let keys = rig.keys();
    rig.look(&["rm", "-rn", &oss("/tree")])
        .succeeds()
        .has(&["would-delete: tree/sub/one"]);
    assert_eq!(rig.keys(), keys);
    let counts = rig.counted(|| {
        rig.look(&["rm", "-r", &oss("/tree")]).succeeds();
    });
    assert_eq!(counts.of(Operation::DeleteMultipleObjects), 1, "{counts:?}");
    assert!(rig.described("tree/").is_empty());
    assert_eq!(rig.described("kept/"), kept);
    // Several: those that are there go, and the others are named.
    rig.look(&["rm", &oss("/kept/a"), &oss("/nothing"), &oss("/kept/a.txt")])
        .fails(43, &["nothing at oss://bucket/nothing"]);
    assert!(!rig.keys().contains(&"kept/a.txt".to_owned()));
}
