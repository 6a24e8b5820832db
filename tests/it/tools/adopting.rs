//! Plaintext is deleted only once its object exists encrypted and can be opened.

use super::*;

const ADOPT: [&str; 7] = [
    "adopt",
    "oss://bucket/old",
    "--private-key",
    "key",
    "--into",
    "vault",
    "--remove",
];

/// Regression: an object of the same size and time was taken for the same object, and the only copy of
/// another one was deleted.
#[test]
fn a_source_replaced_with_the_same_size_and_time_is_kept() {
    let rig = Rig::new();
    put_plain(&rig, "old/1", &attributes(1), b"first");
    put_plain(&rig, "old/2", &attributes(2), b"second");
    run(&rig, &ADOPT[..6]).succeeds();
    put_plain(&rig, "old/1", &attributes(1), b"other");
    let all = run(&rig, &ADOPT).fails(43, &["destination-exists: old/1"]);
    assert!(all.stdout.contains("1 already"), "{}", all.stdout);
    // An identical one is removed.
    assert_eq!(rig.keys(), ["old/1", "vault/1", "vault/2"]);
    assert_eq!(rig.ciphertext("old/1"), b"other");
    assert_eq!(read(&rig, "key", "vault/1"), b"first");
}

/// Regression: without a private key nothing was opened, and the plaintext was deleted anyway.
#[test]
fn plaintext_is_kept_if_its_encrypted_object_cannot_be_opened() {
    let rig = Rig::new();
    make_new_key(&rig);
    put_plain(&rig, "old/1", &attributes(1), b"first");
    let for_another = [
        "adopt",
        "oss://bucket/old",
        "--public-key",
        "new.pub",
        "--into",
        "vault",
    ];
    run(&rig, &for_another).succeeds();
    let stays = |run: Run, words: &[&str]| {
        run.fails(43, words);
        assert_eq!(rig.ciphertext("old/1"), b"first");
        assert_eq!(rig.keys(), ["old/1", "vault/1"]);
    };
    // Wrapped for a key other than the given one.
    let ours = [
        "adopt",
        "oss://bucket/old",
        "--public-key",
        "key.pub",
        "--into",
        "vault",
        "--remove",
    ];
    stays(run(&rig, &ours), &["not-confirmed: old/1", "private key"]);
    stays(run(&rig, &ADOPT), &["key-missing: old/1"]);
    // A dry run cannot be sure either.
    stays(
        run(&rig, &[&ours[..], &["--dry-run"]].concat()),
        &["not-confirmed"],
    );
    let with_its_key = [
        "adopt",
        "oss://bucket/old",
        "--private-key",
        "new",
        "--into",
        "vault",
        "--remove",
    ];
    run(&rig, &with_its_key).succeeds();
    assert_eq!(rig.keys(), ["vault/1"]);
}

/// An object that this run uploaded for another key needs no opening: its envelope and ETag are those it
/// sent.
#[test]
fn a_fresh_upload_for_another_key_may_replace_its_plaintext() {
    let rig = Rig::new();
    make_new_key(&rig);
    put_plain(&rig, "old/1", &attributes(1), b"first");
    let adopt = [
        "adopt",
        "oss://bucket/old",
        "--public-key",
        "new.pub",
        "--into",
        "vault",
        "--remove",
    ];
    run(&rig, &adopt).succeeds();
    assert_eq!(rig.keys(), ["vault/1"]);
    assert_eq!(read(&rig, "new", "vault/1"), b"first");
}

/// Regression: a marker carries a directory's attributes; existing ones were replaced.
#[test]
fn an_existing_directory_keeps_its_attributes() {
    let rig = Rig::new();
    put_plain(&rig, "old/dir/", &attributes(1), b"");
    put_plain(&rig, "old/new/", &attributes(2), b"");
    put_plain(&rig, "vault/dir/", &attributes(3), b"");
    run(&rig, &ADOPT).succeeds();
    assert_eq!(rig.keys(), ["vault/dir/", "vault/new/"]);
    let mtime = |key: &str| head(&rig, key).headers.user["mtime"].clone();
    assert_eq!(mtime("vault/dir/"), "1700000000.3");
    assert_eq!(mtime("vault/new/"), "1700000000.2");
}

