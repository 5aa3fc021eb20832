//! Sizes, numbers and times for people.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::repository::time;

/// A size in binary units, rounded to three digits: `4 GiB`, `1.46 MiB`, `512 bytes`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = if bytes == 1 { "byte" } else { UNITS[unit] };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let value = format!("{value:.digits$}");
    let value = if digits > 0 { value.trim_end_matches('0').trim_end_matches('.') } else { &value };
    format!("{value} {name}")
}

/// A size with the exact number of bytes.
pub fn exact_size(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

/// So many of something: `1 leak`, `2 leaks`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A point in time: `2026-02-28 23:59:59 UTC`; the last one that there is for those that come after it.
pub fn utc_time(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|second| Timestamp::from_second(second).ok());
    time.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Reads a length of time for clap: `90s`, `10min`, `24h`, `7d`. A bare `m` is minutes, a day 24 hours.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let span = if text == "0" { Some(Span::new()) } else { time::length(text) };
    let exact = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let exact = exact.and_then(|exact| Duration::try_from(exact).ok());
    exact.ok_or_else(|| "expected a time like 90s, 10min, 24h or 7d".to_owned())
}

/// Reads a length of time that is longer than nothing, for clap.
pub fn parse_some_time(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)?;
    if length.is_zero() { Err("expected a time longer than nothing".to_owned()) } else { Ok(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_true() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(4 << 30), "4 GiB");
        assert_eq!(size(1_534_567), "1.46 MiB");
        assert_eq!(size((1 << 20) + 4096), "1 MiB");
        assert_eq!(size(100 << 10), "100 KiB");
        assert_eq!(size(10 << 30), "10 GiB");
        assert_eq!(exact_size(1536), "1.5 KiB (1536 bytes)");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|number| count(number, "leak", "leaks")), ["0 leaks", "1 leak", "2 leaks"]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc_time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc_time(951_782_400 - 1), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc_time(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc_time(1_709_164_800), "2024-02-29 00:00:00 UTC");
        assert_eq!(utc_time(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc_time(1_234_567_890), "2009-02-13 23:31:30 UTC");
        assert_eq!(utc_time(253_402_000_000), "9999-12-28 12:26:40 UTC");
        assert_eq!(utc_time(u64::MAX), utc_time(253_402_300_799));
    }

    #[test]
    fn lengths_of_time_are_exact() {
        let seconds = |text: &str| parse_duration(text).ok().map(|duration| duration.as_secs());
        let found = ["0", "0s", "90s", "10m", "10min", "24h", "7d", "2w", "1h 30m"].map(seconds);
        assert_eq!(found, [0, 0, 90, 600, 600, 86_400, 604_800, 1_209_600, 5_400].map(Some));
        for wrong in ["", "5", "-1s", "1mo", "1y", "soon", "99999999999999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
