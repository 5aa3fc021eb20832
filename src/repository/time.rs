//! Points in time, as manifests have them: for people and for policies, never for safety.

use jiff::{Timestamp, Unit};

/// Now, in UTC and RFC 3339, to the second.
pub fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// Reads what [`now`] wrote.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Milliseconds since 1970, as a hint for the order of names.
pub fn unix_ms() -> u64 {
    Timestamp::now().as_millisecond().max(0) as u64
}
