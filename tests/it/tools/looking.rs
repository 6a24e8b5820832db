//! Commands that inspect change and create nothing; commands that find nothing to do say so; and errors name
//! their real cause.

use std::path::Path;

use ossvault::crypto::data_key::ContentKind;
use ossvault::crypto::key_error::Strength;
use ossvault::envelope::write;

use super::*;
use crate::fixture::{is_root, set_mode};

const LOOKING: [&[&str]; 7] = [
    &["verify", "SOURCE", "--private-key", "key"],
    &["verify", "SOURCE", "--save-envelopes", "saved"],
    &[
        "rewrap",
        "SOURCE",
        "--private-key",
        "key",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
    ],
    &[
        "rewrap",
        "SOURCE",
        "--private-key",
        "key",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
        "--dry-run",
    ],
    &["adopt", "SOURCE", "--private-key", "key"],
    &["adopt", "SOURCE", "--private-key", "key", "--dry-run"],
    &["restore-envelopes", "saved-before", "SOURCE"],
];

/// The arguments with a source in them.
fn on<'a>(arguments: &[&'a str], source: &'a str) -> Vec<&'a str> {
    let put = |word: &&'a str| if *word == "SOURCE" { source } else { *word };
    arguments.iter().map(put).collect()
}

fn is_untouched(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Regression: a mistyped path became a new bucket, and the report said that it had no damage.
#[test]
fn inspecting_a_folder_that_is_not_a_bucket_creates_none() {
    let rig = Rig::new();
    make_new_key(&rig);
    fs::create_dir(rig.path("mnt")).unwrap();
    fs::write(rig.path("saved-before"), "{\"ossvault_envelopes\":1}\n").unwrap();
    for folder in ["absent", "empty"] {
        let path = rig.path(folder);
        if folder == "empty" {
            fs::create_dir(&path).unwrap();
        }
        let source = format!("file://{}", path.display());
        for arguments in LOOKING {
            let line = on(arguments, &source);
            run(&rig, &line).fails(35, &["there is no bucket in", folder]);
            assert!(is_untouched(&path), "{line:?}");
        }
        let object = format!("{source}#object");
        run(&rig, &["info", &object, "--private-key", "key"]).fails(35, &["there is no bucket in"]);
        assert!(is_untouched(&path));
        assert_eq!(path.exists(), folder == "empty");
    }
    assert!(!rig.path("saved").exists());
    run(&rig, &["serve", "--dir", "absent"]).fails(35, &["absent", "--create"]);
    assert!(!rig.path("absent").exists());
}

#[test]
fn a_mount_that_creates_a_bucket_says_so() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    fs::create_dir(rig.path("mnt")).unwrap();
    let source = format!("file://{}", rig.path("made").display());
    let mount = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--cache-dir",
        "cache",
    ];
    let first = run(&rig, &mount).succeeds();
    assert!(
        first.stdout.contains("created a new bucket in"),
        "{}",
        first.stdout
    );
    run(&rig, &["umount", "mnt"]).succeeds();
    let second = run(&rig, &mount).succeeds();
    assert_eq!(second.stdout, "");
    run(&rig, &["umount", "mnt"]).succeeds();
}

/// Regression: a job with a mistyped prefix succeeded forever.
#[test]
fn an_empty_result_is_an_error_unless_it_was_expected() {
    let rig = Rig::new();
    make_new_key(&rig);
    fs::write(rig.path("saved-before"), "{\"ossvault_envelopes\":1}\n").unwrap();
    for arguments in LOOKING {
        let mut line = on(arguments, "oss://bucket/typo");
        run(&rig, &line).fails(43, &["nothing to", "oss://bucket/typo", "--allow-empty"]);
        let _ = fs::remove_file(rig.path("saved"));
        line.push("--allow-empty");
        run(&rig, &line).succeeds();
        let _ = fs::remove_file(rig.path("saved"));
    }
}

