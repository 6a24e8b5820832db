//! Key management: rewrapping, verifying, adopting, saving envelopes, other formats, write-only mounts. With
//! the built binary, against the server.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ossvault::crypto::key_parse;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::encrypted::{EncryptedBucket, Plaintext, Settings, Xattrs};
use ossvault::envelope::Format;
use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;
use ossvault::store::local::{self, LocalStore};
use ossvault::store::object_store::{
    Body, CopyHeaders, CopyRequest, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
};

use crate::fixture::{BUCKET, Rig, bash, can_mount, eventually, has_program, ossvault};
use crate::formats;
use crate::interop;

mod adopting;
mod damage;
mod kinds;
mod looking;
mod mounts;
mod rotation;

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    #[track_caller]
    fn succeeds(self) -> Run {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) -> Run {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for word in words {
            let said = format!("{}{}", self.stdout, self.stderr);
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        self
    }
}

/// The program, with the rig's bucket and credentials.
fn command(rig: &Rig, arguments: &[&str]) -> Command {
    let mut command = ossvault();
    command
        .args(arguments)
        .current_dir(rig.path(""))
        .env("OSS_ENDPOINT", rig.endpoint())
        .env("OSS_ACCESS_KEY_ID", "test")
        .env("OSS_ACCESS_KEY_SECRET", "test");
    command
}

