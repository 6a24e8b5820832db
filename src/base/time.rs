//! Times as the protocol, the formats and the log spell them, all UTC and whole seconds.
//!
//! `Date` and `Last-Modified` are HTTP dates; V4 signatures use `20260103T040506Z`; XML uses
//! `2026-01-03T04:05:06.000Z`. Times before 1970 do not occur: they read as 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

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
    let seconds = unix_seconds(time);
    let (year, month, day) = civil(seconds / DAY);
    let rest = seconds % DAY;
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// `2026-01-03T04:05:06.000Z`: the milliseconds are always zero, as the service writes them.
pub fn extended(time: SystemTime) -> String {
    let mut text = plain(time);
    text.truncate(text.len() - 1);
    text + ".000Z"
}

/// `2026-01-03T04:05:06Z`, as the log has it: it sorts.
pub fn plain(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil(seconds / DAY);
    let rest = seconds % DAY;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Reads `20260103T040506Z`.
pub fn parse_basic(text: &str) -> Option<SystemTime> {
    let b = text.as_bytes();
    if b.len() != 16 || b[8] != b'T' || b[15] != b'Z' {
        return None;
    }
    from_fields(
        digits(&b[0..4])?,
        digits(&b[4..6])?,
        digits(&b[6..8])?,
        digits(&b[9..11])?,
        digits(&b[11..13])?,
        digits(&b[13..15])?,
    )
}

/// Reads `2026-01-03T04:05:06.000Z`, with any fraction or none; the fraction is dropped.
pub fn parse_extended(text: &str) -> Option<SystemTime> {
    let b = text.trim().as_bytes();
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || b[10] != b'T' {
        return None;
    }
    if b[13] != b':' || b[16] != b':' || b[b.len() - 1] != b'Z' {
        return None;
    }
    let fraction = &b[19..b.len() - 1];
    if !fraction.is_empty() && (fraction[0] != b'.' || digits(&fraction[1..]).is_none()) {
        return None;
    }
    from_fields(
        digits(&b[0..4])?,
        digits(&b[5..7])?,
        digits(&b[8..10])?,
        digits(&b[11..13])?,
        digits(&b[14..16])?,
        digits(&b[17..19])?,
    )
}

/// Reads `Sat, 03 Jan 2026 04:05:06 GMT` and the older spellings HTTP allows.
pub fn parse_http(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// `Sat, 03 Jan 2026 04:05:06 GMT`.
pub fn http(time: SystemTime) -> String {
    httpdate::fmt_http_date(time.max(UNIX_EPOCH))
}

fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 9 {
        return None;
    }
    bytes.iter().try_fold(0, |n, b| {
        b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0'))
    })
}

fn from_fields(y: u64, month: u64, day: u64, h: u64, m: u64, s: u64) -> Option<SystemTime> {
    if !(1970..=9999).contains(&y) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if h > 23 || m > 59 || s > 60 {
        return None;
    }
    let seconds = days(y, month, day) * DAY + h * 3600 + m * 60 + s;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Days from 1970-01-01, in the Gregorian calendar. Counted in years that begin in March, so that
/// the leap day is a year's last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
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
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in 0..146_097 {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day);
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13-03T04:05:06Z",
            "2026-01-03 04:05:06Z",
            "2026-01-03T04:05:06.Z",
            "2026-01-03T04:05:06.xZ",
            "2026-01-03T04:05:06+01:00",
            "\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}\u{6587}",
        ] {
            assert_eq!(parse_extended(text), None, "{text}");
            assert_eq!(parse_basic(text), None, "{text}");
        }
        assert!(parse_extended("2026-01-03T04:05:06Z").is_some());
    }
}
