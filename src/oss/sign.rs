//! Request signatures, V4 and V1: what is signed, how, and the format of `Authorization`.
//!
//! Everything up to [`Signer`] is a pure function of its arguments: the client signs with these functions and
//! the server verifies with them. Since both would share a mistake, the tests compare every step with the
//! results of the official SDKs (tests/vectors/signing).
//!
//! The differences from the better known AWS signature: the bucket is in the canonical URI whatever the host,
//! an empty query value has no `=`, only `content-type`, `content-md5` and `x-oss-*` are signed
//! (`AdditionalHeaders` names the others), and the payload hash is a constant.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::credentials::access_key::AccessKey;
use crate::base::encoding::{percent_encode, percent_encoded};
use crate::base::sync::lock;
use crate::base::time;

/// The only payload hash the service accepts: bodies are protected by CRC-64 and TLS instead.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// The first word of a V4 `Authorization` and of its string to sign.
pub const V4_ALGORITHM: &str = "OSS4-HMAC-SHA256";

/// The query parameters that enter a V1 signature, sorted in byte order.
pub const SUB_RESOURCES: &[&str] = &[
    "accessPoint",
    "accessPointPolicy",
    "acl",
    "append",
    "asyncFetch",
    "bucketArchiveDirectRead",
    "bucketInfo",
    "callback",
    "callback-var",
    "cloudboxes",
    "cname",
    "comp",
    "continuation-token",
    "cors",
    "delete",
    "encryption",
    "endTime",
    "group",
    "httpsConfig",
    "img",
    "inventory",
    "inventoryId",
    "lifecycle",
    "link",
    "live",
    "location",
    "logging",
    "metaQuery",
    "objectInfo",
    "objectMeta",
    "partNumber",
    "policy",
    "policyStatus",
    "position",
    "processConfiguration",
    "publicAccessBlock",
    "qos",
    "qosInfo",
    "qosRequester",
    "redundancyTransition",
    "referer",
    "regionList",
    "replication",
    "replicationLocation",
    "replicationProgress",
    "requestPayment",
    "requesterQosInfo",
    "resourceGroup",
    "resourcePool",
    "resourcePoolBuckets",
    "resourcePoolInfo",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "responseHeader",
    "restore",
    "rtc",
    "seal",
    "security-token",
    "sequential",
    "startTime",
    "stat",
    "status",
    "style",
    "styleName",
    "symlink",
    "tagging",
    "transferAcceleration",
    "udf",
    "udfApplication",
    "udfApplicationLog",
    "udfId",
    "udfImage",
    "udfImageDesc",
    "udfName",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "vip",
    "vod",
    "vpcip",
    "website",
    "withHashContext",
    "worm",
    "wormExtend",
    "wormId",
    "x-oss-ac-forward-allow",
    "x-oss-ac-source-ip",
    "x-oss-ac-subnet-mask",
    "x-oss-ac-vpc-id",
    "x-oss-access-point-name",
    "x-oss-async-process",
    "x-oss-delete",
    "x-oss-dir",
    "x-oss-enable-md5",
    "x-oss-enable-sha1",
    "x-oss-enable-sha256",
    "x-oss-hash-ctx",
    "x-oss-md5-ctx",
    "x-oss-process",
    "x-oss-redundancy-transition-taskid",
    "x-oss-rename",
    "x-oss-request-payer",
    "x-oss-target-redundancy-type",
    "x-oss-traffic-limit",
    "x-oss-write-get-object-response",
];

/// The input of a signature. Names and values are unencoded.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// None for requests to the service itself.
    pub bucket: Option<&'a str>,
    /// None for requests to the bucket.
    pub key: Option<&'a str>,
    /// In any order; a parameter without a value has an empty one.
    pub query: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// All headers, or at least those that are signed; names in lower case, each once, in any order.
    pub headers: &'a [(Cow<'a, str>, Cow<'a, str>)],
}

fn header<'a>(request: &Request<'a>, name: &str) -> &'a str {
    request
        .headers
        .iter()
        .find(|(n, _)| n == name)
        .map_or("", |(_, value)| value.trim())
}

