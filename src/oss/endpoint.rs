//! The location of a bucket: scheme, host, and the encoding of bucket and key in a URL.
//!
//! A URL must carry exactly the key that is signed. The `url` crate, which processes every request, removes
//! `.` and `..` segments even if they are written `%2E`; it does not change `%2F`. So the slashes of a key
//! with such segments are written `%2F`, which makes the key one segment, and only the keys `.` and `..`
//! themselves cannot be sent.
//! keys `.` and `..` themselves cannot be sent.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use super::error::Error;
use crate::base::encoding::percent_encode;

/// Where the bucket's name goes in the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// `bucket.endpoint/key`.
    VirtualHost,
    /// `endpoint/bucket/key`; the public service refuses it.
    Path,
    /// `domain/key`: a domain bound to the bucket.
    Cname,
}

/// One bucket at one endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    bucket: String,
    /// `https://host[:port]` including the bucket, and the path up to the key.
    base: String,
    https: bool,
    loopback: bool,
    region: Option<String>,
}

/// The user's settings for an endpoint, besides its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The endpoint is a domain bound to the bucket.
    pub cname: bool,
    /// Path style, even if the host's name does not suggest it.
    pub path_style: bool,
    /// Plain http to a host that is not this machine.
    pub allow_http: bool,
}

