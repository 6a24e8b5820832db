//! What an answer's headers tell of an object, and how what they leave out is found.
//!
//! The service sends tag, length and times with every answer; caches, gateways and other implementations leave
//! some of them out. A listing of the one key has them all, for one request more.

use std::collections::BTreeMap;
use std::time::SystemTime;

use reqwest::header::HeaderMap;

use super::client::{Client, header};
use super::download::same_tag;
use super::error::{Error, Kind};
use super::retry::Budget;
use super::types::{ListQuery, Listed, META_PREFIX, ObjectInfo, STANDARD_HEADERS};
use crate::base::time;

/// As much of an object as an answer tells.
pub(super) struct ObjectHead {
    pub size: Option<u64>,
    pub etag: Option<String>,
    last_modified: Option<SystemTime>,
    date: Option<SystemTime>,
    user: BTreeMap<String, String>,
    standard: BTreeMap<String, String>,
    content_type: Option<String>,
    storage_class: Option<String>,
    crc64: Option<u64>,
}

impl ObjectHead {
    /// `size` is that of the whole object, where the answer tells it.
    pub fn read(headers: &HeaderMap, size: Option<u64>) -> ObjectHead {
        let mut user = BTreeMap::new();
        let mut standard = BTreeMap::new();
        for (name, value) in headers {
            let name = name.as_str();
            let is_standard = STANDARD_HEADERS.contains(&name);
            let Some(name) = (name.strip_prefix(META_PREFIX)).or(is_standard.then_some(name))
            else {
                continue;
            };
            // Other clients may have sent UTF-8 as it is.
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let map = if is_standard {
                &mut standard
            } else {
                &mut user
            };
            map.insert(name.to_owned(), value);
        }
        ObjectHead {
            size,
            etag: etag_of(headers),
            last_modified: header(headers, "last-modified").and_then(time::parse_http),
            date: date_of(headers),
            user,
            standard,
            content_type: header(headers, "content-type").map(str::to_owned),
            storage_class: header(headers, "x-oss-storage-class").map(str::to_owned),
            crc64: crc_of(headers),
        }
    }

    /// None as long as size or tag is not known. `now` is the service's clock. Without Last-Modified the object
    /// counts as made at the time of the answer: then nothing takes it for older than it is.
    fn whole(self, now: SystemTime) -> Option<ObjectInfo> {
        let last_modified = self.last_modified.or(self.date).unwrap_or(now);
        Some(ObjectInfo {
            size: self.size?,
            etag: self.etag?,
            last_modified,
            user: self.user,
            content_type: self.content_type,
            standard: self.standard,
            storage_class: self.storage_class,
            crc64: self.crc64,
            // Without a Date the object's own time is the latest that is certain.
            date: self.date.unwrap_or(last_modified),
        })
    }
}

impl Client {
    /// The object whose head an answer told of, with what the answer left out.
    ///
    /// # Errors
    /// [`Error::Protocol`] if it cannot be found, or was replaced meanwhile.
    pub(super) async fn completed(
        &self,
        operation: &'static str,
        key: &str,
        mut head: ObjectHead,
        budget: &mut Budget,
    ) -> Result<ObjectInfo, Error> {
        let fault = |what: &str| Error::Protocol {
            operation,
            what: what.to_owned(),
        };
        if head.size.is_none() || head.etag.is_none() {
            let listed = self.listed(key, budget).await?;
            let listed =
                listed.ok_or_else(|| fault("no ETag or no length, and it is not listed"))?;
            if (head.etag.as_ref()).is_some_and(|etag| !same_tag(etag, &listed.etag)) {
                return Err(fault("the object was replaced meanwhile"));
            }
            head.size = head.size.or(listed.size);
            head.etag = (head.etag).or_else(|| Some(listed.etag).filter(|tag| !tag.is_empty()));
            head.last_modified = head.last_modified.or(listed.last_modified);
        }
        head.whole(self.now())
            .ok_or_else(|| fault("no ETag or no length"))
    }

    /// The object as a listing has it: its key is the first of those that begin with it.
    async fn listed(&self, key: &str, budget: &mut Budget) -> Result<Option<Listed>, Error> {
        let query = ListQuery {
            prefix: key,
            max_keys: 1,
            ..ListQuery::default()
        };
        let page = self.list_within(&query, budget).await?;
        let mut objects = page.objects.into_iter();
        Ok(objects.find(|object| object.key == key.as_bytes()))
    }

