//! A request, read: which bucket, which key, which operation. Pure but for the body it carries.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, BodyStream};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request};
use md5::{Digest, Md5};

use super::accepted;
use super::operation::Operation;
use super::pace::{Floor, Patience};
use super::refusal::{BodyFault, Refusal, Result};
use crate::base::crc64::Crc64;
use crate::base::encoding::percent_decoded;
use crate::object::meta::STANDARD_HEADERS;
use crate::store::error::Error;
use crate::store::object_store::{ObjectHeaders, ObjectKey, Overwrite};

/// Names and values of user metadata, all together, in bytes.
const MAX_METADATA: usize = 8 << 10;

pub struct Call {
    pub operation: Operation,
    pub method: Method,
    pub bucket: Option<String>,
    pub key: Option<String>,
    /// Decoded, in the order they came.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Option<Incoming>,
    pub host: String,
    /// Why the operation is not done, where the request names something that this server does not do.
    pub refusal: Option<Refusal>,
    pub patience: Patience,
}

impl Call {
    /// # Errors
    /// 400 for a path that is no key.
    pub fn read(request: Request<Incoming>, patience: Patience) -> Result<Call> {
        let (head, body) = request.into_parts();
        let mut call = Call::of_head(head, patience)?;
        call.body = Some(body);
        Ok(call)
    }

    /// A request without its body.
    pub fn of_head(parts: Parts, patience: Patience) -> Result<Call> {
        let host = parts
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default()
            .to_string();
        let path = parts.uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = match bucket_of_host(&host) {
            Some(bucket) => (Some(bucket), path),
            None => match path.split_once('/') {
                Some((bucket, key)) => (Some(bucket.to_string()), key),
                None if path.is_empty() => (None, ""),
                None => (Some(path.to_string()), ""),
            },
        };
        let key = match key {
            "" => None,
            key => Some(percent_decoded(key).ok_or_else(|| {
                Refusal::new(
                    400,
                    "InvalidObjectName",
                    "The specified object is not valid.",
                )
                .ec("0016-00000002")
            })?),
        };
        let query = read_query(parts.uri.query().unwrap_or_default())?;
        let mut call = Call {
            operation: Operation::Unknown,
            method: parts.method,
            bucket,
            key,
            query,
            headers: parts.headers,
            body: None,
            host,
            refusal: None,
            patience,
        };
        let operation = call.which_operation();
        match accepted::check(operation, &call.query, &call.headers) {
            Ok(()) => call.operation = operation,
            Err(refusal) => call.refusal = Some(refusal),
        }
        Ok(call)
    }

    fn which_operation(&self) -> Operation {
        use Operation::*;
        let has = |name| self.parameter(name).is_some();
        let copies = self.headers.contains_key("x-oss-copy-source");
        match (&self.bucket, &self.key, self.method.as_str()) {
            (None, _, "GET") => ListBuckets,
            (Some(_), None, "PUT") => PutBucket,
            (Some(_), None, "DELETE") => DeleteBucket,
            (Some(_), None, "POST") if has("delete") => DeleteMultipleObjects,
            (Some(_), None, "GET") if has("bucketInfo") => GetBucketInfo,
            (Some(_), None, "GET") if has("location") => GetBucketLocation,
            (Some(_), None, "GET") if has("stat") => GetBucketStat,
            (Some(_), None, "GET") if has("uploads") => ListMultipartUploads,
            (Some(_), None, "GET") if has("versions") => ListObjectVersions,
            (Some(_), None, "GET") if has("live") => ListLiveChannels,
            (Some(_), None, "GET") if self.parameter("list-type") == Some("2") => ListObjectsV2,
            (Some(_), None, "GET") => ListObjects,
            (Some(_), Some(_), "PUT") if has("uploadId") && copies => UploadPartCopy,
            (Some(_), Some(_), "PUT") if has("uploadId") => UploadPart,
            (Some(_), Some(_), "PUT") if copies => CopyObject,
            (Some(_), Some(_), "PUT") => PutObject,
            (Some(_), Some(_), "POST") if has("uploads") => InitiateMultipartUpload,
            (Some(_), Some(_), "POST") if has("uploadId") => CompleteMultipartUpload,
            (Some(_), Some(_), "DELETE") if has("uploadId") => AbortMultipartUpload,
            (Some(_), Some(_), "DELETE") => DeleteObject,
            (Some(_), Some(_), "GET") if has("uploadId") => ListParts,
            (Some(_), Some(_), "GET") => GetObject,
            (Some(_), Some(_), "HEAD") if has("objectMeta") => GetObjectMeta,
            (Some(_), Some(_), "HEAD") => HeadObject,
            _ => Unknown,
        }
    }

    /// Where this server is reached, for a client that takes it from an answer. With its scheme, unlike the
    /// service's: there is no TLS here, which some clients take for granted.
    pub fn endpoint(&self) -> String {
        format!("http://{}", without_bucket(&self.host))
    }

