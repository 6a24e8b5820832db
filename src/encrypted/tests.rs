//! Tests of the encrypted bucket on an in-memory store that tampers with data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::*;
use crate::base::crc64;
use crate::crypto::ctr::ContentCipher;
use crate::crypto::data_key::{ContentKind, CounterStart, DataKey, StartBinding};
use crate::crypto::key_pair::KeyPair;
use crate::crypto::key_ring::KeyRing;
use crate::envelope::Format;
use crate::envelope::write::{self, MultipartSizes};
use crate::store::error::Error as StoreError;
use crate::store::object_store::*;
use ossvault_testing::{Call, Hooks, InstrumentedStore, MemoryStore, memory_store};

static PAIR: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(2048).unwrap());

fn ring() -> KeyRing {
    let pem = PAIR.private_pem(None).unwrap();
    KeyRing::single(crate::crypto::key_parse::private_key(pem.as_bytes(), &mut || None).unwrap())
}

/// An in-memory bucket, with deliberate misbehaviour.
#[derive(Default)]
struct Tampering {
    memory: Arc<MemoryStore>,
    /// Of the last upload that was begun.
    headers: Mutex<ObjectHeaders>,
    /// The numbers of the parts that arrived.
    parts: Mutex<BTreeSet<u16>>,
    /// How often a body is read before the last reading counts.
    attempts: AtomicUsize,
    lies_about_crc: AtomicBool,
    gives_no_crc: AtomicBool,
    /// One bit of every body that is read is wrong, under the object's own ETag and checksum.
    flips: AtomicBool,
    /// Everything that any attempt sent.
    seen: Mutex<Vec<Bytes>>,
    /// Another client's version, which replaces the object once this one has been read.
    next: Mutex<Option<Bytes>>,
}

impl Tampering {
    async fn attempt(&self, body: &Body) -> Result<Bytes> {
        let mut stream = body.open();
        let mut whole = vec![];
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            self.seen
                .lock()
                .unwrap()
                .push(Bytes::copy_from_slice(&chunk));
            whole.extend_from_slice(&chunk);
        }
        assert_eq!(whole.len() as u64, body.len());
        Ok(whole.into())
    }

    fn tamper(&self, crc64: &mut Option<u64>) {
        let lie = u64::from(self.lies_about_crc.load(Ordering::Relaxed));
        let given = crc64.filter(|_| !self.gives_no_crc.load(Ordering::Relaxed));
        *crc64 = given.map(|crc| crc ^ lie);
    }

    fn stored(&self, key: &str) -> Bytes {
        self.memory.stored(key)
    }
}

type Result<T> = std::result::Result<T, StoreError>;

#[async_trait]
impl Hooks for Tampering {
    async fn head(&self, store: &dyn ObjectStore, key: &ObjectKey) -> Result<ObjectMeta> {
        let mut meta = store.head(key).await?;
        self.tamper(&mut meta.crc64);
        Ok(meta)
    }

    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let mut answer = store.get(key, range, if_match).await?;
        self.tamper(&mut answer.meta.crc64);
        let chunks: Vec<Bytes> = answer.body.try_collect().await?;
        let mut bytes = chunks.concat();
        if self.flips.load(Ordering::Relaxed) {
            bytes[0] ^= 1;
        }
        answer.body = stream::iter(memory_store::chunks(&bytes.into(), 1000)).boxed();
        if let Some(next) = self.next.lock().unwrap().take() {
            self.memory.change(key.as_str(), |bytes, _| *bytes = next);
        }
        Ok(answer)
    }

    async fn received(&self, body: Body) -> Result<Body> {
        let mut result = Ok(Bytes::new());
        for _ in 0..=self.attempts.load(Ordering::Relaxed) {
            result = self.attempt(&body).await;
        }
        result.map(Body::from_bytes)
    }

    fn written(&self, _: &ObjectKey, answer: &mut PutAnswer) {
        self.tamper(&mut answer.crc64);
    }

    fn part_written(&self, part: &mut UploadedPart) {
        self.parts.lock().unwrap().insert(part.number);
        self.tamper(&mut part.crc64);
    }

    fn upload_begins(&self, headers: &ObjectHeaders) {
        *self.headers.lock().unwrap() = headers.clone();
    }
}

