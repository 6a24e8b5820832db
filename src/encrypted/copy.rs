//! Copies a whole object, in the way that the service allows for its size and format.
//!
//! Most copies are one request. An object above the service's limit is copied in parts. For an object with
//! the SDK's names, the service neither changes metadata nor copies in parts: such an object is uploaded
//! again with its ciphertext and envelope unchanged, which needs no key, and key and counter still belong to
//! one content.
//!
//! An upload has no precondition, and the service decides when it takes effect. So the version is checked
//! once more when only a short request remains to be sent: a small body, or the completion of the parts.
//! Before that, the data is compared with the source's CRC-64, because publishing it replaces a good object.
//! completes the parts. And what was read is compared with the source's CRC-64 before that: once it is
//! published, it has replaced what was whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::bucket::EncryptedBucket;
use crate::base::crc64::{self, Crc64};
use crate::base::sync::lock;
use crate::envelope::format::{announce_sizes, is_bound_by_sdk_rules};
use crate::store::error::Error;
use crate::store::object_store::{
    Body, ByteRange, CopyHeaders, CopyPartRequest, CopyRequest, ObjectHeaders, ObjectKey,
    ObjectMeta, Overwrite, PutAnswer, Result, UploadedPart,
};

/// Parts of one copy in flight: the service does the work.
const PARALLEL_COPIES: usize = 8;

/// Parts in flight of an object that is uploaded again.
const PARALLEL_PARTS: usize = 4;

/// The size of a copied part, in bytes.
const COPY_PART: u64 = 256 << 20;

/// The minimum part size of an object that is uploaded again, in bytes.
const SENT_PART: u64 = 8 << 20;

/// The maximum number of parts of an upload.
const MAX_PARTS: u64 = 10_000;

/// The sizes up to which one request is used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyLimits {
    /// For a copy: the service's own limit, except in tests.
    pub copy: u64,
    /// For an object that is uploaded again: it is held in memory.
    pub held: u64,
}

impl Default for CopyLimits {
    /// Just below the documented 1 GB, and affordable for 64 uploads at once.
    fn default() -> CopyLimits {
        CopyLimits {
            copy: 1_000_000_000,
            held: 1 << 20,
        }
    }
}

impl EncryptedBucket {
    /// Copies the version that `meta` describes. Copying onto itself with [`CopyHeaders::Replace`] changes
    /// its headers.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if `source` is no longer that version; the store's errors.
    pub async fn copy(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
        limits: CopyLimits,
    ) -> Result<PutAnswer> {
        let bound = is_bound_by_sdk_rules(&meta.headers.user)
            || matches!(&headers, CopyHeaders::Replace(new) if is_bound_by_sdk_rules(&new.user));
        let keeps = matches!(headers, CopyHeaders::Keep);
        if meta.size < limits.copy && (keeps || !bound) {
            let (store, tag) = (self.store(), &meta.etag);
            return store
                .copy(&CopyRequest {
                    source: source.clone(),
                    source_etag: tag.clone(),
                    destination: destination.clone(),
                    headers,
                    overwrite,
                })
                .await;
        }
        let headers = match headers {
            CopyHeaders::Keep => meta.headers.clone(),
            CopyHeaders::Replace(headers) => headers,
        };
        let to = Destination {
            key: destination,
            headers,
            overwrite,
        };
        if bound {
            self.send_again(source, meta, to, limits).await
        } else {
            let part = part_size(meta.size, COPY_PART.min(limits.copy));
            self.in_parts(source, meta, to, part, Way::Copied).await
        }
    }

    async fn send_again(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        mut to: Destination<'_>,
        limits: CopyLimits,
    ) -> Result<PutAnswer> {
        if meta.size > limits.held {
            // Not the announced size: that is a number from the bucket, and readers do not need it.
            let part = part_size(meta.size, SENT_PART);
            announce_sizes(&mut to.headers.user, meta.size, part);
            return self.in_parts(source, meta, to, part, Way::Sent).await;
        }
        let body = self.hold(source, meta).await?;
        self.check_version(source, meta).await?;
        let put = self.store().put(to.key, &to.headers, body, to.overwrite);
        let answer = put.await?;
        check(answer.crc64, meta.crc64)?;
        Ok(answer)
    }

