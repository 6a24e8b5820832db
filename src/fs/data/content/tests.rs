//! Content against a bucket in memory that records requests, delays them and has them fail.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::super::budget::{Class, MemoryBudget};
use super::*;
use crate::crypto::data_key::ContentKind;
use crate::crypto::key_pair::KeyPair;
use crate::crypto::key_parse;
use crate::crypto::key_ring::KeyRing;
use crate::encrypted::{Plaintext, Settings};
use crate::envelope::{Format, write};
use crate::store::error::Error as StoreError;
use crate::store::object_store::*;
use ossvault_testing::instrumented_store::unavailable;
use ossvault_testing::{Hooks, InstrumentedStore, MemoryStore, memory_store};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What the next GETs do instead of answering well.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Unavailable,
    /// The body fails after this many bytes.
    BreaksAfter(usize),
    /// The body waits for `release` after this many bytes.
    StallsAfter(usize),
    /// One bit of the body is wrong.
    Flips,
}

/// What is asked of a bucket with one object, and how it is answered.
struct Gets {
    /// What the answers say of the object; none: there is none any more.
    meta: Mutex<Option<ObjectMeta>>,
    ranges: Mutex<Vec<Range<u64>>>,
    faults: Mutex<VecDeque<Fault>>,
    delay: Duration,
    chunk: usize,
    release: Arc<tokio::sync::Semaphore>,
    in_flight: Arc<AtomicUsize>,
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Hooks for Gets {
    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &ObjectKey,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer> {
        let range = range.expect("content asks for ranges");
        self.ranges.lock().unwrap().push(range.clone());
        let fault = self.faults.lock().unwrap().pop_front();
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let guard = InFlight(self.in_flight.clone());
        tokio::time::sleep(self.delay).await;
        if fault == Some(Fault::Unavailable) {
            return Err(unavailable());
        }
        let meta = (self.meta.lock().unwrap().clone()).ok_or(StoreError::NotFound)?;
        if if_match != Some(&meta.etag) {
            return Err(StoreError::PreconditionFailed);
        }
        let mut answer = store.get(key, Some(range.clone()), None).await?;
        answer.meta = meta;
        let chunks: Vec<Bytes> = answer.body.try_collect().await?;
        let mut body = chunks.concat();
        if fault == Some(Fault::Flips) {
            body[range.start as usize % 7 % (range.end - range.start) as usize] ^= 1;
        }
        let body = Bytes::from(body);
        let mut chunks: Vec<Result<Option<Bytes>>> = Vec::new();
        match fault {
            Some(Fault::BreaksAfter(count)) => {
                chunks.push(Ok(Some(body.slice(..count))));
                chunks.push(Err(unavailable()));
            }
            Some(Fault::StallsAfter(count)) => {
                chunks.push(Ok(Some(body.slice(..count))));
                chunks.push(Ok(None));
                chunks.push(Ok(Some(body.slice(count..))));
            }
            _ => {
                let parts = memory_store::chunks(&body, self.chunk);
                chunks.extend(parts.into_iter().map(|part| part.map(Some)));
            }
        }
        let release = self.release.clone();
        answer.body = stream::iter(chunks)
            .then(move |chunk| {
                let (release, _guard) = (release.clone(), &guard);
                async move {
                    match chunk? {
                        Some(bytes) => Ok(bytes),
                        None => {
                            release.acquire().await.expect("never closed").forget();
                            Ok(Bytes::new())
                        }
                    }
                }
            })
            .boxed();
        Ok(answer)
    }
}

struct World {
    store: Arc<InstrumentedStore<Gets>>,
    meta: ObjectMeta,
    budget: MemoryBudget,
    cache: Arc<ContentCache>,
    content: Arc<Content>,
    plain: Vec<u8>,
}

struct Setup {
    size: u64,
    limit: u64,
    delay: Duration,
    chunk: usize,
    /// Whether the envelope is known before the first GET.
    known: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            size: 20 * MIB + 12345,
            limit: 512 * MIB,
            delay: Duration::ZERO,
            chunk: 100_000,
            known: false,
        }
    }
}

fn key() -> ObjectKey {
    ObjectKey::new("a").unwrap()
}