type Memory = InstrumentedStore<Tampering>;

fn setup(format: Format, keys: KeyRing) -> (Arc<Memory>, Arc<EncryptedBucket>) {
    let store = Arc::new(MemoryStore::default());
    let hooks = Tampering {
        memory: store.clone(),
        ..Tampering::default()
    };
    let memory = InstrumentedStore::new(store, hooks);
    let bucket = EncryptedBucket::new(
        memory.clone(),
        keys,
        Settings {
            format,
            ..Settings::default()
        },
    );
    (memory, bucket)
}

fn key() -> ObjectKey {
    ObjectKey::new("k").unwrap()
}

fn content(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Yields chunks of an odd size, so that they never align with the strips.
fn chunked(bytes: Bytes) -> Plaintext {
    Plaintext::new(bytes.len() as u64, move |range| {
        let piece = bytes.slice(range.start as usize..range.end as usize);
        let chunks: Vec<_> = piece
            .chunks(50_001)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        stream::iter(chunks).boxed()
    })
}

async fn put(bucket: &EncryptedBucket, plain: &Plaintext) -> error::Result<Uploaded> {
    bucket
        .put(
            &key(),
            plain,
            ObjectHeaders::default(),
            None,
            Overwrite::Allowed,
        )
        .await
}

async fn read_all(body: &mut Ciphertext, cipher: &ContentCipher) -> error::Result<Vec<u8>> {
    let mut out = vec![];
    let mut buffer = [0; 777];
    loop {
        match body.read(cipher, &mut buffer).await? {
            0 => return Ok(out),
            n => out.extend_from_slice(&buffer[..n]),
        }
    }
}

async fn read_back(bucket: &EncryptedBucket, range: Option<ByteRange>) -> error::Result<Vec<u8>> {
    let mut body = bucket.get(&key(), range, None).await?;
    let object = bucket.object(&body.meta)?;
    let cipher = bucket.unlock(&object).await?;
    read_all(&mut body, &cipher).await
}

#[tokio::test]
async fn objects_read_back_whole_and_by_range() {
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        let (memory, bucket) = setup(format, ring());
        for len in [0, 1, 15, 16, 17, 131_071, 131_072, 131_073, 400_000] {
            let bytes = content(len);
            let uploaded = put(&bucket, &chunked(bytes.clone())).await.unwrap();
            let stored = memory.stored("k");
            assert_eq!(stored.len(), len);
            assert!(len < 16 || stored != bytes);
            assert_eq!(uploaded.object.size, len as u64);
            assert_eq!(uploaded.object.crc64, Some(crc64::of(&stored)));
            assert_eq!(uploaded.headers, memory.head(&key()).await.unwrap().headers);
            // The key is available, and it is the right one.
            let mut plain = vec![0; len];
            let cipher = uploaded.object.cipher().expect("kept");
            cipher.apply(0, &stored, &mut plain).unwrap();
            assert_eq!(plain, bytes);

            assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
            for range in [0..1, 5..17, 131_000..131_100, 1..400_000] {
                if range.start < len as u64 {
                    let end = range.end.min(len as u64) as usize;
                    let expected = &bytes[range.start as usize..end];
                    assert_eq!(read_back(&bucket, Some(range)).await.unwrap(), expected);
                }
            }
        }
    }
}

#[tokio::test]
async fn every_upload_has_its_own_key_and_start() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let plain = Plaintext::from_bytes(vec![0; 64]);
    let a = put(&bucket, &plain).await.unwrap();
    let first = memory.stored("k");
    let b = put(&bucket, &plain).await.unwrap();
    assert_ne!(first, memory.stored("k"));
    assert!(!a.object.same_envelope(&b.object));
}

#[tokio::test]
async fn a_retry_sends_the_same_bytes() {
    let (memory, bucket) = setup(Format::Seed, ring());
    memory.attempts.store(2, Ordering::Relaxed);
    let bytes = content(300_000);
    put(&bucket, &chunked(bytes.clone())).await.unwrap();
    let seen: Vec<u8> = memory.seen.lock().unwrap().concat();
    let stored = memory.stored("k");
    assert_eq!(seen, [&stored[..], &stored, &stored].concat());
    assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
}

