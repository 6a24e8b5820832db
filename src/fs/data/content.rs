//! The readable content of one version of one object, shared by all handles of that version.
//!
//! What makes it hard, and who answers it:
//! - a read should be answered when its bytes are there, whichever read requested them first, and without a
//!   copy: a `Part` is one ranged GET with If-Match, decrypted from the socket's chunks straight
//!   into one `buffer` of which every answer is a slice. Only a read that crosses two parts is
//!   copied together;
//! - what to fetch when: the handle's [`ReadAhead`] says what is wanted, `Content::start` fetches
//!   what of it is neither here nor on its way;
//! - memory: [`ContentCache`] has it; a fetch takes its whole share before it asks for a byte. When
//!   there is none, nothing is fetched ahead, and a read waits for its own blocks only;
//! - a PKCS#1 v1.5 envelope that no key opens must look to the service like one that a key opened: the
//!   bytes are fetched and kept all the same, as they came, and every read of them ends in an error;
//! - damage: `Coverage` puts the checksums of the parts together; the fetch that makes the object
//!   whole fails if the sum is wrong, before its last bytes can be read.
//!
//! What always holds: parts in the table do not overlap; every part that is not over has bytes, or a
//! task that brings them; bytes of two versions never meet in one content.

mod buffer;
mod cache;
mod coverage;
mod error;
mod fetch;
mod part;
mod pieces;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use self::cache::Purpose;
use self::coverage::Coverage;
use self::part::{Answer, Part};
use self::pieces::Pieces;
use self::shown::Shown;
use super::read_ahead::{Plan, ReadAhead};
use super::staging::{Piece, StagedFile, StagedPiece, zeros};
use crate::base::sync::lock;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{self, EncryptedBucket, EncryptedObject};
use crate::store::object_store::{ETag, ObjectKey};

pub use self::cache::ContentCache;
pub use self::error::Error;

/// A fetch that still misses more than this many bytes is broken off when the object is not open:
/// finishing a small one costs less than the connection that breaking off costs.
const WORTH_ABORTING: u64 = 1 << 20;

/// Holes up to this many bytes are kept with what was written around them.
const KEPT_HOLE: u64 = 1 << 20;

/// How often a read begins again when what it waited for was given up or displaced before it looked.
const ATTEMPTS: usize = 8;

pub struct Content {
    bucket: Arc<EncryptedBucket>,
    cache: Arc<ContentCache>,
    /// In bytes.
    size: u64,
    shown: Shown,
    /// What is kept are no plaintexts: the envelope did not open. Set before there are any bytes.
    unopened: AtomicBool,
    /// A failure to read it is in the log.
    logged: AtomicBool,
    /// Memory only while it is held; parts and the cache's queues may be locked under it.
    inner: Mutex<Inner>,
}

struct Inner {
    key: ObjectKey,
    etag: ETag,
    /// Known from the start, or from the first answer's headers.
    object: Option<Arc<EncryptedObject>>,
    /// The content's checksum; known on when a copy of ours lacks it.
    crc64: Option<u64>,
    /// By first byte.
    parts: BTreeMap<u64, Arc<Part>>,
    /// At this many parts the ones that are over are swept out.
    sweep_at: usize,
    coverage: Coverage,
    corrupt: bool,
    readers: usize,
}

