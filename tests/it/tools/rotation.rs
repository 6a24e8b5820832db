//! What a rewrap must not leave behind or lose.

use super::*;

fn typed_fingerprint(rig: &Rig) -> String {
    let pem = fs::read(rig.path("new.pub")).unwrap();
    let public = key_parse::public_key(&pem).unwrap();
    public.fingerprint().to_owned()
}

/// In seconds, as stored in the bucket.
fn last_modified(rig: &Rig, key: &str) -> String {
    let time = head(rig, key).last_modified;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().to_string()
}

/// An object in this format, without a stored time.
fn put_timeless(rig: &Rig, key: &str, format: Format) {
    let bucket = bucket(rig, "key", format);
    let (key, plain) = (object_key(key), Plaintext::from_bytes(content(9)));
    let put = bucket.put(
        &key,
        &plain,
        ObjectHeaders::default(),
        None,
        Overwrite::Allowed,
    );
    rig.block_on(put).unwrap();
}

/// Regression: an object that the new key opens was skipped, even if its data key is the one that leaked.
#[test]
fn re_encrypting_after_a_rewrap_still_changes_every_data_key() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 4, Format::Seed);
    run(&rig, &REWRAP).succeeds();
    let before: Vec<_> = rig.keys().iter().map(|key| rig.ciphertext(key)).collect();
    assert_eq!(
        head(&rig, "tree/001").headers.user["ossvault-rewrapped"],
        "1"
    );

    // Without the new private key, no key opens them, and the report says so.
    let typed = typed_fingerprint(&rig);
    let by_name = [&REWRAP[..6], &["--new-fingerprint", &typed]].concat();
    run(&rig, &[&by_name[..], &["--re-encrypt"]].concat())
        .fails(43, &["needs-new-key: tree/001", "--new-private-key"]);

    let all = [&REWRAP[..], &["--re-encrypt"]].concat();
    let first = run(&rig, &all).succeeds();
    assert!(first.stdout.contains("4 re-encrypted"), "{}", first.stdout);
    for (key, before) in rig.keys().iter().zip(before) {
        assert!(before.is_empty() || rig.ciphertext(key) != before, "{key}");
        let user = head(&rig, key).headers.user;
        assert!(!user.contains_key("ossvault-rewrapped"), "{key}");
    }
    assert_tree(&rig, "new", 4);
    let second = run(&rig, &all).succeeds();
    assert!(second.stdout.contains("4 already"), "{}", second.stdout);
}

/// A copy changes Last-Modified, which is the time of a file that stores none.
#[test]
fn a_file_without_a_stored_time_keeps_its_time() {
    let rig = Rig::new();
    make_new_key(&rig);
    put_timeless(&rig, "tree/copied", Format::Seed);
    put_timeless(&rig, "tree/sent", Format::Sdk);
    let written = ["tree/copied", "tree/sent"].map(|key| last_modified(&rig, key));
    // Times of objects are whole seconds.
    std::thread::sleep(Duration::from_millis(2100));
    run(&rig, &[&REWRAP[..], &["--re-encrypt=needed"]].concat()).succeeds();
    for (key, written) in ["tree/copied", "tree/sent"].into_iter().zip(written) {
        assert_ne!(last_modified(&rig, key), written, "the bucket's own moved");
        assert_eq!(head(&rig, key).headers.user["mtime"], written, "{key}");
    }
}

#[test]
fn the_fingerprint_to_confirm_is_not_shown() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    let fingerprint = typed_fingerprint(&rig);
    let asked = run(&rig, &REWRAP[..6]).fails(20, &["with --new-fingerprint", "keygen"]);
    assert!(!asked.stderr.contains(&fingerprint), "{}", asked.stderr);
    let wrong = "0".repeat(64);
    let refused = run(
        &rig,
        &[&REWRAP[..6], &["--new-fingerprint", &wrong]].concat(),
    )
    .fails(23, &["does not have the given fingerprint"]);
    assert!(!refused.stderr.contains(&fingerprint), "{}", refused.stderr);
}

