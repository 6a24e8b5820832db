//! Filters against rsync itself, on the same tree.

use std::collections::BTreeSet;
use std::process::Command;

use super::*;
use crate::fixture::has_program;

/// What each transfers of the tree, directories with a slash behind them.
fn of_rsync(tree: &Path, filters: &[&str]) -> BTreeSet<String> {
    let output = Command::new("rsync")
        .args(["-an", "--out-format=%n"])
        .args(filters)
        .arg(format!("{}/", tree.display()))
        .arg("/nonexistent/")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(output.status.success(), "{filters:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text
        .lines()
        .filter(|name| !name.starts_with("created directory"));
    names
        .map(str::to_owned)
        .filter(|name| name != "./")
        .collect()
}

fn of_put(rig: &Rig, filters: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["put", "--dry-run", "--json", "--allow-empty", "tree/"];
    let place = oss("/p");
    arguments.push(&place);
    arguments.extend(filters);
    let run = rig.run(&arguments).succeeds();
    let lines = run.json();
    let keys = lines.iter().filter_map(|line| line["key"].as_str());
    let paths = keys.filter_map(|key| key.strip_prefix("p/"));
    paths
        .map(str::to_owned)
        .filter(|path| !path.is_empty())
        .collect()
}

#[test]
fn filters_leave_what_rsync_leaves() {
    if !has_program("rsync") {
        return;
    }
    let rig = Rig::new();
    let tree = rig.path("tree");
    for path in [
        "foo",
        "foo.c",
        "foo.o",
        "bar/foo",
        "bar/foo.o",
        "bar/baz/foo.c",
        "bar/baz/x y",
        "a/b/c/d",
        "a/b.c/d",
        "a/bc",
        "src/main.c",
        "src/.git/config",
        "src/.git/objects/1",
        "src/target/x/y",
        "[x]",
        "b[1]",
        "back\\slash",
        "star*name",
        "z/foo/bar",
        "foo-dir/bar/x",
        "Upper",
        "7up",
        "dir/dir/dir/f",
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    for filters in [
        &[][..],
        &["--exclude", "foo"],
        &["--exclude", "/foo"],
        &["--exclude", "foo/"],
        &["--exclude", "*.o"],
        &["--exclude", "bar/foo"],
        &["--exclude", "/bar/foo*"],
        &["--exclude", "bar/*"],
        &["--exclude", "bar/**"],
        &["--exclude", "bar/***"],
        &["--exclude", "**/foo"],
        &["--exclude", "**foo"],
        &["--exclude", "b**"],
        &["--exclude", "a/**/d"],
        &["--exclude", "/a/*/d"],
        &["--exclude", "a?b"],
        &["--exclude", "[a-c]*"],
        &["--exclude", "[^a-z]*"],
        &["--exclude", "[[:upper:]]*"],
        &["--exclude", "[[:digit:]]up"],
        &["--exclude", "[x]"],
        &["--exclude", "\\[x\\]"],
        &["--exclude", "b[[]1]"],
        &["--exclude", "back\\slash"],
        &["--exclude", "back\\\\slash"],
        &["--exclude", "back\\\\s*"],
        &["--exclude", "star\\*name"],
        &["--exclude", "x y"],
        &["--exclude", "dir"],
        &["--exclude", "dir/dir"],
        &["--exclude", "dir/f"],
        &["--exclude", "/dir/**"],
        &["--include", "*.c", "--include", "*/", "--exclude", "*"],
        &[
            "--include",
            "/bar/",
            "--include",
            "/bar/foo",
            "--exclude",
            "*",
        ],
        &["--include", "bar/***", "--exclude", "*"],
        &["--exclude", "*", "--include", "foo"],
        &["--include", "foo.o", "--exclude", "*.o"],
        &[
            "--filter", "- .git/", "--filter", "+ *.c", "--filter", "- src/*",
        ],
        &["--filter", "exclude target", "--filter", "include_*"],
        &[
            "--exclude",
            "- foo",
            "--exclude",
            "+ bar/foo.o",
            "--exclude",
            "*.o",
        ],
        &["--exclude", "*", "--exclude", "!", "--exclude", "*.o"],
        &["--exclude", "*/"],
        &["--exclude", "/"],
        &["--exclude", "foo**bar"],
        &["--exclude", "**/"],
        &["--exclude", "/**/foo"],
        &["--exclude", "**bar/**"],
    ] {
        assert_eq!(
            of_put(&rig, filters),
            of_rsync(&tree, filters),
            "{filters:?}"
        );
    }
    // From files, where comments and empty lines are none.
    fs::write(rig.path("rules"), "# comment\n; another\n\n*.o\n+ foo\n").unwrap();
    let rules = rig.path("rules");
    let filters = [
        "--exclude-from",
        rules.to_str().unwrap(),
        "--exclude",
        "foo",
    ];
    assert_eq!(of_put(&rig, &filters), of_rsync(&tree, &filters));
}

/// What is excluded is neither fetched nor deleted.
#[test]
fn filters_hold_in_both_directions_and_protect() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("tree/sub/cache")).unwrap();
    for name in ["a", "b.o", "sub/c", "sub/d.o", "sub/cache/e"] {
        fs::write(rig.path(&format!("tree/{name}")), name).unwrap();
    }
    rig.run(&["sync", "tree", &oss("/p")]).succeeds();
    let filters = ["--exclude", "*.o", "--exclude", "cache/"];
    rig.run(&[&["get", &oss("/p/"), "back"], &filters[..]].concat())
        .succeeds();
    assert!(!rig.path("back/b.o").exists() && !rig.path("back/sub/cache").exists());
    assert!(rig.path("back/sub/c").exists());
    fs::write(rig.path("back/x.o"), "kept").unwrap();
    fs::write(rig.path("back/y"), "goes").unwrap();
    rig.run(&[&["sync", "--delete", &oss("/p"), "back"], &filters[..]].concat())
        .succeeds();
    assert!(rig.path("back/x.o").exists() && !rig.path("back/y").exists());
    fs::remove_file(rig.path("tree/a")).unwrap();
    fs::remove_dir_all(rig.path("tree/sub")).unwrap();
    rig.run(&[&["sync", "--delete", "tree", &oss("/p")], &filters[..]].concat())
        .succeeds();
    let keys = rig.keys();
    assert_eq!(
        keys,
        ["p/", "p/b.o", "p/sub/cache/", "p/sub/cache/e", "p/sub/d.o"]
    );
    rig.look(&["rm", "-r", "--exclude", "cache", &oss("/p")])
        .succeeds();
    assert_eq!(rig.keys(), ["p/sub/cache/", "p/sub/cache/e"]);
    rig.run(&["put", "--filter", ": .rsync-filter", "tree/", &oss("/p")])
        .fails(2, &["--filter", "+ PATTERN"]);
    rig.run(&["put", "--exclude-from", "nowhere", "tree/", &oss("/p")])
        .fails(42, &["nowhere"]);
    rig.run(&["put", "--exclude", "*", "nothing", &oss("/p")])
        .fails(42, &["nothing"]);
}

