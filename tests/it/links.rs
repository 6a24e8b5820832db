//! A file's content is never returned as a link's target: programs resolve targets, and the names in them
//! would be looked up in the bucket in plaintext.

use std::collections::BTreeMap;
use std::sync::Arc;

use ossvault::crypto::ctr::ContentCipher;
use ossvault::crypto::data_key::{ContentKind, CounterStart, DataKey, StartBinding};
use ossvault::encrypted::EncryptedBucket;
use ossvault::envelope::write::write;
use ossvault::envelope::{Format, format};
use ossvault::files::attributes::{Change, Kind};
use ossvault::fs::error::Error;
use ossvault::fs::namespace::Ino;
use ossvault::fs::namespace::object_name::Name;
use ossvault::fs::ops::xattr::SetXattr;
use ossvault::store::object_store::{
    Body, CopyHeaders, CopyRequest, ObjectHeaders, ObjectKey, ObjectStore, Overwrite,
};

use crate::other_writers::{READ, block, mounted_with};
use crate::world::{self, CALLER, Call, FsResult, Kernel, World};

const FILE: u32 = 0o100_600;
const LINK: u32 = 0o120_777;

/// Content that would be a valid target, and must not be returned.
const SECRET: &[u8] = b"AKIA-super-secret-token-0123456789";

fn object_key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

/// Puts an object with this envelope and `content` encrypted under it.
async fn put_object(
    world: &World,
    key: &str,
    cipher: &ContentCipher,
    user: BTreeMap<String, String>,
    content: &[u8],
) {
    let mut bytes = vec![0; content.len()];
    cipher.apply(0, content, &mut bytes).unwrap();
    let headers = ObjectHeaders {
        user,
        ..ObjectHeaders::default()
    };
    let (key, body) = (object_key(key), Body::from_bytes(bytes));
    let put = world.weather.put(&key, &headers, body, Overwrite::Allowed);
    put.await.unwrap();
    world.weather.advance(3);
}

/// Changes only the metadata, as anyone who controls the bucket can.
async fn change(world: &World, key: &str, change: impl FnOnce(&mut BTreeMap<String, String>)) {
    let key = object_key(key);
    let meta = world.weather.head(&key).await.unwrap();
    let mut headers = meta.headers.clone();
    change(&mut headers.user);
    let replace = CopyHeaders::Replace(headers);
    let request = CopyRequest {
        source: key.clone(),
        source_etag: meta.etag.clone(),
        destination: key.clone(),
        headers: replace,
        overwrite: Overwrite::Allowed,
    };
    let copy = world.weather.copy(&request);
    copy.await.unwrap();
    world.weather.advance(3);
}

/// The errno of a program that follows the link, and the number of bodies that this fetched.
async fn follow(world: &World, kernel: &Kernel, name: &str) -> (FsResult<Vec<u8>>, u32) {
    let looks = kernel.look(name).await;
    assert_eq!(
        looks.kind,
        Kind::Symlink,
        "{name}: lstat says what it claims"
    );
    world.weather.take_calls();
    let target = kernel.fs.readlink(looks.ino).await;
    let gets = world.weather.count(Call::Get);
    (target.map(|target| target.to_vec()), gets)
}

async fn remove(kernel: &Kernel, name: &str) {
    kernel
        .fs
        .unlink(Ino::ROOT, &Name::from(name))
        .await
        .unwrap();
    assert!(kernel.find(name).await.is_none(), "{name}");
}

fn is_io<T: std::fmt::Debug>(result: &FsResult<T>) -> bool {
    matches!(result, Err(Error::Io(_)))
}

/// "An object is a link only if its data key is bound to that type (docs/format.md, section 4) and its
/// target has 1 to 4095 bytes: an object that merely claims to be a link can be listed and removed, and
/// following it fails with EIO."
#[test]
fn a_file_whose_metadata_is_changed_to_link_is_never_returned_as_a_target() {
    block(async {
        for trust_links in [false, true] {
            let (world, kernel) =
                mounted_with(|world| world.settings.trust_links = trust_links).await;
            for format in [Format::Seed, Format::Sdk, Format::Dual] {
                for stripped in [false, true] {
                    let name = format!("{format}-{stripped}");
                    let bucket = world.bucket_in(format);
                    put_file(&bucket, &name, SECRET).await;
                    change(&world, &name, |user| {
                        user.insert("mode".into(), LINK.to_string());
                        if stripped {
                            user.remove("ossvault-v");
                        }
                    })
                    .await;
                    let (target, gets) = follow(&world, &kernel, &name).await;
                    assert!(is_io(&target), "{name} {trust_links}: {target:?}");
                    assert_eq!(gets, 0, "{name}");
                    // It is not a file either, until its mode is restored.
                    remove(&kernel, &name).await;
                }
            }
        }
    });
}