/// The V1 string to sign. `date` is the `Date` header's value, or a URL's `Expires`; an `x-oss-date`
/// header replaces it.
pub fn v1_string_to_sign(request: &Request<'_>, date: &str) -> String {
    let mut own: Vec<(&str, &str)> = request
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-oss-"))
        .map(|(name, value)| (&**name, value.trim()))
        .collect();
    own.sort_unstable();
    let date = own
        .iter()
        .find(|(name, _)| *name == "x-oss-date")
        .map_or(date, |(_, value)| value);
    let mut sub_resources: Vec<(&str, &str)> = request
        .query
        .iter()
        .filter(|(name, _)| SUB_RESOURCES.binary_search(&&**name).is_ok())
        .map(|(name, value)| (&**name, &**value))
        .collect();
    sub_resources.sort_unstable();

    let mut out = String::with_capacity(512);
    let _ = write!(
        out,
        "{}\n{}\n{}\n{date}\n",
        request.method,
        header(request, "content-md5"),
        header(request, "content-type"),
    );
    for (name, value) in own {
        let _ = writeln!(out, "{name}:{value}");
    }
    out.push('/');
    if let Some(bucket) = request.bucket {
        out.push_str(bucket);
        out.push('/');
        out.push_str(request.key.unwrap_or_default());
    }
    for (i, (name, value)) in sub_resources.into_iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(name);
        if !value.is_empty() {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}

/// Base64 of the HMAC-SHA1.
pub fn v1_signature(secret: &str, string_to_sign: &str) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(string_to_sign.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

pub fn v1_authorization(id: &str, signature: &str) -> String {
    format!("OSS {id}:{signature}")
}

/// Whether V4 signs this header by default.
pub fn v4_signed_by_default(name: &str) -> bool {
    name == "content-type" || name == "content-md5" || name.starts_with("x-oss-")
}

/// The V4 canonical request. `additional` are the names in `AdditionalHeaders`: lower case, sorted, without
/// those that are signed by default. For a signature in the URL, the query contains every `x-oss-*` parameter
/// except `x-oss-signature`.
pub fn v4_canonical(request: &Request<'_>, additional: &[&str]) -> String {
    let mut query: Vec<(Cow<'_, str>, &str)> = request
        .query
        .iter()
        .map(|(name, value)| (Cow::Owned(percent_encoded(name, false)), &**value))
        .collect();
    query.sort_unstable();
    let mut headers: Vec<(&str, &str)> = request
        .headers
        .iter()
        .filter(|(name, _)| v4_signed_by_default(name) || additional.contains(&&**name))
        .map(|(name, value)| (&**name, value.trim()))
        .collect();
    headers.sort_unstable();

    let mut out = String::with_capacity(1024);
    out.push_str(request.method);
    out.push_str("\n/");
    if let Some(bucket) = request.bucket {
        percent_encode(bucket, false, &mut out);
        out.push('/');
        percent_encode(request.key.unwrap_or_default(), true, &mut out);
    }
    out.push('\n');
    for (i, (name, value)) in query.iter().enumerate() {
        if i > 0 {
            out.push('&');
        }
        out.push_str(name);
        if !value.is_empty() {
            out.push('=');
            percent_encode(value, false, &mut out);
        }
    }
    out.push('\n');
    for (name, value) in headers {
        let _ = writeln!(out, "{name}:{value}");
    }
    out.push('\n');
    for (i, name) in additional.iter().enumerate() {
        if i > 0 {
            out.push(';');
        }
        out.push_str(name);
    }
    out.push('\n');
    out.push_str(UNSIGNED_PAYLOAD);
    out
}

/// `20260103/cn-hangzhou/oss/aliyun_v4_request`.
pub fn v4_scope(day: &str, region: &str) -> String {
    format!("{day}/{region}/oss/aliyun_v4_request")
}

/// `date_time` is the value of `x-oss-date`.
pub fn v4_string_to_sign(canonical: &str, date_time: &str, scope: &str) -> String {
    let mut out = String::with_capacity(192);
    let _ = write!(out, "{V4_ALGORITHM}\n{date_time}\n{scope}\n");
    out.push_str(&hex::encode(Sha256::digest(canonical.as_bytes())));
    out
}

/// A V4 signing key: valid for one day, region and secret. Wiped on drop.
pub struct SigningKey(Zeroizing<[u8; 32]>);

impl SigningKey {
    /// `day` as in the scope: `20260103`.
    pub fn derive(secret: &str, day: &str, region: &str) -> SigningKey {
        let first = Zeroizing::new(format!("aliyun_v4{secret}"));
        let key = hmac_sha256(first.as_bytes(), day);
        let key = hmac_sha256(&*key, region);
        let key = hmac_sha256(&*key, "oss");
        SigningKey(hmac_sha256(&*key, "aliyun_v4_request"))
    }

    /// The signature: 64 hex digits.
    pub fn sign(&self, string_to_sign: &str) -> String {
        hex::encode(*hmac_sha256(&*self.0, string_to_sign))
    }
}

pub fn v4_authorization(id: &str, scope: &str, additional: &[&str], signature: &str) -> String {
    let mut out = format!("{V4_ALGORITHM} Credential={id}/{scope}");
    if !additional.is_empty() {
        let _ = write!(out, ",AdditionalHeaders={}", additional.join(";"));
    }
    let _ = write!(out, ",Signature={signature}");
    out
}

pub fn hmac_sha256(key: &[u8], message: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The signature version of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// Needs the region: `cn-hangzhou`, not `oss-cn-hangzhou`.
    V4 { region: String },
    /// For old private deployments; the public service is disabling it.
    V1,
}

/// Signs requests with one key.
pub struct Signer {
    key: Arc<AccessKey>,
    version: Version,
    /// The most recent signing key. A leaf: held only to read or replace it.
    day: Mutex<Option<(String, Arc<SigningKey>)>>,
}

impl Signer {
    pub fn new(key: impl Into<Arc<AccessKey>>, version: Version) -> Signer {
        Signer {
            key: key.into(),
            version,
            day: Mutex::new(None),
        }
    }

    /// Adds the headers that the signature needs to `headers` and returns the value of `Authorization`, which
    /// must not be logged. `headers` are then exactly the headers to send.
    pub fn sign<'a>(
        &'a self,
        now: SystemTime,
        method: &str,
        bucket: &str,
        key: Option<&str>,
        query: &[(Cow<'_, str>, Cow<'_, str>)],
        headers: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>,
    ) -> Zeroizing<String> {
        if let Some(token) = self.key.token() {
            headers.push(("x-oss-security-token".into(), token.into()));
        }
        let bucket = Some(bucket);
        match &self.version {
            Version::V1 => {
                let date = time::http(now);
                let request = Request {
                    method,
                    bucket,
                    key,
                    query,
                    headers,
                };
                let text = Zeroizing::new(v1_string_to_sign(&request, &date));
                let signature = v1_signature(self.key.secret(), &text);
                headers.push(("date".into(), date.into()));
                Zeroizing::new(v1_authorization(self.key.id(), &signature))
            }
            Version::V4 { region } => {
                let date_time = time::basic(now);
                let scope = v4_scope(&date_time[..8], region);
                headers.push(("x-oss-date".into(), date_time.clone().into()));
                headers.push(("x-oss-content-sha256".into(), UNSIGNED_PAYLOAD.into()));
                let request = Request {
                    method,
                    bucket,
                    key,
                    query,
                    headers,
                };
                let canonical = Zeroizing::new(v4_canonical(&request, &[]));
                let text = v4_string_to_sign(&canonical, &date_time, &scope);
                let signature = self.signing_key(&date_time[..8], region).sign(&text);
                Zeroizing::new(v4_authorization(self.key.id(), &scope, &[], &signature))
            }
        }
    }

    fn signing_key(&self, day: &str, region: &str) -> Arc<SigningKey> {
        let mut cached = lock(&self.day);
        match &*cached {
            Some((of, key)) if of == day => key.clone(),
            _ => {
                let key = Arc::new(SigningKey::derive(self.key.secret(), day, region));
                *cached = Some((day.to_owned(), key.clone()));
                key
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sub_resources_are_sorted_for_the_search() {
        assert!(SUB_RESOURCES.is_sorted());
    }

    #[test]
    fn the_signing_key_is_derived_step_by_step_as_published() {
        let key = SigningKey::derive("FakeSecretFakeSecretFakeSecret", "20260103", "cn-hangzhou");
        assert_eq!(
            hex::encode(*key.0),
            "ca98673a744c3ac1957ec34d5ae205a33e079c9973ca3f4292eeaf639c20a406"
        );
    }
}
