//! A multipart upload under one key and one keystream.
//!
//! Part N at byte offset o is encrypted from counter start + o / 16 on, so parts may be uploaded in any order
//! and in parallel. The keystream is protected by three rules: every byte offset belongs to one part number;
//! a number that is sent again must carry the same bytes; and the cipher was created for this upload and
//! leaves it only inside the finished object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::StreamExt;

use super::error::{Error, Result};
use super::object::EncryptedObject;
use super::plaintext::Plaintext;
use super::strips::{self, Sent};
use crate::base::crc64;
use crate::crypto::ctr::ContentCipher;
use crate::envelope::write::MultipartSizes;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    ByteRange, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite, PutAnswer, UploadId,
    UploadedPart,
};

/// The result of a finished upload.
pub struct Uploaded {
    /// Unlocked, unless this mount cannot read what it writes: then its key is gone.
    pub object: Arc<EncryptedObject>,
    /// As stored, envelope included.
    pub headers: ObjectHeaders,
    /// The server's clock in the response.
    pub date: SystemTime,
}

/// See the module's documentation. Shared by the tasks that send parts.
pub struct EncryptedUpload {
    store: Arc<dyn ObjectStore>,
    key: ObjectKey,
    id: UploadId,
    cipher: Arc<ContentCipher>,
    headers: ObjectHeaders,
    sizes: Option<MultipartSizes>,
    /// The fingerprint of the writing key, if its private half is available.
    readable_by: Option<String>,
    /// A leaf: held only for a lookup.
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    by_number: BTreeMap<u16, Part>,
    /// The same, for finding overlaps: start of the range to its end.
    ranges: BTreeMap<u64, u64>,
    /// Completed or aborted: nothing more is encrypted.
    closed: bool,
}

struct Part {
    range: ByteRange,
    sent: Arc<Sent>,
    done: Option<UploadedPart>,
}

impl EncryptedUpload {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        key: ObjectKey,
        id: UploadId,
        cipher: Arc<ContentCipher>,
        headers: ObjectHeaders,
        sizes: Option<MultipartSizes>,
        readable_by: Option<String>,
    ) -> EncryptedUpload {
        EncryptedUpload {
            store,
            key,
            id,
            cipher,
            headers,
            sizes,
            readable_by,
            parts: Mutex::default(),
        }
    }

    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub fn id(&self) -> &UploadId {
        &self.id
    }

    /// As passed to the store when the upload began, envelope included.
    pub fn headers(&self) -> &ObjectHeaders {
        &self.headers
    }

    /// Encrypts and sends bytes `range` of `plain` as part `number` (1 to 10,000). `range` starts at a
    /// multiple of 16 bytes.
    ///
    /// Sending a number again sends the same bytes again; if it was complete, the bytes are only compared.
    ///
    /// # Errors
    /// [`Error::Abandoned`] if a byte would be encrypted that differs from what was sent before at its
    /// offset, or if the range does not fit this upload; the store's errors, among them
    /// [`Corrupt`](StoreError::Corrupt).
    pub async fn part(&self, number: u16, range: ByteRange, plain: &Plaintext) -> Result<()> {
        if range.end > plain.len() {
            return Err(Error::Abandoned("a part ends after the content"));
        }
        let (sent, done) = self.claim(number, &range)?;
        let body = strips::body(self.cipher.clone(), plain.clone(), range, sent.clone());
        if done {
            // It is already uploaded: nothing is sent, and the comparison shows whether it is the same.
            let mut body = body.open();
            while let Some(strip) = body.next().await {
                explain(strip, &sent)?;
            }
            return Ok(());
        }
        let answer = self
            .store
            .upload_part(&self.key, &self.id, number, body)
            .await;
        let answer = explain(answer, &sent)?;
        let crc64 = verify(answer.crc64, &sent)?;
        let mut parts = self.parts.lock().expect("never poisoned");
        if let Some(part) = parts.by_number.get_mut(&number) {
            part.done = Some(UploadedPart {
                number,
                etag: answer.etag,
                crc64: Some(crc64),
                size: part.range.end - part.range.start,
            });
        }
        Ok(())
    }

    /// Reserves the range for the number, or finds that the number already has it.
    fn claim(&self, number: u16, range: &ByteRange) -> Result<(Arc<Sent>, bool)> {
        if !(1..=10_000).contains(&number) || range.is_empty() || !range.start.is_multiple_of(16) {
            return Err(Error::Abandoned("no such part"));
        }
        if let Some(sizes) = self.sizes {
            let start = (u64::from(number) - 1) * sizes.part;
            if *range != (start..(start + sizes.part).min(sizes.total)) {
                return Err(Error::Abandoned("a part is not at its announced offset"));
            }
        }
        let mut parts = self.parts.lock().expect("never poisoned");
        if parts.closed {
            return Err(Error::Abandoned("it has already ended"));
        }
        if let Some(part) = parts.by_number.get(&number) {
            if part.range != *range {
                return Err(Error::Abandoned("the offset of a part has changed"));
            }
            return Ok((part.sent.clone(), part.done.is_some()));
        }
        // Only the last range that begins before the end of this one can overlap: the earlier ones are
        // disjoint from it.
        let before = parts.ranges.range(..range.end).next_back();
        if before.is_some_and(|(_, &end)| end > range.start) {
            return Err(Error::Abandoned("two parts overlap"));
        }
        let sent = Arc::new(Sent::default());
        parts.ranges.insert(range.start, range.end);
        parts.by_number.insert(
            number,
            Part {
                range: range.clone(),
                sent: sent.clone(),
                done: None,
            },
        );
        Ok((sent, false))
    }

    /// Completes the object from the parts, which must follow each other in the order of their numbers
    /// without a gap. Can be called again after an error of the store.
    ///
    /// # Errors
    /// [`Error::Abandoned`] if a part is missing; the store's errors, among them
    /// [`Corrupt`](StoreError::Corrupt) if the combined object differs from what was sent.
    pub async fn complete(&self, overwrite: Overwrite) -> Result<Uploaded> {
        let (list, size, crc64) = self.whole()?;
        let answer = self
            .store
            .complete_multipart(&self.key, &self.id, &list, overwrite)
            .await?;
        self.parts.lock().expect("never poisoned").closed = true;
        if answer.crc64.is_some_and(|theirs| theirs != crc64) {
            return Err(corrupt());
        }
        uploaded(
            answer,
            crc64,
            size,
            self.headers.clone(),
            self.cipher.clone(),
            self.readable_by.as_deref(),
        )
    }

    fn whole(&self) -> Result<(Vec<UploadedPart>, u64, u64)> {
        let parts = self.parts.lock().expect("never poisoned");
        if parts.closed {
            return Err(Error::Abandoned("it has already ended"));
        }
        let mut list = Vec::with_capacity(parts.by_number.len());
        let (mut size, mut crc64) = (0, 0);
        for part in parts.by_number.values() {
            let Some(done) = &part.done else {
                return Err(Error::Abandoned("a part is missing"));
            };
            if part.range.start != size {
                return Err(Error::Abandoned("a part is missing"));
            }
            let part_crc = done.crc64.expect("set when the part was done");
            crc64 = crc64::combine(crc64, part_crc, done.size);
            size = part.range.end;
            list.push(done.clone());
        }
        if list.is_empty() || self.sizes.is_some_and(|sizes| sizes.total != size) {
            return Err(Error::Abandoned("a part is missing"));
        }
        Ok((list, size, crc64))
    }

    /// Abandons the upload. Nothing more is encrypted, even if the store does not respond.
    ///
    /// # Errors
    /// The store's errors.
    pub async fn abort(&self) -> Result<()> {
        self.parts.lock().expect("never poisoned").closed = true;
        Ok(self.store.abort_multipart(&self.key, &self.id).await?)
    }
}

