//! A small cloud on loopback, written from the services' documentation: STS, the metadata service and a credentials
//! URI, which issue keys; and a gate in front of the bucket, which lets only requests with an issued token pass that has
//! not been ended. Each can lie.
//!
//! The server behind the gate checks the signatures themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ossvault::base::encoding::percent_decoded;
use ossvault::base::time;
use ossvault::oss::sign::hmac_sha256;
use sha2::{Digest, Sha256};

/// The key that every source gives, and that the server wants.
pub(crate) const ID: &str = "STS.s3cretId";
pub(crate) const SECRET: &str = "s3cretMarker0451key";
/// The key that may assume roles.
pub(crate) const BASE_ID: &str = "LTAIbase";
pub(crate) const BASE_SECRET: &str = "s3cretMarker0451base";
pub(crate) const ROLE: &str = "acs:ram::1234567890123456:role/backup";
pub(crate) const PROVIDER: &str = "acs:ram::1234567890123456:oidc-provider/cluster";
/// What the platform vouches with.
pub(crate) const IDENTITY: &str = "eyJs3cret.Marker.0451";
const METADATA_TOKEN: &str = "bWV0YQs3cret0451==";

/// How the services that issue keys behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// The answer comes so late.
    Slow(Duration),
    /// The answer is no JSON, and repeats secrets.
    Malformed,
    /// The answer lacks the secret.
    Partial,
    Huge,
    /// The key has expired when it comes.
    Expired,
    /// The service's clock is so many seconds ahead, and it refuses signatures of any other time.
    Clock(i64),
    /// An error with this code, whose message repeats secrets.
    Refuses(u16, &'static str),
    /// To an address where a thief listens.
    Redirects,
}

pub(crate) struct State {
    pub manner: Manner,
    /// What the platform vouches with now.
    pub identity: String,
    /// How long keys live; none do not say.
    pub life: Option<Duration>,
    issued: u64,
    accepted: BTreeSet<String>,
    /// Requests that the gate passed on, by their token.
    pub passed: BTreeMap<String, u64>,
    /// Requests that the gate refused, by their token.
    pub refused: BTreeMap<String, u64>,
    /// First lines of what was asked of the services.
    pub asked: Vec<String>,
}

impl State {
    /// A token that passes.
    pub(crate) fn issue(&mut self) -> String {
        self.issued += 1;
        let token = format!("s3cretMarker0451token{}", self.issued);
        self.accepted.insert(token.clone());
        token
    }

    /// This token passes, too; the empty one is that of permanent keys.
    pub(crate) fn accept(&mut self, token: &str) {
        self.accepted.insert(token.to_owned());
    }

    /// From now on no token that was issued before passes.
    pub(crate) fn end_tokens(&mut self) {
        self.accepted.clear();
    }

    pub(crate) fn issued(&self) -> u64 {
        self.issued
    }

    /// A key as JSON.
    pub(crate) fn key(&mut self, now: SystemTime) -> String {
        let token = self.issue();
        let expiration = match (self.manner, self.life) {
            (Manner::Expired, _) => Some(now - Duration::from_secs(3600)),
            (_, life) => life.map(|life| now + life),
        };
        let expiration = expiration.map_or_else(String::new, |at| {
            format!(r#","Expiration":"{}""#, time::plain(at))
        });
        format!(
            r#"{{"AccessKeyId":"{ID}","AccessKeySecret":"{SECRET}","SecurityToken":"{token}"{expiration}}}"#
        )
    }
}

pub(crate) struct Cloud {
    state: Arc<Mutex<State>>,
    services: SocketAddr,
    gate: SocketAddr,
}

impl Cloud {
    /// In front of the bucket at this endpoint, `http://HOST:PORT`.
    pub(crate) fn start(bucket: &str) -> Cloud {
        let state = Arc::new(Mutex::new(State {
            manner: Manner::Honest,
            identity: IDENTITY.to_owned(),
            life: Some(Duration::from_secs(3600)),
            issued: 0,
            accepted: BTreeSet::new(),
            passed: BTreeMap::new(),
            refused: BTreeMap::new(),
            asked: Vec::new(),
        }));
        let bucket: SocketAddr = bucket.strip_prefix("http://").unwrap().parse().unwrap();
        let services = serve({
            let state = state.clone();
            move |request, stream| answer(&state, request, stream)
        });
        let gate = serve({
            let state = state.clone();
            move |request, stream| pass(&state, request, stream, bucket)
        });
        Cloud {
            state,
            services,
            gate,
        }
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The endpoint of the bucket.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.gate)
    }

    /// The endpoint of STS, the metadata service and, at `/uri`, of keys without more ado.
    pub(crate) fn services(&self) -> String {
        format!("http://{}", self.services)
    }
}

