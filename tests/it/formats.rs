//! Objects encrypted by real SDKs, and key files written by real tools: one case per file in `tests/vectors`,
//! each with its expected outcome.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ossvault::base::crc64;
use ossvault::crypto::key_error::KeyError;
use ossvault::crypto::key_parse;
use ossvault::crypto::key_ring::KeyRing;
use ossvault::crypto::rsa_key::{PrivateKey, PublicKey};
use ossvault::envelope::open::open;
use ossvault::envelope::{Error, Format, detect};
use ossvault::store::object_store::{Body, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::fixture::{BUCKET, Rig, can_mount};

pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

pub(crate) fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(vectors().join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .expect(pointer)
}

fn number(value: &Value, pointer: &str) -> u64 {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .expect(pointer)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn private(name: &str) -> PrivateKey {
    let bytes = std::fs::read(vectors().join(format!("keys/{name}.pkcs8.pem"))).expect(name);
    key_parse::private_key(&bytes, &mut || None).expect(name)
}

/// The rule of the vectors' README: block k is the SHA-256 of `LABEL:k`.
fn plaintext(label: &str, len: usize) -> Vec<u8> {
    (0..len.div_ceil(32))
        .flat_map(|k| Sha256::digest(format!("{label}:{k}")))
        .take(len)
        .collect()
}

fn user_metadata(vector: &Value) -> BTreeMap<String, String> {
    vector["headers"]
        .as_object()
        .expect("headers")
        .iter()
        .map(|(name, value)| {
            (
                name.strip_prefix("x-oss-meta-").expect(name).to_owned(),
                value.as_str().expect(name).to_owned(),
            )
        })
        .collect()
}

pub(crate) fn ciphertext(vector: &Value) -> Vec<u8> {
    let bytes = match vector.pointer("/ciphertext/file").and_then(Value::as_str) {
        Some(file) => std::fs::read(vectors().join(file)).expect(file),
        None => BASE64_STANDARD
            .decode(text(vector, "/ciphertext/base64"))
            .expect("base64"),
    };
    assert_eq!(sha256(&bytes), text(vector, "/ciphertext/sha256"));
    assert_eq!(
        crc64::of(&bytes).to_string(),
        text(vector, "/ciphertext/crc64")
    );
    bytes
}

/// From the vectors and from this program.
fn names() -> Vec<String> {
    let lists = ["index.json", "ours.json"].map(json);
    lists
        .iter()
        .flat_map(|list| list["vectors"].as_array().expect("vectors"))
        .map(|name| name.as_str().expect("name").to_owned())
        .collect()
}

/// All keys, in an order in which the right one is never the only one tried.
fn ring() -> KeyRing {
    let keys: Vec<_> = ["rsa4096", "rsa3072", "rsa2048"].map(private).into();
    let writing = keys[0].public().clone();
    KeyRing::new(keys, writing)
}

/// "Objects in every format are read, whatever the mount writes."
#[test]
fn every_object_of_the_sdks_opens_as_its_vector_says() {
    let ring = ring();
    let mut count = 0;
    for name in names().iter().filter(|name| !name.starts_with("negative.")) {
        let vector = json(&format!("{name}.json"));
        let envelope = detect(&user_metadata(&vector)).expect(name).expect(name);
        let format = match text(&vector, "/format") {
            "seed" => Format::Seed,
            "dual" => Format::Dual,
            "oss2-localrsa" => Format::SdkOaep,
            "oss2-legacy" => Format::Legacy,
            "oss2-rsa" | "py-v2" | "go-v1" | "go-v2" | "java-v1" => Format::Sdk,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(envelope.format, format, "{name}");

        let opened = open(&envelope, &ring).expect(name);
        let key = private(text(&vector, "/rsa_key"));
        assert_eq!(
            opened.by.as_deref(),
            Some(key.public().fingerprint()),
            "{name}"
        );
        assert!(opened.cipher.is_opened(), "{name}");
        assert_eq!(
            hex::encode(opened.cipher.key().expose()),
            text(&vector, "/expect/data_key_hex"),
            "{name}"
        );
        assert_eq!(
            hex::encode(opened.cipher.start().to_be_bytes()),
            text(&vector, "/expect/counter0_hex"),
            "{name}"
        );

        let ciphertext = ciphertext(&vector);
        let mut plain = vec![0; ciphertext.len()];
        opened.cipher.apply(0, &ciphertext, &mut plain).expect(name);
        assert_eq!(sha256(&plain), text(&vector, "/plaintext/sha256"), "{name}");
        assert!(
            plain == plaintext(text(&vector, "/plaintext/label"), plain.len()),
            "{name}"
        );
        for range in vector["ranges"].as_array().expect("ranges") {
            let (first, last) = (number(range, "/first"), number(range, "/last"));
            let source = &ciphertext[first as usize..=last as usize];
            let mut plain = vec![0; source.len()];
            opened.cipher.apply(first, source, &mut plain).expect(name);
            assert_eq!(
                sha256(&plain),
                text(range, "/sha256"),
                "{name} {first}-{last}"
            );
        }
        count += 1;
    }
    assert!(count > 50, "only {count} vectors");
}

#[test]
fn every_damaged_envelope_is_refused_as_its_vector_says() {
    let ring = ring();
    let mut count = 0;
    for name in names().iter().filter(|name| name.starts_with("negative.")) {
        let vector = json(&format!("{name}.json"));
        let expected = text(&vector, "/expect_error");
        let detected = detect(&user_metadata(&vector));
        let found = match &detected {
            Err(Error::Incomplete { .. }) => "incomplete_envelope",
            Err(Error::Malformed { .. }) => "malformed_header",
            Err(Error::Kms(_) | Error::UnknownWrap(_)) => "unsupported_wrap_alg",
            Err(Error::UnknownCipher(_)) => "unsupported_cek_alg",
            Err(Error::UnknownVersion(_)) => "unsupported_version",
            Err(other) => panic!("{name}: {other}"),
            Ok(None) => panic!("{name}: taken for an object that is not encrypted"),
            Ok(Some(envelope)) => match open(envelope, &ring) {
                Err(Error::NotOpened) => "unwrap_failed",
                Err(Error::WrongContent(_)) => "unwrap_or_length_error",
                Err(Error::WrongStart) => "start_not_derived",
                Err(Error::ForeignKey(_)) => "foreign_key",
                Err(other) => panic!("{name}: {other}"),
                // No oracle: it looks opened, and returns no byte.
                Ok(opened) => {
                    assert_eq!(envelope.format, Format::Sdk, "{name}");
                    assert!(opened.by.is_none(), "{name}");
                    assert!(opened.cipher.apply(0, &[0], &mut [0]).is_err(), "{name}");
                    "unwrap_failed"
                }
            },
        };
        assert_eq!(found, expected, "{name}");
        count += 1;
    }
    assert!(count >= 28, "only {count} vectors");
}

/// "Reading it fails with EIO if the envelope is missing, incomplete or damaged, or if no key opens it;
/// with EACCES if it names a key that the mount does not have, or if PKCS#1 v1.5 envelopes are no longer
/// tried (docs/keys.md); with EOPNOTSUPP if a key management service wrapped the key, or if an algorithm or
/// a version is unknown."
///
/// The errno that a program gets when it reads such a file.
#[test]
fn every_damaged_envelope_has_its_errno_in_a_mount() {
    if !can_mount() {
        return;
    }
    let rig = Rig::new();
    let names = names().into_iter();
    let names: Vec<_> = names.filter(|name| name.starts_with("negative.")).collect();
    for name in &names {
        let vector = json(&format!("{name}.json"));
        let headers = ObjectHeaders {
            user: user_metadata(&vector),
            ..ObjectHeaders::default()
        };
        let key = ObjectKey::new(name.as_str()).expect(name);
        let body = Body::from_bytes(ciphertext(&vector));
        let put = rig.store.put(&key, &headers, body, Overwrite::Allowed);
        rig.block_on(put).expect(name);
    }
    let files = ["rsa4096", "rsa3072", "rsa2048"]
        .map(|name| vectors().join(format!("keys/{name}.pkcs8.pem")));
    let mut keys = vec!["--insecure-key-permissions"];
    for file in &files {
        keys.extend(["--private-key", file.to_str().expect("UTF-8")]);
    }
    let mount = rig.mount_with_keys("mnt", &format!("oss://{BUCKET}"), &keys, &[]);
    for name in &names {
        let vector = json(&format!("{name}.json"));
        let expected = match vector["errno"].as_str() {
            Some("EACCES") => libc::EACCES,
            Some("EIO") => libc::EIO,
            Some("EOPNOTSUPP") => libc::EOPNOTSUPP,
            None if text(&vector, "/expect_error").starts_with("unsupported") => libc::EOPNOTSUPP,
            None => libc::EIO,
            Some(other) => panic!("{name}: {other}"),
        };
        let error = std::fs::read(mount.path.join(name)).expect_err(name);
        assert_eq!(error.raw_os_error(), Some(expected), "{name}: {error}");
    }
    // The log gives the reason for each.
    let log = std::fs::read_to_string(&mount.log).expect("a log");
    for name in &names {
        assert!(
            log.contains(&format!("reading {name:?}: ")),
            "{name}: {log}"
        );
    }
    mount.end_well();
}

#[test]
fn every_object_is_refused_by_a_ring_without_its_key() {
    let foreign = KeyRing::single(private("rsa3072")).with_pkcs1_limit(1000);
    for name in names() {
        let vector = json(&format!("{name}.json"));
        if name.starts_with("negative.") || text(&vector, "/rsa_key") == "rsa3072" {
            continue;
        }
        let envelope = detect(&user_metadata(&vector)).expect(&name).expect(&name);
        match open(&envelope, &foreign) {
            Err(Error::NotOpened) => assert_ne!(envelope.format, Format::Sdk, "{name}"),
            Err(other) => panic!("{name}: {other}"),
            Ok(opened) => {
                assert_eq!(envelope.format, Format::Sdk, "{name}");
                assert!(!opened.cipher.is_opened(), "{name}");
            }
        }
    }
}

#[test]
fn every_kind_of_key_file_is_read() {
    let index = json("keys/keys.json");
    let mut fingerprints: BTreeMap<String, String> = BTreeMap::new();
    for entry in index["keys"].as_array().expect("keys") {
        let file = text(entry, "/file");
        let bytes = std::fs::read(vectors().join(file)).expect(file);
        let passphrase = entry["passphrase"].as_str();
        let public: PublicKey = if file.contains(".pub.") {
            let error = key_parse::private_key(&bytes, &mut || None).err();
            assert_eq!(error, Some(KeyError::PublicOnly), "{file}");
            key_parse::public_key(&bytes).expect(file)
        } else {
            assert_eq!(
                key_parse::public_key(&bytes).err(),
                Some(KeyError::PrivateGiven),
                "{file}"
            );
            let mut asked = 0;
            let key = key_parse::private_key(&bytes, &mut || {
                asked += 1;
                passphrase.map(|p| Zeroizing::new(p.to_owned()))
            })
            .expect(file);
            assert_eq!(asked, usize::from(passphrase.is_some()), "{file}");
            key.prove().expect(file);
            key.public().clone()
        };
        if passphrase.is_some() {
            let without = key_parse::private_key(&bytes, &mut || None).err();
            assert_eq!(without, Some(KeyError::PassphraseNeeded), "{file}");
            for wrong in ["", "wrong", "correct horse batterx"] {
                let wrong =
                    key_parse::private_key(&bytes, &mut || Some(Zeroizing::new(wrong.to_owned())));
                assert_eq!(wrong.err(), Some(KeyError::WrongPassphrase), "{file}");
            }
        }
        assert_eq!(public.bits() as u64, number(entry, "/bits"), "{file}");
        assert_eq!(
            sha256(&public.modulus()),
            text(entry, "/modulus_sha256"),
            "{file}"
        );
        let same = fingerprints
            .entry(text(entry, "/key").to_owned())
            .or_insert_with(|| public.fingerprint().to_owned());
        assert_eq!(same, public.fingerprint(), "{file}");
    }
    assert_eq!(fingerprints.len(), 3);
}

/// Every prefix of a key file, and every file with one byte changed, is a key or an error.
#[test]
fn a_damaged_key_file_is_never_a_panic() {
    for file in [
        "keys/rsa2048.pkcs8.der",
        "keys/rsa2048.pkcs1.dek-3des.enc.pem",
        "keys/rsa2048.pub.spki.pem",
    ] {
        let bytes = std::fs::read(vectors().join(file)).expect(file);
        let parse = |bytes: &[u8]| {
            let _ = key_parse::private_key(bytes, &mut || Some(Zeroizing::new("x".into())));
            let _ = key_parse::public_key(bytes);
        };
        for i in (0..bytes.len()).step_by(7) {
            parse(&bytes[..i]);
            let mut changed = bytes.clone();
            changed[i] ^= 0x41;
            parse(&changed);
        }
    }
}

#[test]
fn crc64_is_the_one_of_the_service_whole_and_combined() {
    let vectors = json("crc64.json");
    for case in vectors["values"].as_array().expect("values") {
        let data = match case["hex_data"].as_str() {
            Some(hex) => (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
                .collect(),
            None => plaintext(
                text(case, "/plaintext_label"),
                number(case, "/length") as usize,
            ),
        };
        assert_eq!(crc64::of(&data).to_string(), text(case, "/crc64"));
    }
    for case in vectors["combine"].as_array().expect("combine") {
        let whole = case["pieces"]
            .as_array()
            .expect("pieces")
            .iter()
            .fold(0, |crc, piece| {
                let piece_crc = text(piece, "/crc64").parse().expect("decimal");
                crc64::combine(crc, piece_crc, number(piece, "/length"))
            });
        assert_eq!(whole.to_string(), text(case, "/whole_crc64"));
    }
}

/// The values in `docs/format.md` are computed, not remembered.
#[test]
fn the_worked_examples_of_the_format_document_hold() {
    use ossvault::crypto::ctr::ContentCipher;
    use ossvault::crypto::data_key::{CounterStart, DataKey, StartBinding};

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let document = std::fs::read_to_string(path).expect("docs/format.md");
    let says = |what: &str| assert!(document.contains(what), "the document lacks {what}");
    let blocks = |bytes: &[u8]| {
        let blocks: Vec<_> = bytes.chunks(16).map(hex::encode).collect();
        blocks.join(" ")
    };

    let key = || DataKey::from_bytes(Zeroizing::new(std::array::from_fn(|i| i as u8)));
    let v1 = CounterStart::derive_v1(&key()).expect("not 0");
    says(&format!("S, version 1  {}", hex::encode(v1.to_be_bytes())));
    for (binding, name) in StartBinding::ALL.into_iter().zip([
        "file, unsealed",
        "link, unsealed",
        "file, sealed",
        "link, sealed",
    ]) {
        let start = CounterStart::derive(&key(), binding).expect("not 0");
        says(&format!("{name:<15} {}", hex::encode(start.to_be_bytes())));
    }
    let key = key();
    let start = CounterStart::derive(&key, StartBinding::ALL[0]).expect("not 0");
    says(&start.to_decimal());
    says(&hex::encode(start.to_decimal().as_bytes()));
    says(&hex::encode(start.at(8 << 20).to_be_bytes()));
    let plain = b"The quick brown fox jumps over it\n";
    let mut ciphertext = vec![0; plain.len()];
    let cipher = ContentCipher::new(key, start);
    cipher.apply(0, plain, &mut ciphertext).expect("opened");
    says(&format!("            {}", blocks(plain)));
    says(&format!("ciphertext  {}", blocks(&ciphertext)));
    says(&format!("CRC-64      {}", crc64::of(&ciphertext)));

    for name in ["seed", "go-v2", "oss2-localrsa", "oss2-legacy", "dual"] {
        let vector = json(&format!("{name}.rsa2048.put.17.json"));
        says(text(&vector, "/expect/data_key_hex"));
        says(text(&vector, "/expect/counter0_hex"));
        says(&blocks(&plaintext(text(&vector, "/plaintext/label"), 17)));
        says(&blocks(&self::ciphertext(&vector)));
    }
    let dual = text(&json("dual.rsa2048.put.17.json"), "/expect/counter0_hex").to_owned();
    says(&u128::from_str_radix(&dual, 16).expect("hex").to_string());
}
