//! The operations that a file system uses, one function each: the request and the interpretation of the
//! response.
//!
//! Two kinds of requests must not simply be retried if their outcome is unknown: completing a multipart
//! upload, and writes that must not replace anything. Their own success would look like another client's.
//! They check what is there, and recognise their own data by its CRC-64.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::TryStreamExt;
use md5::{Digest, Md5};
use reqwest::Method;

use super::call::{Answer, Call, Pairs, Payload};
use super::client::{Client, MAX_LISTING};
use super::error::{Error, Refusal};
use super::headers::{META_PREFIX, crc_of, etag_of, header, same_tag};
use super::retry::Budget;
use super::xml::{self, MAX_BATCH};
use crate::base::crc64::{self, Crc64};
use crate::base::encoding::percent_encoded;
use crate::object::answer::{BucketInfo, BucketStat, Overwrite, PutAnswer};
use crate::object::body::Body;
use crate::object::copy::{CopyHeaders, CopyPartRequest, CopyRequest};
use crate::object::error::{Error as ObjectError, Result};
use crate::object::key::ObjectKey;
use crate::object::meta::{ETag, ObjectHeaders, ObjectMeta};
use crate::object::upload::{PendingUpload, UploadId, UploadedPart};

/// The maximum number of unfinished uploads that are collected.
pub const MAX_UPLOADS: usize = 100_000;
/// The maximum number of consecutive pages of uploads without an entry.
const MAX_BARREN: u32 = 32;

