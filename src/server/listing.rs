//! Listings of objects and buckets, and what there is to say of a bucket.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::call::Call;
use super::refusal::{Refusal, Result};
use super::reply::Reply;
use super::state::ServerState;
use super::xml::{Xml, encoded};
use crate::base::time;
use crate::store::local::index::{From, Page, Query};
use crate::store::local::record::Facts;
use crate::store::local::{self, LocalStore};

/// As long as the service says nothing else.
const DEFAULT_KEYS: u64 = 100;
const MAX_KEYS: u64 = 1000;

const OWNER: &str = "ossvault";

pub fn objects_v2(store: &LocalStore, call: &Call) -> Result<Reply> {
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
    let page = store.page(&Query {
        prefix,
        delimiter,
        from,
        max: max as usize,
    })?;

    let mut xml = begin_page(call, &page, url, max, ("StartAfter", start_after));
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
pub fn objects_v1(store: &LocalStore, call: &Call) -> Result<Reply> {
    let url = call.wants_url_encoding()?;
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let prefix = call.parameter("prefix").unwrap_or_default();
    let delimiter = call.parameter("delimiter").unwrap_or_default();
    let marker = call.parameter("marker").unwrap_or_default();
    // A marker is the last name of the page before; where that was a folded prefix, all behind it is told.
    let fold = marker.strip_prefix(prefix).is_some_and(|rest| {
        !delimiter.is_empty()
            && rest
                .find(delimiter)
                .is_some_and(|at| at + delimiter.len() == rest.len())
    });
    let from = match marker {
        "" => From::Start,
        marker if fold => From::Behind(marker.to_string()),
        marker => From::After(marker.to_string()),
    };
    let page = store.page(&Query {
        prefix,
        delimiter,
        from,
        max: max as usize,
    })?;

    let mut xml = begin_page(call, &page, url, max, ("Marker", marker));
    if let Some(From::After(next) | From::Behind(next)) = &page.next {
        xml.text("NextMarker", &encoded(next, url));
    }
    write_page(&mut xml, &page, url, true);
    Ok(Reply::xml(xml.finish()))
}

/// What both listings begin with; `after` is the name they begin behind, as each calls it.
fn begin_page(call: &Call, page: &Page, url: bool, max: u64, after: (&str, &str)) -> Xml {
    let parameter = |name| call.parameter(name).unwrap_or_default();
    let mut xml = Xml::document("ListBucketResult");
    xml.text("Name", call.bucket.as_deref().unwrap_or_default());
    xml.text("Prefix", &encoded(parameter("prefix"), url));
    xml.text(after.0, &encoded(after.1, url));
    xml.number("MaxKeys", max);
    xml.text("Delimiter", &encoded(parameter("delimiter"), url));
    if url {
        xml.text("EncodingType", "url");
    }
    xml.number("IsTruncated", page.next.is_some());
    xml
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
fn write_token(from: &From) -> String {
    BASE64.encode(local::to_token(from))
}

fn read_token(token: &str) -> Option<From> {
    let token = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    local::from_token(&token)
}

pub async fn buckets(shared: &ServerState, call: &Call) -> Result<Reply> {
    let prefix = call.parameter("prefix").unwrap_or_default();
    let marker = call.parameter("marker").unwrap_or_default();
    let max = call.number("max-keys", DEFAULT_KEYS, 1, MAX_KEYS)?;
    let names = shared.bucket_names().await?;
    let mut left = names
        .iter()
        .filter(|name| name.starts_with(prefix) && name.as_str() > marker);
    let page: Vec<&String> = left.by_ref().take(max as usize).collect();
    let truncated = left.next().is_some();
    let mut xml = Xml::document("ListAllMyBucketsResult");
    write_owner(&mut xml);
    xml.text("Prefix", prefix);
    xml.text("Marker", marker);
    xml.number("MaxKeys", max);
    xml.number("IsTruncated", truncated);
    if let (true, Some(last)) = (truncated, page.last()) {
        xml.text("NextMarker", last);
    }
    xml.begin("Buckets");
    for name in page {
        xml.begin("Bucket");
        xml.text("CreationDate", &time::extended(shared.started()));
        xml.text("ExtranetEndpoint", &call.host);
        xml.text("IntranetEndpoint", &call.host);
        xml.text("Location", &format!("oss-{}", shared.region()));
        xml.text("Name", name);
        xml.text("Region", shared.region());
        xml.text("StorageClass", "Standard");
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

pub fn bucket_info(shared: &ServerState, call: &Call) -> Reply {
    let mut xml = Xml::document("BucketInfo");
    xml.begin("Bucket");
    xml.text("CreationDate", &time::extended(shared.started()));
    xml.text("ExtranetEndpoint", &call.host);
    xml.text("IntranetEndpoint", &call.host);
    xml.text("Location", &format!("oss-{}", shared.region()));
    xml.text("Name", call.bucket.as_deref().unwrap_or_default());
    xml.text("StorageClass", "Standard");
    xml.text("DataRedundancyType", "LRS");
    if shared.versioned() {
        xml.text("Versioning", "Enabled");
    }
    write_owner(&mut xml);
    xml.begin("AccessControlList");
    xml.text("Grant", "private");
    xml.end();
    Reply::xml(xml.finish())
}

pub fn location(shared: &ServerState) -> Reply {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str(&format!(
        "<LocationConstraint>oss-{}</LocationConstraint>",
        shared.region()
    ));
    Reply::xml(xml)
}
