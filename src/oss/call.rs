//! One request before it is signed, and its response: what an operation describes and the client executes.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

use super::error::Refusal;
use super::refusal::refusal;
use crate::object::body::Body;

/// Responses with a single value.
const MAX_TEXT: usize = 64 * 1024;

/// The request body.
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    Stream(Body),
}

/// How the response body is read within the try, so that a broken one fails it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Read completely, as text.
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
    /// The maximum length of the response in bytes, for [`Read::Text`].
    pub max_text: usize,
    /// Whether it may be retried if its outcome is unknown. If not, the call ends with [`Unsure`](super::error::Error::Unsure).
    pub repeatable: bool,
    /// The service may process it for a long time before it responds.
    pub slow: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(operation: &'static str, method: Method, key: Option<&'a str>) -> Call<'a> {
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

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.query.push((name.into(), Cow::Owned(value.into())));
        self
    }

    pub(crate) fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Call<'a> {
        self.headers.push((name.into(), Cow::Owned(value.into())));
        self
    }

    pub(crate) fn refusal(
        &self,
        bucket: &str,
        status: u16,
        headers: &HeaderMap,
        text: &str,
    ) -> Refusal {
        let (of_bucket, now) = (self.key.is_none(), SystemTime::now());
        Refusal {
            bucket: bucket.to_owned(),
            ..refusal(self.operation, of_bucket, status, headers, text, now)
        }
    }

    /// The operation and the key or key prefix.
    pub(crate) fn name(&self) -> String {
        let mut query = self.query.iter();
        let prefix = || query.find_map(|(name, value)| (name == "prefix").then_some(&**value));
        let about = self.key.or_else(prefix).unwrap_or_default();
        format!("{} {}", self.operation, about.escape_debug())
    }
}

/// A successful response.
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
