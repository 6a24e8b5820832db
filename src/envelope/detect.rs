//! Detects an object's envelope. Strict: a form that no known writer produces is rejected, with a description
//! of what was found, and never treated as an unencrypted object.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::error::{Error, excerpt};
use super::format::{Format, claimed_kind, is_envelope_name, is_note, names};
use crate::crypto::data_key::ContentKind;

/// The sizes of RSA values, in bytes: for 1024 to 8192 bits. The keys decide which of them can be opened.
const WRAPPED: std::ops::RangeInclusive<usize> = 128..=1024;

/// The counter start in an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// `ossvault-v: 1`: computed from the key, as that version did.
    DerivedV1,
    /// Wrapped decimal text.
    Decimal(Vec<u8>),
    /// Wrapped, 16 bytes.
    Raw(Vec<u8>),
}

/// A wrapped key in an object's metadata. Not a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which names the metadata uses, and how the values are wrapped.
    pub format: Format,
    /// Unwraps to the 32 bytes of the data key.
    pub wrapped_key: Vec<u8>,
    /// Where the counter of the content begins.
    pub start: Start,
    /// `ossvault-v: 2`: the start must be one that is derived from the key.
    pub bound: bool,
    /// The type of the content that the other metadata claims. A derived start of another type is an error.
    pub kind: ContentKind,
    /// The key that may open it: ossvault's key id, or the SDK's material description. Never trusted.
    pub hint: Option<String>,
}

impl Envelope {
    /// For an unencrypted object.
    pub fn plain() -> Envelope {
        Envelope {
            format: Format::Plain,
            wrapped_key: Vec::new(),
            start: Start::DerivedV1,
            bound: false,
            kind: ContentKind::File,
            hint: None,
        }
    }

    /// Whether the other envelope has the same key and start in the same wrapping, whatever type is claimed.
    pub fn same_wrapping(&self, other: &Envelope) -> bool {
        let claims_the_same = Envelope {
            kind: other.kind,
            ..self.clone()
        };
        claims_the_same == *other
    }

    /// The key id written by ossvault, if the hint is one: 16 lower-case hex digits.
    pub fn key_id(&self) -> Option<&str> {
        self.hint.as_deref().filter(|hint| is_key_id(hint))
    }
}

fn is_key_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The envelope in an object's user metadata (names without `x-oss-meta-`, in lower case); none for an
/// unencrypted object.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Kms`], or an unknown algorithm or version.
pub fn detect(user: &BTreeMap<String, String>) -> Result<Option<Envelope>, Error> {
    let has = |name: &str| user.contains_key(name);
    let seed = has(names::SEED_KEY) || has(names::SEED_START);
    if has(names::SDK_KEY) {
        let sdk = sdk(user)?;
        // A stray half of the seed pair beside it is rejected too: no writer produces that.
        return Ok(Some(if seed {
            Envelope {
                format: Format::Dual,
                ..self::seed(user)?
            }
        } else {
            sdk
        }));
    }
    if has(names::SEED_KEY) {
        return self::seed(user).map(Some);
    }
    if has(names::LEGACY_KEY) {
        return legacy(user).map(Some);
    }
    // The remains of an envelope: the content is still encrypted.
    match user
        .keys()
        .find(|name| is_envelope_name(name) && !is_note(name))
    {
        None => Ok(None),
        Some(name) => Err(missing_key(name)),
    }
}

/// For an object that has this envelope header, but no wrapped key.
fn missing_key(name: &str) -> Error {
    let (family, missing) = if name.starts_with(names::SDK_PREFIX) {
        ("sdk", "x-oss-meta-client-side-encryption-key")
    } else if name.starts_with(names::LEGACY_PREFIX)
        || matches!(name, names::LEGACY_CEK_ALG | names::LEGACY_WRAP_ALG)
    {
        ("legacy", "x-oss-meta-oss-crypto-key")
    } else {
        ("seed", "x-oss-meta-x-oss-key")
    };
    Error::Incomplete { family, missing }
}

fn seed(user: &BTreeMap<String, String>) -> Result<Envelope, Error> {
    let wrapped_key = wrapped(user, "seed", names::SEED_KEY, "x-oss-meta-x-oss-key")?;
    let wrapped_start = wrapped(user, "seed", names::SEED_START, "x-oss-meta-x-oss-start")?;
    let version = version(user)?;
    Ok(Envelope {
        format: Format::Seed,
        wrapped_key,
        start: match version {
            Version::One => Start::DerivedV1,
            Version::None | Version::Two => Start::Decimal(wrapped_start),
        },
        bound: version == Version::Two,
        kind: claimed_kind(user),
        hint: hint(user),
    })
}

