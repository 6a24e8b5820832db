//! The client against a service that lies, stalls and never ends: whatever it sends, a call ends, nothing is
//! reported as done that was not, and valid responses are understood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use ossvault::base::error_chain::chain;
use ossvault::base::time;
use ossvault::oss::error::refusal_of;
use ossvault::store::error::Error;
use ossvault::store::object_store::{
    Body, CopyHeaders, CopyRequest, ETag, ListPage, ListRequest, ObjectStore, Overwrite, UploadId,
    UploadedPart,
};

use crate::raw_server::*;

/// Long enough for a busy machine, short enough to wait for.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time that a call with `TIMEOUT` may take on a busy machine and still count as ended.
const ENDS: Duration = Duration::from_secs(12);

/// A response with exactly these headers.
fn bare(code: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut text = format!("HTTP/1.1 {code} X\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    Reply::Send(format!("{text}\r\n{body}").into_bytes())
}

fn listing(entries: &str, next: Option<&str>) -> Reply {
    let next = match next {
        Some(token) => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        ),
        None => String::new(),
    };
    let text = format!(
        "<ListBucketResult><EncodingType>url</EncodingType>{entries}{next}</ListBucketResult>"
    );
    status(200, &[], &text)
}

fn entry(key: &str, size: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>\"E1\"</ETag>\
         <LastModified>2026-01-03T04:05:06.000Z</LastModified></Contents>"
    )
}

fn below(prefix: &str) -> ListRequest {
    ListRequest {
        prefix: prefix.to_owned(),
        delimited: true,
        ..ListRequest::default()
    }
}

fn keys(page: &ListPage) -> Vec<&str> {
    page.objects.iter().map(|object| &*object.key).collect()
}

/// Follows a listing to its end, like its callers.
async fn follow(server: &Server) -> Result<usize, Error> {
    let mut request = below("");
    let mut objects = 0;
    loop {
        let page = server.store.list(&request).await?;
        objects += page.objects.len();
        match page.next {
            None => return Ok(objects),
            next => request.token = next,
        }
    }
}

