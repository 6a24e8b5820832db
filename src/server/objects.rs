//! Objects: put, get, head, copy, delete.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error as _, MapAccess};

use super::call::{Call, checked_key};
use super::encryption_rules;
use super::listing::ONLY_VERSION;
use super::refusal::{Refusal, Result};
use super::reply::{Body, Reply};
use super::state::ServerState;
use super::xml::{self, Child, Children, Field, Xml, encoded};
use crate::base::encoding::percent_decoded;
use crate::base::time;
use crate::object::meta::STANDARD_HEADERS;
use crate::store::error::Error;
use crate::store::local::LocalStore;
use crate::store::local::record::Tag;
use crate::store::object_store::*;

/// Of one PutObject or part.
const MAX_PUT: u64 = 5 << 30;

/// Of the document of a batch deletion.
const MAX_DELETE: usize = 2 << 20;

pub async fn put(shared: &ServerState, store: &LocalStore, call: &mut Call) -> Result<Reply> {
    let key = call.object_key()?;
    let headers = call.object_headers()?;
    encryption_rules::check_new(&headers)?;
    let length = checked_length(call)?;
    let overwrite = call.overwrite();
    if overwrite == Overwrite::Forbidden && store.describe(&key).is_ok() {
        return Err(Error::AlreadyExists.into());
    }
    let body = call.take_body(shared.received())?;
    let answer = store
        .put_stream(&key, &headers, body, length, overwrite)
        .await?;
    Ok(written(&answer))
}

pub fn checked_length(call: &Call) -> Result<Option<u64>> {
    let length = call.length()?;
    if length.is_some_and(|length| length > MAX_PUT) {
        return Err(Refusal::new(
            400,
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object size.",
        ));
    }
    Ok(length)
}

pub fn written(answer: &PutAnswer) -> Reply {
    let mut reply = Reply::empty(200);
    reply.header("etag", answer.etag.as_str());
    if let Some(crc64) = answer.crc64 {
        reply.header("x-oss-hash-crc64ecma", crc64.to_string());
    }
    if let Some(tag) = Tag::parse(answer.etag.as_str())
        && tag.parts == 0
    {
        reply.header("content-md5", BASE64.encode(tag.digest));
    }
    reply
}

fn not_modified(meta: &ObjectMeta) -> Reply {
    let mut reply = Reply::empty(304);
    reply.header("etag", meta.etag.as_str());
    reply.http_date("last-modified", meta.last_modified);
    reply
}

/// How the conditions of a request on an object come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    NotModified,
    Failed,
}

/// The conditions of a request: `If-Match` and its like.
pub struct Conditions<'a> {
    if_match: Option<&'a str>,
    if_none_match: Option<&'a str>,
    if_modified_since: Option<&'a str>,
    if_unmodified_since: Option<&'a str>,
}

impl Conditions<'_> {
    /// Those whose headers' names begin with `prefix`.
    pub fn of<'a>(call: &'a Call, prefix: &str) -> Conditions<'a> {
        let header = |name: &str| call.header(&format!("{prefix}{name}"));
        Conditions {
            if_match: header("if-match"),
            if_none_match: header("if-none-match"),
            if_modified_since: header("if-modified-since"),
            if_unmodified_since: header("if-unmodified-since"),
        }
    }

    pub fn judge(&self, meta: &ObjectMeta) -> Verdict {
        let names = |condition: &str| {
            condition == "*"
                || condition == meta.etag.as_str()
                || Tag::parse(condition).is_some_and(|tag| tag.is(&meta.etag))
        };
        // A date that cannot be read is no condition, as HTTP has it.
        let changed_since =
            |condition: &str| time::parse_http(condition).map(|date| meta.last_modified > date);
        if self.if_match.is_some_and(|condition| !names(condition)) {
            return Verdict::Failed;
        }
        if self.if_unmodified_since.and_then(changed_since) == Some(true) {
            return Verdict::Failed;
        }
        if self.if_none_match.is_some_and(names)
            || self.if_modified_since.and_then(changed_since) == Some(false)
        {
            return Verdict::NotModified;
        }
        Verdict::Go
    }
}

