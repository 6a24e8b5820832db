//! A mount with a key that nothing in the bucket is for: it is refused, unless that is intended.

use std::fs;
use std::path::Path;
use std::process::Command;

use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;
use ossvault::store::object_store::*;

use crate::fixture::{BUCKET, Rig, can_mount, ossvault, write_and_close};

const MARKER: &str = ".ossvault/keys";

struct Run {
    code: Option<i32>,
    stderr: String,
}

fn program(rig: &Rig, arguments: &[&str]) -> Command {
    let mut command = ossvault();
    command
        .args(arguments)
        .current_dir(rig.path(""))
        .env("OSS_ENDPOINT", rig.endpoint())
        .env("OSS_ACCESS_KEY_ID", "test")
        .env("OSS_ACCESS_KEY_SECRET", "test")
        .env("XDG_STATE_HOME", rig.path("state"));
    command
}

fn run(rig: &Rig, arguments: &[&str]) -> Run {
    let output = program(rig, arguments).output().unwrap();
    Run {
        code: output.status.code(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn keygen(rig: &Rig, name: &str) -> String {
    let made = run(rig, &["keygen", "--no-passphrase", "--bits", "2048", name]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    fingerprint(rig, name)
}

fn fingerprint(rig: &Rig, name: &str) -> String {
    let output = program(rig, &["key", "show", "--json", name])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    shown["fingerprint"].as_str().unwrap().to_owned()
}

/// Mounts in the background, and unmounts at once where that succeeds.
fn mounts(rig: &Rig, options: &[&str]) -> Run {
    fs::create_dir_all(rig.path("m")).unwrap();
    let source = format!("oss://{BUCKET}");
    let line = [
        &[
            "mount",
            &source,
            "m",
            "--cache-dir",
            "cache",
            "--log-file",
            "log",
        ][..],
        options,
    ]
    .concat();
    let mounted = run(rig, &line);
    if mounted.code == Some(0) {
        let unmounted = run(rig, &["umount", "m"]);
        assert_eq!(unmounted.code, Some(0), "{}", unmounted.stderr);
    }
    mounted
}

#[track_caller]
fn succeeds(run: Run) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// With 23, and both fingerprints and the way on in the message.
#[track_caller]
fn is_refused(run: Run, words: &[&str]) {
    assert_eq!(run.code, Some(23), "{}", run.stderr);
    for word in words.iter().chain(&["--accept-key", "--private-key"]) {
        assert!(run.stderr.contains(word), "no {word} in {}", run.stderr);
    }
}

fn marker(rig: &Rig) -> Option<String> {
    let key = ObjectKey::new(MARKER).unwrap();
    let meta = rig.block_on(rig.store.head(&key)).ok()?;
    assert_eq!(meta.size, 0);
    meta.headers.user.get("ossvault-keys").cloned()
}

fn set_marker(rig: &Rig, text: &str) {
    let mut headers = ObjectHeaders::default();
    headers.user.insert("ossvault-keys".into(), text.into());
    let key = ObjectKey::new(MARKER).unwrap();
    let body = Body::from_bytes("");
    let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
    rig.block_on(put).unwrap();
}

fn remove_marker(rig: &Rig) {
    let key = ObjectKey::new(MARKER).unwrap();
    rig.block_on(rig.store.delete(&key)).unwrap();
}

fn log(rig: &Rig) -> String {
    fs::read_to_string(rig.path("log")).unwrap_or_default()
}

/// A bucket with a file for `key`, and a second key, `other`: the two fingerprints.
fn filled() -> (Rig, String, String) {
    let rig = Rig::new();
    let mount = rig.mount("mnt", &[]);
    write_and_close(&mount.path.join("file"), b"content").unwrap();
    mount.end_well();
    let other = keygen(&rig, "other");
    let own = fingerprint(&rig, "key");
    (rig, own, other)
}

/// "A mount whose keys are not those that the bucket's objects are for is refused (exit code 23), unless
/// `--accept-key` is given. The keys are compared with the key marker under `.ossvault/`; if it names none of them or
/// there is none, with the keys that a few objects name." "The first mount that can write stores the fingerprint of its
/// key there." "A mount with several keys needs only one that fits; a key that encrypts and is new to the marker is added
/// to it."
#[test]
fn a_key_that_nothing_is_for_is_refused_by_the_marker_and_by_the_objects() {
    if !can_mount() {
        return;
    }
    let (rig, own, other) = filled();
    let written = marker(&rig).unwrap();
    assert!(written.starts_with(&format!("1 {own},seed,")), "{written}");
    let wrong = ["--private-key", "other"];
    is_refused(mounts(&rig, &wrong), &[&own, &other, "since 20"]);
    is_refused(
        mounts(&rig, &["--private-key", "other", "--read-only"]),
        &[&own, &other],
    );
    is_refused(
        mounts(&rig, &["--public-key", "other.pub"]),
        &[&own, &other],
    );
    assert_eq!(marker(&rig).unwrap(), written, "nothing was changed");
    // Without a marker, the objects themselves tell.
    remove_marker(&rig);
    is_refused(mounts(&rig, &wrong), &[&own[..16], &other]);
    assert_eq!(marker(&rig), None);
    // The right key, as ever; and both at once, the new one first.
    succeeds(mounts(&rig, &["--private-key", "key"]));
    succeeds(mounts(
        &rig,
        &["--private-key", "other", "--private-key", "key"],
    ));
    let both = marker(&rig).unwrap();
    assert!(both.contains(&own) && both.contains(&other), "{both}");
    // From now on the new one is known.
    succeeds(mounts(&rig, &wrong));
}

#[test]
fn an_accepted_key_is_added_to_the_marker() {
    if !can_mount() {
        return;
    }
    let (rig, own, other) = filled();
    let accept = ["--private-key", "other", "--accept-key"];
    succeeds(mounts(&rig, &[&accept[..], &["--read-only"]].concat()));
    assert!(
        !marker(&rig).unwrap().contains(&other),
        "a read-only mount writes nothing"
    );
    succeeds(mounts(&rig, &accept));
    let text = marker(&rig).unwrap();
    assert!(text.contains(&own) && text.contains(&other), "{text}");
    succeeds(mounts(&rig, &["--private-key", "other"]));
}

/// Whoever can write to the bucket can write any marker. It never keeps a mount away whose key objects are for, and
/// never says whom to trust.
#[test]
fn a_forged_or_damaged_marker_does_not_refuse_the_right_key() {
    if !can_mount() {
        return;
    }
    let (rig, own, other) = filled();
    let foreign = "ab".repeat(32);
    for text in [
        format!("1 {foreign},seed,1"),
        "1".to_owned(),
        "nonsense".to_owned(),
        "1 ".to_owned() + &"x".repeat(4000),
        format!("1 {foreign},seed,1 {foreign},seed,1"),
    ] {
        set_marker(&rig, &text);
        succeeds(mounts(&rig, &["--private-key", "key"]));
        let mended = marker(&rig).unwrap();
        assert!(mended.contains(&own), "{text}: {mended}");
        set_marker(&rig, &text);
        is_refused(mounts(&rig, &["--private-key", "other"]), &[&other]);
    }
    // A later version's is left alone.
    let later = format!("2 {foreign} in another form");
    set_marker(&rig, &later);
    succeeds(mounts(&rig, &["--private-key", "key"]));
    assert_eq!(marker(&rig).unwrap(), later);
    assert!(log(&rig).contains("later version"), "{}", log(&rig));
}

/// "If the bucket does not allow the marker or the objects to be read, or the marker to be written, the mount serves all
/// the same."
#[test]
fn a_mount_serves_where_the_marker_cannot_be_read_or_written() {
    if !can_mount() {
        return;
    }
    // What a policy refuses that names `.ossvault/`, and what only names single operations.
    for operations in [
        &[Operation::PutObject][..],
        &[Operation::HeadObject],
        &[
            Operation::HeadObject,
            Operation::PutObject,
            Operation::ListObjectsV2,
        ],
    ] {
        for filled in [false, true] {
            let rig = Rig::new();
            if filled {
                let mount = rig.mount("mnt", &[]);
                write_and_close(&mount.path.join("file"), b"content").unwrap();
                mount.end_well();
            }
            for operation in operations {
                let refused = Action::Status {
                    status: 403,
                    code: "AccessDenied".into(),
                };
                // A listing has no key: its prefix is not looked at here, so that only the first one is refused.
                let fault = Fault::once(*operation, refused);
                rig.fault(match operation {
                    Operation::ListObjectsV2 => fault,
                    _ => fault.on_keys(MARKER).always(),
                });
            }
            let mount = rig.mount("served", &[]);
            write_and_close(&mount.path.join("other"), b"content").unwrap();
            assert!(!mount.path.join(".ossvault").exists());
            let log = fs::read_to_string(&mount.log).unwrap();
            mount.end_well();
            let writes = operations.contains(&Operation::PutObject);
            if !filled && writes && !operations.contains(&Operation::ListObjectsV2) {
                assert!(log.contains("key marker"), "{operations:?}: {log}");
            }
            if operations.contains(&Operation::ListObjectsV2) {
                assert!(log.contains(".ossvault/"), "{log}");
            }
        }
    }
}

/// The marker costs one request at the start of a mount: a PUT the first time, a HEAD from then on.
#[test]
fn the_marker_costs_one_request_at_a_mount() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mounted = |name: &str, options: &[&str]| {
        let mut mount = None;
        let counts = rig.requests(|| mount = Some(rig.mount(name, options)));
        mount.unwrap().end_well();
        counts
    };
    let first = mounted("first", &[]);
    // What earlier mounts left, the objects that might name a key, and the marker.
    assert_eq!(
        first.of(Operation::ListObjectsV2),
        2,
        "{:?}",
        first.requests
    );
    assert_eq!(first.of(Operation::PutObject), 1);
    assert_eq!(first.total(), 3);
    for options in [&[][..], &["--read-only"]] {
        let again = mounted("again", options);
        assert_eq!(again.of(Operation::ListObjectsV2), 1);
        assert_eq!(again.of(Operation::HeadObject), 1);
        assert_eq!(again.total(), 2, "{:?}", again.requests);
    }
}

#[test]
fn a_rewrap_moves_the_marker_to_the_new_key() {
    if !can_mount() {
        return;
    }
    let (rig, own, other) = filled();
    let source = format!("oss://{BUCKET}");
    let rewrap = [
        "rewrap",
        &source,
        "--private-key",
        "key",
        "--public-key",
        "other.pub",
        "--new-private-key",
        "other",
    ];
    succeeds(run(&rig, &[&rewrap[..], &["--dry-run"]].concat()));
    assert!(marker(&rig).unwrap().contains(&own));
    succeeds(run(&rig, &rewrap));
    let text = marker(&rig).unwrap();
    assert!(text.contains(&other) && !text.contains(&own), "{text}");
    succeeds(mounts(&rig, &["--private-key", "other"]));
    is_refused(mounts(&rig, &["--private-key", "key"]), &[&own, &other]);
}

/// Objects of other parts may still be for the old key.
#[test]
fn a_part_of_a_rewrap_leaves_the_old_key_in_the_marker() {
    if !can_mount() {
        return;
    }
    let (rig, own, other) = filled();
    let source = format!("oss://{BUCKET}");
    for part in ["0/2", "1/2"] {
        let rewrap = [
            "rewrap",
            &source,
            "--private-key",
            "key",
            "--public-key",
            "other.pub",
            "--new-private-key",
            "other",
            "--shard",
            part,
        ];
        succeeds(run(&rig, &rewrap));
        let text = marker(&rig).unwrap();
        assert!(
            text.contains(&other) && text.contains(&own),
            "{part}: {text}"
        );
    }
}

/// Commands over a prefix do not count it, encrypt it or complain about it, below the prefix itself or further down.
#[test]
fn the_marker_is_no_object_of_verify_rewrap_and_adopt() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount_source("mnt", &format!("oss://{BUCKET}/below/it"), &[]);
    write_and_close(&mount.path.join("file"), b"content").unwrap();
    mount.end_well();
    let nested = ObjectKey::new(format!("below/it/{MARKER}")).unwrap();
    let before = rig.block_on(rig.store.head(&nested)).unwrap();
    keygen(&rig, "other");
    for prefix in ["", "/below", "/below/it"] {
        let source = format!("oss://{BUCKET}{prefix}");
        for command in [
            &["verify", &source, "--private-key", "key", "--json"][..],
            &["adopt", &source, "--private-key", "key", "--json"],
        ] {
            let output = program(&rig, command).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(0), "{command:?}: {text}");
            assert!(text.contains("\"objects\":1"), "{command:?}: {text}");
            assert!(!text.contains(".ossvault"), "{command:?}: {text}");
        }
    }
    let after = rig.block_on(rig.store.head(&nested)).unwrap();
    assert_eq!(after.headers.user, before.headers.user);
    // An empty prefix stays one, marker or not.
    let mount = rig.mount_source("empty", &format!("oss://{BUCKET}/nothing"), &[]);
    mount.end_well();
    let nothing = format!("oss://{BUCKET}/nothing");
    let verified = run(&rig, &["verify", &nothing, "--private-key", "key"]);
    assert_eq!(verified.code, Some(43), "{}", verified.stderr);
}

#[test]
fn a_marker_of_a_mount_below_is_an_empty_file_to_one_above() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let mount = rig.mount_source("mnt", &format!("oss://{BUCKET}/below"), &[]);
    assert!(!Path::exists(&mount.path.join(".ossvault")));
    let refused = fs::create_dir(mount.path.join(".ossvault")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    mount.end_well();
    let above = rig.mount("above", &[]);
    let marker = above.path.join("below").join(MARKER);
    assert_eq!(fs::read(marker).unwrap(), b"");
    above.end_well();
}
