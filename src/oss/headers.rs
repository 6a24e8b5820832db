//! Parses a response's headers: the object, and the range of the body. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use reqwest::header::HeaderMap;

use crate::base::time;
use crate::object::meta::{ETag, ObjectHeaders, ObjectMeta, STANDARD_HEADERS};

/// No file is larger, so that offsets within it cannot overflow.
const MAX_SIZE: u64 = i64::MAX as u64;
/// The prefix of every user metadata header.
pub(super) const META_PREFIX: &str = "x-oss-meta-";

/// The parts of an object's description that a response contains.
pub struct ObjectHead {
    pub size: Option<u64>,
    pub etag: Option<ETag>,
    pub last_modified: Option<SystemTime>,
    date: Option<SystemTime>,
    headers: ObjectHeaders,
    crc64: Option<u64>,
}

impl ObjectHead {
    /// `size` is the size of the whole object, if the response contains it.
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
            // Other clients may have sent raw UTF-8.
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
            headers: ObjectHeaders {
                user,
                content_type: header(headers, "content-type").map(str::to_owned),
                standard,
                storage_class: header(headers, "x-oss-storage-class").map(str::to_owned),
            },
            crc64: crc_of(headers),
        }
    }

    /// None if size or ETag is unknown. `now` is the service's clock. Without Last-Modified the object's time
    /// is that of the response, so that it never appears older than it is.
    pub fn whole(self, now: SystemTime) -> Option<ObjectMeta> {
        let last_modified = self.last_modified.or(self.date).unwrap_or(now);
        Some(ObjectMeta {
            size: self.size?,
            etag: self.etag?,
            last_modified,
            headers: self.headers,
            crc64: self.crc64,
            // Without a Date, the object's own time is the latest certain one.
            date: self.date.unwrap_or(last_modified),
        })
    }
}

pub(super) fn etag_of(headers: &HeaderMap) -> Option<ETag> {
    let etag = header(headers, "etag")?.trim();
    (!etag.is_empty()).then(|| ETag::new(etag))
}

pub(super) fn date_of(headers: &HeaderMap) -> Option<SystemTime> {
    header(headers, "date").and_then(time::parse_http)
}

pub(super) fn crc_of(headers: &HeaderMap) -> Option<u64> {
    header(headers, "x-oss-hash-crc64ecma")?.trim().parse().ok()
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether two spellings of an ETag are equal: a system in between may have removed the quotes or marked it
/// as weak.
pub(super) fn same_tag(one: &ETag, other: &ETag) -> bool {
    let (one, other) = (one.as_str(), other.as_str());
    let bare = |tag: &str| {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag.trim_matches('"').to_ascii_lowercase()
    };
    one == other || bare(one) == bare(other)
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    size_of(header(headers, "content-length")?)
}

/// A number of bytes in the protocol: digits, and no more than a file can have.
pub(super) fn size_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let size: u64 = text.parse().ok().filter(|_| digits)?;
    (size <= MAX_SIZE).then_some(size)
}

/// `bytes 0-499/1000`: the range and the total size.
pub(super) fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (size_of(first)?, size_of(last)?);
    let size = size_of(size)?;
    (first <= last && last < size).then(|| (first..last + 1, size))
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
    fn an_objects_metadata_is_read_from_its_headers() {
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
        assert_eq!(info.headers.user["mode"], "33188");
        assert_eq!(info.headers.user["x-oss-key"], "k");
        assert_eq!(info.headers.standard["cache-control"], "no-cache");
        assert_eq!(info.headers.content_type.as_deref(), Some("text/plain"));
        assert_eq!(info.headers.storage_class.as_deref(), Some("IA"));
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
    fn without_size_or_etag_an_object_is_unknown() {
        for (list, size) in [
            (&[("etag", "E")][..], None),
            (&[("etag", " ")], Some(1)),
            (&[], Some(1)),
        ] {
            let head = ObjectHead::read(&headers(list), size);
            assert!(head.whole(UNIX_EPOCH).is_none());
        }
    }

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
            ("bytes 0-9223372036854775807/9223372036854775808", None),
            (
                "bytes 0-0/9223372036854775807",
                Some((0..1, i64::MAX as u64)),
            ),
            ("bytes +0-499/1000", None),
            ("bytes 0--1/1000", None),
            ("bytes 0-499/-1", None),
            ("0-499/1000", None),
            ("", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn a_size_is_digits_and_fits_a_file() {
        for (text, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("9223372036854775807", Some(MAX_SIZE)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            ("0x10", None),
            ("", None),
        ] {
            assert_eq!(size_of(text), expected, "{text}");
        }
    }

    #[test]
    fn etags_are_compared_without_quotes_and_weak_marks() {
        for (one, other, same) in [
            ("\"AB\"", "\"AB\"", true),
            ("\"AB\"", "AB", true),
            ("\"AB\"", "W/\"ab\"", true),
            ("\"AB\"", "\"AC\"", false),
            ("\"AB\"", "\"AB-1\"", false),
            ("\"AB\"", "", false),
        ] {
            assert_eq!(
                same_tag(&ETag::new(one), &ETag::new(other)),
                same,
                "{one} {other}"
            );
        }
    }
}
