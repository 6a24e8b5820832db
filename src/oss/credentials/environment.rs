//! Keys in the environment: one that never changes, because a process keeps the environment that it was given.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::access_key::{AccessKey, Names};
use super::error::{Error, Fault};
use super::source::Source;

const NAME: &str = "the environment";

/// The variables of a key, those with precedence first. A token belongs to the key that it was issued with.
const VARIABLES: [Names; 3] = [
    Names {
        id: "OSS_ACCESS_KEY_ID",
        secret: "OSS_ACCESS_KEY_SECRET",
        token: "OSS_SESSION_TOKEN",
    },
    Names {
        id: "OSS_TEST_ACCESS_KEY_ID",
        secret: "OSS_TEST_ACCESS_KEY_SECRET",
        token: "",
    },
    // As the provider's own programs read them.
    Names {
        id: "ALIBABA_CLOUD_ACCESS_KEY_ID",
        secret: "ALIBABA_CLOUD_ACCESS_KEY_SECRET",
        token: "ALIBABA_CLOUD_SECURITY_TOKEN",
    },
];

/// Reads `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN`, or else those of the other names. An
/// empty variable counts as unset, and whitespace and line endings around a value, which files and secret stores
/// add, are removed. `variable` looks up one variable, so that a test needs no process environment. None if no
/// variable is set.
///
/// # Errors
/// Half a pair is set, or a value is invalid; it is not shown.
pub fn find(variable: impl Fn(&str) -> Option<String>) -> Result<Option<AccessKey>, Error> {
    let variable = |name: &str| {
        let value = variable(name).map(Zeroizing::new);
        value.filter(|value| !value.trim().is_empty())
    };
    for names in VARIABLES {
        let [id, secret] = [names.id, names.secret].map(&variable);
        let half = |set: &str, unset: &str| {
            Err(Fault::unusable(format!("{set} is set, but {unset} is not")).of(NAME))
        };
        match (id.is_some(), secret.is_some()) {
            (true, false) => return half(names.id, names.secret),
            (false, true) => return half(names.secret, names.id),
            (false, false) => continue,
            (true, true) => {}
        }
        let token = (!names.token.is_empty()).then(|| variable(names.token));
        let values = [id, secret, token.flatten()];
        let key = AccessKey::checked(names, values, None, SystemTime::now());
        return key.map(Some).map_err(|fault| fault.of(NAME));
    }
    Ok(None)
}

/// A key that was read at the start.
pub struct Fixed {
    name: &'static str,
    key: Arc<AccessKey>,
}

impl Fixed {
    pub(super) fn of_environment(key: AccessKey) -> Fixed {
        Fixed::new(NAME, key)
    }

    pub(super) fn new(name: &'static str, key: AccessKey) -> Fixed {
        let key = Arc::new(key);
        Fixed { name, key }
    }
}

#[async_trait]
impl Source for Fixed {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    async fn fetch(&self) -> Result<Arc<AccessKey>, Error> {
        Ok(self.key.clone())
    }

    fn renews(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<(String, String, Option<String>), String> {
        let found = find(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        });
        let key = found
            .map_err(|error| error.to_string())?
            .ok_or_else(|| "none".to_owned())?;
        Ok((
            key.id().to_owned(),
            key.secret().to_owned(),
            key.token().map(str::to_owned),
        ))
    }

    #[test]
    fn the_environment_provides_the_key_and_the_main_names_come_first() {
        let own = [
            ("OSS_ACCESS_KEY_ID", "id"),
            ("OSS_ACCESS_KEY_SECRET", "secret"),
        ];
        let test = [
            ("OSS_TEST_ACCESS_KEY_ID", "tid"),
            ("OSS_TEST_ACCESS_KEY_SECRET", "tsecret"),
        ];
        let cloud = [
            ("ALIBABA_CLOUD_ACCESS_KEY_ID", "cid"),
            ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "csecret"),
            ("ALIBABA_CLOUD_SECURITY_TOKEN", "ctoken"),
        ];
        let token = [("OSS_SESSION_TOKEN", "token")];
        let key = |id: &str, secret: &str, token: Option<&str>| {
            Ok((id.to_owned(), secret.to_owned(), token.map(str::to_owned)))
        };
        assert_eq!(from(&own), key("id", "secret", None));
        assert_eq!(from(&test), key("tid", "tsecret", None));
        assert_eq!(from(&cloud), key("cid", "csecret", Some("ctoken")));
        assert_eq!(
            from(&[&own[..], &test[..], &cloud[..], &token[..]].concat()),
            key("id", "secret", Some("token"))
        );
        // A token belongs to the key that it was issued with.
        assert_eq!(
            from(&[&test[..], &cloud[..], &token[..]].concat()),
            key("tid", "tsecret", None)
        );
    }

    #[test]
    fn half_a_key_is_an_error_that_names_the_other_half() {
        let error =
            from(&[("OSS_ACCESS_KEY_ID", "id"), ("OSS_ACCESS_KEY_SECRET", "")]).unwrap_err();
        assert!(error.contains("OSS_ACCESS_KEY_SECRET is not"), "{error}");
        let error = from(&[("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s")]).unwrap_err();
        assert!(
            error.contains("ALIBABA_CLOUD_ACCESS_KEY_ID is not"),
            "{error}"
        );
        assert_eq!(from(&[]), Err("none".to_owned()));
    }

    #[test]
    fn line_endings_around_a_value_are_removed_and_inner_ones_are_refused_without_showing_it() {
        let id = "OSS_ACCESS_KEY_ID";
        let secret = "OSS_ACCESS_KEY_SECRET";
        let token = "OSS_SESSION_TOKEN";
        assert_eq!(
            from(&[
                (id, " LTAI\n"),
                (secret, "hunter2\r\n"),
                (token, "\tCAIS=\n")
            ]),
            Ok((
                "LTAI".to_owned(),
                "hunter2".to_owned(),
                Some("CAIS=".to_owned())
            ))
        );
        // A value of only a line ending counts as empty.
        assert_eq!(
            from(&[(id, "LTAI"), (secret, "hunter2"), (token, "\n")])
                .unwrap()
                .2,
            None
        );
        for (name, value) in [
            (id, "LTAI hunter2"),
            (id, "LTAI\nhunter2"),
            (secret, "hun\u{a0}ter2"),
            (secret, "hun\0ter2"),
            (secret, "\u{201c}hunter2\u{201d}"),
            (token, "hunter2\nX-Evil: 1"),
        ] {
            let mut variables = vec![(id, "LTAI"), (secret, "s"), (token, "t")];
            variables.retain(|(other, _)| *other != name);
            variables.push((name, value));
            let error = from(&variables).unwrap_err();
            assert!(error.contains(name), "{error}");
            assert!(
                !error.contains("ter2") && !error.contains("LTAI"),
                "{error}"
            );
        }
    }
}
