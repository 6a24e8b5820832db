//! Whether the environment configures a proxy for an endpoint, and whether its value is valid.
//!
//! The HTTP library reads the same variables and ignores invalid values: requests would then silently bypass
//! the proxy.

use reqwest::Url;

use super::error::Error;

/// Whether requests with this scheme go through a proxy, ignoring `no_proxy`. `variable` looks one up.
///
/// # Errors
/// [`Error::Misconfigured`] for a variable that does not name a proxy. Its value is not shown, because it may
/// contain a password.
pub fn from_environment(
    https: bool,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<bool, Error> {
    let own = if https { "https_proxy" } else { "http_proxy" };
    for name in [own, "all_proxy"] {
        for name in [name.to_uppercase(), name.to_owned()] {
            let Some(value) = variable(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            if !is_proxy(&value) {
                return Err(Error::Misconfigured(format!(
                    "the environment variable {name} does not name a proxy: expected http://HOST:PORT or \
                     https://HOST:PORT, with USER:PASSWORD@ before the host if it asks for them"
                )));
            }
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_proxy(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let url = match Url::parse(&format!("{scheme}://{rest}")) {
        Ok(url) => url,
        Err(_) => return false,
    };
    let plain = !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    plain
        && matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_a_proxy_or_is_refused_without_being_shown() {
        for (value, expected) in [
            ("http://proxy:3128", Some(true)),
            ("https://user:pass@proxy.example.com/", Some(true)),
            ("proxy:3128", Some(true)),
            ("10.0.0.1:3128", Some(true)),
            ("user:pass@proxy:3128", Some(true)),
            ("http://[::1]:3128", Some(true)),
            ("", Some(false)),
            ("http://", None),
            ("http:/proxy:3128", None),
            ("http://pro xy", None),
            ("http://proxy:port", None),
            ("http://proxy:99999", None),
            ("http://proxy/path", None),
            ("socks5h://proxy:1080", None),
            ("ftp://proxy", None),
            ("http://user:hunter2@proxy:3128\n", None),
        ] {
            let result = from_environment(true, |name| {
                (name == "https_proxy").then(|| value.to_owned())
            });
            match (result, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{value}"),
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains("https_proxy"), "{text}");
                    for part in ["hunter2", "1080", "pro xy"] {
                        assert!(!text.contains(part), "{text}");
                    }
                }
                (result, _) => panic!("{value}: {result:?}"),
            }
        }
    }

    #[test]
    fn only_variables_for_the_scheme_count() {
        for (name, https, expected) in [
            ("http_proxy", false, true),
            ("HTTP_PROXY", false, true),
            ("https_proxy", false, false),
            ("HTTPS_PROXY", true, true),
            ("http_proxy", true, false),
            ("all_proxy", true, true),
            ("ALL_PROXY", false, true),
        ] {
            let variable = |asked: &str| (asked == name).then(|| "proxy:1".to_owned());
            assert_eq!(
                from_environment(https, variable).unwrap(),
                expected,
                "{name}"
            );
        }
    }
}
