//! Times as the protocol, the formats and the log spell them, all UTC and whole seconds.
//!
//! `Date` and `Last-Modified` are HTTP dates; V4 signatures use `20260103T040506Z`; XML uses
//! `2026-01-03T04:05:06.000Z`. Times before 1970 do not occur: they read as 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Seconds since 1970; 0 for anything earlier.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The reverse; 1970 for what the platform cannot express.
pub fn from_unix_seconds(seconds: u64) -> SystemTime {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.unwrap_or(UNIX_EPOCH)
}

/// `20260103T040506Z`. The first eight characters are the day of a V4 scope.
pub fn basic(time: SystemTime) -> String {
    timestamp(time).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// `2026-01-03T04:05:06.000Z`: the milliseconds are always zero, as the service writes them.
pub fn extended(time: SystemTime) -> String {
    timestamp(time)
        .strftime("%Y-%m-%dT%H:%M:%S.000Z")
        .to_string()
}

/// `2026-01-03T04:05:06Z`, as the log has it: it sorts.
pub fn plain(time: SystemTime) -> String {
    timestamp(time).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads `20260103T040506Z`.
pub fn parse_basic(text: &str) -> Option<SystemTime> {
    has_form(text, "00000000T000000Z").then_some(())?;
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", text);
    parsed(time.and_then(|time| Offset::UTC.to_timestamp(time)))
}

/// Reads `2026-01-03T04:05:06.000Z`, with any fraction or none; the fraction is dropped.
pub fn parse_extended(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let (seconds, fraction) = text.strip_suffix('Z')?.split_at_checked(19)?;
    has_form(seconds, "0000-00-00T00:00:00").then_some(())?;
    let digits = fraction.strip_prefix('.').unwrap_or("0");
    let has_digits = (1..=9).contains(&digits.len()) && has_form(digits, &"0".repeat(digits.len()));
    (has_digits && (fraction.is_empty() || fraction.starts_with('.'))).then_some(())?;
    parsed(text.parse())
}

/// Reads `Sat, 03 Jan 2026 04:05:06 GMT` and the older spellings HTTP allows.
pub fn parse_http(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// `Sat, 03 Jan 2026 04:05:06 GMT`.
pub fn http(time: SystemTime) -> String {
    httpdate::fmt_http_date(time.max(UNIX_EPOCH))
}

/// The latest time that can be written for anything later: the end of the year 9999.
fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = i64::try_from(unix_seconds(time)).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Whole seconds; nothing before 1970.
fn parsed(time: Result<Timestamp, jiff::Error>) -> Option<SystemTime> {
    let seconds = u64::try_from(time.ok()?.as_second()).ok()?;
    Some(from_unix_seconds(seconds))
}

/// True if `text` has a digit wherever `form` has a 0, and is equal to it elsewhere: the parsers of a library
/// accept more spellings than the protocol has.
fn has_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text
            .bytes()
            .zip(form.bytes())
            .all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == wanted,
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_agree_with_each_other() {
        for (seconds, basic_text, extended_text) in [
            (0, "19700101T000000Z", "1970-01-01T00:00:00.000Z"),
            (784_111_777, "19941106T084937Z", "1994-11-06T08:49:37.000Z"),
            (951_782_399, "20000228T235959Z", "2000-02-28T23:59:59.000Z"),
            (951_782_400, "20000229T000000Z", "2000-02-29T00:00:00.000Z"),
            (951_868_800, "20000301T000000Z", "2000-03-01T00:00:00.000Z"),
            (
                1_767_413_106,
                "20260103T040506Z",
                "2026-01-03T04:05:06.000Z",
            ),
            (
                4_102_444_799,
                "20991231T235959Z",
                "2099-12-31T23:59:59.000Z",
            ),
            (
                4_107_542_400,
                "21000301T000000Z",
                "2100-03-01T00:00:00.000Z",
            ),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(basic(time), basic_text);
            assert_eq!(extended(time), extended_text);
            assert_eq!(plain(time), extended_text.replace(".000", ""));
            assert_eq!(parse_basic(basic_text), Some(time));
            assert_eq!(parse_extended(extended_text), Some(time));
            assert_eq!(parse_http(&http(time)), Some(time));
        }
    }

    #[test]
    fn a_time_that_has_no_spelling_is_written_as_the_last_that_has_one() {
        let last = "9999-12-30T22:00:00Z";
        assert_eq!(plain(from_unix_seconds(u64::MAX / 4)), last);
        assert_eq!(parse_extended(last).map(plain).as_deref(), Some(last));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13-03T04:05:06Z",
            "2026-02-29T04:05:06Z",
            "1969-12-31T23:59:59Z",
            "-026-01-03T04:05:06Z",
            "2026-01-03t04:05:06Z",
            "2026-01-03T04:05:06z",
            "2026-01-03T04:05:06,5Z",
            "2026-01-03 04:05:06Z",
            "2026-01-03T04:05:06.Z",
            "2026-01-03T04:05:06.xZ",
            "2026-01-03T04:05:06+01:00",
            "\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}",
        ] {
            assert_eq!(parse_extended(text), None, "{text}");
            assert_eq!(parse_basic(text), None, "{text}");
        }
        for text in [
            "20260103T040506",
            "20260103T240506Z",
            "20261303T040506Z",
            "+0260103T040506Z",
        ] {
            assert_eq!(parse_basic(text), None, "{text}");
        }
        assert!(parse_extended("2026-01-03T04:05:06Z").is_some());
    }
}
