//! Extended attributes: all of a file's `user.*` attributes as one encrypted header value.
//!
//! The plaintext is `u16be` of the length that follows, then for each attribute in order of name
//! `u16be` length and name, `u16be` length and value, then zeros to a multiple of 64 bytes.
//!
//! Version 2, which is written, encrypts it under a key of its own: a holder of the object's data key, who
//! may have planted the object or kept the key from before a rotation, cannot read attributes that are set
//! later. The header is `2.`, that key wrapped with RSA-OAEP, `.`, and nonce, ciphertext and tag of
//! AES-256-GCM-SIV; both in base64url without padding. The additional data contains the SHA-256 of the
//! object's wrapped data key, so that the value can be opened only together with that envelope. Names are
//! stored without `user.`.
//!
//! Version 1, which is only read, is `1.` and nonce, ciphertext and tag under the xattr subkey of the
//! object's data key, with full names.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::ctr::{ContentCipher, Unopened};
use super::data_key::Purpose;
use super::key_ring::KeyRing;
use super::random;
use super::rsa_key::PublicKey;
use super::stack::wiped;

const AAD_V1: &[u8] = b"ossvault/xattr/1";
const AAD_V2: &[u8] = b"ossvault/xattr/2";
const NONCE_LEN: usize = 12;
const PADDING: usize = 64;

/// The service keeps 8 KB of metadata: longer values are not ossvault's, and are not decoded; in bytes.
const LONGEST_HEADER: usize = 8192;

/// The prefix of every name.
const NAMESPACE: &str = "user.";

/// XATTR_NAME_MAX
const LONGEST_NAME: usize = 255;

/// A file's extended attributes, by name. The limits hold by construction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<String, Vec<u8>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// More than fits beside the other metadata of an object.
    #[error(
        "more than {} bytes or {} extended attributes",
        Xattrs::MAX_BYTES,
        Xattrs::MAX_COUNT
    )]
    TooLarge,
    #[error("not a name of an extended attribute")]
    NotAName,
}

impl Xattrs {
    /// Of names and values together. The service keeps 8 KB of metadata; encrypted, these take less than 4
    /// KB.
    pub const MAX_BYTES: usize = 2048;
    /// Each attribute adds four bytes of lengths to its name and value.
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

    /// Whether a file can have an attribute of that name: `user.` followed by at least one byte, at most 255
    /// bytes in total. A name that no program could have set is not shown to programs either: the kernel and
    /// programs treat a zero byte as the end of a name, and names outside `user.` as the system's.
    pub fn is_name(name: &str) -> bool {
        name.len() > NAMESPACE.len()
            && name.len() <= LONGEST_NAME
            && name.starts_with(NAMESPACE)
            && !name.contains('\0')
    }

    /// Sets or replaces one attribute.
    ///
    /// # Errors
    /// See [`SetError`]; nothing has changed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), SetError> {
        if !Xattrs::is_name(name) {
            return Err(SetError::NotAName);
        }
        let others: usize = self
            .0
            .iter()
            .filter(|(n, _)| *n != name)
            .map(|(n, v)| n.len() + v.len())
            .sum();
        let count = self.0.len() + usize::from(!self.0.contains_key(name));
        if others + name.len() + value.len() > Self::MAX_BYTES || count > Self::MAX_COUNT {
            return Err(SetError::TooLarge);
        }
        self.0.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    /// Returns its previous value.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    pub(crate) fn encode(&self, version: Version) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![0, 0]);
        for (name, value) in &self.0 {
            let name = match version {
                Version::One => name,
                Version::Two => &name[NAMESPACE.len()..],
            };
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

    /// Accepts exactly what [`encode`](Self::encode) writes.
    pub(crate) fn decode(plain: &[u8], version: Version) -> Option<Xattrs> {
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
            let name = match version {
                Version::One => name.to_owned(),
                Version::Two => format!("{NAMESPACE}{name}"),
            };
            let value = take()??;
            let in_order = xattrs
                .0
                .last_key_value()
                .is_none_or(|(last, _)| *last < name);
            if !in_order {
                return None;
            }
            xattrs.set(&name, value).ok()?;
        }
        Some(xattrs)
    }
}

