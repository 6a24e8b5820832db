//! `ossvault key`: what it shows of key files, and how it changes their passphrases.

use std::fs;

use super::{Place, Run, detached};
use crate::fixture::{mode, set_mode};

/// What `key show --json` says of a file.
fn shown(place: &Place, arguments: &[&str]) -> serde_json::Value {
    let line = [&["key", "show", "--json"][..], arguments].concat();
    let run = place.run(&line).succeeds();
    serde_json::from_str(&run.stdout).unwrap()
}

fn with_passphrase(place: &Place) {
    place.write_secret("word", "first\n");
    let keygen = [
        "keygen",
        "key",
        "--bits",
        "2048",
        "--passphrase-file",
        "word",
    ];
    place.run(&keygen).succeeds();
}

#[test]
fn a_key_file_is_described_with_and_without_its_passphrase() {
    let place = Place::new();
    place.keygen("plain");
    let private = shown(&place, &["plain"]);
    let fingerprint = private["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(fingerprint.len(), 64);
    for (field, value) in [
        ("kind", "private"),
        ("format", "PKCS#8, PEM"),
        ("mode", "0600"),
    ] {
        assert_eq!(private[field], value);
    }
    assert_eq!(
        (&private["bits"], &private["encrypted"]),
        (&2048.into(), &false.into())
    );
    assert_eq!(private["problem"], serde_json::Value::Null);
    let public = shown(&place, &["plain.pub"]);
    assert_eq!(public["fingerprint"], fingerprint);
    assert_eq!(public["kind"], "public");
    assert_eq!(public["format"], "SubjectPublicKeyInfo, PEM");

    let text = place.run(&["key", "show", "plain"]).succeeds().stdout;
    for line in [
        "kind:        private key",
        "bits:        2048",
        "permissions: mode 0600",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(
        text.contains(&format!("fingerprint: {fingerprint}\n")),
        "{text}"
    );

    // Others can read it: shown all the same, with the reason why a mount refuses it.
    set_mode(&place.path("plain"), 0o644);
    let open = shown(&place, &["plain"]);
    assert_eq!(open["mode"], "0644");
    assert!(
        open["problem"].as_str().unwrap().contains("chmod 600"),
        "{open}"
    );

    with_passphrase(&place);
    let locked = {
        let mut command = place.command(&["key", "show", "key", "--json"]);
        let run = Run::from(detached(&mut command).output().unwrap()).succeeds();
        serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap()
    };
    assert_eq!(locked["encrypted"], true);
    assert_eq!(locked["fingerprint"], serde_json::Value::Null);
    let opened = shown(&place, &["key", "--passphrase-file", "word"]);
    assert_eq!(
        opened["fingerprint"],
        shown(&place, &["key.pub"])["fingerprint"]
    );
    place
        .run(&["key", "show", "key", "--passphrase-command", "echo no"])
        .fails(24, &["wrong passphrase"]);
}

#[test]
fn the_public_half_is_printed_or_written_and_nothing_overwritten() {
    let place = Place::new();
    with_passphrase(&place);
    let pem = fs::read_to_string(place.path("key.pub")).unwrap();
    let public = ["key", "public", "key", "--passphrase-file", "word"];
    assert_eq!(place.run(&public).succeeds().stdout, pem);
    assert_eq!(
        place.run(&["key", "public", "key.pub"]).succeeds().stdout,
        pem
    );
    place
        .run(&[&public[..], &["-o", "again.pub"]].concat())
        .succeeds();
    assert_eq!(fs::read_to_string(place.path("again.pub")).unwrap(), pem);
    assert_eq!(mode(&place.path("again.pub")), 0o644);
    place
        .run(&[&public[..], &["-o", "key"]].concat())
        .fails(25, &["key exists"]);
    let mut command = place.command(&["key", "public", "key"]);
    Run::from(detached(&mut command).output().unwrap()).fails(24, &["--passphrase-file"]);
}

#[test]
fn a_passphrase_is_set_changed_and_removed() {
    let place = Place::new();
    place.keygen("key");
    set_mode(&place.path("key"), 0o400);
    let before = shown(&place, &["key"])["fingerprint"].clone();
    place.write_secret("first", "one\n");
    place.write_secret("second", "two\n");
    let passwd = |options: &[&str]| place.run(&[&["key", "passwd", "key"], options].concat());
    let run = passwd(&["--new-passphrase-file", "first"]).succeeds();
    assert!(run.stdout.contains("passphrase set: key"), "{}", run.stdout);
    let with = |word| shown(&place, &["key", "--passphrase-file", word])["fingerprint"].clone();
    assert_eq!(with("first"), before);
    assert_eq!(mode(&place.path("key")), 0o400);

    passwd(&["--passphrase-file", "second", "--no-passphrase"]).fails(24, &["wrong passphrase"]);
    assert_eq!(with("first"), before);
    passwd(&[
        "--passphrase-file",
        "first",
        "--new-passphrase-command",
        "cat second",
    ])
    .succeeds();
    assert_eq!(with("second"), before);
    // The variable is the old passphrase's, and never the new one's.
    let mut command = place.command(&["key", "passwd", "key"]);
    command.env("OSSVAULT_PASSPHRASE", "two");
    let run = Run::from(detached(&mut command).output().unwrap());
    run.fails(24, &["--new-passphrase-file", "--no-passphrase"]);
    let mut command = place.command(&["key", "passwd", "key", "--no-passphrase"]);
    command.env("OSSVAULT_PASSPHRASE", "two");
    let run = Run::from(command.output().unwrap()).succeeds();
    assert!(run.stdout.contains("passphrase removed"), "{}", run.stdout);
    assert_eq!(shown(&place, &["key"])["fingerprint"], before);
    assert_eq!(shown(&place, &["key"])["encrypted"], false);

    passwd(&["--new-passphrase-command", "echo"]).fails(24, &["empty"]);
    place
        .run(&["key", "passwd", "key.pub", "--no-passphrase"])
        .fails(22, &["public key"]);
    place
        .run(&["key", "passwd", "absent", "--no-passphrase"])
        .fails(20, &["absent"]);
    let names: Vec<_> = fs::read_dir(place.path("")).unwrap().flatten().collect();
    let left = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(".key");
    assert!(!names.iter().any(|entry| left(&entry.file_name())));
}
