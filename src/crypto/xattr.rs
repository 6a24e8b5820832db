//! Extended attributes: all of a file's `user.*` attributes as one encrypted header value.
//!
//! The plaintext is `u16be` of the length that follows, then for each attribute in order of name
//! `u16be` length and name, `u16be` length and value, then zeros to a multiple of 64 bytes. The header
//! is `1.` and base64url without padding of nonce, ciphertext and tag: AES-256-GCM-SIV under the
//! object's xattr subkey, so that even a repeated nonce would give away equality and no more.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::ctr::{ContentCipher, Unopened};
use super::data_key::Purpose;
use super::random;
use super::stack::wiped;

const AAD: &[u8] = b"ossvault/xattr/1";
const VERSION: &str = "1.";
const NONCE_LEN: usize = 12;
const PADDING: usize = 64;

/// A file's extended attributes, by name. Within the limits by construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<String, Vec<u8>>);

/// More than fits beside the other metadata of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "extended attributes above {} bytes or {} in number",
    Xattrs::MAX_BYTES,
    Xattrs::MAX_COUNT
)]
pub struct TooLarge;

impl Xattrs {
    /// Of names and values together. The service keeps 8 KB of metadata; sealed, these take 4 of them.
    pub const MAX_BYTES: usize = 2048;
    /// Each costs four bytes of lengths beside its name and value.
    pub const MAX_COUNT: usize = 256;

    pub fn new() -> Xattrs {
        Xattrs::default()
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_slice()))
    }

    /// Sets or replaces one.
    ///
    /// # Errors
    /// [`TooLarge`]; nothing has changed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), TooLarge> {
        let others: usize = self
            .0
            .iter()
            .filter(|(n, _)| *n != name)
            .map(|(n, v)| n.len() + v.len())
            .sum();
        let count = self.0.len() + usize::from(!self.0.contains_key(name));
        if others + name.len() + value.len() > Self::MAX_BYTES || count > Self::MAX_COUNT {
            return Err(TooLarge);
        }
        self.0.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    /// The value it had.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![0, 0]);
        for (name, value) in &self.0 {
            for field in [name.as_bytes(), value] {
                let len = u16::try_from(field.len()).expect("bounded by MAX_BYTES");
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(field);
            }
        }
        let len = u16::try_from(out.len() - 2).expect("bounded by MAX_BYTES and MAX_COUNT");
        out[..2].copy_from_slice(&len.to_be_bytes());
        let padded = out.len().next_multiple_of(PADDING);
        out.resize(padded, 0);
        out
    }

    /// Reads exactly what [`encode`](Self::encode) writes.
    fn decode(plain: &[u8]) -> Option<Xattrs> {
        let (len, rest) = plain.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (mut fields, padding) = rest.split_at_checked(len)?;
        if plain.len() != (2 + len).next_multiple_of(PADDING) || padding.iter().any(|&b| b != 0) {
            return None;
        }
        let mut take = || -> Option<Option<&[u8]>> {
            if fields.is_empty() {
                return Some(None);
            }
            let (len, rest) = fields.split_first_chunk::<2>()?;
            let (field, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            fields = rest;
            Some(Some(field))
        };
        let mut xattrs = Xattrs::new();
        while let Some(name) = take()? {
            let name = std::str::from_utf8(name).ok()?;
            let value = take()??;
            let in_order = xattrs
                .0
                .last_key_value()
                .is_none_or(|(last, _)| last.as_str() < name);
            if name.is_empty() || !in_order {
                return None;
            }
            xattrs.set(name, value).ok()?;
        }
        Some(xattrs)
    }
}

/// A sealed value that is none of ours, was changed, or belongs to another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the extended attributes are damaged or belong to another object")]
    Damaged,
    #[error("the extended attributes have an unknown version")]
    UnknownVersion,
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

/// The header value, under a fresh nonce.
///
/// # Errors
/// [`Unopened`].
pub fn seal(cipher: &ContentCipher, xattrs: &Xattrs) -> Result<String, Unopened> {
    let mut nonce = [0; NONCE_LEN];
    random::fill(&mut nonce);
    seal_with_nonce(cipher, xattrs, nonce)
}

fn seal_with_nonce(
    cipher: &ContentCipher,
    xattrs: &Xattrs,
    nonce: [u8; NONCE_LEN],
) -> Result<String, Unopened> {
    let sealed = wiped(|| {
        let key = key(cipher)?;
        let mut sealed = xattrs.encode();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(AAD),
            &mut *sealed,
        )
        .expect("a few KiB can be sealed");
        Ok(sealed)
    })?;
    let bytes = [nonce.as_slice(), &sealed].concat();
    Ok(format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// # Errors
/// See [`OpenError`].
pub fn open(cipher: &ContentCipher, header: &str) -> Result<Xattrs, OpenError> {
    if !cipher.is_opened() {
        return Err(Unopened.into());
    }
    let text = header
        .strip_prefix(VERSION)
        .ok_or(OpenError::UnknownVersion)?;
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| OpenError::Damaged)?;
    let (nonce, sealed) = bytes
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(OpenError::Damaged)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    wiped(|| {
        let plain = key(cipher)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(AAD),
                &mut sealed,
            )
            .map_err(|_| OpenError::Damaged)?;
        Xattrs::decode(plain).ok_or(OpenError::Damaged)
    })
}