    /// A small object's ciphertext, with its expected checksum.
    async fn hold(&self, source: &ObjectKey, meta: &ObjectMeta) -> Result<Body> {
        if meta.size == 0 {
            return Ok(Body::empty());
        }
        let whole = Some(0..meta.size);
        let answer = self.store().get(source, whole, Some(&meta.etag)).await;
        let answer = match answer {
            Err(Error::NotFound) => return Err(Error::PreconditionFailed),
            answer => answer?,
        };
        let mut body = answer.body;
        let mut content = BytesMut::new();
        while let Some(chunk) = body.try_next().await? {
            content.extend_from_slice(&chunk);
            if content.len() as u64 > meta.size {
                break;
            }
        }
        if content.len() as u64 != meta.size {
            return Err(Error::Corrupt(Arc::new(SourceDiffers)));
        }
        check(Some(crc64::of(&content)), meta.crc64)?;
        Ok(Body::from_bytes(content.freeze()))
    }

    /// # Errors
    /// [`Error::PreconditionFailed`].
    async fn check_version(&self, source: &ObjectKey, meta: &ObjectMeta) -> Result<()> {
        match self.store().head(source).await {
            Ok(now) if now.etag == meta.etag => Ok(()),
            Ok(_) | Err(Error::NotFound) => Err(Error::PreconditionFailed),
            Err(error) => Err(error),
        }
    }

    async fn in_parts(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        to: Destination<'_>,
        part: u64,
        way: Way,
    ) -> Result<PutAnswer> {
        let (store, destination) = (self.store(), to.key);
        let upload = store.create_multipart(destination, &to.headers).await?;
        let parallel = match way {
            Way::Copied => PARALLEL_COPIES,
            Way::Sent => PARALLEL_PARTS,
        };
        let result = async {
            let mut done: Vec<UploadedPart> = stream::iter(parts(meta.size, part))
                .map(|(number, range)| {
                    let part = CopyPartRequest {
                        key: destination.clone(),
                        upload: upload.clone(),
                        number,
                        source: source.clone(),
                        source_etag: meta.etag.clone(),
                        range,
                    };
                    self.one_part(meta, part, way)
                })
                .buffer_unordered(parallel)
                .try_collect()
                .await?;
            done.sort_unstable_by_key(|part| part.number);
            check(whole(&done), meta.crc64)?;
            if source == destination {
                self.check_version(source, meta).await?;
            }
            let answer = store
                .complete_multipart(destination, &upload, &done, to.overwrite)
                .await?;
            check(answer.crc64, meta.crc64)?;
            Ok(answer)
        }
        .await;
        if result.is_err()
            && let Err(error) = store.abort_multipart(destination, &upload).await
        {
            log::warn!("an unfinished copy of {source} remains in the bucket: {error}");
        }
        result
    }

    async fn one_part(
        &self,
        meta: &ObjectMeta,
        part: CopyPartRequest,
        way: Way,
    ) -> Result<UploadedPart> {
        let store = self.store();
        let len = part.range.end - part.range.start;
        let part = match way {
            Way::Copied => store.copy_part(&part).await?,
            Way::Sent => {
                let relayed = self.body(&part.source, meta, part.range);
                let body = relayed.body.clone();
                let sent = store.upload_part(&part.key, &part.upload, part.number, body);
                let part = relayed.explain(sent.await)?;
                let read = relayed.crc64();
                let read = read.ok_or_else(|| Error::Corrupt(Arc::new(SourceDiffers)))?;
                check(part.crc64, Some(read))?;
                UploadedPart {
                    crc64: Some(read),
                    ..part
                }
            }
        };
        Ok(UploadedPart { size: len, ..part })
    }

