//! docs/scripting.md names every field of `--json`.

use std::collections::BTreeSet;

use super::*;

const PAGE: &str = include_str!("../../../docs/scripting.md");

/// The fields that the tables of the section list, and the words of their descriptions.
fn documented(heading: &str) -> BTreeSet<&'static str> {
    let section = PAGE
        .split("\n### ")
        .find(|section| {
            section
                .lines()
                .next()
                .unwrap()
                .split(", ")
                .any(|name| name == heading)
        })
        .unwrap_or_else(|| panic!("no section for {heading}"));
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
        .collect()
}

#[track_caller]
fn assert_documented(heading: &str, run: &Run) {
    let known = documented(heading);
    let text = run.text();
    let lines = serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>();
    let lines: Vec<_> = lines.map(|line| line.unwrap()).collect();
    assert!(!lines.is_empty(), "{heading}: {}", run.stderr);
    for line in lines {
        let fields = line.as_object().unwrap();
        let summary = fields
            .get("summary")
            .and_then(|summary| summary.as_object());
        let names = fields
            .keys()
            .chain(summary.into_iter().flat_map(|summary| summary.keys()));
        for name in names {
            assert!(
                known.contains(name.as_str()),
                "{heading}: {name} is not documented"
            );
        }
    }
}

#[test]
fn every_field_of_json_is_documented() {
    let rig = Rig::new();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/file"), "content").unwrap();
    symlink("file", rig.path("tree/link")).unwrap();
    assert_documented("put", &rig.run(&["put", "--json", "tree", &oss("")]));
    assert_documented(
        "put",
        &rig.run(&["put", "--json", "-v", "--dry-run", "tree", &oss("/new")]),
    );
    assert_documented(
        "get",
        &rig.run(&["get", "--json", "-v", &oss("/tree"), "back"]),
    );
    assert_documented("verify", &rig.run(&["verify", "--json", "-v", &oss("")]));
    rig.run(&["verify", "--quick", "--report", "one", &oss("")]);
    rig.run(&["put", "tree/file", &oss("/later")]);
    assert_documented(
        "report",
        &rig.look(&["report", "one", "--json", "--source", &oss("")]),
    );
    assert_documented("info", &rig.run(&["info", "--json", &oss("/tree/file")]));
    assert_documented("ls", &rig.look(&["ls", "--json", "-l", "-R", &oss("")]));
    assert_documented("find", &rig.look(&["find", "--json", &oss("")]));
    assert_documented("du", &rig.look(&["du", "--json", &oss("")]));
    assert_documented(
        "doctor",
        &rig.run(&["doctor", "--json", "--quick", &oss("")]),
    );
    let key = rig.key();
    let shown = ossvault()
        .args(["key", "show", "--json"])
        .arg(key)
        .output()
        .unwrap();
    assert_documented("key show", &Run::of(shown));
}
