//! The server on the wire: behaviour that the SDKs do not exercise, and the instruments that tests rely on.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use ossvault::base::time;
use ossvault::oss::sign;
use ossvault::server::endpoint::Server;
use ossvault::server::instruments::{Action, Fault};
use ossvault::server::operation::Operation;
use ossvault::server::s3;
use ossvault::server::state::Config;
use ossvault::store::object_store::*;
use reqwest::{Method, Response};

use ossvault::base::encoding::percent_encoded;

pub(crate) struct Bench {
    pub server: Server,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
}

/// A request to the bucket `bucket`, unless another is named; signed with V1 when it is sent.
pub(crate) struct Request<'a> {
    bench: &'a Bench,
    method: Method,
    id: &'a str,
    bucket: &'a str,
    key: &'a str,
    query: Vec<(&'a str, &'a str)>,
    headers: Vec<(&'a str, String)>,
    body: Vec<u8>,
    date: SystemTime,
}

impl Bench {
    pub(crate) async fn new() -> Bench {
        Bench::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path());
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        server.create_bucket("bucket").unwrap();
        Bench {
            server,
            http: reqwest::Client::builder()
                .http1_only()
                .no_proxy()
                .build()
                .unwrap(),
            folder,
        }
    }

    pub(crate) fn request<'a>(&'a self, method: &str, key: &'a str) -> Request<'a> {
        Request {
            bench: self,
            method: method.parse().unwrap(),
            id: "test",
            bucket: "bucket",
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            date: SystemTime::now(),
        }
    }

    pub(crate) async fn put(&self, key: &str, body: &[u8]) {
        let put = self.request("PUT", key).body(body).send().await.unwrap();
        assert_eq!(put.status(), 200);
    }
}

impl<'a> Request<'a> {
    pub(crate) fn id(mut self, id: &'a str) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn bucket(mut self, bucket: &'a str) -> Self {
        self.bucket = bucket;
        self
    }