async fn put_file(bucket: &Arc<EncryptedBucket>, key: &str, content: &[u8]) {
    let mut headers = ObjectHeaders::default();
    headers.user.insert("mode".into(), FILE.to_string());
    let plain = ossvault::encrypted::Plaintext::from_bytes(content.to_vec());
    let key = object_key(key);
    let put = bucket.put(&key, &plain, headers, None, Overwrite::Allowed);
    put.await.unwrap();
}

/// The reverse: someone who can change the metadata makes a program read a link's target as a file.
#[test]
fn a_link_whose_metadata_is_changed_to_file_is_not_read() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        let name = Name::from("link");
        let made = kernel.fs.symlink(Ino::ROOT, &name, b"target", CALLER).await;
        kernel.entered(&made.unwrap());
        for mode in [Some(FILE), None] {
            change(&world, "link", |user| match mode {
                Some(mode) => drop(user.insert("mode".into(), mode.to_string())),
                None => drop(user.remove("mode")),
            })
            .await;
            let handle = kernel.open("link", READ).await;
            let read = kernel.read_all(handle).await;
            assert!(is_io(&read), "{mode:?}: {read:?}");
            kernel.fs.release_now(handle);
        }
        change(&world, "link", |user| {
            user.insert("mode".into(), LINK.to_string());
        })
        .await;
        let (target, _) = follow(&world, &kernel, "link").await;
        assert_eq!(target.unwrap(), b"target");
    });
}

/// "With `--trust-links`, links that other programs and earlier versions created are followed as well."
#[test]
fn unbound_links_are_followed_only_with_trust_links() {
    block(async {
        for trust_links in [false, true] {
            let (world, kernel) =
                mounted_with(|world| world.settings.trust_links = trust_links).await;
            let key = || DataKey::from_slice(&[9; 32]).unwrap();
            let of_v1 = CounterStart::derive_v1(&key()).unwrap();
            for (name, format, start) in [
                ("an-earlier-version", Format::Seed, of_v1),
                ("another-program", Format::Seed, CounterStart::generate()),
                ("an-sdk", Format::Sdk, CounterStart::generate()),
            ] {
                let cipher = ContentCipher::new(key(), start);
                let writing = world::keys();
                let mut user = write(format, writing.writing(), &cipher, None).unwrap();
                user.insert("mode".into(), LINK.to_string());
                for length in [0, 1, 4095, 4096] {
                    let content = vec![b'a'; length];
                    put_object(&world, name, &cipher, user.clone(), &content).await;
                    let (target, gets) = follow(&world, &kernel, name).await;
                    if trust_links && (1..=4095).contains(&length) {
                        assert_eq!(target.unwrap(), content, "{name} {length}");
                    } else {
                        assert!(is_io(&target), "{name} {length}: {target:?}");
                        assert_eq!(gets, 0, "{name} {length}");
                    }
                    remove(&kernel, name).await;
                }
            }
        }
    });
}

/// Regression: `ls -l` was enough to make a daemon read an object of any size into memory.
#[test]
fn only_objects_with_a_targets_length_are_fetched() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        let key = DataKey::generate();
        let start = CounterStart::derive(&key, StartBinding::of(ContentKind::Link));
        let cipher = ContentCipher::new(key, start.unwrap());
        let mut user = write(Format::Seed, world::keys().writing(), &cipher, None).unwrap();
        user.insert("mode".into(), LINK.to_string());
        assert_eq!(format::LONGEST_LINK, 4095);
        for (length, fits) in [
            (0, false),
            (1, true),
            (4095, true),
            (4096, false),
            (5 << 20, false),
        ] {
            let name = format!("{length}");
            let content = vec![b'a'; length];
            put_object(&world, &name, &cipher, user.clone(), &content).await;
            let (target, gets) = follow(&world, &kernel, &name).await;
            match fits {
                true => assert_eq!(target.unwrap(), content),
                false => assert!(is_io(&target) && gets == 0, "{length}: {target:?} {gets}"),
            }
            remove(&kernel, &name).await;
        }
    });
}