/// The same length each time, with byte `at` different from the second reading on.
fn changing(len: usize, at: usize) -> Plaintext {
    let readings = AtomicUsize::new(0);
    Plaintext::new(len as u64, move |range| {
        let mut bytes = content(len).to_vec();
        if readings.fetch_add(1, Ordering::Relaxed) > 0 {
            bytes[at] ^= 1;
        }
        let piece = Bytes::from(bytes).slice(range.start as usize..range.end as usize);
        stream::once(async move { Ok(piece) }).boxed()
    })
}

#[tokio::test]
async fn a_retry_with_other_bytes_is_never_sent() {
    for at in [0, 200_000, 299_999] {
        let (memory, bucket) = setup(Format::Seed, ring());
        memory.attempts.store(1, Ordering::Relaxed);
        let error = put(&bucket, &changing(300_000, at)).await.err().unwrap();
        assert!(matches!(error, Error::Abandoned(_)), "{error}");
        // The differing strip was not sent.
        let seen = memory.seen.lock().unwrap();
        let whole = strips::STRIP;
        let strips_before = at / whole;
        assert_eq!(
            seen.len(),
            300_000usize.div_ceil(whole) + strips_before,
            "{at}"
        );
        assert!(memory.memory.is_empty());
    }
}

#[tokio::test]
async fn content_of_another_length_is_not_sent_as_if_it_were_whole() {
    for (said, is) in [
        (100u64, 99usize),
        (100, 101),
        (300_000, 131_072),
        (131_072, 131_073),
    ] {
        let (memory, bucket) = setup(Format::Seed, ring());
        let plain = Plaintext::new(said, move |_| {
            stream::once(async move { Ok(content(is)) }).boxed()
        });
        let error = put(&bucket, &plain).await.err().unwrap();
        assert!(matches!(error, Error::Abandoned(_)), "{said} {is}: {error}");
        assert!(memory.memory.is_empty());
    }
}

#[tokio::test]
async fn a_store_that_received_other_data_is_detected() {
    let (memory, bucket) = setup(Format::Seed, ring());
    memory.lies_about_crc.store(true, Ordering::Relaxed);
    let plain = Plaintext::from_bytes(content(100));
    let error = put(&bucket, &plain).await.err().unwrap();
    assert!(
        matches!(error, Error::Store(StoreError::Corrupt(_))),
        "{error}"
    );
    let upload = begin(&bucket).await;
    let error = upload.part(1, 0..100, &plain).await.err().unwrap();
    assert!(
        matches!(error, Error::Store(StoreError::Corrupt(_))),
        "{error}"
    );

    // If the store returns no checksum, the local one is still known.
    memory.gives_no_crc.store(true, Ordering::Relaxed);
    let uploaded = put(&bucket, &plain).await.unwrap();
    assert_eq!(uploaded.object.crc64, Some(crc64::of(&memory.stored("k"))));
}

#[tokio::test]
async fn damage_in_the_store_is_detected_when_the_whole_object_is_read() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    memory.lies_about_crc.store(true, Ordering::Relaxed);
    let error = read_back(&bucket, None).await.err().unwrap();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    // A range says nothing about the whole.
    assert_eq!(read_back(&bucket, Some(0..4999)).await.unwrap().len(), 4999);
}

async fn begin(bucket: &EncryptedBucket) -> EncryptedUpload {
    bucket
        .begin_upload(&key(), ObjectHeaders::default(), None)
        .await
        .unwrap()
}

#[tokio::test]
async fn parts_in_any_order_make_one_object() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let bytes = content(700_001);
    let plain = chunked(bytes.clone());
    let upload = begin(&bucket).await;
    let (a, b, c) = tokio::join!(
        upload.part(3, 400_000..700_001, &plain),
        upload.part(1, 0..200_000, &plain),
        upload.part(2, 200_000..400_000, &plain),
    );
    a.and(b).and(c).unwrap();
    let uploaded = upload.complete(Overwrite::Allowed).await.unwrap();
    assert_eq!(uploaded.object.size, 700_001);
    assert_eq!(uploaded.object.crc64, Some(crc64::of(&memory.stored("k"))));
    assert_eq!(read_back(&bucket, None).await.unwrap(), bytes);
    // The upload is used up.
    let error = upload
        .part(4, 700_001..700_001, &plain)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Abandoned(_)), "{error}");
    assert!(upload.complete(Overwrite::Allowed).await.is_err());
}