fn sdk(user: &BTreeMap<String, String>) -> Result<Envelope, Error> {
    const CEK_ALG: &str = "x-oss-meta-client-side-encryption-cek-alg";
    const WRAP_ALG: &str = "x-oss-meta-client-side-encryption-wrap-alg";
    let wrap = required(user, "sdk", names::SDK_WRAP_ALG, WRAP_ALG)?;
    let cipher = required(user, "sdk", names::SDK_CEK_ALG, CEK_ALG)?;
    // Checked before the values: a KMS blob is not the base64 of an RSA value.
    let format = if wrap.eq_ignore_ascii_case("RSA/NONE/PKCS1Padding") {
        Format::Sdk
    } else if wrap.eq_ignore_ascii_case("RSA/NONE/OAEPWithSHA-1AndMGF1Padding") {
        Format::SdkOaep
    } else if wrap.to_ascii_uppercase().starts_with("KMS/") {
        return Err(Error::Kms(excerpt(wrap)));
    } else {
        return Err(Error::UnknownWrap(excerpt(wrap)));
    };
    if cipher != "AES/CTR/NoPadding" {
        return Err(Error::UnknownCipher(excerpt(cipher)));
    }
    let bound = version(user)? == Version::Two;
    Ok(Envelope {
        format,
        wrapped_key: wrapped(
            user,
            "sdk",
            names::SDK_KEY,
            "x-oss-meta-client-side-encryption-key",
        )?,
        start: Start::Raw(wrapped(
            user,
            "sdk",
            names::SDK_START,
            "x-oss-meta-client-side-encryption-start",
        )?),
        bound,
        kind: claimed_kind(user),
        hint: hint(user),
    })
}

fn legacy(user: &BTreeMap<String, String>) -> Result<Envelope, Error> {
    match user.get(names::LEGACY_WRAP_ALG).map(String::as_str) {
        None | Some("rsa") => {}
        Some("kms") => return Err(Error::Kms("kms".into())),
        Some(other) => return Err(Error::UnknownWrap(excerpt(other))),
    }
    match user.get(names::LEGACY_CEK_ALG).map(String::as_str) {
        // "GCM" is an incorrect label: that release used CTR.
        None | Some("AES/GCM/NoPadding" | "AES/CTR/NoPadding") => {}
        Some(other) => return Err(Error::UnknownCipher(excerpt(other))),
    }
    let bound = version(user)? == Version::Two;
    Ok(Envelope {
        format: Format::Legacy,
        wrapped_key: wrapped(
            user,
            "legacy",
            names::LEGACY_KEY,
            "x-oss-meta-oss-crypto-key",
        )?,
        start: Start::Decimal(wrapped(
            user,
            "legacy",
            names::LEGACY_START,
            "x-oss-meta-oss-crypto-start",
        )?),
        bound,
        kind: claimed_kind(user),
        hint: hint(user),
    })
}

/// The value of `ossvault-v`. Version 1 was only ever written in the formats seed and dual; in the others it
/// has no meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    None,
    One,
    Two,
}

fn version(user: &BTreeMap<String, String>) -> Result<Version, Error> {
    match user.get(names::VERSION).map(String::as_str) {
        None => Ok(Version::None),
        Some("1") => Ok(Version::One),
        Some("2") => Ok(Version::Two),
        Some(other) => Err(Error::UnknownVersion(excerpt(other))),
    }
}

fn hint(user: &BTreeMap<String, String>) -> Option<String> {
    user.get(names::KEY_ID)
        .filter(|id| is_key_id(id))
        .or_else(|| user.get(names::SDK_MATDESC))
        .cloned()
}

fn required<'a>(
    user: &'a BTreeMap<String, String>,
    family: &'static str,
    name: &str,
    full_name: &'static str,
) -> Result<&'a str, Error> {
    user.get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty())
        .ok_or(Error::Incomplete {
            family,
            missing: full_name,
        })
}

