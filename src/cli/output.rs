//! Lines on stdout and stderr: escaped, and without failing when the reader has gone.

use std::io::Write;

use crate::text;

pub(super) fn print_json(value: &impl serde::Serialize) {
    if let Ok(json) = serde_json::to_string(value) {
        print(&text::json(&json));
    }
}

/// For people, over several lines.
pub(super) fn print_pretty_json(value: &impl serde::Serialize) {
    if let Ok(json) = serde_json::to_string_pretty(value) {
        print(&text::json(&json));
    }
}

/// One line, whatever names and messages it contains.
pub(super) fn print_line(line: &str) {
    print(&text::one_line(line));
}

/// The one PEM block that is shown, because it is asked for and no secret.
pub(super) fn print_public_key(pem: &str) {
    print(pem.trim_end());
}

/// A line on stderr, for messages that are not results.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "ossvault: {}", text::one_line(line));
}

/// A reader that has gone is no reason to stop halfway.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