#[tokio::test]
async fn a_part_sent_again_is_the_same_or_an_error() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let plain = chunked(content(300_000));
    let upload = begin(&bucket).await;
    upload.part(1, 0..160_000, &plain).await.unwrap();
    let before = memory.seen.lock().unwrap().len();
    upload.part(1, 0..160_000, &plain).await.unwrap();

    let mut other = content(300_000).to_vec();
    other[159_999] ^= 1;
    let other = chunked(other.into());
    for (number, range, plain) in [
        (1, 0..160_000, &other),
        (1, 0..159_984, &plain),
        (2, 0..160_000, &plain),
        (2, 159_984..300_000, &plain),
        (2, 32..64, &plain),
        (2, 160_001..300_000, &plain),
        (2, 160_000..300_001, &plain),
        (2, 160_000..160_000, &plain),
        (0, 160_000..300_000, &plain),
        (10_001, 160_000..300_000, &plain),
    ] {
        let error = upload.part(number, range.clone(), plain).await.err();
        assert!(
            matches!(error, Some(Error::Abandoned(_))),
            "{number} {range:?}"
        );
    }
    assert_eq!(
        memory.seen.lock().unwrap().len(),
        before,
        "something was sent"
    );
    // A gap does not make an object.
    upload.part(3, 200_000..300_000, &plain).await.unwrap();
    assert!(upload.complete(Overwrite::Allowed).await.is_err());
    upload.part(2, 160_000..200_000, &plain).await.unwrap();
    upload.complete(Overwrite::Allowed).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_was_aborted_encrypts_nothing_more() {
    let (_, bucket) = setup(Format::Seed, ring());
    let upload = begin(&bucket).await;
    upload.abort().await.unwrap();
    let error = upload
        .part(1, 0..10, &Plaintext::from_bytes(content(10)))
        .await;
    assert!(matches!(error.err(), Some(Error::Abandoned(_))));
}

#[tokio::test]
async fn the_sdk_names_need_the_sizes_first() {
    for format in [Format::Sdk, Format::Dual] {
        let (memory, bucket) = setup(format, ring());
        let begun = bucket
            .begin_upload(&key(), ObjectHeaders::default(), None)
            .await;
        assert!(matches!(begun.err(), Some(Error::Unsupported(_))));
        let sizes = |total, part| MultipartSizes { total, part };
        for bad in [
            sizes(0, 16),
            sizes(10, 0),
            sizes(100, 24),
            sizes(160_001, 16),
        ] {
            let begun = bucket
                .begin_sized_upload(&key(), ObjectHeaders::default(), None, bad)
                .await;
            assert!(begun.is_err(), "{bad:?}");
        }
        let plain = chunked(content(250_000));
        let upload = bucket
            .begin_sized_upload(
                &key(),
                ObjectHeaders::default(),
                None,
                sizes(250_000, 102_400),
            )
            .await
            .unwrap();
        for (name, value) in [
            ("client-side-encryption-data-size", "250000"),
            ("client-side-encryption-part-size", "102400"),
        ] {
            assert_eq!(memory.headers.lock().unwrap().user[name], value);
        }
        assert!(upload.part(1, 0..200_000, &plain).await.is_err());
        for (number, range) in [
            (1, 0..102_400),
            (2, 102_400..204_800),
            (3, 204_800..250_000),
        ] {
            upload.part(number, range, &plain).await.unwrap();
        }
        upload.complete(Overwrite::Allowed).await.unwrap();
        assert_eq!(read_back(&bucket, None).await.unwrap(), content(250_000));
    }
}

#[tokio::test]
async fn a_write_only_bucket_keeps_no_key() {
    let (_, bucket) = setup(Format::Seed, KeyRing::write_only(PAIR.public().clone()));
    assert!(!bucket.can_read());
    let uploaded = put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    assert!(uploaded.object.cipher().is_none());
    let error = bucket.unlock(&uploaded.object).await.err().unwrap();
    assert!(matches!(error, Error::KeyMissing(_)), "{error}");
}

