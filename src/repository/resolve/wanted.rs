//! What a text that names a snapshot may mean.
//!
//! ```text
//! NAME            the newest of that name          NAME@2026-11-22         the newest of that day or before
//! NAME@latest     the same                         NAME@2026-11-22T14:00   the newest that was made by then
//! NAME@ID  ID     this one; ids may be cut short   NAME@-7d                the newest that is at least so old
//! ```
//!
//! In all of them NAME may be HOLDER/NAME. Names are whatever somebody wrote, also `a/b`, `a@latest` or `01a2`: a text may
//! mean several things. A whole id means nothing else.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::repository::time;

/// The shortest beginning of a snapshot's id that names it.
pub const MIN_PREFIX: usize = 4;

/// Which of the snapshots of a name is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The newest, because only a name is given.
    Name,
    /// The newest: `@latest`.
    Latest,
    /// The newest that was made by then.
    By(Timestamp),
    /// The one whose id begins so, in lower case.
    Id(String),
}

/// One meaning of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The name of the key owner, if the text has one.
    pub holder: Option<&'a str>,
    /// What it is a snapshot of; nothing if only an id is given.
    pub name: Option<&'a str>,
    /// Which of them.
    pub pick: Pick,
}

/// Everything that a text may mean.
pub fn readings<'a>(text: &'a str, zone: &TimeZone) -> Vec<Reading<'a>> {
    let mut readings = named(text, &Pick::Name);
    if let Some((name, which)) = text.rsplit_once('@')
        && let Some(pick) = pick(which, zone)
    {
        readings.extend(named(name, &pick));
    }
    readings.extend(id_prefix(text).map(|id| Reading { holder: None, name: None, pick: Pick::Id(id) }));
    readings
}

/// `NAME`, and each `HOLDER/NAME` that it may be.
fn named<'a>(text: &'a str, pick: &Pick) -> Vec<Reading<'a>> {
    let whole = Reading { holder: None, name: Some(text), pick: pick.clone() };
    let split =
        |(at, _): (usize, &str)| Reading { holder: Some(&text[..at]), name: Some(&text[at + 1..]), pick: pick.clone() };
    let slashes = text.match_indices('/');
    let readings = std::iter::once(whole).chain(slashes.map(split));
    readings.filter(|reading| reading.name != Some("") && reading.holder != Some("")).collect()
}

/// What stands behind the `@`.
fn pick(text: &str, zone: &TimeZone) -> Option<Pick> {
    if text == "latest" {
        return Some(Pick::Latest);
    }
    by(text, zone).map(Pick::By).or_else(|| id_prefix(text).map(Pick::Id))
}

/// A point in time: `-7d`, a local day (its end), or a local time of day.
fn by(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Some(length) = text.strip_prefix('-') {
        return time::ago(length);
    }
    if text.len() == "2026-11-22".len() {
        let next: Date = text.parse::<Date>().ok()?.tomorrow().ok()?;
        return before(next.to_zoned_datetime(zone.clone()).ok()?.timestamp());
    }
    // With an offset or a Z it is no local time.
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let time: DateTime = text.parse().ok().filter(|_| text.contains(['T', 't']))?;
    Some(time.to_zoned_datetime(zone.clone()).ok()?.timestamp())
}

fn before(time: Timestamp) -> Option<Timestamp> {
    time.checked_sub(jiff::SignedDuration::from_nanos(1)).ok()
}

fn id_prefix(text: &str) -> Option<String> {
    let is_one = (MIN_PREFIX..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meanings(text: &str) -> Vec<(Option<&str>, Option<&str>, Pick)> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        readings(text, &zone).into_iter().map(|one| (one.holder, one.name, one.pick)).collect()
    }

    fn at(text: &str) -> Pick {
        Pick::By(text.parse().unwrap())
    }

    #[test]
    fn a_name_may_have_its_holder_before_it() {
        assert_eq!(meanings("web"), [(None, Some("web"), Pick::Name)]);
        assert_eq!(
            meanings("a/b/c"),
            [
                (None, Some("a/b/c"), Pick::Name),
                (Some("a"), Some("b/c"), Pick::Name),
                (Some("a/b"), Some("c"), Pick::Name)
            ]
        );
        assert_eq!(meanings("/b"), [(None, Some("/b"), Pick::Name)]);
        assert_eq!(meanings("a@b@latest")[1], (None, Some("a@b"), Pick::Latest));
    }

    #[test]
    fn days_end_at_local_midnight_and_times_are_local() {
        let last = |text: &'static str| meanings(text).pop().unwrap();
        assert_eq!(last("web@2026-11-22"), (None, Some("web"), at("2026-11-22T21:59:59.999999999Z")));
        assert_eq!(last("web@2026-11-22T14:00"), (None, Some("web"), at("2026-11-22T12:00:00Z")));
        assert_eq!(last("web@2026-11-22T14:00:30Z"), (None, Some("web"), at("2026-11-22T14:00:30Z")));
        assert_eq!(last("web@2026-02-30"), (None, Some("web@2026-02-30"), Pick::Name));
        assert!(matches!(last("web@-7d"), (None, Some("web"), Pick::By(_))));
        assert_eq!(last("web@-"), (None, Some("web@-"), Pick::Name));
    }

    #[test]
    fn ids_have_at_least_four_digits() {
        assert_eq!(meanings("01A2"), [(None, Some("01A2"), Pick::Name), (None, None, Pick::Id("01a2".to_owned()))]);
        assert_eq!(meanings("01a"), [(None, Some("01a"), Pick::Name)]);
        assert_eq!(meanings("web@01a2")[1], (None, Some("web"), Pick::Id("01a2".to_owned())));
    }
}
