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

mod again;
mod attributes;
mod objects;
mod uploads;

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

async fn begin(bucket: &EncryptedBucket) -> EncryptedUpload {
    bucket
        .begin_upload(&key(), ObjectHeaders::default(), None)
        .await
        .unwrap()
}
