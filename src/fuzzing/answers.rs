//! What the service answers.

use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::input::{head_and_body, is_harmless};
use crate::base::error_chain::Cause;
use crate::base::time;
use crate::object::error::Error as ObjectError;
use crate::object::key::ObjectKey;
use crate::object::listing::{self, ListRequest};
use crate::oss::download::extent;
use crate::oss::error::Error;
use crate::oss::headers::{ObjectHead, content_length};
use crate::oss::refusal::{is_web_page, refusal};
use crate::oss::retry::Budget;
use crate::oss::xml;

/// Files have no more bytes.
const MAX_SIZE: u64 = i64::MAX as u64;

/// A status, then headers, then what may be an error document.
pub(super) fn headers(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (status, rest) = input.split_at(end);
    let status = String::from_utf8_lossy(status)
        .trim()
        .parse()
        .unwrap_or(200);
    let (headers, body) = head_and_body(rest.strip_prefix(b"\n").unwrap_or(rest));
    let now = UNIX_EPOCH + Duration::from_secs(1_767_413_106);

    for asked in [0..u64::MAX, 0..500, 100..200_000, u64::MAX - 1..u64::MAX] {
        if let Ok((first, size)) = extent(status, &headers, &asked) {
            assert!(size.is_none_or(|size| size <= MAX_SIZE));
            match status {
                206 => assert!(first == asked.start && size.is_some_and(|size| first < size)),
                _ => assert_eq!(first, 0),
            }
        }
    }

    let _ = is_web_page(&headers);
    let size = content_length(&headers);
    if let Some(info) = ObjectHead::read(&headers, size).whole(now) {
        assert!(info.size <= MAX_SIZE && !info.etag.as_str().is_empty());
        for time in [info.last_modified, info.date] {
            // Each can be written down, and reads the same then.
            assert_eq!(time::parse_http(&time::http(time)), Some(time));
            let _ = (time::plain(time), time::basic(time));
        }
        let kept = info.headers.user.iter().chain(&info.headers.standard);
        // What is not UTF-8 has three bytes for each one.
        assert!(
            kept.map(|(name, value)| name.len() + value.len())
                .sum::<usize>()
                <= 3 * input.len()
        );
        assert!(info.headers.user.keys().all(|name| name.is_ascii()));
    }

    for of_bucket in [false, true] {
        let text = String::from_utf8_lossy(body);
        let refusal = refusal("GetObject", of_bucket, status, &headers, &text, now);
        assert!(is_harmless(&refusal.to_string()), "{refusal}");
        let (meaning, class) = refusal.meaning();
        let error = Error::Refused(Box::new(refusal));
        assert_eq!(error.class(), class);
        let cause: Cause = Arc::new(error.clone());
        assert_eq!(
            discriminant(&ObjectError::from(error.clone())),
            discriminant(&meaning(cause))
        );
        let (start, timeout) = (Instant::now(), Duration::from_secs(60));
        let mut budget = Budget::new(start, timeout);
        let delay = budget.after_failure(class, error.retry_after(), start, None, 0.5);
        assert!(delay.is_none_or(|delay| delay < timeout));
    }
}

/// Documents.
pub(super) fn xml(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = xml::error(&text);
    if let Ok(page) = xml::list(&text, UNIX_EPOCH) {
        let request = ListRequest {
            prefix: "a/".to_owned(),
            delimited: true,
            ..ListRequest::default()
        };
        if let Ok(page) = listing::check(&request, page, &listing::Hidden::default()) {
            let names = page.objects.iter().map(|object| &object.key);
            for name in names.chain(&page.prefixes) {
                assert!(name.starts_with("a/") && name.len() <= ObjectKey::MAX_LEN);
            }
            assert!(page.objects.is_sorted_by(|one, other| one.key < other.key));
            assert!(page.prefixes.is_sorted_by(|one, other| one < other));
        }
    }
    let _ = xml::upload_id(&text);
    let _ = xml::etag(&text, "CopyObjectResult");
    let _ = xml::parts(&text, 0);
    let _ = xml::uploads(&text);
    let _ = xml::deleted(&text);
    let _ = xml::bucket_info(&text);
    let _ = xml::bucket_stat(&text);
}