/// A sealed value that ossvault did not write, that was changed, or that belongs to another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the extended attributes are damaged or belong to another object")]
    Damaged,
    #[error("the extended attributes have an unknown version")]
    UnknownVersion,
    /// Of version 2.
    #[error("no private key opens the extended attributes")]
    NotOpened,
    /// Of version 1.
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

/// How a header value is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Under the object's data key.
    One,
    /// Under its own key.
    Two,
}

impl Version {
    /// None for an unknown version.
    pub fn of(header: &str) -> Option<Version> {
        match header.split_once('.')?.0 {
            "1" => Some(Version::One),
            "2" => Some(Version::Two),
            _ => None,
        }
    }
}

/// The header value for an object whose data key is wrapped as `wrapped_data_key`: encrypted under a fresh
/// key, which `public` wraps, with a fresh nonce.
pub fn seal(public: &PublicKey, wrapped_data_key: &[u8], xattrs: &Xattrs) -> String {
    let mut nonce = [0; NONCE_LEN];
    random::fill(&mut nonce);
    let (wrapped_key, sealed) = wiped(|| {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(key.as_mut_slice());
        let plain = xattrs.encode(Version::Two);
        let sealed = encrypt(&key, nonce, &aad_v2(wrapped_data_key), plain);
        (public.wrap(key.as_slice()), sealed)
    });
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!("2.{}.{}", encode(&wrapped_key), encode(&sealed))
}

/// Opens a value of version 2 with any of the keys; `hint` names the one to try first. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    keys: &KeyRing,
    hint: Option<&str>,
    wrapped_data_key: &[u8],
    header: &str,
) -> Result<Xattrs, OpenError> {
    let (wrapped_key, sealed) = split(header)?;
    let ([key], _) = keys
        .unwrap(hint, [&wrapped_key])
        .ok_or(OpenError::NotOpened)?;
    let key: &[u8; 32] = key.as_slice().try_into().map_err(|_| OpenError::Damaged)?;
    decrypt(key, &aad_v2(wrapped_data_key), &sealed, Version::Two)
}

/// Opens a value of version 1 with the object's data key.
///
/// # Errors
/// See [`OpenError`].
pub fn open_v1(cipher: &ContentCipher, header: &str) -> Result<Xattrs, OpenError> {
    if !cipher.is_opened() {
        return Err(Unopened.into());
    }
    let sealed = decode(body_of(header, "1.")?)?;
    wiped(|| {
        let key = cipher.subkey(Purpose::Xattr);
        decrypt(&key, AAD_V1, &sealed, Version::One)
    })
}

/// The wrapped key and the sealed attributes of a value of version 2.
pub(crate) fn split(header: &str) -> Result<(Vec<u8>, Vec<u8>), OpenError> {
    let body = body_of(header, "2.")?;
    let (wrapped_key, sealed) = body.split_once('.').ok_or(OpenError::Damaged)?;
    Ok((decode(wrapped_key)?, decode(sealed)?))
}

/// Identifies the envelope that the value belongs to.
fn aad_v2(wrapped_data_key: &[u8]) -> Vec<u8> {
    [AAD_V2, &Sha256::digest(wrapped_data_key)].concat()
}

fn body_of<'a>(header: &'a str, version: &str) -> Result<&'a str, OpenError> {
    if header.len() > LONGEST_HEADER {
        return Err(OpenError::Damaged);
    }
    let body = header.strip_prefix(version);
    body.ok_or(OpenError::UnknownVersion)
}

fn decode(text: &str) -> Result<Vec<u8>, OpenError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
    bytes.map_err(|_| OpenError::Damaged)
}

/// Nonce, ciphertext and tag.
fn encrypt(
    key: &[u8; 32],
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    mut sealed: Zeroizing<Vec<u8>>,
) -> Vec<u8> {
    wiped(|| {
        aead(key)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut *sealed,
            )
            .expect("a few KiB can be sealed");
        [nonce.as_slice(), &sealed].concat()
    })
}