impl Content {
    /// The version `etag` of `key`, `size` bytes long. `object` may be unknown: the first GET tells.
    pub fn new(
        bucket: Arc<EncryptedBucket>,
        cache: Arc<ContentCache>,
        key: ObjectKey,
        etag: ETag,
        size: u64,
        object: Option<Arc<EncryptedObject>>,
    ) -> Arc<Content> {
        Arc::new(Content {
            bucket,
            cache,
            size,
            shown: Shown::default(),
            unopened: AtomicBool::new(false),
            logged: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                key,
                etag,
                crc64: object.as_ref().and_then(|object| object.crc64),
                object,
                parts: BTreeMap::new(),
                sweep_at: 64,
                coverage: Coverage::default(),
                corrupt: false,
                readers: 0,
            }),
        })
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn etag(&self) -> ETag {
        self.lock().etag.clone()
    }

    /// The kernel has pages of it.
    pub fn seen(&self) {
        self.shown.see();
    }

    /// Whether programs may have bytes of it.
    pub fn was_seen(&self) -> bool {
        self.shown.was_seen()
    }

    /// Ends it, unless a program may have bytes of it: true if it ended. Nothing is read of it from then on.
    pub fn retire(&self) -> bool {
        self.shown.retire()
    }

    /// Whether it is read like any other, and every read fails.
    pub fn is_unopened(&self) -> bool {
        self.unopened.load(Ordering::Acquire)
    }

    /// True the first time: the log need not hear of every read that fails.
    pub fn first_report(&self) -> bool {
        !self.logged.swap(true, Ordering::Relaxed)
    }

    /// What the bytes are kept with: of an unopened cipher none can be had.
    fn keeping(&self, cipher: Arc<ContentCipher>) -> Arc<ContentCipher> {
        if cipher.is_opened() {
            return cipher;
        }
        self.unopened.store(true, Ordering::Release);
        Arc::new(ContentCipher::identity())
    }

    /// Where it was found last.
    pub fn place(&self) -> (ObjectKey, ETag) {
        let inner = self.lock();
        (inner.key.clone(), inner.etag.clone())
    }

    /// The envelope, if it is known by now.
    pub fn object(&self) -> Option<Arc<EncryptedObject>> {
        self.lock().object.clone()
    }

    /// The object is found under another name now: we renamed it.
    pub fn set_key(&self, key: ObjectKey) {
        self.lock().key = key;
    }

    /// The same content under another tag or envelope: we copied it. Fetches that were refused
    /// because of the old tag try again under the new one.
    pub fn set_object(&self, key: ObjectKey, object: Arc<EncryptedObject>) {
        let mut inner = self.lock();
        inner.key = key;
        inner.etag = object.etag.clone();
        inner.learn(object);
    }

    /// The whole ciphertext of a small object, as a lookup got it. It is decrypted, and its key
    /// unwrapped, only when it is read. Not kept when memory is short or bytes are here already.
    pub fn preload(&self, object: Arc<EncryptedObject>, ciphertext: &[u8]) {
        if self.size == 0 || ciphertext.len() as u64 != self.size {
            return;
        }
        let Some(space) = self.cache.space(self.size, Purpose::Ahead) else {
            return;
        };
        let (buffer, mut filling) = self.cache.buffer(space);
        // Copied: a chunk from the socket may hold on to a buffer many times its size.
        filling.tail().copy_from_slice(ciphertext);
        let part = Part::sealed(0..self.size, buffer, filling);
        part.keep();
        {
            let mut inner = self.lock();
            inner.sweep();
            if !inner.parts.is_empty() || inner.etag != object.etag {
                return;
            }
            if inner.object.is_none() {
                inner.learn(object);
            }
            inner.parts.insert(0, part.clone());
            self.cache.insert(&part);
        }
    }

    /// It is not open: what is here stays until memory is wanted. False if nothing of it is worth that.
    pub fn keep(&self) -> bool {
        let mut inner = self.lock();
        inner.parts.retain(|_, part| !part.is_over());
        let worth = !inner.parts.is_empty() || self.is_unopened();
        if !worth || inner.corrupt || !self.shown.forget() {
            return false;
        }
        self.cache.keep(inner.parts.values());
        true
    }

    /// It is opened again: it is like a new one, of which some is here.
    pub fn reuse(&self) {
        let mut inner = self.lock();
        inner.coverage.clear();
        let Inner {
            parts, coverage, ..
        } = &mut *inner;
        for part in parts.values() {
            if let Some(crc) = part.crc() {
                // If that is all of it, it was compared before.
                let _ = coverage.add(part.range.clone(), crc, self.size);
            }
        }
    }

    /// Takes over staged bytes that were uploaded as this version, as far as they are in memory.
    pub fn adopt(&self, staged: &StagedFile) {
        if staged.len() != self.size || !self.cache.may_keep() {
            return;
        }
        let mut at = 0;
        for piece in staged.pieces(0..self.size) {
            let range = at..at + piece.len();
            at = range.end;
            match piece {
                Piece::Staged(piece) => {
                    if let Some(bytes) = self.compact(&piece) {
                        self.hold(range, bytes);
                    }
                }
                Piece::Zero(len) if len <= KEPT_HOLE => {
                    let mut start = range.start;
                    while start < range.end {
                        let bytes = zeros(range.end - start);
                        let end = start + bytes.len() as u64;
                        self.hold(start..end, bytes);
                        start = end;
                    }
                }
                // See `inherit`.
                Piece::Zero(_) | Piece::Base(_) => {}
            }
        }
    }

    /// Without a copy, unless a few bytes would keep the memory of many.
    fn compact(&self, piece: &StagedPiece) -> Option<Bytes> {
        let (bytes, reserved) = piece.read_with_memory()?;
        let len = bytes.len() as u64;
        if 2 * len >= reserved {
            return Some(bytes);
        }
        let (buffer, mut filling) = self.cache.buffer(self.cache.space(len, Purpose::Ahead)?);
        filling.tail()[..bytes.len()].copy_from_slice(&bytes);
        filling.advance(bytes.len());
        buffer.slice(0..bytes.len())
    }

    /// Takes over what `other` has in memory of these ranges, in which both have the same bytes.
    pub fn inherit(&self, other: &Content, ranges: impl IntoIterator<Item = Range<u64>>) {
        if other.is_unopened() || !self.cache.may_keep() {
            return;
        }
        for range in ranges {
            for (range, bytes) in other.in_memory(&range) {
                self.hold(range, bytes);
            }
        }
    }

    /// Whether all of these ranges are in memory.
    pub fn is_here(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> bool {
        ranges.into_iter().all(|range| {
            let here = self.in_memory(&range).into_iter();
            let bytes: u64 = here.map(|(range, _)| range.end - range.start).sum();
            bytes == range.end - range.start
        })
    }

    fn in_memory(&self, range: &Range<u64>) -> Vec<(Range<u64>, Bytes)> {
        let inner = self.lock();
        let parts = inner.parts.values().filter_map(|part| {
            let common = range.start.max(part.range.start)..range.end.min(part.range.end);
            let bytes = (common.start < common.end).then(|| part.peek(&common))??;
            Some((common, bytes))
        });
        parts.collect()
    }

    /// Keeps bytes of the object, unless some of them are here or on their way.
    fn hold(&self, range: Range<u64>, bytes: Bytes) {
        let mut inner = self.lock();
        if range.end <= self.size && inner.hole(range.clone()) == range {
            let part = Part::held(range, bytes);
            inner.parts.insert(part.range.start, part.clone());
            self.cache.insert(&part);
        }
    }

    /// It is about to be read: what came with a lookup is opened. Where a thread of the session asks,
    /// that thread unwraps the key, because waking others takes as long as a quarter of an unwrap; but only
    /// one does at a time, for the others answer what memory can.
    pub fn expect_reading(self: &Arc<Self>) {
        let Some(opening) = self.part_at(0).and_then(|part| self.unseal(&part)) else {
            return;
        };
        let on_runtime = tokio::task::try_id().is_some();
        match self.cache.turn_to_open() {
            Some(_turn) if !on_runtime => opening(),
            _ => drop(self.cache.runtime().spawn_blocking(opening)),
        }
    }

    /// The object was read whole and its checksum was wrong: what the kernel keeps of it must not be
    /// served again. Stays so until the first reader that comes when there is none.
    pub fn is_corrupt(&self) -> bool {
        self.lock().corrupt
    }

    /// One handle's view. The last one that is dropped ends the fetches.
    pub fn reader(self: &Arc<Self>) -> Arc<Reader> {
        let mut inner = self.lock();
        if inner.readers == 0 {
            inner.corrupt = false;
        }
        inner.readers += 1;
        drop(inner);
        Arc::new(Reader {
            ahead: Mutex::new(ReadAhead::new(self.cache.limits(), self.cache.sharers())),
            content: self.clone(),
        })
    }

    /// What memory can answer, cut at the object's end; without a copy if it lies in one part.
    /// Fetches nothing.
    pub fn read_now(&self, range: Range<u64>) -> Option<Bytes> {
        if self.is_unopened() {
            return None;
        }
        let range = self.cut(range);
        let mut pieces = Pieces::new(&range);
        while pieces.at < range.end {
            let part = self.part_at(pieces.at)?;
            let piece = pieces.at..range.end.min(part.range.end);
            match part.answer(&piece) {
                Answer::Ready(bytes) => {
                    self.cache.touched(&part);
                    pieces.push(bytes);
                }
                _ => return None,
            }
        }
        Some(pieces.join())
    }

    /// Waits for every byte of `range`, fetching what is not on its way.
    async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Error> {
        let range = self.cut(range);
        let mut pieces = Pieces::new(&range);
        let mut attempts = 0;
        while pieces.at < range.end {
            // One part at a time: nothing is held on to while another part waits for memory.
            let part = match self.part_at(pieces.at) {
                Some(part) => part,
                None => {
                    attempts += 1;
                    if attempts > ATTEMPTS {
                        return Err(Error::Cancelled);
                    }
                    self.start(&Plan::only(pieces.at..range.end, self.size));
                    // Even if it is over by now: then it says why.
                    match self.lock().part_at(pieces.at) {
                        Some(part) => part,
                        None => continue,
                    }
                }
            };
            let piece = pieces.at..range.end.min(part.range.end);
            match part.wait(&piece).await {
                Answer::Ready(bytes) => {
                    self.cache.touched(&part);
                    pieces.push(bytes);
                }
                Answer::Sealed => self.open(&part),
                // Looked for anew.
                Answer::Later | Answer::Gone | Answer::Failed(Error::Cancelled) => {}
                Answer::Failed(error) => return Err(error),
            }
        }
        if self.is_corrupt() {
            return Err(Error::Corrupt);
        }
        if self.is_unopened() {
            // As bytes would have.
            self.shown.see();
            return Err(Error::Bucket(encrypted::Error::WrongKey));
        }
        Ok(pieces.join())
    }

    /// The part that has this byte, or will have it.
    fn part_at(&self, offset: u64) -> Option<Arc<Part>> {
        self.lock().part_at(offset).filter(|part| !part.is_over())
    }

    /// Fetches what is planned and neither here nor on its way. Returns from where on nothing was
    /// fetched ahead for want of memory.
    fn start(self: &Arc<Self>, plan: &Plan) -> Option<u64> {
        let mut inner = self.lock();
        inner.sweep();
        let joined = plan.demand.end == plan.ahead.start;
        let wanted = if joined {
            [plan.demand.start..plan.ahead.end, 0..0]
        } else {
            [plan.demand.clone(), plan.ahead.clone()]
        };
        for range in wanted {
            let mut at = range.start;
            while at < range.end {
                let hole = inner.hole(at..range.end);
                if hole.is_empty() {
                    break;
                }
                let split = (hole.start / plan.split + 1) * plan.split;
                let mut piece = hole.start..hole.end.min(split);
                let needed = piece.start < plan.demand.end;
                let purpose = if piece.end <= plan.demand.end {
                    Purpose::Read
                } else {
                    Purpose::Ahead
                };
                let space = self.cache.space(piece.end - piece.start, purpose);
                let refused = space.is_none();
                if refused {
                    if !needed {
                        return Some(piece.start);
                    }
                    piece.end = piece.end.min(plan.demand.end);
                }
                at = piece.end;
                self.fetch(&mut inner, piece, space);
                if refused && at >= plan.demand.end {
                    return Some(at);
                }
            }
        }
        None
    }

    /// The checksum of a part that was fetched. An error if it makes the object whole and wrong.
    fn cover(&self, part: &Part, crc: u64) -> Result<(), Error> {
        part.set_crc(crc);
        let range = part.range.clone();
        let mut inner = self.lock();
        let (Some(known), false) = (inner.crc64, inner.corrupt) else {
            return Ok(());
        };
        match inner.coverage.add(range, crc, self.size) {
            Some(whole) if whole != known => {
                inner.spoil(&self.cache);
                Err(Error::Corrupt)
            }
            _ => Ok(()),
        }
    }

    /// The bucket compares the checksum of a body that is the whole object itself.
    fn read_error(&self, error: encrypted::Error, range: &Range<u64>) -> Error {
        match error {
            encrypted::Error::Damaged(_) if *range == (0..self.size) => {
                self.lock().spoil(&self.cache);
                Error::Corrupt
            }
            error => Error::from(error),
        }
    }

    /// A handle was closed.
    fn closed(&self) {
        let mut inner = self.lock();
        inner.readers -= 1;
        if inner.readers == 0 {
            for part in inner.parts.values() {
                if part.missing() > WORTH_ABORTING {
                    part.abort();
                }
            }
        }
    }

    fn cut(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.size);
        range.start.min(end)..end
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        let mut inner = self.lock();
        inner.forget_all(&self.cache);
    }
}

