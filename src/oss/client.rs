//! Sends one request: signed, streamed, watched, tried again.
//!
//! [`Call`] describes a request; [`Client::send`] carries it out by the rules of [`retry`](super::retry).
//! What each operation asks and how its answer reads is in [`operations`](super::operations); bodies that
//! arrive are in [`download`](super::download).
//!
//! What always holds: every wait ends ([`Progress`]); the number of requests in flight is bounded; the
//! secret, `Authorization` and tokens reach no log, and names and server text in it are escaped.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use log::{debug, info, warn};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::credentials::AccessKey;
use super::endpoint::Endpoint;
use super::error::{Error, Refusal};
use super::headers::header;
use super::progress::{Pace, Progress, later};
use super::proxy;
use super::retry::{Budget, Class};
use super::sending::Sending;
use super::sign::{Signer, Version};
use super::xml;
use crate::base::deadline;
use crate::base::error_chain::chain;
use crate::base::log_limit::LogLimit;
use crate::base::sync::lock;
use crate::base::time;
use crate::object::body::Body;
use crate::object::error::Error as ObjectError;
use crate::object::listing::Hidden;

/// An error document is a few hundred bytes; what is longer is not one.
const MAX_ERROR: usize = 64 * 1024;
/// Answers that name one thing.
const MAX_TEXT: usize = 64 * 1024;
/// A listing of 1000 keys of 1023 bytes, each byte written `%XX`, with room to spare.
pub(super) const MAX_LISTING: usize = 4 * 1024 * 1024;
/// What is longer is read a few at a time, so that no number of answers at once fills the memory.
const LONG_TEXT: usize = 128 * 1024;
const LONG_TEXTS: usize = 8;
/// The most headers of an answer: an object may carry 8 KiB of metadata in entries of a few bytes each.
const MAX_HEADERS: usize = 1024;
/// A clock further off than this is not corrected: who may say what time it is could have requests signed
/// for a day far away.
const MAX_CLOCK_OFFSET: i64 = 86_400;
/// Between two refusals that are logged.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Two answers that are this close, in seconds, agree about the time.
const CLOCK_AGREEMENT: i64 = 30;
/// Longer than a handshake over any working link.
const CONNECT: Duration = Duration::from_secs(10);
/// Shorter than the service's idle close, so that a request rarely meets a connection just closed.
const IDLE: Duration = Duration::from_secs(45);
/// A request without a body of its own that is not answered for half the timeout is sent again over
/// another connection; but never before this.
const SHORTEST_TRY: Duration = Duration::from_secs(10);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A call ends this long after its last progress.
    pub timeout: Duration,
    /// How many requests may be in flight at once, and as many uploads besides.
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

/// Cheap to clone; all clones share connections, limits and the clock's offset.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    endpoint: Endpoint,
    signer: Signer,
    settings: Settings,
    /// Requests whose bodies, if any, are at hand.
    requests: Arc<Semaphore>,
    /// Requests whose bodies are streams. Apart, because such a stream may itself need a request: an
    /// upload of a file that was changed in the middle reads the old object.
    uploads: Arc<Semaphore>,
    /// Of any request: a wait for a permit is no stall as long as others get on.
    progress: Arc<Progress>,
    /// Answers of more than [`LONG_TEXT`] bytes.
    long_texts: Semaphore,
    /// Seconds to add to this machine's clock to get the service's.
    clock_offset: AtomicI64,
    /// The offset that one answer named, until another one agrees. A leaf: nothing is locked or awaited
    /// while it is held.
    clock_claim: Mutex<Option<i64>>,
    /// Whether anything ever answered. Until then a failing connection is a wrong name rather than an
    /// outage, and no reason to wait.
    answered: AtomicBool,
    /// Entries of listings that are not shown.
    hidden: Hidden,
    /// Of refusals that are logged.
    refused: LogLimit,
}

/// What is sent.
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    Stream(Body),
}

/// What is done with an answer's body within the try, so that a broken one fails it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Read whole, as text.
    Text,
    /// Left to the caller.
    Stream,
}

pub(super) type Pairs = Vec<(Cow<'static, str>, Cow<'static, str>)>;

/// One request, not yet signed.
pub(super) struct Call<'a> {
    pub operation: &'static str,
    pub method: Method,
    pub key: Option<&'a str>,
    pub query: Pairs,
    /// Names in lower case.
    pub headers: Pairs,
    pub payload: Payload,
    pub read: Read,
    /// The longest answer, in bytes, with [`Read::Text`].
    pub max_text: usize,
    /// Whether it may be sent again when it is not known what became of it. If not, the call ends with
    /// [`Error::Unsure`].
    pub repeatable: bool,
    /// The service may work on it for long before it answers.
    pub slow: bool,
}

