//! Times that a policy must not be trusted with.
//!
//! A policy has only the times in the manifests. A clock that was wrong once can make all good snapshots look old, and one run of a
//! policy then removes them.

use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tintype_tin::id::Id;

use super::super::snapshots::Snapshot;
use super::super::time;
use super::{Judged, Policy, Reason};

/// Why a group is left as it is, unless a person says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Only the window keeps snapshots, and the next older one is further away than the window is long.
    Gap {
        /// The oldest snapshot in the window.
        kept: Timestamp,
        /// The newest one that would go.
        removed: Timestamp,
    },
    /// A snapshot is older than the one that it was compared with.
    BeforeParent {
        /// The snapshot.
        snapshot: Id,
        /// Its time.
        time: Timestamp,
        /// Its parent's time.
        parent_time: Timestamp,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Gap { kept, removed } => write!(
                f,
                "only --keep-within keeps snapshots, and from {}, the newest that would go, to {}, the oldest that stays, \
                 is longer than that: a clock may have been wrong",
                time::local(*removed),
                time::local(*kept)
            ),
            Doubt::BeforeParent { snapshot, time, parent_time } => write!(
                f,
                "snapshot {snapshot} has the time {}, which is before its parent's, {}: a clock was wrong",
                time::local(*time),
                time::local(*parent_time)
            ),
        }
    }
}

/// The times of all snapshots that can be a parent, and the hosts by whose clocks they are.
pub struct Times(HashMap<Id, (Timestamp, String)>);

impl Times {
    /// Takes the times of these snapshots. One whose tags were changed is known by the id that it had before, too.
    pub fn of(snapshots: &[Snapshot]) -> Times {
        let ids = |snapshot: &Snapshot| {
            let original = snapshot.manifest.original.as_ref().map(|original| original.id);
            let time = time::parse(&snapshot.manifest.time);
            let host = snapshot.manifest.host.clone();
            [Some(snapshot.id), original].into_iter().flatten().filter_map(move |id| Some((id, (time?, host.clone()))))
        };
        Times(snapshots.iter().flat_map(ids).collect())
    }
}

/// Returns the reason for not trusting the times of a group, if some of it would be removed and there is one.
pub fn doubt(
    policy: &Policy,
    snapshots: &[&Snapshot],
    judged: &Judged,
    times: &Times,
    zone: &TimeZone,
) -> Option<Doubt> {
    if judged.rows().all(|(_, reasons)| !reasons.is_empty()) {
        return None;
    }
    before_parent(snapshots, times).or_else(|| gap(policy, judged, times, zone))
}

fn before_parent(snapshots: &[&Snapshot], times: &Times) -> Option<Doubt> {
    snapshots.iter().find_map(|snapshot| {
        let time = time::parse(&snapshot.manifest.time)?;
        let (parent_time, host) = times.0.get(&snapshot.manifest.parent?)?;
        let parent_time = *parent_time;
        // Clocks of two hosts differ, and neither need be wrong by much.
        (time < parent_time && snapshot.manifest.host == *host).then_some(Doubt::BeforeParent {
            snapshot: snapshot.id,
            time,
            parent_time,
        })
    })
}

/// Looks at the complete snapshots; at the incomplete ones where there are no others.
fn gap(policy: &Policy, judged: &Judged, times: &Times, zone: &TimeZone) -> Option<Doubt> {
    let within = policy.within?;
    let rows = if judged.complete.is_empty() { &judged.incomplete } else { &judged.complete };
    let in_window = |(_, reasons): &&(Id, Vec<Reason>)| reasons.contains(&Reason::Within);
    let by_count = |reason: &Reason| {
        !matches!(reason, Reason::Within | Reason::Newest | Reason::Tag | Reason::Future | Reason::NoTime)
    };
    // A rule that keeps older ones makes the window one rule among others.
    if rows.iter().any(|row| !in_window(&row) && row.1.iter().any(by_count)) {
        return None;
    }
    let time = |(id, _): &(Id, Vec<Reason>)| times.0.get(id).map(|(time, _)| *time);
    let kept = rows.iter().filter(in_window).filter_map(time).min()?;
    let removed = rows.iter().filter(|(_, reasons)| reasons.is_empty()).filter_map(time).max()?;
    let reach = within.before(&kept.to_zoned_datetime(zone.clone()))?;
    (removed < reach).then_some(Doubt::Gap { kept, removed })
}