fn decrypt(
    key: &[u8; 32],
    aad: &[u8],
    sealed: &[u8],
    version: Version,
) -> Result<Xattrs, OpenError> {
    let (nonce, sealed) = sealed
        .split_first_chunk::<NONCE_LEN>()
        .ok_or(OpenError::Damaged)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    wiped(|| {
        let plain = aead(key)
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                &mut sealed,
            )
            .map_err(|_| OpenError::Damaged)?;
        Xattrs::decode(plain, version).ok_or(OpenError::Damaged)
    })
}

/// Even a repeated nonce would only reveal that two values are equal.
fn aead(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).expect("32 bytes are a key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::data_key::{CounterStart, DataKey};
    use crate::crypto::key_pair::KeyPair;
    use std::sync::LazyLock;

    const PUBLISHED: &str = "1.AAECAwQFBgcICQoLnVwddbm1qfnTfnhCYrUrf6rxdw0gWd1zxOVU6PtIXiLzUa5SRIOoAcOTrg6ioB09Xx7jZjZ5VgdYJPx9i03eyvj6D40sQy0PkjT3Xz7ABsU";

    /// Created with another implementation.
    const PUBLISHED_V2: &str = "AAECAwQFBgcICQoLbhgTRfQIM_m3wSVccfBGhil_2F-OzfPrnxaXnJAEuIC7XMmhjx_xM1RSO9NKy1oAjrD95XVsHPj1M1am_MAL6VwDEFlQVWSBOJud_mGTUdc";

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

    static PAIRS: LazyLock<[KeyPair; 2]> =
        LazyLock::new(|| std::array::from_fn(|_| KeyPair::generate(2048).unwrap()));

    fn ring(index: usize) -> KeyRing {
        let pem = PAIRS[index].private_pem(None).unwrap();
        let key = crate::crypto::key_parse::private_key(pem.as_bytes(), &mut || None).unwrap();
        KeyRing::single(key)
    }

    /// In place of an object's wrapped data key.
    const BESIDE: &[u8] = &[3; 256];

    fn sealed(xattrs: &Xattrs) -> String {
        seal(PAIRS[0].public(), BESIDE, xattrs)
    }

    fn opened(header: &str) -> Result<Xattrs, OpenError> {
        open(&ring(0), None, BESIDE, header)
    }

    #[test]
    fn the_published_header_of_version_1_opens() {
        let xattrs = xattrs(&[("user.comment", b"hello")]);
        assert_eq!(open_v1(&cipher(), PUBLISHED), Ok(xattrs.clone()));
        // It is also the result of its plaintext, key and nonce.
        let nonce = std::array::from_fn(|i| i as u8);
        let key = cipher().subkey(Purpose::Xattr);
        let bytes = encrypt(&key, nonce, AAD_V1, xattrs.encode(Version::One));
        let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(format!("1.{text}"), PUBLISHED);
    }

    #[test]
    fn the_published_bytes_of_version_2_are_these() {
        let key: [u8; 32] = std::array::from_fn(|i| 0x20 + i as u8);
        let nonce = std::array::from_fn(|i| i as u8);
        let beside: [u8; 256] = std::array::from_fn(|i| i as u8);
        let xattrs = xattrs(&[("user.comment", b"hello")]);
        let aad = aad_v2(&beside);
        let bytes = encrypt(&key, nonce, &aad, xattrs.encode(Version::Two));
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(&bytes), PUBLISHED_V2);
        let document = include_str!("../../docs/format.md");
        assert!(document.contains(PUBLISHED_V2) && document.contains(PUBLISHED));
        assert_eq!(decrypt(&key, &aad, &bytes, Version::Two), Ok(xattrs));
    }

    #[test]
    fn opens_what_it_sealed() {
        for entries in [
            vec![],
            vec![("user.a", b"".as_slice())],
            vec![("user.a", b"\0\xff"), ("user.b", &[7; 2000])],
        ] {
            let xattrs = xattrs(&entries);
            let header = sealed(&xattrs);
            assert_eq!(Version::of(&header), Some(Version::Two));
            assert_eq!(opened(&header), Ok(xattrs.clone()));
            // Neither key nor nonce is reused.
            assert_ne!(sealed(&xattrs), header);
        }
    }

    /// "They are encrypted under a key of their own, a new one at each change: knowing the file's key does
    /// not reveal attributes that are set later."
    ///
    /// Regression: a holder of the object's data key, who may have planted the object, could read them.
    #[test]
    fn the_objects_data_key_opens_nothing() {
        let header = sealed(&xattrs(&[("user.a", b"later")]));
        assert_eq!(open_v1(&cipher(), &header), Err(OpenError::UnknownVersion));
        let as_version_1 = header.replacen("2.", "1.", 1);
        assert_eq!(open_v1(&cipher(), &as_version_1), Err(OpenError::Damaged));
        let (_, last) = header.rsplit_once('.').unwrap();
        let alone = format!("1.{last}");
        assert_eq!(open_v1(&cipher(), &alone), Err(OpenError::Damaged));
    }

    #[test]
    fn it_opens_with_its_key_beside_its_envelope_and_as_it_is() {
        let header = sealed(&xattrs(&[("user.a", b"b")]));
        let foreign = open(&ring(1), None, BESIDE, &header);
        assert_eq!(foreign, Err(OpenError::NotOpened));
        let elsewhere = open(&ring(0), None, &[4; 256], &header);
        assert_eq!(elsewhere, Err(OpenError::Damaged));
        let (front, last) = header.rsplit_once('.').unwrap();
        // From another header of the same object.
        let (_, other) = {
            let header = sealed(&xattrs(&[("user.a", b"c")]));
            let (front, last) = header.rsplit_once('.').unwrap();
            (front.to_owned(), last.to_owned())
        };
        let short = BASE64_URL_SAFE_NO_PAD.encode(PAIRS[0].public().wrap(&[1; 31]));
        for (header, expected) in [
            (format!("{front}.{other}"), OpenError::Damaged),
            (format!("{header}="), OpenError::Damaged),
            (format!("{header}.{last}"), OpenError::Damaged),
            (format!("2.{short}.{last}"), OpenError::Damaged),
            (format!("2..{last}"), OpenError::NotOpened),
            (front.to_owned(), OpenError::Damaged),
            (format!("{front}."), OpenError::Damaged),
            ("2.".into(), OpenError::Damaged),
            (format!("2.{}", "A".repeat(1 << 20)), OpenError::Damaged),
            (header.replacen("2.", "3.", 1), OpenError::UnknownVersion),
        ] {
            assert_eq!(opened(&header), Err(expected), "{header}");
        }
    }

    /// A name of another namespace, or with a zero byte in it, was listed as two names, one of which programs
    /// interpret as the system's.
    #[test]
    fn names_that_no_program_could_have_set_make_the_value_damaged() {
        let longest = format!("user.{}", "a".repeat(250));
        for name in ["user.a", "user.ä\u{202e}", "user. ", longest.as_str()] {
            assert_eq!(
                opened(&sealed(&xattrs(&[(name, b"x")]))),
                Ok(xattrs(&[(name, b"x")]))
            );
            let plain = pad(plain_of(&[name.as_bytes(), b"x"]));
            let found = Xattrs::decode(&plain, Version::One);
            assert_eq!(found, Some(xattrs(&[(name, b"x")])), "{name:?}");
        }
        let too_long = format!("{longest}a");
        for name in [
            "user.",
            "user",
            "",
            "a",
            "security.capability",
            "trusted.a",
            "system.posix_acl_access",
            "USER.a",
            "user.a\0security.selinux",
            "user.\0",
            too_long.as_str(),
        ] {
            assert_eq!(Xattrs::new().set(name, b"x"), Err(SetError::NotAName));
            let plain = pad(plain_of(&[name.as_bytes(), b"x"]));
            assert_eq!(Xattrs::decode(&plain, Version::One), None, "{name:?}");
        }
        // A name in version 2 is always in `user.`.
        for name in ["", "a\0security.selinux", &too_long[5..]] {
            let plain = pad(plain_of(&[name.as_bytes(), b"x"]));
            assert_eq!(Xattrs::decode(&plain, Version::Two), None, "{name:?}");
        }
        let plain = pad(plain_of(&[b"security.capability", b"x"]));
        let found = Xattrs::decode(&plain, Version::Two);
        assert_eq!(found, Some(xattrs(&[("user.security.capability", b"x")])));
    }

    #[test]
    fn the_limit_is_two_kilobytes_of_names_and_values() {
        let mut xattrs = Xattrs::new();
        assert_eq!(xattrs.set("user.a", &[1; 2042]), Ok(()));
        assert_eq!(xattrs.set("user.a", &[1; 2043]), Err(SetError::TooLarge));
        assert_eq!(xattrs.set("user.b", b""), Err(SetError::TooLarge));
        assert_eq!(xattrs.get("user.a").map(<[u8]>::len), Some(2042));
        assert_eq!(xattrs.set("user.a", b""), Ok(()));
        for i in 1..Xattrs::MAX_COUNT {
            // The maximum length of all of them.
            let name = format!("user.{i:03}");
            assert_eq!(xattrs.set(&name, b""), Ok(()), "{i}");
        }
        assert_eq!(xattrs.set("user.one more", b""), Err(SetError::TooLarge));
        // 255 names of 8 bytes, and one of 6.
        assert_eq!(xattrs.set("user.a", b"22"), Ok(()));
        let header = sealed(&xattrs);
        assert_eq!(opened(&header), Ok(xattrs));
        // Without the namespace's name, many small attributes take no more than one large one.
        let mut one = Xattrs::new();
        one.set("user.a", &[1; 2042]).unwrap();
        for header in [header, sealed(&one)] {
            assert!(header.len() <= 3300, "{}", header.len());
        }
    }

    #[test]
    fn version_1_refuses_what_it_would_not_have_written() {
        let other = ContentCipher::new(
            DataKey::from_bytes(Zeroizing::new([9; 32])),
            CounterStart::from_be_bytes([1; 16]),
        );
        assert_eq!(open_v1(&other, PUBLISHED), Err(OpenError::Damaged));
        for (header, expected) in [
            (PUBLISHED.replace("1.AAE", "1.AAF"), OpenError::Damaged),
            (PUBLISHED.replace("1.", "2."), OpenError::UnknownVersion),
            (format!("{PUBLISHED}="), OpenError::Damaged),
            ("1.".into(), OpenError::Damaged),
            (String::new(), OpenError::UnknownVersion),
        ] {
            assert_eq!(open_v1(&cipher(), &header), Err(expected), "{header}");
        }
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
            ("a name without a value", pad(plain_of(&[b"user.a"]))),
            ("no name", pad(vec![0, 4, 0, 0, 0, 0])),
            (
                "twice the same",
                pad(plain_of(&[b"user.a", b"", b"user.a", b""])),
            ),
            (
                "out of order",
                pad(plain_of(&[b"user.b", b"", b"user.a", b""])),
            ),
            ("no text", pad(plain_of(&[b"user.\xff", b""]))),
        ] {
            for version in [Version::One, Version::Two] {
                assert_eq!(Xattrs::decode(&plain, version), None, "{name}");
            }
        }
    }

    fn pad(mut plain: Vec<u8>) -> Vec<u8> {
        plain.resize(plain.len().next_multiple_of(PADDING), 0);
        plain
    }

    /// Without padding.
    fn plain_of(fields: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for field in fields {
            out.extend((field.len() as u16).to_be_bytes());
            out.extend_from_slice(field);
        }
        [&(out.len() as u16).to_be_bytes(), out.as_slice()].concat()
    }

    #[test]
    fn an_unopened_cipher_opens_nothing() {
        let unopened = ContentCipher::unopened(DataKey::generate(), CounterStart::generate());
        assert_eq!(
            open_v1(&unopened, PUBLISHED),
            Err(OpenError::Unopened(Unopened))
        );
    }
}