fn key(cipher: &ContentCipher) -> Result<LessSafeKey, Unopened> {
    if !cipher.is_opened() {
        return Err(Unopened);
    }
    let subkey = cipher.subkey(Purpose::Xattr);
    Ok(LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM_SIV, subkey.as_slice()).expect("32 bytes are a key"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::data_key::{CounterStart, DataKey};

    const PUBLISHED: &str = "1.AAECAwQFBgcICQoLnVwddbm1qfnTfnhCYrUrf6rxdw0gWd1zxOVU6PtIXiLzUa5SRIOoAcOTrg6ioB09Xx7jZjZ5VgdYJPx9i03eyvj6D40sQy0PkjT3Xz7ABsU";

    fn cipher() -> ContentCipher {
        ContentCipher::new(
            DataKey::from_bytes(Zeroizing::new(std::array::from_fn(|i| i as u8))),
            CounterStart::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 8, 9, 10, 11]),
        )
    }

    fn xattrs(entries: &[(&str, &[u8])]) -> Xattrs {
        let mut xattrs = Xattrs::new();
        for (name, value) in entries {
            xattrs.set(name, value).unwrap();
        }
        xattrs
    }

    #[test]
    fn seals_to_the_published_header() {
        let xattrs = xattrs(&[("user.comment", b"hello")]);
        let nonce = std::array::from_fn(|i| i as u8);
        assert_eq!(
            seal_with_nonce(&cipher(), &xattrs, nonce).unwrap(),
            PUBLISHED
        );
        assert_eq!(open(&cipher(), PUBLISHED), Ok(xattrs));
    }

    #[test]
    fn opens_what_it_sealed() {
        for entries in [
            vec![],
            vec![("user.a", b"".as_slice())],
            vec![("user.a", b"\0\xff"), ("user.b", &[7; 2000])],
        ] {
            let xattrs = xattrs(&entries);
            let header = seal(&cipher(), &xattrs).unwrap();
            assert_eq!(open(&cipher(), &header), Ok(xattrs));
        }
    }

    #[test]
    fn the_limit_is_two_kilobytes_of_names_and_values() {
        let mut xattrs = Xattrs::new();
        assert_eq!(xattrs.set("user.a", &[1; 2042]), Ok(()));
        assert_eq!(xattrs.set("user.a", &[1; 2043]), Err(TooLarge));
        assert_eq!(xattrs.set("b", b""), Err(TooLarge));
        assert_eq!(xattrs.get("user.a").map(<[u8]>::len), Some(2042));
        assert_eq!(xattrs.set("user.a", b""), Ok(()));
        for i in 1..Xattrs::MAX_COUNT {
            assert_eq!(xattrs.set(&format!("u{i}"), b""), Ok(()), "{i}");
        }
        assert_eq!(xattrs.set("one more", b""), Err(TooLarge));
        let header = seal(&cipher(), &xattrs).unwrap();
        assert!(header.len() < 4096, "{}", header.len());
        assert_eq!(open(&cipher(), &header), Ok(xattrs));
    }

    #[test]
    fn refuses_what_it_would_not_have_written() {
        let other = ContentCipher::new(
            DataKey::from_bytes(Zeroizing::new([9; 32])),
            CounterStart::from_be_bytes([1; 16]),
        );
        assert_eq!(open(&other, PUBLISHED), Err(OpenError::Damaged));
        for (header, expected) in [
            (PUBLISHED.replace("1.AAE", "1.AAF"), OpenError::Damaged),
            (PUBLISHED.replace("1.", "2."), OpenError::UnknownVersion),
            (format!("{PUBLISHED}="), OpenError::Damaged),
            ("1.".into(), OpenError::Damaged),
            (String::new(), OpenError::UnknownVersion),
        ] {
            assert_eq!(open(&cipher(), &header), Err(expected), "{header}");
        }
        let pad = |mut v: Vec<u8>| {
            v.resize(v.len().next_multiple_of(64), 0);
            v
        };
        for (name, plain) in [
            ("empty", vec![]),
            ("no padding", vec![0, 0]),
            ("too much padding", vec![0; 128]),
            ("padding that is not zero", {
                let mut v = vec![0; 64];
                v[63] = 1;
                v
            }),
            ("a length beyond the end", pad(vec![1, 0])),
            ("a name without a value", pad(vec![0, 3, 0, 1, b'a'])),
            ("no name", pad(vec![0, 4, 0, 0, 0, 0])),
            (
                "twice the same",
                pad(vec![0, 10, 0, 1, b'a', 0, 0, 0, 1, b'a', 0, 0]),
            ),
            (
                "out of order",
                pad(vec![0, 10, 0, 1, b'b', 0, 0, 0, 1, b'a', 0, 0]),
            ),
            ("no text", pad(vec![0, 5, 0, 1, 0xff, 0, 0])),
        ] {
            assert_eq!(Xattrs::decode(&plain), None, "{name}");
        }
    }

    #[test]
    fn an_unopened_cipher_seals_and_opens_nothing() {
        let unopened = ContentCipher::unopened(DataKey::generate(), CounterStart::generate());
        assert_eq!(seal(&unopened, &Xattrs::new()), Err(Unopened));
        assert_eq!(
            open(&unopened, PUBLISHED),
            Err(OpenError::Unopened(Unopened))
        );
    }
}
