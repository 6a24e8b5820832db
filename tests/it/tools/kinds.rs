//! An object's type is bound to its key: the commands preserve it, and detect metadata that contradicts it.

use ossvault::crypto::ctr::ContentCipher;
use ossvault::crypto::data_key::{ContentKind, CounterStart, DataKey, StartBinding};
use ossvault::envelope::write::write;

use super::*;

const VERIFY: [&str; 4] = ["verify", "oss://bucket/tree", "--private-key", "key"];
const LINK: &str = "41471";

/// An object, or a link to `target`.
fn put_kind(rig: &Rig, key: &str, mode: &str, content: &[u8]) {
    let bucket = bucket(rig, "key", Format::Seed);
    let mut headers = attributes(0);
    headers.user.insert("mode".into(), mode.into());
    let (key, plain) = (object_key(key), Plaintext::from_bytes(content.to_vec()));
    let put = bucket.put(&key, &plain, headers, None, Overwrite::Allowed);
    rig.block_on(put).unwrap();
}

/// A link as created by another program or an earlier version.
fn put_unbound_link(rig: &Rig, key: &str, v1: bool, target: &[u8]) {
    let data_key = DataKey::generate();
    let start = match v1 {
        true => CounterStart::derive_v1(&data_key).unwrap(),
        false => CounterStart::generate(),
    };
    let cipher = ContentCipher::new(data_key, start);
    let pem = fs::read(rig.path("key.pub")).unwrap();
    let public = key_parse::public_key(&pem).unwrap();
    let mut headers = attributes(0);
    headers
        .user
        .extend(write(Format::Seed, &public, &cipher, None).unwrap());
    headers.user.insert("mode".into(), LINK.into());
    let mut bytes = vec![0; target.len()];
    cipher.apply(0, target, &mut bytes).unwrap();
    put_plain(rig, key, &headers, &bytes);
}

fn set_mode_of(rig: &Rig, key: &str, mode: &str) {
    let meta = head(rig, key);
    let key = object_key(key);
    let mut headers = meta.headers.clone();
    headers.user.insert("mode".into(), mode.into());
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

/// The type in an object's key, read with one of the rig's keys.
fn kind_of(rig: &Rig, with: &str, key: &str) -> Option<ContentKind> {
    let bucket = bucket(rig, with, Format::Seed);
    let object = bucket.object(&head(rig, key)).unwrap();
    let cipher = rig.block_on(bucket.unlock(&object)).unwrap();
    cipher.binding().map(|StartBinding { kind, .. }| kind)
}

#[test]
fn verify_and_info_find_a_wrong_kind_in_the_metadata_and_it_can_be_restored() {
    let rig = Rig::new();
    put_kind(&rig, "tree/file", "33188", b"some text");
    put_kind(&rig, "tree/link", LINK, b"target");
    let save = [&VERIFY[..], &["--save-envelopes", "saved"]].concat();
    run(&rig, &save).succeeds();
    set_mode_of(&rig, "tree/file", LINK);
    set_mode_of(&rig, "tree/link", "33188");
    for options in [&[][..], &["--quick"]] {
        run(&rig, &[&VERIFY[..], options].concat()).fails(
            43,
            &[
                "damaged: tree/file",
                "damaged: tree/link",
                "its metadata says symbolic link, but its key says file",
                "its metadata says file, but its key says symbolic link",
            ],
        );
    }
    let info = run(
        &rig,
        &["info", "oss://bucket/tree/file", "--private-key", "key"],
    )
    .fails(43, &["cannot be opened"]);
    assert!(info.stdout.contains("its key says file"), "{}", info.stdout);

    run(&rig, &["restore-envelopes", "saved", "oss://bucket/tree"]).succeeds();
    assert_eq!(head(&rig, "tree/file").headers.user["mode"], "33188");
    assert_eq!(head(&rig, "tree/link").headers.user["mode"], LINK);
    run(&rig, &VERIFY).succeeds();
}

#[test]
fn verify_and_info_find_a_link_whose_key_is_not_bound_to_that_type() {
    let rig = Rig::new();
    for (name, v1) in [("tree/v1", true), ("tree/foreign", false)] {
        put_unbound_link(&rig, name, v1, b"target");
        let found = format!("damaged: {name}");
        run(&rig, &VERIFY).fails(43, &[&found, "--trust-links"]);
        let info = [
            "info",
            &format!("oss://bucket/{name}"),
            "--private-key",
            "key",
        ];
        let info = run(&rig, &info).succeeds();
        assert!(info.stdout.contains("--trust-links"), "{}", info.stdout);
    }
}

#[test]
fn rewrapping_and_re_encrypting_keep_links_links_and_files_files() {
    for options in [&[][..], &["--re-encrypt"]] {
        let rig = Rig::new();
        make_new_key(&rig);
        put_kind(&rig, "tree/file", "33188", b"some text");
        put_kind(&rig, "tree/link", LINK, b"target");
        run(&rig, &[&REWRAP[..], options].concat()).succeeds();
        assert_eq!(kind_of(&rig, "new", "tree/file"), Some(ContentKind::File));
        assert_eq!(kind_of(&rig, "new", "tree/link"), Some(ContentKind::Link));
        assert_eq!(read(&rig, "new", "tree/link"), b"target");
    }
}

/// Encrypting again creates a key for the type that the metadata claims, permanently.
#[test]
fn nothing_becomes_a_link_by_being_encrypted_again() {
    let rig = Rig::new();
    make_new_key(&rig);
    put_kind(&rig, "tree/file", "33188", b"some text");
    set_mode_of(&rig, "tree/file", LINK);
    put_unbound_link(&rig, "tree/v1", true, b"some text");
    put_unbound_link(&rig, "tree/foreign", false, b"some text");
    let all = [&REWRAP[..], &["--re-encrypt"]].concat();
    run(&rig, &all).fails(43, &["3 of 3"]);
    for key in ["tree/v1", "tree/foreign"] {
        assert_eq!(kind_of(&rig, "key", key), None, "{key}");
    }
    // Rewrapped, they are as unbound as before.
    run(&rig, &REWRAP).fails(43, &["damaged: tree/file"]);
    for key in ["tree/v1", "tree/foreign"] {
        assert_eq!(kind_of(&rig, "new", key), None, "{key}");
        assert_eq!(read(&rig, "new", key), b"some text");
    }
}

/// Regression: they stayed encrypted for the old key, or under a data key that its holder knows.
#[test]
fn after_a_rewrap_the_old_key_opens_no_extended_attributes() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    let opens = |with: &str| {
        let bucket = bucket(&rig, with, Format::Seed);
        let meta = head(&rig, "tree/000");
        let object = bucket.object(&meta).unwrap();
        rig.block_on(bucket.open_xattrs(&object, &meta.headers))
            .is_ok()
    };
    assert!(opens("key") && !opens("new"));
    run(&rig, &REWRAP).succeeds();
    assert!(!opens("key") && opens("new"));
    assert_tree(&rig, "new", 1);

    // A host that still writes with the old key sets one more: the repeated run finds it.
    let old = bucket(&rig, "key", Format::Seed);
    let meta = head(&rig, "tree/000");
    let mut headers = meta.headers.clone();
    let mut xattrs = Xattrs::new();
    xattrs.set("user.comment", b"kept").unwrap();
    old.seal_xattrs(&xattrs, &mut headers).unwrap();
    let key = object_key("tree/000");
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
    assert!(opens("key") && !opens("new"));
    let again = run(&rig, &REWRAP).succeeds();
    assert!(again.stdout.contains("1 rewrapped"), "{}", again.stdout);
    assert!(!opens("key") && opens("new"));
    assert_tree(&rig, "new", 1);
    let third = run(&rig, &REWRAP).succeeds();
    assert!(third.stdout.contains("1 already"), "{}", third.stdout);
}

