//! What is in a bucket: names, metadata, and the notes that mounts leave there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use super::input::user_metadata;
use crate::base::encoding::{percent_decoded, percent_encoded};
use crate::crypto::data_key::CounterStart;
use crate::crypto::mac::MacKey;
use crate::crypto::xattr::{self, Xattrs};
use crate::encrypted::key_marker::KeyMarker;
use crate::encrypted::reserved::RESERVED;
use crate::envelope;
use crate::files::attributes::Attributes;
use crate::fs::handles::temporary_names;
use crate::fs::namespace::object_name;
use crate::fs::ops::rename::intent::Intent;
use crate::fs::ops::rename::resume::Left;
use crate::oss::endpoint::{self, Endpoint};
use crate::oss::xml::{delete_request, is_writable};
use crate::server::call::checked_key;
use crate::server::objects::Deletion;
use crate::store::listing::{self, RawObject, RawPage};
use crate::store::local::record;
use crate::store::local::{from_token, to_token};
use crate::store::object_store::{
    ETag, ListPage, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta,
};

/// An object with these metadata.
pub(super) fn meta(input: &[u8]) -> ObjectMeta {
    ObjectMeta {
        size: input.len() as u64,
        etag: ETag::new("\"fuzzing\""),
        last_modified: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        headers: ObjectHeaders {
            user: user_metadata(input),
            ..ObjectHeaders::default()
        },
        crc64: None,
        date: UNIX_EPOCH + Duration::from_secs(1_700_000_002),
    }
}

/// What metadata say of mode, owner and times.
pub(super) fn attributes(input: &[u8]) {
    let meta = meta(input);
    for directory in [false, true] {
        let attributes = Attributes::read(&meta, directory);
        // What is written back reads the same.
        let mut written = meta.clone();
        attributes.write(&mut written.headers.user);
        assert_eq!(Attributes::read(&written, directory), attributes);
    }
}

pub(super) fn envelope(input: &[u8]) {
    let user = user_metadata(input);
    if let Ok(Some(envelope)) = envelope::detect::detect(&user) {
        // No RSA modulus that is accepted is longer.
        assert!(envelope.wrapped_key.len() <= 2048);
    }
    let _ = envelope::format::claimed_kind(&user);
    let _ = envelope::format::is_bound_by_sdk_rules(&user);
}

/// What only a key opens, and whoever has the public half may have sealed: extended attributes, with the header
/// values that they are sealed in, and the counter that a file begins with.
pub(super) fn xattrs(input: &[u8]) {
    if let Some(start) = CounterStart::from_decimal(input) {
        let again = CounterStart::from_decimal(start.to_decimal().as_bytes());
        assert_eq!(again, Some(start));
    }
    for version in [xattr::Version::One, xattr::Version::Two] {
        let Some(found) = Xattrs::decode(input, version) else {
            continue;
        };
        assert!(found.iter().all(|(name, _)| Xattrs::is_name(name)));
        // Each set of attributes has one text.
        assert_eq!(*found.encode(version), input);
    }
    let text = String::from_utf8_lossy(input);
    let _ = xattr::Version::of(&text);
    if let Ok((wrapped_key, sealed)) = xattr::split(&text) {
        assert!(wrapped_key.len() + sealed.len() <= text.len());
    }
}

/// The metadata of a key marker. Each set of keys has one text.
pub(super) fn key_marker(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(marker) = KeyMarker::parse(&text) {
        assert_eq!(marker.to_text(), text);
        assert!(text.len() < 4096);
    }
}

/// A note of a directory's rename: as it came, and as another mount of this machine could have written it.
pub(super) fn rename_intent(input: &[u8]) {
    static SECRET: LazyLock<MacKey> =
        LazyLock::new(|| MacKey::from_bytes(&[7; 32]).expect("a key's length"));
    let key = ObjectKey::new(".ossvault/rename-0123456789abcdef-fedcba9876543210");
    let key = key.expect("a possible key");
    let sensible = |intent: &Intent| {
        for path in [&intent.from, &intent.to] {
            let path = path.strip_suffix('/').expect("of a directory");
            assert!(path.split('/').all(object_name::is_component), "{path:?}");
            assert_ne!(path.split('/').next(), Some(RESERVED));
        }
        assert!(!intent.from.starts_with(&intent.to) && !intent.to.starts_with(&intent.from));
    };
    if let Ok(intent) = Intent::parse(input, &SECRET, &key) {
        sensible(&intent);
    }
    if let Ok(Intent { from, to, .. }) = serde_json::from_slice::<Intent>(input) {
        let genuine = Intent::new(&SECRET, &key, from, to);
        let text = serde_json::to_vec(&genuine).expect("texts are JSON");
        if let Ok(intent) = Intent::parse(&text, &SECRET, &key) {
            sensible(&intent);
            assert_eq!((intent.from, intent.to), (genuine.from, genuine.to));
        }
    }
    let text = String::from_utf8_lossy(input);
    for name in text.split('"') {
        if let Some(Left::Intent(Some(id)) | Left::Aside(id)) = Left::of(name) {
            assert_eq!(id.len(), 16);
            assert!(name.contains(id));
        }
    }
}