fn run(rig: &Rig, arguments: &[&str]) -> Run {
    let output = command(rig, arguments).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A second key pair: `new` and `new.pub`.
fn make_new_key(rig: &Rig) {
    run(rig, &["keygen", "new", "--no-passphrase", "--bits", "2048"]).succeeds();
}

/// The bucket, read and written with one of the rig's key files.
fn bucket(rig: &Rig, key: &str, format: Format) -> Arc<EncryptedBucket> {
    let pem = fs::read(rig.path(key)).unwrap();
    let key = key_parse::private_key(&pem, &mut || None).unwrap();
    let store = LocalStore::open(rig.store.folder(), local::Settings { sync: false }).unwrap();
    let settings = Settings {
        format,
        ..Settings::default()
    };
    EncryptedBucket::new(Arc::new(store), KeyRing::single(key), settings)
}

fn content(index: usize) -> Vec<u8> {
    (0..index * 37).map(|i| (i * 31 + index) as u8).collect()
}

fn object_key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

fn attributes(index: usize) -> ObjectHeaders {
    let user = [
        ("mode", "33188".to_owned()),
        ("mtime", format!("1700000000.{index}")),
        ("somebody-elses", "entry".to_owned()),
    ];
    ObjectHeaders {
        user: user.map(|(name, value)| (name.to_owned(), value)).into(),
        content_type: Some("text/plain".to_owned()),
        ..ObjectHeaders::default()
    }
}

/// `tree/000`, `tree/001`, ...; every third with an extended attribute.
fn fill(rig: &Rig, count: usize, format: Format) {
    let bucket = bucket(rig, "key", format);
    let mut xattrs = Xattrs::new();
    xattrs.set("user.comment", b"kept").unwrap();
    rig.block_on(async {
        for index in 0..count {
            let plain = Plaintext::from_bytes(content(index));
            let xattrs = (index % 3 == 0).then_some(&xattrs);
            let key = object_key(&format!("tree/{index:03}"));
            let put = bucket.put(&key, &plain, attributes(index), xattrs, Overwrite::Allowed);
            put.await.unwrap();
        }
    });
}

fn head(rig: &Rig, key: &str) -> ObjectMeta {
    rig.block_on(rig.store.head(&object_key(key))).unwrap()
}

fn put_plain(rig: &Rig, key: &str, headers: &ObjectHeaders, body: &[u8]) {
    let body = Body::from_bytes(Bytes::copy_from_slice(body));
    let key = object_key(key);
    let put = rig.store.put(&key, headers, body, Overwrite::Allowed);
    rig.block_on(put).unwrap();
}

/// An object's plaintext, decrypted with one of the rig's keys.
fn read(rig: &Rig, with: &str, key: &str) -> Vec<u8> {
    read_through(rig, &bucket(rig, with, Format::Seed), key)
}

/// For many objects: opening a bucket tests its key, which takes longer than reading an object.
fn read_through(rig: &Rig, bucket: &EncryptedBucket, key: &str) -> Vec<u8> {
    rig.block_on(async {
        let key = object_key(key);
        let mut body = bucket.get(&key, None, None).await.unwrap();
        let object = bucket.object(&body.meta).unwrap();
        let cipher = bucket.unlock(&object).await.unwrap();
        let mut plain = vec![0; body.meta.size as usize];
        let mut filled = 0;
        while filled < plain.len() {
            filled += body.read(&cipher, &mut plain[filled..]).await.unwrap();
        }
        if let Some(found) = bucket
            .open_xattrs(&object, &body.meta.headers)
            .await
            .unwrap()
            .get("user.comment")
        {
            assert_eq!(found, b"kept");
        }
        plain
    })
}

#[track_caller]
fn assert_tree(rig: &Rig, with: &str, count: usize) {
    let bucket = bucket(rig, with, Format::Seed);
    for index in 0..count {
        let key = format!("tree/{index:03}");
        let plain = read_through(rig, &bucket, &key);
        assert_eq!(plain, content(index), "{key}");
        let headers = head(rig, &key).headers;
        for (name, value) in attributes(index).user {
            assert_eq!(headers.user.get(&name), Some(&value), "{key} {name}");
        }
        assert_eq!(headers.content_type.as_deref(), Some("text/plain"));
        let has_xattrs = headers.user.contains_key("ossvault-xattr");
        assert_eq!(has_xattrs, index % 3 == 0, "{key}");
    }
}

const REWRAP: [&str; 8] = [
    "rewrap",
    "oss://bucket/tree",
    "--private-key",
    "key",
    "--public-key",
    "new.pub",
    "--new-private-key",
    "new",
];

// ---- rotation ----

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

// ---- damage ----

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
        "--manifest",
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

// ---- adopting ----

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

// ---- other formats ----

#[test]
fn a_mount_that_writes_the_sdks_formats_follows_the_services_rules() {
    if !can_mount() {
        return;
    }
    let large: Vec<u8> = (0..20u32 << 20).map(|i| (i % 251) as u8).collect();
    for format in ["sdk", "dual"] {
        let rig = Rig::new();
        let mount = rig.mount("mnt", &["--format", format, "--metadata-ttl", "60"]);
        let file = |name: &str| mount.path.join(name);
        fs::write(file("small"), "small").unwrap();
        fs::write(file("large"), &large).unwrap();
        for name in ["small", "large"] {
            // A metadata change: the service does not allow it by a copy.
            fs::set_permissions(file(name), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(file(name), file(&format!("{name}.2"))).unwrap();
        }
        std::os::unix::fs::symlink("small.2", file("link")).unwrap();
        mount.end_well();
        let user = head(&rig, "large.2").headers.user;
        assert_eq!(
            user["client-side-encryption-data-size"],
            large.len().to_string()
        );
        assert_eq!(user["mode"], (0o100_600).to_string());
        let again = rig.mount("again", &[]);
        assert_eq!(fs::read(again.path.join("link")).unwrap(), b"small");
        assert!(fs::read(again.path.join("large.2")).unwrap() == large);
        let mode = fs::metadata(again.path.join("small.2")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.end_well();
        rig.assert_no_unfinished_uploads();
    }
}

/// "A file is not uploaded while it is being written: its size must be known first." "chmod, chown, utimens
/// and setxattr upload the whole object again, unchanged. So does a change of attributes during an upload."
#[test]
fn in_the_sdks_formats_attributes_cost_an_upload() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let options = ["--part-size", "128K", "--stream-after", "256K"];
    let options = [&options[..], &["--format", "sdk", "--metadata-ttl", "60"]].concat();
    let mount = rig.mount("mnt", &options);
    let path = mount.path.join("f");
    let mut file = fs::File::create(&path).unwrap();
    let written = rig.requests(|| file.write_all(&vec![7; 1 << 20]).unwrap());
    assert_eq!(written.total(), 0, "{:?}", written.requests);
    drop(file);
    let stored = rig.ciphertext("f");
    for line in [
        "chmod 600 $MNT/f",
        "chown $(id -u):$(id -g) $MNT/f; chmod 640 $MNT/f",
        "touch -d @1000 $MNT/f",
        "python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.a\", b\"1\")' $MNT/f",
    ] {
        let counts = rig.requests(|| drop(bash(&mount.path, line)));
        assert!(counts.bytes_in >= 1 << 20, "{line}: {:?}", counts.requests);
        assert_eq!(counts.of(Operation::CopyObject), 0, "{line}");
        assert!(rig.ciphertext("f") == stored, "{line}");
    }

    // A chmod while the upload is in progress.
    let path = mount.path.join("g");
    let stall = Action::Stall { ms: 2000 };
    rig.fault(Fault::once(Operation::PutObject, stall));
    let counts = rig.requests(|| {
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&[7; 1000]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sent = || rig.instruments().counts().of(Operation::PutObject);
                eventually("the upload is under way", || sent() == 1);
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            });
            file.sync_all().unwrap();
        });
    });
    assert_eq!(counts.of(Operation::PutObject), 2, "{:?}", counts.requests);
    mount.end_well();
    let user = head(&rig, "g").headers.user;
    assert_eq!(user["mode"], (0o100_600).to_string());
    rig.assert_no_unfinished_uploads();
}

