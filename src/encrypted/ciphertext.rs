//! A body on its way in: each of the socket's chunks is decrypted straight into the reader's buffer.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt};

use super::error::{Error, Result};
use crate::base::crc64::Crc64;
use crate::crypto::ctr::ContentCipher;
use crate::store;
use crate::store::object_store::{GetAnswer, ObjectMeta};

pub struct Ciphertext {
    pub meta: ObjectMeta,
    /// Which bytes of the object the body holds: what was asked for, cut at the object's end.
    pub range: std::ops::Range<u64>,
    body: BoxStream<'static, store::object_store::Result<Bytes>>,
    /// Received and not yet read.
    pending: Bytes,
    /// Of the first byte of `pending`, in the object.
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

    /// Where the next byte stands in the object.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Decrypts what has arrived into `destination`, and waits only if nothing has. Returns the number of
    /// bytes, 0 at the end of the range or for an empty destination.
    ///
    /// # Errors
    /// The store's; [`Error::Damaged`] where the whole object was read and its CRC-64 is not the one the
    /// store gave; [`Error::WrongKey`] for a cipher that is [unopened](ContentCipher::unopened), after the
    /// whole body was fetched, so that fetching tells nobody about it.
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

    /// The next chunk as it arrived, with the offset of its first byte in the object; none at the end of
    /// the range. For what is fetched ahead of its key.
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

    /// The rest of the body, encrypted as it is, in one piece: for small objects, of at most `longest` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Damaged`] for a longer one, of which no more is fetched.
    pub async fn skip_to_bytes(mut self, longest: u64) -> Result<Bytes> {
        let rest = self.range.end.saturating_sub(self.position);
        let rest = usize::try_from(rest).ok().filter(|_| rest <= longest);
        let rest = rest.ok_or_else(|| Error::damaged("it is longer than it was said to be"))?;
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

    /// CRC-64 of what was read or taken so far.
    pub fn crc64(&self) -> u64 {
        self.crc.value()
    }

    /// Makes sure that something is pending. False at the end of the range.
    async fn fill(&mut self) -> Result<bool> {
        while self.pending.is_empty() {
            if self.position >= self.range.end {
                return Ok(false);
            }
            self.pending = self
                .body
                .next()
                .await
                .ok_or_else(|| Error::damaged("the body is shorter than it was announced"))??;
        }
        if self.pending.len() as u64 > self.range.end - self.position {
            return Err(Error::damaged("the body is longer than it was announced"));
        }
        Ok(true)
    }

    fn consume(&mut self, len: usize) -> Result<()> {
        self.crc.update(&self.pending[..len]);
        // Not `advance`: at its end the chunk is let go of at once.
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
            return Err(Error::damaged("its CRC-64 is not the one the store gave"));
        }
        Ok(())
    }
}
