//! The server: accepts connections on loopback and takes each request through its stations.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::accepted;
use super::auth::{self, Credentials};
use super::call::{self, Call, Operation};
use super::instruments::{Action, Fault, Instruments};
use super::pace::{Paced, Patience};
use super::refusal::{Refusal, Result};
use super::reply::{Body, Reply};
use super::{listing, multipart, objects, s3, xml};
use crate::base::sync::lock;
use crate::base::time;
use crate::store::error::Error;
use crate::store::local::directory::Directory;
use crate::store::local::journal::is_bucket;
use crate::store::local::{self, LocalStore};

/// The service takes sources of CopyObject below this size.
const COPY_LIMIT: u64 = 1 << 30;

/// What is read of the body of a refused request, so that its sender gets to the answer.
const DRAIN_LIMIT: u64 = 64 << 20;

/// And for so long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A request may have so many headers: 8 KiB of metadata in small entries, and more.
const MAX_HEADERS: usize = 512;

/// Each has a descriptor, and one for what it reads or writes.
const MAX_CONNECTIONS: usize = 1024;

/// Documents of up to 4 MiB that are read into memory at one time; others wait.
const MAX_DOCUMENTS: usize = 16;

/// Of the document that creates a bucket.
const MAX_CONFIGURATION: usize = 64 << 10;

/// hyper's buffer for reading and writing: bodies move in pieces of up to this size.
const CONNECTION_BUFFER: usize = 1 << 20;

pub struct Config {
    /// A bucket is a folder in it.
    pub dir: PathBuf,
    /// Loopback only.
    pub listen: SocketAddr,
    pub credentials: Credentials,
    /// See [`local::Settings`].
    pub sync: bool,
    /// What buckets say of where they are. Which regions signatures may be for is in the credentials.
    pub region: String,
    /// Say that old versions are kept. None are: for what clients tell their users.
    pub versioned: bool,
    /// In bytes; larger objects are refused as source of CopyObject.
    pub copy_limit: u64,
    /// Further connections wait until one of these ends.
    pub max_connections: usize,
    pub patience: Patience,
    /// Serve counts and take faults under `/-/`, and serve clients that speak S3.
    pub instrument: bool,
}

impl Config {
    /// For tests: any free port, credentials `test` and `test`, nothing synced.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            credentials: Credentials::new("test", "test", None),
            sync: false,
            region: "cn-hangzhou".to_string(),
            versioned: false,
            copy_limit: COPY_LIMIT,
            max_connections: MAX_CONNECTIONS,
            patience: Patience::default(),
            instrument: false,
        }
    }
}

/// A running server; it ends when this is dropped.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens, and serves on the runtime that calls this.
    ///
    /// # Errors
    /// An address that is not loopback or not free; a folder that cannot be made.
    pub async fn start(config: Config) -> io::Result<Server> {
        if !config.listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is not a loopback address", config.listen.ip()),
            ));
        }
        fs::create_dir_all(&config.dir)?;
        let served = Directory::open(&config.dir)?;
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            served,
            started: SystemTime::now(),
            // Different in every run: ids are looked for in logs.
            next_request: AtomicU64::new(rand::random::<u64>() << 24 >> 8),
            buckets: Mutex::default(),
            documents: Semaphore::new(MAX_DOCUMENTS),
            instruments: Arc::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, shared.clone(), stopped));
        Ok(Server {
            addr,
            shared,
            stop,
            accepting,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For a client's `--endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn instruments(&self) -> &Arc<Instruments> {
        &self.shared.instruments
    }

    /// Makes the bucket if it does not exist.
    ///
    /// # Errors
    /// Those of [`LocalStore::open`]; [`Error::NoSuchBucket`] for a name no bucket can have.
    pub fn create_bucket(&self, name: &str) -> std::result::Result<LocalStore, Error> {
        self.shared.create_bucket(name)
    }

    /// Takes no further connection and ends those that are open when their request is answered, or after
    /// `patience`.
    pub async fn shutdown(mut self, patience: Duration) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(patience, &mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The connections' tasks are in a set that ends with this one.
        self.accepting.abort();
    }
}

