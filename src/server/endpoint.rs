//! The server: accepts connections on loopback and takes each request through its stations.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::call::{self, Call};
use super::faults::{self, Cut};
use super::instruments::{Action, InFlight, Instruments};
use super::operation::Operation;
use super::pace::Paced;
use super::refusal::{Refusal, Result};
use super::reply::{Body, Reply};
use super::state::{Config, ServerState, check_name};
use super::{accepted, auth, listing, multipart, objects, s3, xml};
use crate::base::time;
use crate::store::error::Error;
use crate::store::local::LocalStore;
use crate::store::local::class::Class;

/// What is read of the body of a refused request, so that its sender gets to the answer.
const DRAIN_LIMIT: u64 = 64 << 20;

/// And for so long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// A request may have so many headers: 8 KiB of metadata in small entries, and more.
const MAX_HEADERS: usize = 512;

/// Of the document that creates a bucket.
const MAX_CONFIGURATION: usize = 64 << 10;

/// hyper's buffer for reading and writing: bodies move in pieces of up to this size.
const CONNECTION_BUFFER: usize = 1 << 20;

/// A running server; it ends when this is dropped.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<ServerState>,
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
        let state = ServerState::new(config)?;
        let listener = TcpListener::bind(state.config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(state);
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
        self.shared.create_bucket(name, None)
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

async fn accept(
    listener: TcpListener,
    shared: Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
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

async fn connection(
    stream: TcpStream,
    shared: Arc<ServerState>,
    mut stopped: watch::Receiver<bool>,
) {
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

type Answer = std::result::Result<Response<UnsyncBoxBody<Bytes, Cut>>, Cut>;

async fn answer(shared: Arc<ServerState>, request: Request<Incoming>) -> Answer {
    let id = shared.request_id();
    if shared.config.instrument && request.uri().path().starts_with("/-/") {
        return Ok(respond(
            &shared,
            faults::control(&shared, request).await,
            &id,
            None,
        ));
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
    let flight = InFlight::begin(shared.instruments.clone(), operation);
    let latency = shared.instruments.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = shared
        .instruments
        .take_fault(operation, call.key.as_deref().unwrap_or_default());
    let result = match &fault {
        Some(Action::Reset) => return Err(Cut),
        Some(Action::Status { status, code }) => Err(faults::refusal(*status, code)),
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
        faults::inject(&mut reply, fault);
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

async fn dispatch(shared: &ServerState, call: &mut Call, dialect: Dialect) -> Result<Reply> {
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
    // Setting its access makes a bucket too, on the service: who may not make one is not told that there is none.
    let may_create =
        call.method == Method::PUT && call.key.is_none() && call.parameter("acl").is_some();
    match checked {
        // Of a bucket that does not exist, this is said to everybody.
        Err(refusal)
            if needs_bucket
                && !may_create
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
        Operation::DeleteBucket => {
            shared.delete_bucket(&name, store).await?;
            Ok(Reply::empty(204))
        }
        Operation::GetBucketInfo => Ok(listing::bucket_info(shared, store, call)),
        Operation::GetBucketLocation => Ok(listing::location(shared)),
        Operation::ListLiveChannels => listing::live_channels(call),
        Operation::ListObjects => listing::objects_v1(store, call),
        Operation::ListObjectsV2 => listing::objects_v2(store, call),
        Operation::ListObjectVersions => listing::versions(store, call),
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

/// Buckets are private, and of a class that need not be restored; what else is asked for is refused.
async fn create_bucket(shared: &ServerState, call: &mut Call, name: &str) -> Result<Reply> {
    check_name(name)?;
    let mut class = None;
    if call.length().is_ok_and(|length| length != Some(0)) {
        let _document = shared.document().await?;
        let configuration = call.collect_body(MAX_CONFIGURATION).await?;
        if !configuration.is_empty() {
            let configuration = xml::parse(&configuration).ok_or_else(Refusal::malformed_xml)?;
            for setting in &configuration.children {
                let value = setting.text.trim();
                match (setting.name.as_str(), value) {
                    ("StorageClass", name) if Class::named(name).is_some() => {
                        class = Class::named(name);
                    }
                    ("DataRedundancyType", "LRS") => {}
                    ("LocationConstraint", region)
                        if region.strip_prefix("oss-").unwrap_or(region) == shared.region() => {}
                    (name, value) => {
                        return Err(Refusal::not_implemented(&format!("{name} {value}")));
                    }
                }
            }
        }
    }
    match shared.create_bucket(name, class) {
        Err(Error::AlreadyExists) => Err(Refusal::new(
            409,
            "BucketAlreadyExists",
            "The requested bucket name is not available: it exists with another storage class.",
        )
        .with("BucketName", name)),
        created => created.map(|_| Reply::empty(200)).map_err(Refusal::from),
    }
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

fn respond(
    shared: &ServerState,
    reply: Reply,
    id: &str,
    flight: Option<InFlight>,
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
