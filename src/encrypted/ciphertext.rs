//! A response body: each of the socket's chunks is decrypted straight into the reader's buffer.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt};

use super::error::{Error, Result};
use crate::base::crc64::Crc64;
use crate::crypto::ctr::ContentCipher;
use crate::store;
use crate::store::object_store::{GetAnswer, ObjectMeta};

pub struct Ciphertext {
    pub meta: ObjectMeta,
    /// The range of the object that the body holds: the requested range, cut at the object's end.
    pub range: std::ops::Range<u64>,
    body: BoxStream<'static, store::object_store::Result<Bytes>>,
    /// Received and not yet read.
    pending: Bytes,
    /// The offset in the object of the first byte of `pending`.
    position: u64,
    crc: Crc64,
}

impl Ciphertext {
    pub(super) fn new(answer: GetAnswer) -> Ciphertext {
        Ciphertext {
            position: answer.range.start,
            meta: answer.meta,
            range: answer.range,
            body: answer.body,
            pending: Bytes::new(),
            crc: Crc64::new(),
        }
    }

    /// The offset of the next byte in the object.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Decrypts received data into `destination`, and waits only if there is none. Returns the number of
    /// bytes, 0 at the end of the range or for an empty destination.
    ///
    /// # Errors
    /// The store's errors; [`Error::Damaged`] if the whole object was read and its CRC-64 differs from the
    /// one that the store returned; [`Error::WrongKey`] for a cipher that is
    /// [unopened](ContentCipher::unopened), after the whole body was fetched, so that an observer of the
    /// request learns nothing.
    pub async fn read(&mut self, cipher: &ContentCipher, destination: &mut [u8]) -> Result<usize> {
        if !cipher.is_opened() {
            while self.chunk().await?.is_some() {}
            return Err(Error::WrongKey);
        }
        if destination.is_empty() || !self.fill().await? {
            return Ok(0);
        }
        let len = self.pending.len().min(destination.len());
        cipher.apply(self.position, &self.pending[..len], &mut destination[..len])?;
        self.consume(len)?;
        Ok(len)
    }

    /// The next chunk as received, with the offset of its first byte in the object; none at the end of the
    /// range. For data that is fetched before its key is available.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn chunk(&mut self) -> Result<Option<(u64, Bytes)>> {
        if !self.fill().await? {
            return Ok(None);
        }
        let at = self.position;
        let chunk = self.pending.clone();
        self.consume(chunk.len())?;
        Ok(Some((at, chunk)))
    }

    /// The rest of the body, still encrypted, in one piece: for small objects, of at most `longest` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Damaged`] for a longer body, which is not fetched any further.
    pub async fn skip_to_bytes(mut self, longest: u64) -> Result<Bytes> {
        let rest = self.range.end.saturating_sub(self.position);
        let rest = usize::try_from(rest).ok().filter(|_| rest <= longest);
        let rest = rest.ok_or_else(|| Error::damaged("it is longer than announced"))?;
        let Some((_, first)) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        if self.position == self.range.end {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(rest);
        whole.extend_from_slice(&first);
        while let Some((_, chunk)) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// CRC-64 of the data read or taken so far.
    pub fn crc64(&self) -> u64 {
        self.crc.value()
    }

    /// Ensures that data is pending. False at the end of the range.
    async fn fill(&mut self) -> Result<bool> {
        while self.pending.is_empty() {
            if self.position >= self.range.end {
                return Ok(false);
            }
            self.pending = self
                .body
                .next()
                .await
                .ok_or_else(|| Error::damaged("the body is shorter than announced"))??;
        }
        if self.pending.len() as u64 > self.range.end - self.position {
            return Err(Error::damaged("the body is longer than announced"));
        }
        Ok(true)
    }

    fn consume(&mut self, len: usize) -> Result<()> {
        self.crc.update(&self.pending[..len]);
        // Not `advance`: the chunk is freed as soon as its end is reached.
        self.pending = self.pending.slice(len..);
        self.position += len as u64;
        let whole = self.range.start == 0 && self.range.end == self.meta.size;
        if whole
            && self.position == self.range.end
            && self
                .meta
                .crc64
                .is_some_and(|theirs| theirs != self.crc.value())
        {
            return Err(Error::damaged(
                "its CRC-64 differs from the one that the store returned",
            ));
        }
        Ok(())
    }
}
