//! Content on its way between files of this machine and objects, in bounded memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::failure::Failure;
use super::options::Control;
use crate::base::crc64;
use crate::base::sync::lock;
use crate::crypto::ctr::ContentCipher;
use crate::encrypted::{EncryptedBucket, EncryptedUpload, Error, Plaintext, Uploaded, Xattrs};
use crate::envelope::write::MultipartSizes;
use crate::files::parts;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ByteRange, ObjectHeaders, ObjectKey, ObjectMeta, Overwrite};

/// What is read from a file, or written to one, at a time, in bytes.
const STEP: usize = 256 << 10;

/// Objects up to this size are fetched with one request; larger ones in ranges.
const WHOLE: u64 = 16 << 20;

/// The size of such a range, in bytes.
const RANGE: u64 = 8 << 20;

/// Ranges or parts of one file in flight.
const PARALLEL: usize = 4;

/// A file as the content of an upload. Ends early if the file does, which the upload detects.
pub(crate) fn plaintext(file: Arc<File>, len: u64, control: &Control) -> Plaintext {
    let control = control.clone();
    Plaintext::new(len, move |range| {
        let (file, control) = (file.clone(), control.clone());
        stream::try_unfold(
            (file, control, range),
            |(file, control, range)| async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let end = range.end.min(range.start + STEP as u64);
                let step = range.start..end;
                let bytes = read_at(file.clone(), step)
                    .await
                    .map_err(StoreError::other)?;
                let next = range.start + bytes.len() as u64;
                control.add_moved(bytes.len() as u64);
                Ok((!bytes.is_empty()).then_some((bytes, (file, control, next..range.end))))
            },
        )
        .boxed()
    })
}

/// As much of the range as the file has.
async fn read_at(file: Arc<File>, range: ByteRange) -> std::io::Result<Bytes> {
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], range.start + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    });
    read.await.map_err(std::io::Error::other)?
}

async fn write_at(file: Arc<File>, bytes: Vec<u8>, at: u64) -> std::io::Result<Vec<u8>> {
    let written = tokio::task::spawn_blocking(move || {
        file.write_all_at(&bytes, at)?;
        Ok(bytes)
    });
    written.await.map_err(std::io::Error::other)?
}

/// Uploads content under a fresh key: with one request, or in parts as a mount does.
pub(crate) async fn send(
    bucket: &EncryptedBucket,
    key: &ObjectKey,
    plain: &Plaintext,
    headers: ObjectHeaders,
    xattrs: Option<&Xattrs>,
    part_size: u64,
    control: &Control,
) -> Result<Uploaded, Failure> {
    let size = plain.len();
    if size <= part_size {
        let put = bucket.put(key, plain, headers, xattrs, Overwrite::Allowed);
        return Ok(put.await?);
    }
    let (parts, upload) = match bucket.format().has_sdk_names() {
        true => {
            let parts = parts::equal(size, part_size);
            let part = parts.first().map_or(size, |(_, range)| range.end);
            let sizes = MultipartSizes { total: size, part };
            let upload = bucket.begin_sized_upload(key, headers, xattrs, sizes);
            (parts, upload.await?)
        }
        false => {
            let upload = bucket.begin_upload(key, headers, xattrs).await?;
            (parts::plan(0, size, 1, part_size), upload)
        }
    };
    let result = send_parts(&upload, parts, plain, control).await;
    if result.is_err()
        && let Err(error) = upload.abort().await
        && !matches!(error, Error::Store(StoreError::NoSuchUpload))
    {
        log::warn!("an unfinished upload of {key} remains in the bucket: {error}");
    }
    result
}

