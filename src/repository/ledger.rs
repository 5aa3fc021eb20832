//! The ledger: which packs were verified when, and how deeply (FORMAT.md §12).
//!
//! It saves work and proves nothing: what it says of a pack is what its signer saw then.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tintype_formats::tin::id::Id;
use tintype_formats::tin::signed::ObjectKind;

use super::verify::Depth;
use super::{Repository, names, time};
use crate::error::Result;

/// One run of verify.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// How deeply.
    pub depth: Depth,
    /// The packs that were found whole.
    pub packs: Vec<Id>,
    /// The names of the objects that were not.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// The hash of each key slot: who cannot open it has no other way to tell whether it is whole.
    #[serde(default)]
    pub slots: BTreeMap<Id, String>,
}

impl Repository {
    /// What the ledger says, of those whose word counts.
    ///
    /// The word of a holder who may only write counts for its own eyes only: a stolen host must not keep packs from being
    /// verified. A time that is yet to come says nothing.
    pub fn ledger(&self) -> Result<Vec<(Timestamp, Entry)>> {
        let mut entries = Vec::new();
        for listed in self.store().list("ledger/")? {
            let Some((body, signer)) = self.protocol().read(ObjectKind::Ledger, &listed.name)? else { continue };
            let own = signer.signing == self.ring().certificate().signing;
            let Ok(entry) = serde_json::from_slice::<Entry>(&body) else { continue };
            let Some(at) = time::parse(&entry.time).filter(|at| *at <= Timestamp::now()) else { continue };
            if own || signer.role.reads_maps() {
                entries.push((at, entry));
            }
        }
        Ok(entries)
    }

    /// When each pack was last found whole, at this depth or a deeper one.
    pub fn last_verified(&self, depth: Depth) -> Result<HashMap<Id, Timestamp>> {
        let mut last = HashMap::new();
        for (at, entry) in self.ledger()?.into_iter().filter(|(_, entry)| entry.depth >= depth) {
            for pack in entry.packs {
                let kept = last.entry(pack).or_insert(at);
                *kept = at.max(*kept);
            }
        }
        Ok(last)
    }

    /// Notes what was verified.
    pub fn record(&self, entry: &Entry) -> Result<()> {
        let body = serde_json::to_vec(entry).unwrap_or_default();
        self.protocol().create(ObjectKind::Ledger, &names::ledger(Id::random()?), &body)?;
        Ok(self.store().sync()?)
    }
}
