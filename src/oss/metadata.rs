//! HEAD and listings, and the values that a response omitted from an object's head.
//!
//! The service sends ETag, length and times with every response; caches, gateways and other implementations
//! omit some of them. A listing of the one key has them all, at the cost of one more request.

use std::time::SystemTime;

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::call::Call;
use super::client::{Client, MAX_LISTING};
use super::error::Error;
use super::headers::{ObjectHead, content_length, date_of, same_tag};
use super::retry::Budget;
use super::xml;
use crate::object::error::{Error as ObjectError, Result};
use crate::object::listing::{self, ListPage, ListRequest, PageToken, RawObject, RawPage};
use crate::object::meta::{ETag, ObjectMeta};

impl Client {
    /// # Errors
    /// [`ObjectError::NotFound`].
    pub async fn head_object(&self, key: &str) -> Result<ObjectMeta> {
        Ok(self.head_within(key, &mut self.budget()).await?)
    }

    pub(super) async fn head_within(
        &self,
        key: &str,
        budget: &mut Budget,
    ) -> std::result::Result<ObjectMeta, Error> {
        let operation = "HeadObject";
        let call = Call::new(operation, Method::HEAD, Some(key));
        let answer = self.send(&call, budget).await?;
        let size = content_length(&answer.headers);
        let head = ObjectHead::read(&answer.headers, size);
        self.completed(operation, key, head, budget).await
    }

    /// # Errors
    /// [`ObjectError::Other`] for a listing that cannot be followed: see [`listing::check`].
    pub async fn list_objects(&self, request: &ListRequest) -> Result<ListPage> {
        let page = self.list_within(request, &mut self.budget()).await?;
        listing::check(request, page, self.hidden())
    }

    /// A page as received, unchecked.
    async fn list_within(
        &self,
        request: &ListRequest,
        budget: &mut Budget,
    ) -> std::result::Result<RawPage, Error> {
        let operation = "ListObjectsV2";
        let token = request.token.as_ref().map(PageToken::as_str);
        let start_after = request.start_after.as_deref().filter(|_| token.is_none());
        let max_keys = match request.max_keys {
            n @ 1..=1000 => n,
            _ => 1000,
        };
        let mut call = Call::new(operation, Method::GET, None)
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("max-keys", max_keys.to_string());
        for (name, value) in [
            ("prefix", Some(&*request.prefix).filter(|p| !p.is_empty())),
            ("delimiter", request.delimited.then_some("/")),
            ("start-after", start_after),
            ("continuation-token", token),
        ] {
            if let Some(value) = value {
                call = call.query(name, value);
            }
        }
        call.max_text = MAX_LISTING;
        loop {
            let answer = self.send(&call, budget).await?;
            match xml::list(&answer.text, self.date_of(&answer.headers)) {
                Ok(page) => return Ok(page),
                Err(what) => {
                    let error = Error::Protocol { operation, what };
                    self.pause(operation, error, budget, None).await?;
                }
            }
        }
    }

    /// The server's clock in the response.
    pub(super) fn date_of(&self, headers: &HeaderMap) -> SystemTime {
        date_of(headers).unwrap_or_else(|| self.now())
    }

    /// The object described by a response's head, completed with what the response omitted.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it cannot be found, or was replaced in the meantime.
    pub(super) async fn completed(
        &self,
        operation: &'static str,
        key: &str,
        mut head: ObjectHead,
        budget: &mut Budget,
    ) -> std::result::Result<ObjectMeta, Error> {
        let fault = |what: &str| Error::Protocol {
            operation,
            what: what.to_owned(),
        };
        if head.size.is_none() || head.etag.is_none() {
            let listed = self.listed(key, budget).await?;
            let listed =
                listed.ok_or_else(|| fault("no ETag or no length, and it is not listed"))?;
            if (head.etag.as_ref()).is_some_and(|etag| !same_tag(etag, &listed.etag)) {
                return Err(fault("the object was replaced in the meantime"));
            }
            head.size = head.size.or(listed.size);
            head.etag =
                (head.etag).or_else(|| Some(listed.etag).filter(|tag| !tag.as_str().is_empty()));
            head.last_modified = head.last_modified.or(listed.last_modified);
        }
        head.whole(self.now())
            .ok_or_else(|| fault("no ETag or no length"))
    }

    /// The object from a listing: its key is the first one with this prefix.
    async fn listed(
        &self,
        key: &str,
        budget: &mut Budget,
    ) -> std::result::Result<Option<RawObject>, Error> {
        let request = ListRequest {
            prefix: key.to_owned(),
            max_keys: 1,
            ..ListRequest::default()
        };
        let page = self.list_within(&request, budget).await?;
        let mut objects = page.objects.into_iter();
        Ok(objects.find(|object| object.key == key.as_bytes()))
    }

    /// The ETag of an object that this client has just stored, if the response did not contain it. A client
    /// that may write but not read may still list.
    ///
    /// # Errors
    /// [`Error::Replaced`] if something else is there.
    pub(super) async fn tag_of_stored(
        &self,
        key: &str,
        size: Option<u64>,
        crc64: Option<u64>,
        budget: &mut Budget,
    ) -> std::result::Result<ETag, Error> {
        let (etag, found_size, found_crc) = match self.head_within(key, budget).await {
            Ok(info) => (info.etag, Some(info.size), info.crc64),
            Err(error) if matches!(error.means(), ObjectError::AccessDenied(_)) => {
                match self.listed(key, budget).await? {
                    Some(listed) => (listed.etag, listed.size, None),
                    None => return Err(Error::Replaced),
                }
            }
            Err(error) if matches!(error.means(), ObjectError::NotFound) => {
                return Err(Error::Replaced);
            }
            Err(error) => return Err(error),
        };
        let differs = |one: Option<u64>, other: Option<u64>| matches!((one, other), (Some(one), Some(other)) if one != other);
        match etag.as_str().is_empty() || differs(size, found_size) || differs(crc64, found_crc) {
            true => Err(Error::Replaced),
            false => Ok(etag),
        }
    }
}