impl Endpoint {
    /// `text` is `[scheme://]host[:port]`; https without a scheme.
    ///
    /// # Errors
    /// [`Error::Misconfigured`]: not an endpoint, not a bucket name, or plain http over a network.
    pub fn new(text: &str, bucket: &str, options: Options) -> Result<Endpoint, Error> {
        // Files and secret stores add line endings.
        let text = text.trim();
        let misconfigured = |why: &str| {
            Error::Misconfigured(format!(
                "endpoint {}: {why}; expected something like oss-cn-hangzhou.aliyuncs.com",
                text.escape_debug()
            ))
        };
        if !is_bucket_name(bucket) {
            return Err(Error::Misconfigured(format!(
                "not a bucket name: {}: expected 3 to 63 characters of a-z, 0-9 and -, without a - at either end",
                bucket.escape_debug()
            )));
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        let https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(misconfigured("neither http nor https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty()
            || authority.contains(['/', '?', '#', '@', '\\'])
            || authority.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(misconfigured("not a host name"));
        }
        let url = Url::parse(&format!("{scheme}://{authority}/"))
            .map_err(|error| misconfigured(&error.to_string()))?;
        let host = url.host_str().ok_or_else(|| misconfigured("no host"))?;
        if !options.cname
            && let Some(why) = not_an_endpoint(host, bucket)
        {
            return Err(Error::Misconfigured(format!(
                "endpoint {}: {why}",
                text.escape_debug()
            )));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address_v4 = bare.parse::<Ipv4Addr>().ok();
        let address_v6 = bare.parse::<Ipv6Addr>().ok();
        let localhost = host == "localhost";
        let loopback = localhost
            || address_v4.is_some_and(|a| a.is_loopback())
            || address_v6.is_some_and(|a| a.is_loopback());
        if !https && !loopback && !options.allow_http {
            return Err(Error::Misconfigured(format!(
                "endpoint {}: plain http to another machine; use https, or --allow-http",
                text.escape_debug()
            )));
        }
        let addressing = if address_v4.is_some() || address_v6.is_some() || localhost {
            Addressing::Path
        } else if options.cname {
            Addressing::Cname
        } else if options.path_style {
            Addressing::Path
        } else {
            Addressing::VirtualHost
        };
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let base = match addressing {
            Addressing::VirtualHost => format!("{scheme}://{bucket}.{host}{port}/"),
            Addressing::Path => format!("{scheme}://{host}{port}/{bucket}/"),
            Addressing::Cname => format!("{scheme}://{host}{port}/"),
        };
        Ok(Endpoint {
            bucket: bucket.to_owned(),
            base,
            https,
            loopback,
            region: region_of(host).map(str::to_owned),
        })
    }

    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// `cn-hangzhou`, if the endpoint's name contains it.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// For messages: `https://bucket.host`.
    pub fn base(&self) -> &str {
        self.base.trim_end_matches('/')
    }

    /// The URL of the bucket, or of an object, with a query.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for the keys `.` and `..`, which no URL can carry.
    pub fn url(
        &self,
        key: Option<&str>,
        query: &[(Cow<'_, str>, Cow<'_, str>)],
    ) -> Result<Url, Error> {
        let mut text = String::with_capacity(256);
        text.push_str(&self.base);
        if let Some(key) = key {
            if key.is_empty() || key == "." || key == ".." {
                return Err(Error::InvalidName(key.to_owned()));
            }
            let dotted = key
                .split('/')
                .any(|segment| segment == "." || segment == "..");
            percent_encode(key, !dotted, &mut text);
        }
        for (i, (name, value)) in query.iter().enumerate() {
            text.push(if i == 0 { '?' } else { '&' });
            percent_encode(name, false, &mut text);
            if !value.is_empty() {
                text.push('=');
                percent_encode(value, false, &mut text);
            }
        }
        let url = Url::parse(&text).map_err(|error| Error::Misconfigured(error.to_string()))?;
        // The request must match the signature, however the parser normalizes it.
        if url.as_str() != text {
            return Err(Error::InvalidName(key.unwrap_or_default().to_owned()));
        }
        Ok(url)
    }
}

fn is_bucket_name(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Why a host that is another kind of address is not an endpoint, and what the endpoint is.
fn not_an_endpoint(host: &str, bucket: &str) -> Option<String> {
    if let Some(rest) = host
        .strip_prefix(bucket)
        .and_then(|rest| rest.strip_prefix('.'))
    {
        return Some(format!(
            "this is the bucket's own address; the endpoint is {rest} (a domain of your own that is bound to \
             the bucket is given with --cname)"
        ));
    }
    let (first, rest) = host.split_once('.')?;
    let service = rest.starts_with("oss-") || rest.contains(".oss.");
    if !service || !rest.ends_with(".aliyuncs.com") {
        return None;
    }
    Some(match first {
        "s3" => format!("this is the address of another protocol, S3; the endpoint is {rest}"),
        other => format!("this is the address of the bucket {other}; the endpoint is {rest}"),
    })
}

/// The endpoint of a region, by its ID.
///
/// # Errors
/// [`Error::Misconfigured`] if this is not a region's ID; the message shows the expected form.
pub fn of_region(region: &str) -> Result<String, Error> {
    let region = checked_region(region)?;
    Ok(format!("oss-{region}.aliyuncs.com"))
}

/// A region's ID as used in signatures. The `oss-` prefix of the service's own listings is removed.
///
/// # Errors
/// [`Error::Misconfigured`].
pub fn checked_region(text: &str) -> Result<&str, Error> {
    let region = text.strip_prefix("oss-").unwrap_or(text);
    let refuse = |why: &str| {
        Err(Error::Misconfigured(format!(
            "region {}: {why}; expected an ID like cn-hangzhou or us-west-1",
            text.escape_debug()
        )))
    };
    if let Some(region) = region.strip_suffix("-internal") {
        return refuse(&format!(
            "this names an endpoint: give --region {region} and --endpoint oss-{region}-internal.aliyuncs.com"
        ));
    }
    let plain = (region.bytes()).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let parts = region.split_once('-');
    if !plain || !parts.is_some_and(|(country, rest)| country.len() == 2 && !rest.is_empty()) {
        return refuse("not a region ID");
    }
    Ok(region)
}

/// The region in the name of a standard endpoint: `oss-R`, `oss-R-internal`, `R.oss`, each under
/// `aliyuncs.com`. The acceleration endpoints belong to no region.
fn region_of(host: &str) -> Option<&str> {
    let name = host.strip_suffix(".aliyuncs.com")?;
    let region = match name.strip_prefix("oss-") {
        Some(region) => region.strip_suffix("-internal").unwrap_or(region),
        None => name.strip_suffix(".oss")?,
    };
    let plain = region
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (plain && region.contains('-') && !region.starts_with("accelerate")).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_addresses() {
        let cname = Options {
            cname: true,
            ..Options::default()
        };
        let path = Options {
            path_style: true,
            ..Options::default()
        };
        let http = Options {
            allow_http: true,
            ..Options::default()
        };
        let none = Options::default();
        for (text, options, expected) in [
            (
                "oss-cn-hangzhou.aliyuncs.com",
                none,
                "https://bkt.oss-cn-hangzhou.aliyuncs.com/a/b",
            ),
            ("https://example.com/", none, "https://bkt.example.com/a/b"),
            ("example.com:8443", none, "https://bkt.example.com:8443/a/b"),
            ("files.example.com", cname, "https://files.example.com/a/b"),
            ("example.com", path, "https://example.com/bkt/a/b"),
            ("http://example.com", http, "http://bkt.example.com/a/b"),
            ("http://127.0.0.1:80", none, "http://127.0.0.1/bkt/a/b"),
            (
                "http://127.0.0.1:8080",
                cname,
                "http://127.0.0.1:8080/bkt/a/b",
            ),
            ("http://localhost:1", none, "http://localhost:1/bkt/a/b"),
            ("http://[::1]:1", none, "http://[::1]:1/bkt/a/b"),
            ("10.0.0.1", none, "https://10.0.0.1/bkt/a/b"),
        ] {
            let endpoint = Endpoint::new(text, "bkt", options).unwrap();
            assert_eq!(endpoint.url(Some("a/b"), &[]).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn invalid_endpoints_are_refused() {
        for (text, bucket) in [
            ("", "bkt"),
            ("ftp://example.com", "bkt"),
            ("http://example.com", "bkt"),
            ("http://10.0.0.1", "bkt"),
            ("https://user@example.com", "bkt"),
            ("https://example.com/path", "bkt"),
            ("exam\nple.com", "bkt"),
            ("exa mple.com", "bkt"),
            ("example.com", "b"),
            ("example.com", "Bucket"),
            ("example.com", "-bucket"),
            ("example.com", "evil.com/x"),
        ] {
            assert!(
                matches!(
                    Endpoint::new(text, bucket, Options::default()),
                    Err(Error::Misconfigured(_))
                ),
                "{text} {bucket}"
            );
        }
    }

    #[test]
    fn standard_names_contain_the_region() {
        for (host, region) in [
            ("oss-cn-hangzhou.aliyuncs.com", Some("cn-hangzhou")),
            ("oss-cn-hangzhou-internal.aliyuncs.com", Some("cn-hangzhou")),
            ("cn-hangzhou.oss.aliyuncs.com", Some("cn-hangzhou")),
            ("oss-us-west-1.aliyuncs.com", Some("us-west-1")),
            ("oss-accelerate.aliyuncs.com", None),
            ("oss-accelerate-overseas.aliyuncs.com", None),
            ("aliyuncs.com", None),
            ("example.com", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_endpoint() {
        for (text, expected) in [
            (
                "bkt.oss-cn-hangzhou.aliyuncs.com",
                "the endpoint is oss-cn-hangzhou.aliyuncs.com",
            ),
            (
                "https://bkt.oss-cn-hangzhou.aliyuncs.com/",
                "the bucket's own address",
            ),
            ("other.oss-cn-hangzhou.aliyuncs.com", "the bucket other"),
            (
                "other.oss-cn-hangzhou-internal.aliyuncs.com",
                "oss-cn-hangzhou-internal.aliyuncs.com",
            ),
            ("other.cn-hangzhou.oss.aliyuncs.com", "the bucket other"),
            ("bkt.example.com", "the endpoint is example.com"),
            ("s3.oss-cn-hangzhou.aliyuncs.com", "S3"),
        ] {
            let error = Endpoint::new(text, "bkt", Options::default()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let cname = Options {
            cname: true,
            ..Options::default()
        };
        assert!(Endpoint::new("bkt.example.com", "bkt", cname).is_ok());
        for text in [
            "oss-cn-hangzhou.aliyuncs.com",
            "cn-hangzhou.oss.aliyuncs.com",
            "oss-accelerate.aliyuncs.com",
            "bktother.example.com",
            "oss.example.com",
        ] {
            assert!(
                Endpoint::new(text, "bkt", Options::default()).is_ok(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_region_is_an_id() {
        for (text, region) in [
            ("cn-hangzhou", Some("cn-hangzhou")),
            ("oss-cn-hangzhou", Some("cn-hangzhou")),
            ("ap-southeast-1", Some("ap-southeast-1")),
            ("rg-china-mainland", Some("rg-china-mainland")),
            ("cn-shanghai-finance-1", Some("cn-shanghai-finance-1")),
            ("hangzhou", None),
            ("cn-hangzhou-internal", None),
            ("oss-cn-hangzhou-internal", None),
            ("CN-Hangzhou", None),
            ("cn-", None),
            ("cn_hangzhou", None),
            ("oss-cn-hangzhou.aliyuncs.com", None),
            ("cn-hangzhou\n", None),
            ("", None),
        ] {
            assert_eq!(checked_region(text).ok(), region, "{text:?}");
        }
        let text = checked_region("cn-hangzhou-internal")
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("--endpoint oss-cn-hangzhou-internal.aliyuncs.com"),
            "{text}"
        );
    }

    #[test]
    fn a_key_survives_the_url_unchanged() {
        let endpoint = Endpoint::new("example.com", "bkt", Options::default()).unwrap();
        for (key, path) in [
            ("a//b", "/a//b"),
            ("a/", "/a/"),
            ("a/../b", "/a%2F..%2Fb"),
            ("../b", "/..%2Fb"),
            ("a/.", "/a%2F."),
            ("./a", "/.%2Fa"),
            ("a/...", "/a/..."),
            ("%2e%2e/a", "/%252e%252e/a"),
            ("a b+c?d#e\\f", "/a%20b%2Bc%3Fd%23e%5Cf"),
            ("tab\tline\n", "/tab%09line%0A"),
            (" lead and trail ", "/%20lead%20and%20trail%20"),
        ] {
            let url = endpoint.url(Some(key), &[]).unwrap();
            assert_eq!(url.path(), path, "{key:?}");
        }
        for key in [".", ".."] {
            assert!(matches!(
                endpoint.url(Some(key), &[]),
                Err(Error::InvalidName(_))
            ));
        }
    }

    #[test]
    fn queries_are_encoded_as_they_are_signed() {
        let endpoint = Endpoint::new("example.com", "bkt", Options::default()).unwrap();
        let query = [
            ("uploads".into(), "".into()),
            ("prefix".into(), "a/'b &=+%".into()),
        ];
        assert_eq!(
            endpoint.url(None, &query).unwrap().as_str(),
            "https://bkt.example.com/?uploads&prefix=a%2F%27b%20%26%3D%2B%25"
        );
    }
}
