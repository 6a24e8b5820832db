//! What the server takes and what it refuses: a request that it does not understand whole changes nothing.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use ossvault::base::time;
use ossvault::oss::sign;
use ossvault::server::endpoint::Server;
use ossvault::server::state::Config;
use reqwest::{Method, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server::{Bench, Request, header, refused};

mod buckets;

/// Two objects, and the whole of what may be seen of the bucket.
async fn filled() -> Bench {
    let bench = Bench::new().await;
    bench.put("k", b"content").await;
    bench.put("dir/k", b"other").await;
    bench
}

async fn state(bench: &Bench) -> String {
    let listing = bench
        .request("GET", "")
        .query("list-type", "2")
        .send()
        .await
        .unwrap();
    assert_eq!(listing.status(), 200);
    let mut state = listing.text().await.unwrap();
    for key in ["k", "dir/k"] {
        let got = bench.request("GET", key).send().await.unwrap();
        assert_eq!(got.status(), 200);
        let mut headers: Vec<String> = got
            .headers()
            .iter()
            .filter(|(name, _)| !["date", "x-oss-request-id"].contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        state.push_str(&headers.join("\n"));
        state.push_str(&got.text().await.unwrap());
    }
    state
}

async fn code(response: Response) -> String {
    let document = match header(&response, "x-oss-err") {
        "" => response.text().await.unwrap(),
        encoded => String::from_utf8(BASE64.decode(encoded).unwrap()).unwrap(),
    };
    let (_, code) = document.split_once("<Code>").unwrap_or_default();
    code.split('<').next().unwrap_or_default().to_string()
}

/// Every sub-resource of the service, and names that are none, with every method on an object, on a name without
/// one and on the bucket: nothing that is there changes, and what is not done is said not to be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sub_resource_is_never_taken_for_the_object_or_the_bucket() {
    let bench = filled().await;
    let before = state(&bench).await;
    let own = [
        "versionID",
        "legalHold",
        "objectWorm",
        "anything",
        "?",
        "x-oss-meta-a",
    ];
    for name in sign::SUB_RESOURCES.iter().chain(&own) {
        // A part of the signature of a URL.
        if *name == "security-token" {
            continue;
        }
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            for key in ["k", "nothing", ""] {
                let mut request = bench.request(method, key).query(name, "");
                if method == "PUT" || method == "POST" {
                    request = request.body(b"overwritten");
                }
                let answer = request.send().await.unwrap();
                let status = answer.status().as_u16();
                let done = match (method, *name) {
                    (
                        "GET",
                        "bucketInfo" | "location" | "stat" | "uploads" | "versions" | "live",
                    ) => key.is_empty(),
                    ("GET", name) if name.starts_with("response-") => !key.is_empty(),
                    ("HEAD", "objectMeta") => !key.is_empty(),
                    ("POST", "delete") => key.is_empty(),
                    ("POST", "uploads") => !key.is_empty(),
                    ("GET" | "PUT" | "POST" | "DELETE", "uploadId") => !key.is_empty(),
                    _ => false,
                };
                let what = format!("{method} {key}?{name}");
                if done {
                    assert_ne!(status, 501, "{what}");
                } else {
                    assert_eq!(status, 501, "{what}");
                    assert_eq!(code(answer).await, "NotImplemented", "{what}");
                }
            }
        }
    }
    assert_eq!(state(&bench).await, before);
    let missing = bench.request("HEAD", "nothing").send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn a_header_that_changes_the_meaning_is_honoured_or_refused() {
    let bench = filled().await;
    let before = state(&bench).await;
    for (name, value) in [
        ("x-oss-tagging", "a=b"),
        ("x-oss-object-acl", "public-read"),
        ("x-oss-server-side-encryption", "AES256"),
        ("x-oss-server-side-data-encryption", "SM4"),
        ("x-oss-server-side-encryption-key-id", "k"),
        ("x-oss-callback", "e30="),
        ("x-oss-callback-var", "e30="),
        ("x-oss-traffic-limit", "819200"),
        ("x-oss-request-payer", "requester"),
        ("x-oss-storage-class", "Archive"),
        ("x-oss-storage-class", "ColdArchive"),
        ("x-oss-object-worm-mode", "COMPLIANCE"),
        ("x-oss-anything", "a"),
        ("if-match", "\"0\""),
        ("if-none-match", "*"),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("content-range", "bytes 0-1/2"),
    ] {
        for (method, copies) in [
            ("PUT", false),
            ("PUT", true),
            ("POST", false),
            ("DELETE", false),
        ] {
            let mut request = bench.request(method, "k").header(name, value);
            if copies {
                request = request.header("x-oss-copy-source", "/bucket/dir/k");
            } else if method == "PUT" {
                request = request.body(b"overwritten");
            } else if method == "POST" {
                request = request.query("uploads", "");
            }
            refused(request, 501, "NotImplemented").await;
        }
    }
    for (name, value) in [
        ("x-oss-storage-class", "Bogus"),
        ("x-oss-object-acl", "mine"),
        ("x-oss-forbid-overwrite", "perhaps"),
    ] {
        let request = bench.request("PUT", "k").header(name, value).body(b"x");
        refused(request, 400, "InvalidArgument").await;
    }
    let twice = bench
        .request("PUT", "k")
        .header("x-oss-meta-a", "1")
        .header("x-oss-meta-a", "2")
        .body(b"x");
    let twice = twice.send().await.unwrap();
    assert!(twice.status().is_client_error());
    assert_eq!(state(&bench).await, before);

    let put = bench
        .request("PUT", "class")
        .header("x-oss-storage-class", "IA")
        .header("x-oss-object-acl", "private")
        .body(b"x");
    assert_eq!(put.send().await.unwrap().status(), 200);
    let head = bench.request("HEAD", "class").send().await.unwrap();
    assert_eq!(header(&head, "x-oss-storage-class"), "IA");
    for version in ["", "2"] {
        let mut list = bench.request("GET", "").query("prefix", "class");
        if !version.is_empty() {
            list = list.query("list-type", version);
        }
        let listing = list.send().await.unwrap().text().await.unwrap();
        assert!(
            listing.contains("<StorageClass>IA</StorageClass>"),
            "{listing}"
        );
    }
}

/// A deletion of a version, or under a condition, is not a deletion of the object.
#[tokio::test]
async fn a_batch_that_is_not_understood_whole_deletes_nothing() {
    let bench = filled().await;
    let before = state(&bench).await;
    let delete = |body: String| {
        bench
            .request("POST", "")
            .query("delete", "")
            .header("content-md5", BASE64.encode(Md5::digest(&body)))
            .body(body.as_bytes())
    };
    let key = "<Object><Key>dir/k</Key></Object>";
    for field in ["<VersionId>1</VersionId>", "<ETag>0</ETag>"] {
        let body = format!("<Delete>{key}<Object><Key>k</Key>{field}</Object></Delete>");
        refused(delete(body), 501, "NotImplemented").await;
    }
    for body in [
        format!("<Delete>{key}<Condition/></Delete>"),
        format!("<Remove>{key}</Remove>"),
        format!("<Delete>{key}<Object></Object></Delete>"),
    ] {
        refused(delete(body), 400, "MalformedXML").await;
    }
    assert_eq!(state(&bench).await, before);
    let copy = bench
        .request("PUT", "k")
        .header("x-oss-copy-source", "/bucket/dir/k?versionId=1");
    refused(copy, 501, "NotImplemented").await;
    assert_eq!(state(&bench).await, before);
}

/// SDKs send one set of headers with all requests of an upload. What concerns its end is no reason to refuse a
/// part, and has no effect on it.
#[tokio::test]
async fn a_part_may_say_what_concerns_the_end_of_its_upload() {
    let bench = filled().await;
    let begun = bench.request("POST", "k").query("uploads", "").send();
    let document = begun.await.unwrap().text().await.unwrap();
    let (_, id) = document.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let part = |access: &'static str| {
        bench
            .request("PUT", "k")
            .query("partNumber", "1")
            .query("uploadId", id)
            .header("x-oss-complete-all", "yes")
            .header("x-oss-forbid-overwrite", "true")
            .header("x-oss-object-acl", access)
    };
    let sent = part("private").body(b"part").send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let copied = part("default").header("x-oss-copy-source", "/bucket/dir/k");
    assert_eq!(copied.send().await.unwrap().status(), 200);
    refused(part("public-read").body(b"x"), 501, "NotImplemented").await;
    let complete = || {
        bench
            .request("POST", "k")
            .query("uploadId", id)
            .header("x-oss-complete-all", "yes")
    };
    let forbidden = complete().header("x-oss-forbid-overwrite", "true");
    refused(forbidden, 409, "FileAlreadyExists").await;
}

