//! Multipart uploads.

use std::cmp::Ordering;

use serde::de::{IgnoredAny, MapAccess};

use super::call::Call;
use super::encryption_rules::{self, Plan};
use super::objects::{checked_length, copied_reply, copy_source, written};
use super::refusal::{Refusal, Result};
use super::reply::Reply;
use super::state::ServerState;
use super::xml::{self, Child, Children, Field, Xml, encoded};
use crate::base::time;
use crate::store::error::Error;
use crate::store::local::{LocalStore, clock};
use crate::store::object_store::*;

/// Of the document that completes an upload of 10,000 parts, with room.
const MAX_COMPLETE: usize = 4 << 20;

fn upload_id(call: &Call) -> UploadId {
    UploadId(call.parameter("uploadId").unwrap_or_default().to_string())
}

fn part_number(call: &Call) -> Result<u16> {
    let number = call.number("partNumber", 0, 1, 10_000)?;
    match number {
        0 => Err(Refusal::argument(
            "Part number must be an integer between 1 and 10000, inclusive.",
        )),
        number => Ok(number as u16),
    }
}

pub async fn initiate(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let headers = call.object_headers()?;
    let url = call.wants_url_encoding()?;
    encryption_rules::check_new(&headers)?;
    Plan::of(&headers)?;
    if call.overwrite() == Overwrite::Forbidden && store.describe(&key).is_ok() {
        return Err(Error::AlreadyExists.into());
    }
    let upload = store.create_multipart(&key, &headers).await?;
    let mut xml = Xml::document("InitiateMultipartUploadResult");
    if url {
        xml.text("EncodingType", "url");
    }
    xml.text("Bucket", call.bucket.as_deref().unwrap_or_default());
    xml.text("Key", &encoded(key.as_str(), url));
    xml.text("UploadId", &upload.0);
    Ok(Reply::xml(xml.finish()))
}

pub async fn upload_part(
    shared: &ServerState,
    store: &LocalStore,
    call: &mut Call,
) -> Result<Reply> {
    let key = call.object_key()?;
    let upload = upload_id(call);
    let number = part_number(call)?;
    let length = checked_length(call)?;
    let initiated = store.upload_headers(&key, &upload)?;
    if let Some(plan) = Plan::of(&initiated)? {
        encryption_rules::check_repeated(&call.object_headers()?, &initiated)?;
        let length = length.ok_or_else(|| {
            Refusal::new(
                411,
                "MissingContentLength",
                "You must provide the Content-Length HTTP header.",
            )
        })?;
        plan.check_part(number, length)?;
    }
    let body = call.take_body(shared.received())?;
    let part = store
        .part_stream(&key, &upload, number, body, length)
        .await?;
    Ok(written(&PutAnswer {
        etag: part.etag,
        crc64: part.crc64,
        date: clock::now(),
    }))
}

pub async fn copy_part(shared: &ServerState, store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let upload = upload_id(call);
    let number = part_number(call)?;
    store.upload_headers(&key, &upload)?;
    for _ in 0..100 {
        let source = copy_source(shared, call).await?;
        encryption_rules::check_part_source(&source.meta.headers)?;
        let size = source.meta.size;
        // A range that is not one copies the whole object, and says nothing.
        let range = call
            .header("x-oss-copy-source-range")
            .and_then(|range| copied_range(range, size));
        let object = match source
            .store
            .get(&source.key, range, Some(&source.meta.etag))
            .await
        {
            // Replaced since the conditions were checked: check them again.
            Err(Error::PreconditionFailed) => continue,
            object => object?,
        };
        let length = object.range.end - object.range.start;
        let part = store
            .part_stream(&key, &upload, number, object.body, Some(length))
            .await?;
        let now = clock::now();
        return Ok(copied_reply("CopyPartResult", &part.etag, part.crc64, now));
    }
    Err(Error::PreconditionFailed.into())
}

/// The bytes that `bytes=FROM-TO` names of a source of that size, if it has them.
pub fn copied_range(text: &str, size: u64) -> Option<ByteRange> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let from: u64 = from.parse().ok()?;
    let to: u64 = match to {
        "" => size.checked_sub(1)?,
        to => to.parse().ok()?,
    };
    (from <= to && to < size).then(|| from..to + 1)
}

