//! What each operation takes: the parameters and headers that this server acts upon. Pure.
//!
//! The service has far more sub-resources and headers than this server. A request that names another one means
//! something else than the request without it: `PUT /key?acl` is not an upload, and a write with a condition is
//! not one without. So everything that can change a request's meaning is refused unless the operation's entry
//! here lists it: every query parameter, every `x-oss-*` header, and the conditional and range headers of HTTP.

use hyper::header::HeaderMap;

use super::operation::Operation;
use super::refusal::{Refusal, Result};

/// What an operation takes.
struct Accepted {
    query: &'static [&'static str],
    headers: &'static [&'static str],
    /// `x-oss-meta-*`.
    metadata: Metadata,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Metadata {
    No,
    Yes,
    /// Only those of client-side encryption, which have to repeat what the upload began with.
    Encryption,
}

/// Of signed URLs; checked with the signature.
const SIGNATURE_PARAMETERS: [&str; 11] = [
    "Expires",
    "OSSAccessKeyId",
    "Signature",
    "security-token",
    "x-oss-additional-headers",
    "x-oss-credential",
    "x-oss-date",
    "x-oss-expires",
    "x-oss-security-token",
    "x-oss-signature",
    "x-oss-signature-version",
];

/// Of every request.
const COMMON_HEADERS: [&str; 6] = [
    "x-oss-content-sha256",
    "x-oss-date",
    "x-oss-security-token",
    "x-oss-signature-version",
    // The service has no such headers: the SDKs send them for ones that are signed and have no effect.
    "x-oss-auth",
    "x-oss-user",
];

/// Headers of HTTP that make the answer depend on what is there, or concern a part of it.
const CONDITIONAL: [&str; 7] = [
    "content-range",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
];

const CONDITIONS: [&str; 4] = [
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
];

fn accepted(operation: Operation) -> Accepted {
    use Operation::*;
    let (query, headers, metadata): (&[&str], &[&str], Metadata) = match operation {
        ListBuckets => (&["marker", "max-keys", "prefix"], &[], Metadata::No),
        PutBucket => (&[], &["x-oss-acl"], Metadata::No),
        DeleteBucket => (&[], &[], Metadata::No),
        GetBucketInfo => (&["bucketInfo"], &[], Metadata::No),
        GetBucketLocation => (&["location"], &[], Metadata::No),
        GetBucketStat => (&["stat"], &[], Metadata::No),
        ListLiveChannels => (&["live", "marker", "max-keys", "prefix"], &[], Metadata::No),
        // Who agrees to pay for a listing has agreed to nothing: it is free here.
        ListObjects => (
            &["delimiter", "encoding-type", "marker", "max-keys", "prefix"],
            &["x-oss-request-payer"],
            Metadata::No,
        ),
        ListObjectsV2 => (
            &[
                "continuation-token",
                "delimiter",
                "encoding-type",
                "fetch-owner",
                "list-type",
                "max-keys",
                "prefix",
                "start-after",
            ],
            &["x-oss-request-payer"],
            Metadata::No,
        ),
        ListObjectVersions => (
            &[
                "delimiter",
                "encoding-type",
                "key-marker",
                "max-keys",
                "prefix",
                "version-id-marker",
                "versions",
            ],
            &["x-oss-request-payer"],
            Metadata::No,
        ),
        ListMultipartUploads => (
            &[
                "delimiter",
                "encoding-type",
                "key-marker",
                "max-uploads",
                "prefix",
                "upload-id-marker",
                "uploads",
            ],
            &[],
            Metadata::No,
        ),
        DeleteMultipleObjects => (&["delete", "encoding-type"], &[], Metadata::No),
        PutObject => (
            &[],
            &[
                "x-oss-forbid-overwrite",
                "x-oss-hash-crc64ecma",
                "x-oss-object-acl",
                "x-oss-storage-class",
            ],
            Metadata::Yes,
        ),
        CopyObject => (
            &[],
            &[
                "x-oss-copy-source",
                "x-oss-copy-source-if-match",
                "x-oss-copy-source-if-modified-since",
                "x-oss-copy-source-if-none-match",
                "x-oss-copy-source-if-unmodified-since",
                "x-oss-forbid-overwrite",
                "x-oss-metadata-directive",
                "x-oss-object-acl",
                "x-oss-storage-class",
                "x-oss-tagging-directive",
            ],
            Metadata::Yes,
        ),
        GetObject => (
            &[
                "response-cache-control",
                "response-content-disposition",
                "response-content-encoding",
                "response-content-language",
                "response-content-type",
                "response-expires",
            ],
            // The last one concerns writes and says nothing of a read; SDKs send one set of headers for both.
            &[
                "if-match",
                "if-modified-since",
                "if-none-match",
                "if-range",
                "if-unmodified-since",
                "range",
                "x-oss-range-behavior",
                "x-oss-forbid-overwrite",
            ],
            Metadata::No,
        ),
        // HTTP has no ranges for HEAD: that of a GET is left out of account.
        HeadObject => (
            &[],
            &[
                "if-match",
                "if-modified-since",
                "if-none-match",
                "if-range",
                "if-unmodified-since",
                "range",
                "x-oss-range-behavior",
                "x-oss-forbid-overwrite",
            ],
            Metadata::No,
        ),
        GetObjectMeta => (&["objectMeta"], &CONDITIONS, Metadata::No),
        DeleteObject => (&[], &[], Metadata::No),
        InitiateMultipartUpload => (
            &["encoding-type", "uploads"],
            &[
                "x-oss-forbid-overwrite",
                "x-oss-object-acl",
                "x-oss-storage-class",
            ],
            Metadata::Yes,
        ),
        // The last three concern the end of the upload and say nothing of a part; as above.
        UploadPart => (
            &["partNumber", "uploadId"],
            &[
                "x-oss-hash-crc64ecma",
                "x-oss-complete-all",
                "x-oss-forbid-overwrite",
                "x-oss-object-acl",
            ],
            Metadata::Encryption,
        ),
        UploadPartCopy => (
            &["partNumber", "uploadId"],
            &[
                "x-oss-copy-source",
                "x-oss-copy-source-if-match",
                "x-oss-copy-source-if-modified-since",
                "x-oss-copy-source-if-none-match",
                "x-oss-copy-source-if-unmodified-since",
                "x-oss-copy-source-range",
                "x-oss-complete-all",
                "x-oss-forbid-overwrite",
                "x-oss-object-acl",
            ],
            Metadata::No,
        ),
        CompleteMultipartUpload => (
            &["encoding-type", "uploadId"],
            &[
                "x-oss-complete-all",
                "x-oss-forbid-overwrite",
                "x-oss-hash-crc64ecma",
                "x-oss-object-acl",
            ],
            Metadata::Encryption,
        ),
        AbortMultipartUpload => (&["uploadId"], &[], Metadata::No),
        ListParts => (
            &[
                "encoding-type",
                "max-parts",
                "part-number-marker",
                "uploadId",
            ],
            &[],
            Metadata::No,
        ),
        Unknown => (&[], &[], Metadata::No),
    };
    Accepted {
        query,
        headers,
        metadata,
    }
}

