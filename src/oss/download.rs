//! An object's bytes as they arrive. A body that breaks off is resumed where it broke, under the same ETag,
//! until it is complete: the result is never truncated and never mixes two versions.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use log::info;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

use super::call::{Answer, Call, Read};
use super::client::Client;
use super::error::Error;
use super::headers::{ObjectHead, content_length, content_range, header, same_tag};
use super::progress::Pace;
use super::retry::{Budget, Class, delay};
use crate::base::crc64::Crc64;
use crate::object::answer::GetAnswer;
use crate::object::error::Error as ObjectError;
use crate::object::meta::{ETag, ObjectMeta};

const OPERATION: &str = "GetObject";
/// How often a body may break off without a single further byte.
const MAX_FRUITLESS: u32 = 5;
/// How often it may break off in total: this, plus once per MiB.
const MAX_RESUMES: u64 = 32;

impl Client {
    /// `range` is half open and not empty; None is the whole object, whose CRC-64 is compared at the end.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::InvalidRange`] (it begins at or after the end), and
    /// [`ObjectError::PreconditionFailed`] if the object's ETag is not `if_match`.
    pub async fn get_object(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        if_match: Option<&ETag>,
    ) -> Result<GetAnswer, ObjectError> {
        let asked = range.clone().unwrap_or(0..u64::MAX);
        if asked.is_empty() {
            return Err(ObjectError::InvalidRange);
        }
        let mut budget = self.budget();
        let (info, first, response) = loop {
            let answer = self
                .request_range(key, range.as_ref(), if_match, &mut budget)
                .await?;
            match self
                .opened(answer, key, &asked, if_match, &mut budget)
                .await
            {
                Ok(opened) => break opened,
                Err(error) => self.pause(OPERATION, error, &mut budget, None).await?,
            }
        };
        // A store, or a system in front of it, that ignores the precondition.
        if if_match.is_some_and(|tag| !same_tag(tag, &info.etag)) {
            return Err(ObjectError::PreconditionFailed);
        }
        let range = asked.start..asked.end.min(info.size);
        if range.is_empty() && info.size > 0 {
            return Err(ObjectError::InvalidRange);
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
            crc64: info.crc64,
            expected: info.crc64.filter(|_| whole),
            crc: Crc64::new(),
            fruitless: 0,
            resumes: 0,
            pace: Pace::default(),
        };
        let body = futures_util::stream::try_unfold(fetch, |mut fetch| async move {
            Ok::<_, ObjectError>(fetch.next().await?.map(|bytes| (bytes, fetch)))
        });
        Ok(GetAnswer {
            meta: info,
            range,
            body: body.boxed(),
        })
    }

    async fn request_range(
        &self,
        key: &str,
        range: Option<&Range<u64>>,
        if_match: Option<&ETag>,
        budget: &mut Budget,
    ) -> Result<Answer, Error> {
        let mut call = Call::new(OPERATION, Method::GET, Some(key));
        call.read = Read::Stream;
        if let Some(range) = range {
            // Without the behaviour header, a range beyond the end is answered with the whole object.
            call = call
                .header("range", format!("bytes={}-{}", range.start, range.end - 1))
                .header("x-oss-range-behavior", "standard");
        }
        if let Some(tag) = if_match {
            call = call.header("if-match", tag.as_str());
        }
        self.send(&call, budget).await
    }

    /// Parses the head of a response: the object, the start of the body within it, and the body. Another
    /// request gets what the head omits; the requested ETag is the ETag.
    async fn opened(
        &self,
        answer: Answer,
        key: &str,
        asked: &Range<u64>,
        if_match: Option<&ETag>,
        budget: &mut Budget,
    ) -> Result<(ObjectMeta, u64, Response), Error> {
        let (first, size) = extent(answer.status, &answer.headers, asked)?;
        let mut head = ObjectHead::read(&answer.headers, size);
        head.etag = head.etag.or_else(|| if_match.cloned());
        let info = self.completed(OPERATION, key, head, budget).await?;
        let response = answer.response.ok_or_else(|| Error::Protocol {
            operation: OPERATION,
            what: "no body".to_owned(),
        })?;
        Ok((info, first, response))
    }
}

