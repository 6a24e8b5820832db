//! What a row of the database says about an object, in checked types. Pure.
//!
//! The folder, and with it the database, may come from elsewhere: what is read from a row becomes one of these
//! types, or the row is damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use crate::object::upload::MAX_PARTS;
use crate::store::object_store::{ETag, ObjectHeaders, ObjectKey};

/// The last second of the year 9999: dates beyond it cannot be written.
pub const MAX_TIME: u64 = 253_402_300_799;

/// Names and values of all headers of an object, in bytes. The service takes 8 KiB of user metadata.
const MAX_HEADERS: usize = 64 << 10;

/// An entity tag as this store makes them: 16 bytes and the number of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    pub digest: [u8; 16],
    /// 0 is a tag without `-N`: the MD5 of the content.
    pub parts: u16,
}

impl Tag {
    /// Quotes are optional, as the service has it for conditions.
    pub fn parse(text: &str) -> Option<Tag> {
        let text = text.strip_prefix('"').unwrap_or(text);
        let text = text.strip_suffix('"').unwrap_or(text);
        let (hex, parts) = match text.split_once('-') {
            Some((hex, parts)) => (hex, parts.parse().ok().filter(|n| *n > 0)?),
            None => (text, 0),
        };
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digest = u128::from_str_radix(hex, 16).ok()?.to_be_bytes();
        Some(Tag { digest, parts })
    }

    /// As a row has it.
    pub fn from_row(digest: &[u8], parts: i64) -> Option<Tag> {
        Some(Tag {
            digest: digest.try_into().ok()?,
            parts: u16::try_from(parts).ok().filter(|n| *n <= MAX_PARTS)?,
        })
    }

    /// In quotes, as it goes over the wire.
    pub fn etag(&self) -> ETag {
        ETag::new(format!("\"{self}\""))
    }

    pub fn is(&self, etag: &ETag) -> bool {
        Tag::parse(etag.as_str()) == Some(*self)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032X}", u128::from_be_bytes(self.digest))?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// There are none.
    Empty,
    /// One file, by its name in the data folder of its key.
    File(String),
    /// A folder of part files, by its name in the data folder of its key.
    Parts(String),
}

impl Content {
    pub fn parse(text: &str) -> Option<Content> {
        if text == "-" {
            return Some(Content::Empty);
        }
        let (kind, name) = text.split_at_checked(1)?;
        // A damaged or forged database must not lead out of the store's folder.
        if !safe_name(name) {
            return None;
        }
        match kind {
            "f" => Some(Content::File(name.to_string())),
            "m" => Some(Content::Parts(name.to_string())),
            _ => None,
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Empty => f.write_str("-"),
            Content::File(name) => write!(f, "f{name}"),
            Content::Parts(name) => write!(f, "m{name}"),
        }
    }
}

/// Whether a name can stand for an entry of a folder and for nothing else.
pub fn safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0', ' ', '\n'])
}

/// The facts of an object that listings and conditions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Unix seconds.
    pub modified: i64,
    /// In bytes.
    pub size: u64,
    pub crc64: u64,
    pub tag: Tag,
    /// Made by a multipart upload (the listing's `Type`).
    pub multipart: bool,
    /// Of the storage class `IA`; all others are `Standard`.
    pub infrequent: bool,
}

/// The numbers of an object's row.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub modified: i64,
    pub size: i64,
    pub crc64: i64,
    pub kind: i64,
}

const MULTIPART: i64 = 1;
const INFREQUENT: i64 = 2;

impl Facts {
    /// None for what this store would not write.
    pub fn from_row(numbers: Numbers, tag: Tag) -> Option<Facts> {
        let Numbers {
            modified,
            size,
            crc64,
            kind,
        } = numbers;
        let valid =
            (0..=MAX_TIME as i64).contains(&modified) && kind & !(MULTIPART | INFREQUENT) == 0;
        valid.then_some(Facts {
            modified,
            size: u64::try_from(size).ok()?,
            crc64: crc64.cast_unsigned(),
            tag,
            multipart: kind & MULTIPART != 0,
            infrequent: kind & INFREQUENT != 0,
        })
    }