impl Setup {
    async fn build(self) -> World {
        let gets = Gets {
            meta: Mutex::default(),
            ranges: Mutex::default(),
            faults: Mutex::default(),
            delay: self.delay,
            chunk: self.chunk,
            release: Arc::new(tokio::sync::Semaphore::new(0)),
            in_flight: Arc::default(),
        };
        let store = InstrumentedStore::new(Arc::new(MemoryStore::default()), gets);
        let plain: Vec<u8> = (0..self.size)
            .map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let bucket = encrypt(store.clone(), &plain).await;
        let budget = MemoryBudget::new(self.limit);
        let runtime = tokio::runtime::Handle::current();
        let cache = ContentCache::new(budget.clone(), runtime, Duration::from_secs(5));
        let meta = store.head(&key()).await.unwrap();
        *store.meta.lock().unwrap() = Some(meta.clone());
        let object = self.known.then(|| bucket.object(&meta).unwrap());
        let content = Content::new(
            bucket,
            cache.clone(),
            key(),
            meta.etag.clone(),
            self.size,
            object,
        );
        World {
            store,
            meta,
            budget,
            cache,
            content,
            plain,
        }
    }
}

impl World {
    fn plain(&self, offset: u64, len: u64) -> &[u8] {
        let end = (offset + len).min(self.plain.len() as u64) as usize;
        &self.plain[(offset as usize).min(end)..end]
    }

    async fn check(&self, reader: &Arc<Reader>, offset: u64, len: u64) {
        let bytes = reader.read(offset..offset + len).await.unwrap();
        assert!(bytes == self.plain(offset, len), "{offset}+{len}");
    }

    async fn ciphertext(&self) -> Vec<u8> {
        let behind = self.store.store();
        let answer = behind.get(&key(), None, None).await.unwrap();
        let chunks: Vec<Bytes> = answer.body.try_collect().await.unwrap();
        chunks.concat()
    }

    fn gets(&self) -> Vec<Range<u64>> {
        self.store.ranges.lock().unwrap().clone()
    }