/// Names, one in a line. Those behind `o` and `p` are a listing's objects and prefixes, `s` is the name that it
/// begins behind, `t` the token of the next page, `d` the directory that is listed.
pub(super) fn names(input: &[u8]) {
    let lines = || input.split(|byte| *byte == b'\n');
    // One of them: a case is worth more than all that is done with each name.
    let chosen = input.len() % lines().count();
    if let Some(line) = lines().nth(chosen) {
        name(line);
    }
    for delimited in [false, true] {
        page(&lines, delimited);
    }
}

fn name(bytes: &[u8]) {
    static ENDPOINT: LazyLock<Endpoint> = LazyLock::new(|| {
        let endpoint = "oss-cn-hangzhou.aliyuncs.com";
        Endpoint::new(endpoint, "bucket", endpoint::Options::default()).expect("an endpoint")
    });
    if let Ok(name) = object_name::component(OsStr::from_bytes(bytes)) {
        assert!(object_name::is_component(name) && name.as_bytes() == bytes);
        assert!(*object_name::just_before(name) < *name);
        let _ = temporary_names::is_temporary(name);
        let _ = temporary_names::is_random(name);
        let _ = temporary_names::is_synced_before_rename(name);
    }
    let text = String::from_utf8_lossy(bytes);
    if let Some(from) = from_token(&text) {
        assert_eq!(to_token(&from), text);
    }
    assert_eq!(
        percent_decoded(&percent_encoded(&text, true)).as_deref(),
        Some(&*text)
    );
    let key = ObjectKey::new(&*text);
    assert_eq!(key.is_ok(), checked_key(&text).is_ok());
    assert_eq!(
        key.is_ok(),
        object_name::object_key(text.clone().into_owned()).is_ok()
    );
    let Ok(key) = key else { return };
    let key = key.as_str();
    // A request is for this key or is not sent.
    if let Ok(url) = ENDPOINT.url(Some(key), &[]) {
        let path = percent_decoded(url.path()).expect("it was UTF-8");
        assert_eq!(path.strip_prefix('/'), Some(key));
    }
    // Part of a file's name.
    let escaped = record::escape(key);
    assert!(record::safe_name(&escaped) || escaped.len() > 255 || matches!(key, "." | ".."));
    assert_eq!(percent_decoded(&escaped).as_deref(), Some(key));
    if is_writable(key) {
        let document = delete_request([key].into_iter());
        let deletion = Deletion::read(document.as_bytes()).expect("a deletion");
        assert_eq!(deletion.objects.len(), 1);
        assert_eq!(deletion.objects[0].0.as_str(), key);
    }
}

/// What is shown of a page can be, and pages that bring nothing end.
fn page<'a, I: Iterator<Item = &'a [u8]>>(lines: &impl Fn() -> I, delimited: bool) {
    let of = |kind: u8| {
        lines()
            .filter_map(move |line| line.strip_prefix(&[kind]))
            .map(<[u8]>::to_vec)
    };
    let text = |kind: u8| of(kind).find_map(|name| String::from_utf8(name).ok());
    let mut request = ListRequest {
        prefix: text(b'd').unwrap_or_default(),
        delimited,
        start_after: text(b's'),
        ..ListRequest::default()
    };
    let hidden = listing::Hidden::default();
    let answer = |request: &ListRequest, round: u32| -> Option<ListPage> {
        let objects = of(b'o').map(|key| RawObject {
            size: key.first().map(|byte| u64::from(*byte)),
            key,
            etag: ETag::new("\"fuzzing\""),
            last_modified: Some(UNIX_EPOCH),
            storage_class: String::new(),
        });
        let page = RawPage {
            objects: objects.collect(),
            prefixes: of(b'p').collect(),
            next: text(b't').map(|token| format!("{token}{round}")),
            date: UNIX_EPOCH,
        };
        listing::check(request, page, &hidden).ok()
    };
    let mut round = 0;
    while let Some(page) = answer(&request, round) {
        shown(&request, &page);
        request.token = page.next;
        round += 1;
        if request.token.is_none() {
            break;
        }
        assert!(round <= listing::MAX_BARREN + 2, "a listing without an end");
    }
}

fn shown(request: &ListRequest, page: &ListPage) {
    let keys = page.objects.iter().map(|object| &object.key);
    for key in keys.clone().chain(&page.prefixes) {
        assert!(!key.is_empty() && key.len() <= ObjectKey::MAX_LEN);
        assert!(key.starts_with(&request.prefix));
    }
    let below = |name: &String| name[request.prefix.len()..].to_owned();
    if request.delimited {
        assert!(keys.clone().all(|key| !below(key).contains('/')));
        let one = |prefix: &String| below(prefix).find('/') == Some(below(prefix).len() - 1);
        assert!(page.prefixes.iter().all(one));
    } else {
        assert!(page.prefixes.is_empty());
    }
    assert!(page.objects.is_sorted_by(|one, other| one.key < other.key));
    assert!(page.prefixes.is_sorted_by(|one, other| one < other));
}