#[tokio::test]
async fn extended_attributes_go_with_the_content() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let mut xattrs = Xattrs::new();
    xattrs.set("user.comment", b"hello").unwrap();
    let mut headers = ObjectHeaders::default();
    headers.user.insert("mode".into(), "33188".into());
    headers.user.insert("ossvault-rdev".into(), "5".into());
    let plain = Plaintext::empty();
    let uploaded = bucket
        .put(&key(), &plain, headers, Some(&xattrs), Overwrite::Allowed)
        .await
        .unwrap();
    let opened = bucket
        .open_xattrs(&uploaded.object, &uploaded.headers)
        .await;
    assert_eq!(opened.unwrap(), xattrs);

    // Changed with the same envelope, as a copy would carry it.
    let mut headers = uploaded.headers.clone();
    xattrs.set("user.b", b"c").unwrap();
    bucket.seal_xattrs(&xattrs, &mut headers).unwrap();
    let copy = uploaded.object.with_etag(ETag::new("\"2\""));
    assert_eq!(bucket.open_xattrs(&copy, &headers).await.unwrap(), xattrs);
    bucket.seal_xattrs(&Xattrs::new(), &mut headers).unwrap();
    assert!(!headers.user.contains_key("ossvault-xattr"));

    // New content keeps the attributes that are not encrypted, and nothing of the old envelope.
    let again = bucket
        .put(
            &key(),
            &plain,
            uploaded.headers.clone(),
            None,
            Overwrite::Allowed,
        )
        .await
        .unwrap();
    assert_eq!(again.headers.user["mode"], "33188");
    assert_eq!(again.headers.user["ossvault-rdev"], "5");
    assert!(!again.headers.user.contains_key("ossvault-xattr"));
    assert_ne!(
        again.headers.user["x-oss-key"],
        uploaded.headers.user["x-oss-key"]
    );

    memory.memory.change("k", |_, headers| {
        headers
            .user
            .insert("ossvault-xattr".into(), "1.AAAA".into());
    });
    let meta = memory.head(&key()).await.unwrap();
    let error = bucket
        .open_xattrs(&again.object, &meta.headers)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}

/// An object whose data key is 00 01 .. 1f, with `user.comment` as earlier versions encrypted it.
fn with_version_1_xattrs() -> ObjectHeaders {
    const SEALED: &str = "1.AAECAwQFBgcICQoLnVwddbm1qfnTfnhCYrUrf6rxdw0gWd1zxOVU6PtIXiLzUa5SRIOoAcOTrg6ioB09Xx7jZjZ5VgdYJPx9i03eyvj6D40sQy0PkjT3Xz7ABsU";
    let cipher = ContentCipher::new(
        DataKey::from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).unwrap(),
        CounterStart::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 8, 9, 10, 11]),
    );
    let mut user = write::write(Format::Seed, PAIR.public(), &cipher, None).unwrap();
    user.insert("ossvault-xattr".into(), SEALED.into());
    ObjectHeaders {
        user,
        ..ObjectHeaders::default()
    }
}

/// Regression: they were encrypted under the object's data key, which is known to anyone who planted the
/// object.
#[tokio::test]
async fn extended_attributes_of_version_1_are_read_and_change_to_version_2() {
    let (memory, bucket) = setup(Format::Seed, ring());
    let mut headers = with_version_1_xattrs();
    memory
        .put(&key(), &headers, Body::empty(), Overwrite::Allowed)
        .await
        .unwrap();
    let object = bucket.object(&memory.head(&key()).await.unwrap()).unwrap();
    let mut xattrs = bucket.open_xattrs(&object, &headers).await.unwrap();
    assert_eq!(xattrs.get("user.comment"), Some(b"hello".as_slice()));
    assert!(!bucket.opens_xattrs(&object, &headers).await);
    xattrs.set("user.comment", b"later").unwrap();
    bucket.seal_xattrs(&xattrs, &mut headers).unwrap();
    assert!(headers.user["ossvault-xattr"].starts_with("2."));
    assert_eq!(bucket.open_xattrs(&object, &headers).await.unwrap(), xattrs);
    assert!(bucket.opens_xattrs(&object, &headers).await);
    // They cannot be opened with another envelope.
    let other = bucket
        .put(
            &key(),
            &Plaintext::empty(),
            ObjectHeaders::default(),
            None,
            Overwrite::Allowed,
        )
        .await
        .unwrap();
    let error = bucket.open_xattrs(&other.object, &headers).await.err();
    assert!(matches!(error, Some(Error::Damaged(_))), "{error:?}");
}

