//! Sends one request: signed, streamed, monitored, retried.
//!
//! [`Call`] describes a request; [`Client::send`] executes it according to the rules of
//! [`retry`](super::retry). [`operations`](super::operations) defines the request and the response of each
//! operation, and [`download`](super::download) reads response bodies.
//!
//! Invariants: every wait ends ([`Progress`]); the number of requests in flight is bounded; the secret,
//! `Authorization` and tokens are never logged, and names and server text are escaped in the log.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use log::{debug, info, warn};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::{Answer, Call, Payload, Read};
use super::credentials::access_key::AccessKey;
use super::credentials::error::{Error as CredentialError, Kind};
use super::credentials::provider::Provider;
use super::endpoint::Endpoint;
use super::error::Error;
use super::progress::{Pace, Progress, later};
use super::proxy;
use super::refusal::is_web_page;
use super::retry::{Budget, Class};
use super::sending::Sending;
use super::sign::{Signer, Version};
use super::xml;
use crate::base::deadline;
use crate::base::error_chain::chain;
use crate::base::log_limit::LogLimit;
use crate::base::sync::lock;
use crate::base::time;
use crate::object::error::Error as ObjectError;
use crate::object::listing::Hidden;

/// An error document is a few hundred bytes; anything longer is not one.
const MAX_ERROR: usize = 64 * 1024;
/// A listing of 1000 keys of 1023 bytes, each byte written `%XX`, with some reserve.
pub(super) const MAX_LISTING: usize = 4 * 1024 * 1024;
/// Longer responses are read a few at a time, so that no number of concurrent responses fills the memory.
const LONG_TEXT: usize = 128 * 1024;
const LONG_TEXTS: usize = 8;
/// The maximum number of response headers: an object may have 8 KiB of metadata in entries of a few bytes
/// each.
const MAX_HEADERS: usize = 1024;
/// A larger clock offset is not corrected: whoever controls the reported time could obtain signatures for a
/// distant day.
const MAX_CLOCK_OFFSET: i64 = 86_400;
/// A service that refuses so many different keys of a call does not want any of their source.
const MAX_REFUSED_KEYS: usize = 4;
/// Between two refusals that are logged.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Two responses within this many seconds of each other agree about the time.
const CLOCK_AGREEMENT: i64 = 30;
/// Longer than a handshake over any working link.
const CONNECT: Duration = Duration::from_secs(10);
/// Shorter than the service's idle timeout, so that a request rarely meets a connection that was just closed.
const IDLE: Duration = Duration::from_secs(45);
/// A request without a body that gets no response for half the timeout is retried over another connection,
/// but never before this time.
const SHORTEST_TRY: Duration = Duration::from_secs(10);

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A call ends when it makes no progress for this long.
    pub timeout: Duration,
    /// The maximum number of requests in flight, and the same number of uploads in addition.
    pub parallel: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timeout: Duration::from_secs(60),
            parallel: 192,
        }
    }
}

/// Cheap to clone; all clones share connections, limits and the clock offset.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    endpoint: Endpoint,
    keys: Provider,
    version: Version,
    /// Of the key that signed last. A leaf: held only to read or replace it.
    signer: Mutex<Option<(Arc<AccessKey>, Arc<Signer>)>>,
    settings: Settings,
    /// Requests without a body, or with a body in memory.
    requests: Arc<Semaphore>,
    /// Requests with a streaming body. Separate, because such a stream may itself need a request: the upload
    /// of a file that was changed in the middle reads the old object.
    uploads: Arc<Semaphore>,
    /// Progress of any request: waiting for a permit is not a stall as long as other requests make progress.
    progress: Arc<Progress>,
    /// Responses of more than [`LONG_TEXT`] bytes.
    long_texts: Semaphore,
    /// Seconds to add to this machine's clock to get the service's time.
    clock_offset: AtomicI64,
    /// The offset reported by one response, until another one agrees. A leaf: nothing is locked or awaited
    /// while it is held.
    clock_claim: Mutex<Option<i64>>,
    /// Whether any response has arrived. Until then, a failing connection means a wrong name rather than an
    /// outage, and is not worth waiting for.
    answered: AtomicBool,
    /// Entries of listings that are not shown.
    hidden: Hidden,
    /// Of refusals that are logged.
    refused: LogLimit,
}

