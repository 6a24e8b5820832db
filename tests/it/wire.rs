//! The client against a server that deliberately misbehaves: raw bytes over TCP, so that every oddity of the
//! wire can be produced. The conformance suite covers an honest bucket, and hostile_service a hostile one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use ossvault::base::time;
use ossvault::oss::client::{Client, Settings};
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::endpoint::{Endpoint, Options};
use ossvault::oss::sign::Version;
use ossvault::store::error::Error;
use ossvault::store::object_store::{
    Body, CopyHeaders, CopyRequest, ETag, ListRequest, ObjectHeaders, ObjectStore, Overwrite,
    UploadId, UploadedPart,
};

use crate::raw_server::*;

#[tokio::test]
async fn keys_go_out_exactly_as_they_are_signed() {
    let cases = [
        ("a/../b", "/bkt/a%2F..%2Fb"),
        ("a//b/", "/bkt/a//b/"),
        ("./x", "/bkt/.%2Fx"),
        ("x/.", "/bkt/x%2F."),
        ("..x/a", "/bkt/..x/a"),
        (
            "\u{6587} +?#%\\\u{1}",
            "/bkt/%E6%96%87%20%2B%3F%23%25%5C%01",
        ),
        ("%2e%2e/a", "/bkt/%252e%252e/a"),
    ];
    let server = Server::start(vec![head_of(b"x", &[]); cases.len()]).await;
    for (name, _) in cases {
        server.store.head(&key(name)).await.unwrap();
    }
    let expected: Vec<String> = cases
        .iter()
        .map(|(_, path)| format!("HEAD {path} HTTP/1.1"))
        .collect();
    assert_eq!(server.lines(), expected);
    for name in [".", ".."] {
        assert!(matches!(
            server.store.head(&key(name)).await,
            Err(Error::InvalidName(_))
        ));
    }
    assert_eq!(server.lines().len(), cases.len());
}

#[tokio::test]
async fn every_request_carries_what_the_protocol_requires() {
    let server = Server::start(vec![
        status(200, &[("ETag", "\"E\"")], ""),
        part(206, b"0123456789", 2..5, 3),
    ])
    .await;
    put(&server, b"hello", Overwrite::Forbidden).await.unwrap();
    get(&server, Some(2..5)).await.unwrap();
    for (n, name, value) in [
        (0, "content-length", Some("5")),
        (0, "transfer-encoding", None),
        (0, "x-oss-meta-mode", Some("33188")),
        (0, "x-oss-forbid-overwrite", Some("true")),
        (0, "x-oss-content-sha256", Some("UNSIGNED-PAYLOAD")),
        (0, "x-oss-security-token", Some("SessionToken")),
        (0, "accept-encoding", Some("identity")),
        (1, "range", Some("bytes=2-4")),
        (1, "x-oss-range-behavior", Some("standard")),
        (1, "accept-encoding", Some("identity")),
    ] {
        assert_eq!(server.header(n, name).as_deref(), value, "{n} {name}");
    }
    let authorization = server.header(0, "authorization").unwrap();
    assert!(authorization.starts_with("OSS4-HMAC-SHA256 Credential=id/"));
    assert!(!authorization.contains("VerySecret"));
}

#[tokio::test]
async fn a_body_cut_in_the_middle_resumes_where_it_broke() {
    let whole = b"0123456789";
    let server = Server::start(vec![
        part(200, whole, 0..10, 4),
        part(206, whole, 4..10, 0),
        part(206, whole, 4..10, 3),
        part(206, whole, 7..10, 3),
    ])
    .await;
    assert_eq!(get(&server, None).await.unwrap(), (0..10, whole.to_vec()));
    for (n, range) in [(0, None), (1, Some("bytes=4-9")), (3, Some("bytes=7-9"))] {
        assert_eq!(server.header(n, "range").as_deref(), range);
        let tag = (n > 0).then_some("\"E1\"");
        assert_eq!(server.header(n, "if-match").as_deref(), tag);
    }
}

