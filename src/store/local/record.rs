//! One line of the change log: what became of one key. Pure.
//!
//! ```text
//! CRC32 P KEY MODIFIED SIZE CRC64 TAG CONTENT JSON\n      the key has this object now
//! CRC32 D KEY\n                                           the key has none
//! ```
//!
//! M stands for P where a multipart upload made the object; small letters where its storage class is IA.
//!
//! Fields are separated by one space. CRC32 (8 hex digits, ISO-HDLC) covers everything after the space
//! that follows it, so a line that was torn by a crash, or damaged later, is known and skipped without
//! doubt about its neighbours. KEY is percent-encoded. MODIFIED is Unix seconds, SIZE bytes, CRC64 16 hex
//! digits, TAG the ETag without quotes, CONTENT where the bytes are (see [`Content`]). JSON holds what only HEAD and GET need; loading the log
//! does not parse it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::object::upload::MAX_PARTS;
use crate::store::object_store::{ETag, ObjectHeaders, ObjectKey};

/// A line of the largest object: 10,000 parts with their names, and the metadata. What is longer is no line of
/// this store, and is not read into memory.
pub const MAX_LINE: usize = 4 << 20;

/// The last second of the year 9999: dates beyond it cannot be written.
pub const MAX_TIME: u64 = 253_402_300_799;

/// Sizes beyond it are no file's.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Names and values of all headers of an object, in bytes. The service takes 8 KiB of user metadata.
const MAX_HEADERS: usize = 64 << 10;

/// An entity tag as this store makes them, 16 bytes and the number of parts: an index holds hundreds of
/// thousands.
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
    /// A folder of part files, by its name in the data folder of its key; the parts are listed in [`Details`].
    Parts(String),
}

impl Content {
    fn parse(text: &str) -> Option<Content> {
        if text == "-" {
            return Some(Content::Empty);
        }
        let (kind, name) = text.split_at_checked(1)?;
        // A damaged or forged log must not lead out of the store's folder.
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

/// Whether the headers ask for the storage class `IA`.
pub fn is_infrequent(headers: &ObjectHeaders) -> bool {
    headers.storage_class.as_deref() == Some("IA")
}

/// One part file of a multipart object, in the order of the content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    #[serde(rename = "f")]
    pub file: String,
    #[serde(rename = "s")]
    pub size: u64,
}

/// What only HEAD and GET need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    #[serde(rename = "u", default, skip_serializing_if = "BTreeMap::is_empty")]
    user: BTreeMap<String, String>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(rename = "h", default, skip_serializing_if = "BTreeMap::is_empty")]
    standard: BTreeMap<String, String>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    storage_class: Option<String>,
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartFile>,
}

impl Details {
    pub fn new(headers: &ObjectHeaders, parts: Vec<PartFile>) -> Details {
        Details {
            user: headers.user.clone(),
            content_type: headers.content_type.clone(),
            standard: headers.standard.clone(),
            storage_class: headers.storage_class.clone(),
            parts,
        }
    }

    /// Whether it is what an object of this store can have.
    pub fn is_bounded(&self) -> bool {
        let headers: usize = self
            .user
            .iter()
            .chain(&self.standard)
            .map(|(name, value)| name.len() + value.len())
            .chain(
                [&self.content_type, &self.storage_class]
                    .map(|text| text.as_deref().map_or(0, str::len)),
            )
            .sum();
        headers <= MAX_HEADERS
            && self.parts.len() <= usize::from(MAX_PARTS)
            && self.parts.iter().all(|part| safe_name(&part.file))
    }

    pub fn headers(&self) -> ObjectHeaders {
        ObjectHeaders {
            user: self.user.clone(),
            content_type: self.content_type.clone(),
            standard: self.standard.clone(),
            storage_class: self.storage_class.clone(),
        }
    }
}

/// A line, as far as loading an index needs it.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    Put {
        key: String,
        facts: Facts,
        content: Content,
    },
    Delete {
        key: String,
    },
}

/// With its newline.
pub fn put_line(key: &str, facts: &Facts, content: &Content, details: &Details) -> String {
    let json = serde_json::to_string(details).expect("maps of strings are JSON");
    seal(&format!(
        "{} {} {} {} {:016x} {} {content} {json}",
        match (facts.multipart, facts.infrequent) {
            (false, false) => 'P',
            (false, true) => 'p',
            (true, false) => 'M',
            (true, true) => 'm',
        },
        escape(key),
        facts.modified,
        facts.size,
        facts.crc64,
        facts.tag,
    ))
}

/// With its newline.
pub fn delete_line(key: &str) -> String {
    seal(&format!("D {}", escape(key)))
}

pub fn seal(text: &str) -> String {
    format!("{:08x} {text}\n", crc_fast::crc32_iso_hdlc(text.as_bytes()))
}

/// Checks a line without its newline; none if it is not one of ours, whole.
fn unseal(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (crc, text) = line.split_at_checked(8)?;
    let text = text.strip_prefix(' ')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc_fast::crc32_iso_hdlc(text.as_bytes())).then_some(text)
}