    fn fetched(&self) -> u64 {
        self.gets()
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    fn faults(&self, faults: &[Fault]) {
        *self.store.faults.lock().unwrap() = faults.iter().copied().collect();
    }
}

#[tokio::test]
async fn reading_in_order_fetches_each_byte_once_in_large_requests() {
    for read in [64 * KIB, 250_000, MIB] {
        let world = Setup {
            size: 100 * MIB + 5,
            ..Setup::default()
        };
        let world = world.build().await;
        let reader = world.content.reader();
        let mut at = 0;
        while at < world.content.size() {
            world.check(&reader, at, read).await;
            at += read;
        }
        assert_eq!(world.fetched(), world.content.size());
        assert!(world.gets().len() < 40, "{:?}", world.gets());
        drop(reader);
        let World {
            content,
            budget,
            cache,
            ..
        } = world;
        drop(content);
        cache.evict(u64::MAX);
        assert_eq!(budget.used(), 0, "everything is given back");
    }
}

#[tokio::test]
async fn a_scattered_read_costs_one_request_of_one_block() {
    let world = Setup {
        size: 100 * MIB,
        ..Setup::default()
    };
    let world = world.build().await;
    let reader = world.content.reader();
    for index in 1..100u64 {
        let offset = index * 37 % 100 * MIB + 4096 * index;
        world.check(&reader, offset, 4096).await;
        world.check(&reader, offset, 4096).await;
        assert_eq!(world.gets().len() as u64, index);
        assert!(world.fetched() <= index * 128 * KIB);
    }
}

#[tokio::test]
async fn readers_of_one_range_share_one_request() {
    let world = Setup {
        delay: Duration::from_millis(20),
        ..Setup::default()
    };
    let world = world.build().await;
    let readers: Vec<_> = (0..8).map(|_| world.content.reader()).collect();
    let offset = 5 * MIB;
    let reads = readers
        .iter()
        .map(|reader| reader.read(offset..offset + 1000));
    for bytes in futures_util::future::join_all(reads).await {
        assert_eq!(bytes.unwrap(), world.plain(offset, 1000));
    }
    let gets = world.gets();
    assert_eq!((gets.len(), &gets[0]), (1, &(offset..offset + 32 * KIB)));
}

#[tokio::test]
async fn a_read_is_answered_before_its_part_is_complete_and_without_a_copy() {
    let world = Setup::default().build().await;
    world.faults(&[Fault::StallsAfter(300_000)]);
    let reader = world.content.reader();
    let first = reader.read(0..200_000).await.unwrap();
    assert_eq!(first, world.plain(0, 200_000));
    let second = reader.read_now(200_000..300_000).ok().unwrap();
    assert_eq!(
        second.as_ptr(),
        first[200_000 - 1..].as_ptr().wrapping_add(1)
    );
    let pending = reader.read_now(200_000..300_001).err().unwrap();
    world.store.release.add_permits(1);
    assert_eq!(pending.wait().await.unwrap(), world.plain(200_000, 100_001));
    assert!(!world.content.retire(), "bytes of it were returned");
}

#[tokio::test]
async fn a_failed_fetch_fails_its_readers_and_the_next_read_tries_again() {
    for fault in [
        Fault::Unavailable,
        Fault::BreaksAfter(1),
        Fault::BreaksAfter(100),
    ] {
        let world = Setup::default().build().await;
        world.faults(&[fault]);
        let reader = world.content.reader();
        let (a, b) = tokio::join!(
            reader.read(4 * MIB..4 * MIB + 4096),
            reader.read(4 * MIB + 50..4 * MIB + 5000)
        );
        assert!(matches!(a, Err(Error::Bucket(_))), "{fault:?}: {a:?}");
        assert!(matches!(b, Err(Error::Bucket(_))), "{fault:?}: {b:?}");
        world.check(&reader, 4 * MIB, 10_000).await;
        assert_eq!(world.gets().len(), 2);
    }
}

#[tokio::test]
async fn a_failed_fetch_ahead_is_no_readers_error() {
    let world = Setup::default().build().await;
    world.faults(&[Fault::None, Fault::Unavailable, Fault::Unavailable]);
    let reader = world.content.reader();
    world.check(&reader, 0, 128 * KIB).await;
    world.check(&reader, 128 * KIB, 128 * KIB).await;
    while world.gets().len() < 3 || world.store.in_flight.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut at = 0;
    while at < world.content.size() {
        world.check(&reader, at, MIB).await;
        at += MIB;
    }
}

#[tokio::test]
async fn a_replaced_object_is_an_error_and_our_own_copy_is_not() {
    let world = Setup {
        delay: Duration::from_millis(20),
        known: true,
        ..Setup::default()
    };
    let world = world.build().await;
    let reader = world.content.reader();
    world.check(&reader, 4 * MIB, 4096).await;
    let meta = {
        let mut meta = world.store.meta.lock().unwrap();
        let meta = meta.as_mut().unwrap();
        meta.etag = ETag::new("\"2\"");
        meta.clone()
    };
    let error = reader.read(8 * MIB..8 * MIB + 1).await.err();
    assert!(matches!(error, Some(Error::Changed)), "{error:?}");
    world.check(&reader, 4 * MIB + 9, 4096).await;

    let pending = reader.read_now(12 * MIB..12 * MIB + 1).err().unwrap();
    let pending = tokio::spawn(pending.wait());
    tokio::time::sleep(Duration::from_millis(5)).await;
    let object = world.content.bucket.object(&meta).unwrap();
    world.content.set_object(key(), object);
    assert_eq!(pending.await.unwrap().unwrap(), world.plain(12 * MIB, 1));

    *world.store.meta.lock().unwrap() = None;
    let error = reader.read(16 * MIB..16 * MIB + 1).await.err();
    assert!(matches!(error, Some(Error::Changed)), "deleted: {error:?}");
}

#[tokio::test]
async fn the_checksum_of_the_whole_does_not_change_under_one_tag() {
    for known in [true, false] {
        let world = Setup {
            known,
            ..Setup::default()
        };
        let world = world.build().await;
        let reader = world.content.reader();
        let say = |crc64| world.store.meta.lock().unwrap().as_mut().unwrap().crc64 = crc64;
        let crc64 = world.store.meta.lock().unwrap().as_ref().unwrap().crc64;
        world.check(&reader, 4 * MIB, 4096).await;
        say(crc64.map(|crc| crc ^ 1));
        let error = reader.read(8 * MIB..8 * MIB + 1).await.err();
        assert!(matches!(error, Some(Error::Changed)), "{error:?}");
        // A gateway may leave it out.
        say(None);
        world.check(&reader, 12 * MIB, 4096).await;
    }
}

#[tokio::test]
async fn an_envelope_may_change_under_one_tag_but_not_the_key() {
    let world = Setup {
        known: true,
        ..Setup::default()
    };
    let world = world.build().await;
    let bucket = world.content.bucket.clone();
    let reader = world.content.reader();
    world.check(&reader, 4 * MIB, 4096).await;
    let meta = world.meta.clone();
    let change = |headers: ObjectHeaders| {
        world.store.meta.lock().unwrap().as_mut().unwrap().headers = headers;
    };

    let object = bucket.object(&meta).unwrap();
    let cipher = bucket.unlock(&object).await.unwrap();
    let writing = bucket.keys().writing();
    let mut rewrapped = meta.headers.clone();
    let entries = write::write(bucket.format(), writing, &cipher, None).unwrap();
    rewrapped.user.extend(entries);
    assert_ne!(rewrapped, meta.headers);
    change(rewrapped);
    world.check(&reader, 6 * MIB, 4096).await;

    let mut other = meta.headers.clone();
    let fresh = write::fresh_cipher(ContentKind::File);
    let entries = write::write(bucket.format(), writing, &fresh, None).unwrap();
    other.user.extend(entries);
    for headers in [other, ObjectHeaders::default()] {
        change(headers);
        let error = reader.read(8 * MIB..8 * MIB + 1).await.err();
        assert!(matches!(error, Some(Error::Changed)), "{error:?}");
    }
    change(meta.headers);
    world.check(&reader, 8 * MIB, 4096).await;
}

#[tokio::test]
async fn a_wrong_checksum_of_one_request_stays_an_error() {
    let world = Setup {
        size: 400_000,
        ..Setup::default()
    };
    let world = world.build().await;
    world.faults(&[Fault::Flips]);
    let reader = world.content.reader();
    let error = reader.read(0..400_000).await.err();
    assert!(matches!(error, Some(Error::Corrupt)), "{error:?}");
    // The kernel asks again for a page whose read-ahead failed.
    let error = reader.read(396_000..400_000).await.err();
    assert!(matches!(error, Some(Error::Corrupt)), "{error:?}");
}

#[tokio::test]
async fn a_wrong_checksum_fails_the_read_that_makes_the_object_whole() {
    for blocks in [vec![0, 1, 2, 3], vec![3, 1, 0, 2]] {
        let world = Setup {
            size: 16 * MIB,
            ..Setup::default()
        };
        let world = world.build().await;
        world.faults(&[Fault::None, Fault::Flips]);
        let reader = world.content.reader();
        // Through plans of its own, so that nothing is fetched ahead.
        let content = &world.content;
        let read = |block: u64| async move {
            let range = block * 4 * MIB..(block + 1) * 4 * MIB;
            let plan = Plan {
                demand: range.clone(),
                ahead: range.end..range.end,
                split: 4 * MIB,
            };
            content.start(&plan);
            content.read(range).await
        };
        for block in &blocks[..3] {
            read(*block).await.unwrap();
        }
        let error = read(blocks[3]).await.err();
        assert!(matches!(error, Some(Error::Corrupt)), "{error:?}");
        let error = read(blocks[0]).await.err();
        assert!(matches!(error, Some(Error::Corrupt)), "stays so: {error:?}");
        assert!(world.content.is_corrupt());
        assert!(reader.read_now(0..1).is_err());

        drop(reader);
        let reader = world.content.reader();
        assert!(!world.content.is_corrupt(), "a fault on the way heals");
        world.check(&reader, 0, 16 * MIB).await;
    }
}

#[tokio::test]
async fn reading_in_order_finds_a_flipped_bit() {
    let world = Setup::default().build().await;
    world.faults(&[Fault::None, Fault::None, Fault::Flips]);
    let reader = world.content.reader();
    let mut corrupt = false;
    let mut at = 0;
    while at < world.content.size() {
        corrupt |= matches!(reader.read(at..at + MIB).await, Err(Error::Corrupt));
        at += MIB;
    }
    assert!(corrupt);
}

#[tokio::test]
async fn a_preloaded_object_costs_no_request_and_is_checked() {
    let world = Setup {
        size: 5000,
        ..Setup::default()
    };
    let world = world.build().await;
    let meta = world.meta.clone();
    let object = world.content.bucket.object(&meta).unwrap();
    let ciphertext = world.ciphertext().await;
    world.content.preload(object.clone(), &ciphertext);
    let reader = world.content.reader();
    let (a, b) = tokio::join!(reader.read(0..4096), reader.read(4000..9000));
    assert_eq!(a.unwrap(), world.plain(0, 4096));
    assert_eq!(b.unwrap(), world.plain(4000, 5000));
    assert_eq!(reader.read_now(0..5000).ok().unwrap(), world.plain(0, 5000));
    assert!(world.gets().is_empty());

    let bucket = world.content.bucket.clone();
    let content = Content::new(bucket, world.cache.clone(), key(), meta.etag, 5000, None);
    let mut damaged = ciphertext;
    damaged[77] ^= 1;
    content.preload(object, &damaged);
    let error = content.reader().read(0..10).await.err();
    assert!(matches!(error, Some(Error::Corrupt)), "{error:?}");
}

/// It was let go of when it did not open, and fetched at each read.
#[tokio::test]
async fn a_preloaded_object_whose_v15_envelope_does_not_open_costs_no_request_either() {
    let world = Setup {
        size: 5000,
        ..Setup::default()
    };
    let world = world.build().await;
    let mut meta = world.meta.clone();
    let strange = KeyPair::generate(2048).unwrap();
    let cipher = write::fresh_cipher(ContentKind::File);
    let mut user = write::write(Format::Sdk, strange.public(), &cipher, None).unwrap();
    user.remove("ossvault-key");
    meta.headers.user = user;
    let object = world.content.bucket.object(&meta).unwrap();
    let ciphertext = world.ciphertext().await;
    world.content.preload(object, &ciphertext);
    let reader = world.content.reader();
    for _ in 0..3 {
        let error = reader.read(0..5000).await.err().unwrap();
        let unopened = Error::Bucket(encrypted::Error::WrongKey);
        assert_eq!(error.to_string(), unopened.to_string());
    }
    assert!(world.gets().is_empty());
    assert_eq!(world.budget.used(), 5000, "kept like any other");
}

#[tokio::test]
async fn a_preloaded_object_that_is_displaced_is_fetched() {
    let world = Setup {
        size: 5000,
        ..Setup::default()
    };
    let world = world.build().await;
    let meta = world.meta.clone();
    let object = world.content.bucket.object(&meta).unwrap();
    let ciphertext = world.ciphertext().await;
    world.content.preload(object, &ciphertext);
    assert_eq!(world.budget.used(), 5000);
    assert_eq!(world.cache.evict(1), 5000);
    assert_eq!(world.budget.used(), 0);
    world.check(&world.content.reader(), 10, 20).await;
    assert_eq!(world.gets().len(), 1);
}

#[tokio::test]
async fn the_last_close_ends_what_nobody_waits_for() {
    let world = Setup {
        size: 200 * MIB,
        delay: Duration::from_millis(500),
        ..Setup::default()
    };
    let world = world.build().await;
    let (one, two) = (world.content.reader(), world.content.reader());
    for at in 0..16 {
        let _ = one.read_now(at * MIB..(at + 1) * MIB);
    }
    tokio::task::yield_now().await;
    assert!(world.store.in_flight.load(Ordering::SeqCst) > 1);
    assert!(world.budget.used() > 64 * MIB);
    drop(one);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(
        world.store.in_flight.load(Ordering::SeqCst) > 1,
        "one handle is left"
    );
    drop(two);
    let deadline = Instant::now() + Duration::from_millis(400);
    while world.budget.used() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.cache.evict(u64::MAX);
    }
    // Requests for up to 1 MiB are let go on: the early ones.
    assert!(world.budget.used() <= 16 * MIB, "{}", world.budget.used());
    let reader = world.content.reader();
    world.check(&reader, 0, 3 * MIB).await;
}