pub async fn complete(shared: &ServerState, store: &LocalStore, call: &mut Call) -> Result<Reply> {
    let key = call.object_key()?;
    let upload = upload_id(call);
    let url = call.wants_url_encoding()?;
    let all = call
        .header("x-oss-complete-all")
        .is_some_and(|value| value.eq_ignore_ascii_case("yes"));
    let initiated = store.upload_headers(&key, &upload)?;
    let _document = shared.document().await?;
    let document = call.collect_body(MAX_COMPLETE).await?;
    let parts = if all {
        if !document.is_empty() {
            return Err(Refusal::argument("x-oss-complete-all takes no body."));
        }
        store
            .list_parts(&key, &upload)
            .await?
            .into_iter()
            .map(|part| UploadedPart {
                number: part.number,
                etag: part.tag.etag(),
                crc64: Some(part.crc64),
                size: part.size,
            })
            .collect()
    } else {
        read_parts(&document)?
    };
    if let Some(plan) = Plan::of(&initiated)? {
        plan.check_complete(parts.len())?;
    }
    let answer = store
        .complete_multipart(&key, &upload, &parts, call.overwrite())
        .await?;
    let bucket = call.bucket.as_deref().unwrap_or_default();
    let name = encoded(key.as_str(), url);
    let mut xml = Xml::document("CompleteMultipartUploadResult");
    if url {
        xml.text("EncodingType", "url");
    }
    xml.text(
        "Location",
        &format!("http://{}/{}", call.host, encoded(key.as_str(), true)),
    );
    xml.text("Bucket", bucket);
    xml.text("Key", &name);
    xml.text("ETag", answer.etag.as_str());
    let mut reply = Reply::xml(xml.finish());
    reply.header("etag", answer.etag.as_str());
    if let Some(crc64) = answer.crc64 {
        reply.header("x-oss-hash-crc64ecma", crc64.to_string());
    }
    Ok(reply)
}

/// The parts that a completion names, in its order.
pub fn read_parts(document: &[u8]) -> Result<Vec<UploadedPart>> {
    let document: Children<PartChild> =
        xml::parse(document, "CompleteMultipartUpload").ok_or_else(Refusal::malformed_xml)?;
    let parts = document.0.iter().map(|PartChild(part)| {
        let text = |name| part.text(name).map(str::trim);
        Some(UploadedPart {
            number: text("PartNumber")?.parse().ok()?,
            etag: ETag::new(text("ETag")?),
            crc64: None,
            size: 0,
        })
    });
    let parts: Option<Vec<UploadedPart>> = parts.collect();
    parts.ok_or_else(Refusal::malformed_xml)
}

struct PartChild(Children<Field>);

impl Child for PartChild {
    fn read<'de, A: MapAccess<'de>>(
        name: String,
        element: &mut A,
    ) -> std::result::Result<Option<PartChild>, A::Error> {
        if name == "Part" {
            return Ok(Some(PartChild(element.next_value()?)));
        }
        element.next_value::<IgnoredAny>()?;
        Ok(None)
    }
}

pub async fn abort(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let upload = upload_id(call);
    store.upload_headers(&key, &upload)?;
    store.abort_multipart(&key, &upload).await?;
    Ok(Reply::empty(204))
}

pub async fn list_parts(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let upload = upload_id(call);
    let url = call.wants_url_encoding()?;
    let max = call.number("max-parts", 1000, 1, 1000)? as usize;
    let marker = call.number("part-number-marker", 0, 0, 10_000)?;
    let headers = store.upload_headers(&key, &upload)?;
    let parts = store.list_parts(&key, &upload).await?;
    let mut left = parts
        .iter()
        .filter(|part| u64::from(part.number) > marker)
        .peekable();
    let page: Vec<_> = left.by_ref().take(max).collect();
    let truncated = left.peek().is_some();

    let mut xml = Xml::document("ListPartsResult");
    if url {
        xml.text("EncodingType", "url");
    }
    xml.text("Bucket", call.bucket.as_deref().unwrap_or_default());
    xml.text("Key", &encoded(key.as_str(), url));
    xml.text("UploadId", &upload.0);
    xml.text(
        "StorageClass",
        headers.storage_class.as_deref().unwrap_or("Standard"),
    );
    xml.number("PartNumberMarker", marker);
    xml.number(
        "NextPartNumberMarker",
        page.last().map_or(0, |part| part.number),
    );
    xml.number("MaxParts", max);
    xml.number("IsTruncated", truncated);
    for (element, name) in [
        ("ClientEncryptionKey", "key"),
        ("ClientEncryptionStart", "start"),
        ("ClientEncryptionCekAlg", "cek-alg"),
        ("ClientEncryptionWrapAlg", "wrap-alg"),
        ("ClientEncryptionDataSize", "data-size"),
        ("ClientEncryptionPartSize", "part-size"),
    ] {
        if let Some(value) = headers.user.get(&format!("client-side-encryption-{name}")) {
            xml.text(element, value);
        }
    }
    for part in page {
        xml.begin("Part");
        xml.number("PartNumber", part.number);
        xml.text("LastModified", &time::extended(part.modified));
        xml.text("ETag", part.tag.etag().as_str());
        xml.number("HashCrc64ecma", part.crc64);
        xml.number("Size", part.size);
        xml.end();
    }
    Ok(Reply::xml(xml.finish()))
}

