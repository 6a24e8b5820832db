//! S3 at the edge of an instrumented server, so that mounts that speak it can be measured beside ours.
//!
//! OSS and S3 differ in little but names. A request that AWS's signature version 4 signs is checked, then
//! rewritten as OSS has it, and goes the way of all others; of its answer, the headers are written back.
//! What S3 has and OSS has not is not here: no signatures in URLs, no bodies in signed chunks, no ACLs.

use std::fmt::Write;
use std::time::SystemTime;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Uri};
use sha2::{Digest, Sha256};

use super::auth::{self, Credentials};
use super::call::read_query;
use super::refusal::{Refusal, Result};
use super::reply::Reply;
use crate::base::encoding::{percent_decoded, percent_encode, percent_encoded};
use crate::base::time;
use crate::oss::sign::hmac_sha256;

/// The first word of `Authorization` and of the string to sign.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

const OWN: &str = "x-amz-";
const THEIRS: &str = "x-oss-";

/// Headers that OSS has no use for: what the signature needed, and classes of storage it does not have.
const DROPPED: [&str; 6] = [
    "x-amz-date",
    "x-amz-content-sha256",
    "x-amz-acl",
    "x-amz-storage-class",
    // Of the SDKs: who sends it, and that a checksum in the answer would be welcome.
    "x-amz-user-agent",
    "x-amz-checksum-mode",
];

/// Parameters of requests to a bucket that are not for a listing.
const NO_LISTING: [&str; 3] = ["uploads", "location", "bucketInfo"];

pub fn speaks<B>(request: &Request<B>) -> bool {
    text(request.headers(), "authorization").starts_with(ALGORITHM)
}

/// The request in OSS's words, its signature checked and gone.
///
/// # Errors
/// 403 for a signature that is not right; 400 for what OSS has no words for.
pub fn translated<B>(
    request: Request<B>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Request<B>> {
    let (mut parts, body) = request.into_parts();
    check(&parts, credentials, now)?;
    if text(&parts.headers, "content-encoding").contains("aws-chunked") {
        return Err(Refusal::not_implemented("A body in aws-chunked encoding"));
    }
    parts.uri = rewritten_uri(&mut parts.method, &parts.uri)?;
    parts.headers = renamed(&parts.headers, OWN, THEIRS, &DROPPED);
    // Ranges behave as the standard says without being told.
    if parts.headers.contains_key(header::RANGE) {
        let standard = HeaderValue::from_static("standard");
        parts.headers.insert("x-oss-range-behavior", standard);
    }
    Ok(Request::from_parts(parts, body))
}

/// Writes the headers of an answer as S3 has them.
pub fn translate_reply(reply: &mut Reply) {
    for (name, _) in &mut reply.headers {
        if let Some(other) = renamed_header(name, THEIRS, OWN) {
            *name = other;
        }
    }
}

/// Gives what S3 does by default to what OSS does only when asked.
fn rewritten_uri(method: &mut Method, uri: &Uri) -> Result<Uri> {
    // The SDKs repeat the name of the operation.
    let mut query = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.starts_with("x-id="))
        .collect::<Vec<_>>()
        .join("&");
    let names = |wanted: &str| {
        let query = uri.query().unwrap_or_default();
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(wanted))
    };
    let mut add = |pair: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(pair);
    };
    let bucket = !uri.path().trim_matches('/').contains('/');
    if bucket && *method == Method::HEAD {
        // There is no HEAD of a bucket; the connection leaves the body of the answer out.
        *method = Method::GET;
        add("bucketInfo");
    } else if bucket
        && *method == Method::GET
        && !names("max-keys")
        && !NO_LISTING.iter().any(|name| names(name))
    {
        add("max-keys=1000");
    }
    format!("{}?{query}", uri.path())
        .parse()
        .map_err(|_| Refusal::argument("The URI is malformed."))
}

fn renamed(headers: &HeaderMap, from: &str, to: &str, dropped: &[&str]) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| !dropped.contains(&name.as_str()) && *name != header::AUTHORIZATION)
        .map(|(name, value)| {
            let name = renamed_header(name, from, to).unwrap_or_else(|| name.clone());
            (name, value.clone())
        })
        .collect()
}

fn renamed_header(name: &HeaderName, from: &str, to: &str) -> Option<HeaderName> {
    let rest = name.as_str().strip_prefix(from)?;
    HeaderName::try_from(format!("{to}{rest}")).ok()
}