#[test]
fn adopted_objects_get_a_key_bound_to_their_type() {
    let rig = Rig::new();
    let link = |mode: &str| {
        let mut headers = attributes(0);
        headers.user.insert("mode".into(), mode.into());
        headers
    };
    put_plain(&rig, "tree/file", &link("33188"), b"text");
    put_plain(&rig, "tree/link", &link(LINK), b"target");
    put_plain(&rig, "tree/empty", &link(LINK), b"");
    put_plain(&rig, "tree/long", &link(LINK), &[b'a'; 4096]);
    run(
        &rig,
        &["adopt", "oss://bucket/tree", "--private-key", "key"],
    )
    .fails(
        43,
        &[
            "not-a-link: tree/empty",
            "not-a-link: tree/long",
            "2 adopted",
        ],
    );
    assert_eq!(kind_of(&rig, "key", "tree/file"), Some(ContentKind::File));
    assert_eq!(kind_of(&rig, "key", "tree/link"), Some(ContentKind::Link));
    run(
        &rig,
        &["verify", "oss://bucket/tree/link", "--private-key", "key"],
    );
    assert_eq!(read(&rig, "key", "tree/link"), b"target");
}

/// Between the two steps of a rotation, mounts read with both keys and write for the new one.
#[test]
fn attributes_set_during_a_rotation_by_a_mount_with_both_keys_are_rewrapped_with_the_rest() {
    let rig = Rig::new();
    make_new_key(&rig);
    fill(&rig, 1, Format::Seed);
    let new = bucket(&rig, "new", Format::Seed);
    let meta = head(&rig, "tree/000");
    let mut headers = meta.headers.clone();
    let mut xattrs = Xattrs::new();
    xattrs.set("user.comment", b"kept").unwrap();
    new.seal_xattrs(&xattrs, &mut headers).unwrap();
    let key = object_key("tree/000");
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

    let pem = fs::read(rig.path("new.pub")).unwrap();
    let fingerprint = key_parse::public_key(&pem)
        .unwrap()
        .fingerprint()
        .to_owned();
    let by_name = [&REWRAP[..6], &["--new-fingerprint", &fingerprint]].concat();
    run(&rig, &by_name).fails(43, &["xattrs-need-new-key: tree/000"]);
    run(&rig, &REWRAP).succeeds();
    assert_tree(&rig, "new", 1);
}
