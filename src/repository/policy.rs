//! Which snapshots a retention policy keeps.
//!
//! Snapshots are judged in groups, of the same name, signer and disks: what one holder of keys adds cannot push out what
//! another has. Within a group there are only the times in the manifests, which their signer says: who holds a stolen key can
//! fill the newest places of its own group. What it says to be of the future is kept and takes no place.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use serde::Serialize;
use tintype_formats::tin::id::Id;

use super::snapshots::Snapshot;
use super::time;

/// How far clocks may be apart before a snapshot is of the future, in seconds.
const CLOCK_SKEW_S: i64 = 24 * 60 * 60;

/// How many snapshots of a sort are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Count {
    /// None because of this rule.
    #[default]
    None,
    /// So many.
    Of(u32),
    /// All.
    Unlimited,
}

impl Count {
    fn is_left(self) -> bool {
        !matches!(self, Count::None | Count::Of(0))
    }

    fn take(&mut self) {
        if let Count::Of(left) = self {
            *left -= 1;
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" => Ok(Count::Unlimited),
            _ => text.parse().map(Count::Of).map_err(|_| "expected a number, or \"unlimited\"".to_owned()),
        }
    }
}

/// A time span like `1y5m7d2h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Within {
    years: i64,
    months: i64,
    days: i64,
    hours: i64,
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a time like 30d, 12h, 8w or 1y6m (years, months, weeks, days, hours)".to_owned();
        let mut within = Within::default();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
            let number: i64 = rest[..digits].parse().ok().filter(|number| *number <= 10_000).ok_or_else(wrong)?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            match unit {
                'y' => within.years += number,
                'm' => within.months += number,
                'w' => within.days += 7 * number,
                'd' => within.days += number,
                'h' => within.hours += number,
                _ => return Err(wrong()),
            }
            rest = &rest[digits + unit.len_utf8()..];
        }
        if within == Within::default() { Err(wrong()) } else { Ok(within) }
    }
}

impl Within {
    /// The time that is so long before another; nothing if there is no such time.
    fn before(self, time: &Zoned) -> Option<Timestamp> {
        let span = Span::new()
            .try_years(self.years)
            .and_then(|span| span.try_months(self.months))
            .and_then(|span| span.try_days(self.days))
            .and_then(|span| span.try_hours(self.hours));
        Some(time.checked_sub(span.ok()?).ok()?.timestamp())
    }
}

/// What to keep: a snapshot that any rule keeps.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The newest.
    pub last: Count,
    /// The newest of each of the newest hours that have one.
    pub hourly: Count,
    /// The same of days.
    pub daily: Count,
    /// The same of weeks, which begin on Monday.
    pub weekly: Count,
    /// The same of months.
    pub monthly: Count,
    /// The same of years.
    pub yearly: Count,
    /// All that are at most so much older than the newest.
    pub within: Option<Within>,
    /// All with these tags.
    pub tags: Vec<(String, String)>,
}

impl Policy {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(|count| !count.is_left()) && self.within.is_none() && self.tags.is_empty()
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is one of the newest.
    Last,
    /// It is the newest of its hour.
    Hourly,
    /// It is the newest of its day.
    Daily,
    /// It is the newest of its week.
    Weekly,
    /// It is the newest of its month.
    Monthly,
    /// It is the newest of its year.
    Yearly,
    /// It is the oldest, and a rule has places left.
    Oldest,
    /// It is not old enough.
    Within,
    /// It has a tag.
    Tag,
    /// It says that it is of the future.
    Future,
    /// Its time is none.
    NoTime,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reason::Last => "last",
            Reason::Hourly => "hourly",
            Reason::Daily => "daily",
            Reason::Weekly => "weekly",
            Reason::Monthly => "monthly",
            Reason::Yearly => "yearly",
            Reason::Oldest => "oldest",
            Reason::Within => "within",
            Reason::Tag => "tag",
            Reason::Future => "future",
            Reason::NoTime => "no time",
        })
    }
}

/// What a policy looks at.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The snapshot.
    pub id: Id,
    /// When it was made; nothing if it does not say so.
    pub time: Option<Timestamp>,
    /// What is written on it.
    pub tags: &'a BTreeMap<String, String>,
}

impl<'a> Candidate<'a> {
    /// What a policy looks at of a snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Candidate<'a> {
        Candidate { id: snapshot.id, time: time::parse(&snapshot.manifest.time), tags: &snapshot.manifest.tags }
    }
}

/// What a calendar makes of a time: the year, and what is counted in it.
type Period = fn(&Zoned) -> (i16, i32);

