//! The command lines in docs/commands.md and in the help of the commands, as they are written.

use std::process::Command;

use ossvault::store::local::{LocalStore, Settings};

use super::*;
use crate::fixture::{PROGRAM, clean};

/// Lines that begin with the program's name, indented.
fn lines_of(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("  "));
    let lines = lines
        .map(str::trim)
        .filter(|line| line.starts_with("ossvault "));
    lines.map(str::to_owned).collect()
}

#[test]
fn every_example_runs_as_it_is_written() {
    let rig = Rig::new();
    for bucket in ["my-bucket", "my-other-bucket"] {
        let folder = rig.path("buckets").join(bucket);
        LocalStore::open(&folder, Settings { sync: false }).unwrap();
    }
    let home = rig.path("home");
    fs::create_dir_all(home.join("bin")).unwrap();
    symlink(PROGRAM, home.join("bin/ossvault")).unwrap();
    fs::copy(rig.key(), home.join("vault.key")).unwrap();
    fs::copy(rig.path("key.pub"), home.join("vault.key.pub")).unwrap();
    // What the examples take for granted, in the current directory and in the bucket.
    for path in [
        "work/photos/a.jpg",
        "work/report.pdf",
        "work/src/main.c",
        "seed/photos/b.jpg",
        "seed/photos/cache/c",
        "seed/backup/photos/d",
        "seed/2019/e.txt",
        "seed/2024/report.pdf",
        "seed/2024/notes.txt",
        "seed/a.txt",
        "seed/draft.txt",
        "seed/notes.txt",
        "seed/a.iso",
        "seed/b.iso",
    ] {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(1, 2000)).unwrap();
    }
    fs::write(home.join("seed/photos/large.jpg"), noise(2, 11 << 20)).unwrap();
    let bash = |line: &str| {
        let mut command = Command::new("bash");
        clean(&mut command);
        let path = std::env::var("PATH").unwrap();
        let output = command
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(home.join("work"))
            .env("HOME", &home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("PATH", format!("{}:{path}", home.join("bin").display()))
            .env("OSS_ENDPOINT", rig.endpoint())
            .env("OSS_ACCESS_KEY_ID", "test")
            .env("OSS_ACCESS_KEY_SECRET", "test")
            .output()
            .unwrap();
        Run::of(output)
    };
    let mut lines = lines_of(include_str!("../../../docs/commands.md"));
    assert_eq!(lines.len(), 4);
    for command in [
        "ls", "cat", "put", "get", "sync", "cp", "mv", "rm", "du", "find",
    ] {
        let help = bash(&format!("ossvault {command} --help"))
            .succeeds()
            .text();
        let examples = lines_of(&help);
        assert!(examples.len() >= 2, "{command}: {help}");
        lines.extend(examples);
    }
    for line in lines {
        // What an example before has moved away is there again.
        bash("ossvault put -q ../seed/ oss://my-bucket --private-key ~/vault.key").succeeds();
        let run = bash(&line);
        assert_eq!(run.code, Some(0), "{line}\n{}{}", run.text(), run.stderr);
    }
}