/// None for a line that is damaged.
pub fn parse(line: &[u8]) -> Option<Change> {
    let text = unseal(line)?;
    let mut fields = text.splitn(8, ' ');
    let kind = fields.next()?;
    let key = unescape(fields.next()?).filter(|key| is_key(key))?;
    match kind {
        "D" => Some(Change::Delete { key }),
        "P" | "M" | "p" | "m" => {
            let facts = Facts {
                modified: fields
                    .next()?
                    .parse()
                    .ok()
                    .filter(|seconds| (0..=MAX_TIME as i64).contains(seconds))?,
                size: fields
                    .next()?
                    .parse()
                    .ok()
                    .filter(|size| *size <= MAX_SIZE)?,
                crc64: u64::from_str_radix(fields.next()?, 16).ok()?,
                tag: Tag::parse(fields.next()?)?,
                multipart: kind.eq_ignore_ascii_case("m"),
                infrequent: kind == "p" || kind == "m",
            };
            let content = Content::parse(fields.next()?)?;
            fields.next()?;
            Some(Change::Put {
                key,
                facts,
                content,
            })
        }
        _ => None,
    }
}

/// The rest of a line that [`parse`] took.
pub fn details(line: &[u8]) -> Option<(Content, Details)> {
    let text = unseal(line)?;
    let mut fields = text.splitn(8, ' ').skip(6);
    let content = Content::parse(fields.next()?)?;
    let details: Details = serde_json::from_str(fields.next()?).ok()?;
    details.is_bounded().then_some((content, details))
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

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let [high, low, tail @ ..] = rest else {
                return None;
            };
            let value = |digit: &u8| (*digit as char).to_digit(16);
            bytes.push((value(high)? * 16 + value(low)?) as u8);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
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
    fn a_line_comes_back_as_it_was_written() {
        let headers = ObjectHeaders {
            user: [("a".to_string(), "b c\n\"ü".to_string())].into(),
            content_type: Some("text/plain".into()),
            ..Default::default()
        };
        let wanted = Details::new(
            &headers,
            vec![PartFile {
                file: "1".into(),
                size: 12,
            }],
        );
        for key in ["a", "a b/ü%20\n", "%", "..", "\u{1}"] {
            let content = Content::Parts("x~1".into());
            let line = put_line(key, &facts(), &content, &wanted);
            let line = line.strip_suffix('\n').unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(
                parse(line.as_bytes()),
                Some(Change::Put {
                    key: key.to_string(),
                    facts: facts(),
                    content: content.clone()
                })
            );
            assert_eq!(details(line.as_bytes()), Some((content, wanted.clone())));
            let line = delete_line(key);
            assert_eq!(
                parse(line.trim_end().as_bytes()),
                Some(Change::Delete {
                    key: key.to_string()
                })
            );
        }
    }

    #[test]
    fn a_damaged_line_is_never_taken_for_another() {
        let line = put_line("k", &facts(), &Content::Empty, &Details::default());
        let line = line.trim_end().as_bytes();
        for at in 0..line.len() {
            let mut damaged = line.to_vec();
            damaged[at] ^= 0x11;
            // The CRC's own digits have two spellings of one value; nothing else has.
            if let Some(change) = parse(&damaged) {
                assert_eq!(Some(change), parse(line));
            }
            assert_eq!(parse(&line[..at]), None);
        }
    }

    #[test]
    fn no_line_leads_out_of_the_folder() {
        for name in ["../x", "..", ".", "a/b", ""] {
            let text = format!("P k 0 1 0 {} f{name} {{}}", facts().tag);
            assert_eq!(parse(seal(&text).trim_end().as_bytes()), None, "{name:?}");
        }
    }

    #[test]
    fn a_line_that_this_store_would_not_write_is_damaged() {
        let line = |fields: String| parse(seal(&fields).trim_end().as_bytes());
        let tag = facts().tag;
        assert!(line(format!("P k 0 1 0 {tag} fx {{}}")).is_some());
        let long = "k".repeat(1024);
        for fields in [
            format!("P {long} 0 1 0 {tag} fx {{}}"),
            format!("P %2Fk 0 1 0 {tag} fx {{}}"),
            format!("P  0 1 0 {tag} fx {{}}"),
            format!("P k%+f 0 1 0 {tag} fx {{}}"),
            format!("P k%4 0 1 0 {tag} fx {{}}"),
            format!("P k -1 1 0 {tag} fx {{}}"),
            format!("P k 253402300800 1 0 {tag} fx {{}}"),
            format!("P k 9223372036854775807 1 0 {tag} fx {{}}"),
            format!("P k 0 9223372036854775808 0 {tag} fx {{}}"),
            format!("P k 0 18446744073709551615 0 {tag} fx {{}}"),
        ] {
            assert_eq!(line(fields.clone()), None, "{fields}");
        }
        let part = |file: &str| PartFile {
            file: file.into(),
            size: u64::MAX,
        };
        let of = |headers: &ObjectHeaders, parts| {
            let line = put_line(
                "k",
                &facts(),
                &Content::Empty,
                &Details::new(headers, parts),
            );
            details(line.trim_end().as_bytes())
        };
        let none = ObjectHeaders::default();
        assert!(of(&none, vec![part("1"); 10_000]).is_some());
        assert!(of(&none, vec![part("1"); 10_001]).is_none());
        assert!(of(&none, vec![part("../1")]).is_none());
        let large = ObjectHeaders {
            user: [("a".to_string(), "x".repeat(64 << 10))].into(),
            ..Default::default()
        };
        assert!(of(&large, Vec::new()).is_none());
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
}