#[tokio::test]
async fn an_empty_object_gets_a_fresh_envelope_with_every_change_of_its_attributes() {
    let (_, bucket) = setup(Format::Seed, ring());
    let mut xattrs = Xattrs::new();
    xattrs.set("user.a", b"b").unwrap();
    let before = with_version_1_xattrs();
    let after = bucket.headers_with(before.clone(), &xattrs).unwrap();
    assert_ne!(after.user["x-oss-key"], before.user["x-oss-key"]);
    assert_eq!(after.user["ossvault-v"], "2");
    let none = bucket.headers_with(after, &Xattrs::new()).unwrap();
    assert!(none.user.is_empty(), "{none:?}");
}

/// The maximum metadata of one object: the largest key, both halves of an envelope, as many and as long
/// extended attributes as allowed, every attribute.
#[tokio::test]
async fn the_metadata_of_an_object_fits_into_the_services_limit() {
    const SERVICE: usize = 8 << 10;
    let pair = KeyPair::generate(4096).unwrap();
    let (_, bucket) = setup(Format::Dual, KeyRing::write_only(pair.public().clone()));
    let mut one = Xattrs::new();
    one.set("user.a", &[1; Xattrs::MAX_BYTES - 6]).unwrap();
    let mut many = Xattrs::new();
    for index in 0..Xattrs::MAX_COUNT {
        many.set(&format!("user.{index:03}"), b"").unwrap();
    }
    for xattrs in [one, many] {
        let mut headers = ObjectHeaders::default();
        let time = "-9223372036854775808.999999999";
        for (name, value) in [
            ("mode", "4294967295"),
            ("uid", "4294967295"),
            ("gid", "4294967295"),
            ("mtime", time),
            ("ctime", time),
            ("atime", time),
            ("ossvault-rdev", "4294967295"),
        ] {
            headers.user.insert(name.into(), value.into());
        }
        let sizes = MultipartSizes {
            total: 48 << 40,
            part: 5 << 30,
        };
        let upload = bucket
            .begin_sized_upload(&key(), headers, Some(&xattrs), sizes)
            .await
            .unwrap();
        let mut user = upload.headers().user.clone();
        user.insert("ossvault-rewrapped".into(), "1".into());
        let lengths = user
            .iter()
            .map(|(name, value)| "x-oss-meta-".len() + name.len() + value.len());
        let length: usize = lengths.sum();
        assert!(length < SERVICE, "{length}");
    }
}

/// The kernel reads a link's target and looks it up in the bucket: neither a file's content nor an invalid
/// target is ever written as one.
#[tokio::test]
async fn the_key_is_bound_to_the_type_in_the_mode_and_a_link_has_a_targets_length() {
    let link = || {
        let mut headers = ObjectHeaders::default();
        headers.user.insert("mode".into(), "41471".into());
        headers
    };
    for format in [Format::Seed, Format::Sdk, Format::Dual] {
        let (_, bucket) = setup(format, ring());
        for (headers, kind) in [
            (ObjectHeaders::default(), ContentKind::File),
            (link(), ContentKind::Link),
        ] {
            for length in [1, 4095] {
                let plain = Plaintext::from_bytes(content(length));
                let name = key();
                let put = bucket.put(&name, &plain, headers.clone(), None, Overwrite::Allowed);
                let object = put.await.unwrap().object;
                assert_eq!(object.claimed_kind(), kind);
                let cipher = bucket.unlock(&object).await.unwrap();
                assert_eq!(cipher.binding(), Some(StartBinding::of(kind)), "{format}");
                object.check_link(&cipher).unwrap();
            }
        }
        for length in [0, 4096] {
            let plain = Plaintext::from_bytes(content(length));
            let name = key();
            let put = bucket.put(&name, &plain, link(), None, Overwrite::Allowed);
            let error = put.await.err();
            assert!(matches!(error, Some(Error::Abandoned(_))), "{error:?}");
        }
        let sizes = MultipartSizes {
            total: 1 << 20,
            part: 128 << 10,
        };
        let error = bucket
            .begin_sized_upload(&key(), link(), None, sizes)
            .await
            .err();
        assert!(matches!(error, Some(Error::Abandoned(_))), "{error:?}");
    }
}

