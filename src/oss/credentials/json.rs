//! Keys in JSON: as STS, the metadata service, a credentials URI and commands write them.
//!
//! The values go from the text straight into memory that is wiped. The parser's own messages quote what they did not
//! expect, so that none of them is shown: an error says where, never what.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use zeroize::Zeroizing;

use super::access_key::{AccessKey, Names};
use super::error::Fault;
use crate::base::time;

/// In bytes: what any source may say. A token has at most a few kilobytes.
pub(super) const LARGEST: usize = 64 * 1024;

/// A text that may be a secret: wiped on drop, never printed.
pub(super) struct Secret(pub Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text.to_owned())))
            }
            fn visit_string<E>(self, text: String) -> Result<Secret, E> {
                Ok(Secret(Zeroizing::new(text)))
            }
        }
        deserializer.deserialize_string(Text)
    }
}

/// When a key expires: a time as the service writes it, or seconds since 1970.
pub(super) struct Expiry(Option<SystemTime>);

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Expiry, D::Error> {
        struct Time;
        impl Visitor<'_> for Time {
            type Value = Expiry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }
            fn visit_str<E>(self, text: &str) -> Result<Expiry, E> {
                Ok(Expiry(time::parse_extended(text)))
            }
            fn visit_u64<E>(self, seconds: u64) -> Result<Expiry, E> {
                Ok(Expiry(Some(time::from_unix_seconds(seconds))))
            }
        }
        deserializer.deserialize_any(Time)
    }
}

/// The names that the sources use for the same things.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Credentials")]
    credentials: Option<Box<Document>>,
    /// Of the metadata service: `Success`, or why there is no key.
    #[serde(rename = "Code", alias = "code")]
    code: Option<Secret>,
    #[serde(rename = "AccessKeyId", alias = "access_key_id", alias = "accessKeyId")]
    id: Option<Secret>,
    #[serde(
        rename = "AccessKeySecret",
        alias = "access_key_secret",
        alias = "accessKeySecret"
    )]
    secret: Option<Secret>,
    #[serde(
        rename = "SecurityToken",
        alias = "sts_token",
        alias = "security_token",
        alias = "securityToken"
    )]
    token: Option<Secret>,
    #[serde(rename = "Expiration", alias = "expiration")]
    expiration: Option<Expiry>,
}

const NAMES: Names = Names {
    id: "AccessKeyId",
    secret: "AccessKeySecret",
    token: "SecurityToken",
};

/// Parses a document of some form.
///
/// # Errors
/// It is not JSON, or not of this form: the line and the column where that shows.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    use serde_json::error::Category;
    if bytes.len() > LARGEST {
        return Err(Fault::unusable("it is larger than 64 KiB"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            Category::Eof => "the JSON ends too early",
            Category::Data => "the value is not of the expected form",
            Category::Syntax | Category::Io => "this is not JSON",
        };
        Fault::unusable(format!(
            "line {}, column {}: {what}",
            error.line(),
            error.column()
        ))
    })
}

/// A key with or without the object `Credentials` around it, which has not expired by `now`.
///
/// # Errors
/// As [`parse`]; a field is missing or has a value that no key has, which is not shown; the key has expired.
pub fn key(bytes: &[u8], now: SystemTime) -> Result<AccessKey, Fault> {
    key_at(bytes, now, None)
}

/// The same in an answer of a service, whose clock showed `theirs` at `now`. What counts is how long the key lives by
/// that clock; this machine's need not be right. A difference of more than a day is not believed.
///
/// # Errors
/// As [`key`].
pub(super) fn key_at(
    bytes: &[u8],
    now: SystemTime,
    theirs: Option<SystemTime>,
) -> Result<AccessKey, Fault> {
    let mut document: Document = parse(bytes)?;
    if let Some(code) = &document.code
        && !code.0.eq_ignore_ascii_case("Success")
    {
        return Err(Fault::unusable(format!(
            "the answer says that there are none{}",
            code_in_brackets(&code.0)
        )));
    }
    if document.id.is_none()
        && let Some(inner) = document.credentials.take()
    {
        document = *inner;
    }
    let expires = match document.expiration {
        None => None,
        Some(Expiry(Some(expires))) => Some(moved(expires, now, theirs)),
        Some(Expiry(None)) => {
            return Err(Fault::unusable(
                "Expiration is no time like 2026-01-03T04:05:06Z",
            ));
        }
    };
    let values = [document.id, document.secret, document.token];
    let values = values.map(|value| value.map(|secret| secret.0));
    AccessKey::checked(NAMES, values, expires, now)
}

fn moved(expires: SystemTime, now: SystemTime, theirs: Option<SystemTime>) -> SystemTime {
    /// Clocks in whole seconds, and answers that travel, differ by this much.
    const NOTHING: Duration = Duration::from_secs(30);
    const DAY: Duration = Duration::from_secs(86_400);
    let believed = |offset: &Duration| (NOTHING..=DAY).contains(offset);
    let moved = match theirs.map(|theirs| theirs.duration_since(now)) {
        Some(Ok(ahead)) if believed(&ahead) => expires.checked_sub(ahead),
        Some(Err(behind)) if believed(&behind.duration()) => expires.checked_add(behind.duration()),
        _ => None,
    };
    moved.unwrap_or(expires)
}