/// A body that this program cut short appears as an error of the store: report the real reason instead.
pub(super) fn explain<T>(answer: std::result::Result<T, StoreError>, sent: &Sent) -> Result<T> {
    use strips::BodyError;
    match (answer, sent.failure()) {
        (_, Some(BodyError::Changed)) => Err(Error::Abandoned(
            "the data differs from what was sent before under the same key",
        )),
        (_, Some(BodyError::Short | BodyError::Long)) => Err(Error::Abandoned(
            "the length of the content differs from the announced length",
        )),
        (answer, None) => Ok(answer?),
    }
}

/// Compares the store's CRC-64 with the local one, and returns the local one.
pub(super) fn verify(theirs: Option<u64>, sent: &Sent) -> Result<u64> {
    match sent.crc64() {
        Some(ours) if theirs.is_none_or(|theirs| theirs == ours) => Ok(ours),
        _ => Err(corrupt()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the CRC-64 of the data that the store received differs from the data sent")]
struct ChecksumDiffers;

fn corrupt() -> Error {
    Error::Store(StoreError::Corrupt(Arc::new(ChecksumDiffers)))
}

/// `readable_by` is the fingerprint of the available key that can open it; without one, the key is dropped.
pub(super) fn uploaded(
    answer: PutAnswer,
    crc64: u64,
    size: u64,
    headers: ObjectHeaders,
    cipher: Arc<ContentCipher>,
    readable_by: Option<&str>,
) -> Result<Uploaded> {
    let meta = ObjectMeta {
        size,
        etag: answer.etag,
        last_modified: answer.date,
        headers,
        crc64: Some(crc64),
        date: answer.date,
    };
    let mut object = EncryptedObject::new(&meta)?;
    if let Some(by) = readable_by {
        object = object.with_cipher(cipher, by);
    }
    Ok(Uploaded {
        object: Arc::new(object),
        headers: meta.headers,
        date: answer.date,
    })
}