/// What all connections share.
pub struct Shared {
    config: Config,
    /// The folder of the buckets. One that is reached through a symbolic link is no bucket.
    served: Directory,
    started: SystemTime,
    next_request: AtomicU64,
    /// Held for memory, and while a bucket is opened.
    buckets: Mutex<HashMap<String, LocalStore>>,
    documents: Semaphore,
    instruments: Arc<Instruments>,
}

impl Shared {
    pub fn copy_limit(&self) -> u64 {
        self.config.copy_limit
    }

    pub fn region(&self) -> &str {
        &self.config.region
    }

    pub fn versioned(&self) -> bool {
        self.config.versioned
    }

    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// To be held while a document is in memory.
    ///
    /// # Errors
    /// 503 when none of those that are there ends in time.
    pub async fn document(&self) -> Result<SemaphorePermit<'_>> {
        let waiting = self.documents.acquire();
        match tokio::time::timeout(self.config.patience.body, waiting).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refusal::new(
                503,
                "ServiceUnavailable",
                "Please reduce your request rate.",
            )),
        }
    }

    /// Whether there may be such a bucket. Opens nothing.
    fn has_bucket(&self, name: &str) -> bool {
        check_name(name).is_ok() && self.served.directory(name).is_ok()
    }

    /// Counts a body's bytes.
    pub fn received(&self) -> impl Fn(usize) + Send + use<> {
        let instruments = self.instruments.clone();
        move |bytes| instruments.received(bytes)
    }

    pub async fn bucket(&self, name: &str) -> Result<LocalStore> {
        let no_such_bucket = || Refusal::no_such_bucket(name);
        check_name(name)?;
        // At each request: the folder may have been removed or replaced by other means.
        let folder = match self.served.directory(name) {
            Ok(folder) => folder,
            Err(error) => {
                self.lock().remove(name);
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidData => no_such_bucket(),
                    _ => Error::other(error).into(),
                });
            }
        };
        if let Some(store) = self.lock().get(name)
            && store.root().is_same(&folder).unwrap_or(false)
        {
            return Ok(store.clone());
        }
        // Something else than a bucket is not served, and not touched.
        let foreign = !is_bucket(&folder).unwrap_or(false)
            && folder
                .names()
                .map_or(true, |mut entries| entries.next().is_some());
        if foreign {
            return Err(no_such_bucket());
        }
        Ok(self.create_bucket(name)?)
    }

    fn create_bucket(&self, name: &str) -> std::result::Result<LocalStore, Error> {
        check_name(name).map_err(|_| Error::NoSuchBucket(name.to_string()))?;
        let mut buckets = self.lock();
        match self.served.create_directory(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::other(error));
            }
            _ => {}
        }
        let folder = self.served.directory(name).map_err(Error::other)?;
        if let Some(store) = buckets.get(name)
            && store.root().is_same(&folder).unwrap_or(false)
        {
            return Ok(store.clone());
        }
        let sync = self.config.sync;
        let store = LocalStore::open_in(folder, local::Settings { sync })?;
        buckets.insert(name.to_string(), store.clone());
        Ok(store)
    }

    pub async fn bucket_names(&self) -> Result<Vec<String>> {
        let entries = self.served.names().map_err(Error::other)?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| {
                check_name(name).is_ok()
                    && self
                        .served
                        .directory(name)
                        .is_ok_and(|folder| is_bucket(&folder).unwrap_or(false))
            })
            .collect();
        names.sort();
        Ok(names)
    }

    async fn delete_bucket(&self, name: &str, store: &LocalStore) -> Result<Reply> {
        match store.destroy().await {
            Err(Error::AlreadyExists) => {
                return Err(Refusal::new(
                    409,
                    "BucketNotEmpty",
                    "The bucket you tried to delete is not empty.",
                )
                .with("BucketName", name));
            }
            destroyed => destroyed?,
        }
        self.lock().remove(name);
        match self.served.remove_directory(name) {
            // Another process made a bucket of that name already.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => removed.map_err(Error::other)?,
        }
        Ok(Reply::empty(204))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, LocalStore>> {
        // Whoever panicked left a map of stores that are each whole.
        lock(&self.buckets)
    }
}

