//! The key marker: which keys the objects below a prefix are for, and since when.
//!
//! It is an empty object, `.ossvault/keys` below the prefix, whose metadata names the keys. Anyone who can write to
//! the bucket can write one, so it is bounded, strictly parsed, and trusted for one thing: to explain why a mount
//! with another key is probably a mistake. No key is ever taken from it.

use crate::base::time;
use crate::crypto::rsa_key::PublicKey;
use crate::envelope::Format;
use crate::store::error::{Error, Result};
use crate::store::object_store::{
    Body, ListedObject, ObjectHeaders, ObjectKey, ObjectMeta, ObjectStore, Overwrite,
};

use super::reserved::RESERVED;

/// Below [`RESERVED`].
pub const NAME: &str = "keys";

/// The name of its metadata, without `x-oss-meta-`.
const HEADER: &str = "ossvault-keys";

/// The version of the text, its first word.
const VERSION: &str = "1";

/// The most keys in one: with more, the service would refuse its metadata.
const MOST: usize = 32;

/// A key that objects are encrypted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedKey {
    pub fingerprint: String,
    /// Of the first mount that wrote for it.
    pub format: Format,
    /// When that was, in seconds since 1970.
    pub since: u64,
}

impl MarkedKey {
    /// From now on.
    pub fn new(key: &PublicKey, format: Format) -> MarkedKey {
        MarkedKey {
            fingerprint: key.fingerprint().to_owned(),
            format,
            since: time::unix_seconds(std::time::SystemTime::now()),
        }
    }

    /// `2026-01-03T04:05:06Z`.
    pub fn since(&self) -> String {
        time::plain(time::from_unix_seconds(self.since))
    }
}

/// The keys that a marker names, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyMarker {
    pub keys: Vec<MarkedKey>,
}

/// Why a marker says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is damaged")]
    Damaged,
    #[error("a later version of ossvault wrote it")]
    Later,
}

impl KeyMarker {
    /// # Errors
    /// [`Unreadable`] for anything that [`to_text`](Self::to_text) does not write.
    pub fn parse(text: &str) -> std::result::Result<KeyMarker, Unreadable> {
        let mut words = text.split(' ');
        match words.next() {
            Some(VERSION) => {}
            Some(other) if !other.is_empty() && other.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(Unreadable::Later);
            }
            _ => return Err(Unreadable::Damaged),
        }
        let mut keys: Vec<MarkedKey> = Vec::new();
        for word in words {
            let key = parse_key(word).ok_or(Unreadable::Damaged)?;
            if keys.len() == MOST || keys.iter().any(|k| k.fingerprint == key.fingerprint) {
                return Err(Unreadable::Damaged);
            }
            keys.push(key);
        }
        match keys.is_empty() {
            true => Err(Unreadable::Damaged),
            false => Ok(KeyMarker { keys }),
        }
    }

    /// `1 FINGERPRINT,FORMAT,SECONDS …`
    pub fn to_text(&self) -> String {
        let mut text = VERSION.to_owned();
        for key in &self.keys {
            text.push_str(&format!(
                " {},{},{}",
                key.fingerprint, key.format, key.since
            ));
        }
        text
    }

    pub fn names(&self, key: &PublicKey) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|marked| marked.fingerprint == key.fingerprint())
    }

    /// Returns whether it was not named before. The oldest gives way to it where there is no room.
    pub fn add(&mut self, key: MarkedKey) -> bool {
        if self.keys.iter().any(|k| k.fingerprint == key.fingerprint) {
            return false;
        }
        if self.keys.len() == MOST {
            self.keys.remove(0);
        }
        self.keys.push(key);
        true
    }

    pub fn remove(&mut self, fingerprint: &str) {
        self.keys.retain(|key| key.fingerprint != fingerprint);
    }
}

fn parse_key(word: &str) -> Option<MarkedKey> {
    let mut parts = word.split(',');
    let (fingerprint, format, since) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let well_formed = parts.next().is_none()
        && fingerprint.len() == 64
        && fingerprint.bytes().all(hex)
        && (1..=11).contains(&since.len())
        && since.bytes().all(|b| b.is_ascii_digit())
        && (since == "0" || !since.starts_with('0'));
    if !well_formed {
        return None;
    }
    Some(MarkedKey {
        fingerprint: fingerprint.to_owned(),
        // The formats that mounts write, and no others.
        format: format.parse().ok()?,
        since: since.parse().ok()?,
    })
}

/// Where the marker of a prefix is.
///
/// # Errors
/// The prefix is too long for it.
pub fn key_of(prefix: &str) -> Result<ObjectKey> {
    ObjectKey::new(format!("{prefix}{RESERVED}/{NAME}"))
}

/// Whether an object is the marker of some prefix: it holds nothing to encrypt, and is no file of a user's.
pub fn is_marker(object: &ListedObject) -> bool {
    let name = object.key.strip_suffix(NAME);
    let name = name.and_then(|name| name.strip_suffix('/'));
    let above = name.and_then(|name| name.strip_suffix(RESERVED));
    object.size == 0 && above.is_some_and(|above| above.is_empty() || above.ends_with('/'))
}

