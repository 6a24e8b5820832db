//! Small requests to the services that give keys.
//!
//! An answer is bounded in size and time, and a redirect is an answer like any other: it would lead credentials
//! elsewhere. Plain http is spoken to this machine and to the metadata service alone, and never through a proxy; what is
//! further away goes through the proxy that the environment names, as the requests to the bucket do.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use zeroize::Zeroizing;

use super::super::proxy;
use super::error::Fault;
use super::json::LARGEST;
use crate::base::error_chain::chain;
use crate::base::{deadline, time};

/// Longer than a handshake over any working link.
const CONNECT: Duration = Duration::from_secs(5);
/// The metadata service is on the machine itself; where there is none, nothing answers at its address.
const CONNECT_NEAR: Duration = Duration::from_secs(1);
/// The metadata service's address, in the provider's own range.
const METADATA: [u8; 4] = [100, 100, 100, 200];

pub(super) struct Answer {
    pub status: u16,
    pub body: Zeroizing<Vec<u8>>,
    /// The service's clock.
    pub date: Option<SystemTime>,
}

/// One request. Header values may be secrets.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: &'a [(&'static str, Zeroizing<String>)],
    pub body: Option<Zeroizing<String>>,
}

/// Sends a request and reads its answer, whatever its status, within `patience`.
///
/// # Errors
/// The URL must not be used; there is no answer, or one that is too long.
pub(super) async fn send(ask: Ask<'_>, patience: Duration) -> Result<Answer, Fault> {
    let exchange = async {
        let (client, request) = prepare(ask)?;
        let mut response = client.execute(request).await.map_err(broken)?;
        let date = response.headers().get("date");
        let mut answer = Answer {
            status: response.status().as_u16(),
            date: date.and_then(|date| time::parse_http(date.to_str().ok()?)),
            // With its capacity reserved, the buffer is never moved, so that no unwiped copy is left behind.
            body: Zeroizing::new(Vec::with_capacity(LARGEST)),
        };
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            if answer.body.len() + piece.len() > LARGEST {
                return Err(Fault::unusable("the answer is larger than 64 KiB"));
            }
            answer.body.extend_from_slice(&piece);
        }
        Ok(answer)
    };
    let until = std::time::Instant::now() + patience;
    match deadline::by(until, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::unreachable(format!(
            "no answer within {:.1} s",
            patience.as_secs_f64()
        ))),
    }
}

fn broken(error: reqwest::Error) -> Fault {
    let text = chain(&error.without_url());
    Fault::unreachable(text.escape_debug().to_string())
}

fn prepare(ask: Ask<'_>) -> Result<(Client, Request), Fault> {
    let (url, near) = checked(ask.url)?;
    let mut builder = Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("ossvault/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(if near { CONNECT_NEAR } else { CONNECT })
        .pool_max_idle_per_host(0);
    let https = url.scheme() == "https";
    let proxied = !near
        && proxy::from_environment(https, |name| std::env::var(name).ok())
            .map_err(|error| Fault::unusable(error.to_string()))?;
    if !proxied {
        builder = builder.no_proxy();
    }
    if !https && !proxied {
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| {
        Fault::unusable(format!(
            "TLS cannot be set up: {}",
            chain(&error).escape_debug()
        ))
    })?;
    let mut request = Request::new(ask.method, url);
    *request.headers_mut() = headers(ask.headers)?;
    if let Some(body) = ask.body {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request
            .headers_mut()
            .insert(reqwest::header::CONTENT_TYPE, form);
        *request.body_mut() = Some(reqwest::Body::from(body.as_bytes().to_vec()));
    }
    Ok((client, request))
}

fn headers(given: &[(&'static str, Zeroizing<String>)]) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| Fault::unusable(format!("not a valid header: {name}")))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    // An answer that is longer unpacked than it was sent would pass the limit.
    let identity = HeaderValue::from_static("identity");
    headers.insert(reqwest::header::ACCEPT_ENCODING, identity);
    Ok(headers)
}

/// The URL, and whether it is so near that there is no proxy in between.
fn checked(text: &str) -> Result<(Url, bool), Fault> {
    let wrong = |why: &str| Err(Fault::unusable(format!("the URL {why}")));
    let Ok(url) = Url::parse(text) else {
        return wrong("is not one");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds a user name or a password");
    }
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let near = host == "localhost" || bare.parse().is_ok_and(is_near);
    match url.scheme() {
        "https" => Ok((url, near)),
        "http" if near => Ok((url, near)),
        "http" => {
            wrong("is of plain http, which is for this machine and the metadata service: use https")
        }
        _ => wrong("is neither of https nor of http"),
    }
}

/// This machine, its link, or the metadata service.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.octets() == METADATA
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_no_further_than_the_metadata_service() {
        for (url, expected) in [
            ("https://sts.aliyuncs.com", Ok(false)),
            ("https://127.0.0.1:8443/x", Ok(true)),
            ("http://127.0.0.1:80/x", Ok(true)),
            ("http://[::1]:80/x", Ok(true)),
            ("http://localhost/x", Ok(true)),
            ("http://169.254.1.1/x", Ok(true)),
            ("http://100.100.100.200/latest", Ok(true)),
            ("http://100.100.100.201/latest", Err("plain http")),
            (
                "http://100.100.100.200.evil.example/latest",
                Err("plain http"),
            ),
            ("http://localhost.evil.example/", Err("plain http")),
            ("http://sts.aliyuncs.com", Err("plain http")),
            ("https://hunter2@sts.aliyuncs.com", Err("user name")),
            ("https://a:hunter2@sts.aliyuncs.com", Err("user name")),
            ("file:///etc/hunter2", Err("neither")),
            ("hunter2", Err("is not one")),
            ("", Err("is not one")),
        ] {
            match (checked(url), expected) {
                (Ok((_, near)), Ok(expected)) => assert_eq!(near, expected, "{url}"),
                (Err(fault), Err(expected)) => {
                    assert!(fault.why.contains(expected), "{url}: {}", fault.why);
                    assert!(!fault.why.contains("hunter2"), "{}", fault.why);
                }
                (result, _) => panic!("{url}: {}", result.is_ok()),
            }
        }
    }
}