/// Regression: the key that an object names was believed if its format limits how often keys are tried.
#[test]
fn without_the_new_private_key_the_old_keys_are_tried_on_objects_that_name_the_new_one() {
    for format in [Format::Seed, Format::Sdk] {
        let rig = Rig::new();
        make_new_key(&rig);
        fill(&rig, 2, format);
        let typed = typed_fingerprint(&rig);
        let by_name = [&REWRAP[..6], &["--new-fingerprint", &typed]].concat();
        // It names the new key, and is for the old one.
        let mut meta = head(&rig, "tree/001");
        let user = &mut meta.headers.user;
        user.insert("ossvault-key".to_owned(), typed[..16].to_owned());
        put_plain(&rig, "tree/001", &meta.headers, &rig.ciphertext("tree/001"));
        let with = ["--re-encrypt=needed"];
        let checked = run(&rig, &[&by_name[..], &with].concat());
        if format == Format::Sdk {
            let checked = checked.fails(43, &["old-key-opens: tree/001"]);
            assert!(
                checked.stdout.contains("1 names-new-key"),
                "{}",
                checked.stdout
            );
        } else {
            // It was opened by trial and rewrapped.
            let checked = checked.succeeds();
            assert!(
                checked.stdout.contains("2 names-new-key"),
                "{}",
                checked.stdout
            );
        }
    }
}

#[test]
fn objects_that_need_re_encryption_are_reported_at_the_end() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 2, Format::Sdk);
    let way = ["2 cannot be rewrapped", "--re-encrypt=needed"];
    run(&rig, &REWRAP).fails(43, &way);
    run(&rig, &[&REWRAP[..], &["--dry-run"]].concat()).fails(43, &way);
}

/// More foreign v1.5 envelopes than the limit, in an order that meets them first.
#[test]
fn the_limit_of_v15_is_an_option_of_every_command_that_opens() {
    let rig = Rig::new();
    make_new_key(&rig);
    let strange = bucket(&rig, "new", Format::Sdk);
    rig.block_on(async {
        for index in 0..3 {
            let key = object_key(&format!("tree/{index}-strange"));
            let (plain, headers) = (Plaintext::from_bytes(content(3)), attributes(0));
            let put = strange.put(&key, &plain, headers, None, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
    // Without the name of their key they have to be tried.
    for index in 0..3 {
        let key = format!("tree/{index}-strange");
        let mut meta = head(&rig, &key);
        meta.headers.user.remove("ossvault-key");
        put_plain(&rig, &key, &meta.headers, &rig.ciphertext(&key));
    }
    let (key, plain) = (object_key("tree/ours"), Plaintext::from_bytes(content(3)));
    let ours = bucket(&rig, "key", Format::Sdk);
    let put = ours.put(&key, &plain, attributes(0), None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
    let verify = [
        "verify",
        "oss://bucket/tree",
        "--private-key",
        "key",
        "--parallel",
        "1",
        "--pkcs1-limit",
    ];
    let few = run(&rig, &[&verify[..], &["2"]].concat());
    few.fails(43, &["key-missing: tree/ours", "--pkcs1-limit"]);
    let enough = run(&rig, &[&verify[..], &["4"]].concat());
    enough.fails(43, &["wrong-key: tree/2-strange", "1 no-damage"]);
    for command in ["info", "rewrap", "adopt", "mount"] {
        let help = run(&rig, &[command, "--help"]).succeeds();
        assert!(help.stdout.contains("--pkcs1-limit"), "{command}");
    }
}

/// Regression: commands over a whole prefix had a mount's limit of 128; the concern is the service's memory,
/// not its speed.
#[test]
fn a_command_over_a_prefix_keeps_64_requests_in_flight() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 200, Format::Seed);
    // Long enough for a busy machine to unwrap and wrap more than 64 keys in that time.
    rig.instruments().set_latency(Duration::from_millis(300));
    let counts = rig.requests(|| {
        run(&rig, &REWRAP).succeeds();
    });
    rig.instruments().set_latency(Duration::ZERO);
    for operation in [Operation::HeadObject, Operation::CopyObject] {
        let most = counts.most_in_flight(operation);
        assert!((33..=64).contains(&most), "{most} {operation:?}");
    }
}

#[test]
fn a_bucket_that_keeps_old_versions_is_announced() {
    let rig = Rig::with(|config| config.versioned = true);
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    let rewrap = run(&rig, &REWRAP).succeeds();
    let (warning, stays) = ("keeps old versions", "stay wrapped for the old key");
    assert!(rewrap.stderr.contains(warning), "{}", rewrap.stderr);
    assert!(rewrap.stderr.contains(stays), "{}", rewrap.stderr);
    put_plain(&rig, "plain/a", &ObjectHeaders::default(), b"x");
    let adopt = ["adopt", "oss://bucket/plain", "--private-key", "key"];
    let adopt = run(&rig, &adopt).succeeds();
    assert!(adopt.stderr.contains(warning), "{}", adopt.stderr);
    // If it does not, there is no warning.
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    assert_eq!(run(&rig, &REWRAP).succeeds().stderr, "");
}