impl Client {
    /// # Errors
    /// [`Error::Misconfigured`]: the TLS roots cannot be loaded, or V4 has no region.
    pub fn new(
        endpoint: Endpoint,
        keys: impl Into<Provider>,
        version: Version,
        settings: Settings,
    ) -> Result<Client, Error> {
        if matches!(&version, Version::V4 { region } if region.is_empty()) {
            return Err(Error::Misconfigured(
                "the region is not known: give --region, for example cn-hangzhou".to_owned(),
            ));
        }
        let http = http_client(&endpoint, &settings)?;
        Ok(Client(Arc::new(Inner {
            http,
            keys: keys.into(),
            version,
            signer: Mutex::new(None),
            requests: Arc::new(Semaphore::new(settings.parallel.max(1))),
            uploads: Arc::new(Semaphore::new(settings.parallel.max(1))),
            progress: Arc::new(Progress::new(Instant::now())),
            long_texts: Semaphore::new(LONG_TEXTS),
            clock_offset: AtomicI64::new(0),
            clock_claim: Mutex::new(None),
            answered: AtomicBool::new(false),
            hidden: Hidden::default(),
            refused: LogLimit::new(),
            endpoint,
            settings,
        })))
    }

    pub fn bucket(&self) -> &str {
        self.0.endpoint.bucket()
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Where the keys that sign requests come from.
    pub fn keys(&self) -> &Provider {
        &self.0.keys
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    pub(super) fn hidden(&self) -> &Hidden {
        &self.0.hidden
    }

    /// Logs a refusal of `about`, an object or a prefix. It is worth a line: programs show "permission denied" at
    /// most, and what to do about it is in the service's answer. A mount without the right to read would fill the
    /// log: one line a minute.
    pub fn log_refusal(&self, about: &str, error: &ObjectError) {
        if let ObjectError::AccessDenied(cause) = error
            && self.0.refused.admits(Instant::now(), REFUSED_LOG_INTERVAL)
        {
            warn!(
                "oss://{}, \"{}\": {}",
                self.bucket(),
                about.escape_debug(),
                chain(cause)
            );
        }
    }

    /// The service's clock, if it is known.
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        let offset = self.0.clock_offset.load(Ordering::Relaxed);
        let by = Duration::from_secs(offset.unsigned_abs());
        let moved = if offset < 0 {
            now.checked_sub(by)
        } else {
            now.checked_add(by)
        };
        moved.unwrap_or(now)
    }

    /// A call's allowance, starting now.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(Instant::now(), self.0.settings.timeout)
    }