/// # Errors
/// For names no bucket can have: only others name a folder.
fn check_name(name: &str) -> Result<()> {
    let valid = (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if valid {
        return Ok(());
    }
    Err(Refusal::new(
        400,
        "InvalidBucketName",
        "The specified bucket is not valid.",
    )
    .with("BucketName", name))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let has_room = connections.len() < shared.config.max_connections;
        let accepted = tokio::select! {
            accepted = listener.accept(), if has_room => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            () = until(&mut stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, shared.clone(), stopped.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free again.
                log::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns when the server shall stop.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let patience = shared.config.patience;
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { answer(shared, request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(CONNECTION_BUFFER)
        .serve_connection(TokioIo::new(Paced::new(stream, patience.answer)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a connection ended: {error}");
    }
}

/// The connection shall end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

type Answer = std::result::Result<Response<UnsyncBoxBody<Bytes, Cut>>, Cut>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    let id = format!(
        "{:024X}",
        shared.next_request.fetch_add(1, Ordering::Relaxed)
    );
    if shared.config.instrument && request.uri().path().starts_with("/-/") {
        return Ok(respond(&shared, control(&shared, request).await, &id, None));
    }
    let head = request.method() == Method::HEAD;
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_string();
    let dialect = match shared.config.instrument && s3::speaks(&request) {
        true => Dialect::S3,
        false => Dialect::Oss,
    };
    let read = match dialect {
        Dialect::Oss => Call::read(request, shared.config.patience),
        Dialect::S3 => s3::translated(request, &shared.config.credentials, SystemTime::now())
            .and_then(|request| Call::read(request, shared.config.patience)),
    };
    let mut call = match read {
        Ok(call) => call,
        Err(refusal) => {
            let reply = refused(&refusal, &id, &host, head);
            return Ok(respond(&shared, reply, &id, None));
        }
    };
    let operation = call.operation;
    let flight = Flight::begin(shared.instruments.clone(), operation);
    let latency = shared.instruments.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = shared
        .instruments
        .take_fault(operation, call.key.as_deref().unwrap_or_default());
    let result = match &fault {
        Some(Action::Reset) => return Err(Cut),
        Some(Action::Status { status, code }) => Err(injected(*status, code)),
        Some(Action::Stall { ms }) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            dispatch(&shared, &mut call, dialect).await
        }
        _ => dispatch(&shared, &mut call, dialect).await,
    };
    if let Some(Action::LoseAnswer) = fault {
        return Err(Cut);
    }
    log::debug!(
        "{id} {operation:?} {} {}",
        call.key.as_deref().unwrap_or_default().escape_debug(),
        result.as_ref().map_or_else(|refusal| refusal.code, |_| "")
    );
    let mut reply = result.unwrap_or_else(|refusal| refused(&refusal, &id, &host, head));
    // Where no body belongs, its announcement may be all there is: such a connection is closed instead.
    let has_body = call.method == Method::PUT || call.method == Method::POST;
    if let Some(body) = call.body.take().filter(|_| has_body)
        && !call.headers.contains_key(header::EXPECT)
    {
        call::drain(body, DRAIN_LIMIT, DRAIN_PATIENCE).await;
    }
    if let Some(fault) = fault {
        spoil(&mut reply, fault);
    }
    if dialect == Dialect::S3 {
        s3::translate_reply(&mut reply);
    }
    Ok(respond(&shared, reply, &id, Some(flight)))
}

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Oss,
    /// Its signature was checked when it was translated.
    S3,
}

async fn dispatch(shared: &Shared, call: &mut Call, dialect: Dialect) -> Result<Reply> {
    let checked = match dialect {
        Dialect::Oss => auth::check(call, &shared.config.credentials, SystemTime::now()),
        Dialect::S3 => Ok(()),
    };
    let name = call.bucket.clone().unwrap_or_default();
    let creates = call.method == Method::PUT
        && call.key.is_none()
        && call
            .query
            .iter()
            .all(|(name, _)| accepted::is_of_signature(name));
    let needs_bucket = call.bucket.is_some() && !creates;
    match checked {
        // Of a bucket that does not exist, this is said to everybody.
        Err(refusal)
            if needs_bucket
                && refusal.is_of_a_stranger()
                && check_name(&name).is_ok()
                && !shared.has_bucket(&name) =>
        {
            return Err(Refusal::no_such_bucket(&name));
        }
        checked => checked?,
    }
    if let Some(action) = shared.instruments.denies(call.operation) {
        return Err(Refusal::new(
            403,
            "AccessDenied",
            "You have no right to access this object.",
        )
        .ec("0003-00000001")
        .with("AuthAction", action));
    }
    let store = match needs_bucket {
        true => Some(shared.bucket(&name).await?),
        false => None,
    };
    if let Some(refusal) = call.refusal.take() {
        return Err(refusal);
    }
    let Some(store) = &store else {
        return match call.operation {
            Operation::ListBuckets => listing::buckets(shared, call).await,
            Operation::PutBucket => create_bucket(shared, call, &name).await,
            _ => Err(Refusal::not_implemented("The operation")),
        };
    };
    match call.operation {
        Operation::ListBuckets | Operation::PutBucket | Operation::Unknown => {
            Err(Refusal::not_implemented("The operation"))
        }
        Operation::DeleteBucket => shared.delete_bucket(&name, store).await,
        Operation::GetBucketInfo => Ok(listing::bucket_info(shared, call)),
        Operation::GetBucketLocation => Ok(listing::location(shared)),
        Operation::ListLiveChannels => listing::live_channels(call),
        Operation::ListObjects => listing::objects_v1(store, call),
        Operation::ListObjectsV2 => listing::objects_v2(store, call),
        Operation::ListMultipartUploads => multipart::list_uploads(store, call).await,
        Operation::DeleteMultipleObjects => objects::delete_many(shared, store, call).await,
        Operation::PutObject => objects::put(shared, store, call).await,
        Operation::CopyObject => objects::copy(shared, store, call).await,
        Operation::GetObject => objects::get(store, call),
        Operation::HeadObject => objects::head(store, call),
        Operation::GetObjectMeta => objects::object_meta(store, call),
        Operation::DeleteObject => objects::delete(store, call).await,
        Operation::InitiateMultipartUpload => multipart::initiate(store, call).await,
        Operation::UploadPart => multipart::upload_part(shared, store, call).await,
        Operation::UploadPartCopy => multipart::copy_part(shared, store, call).await,
        Operation::CompleteMultipartUpload => multipart::complete(shared, store, call).await,
        Operation::AbortMultipartUpload => multipart::abort(store, call).await,
        Operation::ListParts => multipart::list_parts(store, call).await,
    }
}

/// Buckets are private and of one class; what else is asked for is refused.
async fn create_bucket(shared: &Shared, call: &mut Call, name: &str) -> Result<Reply> {
    check_name(name)?;
    if call.length().is_ok_and(|length| length != Some(0)) {
        let _document = shared.document().await?;
        let configuration = call.collect_body(MAX_CONFIGURATION).await?;
        if !configuration.is_empty() {
            let configuration = xml::parse(&configuration)?;
            for setting in &configuration.children {
                let value = setting.text.trim();
                match (setting.name.as_str(), value) {
                    ("StorageClass", "Standard") | ("DataRedundancyType", "LRS") => {}
                    ("LocationConstraint", region)
                        if region.strip_prefix("oss-").unwrap_or(region) == shared.region() => {}
                    (name, value) => {
                        return Err(Refusal::not_implemented(&format!("{name} {value}")));
                    }
                }
            }
        }
    }
    shared.create_bucket(name)?;
    Ok(Reply::empty(200))
}

fn refused(refusal: &Refusal, id: &str, host: &str, head: bool) -> Reply {
    let document = refusal.document(id, host);
    let mut reply = Reply::empty(refusal.status);
    if !refusal.ec.is_empty() {
        reply.header("x-oss-ec", refusal.ec);
    }
    if head {
        reply.header("x-oss-err", BASE64.encode(&document));
    } else {
        reply.header("content-type", "application/xml");
        reply.body = Body::Bytes(document.into());
    }
    reply
}

fn injected(status: u16, code: &str) -> Refusal {
    let mut refusal = Refusal::new(status, "InternalError", "This error was asked for.");
    // Codes are static everywhere else; a test makes a handful of these.
    refusal.code = code.to_string().leak();
    refusal
}

/// Counts a request as under way until its answer has been sent.
struct Flight {
    instruments: Arc<Instruments>,
    operation: Operation,
}

impl Flight {
    fn begin(instruments: Arc<Instruments>, operation: Operation) -> Flight {
        instruments.begin(operation);
        Flight {
            instruments,
            operation,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.instruments.end(self.operation);
    }
}

fn respond(
    shared: &Shared,
    reply: Reply,
    id: &str,
    flight: Option<Flight>,
) -> Response<UnsyncBoxBody<Bytes, Cut>> {
    let now = SystemTime::now();
    let mut length = None;
    let body = match reply.body {
        Body::Bytes(bytes) => {
            shared.instruments.sent(bytes.len());
            if reply.status != 204 && reply.status != 304 {
                length = Some(bytes.len() as u64);
            }
            Full::new(bytes)
                .map_err(|never| match never {})
                .boxed_unsync()
        }
        Body::Head(len) => {
            length = Some(len);
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        }
        Body::Stream(len, chunks) => {
            length = Some(len);
            let instruments = shared.instruments.clone();
            let frames = chunks.map(move |chunk| {
                let _until_the_end = &flight;
                match chunk {
                    Ok(chunk) => {
                        instruments.sent(chunk.len());
                        Ok(Frame::data(chunk))
                    }
                    Err(error) => {
                        log::warn!("a body broke off: {error}");
                        Err(Cut)
                    }
                }
            });
            StreamBody::new(frames).boxed_unsync()
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = hyper::StatusCode::from_u16(reply.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.extend(
        reply
            .headers
            .into_iter()
            .map(|(name, value)| (Some(name), value)),
    );
    let mut own = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    own("server", "AliyunOSS");
    own("date", &time::http(now));
    own("x-oss-request-id", id);
    // The service's own measure of how long it took is in milliseconds; here it is always quick.
    own("x-oss-server-time", "1");
    if let Some(length) = length {
        own("content-length", &length.to_string());
    }
    response
}

/// What a fault does to an answer that is ready.
fn spoil(reply: &mut Reply, fault: Action) {
    let (len, chunks) = match std::mem::replace(&mut reply.body, Body::Head(0)) {
        Body::Stream(len, chunks) => (len, chunks),
        Body::Bytes(bytes) => {
            let len = bytes.len() as u64;
            (len, stream::once(async { Ok(bytes) }).boxed())
        }
        head => {
            reply.body = head;
            return;
        }
    };
    let chunks = match fault {
        Action::TruncateBody { after } => cut_after(chunks, after)
            .chain(stream::once(async {
                // What was sent so far shall arrive.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(Error::other(Cut))
            }))
            .boxed(),
        Action::StallBody { after, ms } => stall_after(chunks, after, Duration::from_millis(ms)),
        Action::CorruptBody { at } => flip(chunks, at),
        Action::Status { .. } | Action::Reset | Action::LoseAnswer | Action::Stall { .. } => chunks,
    };
    reply.body = Body::Stream(len, chunks);
}

type Chunks = BoxStream<'static, std::result::Result<Bytes, Error>>;

fn cut_after(chunks: Chunks, after: u64) -> Chunks {
    chunks
        .scan(after, |left, chunk| {
            let chunk = (*left > 0).then(|| {
                chunk.map(|chunk| {
                    let len = (*left).min(chunk.len() as u64);
                    *left -= len;
                    chunk.slice(..len as usize)
                })
            });
            async move { chunk }
        })
        .boxed()
}

fn stall_after(chunks: Chunks, after: u64, pause: Duration) -> Chunks {
    let mut before = after;
    chunks
        .flat_map(move |chunk| {
            let Ok(chunk) = chunk else {
                return stream::iter(vec![(false, chunk)]);
            };
            let len = chunk.len() as u64;
            if before >= len {
                before -= len;
                return stream::iter(vec![(false, Ok(chunk))]);
            }
            let at = std::mem::replace(&mut before, u64::MAX) as usize;
            stream::iter(vec![
                (false, Ok(chunk.slice(..at))),
                (true, Ok(chunk.slice(at..))),
            ])
        })
        .then(move |(pauses, chunk)| async move {
            if pauses {
                tokio::time::sleep(pause).await;
            }
            chunk
        })
        .boxed()
}

fn flip(chunks: Chunks, at: u64) -> Chunks {
    let mut offset = 0;
    chunks
        .map(move |chunk| {
            let chunk = chunk?;
            let range = offset..offset + chunk.len() as u64;
            offset = range.end;
            if !range.contains(&at) {
                return Ok(chunk);
            }
            let mut bytes = chunk.to_vec();
            bytes[(at - range.start) as usize] ^= 1;
            Ok(bytes.into())
        })
        .boxed()
}

/// `/-/counts`, `/-/reset`, `/-/faults`, `/-/latency?ms=N`.
async fn control(shared: &Shared, request: Request<Incoming>) -> Reply {
    let instruments = &shared.instruments;
    let path = request.uri().path().to_string();
    let query = request.uri().query().unwrap_or_default().to_string();
    match (request.method().as_str(), path.as_str()) {
        ("GET", "/-/counts") => Reply::json(&instruments.counts()),
        ("POST", "/-/reset") => {
            instruments.reset_counts();
            Reply::empty(200)
        }
        ("POST", "/-/latency") => match query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()) {
            Some(ms) => {
                instruments.set_latency(Duration::from_millis(ms));
                Reply::empty(200)
            }
            None => Reply::empty(400),
        },
        ("DELETE", "/-/faults") => {
            instruments.clear_faults();
            Reply::empty(200)
        }
        ("POST", "/-/faults") => {
            let body = match limited(request.into_body().collect()).await {
                Some(body) => body,
                None => return Reply::empty(400),
            };
            match serde_json::from_slice::<Fault>(&body) {
                Ok(fault) => {
                    instruments.add_fault(fault);
                    Reply::empty(200)
                }
                Err(error) => {
                    let mut reply = Reply::json(&error.to_string());
                    reply.status = 400;
                    reply
                }
            }
        }
        _ => Reply::empty(404),
    }
}

async fn limited<E>(
    body: impl Future<Output = std::result::Result<http_body_util::Collected<Bytes>, E>>,
) -> Option<Bytes> {
    let body = tokio::time::timeout(Duration::from_secs(10), body)
        .await
        .ok()?;
    Some(body.ok()?.to_bytes())
}
