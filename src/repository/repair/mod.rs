//! How damaged objects are mended, each by itself.
//!
//! Nothing that is whole is ever deleted, and no pack: a damaged one is marked, and what is whole in it is copied.

mod entrance;
mod objects;
mod salvage;

pub use entrance::mend_entrance;
pub use objects::{Mended, mend_object, re_index};
pub use salvage::{Salvaged, salvage_pack};

use std::sync::Arc;

use serde::Serialize;
use tintype_tin::id::Id;
use tintype_tin::manifest;
use tintype_tin::signed::ObjectKind;

use super::protocol::End;
use super::snapshots::{self, Snapshot};
use super::store::StoreErrorKind;
use super::{Repository, names, time};
use crate::error::Result;

/// What a quarantine mark says, for people.
#[derive(Serialize)]
struct Mark<'a> {
    time: String,
    reason: &'a str,
}

/// A snapshot that never became visible.
pub struct Uncommitted {
    /// Its session.
    pub session: Id,
    /// What it is; nothing if these keys do not open it.
    pub snapshot: Option<Snapshot>,
    /// The end that commits it.
    pub commit: End,
}

impl Repository {
    /// Marks a pack as damaged: from now on no writer builds on it.
    pub fn quarantine(&self, pack: Id, reason: &str) -> Result<()> {
        let body = serde_json::to_vec(&Mark { time: time::now(), reason }).unwrap_or_default();
        self.protocol().create(ObjectKind::Quarantine, &names::quarantine(pack), &body)
    }

    /// A snapshot whose session has no end that counts.
    pub fn uncommitted(&self, id: Id) -> Result<Option<Uncommitted>> {
        let bytes = match self.store().get(&names::snapshot(id), manifest::MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        let Ok(envelope) = manifest::open(self.ring(), id, &bytes) else { return Ok(None) };
        let (session, signer) = (envelope.session, envelope.signer);
        if self.protocol().session_end(session)?.is_some() {
            return Ok(None);
        }
        let commit = End::Commit { snapshot: id, manifest: *blake3::hash(&bytes).as_bytes() };
        let snapshot = envelope.manifest.ok().map(|manifest| {
            let origin = snapshots::origin_of(self.ring(), &signer, &manifest);
            Snapshot { id, session, signer, origin, manifest }
        });
        Ok(Some(Uncommitted { session, snapshot, commit }))
    }

    /// Makes another holder's snapshot visible that has no end that counts, as a change of tags does: under another id, signed
    /// by this key. Then its session is fenced, so that a writer who lives after all begins again.
    pub fn commit_for_another(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Id> {
        let id = self.commit_again(snapshot, snapshot.manifest.tags.clone(), "repair")?;
        // Where an end is there that does not count, nobody can commit any more.
        if !self.protocol().has_ended(snapshot.session)? {
            self.protocol().end_session(snapshot.session, End::Fenced)?;
        }
        Ok(id)
    }

    /// W6 for a snapshot whose writer did not come to it, or whose end was damaged. Only the holder who wrote it can: then it is
    /// as if the writer had been slow. An end that counts is obeyed.
    pub fn commit_late(&self, session: Id, commit: End) -> Result<bool> {
        if self.protocol().session_end(session)?.is_none() {
            // What is there, if anything, does not count.
            self.store().delete(&names::session_end(session))?;
        }
        Ok(self.protocol().end_session(session, commit)? == commit)
    }
}