async fn send_parts(
    upload: &EncryptedUpload,
    parts: Vec<(u16, ByteRange)>,
    plain: &Plaintext,
    control: &Control,
) -> Result<Uploaded, Failure> {
    stream::iter(parts)
        .map(|(number, range)| async move {
            if control.is_stopped() {
                return Err(Failure::Interrupted);
            }
            Ok(upload.part(number, range, plain).await?)
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(upload.complete(Overwrite::Allowed).await?)
}

/// Whether an object of this size is fetched with one request, which brings its headers too.
pub(crate) fn is_fetched_whole(size: u64) -> bool {
    size <= WHOLE
}

/// Writes the rest of a body into a file, from the body's position on.
pub(crate) async fn write_body(
    mut body: crate::encrypted::Ciphertext,
    cipher: &ContentCipher,
    file: &Arc<File>,
    control: &Control,
) -> Result<u64, Failure> {
    let size = usize::try_from(body.range.end - body.position()).unwrap_or(STEP);
    let mut buffer = vec![0; size.clamp(1, STEP)];
    loop {
        let at = body.position();
        let mut filled = 0;
        while filled < buffer.len() {
            match body.read(cipher, &mut buffer[filled..]).await? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(body.crc64());
        }
        if control.is_stopped() {
            return Err(Failure::Interrupted);
        }
        control.add_moved(filled as u64);
        let full = buffer.len();
        buffer.truncate(filled);
        let written = write_at(file.clone(), buffer, at).await;
        buffer = written.map_err(Failure::Writing)?;
        buffer.resize(full, 0);
    }
}

/// Fetches a large object into a file, several ranges at a time.
pub(crate) async fn fetch_ranges(
    bucket: &EncryptedBucket,
    key: &ObjectKey,
    meta: &ObjectMeta,
    cipher: &ContentCipher,
    file: &Arc<File>,
    control: &Control,
) -> Result<(), Failure> {
    let ranges = (0..meta.size.div_ceil(RANGE)).map(|index| {
        let start = index * RANGE;
        start..meta.size.min(start + RANGE)
    });
    let sums: Mutex<Vec<(u64, u64, u64)>> = Mutex::default();
    stream::iter(ranges)
        .map(|range| {
            let sums = &sums;
            async move {
                if control.is_stopped() {
                    return Err(Failure::Interrupted);
                }
                let body = bucket
                    .get(key, Some(range.clone()), Some(&meta.etag))
                    .await?;
                let crc = write_body(body, cipher, file, control).await?;
                let mut sums = lock(sums);
                sums.push((range.start, crc, range.end - range.start));
                Ok(())
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    let mut sums = lock(&sums);
    sums.sort_unstable();
    let whole = sums
        .iter()
        .fold(0, |whole, (_, crc, len)| crc64::combine(whole, *crc, *len));
    match meta.crc64 {
        Some(theirs) if theirs != whole => Err(Error::Damaged(
            "its CRC-64 differs from the one that the store returned".into(),
        )
        .into()),
        _ => Ok(()),
    }
}

/// A range of an object as plaintext, in order, a few pieces ahead of who reads.
pub(crate) fn read<'a>(
    bucket: &'a EncryptedBucket,
    key: &'a ObjectKey,
    meta: &'a ObjectMeta,
    cipher: &'a ContentCipher,
    range: ByteRange,
) -> impl stream::Stream<Item = Result<Bytes, Failure>> + 'a {
    const PIECE: u64 = 4 << 20;
    let pieces = (range.end - range.start).div_ceil(PIECE);
    stream::iter(0..pieces)
        .map(move |index| {
            let start = range.start + index * PIECE;
            let piece = start..range.end.min(start + PIECE);
            async move {
                let mut buffer = vec![0; (piece.end - piece.start) as usize];
                let mut body = bucket.get(key, Some(piece), Some(&meta.etag)).await?;
                let mut filled = 0;
                while filled < buffer.len() {
                    match body.read(cipher, &mut buffer[filled..]).await? {
                        0 => return Err(Error::Damaged("its body ended too early".into()).into()),
                        count => filled += count,
                    }
                }
                Ok(Bytes::from(buffer))
            }
        })
        .buffered(PARALLEL)
}

/// Whether an object has the content of a file of the same size.
pub(crate) async fn is_same(
    bucket: &EncryptedBucket,
    key: &ObjectKey,
    meta: &ObjectMeta,
    cipher: &ContentCipher,
    file: &Arc<File>,
) -> Result<bool, Failure> {
    let mut body = bucket.get(key, None, Some(&meta.etag)).await?;
    let mut buffer = vec![0; STEP];
    loop {
        let at = body.position();
        let count = body.read(cipher, &mut buffer).await?;
        if count == 0 {
            return Ok(true);
        }
        let theirs = read_at(file.clone(), at..at + count as u64).await;
        if theirs.map_err(Failure::Reading)? != buffer[..count] {
            return Ok(false);
        }
    }
}

/// A range of an object as plaintext, as one stream that owns what it needs.
pub(crate) fn decrypted(
    bucket: Arc<EncryptedBucket>,
    key: ObjectKey,
    meta: ObjectMeta,
    cipher: Arc<ContentCipher>,
    range: ByteRange,
) -> impl stream::Stream<Item = Result<Bytes, Failure>> + Send {
    stream::try_unfold(None, move |body: Option<crate::encrypted::Ciphertext>| {
        let (bucket, key, tag) = (bucket.clone(), key.clone(), meta.etag.clone());
        let (cipher, range) = (cipher.clone(), range.clone());
        async move {
            let mut body = match body {
                Some(body) => body,
                None => bucket.get(&key, Some(range), Some(&tag)).await?,
            };
            let mut buffer = vec![0; STEP];
            let count = body.read(&cipher, &mut buffer).await?;
            buffer.truncate(count);
            Ok((count > 0).then(|| (Bytes::from(buffer), Some(body))))
        }
    })
}
