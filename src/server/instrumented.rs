//! The way of a request through a server for tests: control, S3, latency and faults around the [`service`].
//!
//! [`service`]: super::service

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;

use super::auth;
use super::call::Call;
use super::faults;
use super::instruments::{Action, InFlight};
use super::s3;
use super::service::{self, Answer, Asker, Cut, respond};
use super::state::ServerState;
use crate::base::time;

/// Headers that make a write or a copy depend on what is there.
const CONDITIONS: [&str; 3] = [
    "if-match",
    "x-oss-copy-source-if-match",
    "x-oss-forbid-overwrite",
];

/// # Errors
/// A fault that cuts the connection.
pub(crate) async fn answer(shared: Arc<ServerState>, request: Request<Incoming>) -> Answer {
    let asker = Asker::of(&shared, &request);
    let (instruments, credentials) = (shared.instruments.clone(), &shared.config.credentials);
    let counter = instruments.clone();
    let sent = move |bytes| counter.sent(bytes);
    if shared.config.instrument && request.uri().path().starts_with("/-/") {
        let reply = faults::control(&shared, request).await;
        return Ok(respond(reply, &asker.id, sent));
    }
    // The signature of what S3's clients ask is checked when it is translated.
    let speaks_s3 = shared.config.instrument && s3::speaks(&request);
    let request = match speaks_s3 {
        true => s3::translated(request, credentials, instruments.now()),
        false => Ok(request),
    };
    let mut call = match request.and_then(|request| Call::read(request, shared.config.patience)) {
        Ok(call) => call,
        Err(refusal) => return Ok(respond(asker.refused(&refusal), &asker.id, sent)),
    };
    let operation = call.operation;
    let flight = InFlight::begin(instruments.clone(), operation);
    let latency = instruments.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = instruments.take_fault(operation, call.key.as_deref().unwrap_or_default());
    if let Some(Action::Stall { ms }) = &fault {
        tokio::time::sleep(Duration::from_millis(*ms)).await;
    }
    let result = match &fault {
        Some(Action::Reset) => return Err(Cut),
        Some(Action::Status { status, code }) => Err(faults::refusal(*status, code)),
        _ => {
            let checked = match speaks_s3 {
                true => Ok(()),
                false => auth::check(&call, credentials, instruments.now()),
            };
            if instruments.ignores_conditions() {
                for condition in CONDITIONS {
                    call.headers.remove(condition);
                }
            }
            service::dispatch(&shared, &mut call, checked).await
        }
    };
    if let Some(Action::LoseAnswer) = fault {
        return Err(Cut);
    }
    let mut reply = asker.reply(&mut call, result).await;
    if let Some(fault) = fault {
        faults::inject(&mut reply, fault);
    }
    if speaks_s3 {
        s3::translate_reply(&mut reply);
    }
    let date = time::http(instruments.now());
    let mut response = respond(reply, &asker.id, move |bytes| {
        let _until_the_end = &flight;
        sent(bytes);
    });
    if let Ok(date) = date.parse() {
        response.headers_mut().insert(hyper::header::DATE, date);
    }
    Ok(response)
}