/// The head of a request, and the beginning of its body.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(stream: &mut TcpStream) -> Option<Request> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        let end = loop {
            let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&piece[..count]);
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let body = bytes.split_off(end);
        let head = String::from_utf8(bytes).unwrap();
        Some(Request { head, body })
    }

    fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(": ")?;
            n.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn body_left(&self) -> usize {
        let length = self.header("content-length").unwrap_or("0");
        length.parse::<usize>().unwrap() - self.body.len()
    }

    /// Reads the rest of the body: a connection that is closed with unread bytes loses its answer.
    fn finish(&mut self, stream: &mut TcpStream) {
        let left = self.body_left() as u64;
        let _ = stream.take(left).read_to_end(&mut self.body);
    }
}

fn serve(answer: impl Fn(Request, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let answer = answer.clone();
            std::thread::spawn(move || {
                if let Some(request) = Request::read(&mut stream) {
                    answer(request, stream);
                }
            });
        }
    });
    address
}

fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

/// The gate: one request to a connection.
fn pass(state: &Mutex<State>, mut request: Request, mut stream: TcpStream, bucket: SocketAddr) {
    let token = request.header("x-oss-security-token").unwrap_or_default();
    let token = token.to_owned();
    let passes = {
        let mut state = state.lock().unwrap();
        let passes = state.accepted.contains(&token);
        let counter = match passes {
            true => &mut state.passed,
            false => &mut state.refused,
        };
        *counter.entry(token).or_default() += 1;
        passes
    };
    if !passes {
        request.finish(&mut stream);
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SecurityTokenExpired</Code>\
            <Message>The security token you provided has expired.</Message><RequestId>R0</RequestId>\
            <HostId>h</HostId><EC>0002-00000007</EC></Error>";
        let mut headers = format!(
            "date: {}\r\nx-oss-request-id: R0\r\n",
            time::http(SystemTime::now())
        );
        if request.line().starts_with("HEAD ") {
            headers.push_str(&format!(
                "x-oss-err: {}\r\n",
                BASE64_STANDARD.encode(document)
            ));
            return respond(&mut stream, 403, &headers, "");
        }
        return respond(&mut stream, 403, &headers, document);
    }
    let mut upstream = TcpStream::connect(bucket).unwrap();
    let (line, rest) = request.head.split_once("\r\n").unwrap();
    let head = format!("{line}\r\nconnection: close\r\n{rest}");
    let _ = upstream.write_all(head.as_bytes());
    let _ = upstream.write_all(&request.body);
    let (left, mut from, mut to) = (
        request.body_left() as u64,
        stream.try_clone().unwrap(),
        upstream.try_clone().unwrap(),
    );
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut Read::by_ref(&mut from).take(left), &mut to);
    });
    let _ = std::io::copy(&mut upstream, &mut stream);
    let _ = stream.shutdown(Shutdown::Both);
    let _ = up.join();
}

/// STS, the metadata service, and the URI.
fn answer(state: &Mutex<State>, mut request: Request, mut stream: TcpStream) {
    request.finish(&mut stream);
    let manner = {
        let mut state = state.lock().unwrap();
        state.asked.push(request.line().to_owned());
        state.manner
    };
    if let Manner::Slow(time) = manner {
        std::thread::sleep(time);
    }
    let ahead = match manner {
        Manner::Clock(ahead) => ahead,
        _ => 0,
    };
    let now = SystemTime::now();
    let by = Duration::from_secs(ahead.unsigned_abs());
    let now = if ahead < 0 { now - by } else { now + by };
    let date = format!("date: {}\r\n", time::http(now));
    let document = match grant(state, &request, now) {
        Ok(document) => document,
        Err((status, document)) => return respond(&mut stream, status, &date, &document),
    };
    match manner {
        Manner::Malformed => respond(
            &mut stream,
            200,
            &date,
            &format!("{{\n{SECRET}: {document}"),
        ),
        Manner::Partial => respond(
            &mut stream,
            200,
            &date,
            &document.replace("AccessKeySecret", "Other"),
        ),
        Manner::Huge => respond(&mut stream, 200, &date, &document.repeat(1000)),
        Manner::Refuses(status, code) => {
            let body = format!(
                r#"{{"RequestId":"0451-R","HostId":"h","Code":"{code}","Message":"signed: {SECRET} {IDENTITY}"}}"#
            );
            respond(&mut stream, status, &date, &body.replace("0451-R", "A1-R"));
        }
        Manner::Redirects => respond(
            &mut stream,
            302,
            "location: http://127.0.0.1:1/thief\r\n",
            "",
        ),
        _ => respond(&mut stream, 200, &date, &document),
    }
}

type Granted = Result<String, (u16, String)>;

