//! Copying an object whole, by whichever way the service allows for its size and format.
//!
//! One request, for most. An object above the service's limit is copied in parts. The service changes no
//! metadata of an object that carries the SDK's names, and copies none in parts: such an object is sent
//! again, ciphertext and envelope as they are, so that it takes no key, and key and counter still stand for
//! one content.
//!
//! An upload has no precondition, and the service decides the moment at which it takes effect. So the
//! version is asked for once more when all that is left to be sent is short: a small body, or the word that
//! completes the parts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::bucket::EncryptedBucket;
use crate::envelope::format::{announce_sizes, announced_part_size, is_bound_by_sdk_rules};
use crate::store::error::Error;
use crate::store::object_store::{
    Body, ByteRange, CopyHeaders, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite, PutAnswer,
    Result, UploadId, UploadedPart,
};

/// Parts of one copy in flight: the service does the work.
const PARALLEL_COPIES: usize = 8;

/// Parts in flight of an object that is sent again.
const PARALLEL_PARTS: usize = 4;

/// The size of a copied part, in bytes.
const COPY_PART: u64 = 256 << 20;

/// The least size of the parts of an object that is sent again, in bytes.
const SENT_PART: u64 = 8 << 20;

/// The most parts an upload may have.
const MAX_PARTS: u64 = 10_000;

/// The sizes up to which one request does, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyLimits {
    /// A copy: the service's own limit, but in tests.
    pub copy: u64,
    /// An object that is sent again: it is held in memory meanwhile.
    pub held: u64,
}

impl Default for CopyLimits {
    /// Just below the documented 1 GB, and what 64 of them at once may take.
    fn default() -> CopyLimits {
        CopyLimits {
            copy: 1_000_000_000,
            held: 1 << 20,
        }
    }
}

impl EncryptedBucket {
    /// Copies the version that `meta` describes. Onto itself with [`CopyHeaders::Replace`]: changes its
    /// headers.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if `source` is not that version any more; the store's.
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
                .copy(source, tag, destination, headers, overwrite)
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
            let part = announced_part_size(&to.headers.user).filter(|part| *part > 0);
            let part = part.unwrap_or_else(|| part_size(meta.size, SENT_PART));
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

    /// A small object's ciphertext.
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
        let pieces: Vec<Bytes> = answer.body.try_collect().await?;
        Ok(Body::from_bytes(pieces.concat()))
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
                    self.one_part(source, meta, destination, &upload, number, range, way)
                })
                .buffer_unordered(parallel)
                .try_collect()
                .await?;
            done.sort_unstable_by_key(|part| part.number);
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
            log::warn!("an unfinished copy of {source} is left in the bucket: {error}");
        }
        result
    }

    #[allow(clippy::too_many_arguments)] // two names, a version and a place in it
    async fn one_part(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        upload: &UploadId,
        number: u16,
        range: ByteRange,
        way: Way,
    ) -> Result<UploadedPart> {
        let store = self.store();
        match way {
            Way::Copied => {
                store
                    .copy_part(destination, upload, number, source, &meta.etag, range)
                    .await
            }
            Way::Sent => {
                let body = self.body(source, meta, range);
                let sent = store.upload_part(destination, upload, number, body.body.clone());
                body.explain(sent.await)
            }
        }
    }

    /// A body that is read from the bucket while it is sent to it.
    fn body(&self, source: &ObjectKey, meta: &ObjectMeta, range: ByteRange) -> Relayed {
        let replaced = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (store, source, tag) = (self.store().clone(), source.clone(), meta.etag.clone());
        let flag = replaced.clone();
        let body = Body::new(range.end - range.start, move || {
            let (store, source, tag) = (store.clone(), source.clone(), tag.clone());
            let (range, flag) = (range.clone(), flag.clone());
            if range.is_empty() {
                return stream::empty().boxed();
            }
            stream::once(async move {
                let answer = store.get(&source, Some(range), Some(&tag)).await;
                if let Err(Error::PreconditionFailed | Error::NotFound) = &answer {
                    flag.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Ok::<_, Error>(answer?.body)
            })
            .try_flatten()
            .boxed()
        });
        Relayed { body, replaced }
    }
}

/// What becomes of a copy.
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
    /// The source was another version when it was to be read.
    replaced: Arc<std::sync::atomic::AtomicBool>,
}

impl Relayed {
    /// A body that broke off reaches us as an error of the request that carried it.
    fn explain<T>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(_) if self.replaced.load(std::sync::atomic::Ordering::Relaxed) => {
                Err(Error::PreconditionFailed)
            }
            answer => answer,
        }
    }
}

/// At least `least`, a multiple of 128 KiB where that is one, and so large that 10,000 are enough.
fn part_size(size: u64, least: u64) -> u64 {
    size.div_ceil(MAX_PARTS)
        .next_multiple_of(128 << 10)
        .max(least)
}

fn parts(size: u64, part: u64) -> Vec<(u16, ByteRange)> {
    let starts = (0..size.div_ceil(part)).map(|index| index * part);
    starts
        .zip(1..)
        .map(|(start, number)| (number, start..size.min(start + part)))
        .collect()
}

#[derive(Debug, thiserror::Error)]
#[error("the copy's CRC-64 is not the source's")]
struct CopyDiffers;

fn check(copy: Option<u64>, source: Option<u64>) -> Result<()> {
    match (copy, source) {
        (Some(copy), Some(source)) if copy != source => Err(Error::Corrupt(Arc::new(CopyDiffers))),
        _ => Ok(()),
    }
}
