//! Which snapshot of a name is taken: a name means the snapshots of one holder, and the newest of them is taken by its time.
//!
//! A host with a key of its own can publish snapshots under any name, with any time and host in it. The name in its
//! certificate is the one thing that it cannot choose: an admin gave it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Remark;
use crate::error::{Error, Kind, Result};
use crate::repository::lineup::Fact;
use crate::repository::time;

/// How far a snapshot may be ahead of this computer's clock.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// How many snapshots a message lists.
const LISTED: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// As the user wrote it.
    pub text: &'a str,
    /// The key owner, if one is named.
    pub holder: Option<&'a str>,
    /// The computer, if one is named.
    pub host: Option<&'a str>,
    /// Only those that were made by then.
    pub by: Option<Timestamp>,
    /// What this computer's clock says.
    pub now: Timestamp,
}

impl Question<'_> {
    /// An error: there is no such snapshot.
    pub fn none(&self, found: &str) -> Error {
        Error::new(Kind::NoSnapshot, format!("find the snapshot \"{}\": {found}", self.text.escape_debug()))
    }

    /// An error: it may be several.
    pub fn several(&self, found: &str) -> Error {
        Error::new(Kind::SeveralSnapshots, format!("find the snapshot \"{}\": {found}", self.text.escape_debug()))
    }
}

/// Takes the newest of the snapshots of one name, or says why it cannot be told which one that is.
pub fn newest<'a>(named: Vec<&'a Fact>, question: &Question<'_>, remarks: &mut Vec<Remark>) -> Result<&'a Fact> {
    let mut candidates = of_one_holder(named, question)?;
    if let Some(by) = question.by {
        let oldest = candidates.iter().min_by_key(|fact| fact.age()).map(|fact| shown(fact));
        candidates.retain(|fact| fact.at().is_some_and(|at| at <= by));
        if candidates.is_empty() {
            let (by, oldest) = (time::local(by), oldest.unwrap_or_default());
            return Err(question.none(&format!("none was made by {by}; the oldest is {oldest}")));
        }
    }
    candidates.sort_by_key(|fact| fact.age());
    check_clocks(&candidates, question, remarks)?;
    let Some((newest, before)) = candidates.split_last() else {
        return Err(question.none("there is none of that name"));
    };
    if let Some(before) = before.last().filter(|before| before.host != newest.host) {
        if before.disks != newest.disks {
            return Err(question.several(&format!(
                "the newest comes from another host and another disk than the one before: {}; {}",
                shown(newest),
                shown(before)
            )));
        }
        remarks.push(Remark::OtherHost { before: before.host.clone(), now: newest.host.clone() });
    }
    Ok(newest)
}

/// The snapshots of the holder, and of the host, that are asked for; of the only holder, if none is.
fn of_one_holder<'a>(named: Vec<&'a Fact>, question: &Question<'_>) -> Result<Vec<&'a Fact>> {
    let all = named.len();
    let mut candidates = named;
    candidates.retain(|fact| question.holder.is_none_or(|holder| fact.holder == holder));
    candidates.retain(|fact| question.host.is_none_or(|host| fact.host == host));
    if candidates.is_empty() {
        let found = match all {
            0 => "there is none of that name",
            _ => "there is none of that name by this key owner and host, only by others",
        };
        return Err(question.none(found));
    }
    let mut holders: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
    for fact in &candidates {
        holders.entry(&fact.holder).or_default().push(fact);
    }
    if holders.len() > 1 {
        let newest = holders.values().filter_map(|own| own.iter().max_by_key(|fact| fact.age()));
        let listed: Vec<String> = newest.take(LISTED).map(|fact| shown(fact)).collect();
        let rest = holders.len().saturating_sub(LISTED);
        let rest = if rest == 0 { String::new() } else { format!("; and {rest} more") };
        let count = holders.len();
        return Err(question.several(&format!(
            "{count} key owners have snapshots of that name, the newest of each: {}{rest}",
            listed.join("; ")
        )));
    }
    Ok(candidates)
}

/// Refuses a newest snapshot that only a wrong clock can have made so. Candidates are sorted by time.
fn check_clocks(candidates: &[&Fact], question: &Question<'_>, remarks: &mut Vec<Remark>) -> Result<()> {
    if question.by.is_some() {
        return Ok(());
    }
    let horizon = question.now.checked_add(CLOCK_SKEW).unwrap_or(Timestamp::MAX);
    let is_ahead = |fact: &&&Fact| fact.at().is_some_and(|at| at > horizon);
    let Some(ahead) = candidates.iter().rfind(is_ahead) else { return Ok(()) };
    let clock = time::local(question.now);
    match candidates.iter().rfind(|fact| !is_ahead(fact)) {
        None => {
            remarks.push(Remark::AllAhead { time: time::local_text(&ahead.time), clock });
            Ok(())
        }
        Some(other) => Err(question.several(&format!(
            "the newest is dated in the future: {}; the newest that is not: {}; this computer's clock says {clock}",
            shown(ahead),
            shown(other)
        ))),
    }
}

/// A snapshot in a message: id, local time, host, key owner.
pub fn shown(fact: &Fact) -> String {
    let (holder, host) = (fact.holder.escape_debug(), fact.host.escape_debug());
    format!("{} of {}, host {host}, key owner {holder}", fact.id, time::local_text(&fact.time))
}
