//! ls, cat, du and find.

use std::process::Command;

use super::*;

fn filled() -> Rig {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    make_tree(&rig.path("tree"));
    rig.run(&["put", "tree", &oss("")]).succeeds();
    rig
}

#[test]
fn ls_lists_what_a_mount_would() {
    let rig = filled();
    let run = rig.look(&["ls", "bucket:/tree"]).succeeds();
    assert_eq!(
        run.text().lines().collect::<Vec<_>>(),
        [
            "a", "a-b/", "a.txt", "empty/", "link", "pipe", "private", "sub/"
        ]
    );
    let run = rig.look(&["ls", "-R", &oss("/tree/sub")]).succeeds();
    assert_eq!(
        run.text().lines().collect::<Vec<_>>(),
        [
            "dangling",
            "deep/",
            "deep/er/",
            "deep/er/two",
            "größe 桶 +%?#&",
            "one"
        ]
    );
    rig.look(&["ls", "-l", &oss("/tree")]).succeeds().has(&[
        "-rwxr-xr-x ",
        "drwxr-s--- ",
        "prw-r----- ",
        "lrwxrwxrwx ",
        " a.txt\n",
    ]);
    let run = rig.look(&["ls", "-l", "--json", &oss("/tree")]).succeeds();
    let lines = run.json();
    let of = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap();
    assert_eq!(of("a.txt")["mode"], "0755");
    assert_eq!(of("a.txt")["size"], 4);
    assert_eq!(of("a.txt")["key"], "tree/a.txt");
    assert_eq!(of("link")["type"], "link");
    assert_eq!(of("sub/")["type"], "directory");
    assert!(of("a")["mtime"].as_str().unwrap().ends_with(".123456789"));
    rig.look(&["ls", &oss("/tree/a"), &oss("/none")])
        .fails(43, &["tree/a", "nothing at"]);
    // The bucket by its name alone, as mount takes it.
    let run = rig.look(&["ls", "bucket"]).succeeds();
    assert_eq!(run.text(), "tree/\n");
}

#[test]
fn cat_writes_contents_and_ranges_of_them() {
    let rig = Rig::new();
    let (one, two) = (noise(1, 9_000_000), noise(2, 1000));
    fs::write(rig.path("one"), &one).unwrap();
    fs::write(rig.path("two"), &two).unwrap();
    fs::write(rig.path("empty"), "").unwrap();
    rig.run(&["put", "one", "two", "empty", &oss("")])
        .succeeds();
    let run = rig
        .run(&["cat", &oss("/one"), &oss("/empty"), &oss("/two")])
        .succeeds();
    assert!(run.stdout == [one.clone(), two.clone()].concat());
    let run = rig
        .run(&["cat", "--range", "5-104", &oss("/one"), &oss("/two")])
        .succeeds();
    assert!(run.stdout == [&one[5..105], &two[5..105]].concat());
    let run = rig.run(&["cat", "--range=-10", &oss("/one")]).succeeds();
    assert!(run.stdout == one[one.len() - 10..]);
    let run = rig.run(&["cat", &oss("/two"), &oss("/three")]);
    assert!(run.stdout == two);
    run.code.filter(|code| *code == 43).expect("one is missing");
    rig.run(&["cat", "--range", "x", &oss("/two")])
        .fails(2, &["0-1023"]);
}

#[test]
fn du_sums_up() {
    let rig = Rig::new();
    for (path, size) in [("a/b/c", 1000), ("a/b/d", 24), ("a/e", 3), ("f", 5)] {
        let full = rig.path("tree").join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, vec![0; size]).unwrap();
    }
    rig.run(&["put", "tree/", &oss("/t")]).succeeds();
    let run = rig.look(&["du", &oss("/t")]).succeeds();
    let text = run.text();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        text.lines().map(words).collect::<Vec<_>>(),
        [
            "1024 3 oss://bucket/t/a/b",
            "1027 5 oss://bucket/t/a",
            "1032 7 oss://bucket/t",
        ]
    );
    rig.look(&["du", "-sh", &oss("")])
        .succeeds()
        .has(&["1.01 KiB        7 oss://bucket\n"]);
    let run = rig.look(&["du", "-s", "--json", &oss("/t/a/")]).succeeds();
    assert_eq!(
        run.json(),
        [serde_json::json!({"place": "oss://bucket/t/a", "bytes": 1027, "objects": 5})]
    );
}

#[test]
fn find_finds_what_find_finds() {
    let rig = filled();
    let tree = rig.path("tree");
    set_mtime(&tree.join("sub/one"), now() - 3 * 86_400 - 100, 0);
    set_mtime(&tree.join("a"), now() - 100, 0);
    rig.run(&["put", "tree", &oss("")]).succeeds();
    for conditions in [
        &["-name", "*o*"][..],
        &["-iname", "ONE"],
        &["-type", "d"],
        &["-type", "f"],
        &["-type", "l"],
        &["-type", "f", "-size", "+4k"],
        &["-type", "f", "-size", "-1"],
        &["-type", "f", "-size", "1"],
        &["-type", "f", "-size", "5000c"],
        &["-type", "f", "-mtime", "-1"],
        &["-type", "f", "-mtime", "3"],
        &["-type", "f", "-mtime", "+3"],
        &["-type", "d", "-name", "e*"],
    ] {
        let mut command = Command::new("find");
        command.args([".", "-mindepth", "1"]).args(conditions);
        let output = command.current_dir(&tree).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut theirs: Vec<String> = text.lines().map(|line| line[2..].to_owned()).collect();
        theirs.sort();
        let place = oss("/tree");
        let run = rig.look(&[&["find", &place], conditions].concat());
        let run = if theirs.is_empty() {
            run.fails(43, &[])
        } else {
            run.succeeds()
        };
        let prefix = format!("{place}/");
        let text = run.text();
        let names = text.lines().map(|line| line.strip_prefix(&prefix).unwrap());
        let mut ours: Vec<String> = names
            .map(|name| name.trim_end_matches('/').to_owned())
            .collect();
        ours.sort();
        assert_eq!(ours, theirs, "{conditions:?}");
    }
    let run = rig
        .look(&["find", &oss("/tree"), "--name", "one", "--json"])
        .succeeds();
    assert_eq!(run.json()[0]["key"], "tree/sub/one");
}

fn now() -> i64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Each object is a line, and so is the sum: with the fields that scripts rely on.
#[test]
fn json_has_a_line_for_each_file_and_one_for_all() {
    let rig = Rig::new();
    fs::write(rig.path("a"), "aaa").unwrap();
    let run = rig.run(&["put", "--json", "a", &oss("/x")]).succeeds();
    let lines = run.json();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0],
        serde_json::json!({"pass": "put", "key": "x", "size": 3, "outcome": "stored", "grade": "fine"})
    );
    assert_eq!(lines[1]["pass"], "put");
    assert_eq!(lines[1]["dry_run"], false);
    assert!(lines[1]["seconds"].is_number());
    let summary =
        serde_json::json!({"objects": 1, "bytes": 3, "bad": 0, "outcomes": {"stored": 1}});
    assert_eq!(lines[1]["summary"], summary);
    assert_eq!(run.stderr, "");
}
