//! Finds the PEM blocks in a text, repairing common damage.
//!
//! Keys are copied through environment variables, secret stores, chat windows and editors. Everything that
//! OpenSSL reads is accepted: text before, between and after blocks, in any encoding. Damage that users would
//! otherwise have to repair by hand is repaired: a byte order mark, UTF-16, line endings of all kinds, `\n`
//! as two characters, a key on one line, quotes around it, base64 without the BEGIN and END lines.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// One block.
pub(crate) struct Block {
    pub label: String,
    /// The value of the `DEK-Info` header, in blocks with traditional encryption.
    pub dek_info: Option<String>,
    /// None if its base64 is malformed.
    pub body: Option<Zeroizing<Vec<u8>>>,
}

/// The blocks of a text.
pub(crate) struct Blocks {
    pub blocks: Vec<Block>,
    /// Whether a block has no end, or another block's end.
    pub incomplete: bool,
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// More than in any file of keys and their certificates.
const MAX_BLOCKS: usize = 64;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// None if the bytes are not PEM at all.
pub(crate) fn blocks(bytes: &[u8]) -> Option<Blocks> {
    let text = characters(bytes);
    if !text.contains(BEGIN) {
        return None;
    }
    let mut blocks = Vec::new();
    let mut incomplete = false;
    let mut rest = text.as_str();
    while let Some(at) = rest.find(BEGIN) {
        rest = &rest[at + BEGIN.len()..];
        // A block's text ends where the next one begins, at the latest.
        let until = rest.find(BEGIN).unwrap_or(rest.len());
        let block = &rest[..until];
        let parts = block.split_once(DASHES).and_then(|(label, block)| {
            let end = format!("{END}{label}{DASHES}");
            Some((label, &block[..block.find(&end)?]))
        });
        match parts {
            Some((label, text)) if !label.contains('\n') && blocks.len() < MAX_BLOCKS => {
                blocks.push(parse(label, text));
            }
            _ => incomplete = true,
        }
    }
    Some(Blocks { blocks, incomplete })
}

/// The bytes of base64 without PEM lines. None if the text is something else.
pub(crate) fn bare_base64(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = characters(bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || "\"'".contains(c));
    // A short word is valid base64, too.
    (text.len() >= 64).then_some(())?;
    decode(text)
}

/// Keeps ASCII, and replaces every other character with one mark: labels, headers and base64 contain none.
fn characters(bytes: &[u8]) -> Zeroizing<String> {
    let wide = |bytes: &[u8], at: usize| -> Vec<u8> {
        let unit = |pair: &[u8]| match pair[1 - at] {
            0 => pair[at],
            _ => b'?',
        };
        bytes.chunks_exact(2).map(unit).collect()
    };
    let bytes = match bytes {
        [0xff, 0xfe, rest @ ..] => Zeroizing::new(wide(rest, 0)),
        [0xfe, 0xff, rest @ ..] => Zeroizing::new(wide(rest, 1)),
        bytes => Zeroizing::new(bytes.to_vec()),
    };
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        text.push(match byte {
            b'\r' => '\n',
            // As environment files and JSON write line endings.
            b'\\' if matches!(rest.peek(), Some(b'n' | b'r')) => {
                rest.next();
                '\n'
            }
            b'\\' => ' ',
            0..0x80 => byte.into(),
            _ => '?',
        });
    }
    text
}