    pub(crate) fn query(mut self, name: &'a str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    pub(crate) fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub(crate) async fn send(self) -> reqwest::Result<Response> {
        let date = time::http(self.date);
        let query: Vec<(Cow<'_, str>, Cow<'_, str>)> = self
            .query
            .iter()
            .map(|(name, value)| (Cow::Borrowed(*name), Cow::Borrowed(*value)))
            .collect();
        let headers: Vec<(Cow<'_, str>, Cow<'_, str>)> = self
            .headers
            .iter()
            .map(|(name, value)| (Cow::Borrowed(*name), Cow::Borrowed(value.as_str())))
            .collect();
        let to_sign = sign::v1_string_to_sign(
            &sign::Request {
                method: self.method.as_str(),
                bucket: Some(self.bucket).filter(|bucket| !bucket.is_empty()),
                key: Some(self.key).filter(|key| !key.is_empty()),
                query: &query,
                headers: &headers,
            },
            &date,
        );
        let signature = sign::v1_signature("test", &to_sign);
        let key = percent_encoded(self.key, true);
        let mut url = format!("{}/{}", self.bench.server.endpoint(), self.bucket);
        if !self.bucket.is_empty() {
            url = format!("{url}/{key}");
        }
        for (n, (name, value)) in self.query.iter().enumerate() {
            url.push(if n == 0 { '?' } else { '&' });
            url.push_str(&percent_encoded(name, false));
            if !value.is_empty() {
                url.push('=');
                url.push_str(&percent_encoded(value, false));
            }
        }
        let mut request = self
            .bench
            .http
            .request(self.method.clone(), url)
            .header("date", &date)
            .header("authorization", sign::v1_authorization(self.id, &signature))
            .body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.send().await
    }
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Sends what must be refused; returns the error's document.
pub(crate) async fn refused(request: Request<'_>, status: u16, code: &str) -> String {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status);
    assert!(!header(&response, "x-oss-request-id").is_empty());
    let document = response.text().await.unwrap();
    assert!(
        document.contains(&format!("<Code>{code}</Code>")),
        "{document}"
    );
    document
}

#[tokio::test]
async fn an_error_of_a_head_is_in_a_header() {
    let bench = Bench::new().await;
    let response = bench.request("HEAD", "nothing").send().await.unwrap();
    assert_eq!(response.status(), 404);
    let document = BASE64.decode(header(&response, "x-oss-err")).unwrap();
    assert!(
        String::from_utf8(document)
            .unwrap()
            .contains("<Code>NoSuchKey</Code>")
    );
    assert_eq!(header(&response, "x-oss-ec"), "0026-00000001");
    assert_eq!(header(&response, "server"), "AliyunOSS");
}

#[tokio::test]
async fn a_wrong_clock_is_told_the_right_time() {
    let bench = Bench::new().await;
    let (now, far, near) = (
        SystemTime::now(),
        Duration::from_secs(1000),
        Duration::from_secs(800),
    );
    for date in [now - near, now + near] {
        let mut request = bench.request("GET", "k");
        request.date = date;
        refused(request, 404, "NoSuchKey").await;
    }
    for date in [now - far, now + far] {
        let mut request = bench.request("GET", "k");
        request.date = date;
        let document = refused(request, 403, "RequestTimeTooSkewed").await;
        let (_, time) = document.split_once("<ServerTime>").unwrap();
        let time = time::parse_extended(time.split_once('<').unwrap().0).unwrap();
        assert!(
            now.duration_since(time).is_ok_and(|age| age < far)
                || time.duration_since(now).is_ok_and(|lead| lead < far)
        );
    }
}

#[tokio::test]
async fn copies_have_the_limits_of_the_service() {
    let bench = Bench::with(|config| config.copy_limit = 1000).await;
    bench.put("small", &[1; 999]).await;
    bench.put("large", &[1; 1000]).await;
    let copy = |source: &str| {
        bench
            .request("PUT", "copy")
            .header("x-oss-copy-source", format!("/bucket/{source}"))
    };
    assert_eq!(copy("small").send().await.unwrap().status(), 200);
    refused(copy("large"), 400, "EntityTooLarge").await;
}

/// The service's rules on the metadata of its own SDKs' encryption.
#[tokio::test]
async fn metadata_of_sdk_encrypted_objects_cannot_be_changed() {
    let bench = Bench::new().await;
    let names = ["key", "start", "cek-alg", "wrap-alg"]
        .map(|name| format!("x-oss-meta-client-side-encryption-{name}"));
    let mut put = bench.request("PUT", "secret").body(b"x");
    for name in &names {
        put = put.header(name, "v");
    }
    assert_eq!(put.send().await.unwrap().status(), 200);
    let copy = |to| {
        bench
            .request("PUT", to)
            .header("x-oss-copy-source", "/bucket/secret")
    };
    for to in ["secret", "other"] {
        let replace = copy(to)
            .header("x-oss-metadata-directive", "REPLACE")
            .header("x-oss-meta-mode", "1");
        let document = refused(replace, 400, "InvalidEncryptionRequest").await;
        assert!(document.contains("0005-00000421"), "{document}");
    }
    assert_eq!(copy("moved").send().await.unwrap().status(), 200);
    let head = bench.request("HEAD", "moved").send().await.unwrap();
    assert_eq!(header(&head, &names[0]), "v");
    let begun = bench
        .request("POST", "multi")
        .query("uploads", "")
        .send()
        .await
        .unwrap();
    let document = begun.text().await.unwrap();
    let (_, id) = document.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let part = copy("multi").query("partNumber", "1").query("uploadId", id);
    let document = refused(part, 400, "InvalidEncryptionRequest").await;
    assert!(document.contains("0042-00000309"), "{document}");

    // Uploads in parts announce their sizes, and keep to them.
    let begin = |sizes: &[(&'static str, &str)]| {
        let mut begin = bench.request("POST", "parts").query("uploads", "");
        for name in &names {
            begin = begin.header(name, "v");
        }
        for (name, value) in sizes {
            begin = begin.header(name, *value);
        }
        begin
    };
    const DATA: &str = "x-oss-meta-client-side-encryption-data-size";
    const PART: &str = "x-oss-meta-client-side-encryption-part-size";
    for (sizes, ec) in [
        (&[][..], "0005-00000406"),
        (&[(PART, "102400")], "0005-00000406"),
        (&[(DATA, "much"), (PART, "102400")], "0005-00000407"),
        (&[(DATA, "102410")], "0005-00000408"),
        (&[(DATA, "102410"), (PART, "102401")], "0005-00000409"),
        (&[(DATA, "160017"), (PART, "16")], "0005-00000410"),
    ] {
        let document = refused(begin(sizes), 400, "InvalidEncryptionRequest").await;
        assert!(document.contains(ec), "{sizes:?}: {document}");
    }
    let begun = begin(&[(DATA, "102410"), (PART, "102400")]).send().await;
    let document = begun.unwrap().text().await.unwrap();
    let (_, id) = document.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let part = |number, size: usize| {
        bench
            .request("PUT", "parts")
            .query("partNumber", number)
            .query("uploadId", id)
            .body(&vec![7; size])
    };
    for (number, size, ec) in [
        ("1", 102_399, "0005-00000419"),
        ("1", 102_401, "0005-00000419"),
        ("2", 11, "0005-00000419"),
        ("3", 1, "0005-00000411"),
    ] {
        let document = refused(part(number, size), 400, "InvalidEncryptionRequest").await;
        assert!(document.contains(ec), "{number} {size}: {document}");
    }
    let other = part("1", 102_400).header(&names[0], "another key");
    let document = refused(other, 400, "InvalidEncryptionRequest").await;
    assert!(document.contains("0005-00000413"), "{document}");
    let sent = part("1", 102_400).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let complete = |parts: &[(u16, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(number, tag)| {
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
            })
            .collect();
        let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let complete = bench.request("POST", "parts").query("uploadId", id);
        complete.body(document.as_bytes())
    };
    let first = header(&sent, "etag").to_owned();
    let document = refused(complete(&[(1, &first)]), 400, "InvalidEncryptionRequest").await;
    assert!(document.contains("0005-00000420"), "{document}");
    let sent = part("2", 10).send().await.unwrap();
    let both = [(1, first.as_str()), (2, header(&sent, "etag"))];
    assert_eq!(complete(&both).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_checksum_that_is_wrong_changes_nothing() {
    let bench = Bench::new().await;
    bench.put("k", b"old").await;
    let put = || bench.request("PUT", "k").body(b"123456789");
    refused(
        put().header("x-oss-hash-crc64ecma", "1"),
        400,
        "InvalidCRC64",
    )
    .await;
    refused(
        put().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
        400,
        "InvalidDigest",
    )
    .await;
    refused(put().header("content-md5", "x"), 400, "InvalidDigest").await;
    let got = bench.request("GET", "k").send().await.unwrap();
    assert_eq!(got.text().await.unwrap(), "old");
    let right = "11051210869376104954";
    let put = put()
        .header("x-oss-hash-crc64ecma", right)
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 200);
    assert_eq!(header(&put, "x-oss-hash-crc64ecma"), right);
}

#[tokio::test]
async fn nothing_is_served_without_a_signature() {
    let bench = Bench::new().await;
    bench.put("k", b"x").await;
    let url = format!("{}/bucket/k", bench.server.endpoint());
    for authorization in [
        "",
        "OSS test:AAAA",
        "OSS test",
        "OSS4-HMAC-SHA256 Credential=,Signature=",
        "OSS4-HMAC-SHA256 Credential=test/20260101/x/oss/aliyun_v4_request,Signature=00",
        "OSS4-HMAC-SHA256",
        "Basic eDp5",
    ] {
        let request = bench
            .http
            .get(&url)
            .header("date", time::http(SystemTime::now()))
            .header("x-oss-content-sha256", "UNSIGNED-PAYLOAD")
            .header("authorization", authorization);
        let status = request.send().await.unwrap().status();
        assert!(
            status == 403 || status == 400,
            "{authorization:?}: {status}"
        );
    }
    assert_eq!(bench.http.get(&url).send().await.unwrap().status(), 403);
}

/// A bucket is a folder with a bucket's name, in the server's folder and nowhere else.
#[tokio::test]
async fn no_bucket_leads_out_of_the_folder() {
    let bench = Bench::new().await;
    for name in [
        "..",
        ".",
        "",
        "bu/cket",
        "../up",
        "B",
        "a",
        "-ab",
        "ab-",
        &"x".repeat(64),
    ] {
        assert!(bench.server.create_bucket(name).is_err(), "{name}");
    }
    let letters = bench.folder.path().join("letters");
    std::fs::create_dir(&letters).unwrap();
    std::fs::write(letters.join("a"), "dear").unwrap();
    assert!(bench.server.create_bucket("letters").is_err());
    assert_eq!(
        std::fs::read_dir(&letters).unwrap().count(),
        1,
        "nothing was added"
    );
}

#[tokio::test]
async fn requests_are_counted_by_operation() {
    let bench = Bench::new().await;
    bench.put("k", &[0; 100]).await;
    for _ in 0..3 {
        let got = bench.request("GET", "k").send().await.unwrap();
        assert_eq!(got.bytes().await.unwrap().len(), 100);
    }
    bench.request("HEAD", "nothing").send().await.unwrap();
    bench
        .request("GET", "")
        .query("list-type", "2")
        .send()
        .await
        .unwrap();
    let counts = bench.server.instruments().counts();
    for (operation, wanted) in [
        (Operation::PutObject, 1),
        (Operation::GetObject, 3),
        (Operation::HeadObject, 1),
        (Operation::ListObjectsV2, 1),
        (Operation::CopyObject, 0),
    ] {
        assert_eq!(counts.of(operation), wanted, "{operation:?}");
    }
    assert_eq!(counts.total(), 6);
    assert_eq!(counts.others(&[Operation::GetObject]), 3);
    assert_eq!(counts.bytes_in, 100);
    assert!(counts.bytes_out >= 300);
    bench.server.instruments().reset_counts();
    assert_eq!(bench.server.instruments().counts().total(), 0);
}

#[tokio::test]
async fn latency_delays_each_request_and_not_those_beside_it() {
    let bench = Bench::new().await;
    bench
        .server
        .instruments()
        .set_latency(Duration::from_millis(200));
    let begin = Instant::now();
    let heads = (0..20).map(|_| bench.request("HEAD", "k").send());
    for head in futures_util::future::join_all(heads).await {
        assert_eq!(head.unwrap().status(), 404);
    }
    let took = begin.elapsed();
    let one_after_the_other = Duration::from_millis(20 * 200);
    assert!(
        took >= Duration::from_millis(200) && took < one_after_the_other,
        "{took:?}"
    );
    let counts = bench.server.instruments().counts();
    assert_eq!(counts.most_in_flight(Operation::HeadObject), 20);
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let bench = Bench::new().await;
    let content: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
    bench.put("k", &content).await;
    let get = || bench.request("GET", "k").send();
    let instruments = bench.server.instruments();
    let fault = |action| instruments.add_fault(Fault::once(Operation::GetObject, action));

    fault(Action::Status {
        status: 503,
        code: "ServiceUnavailable".into(),
    });
    refused(bench.request("GET", "k"), 503, "ServiceUnavailable").await;

    fault(Action::Reset);
    assert!(get().await.is_err());

    fault(Action::TruncateBody { after: 1000 });
    let mut response = get().await.unwrap();
    assert_eq!(header(&response, "content-length"), "300000");
    let mut received = 0;
    let ended = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => received += chunk.len(),
            ended => break ended,
        }
    };
    assert!(ended.is_err());
    assert_eq!(received, 1000);

    fault(Action::CorruptBody { at: 299_999 });
    let body = get().await.unwrap().bytes().await.unwrap();
    assert!(body[..299_999] == content[..299_999]);
    assert_eq!(body[299_999], content[299_999] ^ 1);

    for action in [
        Action::Stall { ms: 100 },
        Action::StallBody {
            after: 1000,
            ms: 100,
        },
    ] {
        fault(action);
        let begin = Instant::now();
        assert!(get().await.unwrap().bytes().await.unwrap() == content);
        assert!(begin.elapsed() >= Duration::from_millis(100));
    }

    instruments.add_fault(Fault::once(Operation::PutObject, Action::LoseAnswer));
    instruments.add_fault(Fault::once(Operation::PutObject, Action::Reset).on_keys("undone"));
    let store = bench.server.create_bucket("bucket").unwrap();
    assert!(
        bench
            .request("PUT", "done")
            .body(b"done")
            .send()
            .await
            .is_err()
    );
    assert_eq!(
        store
            .head(&ObjectKey::new("done").unwrap())
            .await
            .unwrap()
            .size,
        4
    );
    assert!(
        bench
            .request("PUT", "undone")
            .body(b"x")
            .send()
            .await
            .is_err()
    );
    assert!(
        store
            .head(&ObjectKey::new("undone").unwrap())
            .await
            .is_err()
    );
    assert!(get().await.unwrap().bytes().await.unwrap() == content);
}

#[tokio::test]
async fn instruments_are_served_only_where_asked_for() {
    let url = |bench: &Bench, path| format!("{}/-/{path}", bench.server.endpoint());
    let bench = Bench::new().await;
    let status = bench
        .http
        .get(url(&bench, "counts"))
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, 403);
    let bench = Bench::with(|config| config.instrument = true).await;
    bench.put("k", b"x").await;
    let counts = bench.http.get(url(&bench, "counts")).send().await.unwrap();
    assert!(counts.text().await.unwrap().contains("\"PutObject\":1"));
    let fault = r#"{"operation": "GetObject", "action": "reset"}"#;
    for (body, status) in [(fault, 200), ("{", 400)] {
        let added = bench
            .http
            .post(url(&bench, "faults"))
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(added.status(), status);
    }
    assert!(bench.request("GET", "k").send().await.is_err());
    assert_eq!(
        bench.request("GET", "k").send().await.unwrap().status(),
        200
    );
}