/// A key for who may have one.
fn grant(state: &Mutex<State>, request: &Request, now: SystemTime) -> Granted {
    const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
    let refused = |status, code: &str| {
        let body = format!(r#"{{"RequestId":"R1","Code":"{code}","Message":"{SECRET}"}}"#);
        Err((status, body))
    };
    let mut words = request.line().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = || state.lock().unwrap().key(now);
    let of_sts = || {
        format!(
            r#"{{"RequestId":"R1","AssumedRoleUser":{{"Arn":"a","AssumedRoleId":"b"}},"Credentials":{}}}"#,
            key()
        )
    };
    match (method, path) {
        ("GET", "/uri") => Ok(key()),
        ("PUT", "/latest/api/token") => {
            match request.header("x-aliyun-ecs-metadata-token-ttl-seconds") {
                Some(life) if (1..=21_600).contains(&life.parse().unwrap_or(0)) => {
                    Ok(METADATA_TOKEN.to_owned())
                }
                _ => refused(400, "Bad"),
            }
        }
        ("GET", path) if path.starts_with(ROLES) => {
            if request.header("x-aliyun-ecs-metadata-token") != Some(METADATA_TOKEN) {
                return refused(403, "Forbidden");
            }
            match &path[ROLES.len()..] {
                "" => Ok("web".to_owned()),
                "web" => {
                    let key = key();
                    Ok(format!(
                        r#"{},"Code":"Success"}}"#,
                        key.trim_end_matches('}')
                    ))
                }
                _ => refused(404, "NotFound"),
            }
        }
        ("POST", "/") => {
            let form = String::from_utf8(request.body.clone()).unwrap();
            let pairs = pairs(query).into_iter().chain(pairs(&form));
            let given: BTreeMap<String, String> = pairs.collect();
            let value = |name: &str| given.get(name).map(String::as_str);
            let life = value("DurationSeconds").and_then(|life| life.parse::<u64>().ok());
            if value("RoleArn") != Some(ROLE) {
                return refused(404, "EntityNotExist.Role");
            }
            if life.is_none_or(|life| life < 900) || value("RoleSessionName").is_none() {
                return refused(400, "InvalidParameter");
            }
            match value("Action").or(request.header("x-acs-action")) {
                Some("AssumeRoleWithOIDC") => {
                    let identity = state.lock().unwrap().identity.clone();
                    let of_the_cluster = value("OIDCProviderArn") == Some(PROVIDER)
                        && value("OIDCToken") == Some(&*identity)
                        && value("Version") == Some("2015-04-01")
                        && value("Format") == Some("JSON");
                    match of_the_cluster {
                        true => Ok(of_sts()),
                        false => refused(400, "AuthenticationFail.OIDCToken.Invalid"),
                    }
                }
                Some("AssumeRole") => match signature(state, request, query, now) {
                    Ok(()) => Ok(of_sts()),
                    Err(code) => refused(400, code),
                },
                _ => refused(404, "InvalidAction.NotFound"),
            }
        }
        _ => refused(404, "NotFound"),
    }
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decoded(text).unwrap();
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// Version 3 of the signature, step by step as documented, over what was received.
fn signature(
    state: &Mutex<State>,
    request: &Request,
    query: &str,
    now: SystemTime,
) -> Result<(), &'static str> {
    let header = |name: &str| request.header(name).unwrap_or_default();
    let authorization = header("authorization");
    let part = |name: &str| {
        let parts = authorization.strip_prefix("ACS3-HMAC-SHA256 ")?.split(',');
        let mut parts = parts.filter_map(|part| part.split_once('='));
        Some(parts.find(|(n, _)| *n == name)?.1)
    };
    let secret = match part("Credential") {
        Some(BASE_ID) => BASE_SECRET,
        Some(ID)
            if state
                .lock()
                .unwrap()
                .accepted
                .contains(header("x-acs-security-token")) =>
        {
            SECRET
        }
        Some(ID) => return Err("InvalidSecurityToken.Expired"),
        _ => return Err("InvalidAccessKeyId.NotFound"),
    };
    let date = time::parse_extended(header("x-acs-date")).ok_or("IllegalTimestamp")?;
    let skew = date
        .duration_since(now)
        .unwrap_or_else(|error| error.duration());
    if skew > Duration::from_secs(15 * 60) {
        return Err("InvalidTimeStamp.Expired");
    }
    let names = part("SignedHeaders").ok_or("IncompleteSignature")?;
    let mut sorted: Vec<&str> = names.split(';').collect();
    sorted.sort_unstable();
    let lower: Vec<String> = (request.head.lines().skip(1))
        .filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase()))
        .collect();
    let all_signed = lower.iter().filter(|name| name.starts_with("x-acs-"));
    if sorted.join(";") != names || !all_signed.clone().all(|name| sorted.contains(&&**name)) {
        return Err("IncompleteSignature");
    }
    let body = hex::encode(Sha256::digest(&request.body));
    let mut sorted_query: Vec<&str> = query.split('&').collect();
    sorted_query.sort_unstable();
    let mut canonical = format!("POST\n/\n{}\n", sorted_query.join("&"));
    for name in &sorted {
        canonical.push_str(&format!("{name}:{}\n", header(name).trim()));
    }
    canonical.push_str(&format!("\n{names}\n{body}"));
    let text = format!(
        "ACS3-HMAC-SHA256\n{}",
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let expected = hex::encode(*hmac_sha256(secret.as_bytes(), &text));
    match part("Signature") == Some(&expected) && header("x-acs-content-sha256") == body {
        true => Ok(()),
        false => Err("SignatureDoesNotMatch"),
    }
}