/// Whether a parameter belongs to the signature of a URL.
pub fn is_of_signature(parameter: &str) -> bool {
    SIGNATURE_PARAMETERS.contains(&parameter)
}

/// # Errors
/// 501 for what this server does not do; 400 for what cannot be understood.
pub fn check(operation: Operation, query: &[(String, String)], headers: &HeaderMap) -> Result<()> {
    if operation == Operation::Unknown {
        return Err(Refusal::not_implemented("The operation"));
    }
    let accepted = accepted(operation);
    for (index, (name, _)) in query.iter().enumerate() {
        let name = name.as_str();
        if !accepted.query.contains(&name) && !is_of_signature(name) {
            return Err(Refusal::not_implemented(&format!("The parameter {name}")));
        }
        if query[..index].iter().any(|(before, _)| before == name) {
            return Err(Refusal::argument(format!("{name} is given twice.")));
        }
    }
    for name in headers.keys() {
        let name = name.as_str();
        let metadata = name.strip_prefix("x-oss-meta-");
        let changes = name.starts_with("x-oss-") || CONDITIONAL.contains(&name);
        if !changes {
            continue;
        }
        let taken = match (metadata, accepted.metadata) {
            (Some(_), Metadata::Yes) => true,
            (Some(rest), Metadata::Encryption) => rest.starts_with("client-side-encryption-"),
            (Some(_), Metadata::No) => false,
            (None, _) => accepted.headers.contains(&name) || COMMON_HEADERS.contains(&name),
        };
        if !taken {
            return Err(Refusal::not_implemented(&format!("The header {name}")));
        }
        let mut values = headers.get_all(name).iter();
        let value = values.next();
        if values.next().is_some() {
            return Err(Refusal::argument(format!("{name} is given twice.")));
        }
        let text = value.and_then(|value| value.to_str().ok());
        match text.map(str::trim) {
            Some(value) => check_value(name, value)?,
            // Metadata may be any UTF-8, which is checked where it is read.
            None if metadata.is_some() => {}
            None => return Err(Refusal::argument(format!("{name} is not plain text."))),
        }
    }
    Ok(())
}

