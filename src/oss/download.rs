//! An object's bytes as they arrive. A body that breaks off is taken up where it broke, under the same
//! tag, until it is complete: what comes out is never short and never of two versions.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use log::info;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

use super::client::{Answer, Call, Client, Read, header};
use super::crc::Crc64;
use super::error::{Error, Kind};
use super::operations::object_info;
use super::retry::{Budget, Class, delay};
use super::types::ObjectInfo;

const OPERATION: &str = "GetObject";
/// How often a body may break off without a single further byte.
const MAX_FRUITLESS: u32 = 5;
/// How often it may break off at all: this, and once more for each MiB.
const MAX_RESUMES: u64 = 32;

/// An object, or a range of it.
pub struct Download {
    pub info: ObjectInfo,
    /// Which bytes the body holds: what was asked for, cut at the object's end.
    pub range: Range<u64>,
    /// Ends after `range` is complete, or with an error.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

impl Client {
    /// `range` is half open and not empty; None is the whole object, whose CRC-64 is compared at the end.
    ///
    /// # Errors
    /// Kinds [`Kind::NotFound`], [`Kind::InvalidRange`] (it begins at or after the end), and
    /// [`Kind::PreconditionFailed`] if the object's tag is not `if_match`.
    pub async fn get_object(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        if_match: Option<&str>,
    ) -> Result<Download, Error> {
        let asked = range.clone().unwrap_or(0..u64::MAX);
        if asked.is_empty() {
            return Err(Error::InvalidRange);
        }
        let mut budget = self.budget();
        let (info, first, response) = loop {
            let answer = self
                .request_range(key, range.as_ref(), if_match, &mut budget)
                .await?;
            match opened(answer, &asked) {
                Ok(opened) => break opened,
                Err(error) => self.pause(OPERATION, error, &mut budget, None).await?,
            }
        };
        let range = asked.start..asked.end.min(info.size);
        if range.is_empty() && info.size > 0 {
            return Err(Error::InvalidRange);
        }
        let whole = range == (0..info.size);
        let fetch = Fetch {
            client: self.clone(),
            key: key.to_owned(),
            etag: info.etag.clone(),
            size: info.size,
            position: range.start,
            end: range.end,
            skip: range.start - first,
            response: Some(response),
            expected: info.crc64.filter(|_| whole),
            crc: Crc64::new(),
            fruitless: 0,
            resumes: 0,
        };
        let body = futures_util::stream::try_unfold(fetch, |mut fetch| async move {
            Ok(fetch.next().await?.map(|bytes| (bytes, fetch)))
        });
        Ok(Download {
            info,
            range,
            body: body.boxed(),
        })
    }

    async fn request_range(
        &self,
        key: &str,
        range: Option<&Range<u64>>,
        if_match: Option<&str>,
        budget: &mut Budget,
    ) -> Result<Answer, Error> {
        let mut call = Call::new(OPERATION, Method::GET, Some(key));
        call.read = Read::Stream;
        if let Some(range) = range {
            // Without the behaviour header a range that goes past the end is answered with the whole
            // object.
            call = call
                .header("range", format!("bytes={}-{}", range.start, range.end - 1))
                .header("x-oss-range-behavior", "standard");
        }
        if let Some(tag) = if_match {
            call = call.header("if-match", tag);
        }
        self.send(&call, budget).await
    }
}

/// Reads the head of an answer: the object, which of its bytes the body begins with, and the body.
fn opened(answer: Answer, asked: &Range<u64>) -> Result<(ObjectInfo, u64, Response), Error> {
    let fault = |what: &str| Error::Protocol {
        operation: OPERATION,
        what: what.to_owned(),
    };
    let (first, size) = match answer.status {
        206 => {
            let text = header(&answer.headers, "content-range").unwrap_or_default();
            let (range, size) =
                content_range(text).ok_or_else(|| fault(&format!("Content-Range: {text}")))?;
            // All that was asked for and is there, neither more nor less.
            if range.start != asked.start || range.end != asked.end.min(size) {
                return Err(fault(&format!(
                    "asked for {asked:?}, Content-Range: {text}"
                )));
            }
            (range.start, size)
        }
        // Also a ranged request may be answered with the whole object.
        200 => {
            let length = content_length(&answer.headers);
            (0, length.ok_or_else(|| fault("no Content-Length"))?)
        }
        status => return Err(fault(&format!("status {status}"))),
    };
    let info = object_info(OPERATION, &answer.headers, size)?;
    let response = answer.response.ok_or_else(|| fault("no body"))?;
    Ok((info, first, response))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    header(headers, "content-length")?.trim().parse().ok()
}

/// `bytes 0-499/1000`: the range and the size of the whole.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size: u64 = size.parse().ok()?;
    (first <= last && last < size).then(|| (first..last + 1, size))
}

