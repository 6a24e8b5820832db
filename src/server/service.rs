//! A request's way: it is read, checked, carried out, and answered.

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
use hyper::{Method, Request, Response};

use super::call::{self, Call};
use super::operation::Operation;
use super::refusal::{Refusal, Result};
use super::reply::{Body, Reply};
use super::state::{ServerState, check_name};
use super::xml::{self, Children, Field};
use super::{accepted, auth, listing, multipart, objects};
use crate::base::time;
use crate::store::error::Error;
use crate::store::local::class::Class;

/// What is read of the body of a refused request, so that its sender gets to the answer.
const DRAIN_LIMIT: u64 = 64 << 20;

/// And for so long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Of the document that creates a bucket.
const MAX_CONFIGURATION: usize = 64 << 10;

/// The connection shall end without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
pub struct Cut;

pub type Answer = std::result::Result<Response<UnsyncBoxBody<Bytes, Cut>>, Cut>;

/// Who asked, for the answer.
pub struct Asker {
    pub id: String,
    host: String,
    is_head: bool,
}

impl Asker {
    pub fn of(shared: &ServerState, request: &Request<Incoming>) -> Asker {
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        Asker {
            id: shared.request_id(),
            host: host.unwrap_or_default().to_string(),
            is_head: request.method() == Method::HEAD,
        }
    }

    /// A refusal as a reply; one to HEAD has no body.
    pub fn refused(&self, refusal: &Refusal) -> Reply {
        refused(refusal, &self.id, &self.host, self.is_head)
    }

    /// The reply to a request that has been carried out or refused.
    pub async fn reply(&self, call: &mut Call, result: Result<Reply>) -> Reply {
        log::debug!(
            "{} {:?} {} {}",
            self.id,
            call.operation,
            call.key.as_deref().unwrap_or_default().escape_debug(),
            result.as_ref().map_or_else(|refusal| refusal.code, |_| "")
        );
        let reply = result.unwrap_or_else(|refusal| self.refused(&refusal));
        // Where no body belongs, its announcement may be all there is: such a connection is closed instead.
        let has_body = call.method == Method::PUT || call.method == Method::POST;
        if let Some(body) = call.body.take().filter(|_| has_body)
            && !call.headers.contains_key(header::EXPECT)
        {
            call::drain(body, DRAIN_LIMIT, DRAIN_PATIENCE).await;
        }
        reply
    }
}

/// # Errors
/// None: nothing here cuts a connection.
pub async fn answer(shared: Arc<ServerState>, request: Request<Incoming>) -> Answer {
    let asker = Asker::of(&shared, &request);
    let mut call = match Call::read(request, shared.config.patience) {
        Ok(call) => call,
        Err(refusal) => return Ok(respond(asker.refused(&refusal), &asker.id, |_| ())),
    };
    let checked = auth::check(&call, &shared.config.credentials, SystemTime::now());
    let result = dispatch(&shared, &mut call, checked).await;
    let reply = asker.reply(&mut call, result).await;
    Ok(respond(reply, &asker.id, |_| ()))
}

/// What the operation answers to a request that `checked` lets pass.
///
/// # Errors
/// What the service refuses.
pub async fn dispatch(shared: &ServerState, call: &mut Call, checked: Result<()>) -> Result<Reply> {
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
    #[cfg(feature = "instruments")]
    shared.instruments.permit(call.operation)?;
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
        Operation::GetBucketStat => listing::bucket_stat(store).await,
        Operation::ListLiveChannels => listing::live_channels(call),
        Operation::ListObjects => listing::objects_v1(store, call).await,
        Operation::ListObjectsV2 => listing::objects_v2(store, call).await,
        Operation::ListObjectVersions => listing::versions(store, call).await,
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
            let configuration: Children<Field> =
                xml::parse(&configuration, "CreateBucketConfiguration")
                    .ok_or_else(Refusal::malformed_xml)?;
            for setting in &configuration.0 {
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
    match shared.create_bucket(name, class).await {
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

/// `sent` is told of each piece of the body, and dropped behind the last.
pub fn respond(
    reply: Reply,
    id: &str,
    sent: impl Fn(usize) + Send + 'static,
) -> Response<UnsyncBoxBody<Bytes, Cut>> {
    let now = SystemTime::now();
    let mut length = None;
    let body = match reply.body {
        Body::Bytes(bytes) => {
            sent(bytes.len());
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
            let frames = chunks.map(move |chunk| match chunk {
                Ok(chunk) => {
                    sent(chunk.len());
                    Ok(Frame::data(chunk))
                }
                Err(error) => {
                    log::warn!("a body broke off: {error}");
                    Err(Cut)
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
