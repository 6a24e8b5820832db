//! Every published signature, byte for byte: the string that is signed and the header that is sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use ossvault::base::time;
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::sign::{self, Request, Signer, SigningKey, Version};

use ossvault::base::encoding::percent_decoded;

#[derive(serde::Deserialize)]
struct Vectors {
    access_key_id: String,
    access_key_secret: String,
    security_token: String,
    region: String,
    unix_time: u64,
    v1: Vec<Case>,
    v4: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    id: String,
    method: String,
    bucket: Option<String>,
    key: Option<String>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    additional_headers: Vec<String>,
    #[serde(default)]
    sts: bool,
    expires_in: Option<u64>,
    expect: Expect,
}

#[derive(serde::Deserialize)]
struct Expect {
    authorization: Option<String>,
    authorization_v2_sdk_style: Option<String>,
    #[serde(default)]
    headers_sent: BTreeMap<String, String>,
    string_to_sign: String,
    canonical_request: Option<String>,
    url: Option<String>,
}

type Pairs = Vec<(Cow<'static, str>, Cow<'static, str>)>;

fn pairs(map: &BTreeMap<String, String>) -> Pairs {
    // Reversed, because the order in which pairs are given must not matter.
    map.iter()
        .rev()
        .map(|(name, value)| (name.clone().into(), value.clone().into()))
        .collect()
}

fn lower(map: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    map.iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .collect()
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../vectors/signing/signatures.json")).unwrap()
}

fn signed_query(url: &str) -> BTreeMap<String, String> {
    url.split_once('?')
        .unwrap()
        .1
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), percent_decoded(value).unwrap()))
        .collect()
}

#[test]
fn v1_headers_are_signed_as_published() {
    let vectors = vectors();
    let mut count = 0;
    for case in vectors.v1.iter().filter(|case| case.expires_in.is_none()) {
        let (query, headers) = (pairs(&case.query), pairs(&case.expect.headers_sent));
        let request = Request {
            method: &case.method,
            bucket: case.bucket.as_deref(),
            key: case.key.as_deref(),
            query: &query,
            headers: &headers,
        };
        let text = sign::v1_string_to_sign(&request, &case.expect.headers_sent["date"]);
        assert_eq!(text, case.expect.string_to_sign, "{}", case.id);
        let signature = sign::v1_signature(&vectors.access_key_secret, &text);
        assert_eq!(
            Some(sign::v1_authorization(&vectors.access_key_id, &signature)),
            case.expect.authorization,
            "{}",
            case.id
        );
        count += 1;
    }
    assert_eq!(count, 15);
}

#[test]
fn v4_headers_are_signed_as_published() {
    let vectors = vectors();
    let time = UNIX_EPOCH + Duration::from_secs(vectors.unix_time);
    let mut count = 0;
    for case in vectors.v4.iter().filter(|case| case.expires_in.is_none()) {
        let (query, headers) = (pairs(&case.query), pairs(&case.expect.headers_sent));
        let request = Request {
            method: &case.method,
            bucket: case.bucket.as_deref(),
            key: case.key.as_deref(),
            query: &query,
            headers: &headers,
        };
        let additional: Vec<&str> = case.additional_headers.iter().map(|n| &**n).collect();
        let canonical = sign::v4_canonical(&request, &additional);
        assert_eq!(
            Some(&canonical),
            case.expect.canonical_request.as_ref(),
            "{}",
            case.id
        );
        let date_time = time::basic(time);
        let scope = sign::v4_scope(&date_time[..8], &vectors.region);
        let text = sign::v4_string_to_sign(&canonical, &date_time, &scope);
        assert_eq!(text, case.expect.string_to_sign, "{}", case.id);
        let key = SigningKey::derive(&vectors.access_key_secret, &date_time[..8], &vectors.region);
        let authorization = sign::v4_authorization(
            &vectors.access_key_id,
            &scope,
            &additional,
            &key.sign(&text),
        );
        assert_eq!(
            Some(authorization),
            case.expect.authorization_v2_sdk_style,
            "{}",
            case.id
        );
        count += 1;
    }
    assert_eq!(count, 16);
}

#[test]
fn signatures_in_the_url_are_computed_as_published() {
    let vectors = vectors();
    let mut count = 0;
    for (v4, case) in (vectors.v1.iter().map(|case| (false, case)))
        .chain(vectors.v4.iter().map(|case| (true, case)))
    {
        let (Some(expires_in), Some(url)) = (case.expires_in, &case.expect.url) else {
            continue;
        };
        let mut parameters = signed_query(url);
        let headers = pairs(&lower(&case.headers));
        let signature = parameters
            .remove(if v4 { "x-oss-signature" } else { "Signature" })
            .unwrap();
        let query = pairs(&parameters);
        let request = Request {
            method: &case.method,
            bucket: case.bucket.as_deref(),
            key: case.key.as_deref(),
            query: &query,
            headers: &headers,
        };
        if v4 {
            let canonical = sign::v4_canonical(&request, &[]);
            assert_eq!(Some(&canonical), case.expect.canonical_request.as_ref());
            let date_time = &parameters["x-oss-date"];
            let scope = sign::v4_scope(&date_time[..8], &vectors.region);
            let text = sign::v4_string_to_sign(&canonical, date_time, &scope);
            assert_eq!(text, case.expect.string_to_sign, "{}", case.id);
            let key =
                SigningKey::derive(&vectors.access_key_secret, &date_time[..8], &vectors.region);
            assert_eq!(key.sign(&text), signature, "{}", case.id);
        } else {
            let expires = (vectors.unix_time + expires_in).to_string();
            assert_eq!(parameters["Expires"], expires);
            let text = sign::v1_string_to_sign(&request, &expires);
            assert_eq!(text, case.expect.string_to_sign, "{}", case.id);
            assert_eq!(
                sign::v1_signature(&vectors.access_key_secret, &text),
                signature,
                "{}",
                case.id
            );
        }
        count += 1;
    }
    assert_eq!(count, 4);
}

/// The signer adds exactly the headers the SDKs sent, and twice in a row (the second time with the
/// cached key) the same signature.
#[test]
fn the_signer_sends_what_the_sdks_sent() {
    let vectors = vectors();
    let time = UNIX_EPOCH + Duration::from_secs(vectors.unix_time);
    let mut count = 0;
    for (v4, case) in (vectors.v1.iter().map(|case| (false, case)))
        .chain(vectors.v4.iter().map(|case| (true, case)))
    {
        let Some(bucket) = &case.bucket else { continue };
        if case.expires_in.is_some() || !case.additional_headers.is_empty() {
            continue;
        }
        let version = if v4 {
            Version::V4 {
                region: vectors.region.clone(),
            }
        } else {
            Version::V1
        };
        let key = AccessKey::new(
            &vectors.access_key_id,
            &vectors.access_key_secret,
            case.sts.then(|| vectors.security_token.clone()),
        );
        let signer = Signer::new(key, version);
        let query = pairs(&case.query);
        for _ in 0..2 {
            let mut headers = pairs(&lower(&case.headers));
            let authorization = signer.sign(
                time,
                &case.method,
                bucket,
                case.key.as_deref(),
                &query,
                &mut headers,
            );
            let expected = if v4 {
                &case.expect.authorization_v2_sdk_style
            } else {
                &case.expect.authorization
            };
            assert_eq!(Some(&*authorization), expected.as_ref(), "{}", case.id);
            let sent: BTreeMap<String, String> = headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            assert_eq!(sent, case.expect.headers_sent, "{}", case.id);
        }
        count += 1;
    }
    assert_eq!(count, 28);
}
