//! What tests have the server do wrong, and how they ask for it: requests to `/-/`.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;

use super::instruments::{Action, Fault};
use super::refusal::Refusal;
use super::reply::{Body, Reply};
use super::service::Cut;
use super::state::ServerState;
use crate::store::error::Error;

/// Of the document that describes a fault.
const MAX_FAULT: usize = 64 << 10;

/// What a fault answers in place of the server.
pub fn refusal(status: u16, code: &str) -> Refusal {
    let mut refusal = Refusal::new(status, "InternalError", "This error was asked for.");
    // Codes are static everywhere else; a test makes a handful of these.
    refusal.code = code.to_string().leak();
    refusal
}

/// What a fault does to an answer that is ready.
pub fn inject(reply: &mut Reply, fault: Action) {
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
pub async fn control(shared: &ServerState, request: Request<Incoming>) -> Reply {
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
            let body = Limited::new(request.into_body(), MAX_FAULT);
            let body = match limited(body.collect()).await {
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