impl<'a> Call<'a> {
    pub fn new(operation: &'static str, method: Method, key: Option<&'a str>) -> Call<'a> {
        Call {
            operation,
            method,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            payload: Payload::None,
            read: Read::Text,
            max_text: MAX_TEXT,
            repeatable: true,
            slow: false,
        }
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.query.push((name.into(), Cow::Owned(value.into())));
        self
    }

    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Call<'a> {
        self.headers.push((name.into(), Cow::Owned(value.into())));
        self
    }

    fn refusal(&self, bucket: &str, status: u16, headers: &HeaderMap, text: &str) -> Refusal {
        let (of_bucket, now) = (self.key.is_none(), SystemTime::now());
        Refusal {
            bucket: bucket.to_owned(),
            ..refusal(self.operation, of_bucket, status, headers, text, now)
        }
    }

    /// The operation and the key, or what the keys begin with that it is about.
    fn name(&self) -> String {
        let mut query = self.query.iter();
        let prefix = || query.find_map(|(name, value)| (name == "prefix").then_some(&**value));
        let about = self.key.or_else(prefix).unwrap_or_default();
        format!("{} {}", self.operation, about.escape_debug())
    }
}

/// A success.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// With [`Read::Text`].
    pub text: String,
    /// With [`Read::Stream`].
    pub response: Option<Response>,
    /// CRC-64 of the body that was sent, if it was a stream.
    pub sent_crc: Option<u64>,
}

impl Client {
    /// # Errors
    /// [`Error::Misconfigured`]: the TLS roots cannot be loaded, or V4 has no region.
    pub fn new(
        endpoint: Endpoint,
        key: AccessKey,
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
            signer: Signer::new(key, version),
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

    /// The service's clock, as far as it is known.
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

    /// A call's allowance, from now.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(Instant::now(), self.0.settings.timeout)
    }

    /// Sends `call` until it is answered, refused for good, or the budget is used up.
    pub(super) async fn send(&self, call: &Call<'_>, budget: &mut Budget) -> Result<Answer, Error> {
        loop {
            let permit = self.permit(call, budget).await?;
            let progress = Arc::new(Progress::new(Instant::now()));
            let error = match self.attempt(call, budget, &progress).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            drop(permit);
            if !call.repeatable && error.is_ambiguous() {
                return Err(Error::Unsure(Box::new(error)));
            }
            // What came of an answer that never ended is no reason for more patience.
            let moved = match call.payload {
                Payload::Stream(_) => progress.moved(),
                _ => None,
            };
            self.pause(&call.name(), error, budget, moved).await?;
        }
    }

    /// After a failed try: waits, or gives the error that ends the call.
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
        // One failure is everyday; more are worth being seen.
        if budget.failures() == 1 {
            info!("{what}: {error}; trying again");
        } else {
            warn!("{what}: {error}; trying again in {delay:.1?}");
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Nothing has ever answered under this name: a wrong one, rather than an outage.
    fn is_hopeless(&self, error: &Error) -> bool {
        match error {
            Error::Transport { unsent: true, .. } => !self.0.answered.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Notes what a refusal says of the service's clock; the second of two that agree corrects the offset.
    /// Whether another try makes sense.
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
                "the service's clock is said to be {offset} s ahead of this machine's: not believed"
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
        // The place in the queue is the caller's time. Only uploads, which may fill the link for long, wait
        // as long as others get on.
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

    /// How long one try may go without a byte. A call that cannot simply be repeated leaves time to look
    /// what became of it.
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
        let request = self.request(call, upload.as_ref())?;
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
        // The source's own error, rather than the connection's that had to be broken off for it.
        if let Some(error) = upload.as_ref().and_then(|sending| sending.take_failure()) {
            return Err(Error::Source(error));
        }
        let response = result.map_err(|error| transport(call.operation, error))?;
        progress.mark();
        self.0.progress.mark();
        self.0.answered.store(true, Ordering::Relaxed);

        // Text belongs to the call: it ends when the call does, or a little later where an upload took its
        // time; a long one on a slow link may take once more the limit.
        let body_progress = Progress::new(Instant::now());
        let until = give_up_at.max(later(Instant::now(), limit.min(CONNECT)));
        let cap = Some(later(until, limit));
        let status = response.status().as_u16();
        debug!("{}: {status} after {:.1?}", call.name(), began.elapsed());
        if !response.status().is_success() {
            let headers = response.headers().clone();
            let body = self.read(call.operation, response, MAX_ERROR, &body_progress);
            // A broken error document is no better than none: the status speaks.
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
                what: "a web page instead of an answer".to_owned(),
            });
        }
        let body = self.read(call.operation, response, call.max_text, &body_progress);
        let text = body_progress
            .watch(limit, until, cap, body)
            .await
            .ok_or_else(stalled)??;
        // Long calls answer 200 at once and put a late error in the body.
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

    /// Builds and signs.
    fn request(
        &self,
        call: &Call<'_>,
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
        let authorization = sign(
            &self.0.signer,
            self.now(),
            call,
            self.bucket(),
            &mut headers,
        );
        let mut map = HeaderMap::with_capacity(headers.len() + 4);
        for (name, value) in &headers {
            let unusable = || Error::Unsendable {
                operation: call.operation,
                what: format!("not a possible header: {name}"),
            };
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unusable())?;
            let mut content = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unusable())?;
            content.set_sensitive(&**name == "x-oss-security-token");
            map.insert(header, content);
        }
        let mut authorization = HeaderValue::from_str(&authorization).map_err(|_| {
            Error::Misconfigured("the access key id holds impossible characters".to_owned())
        })?;
        authorization.set_sensitive(true);
        map.insert(reqwest::header::AUTHORIZATION, authorization);
        // A compressed answer would have another length and no tag.
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

