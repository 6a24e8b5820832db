//! Who signs: an access key, and where it comes from.

use zeroize::Zeroizing;

use super::error::Error;

/// An access key. The secret and the token are wiped on drop and printed nowhere: no `Debug`.
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

    /// From `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN`, else from
    /// `OSS_TEST_ACCESS_KEY_ID` and `OSS_TEST_ACCESS_KEY_SECRET`. An empty variable counts as unset.
    /// `variable` looks one up, so that a test needs no process environment.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when no pair is complete; the message says which variables to set.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<AccessKey, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        for (id, secret, token) in [
            (
                "OSS_ACCESS_KEY_ID",
                "OSS_ACCESS_KEY_SECRET",
                Some("OSS_SESSION_TOKEN"),
            ),
            ("OSS_TEST_ACCESS_KEY_ID", "OSS_TEST_ACCESS_KEY_SECRET", None),
        ] {
            match (variable(id), variable(secret)) {
                (Some(id), Some(secret)) => {
                    return Ok(AccessKey::new(id, secret, token.and_then(variable)));
                }
                (Some(_), None) => {
                    return Err(Error::Misconfigured(format!(
                        "{id} is set, {secret} is not"
                    )));
                }
                (None, Some(_)) => {
                    return Err(Error::Misconfigured(format!(
                        "{secret} is set, {id} is not"
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

    /// Not a secret, but nothing to shout about either.
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
    fn the_environment_gives_the_key_and_its_own_names_go_first() {
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
        // A token belongs to the key it was issued with.
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
}
