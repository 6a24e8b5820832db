//! Damage that is detected, what an observer sees of that, and envelopes that are restored.

use super::*;

const VERIFY: [&str; 4] = ["verify", "oss://bucket/tree", "--private-key", "key"];

/// The wrapped data key of an SDK envelope, with one bit changed.
pub(super) fn spoil_v15(rig: &Rig, key: &str) {
    const NAME: &str = "client-side-encryption-key";
    let mut meta = head(rig, key);
    let wrapped = &meta.headers.user[NAME];
    let other = if wrapped.starts_with('A') { "B" } else { "A" };
    let spoilt = format!("{other}{}", &wrapped[1..]);
    meta.headers.user.insert(NAME.to_owned(), spoilt);
    put_plain(rig, key, &meta.headers, &rig.ciphertext(key));
}

/// An object of noise in the SDKs' format.
pub(super) fn put_sdk(rig: &Rig, key: &str, size: usize) {
    let bucket = bucket(rig, "key", Format::Sdk);
    let (key, plain) = (
        object_key(key),
        Plaintext::from_bytes(crate::fixture::noise(3, size)),
    );
    let put = bucket.put(&key, &plain, attributes(0), None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
}

/// Regression: the body was broken off as soon as the envelope could not be opened: the service could observe
/// that, and so learn whether any wrapped value of its choice is well-formed.
#[test]
fn verify_reads_as_much_of_an_object_whether_its_v15_envelope_opens_or_not() {
    let rig = Rig::new();
    put_sdk(&rig, "tree/a", 4 << 20);
    let asked = |code: Option<i32>| {
        let counts = rig.requests(|| assert_eq!(run(&rig, &VERIFY).code, code));
        (counts.requests, counts.bytes_out)
    };
    let opened = asked(Some(0));
    spoil_v15(&rig, "tree/a");
    let not_opened = asked(Some(43));
    // The listing and the headers have the same lengths, too.
    assert_eq!(opened, not_opened);
    assert!(opened.1 > 4 << 20);
    run(&rig, &VERIFY).fails(43, &["wrong-key: tree/a"]);
}

#[test]
fn verify_finds_a_damaged_body() {
    let rig = Rig::new();
    fill(&rig, 3, Format::Seed);
    rig.fault(
        Fault::once(Operation::GetObject, Action::CorruptBody { at: 5 })
            .on_keys("tree/002")
            .always(),
    );
    let found = run(&rig, &VERIFY).fails(43, &["damaged: tree/002", "CRC-64"]);
    assert!(found.stdout.contains("2 no-damage"), "{}", found.stdout);
    // The headers alone do not show it.
    run(&rig, &[&VERIFY[..], &["--quick"]].concat()).succeeds();
}

#[test]
fn verify_only_reads() {
    let rig = Rig::new();
    fill(&rig, 4, Format::Seed);
    put_plain(&rig, "tree/plain", &ObjectHeaders::default(), b"x");
    let reads = [
        Operation::GetObject,
        Operation::HeadObject,
        Operation::ListObjectsV2,
    ];
    let before: Vec<_> = rig.keys().iter().map(|key| rig.ciphertext(key)).collect();
    for options in [
        &[][..],
        &["--quick"],
        &["--save-envelopes", "saved"],
        &["--allow-plaintext", "."],
    ] {
        let counts = rig.requests(|| {
            run(&rig, &[&VERIFY[..], options].concat());
        });
        assert!(counts.total() > 4, "{options:?}");
        assert_eq!(counts.others(&reads), 0, "{options:?}: {counts:?}");
    }
    let after: Vec<_> = rig.keys().iter().map(|key| rig.ciphertext(key)).collect();
    assert_eq!(before, after);
}

// ---- envelopes ----

/// A tree whose envelopes are in `saved`; some are then lost, by an edit that changes the objects' times.
fn lose_envelopes(rig: &Rig, lost: &[&str]) {
    let save = ["verify", "oss://bucket", "--private-key", "key"];
    run(rig, &[&save[..], &["--save-envelopes", "saved"]].concat()).succeeds();
    for key in lost {
        let meta = head(rig, key);
        let key = object_key(key);
        let replace = CopyHeaders::Replace(ObjectHeaders::default());
        let request = CopyRequest {
            source: key.clone(),
            source_etag: meta.etag.clone(),
            destination: key.clone(),
            headers: replace,
            overwrite: Overwrite::Allowed,
        };
        let copy = rig.store.copy(&request);
        rig.block_on(copy).unwrap();
    }
}

const RESTORE: [&str; 3] = ["restore-envelopes", "saved", "oss://bucket"];

fn has_envelope(rig: &Rig, key: &str) -> bool {
    head(rig, key).headers.user.contains_key("x-oss-key")
}

#[test]
fn a_dry_run_of_restoring_changes_nothing() {
    let rig = Rig::new();
    fill(&rig, 2, Format::Seed);
    lose_envelopes(&rig, &["tree/001"]);
    let counts = rig.requests(|| {
        let dry = run(&rig, &[&RESTORE[..], &["--dry-run"]].concat()).succeeds();
        assert!(
            dry.stdout.contains("1 to-restore, 1 whole"),
            "{}",
            dry.stdout
        );
    });
    assert_eq!(counts.of(Operation::CopyObject), 0);
    assert!(!has_envelope(&rig, "tree/001"));
}

#[test]
fn only_objects_below_the_prefix_are_restored() {
    let rig = Rig::new();
    fill(&rig, 2, Format::Seed);
    put_sdk(&rig, "other/a", 100);
    lose_envelopes(&rig, &["tree/000", "tree/001"]);
    run(&rig, &["restore-envelopes", "saved", "oss://bucket/other"]).succeeds();
    assert!(!has_envelope(&rig, "tree/001"));
    let below = run(&rig, &["restore-envelopes", "saved", "oss://bucket/tree"]).succeeds();
    assert!(
        below.stdout.contains("2 objects, 2 restored"),
        "{}",
        below.stdout
    );
    assert!(has_envelope(&rig, "tree/001"));
}

#[test]
fn an_envelope_that_has_changed_since_is_kept() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 2, Format::Seed);
    lose_envelopes(&rig, &[]);
    run(&rig, &REWRAP).succeeds();
    let left = run(&rig, &RESTORE).succeeds();
    assert!(
        left.stdout.contains("2 another-envelope"),
        "{}",
        left.stdout
    );
    assert_tree(&rig, "new", 2);
}

