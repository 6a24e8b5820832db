//! What people and their environment say, and what is said to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Metadata};
use reqwest::Url;

use super::input::is_harmless;
use crate::cli::logging::Filter;
use crate::cli::secrets::first_line;
use crate::cli::source::{Source, check_bucket};
use crate::cli::values;
use crate::oss::credentials::command::CommandLine;
use crate::oss::credentials::environment as keys_of;
use crate::oss::credentials::file::{self, passwd};
use crate::oss::credentials::json;
use crate::oss::credentials::network::{Network, Settings};
use crate::oss::endpoint::{self, Endpoint, Options};
use crate::oss::proxy;
use crate::text;

pub(super) fn command_line(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (first, second) = text.split_once('\n').unwrap_or((&text, ""));
    for prefix in [None, Some(second)] {
        match Source::parse(first, prefix) {
            Ok(source) => {
                let prefix = source.prefix();
                assert!(prefix.is_empty() || prefix.ends_with('/'));
                assert!(!prefix.starts_with(['/', '\\']) && prefix.len() <= 901);
                assert!(!prefix.split('/').any(|name| matches!(name, "." | "..")));
                let _ = source.to_string();
            }
            Err(message) => assert!(is_harmless(&text::one_line(&message))),
        }
    }
    let text = first;
    let _ = values::size(text);
    if let Ok(size) = values::part_size(text) {
        assert!(size.is_multiple_of(128 << 10) && (1..=1 << 30).contains(&size));
    }
    let _ = values::duration(text);
    if let Ok(time) = values::positive_duration(text) {
        assert!(!time.is_zero());
    }
    assert!(values::mode(text).unwrap_or(0) <= 0o7777);
    assert!(values::fingerprint(text).map_or(64, |digits| digits.len()) == 64);
    assert!((1..=1024).contains(&values::parallel(text).unwrap_or(1)));
    let _ = values::number::<u32>(text);
    let _ = values::address(text);
    let _ = values::format(text);
    let _ = values::key_bits(text);
    let _ = values::region(text);
}

/// Variables, `NAME=VALUE` in a line each.
pub(super) fn environment(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let variables: BTreeMap<&str, &str> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .collect();
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());

    match keys_of::find(variable) {
        Ok(None) => {}
        Ok(Some(key)) => assert!(!key.id().is_empty() && is_harmless(key.id())),
        Err(error) => assert!(is_harmless(&error.to_string())),
    }
    for https in [false, true] {
        if let Err(error) = proxy::from_environment(https, variable) {
            assert!(is_harmless(&error.to_string()));
        }
    }
    let value = |name: &str| variables.get(name).copied().unwrap_or_default();
    let (endpoint, bucket, region) = (
        value("OSS_ENDPOINT"),
        value("OSS_BUCKET"),
        value("OSS_REGION"),
    );
    let _ = check_bucket(bucket);
    let drawn = input.len();
    let options = Options {
        cname: drawn & 1 != 0,
        path_style: drawn & 2 != 0,
        allow_http: drawn & 4 != 0,
    };
    for bucket in [bucket, "bucket"] {
        addressed(endpoint, bucket, options);
    }
    if let Ok(region) = endpoint::checked_region(region) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        assert!(region.bytes().all(plain));
    }
    let _ = endpoint::of_region(region);

    // Libraries say nothing below a warning, whatever is wanted.
    let filter = Filter::new(LevelFilter::Warn, variables.get("RUST_LOG").copied());
    for target in ["hyper", "fuser::request", "ossvaults", "reqwest::connect"] {
        let metadata = Metadata::builder()
            .target(target)
            .level(Level::Info)
            .build();
        assert!(!filter.enabled(&metadata));
    }

    if let Ok(passphrase) = first_line(value("PASSPHRASE_FILE").as_bytes(), "file") {
        assert!(!passphrase.is_empty() && !passphrase.contains('\n'));
    }
    if let Ok(passphrase) = first_line(input, "file") {
        assert!(passphrase.len() <= 4096 && !passphrase.contains('\n'));
    }
}

/// What a source of credentials says: a file of any form, the output of a command, an answer of a service.
pub(super) fn credentials(input: &[u8]) {
    let network = Network::new(Settings {
        sts_endpoint: None,
        sts_region: None,
        vpc: false,
        metadata: None,
        timeout: Duration::from_secs(60),
    });
    for profile in [None, Some("default")] {
        if let Err(error) = file::examine(input, profile, &network) {
            assert!(is_harmless(&error) && error.len() < 500, "{error:?}");
        }
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_413_106);
    let key = json::key(input, now);
    let text = String::from_utf8_lossy(input);
    for key in [key, passwd::key(&text, "bucket", now)] {
        match key {
            Ok(key) => {
                assert!(!key.id().is_empty() && is_harmless(key.id()));
                assert!(is_harmless(&key.shown_id()) && !key.has_expired(now));
                let week = Duration::from_secs(7 * 24 * 3600);
                assert!(key.expires().is_none_or(|expires| expires <= now + week));
            }
            Err(fault) => assert!(is_harmless(&fault.why) && fault.why.len() < 500),
        }
    }
    let _ = CommandLine::parse(&text);
}

/// Where requests go is what was said, and plain http stays on this machine unless it may leave it.
fn addressed(text: &str, bucket: &str, options: Options) {
    let endpoint = match Endpoint::new(text, bucket, options) {
        Ok(endpoint) => endpoint,
        Err(error) => return assert!(is_harmless(&error.to_string()), "{error}"),
    };
    let url = match endpoint.url(Some("a/b"), &[("uploads".into(), "".into())]) {
        Ok(url) => url,
        Err(error) => return assert!(is_harmless(&error.to_string()), "{error}"),
    };
    assert_eq!(url.scheme() == "https", endpoint.is_https());
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    assert_eq!(url.query(), Some("uploads"));
    assert!(url.path() == "/a/b" || url.path() == format!("/{bucket}/a/b"));
    assert!(url.as_str().starts_with(endpoint.base()));
    assert_eq!(endpoint.is_loopback(), is_loopback(&url));
    assert!(endpoint.is_https() || options.allow_http || is_loopback(&url));
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Texts from outside in lines that people read.
pub(super) fn shown_text(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let line = text::one_line(&text);
    assert!(is_harmless(&line), "{line:?}");
    assert!(!line.contains("-----BEGIN"), "{line:?}");
    assert!(!line.contains(['\u{202e}', '\u{2028}', '\u{200b}', '\u{feff}']));

    let written = serde_json::to_string(&*text).expect("a string");
    let json = text::json(&written);
    assert!(is_harmless(&json), "{json:?}");
    assert_eq!(
        serde_json::from_str::<String>(&json).ok().as_deref(),
        Some(&*text)
    );

    let path = text::path(Path::new(&*text));
    assert!(
        is_harmless(&path) && !path.contains("-----BEGIN"),
        "{path:?}"
    );
    if let Some(word) = text::word(&text) {
        assert!(word.is_ascii() && is_harmless(word));
    }
}