/// Whatever the form of the envelope, a link is not followed unless its key is bound to that type.
#[test]
fn envelopes_that_contradict_their_keys_are_refused() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        let v15 = "client-side-encryption-key";
        for format in [Format::Seed, Format::Sdk, Format::Dual] {
            for (what, binding) in [
                ("sealed file", StartBinding::ALL[2]),
                ("sealed link", StartBinding::ALL[3]),
            ] {
                for mode in [FILE, LINK] {
                    let key = DataKey::generate();
                    let start = CounterStart::derive(&key, binding).unwrap();
                    let cipher = ContentCipher::new(key, start);
                    let mut user = write(format, world::keys().writing(), &cipher, None).unwrap();
                    user.insert("mode".into(), mode.to_string());
                    put_object(&world, "x", &cipher, user, SECRET).await;
                    let looks = kernel.look("x").await;
                    let read = match looks.kind {
                        Kind::Symlink => kernel.fs.readlink(looks.ino).await.map(|b| b.to_vec()),
                        _ => {
                            let handle = kernel.open("x", READ).await;
                            let read = kernel.read_all(handle).await;
                            kernel.fs.release_now(handle);
                            read
                        }
                    };
                    assert!(is_io(&read), "{format} {what} {mode:o}: {read:?}");
                    remove(&kernel, "x").await;
                }
            }
            // The start of one object with the key of another.
            let (a, b) = (fresh(format), fresh(format));
            let mut user = a.1.clone();
            for name in ["x-oss-start", "client-side-encryption-start"] {
                if let Some(start) = b.1.get(name) {
                    user.insert(name.into(), start.clone());
                }
            }
            assert!(format == Format::Seed || user.contains_key(v15));
            user.insert("mode".into(), LINK.to_string());
            put_object(&world, "x", &a.0, user, SECRET).await;
            let (target, gets) = follow(&world, &kernel, "x").await;
            assert!(is_io(&target) && gets == 0, "{format}: {target:?}");
            remove(&kernel, "x").await;
        }
    });
}

fn fresh(format: Format) -> (ContentCipher, BTreeMap<String, String>) {
    let cipher = ossvault::envelope::write::fresh_cipher(ContentKind::Link);
    let user = write(format, world::keys().writing(), &cipher, None).unwrap();
    (cipher, user)
}

/// Changes by a mount keep a link a link, and a file a file.
#[test]
fn links_stay_links_and_files_stay_files_through_every_change() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        let name = Name::from("link");
        let made = kernel.fs.symlink(Ino::ROOT, &name, b"target", CALLER).await;
        kernel.entered(&made.unwrap());
        kernel.save("file", SECRET).await;
        for path in ["link", "file"] {
            let ino = kernel.look(path).await.ino;
            let change = Change {
                // The type bits of a link, as no system call would pass them.
                mode: Some(libc::S_IFLNK | 0o640),
                uid: Some(7),
                ..Change::default()
            };
            kernel.fs.setattr(ino, None, change).await.unwrap();
            let set = kernel.fs.setxattr(ino, "user.a", b"b", SetXattr::Either);
            set.await.unwrap();
        }
        for (from, to) in [("link", "renamed"), ("file", "file2")] {
            let (from, to) = (Name::from(from), Name::from(to));
            let rename = kernel.fs.rename((Ino::ROOT, from), (Ino::ROOT, to), false);
            rename.await.unwrap();
        }
        let (target, _) = follow(&world, &kernel, "renamed").await;
        assert_eq!(target.unwrap(), b"target");
        assert_eq!(kernel.look("file2").await.kind, Kind::File);
        assert_eq!(kernel.load("file2").await, SECRET);
        // A fresh mount knows only what is stored.
        let kernel = Kernel::new(world.mount().await);
        let (target, _) = follow(&world, &kernel, "renamed").await;
        assert_eq!(target.unwrap(), b"target");
        assert_eq!(kernel.load("file2").await, SECRET);
    });
}

/// An upload binds the type in the attributes, which come from the bucket. Regression: a file that was open
/// when its metadata was changed would have been made a link by this mount itself.
#[test]
fn an_open_file_whose_metadata_is_changed_to_link_is_uploaded_as_a_file() {
    block(async {
        let (world, kernel) = mounted_with(|_| ()).await;
        world.others.put("a", b"what was there").await;
        let handle = kernel.open("a", crate::under_way::TRUNCATE).await;
        world.others.chmod("a", LINK).await;
        kernel.write(handle, 0, SECRET).await.unwrap();
        kernel.close(handle).await.unwrap();
        let meta = world.weather.head(&object_key("a")).await.unwrap();
        assert_eq!(format::claimed_kind(&meta.headers.user), ContentKind::File);
        assert_eq!(world.others.get("a").await.unwrap(), SECRET);
        assert_eq!(kernel.load("a").await, SECRET);
    });
}

/// Reading a link that this mount created fetches only its body.
#[test]
fn reading_a_link_costs_one_request() {
    block(async {
        let (world, kernel) = mounted_with(|world| {
            world.settings.metadata_ttl = std::time::Duration::from_secs(60);
        })
        .await;
        let name = Name::from("link");
        let made = kernel.fs.symlink(Ino::ROOT, &name, b"target", CALLER).await;
        let ino = made.unwrap().ino;
        world.weather.take_calls();
        assert_eq!(kernel.fs.readlink(ino).await.unwrap(), &b"target"[..]);
        assert_eq!(
            world.weather.take_calls().into_iter().collect::<Vec<_>>(),
            [(Call::Get, 1)]
        );
    });
}