#[tokio::test]
async fn one_bad_entry_hides_itself_and_not_its_page() {
    let entries = [
        entry("d%2Fa", "1"),
        entry("d%2Fbad%FFname", "1"),
        entry("d%2Fc", "-1"),
        entry("d%2Fd", "99999999999999999999"),
        entry("d%2Fe", ""),
        entry("elsewhere", "1"),
        entry("", "1"),
        entry("..%2Fup", "1"),
        "<Contents><Size>1</Size></Contents>".to_owned(),
        "<Contents><Key>d%2Ff</Key><Size>2</Size></Contents>".to_owned(),
        "<CommonPrefixes><Prefix>d%2Fg%FF%2F</Prefix></CommonPrefixes>".to_owned(),
        "<CommonPrefixes><Prefix>other%2F</Prefix></CommonPrefixes>".to_owned(),
        "<CommonPrefixes/>".to_owned(),
        "<CommonPrefixes><Prefix>d%2Fh%2F</Prefix></CommonPrefixes>".to_owned(),
    ];
    let server = Server::start(vec![listing(&entries.concat(), None)]).await;
    let page = server.store.list(&below("d/")).await.unwrap();
    assert_eq!(keys(&page), ["d/a", "d/f"]);
    assert_eq!(page.prefixes, ["d/h/"]);
    assert_eq!(page.hidden, 11);
    // Read once, not until the deadline.
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn a_listing_without_end_is_an_error() {
    type Page = fn(usize) -> Reply;
    let pages: [(&str, Page); 6] = [
        ("the same page and token", |_| {
            listing(&entry("a", "1"), Some("t"))
        }),
        ("the same page, new tokens", |n| {
            listing(&entry("a", "1"), Some(&format!("t{n}")))
        }),
        ("new names, the same token", |n| {
            listing(&entry(&format!("k{n:06}"), "1"), Some("t"))
        }),
        ("tokens that go round", |n| {
            listing(
                &entry(&format!("k{}", n % 3), "1"),
                Some(&format!("t{}", n % 3)),
            )
        }),
        ("empty pages", |n| listing("", Some(&format!("t{n}")))),
        ("pages of what is hidden", |n| {
            listing(&entry("%2E%2E", ""), Some(&format!("t{n}")))
        }),
    ];
    for (what, page) in pages {
        let server = Server::answering(move |n, _| page(n), TIMEOUT, 4).await;
        let result = follow(&server).await;
        assert!(matches!(result, Err(Error::Other(_))), "{what}: {result:?}");
        let requests = server.lines().len();
        assert!(requests <= 40, "{what}: {requests} requests");
    }
    // Some pages without an entry are normal.
    let answer = |n: usize, _: &Received| match n {
        0..3 => listing("", Some(&format!("t{n}"))),
        _ => listing(&entry("a", "1"), None),
    };
    let server = Server::answering(answer, TIMEOUT, 4).await;
    assert_eq!(follow(&server).await.unwrap(), 1);
}

#[tokio::test]
async fn a_page_longer_than_requested_is_rejected() {
    let entries = |count: usize| -> String {
        (0..count)
            .map(|n| entry(&format!("k{n:06}"), "1"))
            .collect()
    };
    let server = Server::with(vec![listing(&entries(3), None)], TIMEOUT, 4).await;
    let few = ListRequest {
        max_keys: 2,
        ..below("")
    };
    assert!(matches!(
        server.store.list(&few).await,
        Err(Error::Other(_))
    ));
    let answer = move |_: usize, _: &Received| listing(&entries(1001), None);
    let server = Server::answering(answer, TIMEOUT, 4).await;
    let result = server.store.list(&below("")).await;
    assert!(matches!(result, Err(Error::Other(_))), "{result:?}");
}

#[tokio::test]
async fn lists_of_uploads_end() {
    let page = |n: usize, key: &str, marker: &str| {
        let text = format!(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>{marker}</NextKeyMarker><NextUploadIdMarker>{n}</NextUploadIdMarker>\
             <Upload><Key>{key}</Key><UploadId>U{n}</UploadId>\
             <Initiated>2026-01-03T04:05:06.000Z</Initiated></Upload></ListMultipartUploadsResult>"
        );
        status(200, &[], &text)
    };
    type Page = Box<dyn Fn(usize) -> Reply + Send + Sync>;
    let pages: [(&str, Page); 3] = [
        ("the same", Box::new(move |_| page(0, "a", "a"))),
        ("back", Box::new(move |n| page(n, "a", ["b", "a"][n % 2]))),
        (
            "nothing new",
            Box::new(move |n| page(n, "%FF", &format!("k{n:06}"))),
        ),
    ];
    for (what, page) in pages {
        let server = Server::answering(move |n, _| page(n), TIMEOUT, 4).await;
        let result = server.store.list_uploads("").await;
        assert!(matches!(result, Err(Error::Other(_))), "{what}: {result:?}");
        assert!(server.lines().len() <= 40, "{what}");
    }
}

#[tokio::test]
async fn a_batch_delete_trusts_only_results_for_its_own_keys() {
    let server = Server::start(vec![status(
        200,
        &[("x-oss-request-id", "R7")],
        "<DeleteResult><EncodingType>url</EncodingType><Deleted><Key>a</Key></Deleted>\
         <Deleted><Key>other</Key></Deleted><Deleted><Key>%FF</Key></Deleted><Deleted/>\
         <Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
         <Error><Key>stranger</Key><Code>InternalError</Code></Error></DeleteResult>",
    )])
    .await;
    let failed = server
        .store
        .delete_many(&[key("a"), key("b"), key("c")])
        .await
        .unwrap();
    let names: Vec<&str> = failed.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(
        chain(&failed[0].1).contains("R7"),
        "{}",
        chain(&failed[0].1)
    );
}

#[tokio::test]
async fn no_retry_after_ends_or_outlasts_a_call() {
    for after in [
        "18446744073709551615",
        "9223372036854775807",
        "86400",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "-1",
        "soon",
    ] {
        let server = Server::with(
            vec![
                status(503, &[("Retry-After", after)], ""),
                head_of(b"x", &[]),
            ],
            TIMEOUT,
            4,
        )
        .await;
        let began = Instant::now();
        server.store.head(&key("a")).await.unwrap();
        assert!(began.elapsed() < ENDS, "{after}");
        assert_eq!(server.lines().len(), 2, "{after}");
        // Forever: it still ends.
        let after = after.to_owned();
        let answer = move |_: usize, _: &Received| status(503, &[("Retry-After", &*after)], "");
        let server = Server::answering(answer, Duration::from_millis(500), 4).await;
        let began = Instant::now();
        let result = server.store.head(&key("a")).await;
        // The last response, or none in time if the machine pauses for half a second.
        let ended = matches!(result, Err(Error::Unavailable(_) | Error::TimedOut(_)));
        assert!(ended, "{result:?}");
        assert!(began.elapsed() < ENDS);
    }
}

fn skewed(theirs: SystemTime) -> Reply {
    let text = format!(
        "<Error><Code>RequestTimeTooSkewed</Code><ServerTime>{}</ServerTime></Error>",
        time::extended(theirs)
    );
    status(403, &[], &text)
}

#[tokio::test]
async fn a_clock_is_not_trusted_if_it_is_a_day_off_or_unconfirmed() {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let good = || status(200, &[("ETag", "\"E\"")], "");
    let sent_at = |server: &Server, n: usize| {
        let text = server.header(n, "x-oss-date").unwrap();
        time::unix_seconds(time::parse_basic(&text).unwrap()).abs_diff(time::unix_seconds(now))
    };
    // Years off: not a single request is signed for that time, and none is retried.
    for theirs in [now + 24 * 365 * 10 * hour, now - 24 * 365 * 10 * hour] {
        let server = Server::start(vec![skewed(theirs), skewed(theirs), good(), good()]).await;
        let result = put(&server, b"a", Overwrite::Allowed).await;
        assert!(matches!(result, Err(Error::Misconfigured(_))), "{result:?}");
        assert_eq!(server.lines().len(), 1);
        let _ = put(&server, b"a", Overwrite::Allowed).await;
        assert!(sent_at(&server, 1) < 3600);
    }
    // Two responses that disagree.
    let server = Server::start(vec![skewed(now + 2 * hour), skewed(now + 5 * hour), good()]).await;
    put(&server, b"a", Overwrite::Allowed).await.unwrap();
    assert!(sent_at(&server, 2) < 3600);
    // Neither ServerTime nor Date.
    let text = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let length = text.len().to_string();
    let server = Server::start(vec![bare(403, &[("Content-Length", &length)], text)]).await;
    let error = put(&server, b"a", Overwrite::Allowed).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured(_)), "{error:?}");
    assert_eq!(refusal_of(&error).unwrap().code, "RequestTimeTooSkewed");
}