/// Regression: a damaged line ended the whole command, and so did an object that could not be requested.
#[test]
fn a_damaged_line_or_a_failed_request_does_not_prevent_restoring_the_rest() {
    let rig = Rig::new();
    fill(&rig, 4, Format::Seed);
    let lost = ["tree/000", "tree/001", "tree/002", "tree/003"];
    lose_envelopes(&rig, &lost);
    let saved = fs::read_to_string(rig.path("saved")).unwrap();
    let mut lines: Vec<String> = saved.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 5);
    let line_of = |key: &str| lines.iter().position(|line| line.contains(key)).unwrap();
    let (cut, long) = (line_of("tree/001"), line_of("tree/002"));
    lines[cut].truncate(40);
    // No line has a megabyte: it is skipped without being stored.
    lines[long] = format!("{}{}", lines[long], "x".repeat(1 << 20));
    fs::write(rig.path("saved"), lines.join("\n")).unwrap();
    let refuse = Action::Status {
        status: 403,
        code: "AccessDenied".to_owned(),
    };
    rig.fault(
        Fault::once(Operation::HeadObject, refuse)
            .on_keys("tree/003")
            .always(),
    );
    let damaged = [cut, long].map(|index| format!("damaged-line: line {}", index + 1));
    run(&rig, &RESTORE).fails(
        43,
        &[
            &damaged[0],
            &damaged[1],
            "failed: tree/003",
            "the line is too long",
            "3 of 4 objects could not be restored",
        ],
    );
    assert!(has_envelope(&rig, "tree/000"));
    assert!(!has_envelope(&rig, "tree/002"));
    fs::write(rig.path("saved"), "{\"something\": \"else\"}\n").unwrap();
    run(&rig, &RESTORE).fails(42, &["first line"]);
}