fn parse(label: &str, text: &str) -> Block {
    let mut dek_info = None;
    let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
    let mut note = |header: &str| {
        if let Some((_, value)) = header.split_once("DEK-Info:") {
            dek_info = value.split_whitespace().next().map(str::to_owned);
        }
    };
    if text.trim().contains('\n') {
        for line in text.lines() {
            match line.contains(':') {
                true => note(line),
                false => base64.push_str(line),
            }
        }
    } else {
        // All on one line: the key follows the last header's value.
        let mut rest = text;
        while let Some((_, value)) = rest.split_once(':') {
            note(rest);
            let value = value.trim_start();
            rest = value
                .split_once(char::is_whitespace)
                .map_or("", |(_, rest)| rest);
        }
        base64.push_str(rest);
    }
    Block {
        label: label.trim().to_owned(),
        dek_info,
        body: decode(&base64),
    }
}

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    let blank =
        |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"\"'".contains(byte);
    base64.extend(text.bytes().filter(|byte| !blank(byte)));
    let mut body = Zeroizing::new(Vec::with_capacity(base64.len()));
    BASE64.decode_vec(&*base64, &mut body).ok()?;
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_however_its_text_was_mangled() {
        let utf16: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain(
                "-----BEGIN K-----\r\naGVsbG8=\r\n-----END K-----"
                    .bytes()
                    .flat_map(|b| [b, 0]),
            )
            .collect();
        for text in [
            &b"-----BEGIN K-----\naGVsbG8=\n-----END K-----\n"[..],
            b"\xef\xbb\xbf-----BEGIN K-----\r\naGVs\r\nbG8=\r\n-----END K-----",
            b"caf\xe9\n-----BEGIN K-----\raGVs\rbG8=\r-----END K-----\r",
            b"-----BEGIN K-----\\naGVs\\nbG8=\\n-----END K-----\\n",
            b"\"-----BEGIN K----- aGVs bG8= -----END K-----\"",
            b"  -----BEGIN K-----\n  aGVs\n\n  bG8\n  -----END K-----",
            b"-----BEGIN K-----\nComment: a b\n\naGVsbG8=\n-----END K-----",
            b"-----BEGIN K-----aGVsbG8=-----END K-----",
            b"-----BEGIN K-----\\\naGVsbG8=\\\n-----END K-----",
            &utf16,
        ] {
            let found = blocks(text).unwrap();
            assert!(!found.incomplete);
            assert_eq!(found.blocks.len(), 1);
            assert_eq!(found.blocks[0].label, "K");
            assert_eq!(found.blocks[0].body.as_deref().unwrap(), b"hello");
            assert_eq!(found.blocks[0].dek_info, None);
        }
    }

    #[test]
    fn headers_are_not_base64_on_one_line_or_on_many() {
        for text in [
            "-----BEGIN K-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: A,00\n\naGVsbG8=\n-----END K-----",
            "-----BEGIN K----- Proc-Type: 4,ENCRYPTED DEK-Info: A,00  aGVsbG8= -----END K-----",
        ] {
            let found = blocks(text.as_bytes()).unwrap();
            assert_eq!(found.blocks[0].dek_info.as_deref(), Some("A,00"));
            assert_eq!(found.blocks[0].body.as_deref().unwrap(), b"hello");
        }
    }

    #[test]
    fn one_damaged_block_leaves_the_others() {
        let text = "-----BEGIN A-----\nAAAA\n-----BEGIN B-----\n!\n-----END B-----\n-----BEGIN C-----\nAAAA\n-----END C-----";
        let found = blocks(text.as_bytes()).unwrap();
        assert!(found.incomplete);
        let labels: Vec<_> = found
            .blocks
            .iter()
            .map(|block| block.label.as_str())
            .collect();
        assert_eq!(labels, ["B", "C"]);
        assert!(found.blocks[0].body.is_none());
        assert!(blocks(b"no PEM").is_none());
    }

    #[test]
    fn base64_alone_is_taken_if_it_is_long_enough() {
        let line = "aGVsbG8h".repeat(8);
        assert_eq!(bare_base64(line.as_bytes()).unwrap().len(), 48);
        assert_eq!(
            bare_base64(format!("\"{line}\"\n").as_bytes())
                .unwrap()
                .len(),
            48
        );
        assert!(bare_base64(b"hello").is_none());
        assert!(bare_base64(format!("{line}.").as_bytes()).is_none());
    }
}