#[test]
fn a_dry_run_reports_what_would_be_done() {
    let rig = Rig::new();
    make_new_key(&rig);
    put_plain(&rig, "old/1", &attributes(1), b"first");
    fill(&rig, 2, Format::Seed);
    let adopt = [
        "adopt",
        "oss://bucket/old",
        "--private-key",
        "key",
        "--dry-run",
    ];
    let run_dry = |line: &[&str]| run(&rig, line).succeeds().stdout;
    let said = run_dry(&adopt);
    assert!(
        said.contains("1 to-adopt") && !said.contains(" adopted"),
        "{said}"
    );
    assert_eq!(rig.ciphertext("old/1"), b"first");
    let rewrap = [
        "rewrap",
        "oss://bucket/tree",
        "--private-key",
        "key",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
        "--dry-run",
    ];
    let said = run_dry(&rewrap);
    assert!(
        said.contains("2 to-rewrap") && !said.contains(" rewrapped"),
        "{said}"
    );
    let said = run_dry(&[&rewrap[..], &["--re-encrypt"]].concat());
    assert!(said.contains("2 to-re-encrypt"), "{said}");
}

/// Regression: a folder with the name of the mount's own folder was left in plaintext wherever it was.
#[test]
fn only_the_prefix_s_own_folder_is_left_in_plaintext() {
    let rig = Rig::new();
    for key in [
        "old/.ossvault/intent",
        "old/below/.ossvault/file",
        "old/.ossvaultish",
    ] {
        put_plain(&rig, key, &attributes(1), b"plain");
    }
    run(&rig, &["adopt", "oss://bucket/old", "--private-key", "key"]).succeeds();
    assert_eq!(rig.ciphertext("old/.ossvault/intent"), b"plain");
    assert_ne!(rig.ciphertext("old/below/.ossvault/file"), b"plain");
    assert_ne!(rig.ciphertext("old/.ossvaultish"), b"plain");
}

/// Anyone with write access can put the text of an envelope on plaintext. Regression: it counted as
/// encrypted.
#[test]
fn an_envelope_that_cannot_be_opened_does_not_count_as_encryption() {
    let rig = Rig::new();
    make_new_key(&rig);
    let pem = fs::read(rig.path("new.pub")).unwrap();
    let stranger = key_parse::public_key(&pem).unwrap();
    let cipher = write::fresh_cipher(ContentKind::File);
    let mut forged = attributes(1);
    let envelope = write::write(Format::Seed, &stranger, &cipher, None).unwrap();
    forged.user.extend(envelope);
    forged.user.remove("ossvault-key");
    put_plain(&rig, "old/1", &forged, b"first");
    let adopt = ["adopt", "oss://bucket/old", "--private-key", "key"];
    run(&rig, &adopt).fails(43, &["wrong-key: old/1"]);
    let into = [&adopt[..], &["--into", "vault"]].concat();
    run(&rig, &into).fails(43, &["wrong-key: old/1"]);
    run(
        &rig,
        &["adopt", "oss://bucket/old", "--public-key", "key.pub"],
    )
    .fails(43, &["not-confirmed: old/1"]);
    assert_eq!(rig.ciphertext("old/1"), b"first");
    // The key that opens it confirms it.
    let theirs = ["adopt", "oss://bucket/old", "--private-key", "new"];
    let said = run(&rig, &theirs).succeeds().stdout;
    assert!(said.contains("1 already"), "{said}");
}

/// Regression: errors of local files were blamed on the bucket, and contained error numbers.
#[test]
fn local_files_have_errors_of_their_own() {
    let rig = Rig::new();
    fill(&rig, 1, Format::Seed);
    fs::write(rig.path("there"), "").unwrap();
    fs::write(rig.path("nonsense"), "nonsense\n").unwrap();
    fs::create_dir(rig.path("tree")).unwrap();
    let verify = ["verify", "oss://bucket/tree", "--private-key", "key"];
    for (more, code, words) in [
        (
            &["--digests", "absent"][..],
            42,
            &["cannot read absent"][..],
        ),
        (
            &["--digests", "nonsense"],
            2,
            &["nonsense", "line 1", "sha256sum"],
        ),
        (
            &["--save-envelopes", "there"],
            25,
            &["there exists", "name another"],
        ),
        (
            &["--save-envelopes", "nodir/file"],
            42,
            &["cannot write nodir/file"],
        ),
        (&["--compare", "absent"], 42, &["cannot read absent"]),
    ] {
        let run = run(&rig, &[&verify[..], more].concat()).fails(code, words);
        assert!(!run.stderr.contains("os error"), "{}", run.stderr);
    }
    run(&rig, &["restore-envelopes", "absent", "oss://bucket"]).fails(42, &["cannot read absent"]);
    run(&rig, &["restore-envelopes", "nonsense", "oss://bucket"])
        .fails(42, &["cannot read nonsense", "first line"]);
    if !is_root() {
        eprintln!("skipped in part: only root mounts a small disk");
        return;
    }
    fill(&rig, 60, Format::Seed);
    let disk = rig.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped in part: no tmpfs");
        return;
    }
    let full = run(
        &rig,
        &[&verify[..], &["--save-envelopes", "disk/saved"]].concat(),
    );
    let _ = Command::new("umount").arg("-l").arg(&disk).status();
    let full = full.fails(42, &["cannot write disk/saved", "No space left"]);
    assert!(!full.stderr.contains("bucket"), "{}", full.stderr);
}

