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

/// Rewraps with five kills, the nth after `step` * n copies, and then to the end.
fn rewrap_killed_five_times(rig: &Rig, count: usize, step: u64, parallel: &str) -> Run {
    let copies = || rig.instruments().counts().of(Operation::CopyObject);
    for round in 1..=5 {
        let mut child = command(rig, &[&REWRAP[..], &["--parallel", parallel]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while copies() < round * step {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    rig.settle();
    let before = copies();
    let last = run(rig, &REWRAP).succeeds();
    // Requests that were in flight at a kill may be repeated; nothing else is.
    let twice = copies() - count as u64;
    let in_flight = 5 * parallel.parse::<u64>().unwrap();
    assert!(
        twice <= in_flight,
        "{twice} twice, {before} before the last run"
    );
    assert!(
        last.stdout.contains(&format!("{count} proved")),
        "{}",
        last.stdout
    );
    last
}

#[test]
fn a_rewrap_that_is_killed_five_times_loses_nothing() {
    const COUNT: usize = 300;
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, COUNT, Format::Seed);
    put_plain(&rig, "tree/", &ObjectHeaders::default(), b"");
    rig.instruments().set_latency(Duration::from_millis(5));
    rewrap_killed_five_times(&rig, COUNT, 40, "4");
    rig.instruments().set_latency(Duration::ZERO);
    assert_tree(&rig, "new", COUNT);
    assert_eq!(rig.keys().len(), COUNT + 1);
    rig.assert_no_unfinished_uploads();
}

/// The full size; see scripts/exercise.
#[test]
#[ignore = "long"]
fn ten_thousand_objects_are_rewrapped_in_seconds() {
    const COUNT: usize = 10_000;
    let rig = Rig::new();
    make_new_key(&rig);
    let bucket = bucket(&rig, "key", Format::Seed);
    rig.block_on(async {
        for index in 0..COUNT {
            let plain = Plaintext::from_bytes(content(index % 100));
            let key = object_key(&format!("tree/{index:05}"));
            let put = bucket.put(&key, &plain, attributes(index), None, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
    rig.instruments().set_latency(Duration::from_millis(20));
    rewrap_killed_five_times(&rig, COUNT, 1000, "64");
    let after = self::bucket(&rig, "new", Format::Seed);
    for index in 0..COUNT {
        let key = format!("tree/{index:05}");
        let plain = read_through(&rig, &after, &key);
        assert_eq!(plain, content(index % 100), "{key}");
    }
    // And once more, without interruption, back to the first key.
    let mut back = command(
        &rig,
        &[
            "rewrap",
            "oss://bucket/tree",
            "--private-key",
            "new",
            "--public-key",
            "key.pub",
            "--new-private-key",
            "key",
        ],
    )
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let began = std::time::Instant::now();
    let mut peak = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", back.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line
            .and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap_or(0)
            .max(peak);
        if let Some(status) = back.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    back.stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(status.success(), "{said}");
    let took = began.elapsed();
    println!(
        "{said}in all {:.1} s, at most {peak} kB",
        took.as_secs_f64()
    );
    // Both passes, each of 10,000 HEADs and the first of as many copies, 64 at once: 9.4 s of waiting. On a
    // busy machine the computation takes twice that.
    assert!(took < Duration::from_secs(30), "{took:?}");
    // The program, its connections and a page of the listing, but nothing per object.
    assert!(peak < 48 << 10, "{peak} kB");
}

#[test]
fn a_rewrap_costs_a_head_and_a_copy_for_each_object() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 50, Format::Seed);
    let bytes = rig.ciphertext("tree/049");
    let counts = rig.requests(|| {
        run(&rig, &REWRAP).succeeds();
    });
    assert_eq!(counts.of(Operation::CopyObject), 50);
    // Once before the copy, and once in the check at the end; and the key marker, which there is none of.
    assert_eq!(counts.of(Operation::HeadObject), 101);
    assert_eq!(counts.of(Operation::ListObjectsV2), 2);
    assert_eq!(counts.of(Operation::GetBucketInfo), 1);
    assert_eq!(counts.total(), 154);
    assert_eq!(
        rig.ciphertext("tree/049"),
        bytes,
        "contents stay where they are"
    );
    assert_tree(&rig, "new", 50);
    // A second run finds nothing to do.
    let counts = rig.requests(|| {
        let again = run(&rig, &[&REWRAP[..], &["--json"]].concat()).succeeds();
        assert!(
            again.stdout.contains("\"outcomes\":{\"already\":50}"),
            "{}",
            again.stdout
        );
    });
    assert_eq!(counts.of(Operation::CopyObject), 0);
}

/// Ctrl-C: what was done, how to go on, and 130.
#[test]
fn an_interrupted_rewrap_says_what_is_done_and_is_resumed() {
    const COUNT: usize = 200;
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, COUNT, Format::Seed);
    let copies = || rig.instruments().counts().of(Operation::CopyObject);
    let mut child = command(&rig, &[&REWRAP[..], &["--parallel", "4"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while copies() < 20 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let errors = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{errors}");
    assert!(errors.contains("interrupted"), "{errors}");
    assert!(errors.contains("same command"), "{errors}");
    let last = run(&rig, &REWRAP).succeeds();
    assert!(
        last.stdout.contains(&format!("{COUNT} proved")),
        "{}",
        last.stdout
    );
    assert_tree(&rig, "new", COUNT);
}

#[test]
fn rewrap_refuses_a_key_without_proof_of_its_private_half() {
    let rig = Rig::new();
    make_new_key(&rig);
    run(
        &rig,
        &["keygen", "other", "--no-passphrase", "--bits", "2048"],
    )
    .succeeds();
    fill(&rig, 3, Format::Seed);
    let base = &REWRAP[..6];
    run(&rig, base).fails(20, &["--new-fingerprint"]);
    let wrong = "0".repeat(64);
    run(&rig, &[base, &["--new-fingerprint", &wrong]].concat()).fails(23, &["fingerprint"]);
    run(&rig, &[base, &["--new-private-key", "other"]].concat()).fails(23, &["private half"]);
    let same = [
        "rewrap",
        "oss://bucket/tree",
        "--private-key",
        "key",
        "--public-key",
        "key.pub",
    ];
    run(&rig, &same).fails(23, &["the same"]);
    assert_tree(&rig, "key", 3);

    let dry = run(&rig, &[&REWRAP[..], &["--dry-run"]].concat()).succeeds();
    assert!(dry.stdout.contains("3 to-rewrap"), "{}", dry.stdout);
    assert_tree(&rig, "key", 3);

    // With the fingerprint, the proof relies on the key id and on the old key's failure.
    let pem = fs::read(rig.path("new.pub")).unwrap();
    let fingerprint = key_parse::public_key(&pem)
        .unwrap()
        .fingerprint()
        .to_owned();
    let typed = [base, &["--new-fingerprint", &fingerprint]].concat();
    run(&rig, &typed).succeeds();
    run(&rig, &typed).succeeds();
    assert_tree(&rig, "new", 3);
}

#[test]
fn objects_that_cannot_be_rewrapped_are_re_encrypted_on_request() {
    for format in [Format::Sdk, Format::Dual] {
        let rig = Rig::new();
        make_new_key(&rig);
        fill(&rig, 5, format);
        run(&rig, &REWRAP).fails(43, &["needs-re-encryption", "old-key-opens"]);
        assert_tree(&rig, "key", 5);
        let before = rig.ciphertext("tree/004");
        run(&rig, &[&REWRAP[..], &["--re-encrypt=needed"]].concat()).succeeds();
        assert_ne!(rig.ciphertext("tree/004"), before, "a fresh data key");
        assert_tree(&rig, "new", 5);
        let user = head(&rig, "tree/004").headers.user;
        assert!(user.contains_key("client-side-encryption-key"));
        assert_eq!(user.contains_key("x-oss-key"), format == Format::Dual);
    }
}

#[test]
fn re_encrypting_everything_changes_every_data_key() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 4, Format::Seed);
    let large: Vec<u8> = (0..20u32 << 20).map(|i| (i % 251) as u8).collect();
    let old = bucket(&rig, "key", Format::Seed);
    let plain = Plaintext::from_bytes(large.clone());
    let key = object_key("tree/large");
    let put = old.put(&key, &plain, attributes(0), None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
    let before: Vec<_> = rig.keys().iter().map(|key| rig.ciphertext(key)).collect();
    run(&rig, &[&REWRAP[..], &["--re-encrypt"]].concat()).succeeds();
    for (key, before) in rig.keys().iter().zip(before) {
        assert!(before.is_empty() || rig.ciphertext(key) != before, "{key}");
    }
    assert_tree(&rig, "new", 4);
    assert!(read(&rig, "new", "tree/large") == large);
    rig.assert_no_unfinished_uploads();
}

#[test]
fn a_rewrap_continues_when_the_service_throttles() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 20, Format::Seed);
    let busy = Action::Status {
        status: 503,
        code: "SlowDown".to_owned(),
    };
    rig.fault(Fault::once(Operation::CopyObject, busy).times(10));
    run(&rig, &REWRAP).succeeds();
    assert_tree(&rig, "new", 20);
}

#[test]
fn an_envelope_never_gets_onto_the_bytes_of_another_version() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 2, Format::Seed);
    let old = bucket(&rig, "key", Format::Seed);
    // Replaced between the HEAD and the copy: the copy's precondition fails, and the object is processed
    // again.
    rig.instruments().set_latency(Duration::from_secs(1));
    let mut child = command(&rig, &REWRAP)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while rig.instruments().counts().of(Operation::CopyObject) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let plain = Plaintext::from_bytes(&b"by another client"[..]);
    let key = object_key("tree/001");
    let put = old.put(&key, &plain, attributes(1), None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
    rig.instruments().set_latency(Duration::ZERO);
    assert!(child.wait().unwrap().success());
    assert_eq!(read(&rig, "new", "tree/001"), b"by another client");
}
