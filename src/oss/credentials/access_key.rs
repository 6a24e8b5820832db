//! An access key: what signs requests, and until when.

use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::error::Fault;
use crate::base::time;

/// Longer than any that the service issues.
const LONGEST_ID: usize = 256;
const LONGEST_SECRET: usize = 1024;
/// A token travels in a header of every request.
const LONGEST_TOKEN: usize = 8 * 1024;
/// No token is issued for longer than 12 hours; whoever claims a later expiry is asked again nevertheless.
const LONGEST_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Enough to tell keys apart, and too little to be of use if a secret stands in the ID's place.
const SHOWN: usize = 4;

/// An access key. The secret and the token are wiped on drop and never printed: no `Debug`.
pub struct AccessKey {
    id: Zeroizing<String>,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
    /// None for a permanent key, and for one whose source does not say.
    expires: Option<SystemTime>,
}

impl AccessKey {
    /// `token` is the security token of temporary credentials.
    pub fn new(
        id: impl Into<String>,
        secret: impl Into<String>,
        token: Option<String>,
    ) -> AccessKey {
        AccessKey {
            id: Zeroizing::new(id.into()),
            secret: Zeroizing::new(secret.into()),
            token: token.map(Zeroizing::new),
            expires: None,
        }
    }

    /// A key of values from outside, with the names by which errors call them. An empty token is none.
    ///
    /// # Errors
    /// A value is missing, too long, or has characters that no access key has; or it has expired by `now`.
    pub(super) fn checked(
        names: Names,
        [id, secret, token]: [Option<Zeroizing<String>>; 3],
        expires: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<AccessKey, Fault> {
        let given = |value: Option<Zeroizing<String>>, name: &str, longest: usize| {
            let value = match value {
                Some(value) if !value.trim().is_empty() => value,
                _ => return Ok(None),
            };
            // The common case moves the value, so that there is no other copy to wipe.
            let value = match value.trim().len() == value.len() {
                true => value,
                false => Zeroizing::new(value.trim().to_owned()),
            };
            if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Fault::unusable(format!(
                    "{name} holds a blank, a line end or another character that no access key has: was more \
                     copied than the value?"
                )));
            }
            match value.len() <= longest {
                true => Ok(Some(value)),
                false => Err(Fault::unusable(format!(
                    "{name} is longer than that of any access key"
                ))),
            }
        };
        let missing = |name: &str| Fault::unusable(format!("{name} is missing or empty"));
        let key = AccessKey {
            id: given(id, names.id, LONGEST_ID)?.ok_or_else(|| missing(names.id))?,
            secret: given(secret, names.secret, LONGEST_SECRET)?
                .ok_or_else(|| missing(names.secret))?,
            token: given(token, names.token, LONGEST_TOKEN)?,
            expires: expires.map(|expires| expires.min(now + LONGEST_LIFE)),
        };
        match key.expires {
            Some(expires) if expires <= now => Err(Fault::expired(expires)),
            _ => Ok(key),
        }
    }

    /// Not a secret, but not worth printing either.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The beginning of the ID, for the log.
    pub fn shown_id(&self) -> String {
        let shown = self.id.chars().take(SHOWN);
        format!("{}…", shown.collect::<String>().escape_debug())
    }

    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// For the log: `, which expires at 2026-01-03T04:05:06Z`, or nothing.
    pub(super) fn expiry(&self) -> String {
        let expires = self.expires.map(time::plain);
        expires.map_or_else(String::new, |at| format!(", which expires at {at}"))
    }

    /// Whether requests would be signed with the same values.
    pub(super) fn is_same(&self, other: &AccessKey) -> bool {
        self.id == other.id && self.secret == other.secret && self.token == other.token
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }
}

/// What the three values are called where they come from.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub id: &'static str,
    pub secret: &'static str,
    pub token: &'static str,
}

#[cfg(test)]
mod tests {
    use super::super::error::Kind;
    use super::*;

    const NAMES: Names = Names {
        id: "the ID",
        secret: "the secret",
        token: "the token",
    };

    fn checked(values: [&str; 3], lifetime: Option<i64>) -> Result<AccessKey, Fault> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let expires = lifetime.map(|seconds| match seconds < 0 {
            true => now - Duration::from_secs(seconds.unsigned_abs()),
            false => now + Duration::from_secs(seconds.unsigned_abs()),
        });
        let values = values.map(|value| Some(Zeroizing::new(value.to_owned())));
        AccessKey::checked(NAMES, values, expires, now)
    }

    #[test]
    fn values_from_outside_are_checked_and_never_shown() {
        let long = "x".repeat(10_000);
        for (values, expected) in [
            (["", "hunter2", ""], "the ID is missing"),
            (["hunter2", " \n", ""], "the secret is missing"),
            (["hunter2 a", "s", ""], "the ID holds"),
            (["id", "hunt\u{e9}er2", ""], "the secret holds"),
            (["id", "s", "hunter2\nX-Evil: 1"], "the token holds"),
            (["id", "hunter2\0", ""], "the secret holds"),
            ([&*long, "s", ""], "the ID is longer"),
            (["id", &*long, ""], "the secret is longer"),
            (["id", "s", &*long], "the token is longer"),
        ] {
            let Err(fault) = checked(values, None) else {
                panic!("{expected}");
            };
            assert!(fault.why.starts_with(expected), "{}", fault.why);
            assert!(!fault.why.contains("hunter2") && !fault.why.contains("xx"));
        }
        let key = checked([" LTAI5t\n", "hunter2\r\n", "\n"], None)
            .ok()
            .unwrap();
        assert_eq!(
            (key.id(), key.secret(), key.token()),
            ("LTAI5t", "hunter2", None)
        );
        assert_eq!(key.shown_id(), "LTAI…");
    }

    #[test]
    fn an_expiry_is_ahead_and_near() {
        for (lifetime, expected) in [
            (-1, None),
            (0, None),
            (1, Some(1)),
            (3600, Some(3600)),
            (7 * 86_400, Some(7 * 86_400)),
            (10_000_000_000, Some(7 * 86_400)),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            match (checked(["id", "s", "t"], Some(lifetime)), expected) {
                (Ok(key), Some(seconds)) => {
                    let expires = now + Duration::from_secs(seconds);
                    assert_eq!(key.expires(), Some(expires), "{lifetime}");
                    assert!(!key.has_expired(now) && key.has_expired(expires));
                }
                (Err(fault), None) => assert_eq!(fault.kind, Kind::Expired),
                (result, _) => panic!("{lifetime}: {}", result.is_ok()),
            }
        }
    }
}