#[test]
fn info_fails_for_an_object_that_cannot_be_opened() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    run(
        &rig,
        &["info", "oss://bucket/tree/000", "--private-key", "key"],
    )
    .succeeds();
    run(&rig, &["info", "oss://bucket/tree/000"]).succeeds();
    run(
        &rig,
        &["info", "oss://bucket/tree/000", "--private-key", "new"],
    )
    .fails(43, &["can be opened: no"]);
}

/// Regression: names and values from the bucket moved cursors and reversed text.
#[test]
fn terminal_control_characters_are_escaped_wherever_they_come_from() {
    let rig = Rig::new();
    let evil = "a\u{202e}b\u{200b}c\u{9b}31md\u{2028}e";
    let headers = ObjectHeaders {
        user: [
            ("name".to_owned(), evil.to_owned()),
            (format!("x{evil}"), "value".to_owned()),
        ]
        .into(),
        ..ObjectHeaders::default()
    };
    put_plain(&rig, &format!("plain/{evil}"), &headers, b"first");
    let acts = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{200b}\u{2028}".contains(c);
    let source = format!("file://{}", rig.store.folder().display());
    let object = format!("{source}#plain/{evil}");
    let verify = [
        "verify",
        &source,
        "--prefix",
        "plain",
        "--private-key",
        "key",
    ];
    for line in [
        vec!["info", &object],
        vec!["info", &object, "--json"],
        verify.to_vec(),
        [&verify[..], &["--json"]].concat(),
        [&verify[..], &["--compare", "absent\u{202e}\u{9b}"]].concat(),
    ] {
        let run = run(&rig, &line);
        let said = format!("{}{}", run.stdout, run.stderr);
        // A value that does not look like a path is not shown at all.
        let shown = said.contains("202e") || said.contains("not shown");
        assert!(shown, "{line:?}: {said}");
        assert!(!said.contains(acts), "{line:?}: {said:?}");
        if line.contains(&"--json") {
            let text = run.stdout.lines().next().unwrap();
            assert!(text.starts_with('{'), "{text}");
        }
    }
}