    pub fn last_modified(&self) -> SystemTime {
        let since = Duration::from_secs(self.modified.max(0) as u64);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    /// None for a size that no file has.
    pub fn to_row(&self) -> Option<Numbers> {
        let kind = |set, bit| if set { bit } else { 0 };
        Some(Numbers {
            modified: self.modified,
            size: i64::try_from(self.size).ok()?,
            crc64: self.crc64.cast_signed(),
            kind: kind(self.multipart, MULTIPART) | kind(self.infrequent, INFREQUENT),
        })
    }
}

/// Whether the headers ask for the storage class `IA`.
pub fn is_infrequent(headers: &ObjectHeaders) -> bool {
    headers.storage_class.as_deref() == Some("IA")
}

/// One part file of a multipart object, in the order of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    pub file: String,
    pub size: u64,
}

/// How headers are kept: as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers {
    #[serde(rename = "u", default, skip_serializing_if = "BTreeMap::is_empty")]
    user: BTreeMap<String, String>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(rename = "h", default, skip_serializing_if = "BTreeMap::is_empty")]
    standard: BTreeMap<String, String>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    storage_class: Option<String>,
}

/// Whether they are what an object of this store can have.
pub fn is_bounded(headers: &ObjectHeaders) -> bool {
    let length: usize = headers
        .user
        .iter()
        .chain(&headers.standard)
        .map(|(name, value)| name.len() + value.len())
        .chain(
            [&headers.content_type, &headers.storage_class]
                .map(|text| text.as_deref().map_or(0, str::len)),
        )
        .sum();
    length <= MAX_HEADERS
}

pub fn write_headers(headers: &ObjectHeaders) -> String {
    let headers = headers.clone();
    serde_json::to_string(&Headers {
        user: headers.user,
        content_type: headers.content_type,
        standard: headers.standard,
        storage_class: headers.storage_class,
    })
    .expect("maps of strings are JSON")
}

/// None for what [`write_headers`] does not write, or an object cannot have.
pub fn read_headers(text: &str) -> Option<ObjectHeaders> {
    // A list of the values would be read as well.
    let text = Some(text).filter(|text| text.starts_with('{'))?;
    let headers: Headers = serde_json::from_str(text).ok()?;
    let headers = ObjectHeaders {
        user: headers.user,
        content_type: headers.content_type,
        standard: headers.standard,
        storage_class: headers.storage_class,
    };
    is_bounded(&headers).then_some(headers)
}

/// `id` is one that no other file has.
pub fn part_name(number: u16, id: &str) -> String {
    format!("{number:05}~{id}")
}

/// Whether a file is one that [`part_name`] named.
pub fn is_part_name(name: &str) -> bool {
    name.split_once('~').is_some_and(|(number, id)| {
        number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) && is_id(id)
    })
}

/// Whether this may be an id that this store has made: 32 digits of base 16.
pub fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether an object can have this name.
pub fn is_key(key: &str) -> bool {
    ObjectKey::new(key).is_ok()
}

