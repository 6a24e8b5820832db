//! The access key that signs requests, and its sources.

use zeroize::Zeroizing;

use super::error::Error;

/// An access key. The secret and the token are wiped on drop and never printed: no `Debug`.
pub struct AccessKey {
    id: String,
    secret: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

impl AccessKey {
    /// `token` is the security token of temporary credentials.
    pub fn new(
        id: impl Into<String>,
        secret: impl Into<String>,
        token: Option<String>,
    ) -> AccessKey {
        AccessKey {
            id: id.into(),
            secret: Zeroizing::new(secret.into()),
            token: token.map(Zeroizing::new),
        }
    }

    /// Reads `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN`, or else
    /// `OSS_TEST_ACCESS_KEY_ID` and `OSS_TEST_ACCESS_KEY_SECRET`. An empty variable counts as unset, and
    /// whitespace and line endings around a value, which files and secret stores add, are removed. `variable`
    /// looks up one variable, so that a test needs no process environment.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if no pair is complete, with a message that names the variables to set; or if
    /// a value is invalid, without showing it.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<AccessKey, Error> {
        let variable = |name: &str| {
            let value = variable(name).map(Zeroizing::new);
            let value = value.map(|value| value.trim().to_owned());
            value.filter(|value| !value.is_empty())
        };
        let checked = |name: &str, value: String| match value.bytes().all(|b| b.is_ascii_graphic())
        {
            true => Ok(value),
            false => Err(Error::Misconfigured(format!(
                "{name} holds a blank, a line end or another character that no access key has: was more copied \
                 than the value?"
            ))),
        };
        for (id_name, secret_name, token) in [
            (
                "OSS_ACCESS_KEY_ID",
                "OSS_ACCESS_KEY_SECRET",
                Some("OSS_SESSION_TOKEN"),
            ),
            ("OSS_TEST_ACCESS_KEY_ID", "OSS_TEST_ACCESS_KEY_SECRET", None),
        ] {
            match (variable(id_name), variable(secret_name)) {
                (Some(id), Some(secret)) => {
                    let token = token.and_then(|name| Some((name, variable(name)?)));
                    let token = token
                        .map(|(name, token)| checked(name, token))
                        .transpose()?;
                    let (id, secret) = (checked(id_name, id)?, checked(secret_name, secret)?);
                    return Ok(AccessKey::new(id, secret, token));
                }
                (Some(_), None) => {
                    return Err(Error::Misconfigured(format!(
                        "{id_name} is set, but {secret_name} is not"
                    )));
                }
                (None, Some(_)) => {
                    return Err(Error::Misconfigured(format!(
                        "{secret_name} is set, but {id_name} is not"
                    )));
                }
                (None, None) => {}
            }
        }
        Err(Error::Misconfigured(
            "no credentials: set OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET \
             (and OSS_SESSION_TOKEN for temporary ones)"
                .to_owned(),
        ))
    }

    /// Not a secret, but not worth printing either.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<(String, String, Option<String>), String> {
        AccessKey::from_environment(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .map(|key| {
            (
                key.id().to_owned(),
                key.secret().to_owned(),
                key.token().map(str::to_owned),
            )
        })
        .map_err(|error| error.to_string())
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
        let token = [("OSS_SESSION_TOKEN", "token")];
        let key = |id: &str, secret: &str, token: Option<&str>| {
            Ok((id.to_owned(), secret.to_owned(), token.map(str::to_owned)))
        };
        assert_eq!(from(&own), key("id", "secret", None));
        assert_eq!(from(&test), key("tid", "tsecret", None));
        assert_eq!(
            from(&[&own[..], &test[..], &token[..]].concat()),
            key("id", "secret", Some("token"))
        );
        // A token belongs to the key that it was issued with.
        assert_eq!(
            from(&[&test[..], &token[..]].concat()),
            key("tid", "tsecret", None)
        );
    }

    #[test]
    fn half_a_key_is_an_error_that_names_the_other_half() {
        let error =
            from(&[("OSS_ACCESS_KEY_ID", "id"), ("OSS_ACCESS_KEY_SECRET", "")]).unwrap_err();
        assert!(error.contains("OSS_ACCESS_KEY_SECRET is not"), "{error}");
        assert!(from(&[]).unwrap_err().contains("OSS_ACCESS_KEY_ID"));
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
            assert!(error.starts_with(name), "{error}");
            assert!(
                !error.contains("ter2") && !error.contains("LTAI"),
                "{error}"
            );
        }
    }
}