#[test]
fn a_folder_of_keys_may_hold_other_files() {
    let rig = Rig::new();
    if !has_program("openssl") {
        return;
    }
    fill(&rig, 1, Format::Seed);
    fs::create_dir(rig.path("keys")).unwrap();
    fs::copy(rig.path("key"), rig.path("keys/vault")).unwrap();
    for line in [
        "req -x509 -new -key key -subj /CN=a -days 9 -out keys/cert.pem",
        "req -new -key key -subj /CN=a -out keys/csr.pem",
        "genpkey -algorithm ed25519 -out keys/ed25519.pem",
    ] {
        let status = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(rig.path(""))
            .output()
            .unwrap()
            .status;
        assert!(status.success(), "{line}");
    }
    fs::write(rig.path("keys/notes"), "nothing").unwrap();
    for entry in fs::read_dir(rig.path("keys")).unwrap() {
        set_mode(&entry.unwrap().path(), 0o600);
    }
    let run = run(
        &rig,
        &["verify", "oss://bucket/tree", "--private-key", "keys"],
    )
    .succeeds();
    for name in ["cert.pem", "csr.pem", "ed25519.pem"] {
        assert!(
            run.stderr
                .lines()
                .any(|line| line.contains("skipped") && line.contains(name)),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_key_may_come_from_a_pipe() {
    let rig = Rig::new();
    if !has_program("bash") {
        return;
    }
    fill(&rig, 1, Format::Seed);
    for line in [
        "$PROGRAM verify oss://bucket/tree --private-key <(cat key)",
        "cat key | $PROGRAM verify oss://bucket/tree --private-key /dev/stdin",
        "$PROGRAM verify oss://bucket/tree --private-key /dev/stdin < key",
    ] {
        let mut inner = command(&rig, &[]);
        let mut bash = Command::new("bash");
        bash.args(["-c", line])
            .current_dir(rig.path(""))
            .env("PROGRAM", env!("CARGO_BIN_EXE_ossvault"));
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let output = bash.output().unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        inner.stdin(Stdio::null());
    }
}

/// Regression: data of keys that are too small today could not be read, and so not be moved to another key.
#[test]
fn objects_of_a_weak_key_can_be_moved_to_another_key_and_it_never_encrypts() {
    let rig = Rig::new();
    if !has_program("openssl") {
        return;
    }
    make_new_key(&rig);
    let made = Command::new("openssl")
        .args(["genrsa", "-out", "weak", "1024"])
        .current_dir(rig.path(""))
        .output();
    assert!(made.unwrap().status.success());
    let pem = fs::read(rig.path("weak")).unwrap();
    let weak = key_parse::private_key_of(&pem, Strength::WeakAllowed, &mut || None).unwrap();
    let store = LocalStore::open(rig.store.folder(), local::Settings { sync: false }).unwrap();
    let bucket = EncryptedBucket::new(Arc::new(store), KeyRing::single(weak), Settings::default());
    let plain = Plaintext::from_bytes(content(5));
    let key = object_key("tree/1");
    rig.block_on(bucket.put(&key, &plain, attributes(1), None, Overwrite::Allowed))
        .unwrap();

    let rewrap = [
        "rewrap",
        "oss://bucket/tree",
        "--private-key",
        "weak",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
    ];
    run(&rig, &rewrap).fails(22, &["1024 bits", "--allow-weak-keys"]);
    put_plain(&rig, "old/1", &attributes(1), b"first");
    fs::create_dir(rig.path("mnt")).unwrap();
    for line in [
        &[
            "adopt",
            "oss://bucket/old",
            "--private-key",
            "weak",
            "--allow-weak-keys",
        ][..],
        &[
            "mount",
            "oss://bucket",
            "mnt",
            "--private-key",
            "weak",
            "--allow-weak-keys",
        ],
    ] {
        run(&rig, line).fails(22, &["too weak"]);
    }
    assert_eq!(rig.ciphertext("old/1"), b"first");
    let verify = [
        "verify",
        "oss://bucket/tree",
        "--private-key",
        "weak",
        "--allow-weak-keys",
    ];
    run(&rig, &verify).succeeds();
    run(&rig, &[&rewrap[..], &["--allow-weak-keys"]].concat()).succeeds();
    assert_eq!(super::read(&rig, "new", "tree/1"), content(5));
}

#[test]
fn serve_has_exit_codes_for_its_errors() {
    let rig = Rig::new();
    fs::write(rig.path("file"), "").unwrap();
    let address = rig.endpoint().replace("http://", "");
    for (line, code, word) in [
        (&["serve", "--dir", "file"][..], 35, "it is a file"),
        (
            &["serve", "--dir", "new", "--create", "Bad_"],
            2,
            "not a bucket name",
        ),
        (
            &["serve", "--dir", ".", "--listen", "0.0.0.0:0"],
            2,
            "loopback",
        ),
        (
            &["serve", "--dir", ".", "--listen", &address],
            36,
            "cannot listen",
        ),
    ] {
        let run = run(&rig, line).fails(code, &[word]);
        assert!(!run.stderr.contains("os error"), "{}", run.stderr);
    }
    assert!(!rig.path("new").exists());
    let mut without = command(&rig, &["serve", "--dir", "."]);
    let output = without.env_remove("OSS_ACCESS_KEY_ID").output().unwrap();
    assert_eq!(output.status.code(), Some(32));
}
