//! Files that this program finds on the machine, or in a folder that others share.

use std::path::Path;
use std::time::UNIX_EPOCH;

use super::input::is_harmless;
use super::stored;
use crate::cli::daemon_file::reported;
use crate::cli::exit::Code;
use crate::envelope;
use crate::fuse::mount_table::{self, KIND};
use crate::store::local::record::{self, Content, Tag};
use crate::store::object_store::{ETag, ObjectKey};
use crate::tools::envelopes::{Lines, merge};
use crate::tools::verify::{Digests, parse_line};

/// A file of sha256sum's.
pub(super) fn manifest(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let whole = Digests::parse(&text).is_ok();
    let mut lines = text.lines().filter(|line| !line.is_empty());
    assert_eq!(whole, lines.all(|line| parse_line(line).is_some()));
    for (path, digest) in text.lines().filter_map(parse_line) {
        assert!(!path.is_empty());
        // Written as sha256sum does, it reads the same.
        let digits = hex::encode(digest);
        let escaped = path
            .replace('\\', "\\\\")
            .replace('\n', "\\n")
            .replace('\r', "\\r");
        let mark = if escaped == path { "" } else { "\\" };
        let line = format!("{mark}{digits}  ./{escaped}");
        assert_eq!(parse_line(&line), Some((path, digest)), "{line}");
    }
}

/// A file in which envelopes were saved, and what would be put back of them.
pub(super) fn saved_envelopes(input: &[u8]) {
    let Ok(mut lines) = Lines::of(input, Path::new("saved")) else {
        return;
    };
    while let Some(line) = lines.next().expect("memory can be read") {
        let Ok(saved) = line else { continue };
        let listed = saved.listed();
        assert!(UNIX_EPOCH <= listed.last_modified);
        if ObjectKey::new(saved.key.as_str()).is_err() || envelope::detect(&saved.user).is_err() {
            continue;
        }
        let now = stored::meta(saved.etag.as_bytes());
        let put_back = merge(&now, &saved).user;
        let is_its = |name: &str| put_back.get(name) == saved.user.get(name);
        let mut names = saved.user.keys().chain(put_back.keys());
        assert!(names.all(|name| !envelope::format::is_envelope_name(name) || is_its(name)));
    }
}

/// /proc/self/mountinfo.
pub(super) fn mount_table(input: &[u8]) {
    let mut lines = 0;
    for entry in mount_table::parse(input) {
        lines += 1;
        assert_eq!(entry.is_ours(), entry.kind == KIND);
    }
    assert!(lines <= input.split(|byte| *byte == b'\n').count());
}

/// What a mount's daemon leaves for whoever waits for it.
pub(super) fn daemon_file(input: &[u8]) {
    if let Err(error) = reported(input) {
        assert_ne!(error.code(), Code::Success);
        assert!(is_harmless(&error.to_string()));
    }
}

/// The texts in the database of a bucket that is kept in a folder: where the content of an object is, and its
/// headers; one a line, the headers last.
pub(super) fn store_row(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (place, headers) = text.split_once('\n').unwrap_or(("-", &text));
    if let Some(content) = Content::parse(place) {
        if let Content::File(name) | Content::Parts(name) = &content {
            assert!(!name.contains(['/', '\0']) && name != "." && name != "..");
            assert!((1..=255).contains(&name.len()));
        }
        assert_eq!(content.to_string(), place);
    }
    if let Some(headers) = record::read_headers(headers) {
        assert!(record::is_bounded(&headers));
        // What is written back reads the same.
        let written = record::write_headers(&headers);
        assert_eq!(record::read_headers(&written), Some(headers));
    }
}

/// What names a multipart upload in such a folder, and its parts: ids, the names of part files, and tags; one a
/// line.
pub(super) fn store_upload(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for line in text.lines() {
        if record::is_id(line) {
            assert!(record::safe_name(line));
            assert!(record::is_part_name(&record::part_name(1, line)));
        }
        if record::is_part_name(line) {
            assert!(record::safe_name(line));
            let (number, id) = line.split_once('~').expect("a part's name");
            // A forged name may have a number that no part has.
            if let Ok(number) = number.parse() {
                assert_eq!(record::part_name(number, id), line);
            }
        }
        if let Some(tag) = Tag::parse(line) {
            assert!(tag.is(&ETag::new(line)));
            assert_eq!(Tag::parse(tag.etag().as_str()), Some(tag));
        }
    }
}
