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
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
mod recovery;
mod rotation;
mod sdk_formats;
mod sharing;
mod write_only;

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