/// Nothing is deleted below a folder that could not be read: it is not known what it has.
#[test]
fn what_could_not_be_read_is_not_deleted() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: not root, and so no other user to be");
        return;
    }
    let rig = Rig::new();
    fs::create_dir_all(rig.path("tree/closed")).unwrap();
    for name in ["a", "closed/b"] {
        fs::write(rig.path(&format!("tree/{name}")), name).unwrap();
    }
    rig.run(&["sync", "tree", &oss("/p")]).succeeds();
    fs::remove_file(rig.path("tree/a")).unwrap();
    set_mode(&rig.path("tree/closed"), 0);
    set_mode(&rig.path(""), 0o755);
    let key = rig.path("nobody.key");
    fs::copy(rig.key(), &key).unwrap();
    set_mode(&key, 0o600);
    std::os::unix::fs::chown(&key, Some(65534), Some(65534)).unwrap();
    let mut command = rig.plain(&["sync", "--delete", "tree", &oss("/p")]);
    command
        .arg("--private-key")
        .arg(&key)
        .arg("--insecure-key-permissions");
    command
        .env("XDG_STATE_HOME", "/nonexistent")
        .uid(65534)
        .gid(65534);
    let run = Run::of(command.output().unwrap());
    run.fails(43, &["unreadable: ", "closed"]);
    assert_eq!(rig.keys(), ["p/", "p/closed/", "p/closed/b"]);
}
