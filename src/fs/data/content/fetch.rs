//! Bringing a part in: one ranged GET, decrypted as it comes.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::buffer::{self, Space};
use super::error::Error;
use super::part::Part;
use super::{Content, Inner};
use crate::base::crc64;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{self, Ciphertext, EncryptedObject};
use crate::fs::data::read_ahead::WHOLE;
use crate::store::object_store::ObjectMeta;

/// A part being brought in. However it ends, waiters for the part are notified.
struct Fetch {
    content: Arc<Content>,
    part: Arc<Part>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Aborted, or a panic.
        if self.part.missing() > 0 {
            self.fail(Error::Cancelled);
        }
    }
}

impl Fetch {
    async fn run(self, space: Option<Space>) {
        let result = self.fill(space).await;
        self.end(result);
    }

    fn end(&self, result: Result<(), Error>) {
        match result {
            Ok(()) => self.complete(),
            Err(error) => self.fail(error),
        }
    }

    fn complete(&self) {
        let Fetch { content, part } = self;
        part.complete();
        let inner = content.lock();
        let kept = inner.parts.get(&part.range.start);
        if kept.is_some_and(|kept| Arc::ptr_eq(kept, part)) {
            content.cache.insert(part);
        }
    }

    fn fail(&self, error: Error) {
        self.part.fail(error);
        // A sealed part stood in the queues already.
        self.content.cache.forget(std::iter::once(&self.part));
    }

    async fn fill(&self, space: Option<Space>) -> Result<(), Error> {
        let Fetch { content, part } = self;
        if content.is_corrupt() {
            return Err(Error::Corrupt);
        }
        let space = match space {
            Some(space) => space,
            None => {
                let space = content.cache.space_in_time(part.len()).await;
                space.ok_or(Error::NoMemory)?
            }
        };
        let (buffer, mut filling) = content.cache.buffer(space);
        let (mut ciphertext, cipher) = match content.object() {
            // Unwrapped once; the first time while the request is on its way.
            Some(object) => {
                let unlock = async { Ok(content.bucket.unlock(&object).await?) };
                let (ciphertext, cipher) = tokio::try_join!(self.get(), unlock)?;
                self.check_envelope(&ciphertext.meta, &object, &cipher)
                    .await?;
                (ciphertext, cipher)
            }
            None => {
                let ciphertext = self.get().await?;
                let key = content.lock().key.clone();
                let object = content.bucket.object_at(&key, &ciphertext.meta)?;
                let object = content.lock().object_or(object);
                let cipher = content.bucket.unlock(&object).await?;
                (ciphertext, cipher)
            }
        };
        let cipher = content.keeping(cipher);
        part.begin(buffer);

        let mut missing = part.len() as usize;
        while missing > 0 {
            let count = match ciphertext.read(&cipher, filling.tail()).await {
                Ok(0) => return Err(Error::Short),
                Ok(count) => count,
                Err(error) => return Err(content.read_error(error, &part.range)),
            };
            missing -= count;
            if missing == 0 {
                content.cover(part, ciphertext.crc64())?;
            }
            filling.advance(count);
            part.advanced();
        }
        Ok(())
    }

    /// Headers may change under one tag. Another wrapping of the same key is fine; with any other key
    /// these are not the bytes whose tag it was.
    async fn check_envelope(
        &self,
        meta: &ObjectMeta,
        object: &EncryptedObject,
        cipher: &ContentCipher,
    ) -> Result<(), Error> {
        let bucket = &self.content.bucket;
        let key = self.content.lock().key.clone();
        let Ok(now) = bucket.object_at(&key, meta) else {
            return Err(Error::Changed);
        };
        if now.same_envelope(object) {
            return Ok(());
        }
        let same = match bucket.unlock(&now).await {
            Ok(other) => keystream(cipher) == keystream(&other),
            Err(_) => false,
        };
        if same { Ok(()) } else { Err(Error::Changed) }
    }

    /// One ranged GET of this version.
    async fn get(&self) -> Result<Ciphertext, Error> {
        let Fetch { content, part } = self;
        loop {
            let (key, etag, crc64) = {
                let inner = content.lock();
                (inner.key.clone(), inner.etag.clone(), inner.crc64)
            };
            // Under one tag there is one content, and it has one checksum.
            let other_bytes = |found: Option<u64>| matches!((crc64, found), (Some(known), Some(found)) if known != found);
            let range = Some(part.range.clone());
            match content.bucket.get(&key, range, Some(&etag)).await {
                Ok(answer) if answer.meta.size != content.size || answer.range != part.range => {
                    return Err(Error::Changed);
                }
                Ok(answer) if other_bytes(answer.meta.crc64) => return Err(Error::Changed),
                Ok(answer) => {
                    let mut inner = content.lock();
                    inner.crc64 = inner.crc64.or(answer.meta.crc64);
                    return Ok(answer);
                }
                Err(error) => {
                    let error = Error::from(error);
                    let inner = content.lock();
                    // Renamed or copied by ourselves meanwhile.
                    let moved = inner.key != key || inner.etag != etag;
                    if !(moved && matches!(error, Error::Changed)) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Blocks.
    fn open(&self, mut filling: buffer::Filling) -> Result<(), Error> {
        let Fetch { content, part } = self;
        let object = content.object().ok_or(Error::Changed)?;
        let cipher = content.keeping(content.bucket.unlock_here(&object)?);
        let bytes = filling.tail();
        let crc = crc64::of(bytes);
        content.cover(part, crc)?;
        let applied = cipher.apply_in_place(part.range.start, bytes);
        applied.map_err(encrypted::Error::from)?;
        let len = bytes.len();
        filling.advance(len);
        part.advanced();
        Ok(())
    }
}

/// The beginning of it: two ciphers with the same have the same key and counter.
fn keystream(cipher: &ContentCipher) -> Option<Zeroizing<[u8; 64]>> {
    let mut stream = Zeroizing::new([0; 64]);
    cipher.apply_in_place(0, stream.as_mut_slice()).ok()?;
    Some(stream)
}

impl Content {
    pub(super) fn fetch(
        self: &Arc<Self>,
        inner: &mut Inner,
        range: Range<u64>,
        space: Option<Space>,
    ) {
        let part = Part::new(range);
        if self.size <= WHOLE {
            part.keep();
            if part.range == (0..self.size) && inner.crc64.is_some() {
                part.set_whole();
            }
        }
        inner.parts.insert(part.range.start, part.clone());
        let guard = Fetch {
            content: self.clone(),
            part: part.clone(),
        };
        let task = self.cache.runtime().spawn(guard.run(space));
        part.set_task(task.abort_handle());
    }

    /// Begins to open a part, if it is sealed and no other thread was faster.
    pub(super) fn open(self: &Arc<Self>, part: &Arc<Part>) {
        if let Some(opening) = self.unseal(part) {
            self.cache.runtime().spawn_blocking(opening);
        }
    }

    /// What opens a part, if it is sealed: an unwrap, which blocks.
    pub(super) fn unseal(
        self: &Arc<Self>,
        part: &Arc<Part>,
    ) -> Option<impl FnOnce() + Send + use<>> {
        let filling = part.unseal()?;
        let fetch = Fetch {
            content: self.clone(),
            part: part.clone(),
        };
        Some(move || fetch.end(fetch.open(filling)))
    }
}