/// A service's code for what went wrong, if it looks like one: ` (NoPermission)`. Its message is not shown, because
/// some services repeat what was sent to them.
pub(super) fn code_in_brackets(code: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    match !code.is_empty() && code.len() <= 64 && code.bytes().all(plain) {
        true => format!(" ({code})"),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    /// 2026-01-03T04:05:06Z.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_413_106)
    }

    #[test]
    fn a_key_is_found_in_every_form_that_the_services_write() {
        for (text, token, lifetime) in [
            (
                r#"{"RequestId":"R","AssumedRoleUser":{"Arn":"a","AssumedRoleId":"b"},"Credentials":
                    {"SecurityToken":"CAIS=","Expiration":"2026-01-03T05:05:06Z","AccessKeySecret":"s",
                     "AccessKeyId":"STS.id"}}"#,
                Some("CAIS="),
                Some(3600),
            ),
            (
                r#"{"AccessKeyId":"STS.id","AccessKeySecret":"s","SecurityToken":"t","Code":"Success",
                    "LastUpdated":"2026-01-03T04:00:00Z","Expiration":"2026-01-03T04:05:07.000Z"}"#,
                Some("t"),
                Some(1),
            ),
            (
                r#"{"mode":"StsToken","access_key_id":"STS.id","access_key_secret":"s","sts_token":"t",
                    "expiration":1767413206}"#,
                Some("t"),
                Some(100),
            ),
            (
                r#"{"AccessKeyId":"STS.id","AccessKeySecret":"s"}"#,
                None,
                None,
            ),
            (
                r#"{"AccessKeyId":"STS.id","AccessKeySecret":"s","SecurityToken":null,"Expiration":null}"#,
                None,
                None,
            ),
        ] {
            let key = key(text.as_bytes(), now())
                .map_err(|fault| fault.why)
                .unwrap();
            assert_eq!(
                (key.id(), key.secret(), key.token()),
                ("STS.id", "s", token)
            );
            let expires = lifetime.map(|seconds| now() + Duration::from_secs(seconds));
            assert_eq!(key.expires(), expires);
        }
    }

    #[test]
    fn whatever_is_wrong_is_said_without_a_value() {
        let deep = "[".repeat(10_000);
        let deep_inside = format!(r#"{{"x":{deep}"#);
        let huge = format!(r#"{{"AccessKeyId":"{}"}}"#, "hunter2".repeat(10_000));
        for (text, expected) in [
            ("", "line 1, column 0: the JSON ends"),
            ("hunter2", "line 1, column 1: this is not JSON"),
            (
                "{\n  \"AccessKeyId\": hunter2",
                "line 2, column 18: this is not JSON",
            ),
            (
                "{\"AccessKeyId\":\"hunter2",
                "line 1, column 23: the JSON ends",
            ),
            (
                "{\"AccessKeyId\":\n{\"hunter2\":1}}",
                "line 2, column 0: the value is not",
            ),
            ("{\"AccessKeyId\":12345678}", "line 1, column 23: the value"),
            ("[\"hunter2\"]", "line 1, column"),
            ("\"hunter2\"", "line 1, column"),
            (
                "{\"AccessKeyId\":\"hunter2\"}",
                "AccessKeySecret is missing",
            ),
            (
                "{\"AccessKeySecret\":\"hunter2\"}",
                "AccessKeyId is missing",
            ),
            (
                "{\"AccessKeyId\":\"i\",\"AccessKeyId\":\"hunter2\"}",
                "line 1, column",
            ),
            (
                "{\"AccessKeyId\":\"i\",\"AccessKeySecret\":\"hun\\u0000ter2\"}",
                "AccessKeySecret holds",
            ),
            (
                "{\"AccessKeyId\":\"i\",\"AccessKeySecret\":\"s\",\"Expiration\":\"hunter2\"}",
                "Expiration is no time",
            ),
            (
                "{\"AccessKeyId\":\"i\",\"AccessKeySecret\":\"s\",\"Expiration\":-5}",
                "line 1, column",
            ),
            (
                "{\"Code\":\"NoSuchRole\"}",
                "the answer says that there are none (NoSuchRole)",
            ),
            (
                "{\"Code\":\"hunter2 \"}",
                "the answer says that there are none",
            ),
            ("{\"Credentials\":{}}", "AccessKeyId is missing"),
            (&*deep, "line 1, column"),
            (&*deep_inside, "line 1, column"),
            (&*huge, "it is larger than 64 KiB"),
        ] {
            let Err(fault) = key(text.as_bytes(), now()) else {
                panic!("{text}");
            };
            assert!(fault.why.starts_with(expected), "{text}: {}", fault.why);
            assert_eq!(fault.kind, Kind::Unusable);
            for part in ["hunter2", "ter2", "12345678"] {
                assert!(!fault.why.contains(part), "{}", fault.why);
            }
        }
        let binary: Vec<u8> = (0..=255).collect();
        assert!(key(&binary, now()).is_err());
        let past =
            r#"{"AccessKeyId":"i","AccessKeySecret":"s","Expiration":"2026-01-03T04:05:06Z"}"#;
        let fault = key(past.as_bytes(), now()).err().unwrap();
        assert_eq!(fault.kind, Kind::Expired);
        assert!(fault.why.contains("2026-01-03T04:05:06Z"), "{}", fault.why);
    }
}