/// What the bucket has in place of the marker of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Marker(KeyMarker),
    Unreadable(Unreadable),
}

/// One HEAD.
///
/// # Errors
/// The store's.
pub async fn read(store: &dyn ObjectStore, prefix: &str) -> Result<Found> {
    match store.head(&key_of(prefix)?).await {
        Ok(meta) => Ok(in_headers(&meta)),
        Err(Error::NotFound) => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

fn in_headers(meta: &ObjectMeta) -> Found {
    let text = meta.headers.user.get(HEADER);
    match text.map_or(Err(Unreadable::Damaged), |text| KeyMarker::parse(text)) {
        Ok(marker) => Found::Marker(marker),
        Err(why) => Found::Unreadable(why),
    }
}

/// One PUT, in place of what is there. Two mounts that add different keys at the same moment may lose one of them, which
/// the next mount with that key adds again.
///
/// # Errors
/// The store's.
pub async fn write(store: &dyn ObjectStore, prefix: &str, marker: &KeyMarker) -> Result<()> {
    let mut headers = ObjectHeaders::default();
    headers.user.insert(HEADER.to_owned(), marker.to_text());
    let key = key_of(prefix)?;
    let put = store.put(&key, &headers, Body::empty(), Overwrite::Allowed);
    put.await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char, since: u64) -> MarkedKey {
        MarkedKey {
            fingerprint: digit.to_string().repeat(64),
            format: Format::Seed,
            since,
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let marker = KeyMarker {
            keys: vec![key('a', 0), key('7', 1_764_535_408)],
        };
        let text = marker.to_text();
        let (a, b) = ("a".repeat(64), "7".repeat(64));
        assert_eq!(text, format!("1 {a},seed,0 {b},seed,1764535408"));
        assert_eq!(KeyMarker::parse(&text), Ok(marker));
        let many: Vec<String> = (0..=MOST).map(|n| format!("{n:064x},seed,1")).collect();
        let most = format!("1 {}", many[1..].join(" "));
        assert_eq!(KeyMarker::parse(&most).unwrap().keys.len(), MOST);
        assert!(most.len() < 8 << 10, "the service takes it");
        for (text, why) in [
            ("".to_owned(), Unreadable::Damaged),
            ("1".to_owned(), Unreadable::Damaged),
            ("1 ".to_owned(), Unreadable::Damaged),
            (format!("2 {a},new,words"), Unreadable::Later),
            (format!("01 {a},seed,1"), Unreadable::Later),
            (format!("one {a},seed,1"), Unreadable::Damaged),
            (format!(" {a},seed,1"), Unreadable::Damaged),
            (format!("1  {a},seed,1"), Unreadable::Damaged),
            (format!("1 {a},seed,1 "), Unreadable::Damaged),
            (format!("1 {a},seed,1,2"), Unreadable::Damaged),
            (format!("1 {a},seed"), Unreadable::Damaged),
            (format!("1 {a},seed,"), Unreadable::Damaged),
            (format!("1 {a},seed,-1"), Unreadable::Damaged),
            (format!("1 {a},seed,01"), Unreadable::Damaged),
            (format!("1 {a},seed,999999999999"), Unreadable::Damaged),
            (format!("1 {a},plain,1"), Unreadable::Damaged),
            (format!("1 {},seed,1", &a[1..]), Unreadable::Damaged),
            (
                format!("1 {},seed,1", a.to_uppercase()),
                Unreadable::Damaged,
            ),
            (format!("1 {a},seed,1 {a},seed,2"), Unreadable::Damaged),
            (format!("1 {}", many.join(" ")), Unreadable::Damaged),
        ] {
            assert_eq!(KeyMarker::parse(&text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn keys_are_added_once_and_the_oldest_gives_way() {
        let mut marker = KeyMarker::default();
        assert!(marker.add(key('a', 1)));
        assert!(!marker.add(key('a', 2)), "it is named already");
        assert_eq!(marker.keys, [key('a', 1)]);
        for n in 0..MOST as u64 {
            let fingerprint = format!("{n:064x}");
            assert!(marker.add(MarkedKey {
                fingerprint,
                ..key('b', n)
            }));
        }
        assert_eq!(marker.keys.len(), MOST);
        assert_eq!(marker.keys[0].fingerprint, "0".repeat(64));
        assert!(KeyMarker::parse(&marker.to_text()).is_ok());
    }

    #[test]
    fn only_an_empty_object_of_that_name_is_a_marker() {
        let listed = |key: &str, size| ListedObject {
            key: key.to_owned(),
            size,
            etag: crate::store::object_store::ETag::new("x"),
            last_modified: std::time::UNIX_EPOCH,
            storage_class: String::new(),
        };
        for (key, size, expected) in [
            (".ossvault/keys", 0, true),
            ("a/b/.ossvault/keys", 0, true),
            ("a/b/.ossvault/keys", 1, false),
            ("a/b.ossvault/keys", 0, false),
            ("a/.ossvault/keys2", 0, false),
            ("a/.ossvault/x/keys", 0, false),
            ("keys", 0, false),
        ] {
            assert_eq!(is_marker(&listed(key, size)), expected, "{key}");
        }
    }
}