struct Fetch {
    client: Client,
    key: String,
    etag: String,
    /// Of the whole object.
    size: u64,
    /// The next byte to hand out, and the one after the last.
    position: u64,
    end: u64,
    /// Bytes of the current body before `position`.
    skip: u64,
    /// None after the body broke off.
    response: Option<Response>,
    /// The whole object's CRC-64, if the whole object is read and the service gave it.
    expected: Option<u64>,
    crc: Crc64,
    /// How often the body broke off since the last byte, and in all.
    fruitless: u32,
    resumes: u64,
}

impl Fetch {
    /// The next bytes, never empty; None after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.position == self.end {
            // Empty objects only: others are compared with their last piece.
            return match self.size {
                0 => self.compare().map(|()| None),
                _ => Ok(None),
            };
        }
        let mut waited_since = Instant::now();
        loop {
            let Some(response) = &mut self.response else {
                self.resume(waited_since).await?;
                continue;
            };
            let broken = match self.client.next_piece(OPERATION, response).await {
                Ok(Some(piece)) => {
                    if let Some(bytes) = self.take(piece)? {
                        return Ok(Some(bytes));
                    }
                    waited_since = Instant::now();
                    continue;
                }
                Ok(None) => Error::Transport {
                    operation: OPERATION,
                    message: "the body ended early".to_owned(),
                    unsent: false,
                    source: None,
                },
                Err(error) if error.class() == Class::Never => return Err(error),
                Err(error) => error,
            };
            self.response = None;
            self.fruitless += 1;
            self.resumes += 1;
            if self.fruitless > MAX_FRUITLESS
                || self.resumes > MAX_RESUMES + (self.size >> 20)
                || waited_since.elapsed() >= self.client.settings().timeout
            {
                return Err(match self.resumes {
                    1 => broken,
                    _ => Error::GaveUp {
                        tries: u32::try_from(self.resumes).unwrap_or(u32::MAX),
                        last: Box::new(broken),
                    },
                });
            }
            info!(
                "GetObject {}: {broken}; going on from byte {}",
                self.key.escape_debug(),
                self.position
            );
        }
    }

    /// Cuts what was not asked for off both ends; compares the checksum when the last byte is here, before
    /// it is handed out.
    fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, Error> {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        // Both fit: they are at most the piece's length.
        let mut piece = piece.split_off(skipped as usize);
        piece.truncate(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
        if piece.is_empty() {
            return Ok(None);
        }
        self.position += piece.len() as u64;
        self.fruitless = 0;
        if self.expected.is_some() {
            self.crc.update(&piece);
        }
        if self.position == self.end {
            self.compare()?;
        }
        Ok(Some(piece))
    }

    fn compare(&mut self) -> Result<(), Error> {
        let found = self.crc.value();
        match self.expected {
            Some(expected) if expected != found => Err(Error::Corrupt {
                operation: OPERATION,
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Asks for the rest, of the same version.
    async fn resume(&mut self, last_progress: Instant) -> Result<(), Error> {
        if self.fruitless > 1 {
            tokio::time::sleep(delay(Class::Retry, self.fruitless, None, rand::random())).await;
        }
        let rest = self.position..self.end;
        let mut budget = Budget::new(last_progress, self.client.settings().timeout);
        let (info, first, response) = loop {
            let answer = self
                .client
                .request_range(&self.key, Some(&rest), Some(&self.etag), &mut budget)
                .await
                .map_err(|error| match error.kind() {
                    Kind::NotFound | Kind::InvalidRange => Error::Replaced,
                    _ => error,
                })?;
            match opened(answer, &rest) {
                Ok(opened) => break opened,
                Err(error) => {
                    self.client
                        .pause(OPERATION, error, &mut budget, None)
                        .await?;
                }
            }
        };
        if info.size != self.size || info.etag != self.etag {
            return Err(Error::Replaced);
        }
        self.skip = self.position - first;
        self.response = Some(response);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        for (text, expected) in [
            ("bytes 0-499/1000", Some((0..500, 1000))),
            ("bytes 999-999/1000", Some((999..1000, 1000))),
            ("bytes 999-1000/1000", None),
            ("bytes 5-4/1000", None),
            ("bytes */1000", None),
            ("bytes 0-499/*", None),
            ("bytes 0-18446744073709551615/18446744073709551615", None),
            ("0-499/1000", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }
}