#[tokio::test]
async fn a_body_that_keeps_breaking_off_is_an_error_and_not_truncated() {
    let whole = b"0123456789";
    let mut replies = vec![part(200, whole, 0..10, 4)];
    replies.extend(vec![part(206, whole, 4..10, 0); 20]);
    let server = Server::start(replies).await;
    assert!(matches!(
        get(&server, None).await,
        Err(Error::Unavailable(_))
    ));
    assert!(server.lines().len() <= 8);
}

#[tokio::test]
async fn a_body_is_never_of_two_versions() {
    let whole = b"0123456789";
    let server = Server::start(vec![
        part(200, whole, 0..10, 4),
        refused(412, "PreconditionFailed"),
    ])
    .await;
    assert!(matches!(
        get(&server, None).await,
        Err(Error::PreconditionFailed)
    ));
    // A server that ignores If-Match is detected by the size.
    let other = b"0123456789x";
    let server = Server::start(vec![part(200, whole, 0..10, 4), part(206, other, 4..10, 6)]).await;
    assert!(matches!(
        get(&server, None).await,
        Err(Error::PreconditionFailed)
    ));
}

#[tokio::test]
async fn a_ranged_request_answered_with_the_whole_object_is_cut_to_the_range() {
    let whole = b"0123456789";
    for (asked, expected) in [(2..5, 2..5), (8..20, 8..10), (0..10, 0..10)] {
        let server = Server::start(vec![part(200, whole, 0..10, 10)]).await;
        let (range, bytes) = get(&server, Some(asked)).await.unwrap();
        assert_eq!(range, expected);
        assert_eq!(bytes, whole[expected.start as usize..expected.end as usize]);
    }
    let server = Server::start(vec![part(200, whole, 0..10, 10)]).await;
    assert!(matches!(
        get(&server, Some(10..20)).await,
        Err(Error::InvalidRange)
    ));
    // It breaks off, and the rest arrives as the whole object again.
    let server = Server::start(vec![
        part(200, whole, 0..10, 6),
        part(200, whole, 0..10, 10),
    ])
    .await;
    assert_eq!(
        get(&server, Some(3..9)).await.unwrap(),
        (3..9, whole[3..9].to_vec())
    );
}