impl Inner {
    fn object_or(&mut self, new: Arc<EncryptedObject>) -> Arc<EncryptedObject> {
        match &self.object {
            Some(object) => object.clone(),
            None => {
                self.learn(new.clone());
                new
            }
        }
    }

    fn learn(&mut self, object: Arc<EncryptedObject>) {
        self.crc64 = object.crc64.or(self.crc64);
        self.object = Some(object);
    }

    /// The part that stands over this byte, over or not.
    fn part_at(&self, offset: u64) -> Option<Arc<Part>> {
        let (_, part) = self.parts.range(..=offset).next_back()?;
        (offset < part.range.end).then(|| part.clone())
    }

    /// The first stretch inside `range` that no part has or will have; empty if there is none.
    fn hole(&mut self, range: Range<u64>) -> Range<u64> {
        let mut start = range.start;
        loop {
            let before = self.parts.range(..=start).next_back();
            match before.map(|(_, part)| part) {
                Some(part) if part.range.end > start => {
                    if part.is_over() {
                        let first = part.range.start;
                        self.parts.remove(&first);
                    } else {
                        start = part.range.end;
                    }
                }
                _ => break,
            }
        }
        let mut end = range.end.max(start);
        while let Some((first, part)) = self.parts.range(start..end).next() {
            if part.is_over() {
                let first = *first;
                self.parts.remove(&first);
            } else {
                end = *first;
            }
        }
        if start >= range.end {
            end..end
        } else {
            start..end
        }
    }

