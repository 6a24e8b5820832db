//! Makes external text safe for terminals, logs and messages.
//!
//! File names, metadata, server messages and user input appear in lines that people read. Two things must not
//! happen there: characters must not act on the terminal ([`one_line`], [`json`]), and secrets in the wrong
//! place, like a key in place of the name of its file, must not be shown ([`one_line`] removes PEM blocks,
//! [`path`] shows only what looks like a path).

use std::path::Path;

/// Escapes characters that would break a line, move a cursor, or change the order or appearance of other
/// text; leaves letters of every script unchanged. Removes PEM blocks, whatever they contain.
pub(crate) fn one_line(text: &str) -> String {
    // PEM last: removing other text must not join two halves of a block's first line.
    let text = without_credentials(&without_numbers(text.trim_end()));
    let text = without_pem(&text);
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match acts(character) {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line
}

/// The same for a line of JSON: its strings keep their values, written in ASCII.
pub(crate) fn json(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // ASCII control characters are the serializer's job. All others can only occur in a string.
        if acts(character) && !character.is_ascii() {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else if character == '\u{7f}' {
            line.push_str("\\u007f");
        } else {
            line.push(character);
        }
    }
    line
}

/// Whether a character is not displayed as itself: controls (C0, DEL, C1), line and paragraph separators,
/// direction marks and overrides, zero-width and other invisible characters.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{00ad}'
                | '\u{061c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Text that begins like a PEM block is removed up to its end, or else to the end of the text.
fn without_pem(text: &str) -> std::borrow::Cow<'_, str> {
    const BEGIN: &str = "-----BEGIN";
    const END: &str = "-----END";
    if !text.contains(BEGIN) {
        return text.into();
    }
    let mut rest = text;
    let mut shown = String::new();
    while let Some(at) = rest.find(BEGIN) {
        shown.push_str(&rest[..at]);
        shown.push_str("(a PEM block, not shown)");
        rest = match rest[at..].find(END) {
            None => "",
            Some(end) => {
                let after = &rest[at + end + END.len()..];
                after
                    .find("-----")
                    .map_or("", |dashes| &after[dashes + "-----".len()..])
            }
        };
    }
    shown.push_str(rest);
    shown.into()
}

/// The system's error messages end with their numbers, which add nothing.
fn without_numbers(text: &str) -> String {
    const BEGIN: &str = " (os error ";
    let mut rest = text;
    let mut shown = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(BEGIN) {
        shown.push_str(before);
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        rest = match after[digits..].strip_prefix(')') {
            Some(end) if digits > 0 => end,
            _ => {
                shown.push_str(BEGIN);
                after
            }
        };
    }
    shown.push_str(rest);
    shown
}