impl Client {
    /// One PUT of at most 5 GiB. With `forbid_overwrite` the key must be free; buckets that have or had
    /// versioning ignore that.
    ///
    /// # Errors
    /// [`ObjectError::AlreadyExists`], [`ObjectError::Corrupt`] (the received data differs from the data
    /// sent, repeatedly).
    pub async fn put_object(
        &self,
        key: &str,
        headers: &ObjectHeaders,
        body: Body,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let operation = "PutObject";
        let mut call = Call::new(operation, Method::PUT, Some(key));
        push_headers(&mut call.headers, headers);
        let len = body.len();
        call.payload = Payload::Stream(body);
        set_forbid(&mut call, overwrite == Overwrite::Forbidden);
        let mut budget = self.budget();
        let mut unsure = false;
        loop {
            match self.send(&call, &mut budget).await {
                Ok(answer) => match verified(operation, &answer, answer.sent_crc) {
                    Ok(crc) => {
                        let etag = match etag_of(&answer.headers) {
                            Some(etag) => etag,
                            None => self.tag_of_stored(key, Some(len), crc, &mut budget).await?,
                        };
                        return Ok(self.stored(&answer, etag, crc));
                    }
                    Err(error) => {
                        // The object there now is this client's own, and damaged: it must be replaced.
                        set_forbid(&mut call, false);
                        self.pause(operation, error, &mut budget, None).await?;
                    }
                },
                Err(Error::Unsure(error)) => {
                    unsure = true;
                    match self.find(key).await? {
                        None => self.pause(operation, *error, &mut budget, None).await?,
                        Some(info) => return self.ours(info, &call, len, &headers.user).await,
                    }
                }
                Err(error) if unsure && matches!(error.means(), ObjectError::AlreadyExists) => {
                    match self.find(key).await? {
                        None => return Err(error.into()),
                        Some(info) => return self.ours(info, &call, len, &headers.user).await,
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Checks the outcome of a write. It has its own budget, because the write may have used its budget up;
    /// [`Client::send`] leaves that much time.
    async fn find(&self, key: &str) -> std::result::Result<Option<ObjectMeta>, Error> {
        let mut budget = Budget::new(Instant::now(), self.settings().timeout / 4);
        match self.head_within(key, &mut budget).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if matches!(error.means(), ObjectError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the existing object is the one that this PUT sent. Its data is read again for the CRC-64: the
    /// try whose response was lost may be any of several.
    async fn ours(
        &self,
        info: ObjectMeta,
        call: &Call<'_>,
        len: u64,
        user: &BTreeMap<String, String>,
    ) -> Result<PutAnswer> {
        let Payload::Stream(body) = &call.payload else {
            return Err(ObjectError::AlreadyExists);
        };
        if info.size != len || info.headers.user != *user {
            return Err(ObjectError::AlreadyExists);
        }
        let mut crc = Crc64::new();
        let mut source = body.open();
        while let Some(bytes) = source.try_next().await? {
            crc.update(&bytes);
        }
        match info.crc64 {
            Some(found) if found == crc.value() => Ok(found_stored(info)),
            _ => Err(ObjectError::AlreadyExists),
        }
    }

    /// Deleting a nonexistent object is not an error.
    pub async fn delete_object(&self, key: &str) -> Result<()> {
        Ok(self.delete_within(key, &mut self.budget()).await?)
    }

    async fn delete_within(
        &self,
        key: &str,
        budget: &mut Budget,
    ) -> std::result::Result<(), Error> {
        let call = Call::new("DeleteObject", Method::DELETE, Some(key));
        match self.send(&call, budget).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.means(), ObjectError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// At most [`MAX_BATCH`] keys. Returns the keys that were not deleted, with the reason.
    pub async fn delete_objects<'k>(
        &self,
        keys: &[&'k str],
    ) -> Result<Vec<(&'k str, ObjectError)>> {
        let operation = "DeleteMultipleObjects";
        let (batch, single): (Vec<&str>, Vec<&str>) =
            keys.iter().partition(|key| xml::is_writable(key));
        let mut failed: Vec<(&str, ObjectError)> = Vec::new();
        // Such names are too rare for parallel requests.
        let mut budget = self.budget();
        for key in single {
            if let Err(error) = self.delete_within(key, &mut budget).await {
                failed.push((key, error.into()));
            }
        }
        if batch.is_empty() {
            return Ok(failed);
        }
        let document = Bytes::from(xml::delete_request(batch.iter().copied()));
        let mut call = Call::new(operation, Method::POST, None)
            .query("delete", "")
            .query("encoding-type", "url")
            .header("content-type", "application/xml")
            .header("content-md5", BASE64.encode(Md5::digest(&document)));
        call.payload = Payload::Bytes(document);
        call.max_text = MAX_LISTING;
        let answer = self.send(&call, &mut budget).await?;
        let result =
            xml::deleted(&answer.text).map_err(|what| Error::Protocol { operation, what })?;
        let deleted: BTreeSet<&str> = result.deleted.iter().map(|key| &**key).collect();
        let mut refused: BTreeMap<String, Refusal> = result
            .refused
            .into_iter()
            .map(|(key, code, message)| {
                let refusal = Refusal {
                    operation,
                    bucket: self.bucket().to_owned(),
                    status: answer.status,
                    code,
                    message,
                    request_id: header(&answer.headers, "x-oss-request-id")
                        .unwrap_or_default()
                        .to_owned(),
                    ..Refusal::default()
                };
                (key, refusal)
            })
            .collect();
        for key in batch {
            match refused
                .remove(key)
                .map(|refusal| Error::Refused(Box::new(refusal)).into())
            {
                Some(ObjectError::NotFound) => {}
                Some(error) => failed.push((key, error)),
                None if deleted.contains(key) => {}
                None => {
                    let error = fault(operation, "the response does not name the key");
                    failed.push((key, error.into()));
                }
            }
        }
        Ok(failed)
    }

    /// Copies within the bucket, in one request, if the source's ETag is `source_etag`. Object tags are
    /// copied too. A copy onto itself changes only the headers.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::PreconditionFailed`], [`ObjectError::AlreadyExists`],
    /// [`ObjectError::TooLarge`] (1 GB and more).
    pub async fn copy_object(&self, request: &CopyRequest) -> Result<PutAnswer> {
        let operation = "CopyObject";
        let (source, source_etag) = (request.source.as_str(), &request.source_etag);
        let key = request.destination.as_str();
        let mut call = Call::new(operation, Method::PUT, Some(key))
            .header("x-oss-copy-source", self.copy_source(source))
            .header("x-oss-copy-source-if-match", source_etag.as_str())
            .header("x-oss-tagging-directive", "Copy");
        match &request.headers {
            CopyHeaders::Keep => {
                call = call.header("x-oss-metadata-directive", "COPY");
            }
            CopyHeaders::Replace(headers) => {
                call = call.header("x-oss-metadata-directive", "REPLACE");
                push_headers(&mut call.headers, headers);
            }
        }
        call.slow = true;
        set_forbid(&mut call, request.overwrite == Overwrite::Forbidden);
        let mut budget = self.budget();
        let mut unsure = false;
        loop {
            let (error, exists) = match self.send(&call, &mut budget).await {
                Ok(answer) => {
                    let etag = xml::etag(&answer.text, "CopyObjectResult")
                        .map_err(|what| Error::Protocol { operation, what })?;
                    let crc = crc_of(&answer.headers);
                    let etag = match etag.or_else(|| etag_of(&answer.headers)) {
                        Some(etag) => etag,
                        None => self.tag_of_stored(key, None, crc, &mut budget).await?,
                    };
                    return Ok(self.stored(&answer, etag, crc));
                }
                Err(Error::Unsure(error)) => (*error, false),
                Err(error) if unsure && matches!(error.means(), ObjectError::AlreadyExists) => {
                    (error, true)
                }
                Err(error) => return Err(error.into()),
            };
            unsure = true;
            if let Some(there) = self.find(key).await? {
                return match self.is_copy(&there, source, source_etag).await? {
                    true => Ok(found_stored(there)),
                    false => Err(ObjectError::AlreadyExists),
                };
            }
            if exists {
                return Err(error.into());
            }
            self.pause(operation, error, &mut budget, None).await?;
        }
    }

    async fn is_copy(
        &self,
        there: &ObjectMeta,
        source: &str,
        source_etag: &ETag,
    ) -> std::result::Result<bool, Error> {
        // The ETag of a copy equals its source's, unless the source was uploaded in parts.
        if same_tag(&there.etag, source_etag) {
            return Ok(true);
        }
        let source = self.find(source).await?;
        Ok(source.is_some_and(|source| {
            same_tag(&source.etag, source_etag)
                && source.size == there.size
                && source.crc64.is_some()
                && source.crc64 == there.crc64
        }))
    }

    fn copy_source(&self, key: &str) -> String {
        format!("/{}/{}", self.bucket(), percent_encoded(key, true))
    }

    /// Begins a multipart upload; the object gets `headers` when it is completed.
    pub async fn initiate_multipart(&self, key: &str, headers: &ObjectHeaders) -> Result<UploadId> {
        let operation = "InitiateMultipartUpload";
        let mut call = Call::new(operation, Method::POST, Some(key)).query("uploads", "");
        push_headers(&mut call.headers, headers);
        let answer = self.send(&call, &mut self.budget()).await?;
        Ok(xml::upload_id(&answer.text).map_err(|what| Error::Protocol { operation, what })?)
    }

    /// `number` is 1 to 10,000; sending a number again replaces the part.
    pub async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<UploadedPart> {
        let key = key.as_str();
        let operation = "UploadPart";
        let mut call = Call::new(operation, Method::PUT, Some(key))
            .query("partNumber", number.to_string())
            .query("uploadId", &*upload.0);
        let size = body.len();
        call.payload = Payload::Stream(body);
        let mut budget = self.budget();
        loop {
            let answer = self.send(&call, &mut budget).await?;
            match verified(operation, &answer, answer.sent_crc) {
                Ok(_) => {
                    let etag = match etag_of(&answer.headers) {
                        Some(etag) => etag,
                        None => {
                            let part = (key, upload, number);
                            self.tag_of_part(part, size, &mut budget).await?
                        }
                    };
                    return Ok(UploadedPart {
                        number,
                        etag,
                        crc64: answer.sent_crc,
                        size,
                    });
                }
                Err(error) => self.pause(operation, error, &mut budget, None).await?,
            }
        }
    }

    /// Copies `range` of an object of this bucket into a part, if its ETag is `source_etag`. The range must
    /// be inside the source: otherwise the service copies the whole object.
    pub async fn copy_part(&self, request: &CopyPartRequest) -> Result<UploadedPart> {
        let operation = "UploadPartCopy";
        let (key, source) = (request.key.as_str(), request.source.as_str());
        let (number, range) = (request.number, &request.range);
        if range.is_empty() {
            return Err(ObjectError::InvalidRange);
        }
        let mut call = Call::new(operation, Method::PUT, Some(key))
            .query("partNumber", number.to_string())
            .query("uploadId", &*request.upload.0)
            .header("x-oss-copy-source", self.copy_source(source))
            .header("x-oss-copy-source-if-match", request.source_etag.as_str())
            .header(
                "x-oss-copy-source-range",
                format!("bytes={}-{}", range.start, range.end - 1),
            );
        call.slow = true;
        let mut budget = self.budget();
        let answer = self.send(&call, &mut budget).await?;
        let etag = xml::etag(&answer.text, "CopyPartResult")
            .map_err(|what| Error::Protocol { operation, what })?;
        let size = range.end - range.start;
        let etag = match etag.or_else(|| etag_of(&answer.headers)) {
            Some(etag) => etag,
            None => {
                let part = (key, &request.upload, number);
                self.tag_of_part(part, size, &mut budget).await?
            }
        };
        Ok(UploadedPart {
            number,
            etag,
            crc64: crc_of(&answer.headers),
            size,
        })
    }

    /// The ETag of a part that was just stored, if the response did not contain it.
    async fn tag_of_part(
        &self,
        (key, upload, number): (&str, &UploadId, u16),
        size: u64,
        budget: &mut Budget,
    ) -> std::result::Result<ETag, Error> {
        let before = number.saturating_sub(1);
        let (parts, _) = self
            .list_parts_behind(key, upload, before, 1, budget)
            .await?;
        match parts.into_iter().next() {
            Some(part) if part.number == number && part.size == size => Ok(part.etag),
            _ => Err(fault("ListParts", "a part that was stored is not listed")),
        }
    }

    /// Creates the object from its parts, which are in ascending order.
    ///
    /// # Errors
    /// [`ObjectError::NoSuchUpload`], [`ObjectError::AlreadyExists`]; [`ObjectError::Corrupt`] if the object
    /// differs from the data sent.
    pub async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[UploadedPart],
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let key = key.as_str();
        let operation = "CompleteMultipartUpload";
        let document = xml::complete_request(parts.iter().map(|p| (p.number, p.etag.as_str())));
        let mut call = Call::new(operation, Method::POST, Some(key))
            .query("uploadId", &*upload.0)
            .header("content-type", "application/xml");
        call.payload = Payload::Bytes(Bytes::from(document));
        set_forbid(&mut call, overwrite == Overwrite::Forbidden);
        call.repeatable = false;
        call.slow = true;
        let size = parts
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(part.size));
        let crc = combined(parts);
        let mut budget = self.budget();
        // The service's clock, in whole seconds.
        let now = self.now();
        let began = now.checked_sub(Duration::from_secs(2)).unwrap_or(now);
        let mut unsure = false;
        loop {
            let error = match self.send(&call, &mut budget).await {
                Ok(answer) => {
                    let etag = xml::etag(&answer.text, "CompleteMultipartUploadResult")
                        .map_err(|what| Error::Protocol { operation, what })?;
                    let crc = verified(operation, &answer, crc)?;
                    let etag = match etag.or_else(|| etag_of(&answer.headers)) {
                        Some(etag) => etag,
                        None => {
                            self.tag_of_stored(key, Some(size), crc, &mut budget)
                                .await?
                        }
                    };
                    return Ok(self.stored(&answer, etag, crc));
                }
                Err(Error::Unsure(error)) => *error,
                Err(error)
                    if unsure
                        && matches!(
                            error.means(),
                            ObjectError::NoSuchUpload | ObjectError::AlreadyExists
                        ) =>
                {
                    error
                }
                Err(error) => return Err(error.into()),
            };
            unsure = true;
            if let Some(there) = self.find(key).await? {
                let same_bytes = match (crc, there.crc64) {
                    (Some(sent), Some(found)) => sent == found,
                    // Copied parts have no checksum: then it must be the one that appeared in the meantime.
                    _ => there.last_modified >= began,
                };
                if there.size == size && same_bytes {
                    return Ok(found_stored(there));
                }
            }
            self.pause(operation, error, &mut budget, None).await?;
        }
    }

    /// A missing upload is not an error.
    pub async fn abort_multipart(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let key = key.as_str();
        let call = Call::new("AbortMultipartUpload", Method::DELETE, Some(key))
            .query("uploadId", &*upload.0);
        match self.send(&call, &mut self.budget()).await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.means(),
                    ObjectError::NoSuchUpload | ObjectError::NotFound
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All uploaded parts: at most 10,000, in ascending order.
    pub async fn list_parts(&self, key: &str, upload: &UploadId) -> Result<Vec<UploadedPart>> {
        let mut all = Vec::new();
        let mut marker = 0;
        loop {
            let mut budget = self.budget();
            let (parts, next) = self
                .list_parts_behind(key, upload, marker, MAX_BATCH, &mut budget)
                .await?;
            all.extend(parts);
            match next {
                Some(next) => marker = next,
                None => return Ok(all),
            }
        }
    }

    /// At most `max` parts after part `marker`, and the marker for the following ones: it is greater.
    async fn list_parts_behind(
        &self,
        key: &str,
        upload: &UploadId,
        marker: u16,
        max: usize,
        budget: &mut Budget,
    ) -> std::result::Result<(Vec<UploadedPart>, Option<u16>), Error> {
        let operation = "ListParts";
        let mut call = Call::new(operation, Method::GET, Some(key))
            .query("uploadId", &*upload.0)
            .query("max-parts", max.to_string());
        if marker > 0 {
            call = call.query("part-number-marker", marker.to_string());
        }
        call.max_text = MAX_LISTING;
        let answer = self.send(&call, budget).await?;
        xml::parts(&answer.text, marker).map_err(|what| Error::Protocol { operation, what })
    }

    /// All unfinished multipart uploads of keys that begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the list does not advance, goes back, or has more than [`MAX_UPLOADS`] entries.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let operation = "ListMultipartUploads";
        let mut all: Vec<PendingUpload> = Vec::new();
        let mut marker: Option<(String, String)> = None;
        let mut barren = 0;
        loop {
            let mut call = Call::new(operation, Method::GET, None)
                .query("uploads", "")
                .query("encoding-type", "url")
                .query("max-uploads", "1000");
            if !prefix.is_empty() {
                call = call.query("prefix", prefix);
            }
            if let Some((key, upload)) = &marker {
                call = call
                    .query("key-marker", key)
                    .query("upload-id-marker", upload);
            }
            call.max_text = MAX_LISTING;
            let answer = self.send(&call, &mut self.budget()).await?;
            let (uploads, next) =
                xml::uploads(&answer.text).map_err(|what| Error::Protocol { operation, what })?;
            let before = all.len();
            // Has another prefix than requested.
            let below = uploads.into_iter().filter(|u| u.key.starts_with(prefix));
            all.extend(below);
            if all.len() > MAX_UPLOADS {
                return Err(fault(operation, "more uploads than a bucket can have").into());
            }
            let Some(next) = next else { return Ok(all) };
            barren = if all.len() > before { 0 } else { barren + 1 };
            // The order of uploads of one key is up to the service.
            let back = (marker.as_ref()).is_some_and(|last| next.0 < last.0 || next == *last);
            if back || barren > MAX_BARREN {
                return Err(fault(operation, "a list that does not advance").into());
            }
            marker = Some(next);
        }
    }

    /// Only for the bucket's owner: others get [`ObjectError::AccessDenied`].
    pub async fn bucket_info(&self) -> Result<BucketInfo> {
        let operation = "GetBucketInfo";
        let call = Call::new(operation, Method::GET, None).query("bucketInfo", "");
        let answer = self.send(&call, &mut self.budget()).await?;
        Ok(xml::bucket_info(&answer.text).map_err(|what| Error::Protocol { operation, what })?)
    }

    /// How much the bucket holds, as the service last counted it.
    pub async fn bucket_stat(&self) -> Result<BucketStat> {
        let operation = "GetBucketStat";
        let call = Call::new(operation, Method::GET, None).query("stat", "");
        let answer = self.send(&call, &mut self.budget()).await?;
        Ok(xml::bucket_stat(&answer.text).map_err(|what| Error::Protocol { operation, what })?)
    }

    fn stored(&self, answer: &Answer, etag: ETag, crc64: Option<u64>) -> PutAnswer {
        PutAnswer {
            etag,
            crc64,
            date: self.date_of(&answer.headers),
        }
    }
}

fn fault(operation: &'static str, what: &str) -> Error {
    Error::Protocol {
        operation,
        what: what.to_owned(),
    }
}

/// A write that must not replace anything cannot simply be retried.
fn set_forbid(call: &mut Call<'_>, forbid: bool) {
    const NAME: &str = "x-oss-forbid-overwrite";
    call.headers.retain(|(name, _)| name != NAME);
    if forbid {
        call.headers.push((NAME.into(), "true".into()));
    }
    call.repeatable = !forbid;
}

fn push_headers(out: &mut Pairs, headers: &ObjectHeaders) {
    for (name, value) in &headers.user {
        out.push((format!("{META_PREFIX}{name}").into(), value.clone().into()));
    }
    if let Some(kind) = &headers.content_type {
        out.push(("content-type".into(), kind.clone().into()));
    }
    for (name, value) in &headers.standard {
        out.push((name.clone().into(), value.clone().into()));
    }
    if let Some(class) = &headers.storage_class {
        out.push(("x-oss-storage-class".into(), class.clone().into()));
    }
}

fn found_stored(info: ObjectMeta) -> PutAnswer {
    PutAnswer {
        etag: info.etag,
        crc64: info.crc64,
        date: info.date.max(info.last_modified),
    }
}

/// Compares the data sent with what the service says it has. Returns the checksum, if it is known.
fn verified(
    operation: &'static str,
    answer: &Answer,
    sent: Option<u64>,
) -> std::result::Result<Option<u64>, Error> {
    match (crc_of(&answer.headers), sent) {
        (Some(expected), Some(found)) if expected != found => Err(Error::Corrupt {
            operation,
            expected,
            found,
        }),
        (said, sent) => Ok(said.or(sent)),
    }
}

/// The CRC-64 of all parts in order, if each one's is known.
fn combined(parts: &[UploadedPart]) -> Option<u64> {
    parts.iter().try_fold(0, |crc, part| {
        Some(crc64::combine(crc, part.crc64?, part.size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_parts_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * 7) as u8).collect();
        let part = |range: std::ops::Range<usize>| UploadedPart {
            number: 1,
            etag: ETag::new(""),
            crc64: Some(crc64::of(&bytes[range.clone()])),
            size: range.len() as u64,
        };
        assert_eq!(crc64::of(b"123456789"), 11_051_210_869_376_104_954);
        for parts in [
            vec![part(0..1000)],
            vec![part(0..1), part(1..1000)],
            vec![part(0..300), part(300..300), part(300..1000)],
        ] {
            assert_eq!(combined(&parts), Some(crc64::of(&bytes)));
        }
        assert_eq!(combined(&[]), Some(crc64::of(b"")));
        let mut unknown = part(0..10);
        unknown.crc64 = None;
        assert_eq!(combined(&[part(0..10), unknown]), None);
    }
}