/// Standard base64 with padding, on one line, of an RSA value. The length is checked before anything is
/// decoded.
fn wrapped(
    user: &BTreeMap<String, String>,
    family: &'static str,
    name: &str,
    full_name: &'static str,
) -> Result<Vec<u8>, Error> {
    let malformed = |reason| Error::Malformed {
        name: full_name,
        reason,
    };
    let value = required(user, family, name, full_name)?;
    let no_rsa_value = || malformed("its length is not that of an RSA value");
    if value.len() > WRAPPED.end().div_ceil(3) * 4 {
        return Err(no_rsa_value());
    }
    let bytes = BASE64_STANDARD
        .decode(value)
        .map_err(|_| malformed("not base64"))?;
    match WRAPPED.contains(&bytes.len()) {
        true => Ok(bytes),
        false => Err(no_rsa_value()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    }

    fn value(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; 256])
    }

    const CTR: (&str, &str) = ("client-side-encryption-cek-alg", "AES/CTR/NoPadding");
    const V15: (&str, &str) = ("client-side-encryption-wrap-alg", "RSA/NONE/PKCS1Padding");

    #[test]
    fn each_format_is_known_by_its_names() {
        let (k, s) = (value(1), value(2));
        let seed_k = ("x-oss-key", k.as_str());
        let seed_s = ("x-oss-start", s.as_str());
        let sdk_k = ("client-side-encryption-key", k.as_str());
        let sdk_s = ("client-side-encryption-start", s.as_str());
        let old_k = ("oss-crypto-key", k.as_str());
        let old_s = ("oss-crypto-start", s.as_str());
        let lower = ("client-side-encryption-wrap-alg", "rsa/none/pkcs1padding");
        let oaep = (
            "client-side-encryption-wrap-alg",
            "RSA/NONE/OAEPWithSHA-1AndMGF1Padding",
        );
        for (entries, expected) in [
            (vec![], None),
            (vec![("mode", "420")], None),
            (vec![("unencrypted-content-length", "3")], None),
            (vec![seed_k, seed_s], Some(Format::Seed)),
            (vec![seed_k, seed_s, old_k], Some(Format::Seed)),
            (vec![sdk_k, sdk_s, CTR, V15], Some(Format::Sdk)),
            (vec![sdk_k, sdk_s, CTR, lower], Some(Format::Sdk)),
            (vec![sdk_k, sdk_s, CTR, oaep], Some(Format::SdkOaep)),
            (
                vec![sdk_k, sdk_s, CTR, V15, old_k, old_s],
                Some(Format::Sdk),
            ),
            (
                vec![sdk_k, sdk_s, CTR, V15, seed_k, seed_s],
                Some(Format::Dual),
            ),
            (vec![old_k, old_s], Some(Format::Legacy)),
            (
                vec![
                    old_k,
                    old_s,
                    ("oss-wrap-alg", "rsa"),
                    ("oss-cek-alg", "AES/GCM/NoPadding"),
                ],
                Some(Format::Legacy),
            ),
        ] {
            let found = detect(&user(&entries)).unwrap();
            assert_eq!(found.map(|e| e.format), expected, "{entries:?}");
        }
    }

    #[test]
    fn a_rejected_envelope_has_a_reason() {
        let (k, s) = (value(1), value(2));
        // Complete base64, of more bytes than any key unwraps.
        let long = BASE64_STANDARD.encode([1; 1 << 20]);
        let seed_k = ("x-oss-key", k.as_str());
        let seed_s = ("x-oss-start", s.as_str());
        let sdk_k = ("client-side-encryption-key", k.as_str());
        let sdk_s = ("client-side-encryption-start", s.as_str());
        let old_k = ("oss-crypto-key", k.as_str());
        let old_s = ("oss-crypto-start", s.as_str());
        for (entries, message) in [
            (vec![seed_k], "x-oss-meta-x-oss-start is missing"),
            (vec![seed_s], "x-oss-meta-x-oss-key is missing"),
            (
                vec![seed_k, ("x-oss-start", "")],
                "x-oss-meta-x-oss-start is missing",
            ),
            (vec![("ossvault-v", "1")], "x-oss-meta-x-oss-key is missing"),
            // The remains that another tool left: the content is still encrypted.
            (
                vec![("ossvault-xattr", "1.AA")],
                "x-oss-meta-x-oss-key is missing",
            ),
            (
                vec![("ossvault-rewrapped", "1")],
                "x-oss-meta-x-oss-key is missing",
            ),
            (
                vec![("client-side-encryption-matdesc", "{}")],
                "x-oss-meta-client-side-encryption-key is missing",
            ),
            (
                vec![("client-side-encryption-data-size", "9")],
                "x-oss-meta-client-side-encryption-key is missing",
            ),
            (
                vec![("client-side-encryption-unencrypted-content-md5", "")],
                "x-oss-meta-client-side-encryption-key is missing",
            ),
            (
                vec![("oss-crypto-matdesc", "{}")],
                "x-oss-meta-oss-crypto-key is missing",
            ),
            (
                vec![sdk_s],
                "x-oss-meta-client-side-encryption-key is missing",
            ),
            (
                vec![sdk_k, CTR, V15],
                "x-oss-meta-client-side-encryption-start is missing",
            ),
            (
                vec![sdk_k, sdk_s, V15],
                "x-oss-meta-client-side-encryption-cek-alg is missing",
            ),
            (
                vec![sdk_k, sdk_s, CTR],
                "x-oss-meta-client-side-encryption-wrap-alg is missing",
            ),
            (
                vec![sdk_k, sdk_s, CTR, V15, seed_k],
                "x-oss-meta-x-oss-start is missing",
            ),
            (
                vec![sdk_k, sdk_s, CTR, V15, seed_s],
                "x-oss-meta-x-oss-key is missing",
            ),
            (vec![old_k], "x-oss-meta-oss-crypto-start is missing"),
            (
                vec![("oss-wrap-alg", "rsa")],
                "x-oss-meta-oss-crypto-key is missing",
            ),
            (
                vec![("x-oss-key", "!"), seed_s],
                "x-oss-meta-x-oss-key of the envelope is malformed: not base64",
            ),
            (
                vec![("x-oss-key", "AAAA"), seed_s],
                "its length is not that of an RSA value",
            ),
            (
                vec![("x-oss-key", long.as_str()), seed_s],
                "its length is not that of an RSA value",
            ),
            (vec![seed_k, seed_s, ("ossvault-v", "3")], "version 3"),
            (vec![seed_k, seed_s, ("ossvault-v", "02")], "version 02"),
            (vec![seed_k, seed_s, ("ossvault-v", "")], "version "),
            (
                vec![
                    sdk_k,
                    sdk_s,
                    CTR,
                    ("client-side-encryption-wrap-alg", "KMS/ALICLOUD"),
                ],
                "key management service (KMS/ALICLOUD)",
            ),
            (
                vec![
                    sdk_k,
                    sdk_s,
                    CTR,
                    ("client-side-encryption-wrap-alg", "rsa"),
                ],
                "unknown algorithm (rsa)",
            ),
            (
                vec![
                    sdk_k,
                    sdk_s,
                    V15,
                    ("client-side-encryption-cek-alg", "AES/CBC\n"),
                ],
                "unknown algorithm (AES/CBC\\n)",
            ),
            (
                vec![old_k, old_s, ("oss-wrap-alg", "kms")],
                "key management service (kms)",
            ),
            (
                vec![old_k, old_s, ("oss-wrap-alg", "RSA")],
                "unknown algorithm (RSA)",
            ),
            (
                vec![old_k, old_s, ("oss-cek-alg", "AES/CBC")],
                "unknown algorithm (AES/CBC)",
            ),
        ] {
            let error = detect(&user(&entries)).expect_err(message).to_string();
            assert!(error.contains(message), "{entries:?}: {error}");
        }
    }

    #[test]
    fn the_version_and_the_claim_are_part_of_the_envelope() {
        let (k, s) = (value(1), value(2));
        let seed = [("x-oss-key", k.as_str()), ("x-oss-start", s.as_str())];
        let sdk = [
            ("client-side-encryption-key", k.as_str()),
            ("client-side-encryption-start", s.as_str()),
            CTR,
            V15,
        ];
        let legacy = [
            ("oss-crypto-key", k.as_str()),
            ("oss-crypto-start", s.as_str()),
        ];
        for envelope in [
            seed.as_slice(),
            &sdk,
            &legacy,
            &[seed.as_slice(), &sdk].concat(),
        ] {
            for (extra, bound, kind) in [
                (None, false, ContentKind::File),
                (Some(("ossvault-v", "2")), true, ContentKind::File),
                (Some(("mode", "41471")), false, ContentKind::Link),
                (Some(("mode", "33188")), false, ContentKind::File),
                // A mode without type bits, the mode of a directory, and none at all.
                (Some(("mode", "511")), false, ContentKind::File),
                (Some(("mode", "16877")), false, ContentKind::File),
                (Some(("mode", "0120777")), false, ContentKind::File),
            ] {
                let entries: Vec<_> = envelope.iter().copied().chain(extra).collect();
                let found = detect(&user(&entries)).unwrap().unwrap();
                assert_eq!((found.bound, found.kind), (bound, kind), "{entries:?}");
            }
        }
    }

    #[test]
    fn hints_are_our_key_id_or_the_material_description() {
        let (k, s) = (value(1), value(2));
        let base = [
            ("client-side-encryption-key", k.as_str()),
            ("client-side-encryption-start", s.as_str()),
            CTR,
            V15,
        ];
        let matdesc = ("client-side-encryption-matdesc", "{\"desc\":\"a\"}");
        let id = ("ossvault-key", "0123456789abcdef");
        for (extra, hint, key_id) in [
            (vec![], None, None),
            (vec![matdesc], Some("{\"desc\":\"a\"}"), None),
            (vec![id], Some("0123456789abcdef"), Some("0123456789abcdef")),
            (
                vec![id, matdesc],
                Some("0123456789abcdef"),
                Some("0123456789abcdef"),
            ),
            (vec![("ossvault-key", "0123456789ABCDEF")], None, None),
        ] {
            let envelope = detect(&user(&[base.as_slice(), &extra].concat()))
                .unwrap()
                .unwrap();
            assert_eq!(envelope.hint.as_deref(), hint);
            assert_eq!(envelope.key_id(), key_id);
        }
    }
}
