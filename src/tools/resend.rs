//! Uploads the content of one version again under a fresh key.
//!
//! The source is read with If-Match, so its bytes come from one version, and its CRC-64 is compared before
//! anything is published. The service has no precondition on an upload, so the version is checked once more
//! right before the upload takes effect.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::base::crc64::{self, Crc64};
use crate::base::sync::lock;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{EncryptedBucket, Error, Plaintext, Result, Uploaded, Xattrs};
use crate::envelope::write::MultipartSizes;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ByteRange, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite};

/// Contents up to this many bytes are held in memory, while 64 objects are in progress.
const SMALL: u64 = 1 << 20;

/// The part size of larger contents, in bytes; it grows for the largest objects.
const PART: u64 = 8 << 20;

/// Parts of one object in flight.
const PARALLEL_PARTS: usize = 4;

pub(super) struct Resend<'a> {
    /// Encrypts with its writing key and in its format.
    pub bucket: &'a EncryptedBucket,
    pub source: &'a ObjectKey,
    /// Metadata of the version that is read.
    pub meta: &'a ObjectMeta,
    /// Decrypts the source; [`ContentCipher::identity`] for an unencrypted source.
    pub cipher: Arc<ContentCipher>,
    pub destination: &'a ObjectKey,
    pub headers: ObjectHeaders,
    pub xattrs: Option<&'a Xattrs>,
    pub overwrite: Overwrite,
}

impl Resend<'_> {
    /// # Errors
    /// [`StoreError::PreconditionFailed`] if the source was replaced, or its headers changed, in the
    /// meantime; [`Error::Damaged`] if its bytes do not have the CRC-64 that the store returned.
    pub(super) async fn run(self) -> Result<Uploaded> {
        if self.meta.size <= SMALL {
            self.in_one().await
        } else {
            self.in_parts().await
        }
    }

    async fn in_one(self) -> Result<Uploaded> {
        let range = (self.meta.size > 0).then_some(0..self.meta.size);
        let mut body = self
            .bucket
            .get(self.source, range, Some(&self.meta.etag))
            .await?;
        let mut content = BytesMut::zeroed(self.meta.size as usize);
        let mut filled = 0;
        while filled < content.len() {
            match body.read(&self.cipher, &mut content[filled..]).await? {
                0 => return Err(Error::Damaged("its body ended too early".into())),
                count => filled += count,
            }
        }
        // The response for the body may have had another checksum, or none.
        self.check_sum(body.crc64())?;
        self.check_source().await?;
        self.bucket
            .put(
                self.destination,
                &Plaintext::from_bytes(content.freeze()),
                self.headers,
                self.xattrs,
                self.overwrite,
            )
            .await
    }

    async fn in_parts(self) -> Result<Uploaded> {
        let size = self.meta.size;
        let part = size.div_ceil(10_000).next_multiple_of(128 << 10).max(PART);
        let sizes = MultipartSizes { total: size, part };
        let sums = Arc::new(Sums::default());
        let plain = self.plaintext(sums.clone());
        let upload = self
            .bucket
            .begin_sized_upload(self.destination, self.headers.clone(), self.xattrs, sizes)
            .await?;
        let result = async {
            stream::iter((0..size.div_ceil(part)).zip(1..))
                .map(|(index, number)| {
                    let start = index * part;
                    upload.part(number, start..size.min(start + part), &plain)
                })
                .buffer_unordered(PARALLEL_PARTS)
                .try_collect::<()>()
                .await?;
            self.check_sum(sums.whole())?;
            self.check_source().await?;
            upload.complete(self.overwrite).await
        }
        .await;
        if result.is_err()
            && let Err(error) = upload.abort().await
        {
            let key = self.destination;
            log::warn!("an unfinished upload of {key} remains in the bucket: {error}");
        }
        result
    }

    /// # Errors
    /// [`Error::Damaged`].
    fn check_sum(&self, read: u64) -> Result<()> {
        match self.meta.crc64 {
            Some(theirs) if theirs != read => Err(Error::Damaged(
                "its CRC-64 differs from the one that the store returned".into(),
            )),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// [`StoreError::PreconditionFailed`].
    async fn check_source(&self) -> Result<()> {
        let now = self.bucket.store().head(self.source).await?;
        if now.etag != self.meta.etag || now.headers != self.meta.headers {
            return Err(Error::Store(StoreError::PreconditionFailed));
        }
        Ok(())
    }

    fn plaintext(&self, sums: Arc<Sums>) -> Plaintext {
        let (store, key, tag) = (
            self.bucket.store().clone(),
            self.source.clone(),
            self.meta.etag.clone(),
        );
        let cipher = self.cipher.clone();
        Plaintext::new(self.meta.size, move |range| {
            let (store, key, tag) = (store.clone(), key.clone(), tag.clone());
            let (cipher, sums) = (cipher.clone(), sums.clone());
            stream::once(async move {
                let answer = store.get(&key, Some(range.clone()), Some(&tag)).await?;
                let reading = Reading {
                    at: range.start,
                    crc: Crc64::new(),
                    range,
                };
                Ok::<_, StoreError>(decrypted(answer.body, reading, cipher, sums))
            })
            .try_flatten()
            .boxed()
        })
    }
}

struct Reading {
    at: u64,
    crc: Crc64,
    range: ByteRange,
}

fn decrypted(
    body: stream::BoxStream<'static, std::result::Result<Bytes, StoreError>>,
    reading: Reading,
    cipher: Arc<ContentCipher>,
    sums: Arc<Sums>,
) -> impl stream::Stream<Item = std::result::Result<Bytes, StoreError>> + Send {
    stream::try_unfold(
        (body, reading, cipher, sums),
        |(mut body, mut reading, cipher, sums)| async move {
            let Some(chunk) = body.next().await else {
                return Ok(None);
            };
            let chunk = chunk?;
            reading.crc.update(&chunk);
            let mut plain = BytesMut::zeroed(chunk.len());
            cipher
                .apply(reading.at, &chunk, &mut plain)
                .map_err(StoreError::other)?;
            reading.at += chunk.len() as u64;
            if reading.at == reading.range.end {
                sums.add(&reading.range, reading.crc.value());
            }
            Ok(Some((plain.freeze(), (body, reading, cipher, sums))))
        },
    )
}

/// The CRC-64 of each range that was read, by its start: a part that is retried is read again.
#[derive(Default)]
struct Sums(Mutex<BTreeMap<u64, (u64, u64)>>);

impl Sums {
    fn add(&self, range: &ByteRange, crc: u64) {
        let mut sums = lock(&self.0);
        sums.insert(range.start, (crc, range.end - range.start));
    }

    fn whole(&self) -> u64 {
        let sums = lock(&self.0);
        sums.values()
            .fold(0, |whole, (crc, len)| crc64::combine(whole, *crc, *len))
    }
}
