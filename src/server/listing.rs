//! Listings of objects and buckets, and what there is to say of a bucket.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::call::Call;
use super::refusal::{Refusal, Result};
use super::reply::Reply;
use super::state::ServerState;
use super::xml::{Xml, encoded};
use crate::base::time;
use crate::store::local::index::{From, Page};
use crate::store::local::record::Facts;
use crate::store::local::{self, LocalStore};
use crate::store::object_store::ObjectStore;

/// As long as the service says nothing else.
const DEFAULT_KEYS: u64 = 100;
const MAX_KEYS: u64 = 1000;

const OWNER: &str = "ossvault";

pub async fn objects_v2(store: &LocalStore, call: &Call) -> Result<Reply> {
    let url = call.wants_url_encoding()?;
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let prefix = call.parameter("prefix").unwrap_or_default();
    let delimiter = call.parameter("delimiter").unwrap_or_default();
    let start_after = call.parameter("start-after").unwrap_or_default();
    let token = call.parameter("continuation-token").unwrap_or_default();
    let owner = call.parameter("fetch-owner") == Some("true");
    let from = match (token, start_after) {
        ("", "") => From::Start,
        ("", key) => From::After(key.to_string()),
        (token, _) => read_token(token)
            .ok_or_else(|| Refusal::argument("The continuation token provided is incorrect."))?,
    };
    let page = store.page(prefix, delimiter, from, max as usize).await?;

    let mut xml = Xml::document("ListBucketResult");
    begin_page(&mut xml, call, &page, url, max, ("StartAfter", start_after));
    if !token.is_empty() {
        xml.text("ContinuationToken", &encoded(token, url));
    }
    if let Some(next) = &page.next {
        xml.text("NextContinuationToken", &encoded(&write_token(next), url));
    }
    xml.number("KeyCount", page.objects.len() + page.prefixes.len());
    write_page(&mut xml, &page, url, owner);
    Ok(Reply::xml(xml.finish()))
}

/// The older listing.
pub async fn objects_v1(store: &LocalStore, call: &Call) -> Result<Reply> {
    let url = call.wants_url_encoding()?;
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let prefix = call.parameter("prefix").unwrap_or_default();
    let delimiter = call.parameter("delimiter").unwrap_or_default();
    let marker = call.parameter("marker").unwrap_or_default();
    let from = behind(marker, prefix, delimiter);
    let page = store.page(prefix, delimiter, from, max as usize).await?;

    let mut xml = Xml::document("ListBucketResult");
    begin_page(&mut xml, call, &page, url, max, ("Marker", marker));
    if let Some(From::After(next) | From::Behind(next)) = &page.next {
        xml.text("NextMarker", &encoded(next, url));
    }
    write_page(&mut xml, &page, url, true);
    Ok(Reply::xml(xml.finish()))
}

/// What is listed of an object where no versions are kept: itself, under this id.
pub const ONLY_VERSION: &str = "null";

pub async fn versions(store: &LocalStore, call: &Call) -> Result<Reply> {
    let url = call.wants_url_encoding()?;
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let prefix = call.parameter("prefix").unwrap_or_default();
    let delimiter = call.parameter("delimiter").unwrap_or_default();
    let marker = call.parameter("key-marker").unwrap_or_default();
    // Whatever version it names, nothing but the next name is behind it.
    let id_marker = call.parameter("version-id-marker").unwrap_or_default();
    if marker.is_empty() && !id_marker.is_empty() {
        return Err(Refusal::argument(
            "A version-id marker cannot be specified without a key marker.",
        ));
    }
    let from = behind(marker, prefix, delimiter);
    let page = store.page(prefix, delimiter, from, max as usize).await?;

    let mut xml = Xml::document("ListVersionsResult");
    begin_page(&mut xml, call, &page, url, max, ("KeyMarker", marker));
    xml.text("VersionIdMarker", id_marker);
    let next = match &page.next {
        Some(From::After(key)) => Some((key, ONLY_VERSION)),
        Some(From::Behind(fold)) => Some((fold, "")),
        Some(From::Start) | None => None,
    };
    if let Some((key, id)) = next {
        xml.text("NextKeyMarker", &encoded(key, url));
        xml.text("NextVersionIdMarker", id);
    }
    for (key, facts) in &page.objects {
        xml.begin("Version");
        xml.text("Key", &encoded(key, url));
        xml.text("VersionId", ONLY_VERSION);
        xml.number("IsLatest", true);
        write_facts(&mut xml, facts);
        write_owner(&mut xml);
        xml.end();
    }
    write_prefixes(&mut xml, &page, url);
    Ok(Reply::xml(xml.finish()))
}