#[tokio::test]
async fn many_readers_in_little_memory_all_finish_within_the_budget() {
    let limit = 64 * MIB;
    let world = Setup {
        size: 40 * MIB,
        limit,
        delay: Duration::from_millis(1),
        ..Setup::default()
    };
    let world = Arc::new(world.build().await);
    // As if most of it held bytes that have to be written.
    let _dirty = world.budget.try_reserve(40 * MIB).unwrap();
    let most = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..16u64)
        .map(|index| {
            let (world, most) = (world.clone(), most.clone());
            tokio::spawn(async move {
                let bucket = world.content.bucket.clone();
                let etag = world.content.etag();
                let content =
                    Content::new(bucket, world.cache.clone(), key(), etag, 40 * MIB, None);
                let reader = content.reader();
                let mut at = index * MIB + index * 1000;
                while at < 40 * MIB {
                    world.check(&reader, at, 700_000).await;
                    at += 700_000;
                    most.fetch_max(world.budget.used() as usize, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(most.load(Ordering::Relaxed) as u64 <= limit);
    world.cache.evict(u64::MAX);
    assert_eq!(world.budget.used(), 40 * MIB);
}

#[tokio::test]
async fn an_object_far_larger_than_memory_displaces_its_own_blocks() {
    let world = Setup {
        size: 120 * MIB,
        limit: 32 * MIB,
        ..Setup::default()
    };
    let world = world.build().await;
    let reader = world.content.reader();
    // Every block, scattered, so that all of them are worth keeping.
    for index in 0..960u64 {
        let offset = index * 7 % 960 * 128 * KIB;
        world.check(&reader, offset, 100 * KIB).await;
        assert!(world.budget.used() <= 32 * MIB);
    }
    assert!(world.content.lock().parts.len() < 700);
    let before = world.gets().len();
    // And reading in order still has room to fetch ahead.
    let reader = world.content.reader();
    let mut at = 0;
    while at < 120 * MIB {
        world.check(&reader, at, MIB).await;
        at += MIB;
    }
    assert!(
        world.gets().len() - before < 350,
        "{}",
        world.gets().len() - before
    );
}

#[tokio::test]
async fn a_read_without_memory_ends_in_time() {
    let world = Setup::default().build().await;
    let budget = MemoryBudget::new(8 * MIB);
    let runtime = tokio::runtime::Handle::current();
    let cache = ContentCache::new(budget.clone(), runtime, Duration::from_millis(50));
    let bucket = world.content.bucket.clone();
    let etag = world.content.etag();
    let content = Content::new(bucket, cache, key(), etag, world.content.size(), None);
    let all =
        [Class::Normal, Class::Drain].map(|class| budget.try_reserve_for(class, u64::MAX).unwrap());
    assert_eq!(budget.used(), budget.limit());
    let reader = content.reader();
    let error = reader.read(4 * MIB..4 * MIB + 4096).await.err();
    assert!(matches!(error, Some(Error::NoMemory)), "{error:?}");
    drop(all);
    world.check(&reader, 4 * MIB, 4096).await;
}

#[test]
fn reads_of_all_shapes_equal_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let sizes = prop_oneof![0..300_000u64, 0..6 * MIB, Just(128 * KIB), Just(MIB)];
    let read = (0..6 * MIB, 0..2 * MIB, 0..3usize, 0..10u8);
    let strategy = (
        sizes,
        prop_oneof![Just(8 * MIB), Just(64 * MIB)],
        1..400_000usize,
        any::<bool>(),
        proptest::collection::vec(read, 1..30),
    );
    let config = ProptestConfig::with_cases(40);
    proptest!(config, |((size, limit, chunk, known, reads) in strategy)| {
        runtime.block_on(async {
            let delay = Duration::ZERO;
            let world = Setup { size, limit, delay, chunk, known }.build().await;
            let readers: Vec<_> = (0..3).map(|_| world.content.reader()).collect();
            let mut next = [0; 3];
            let mut waiting = Vec::new();
            for (offset, len, who, kind) in reads {
                let offset = if kind < 5 { next[who] } else { offset };
                next[who] = offset + len;
                match readers[who].read_now(offset..offset + len) {
                    Ok(bytes) => assert!(bytes == world.plain(offset, len)),
                    Err(pending) => {
                        let pending = async move { (offset, len, pending.wait().await) };
                        waiting.push(tokio::spawn(pending));
                    }
                }
                if kind % 3 == 0 {
                    for task in waiting.drain(..) {
                        let (offset, len, bytes) = task.await.unwrap();
                        assert!(bytes.unwrap() == world.plain(offset, len));
                    }
                }
                if kind == 7 {
                    world.cache.evict(MIB);
                }
                assert!(world.budget.used() <= limit);
            }
            for task in waiting {
                let (offset, len, bytes) = task.await.unwrap();
                assert!(bytes.unwrap() == world.plain(offset, len));
            }
        });
    });
}

/// The bucket over `store`, with `plain` in it.
async fn encrypt(store: Arc<dyn ObjectStore>, plain: &[u8]) -> Arc<EncryptedBucket> {
    static PEM: OnceLock<String> = OnceLock::new();
    let pem = PEM.get_or_init(|| {
        let pair = KeyPair::generate(2048).unwrap();
        pair.private_pem(None).unwrap().to_string()
    });
    let key_pair = key_parse::private_key(pem.as_bytes(), &mut || None).unwrap();
    let bucket = EncryptedBucket::new(store, KeyRing::single(key_pair), Settings::default());
    let plain = Plaintext::from_bytes(plain.to_vec());
    let headers = ObjectHeaders::default();
    bucket
        .put(&key(), &plain, headers, None, Overwrite::Allowed)
        .await
        .unwrap();
    bucket
}
