//! Which snapshots a retention policy keeps.
//!
//! Snapshots are judged in [`groups()`], of the same name, key owner, host and disks: what one key owner adds cannot push out what
//! another has. Within a group there are only the times in the manifests, which their signer says: who holds a stolen key can
//! fill the newest places of its own group. What it says to be of the future is kept and takes no place; where times look wrong,
//! there is a [`Doubt`]. Incomplete snapshots are judged by the same rules in a list of their own.

mod doubt;
mod groups;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};
use serde::Serialize;
use tintype_tin::id::Id;

use super::snapshots::Snapshot;
use super::time;

pub use doubt::{Doubt, Times, doubt};
pub use groups::{Group, GroupBy, GroupKey, groups};

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

/// A length of time of the calendar, like `1y6mo` or `30d`.
#[derive(Debug, Clone, Copy)]
pub struct Within(Span);

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a time like 30d, 12h, 8w or 1y6mo".to_owned();
        let span = time::calendar_length(text)?.filter(|span| !span.is_zero());
        span.map(Within).ok_or_else(wrong)
    }
}

impl Within {
    /// The time that is so long before another; nothing if there is no such time.
    fn before(self, time: &ZonedDateTime) -> Option<Timestamp> {
        Some(time.checked_sub(self.0).ok()?.timestamp())
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
    /// No rule keeps it, but it is the newest of its list: the newest complete one, or the newest incomplete one.
    Newest,
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
            Reason::Newest => "newest",
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
    /// True if a part of its disks could not be read.
    pub is_incomplete: bool,
}

impl<'a> Candidate<'a> {
    /// What a policy looks at of a snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Candidate<'a> {
        let (time, is_incomplete) = (time::parse(&snapshot.manifest.time), snapshot.is_incomplete());
        Candidate { id: snapshot.id, time, tags: &snapshot.manifest.tags, is_incomplete }
    }
}

/// What a calendar makes of a time: the year, and what is counted in it.
type Period = fn(&ZonedDateTime) -> (i16, i32);

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
    fn judge(&mut self, time: &ZonedDateTime, is_oldest: bool) -> Option<Reason> {
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
fn hour(time: &ZonedDateTime) -> (i16, i32) {
    // Where clocks are half an hour off, so are their hours.
    let past_hour = i64::from(time.offset().seconds() % 3600);
    (0, i32::try_from((time.timestamp().as_second() + past_hour).div_euclid(3600)).unwrap_or(i32::MAX))
}

fn week(time: &ZonedDateTime) -> (i16, i32) {
    let week = time.date().iso_week_date();
    (week.year(), i32::from(week.week()))
}

/// What a policy says of the snapshots of a group: why each is kept. Those without a reason go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// The complete ones, the newest first.
    pub complete: Vec<(Id, Vec<Reason>)>,
    /// The incomplete ones, the newest first.
    pub incomplete: Vec<(Id, Vec<Reason>)>,
}

impl Judged {
    /// All of them.
    pub fn rows(&self) -> impl Iterator<Item = &(Id, Vec<Reason>)> {
        self.complete.iter().chain(&self.incomplete)
    }
}

/// Judges a group. The newest complete snapshot and the newest incomplete one always stay, and no incomplete one takes the place
/// of a complete one.
pub fn judge(policy: &Policy, group: &[Candidate<'_>], zone: &TimeZone, now: Timestamp) -> Judged {
    let (incomplete, complete): (Vec<_>, Vec<_>) = group.iter().partition(|candidate| candidate.is_incomplete);
    let (complete, incomplete) = (List::of(&complete, now), List::of(&incomplete, now));
    // Incomplete snapshots must not pile up because no other incomplete one came later.
    let newest = incomplete.newest().max(complete.newest());
    Judged {
        complete: complete.judge(policy, zone, complete.newest()),
        incomplete: incomplete.judge(policy, zone, newest),
    }
}

/// Snapshots that compete for the same places, the newest first.
struct List<'a> {
    timed: Vec<(Timestamp, &'a Candidate<'a>)>,
    /// Those that no rule applies to.
    untimed: Vec<(Id, Reason)>,
}

impl<'a> List<'a> {
    fn of(candidates: &[&'a Candidate<'a>], now: Timestamp) -> List<'a> {
        let horizon = now.as_second().saturating_add(CLOCK_SKEW_S);
        let (mut timed, mut untimed) = (Vec::new(), Vec::new());
        for candidate in candidates {
            match candidate.time {
                None => untimed.push((candidate.id, Reason::NoTime)),
                Some(time) if time.as_second() > horizon => untimed.push((candidate.id, Reason::Future)),
                Some(time) => timed.push((time, *candidate)),
            }
        }
        timed.sort_by(|(one, a), (other, b)| (other, b.id).cmp(&(one, a.id)));
        List { timed, untimed }
    }

    fn newest(&self) -> Option<Timestamp> {
        self.timed.first().map(|(time, _)| *time)
    }

    /// `newest` is the time that the window is counted from.
    fn judge(&self, policy: &Policy, zone: &TimeZone, newest: Option<Timestamp>) -> Vec<(Id, Vec<Reason>)> {
        let newest = newest.map(|time| time.to_zoned_datetime(zone.clone()));
        let since = newest.as_ref().zip(policy.within).map(|(newest, within)| within.before(newest));
        let mut rules = Rule::all(policy);
        let oldest = self.timed.len().saturating_sub(1);
        let mut judged: Vec<(Id, Vec<Reason>)> = self.untimed.iter().map(|(id, reason)| (*id, vec![*reason])).collect();
        for (place, (time, candidate)) in self.timed.iter().enumerate() {
            let zoned = time.to_zoned_datetime(zone.clone());
            let mut reasons: Vec<Reason> =
                rules.iter_mut().filter_map(|rule| rule.judge(&zoned, place == oldest)).collect();
            // A span that leads to before the beginning of time holds everything.
            let is_within = since.is_some_and(|since| since.is_none_or(|since| *time >= since));
            reasons.extend(is_within.then_some(Reason::Within));
            let has = |(key, value): &(String, String)| candidate.tags.get(key) == Some(value);
            reasons.extend(policy.tags.iter().any(has).then_some(Reason::Tag));
            reasons.extend((place == 0 && reasons.is_empty()).then_some(Reason::Newest));
            reasons.sort_unstable();
            reasons.dedup();
            judged.push((candidate.id, reasons));
        }
        judged
    }
}

#[cfg(test)]
mod tests;