/// Of headers whose values are words.
fn check_value(name: &str, value: &str) -> Result<()> {
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    let (known, done) = match name {
        "x-oss-forbid-overwrite" => (is(&["true", "false"]), true),
        "x-oss-complete-all" => (is(&["yes"]), true),
        "x-oss-request-payer" => (is(&["requester"]), true),
        "x-oss-range-behavior" => (is(&["standard"]), true),
        "x-oss-metadata-directive" | "x-oss-tagging-directive" => (is(&["copy", "replace"]), true),
        // Everything is private here.
        "x-oss-acl" | "x-oss-object-acl" => (
            is(&["private", "default", "public-read", "public-read-write"]),
            is(&["private", "default"]),
        ),
        // Objects of the other classes would have to be restored before they can be read.
        "x-oss-storage-class" => (
            is(&[
                "Standard",
                "IA",
                "Archive",
                "ColdArchive",
                "DeepColdArchive",
            ]),
            is(&["Standard", "IA"]),
        ),
        _ => (true, true),
    };
    match (known, done) {
        (false, _) => Err(Refusal::argument(format!("{name} cannot be {value:?}."))),
        (true, false) => Err(Refusal::not_implemented(&format!("{name}: {value}"))),
        (true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(operation: Operation, query: &[&str], headers: &[(&str, &str)]) -> &'static str {
        let query: Vec<(String, String)> = query
            .iter()
            .map(|name| (name.to_string(), String::new()))
            .collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        check(operation, &query, &map).map_or_else(|refusal| refusal.code, |()| "")
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        use Operation::*;
        const NO: &str = "NotImplemented";
        const BAD: &str = "InvalidArgument";
        type Case<'a> = (Operation, &'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case] = &[
            (PutObject, &[], &[], ""),
            (PutObject, &["x-oss-signature", "x-oss-date"], &[], ""),
            (PutObject, &["legalHold"], &[], NO),
            (PutObject, &["anything"], &[], NO),
            (PutObject, &["uploads"], &[], NO),
            (DeleteObject, &["versionId"], &[], NO),
            (DeleteObject, &[], &[("if-match", "\"x\"")], NO),
            (ListObjects, &["prefix", "max-keys"], &[], ""),
            (ListObjects, &["prefix", "prefix"], &[], BAD),
            (ListObjects, &["start-after"], &[], NO),
            (PutObject, &[], &[("x-oss-tagging", "a=b")], NO),
            (PutObject, &[], &[("x-oss-callback", "x")], NO),
            (PutObject, &[], &[("x-oss-traffic-limit", "819200")], NO),
            (
                PutObject,
                &[],
                &[("x-oss-server-side-encryption", "AES256")],
                NO,
            ),
            (PutObject, &[], &[("x-oss-object-acl", "public-read")], NO),
            (PutObject, &[], &[("x-oss-object-acl", "private")], ""),
            (PutObject, &[], &[("x-oss-object-acl", "mine")], BAD),
            (PutObject, &[], &[("x-oss-storage-class", "IA")], ""),
            (PutObject, &[], &[("x-oss-storage-class", "Archive")], NO),
            (PutObject, &[], &[("x-oss-storage-class", "Bogus")], BAD),
            (PutObject, &[], &[("x-oss-forbid-overwrite", "maybe")], BAD),
            (PutObject, &[], &[("if-none-match", "*")], NO),
            (PutObject, &[], &[("range", "bytes=0-1")], NO),
            (PutObject, &[], &[("x-oss-metadata-directive", "COPY")], NO),
            (
                PutObject,
                &[],
                &[
                    ("x-oss-forbid-overwrite", "false"),
                    ("x-oss-forbid-overwrite", "true"),
                ],
                BAD,
            ),
            (PutObject, &[], &[("x-oss-meta-a", "ü")], ""),
            (PutObject, &[], &[("x-oss-storage-class", "ü")], BAD),
            (
                PutObject,
                &[],
                &[("x-custom", "a"), ("user-agent", "b")],
                "",
            ),
            (GetObject, &["response-expires"], &[("range", "x")], ""),
            (GetObject, &["x-oss-process"], &[], NO),
            (GetObject, &[], &[("x-oss-request-payer", "requester")], NO),
            (
                UploadPart,
                &["partNumber", "uploadId"],
                &[("x-oss-meta-a", "b")],
                NO,
            ),
            (
                UploadPart,
                &["partNumber", "uploadId"],
                &[("x-oss-meta-client-side-encryption-key", "b")],
                "",
            ),
            (
                UploadPart,
                &["partNumber", "uploadId"],
                &[
                    ("x-oss-object-acl", "private"),
                    ("x-oss-complete-all", "yes"),
                    ("x-oss-forbid-overwrite", "true"),
                ],
                "",
            ),
            (
                UploadPart,
                &["partNumber", "uploadId"],
                &[("x-oss-object-acl", "public-read")],
                NO,
            ),
            (PutObject, &[], &[("x-oss-user", "a")], ""),
            (PutObject, &[], &[("x-oss-auth", "a")], ""),
            (
                ListObjectsV2,
                &[],
                &[("x-oss-request-payer", "requester")],
                "",
            ),
            (ListObjectsV2, &[], &[("x-oss-request-payer", "you")], BAD),
            (CopyObject, &[], &[("x-oss-tagging-directive", "Copy")], ""),
            (
                CopyObject,
                &[],
                &[("x-oss-copy-source-range", "bytes=0-1")],
                NO,
            ),
            (Unknown, &[], &[], NO),
        ];
        for (operation, query, headers, wanted) in cases {
            assert_eq!(
                checked(*operation, query, headers),
                *wanted,
                "{operation:?} {query:?} {headers:?}"
            );
        }
    }
}
