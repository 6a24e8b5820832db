//! Key pairs and passphrases, and how they are protected from other users.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Place, Run, detached};
use crate::fixture::{can_mount, eventually, find, mode};

#[test]
fn keygen_writes_a_key_pair_and_never_overwrites() {
    let place = Place::new();
    let run = place.run(&["keygen", "key", "--no-passphrase"]).succeeds();
    let fingerprint = run
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("fingerprint: "))
        .unwrap();
    assert!(fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(run.stdout.contains("Back the private key up"));
    assert_eq!(mode(&place.path("key")), 0o600);
    let private = fs::read_to_string(place.path("key")).unwrap();
    assert!(private.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let public = fs::read_to_string(place.path("key.pub")).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"));

    place
        .run(&["keygen", "key", "--no-passphrase"])
        .fails(25, &["key exists"]);
    fs::remove_file(place.path("key")).unwrap();
    place
        .run(&["keygen", "key", "--no-passphrase"])
        .fails(25, &["key.pub exists"]);
    assert!(!place.path("key").exists(), "nothing is left behind");
    assert_eq!(fs::read_to_string(place.path("key.pub")).unwrap(), public);
}

#[test]
fn keygen_without_a_terminal_requires_a_decision_about_the_passphrase() {
    let place = Place::new();
    let mut command = place.command(&["keygen", "key"]);
    // Detached from the terminal that the tests were started from.
    let run = Run::from(detached(&mut command).output().unwrap());
    run.fails(24, &["--passphrase-file", "--no-passphrase"]);

    // An empty variable counts as unset.
    let mut command = place.command(&["keygen", "key"]);
    command.env("OSSVAULT_PASSPHRASE", "");
    let run = Run::from(detached(&mut command).output().unwrap());
    run.fails(24, &["--passphrase-file", "--no-passphrase"]);
    place.write_secret("none", "\n");
    place
        .run(&["keygen", "key", "--passphrase-file", "none"])
        .fails(24, &["empty"]);
    place
        .run(&["keygen", "key", "--passphrase-file", "absent"])
        .fails(24, &["absent"]);
    place
        .run(&["keygen", "key", "--passphrase-command", "exit 7"])
        .fails(24, &["7"]);
    assert!(!place.path("key").exists());

    place
        .run(&[
            "keygen",
            "key",
            "--passphrase-command",
            "echo correct horse",
        ])
        .succeeds();
    let private = fs::read_to_string(place.path("key")).unwrap();
    assert!(private.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
}

#[test]
fn the_terminal_prompts_for_a_passphrase_without_echo() {
    if find("script").is_none() {
        eprintln!("skipped: no bash(1) to make a terminal");
        return;
    }
    let place = Place::new();
    let typed = |input: &str| {
        use std::io::Write;
        let line = format!("{} keygen key --bits 2048", crate::fixture::PROGRAM);
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .current_dir(place.path(""))
            .env_remove("OSSVAULT_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The terminal discards input typed before a prompt; a person waits for the prompt.
        for part in input.split_inclusive('\n') {
            std::thread::sleep(Duration::from_millis(300));
            stdin.write_all(part.as_bytes()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, shown) = typed("one word\nanother\n");
    assert_eq!(code, Some(24), "{shown}");
    let (code, shown) = typed("half\u{3}");
    assert_eq!(code, Some(24), "{shown}");
    assert!(shown.contains("interrupted"), "{shown}");
    assert!(!place.path("key").exists());
    let (code, shown) = typed("one word\none word\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("one word"), "{shown}");
    assert!(place.path("key.pub").exists());
}

#[test]
fn an_encrypted_key_opens_with_openssl() {
    if find("openssl").is_none() {
        eprintln!("skipped: no openssl");
        return;
    }
    let place = Place::new();
    place
        .command(&["keygen", "key"])
        .env("OSSVAULT_PASSPHRASE", "correct horse")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    let output = Command::new("openssl")
        .args(["rsa", "-pubout", "-passin", "pass:correct horse", "-in"])
        .arg(place.path("key"))
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, fs::read(place.path("key.pub")).unwrap());
}

/// A key file with its own passphrase.
fn protected_key(place: &Place, name: &str, passphrase: &str) {
    place
        .command(&["keygen", name, "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", passphrase)
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
}

/// Regression: the daemon changed to `/` first, and looked there.
#[test]
fn a_passphrase_file_or_command_may_be_relative_to_the_users_directory() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    protected_key(&place, "key", "open sesame");
    place.write_secret("pass", "open sesame\n");
    let source = format!("file://{}", place.path("store").display());
    for option in [
        ["--passphrase-file", "pass"],
        ["--passphrase-command", "cat ./pass"],
    ] {
        let mount = ["mount", &source, "mnt", "--private-key", "key"];
        place.run(&[&mount[..], &option].concat()).succeeds();
        place.run(&["umount", "mnt"]).succeeds();
    }
}

#[test]
fn a_passphrase_command_receives_the_name_of_its_key() {
    let place = Place::new();
    protected_key(&place, "one", "first word");
    protected_key(&place, "two", "second word");
    place.write_secret("one.pass", "first word\n");
    place.write_secret("two.pass", "second word\n");
    let source = place.make_bucket();
    let verify = [
        "verify",
        &source,
        "--private-key",
        "one",
        "--private-key",
        "two",
        "--allow-empty",
        "--passphrase-command",
    ];
    place
        .run(&[&verify[..], &["cat one.pass"]].concat())
        .fails(24, &["two", "wrong passphrase"]);
    place
        .run(&[&verify[..], &["cat \"$OSSVAULT_KEY_FILE.pass\""]].concat())
        .succeeds();
}

/// Regression: an old and a new key have different passphrases, but there was one option for both.
#[test]
fn rewrap_takes_a_passphrase_for_the_new_key() {
    let place = Place::new();
    protected_key(&place, "old", "first word");
    protected_key(&place, "new", "second word");
    place.write_secret("old.pass", "first word\n");
    place.write_secret("new.pass", "second word\n");
    let source = place.make_bucket();
    let rewrap = [
        "rewrap",
        &source,
        "--private-key",
        "old",
        "--passphrase-file",
        "old.pass",
        "--public-key",
        "new.pub",
        "--new-private-key",
        "new",
        "--allow-empty",
    ];
    place.run(&rewrap).fails(24, &["new", "wrong passphrase"]);
    for option in [
        ["--new-passphrase-file", "new.pass"],
        ["--new-passphrase-command", "cat new.pass"],
    ] {
        place.run(&[&rewrap[..], &option].concat()).succeeds();
    }
}

/// Regression: it stayed in the environment of the daemon, and of every process that the daemon started.
#[test]
fn the_passphrase_leaves_the_environment() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    protected_key(&place, "key", "open sesame");
    let source = format!("file://{}", place.path("store").display());
    let mut child = place
        .command(&[
            "mount",
            &source,
            "mnt",
            "--private-key",
            "key",
            "--foreground",
        ])
        .env("OSSVAULT_PASSPHRASE", "open sesame")
        .spawn()
        .unwrap();
    eventually("mounted", || place.is_mounted());
    // Only root may inspect the daemon.
    match fs::read(format!("/proc/{}/environ", child.id())) {
        Ok(environment) => {
            let environment = String::from_utf8_lossy(&environment);
            assert!(environment.contains("XDG_CACHE_HOME"), "{environment}");
            assert!(!environment.contains("sesame"), "{environment}");
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    place.run(&["umount", "mnt"]).succeeds();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_memory_with_the_private_keys_is_locked() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    place.keygen("key");
    let source = format!("file://{}", place.path("store").display());
    let mount = [
        "mount",
        &source,
        "mnt",
        "--private-key",
        "key",
        "--foreground",
    ];
    let mut child = place.command(&mount).spawn().unwrap();
    eventually("mounted", || place.is_mounted());
    let about = |file: &str, start: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    // Above the old limit of 64 KiB, which no heap fits.
    let limit = about("limits", "Max locked memory");
    let enough = limit.parse::<u64>().map_or(true, |bytes| bytes >= 8 << 20);
    if enough || nix::unistd::geteuid().is_root() {
        assert!(about("status", "VmLck:").parse::<u64>().unwrap() > 0);
    } else {
        eprintln!("skipped: not enough memory may be locked here");
    }
    place.run(&["umount", "mnt"]).succeeds();
    assert!(child.wait().unwrap().success());
}

/// Checks the promises of `keygen` with another program: the encryption of the private key, and the
/// fingerprint.
#[test]
fn openssl_confirms_the_promised_encryption_and_fingerprint() {
    if find("openssl").is_none() || find("sha256sum").is_none() {
        eprintln!("skipped: no openssl or no sha256sum");
        return;
    }
    let place = Place::new();
    let made = place
        .command(&["keygen", "key", "--bits", "2048"])
        .env("OSSVAULT_PASSPHRASE", "correct horse")
        .output()
        .map(Run::from)
        .unwrap()
        .succeeds();
    let shell = |line: &str| {
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}");
        String::from_utf8(output.stdout).unwrap()
    };
    let parsed = shell("openssl asn1parse -in key");
    let values: Vec<&str> = parsed
        .lines()
        .filter_map(|line| line.rsplit_once(':'))
        .filter(|(kind, _)| kind.contains("OBJECT") || kind.contains("INTEGER"))
        .map(|(_, value)| value)
        .collect();
    // PBES2 of scrypt with N = 2^14, r = 8 and p = 5, numbers in hex, and AES-256-CBC.
    assert_eq!(
        values,
        ["PBES2", "scrypt", "4000", "08", "05", "aes-256-cbc"],
        "{parsed}"
    );
    let digest = shell("openssl pkey -pubin -in key.pub -outform DER | sha256sum");
    let fingerprint = digest.split(' ').next().unwrap();
    assert!(
        made.stdout
            .contains(&format!("fingerprint: {fingerprint}\n")),
        "{digest}{}",
        made.stdout
    );
}

#[test]
fn help_says_where_passphrases_come_from_and_what_keygen_writes() {
    let place = Place::new();
    for command in ["mount", "keygen", "verify", "rewrap", "adopt", "info"] {
        let help = place.run(&[command, "--help"]).succeeds().stdout;
        assert!(help.contains("OSSVAULT_PASSPHRASE"), "{command}");
        assert!(help.contains("OSSVAULT_KEY_FILE"), "{command}");
    }
    let help = place.run(&["keygen", "--help"]).succeeds().stdout;
    assert!(help.contains("PATH.pub"), "{help}");
}