/// A marker is the last name of the page before; where that was a folded prefix, all behind it is told.
fn behind(marker: &str, prefix: &str, delimiter: &str) -> From {
    let fold = marker.strip_prefix(prefix).is_some_and(|rest| {
        !delimiter.is_empty()
            && rest
                .find(delimiter)
                .is_some_and(|at| at + delimiter.len() == rest.len())
    });
    match marker {
        "" => From::Start,
        marker if fold => From::Behind(marker.to_string()),
        marker => From::After(marker.to_string()),
    }
}

/// What all listings of a bucket begin with; `after` is the name they begin behind, as each calls it.
fn begin_page(
    xml: &mut Xml,
    call: &Call,
    page: &Page,
    url: bool,
    max: u64,
    after: (&'static str, &str),
) {
    let parameter = |name| call.parameter(name).unwrap_or_default();
    xml.text("Name", call.bucket.as_deref().unwrap_or_default());
    xml.text("Prefix", &encoded(parameter("prefix"), url));
    xml.text(after.0, &encoded(after.1, url));
    xml.number("MaxKeys", max);
    xml.text("Delimiter", &encoded(parameter("delimiter"), url));
    if url {
        xml.text("EncodingType", "url");
    }
    xml.number("IsTruncated", page.next.is_some());
}

fn write_page(xml: &mut Xml, page: &Page, url: bool, owner: bool) {
    for (key, facts) in &page.objects {
        xml.begin("Contents");
        xml.text("Key", &encoded(key, url));
        write_facts(xml, facts);
        if owner {
            write_owner(xml);
        }
        xml.end();
    }
    write_prefixes(xml, page, url);
}

fn write_prefixes(xml: &mut Xml, page: &Page, url: bool) {
    for prefix in &page.prefixes {
        xml.begin("CommonPrefixes");
        xml.text("Prefix", &encoded(prefix, url));
        xml.end();
    }
}

fn write_facts(xml: &mut Xml, facts: &Facts) {
    xml.text("LastModified", &time::extended(facts.last_modified()));
    xml.text("ETag", facts.tag.etag().as_str());
    xml.text(
        "Type",
        if facts.multipart {
            "Multipart"
        } else {
            "Normal"
        },
    );
    xml.number("Size", facts.size);
    xml.text(
        "StorageClass",
        if facts.infrequent { "IA" } else { "Standard" },
    );
}

fn write_owner(xml: &mut Xml) {
    xml.begin("Owner");
    xml.text("ID", OWNER);
    xml.text("DisplayName", OWNER);
    xml.end();
}

/// Opaque, and of characters that survive every encoding.
pub fn write_token(from: &From) -> String {
    BASE64.encode(local::to_token(from))
}

pub fn read_token(token: &str) -> Option<From> {
    let token = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    local::from_token(&token)
}

pub async fn buckets(shared: &ServerState, call: &Call) -> Result<Reply> {
    let prefix = call.parameter("prefix").unwrap_or_default();
    let marker = call.parameter("marker").unwrap_or_default();
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let buckets = shared.buckets().await?;
    let mut left = buckets
        .iter()
        .filter(|(name, _)| name.starts_with(prefix) && name.as_str() > marker);
    let page: Vec<_> = left.by_ref().take(max as usize).collect();
    let truncated = left.next().is_some();
    let mut xml = Xml::document("ListAllMyBucketsResult");
    write_owner(&mut xml);
    xml.text("Prefix", prefix);
    xml.text("Marker", marker);
    xml.number("MaxKeys", max);
    xml.number("IsTruncated", truncated);
    if let (true, Some((last, _))) = (truncated, page.last()) {
        xml.text("NextMarker", last);
    }
    xml.begin("Buckets");
    for (name, class) in page {
        xml.begin("Bucket");
        xml.text("CreationDate", &time::extended(shared.started()));
        xml.text("ExtranetEndpoint", &call.endpoint());
        xml.text("IntranetEndpoint", &call.endpoint());
        xml.text("Location", &format!("oss-{}", shared.region()));
        xml.text("Name", name);
        xml.text("Region", shared.region());
        xml.text("StorageClass", class.name());
        xml.end();
    }
    Ok(Reply::xml(xml.finish()))
}

/// None are kept here, so none are listed.
pub fn live_channels(call: &Call) -> Result<Reply> {
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let mut xml = Xml::document("ListLiveChannelResult");
    xml.text("Prefix", call.parameter("prefix").unwrap_or_default());
    xml.text("Marker", call.parameter("marker").unwrap_or_default());
    xml.number("MaxKeys", max);
    xml.number("IsTruncated", false);
    xml.text("NextMarker", "");
    Ok(Reply::xml(xml.finish()))
}

pub fn bucket_info(shared: &ServerState, store: &LocalStore, call: &Call) -> Reply {
    let mut xml = Xml::document("BucketInfo");
    xml.begin("Bucket");
    xml.text("CreationDate", &time::extended(shared.started()));
    xml.text("ExtranetEndpoint", &call.endpoint());
    xml.text("IntranetEndpoint", &call.endpoint());
    xml.text("Location", &format!("oss-{}", shared.region()));
    xml.text("Name", call.bucket.as_deref().unwrap_or_default());
    xml.text("StorageClass", store.class().name());
    xml.text("DataRedundancyType", "LRS");
    // What else buckets can have, and these do not. Nothing here is public.
    xml.text("Comment", "");
    xml.text("ResourceGroupId", OWNER);
    xml.text("AccessMonitor", "Disabled");
    xml.text("CrossRegionReplication", "Disabled");
    xml.text("TransferAcceleration", "Disabled");
    xml.number("BlockPublicAccess", true);
    xml.begin("ServerSideEncryptionRule");
    xml.text("SSEAlgorithm", "None");
    xml.end();
    if shared.versioned() {
        xml.text("Versioning", "Enabled");
    }
    write_owner(&mut xml);
    xml.begin("AccessControlList");
    xml.text("Grant", "private");
    xml.end();
    Reply::xml(xml.finish())
}

/// Counted now, unlike the service's.
pub async fn bucket_stat(store: &LocalStore) -> Result<Reply> {
    let (mut bytes, mut objects) = (0u64, 0u64);
    let mut from = From::Start;
    loop {
        let page = store.page("", "", from, MAX_KEYS as usize).await?;
        objects += page.objects.len() as u64;
        bytes += page
            .objects
            .iter()
            .map(|(_, facts)| facts.size)
            .sum::<u64>();
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let uploads = store.list_uploads("").await?;
    let mut xml = Xml::document("BucketStat");
    xml.number("Storage", bytes);
    xml.number("ObjectCount", objects);
    xml.number("MultipartUploadCount", uploads.len());
    Ok(Reply::xml(xml.finish()))
}

pub fn location(shared: &ServerState) -> Reply {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str(&format!(
        "<LocationConstraint>oss-{}</LocationConstraint>",
        shared.region()
    ));
    Reply::xml(xml)
}