/// Whether `If-Range` names the object as it is: by its tag or by its date.
pub fn is_version(version: &str, meta: &ObjectMeta) -> bool {
    Tag::parse(version).is_some_and(|tag| tag.is(&meta.etag))
        || time::parse_http(version).is_some_and(|date| date == meta.last_modified)
}

/// What a `Range` header gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    Part(ByteRange),
    Unsatisfiable,
}

/// The service answers a range it does not like with the whole object, unless it is told to behave as the
/// standard says. Of several ranges it takes the first.
pub fn extent(header: &str, size: u64, standard: bool) -> Extent {
    let disliked = if standard {
        Extent::Unsatisfiable
    } else {
        Extent::Whole
    };
    let Some((from, to)) = header
        .trim()
        .strip_prefix("bytes=")
        .and_then(|ranges| ranges.split(',').next())
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Extent::Whole;
    };
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())
            .flatten()
    };
    match (from, to) {
        ("", suffix) => match number(suffix) {
            None => Extent::Whole,
            Some(0) => disliked,
            Some(_) if size == 0 => disliked,
            Some(len) if len > size && !standard => Extent::Whole,
            Some(len) => Extent::Part(size.saturating_sub(len)..size),
        },
        (from, to) => {
            let Some(from) = number(from) else {
                return Extent::Whole;
            };
            let last = match to {
                "" => None,
                to => match number(to) {
                    Some(last) if last >= from => Some(last),
                    _ => return Extent::Whole,
                },
            };
            match last {
                _ if from >= size => disliked,
                None => Extent::Part(from..size),
                Some(last) if last < size => Extent::Part(from..last + 1),
                Some(_) if standard => Extent::Part(from..size),
                Some(_) => Extent::Whole,
            }
        }
    }
}

pub fn get(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let conditions = Conditions::of(call, "");
    let standard = call
        .header("x-oss-range-behavior")
        .is_some_and(|value| value.eq_ignore_ascii_case("standard"));
    let range = call.header("range");
    let mut verdict = Verdict::Go;
    let mut partial = false;
    let mut total = 0;
    let opened = store.open_object(&key, |meta| {
        verdict = conditions.judge(meta);
        total = meta.size;
        let whole = call
            .header("if-range")
            .is_some_and(|version| !is_version(version, meta));
        let extent = match range {
            Some(range) if verdict == Verdict::Go && !whole => extent(range, meta.size, standard),
            _ => Extent::Whole,
        };
        match (verdict, extent) {
            (Verdict::Failed, _) => Err(Error::PreconditionFailed),
            (_, Extent::Unsatisfiable) => Err(Error::InvalidRange),
            (_, Extent::Part(range)) => {
                partial = true;
                Ok(Some(range))
            }
            (_, Extent::Whole) => Ok(None),
        }
    });
    let object = match opened {
        Err(Error::InvalidRange) => {
            return Err(Refusal::from(Error::InvalidRange)
                .with("ActualObjectSize", total.to_string())
                .with("RangeRequested", range.unwrap_or_default()));
        }
        opened => opened?,
    };
    if verdict == Verdict::NotModified {
        return Ok(not_modified(&object.meta));
    }
    let mut reply = Reply::empty(if partial { 206 } else { 200 });
    describe(
        &mut reply,
        &object.meta,
        object.multipart,
        object.md5.filter(|_| !partial),
    );
    for name in STANDARD_HEADERS.into_iter().chain(["content-type"]) {
        if let Some(value) = call.parameter(&format!("response-{name}")) {
            reply.headers.retain(|(header, _)| header != name);
            reply.header(name, value);
        }
    }
    if partial {
        let range = &object.range;
        reply.header(
            "content-range",
            format!("bytes {}-{}/{total}", range.start, range.end - 1),
        );
    }
    reply.body = Body::Stream(object.range.end - object.range.start, object.body());
    Ok(reply)
}