pub async fn list_uploads(store: &LocalStore, call: &Call) -> Result<Reply> {
    let url = call.wants_url_encoding()?;
    let max = call.number("max-uploads", 1000, 1, 1000)? as usize;
    let prefix = call.parameter("prefix").unwrap_or_default();
    let delimiter = call.parameter("delimiter").unwrap_or_default();
    let key_marker = call.parameter("key-marker").unwrap_or_default();
    let id_marker = call.parameter("upload-id-marker").unwrap_or_default();
    let uploads = store.list_uploads(prefix).await?;

    let mut xml = Xml::document("ListMultipartUploadsResult");
    if url {
        xml.text("EncodingType", "url");
    }
    xml.text("Bucket", call.bucket.as_deref().unwrap_or_default());
    xml.text("KeyMarker", &encoded(key_marker, url));
    xml.text("UploadIdMarker", id_marker);
    xml.text("Prefix", &encoded(prefix, url));
    if !delimiter.is_empty() {
        xml.text("Delimiter", &encoded(delimiter, url));
    }
    xml.number("MaxUploads", max);
    let mut shown: Vec<&PendingUpload> = Vec::new();
    let mut folds: Vec<String> = Vec::new();
    let mut truncated = false;
    for upload in &uploads {
        let key = upload.key.as_str();
        // Without an id marker, the key marker's own uploads are over.
        let told = match key.cmp(key_marker) {
            Ordering::Less => true,
            Ordering::Equal => id_marker.is_empty() || upload.upload.0.as_str() <= id_marker,
            Ordering::Greater => false,
        };
        if told {
            continue;
        }
        let fold = match delimiter {
            "" => None,
            delimiter => key[prefix.len()..]
                .find(delimiter)
                .map(|at| key[..prefix.len() + at + delimiter.len()].to_string()),
        };
        if fold.is_some() && (folds.last() == fold.as_ref() || fold.as_deref() == Some(key_marker))
        {
            continue;
        }
        if shown.len() + folds.len() == max {
            truncated = true;
            break;
        }
        match fold {
            Some(fold) => folds.push(fold),
            None => shown.push(upload),
        }
    }
    xml.number("IsTruncated", truncated);
    // There even where nothing follows: the SDKs read them first.
    let (next_key, next_id) = match (shown.last(), folds.last()) {
        (Some(upload), Some(fold)) if fold.as_str() > upload.key.as_str() => (fold.as_str(), ""),
        (Some(upload), _) => (upload.key.as_str(), upload.upload.0.as_str()),
        (None, Some(fold)) => (fold.as_str(), ""),
        (None, None) => ("", ""),
    };
    xml.text("NextKeyMarker", &encoded(next_key, url));
    xml.text("NextUploadIdMarker", next_id);
    for upload in shown {
        xml.begin("Upload");
        xml.text("Key", &encoded(&upload.key, url));
        xml.text("UploadId", &upload.upload.0);
        xml.text("StorageClass", "Standard");
        xml.text("Initiated", &time::extended(upload.initiated));
        xml.end();
    }
    for fold in folds {
        xml.begin("CommonPrefixes");
        xml.text("Prefix", &encoded(&fold, url));
        xml.end();
    }
    Ok(Reply::xml(xml.finish()))
}