/// The service has no such headers; SDKs send them to see that they are signed, and ignored.
#[tokio::test]
async fn a_header_without_a_meaning_has_none() {
    let bench = filled().await;
    let get = bench.request("GET", "k").header("x-oss-user", "a").send();
    assert_eq!(get.await.unwrap().status(), 200);
    let put = bench
        .request("PUT", "k")
        .header("x-oss-user", "a")
        .body(b"content");
    assert_eq!(put.send().await.unwrap().status(), 200);
    assert!(!state(&bench).await.contains("x-oss-user"));
    // There is nothing to pay.
    for kind in ["prefix", "list-type", "versions"] {
        let list = |payer: &str| {
            bench
                .request("GET", "")
                .query(kind, if kind == "list-type" { "2" } else { "" })
                .header("x-oss-request-payer", payer)
        };
        let listed = list("requester").send().await.unwrap();
        assert_eq!(listed.status(), 200, "{kind}");
        refused(list("you"), 400, "InvalidArgument").await;
    }
}

/// Clients that clear a bucket list its versions and delete those. Where none are kept, each object is the one
/// there is.
#[tokio::test]
async fn each_object_is_its_only_version() {
    let bench = Bench::new().await;
    for key in ["a", "b/1", "b/2", "c&d", "e"] {
        bench.put(key, b"x").await;
    }
    let list = async |query: &[(&'static str, &str)]| {
        let mut request = bench.request("GET", "").query("versions", "");
        for (name, value) in query {
            request = request.query(name, value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    let all = |document: &str, name: &str| -> Vec<String> {
        document
            .split(&format!("<{name}>"))
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().to_string())
            .collect()
    };
    let document = list(&[]).await;
    assert!(document.contains("<ListVersionsResult>"), "{document}");
    assert_eq!(all(&document, "Key"), ["a", "b/1", "b/2", "c&amp;d", "e"]);
    assert_eq!(all(&document, "VersionId"), ["null"; 5]);
    assert_eq!(all(&document, "IsLatest"), ["true"; 5]);
    assert!(!document.contains("<Contents>"), "{document}");
    let (mut marker, mut id, mut seen) = (String::new(), String::new(), Vec::new());
    for page in 1.. {
        let document = list(&[
            ("delimiter", "/"),
            ("encoding-type", "url"),
            ("max-keys", "2"),
            ("key-marker", &marker),
            ("version-id-marker", &id),
        ])
        .await;
        seen.extend(all(&document, "Key"));
        // The first is the one that was asked for.
        seen.extend(all(&document, "Prefix").into_iter().skip(1));
        if all(&document, "IsTruncated") == ["false"] {
            assert_eq!(page, 2);
            break;
        }
        marker = all(&document, "NextKeyMarker").remove(0);
        id = all(&document, "NextVersionIdMarker").remove(0);
    }
    assert_eq!(seen, ["a", "b/", "c%26d", "e"]);
    let alone = bench
        .request("GET", "")
        .query("versions", "")
        .query("version-id-marker", "null");
    refused(alone, 400, "InvalidArgument").await;

    let body = "<Delete><Object><Key>a</Key><VersionId>null</VersionId></Object>                <Object><Key>e</Key></Object></Delete>";
    let delete = bench
        .request("POST", "")
        .query("delete", "")
        .header("content-md5", BASE64.encode(Md5::digest(body)))
        .body(body.as_bytes());
    let document = delete.send().await.unwrap().text().await.unwrap();
    assert_eq!(all(&document, "Key"), ["a", "e"]);
    assert_eq!(all(&document, "VersionId"), ["null"]);
    assert_eq!(all(&list(&[]).await, "Key"), ["b/1", "b/2", "c&amp;d"]);
}

/// What an SDK says of a part beside the envelope does not belong to the object.
#[tokio::test]
async fn a_part_of_an_encrypted_upload_may_carry_the_md5_of_its_plaintext() {
    let bench = Bench::new().await;
    let name = |name: &str| format!("x-oss-meta-client-side-encryption-{name}");
    let names = [
        "key",
        "start",
        "cek-alg",
        "wrap-alg",
        "data-size",
        "part-size",
    ]
    .map(name);
    let mut begin = bench.request("POST", "k").query("uploads", "");
    for (name, value) in names.iter().zip(["k", "s", "c", "w", "16", "16"]) {
        begin = begin.header(name, value);
    }
    let document = begin.send().await.unwrap().text().await.unwrap();
    let (_, id) = document.split_once("<UploadId>").unwrap();
    let (id, _) = id.split_once('<').unwrap();
    let md5 = name("unencrypted-content-md5");
    let part = || {
        bench
            .request("PUT", "k")
            .query("partNumber", "1")
            .query("uploadId", id)
            .body(&[0; 16])
    };
    let sent = part().header(&md5, "AAAA").header(&names[0], "k").send();
    assert_eq!(sent.await.unwrap().status(), 200);
    let other = part().header(&names[1], "other");
    let document = refused(other, 400, "InvalidEncryptionRequest").await;
    assert!(document.contains("0005-00000413"), "{document}");
    let plain = part().header("x-oss-meta-mode", "33188");
    refused(plain, 501, "NotImplemented").await;
}

#[tokio::test]
async fn a_replaced_object_keeps_its_content_type_unless_another_is_given() {
    let bench = Bench::new().await;
    let put = bench
        .request("PUT", "k")
        .header("content-type", "text/plain")
        .header("cache-control", "no-cache")
        .header("x-oss-meta-a", "1")
        .body(b"x");
    assert_eq!(put.send().await.unwrap().status(), 200);
    for (to, given, wanted) in [
        ("k", None, "text/plain"),
        ("copy", None, "text/plain"),
        ("k", Some("text/html"), "text/html"),
    ] {
        let mut copy = bench
            .request("PUT", to)
            .header("x-oss-copy-source", "/bucket/k")
            .header("x-oss-metadata-directive", "REPLACE")
            .header("x-oss-meta-b", "2");
        if let Some(given) = given {
            copy = copy.header("content-type", given);
        }
        assert_eq!(copy.send().await.unwrap().status(), 200);
        let head = bench.request("HEAD", to).send().await.unwrap();
        assert_eq!(header(&head, "content-type"), wanted, "{to} {given:?}");
        assert_eq!(header(&head, "cache-control"), "");
        assert_eq!(header(&head, "x-oss-meta-a"), "");
        assert_eq!(header(&head, "x-oss-meta-b"), "2");
    }
}

#[tokio::test]
async fn a_range_of_another_version_is_answered_with_the_whole() {
    let bench = filled().await;
    let tag = header(&bench.request("HEAD", "k").send().await.unwrap(), "etag").to_owned();
    for (version, wanted) in [
        (tag.as_str(), "ont"),
        ("\"00000000000000000000000000000000\"", "content"),
        ("Thu, 01 Jan 1970 00:00:00 GMT", "content"),
    ] {
        let got = bench
            .request("GET", "k")
            .header("range", "bytes=1-3")
            .header("if-range", version);
        let got = got.send().await.unwrap().text().await.unwrap();
        assert_eq!(got, wanted, "{version}");
    }
}

/// A body that is announced where none belongs, and does not come, is not waited for.
#[tokio::test]
async fn a_request_that_announces_a_body_it_has_not_is_answered() {
    let bench = filled().await;
    for (method, status) in [("GET", 200), ("HEAD", 200), ("DELETE", 204)] {
        let now = time::http(SystemTime::now());
        let to_sign = sign::v1_string_to_sign(
            &sign::Request {
                method,
                bucket: Some("bucket"),
                key: Some("k"),
                query: &[],
                headers: &[],
            },
            &now,
        );
        let signature = sign::v1_signature("test", &to_sign);
        let authorization = sign::v1_authorization("test", &signature);
        let head = format!(
            "{method} /bucket/k HTTP/1.1\r\nhost: 127.0.0.1\r\ndate: {now}\r\nauthorization: {authorization}\r\ncontent-length: 9\r\n\r\n"
        );
        let mut stream = tokio::net::TcpStream::connect(bench.server.addr())
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .unwrap_or_else(|_| panic!("{method}: not answered"))
            .unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_server_with_a_region_takes_signatures_for_no_other() {
    let of_region = async |own: Option<&str>, region: &str| {
        let bench = Bench::with(|config| config.credentials.region = own.map(str::to_string)).await;
        bench.put("k", b"x").await;
        let now = time::basic(SystemTime::now());
        let headers = [
            (
                Cow::from("x-oss-content-sha256"),
                Cow::from(sign::UNSIGNED_PAYLOAD),
            ),
            (Cow::from("x-oss-date"), Cow::from(now.clone())),
        ];
        let canonical = sign::v4_canonical(
            &sign::Request {
                method: "GET",
                bucket: Some("bucket"),
                key: Some("k"),
                query: &[],
                headers: &headers,
            },
            &[],
        );
        let scope = sign::v4_scope(&now[..8], region);
        let to_sign = sign::v4_string_to_sign(&canonical, &now, &scope);
        let signature = sign::SigningKey::derive("test", &now[..8], region).sign(&to_sign);
        let url = format!("{}/bucket/k", bench.server.endpoint());
        let request = bench
            .http
            .request(Method::GET, url)
            .header("x-oss-content-sha256", sign::UNSIGNED_PAYLOAD)
            .header("x-oss-date", &now)
            .header(
                "authorization",
                sign::v4_authorization("test", &scope, &[], &signature),
            );
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            header(&answer, "x-oss-ec").to_owned(),
        )
    };
    let taken = (200, String::new());
    assert_eq!(of_region(None, "cn-anywhere").await, taken);
    assert_eq!(of_region(Some("cn-here"), "cn-here").await, taken);
    assert_eq!(
        of_region(Some("cn-here"), "cn-there").await,
        (400, "0002-00000226".to_string())
    );
    // The service says it otherwise of a signed URL.
    let bench = Bench::with(|config| config.credentials.region = Some("cn-here".to_string())).await;
    let now = time::basic(SystemTime::now());
    let url = format!(
        "{}/bucket/k?x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=test%2F{}%2Fcn-there%2Foss%2F\
         aliyun_v4_request&x-oss-date={now}&x-oss-expires=60&x-oss-signature=0",
        bench.server.endpoint(),
        &now[..8],
    );
    let answer = bench.http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let document = answer.text().await.unwrap();
    assert!(
        document.contains("The signing region in credential is invalid."),
        "{document}"
    );
}

/// Requests that need an action which a policy does not allow change nothing.
#[tokio::test]
async fn a_policy_refuses_what_it_does_not_allow() {
    let bench = filled().await;
    let before = state(&bench).await;
    let instruments = bench.server.instruments();
    let answer = async |request: Request<'_>| request.send().await.unwrap().status().as_u16();
    instruments.allow_only(["oss:PutObject"]);
    for (request, wanted) in [
        (bench.request("GET", "k"), 403),
        (bench.request("HEAD", "k"), 403),
        (bench.request("GET", ""), 403),
        (bench.request("DELETE", "k"), 403),
        (
            bench
                .request("PUT", "k")
                .header("x-oss-copy-source", "/bucket/dir/k"),
            403,
        ),
        (bench.request("PUT", "written").body(b"x"), 200),
    ] {
        assert_eq!(answer(request).await, wanted);
    }
    let denied = instruments.denied();
    assert_eq!(denied["oss:GetObject"], 3);
    assert_eq!(denied["oss:ListObjects"], 1);
    assert_eq!(denied["oss:DeleteObject"], 1);
    instruments.allow_only(["oss:DeleteObject"]);
    assert_eq!(answer(bench.request("DELETE", "written")).await, 204);
    instruments.allow_all();
    assert_eq!(state(&bench).await, before);
}