    /// Parts whose bytes are gone would pile up where an object is read here and there.
    fn sweep(&mut self) {
        if self.parts.len() >= self.sweep_at {
            self.parts.retain(|_, part| !part.is_over());
            self.sweep_at = (self.parts.len() * 2).max(64);
        }
    }

    /// What was read before cannot be taken back; nothing more is served of it.
    fn spoil(&mut self, cache: &ContentCache) {
        self.corrupt = true;
        self.coverage.clear();
        self.forget_all(cache);
    }

    fn forget_all(&mut self, cache: &ContentCache) {
        let parts = std::mem::take(&mut self.parts);
        cache.forget(parts.values());
    }
}

/// One open handle's reading of a content.
pub struct Reader {
    content: Arc<Content>,
    /// Locked before the content, and only while a read is planned.
    ahead: Mutex<ReadAhead>,
}

impl Reader {
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// Plans the read, starts what must be fetched for it and ahead of it, and answers from memory if
    /// it can; else the rest is waiting. Never waits itself: for the session thread. The range is cut
    /// at the object's end.
    pub fn read_now(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Pending> {
        let range = self.content.cut(range);
        {
            let mut ahead = lock(&self.ahead);
            let len = range.end - range.start;
            let plan = ahead.plan(range.start, len, self.content.size);
            if let Some(at) = self.content.start(&plan) {
                ahead.refused(at);
            }
        }
        if !self.content.is_corrupt()
            && let Some(bytes) = self.content.read_now(range.clone())
            && self.content.shown.see()
        {
            return Ok(bytes);
        }
        Err(Pending {
            reader: self.clone(),
            range,
        })
    }

    /// As [`Reader::read_now`], and waits.
    ///
    /// # Errors
    /// See [`Error`]. The next read tries again, except after [`Error::Corrupt`].
    pub async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Bytes, Error> {
        match self.read_now(range) {
            Ok(bytes) => Ok(bytes),
            Err(pending) => pending.wait().await,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.content.closed();
    }
}

/// A read whose bytes are on their way.
pub struct Pending {
    reader: Arc<Reader>,
    range: Range<u64>,
}

impl Pending {
    /// # Errors
    /// As [`Reader::read`].
    pub async fn wait(self) -> Result<Bytes, Error> {
        let content = &self.reader.content;
        let bytes = content.read(self.range).await?;
        if content.shown.see() {
            Ok(bytes)
        } else {
            Err(Error::Changed)
        }
    }
}
