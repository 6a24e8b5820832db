//! A response that is no success: what the service says of its reasons, checked.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use log::debug;
use reqwest::header::HeaderMap;

use super::error::Refusal;
use super::headers::header;
use super::xml;
use crate::base::time;

/// A system in between responded instead of the service, which adds its request ID to every response.
pub fn is_web_page(headers: &HeaderMap) -> bool {
    header(headers, "content-type").is_some_and(|kind| kind.to_ascii_lowercase().contains("html"))
        && header(headers, "x-oss-request-id").is_none()
}

/// Parses a failing response: its body, or for HEAD `x-oss-err`. `now` is this machine's clock.
pub fn refusal(
    operation: &'static str,
    of_bucket: bool,
    status: u16,
    headers: &HeaderMap,
    text: &str,
    now: SystemTime,
) -> Refusal {
    let document = xml::error(text).or_else(|| {
        let encoded = header(headers, "x-oss-err")?;
        let bytes = BASE64.decode(encoded.trim()).ok()?;
        xml::error(&String::from_utf8_lossy(&bytes))
    });
    let own = |name: &str| header(headers, name).unwrap_or_default().to_owned();
    let mut refusal = Refusal {
        operation,
        status,
        request_id: own("x-oss-request-id"),
        ec: own("x-oss-ec"),
        location: header(headers, "location").map(str::to_owned),
        server_time: header(headers, "date").and_then(time::parse_http),
        retry_after: header(headers, "retry-after").and_then(|text| retry_after(text, now)),
        ..Refusal::default()
    };
    let Some(document) = document else {
        // A missing bucket is reported by name.
        let no_bucket = of_bucket && status == 404;
        let unlike = !text.trim().is_empty() || no_bucket || matches!(status, 300..=399 | 407);
        let marked = !refusal.request_id.is_empty() || !refusal.ec.is_empty();
        refusal.foreign = is_web_page(headers) || (unlike && !marked);
        return refusal;
    };
    if document.code == "SignatureDoesNotMatch" {
        for text in [&document.string_to_sign, &document.canonical_request] {
            debug!(
                "the service's string to sign: {}",
                without_token(text).escape_debug()
            );
        }
    }
    let or = |value: String, other: &mut String| {
        if !value.is_empty() {
            *other = value;
        }
    };
    or(document.request_id, &mut refusal.request_id);
    or(document.ec, &mut refusal.ec);
    refusal.code = document.code;
    refusal.message = document.message;
    refusal.endpoint = (!document.endpoint.is_empty()).then_some(document.endpoint);
    refusal.server_time = time::parse_extended(&document.server_time).or(refusal.server_time);
    refusal
}

/// Seconds, or a time.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => time::parse_http(text.trim())?.duration_since(now).ok(),
    }
}

/// A string to sign contains the security token.
fn without_token(text: &str) -> String {
    text.lines()
        .filter(|line| !line.contains("security-token"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_removed_from_the_log() {
        assert_eq!(without_token("a\nx-oss-security-token:T\nb"), "a\nb");
    }

    #[test]
    fn retry_after_is_seconds_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (text, expected) in [
            (" 7 ", Some(Duration::from_secs(7))),
            ("0", Some(Duration::ZERO)),
            ("18446744073709551615", Some(Duration::from_secs(u64::MAX))),
            ("18446744073709551616", None),
            ("-1", None),
            ("1e3", None),
            ("soon", None),
            ("", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ] {
            assert_eq!(retry_after(text, now), expected, "{text}");
        }
        assert!(retry_after("Fri, 31 Dec 9999 23:59:59 GMT", now).is_some());
        let later = now + Duration::from_secs(100);
        assert_eq!(
            retry_after(&time::http(later), now),
            Some(Duration::from_secs(100))
        );
    }
}