/// Regression: the edit that lost the envelope changed the object's time, which was the file's time, and
/// restoring changed it again.
#[test]
fn an_envelope_is_restored_with_the_files_time() {
    let rig = Rig::new();
    let bucket = bucket(&rig, "key", Format::Seed);
    let (key, plain) = (object_key("tree/a"), Plaintext::from_bytes(content(3)));
    let headers = ObjectHeaders::default();
    rig.block_on(bucket.put(&key, &plain, headers, None, Overwrite::Allowed))
        .unwrap();
    let seconds = |time: std::time::SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs().to_string()
    };
    let written = seconds(head(&rig, "tree/a").last_modified);
    std::thread::sleep(Duration::from_millis(2100));
    lose_envelopes(&rig, &["tree/a"]);
    run(&rig, &RESTORE).succeeds();
    let meta = head(&rig, "tree/a");
    assert_ne!(seconds(meta.last_modified), written);
    assert_eq!(meta.headers.user["mtime"], written);
}

#[test]
fn verify_finds_damage_and_never_says_untampered() {
    let rig = Rig::new();
    fill(&rig, 6, Format::Seed);
    let verify = ["verify", "oss://bucket/tree", "--private-key", "key"];
    let fine = run(&rig, &verify).succeeds();
    assert!(fine.stdout.contains("no damage found"), "{}", fine.stdout);
    assert!(!fine.stdout.contains("tampered"));

    // A lost envelope, a foreign one, and an object that was never encrypted.
    let mut meta = head(&rig, "tree/001");
    meta.headers.user.remove("x-oss-start");
    put_plain(&rig, "tree/001", &meta.headers, b"x");
    let mut meta = head(&rig, "tree/002");
    make_new_key(&rig);
    let strange = bucket(&rig, "new", Format::Seed);
    let strange = rig.block_on(strange.put(
        &object_key("elsewhere"),
        &Plaintext::empty(),
        ObjectHeaders::default(),
        None,
        Overwrite::Allowed,
    ));
    meta.headers.user.extend(strange.unwrap().headers.user);
    put_plain(&rig, "tree/002", &meta.headers, &content(2));
    put_plain(&rig, "tree/plain", &ObjectHeaders::default(), b"x");
    let found = run(&rig, &verify).fails(43, &["damaged: tree/001", "not-encrypted: tree/plain"]);
    assert!(found.stdout.contains("tree/002"), "{}", found.stdout);
    let json = run(&rig, &[&verify[..], &["--json"]].concat());
    for line in json.stdout.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert_eq!(json.stdout.lines().count(), 8);
}

#[test]
fn verify_compares_with_a_folder_and_with_digests() {
    let rig = Rig::new();
    fill(&rig, 5, Format::Seed);
    let folder = rig.path("local");
    fs::create_dir(&folder).unwrap();
    for index in 0..5 {
        fs::write(folder.join(format!("{index:03}")), content(index)).unwrap();
    }
    let compare = [
        "verify",
        "oss://bucket/tree",
        "--private-key",
        "key",
        "--compare",
        "local",
    ];
    run(&rig, &compare).succeeds();
    let digests = bash(&folder, "cd $MNT; sha256sum *");
    fs::write(rig.path("digests"), digests).unwrap();
    let manifest = [
        "verify",
        "oss://bucket/tree",
        "--private-key",
        "key",
        "--digests",
        "digests",
    ];
    run(&rig, &manifest).succeeds();

    fs::write(folder.join("002"), vec![1; content(2).len()]).unwrap();
    fs::write(folder.join("0025"), "only here").unwrap();
    fs::remove_file(folder.join("004")).unwrap();
    fs::write(folder.join("zzz"), "only here").unwrap();
    run(&rig, &compare).fails(
        43,
        &[
            "differs: tree/002",
            "missing: tree/0025",
            "differs: tree/004",
            "missing: tree/zzz",
        ],
    );
    put_plain(
        &rig,
        "tree/005",
        &head(&rig, "tree/003").headers,
        &content(3),
    );
    rig.block_on(rig.store.delete(&object_key("tree/000")))
        .unwrap();
    run(&rig, &manifest).fails(43, &["differs: tree/005", "missing: tree/000"]);
}

