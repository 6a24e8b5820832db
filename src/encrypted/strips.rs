//! Encrypts plaintext strip by strip while it is sent.
//!
//! A retried request opens its body again. The same key and counter must then meet the same bytes, so the
//! CRC-64 of every strip that was passed on is remembered. A strip that differs from what an earlier attempt
//! sent ends the body with an error before any of it leaves this machine.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};

use super::plaintext::Plaintext;
use crate::base::crc64::Crc64;
use crate::crypto::ctr::ContentCipher;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{Body, ByteRange, Result};

/// Large enough for few writes to the socket, small enough for two of them to fit in the second-level cache.
pub(super) const STRIP: usize = 128 * 1024;

/// Strips that one body keeps: one being filled, one at the socket, one in between.
const POOL: usize = 3;

/// Strips kept for the next body, 4 MiB of ciphertext: allocating one costs more than filling it.
const IDLE: usize = 32;
static IDLE_STRIPS: Mutex<Vec<Bytes>> = Mutex::new(Vec::new());

/// Why this program cut a body short, as opposed to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the data differs from what was sent before under the same key")]
    Changed,
    #[error("the content to be sent ended too early")]
    Short,
    #[error("the content to be sent is longer than announced")]
    Long,
}

/// The data that the attempts to send one range have passed on. Shared by the attempts.
#[derive(Default)]
pub(super) struct Sent {
    state: Mutex<SentState>,
}

/// A leaf: held only for a lookup.
#[derive(Default)]
struct SentState {
    /// CRC-64 of everything up to the end of each strip of the longest attempt.
    strips: Vec<u64>,
    /// Of the whole range, once an attempt has reached its end.
    whole: Option<u64>,
    /// Set if this program cut the body short.
    failed: Option<BodyError>,
}

impl Sent {
    /// CRC-64 of the range; none before an attempt has reached its end.
    pub(super) fn crc64(&self) -> Option<u64> {
        self.state.lock().expect("never poisoned").whole
    }

    /// Why this program cut the body short, if it did.
    pub(super) fn failure(&self) -> Option<BodyError> {
        self.state.lock().expect("never poisoned").failed
    }

    fn check(&self, index: usize, crc: u64) -> std::result::Result<(), BodyError> {
        let mut state = self.state.lock().expect("never poisoned");
        match state.strips.get(index) {
            Some(&before) if before == crc => Ok(()),
            Some(_) => Err(BodyError::Changed),
            None => {
                state.strips.push(crc);
                Ok(())
            }
        }
    }

    fn finish(&self, crc: u64) {
        self.state.lock().expect("never poisoned").whole = Some(crc);
    }

    fn fail(&self, error: BodyError) -> StoreError {
        self.state.lock().expect("never poisoned").failed = Some(error);
        StoreError::other(error)
    }
}

/// The request body that sends `range` of `plain`.
pub(super) fn body(
    cipher: Arc<ContentCipher>,
    plain: Plaintext,
    range: ByteRange,
    sent: Arc<Sent>,
) -> Body {
    if range.is_empty() {
        // An HTTP client need not poll an empty body.
        sent.finish(Crc64::new().value());
    }
    Body::new(range.end - range.start, move || {
        Attempt {
            cipher: cipher.clone(),
            source: plain.open(range.clone()),
            pending: Bytes::new(),
            position: range.start,
            end: range.end,
            index: 0,
            crc: Crc64::new(),
            pool: Vec::with_capacity(POOL),
            sent: sent.clone(),
        }
        .into_stream()
    })
}

struct Attempt {
    cipher: Arc<ContentCipher>,
    source: BoxStream<'static, Result<Bytes>>,
    /// From `source`, not yet encrypted.
    pending: Bytes,
    /// The offset of the next byte in the object.
    position: u64,
    end: u64,
    /// The index of the next strip.
    index: usize,
    crc: Crc64,
    /// Strips being sent; one without other references is filled again, so that a buffer is cleared once and
    /// not once per strip.
    pool: Vec<Bytes>,
    sent: Arc<Sent>,
}

impl Attempt {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        stream::try_unfold(self, |mut attempt| async move {
            Ok(attempt.next_strip().await?.map(|strip| (strip, attempt)))
        })
        .boxed()
    }

    async fn next_strip(&mut self) -> Result<Option<Bytes>> {
        if self.position == self.end {
            return self.end_of_source().await;
        }
        let len = (self.end - self.position).min(STRIP as u64) as usize;
        let mut strip = self.take_strip(len);
        let mut filled = 0;
        while filled < len {
            while self.pending.is_empty() {
                match self.source.next().await {
                    Some(chunk) => self.pending = chunk?,
                    None => return Err(self.sent.fail(BodyError::Short)),
                }
            }
            let piece = self.pending.len().min(len - filled);
            self.cipher
                .apply(
                    self.position,
                    &self.pending[..piece],
                    &mut strip[filled..filled + piece],
                )
                .map_err(StoreError::other)?;
            self.pending = self.pending.slice(piece..);
            self.position += piece as u64;
            filled += piece;
        }
        let strip = strip.freeze();
        let out = strip.slice(..len);
        // Covers everything so far: if it matches, this strip matches too, and each byte is checksummed only
        // once.
        self.crc.update(&out);
        if let Err(error) = self.sent.check(self.index, self.crc.value()) {
            return Err(self.sent.fail(error));
        }
        self.index += 1;
        if self.position == self.end {
            self.sent.finish(self.crc.value());
        }
        if self.pool.len() < POOL && strip.len() == STRIP {
            self.pool.push(strip);
        }
        Ok(Some(out))
    }

    /// Data after the end of the range means that the content is not the announced one.
    async fn end_of_source(&mut self) -> Result<Option<Bytes>> {
        loop {
            if !self.pending.is_empty() {
                return Err(self.sent.fail(BodyError::Long));
            }
            match self.source.next().await {
                None => {
                    self.sent.finish(self.crc.value());
                    return Ok(None);
                }
                Some(chunk) => self.pending = chunk?,
            }
        }
    }

    /// A buffer of at least `len` bytes, with arbitrary content.
    fn take_strip(&mut self, len: usize) -> BytesMut {
        if self.end - self.position < STRIP as u64 && self.index == 0 {
            // A small file does not need a whole strip.
            return BytesMut::zeroed(len);
        }
        for i in 0..self.pool.len() {
            if self.pool[i].is_unique() {
                match self.pool.swap_remove(i).try_into_mut() {
                    Ok(strip) => return strip,
                    Err(strip) => self.pool.push(strip),
                }
            }
        }
        let idle = IDLE_STRIPS.lock().expect("never poisoned").pop();
        idle.and_then(|strip| strip.try_into_mut().ok())
            .unwrap_or_else(|| BytesMut::zeroed(STRIP))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut idle = IDLE_STRIPS.lock().expect("never poisoned");
        for strip in self.pool.drain(..) {
            if idle.len() < IDLE && strip.is_unique() {
                idle.push(strip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::data_key::ContentKind;
    use crate::envelope::write;

    /// Regression: the HTTP client never polls an empty body, so its end was never reached, and every upload
    /// of an empty file counted as damaged.
    #[test]
    fn an_empty_body_has_its_checksum_without_being_polled() {
        let sent = Arc::new(Sent::default());
        let cipher = write::fresh_cipher(ContentKind::File);
        let body = body(Arc::new(cipher), Plaintext::empty(), 0..0, sent.clone());
        assert_eq!(body.len(), 0);
        assert_eq!(sent.crc64(), Some(0));
    }
}
