//! All snapshots of a repository.

use super::Repository;
use super::lineup::Damaged;
use super::snapshots::Snapshot;
use crate::error::Result;

/// The visible snapshots.
pub struct Listing {
    /// Those that these keys open, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How many there are of other hosts, which these keys do not open.
    pub sealed: usize,
    /// Those that were committed and cannot be read, and why.
    pub damaged: Vec<Damaged>,
    /// Whole ones without an end of their session: a backup runs, or died.
    pub uncommitted: Vec<Snapshot>,
}

impl Repository {
    /// All visible snapshots, and what there is beside them. Every manifest is read.
    pub fn snapshots(&self) -> Result<Listing> {
        let mut lineup = self.lineup_anew()?;
        let snapshots = lineup.visible.iter().filter_map(|fact| lineup.kept.remove(&fact.id)).collect();
        Ok(Listing { snapshots, sealed: lineup.sealed.len(), damaged: lineup.damaged, uncommitted: lineup.uncommitted })
    }
}