/// Checks the signature, but not the body against the hash that is signed with it: the client has spent its
/// share of the machine on that hash, and the server would spend another.
fn check(parts: &Parts, credentials: &Credentials, now: SystemTime) -> Result<()> {
    let malformed = || Refusal::argument("The Authorization header is malformed.");
    let (mut credential, mut names, mut signature) = ("", "", "");
    for field in text(&parts.headers, "authorization")[ALGORITHM.len()..].split(',') {
        match field.trim().split_once('=').ok_or_else(malformed)? {
            ("Credential", value) => credential = value,
            ("SignedHeaders", value) => names = value,
            ("Signature", value) => signature = value,
            _ => return Err(malformed()),
        }
    }
    let (id, scope) = credential.split_once('/').ok_or_else(malformed)?;
    let date_time = text(&parts.headers, "x-amz-date");
    if !date_time.starts_with(scope.split('/').next().unwrap_or_default())
        || !scope.ends_with("/s3/aws4_request")
    {
        return Err(malformed());
    }
    auth::check_id(id, credentials)?;
    auth::check_clock(time::parse_basic(date_time), now)?;
    let names: Vec<&str> = names.split(';').collect();
    // Each once: a name that is repeated would repeat its header's value, however long, in what is signed.
    if !names.is_sorted_by(|one, other| one < other) {
        return Err(malformed());
    }
    let unsigned =
        |name: &HeaderName| name.as_str().starts_with(OWN) && !names.contains(&name.as_str());
    if !names.contains(&"host") || parts.headers.keys().any(unsigned) {
        return Err(Refusal::new(
            403,
            "AccessDenied",
            "There were headers present in the request which were not signed.",
        ));
    }
    if let Some(token) = &credentials.token
        && text(&parts.headers, "x-amz-security-token") != token.as_str()
    {
        return Err(Refusal::new(
            403,
            "InvalidToken",
            "The provided token is malformed or otherwise invalid.",
        ));
    }
    let canonical = canonical(&parts.method, &parts.uri, &parts.headers, &names)?;
    let to_sign = string_to_sign(&canonical, date_time, scope);
    let wanted = self::signature(&credentials.secret, scope, &to_sign);
    auth::compare(signature, &wanted, id, &to_sign, Some(&canonical))
}

/// What `Authorization` must say. `names` are the headers to sign, in lower case and sorted; `scope` is
/// `20130524/us-east-1/s3/aws4_request`.
///
/// # Errors
/// 400 for a path or query that is not UTF-8.
pub fn authorization<B>(
    request: &Request<B>,
    names: &[&str],
    scope: &str,
    id: &str,
    secret: &str,
) -> Result<String> {
    let canonical = canonical(request.method(), request.uri(), request.headers(), names)?;
    let date_time = text(request.headers(), "x-amz-date");
    let signature = signature(secret, scope, &string_to_sign(&canonical, date_time, scope));
    let names = names.join(";");
    Ok(format!(
        "{ALGORITHM} Credential={id}/{scope},SignedHeaders={names},Signature={signature}"
    ))
}