#[tokio::test]
async fn an_object_is_unwrapped_once_and_keeps_its_key_through_copies() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    let object = bucket.object(&memory.head(&key()).await.unwrap()).unwrap();
    assert!(object.cipher().is_none() && object.opened_by().is_none());
    assert_eq!(object.key_id(), Some(PAIR.public().key_id()));
    let (a, b) = tokio::join!(bucket.unlock(&object), bucket.unlock(&object));
    assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
    assert_eq!(object.opened_by(), Some(PAIR.public().fingerprint()));
    let copy = object.with_etag(ETag::new("\"2\""));
    assert!(copy.cipher().is_some());
}

/// "The version is checked once more right before: a newer one that another client uploaded is kept."
///
/// A body on its way was all that stood between the version that was read and one that replaced it.
#[tokio::test]
async fn an_object_uploaded_again_never_replaces_a_newer_version() {
    // In one piece, and in parts.
    for len in [3000, 3 << 20] {
        let (memory, bucket) = setup(Format::Sdk, ring());
        let change = async |next: Option<&'static [u8]>| {
            put(&bucket, &chunked(content(len))).await.unwrap();
            let meta = memory.head(&key()).await.unwrap();
            let mut headers = meta.headers.clone();
            headers.content_type = Some("text/plain".into());
            *memory.next.lock().unwrap() = next.map(Bytes::from_static);
            let replace = CopyHeaders::Replace(headers);
            let limits = copy::CopyLimits::default();
            bucket
                .copy(&key(), &meta, &key(), replace, Overwrite::Allowed, limits)
                .await
        };
        let refused = change(Some(b"newer")).await.err().unwrap();
        assert!(
            matches!(refused, StoreError::PreconditionFailed),
            "{refused}"
        );
        assert_eq!(memory.stored("k"), b"newer"[..]);
        // An object that is not replaced is changed.
        change(None).await.unwrap();
        let now = memory.head(&key()).await.unwrap().headers;
        assert_eq!(now.content_type.as_deref(), Some("text/plain"));
        assert!(read_back(&bucket, None).await.unwrap() == content(len));
    }
}

#[tokio::test]
async fn objects_that_cannot_be_opened_have_a_reason() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(10)))
        .await
        .unwrap();
    let good = memory.head(&key()).await.unwrap();
    let with = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut meta = good.clone();
        change(&mut meta.headers.user);
        bucket.object(&meta)
    };
    assert!(matches!(
        with(&|user| user.clear()).err(),
        Some(Error::NotEncrypted)
    ));
    let without_start = with(&|user| drop(user.remove("x-oss-start")));
    assert!(matches!(without_start.err(), Some(Error::Damaged(_))));
    let newer = with(&|user| drop(user.insert("ossvault-v".into(), "3".into())));
    assert!(matches!(newer.err(), Some(Error::Unsupported(_))));
    let foreign = with(&|user| {
        user.insert("x-oss-key".into(), BASE64_STANDARD.encode([7; 256]));
    })
    .unwrap();
    assert!(matches!(
        bucket.unlock(&foreign).await.err(),
        Some(Error::WrongKey)
    ));
    let named = with(&|user| {
        user.insert("x-oss-key".into(), BASE64_STANDARD.encode([7; 256]));
        user.insert("ossvault-key".into(), "0123456789abcdef".into());
    })
    .unwrap();
    assert!(matches!(
        bucket.unlock(&named).await.err(),
        Some(Error::KeyMissing(_))
    ));
}