/// Letters, digits, `-`, `_` and `.` stay, everything else is `%XX`: no separator, no control character.
pub fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len() + key.len() / 4);
    for &byte in key.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            escaped.push(byte as char);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            escaped.push('%');
            escaped.push(HEX[usize::from(byte >> 4)] as char);
            escaped.push(HEX[usize::from(byte & 15)] as char);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            modified: 1_700_000_000,
            size: 12,
            crc64: 0xfeed,
            tag: Tag {
                digest: [0xab; 16],
                parts: 3,
            },
            multipart: true,
            infrequent: true,
        }
    }

    #[test]
    fn facts_come_back_from_a_row_as_they_were_written() {
        for (multipart, infrequent) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let facts = Facts {
                multipart,
                infrequent,
                crc64: u64::MAX - 1,
                ..facts()
            };
            let row = facts.to_row().unwrap();
            assert_eq!(Facts::from_row(row, facts.tag), Some(facts));
        }
        let large = Facts {
            size: i64::MAX as u64 + 1,
            ..facts()
        };
        assert!(large.to_row().is_none());
    }

    #[test]
    fn a_row_that_this_store_would_not_write_is_damaged() {
        let row = facts().to_row().unwrap();
        let read = |row| Facts::from_row(row, facts().tag);
        assert!(read(row).is_some());
        for modified in [-1, MAX_TIME as i64 + 1, i64::MAX] {
            assert_eq!(read(Numbers { modified, ..row }), None);
        }
        assert_eq!(read(Numbers { size: -1, ..row }), None);
        for kind in [-1, 4, i64::MIN] {
            assert_eq!(read(Numbers { kind, ..row }), None);
        }
        assert!(Tag::from_row(&[0; 16], 10_000).is_some());
        for (digest, parts) in [(15, 0), (17, 0), (0, 0), (16, -1), (16, 10_001)] {
            assert_eq!(Tag::from_row(&vec![0; digest], parts), None);
        }
    }

    #[test]
    fn no_content_leads_out_of_the_folder() {
        for name in ["x~1", "a%2Fb", "..a"] {
            for content in [Content::File(name.into()), Content::Parts(name.into())] {
                assert_eq!(Content::parse(&content.to_string()), Some(content));
            }
        }
        assert_eq!(Content::parse("-"), Some(Content::Empty));
        let long = "x".repeat(256);
        for text in [
            "",
            "f",
            "f..",
            "f.",
            "fa/b",
            "m../x",
            "fa\0b",
            "xa",
            "ü",
            &format!("f{long}"),
        ] {
            assert_eq!(Content::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn headers_come_back_as_they_were_written() {
        let headers = ObjectHeaders {
            user: [("a".to_string(), "b c\n\"ü".to_string())].into(),
            content_type: Some("text/plain".into()),
            standard: [("cache-control".to_string(), "no-cache".to_string())].into(),
            storage_class: Some("IA".into()),
        };
        for headers in [headers, ObjectHeaders::default()] {
            let text = write_headers(&headers);
            assert_eq!(read_headers(&text), Some(headers));
        }
        let large = |len: usize| ObjectHeaders {
            user: [("a".to_string(), "\u{1}".repeat(len))].into(),
            ..Default::default()
        };
        let most = large((64 << 10) - 1);
        assert_eq!(read_headers(&write_headers(&most)), Some(most));
        assert_eq!(read_headers(&write_headers(&large(64 << 10))), None);
        for text in [
            "",
            "[]",
            "{\"u\":1}",
            "{\"u\":{\"a\":1}}",
            "{\"x\":{}}",
            "{}{}",
        ] {
            assert_eq!(read_headers(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_tag_is_read_with_and_without_quotes() {
        let tag = facts().tag;
        for text in [
            format!("\"{tag}\""),
            tag.to_string(),
            tag.to_string().to_lowercase(),
        ] {
            assert_eq!(Tag::parse(&text), Some(tag), "{text}");
        }
        for text in [
            "",
            "\"",
            "*",
            "abc",
            "+0000000000000000000000000000000",
            "0000000000000000000000000000000g",
            "\"-1\"",
        ] {
            assert_eq!(Tag::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_name_is_known_by_its_form() {
        let id = "0123456789abcdef0123456789abcdef";
        assert!(is_part_name(&part_name(10_000, id)));
        for name in [
            "",
            "00001",
            "letter",
            &format!("1~{id}"),
            &format!("00001~{id}~"),
            &format!("00001~/{}", &id[1..]),
            &format!("+0001~{id}"),
        ] {
            assert!(!is_part_name(name), "{name}");
        }
    }
}