fn canonical(method: &Method, uri: &Uri, headers: &HeaderMap, names: &[&str]) -> Result<String> {
    let path =
        percent_decoded(uri.path()).ok_or_else(|| Refusal::argument("The path is not UTF-8."))?;
    let mut query: Vec<(String, String)> = read_query(uri.query().unwrap_or_default())?
        .iter()
        .map(|(name, value)| (percent_encoded(name, false), percent_encoded(value, false)))
        .collect();
    query.sort_unstable();

    let mut out = String::with_capacity(1024);
    let _ = writeln!(out, "{method}");
    percent_encode(&path, true, &mut out);
    out.push('\n');
    for (i, (name, value)) in query.iter().enumerate() {
        let separator = if i == 0 { "" } else { "&" };
        let _ = write!(out, "{separator}{name}={value}");
    }
    out.push('\n');
    for name in names {
        // Runs of spaces count as one.
        let values: Vec<String> = headers
            .get_all(*name)
            .iter()
            .map(|value| {
                let text = String::from_utf8_lossy(value.as_bytes());
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        let _ = writeln!(out, "{name}:{}", values.join(","));
    }
    let payload = text(headers, "x-amz-content-sha256");
    let _ = write!(out, "\n{}\n{payload}", names.join(";"));
    Ok(out)
}

fn string_to_sign(canonical: &str, date_time: &str, scope: &str) -> String {
    let mut out = format!("{ALGORITHM}\n{date_time}\n{scope}\n");
    out.push_str(&hex::encode(Sha256::digest(canonical.as_bytes())));
    out
}

/// The key is derived from the words of the scope, one after the other.
fn signature(secret: &str, scope: &str, to_sign: &str) -> String {
    let first = zeroize::Zeroizing::new(format!("AWS4{secret}").into_bytes());
    let mut words = scope.split('/');
    let day = hmac_sha256(&first, words.next().unwrap_or_default());
    let key = words.fold(day, |key, word| hmac_sha256(&*key, word));
    hex::encode(*hmac_sha256(&*key, to_sign))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn request(method: &str, target: &str, payload: &str, more: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "examplebucket.s3.amazonaws.com")
            .header("x-amz-content-sha256", payload)
            .header("x-amz-date", "20130524T000000Z");
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn signed(mut request: Request<()>) -> Request<()> {
        let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let authorization = authorization(&request, &names, SCOPE, ID, SECRET).unwrap();
        let value = HeaderValue::try_from(authorization).unwrap();
        request.headers_mut().insert("authorization", value);
        request
    }

    fn admitted(request: Request<()>) -> Result<Request<()>> {
        let now = time::parse_basic("20130524T000500Z").unwrap();
        translated(request, &Credentials::new(ID, SECRET, None), now)
    }

    /// The examples of "Signature Calculations for the Authorization Header" in the manual of S3.
    #[test]
    fn signs_the_published_examples() {
        let put = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let cases = [
            (
                request("GET", "/test.txt", EMPTY, &[("range", "bytes=0-9")]),
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                request(
                    "PUT",
                    "/test%24file.text",
                    put,
                    &[
                        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                    ],
                ),
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                request("GET", "/?lifecycle", EMPTY, &[]),
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                request("GET", "/?max-keys=2&prefix=J", EMPTY, &[]),
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ];
        for (request, signature) in cases {
            let request = signed(request);
            let authorization = text(request.headers(), "authorization");
            assert!(authorization.ends_with(signature), "{authorization}");
            assert!(speaks(&request));
            admitted(request).unwrap();
        }
    }

    #[test]
    fn takes_no_request_that_was_changed_or_is_not_signed_whole() {
        let code = |request| admitted(request).map(|_| ()).unwrap_err().code;
        let whole = || signed(request("GET", "/b/k", EMPTY, &[("x-amz-acl", "private")]));
        admitted(whole()).unwrap();

        let mut other = whole();
        *other.uri_mut() = "/b/l".parse().unwrap();
        assert_eq!(code(other), "SignatureDoesNotMatch");

        let mut other = whole();
        let value = HeaderValue::from_static("public-read");
        other.headers_mut().insert("x-amz-acl", value.clone());
        assert_eq!(code(other), "SignatureDoesNotMatch");

        let mut other = whole();
        other.headers_mut().insert("x-amz-meta-more", value);
        assert_eq!(code(other), "AccessDenied");

        // Each repetition would repeat the header's value, which may be long, in what is signed.
        for names in ["host;host", "x-amz-date;host"] {
            let mut other = whole();
            let text =
                format!("{ALGORITHM} Credential={ID}/{SCOPE},SignedHeaders={names},Signature=0");
            let value = HeaderValue::try_from(text).unwrap();
            other.headers_mut().insert("authorization", value);
            assert_eq!(code(other), "InvalidArgument", "{names}");
        }

        let now = time::parse_basic("20130525T000000Z").unwrap();
        let late = translated(whole(), &Credentials::new(ID, SECRET, None), now);
        assert_eq!(late.map(|_| ()).unwrap_err().code, "RequestTimeTooSkewed");
        let stranger = Credentials::new("other", SECRET, None);
        let now = time::parse_basic("20130524T000000Z").unwrap();
        let refused = translated(whole(), &stranger, now);
        assert_eq!(refused.map(|_| ()).unwrap_err().code, "InvalidAccessKeyId");
    }

    #[test]
    fn says_it_in_the_words_of_oss() {
        let more = [("x-amz-meta-mode", "33188"), ("x-amz-copy-source", "/b/k")];
        let copy = admitted(signed(request("PUT", "/b/l", EMPTY, &more))).unwrap();
        assert_eq!(text(copy.headers(), "x-oss-meta-mode"), "33188");
        assert_eq!(text(copy.headers(), "x-oss-copy-source"), "/b/k");
        assert!(
            copy.headers()
                .keys()
                .all(|name| !name.as_str().starts_with(OWN))
        );

        let targets = [
            ("HEAD", "/b/", "GET", "bucketInfo"),
            ("HEAD", "/b/k", "HEAD", ""),
            ("GET", "/b?prefix=p", "GET", "prefix=p&max-keys=1000"),
            ("GET", "/b?max-keys=2", "GET", "max-keys=2"),
        ];
        for (method, target, wanted, query) in targets {
            let request = admitted(signed(request(method, target, EMPTY, &[]))).unwrap();
            assert_eq!(request.method(), wanted, "{method} {target}");
            assert_eq!(request.uri().query().unwrap_or_default(), query);
        }
    }
}