/// A response to GET with an ETag or checksum of another version.
fn part_of(range: std::ops::Range<usize>, sent: usize, etag: &str, crc: u64) -> Reply {
    let whole = b"0123456789";
    let mut text = format!(
        "HTTP/1.1 206 X\r\nDate: {DATE}\r\nLast-Modified: {DATE}\r\nContent-Length: {}\r\n\
         Content-Range: bytes {}-{}/10\r\nx-oss-hash-crc64ecma: {crc}\r\n",
        range.len(),
        range.start,
        range.end - 1,
    );
    if !etag.is_empty() {
        text.push_str(&format!("ETag: {etag}\r\n"));
    }
    let body = &whole[range.start..range.start + sent];
    let bytes = [text.as_bytes(), b"\r\n", body].concat();
    match sent == range.len() {
        true => Reply::Send(bytes),
        false => Reply::Cut(bytes),
    }
}

#[tokio::test]
async fn another_version_than_requested_is_rejected_whatever_the_status() {
    let get = async |server: &Server| {
        let mut answer = server
            .store
            .get(&key("a"), Some(0..10), Some(&tag()))
            .await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.body.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok::<_, Error>(bytes)
    };
    let right = crc(b"0123456789");
    for (etag, same) in [
        ("\"E1\"", true),
        ("W/\"E1\"", true),
        ("E1", true),
        // A gateway that drops the precondition may honour it or not: the ETag is the requested one.
        ("", true),
        ("\"E2\"", false),
        ("\"E1-2\"", false),
    ] {
        let server = Server::start(vec![part_of(0..10, 10, etag, right)]).await;
        match get(&server).await {
            Ok(bytes) => assert!(same && bytes == b"0123456789", "{etag}"),
            Err(error) => assert!(
                !same && matches!(error, Error::PreconditionFailed),
                "{etag}"
            ),
        }
        assert_eq!(server.lines().len(), 1);
    }
    // It breaks off, and the rest has another checksum under the same ETag.
    for (crc, same) in [(right, true), (right ^ 1, false)] {
        let first = part_of(0..10, 4, "\"E1\"", right);
        let server = Server::start(vec![first, part_of(4..10, 6, "\"E1\"", crc)]).await;
        let result = get(&server).await;
        assert_eq!(result.is_ok(), same, "{result:?}");
    }
}

