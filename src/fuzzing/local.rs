//! Files that this program finds on the machine, or in a folder that others share.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::input::is_harmless;
use super::stored;
use crate::cli::daemon_file::reported;
use crate::cli::exit::Code;
use crate::envelope;
use crate::fuse::mount_table::{self, KIND};
use crate::store::local::record::{self, Change, Tag};
use crate::store::local::uploads;
use crate::store::object_store::{ETag, ObjectKey};
use crate::tools::envelopes::{Lines, merge};
use crate::tools::verify::{Manifest, parse_line};

/// A file of sha256sum's.
pub fn manifest(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let whole = Manifest::parse(&text).is_ok();
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
pub fn saved_envelopes(input: &[u8]) {
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
pub fn mount_table(input: &[u8]) {
    let mut lines = 0;
    for entry in mount_table::parse(input) {
        lines += 1;
        assert_eq!(entry.is_ours(), entry.kind == KIND);
    }
    assert!(lines <= input.split(|byte| *byte == b'\n').count());
}

/// What a mount's daemon leaves for whoever waits for it.
pub fn daemon_file(input: &[u8]) {
    if let Err(error) = reported(input) {
        assert_ne!(error.code(), Code::Success);
        assert!(is_harmless(&error.to_string()));
    }
}

/// A line of the log of a bucket that is kept in a folder.
pub fn store_record(input: &[u8]) {
    let _ = record::parse(input);
    let _ = record::details(input);
    // Mutated lines have no valid checksum of their own.
    let sealed = record::seal(&String::from_utf8_lossy(input));
    let line = sealed.trim_end_matches('\n').as_bytes();
    let details = record::details(line);
    let Some(change) = record::parse(line) else {
        return;
    };
    let again = match &change {
        Change::Delete { key } => record::delete_line(key),
        Change::Put {
            key,
            facts,
            content,
        } => {
            assert!(ObjectKey::new(key.as_str()).is_ok() && facts.size <= i64::MAX as u64);
            let Some((_, details)) = details else { return };
            record::put_line(key, facts, content, &details)
        }
    };
    // Written again, it is the same change.
    let line = again.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'));
    assert_eq!(record::parse(line.as_bytes()), Some(change));
}

/// The file of a multipart upload in such a folder, and the names of its parts.
pub fn store_upload(input: &[u8]) {
    if let Some(upload) = uploads::parse(input) {
        assert!(ObjectKey::new(upload.key.as_str()).is_ok());
        assert!(record::safe_name(&upload.name));
        assert!(upload.initiated() <= UNIX_EPOCH + Duration::from_secs(record::MAX_TIME));
        assert!(upload.details.is_bounded());
    }
    let text = String::from_utf8_lossy(input);
    let mut ids = BTreeSet::new();
    for line in text.lines() {
        if uploads::is_id(line) {
            assert!(record::safe_name(line));
            ids.insert(line);
        }
        if let Some(part) = uploads::parse_part(line, UNIX_EPOCH) {
            assert!((1..=record::MAX_PARTS).contains(&part.number));
            let name = uploads::part_name(part.number, part.size, part.crc64, &part.tag);
            let again = uploads::parse_part(&name, UNIX_EPOCH).expect("a part's name");
            assert_eq!(
                (again.number, again.size, again.crc64, again.tag),
                (part.number, part.size, part.crc64, part.tag)
            );
        }
        if let Some(tag) = Tag::parse(line) {
            assert!(tag.is(&ETag::new(line)));
            assert_eq!(Tag::parse(tag.etag().as_str()), Some(tag));
        }
    }
    assert!(ids.len() <= input.len() / 32);
}