/// Regression: an object with the remains of an envelope was taken for plaintext, and encrypted a second
/// time.
#[test]
fn the_remains_of_an_envelope_are_not_plaintext() {
    let rig = Rig::new();
    for (index, name) in ["ossvault-xattr", "client-side-encryption-matdesc"]
        .into_iter()
        .enumerate()
    {
        let user = BTreeMap::from([(name.to_owned(), "{}".to_owned())]);
        let headers = ObjectHeaders {
            user,
            ..ObjectHeaders::default()
        };
        put_plain(&rig, &format!("old/{index}"), &headers, b"ciphertext");
    }
    let adopt = ["adopt", "oss://bucket/old", "--private-key", "key"];
    run(&rig, &adopt).fails(43, &["damaged: old/0", "damaged: old/1", "is missing"]);
    assert_eq!(rig.ciphertext("old/0"), b"ciphertext");
    assert_eq!(rig.ciphertext("old/1"), b"ciphertext");
}

#[test]
fn a_source_that_is_replaced_while_it_is_read_is_read_again() {
    // In one piece, and in parts.
    for size in [5000, 3 << 20] {
        let rig = Rig::new();
        let first: Vec<u8> = vec![b'a'; size];
        let second: Vec<u8> = vec![b'b'; size + 7];
        put_plain(&rig, "old/1", &attributes(1), &first);
        rig.instruments().set_latency(Duration::from_millis(500));
        let mut child = command(&rig, &["adopt", "oss://bucket/old", "--private-key", "key"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The first HEAD found the version; the next one checks that it is unchanged.
        while rig.instruments().counts().of(Operation::HeadObject) < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        put_plain(&rig, "old/1", &attributes(2), &second);
        rig.instruments().set_latency(Duration::ZERO);
        assert!(child.wait().unwrap().success());
        assert!(read(&rig, "key", "old/1") == second, "{size}");
        assert_eq!(head(&rig, "old/1").headers.user["mtime"], "1700000000.2");
        rig.assert_no_unfinished_uploads();
    }
}

#[test]
fn an_adoption_that_is_killed_is_resumed() {
    const COUNT: usize = 60;
    let rig = Rig::new();
    for index in 0..COUNT {
        let key = format!("old/{index:03}");
        put_plain(&rig, &key, &attributes(index), &content(index));
    }
    rig.instruments().set_latency(Duration::from_millis(10));
    for round in 1..=3 {
        let mut child = command(&rig, &[&ADOPT[..], &["--parallel", "4"]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while rig.instruments().counts().of(Operation::PutObject) < round * 12 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Each object exists somewhere, complete: plain, encrypted, or both.
        rig.settle();
        let keys = rig.keys();
        for index in 0..COUNT {
            let (plain, moved) = (format!("old/{index:03}"), format!("vault/{index:03}"));
            match keys.contains(&plain) {
                true => assert_eq!(rig.ciphertext(&plain), content(index)),
                false => assert_eq!(read(&rig, "key", &moved), content(index)),
            }
        }
    }
    rig.instruments().set_latency(Duration::ZERO);
    run(&rig, &ADOPT).succeeds();
    assert!(rig.keys().iter().all(|key| key.starts_with("vault/")));
    for index in 0..COUNT {
        let key = format!("vault/{index:03}");
        assert_eq!(read(&rig, "key", &key), content(index));
        let mtime = &head(&rig, &key).headers.user["mtime"];
        assert_eq!(*mtime, format!("1700000000.{index}"));
    }
}

#[test]
fn adopt_encrypts_in_place_and_keeps_names_and_times() {
    let rig = Rig::new();
    let large: Vec<u8> = (0..3u32 << 20).map(|i| (i % 241) as u8).collect();
    put_plain(&rig, "old/a", &attributes(1), b"one");
    put_plain(&rig, "old/empty", &ObjectHeaders::default(), b"");
    put_plain(&rig, "old/dir/", &ObjectHeaders::default(), b"");
    put_plain(&rig, "old/large", &ObjectHeaders::default(), &large);
    put_plain(&rig, "beside", &ObjectHeaders::default(), b"plain");
    let written = head(&rig, "old/large").last_modified;
    let adopt = ["adopt", "oss://bucket/old", "--private-key", "key"];
    run(&rig, &[&adopt[..], &["--dry-run"]].concat()).succeeds();
    assert_eq!(rig.ciphertext("old/a"), b"one");
    let first = run(&rig, &adopt).succeeds();
    assert!(first.stdout.contains("3 adopted"), "{}", first.stdout);
    let again = run(&rig, &adopt).succeeds();
    assert!(again.stdout.contains("3 already"), "{}", again.stdout);
    assert_eq!(read(&rig, "key", "old/a"), b"one");
    assert_eq!(read(&rig, "key", "old/empty"), b"");
    assert!(read(&rig, "key", "old/large") == large);
    assert_eq!(head(&rig, "old/a").headers.user["mtime"], "1700000000.1");
    let seconds = written
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mtime = head(&rig, "old/large").headers.user["mtime"].clone();
    assert_eq!(mtime, seconds.to_string());
    assert_eq!(rig.ciphertext("beside"), b"plain");
    rig.assert_no_unfinished_uploads();
}

#[test]
fn adopt_into_another_prefix_removes_the_plaintext_last() {
    let rig = Rig::new();
    for index in 1..5 {
        put_plain(
            &rig,
            &format!("old/{index}"),
            &attributes(index),
            &content(index),
        );
    }
    let adopt = [
        "adopt",
        "oss://bucket/old",
        "--private-key",
        "key",
        "--into",
        "vault",
    ];
    run(&rig, &[&adopt[..5], &["old/inside"]].concat()).fails(2, &["inside the other"]);
    run(&rig, &adopt).succeeds();
    assert_eq!(
        rig.ciphertext("old/1"),
        content(1),
        "nobody asked to remove it"
    );
    // A different object at the destination is not overwritten.
    put_plain(&rig, "vault/4", &ObjectHeaders::default(), b"mine");
    run(&rig, &[&adopt[..], &["--remove"]].concat()).fails(43, &["destination-exists: old/4"]);
    assert_eq!(
        rig.keys(),
        ["old/4", "vault/1", "vault/2", "vault/3", "vault/4"]
    );
    for index in 1..4 {
        assert_eq!(read(&rig, "key", &format!("vault/{index}")), content(index));
    }
}

#[test]
fn unencrypted_objects_are_served_only_where_the_option_allows_it() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    put_plain(&rig, "public/a", &attributes(1), b"plain content");
    put_plain(&rig, "publicity", &attributes(1), b"plain content");
    let mount = rig.mount("mnt", &["--allow-plaintext", "public"]);
    let file = mount.path.join("public/a");
    assert_eq!(fs::read(&file).unwrap(), b"plain content");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o444);
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
    };
    denied(File::options().write(true).open(&file).map(drop));
    denied(File::create(&file).map(drop));
    denied(fs::set_permissions(
        &file,
        fs::Permissions::from_mode(0o600),
    ));
    let hidden = fs::read(mount.path.join("publicity"));
    assert_eq!(hidden.unwrap_err().raw_os_error(), Some(libc::EIO));
    // New files are encrypted there like anywhere else.
    fs::write(mount.path.join("public/new"), "secret").unwrap();
    assert_ne!(rig.ciphertext("public/new"), b"secret");
    assert_eq!(fs::read(mount.path.join("public/new")).unwrap(), b"secret");
    mount.end_well();
}