/// The offset at which a response's body begins, and the total size if the response contains it.
pub fn extent(
    status: u16,
    headers: &HeaderMap,
    asked: &Range<u64>,
) -> Result<(u64, Option<u64>), Error> {
    let fault = |what: String| Error::Protocol {
        operation: OPERATION,
        what,
    };
    match status {
        206 => {
            let text = header(headers, "content-range").unwrap_or_default();
            let (range, size) =
                content_range(text).ok_or_else(|| fault(format!("Content-Range: {text}")))?;
            // Exactly the requested bytes that exist.
            if range.start != asked.start || range.end != asked.end.min(size) {
                return Err(fault(format!(
                    "requested {asked:?}, but received Content-Range: {text}"
                )));
            }
            Ok((range.start, Some(size)))
        }
        // A ranged request may also be answered with the whole object.
        200 => Ok((0, content_length(headers))),
        status => Err(fault(format!("status {status}"))),
    }
}

struct Fetch {
    client: Client,
    key: String,
    etag: ETag,
    /// Of the whole object.
    size: u64,
    /// The next byte to return, and the one after the last.
    position: u64,
    end: u64,
    /// Bytes of the current body before `position`.
    skip: u64,
    /// None after the body broke off.
    response: Option<Response>,
    /// The whole object's CRC-64 from the first response.
    crc64: Option<u64>,
    /// The same, if the whole object is read.
    expected: Option<u64>,
    crc: Crc64,
    /// How often the body broke off since the last byte, and in total.
    fruitless: u32,
    resumes: u64,
    pace: Pace,
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
        loop {
            let Some(response) = &mut self.response else {
                self.resume().await?;
                continue;
            };
            let next = self.client.next_piece(OPERATION, response, &mut self.pace);
            let broken = match next.await {
                Ok(Some(piece)) => {
                    if let Some(bytes) = self.take(piece)? {
                        return Ok(Some(bytes));
                    }
                    continue;
                }
                Ok(None) => Error::Transport {
                    operation: OPERATION,
                    message: "the body ended too early".to_owned(),
                    unsent: false,
                },
                Err(error) if error.class() == Class::Never => return Err(error),
                Err(error) => error,
            };
            self.response = None;
            self.fruitless += 1;
            self.resumes += 1;
            if self.fruitless > MAX_FRUITLESS
                || self.resumes > MAX_RESUMES + (self.size >> 20)
                || self.pace.left(self.client.settings().timeout).is_zero()
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
                "GetObject {}: {broken}; resuming at byte {}",
                self.key.escape_debug(),
                self.position
            );
        }
    }

    /// Removes unrequested bytes at both ends; compares the checksum when the last byte has arrived, before
    /// it is returned.
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

    /// Requests the rest, of the same version.
    async fn resume(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let left = self.pace.left(self.client.settings().timeout);
        if self.fruitless > 1 {
            tokio::time::sleep(delay(Class::Retry, self.fruitless, None, rand::random())).await;
        }
        let rest = self.position..self.end;
        let mut budget = Budget::new(began, left);
        let (info, first, response) = loop {
            let answer = self
                .client
                .request_range(&self.key, Some(&rest), Some(&self.etag), &mut budget)
                .await
                .map_err(|error| match error.means() {
                    ObjectError::NotFound | ObjectError::InvalidRange => Error::Replaced,
                    _ => error,
                })?;
            let opened =
                self.client
                    .opened(answer, &self.key, &rest, Some(&self.etag), &mut budget);
            match opened.await {
                Ok(opened) => break opened,
                Err(error) => {
                    self.client
                        .pause(OPERATION, error, &mut budget, None)
                        .await?;
                }
            }
        };
        // Equal ETags mean equal bytes; a store with another checksum has mixed them up.
        let other_bytes =
            matches!((info.crc64, self.crc64), (Some(one), Some(other)) if one != other);
        if info.size != self.size || !same_tag(&info.etag, &self.etag) || other_bytes {
            return Err(Error::Replaced);
        }
        self.pace.add(began.elapsed(), 0);
        self.skip = self.position - first;
        self.response = Some(response);
        Ok(())
    }
}