#[tokio::test]
async fn a_content_range_that_was_not_requested_is_rejected() {
    let whole = b"0123456789";
    let server = Server::start(vec![part(206, whole, 3..5, 2), part(206, whole, 2..5, 3)]).await;
    assert_eq!(
        get(&server, Some(2..5)).await.unwrap(),
        (2..5, whole[2..5].to_vec())
    );
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_range_that_goes_past_the_end_is_cut_there() {
    let whole = b"0123456789";
    let server = Server::start(vec![
        part(206, whole, 8..10, 2),
        refused(416, "InvalidRange"),
    ])
    .await;
    assert_eq!(
        get(&server, Some(8..100)).await.unwrap(),
        (8..10, whole[8..].to_vec())
    );
    assert!(matches!(
        get(&server, Some(10..11)).await,
        Err(Error::InvalidRange)
    ));
}

#[tokio::test]
async fn a_whole_object_whose_checksum_differs_is_an_error_before_its_last_byte() {
    let mut reply = part(200, b"0123456789", 0..10, 10);
    if let Reply::Send(bytes) = &mut reply {
        *bytes.last_mut().unwrap() = b'8';
    }
    let server = Server::start(vec![reply]).await;
    assert!(matches!(get(&server, None).await, Err(Error::Corrupt(_))));
    let server = Server::start(vec![part(200, b"", 0..0, 0)]).await;
    assert_eq!(get(&server, None).await.unwrap(), (0..0, vec![]));
}

#[tokio::test]
async fn transient_errors_are_retried_and_others_are_not() {
    let good = || status(200, &[("ETag", "\"E\"")], "");
    for (first, tries) in [
        (Reply::Cut(vec![]), 2),
        (
            Reply::Cut(b"HTTP/1.1 200 X\r\nETag: \"E\"\r\nConte".to_vec()),
            2,
        ),
        (refused(500, "InternalError"), 2),
        (refused(503, "ServiceUnavailable"), 2),
        (status(502, &[], "<html>Bad gateway</html>"), 2),
        (refused(400, "RequestTimeout"), 2),
        (refused(403, "AccessDenied"), 1),
        (refused(400, "InvalidArgument"), 1),
        (status(403, &[], "<html>Go away</html>"), 1),
    ] {
        let server = Server::start(vec![first, good()]).await;
        let result = put(&server, b"hello", Overwrite::Allowed).await;
        assert_eq!(result.is_ok(), tries == 2);
        assert_eq!(server.lines().len(), tries);
        for request in server.received.lock().unwrap().iter() {
            assert_eq!(request.body, b"hello");
        }
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let server = Server::start(vec![
        status(503, &[("Retry-After", "1")], ""),
        head_of(b"x", &[]),
    ])
    .await;
    let began = Instant::now();
    server.store.head(&key("a")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_damaged_upload_is_retried() {
    let answer = |crc: u64| {
        status(
            200,
            &[
                ("ETag", "\"E\""),
                ("x-oss-hash-crc64ecma", &crc.to_string()),
            ],
            "",
        )
    };
    let server = Server::start(vec![answer(1), answer(crc(b"hello"))]).await;
    put(&server, b"hello", Overwrite::Forbidden).await.unwrap();
    // The damaged object is this call's own, and must be replaced.
    assert_eq!(server.header(1, "x-oss-forbid-overwrite"), None);
    let server = Server::with(vec![answer(1); 50], Duration::from_millis(500), 4).await;
    assert!(matches!(
        put(&server, b"hello", Overwrite::Allowed).await,
        Err(Error::Corrupt(_))
    ));
}

#[tokio::test]
async fn a_write_that_must_not_replace_recognises_its_own_success() {
    let mode = [("x-oss-meta-mode", "33188")];
    let other = [("x-oss-meta-mode", "33024")];
    let lost = || Reply::Cut(vec![]);
    let good = || status(200, &[("ETag", "\"E1\"")], "");
    for (replies, expected) in [
        // The response was lost after the effect.
        (vec![lost(), head_of(b"hello", &mode)], Ok(())),
        // The request was lost.
        (vec![lost(), refused(404, "NoSuchKey"), good()], Ok(())),
        // Another client was faster: other bytes, or the same bytes with other attributes.
        (vec![lost(), head_of(b"other", &mode)], Err(())),
        (vec![lost(), head_of(b"hello", &other)], Err(())),
        // The first one took effect after the check.
        (
            vec![
                lost(),
                refused(404, "NoSuchKey"),
                refused(409, "FileAlreadyExists"),
                head_of(b"hello", &mode),
            ],
            Ok(()),
        ),
        (vec![refused(409, "FileAlreadyExists")], Err(())),
    ] {
        let count = replies.len();
        let server = Server::start(replies).await;
        let result = put(&server, b"hello", Overwrite::Forbidden).await;
        match expected {
            Ok(()) => assert_eq!(result.unwrap(), tag()),
            Err(()) => assert!(matches!(result, Err(Error::AlreadyExists))),
        }
        assert_eq!(server.lines().len(), count);
    }
}

#[tokio::test]
async fn a_completion_whose_response_was_lost_is_detected() {
    let parts: Vec<UploadedPart> = [(1, &b"hel"[..]), (2, b"lo")]
        .map(|(number, bytes)| UploadedPart {
            number,
            etag: ETag::new(format!("\"P{number}\"")),
            crc64: Some(crc(bytes)),
            size: bytes.len() as u64,
        })
        .into();
    let done = |crc: u64| {
        status(
            200,
            &[("x-oss-hash-crc64ecma", &crc.to_string())],
            "<CompleteMultipartUploadResult><ETag>\"E1\"</ETag></CompleteMultipartUploadResult>",
        )
    };
    let lost = || Reply::Cut(vec![]);
    let gone = || refused(404, "NoSuchUpload");
    let complete = async |replies: Vec<Reply>| {
        let count = replies.len();
        let server = Server::start(replies).await;
        let result = server
            .store
            .complete_multipart(
                &key("a"),
                &UploadId("U".to_owned()),
                &parts,
                Overwrite::Allowed,
            )
            .await;
        assert_eq!(server.lines().len(), count);
        result.map(|answer| answer.etag)
    };
    assert_eq!(complete(vec![done(crc(b"hello"))]).await.unwrap(), tag());
    assert!(matches!(
        complete(vec![done(1)]).await,
        Err(Error::Corrupt(_))
    ));
    assert_eq!(
        complete(vec![lost(), head_of(b"hello", &[])])
            .await
            .unwrap(),
        tag()
    );
    // The old object is still there at first; then it turns out that the completion had succeeded.
    assert_eq!(
        complete(vec![
            lost(),
            head_of(b"old", &[]),
            gone(),
            head_of(b"hello", &[])
        ])
        .await
        .unwrap(),
        tag()
    );
    assert_eq!(
        complete(vec![lost(), refused(404, "NoSuchKey"), done(crc(b"hello"))])
            .await
            .unwrap(),
        tag()
    );
    assert!(matches!(
        complete(vec![gone()]).await,
        Err(Error::NoSuchUpload)
    ));
}

#[tokio::test]
async fn a_copy_names_its_source_its_precondition_and_all_headers() {
    let server = Server::start(vec![
        status(
            200,
            &[],
            "<CopyObjectResult><ETag>\"E1\"</ETag></CopyObjectResult>",
        ),
        refused(412, "PreconditionFailed"),
    ])
    .await;
    let headers = ObjectHeaders {
        user: BTreeMap::from([("mode".to_owned(), "33188".to_owned())]),
        content_type: Some("text/plain".to_owned()),
        standard: BTreeMap::from([("cache-control".to_owned(), "no-cache".to_owned())]),
        storage_class: Some("IA".to_owned()),
    };
    let copy = async |headers| {
        server
            .store
            .copy(&CopyRequest {
                source: key("a+b/c"),
                source_etag: tag(),
                destination: key("d"),
                headers,
                overwrite: Overwrite::Allowed,
            })
            .await
    };
    copy(CopyHeaders::Replace(headers)).await.unwrap();
    for (name, value) in [
        ("x-oss-copy-source", Some("/bkt/a%2Bb/c")),
        ("x-oss-copy-source-if-match", Some("\"E1\"")),
        ("x-oss-metadata-directive", Some("REPLACE")),
        ("x-oss-tagging-directive", Some("Copy")),
        ("x-oss-meta-mode", Some("33188")),
        ("content-type", Some("text/plain")),
        ("cache-control", Some("no-cache")),
        ("x-oss-storage-class", Some("IA")),
        ("content-length", Some("0")),
        ("x-oss-forbid-overwrite", None),
    ] {
        assert_eq!(server.header(0, name).as_deref(), value, "{name}");
    }
    assert!(matches!(
        copy(CopyHeaders::Keep).await,
        Err(Error::PreconditionFailed)
    ));
    assert_eq!(
        server.header(1, "x-oss-metadata-directive").as_deref(),
        Some("COPY")
    );
}

#[tokio::test]
async fn a_stalled_server_ends_in_a_timeout() {
    let timeout = Duration::from_millis(300);
    let whole = b"0123456789";
    let partly = |reply| match reply {
        Reply::Cut(bytes) => bytes,
        _ => unreachable!(),
    };
    // No response at all.
    let server = Server::with(vec![Reply::Stall; 9], timeout, 4).await;
    let began = Instant::now();
    assert!(matches!(
        server.store.head(&key("a")).await,
        Err(Error::TimedOut(_))
    ));
    assert!(matches!(
        put(&server, b"hello", Overwrite::Allowed).await,
        Err(Error::TimedOut(_))
    ));
    assert!(matches!(
        put(&server, b"hello", Overwrite::Forbidden).await,
        Err(Error::TimedOut(_))
    ));
    assert!(began.elapsed() < timeout * 5, "{:?}", began.elapsed());
    // A body that stops; then silence.
    let head = partly(part(200, whole, 0..10, 4));
    let stop = Server::with(vec![Reply::Send(head); 9], timeout, 4).await;
    let began = Instant::now();
    assert!(get(&stop, None).await.is_err());
    assert!(began.elapsed() < timeout * 3, "{:?}", began.elapsed());
}

#[tokio::test]
async fn requests_in_flight_are_bounded_and_the_wait_for_a_turn_ends() {
    let timeout = Duration::from_millis(400);
    let server = Server::with(vec![Reply::Stall; 9], timeout, 2).await;
    let began = Instant::now();
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let (a, b, c) = tokio::join!(
        server.store.head(&a),
        server.store.head(&b),
        server.store.head(&c)
    );
    assert!(a.is_err() && b.is_err() && c.is_err());
    assert!(began.elapsed() < timeout * 4);
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_once() {
    let theirs = SystemTime::now() - Duration::from_secs(7200);
    let skewed = || {
        status(
            403,
            &[],
            &format!(
                "<Error><Code>RequestTimeTooSkewed</Code><ServerTime>{}</ServerTime></Error>",
                time::extended(theirs)
            ),
        )
    };
    let good = || status(200, &[("ETag", "\"E\"")], "");
    // Two responses that agree are trusted.
    let server = Server::start(vec![skewed(), skewed(), good(), good()]).await;
    put(&server, b"a", Overwrite::Allowed).await.unwrap();
    put(&server, b"b", Overwrite::Forbidden).await.unwrap();
    let sent = |n| {
        let text = server.header(n, "x-oss-date").unwrap();
        time::unix_seconds(time::parse_basic(&text).unwrap()) as i64
            - time::unix_seconds(theirs) as i64
    };
    for n in [0, 1] {
        assert!((7195..7205).contains(&sent(n)), "{}", sent(n));
    }
    for n in [2, 3] {
        assert!((-5..10).contains(&sent(n)), "{}", sent(n));
    }
    let server = Server::start(vec![skewed(), skewed(), skewed(), skewed()]).await;
    assert!(matches!(
        put(&server, b"a", Overwrite::Allowed).await,
        Err(Error::Misconfigured(_))
    ));
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn head_reads_the_error_in_the_header() {
    // <Error><Code>NoSuchBucket</Code></Error>
    let encoded = "PEVycm9yPjxDb2RlPk5vU3VjaEJ1Y2tldDwvQ29kZT48L0Vycm9yPg==";
    let server = Server::start(vec![
        Reply::Send(raw(404, &[("x-oss-err", encoded)], 0, b"")),
        Reply::Send(raw(404, &[], 0, b"")),
    ])
    .await;
    assert!(matches!(
        server.store.head(&key("a")).await,
        Err(Error::NoSuchBucket(name)) if name == "bkt"
    ));
    assert!(matches!(
        server.store.head(&key("a")).await,
        Err(Error::NotFound)
    ));
}

#[tokio::test]
async fn a_bucket_elsewhere_names_its_endpoint_and_no_redirect_is_followed() {
    for (code, name) in [(403, "AccessDenied"), (301, "PermanentRedirect")] {
        let server = Server::start(vec![status(
            code,
            &[("Location", "http://127.0.0.1:1/")],
            &format!(
                "<Error><Code>{name}</Code><Message>m</Message>\
                 <Endpoint>oss-cn-beijing.aliyuncs.com</Endpoint></Error>"
            ),
        )])
        .await;
        match server.store.list(&ListRequest::default()).await {
            Err(Error::Misconfigured(cause)) => {
                let text = cause.to_string();
                assert!(text.contains("oss-cn-beijing.aliyuncs.com"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(server.lines().len(), 1);
    }
}

#[tokio::test]
async fn a_web_page_is_not_an_empty_listing() {
    let page = status(200, &[], "<html><body>Please log in</body></html>");
    let server = Server::with(vec![page; 50], Duration::from_millis(500), 4).await;
    assert!(matches!(
        server.store.list(&ListRequest::default()).await,
        Err(Error::Other(_))
    ));
}

#[tokio::test]
async fn a_batch_delete_reports_keys_that_the_response_does_not_name() {
    let server = Server::start(vec![
        Reply::Send(raw(204, &[], 0, b"")),
        status(
            200,
            &[],
            "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>a%2Bb</Key></Deleted></DeleteResult>",
        ),
    ])
    .await;
    let keys = [key("a+b"), key("c"), key("line\nend")];
    let failed = server.store.delete_many(&keys).await.unwrap();
    let failed: Vec<&str> = failed.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(failed, ["c"]);
    // Keys that XML cannot carry are deleted individually.
    assert_eq!(
        server.lines(),
        [
            "DELETE /bkt/line%0Aend HTTP/1.1",
            "POST /bkt/?delete&encoding-type=url HTTP/1.1"
        ]
    );
    assert!(server.header(1, "content-md5").is_some());
}

#[tokio::test]
async fn an_upload_whose_source_fails_is_not_retried_and_gives_the_reason() {
    let server = Server::start(vec![]).await;
    let body = Body::new(10, || {
        let pieces = vec![
            Ok(Bytes::from_static(b"01234")),
            Err(Error::PreconditionFailed),
        ];
        futures_util::stream::iter(pieces).boxed()
    });
    let headers = ObjectHeaders::default();
    let result = server
        .store
        .put(&key("a"), &headers, body, Overwrite::Allowed)
        .await;
    assert!(matches!(result, Err(Error::PreconditionFailed)));
    assert_eq!(server.lines().len(), 0);
}

#[tokio::test]
async fn an_endpoint_without_a_server_fails_at_once() {
    let endpoint = Endpoint::new("http://127.0.0.1:1", "bkt", Options::default()).unwrap();
    let key_pair = AccessKey::new("id", "secret", None);
    let client = Client::new(endpoint, key_pair, Version::V1, Settings::default()).unwrap();
    let began = Instant::now();
    let result = client.head(&key("a")).await;
    assert!(matches!(result, Err(Error::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Keeps everything that is logged, at every level, by any crate.
struct Collected(Mutex<String>);

impl log::Log for Collected {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut text = self.0.lock().unwrap();
        text.push_str(&format!("{} {}\n", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn neither_secret_nor_token_nor_authorization_reaches_the_log() {
    static LOG: Collected = Collected(Mutex::new(String::new()));
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let mismatch = "<Error><Code>SignatureDoesNotMatch</Code><Message>a\u{1b}b</Message>\
        <CanonicalRequest>PUT\nx-oss-date:1\nx-oss-security-token:SessionToken\n</CanonicalRequest></Error>";
    let server = Server::start(vec![
        Reply::Cut(vec![]),
        refused(500, "InternalError"),
        status(403, &[], mismatch),
    ])
    .await;
    let error = put(&server, b"hello", Overwrite::Allowed)
        .await
        .unwrap_err();
    let log = LOG.0.lock().unwrap().clone();
    assert!(log.contains("PutObject a: 403"), "{log}");
    assert!(log.contains("x-oss-date:1"), "{log}");
    let shown = format!("{log}{error:?}{error}");
    for secret in ["VerySecret", "SessionToken", "Signature=", "\u{1b}"] {
        assert!(!shown.contains(secret), "{secret}: {shown}");
    }
}

#[test]
fn without_certificates_https_says_what_to_install_and_loopback_works() {
    let client = |endpoint: &str| {
        let endpoint = Endpoint::new(endpoint, "bkt", Options::default()).unwrap();
        let key = AccessKey::new("id", "secret", None);
        Client::new(endpoint, key, Version::V1, Settings::default()).map(|_| ())
    };
    assert!(client("http://127.0.0.1:1").is_ok());
    // With certificates, there is no message.
    if let Err(error) = client("oss-cn-hangzhou.aliyuncs.com") {
        assert!(error.to_string().contains("ca-certificates"), "{error}");
        println!("{error}");
    }
}

#[test]
fn v4_without_a_region_says_so() {
    let endpoint = Endpoint::new("example.com", "bkt", Options::default()).unwrap();
    let key = AccessKey::new("id", "secret", None);
    let version = Version::V4 {
        region: String::new(),
    };
    let error = Client::new(endpoint, key, version, Settings::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("--region"), "{error}");
}
