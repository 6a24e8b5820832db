//! What clients send to the server.

use std::time::{Duration, UNIX_EPOCH};

use hyper::Request;

use super::input::{head_and_body, user_metadata};
use crate::server::auth::{self, Credentials};
use crate::server::call::Call;
use crate::server::encryption_rules::{self, Plan};
use crate::server::objects::{Conditions, Deletion, Extent, extent, is_version, source_named};
use crate::server::operation::Operation;
use crate::server::pace::Patience;
use crate::server::refusal::Refusal;
use crate::server::xml::{self, Children, Field};
use crate::server::{listing, multipart, s3};
use crate::store::object_store::{ETag, ObjectHeaders, ObjectKey, ObjectMeta};

const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";

/// A method and a target, then headers.
pub(super) fn request(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (line, rest) = input.split_at(end);
    let (headers, _) = head_and_body(rest.strip_prefix(b"\n").unwrap_or(rest));
    let line = String::from_utf8_lossy(line);
    let (method, target) = line.split_once(' ').unwrap_or((&line, "/"));
    let built = Request::builder().method(method).uri(target).body(());
    let Ok(mut request) = built else { return };
    *request.headers_mut() = headers;

    // 2013-05-24T00:05:00Z, when the examples in S3's manual are fresh.
    let now = UNIX_EPOCH + Duration::from_secs(1_369_353_900);
    let credentials = Credentials::new(ID, SECRET, None);
    match Call::of_head(request.clone().into_parts().0, Patience::default()) {
        Ok(mut call) => {
            if let Err(refusal) = auth::check(&call, &credentials, now) {
                told(&refusal);
            }
            read(&call);
            // The checksums that the body must have.
            if let Err(refusal) = call.take_body(|_| ()) {
                told(&refusal);
            }
        }
        Err(refusal) => told(&refusal),
    }
    // The other dialect, as it came and with a signature that is right.
    let own = request.headers().keys().map(|name| name.as_str());
    let mut names: Vec<&str> = own.filter(|name| name.starts_with("x-amz-")).collect();
    names.push("host");
    names.sort_unstable();
    if let Ok(authorization) = s3::authorization(&request, &names, SCOPE, ID, SECRET) {
        let signed = authorization.parse().expect("it is ASCII");
        let mut signed_request = request.clone();
        (signed_request.headers_mut()).insert("authorization", signed);
        for request in [request, signed_request] {
            if !s3::speaks(&request) {
                continue;
            }
            let translated = s3::translated(request, &credentials, now);
            match translated
                .and_then(|request| Call::of_head(request.into_parts().0, Patience::default()))
            {
                Ok(call) => {
                    assert!(call.header("authorization").is_none());
                    read(&call);
                }
                Err(refusal) => told(&refusal),
            }
        }
    }
}

/// The document of a refusal is one, whatever of the request it repeats.
fn told(refusal: &Refusal) {
    assert!((400..=599).contains(&refusal.status));
    let document = refusal.document("id", "host");
    let document = crate::oss::xml::error(&document).expect("a document");
    assert_eq!(document.code, refusal.code);
}

/// Everything that any operation takes from a request.
fn read(call: &Call) {
    if let Some(refusal) = &call.refusal {
        told(refusal);
        assert_eq!(call.operation, Operation::Unknown);
    } else {
        // No parameter is there twice: which one counts would be the question.
        let mut names: Vec<&str> = call.query.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, other| one < other));
    }
    if let Ok(key) = call.object_key() {
        assert_eq!(call.key.as_deref(), Some(key.as_str()));
    }
    let _ = (call.wants_url_encoding(), call.length(), call.overwrite());
    for (name, most) in [("max-keys", 1000), ("partNumber", 10_000)] {
        if let Ok(number) = call.number(name, 1, 1, most) {
            assert!((1..=most).contains(&number));
        }
    }
    if let Ok(headers) = call.object_headers() {
        let user = headers.user.iter();
        let total: usize = user.map(|(name, value)| name.len() + value.len()).sum();
        assert!(total <= 8 << 10);
        rules(&headers);
    }
    let meta = ObjectMeta {
        size: 1000,
        etag: ETag::new("\"0123456789ABCDEF0123456789ABCDEF\""),
        last_modified: UNIX_EPOCH,
        headers: ObjectHeaders::default(),
        crc64: None,
        date: UNIX_EPOCH,
    };
    for prefix in ["", "x-oss-copy-source-"] {
        let _ = Conditions::of(call, prefix).judge(&meta);
    }
    if let Some(version) = call.header("if-range") {
        let _ = is_version(version, &meta);
    }
    for size in [0, 1, 1000, i64::MAX as u64] {
        for standard in [false, true] {
            let range = call
                .header("range")
                .map(|text| extent(text, size, standard));
            if let Some(Extent::Part(range)) = range {
                assert!(range.start < range.end && range.end <= size);
            }
        }
        let copied = call.header("x-oss-copy-source-range");
        if let Some(range) = copied.and_then(|text| multipart::copied_range(text, size)) {
            assert!(range.start < range.end && range.end <= size);
        }
    }
    match source_named(call.header("x-oss-copy-source").unwrap_or_default()) {
        Ok((bucket, key)) => assert!(!bucket.contains('/') && !key.as_str().is_empty()),
        Err(refusal) => told(&refusal),
    }
    let token = call.parameter("continuation-token").unwrap_or_default();
    if let Some(from) = listing::read_token(token) {
        assert_eq!(
            listing::read_token(&listing::write_token(&from)),
            Some(from)
        );
    }
}

/// The parts that the rules allow of an encrypted upload are together what was announced.
fn rules(headers: &ObjectHeaders) {
    let _ = encryption_rules::check_new(headers);
    let _ = encryption_rules::check_repeated(headers, headers);
    let Ok(Some(plan)) = Plan::of(headers) else {
        return;
    };
    for number in [1, 2, 9_999, 10_000] {
        for size in [0, 1, 16, 102_400, u64::MAX] {
            let _ = plan.check_part(number, size);
        }
    }
    assert!(plan.check_complete(10_001).is_err());
}

/// Documents.
pub(super) fn xml(input: &[u8]) {
    let _ = xml::parse::<Children<Field>>(input, "CreateBucketConfiguration");
    if let Ok(parts) = multipart::read_parts(input) {
        // Each takes an element with two others in it.
        assert!(parts.len() <= input.len() / 30);
    }
    match Deletion::read(input) {
        Ok(deletion) => {
            assert!((1..=1000).contains(&deletion.objects.len()));
            assert!(deletion.objects.iter().all(|(key, _)| is_key(key)));
        }
        Err(refusal) => told(&refusal),
    }
    // Headers of an upload, in this case, for the rules that more than one of them makes.
    rules(&ObjectHeaders {
        user: user_metadata(input),
        ..ObjectHeaders::default()
    });
}

fn is_key(key: &ObjectKey) -> bool {
    ObjectKey::new(key.as_str()).is_ok()
}
