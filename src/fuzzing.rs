//! One entry point per parser of input from outside, for fuzzers and for the tests over the corpus.
//!
//! Each function takes any bytes, returns normally, and asserts what must hold of whatever was accepted. It neither
//! waits nor touches the disk or the network, and what it allocates is bounded by its input.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use crate::cli::source::Source;
use crate::cli::values;
use crate::crypto::key_parse;
use crate::crypto::xattr::{self, Xattrs};
use crate::envelope;
use crate::fs::attributes::Attributes;
use crate::oss::xml;
use crate::server;
use crate::store::listing;
use crate::store::local::record;
use crate::store::object_store::{ETag, ListRequest, ObjectHeaders, ObjectKey, ObjectMeta};
use crate::store::oss::raw_page;
use crate::tools::verify::Manifest;

/// A parser: its name, which is also its corpus' folder, and its entry point.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "answer_xml",
        run: answer_xml,
    },
    Target {
        name: "attributes",
        run: attributes,
    },
    Target {
        name: "command_line",
        run: command_line,
    },
    Target {
        name: "envelope",
        run: envelope,
    },
    Target {
        name: "key_file",
        run: key_file,
    },
    Target {
        name: "manifest",
        run: manifest,
    },
    Target {
        name: "request_xml",
        run: request_xml,
    },
    Target {
        name: "store_record",
        run: store_record,
    },
    Target {
        name: "xattrs",
        run: xattrs,
    },
];

/// Runs the target of that name; false if there is none.
pub fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    if let Some(target) = target {
        (target.run)(input);
    }
    target.is_some()
}

/// Lines of `name: value`, as metadata headers.
fn user_metadata(input: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn meta(input: &[u8]) -> ObjectMeta {
    ObjectMeta {
        size: input.len() as u64,
        etag: ETag::new("\"fuzzing\""),
        last_modified: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        headers: ObjectHeaders {
            user: user_metadata(input),
            ..ObjectHeaders::default()
        },
        crc64: None,
        date: UNIX_EPOCH + Duration::from_secs(1_700_000_002),
    }
}

/// Documents that the service answers with.
fn answer_xml(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = xml::error(&text);
    if let Ok(page) = xml::list(&text, UNIX_EPOCH) {
        let request = ListRequest {
            prefix: "a/".to_owned(),
            delimited: true,
            ..ListRequest::default()
        };
        if let Ok(page) = listing::check(&request, raw_page(page), &listing::Hidden::default()) {
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
}

/// Documents that clients send to the server.
fn request_xml(input: &[u8]) {
    let _ = server::xml::parse(input);
}

/// What metadata say of mode, owner and times.
fn attributes(input: &[u8]) {
    let meta = meta(input);
    for directory in [false, true] {
        let attributes = Attributes::read(&meta, directory);
        // What is written back reads the same.
        let mut written = meta.clone();
        attributes.write(&mut written.headers.user);
        assert_eq!(Attributes::read(&written, directory), attributes);
    }
}

fn envelope(input: &[u8]) {
    let user = user_metadata(input);
    if let Ok(Some(envelope)) = envelope::detect::detect(&user) {
        // No RSA modulus that is accepted is longer.
        assert!(envelope.wrapped_key.len() <= 2048);
    }
    let _ = envelope::format::claimed_kind(&user);
    let _ = envelope::format::is_bound_by_sdk_rules(&user);
}

/// What is sealed of extended attributes, and the header values that they are sealed in.
fn xattrs(input: &[u8]) {
    for version in [xattr::Version::One, xattr::Version::Two] {
        let Some(found) = Xattrs::decode(input, version) else {
            continue;
        };
        assert!(found.iter().all(|(name, _)| Xattrs::is_name(name)));
        // Each set of attributes has one text.
        assert_eq!(*found.encode(version), input);
    }
    let text = String::from_utf8_lossy(input);
    let _ = xattr::Version::of(&text);
    if let Ok((wrapped_key, sealed)) = xattr::split(&text) {
        assert!(wrapped_key.len() + sealed.len() <= text.len());
    }
}

fn key_file(input: &[u8]) {
    let _ = key_parse::private_key(input, &mut || None);
    let _ = key_parse::public_key(input);
}

/// A file of sha256sum's.
fn manifest(input: &[u8]) {
    let _ = Manifest::parse(&String::from_utf8_lossy(input));
}

fn command_line(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(source) = Source::parse(&text, None) {
        assert!(source.prefix().is_empty() || source.prefix().ends_with('/'));
    }
    let _ = values::size(&text);
    let _ = values::part_size(&text);
    let _ = values::duration(&text);
    let _ = values::mode(&text);
    let _ = values::fingerprint(&text);
}

/// A line of the log of a bucket that is kept in a folder.
fn store_record(input: &[u8]) {
    let _ = record::parse(input);
    let _ = record::details(input);
    // Mutated lines have no valid checksum of their own.
    let sealed = record::seal(&String::from_utf8_lossy(input));
    let line = sealed.trim_end_matches('\n').as_bytes();
    if let Some(record::Change::Put { key, .. }) = record::parse(line) {
        assert!(
            ObjectKey::new(key.as_str()).is_ok()
                || key.len() > ObjectKey::MAX_LEN
                || key.is_empty()
                || key.starts_with(['/', '\\'])
        );
    }
    let _ = record::details(line);
}