/// Removes user and password before the host of a URL.
fn without_credentials(text: &str) -> String {
    const SCHEME_ENDS: &str = "://";
    let mut rest = text;
    let mut shown = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(SCHEME_ENDS) {
        shown.push_str(before);
        shown.push_str(SCHEME_ENDS);
        let end = after.find(|c: char| c.is_whitespace() || "/\"'".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(at) => {
                shown.push_str("(not shown)");
                &after[at..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

/// Longer than any path that people type; every RSA key is longer.
const LONGEST_PATH: usize = 255;

/// A path for messages. Text that is not a path, such as a key in place of its path, is not shown.
pub(crate) fn path(path: &Path) -> String {
    let text = path.to_string_lossy();
    match looks_like_a_path(&text) {
        true => one_line(&text),
        false => format!("({} characters, not shown)", text.chars().count()),
    }
}

pub(crate) fn looks_like_a_path(text: &str) -> bool {
    let credentials = text
        .split_once(':')
        .is_some_and(|(_, rest)| rest.contains('@'));
    text.len() <= LONGEST_PATH
        && !credentials
        && !text.chars().any(char::is_control)
        && !text.contains("-----")
        && !is_base64_of_a_key(text)
}

/// A key's DER in base64 begins with `MI` or `MC`, its PEM in base64 with `LS0t`.
fn is_base64_of_a_key(text: &str) -> bool {
    text.len() >= 48
        && ["MI", "MC", "LS0t"]
            .iter()
            .any(|begin| text.starts_with(begin))
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte))
}

/// A word for messages: the name of a bucket, a region. None unless it is short and plain.
pub(crate) fn word(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (text.len() <= 63 && text.bytes().all(plain)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped_and_letters_are_not() {
        for (text, line) in [
            ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("a\r\nb\n", "a\\r\\nb"),
            ("\u{7f}\u{80}\u{9b}31m", "\\u{7f}\\u{80}\\u{9b}31m"),
            ("a\u{202e}txt.exe", "a\\u{202e}txt.exe"),
            ("\u{202a}\u{2066}\u{2069}", "\\u{202a}\\u{2066}\\u{2069}"),
            ("\u{2028}\u{2029}\u{200b}", "\\u{2028}\\u{2029}\\u{200b}"),
            ("\u{feff}\u{ad}\u{e0041}", "\\u{feff}\\u{ad}\\u{e0041}"),
            ("桶 naïve שלום \\n", "桶 naïve שלום \\n"),
            (
                "No such file (os error 2): a (os error 13)",
                "No such file: a",
            ),
            ("a (os error x) (os error )", "a (os error x) (os error )"),
            (
                "http://u:s3cret@h/a@b \"x://t@h\"",
                "http://(not shown)@h/a@b \"x://(not shown)@h\"",
            ),
            ("https://h/a a@b ://", "https://h/a a@b ://"),
        ] {
            assert_eq!(one_line(text), line);
            for character in text.chars().filter(|c| acts(*c)) {
                assert!(!one_line(text).contains(character), "{text:?}");
            }
        }
    }

    #[test]
    fn json_keeps_its_meaning_in_harmless_characters() {
        for text in [
            "\u{1b}[0m",
            "\u{7f}\u{9b}",
            "\u{202e}a\u{2028}",
            "\u{e0041}",
            "桶\"\\",
        ] {
            let line = json(&serde_json::to_string(text).unwrap());
            assert!(!line.chars().any(acts), "{line:?}");
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }

    #[test]
    fn a_pem_block_is_never_shown() {
        for (text, line) in [
            (
                "key -----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----: none",
                "key (a PEM block, not shown): none",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIsecret",
                "(a PEM block, not shown)",
            ),
            (
                "-----BEGIN A-----secret-----END A----------BEGIN B-----secret-----END B-----",
                "(a PEM block, not shown)(a PEM block, not shown)",
            ),
            (
                "-----BEGIN A-----secret-----END",
                "(a PEM block, not shown)",
            ),
            ("nothing -----", "nothing -----"),
            (
                "-----BE (os error 2)GIN A-----\nMIIsecret",
                "(a PEM block, not shown)",
            ),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn only_what_looks_like_a_path_is_shown_as_one() {
        for (text, shown) in [
            ("vault.key", "vault.key"),
            ("/home/桶/MIIkeys/a-b_c.pem", "/home/桶/MIIkeys/a-b_c.pem"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\nb", "(3 characters, not shown)"),
            ("https:/u:s3cret@h", "(17 characters, not shown)"),
            ("user@host", "user@host"),
            ("-----BEGIN X-----", "(17 characters, not shown)"),
            (&"x".repeat(300), "(300 characters, not shown)"),
            (
                "MC4CAQAwBQYDK2VwBCIEIIaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "(64 characters, not shown)",
            ),
        ] {
            assert_eq!(path(Path::new(text)), shown);
        }
        for (text, shown) in [
            ("cn-hangzhou", true),
            ("a b", false),
            ("a:b@c", false),
            ("", true),
        ] {
            assert_eq!(word(text).is_some(), shown, "{text}");
        }
    }
}