    /// Empty for a parameter without a value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    }

    /// A number in a parameter, between two bounds.
    pub fn number(&self, name: &str, default: u64, least: u64, most: u64) -> Result<u64> {
        match self.parameter(name) {
            None | Some("") => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| {
                    Refusal::argument(format!("{name} must be between {least} and {most}."))
                }),
        }
    }

    /// # Errors
    /// 400 for names the service does not take.
    pub fn object_key(&self) -> Result<ObjectKey> {
        checked_key(self.key.as_deref().unwrap_or_default())
    }

    pub fn wants_url_encoding(&self) -> Result<bool> {
        match self.parameter("encoding-type") {
            None | Some("") => Ok(false),
            Some("url") => Ok(true),
            Some(_) => Err(Refusal::argument(
                "Invalid Encoding Method specified in Request.",
            )),
        }
    }

    pub fn overwrite(&self) -> Overwrite {
        match self.header("x-oss-forbid-overwrite") {
            Some(value) if value.eq_ignore_ascii_case("true") => Overwrite::Forbidden,
            _ => Overwrite::Allowed,
        }
    }

    /// What the request says an object shall carry.
    ///
    /// # Errors
    /// 400 for metadata the service does not take.
    pub fn object_headers(&self) -> Result<ObjectHeaders> {
        let mut headers = ObjectHeaders::default();
        let mut total = 0;
        for (name, value) in &self.headers {
            let name = name.as_str();
            let text = || {
                std::str::from_utf8(value.as_bytes())
                    .map(|text| text.trim().to_string())
                    .map_err(|_| Refusal::argument(format!("The header {name} is not UTF-8.")))
            };
            if let Some(name) = name.strip_prefix("x-oss-meta-") {
                let valid = !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                if !valid {
                    return Err(Refusal::argument(format!(
                        "{name} is no name for metadata."
                    )));
                }
                total += name.len() + value.len();
                headers.user.insert(name.to_string(), text()?);
            } else if name == "content-type" {
                headers.content_type = Some(text()?);
            } else if name == "x-oss-storage-class" {
                headers.storage_class = Some(text()?);
            } else if STANDARD_HEADERS.contains(&name) {
                headers.standard.insert(name.to_string(), text()?);
            }
        }
        if total > MAX_METADATA {
            return Err(Refusal::argument("The user metadata are larger than 8 KB."));
        }
        Ok(headers)
    }

    /// The body's length; none for a chunked one.
    ///
    /// # Errors
    /// 411 where there is neither a length nor chunks.
    pub fn length(&self) -> Result<Option<u64>> {
        if let Some(length) = self.header("content-length") {
            return length
                .parse()
                .map(Some)
                .map_err(|_| Refusal::argument("Content-Length is no number."));
        }
        if self.headers.contains_key(header::TRANSFER_ENCODING) {
            return Ok(None);
        }
        Err(Refusal::new(
            411,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
        ))
    }

    /// The body as it arrives. It ends with an error if it breaks off or is not what its checksums say.
    pub fn take_body(
        &mut self,
        received: impl Fn(usize) + Send + 'static,
    ) -> Result<BoxStream<'static, std::result::Result<Bytes, Error>>> {
        let md5 = match self.header("content-md5") {
            None => None,
            Some(text) => {
                use base64::Engine;
                let wanted: [u8; 16] = base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .ok_or_else(|| {
                        Refusal::new(
                            400,
                            "InvalidDigest",
                            "The Content-MD5 you specified was invalid.",
                        )
                    })?;
                Some((Md5::new(), wanted))
            }
        };
        let crc64 = match self.header("x-oss-hash-crc64ecma") {
            None => None,
            Some(text) => {
                let wanted: u64 = text.parse().map_err(|_| {
                    Refusal::new(400, "InvalidCRC64", "x-oss-hash-crc64ecma is no number.")
                })?;
                Some((Crc64::new(), wanted))
            }
        };
        let Some(body) = self.body.take() else {
            return Ok(stream::empty().boxed());
        };
        let checked = Checked {
            body,
            md5,
            crc64,
            floor: Floor::new(self.patience),
        };
        Ok(stream::unfold(Some(checked), next_chunk)
            .inspect(move |chunk| {
                if let Ok(chunk) = chunk {
                    received(chunk.len());
                }
            })
            .boxed())
    }

    /// A document that must fit into memory, and arrive soon.
    pub async fn collect_body(&mut self, limit: usize) -> Result<Bytes> {
        let too_large = || Refusal::new(400, "MalformedXML", "The XML you provided is too large.");
        // Without a length there may be nothing, or chunks.
        if self.header("content-length").is_some()
            && self.length()?.is_some_and(|length| length > limit as u64)
        {
            return Err(too_large());
        }
        let patience = self.patience;
        let mut body = self.take_body(|_| ())?;
        let collected = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = body.next().await {
                let chunk = chunk?;
                if bytes.len() + chunk.len() > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.into())
        };
        tokio::time::timeout(patience.body, collected)
            .await
            .unwrap_or_else(|_| Err(Error::other(BodyFault::Slow).into()))
    }

    /// For a signature: every header once, as text.
    pub fn header_list(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        self.headers
            .iter()
            .map(|(name, value)| {
                (
                    Cow::Borrowed(name.as_str()),
                    String::from_utf8_lossy(value.as_bytes()),
                )
            })
            .collect()
    }
}

