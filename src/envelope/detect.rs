//! Which envelope an object has. Strict: what no known writer writes is refused, with a word on what was
//! found, and never taken for an object that is not encrypted.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::error::{Error, excerpt};
use super::format::{Format, is_envelope_name, is_note, names};

/// The counter start as an envelope gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// `ossvault-v: 1`: computed from the key, which saves an RSA operation.
    Derived,
    /// Wrapped decimal text.
    Decimal(Vec<u8>),
    /// Wrapped, 16 bytes.
    Raw(Vec<u8>),
}

/// A wrapped key as it stands in an object's metadata. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub format: Format,
    /// What opens to the 32 bytes of the data key.
    pub wrapped_key: Vec<u8>,
    pub start: Start,
    /// Says which key may open it: our key id, else the SDK's material description. Never trusted.
    pub hint: Option<String>,
}

impl Envelope {
    /// Stands for an object that has none.
    pub fn plain() -> Envelope {
        Envelope {
            format: Format::Plain,
            wrapped_key: Vec::new(),
            start: Start::Derived,
            hint: None,
        }
    }

    /// The key id that our writers leave, if the hint is one: 16 lower-case hex digits.
    pub fn key_id(&self) -> Option<&str> {
        self.hint.as_deref().filter(|hint| is_key_id(hint))
    }
}

fn is_key_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The envelope in an object's user metadata (names without `x-oss-meta-`, in lower case); none for an
/// object that is not encrypted.
///
/// # Errors
/// [`Error::Incomplete`], [`Error::Malformed`], [`Error::Kms`] and the unknown algorithms and versions.
pub fn detect(user: &BTreeMap<String, String>) -> Result<Option<Envelope>, Error> {
    let has = |name: &str| user.contains_key(name);
    let seed = has(names::SEED_KEY) || has(names::SEED_START);
    if has(names::SDK_KEY) {
        let sdk = sdk(user)?;
        // A stray half of the seed pair next to it is refused too: nobody writes that.
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
    // What is left of an envelope: the content is encrypted all the same.
    match user
        .keys()
        .find(|name| is_envelope_name(name) && !is_note(name))
    {
        None => Ok(None),
        Some(name) => Err(missing_key(name)),
    }
}

/// For an object that has this envelope name, but no wrapped key.
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
    Ok(Envelope {
        format: Format::Seed,
        wrapped_key,
        start: if is_version_1(user)? {
            Start::Derived
        } else {
            Start::Decimal(wrapped_start)
        },
        hint: hint(user),
    })
}

fn sdk(user: &BTreeMap<String, String>) -> Result<Envelope, Error> {
    const CEK_ALG: &str = "x-oss-meta-client-side-encryption-cek-alg";
    const WRAP_ALG: &str = "x-oss-meta-client-side-encryption-wrap-alg";
    let wrap = required(user, "sdk", names::SDK_WRAP_ALG, WRAP_ALG)?;
    let cipher = required(user, "sdk", names::SDK_CEK_ALG, CEK_ALG)?;
    // Told before the values are looked at: a KMS blob is no base64 of an RSA value.
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
    // Only to refuse what a later version may write.
    is_version_1(user)?;
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
        // "GCM" is a false label: what that release did is CTR.
        None | Some("AES/GCM/NoPadding" | "AES/CTR/NoPadding") => {}
        Some(other) => return Err(Error::UnknownCipher(excerpt(other))),
    }
    is_version_1(user)?;
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
        hint: hint(user),
    })
}

fn is_version_1(user: &BTreeMap<String, String>) -> Result<bool, Error> {
    match user.get(names::VERSION).map(String::as_str) {
        None => Ok(false),
        Some("1") => Ok(true),
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

/// Standard base64 with padding, on one line, of an RSA value for 2048 to 4096 bits.
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
    let bytes = BASE64_STANDARD
        .decode(value)
        .map_err(|_| malformed("no base64"))?;
    if !(128..=1024).contains(&bytes.len()) {
        return Err(malformed("no RSA value by its length"));
    }
    Ok(bytes)
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
    fn what_is_refused_says_why() {
        let (k, s) = (value(1), value(2));
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
            // Remnants: what another tool left is still encrypted.
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
                "x-oss-meta-x-oss-key of the envelope is malformed: no base64",
            ),
            (
                vec![("x-oss-key", "AAAA"), seed_s],
                "no RSA value by its length",
            ),
            (vec![seed_k, seed_s, ("ossvault-v", "2")], "version 2"),
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