// ---- write-only ----

#[test]
fn a_mount_without_a_private_key_writes_and_does_not_read() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let before = rig.mount("before", &[]);
    fs::write(before.path.join("old"), "old content").unwrap();
    std::os::unix::fs::symlink("old", before.path.join("link")).unwrap();
    before.end_well();

    let public = rig.path("key.pub");
    let keys = ["--public-key", public.to_str().unwrap()];
    let source = format!("oss://{BUCKET}");
    let mount = rig.mount_with_keys("mnt", &source, &keys, &[]);
    let file = |name: &str| mount.path.join(name);
    let denied = |what: &str, error: std::io::Error| {
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{what}: {error}");
    };
    // Create, list, rename, delete, replace.
    fs::write(file("new"), "new content").unwrap();
    fs::write(file("doomed"), "x").unwrap();
    fs::remove_file(file("doomed")).unwrap();
    fs::create_dir(file("dir")).unwrap();
    fs::rename(file("new"), file("dir/renamed")).unwrap();
    fs::write(file("old"), "replaced").unwrap();
    fs::set_permissions(file("old"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(file("dir/renamed")).unwrap().len(), 11);
    // Operations that need the content.
    denied("open", File::open(file("dir/renamed")).unwrap_err());
    denied("readlink", fs::read_link(file("link")).unwrap_err());
    let overwrite = File::options().write(true).open(file("old"));
    denied("overwrite", overwrite.unwrap_err());
    let append = File::options().append(true).open(file("old"));
    denied("append", append.unwrap_err());
    let mut truncated = File::options()
        .read(true)
        .write(true)
        .truncate(true)
        .open(file("old"))
        .unwrap();
    truncated.write_all(b"rewritten").unwrap();
    truncated.sync_all().unwrap();
    // Neither the daemon nor the kernel keeps uploaded data.
    eventually("the pages are dropped", || {
        let read = truncated.read_at(&mut [0; 9], 0);
        read.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
    });
    drop(truncated);
    denied("open", File::open(file("old")).unwrap_err());
    if has_program("rsync") {
        fs::create_dir_all(rig.path("tree/sub")).unwrap();
        fs::write(rig.path("tree/sub/file"), "by rsync").unwrap();
        let tree = rig.path("tree");
        bash(
            &mount.path,
            &format!("rsync -a {}/ $MNT/synced/", tree.display()),
        );
        assert_eq!(read(&rig, "key", "synced/sub/file"), b"by rsync");
    }
    mount.end_well();
    assert_eq!(read(&rig, "key", "old"), b"rewritten");
    assert_eq!(read(&rig, "key", "dir/renamed"), b"new content");
}

#[test]
fn a_public_key_is_pinned_by_its_fingerprint_and_others_cannot_change_it() {
    let rig = Rig::new();
    fs::create_dir(rig.path("mnt")).unwrap();
    let mount = |options: &[&str]| {
        let base = [
            "mount",
            "oss://bucket",
            "mnt",
            "--public-key",
            "key.pub",
            "--foreground",
        ];
        let options = [&base[..], options, &["--cache-dir", "cache"]].concat();
        run(&rig, &options)
    };
    mount(&["--key-fingerprint", &"0".repeat(64)]).fails(23, &["--key-fingerprint"]);
    mount(&["--key-fingerprint", "abc"]).fails(2, &["not a fingerprint"]);
    fs::set_permissions(rig.path("key.pub"), fs::Permissions::from_mode(0o666)).unwrap();
    mount(&[]).fails(21, &["other users can change it"]);
}

// ---- without ossvault ----

