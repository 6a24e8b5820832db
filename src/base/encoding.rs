//! Percent-encoding as the service signs and writes it (RFC 3986). Hexadecimal is the `hex` crate's.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All but `A-Za-z0-9-_.~` is encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// The same, with `/` as it is.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// Appends `text` percent-encoded: all but `A-Za-z0-9-_.~`, and `/` where it may stay.
pub fn percent_encode(text: &str, keep_slash: bool, out: &mut String) {
    out.reserve(text.len());
    let set = if keep_slash {
        RESERVED_IN_PATH
    } else {
        RESERVED
    };
    out.extend(utf8_percent_encode(text, set));
}

/// [`percent_encode`] into a string of its own.
pub fn percent_encoded(text: &str, keep_slash: bool) -> String {
    let mut out = String::new();
    percent_encode(text, keep_slash, &mut out);
    out
}

/// Undoes `%XX`; everything else stays, `+` included. None if what comes out is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded_bytes(text)).ok()
}

/// The same, whatever the bytes spell.
pub fn percent_decoded_bytes(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_keeps_only_what_is_unreserved() {
        for (plain, path, query) in [
            ("a/b c", "a/b%20c", "a%2Fb%20c"),
            ("-_.~", "-_.~", "-_.~"),
            ("+!*'()%", "%2B%21%2A%27%28%29%25", "%2B%21%2A%27%28%29%25"),
            ("\u{6587}\n", "%E6%96%87%0A", "%E6%96%87%0A"),
        ] {
            assert_eq!(percent_encoded(plain, true), path);
            assert_eq!(percent_encoded(plain, false), query);
            assert_eq!(percent_decoded(query).as_deref(), Some(plain));
        }
    }

    #[test]
    fn percent_decoding_leaves_what_is_no_escape() {
        for (text, plain) in [
            ("a+b", Some("a+b")),
            ("100%", Some("100%")),
            ("%4", Some("%4")),
            ("%zz", Some("%zz")),
            ("%e6%96%87", Some("\u{6587}")),
            ("%ff", None),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), plain, "{text}");
        }
    }
}