    /// The tag of what this client has just stored, of an answer that did not say. Who may write and not read
    /// may list.
    ///
    /// # Errors
    /// [`Error::Replaced`] if something else is there.
    pub(super) async fn tag_of_stored(
        &self,
        key: &str,
        size: Option<u64>,
        crc64: Option<u64>,
        budget: &mut Budget,
    ) -> Result<String, Error> {
        let (etag, found_size, found_crc) = match self.head_within(key, budget).await {
            Ok(info) => (info.etag, Some(info.size), info.crc64),
            Err(error) if error.kind() == Kind::AccessDenied => {
                match self.listed(key, budget).await? {
                    Some(listed) => (listed.etag, listed.size, None),
                    None => return Err(Error::Replaced),
                }
            }
            Err(error) if error.kind() == Kind::NotFound => return Err(Error::Replaced),
            Err(error) => return Err(error),
        };
        let differs = |one: Option<u64>, other: Option<u64>| matches!((one, other), (Some(one), Some(other)) if one != other);
        match etag.is_empty() || differs(size, found_size) || differs(crc64, found_crc) {
            true => Err(Error::Replaced),
            false => Ok(etag),
        }
    }
}

pub(super) fn etag_of(headers: &HeaderMap) -> Option<String> {
    let etag = header(headers, "etag")?.trim();
    (!etag.is_empty()).then(|| etag.to_owned())
}

pub(super) fn date_of(headers: &HeaderMap) -> Option<SystemTime> {
    header(headers, "date").and_then(time::parse_http)
}

pub(super) fn crc_of(headers: &HeaderMap) -> Option<u64> {
    header(headers, "x-oss-hash-crc64ecma")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| {
            let name = reqwest::header::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn what_an_object_carries_is_read_from_its_headers() {
        let headers = headers(&[
            ("etag", "\"E\""),
            ("last-modified", "Sat, 03 Jan 2026 04:05:06 GMT"),
            ("date", "Sat, 03 Jan 2026 04:05:08 GMT"),
            ("x-oss-meta-mode", "33188"),
            ("x-oss-meta-x-oss-key", "k"),
            ("cache-control", "no-cache"),
            ("content-type", "text/plain"),
            ("x-oss-storage-class", "IA"),
            ("x-oss-hash-crc64ecma", "18446744073709551615"),
        ]);
        let info = ObjectHead::read(&headers, Some(5))
            .whole(UNIX_EPOCH)
            .unwrap();
        assert_eq!(info.user["mode"], "33188");
        assert_eq!(info.user["x-oss-key"], "k");
        assert_eq!(info.standard["cache-control"], "no-cache");
        assert_eq!(info.content_type.as_deref(), Some("text/plain"));
        assert_eq!(info.storage_class.as_deref(), Some("IA"));
        assert_eq!(info.crc64, Some(u64::MAX));
        assert_eq!(
            time::unix_seconds(info.date),
            time::unix_seconds(info.last_modified) + 2
        );
    }

    #[test]
    fn times_that_are_missing_or_wrong_are_taken_from_the_next_best() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let (early, late) = (
            "Sat, 03 Jan 2026 04:05:06 GMT",
            "Sat, 03 Jan 2026 04:05:08 GMT",
        );
        let (early_at, late_at) = (1_767_413_106, 1_767_413_108);
        for (times, modified, dated) in [
            (
                vec![("last-modified", early), ("date", late)],
                early_at,
                late_at,
            ),
            (vec![("last-modified", early)], early_at, early_at),
            (vec![("date", late)], late_at, late_at),
            (
                vec![("last-modified", "yesterday"), ("date", late)],
                late_at,
                late_at,
            ),
            (vec![], 2_000_000_000, 2_000_000_000),
        ] {
            let times = headers(&[&[("etag", "E")], &times[..]].concat());
            let info = ObjectHead::read(&times, Some(0)).whole(now).unwrap();
            let found = (
                time::unix_seconds(info.last_modified),
                time::unix_seconds(info.date),
            );
            assert_eq!(found, (modified, dated));
        }
    }

    #[test]
    fn without_size_or_tag_an_object_is_not_known() {
        for (list, size) in [
            (&[("etag", "E")][..], None),
            (&[("etag", " ")], Some(1)),
            (&[], Some(1)),
        ] {
            let head = ObjectHead::read(&headers(list), size);
            assert!(head.whole(UNIX_EPOCH).is_none());
        }
    }
}