pub fn head(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let (meta, multipart, md5) = store.describe(&key)?;
    match Conditions::of(call, "").judge(&meta) {
        Verdict::Failed => return Err(Error::PreconditionFailed.into()),
        Verdict::NotModified => return Ok(not_modified(&meta)),
        Verdict::Go => {}
    }
    let mut reply = Reply::empty(200);
    describe(&mut reply, &meta, multipart, md5);
    reply.body = Body::Head(meta.size);
    Ok(reply)
}

/// `HEAD ?objectMeta`: no user metadata.
pub fn object_meta(store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let (meta, _, _) = store.describe(&key)?;
    match Conditions::of(call, "").judge(&meta) {
        Verdict::Failed => return Err(Error::PreconditionFailed.into()),
        Verdict::NotModified => return Ok(not_modified(&meta)),
        Verdict::Go => {}
    }
    let mut reply = Reply::empty(200);
    reply.header("etag", meta.etag.as_str());
    reply.http_date("last-modified", meta.last_modified);
    if let Some(crc64) = meta.crc64 {
        reply.header("x-oss-hash-crc64ecma", crc64.to_string());
    }
    reply.body = Body::Head(meta.size);
    Ok(reply)
}

fn describe(reply: &mut Reply, meta: &ObjectMeta, multipart: bool, md5: Option<[u8; 16]>) {
    let headers = &meta.headers;
    reply.header(
        "content-type",
        headers
            .content_type
            .as_deref()
            .unwrap_or("application/octet-stream"),
    );
    reply.header("accept-ranges", "bytes");
    reply.header("etag", meta.etag.as_str());
    reply.http_date("last-modified", meta.last_modified);
    reply.header(
        "x-oss-object-type",
        if multipart { "Multipart" } else { "Normal" },
    );
    reply.header(
        "x-oss-storage-class",
        headers.storage_class.as_deref().unwrap_or("Standard"),
    );
    if let Some(crc64) = meta.crc64 {
        reply.header("x-oss-hash-crc64ecma", crc64.to_string());
    }
    if let Some(md5) = md5 {
        reply.header("content-md5", BASE64.encode(md5));
    }
    for (name, value) in &headers.standard {
        reply.header(name, value);
    }
    for (name, value) in &headers.user {
        reply.header(&format!("x-oss-meta-{name}"), value);
    }
}

pub async fn delete(store: &LocalStore, call: &Call) -> Result<Reply> {
    store.delete(&call.object_key()?).await?;
    Ok(Reply::empty(204))
}

pub async fn delete_many(
    shared: &ServerState,
    store: &LocalStore,
    call: &mut Call,
) -> Result<Reply> {
    if call.header("content-md5").is_none() {
        return Err(Refusal::new(
            400,
            "MissingArgument",
            "Missing Some Required Arguments: Content-MD5.",
        ));
    }
    let url = call.wants_url_encoding()?;
    call.length()?;
    let _document = shared.document().await?;
    let document = call.collect_body(MAX_DELETE).await?;
    let deletion = Deletion::read(&document)?;
    let keys: Vec<_> = deletion
        .objects
        .iter()
        .map(|(key, _)| key.clone())
        .collect();
    store.delete_many(&keys).await?;
    if deletion.quiet {
        return Ok(Reply::empty(200));
    }
    let mut xml = Xml::document("DeleteResult");
    if url {
        xml.text("EncodingType", "url");
    }
    for (key, version) in deletion.objects {
        xml.begin("Deleted");
        xml.text("Key", &encoded(key.as_str(), url));
        if let Some(version) = version {
            xml.text("VersionId", version);
        }
        xml.end();
    }
    Ok(Reply::xml(xml.finish()))
}