#[test]
fn a_lost_envelope_is_restored() {
    let rig = Rig::new();
    fill(&rig, 4, Format::Seed);
    let save = [
        "verify",
        "oss://bucket",
        "--private-key",
        "key",
        "--save-envelopes",
        "saved",
    ];
    run(&rig, &save).succeeds();
    run(&rig, &save).fails(25, &["saved"]);
    assert_eq!(
        fs::metadata(rig.path("saved")).unwrap().mode() & 0o777,
        0o600
    );

    // Another tool sets a mode and drops the rest; another one replaces a file.
    for key in ["tree/001", "tree/002"] {
        let meta = head(&rig, key);
        let headers = ObjectHeaders {
            user: BTreeMap::from([("mode".to_owned(), "33152".to_owned())]),
            ..ObjectHeaders::default()
        };
        let key = object_key(key);
        let replace = CopyHeaders::Replace(headers);
        let request = CopyRequest {
            source: key.clone(),
            source_etag: meta.etag.clone(),
            destination: key.clone(),
            headers: replace,
            overwrite: Overwrite::Allowed,
        };
        let copy = rig.store.copy(&request);
        rig.block_on(copy).unwrap();
    }
    put_plain(
        &rig,
        "tree/003",
        &ObjectHeaders::default(),
        b"another content",
    );
    let restored = run(&rig, &["restore-envelopes", "saved", "oss://bucket"]).succeeds();
    assert!(
        restored.stdout.contains("1 replaced, 2 restored, 1 whole"),
        "{}",
        restored.stdout
    );
    assert_eq!(read(&rig, "key", "tree/001"), content(1));
    let user = head(&rig, "tree/002").headers.user;
    assert_eq!(user["mode"], "33152", "what is there stays");
    assert_eq!(user["mtime"], "1700000000.2", "what was lost comes back");
    assert_eq!(rig.ciphertext("tree/003"), b"another content");
}

#[test]
fn all_keys_of_a_folder_are_tried() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 2, Format::Seed);
    let other = bucket(&rig, "new", Format::Seed);
    let plain = Plaintext::from_bytes(&b"by the other key"[..]);
    let key = object_key("tree/other");
    let put = other.put(&key, &plain, attributes(1), None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
    let folder = rig.path("keys");
    fs::create_dir(&folder).unwrap();
    let verify = ["verify", "oss://bucket", "--private-key", "keys"];
    run(&rig, &verify).fails(20, &["no private key in the folder"]);
    fs::copy(rig.path("key"), folder.join("1")).unwrap();
    run(&rig, &verify).fails(43, &["key-missing: tree/other"]);
    for (file, name) in [("new", "2"), ("new.pub", "2.pub")] {
        fs::copy(rig.path(file), folder.join(name)).unwrap();
    }
    run(&rig, &verify).succeeds();
}

#[test]
fn info_shows_how_an_object_is_stored_and_which_key_opens_it() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 4, Format::Seed);
    put_plain(&rig, "plain", &ObjectHeaders::default(), b"x");
    let info = |key: &str, object: &str| {
        let run = run(&rig, &["info", object, "--private-key", key, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        // An object that cannot be opened is an error.
        let code = if report["can_open"] == false { 43 } else { 0 };
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        report
    };
    let ours = info("key", "oss://bucket/tree/003");
    assert_eq!(ours["format"], "seed");
    assert_eq!(ours["can_open"], true);
    assert_eq!(ours["size"], content(3).len());
    assert_eq!(ours["attributes"]["somebody-elses"], "entry");
    assert_eq!(ours["xattrs"]["user.comment"], 4);
    let hint = ours["key_hint"].as_str().unwrap();
    assert!(ours["fingerprint"].as_str().unwrap().starts_with(hint));
    let foreign = info("new", "oss://bucket/tree/003");
    assert_eq!(foreign["can_open"], false);
    assert!(foreign["problem"].as_str().unwrap().contains(hint));
    assert_eq!(info("key", "oss://bucket/plain")["encrypted"], false);
    run(&rig, &["info", "oss://bucket/none"]).fails(1, &["no object"]);
    run(&rig, &["info", "oss://bucket"]).fails(2, &["oss://bucket/key"]);
}
