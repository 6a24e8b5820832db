//! Parsers of option values: sizes, durations, modes.
//!
//! Error messages do not repeat the value: it may be a secret in the wrong place.

use std::net::SocketAddr;
use std::time::Duration;

use crate::envelope::Format;
use crate::oss::credentials::chain::{self, Named, RoleArn};
use crate::oss::credentials::command::CommandLine;
use crate::tools::shard::Shard;

/// What an option expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Expected(pub &'static str);

/// Bytes: a number with an optional unit `K`, `M`, `G`, `T` (powers of 1024; `KiB` and `KB` mean the same).
///
/// # Errors
/// The expected form.
pub fn size(text: &str) -> Result<u64, Expected> {
    let expected = || Expected("expected a size, like 512M or 10G");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let shift = match text[digits..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(expected()),
    };
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// A [`size`] that is valid for upload parts: a multiple of 128 KiB, at most 1 GiB.
///
/// # Errors
/// The expected form.
pub fn part_size(text: &str) -> Result<u64, Expected> {
    match size(text)? {
        size if size > 0 && size <= 1 << 30 && size.is_multiple_of(128 << 10) => Ok(size),
        _ => Err(Expected("expected a multiple of 128K, at most 1G")),
    }
}

/// One of several parts: `I/N`, with I from 0 to N - 1.
///
/// # Errors
/// The expected form.
pub(crate) fn shard(text: &str) -> Result<Shard, Expected> {
    let expected = "expected I/N, the part I of N numbered from 0, like 0/8 for the first of eight";
    text.parse().map_err(|_| Expected(expected))
}

/// Seconds, with an optional fraction, or with a unit: `250ms`, `5s`, `2m`, `1h`. At most a year.
///
/// # Errors
/// The expected form.
pub fn duration(text: &str) -> Result<Duration, Expected> {
    let expected = || Expected("expected seconds, or a time with a unit, like 250ms");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| expected())?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(expected()),
    };
    let seconds = number * unit;
    if !(0.0..=365.0 * 86400.0).contains(&seconds) {
        return Err(expected());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A [`duration`] greater than zero.
///
/// # Errors
/// The expected form.
pub fn positive_duration(text: &str) -> Result<Duration, Expected> {
    match duration(text)? {
        Duration::ZERO => Err(Expected("expected a time greater than 0")),
        duration => Ok(duration),
    }
}

/// A degree of parallelism.
///
/// # Errors
/// The expected form.
pub fn parallel(text: &str) -> Result<u16, Expected> {
    match text.parse() {
        Ok(number @ 1..=1024) => Ok(number),
        _ => Err(Expected("expected a number from 1 to 1024")),
    }
}

/// A count, or the number of a user or group.
///
/// # Errors
/// The expected form.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, Expected> {
    text.parse().map_err(|_| Expected("expected a number"))
}

/// # Errors
/// The expected form.
pub fn address(text: &str) -> Result<SocketAddr, Expected> {
    let expected = "expected an address and a port, like 127.0.0.1:8090";
    text.parse().map_err(|_| Expected(expected))
}

/// # Errors
/// The expected form.
pub fn format(text: &str) -> Result<Format, Expected> {
    text.parse()
        .map_err(|_| Expected("expected seed, sdk or dual"))
}

/// # Errors
/// The expected form.
pub fn key_bits(text: &str) -> Result<usize, Expected> {
    match text {
        "2048" => Ok(2048),
        "3072" => Ok(3072),
        "4096" => Ok(4096),
        _ => Err(Expected("expected 2048, 3072 or 4096")),
    }
}

/// A region's name, which becomes part of host names and signatures.
///
/// # Errors
/// The expected form.
pub fn region(text: &str) -> Result<String, Expected> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match (1..=32).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(Expected("expected a region's name, like cn-hangzhou")),
    }
}

/// Permission bits in octal, 0 to 7777.
///
/// # Errors
/// The expected form.
pub fn mode(text: &str) -> Result<u32, Expected> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or(Expected("expected octal digits, like 0644"))
}

/// The SHA-256 of a public key: 64 hex digits, optionally separated by colons. Returned in lower case without
/// colons.
///
/// # Errors
/// The expected form.
pub fn fingerprint(text: &str) -> Result<String, Expected> {
    let digits = text.replace(':', "").to_ascii_lowercase();
    let valid = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match valid {
        true => Ok(digits),
        false => Err(Expected(
            "not a fingerprint: expected the 64 hex digits that `ossvault keygen` prints",
        )),
    }
}

/// A program and its arguments, as they are split without a shell.
///
/// # Errors
/// The expected form.
pub fn command_line(text: &str) -> Result<CommandLine, String> {
    CommandLine::parse(text).map_err(expected)
}

/// A source of credentials that needs nothing else.
///
/// # Errors
/// The expected form.
pub fn credential_source(text: &str) -> Result<Named, String> {
    Named::parse(text).map_err(expected)
}

/// The name of a profile in another program's configuration.
///
/// # Errors
/// The expected form.
pub fn credential_profile(text: &str) -> Result<String, String> {
    chain::profile(text).map_err(expected)
}

/// # Errors
/// The expected form.
pub fn role_arn(text: &str) -> Result<RoleArn, String> {
    RoleArn::parse(text).map_err(expected)
}

/// The name of a role's session.
///
/// # Errors
/// The expected form.
pub fn session(text: &str) -> Result<String, String> {
    chain::session(text).map_err(expected)
}

/// A host name with an optional port, or a URL without a path; http is for this machine alone, which is checked where
/// it is used.
///
/// # Errors
/// The expected form.
pub fn sts_endpoint(text: &str) -> Result<String, Expected> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let host = host.strip_suffix('/').unwrap_or(host);
    match !host.is_empty() && host.len() <= 255 && host.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(Expected(
            "expected a host name, like sts.cn-hangzhou.aliyuncs.com",
        )),
    }
}

fn expected(what: &'static str) -> String {
    format!("expected {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_of_1024() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("128M", Some(128 << 20)),
            ("128m", Some(128 << 20)),
            ("2 GiB", Some(2 << 30)),
            ("1T", Some(1 << 40)),
            ("", None),
            ("M", None),
            ("-1", None),
            ("1.5G", None),
            ("1X", None),
            ("99999999999999T", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn parts_are_multiples_of_128_kib() {
        for (text, bytes) in [
            ("8M", Some(8 << 20)),
            ("128K", Some(128 << 10)),
            ("0", None),
            ("100K", None),
            ("2G", None),
        ] {
            assert_eq!(part_size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        for (text, milliseconds) in [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("250ms", Some(250)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1e9", None),
            ("99999999999", None),
            (".", None),
        ] {
            assert_eq!(
                duration(text).ok().map(|d| d.as_millis()),
                milliseconds,
                "{text}"
            );
        }
        assert!(positive_duration("0").is_err());
    }

    #[test]
    fn modes_are_octal() {
        for (text, bits) in [
            ("644", Some(0o644)),
            ("0755", Some(0o755)),
            ("7777", Some(0o7777)),
            ("10000", None),
            ("888", None),
            ("+7", None),
            ("", None),
        ] {
            assert_eq!(mode(text).ok(), bits, "{text}");
        }
    }
}
