//! Points in time, as manifests have them: for people and for policies, never for safety.

use jiff::tz::TimeZone;
use jiff::{RoundMode, Span, Timestamp, TimestampRound, Unit};

/// Now, in UTC and RFC 3339, to the second.
pub fn now() -> String {
    begun(clock(), Unit::Second).to_string()
}

/// Now, to the millisecond, where one of several is to be the last.
pub fn exactly_now() -> String {
    begun(clock(), Unit::Millisecond).to_string()
}

/// What this computer's clock says; the last time that there is, if it runs far ahead.
pub fn clock() -> Timestamp {
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::MAX)
}

/// When the unit began that this point in time lies in: rounded up, it would be yet to come, and what is yet to come is not
/// believed.
fn begun(at: Timestamp, unit: Unit) -> Timestamp {
    at.round(TimestampRound::new().smallest(unit).mode(RoundMode::Trunc)).unwrap_or(at)
}

/// Reads what [`now`] wrote.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A point in time for people: in local time, to the second, with the name of the zone.
pub fn local(at: Timestamp) -> String {
    at.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// The same of what a manifest says; its own text if that is no time.
pub fn local_text(text: &str) -> String {
    parse(text).map_or_else(|| text.escape_debug().to_string(), local)
}

/// Milliseconds since 1970, as a hint for the order of names.
pub fn unix_ms() -> u64 {
    clock().as_millisecond().max(0) as u64
}

/// Reads a length of time as people write it: "90s", "10min", "2 weeks", "1y 6mo". A bare "m" is minutes.
pub fn length(text: &str) -> Option<Span> {
    text.parse().ok().filter(|span: &Span| !span.is_negative())
}

/// The same where months are as likely as minutes: fails, and says what to write, if it cannot be told which of them is meant.
pub fn calendar_length(text: &str) -> Result<Option<Span>, String> {
    let letters: Vec<char> = text.chars().collect();
    let is_bare = |at: usize| {
        let is_alone = |letter: Option<&char>| letter.is_none_or(|letter| !letter.is_ascii_alphabetic());
        letters[at] == 'm' && at > 0 && is_alone(letters.get(at - 1)) && is_alone(letters.get(at + 1))
    };
    match (0..letters.len()).find(|at| is_bare(*at)) {
        None => Ok(length(text)),
        Some(at) => {
            let before: String = letters[..at].iter().rev().take_while(|letter| letter.is_ascii_digit()).collect();
            let number: String = before.chars().rev().collect();
            Err(format!("{number}m may mean minutes or months: say {number}min or {number}mo"))
        }
    }
}

/// The point in time that is so long ago: "30d", "2 weeks", "12h".
pub fn ago(text: &str) -> Option<Timestamp> {
    let span = calendar_length(text).ok()??;
    Some(clock().to_zoned_datetime(TimeZone::UTC).checked_sub(span).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_not_yet_to_come() {
        let at = parse("2026-11-23T07:33:22.999999Z").unwrap();
        assert_eq!(begun(at, Unit::Second).to_string(), "2026-11-23T07:33:22Z");
        assert_eq!(begun(at, Unit::Millisecond).to_string(), "2026-11-23T07:33:22.999Z");
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let hours = |text: &str| {
            let then = ago(text).unwrap();
            clock().duration_since(then).as_hours()
        };
        assert_eq!([hours("30d"), hours("2 weeks"), hours("12h"), hours("0d")], [720, 336, 12, 0]);
        assert_eq!([ago("-1d"), ago("soon"), ago("30"), ago("99999999y"), ago("6m")], [None; 5]);
        assert_eq!([hours("90min"), hours("1mo") / 24 / 28], [1, 1]);
    }

    #[test]
    fn what_may_be_minutes_or_months_is_refused_where_both_make_sense() {
        for (text, number) in [("6m", "6"), ("1y6m", "6"), ("12m 3d", "12"), ("m", "")] {
            let found = calendar_length(text);
            match number {
                "" => assert!(found.is_ok_and(|found| found.is_none())),
                _ => assert!(found.is_err_and(|why| why.contains(&format!("{number}min or {number}mo"))), "{text}"),
            }
        }
        for text in ["6mo", "6min", "6 months", "6mos", "3mins", "P6M"] {
            assert!(calendar_length(text).is_ok_and(|found| found.is_some()), "{text}");
        }
    }
}