/// A request as S3 has it, signed so.
async fn s3(
    bench: &Bench,
    method: &str,
    target: &str,
    headers: &[(&'static str, &str)],
    body: &[u8],
) -> Response {
    let mut all = reqwest::header::HeaderMap::new();
    let now = time::basic(SystemTime::now());
    let host = bench.server.addr().to_string();
    let own = [
        ("host", host.as_str()),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", &now),
    ];
    for (name, value) in own.into_iter().chain(headers.iter().copied()) {
        all.insert(name, value.parse().unwrap());
    }
    let mut names: Vec<&str> = all.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let mut request = hyper::Request::new(());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = target.parse().unwrap();
    *request.headers_mut() = all.clone();
    let scope = format!("{}/us-east-1/s3/aws4_request", &now[..8]);
    let authorization = s3::authorization(&request, &names, &scope, "test", "test").unwrap();
    bench
        .http
        .request(
            request.method().clone(),
            format!("{}{target}", bench.server.endpoint()),
        )
        .headers(all)
        .header("authorization", authorization)
        .body(body.to_vec())
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn an_instrumented_server_serves_clients_that_speak_s3() {
    let bench = Bench::with(|config| config.instrument = true).await;
    let ok = async |method: &str, target: &str, headers: &[(&'static str, &str)], body: &[u8]| {
        let answer = s3(&bench, method, target, headers, body).await;
        let status = answer.status();
        assert!(status.is_success(), "{method} {target}: {status}");
        answer
    };
    ok("HEAD", "/bucket", &[], b"").await;
    let mode = ("x-amz-meta-mode", "33188");
    ok("PUT", "/bucket/a%20b/c", &[mode], b"0123456789").await;
    let head = ok("HEAD", "/bucket/a%20b/c", &[], b"").await;
    assert_eq!(header(&head, "x-amz-meta-mode"), "33188");
    assert_eq!(header(&head, "content-length"), "10");
    let part = ok("GET", "/bucket/a%20b/c", &[("range", "bytes=7-99")], b"").await;
    assert_eq!(part.text().await.unwrap(), "789");

    let copy = [
        ("x-amz-copy-source", "/bucket/a%20b/c"),
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-mode", "33024"),
    ];
    ok("PUT", "/bucket/copy", &copy, b"").await;
    let head = ok("HEAD", "/bucket/copy", &[], b"").await;
    assert_eq!(header(&head, "x-amz-meta-mode"), "33024");

    let begun = ok("POST", "/bucket/big?uploads", &[mode], b"").await;
    let begun = begun.text().await.unwrap();
    let (_, id) = begun.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let target = format!("/bucket/big?partNumber=1&uploadId={id}");
    let part = ok("PUT", &target, &[], b"the only part").await;
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        header(&part, "etag")
    );
    let target = format!("/bucket/big?uploadId={id}");
    ok("POST", &target, &[], parts.as_bytes()).await;
    let body = ok("GET", "/bucket/big", &[], b"").await;
    assert_eq!(body.text().await.unwrap(), "the only part");

    // What OSS lists by default is a hundred.
    for n in 0..101 {
        let target = format!("/bucket/many/{n}");
        ok("PUT", &target, &[], b"x").await;
    }
    for target in [
        "/bucket/?delimiter=%2F&prefix=many%2F",
        "/bucket?list-type=2&prefix=many%2F",
    ] {
        let listing = ok("GET", target, &[], b"").await.text().await.unwrap();
        assert_eq!(listing.matches("<Contents>").count(), 101, "{target}");
        assert!(listing.contains("<IsTruncated>false<"), "{target}");
    }

    let batch = b"<Delete><Object><Key>big</Key></Object><Object><Key>copy</Key></Object></Delete>";
    let digest = BASE64.encode(Md5::digest(batch));
    ok("POST", "/bucket?delete", &[("content-md5", &digest)], batch).await;
    ok("DELETE", "/bucket/a%20b/c", &[], b"").await;
    for gone in ["a%20b/c", "big", "copy"] {
        let target = format!("/bucket/{gone}");
        assert_eq!(s3(&bench, "HEAD", &target, &[], b"").await.status(), 404);
    }

    let plain = Bench::new().await;
    let refused = s3(&plain, "HEAD", "/bucket/k", &[], b"").await;
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn only_loopback_is_listened_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(folder.path());
    config.listen = "0.0.0.0:0".parse().unwrap();
    assert!(Server::start(config).await.is_err());
}
