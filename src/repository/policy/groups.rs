//! Groups of snapshots that a policy judges together.
//!
//! A group has one name, one key owner, one host and one set of disks. A disk is what its manifest knows it by, else its name: an
//! image that is named by the day is one disk, and two disks that are backed up by two commands are never in one group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use tintype_tin::manifest::DiskRecord;

use super::super::snapshots::Snapshot;
use super::super::time;

/// What the snapshots of one group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The name.
    pub name: bool,
    /// The name of the key owner who backed it up.
    pub holder: bool,
    /// The computer.
    pub host: bool,
    /// The disks.
    pub disks: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        GroupBy { name: true, holder: true, host: true, disks: true }
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.name, "name"), (self.holder, "holder"), (self.host, "host"), (self.disks, "disks")];
        let words: Vec<_> = all.into_iter().filter_map(|(is_in, word)| is_in.then_some(word)).collect();
        f.pad(&words.join(","))
    }
}

impl FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut by = GroupBy { name: false, holder: false, host: false, disks: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "name" => by.name = true,
                "holder" => by.holder = true,
                "host" => by.host = true,
                "disks" => by.disks = true,
                _ => return Err(format!("\"{}\": expected some of name,holder,host,disks", word.escape_debug())),
            }
        }
        Ok(by)
    }
}

/// A disk, as groups tell disks apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum DiskKey {
    /// What it is known by.
    Identity(String),
    /// Its name, where nothing else is known, or where two disks of the snapshot are known by the same.
    Name(String),
}

type DiskSet = BTreeSet<DiskKey>;

/// What groups have in common, disks apart; each is missing if groups are not made by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The name.
    pub name: Option<String>,
    /// The key owner.
    pub holder: Option<String>,
    /// The computer.
    pub host: Option<String>,
}

/// Snapshots that are judged together.
#[derive(Debug)]
pub struct Group<'a> {
    /// What they have in common.
    pub key: GroupKey,
    disks: DiskSet,
    /// The snapshots, the oldest first.
    pub snapshots: Vec<&'a Snapshot>,
}

impl Group<'_> {
    /// Returns the names of the disks in the newest snapshot.
    pub fn disk_names(&self) -> Vec<String> {
        let newest = self.snapshots.last();
        let mut names: Vec<_> =
            newest.iter().flat_map(|newest| newest.manifest.disks.iter().map(|disk| disk.name.clone())).collect();
        names.sort();
        names
    }

    /// True if the two differ only in the names of disks of which nothing else is known.
    pub fn differs_only_in_names(&self, other: &Group<'_>) -> bool {
        let known = |group: &Group<'_>| -> DiskSet {
            group.disks.iter().filter(|disk| matches!(disk, DiskKey::Identity(_))).cloned().collect()
        };
        let is_like = self.key == other.key && self.disks.len() == other.disks.len();
        is_like && self.disks != other.disks && known(self) == known(other)
    }
}

/// Puts the snapshots into their groups, ordered by what these have in common, then by their disks.
pub fn groups(snapshots: &[Snapshot], by: GroupBy) -> Vec<Group<'_>> {
    let mut keyed: BTreeMap<GroupKey, BTreeMap<DiskSet, Vec<&Snapshot>>> = BTreeMap::new();
    for snapshot in snapshots {
        let key = GroupKey {
            name: by.name.then(|| snapshot.manifest.name.clone()),
            holder: by.holder.then(|| snapshot.origin.name.clone()),
            host: by.host.then(|| snapshot.manifest.host.clone()),
        };
        let disks = if by.disks { disk_set(&snapshot.manifest.disks) } else { DiskSet::new() };
        keyed.entry(key).or_default().entry(disks).or_default().push(snapshot);
    }
    let mut groups = Vec::new();
    for (key, sets) in keyed {
        let joined = join_larger(sets.into_iter().collect());
        groups.extend(joined.into_iter().map(|(disks, snapshots)| Group { key: key.clone(), disks, snapshots }));
    }
    groups
}

fn disk_set(disks: &[DiskRecord]) -> DiskSet {
    let known: Vec<Option<String>> = disks.iter().map(|disk| disk.identity.key()).collect();
    let is_alone = |key: &String| known.iter().flatten().filter(|other| *other == key).count() == 1;
    let key = |(disk, known): (&DiskRecord, &Option<String>)| match known.as_ref().filter(|known| is_alone(known)) {
        Some(known) => DiskKey::Identity(known.clone()),
        None => DiskKey::Name(disk.name.clone()),
    };
    disks.iter().zip(&known).map(key).collect()
}

type Sets<'a> = Vec<(DiskSet, Vec<&'a Snapshot>)>;

/// Joins the snapshots of a set of disks to those of a larger set that contains it, if all of them are older: the machine got
/// another disk. Where several sets would join one, and so two disks become one group, none does.
fn join_larger(sets: Sets<'_>) -> Sets<'_> {
    let spans: Vec<Option<(Timestamp, Timestamp)>> = sets.iter().map(|(_, snapshots)| span(snapshots)).collect();
    let is_successor = |small: usize, large: usize| {
        let contains = sets[small].0.len() < sets[large].0.len() && sets[small].0.is_subset(&sets[large].0);
        contains && spans[small].zip(spans[large]).is_some_and(|((_, newest), (oldest, _))| newest < oldest)
    };
    let successor = |small: usize| {
        let candidates = (0..sets.len()).filter(|large| is_successor(small, *large));
        candidates.min_by_key(|large| spans[*large])
    };
    let successors: Vec<Option<usize>> = (0..sets.len()).map(successor).collect();
    let is_only = |large: &usize| successors.iter().flatten().filter(|other| *other == large).count() == 1;
    let end = |mut set: usize| {
        // Each step leads to a larger set.
        while let Some(next) = successors[set].filter(is_only) {
            set = next;
        }
        set
    };
    let ends: Vec<usize> = (0..sets.len()).map(end).collect();
    let mut joined: BTreeMap<usize, Vec<&Snapshot>> = BTreeMap::new();
    for ((_, snapshots), end) in sets.iter().zip(ends) {
        joined.entry(end).or_default().extend(snapshots);
    }
    let ordered = joined.into_iter().map(|(set, mut snapshots)| {
        snapshots.sort_by_key(|snapshot| (time::parse(&snapshot.manifest.time), snapshot.id));
        (sets[set].0.clone(), snapshots)
    });
    ordered.collect()
}

/// Returns the times of the oldest and the newest; none if one of them has no time.
fn span(snapshots: &[&Snapshot]) -> Option<(Timestamp, Timestamp)> {
    let times: Option<Vec<_>> = snapshots.iter().map(|snapshot| time::parse(&snapshot.manifest.time)).collect();
    let times = times?;
    Some((*times.iter().min()?, *times.iter().max()?))
}