/// What a batch deletion asks for.
pub struct Deletion {
    /// Keys, each with the version that is named with it, if one is.
    pub objects: Vec<(ObjectKey, Option<&'static str>)>,
    /// Only what could not be deleted shall be told.
    pub quiet: bool,
}

impl Deletion {
    /// # Errors
    /// 400 for another document, 501 for a deletion of something else than objects.
    pub fn read(document: &[u8]) -> Result<Deletion> {
        let document: Children<DeletionChild> =
            xml::parse(document, "Delete").ok_or_else(Refusal::malformed_xml)?;
        let mut quiet = None;
        let mut names = Vec::new();
        for child in &document.0 {
            let object = match child {
                DeletionChild::Quiet(text) => {
                    quiet.get_or_insert(text.trim().eq_ignore_ascii_case("true"));
                    continue;
                }
                DeletionChild::Object(object) => object,
            };
            let mut version = None;
            for field in &object.0 {
                match (field.name.as_str(), field.text.trim()) {
                    ("Key", _) => {}
                    // The one there is, as it is listed.
                    ("VersionId", ONLY_VERSION) => version = Some(ONLY_VERSION),
                    // Of another version, or under a condition, is another request than this one.
                    (other, _) => {
                        return Err(Refusal::not_implemented(&format!("{other} in a deletion")));
                    }
                }
            }
            let name = object.text("Key").ok_or_else(Refusal::malformed_xml)?;
            names.push((name, version));
        }
        if names.is_empty() || names.len() > 1000 {
            return Err(Refusal::malformed_xml());
        }
        let objects = names
            .into_iter()
            .map(|(name, version)| Ok((checked_key(name)?, version)));
        Ok(Deletion {
            objects: objects.collect::<Result<_>>()?,
            quiet: quiet.unwrap_or(false),
        })
    }
}

enum DeletionChild {
    Quiet(String),
    Object(Children<Field>),
}

impl Child for DeletionChild {
    fn read<'de, A: MapAccess<'de>>(
        name: String,
        element: &mut A,
    ) -> std::result::Result<Option<DeletionChild>, A::Error> {
        Ok(Some(match &*name {
            "Quiet" => DeletionChild::Quiet(element.next_value()?),
            "Object" => DeletionChild::Object(element.next_value()?),
            other => return Err(A::Error::custom(format!("<{other}> in a deletion"))),
        }))
    }
}

/// Where a copy comes from.
pub struct Source {
    pub store: LocalStore,
    pub key: ObjectKey,
    pub meta: ObjectMeta,
    /// The object of the bucket that the request goes to.
    pub here: bool,
}

/// Finds the source and checks the conditions on it.
pub async fn copy_source(shared: &ServerState, call: &Call) -> Result<Source> {
    let (bucket, key) = source_named(call.header("x-oss-copy-source").unwrap_or_default())?;
    let store = shared.bucket(&bucket).await?;
    let (meta, _, _) = store.describe(&key)?;
    match Conditions::of(call, "x-oss-copy-source-").judge(&meta) {
        Verdict::Go => {}
        Verdict::NotModified | Verdict::Failed => return Err(Error::PreconditionFailed.into()),
    }
    Ok(Source {
        here: call.bucket.as_deref() == Some(bucket.as_str()),
        store,
        key,
        meta,
    })
}

/// The bucket and the key in `x-oss-copy-source`.
pub fn source_named(text: &str) -> Result<(String, ObjectKey)> {
    let malformed = || {
        Refusal::argument(
            "Copy Source must mention the source bucket and key: /sourcebucket/sourcekey.",
        )
    };
    if text.contains('?') {
        return Err(Refusal::not_implemented("A version as source of a copy"));
    }
    let text = percent_decoded(text).ok_or_else(malformed)?;
    let text = text.strip_prefix('/').unwrap_or(&text);
    let (bucket, key) = text.split_once('/').ok_or_else(malformed)?;
    Ok((bucket.to_owned(), checked_key(key)?))
}

pub async fn copy(shared: &ServerState, store: &LocalStore, call: &Call) -> Result<Reply> {
    let key = call.object_key()?;
    let replaces = match call.header("x-oss-metadata-directive") {
        None => false,
        Some(value) if value.eq_ignore_ascii_case("copy") => false,
        Some(value) if value.eq_ignore_ascii_case("replace") => true,
        Some(_) => return Err(Refusal::argument("Unknown metadata directive.")),
    };
    let replacement = call.object_headers()?;
    for _ in 0..100 {
        let source = copy_source(shared, call).await?;
        if source.meta.size >= shared.copy_limit() {
            return Err(Refusal::new(
                400,
                "EntityTooLarge",
                "The copy source is too large for CopyObject; use UploadPartCopy.",
            ));
        }
        // Onto itself the request's metadata are taken whatever the directive says.
        let onto_itself = source.here && source.key == key;
        let headers = if replaces || onto_itself {
            let mut replacement = replacement.clone();
            // The one header that is not dropped when it is not replaced.
            replacement.content_type = replacement
                .content_type
                .or_else(|| source.meta.headers.content_type.clone());
            encryption_rules::check_replace(&source.meta.headers, &replacement)?;
            encryption_rules::check_new(&replacement)?;
            CopyHeaders::Replace(replacement)
        } else if replacement.storage_class.is_some() {
            // No metadata: the directive does not concern it.
            CopyHeaders::Replace(ObjectHeaders {
                storage_class: replacement.storage_class.clone(),
                ..source.meta.headers.clone()
            })
        } else {
            CopyHeaders::Keep
        };
        let copied = if source.here {
            store
                .copy_if(
                    &source.key,
                    Some(&source.meta.etag),
                    &key,
                    headers,
                    call.overwrite(),
                )
                .await
        } else {
            copy_across(&source, store, &key, headers, call.overwrite()).await
        };
        let (answer, modified) = match copied {
            // Replaced since the conditions were checked: check them again.
            Err(Error::PreconditionFailed) => continue,
            copied => copied?,
        };
        return Ok(copied_reply(
            "CopyObjectResult",
            &answer.etag,
            answer.crc64,
            modified,
        ));
    }
    Err(Error::PreconditionFailed.into())
}

/// Tells of a copy, in a document and in headers: oss2 reads those.
pub fn copied_reply(
    document: &'static str,
    etag: &ETag,
    crc64: Option<u64>,
    modified: SystemTime,
) -> Reply {
    let mut xml = Xml::document(document);
    xml.text("LastModified", &time::extended(modified));
    xml.text("ETag", etag.as_str());
    let mut reply = Reply::xml(xml.finish());
    reply.header("etag", etag.as_str());
    if let Some(crc64) = crc64 {
        reply.header("x-oss-hash-crc64ecma", crc64.to_string());
    }
    reply
}

async fn copy_across(
    source: &Source,
    store: &LocalStore,
    key: &ObjectKey,
    headers: CopyHeaders,
    overwrite: Overwrite,
) -> std::result::Result<(PutAnswer, SystemTime), Error> {
    let object = source
        .store
        .get(&source.key, None, Some(&source.meta.etag))
        .await?;
    let headers = match headers {
        CopyHeaders::Keep => object.meta.headers,
        CopyHeaders::Replace(headers) => headers,
    };
    let answer = store
        .put_stream(
            key,
            &headers,
            object.body,
            Some(object.meta.size),
            overwrite,
        )
        .await?;
    let modified = answer.date;
    Ok((answer, modified))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_answered_as_the_service_does() {
        use Extent::*;
        let cases: [(&str, Extent, Extent); 13] = [
            ("bytes=0-499", Part(0..500), Part(0..500)),
            ("bytes=500-", Part(500..1000), Part(500..1000)),
            ("bytes=-500", Part(500..1000), Part(500..1000)),
            ("bytes=500-2000", Whole, Part(500..1000)),
            ("bytes=1000-2000", Whole, Unsatisfiable),
            ("bytes=1000-", Whole, Unsatisfiable),
            ("bytes=-2000", Whole, Part(0..1000)),
            ("bytes=-0", Whole, Unsatisfiable),
            ("bytes=0-0,5-9", Part(0..1), Part(0..1)),
            ("bytes=5-2", Whole, Whole),
            ("bytes=x-", Whole, Whole),
            ("bytes=-", Whole, Whole),
            ("lines=0-4", Whole, Whole),
        ];
        for (header, default, standard) in cases {
            assert_eq!(extent(header, 1000, false), default, "{header}");
            assert_eq!(extent(header, 1000, true), standard, "{header}, standard");
        }
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(
                extent(header, 0, true),
                Unsatisfiable,
                "{header} of nothing"
            );
            assert_eq!(extent(header, 0, false), Whole, "{header} of nothing");
        }
    }
}