/// A rule that keeps the newest of each period.
struct Rule {
    count: Count,
    reason: Reason,
    period: Option<Period>,
    last: Option<(i16, i32)>,
}

impl Rule {
    fn all(policy: &Policy) -> [Rule; 6] {
        let rule = |count, reason, period| Rule { count, reason, period, last: None };
        [
            rule(policy.last, Reason::Last, None),
            rule(policy.hourly, Reason::Hourly, Some(hour as Period)),
            rule(policy.daily, Reason::Daily, Some(|time| (time.year(), i32::from(time.day_of_year())))),
            rule(policy.weekly, Reason::Weekly, Some(week)),
            rule(policy.monthly, Reason::Monthly, Some(|time| (time.year(), i32::from(time.month())))),
            rule(policy.yearly, Reason::Yearly, Some(|time| (time.year(), 0))),
        ]
    }

    /// Whether the next older snapshot is kept by this rule.
    fn judge(&mut self, time: &Zoned, is_oldest: bool) -> Option<Reason> {
        if !self.count.is_left() {
            return None;
        }
        let period = self.period.map(|period| period(time));
        let is_new = period.is_none() || period != self.last;
        if !is_new && !is_oldest {
            return None;
        }
        self.last = period;
        self.count.take();
        Some(if is_new { self.reason } else { Reason::Oldest })
    }
}

/// Hours are counted as they pass: one that comes twice when the clocks are set back is two.
fn hour(time: &Zoned) -> (i16, i32) {
    // Where clocks are half an hour off, so are their hours.
    let past_hour = i64::from(time.offset().seconds() % 3600);
    (0, i32::try_from((time.timestamp().as_second() + past_hour).div_euclid(3600)).unwrap_or(i32::MAX))
}

fn week(time: &Zoned) -> (i16, i32) {
    let week = time.date().iso_week_date();
    (week.year(), i32::from(week.week()))
}

/// Says of each snapshot of a group why it is kept; those without a reason are to go. They come out the newest first.
pub fn judge(policy: &Policy, group: &[Candidate<'_>], zone: &TimeZone, now: Timestamp) -> Vec<(Id, Vec<Reason>)> {
    let horizon = now.as_second().saturating_add(CLOCK_SKEW_S);
    let (mut timed, mut judged) = (Vec::new(), Vec::new());
    for candidate in group {
        match candidate.time {
            None => judged.push((candidate.id, vec![Reason::NoTime])),
            Some(time) if time.as_second() > horizon => judged.push((candidate.id, vec![Reason::Future])),
            Some(time) => timed.push((time, candidate)),
        }
    }
    timed.sort_by(|(one, a), (other, b)| (other, b.id).cmp(&(one, a.id)));
    let newest = timed.first().map(|(time, _)| time.to_zoned(zone.clone()));
    let since = newest.as_ref().zip(policy.within).map(|(newest, within)| within.before(newest));
    let mut rules = Rule::all(policy);
    let oldest = timed.len().saturating_sub(1);
    for (place, (time, candidate)) in timed.iter().enumerate() {
        let zoned = time.to_zoned(zone.clone());
        let mut reasons: Vec<Reason> =
            rules.iter_mut().filter_map(|rule| rule.judge(&zoned, place == oldest)).collect();
        // A span that leads to before the begin of time holds everything.
        let is_within = since.is_some_and(|since| since.is_none_or(|since| *time >= since));
        reasons.extend(is_within.then_some(Reason::Within));
        let has = |(key, value): &(String, String)| candidate.tags.get(key) == Some(value);
        reasons.extend(policy.tags.iter().any(has).then_some(Reason::Tag));
        reasons.sort_unstable();
        reasons.dedup();
        judged.push((candidate.id, reasons));
    }
    judged
}

/// What snapshots have in common that are judged together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The name.
    pub name: String,
    /// The name, and the signing key, of who backed it up.
    pub signer: (String, [u8; 32]),
    /// The names of the disks.
    pub disks: Vec<String>,
}

/// The snapshots in their groups.
pub fn groups(snapshots: &[Snapshot]) -> BTreeMap<GroupKey, Vec<&Snapshot>> {
    let mut groups: BTreeMap<GroupKey, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        let mut disks: Vec<String> = snapshot.manifest.disks.iter().map(|disk| disk.name.clone()).collect();
        disks.sort();
        let key = GroupKey {
            name: snapshot.manifest.name.clone(),
            signer: (snapshot.origin.name.clone(), snapshot.origin.signing),
            disks,
        };
        groups.entry(key).or_default().push(snapshot);
    }
    groups
}

#[cfg(test)]
mod tests;
