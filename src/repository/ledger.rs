//! The ledger: which packs were verified when, and how deeply, and which snapshots were booted (FORMAT.md §12).
//!
//! It saves work and proves nothing: what it says of a pack is what its signer saw then.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tintype_tin::id::Id;
use tintype_tin::signed::ObjectKind;

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
    /// Snapshots that were started as machines, and what came of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub boots: BTreeMap<Id, Boot>,
}

/// What came of starting a snapshot as a machine. Nothing that the machine said is in it: the ledger is not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Whether it came as far as it was to.
    pub ok: bool,
    /// What sort of condition it was to meet: "serial", "screen", "port:22".
    pub until: String,
    /// How long that took, or was waited for, in seconds.
    pub seconds: u64,
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
            let Some(at) = time::parse(&entry.time).filter(|at| *at <= time::clock()) else { continue };
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

    /// What came of starting each snapshot as a machine, the last time, and when that was.
    pub fn last_boots(&self) -> Result<HashMap<Id, (Timestamp, Boot)>> {
        let mut last: HashMap<Id, (Timestamp, Boot)> = HashMap::new();
        for (at, entry) in self.ledger()? {
            for (snapshot, boot) in entry.boots {
                if last.get(&snapshot).is_none_or(|(before, _)| *before < at) {
                    last.insert(snapshot, (at, boot));
                }
            }
        }
        Ok(last)
    }

    /// Notes what came of starting a snapshot as a machine: an entry that verified no pack.
    pub fn record_boot(&self, snapshot: Id, boot: Boot) -> Result<()> {
        self.record(&Entry {
            time: time::exactly_now(),
            depth: Depth::Structure,
            packs: Vec::new(),
            damaged: Vec::new(),
            slots: BTreeMap::new(),
            boots: BTreeMap::from([(snapshot, boot)]),
        })
    }

    /// Notes what was verified.
    pub fn record(&self, entry: &Entry) -> Result<()> {
        let body = serde_json::to_vec(entry).unwrap_or_default();
        self.allow_reserve(true);
        self.protocol().create(ObjectKind::Ledger, &names::ledger(Id::random()?), &body)?;
        Ok(self.store().sync()?)
    }
}