    /// Sends `call` until it succeeds, is refused permanently, or the budget is used up.
    pub(super) async fn send(&self, call: &Call<'_>, budget: &mut Budget) -> Result<Answer, Error> {
        let mut refusal = None;
        let mut refused: Vec<Arc<AccessKey>> = Vec::new();
        loop {
            let permit = self.permit(call, budget).await?;
            let key = match self.0.keys.key(budget.give_up_at()).await {
                Ok(key) => key,
                // What the service said explains more than that there is no other key.
                Err(failure) => return Err(failure_after(refusal, failure)),
            };
            let progress = Arc::new(Progress::new(Instant::now()));
            let error = match self.attempt(call, &key, budget, &progress).await {
                Ok(answer) => {
                    self.0.keys.accepted(&key);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            drop(permit);
            if error.is_of_key() && self.0.keys.refused(&key) {
                if !refused.iter().any(|known| Arc::ptr_eq(known, &key)) {
                    refused.push(key);
                }
                if refused.len() < MAX_REFUSED_KEYS {
                    info!("{}: {error}; asking for another key", call.name());
                    refusal = Some(error);
                    continue;
                }
                return Err(error);
            }
            if error.accepts_key() {
                self.0.keys.accepted(&key);
            }
            if !call.repeatable && error.is_ambiguous() {
                return Err(Error::Unsure(Box::new(error)));
            }
            // A response that never ended does not justify more patience.
            let moved = match call.payload {
                Payload::Stream(_) => progress.moved(),
                _ => None,
            };
            self.pause(&call.name(), error, budget, moved).await?;
        }
    }

    /// After a failed try: waits, or returns the error that ends the call.
    pub(super) async fn pause(
        &self,
        what: &str,
        error: Error,
        budget: &mut Budget,
        moved: Option<Instant>,
    ) -> Result<(), Error> {
        let class = match self.is_hopeless(&error) {
            true => Class::Never,
            false => match error.class() {
                Class::Clock if !self.correct_clock(&error) => Class::Never,
                class => class,
            },
        };
        let delay = budget.after_failure(
            class,
            error.retry_after(),
            Instant::now(),
            moved,
            rand::random(),
        );
        let Some(delay) = delay else {
            return Err(match (class, budget.failures()) {
                (Class::Never, _) | (_, 1) => error,
                (_, tries) => Error::GaveUp {
                    tries,
                    last: Box::new(error),
                },
            });
        };
        // A single failure is normal; several are worth a warning.
        if budget.failures() == 1 {
            info!("{what}: {error}; retrying");
        } else {
            warn!("{what}: {error}; retrying in {delay:.1?}");
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Nothing has ever responded under this name: it is wrong, rather than an outage.
    fn is_hopeless(&self, error: &Error) -> bool {
        match error {
            Error::Transport { unsent: true, .. } => !self.0.answered.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Records what a refusal says about the service's clock; the second of two that agree corrects the
    /// offset. Returns whether another try makes sense.
    fn correct_clock(&self, error: &Error) -> bool {
        let theirs = match error {
            Error::Refused(refusal) => refusal.server_time,
            _ => None,
        };
        let Some(theirs) = theirs else { return false };
        let offset =
            time::unix_seconds(theirs) as i64 - time::unix_seconds(SystemTime::now()) as i64;
        if offset.abs() > MAX_CLOCK_OFFSET {
            warn!(
                "the service reports a clock {offset} s ahead of this machine's, which is not plausible: ignored"
            );
            return false;
        }
        let mut claim = lock(&self.0.clock_claim);
        let agreed = claim.is_some_and(|other| (offset - other).abs() <= CLOCK_AGREEMENT);
        *claim = Some(offset);
        drop(claim);
        if agreed {
            let before = self.0.clock_offset.swap(offset, Ordering::Relaxed);
            if (before - offset).abs() > CLOCK_AGREEMENT {
                warn!(
                    "this machine's clock is {offset} s behind the service's; corrected for requests"
                );
            }
        }
        true
    }

    async fn permit(
        &self,
        call: &Call<'_>,
        budget: &mut Budget,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let semaphore = match call.payload {
            Payload::Stream(_) => &self.0.uploads,
            _ => &self.0.requests,
        };
        if let Ok(permit) = semaphore.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let began = Instant::now();
        let stalled = || Error::Stalled {
            operation: call.operation,
            after: began.elapsed(),
        };
        let mut acquire = std::pin::pin!(semaphore.clone().acquire_owned());
        // Waiting in the queue counts against the caller's timeout. Only uploads, which may fill the link for
        // long, wait as long as others make progress.
        if !matches!(call.payload, Payload::Stream(_)) {
            return match deadline::by(budget.give_up_at(), acquire).await {
                Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
                Err(_) => Err(stalled()),
            };
        }
        loop {
            let deadline = later(self.0.progress.last().max(began), budget.timeout());
            match tokio::time::timeout_at(deadline.into(), &mut acquire).await {
                Ok(permit) => {
                    budget.extend(began.elapsed());
                    return Ok(permit.expect("the semaphore is never closed"));
                }
                Err(_) if later(self.0.progress.last(), budget.timeout()) > deadline => {}
                Err(_) => return Err(stalled()),
            }
        }
    }

    /// How long one try may go without a byte. A call that cannot simply be repeated leaves time to check its
    /// outcome.
    fn try_limit(&self, patient: bool, repeatable: bool) -> Duration {
        let timeout = self.0.settings.timeout;
        match (patient, repeatable) {
            (_, false) => timeout / 4 * 3,
            (true, true) => timeout,
            (false, true) => (timeout / 2).max(SHORTEST_TRY).min(timeout),
        }
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        key: &Arc<AccessKey>,
        budget: &Budget,
        progress: &Arc<Progress>,
    ) -> Result<Answer, Error> {
        let began = Instant::now();
        let give_up_at = budget.give_up_at();
        let upload = match &call.payload {
            Payload::Stream(body) => Some(Arc::new(Sending::new(
                body.len(),
                [progress.clone(), self.0.progress.clone()],
            ))),
            _ => None,
        };
        let request = self.request(call, key, upload.as_ref())?;
        let limit = self.try_limit(call.slow || upload.is_some(), call.repeatable);
        let stalled = || Error::Stalled {
            operation: call.operation,
            after: limit,
        };
        let exchange = self.0.http.execute(request);
        let result = progress
            .watch(limit, give_up_at, None, exchange)
            .await
            .ok_or_else(stalled)?;
        // The source's own error, rather than that of the connection that had to be closed because of it.
        if let Some(error) = upload.as_ref().and_then(|sending| sending.take_failure()) {
            return Err(Error::Source(error));
        }
        let response = result.map_err(|error| transport(call.operation, error))?;
        progress.mark();
        self.0.progress.mark();
        self.0.answered.store(true, Ordering::Relaxed);

        // Text belongs to the call: it ends when the call does, or a little later if an upload took its time;
        // a long one on a slow link may take the limit once more.
        let body_progress = Progress::new(Instant::now());
        let until = give_up_at.max(later(Instant::now(), limit.min(CONNECT)));
        let cap = Some(later(until, limit));
        let status = response.status().as_u16();
        debug!("{}: {status} after {:.1?}", call.name(), began.elapsed());
        if !response.status().is_success() {
            let headers = response.headers().clone();
            let body = self.read(call.operation, response, MAX_ERROR, &body_progress);
            // A broken error document is no better than none: the status decides.
            let text = match body_progress.watch(limit, until, cap, body).await {
                Some(Ok(text)) => text,
                _ => String::new(),
            };
            return Err(Error::Refused(Box::new(call.refusal(
                self.bucket(),
                status,
                &headers,
                &text,
            ))));
        }
        let headers = response.headers().clone();
        let sent_crc = upload.map(|sending| sending.crc());
        if call.read == Read::Stream {
            return Ok(Answer {
                status,
                headers,
                text: String::new(),
                response: Some(response),
                sent_crc,
            });
        }
        if call.method != Method::HEAD && is_web_page(&headers) {
            return Err(Error::Protocol {
                operation: call.operation,
                what: "a web page instead of a response".to_owned(),
            });
        }
        let body = self.read(call.operation, response, call.max_text, &body_progress);
        let text = body_progress
            .watch(limit, until, cap, body)
            .await
            .ok_or_else(stalled)??;
        // Long-running calls respond with 200 at once and put a late error in the body.
        if text.contains("<Error")
            && let Some(document) = xml::error(&text)
        {
            let mut refusal = call.refusal(self.bucket(), 500, &headers, &text);
            refusal.code = document.code;
            return Err(Error::Refused(Box::new(refusal)));
        }
        Ok(Answer {
            status,
            headers,
            text,
            response: None,
            sent_crc,
        })
    }

    /// The signer of `key`, which keeps what it derives from it.
    fn signer(&self, key: &Arc<AccessKey>) -> Arc<Signer> {
        let mut present = lock(&self.0.signer);
        match &*present {
            Some((of, signer)) if Arc::ptr_eq(of, key) => signer.clone(),
            _ => {
                let signer = Arc::new(Signer::new(key.clone(), self.0.version.clone()));
                *present = Some((key.clone(), signer.clone()));
                signer
            }
        }
    }

    /// Builds and signs.
    fn request(
        &self,
        call: &Call<'_>,
        key: &Arc<AccessKey>,
        upload: Option<&Arc<Sending>>,
    ) -> Result<reqwest::Request, Error> {
        let url = self.0.endpoint.url(call.key, &call.query)?;
        let mut headers: Vec<(Cow<'_, str>, Cow<'_, str>)> =
            Vec::with_capacity(call.headers.len() + 4);
        headers.extend(
            call.headers
                .iter()
                .map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value))),
        );
        let signer = self.signer(key);
        let authorization = sign(&signer, self.now(), call, self.bucket(), &mut headers);
        let mut map = HeaderMap::with_capacity(headers.len() + 4);
        for (name, value) in &headers {
            let unusable = || Error::Unsendable {
                operation: call.operation,
                what: format!("not a valid header: {name}"),
            };
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
            let mut content = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unusable())?;
            content.set_sensitive(&**name == "x-oss-security-token");
            map.insert(header, content);
        }
        let mut authorization = HeaderValue::from_str(&authorization).map_err(|_| {
            Error::Misconfigured("the access key ID contains invalid characters".to_owned())
        })?;
        authorization.set_sensitive(true);
        map.insert(reqwest::header::AUTHORIZATION, authorization);
        // A compressed response would have another length and no ETag.
        map.insert(
            reqwest::header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );

        let mut request = reqwest::Request::new(call.method.clone(), url);
        match (&call.payload, upload) {
            (Payload::Stream(body), Some(sending)) => {
                map.insert(
                    reqwest::header::CONTENT_LENGTH,
                    HeaderValue::from(body.len()),
                );
                *request.body_mut() = Some(match body.is_empty() {
                    true => reqwest::Body::from(Bytes::new()),
                    false => reqwest::Body::wrap_stream(sending.clone().stream(body.open())),
                });
            }
            (Payload::Bytes(bytes), _) => {
                map.insert(
                    reqwest::header::CONTENT_LENGTH,
                    HeaderValue::from(bytes.len() as u64),
                );
                *request.body_mut() = Some(reqwest::Body::from(bytes.clone()));
            }
            _ if matches!(call.method, Method::PUT | Method::POST) => {
                map.insert(reqwest::header::CONTENT_LENGTH, HeaderValue::from(0));
            }
            _ => {}
        }
        *request.headers_mut() = map;
        Ok(request)
    }

    /// The next piece of a response body, within the rest of the allowance according to `pace`; None at its
    /// end.
    pub(super) async fn next_piece(
        &self,
        operation: &'static str,
        response: &mut Response,
        pace: &mut Pace,
    ) -> Result<Option<Bytes>, Error> {
        let limit = self.try_limit(false, true);
        let left = pace.left(self.0.settings.timeout).min(limit);
        let began = Instant::now();
        let result = deadline::by(later(began, left), response.chunk()).await;
        let bytes = match &result {
            Ok(Ok(Some(piece))) => piece.len(),
            _ => 0,
        };
        pace.add(began.elapsed(), bytes as u64);
        match result {
            Ok(result) => {
                self.0.progress.add(bytes);
                result.map_err(|error| transport(operation, error))
            }
            Err(_) => Err(Error::Stalled {
                operation,
                after: left,
            }),
        }
    }

    /// A whole body as text. Invalid UTF-8 is replaced: names in XML are percent-encoded.
    async fn read(
        &self,
        operation: &'static str,
        mut response: Response,
        max: usize,
        progress: &Progress,
    ) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let mut _long = None;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| transport(operation, error))?
        {
            progress.add(chunk.len());
            self.0.progress.add(chunk.len());
            let length = bytes.len() + chunk.len();
            if length > max {
                return Err(Error::Protocol {
                    operation,
                    what: format!("a response of more than {max} bytes"),
                });
            }
            if length > LONG_TEXT && _long.is_none() {
                let permit = self.0.long_texts.acquire().await;
                _long = Some(permit.expect("the semaphore is never closed"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }
}

/// The error of a call that gets no key, after what the service said of the last one.
fn failure_after(refusal: Option<Error>, failure: CredentialError) -> Error {
    match refusal {
        Some(refusal) if failure.kind == Kind::Unchanged => refusal,
        _ => Error::Credentials(failure),
    }
}

/// `headers` borrow from the call or from the signer, whichever lives shorter.
fn sign<'a>(
    signer: &'a Signer,
    now: SystemTime,
    call: &'a Call<'_>,
    bucket: &str,
    headers: &mut Vec<(Cow<'a, str>, Cow<'a, str>)>,
) -> zeroize::Zeroizing<String> {
    signer.sign(
        now,
        call.method.as_str(),
        bucket,
        call.key,
        &call.query,
        headers,
    )
}

fn http_client(endpoint: &Endpoint, settings: &Settings) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("ossvault/", env!("CARGO_PKG_VERSION")))
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(30))
        .connect_timeout(CONNECT.min(settings.timeout))
        .pool_idle_timeout(IDLE)
        .http1_max_headers(MAX_HEADERS);
    // A proxy is for remote endpoints, and only if the environment names one.
    let proxied = !endpoint.is_loopback()
        && proxy::from_environment(endpoint.is_https(), |name| std::env::var(name).ok())?;
    if proxied && !endpoint.is_https() {
        warn!(
            "requests go over plain http through a proxy, which sees them whole, names and the access key id \
             included: use https, or name the endpoint in no_proxy"
        );
    }
    if !proxied {
        builder = builder.no_proxy();
    }
    // Without https no root certificates are needed, and loading them fails if none are installed.
    if !endpoint.is_https() && !proxied {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| {
        Error::Misconfigured(format!(
            "TLS cannot be set up: {}; install the system's CA certificates (Debian, Ubuntu: \
             apt install ca-certificates) or name them in SSL_CERT_FILE",
            chain(&error).escape_debug()
        ))
    })
}

pub(super) fn transport(operation: &'static str, error: reqwest::Error) -> Error {
    // The URL contains the key unescaped, and is in the log line anyway.
    let error = error.without_url();
    let message = chain(&error).escape_debug().to_string();
    if message.contains("certificate") {
        return Error::Misconfigured(format!(
            "{operation}: {message}; if the authority that issued the service's certificate is one of your own, \
             name its certificate in SSL_CERT_FILE"
        ));
    }
    Error::Transport {
        operation,
        message,
        unsent: error.is_connect() || error.is_builder(),
    }
}