#[tokio::test]
async fn a_trickling_response_ends() {
    let pause = Duration::from_millis(100);
    let slow = |head: Vec<u8>| Reply::Trickle(head, vec![b'x'; 100_000], pause);
    let timeout = Duration::from_millis(400);
    let whole = vec![b'0'; 100_000];
    let Reply::Cut(body) = part(200, &whole, 0..whole.len(), 0) else {
        unreachable!("none of its bytes were to be sent")
    };
    let text = |code| raw(code, &[], 100_000, b"");
    for (what, head) in [
        ("a body", body),
        ("an error document", text(500)),
        ("a refusal", text(403)),
        ("a listing", text(200)),
        ("a head", b"HTTP/1.1 200 OK\r\nx-slow: ".to_vec()),
    ] {
        let answer = {
            let reply = slow(head);
            move |_: usize, _: &Received| reply.clone()
        };
        let server = Server::answering(answer, timeout, 4).await;
        let began = Instant::now();
        let result = match what {
            "a body" => get(&server, None).await.map(drop),
            _ => server.store.list(&below("")).await.map(drop),
        };
        assert!(result.is_err(), "{what}");
        // 100,000 bytes would take hours.
        assert!(began.elapsed() < ENDS, "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_slow_reader_is_not_mistaken_for_a_slow_server() {
    let whole = vec![b'0'; 300_000];
    let timeout = Duration::from_millis(500);
    let replies = vec![part(200, &whole, 0..whole.len(), whole.len())];
    let server = Server::with(replies, timeout, 4).await;
    let mut answer = server.store.get(&key("a"), None, None).await.unwrap();
    let mut bytes = 0;
    while let Some(piece) = answer.body.next().await {
        if bytes == 0 {
            tokio::time::sleep(timeout * 2).await;
        }
        bytes += piece.unwrap().len();
    }
    assert_eq!(bytes, whole.len());
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn waiting_in_the_queue_counts_against_the_callers_timeout() {
    let timeout = Duration::from_secs(1);
    let server = Server::answering(|_, _| Reply::Stall, timeout, 1).await;
    let began = Instant::now();
    let names: Vec<_> = (0..6).map(|n| key(&format!("k{n}"))).collect();
    let calls = names.iter().map(|name| server.store.head(name));
    let results = futures_util::future::join_all(calls).await;
    for result in results {
        assert!(matches!(result, Err(Error::TimedOut(_))), "{result:?}");
    }
    // In sequence they would take six times as long.
    assert!(began.elapsed() < timeout * 4, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_an_incomplete_response_leaves_open_is_looked_up() {
    let length = [("Content-Length", "5")];
    let etag = [("ETag", "\"E1\"")];
    let one = || listing(&entry("a", "5"), None);
    let close = ("Connection", "close");
    let whole = |size, etag: &str, requests| Some((size, etag.to_owned(), requests));
    for (reply, expected) in [
        (bare(200, &[length[0], etag[0]], ""), whole(5, "\"E1\"", 1)),
        // A cache that does not know the length, or removes the ETag.
        (bare(200, &[etag[0], close], ""), whole(5, "\"E1\"", 2)),
        (bare(200, &length, ""), whole(5, "\"E1\"", 2)),
        (bare(200, &[close], ""), whole(5, "\"E1\"", 2)),
        // A version other than the listed one.
        (bare(200, &[("ETag", "\"E2\""), close], ""), None),
    ] {
        let server = Server::with(vec![reply, one()], Duration::from_millis(500), 4).await;
        let found = server.store.head(&key("a")).await.ok();
        let found = found.map(|meta| {
            let requests = server.lines().len();
            (meta.size, meta.etag.as_str().to_owned(), requests)
        });
        assert_eq!(found, expected);
    }
    // A body of unknown length, chunked.
    let chunked = "HTTP/1.1 200 OK\r\nETag: \"E1\"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let server = Server::start(vec![Reply::Send(chunked.into()), one()]).await;
    assert_eq!(get(&server, None).await.unwrap(), (0..5, b"hello".to_vec()));
}

#[tokio::test]
async fn a_write_whose_response_has_no_etag_is_looked_up() {
    let done = || status(200, &[], "");
    let put_with = async |replies: Vec<Reply>| {
        let count = replies.len();
        let server = Server::with(replies, Duration::from_millis(500), 4).await;
        let result = put(&server, b"hello", Overwrite::Allowed).await;
        (result, server.lines().len() == count)
    };
    let (result, all) = put_with(vec![done(), head_of(b"hello", &[])]).await;
    assert_eq!((result.unwrap(), all), (tag(), true));
    // A client that may write but not read may still list.
    let denied = || status(403, &[("x-oss-request-id", "R")], "");
    let (result, all) = put_with(vec![done(), denied(), listing(&entry("a", "5"), None)]).await;
    assert_eq!((result.unwrap(), all), (tag(), true));
    // Something else exists, or nothing.
    for other in [head_of(b"other", &[]), head_of(b"hello there", &[])] {
        let (result, _) = put_with(vec![done(), other]).await;
        assert!(
            matches!(result, Err(Error::PreconditionFailed)),
            "{result:?}"
        );
    }
    let (result, _) = put_with(vec![done(), refused(404, "NoSuchKey")]).await;
    assert!(
        matches!(result, Err(Error::PreconditionFailed)),
        "{result:?}"
    );

    // A part has no name of its own.
    let parts = "<ListPartsResult><Part><PartNumber>3</PartNumber><ETag>\"P3\"</ETag>\
        <Size>5</Size></Part></ListPartsResult>";
    let server = Server::start(vec![done(), status(200, &[], parts)]).await;
    let id = UploadId("U".to_owned());
    let body = Body::from_bytes(&b"hello"[..]);
    let stored = server
        .store
        .upload_part(&key("a"), &id, 3, body)
        .await
        .unwrap();
    assert_eq!(stored.etag, ETag::new("\"P3\""));
    assert!(
        server.lines()[1].contains("part-number-marker=2"),
        "{:?}",
        server.lines()
    );

    // Completions and copies.
    let complete = "<CompleteMultipartUploadResult><Key>a</Key></CompleteMultipartUploadResult>";
    let server = Server::start(vec![status(200, &[], complete), head_of(b"hello", &[])]).await;
    let parts = [UploadedPart {
        number: 1,
        etag: ETag::new("\"P1\""),
        crc64: Some(crc(b"hello")),
        size: 5,
    }];
    let stored = server
        .store
        .complete_multipart(&key("a"), &id, &parts, Overwrite::Allowed)
        .await;
    assert_eq!(stored.unwrap().etag, tag());
    let copied = status(200, &[], "<CopyObjectResult/>");
    let server = Server::start(vec![copied, head_of(b"hello", &[])]).await;
    let (from, to, tag) = (key("a"), key("b"), tag());
    let request = CopyRequest {
        source: from.clone(),
        source_etag: tag.clone(),
        destination: to.clone(),
        headers: CopyHeaders::Keep,
        overwrite: Overwrite::Allowed,
    };
    let copy = server.store.copy(&request);
    assert_eq!(copy.await.unwrap().etag, tag);
}

#[tokio::test]
async fn hundreds_of_metadata_entries_are_read() {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nDate: {DATE}\r\nLast-Modified: {DATE}\r\nETag: \"E1\"\r\nContent-Length: 5\r\n"
    );
    for n in 0..800 {
        head.push_str(&format!("x-oss-meta-n{n}: {n}\r\n"));
    }
    head.push_str("\r\n");
    let server = Server::start(vec![Reply::Send(head.into_bytes())]).await;
    let meta = server.store.head(&key("a")).await.unwrap();
    assert_eq!(meta.headers.user.len(), 800);
    assert_eq!(meta.headers.user["n799"], "799");
}

#[tokio::test]
async fn a_web_page_is_neither_success_nor_information_about_an_object() {
    let html = [("Content-Type", "text/html; charset=utf-8")];
    let page = "<html><body>Please log in</body></html>";
    let login = || Server::answering(move |_, _| status(200, &html, page), TIMEOUT / 4, 4);
    let server = login().await;
    assert!(server.store.delete(&key("a")).await.is_err());
    assert!(put(&server, b"a", Overwrite::Allowed).await.is_err());
    assert!(server.store.list(&below("")).await.is_err());
    // An object may be a web page.
    let stored = [
        ("Content-Type", "text/html"),
        ("ETag", "\"E1\""),
        ("Last-Modified", DATE),
    ];
    let server = Server::start(vec![status(200, &stored, "<p>")]).await;
    assert_eq!(get(&server, None).await.unwrap().1, b"<p>");
    // The 404 did not come from the service.
    for code in [302, 401, 403, 404, 407] {
        let headers = [html[0], ("Location", "https://login.example.com/")];
        let answer = move |_: usize, _: &Received| status(code, &headers, page);
        let server = Server::answering(answer, TIMEOUT, 4).await;
        for error in [
            server.store.head(&key("a")).await.unwrap_err(),
            get(&server, None).await.unwrap_err(),
            server.store.list(&below("")).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::Misconfigured(_)),
                "{code}: {error:?}"
            );
            assert!(refusal_of(&error).is_some_and(|refusal| refusal.foreign));
            assert!(
                chain(&error).contains("login.example.com"),
                "{}",
                chain(&error)
            );
        }
        assert_eq!(server.lines().len(), 3, "{code}");
    }
}

#[tokio::test]
async fn an_error_in_the_body_of_a_success_is_an_error() {
    let late = "<?xml version=\"1.0\"?>\n<Error xmlns=\"http://doc.oss-cn-hangzhou.aliyuncs.com\">\
        <Code>AccessDenied</Code><Message>late</Message><RequestId>R9</RequestId></Error>";
    let server = Server::start(vec![status(200, &[], late); 2]).await;
    let (from, to, tag) = (key("a"), key("b"), tag());
    let request = CopyRequest {
        source: from.clone(),
        source_etag: tag.clone(),
        destination: to.clone(),
        headers: CopyHeaders::Keep,
        overwrite: Overwrite::Allowed,
    };
    let copy = server.store.copy(&request);
    let error = copy.await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied(_)), "{error:?}");
    assert!(chain(&error).contains("R9"), "{}", chain(&error));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_its_request() {
    let refuse = |code: u16, name: &str| {
        let text = format!(
            "<Error><Code>{name}</Code><Message>no</Message><RequestId>R5</RequestId><EC>0003-00000801</EC></Error>"
        );
        status(code, &[], &text)
    };
    for (code, name, quota) in [
        (403, "QuotaExceeded", true),
        (400, "BucketQuotaExceeded", true),
        (403, "AccessDenied", false),
        (409, "FileImmutable", false),
        (400, "EntityTooLarge", false),
        (400, "InvalidEncryptionRequest", false),
        (400, "NotImplemented", false),
    ] {
        let server = Server::start(vec![refuse(code, name)]).await;
        let error = put(&server, b"a", Overwrite::Allowed).await.unwrap_err();
        assert_eq!(matches!(error, Error::Quota(_)), quota, "{name}: {error:?}");
        let told = chain(&ossvault::fs::error::Error::from(error));
        for part in ["PutObject", name, &code.to_string(), "R5", "0003-00000801"] {
            assert!(told.contains(part), "{name}: {told}");
        }
    }
}

#[tokio::test]
async fn long_responses_wait_for_each_other_and_all_arrive() {
    let name = "x".repeat(250);
    let entries: Vec<String> = (0..1000)
        .map(|n| entry(&format!("{n:06}{name}"), "1"))
        .collect();
    let entries = Arc::new(entries.concat());
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = {
        let asked = asked.clone();
        move |_: usize, _: &Received| {
            asked.fetch_add(1, Ordering::Relaxed);
            listing(&entries, None)
        }
    };
    let server = Server::answering(answer, Duration::from_secs(60), 64).await;
    let request = below("");
    let calls = (0..40).map(|_| server.store.list(&request));
    for page in futures_util::future::join_all(calls).await {
        assert_eq!(page.unwrap().objects.len(), 1000);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 40);
}

#[tokio::test]
async fn an_etag_that_no_header_can_carry_is_refused_at_once() {
    let server = Server::with(vec![], TIMEOUT * 10, 4).await;
    let began = Instant::now();
    let tag = ETag::new("E\r\nX-Evil: 1");
    let result = server.store.get(&key("a"), Some(0..1), Some(&tag)).await;
    assert!(matches!(result.map(drop), Err(Error::Other(_))));
    assert!(began.elapsed() < TIMEOUT * 5);
    assert_eq!(server.lines().len(), 0);
}