#[tokio::test]
async fn an_sdk_object_that_no_key_opens_is_fetched_whole_before_it_fails() {
    let (memory, bucket) = setup(Format::Sdk, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    memory.memory.change("k", |_, headers| {
        let start = headers.user["client-side-encryption-start"].clone();
        headers
            .user
            .insert("client-side-encryption-key".into(), start);
    });
    let mut body = bucket.get(&key(), None, None).await.unwrap();
    let object = bucket.object(&body.meta).unwrap();
    let cipher = bucket.unlock(&object).await.unwrap();
    let error = body.read(&cipher, &mut [0; 10]).await.err().unwrap();
    assert!(matches!(error, Error::WrongKey), "{error}");
    assert_eq!(body.position(), 5000);
}

#[tokio::test]
async fn ciphertext_can_be_taken_ahead_of_its_key() {
    let (memory, bucket) = setup(Format::Seed, ring());
    put(&bucket, &Plaintext::from_bytes(content(5000)))
        .await
        .unwrap();
    let body = bucket.get(&key(), Some(1500..4000), None).await.unwrap();
    let raw = body.skip_to_bytes(1 << 20).await.unwrap();
    assert_eq!(raw, memory.stored("k").slice(1500..4000));
    let mut body = bucket.get(&key(), None, None).await.unwrap();
    let mut at = 0;
    while let Some((offset, chunk)) = body.chunk().await.unwrap() {
        assert_eq!(offset, at);
        at += chunk.len() as u64;
    }
    assert_eq!(body.crc64(), crc64::of(&memory.stored("k")));
}

/// Uploads an object with the SDK's names again, with another entry among its headers.
async fn send_again(bucket: &EncryptedBucket, meta: &ObjectMeta, held: u64) -> Result<PutAnswer> {
    let mut headers = meta.headers.clone();
    headers.user.insert("mode".into(), "33188".into());
    let limits = copy::CopyLimits {
        held,
        ..copy::CopyLimits::default()
    };
    let replace = CopyHeaders::Replace(headers);
    bucket
        .copy(&key(), meta, &key(), replace, Overwrite::Allowed, limits)
        .await
}

/// Regression: the list of the parts was created before the first was sent, and its length came from the
/// bucket: one entry for each byte of a large object.
#[tokio::test]
async fn the_part_size_that_an_object_announces_is_not_trusted() {
    let (memory, bucket) = setup(Format::Sdk, ring());
    let plain = content(300_000);
    put(&bucket, &Plaintext::from_bytes(plain.clone()))
        .await
        .unwrap();
    for announced in [
        "1",
        "16",
        "0",
        "-1",
        "7",
        "262144",
        "18446744073709551615",
        "x",
        "",
    ] {
        memory.memory.change("k", |_, headers| {
            let user = &mut headers.user;
            user.insert("client-side-encryption-part-size".into(), announced.into());
            user.insert("client-side-encryption-data-size".into(), announced.into());
        });
        memory.parts.lock().unwrap().clear();
        let meta = memory.head(&key()).await.unwrap();
        send_again(&bucket, &meta, 1000).await.unwrap();
        assert_eq!(memory.parts.lock().unwrap().len(), 1, "{announced:?}");
        let meta = memory.head(&key()).await.unwrap();
        let user = &meta.headers.user;
        let part = &user["client-side-encryption-part-size"];
        assert_eq!(part.parse::<u64>().unwrap() % 16, 0, "{announced:?}");
        assert_eq!(user["client-side-encryption-data-size"], "300000");
        assert_eq!(user["mode"], "33188");
        assert_eq!(read_back(&bucket, None).await.unwrap(), plain);
    }
}

/// Regression: it was completed and then compared: a good object was replaced by whatever the store had just
/// returned.
#[tokio::test]
async fn an_object_uploaded_again_is_compared_with_its_checksum_before_it_is_published() {
    let (memory, bucket) = setup(Format::Dual, ring());
    let plain = content(20_000);
    put(&bucket, &Plaintext::from_bytes(plain.clone()))
        .await
        .unwrap();
    let (before, mut puts) = (memory.stored("k"), memory.count(Call::Put));
    let meta = memory.head(&key()).await.unwrap();
    // Held in memory, and in parts.
    for held in [1 << 20, 1000] {
        memory.flips.store(true, Ordering::Relaxed);
        let error = send_again(&bucket, &meta, held).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{held}: {error}");
        assert_eq!(memory.stored("k"), before, "{held}");
        assert_eq!(memory.count(Call::Put), puts, "{held}");
        memory.flips.store(false, Ordering::Relaxed);
        // A retry reads again, and the last reading counts.
        memory.attempts.store(2, Ordering::Relaxed);
        send_again(&bucket, &meta, held).await.unwrap();
        assert_eq!(read_back(&bucket, None).await.unwrap(), plain);
        memory.attempts.store(0, Ordering::Relaxed);
        puts = memory.count(Call::Put);
    }
}