struct Checked {
    body: Incoming,
    md5: Option<(Md5, [u8; 16])>,
    crc64: Option<(Crc64, u64)>,
    floor: Floor,
}

type Chunk = std::result::Result<Bytes, Error>;

async fn next_chunk(checked: Option<Checked>) -> Option<(Chunk, Option<Checked>)> {
    let mut checked = checked?;
    loop {
        let frame = match checked.floor.next(checked.body.frame()).await {
            Err(_) => return Some((Err(Error::other(BodyFault::Slow)), None)),
            Ok(None) => {
                if let Some((md5, wanted)) = checked.md5
                    && <[u8; 16]>::from(md5.finalize()) != wanted
                {
                    return Some((Err(Error::other(BodyFault::Md5)), None));
                }
                if let Some((crc64, wanted)) = checked.crc64
                    && crc64.value() != wanted
                {
                    return Some((Err(Error::other(BodyFault::Crc64)), None));
                }
                return None;
            }
            Ok(Some(Err(_))) => return Some((Err(Error::other(BodyFault::Incomplete)), None)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        checked.floor.arrived(chunk.len());
        if let Some((md5, _)) = &mut checked.md5 {
            md5.update(&chunk);
        }
        if let Some((crc64, _)) = &mut checked.crc64 {
            crc64.update(&chunk);
        }
        return Some((Ok(chunk), Some(checked)));
    }
}

/// # Errors
/// 400 with the number the service has for the cause.
pub fn checked_key(key: &str) -> Result<ObjectKey> {
    ObjectKey::new(key).map_err(|error| {
        let ec = if key.len() > ObjectKey::MAX_LEN {
            "0016-00000002"
        } else {
            "0016-00000005"
        };
        Refusal::from(error).ec(ec)
    })
}

/// The bucket of a virtual-hosted request; none where the path names it.
fn bucket_of_host(host: &str) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let (bucket, _) = name.split_once('.')?;
    Some(bucket.to_string())
}

fn without_bucket(host: &str) -> &str {
    match (bucket_of_host(host), host.split_once('.')) {
        (Some(_), Some((_, rest))) => rest,
        _ => host,
    }
}

/// Names and values, decoded.
pub fn read_query(query: &str) -> Result<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Some clients write a space as a plus, none sends a bare plus that means one.
            let decode = |text: &str| percent_decoded(&text.replace('+', "%20"));
            decode(name)
                .zip(decode(value))
                .ok_or_else(|| Refusal::argument("The query is not UTF-8."))
        })
        .collect()
}

/// Reads what is left of a refused request's body, so that the client gets to read the answer; not more than
/// `limit` bytes of it, and not longer than `patience`.
pub async fn drain(body: Incoming, limit: u64, patience: Duration) {
    let drained = async {
        let mut frames = BodyStream::new(body);
        let mut left = limit;
        while let Some(Ok(frame)) = frames.next().await {
            let len = frame.data_ref().map_or(0, Bytes::len) as u64;
            if len > left {
                return;
            }
            left -= len;
        }
    };
    let _ = tokio::time::timeout(patience, drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_names_the_bucket_unless_it_is_an_address() {
        for (host, bucket) in [
            ("127.0.0.1:8080", None),
            ("127.0.0.1", None),
            ("[::1]:80", None),
            ("localhost:80", None),
            ("localhost", None),
            ("", None),
            ("photos.localhost:80", Some("photos")),
            ("photos.oss-cn-hangzhou.aliyuncs.com", Some("photos")),
        ] {
            assert_eq!(bucket_of_host(host).as_deref(), bucket, "{host}");
            let rest = without_bucket(host);
            match bucket {
                Some(bucket) => assert_eq!(format!("{bucket}.{rest}"), host),
                None => assert_eq!(rest, host),
            }
        }
    }

    #[test]
    fn a_query_is_decoded_once() {
        let query = read_query("uploads&prefix=a%2Fb%20c%252B&delimiter=&x=1=2").unwrap();
        let query: Vec<(&str, &str)> = query
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            query,
            [
                ("uploads", ""),
                ("prefix", "a/b c%2B"),
                ("delimiter", ""),
                ("x", "1=2")
            ]
        );
        assert!(read_query("a=%ff").is_err());
    }
}