    /// The next piece of an answer's body, within what `pace` leaves of the allowance; None at its end.
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

    /// A whole body as text. What is not UTF-8 is replaced: names in XML are percent-encoded.
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
                    what: format!("an answer of more than {max} bytes"),
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
    // A proxy is for the outside, and only if the environment names one.
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
    // Without https no roots are needed, and loading them fails where none are installed.
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
    // The URL holds the key unescaped, and is in the log line anyway.
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

/// Something on the way answered in place of the service, which puts its request id on every answer.
pub fn is_web_page(headers: &HeaderMap) -> bool {
    header(headers, "content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("html"))
        && header(headers, "x-oss-request-id").is_none()
}

/// Reads what a failing answer says: from its body, or for HEAD from `x-oss-err`. `now` is this machine's clock.
pub fn refusal(
    operation: &'static str,
    of_bucket: bool,
    status: u16,
    headers: &HeaderMap,
    text: &str,
    now: SystemTime,
) -> Refusal {
    let document = xml::error(text).or_else(|| {
        let encoded = header(headers, "x-oss-err")?;
        let bytes = BASE64.decode(encoded.trim()).ok()?;
        xml::error(&String::from_utf8_lossy(&bytes))
    });
    let own = |name: &str| header(headers, name).unwrap_or_default().to_owned();
    let mut refusal = Refusal {
        operation,
        status,
        request_id: own("x-oss-request-id"),
        ec: own("x-oss-ec"),
        location: header(headers, "location").map(str::to_owned),
        server_time: header(headers, "date").and_then(time::parse_http),
        retry_after: header(headers, "retry-after").and_then(|text| retry_after(text, now)),
        ..Refusal::default()
    };
    let Some(document) = document else {
        // A bucket that is not there is told of by name.
        let no_bucket = of_bucket && status == 404;
        let unlike = !text.trim().is_empty() || no_bucket || matches!(status, 300..=399 | 407);
        let marked = !refusal.request_id.is_empty() || !refusal.ec.is_empty();
        refusal.foreign = is_web_page(headers) || (unlike && !marked);
        return refusal;
    };
    if document.code == "SignatureDoesNotMatch" {
        for text in [&document.string_to_sign, &document.canonical_request] {
            debug!("the service signed: {}", without_token(text).escape_debug());
        }
    }
    let or = |value: String, other: &mut String| {
        if !value.is_empty() {
            *other = value;
        }
    };
    or(document.request_id, &mut refusal.request_id);
    or(document.ec, &mut refusal.ec);
    refusal.code = document.code;
    refusal.message = document.message;
    refusal.endpoint = (!document.endpoint.is_empty()).then_some(document.endpoint);
    refusal.server_time = time::parse_extended(&document.server_time).or(refusal.server_time);
    refusal
}

/// Seconds, or a time.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => time::parse_http(text.trim())?.duration_since(now).ok(),
    }
}

/// A string to sign holds the security token.
fn without_token(text: &str) -> String {
    text.lines()
        .filter(|line| !line.contains("security-token"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_out_of_what_is_logged() {
        assert_eq!(without_token("a\nx-oss-security-token:T\nb"), "a\nb");
    }

    #[test]
    fn retry_after_is_seconds_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (text, expected) in [
            (" 7 ", Some(Duration::from_secs(7))),
            ("0", Some(Duration::ZERO)),
            ("18446744073709551615", Some(Duration::from_secs(u64::MAX))),
            ("18446744073709551616", None),
            ("-1", None),
            ("1e3", None),
            ("soon", None),
            ("", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ] {
            assert_eq!(retry_after(text, now), expected, "{text}");
        }
        assert!(retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now).is_some());
        let later = now + Duration::from_secs(100);
        assert_eq!(
            retry_after(&time::http(later), now),
            Some(Duration::from_secs(100))
        );
    }
}
