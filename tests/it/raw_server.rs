//! A server of raw bytes over TCP, for every oddity of the wire, and a client for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use futures_util::StreamExt;
use ossvault::oss::client::{Client, Settings};
use ossvault::oss::credentials::AccessKey;
use ossvault::oss::endpoint::{Endpoint, Options};
use ossvault::oss::sign::Version;
use ossvault::store::error::Error;
use ossvault::store::object_store::{Body, ETag, ObjectHeaders, ObjectKey, ObjectStore, Overwrite};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const DATE: &str = "Sat, 03 Jan 2026 04:05:06 GMT";

/// The server's reaction to a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes; the connection stays open.
    Send(Vec<u8>),
    /// These bytes and no more.
    Cut(Vec<u8>),
    /// The first of these bytes as they are, the rest one byte at a time with a pause before each.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// Nothing, forever.
    Stall,
}

type Answer = Arc<dyn Fn(usize, &Received) -> Reply + Send + Sync>;

pub(crate) struct Received {
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

pub(crate) struct Server {
    pub store: Client,
    pub received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Answers the nth request with the nth reply, and those after the last with 500.
    pub(crate) async fn start(replies: Vec<Reply>) -> Server {
        Server::with(replies, Duration::from_secs(5), 64).await
    }

    pub(crate) async fn with(replies: Vec<Reply>, timeout: Duration, parallel: usize) -> Server {
        let after = status(500, &[], "");
        let answer = move |n: usize, _: &Received| replies.get(n).unwrap_or(&after).clone();
        Server::answering(answer, timeout, parallel).await
    }

    /// Answers the nth request, counted from 0, with the result of `answer`.
    pub(crate) async fn answering(
        answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
        timeout: Duration,
        parallel: usize,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let answer: Answer = Arc::new(answer);
        let shared = (received.clone(), answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (received, answer) = shared.clone();
                tokio::spawn(async move { serve(stream, received, answer).await });
            }
        });
        let endpoint =
            Endpoint::new(&format!("http://{address}"), "bkt", Options::default()).unwrap();
        let key = AccessKey::new("id", "VerySecret", Some("SessionToken".to_owned()));
        let version = Version::V4 {
            region: "cn-hangzhou".to_owned(),
        };
        let settings = Settings { timeout, parallel };
        let client = Client::new(endpoint, key, version, settings).unwrap();
        Server {
            store: client,
            received,
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let received = self.received.lock().unwrap();
        received.iter().map(|r| r.line().to_owned()).collect()
    }

    pub(crate) fn header(&self, n: usize, name: &str) -> Option<String> {
        self.received.lock().unwrap()[n]
            .header(name)
            .map(str::to_owned)
    }
}

async fn serve(
    mut stream: TcpStream,
    received: Arc<Mutex<Vec<Received>>>,
    answer: Answer,
) -> Option<()> {
    loop {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let mut request = Received {
            head: String::from_utf8(bytes[..end].to_vec()).unwrap(),
            body: bytes[end + 4..].to_vec(),
        };
        let length = request
            .header("content-length")
            .map_or(0, |n| n.parse().unwrap());
        while request.body.len() < length {
            if stream.read_buf(&mut request.body).await.ok()? == 0 {
                return None;
            }
        }
        let reply = {
            let mut received = received.lock().unwrap();
            let reply = answer(received.len(), &request);
            received.push(request);
            reply
        };
        match reply {
            Reply::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Reply::Cut(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return None;
            }
            Reply::Trickle(bytes, rest, pause) => {
                stream.write_all(&bytes).await.ok()?;
                for byte in rest {
                    tokio::time::sleep(pause).await;
                    stream.write_all(&[byte]).await.ok()?;
                }
            }
            Reply::Stall => std::future::pending().await,
        }
    }
}

pub(crate) fn raw(status: u16, headers: &[(&str, &str)], length: usize, body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\nDate: {DATE}\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

pub(crate) fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    Reply::Send(raw(status, headers, body.len(), body.as_bytes()))
}

pub(crate) fn refused(code: u16, name: &str) -> Reply {
    status(
        code,
        &[("x-oss-request-id", "R1")],
        &format!("<Error><Code>{name}</Code><Message>no</Message></Error>"),
    )
}

/// The headers every object has, with the checksum of `whole`.
pub(crate) fn object(whole: &[u8]) -> Vec<(&'static str, String)> {
    vec![
        ("ETag", "\"E1\"".to_owned()),
        ("Last-Modified", DATE.to_owned()),
        ("x-oss-hash-crc64ecma", crc(whole).to_string()),
    ]
}

pub(crate) fn crc(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Xz, bytes)
}

/// An answer to GET whose body stops after `sent` bytes of `range`.
pub(crate) fn part(code: u16, whole: &[u8], range: std::ops::Range<usize>, sent: usize) -> Reply {
    let mut headers = object(whole);
    if code == 206 {
        let (first, last, size) = (range.start, range.end - 1, whole.len());
        headers.push(("Content-Range", format!("bytes {first}-{last}/{size}")));
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    let body = &whole[range.start..range.start + sent];
    let bytes = raw(code, &headers, range.len(), body);
    match sent == range.len() {
        true => Reply::Send(bytes),
        false => Reply::Cut(bytes),
    }
}

pub(crate) fn head_of(whole: &[u8], user: &[(&'static str, &str)]) -> Reply {
    let mut headers = object(whole);
    headers.extend(user.iter().map(|(n, v)| (*n, (*v).to_owned())));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, &**v)).collect();
    Reply::Send(raw(200, &headers, whole.len(), b""))
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

pub(crate) fn tag() -> ETag {
    ETag::new("\"E1\"")
}

pub(crate) async fn get(
    server: &Server,
    range: Option<std::ops::Range<u64>>,
) -> Result<(std::ops::Range<u64>, Vec<u8>), Error> {
    let mut answer = server.store.get(&key("a"), range, None).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok((answer.range, bytes))
}

pub(crate) async fn put(
    server: &Server,
    bytes: &'static [u8],
    overwrite: Overwrite,
) -> Result<ETag, Error> {
    let headers = ObjectHeaders {
        user: BTreeMap::from([("mode".to_owned(), "33188".to_owned())]),
        ..ObjectHeaders::default()
    };
    let body = Body::from_bytes(Bytes::from_static(bytes));
    let answer = server
        .store
        .put(&key("a"), &headers, body, overwrite)
        .await?;
    Ok(answer.etag)
}