    /// A body that is read from the bucket while it is sent to it.
    fn body(&self, source: &ObjectKey, meta: &ObjectMeta, range: ByteRange) -> Relayed {
        let (replaced, read) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (store, source, tag) = (self.store().clone(), source.clone(), meta.etag.clone());
        let len = range.end - range.start;
        let (flag, sum) = (replaced.clone(), read.clone());
        let body = Body::new(len, move || {
            let (store, source, tag) = (store.clone(), source.clone(), tag.clone());
            let (range, flag, sum) = (range.clone(), flag.clone(), sum.clone());
            if range.is_empty() {
                return stream::empty().boxed();
            }
            let mut crc = Crc64::new();
            let mut missing = len;
            stream::once(async move {
                let answer = store.get(&source, Some(range), Some(&tag)).await;
                if let Err(Error::PreconditionFailed | Error::NotFound) = &answer {
                    flag.store(true, Ordering::Relaxed);
                }
                Ok::<_, Error>(answer?.body)
            })
            .try_flatten()
            .inspect_ok(move |chunk: &Bytes| {
                crc.update(chunk);
                missing = missing.saturating_sub(chunk.len() as u64);
                if missing == 0 {
                    *lock(&sum) = Some(crc.value());
                }
            })
            .boxed()
        });
        Relayed {
            body,
            replaced,
            read,
        }
    }
}

/// The outcome of a copy.
struct Destination<'a> {
    key: &'a ObjectKey,
    headers: ObjectHeaders,
    overwrite: Overwrite,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Copied,
    Sent,
}

struct Relayed {
    body: Body,
    /// The source had another version when it was read.
    replaced: Arc<AtomicBool>,
    /// CRC-64 of the last attempt's data, if it reached the end of the range.
    read: Arc<Mutex<Option<u64>>>,
}

impl Relayed {
    /// A body that breaks off appears as an error of the request that carried it.
    fn explain<T>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(_) if self.replaced.load(Ordering::Relaxed) => Err(Error::PreconditionFailed),
            answer => answer,
        }
    }

    fn crc64(&self) -> Option<u64> {
        *lock(&self.read)
    }
}

/// At least `least`, a multiple of 128 KiB if `least` is, and large enough that 10,000 parts suffice.
fn part_size(size: u64, least: u64) -> u64 {
    size.div_ceil(MAX_PARTS)
        .next_multiple_of(128 << 10)
        .max(least)
}

/// Generated on demand, because `size` is a number from the bucket.
fn parts(size: u64, part: u64) -> impl Iterator<Item = (u16, ByteRange)> {
    let starts = (0..size.div_ceil(part)).map(move |index| index * part);
    let ranges = starts.map(move |start| start..size.min(start.saturating_add(part)));
    (1..).zip(ranges)
}

/// The combined CRC-64 of the parts; None if one of them is unknown.
fn whole(parts: &[UploadedPart]) -> Option<u64> {
    parts.iter().try_fold(0, |whole, part| {
        Some(crc64::combine(whole, part.crc64?, part.size))
    })
}

#[derive(Debug, thiserror::Error)]
#[error("the length of the source's body differs from the length of the source")]
struct SourceDiffers;

#[derive(Debug, thiserror::Error)]
#[error("the CRC-64 of the copy differs from that of the source")]
struct CopyDiffers;

fn check(copy: Option<u64>, source: Option<u64>) -> Result<()> {
    match (copy, source) {
        (Some(copy), Some(source)) if copy != source => Err(Error::Corrupt(Arc::new(CopyDiffers))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_whatever_size_is_claimed() {
        for size in [1, SENT_PART + 1, 48 << 40, 1 << 62, u64::MAX] {
            let part = part_size(size, SENT_PART);
            let mut parts = parts(size, part);
            assert_eq!(parts.next(), Some((1, 0..part.min(size))));
            let last = parts.last().unwrap_or((1, 0..size));
            assert_eq!(last.1.end, size);
            assert!(u64::from(last.0) <= MAX_PARTS, "{size}");
        }
    }
}