#[test]
fn the_program_in_the_recovery_document_opens_every_format() {
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let program = recovery_program();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("recover.py"), program).unwrap();
    let mut opened = BTreeMap::<String, usize>::new();
    let index = formats::json("index.json");
    for name in index["vectors"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        if name.starts_with("negative") {
            continue;
        }
        let vector = formats::json(&format!("{name}.json"));
        let headers: String = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.as_str().unwrap()))
            .collect();
        fs::write(at("headers"), headers).unwrap();
        fs::write(at("object"), formats::ciphertext(&vector)).unwrap();
        let key = format!("keys/{}.pkcs1.pem", formats::text(&vector, "/rsa_key"));
        let output = Command::new(&python)
            .arg(at("recover.py"))
            .arg(formats::vectors().join(key))
            .args([at("headers"), at("object"), at("plain")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        let wanted = formats::text(&vector, "/plaintext/sha256");
        assert_eq!(
            formats::sha256(&fs::read(at("plain")).unwrap()),
            wanted,
            "{name}"
        );
        let family = formats::text(&vector, "/format").to_owned();
        *opened.entry(family).or_default() += 1;
    }
    // By writer: every writer, and so every format.
    assert_eq!(opened.len(), 9, "{opened:?}");
}

#[test]
fn the_program_in_the_recovery_document_opens_what_a_mount_writes() {
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let rig = Rig::new();
    let folder = rig.path("");
    fs::write(folder.join("recover.py"), recovery_program()).unwrap();
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        fill(&rig, 4, format);
        let user = head(&rig, "tree/003").headers.user;
        let headers: String = user
            .iter()
            .map(|(name, value)| format!("x-oss-meta-{name}: {value}\n"))
            .collect();
        fs::write(folder.join("headers"), headers).unwrap();
        fs::write(folder.join("object"), rig.ciphertext("tree/003")).unwrap();
        let status = Command::new(&python)
            .current_dir(&folder)
            .args(["recover.py", "key", "headers", "object", "plain"])
            .status()
            .unwrap();
        assert!(status.success(), "{format}");
        assert_eq!(
            fs::read(folder.join("plain")).unwrap(),
            content(3),
            "{format}"
        );
    }
}

fn recovery_program() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/recovery.md")).unwrap();
    let (_, rest) = document.split_once("```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    assert!(program.lines().count() < 80, "it is to stay short");
    program.to_owned()
}

/// "With `--format sdk` or `dual`, the official SDKs can open what the mount wrote, and the service's own
/// rules for such objects have a cost:"
///
/// A mount in the SDKs' formats and both official SDKs, on one bucket with one key pair.
#[test]
fn the_official_sdks_open_what_a_mount_wrote_for_them_and_a_mount_what_they_wrote() {
    if !can_mount() {
        return;
    }
    let python = match interop::python() {
        Ok(python) => python,
        Err(why) => return interop::skip(&why),
    };
    let rig = Rig::new();
    let (private, public) = (rig.key(), rig.path("key.pub"));
    let keys = [&private, &public].map(|path| path.to_str().unwrap());
    let sdk = |action: &str, sdk: &str, key: &str, input: &[u8]| {
        let args = [action, sdk, key, keys[0], keys[1]];
        interop::run_on(&rig, &python, "encrypted.py", &args, input)
    };
    for format in ["sdk", "dual"] {
        let mount = rig.mount(format, &["--format", format, "--metadata-ttl", "0"]);
        for size in [17, 70_000, (8 << 20) + 5] {
            let wanted: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            let ours = format!("{format}-ours-{size}");
            let path = mount.path.join(&ours);
            fs::write(&path, &wanted).unwrap();
            // Uploaded again with other attributes.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            for name in ["oss2", "v2"] {
                assert!(sdk("read", name, &ours, b"") == wanted, "{name} {ours}");
                // Their parts have at least 100 KiB.
                let ways = if size > 1 << 20 { 2 } else { 1 };
                for way in ["write", "parts"].into_iter().take(ways) {
                    let theirs = format!("{format}-{name}-{way}-{size}");
                    sdk(way, name, &theirs, &wanted);
                    let announced = head(&rig, &theirs).headers.user;
                    let announced = announced.get("client-side-encryption-part-size");
                    assert_eq!(announced.is_some(), way == "parts", "{theirs}");
                    let path = mount.path.join(&theirs);
                    assert!(fs::read(&path).unwrap() == wanted, "{theirs}");
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
                    assert!(sdk("read", name, &theirs, b"") == wanted, "{theirs}");
                }
            }
        }
        mount.end_well();
    }
}
