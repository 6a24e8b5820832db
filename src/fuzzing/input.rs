//! How inputs are read that are made of several parts.

use std::collections::BTreeMap;

/// Lines of `name: value`, as metadata headers.
pub(super) fn user_metadata(input: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Whether a text can be written to a terminal and to a log: one line of characters that show something.
pub(super) fn is_harmless(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Headers, one in a line, up to an empty line; and what follows that. Lines that are none are left out.
pub(super) fn head_and_body(text: &[u8]) -> (hyper::HeaderMap, &[u8]) {
    let mut headers = hyper::HeaderMap::new();
    let mut rest = text;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = hyper::header::HeaderName::from_bytes(&line[..colon]);
        let value = hyper::header::HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, rest)
}
