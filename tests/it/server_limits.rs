//! The server and clients that hang, or mean harm: what they get is bounded, and the others are served.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use ossvault::base::time;
use ossvault::oss::sign;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::{Bench, refused};

/// The head of a signed request, without the empty line that ends it.
fn head(method: &str, key: &str, query: &str, more: &str) -> String {
    let now = time::http(SystemTime::now());
    let parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = query
        .split('&')
        .filter(|name| !name.is_empty())
        .map(|name| (name.into(), "".into()))
        .collect();
    let to_sign = sign::v1_string_to_sign(
        &sign::Request {
            method,
            bucket: Some("bucket"),
            key: Some(key).filter(|key| !key.is_empty()),
            query: &parameters,
            headers: &[],
        },
        &now,
    );
    let authorization = sign::v1_authorization("test", &sign::v1_signature("test", &to_sign));
    let query = match query {
        "" => String::new(),
        query => format!("?{query}"),
    };
    format!(
        "{method} /bucket/{key}{query} HTTP/1.1\r\nhost: 127.0.0.1\r\ndate: {now}\r\nauthorization: {authorization}\r\n{more}"
    )
}

async fn patient(seconds: u64) -> Bench {
    Bench::with(|config| {
        let second = Duration::from_secs(seconds);
        config.patience.head = second;
        config.patience.body = second;
        config.patience.answer = second;
    })
    .await
}

async fn connect(bench: &Bench) -> TcpStream {
    TcpStream::connect(bench.server.addr()).await.unwrap()
}

/// What arrives until the server ends the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset ends it as well.
    let _ = tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("the connection stays open");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_request_that_does_not_arrive_is_given_up() {
    let bench = patient(1).await;
    bench.put("k", b"content").await;
    let begin = Instant::now();
    // Nothing; half a head; an object that stops, or trickles.
    let mut silent = connect(&bench).await;
    let mut half = connect(&bench).await;
    half.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let mut stopped = connect(&bench).await;
    let put = head("PUT", "k", "", "content-length: 1000\r\n\r\nabc");
    stopped.write_all(put.as_bytes()).await.unwrap();
    let mut trickling = connect(&bench).await;
    let put = head("PUT", "k", "", "content-length: 1000\r\n\r\n");
    trickling.write_all(put.as_bytes()).await.unwrap();
    let (mut trickled, mut drops) = trickling.split();
    let trickle = async {
        while drops.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if begin.elapsed() > Duration::from_secs(40) {
                panic!("taken drop by drop");
            }
        }
    };
    let answered = async {
        let mut bytes = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(40), trickled.read(&mut bytes));
        let len = read.await.expect("no answer").unwrap_or(0);
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let trickled = tokio::select! {
        () = trickle => String::new(),
        answer = answered => answer,
    };
    if !trickled.is_empty() {
        assert!(trickled.starts_with("HTTP/1.1 400 "), "{trickled}");
        assert!(trickled.contains("RequestTimeout"), "{trickled}");
    }
    assert!(!rest(&mut silent).await.contains(" 200 "));
    assert!(!rest(&mut half).await.contains(" 200 "));
    assert!(rest(&mut stopped).await.contains("RequestTimeout"));
    let got = bench.request("GET", "k").send().await.unwrap();
    assert_eq!(got.text().await.unwrap(), "content");
}

#[tokio::test]
async fn a_document_has_to_arrive_as_a_whole_in_time() {
    let bench = patient(1).await;
    let digest = BASE64.encode(Md5::digest(b"x"));
    let more = format!("content-md5: {digest}\r\ncontent-length: 100000\r\n\r\n<Delete>");
    // The signature is over the digest too.
    let now = time::http(SystemTime::now());
    let query = [(Cow::from("delete"), Cow::from(""))];
    let headers = [(Cow::from("content-md5"), Cow::from(digest.as_str()))];
    let to_sign = sign::v1_string_to_sign(
        &sign::Request {
            method: "POST",
            bucket: Some("bucket"),
            key: None,
            query: &query,
            headers: &headers,
        },
        &now,
    );
    let authorization = sign::v1_authorization("test", &sign::v1_signature("test", &to_sign));
    let mut stream = connect(&bench).await;
    let head = format!(
        "POST /bucket/?delete HTTP/1.1\r\nhost: 127.0.0.1\r\ndate: {now}\r\nauthorization: {authorization}\r\n{more}"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.contains("RequestTimeout"));
}

/// The object is far larger than what the sockets hold.
#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let bench = patient(1).await;
    bench.put("large", &vec![7; 64 << 20]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&bench).await;
        let get = head("GET", "large", "", "\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let begin = Instant::now();
    while bench.server.instruments().counts().in_flight > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "still connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for mut stream in streams {
        assert!(rest(&mut stream).await.len() < 64 << 20);
    }
}

#[tokio::test]
async fn further_connections_wait_for_one_to_end() {
    let bench = Bench::with(|config| config.max_connections = 2).await;
    let first = connect(&bench).await;
    let second = connect(&bench).await;
    let mut third = connect(&bench).await;
    third
        .write_all(head("GET", "nothing", "", "connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut bytes = [0; 16];
    let early = tokio::time::timeout(Duration::from_millis(500), third.peek(&mut bytes)).await;
    assert!(early.is_err(), "served beyond the bound");
    drop(first);
    assert!(rest(&mut third).await.starts_with("HTTP/1.1 404 "));
    drop(second);
}

#[tokio::test]
async fn heads_and_documents_are_bounded() {
    let bench = Bench::new().await;
    bench.put("k", b"content").await;
    // Too many headers, and too long ones.
    for more in [
        "a: b\r\n".repeat(2000) + "\r\n",
        format!("a: {}\r\n\r\n", "b".repeat(8 << 20)),
    ] {
        let mut stream = connect(&bench).await;
        // The server may close before it has taken everything.
        let _ = stream
            .write_all(head("GET", "k", "", &more).as_bytes())
            .await;
        assert!(!rest(&mut stream).await.contains(" 200 "));
    }
    let metadata = bench
        .request("PUT", "k")
        .header("x-oss-meta-a", "b".repeat(9000))
        .body(b"x");
    refused(metadata, 400, "InvalidArgument").await;
    let delete = |body: String| {
        bench
            .request("POST", "")
            .query("delete", "")
            .header("content-md5", BASE64.encode(Md5::digest(&body)))
            .body(body.as_bytes())
    };
    let key = "<Object><Key>k</Key></Object>";
    for body in [
        format!("<Delete>{}</Delete>", key.repeat(1001)),
        format!("<Delete>{}</Delete>", "<Object/>".repeat(60_000)),
        format!("<Delete>{}</Delete>", " ".repeat(3 << 20)),
        "<Delete>".repeat(1000),
        format!("<Delete {}>{key}</Delete>", "a='b' ".repeat(10_000)) + "<",
        "<!DOCTYPE Delete [<!ENTITY a 'b'>]><Delete><Object><Key>&a;</Key></Object></Delete>"
            .to_string(),
    ] {
        refused(delete(body), 400, "MalformedXML").await;
    }
    let got = bench.request("GET", "k").send().await.unwrap();
    assert_eq!(got.text().await.unwrap(), "content");
}
