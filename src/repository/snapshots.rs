//! Snapshots: which there are, which is meant, and how they are forgotten.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use tintype_tin::id::Id;
use tintype_tin::keys::{Certificate, KeyRing};
use tintype_tin::manifest::{self, DiskRecord, Envelope, Manifest, Original};
use tintype_tin::signed::ObjectKind;

use super::ids::id_beside;
use super::protocol::End;
use super::session::WriteSession;
use super::store::StoreErrorKind;
use super::{Repository, names, time};
use crate::error::{Error, Kind, Result};

/// A visible snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: Id,
    /// The session that made it.
    pub session: Id,
    /// Who made it.
    pub signer: Certificate,
    /// Who backed the disks up: the signer, unless somebody else changed the tags since.
    pub origin: Certificate,
    /// What it is.
    pub manifest: Manifest,
}

impl Snapshot {
    /// True if a part of any of its disks could not be read when the snapshot was made.
    pub fn is_incomplete(&self) -> bool {
        self.manifest.is_incomplete()
    }

    /// The disk of this name or number (from 1); the only one, if none is named.
    pub fn disk(&self, wanted: Option<&str>) -> Result<&DiskRecord> {
        let disks = &self.manifest.disks;
        let found = match wanted {
            None if disks.len() == 1 => disks.first(),
            None => None,
            Some(name) => disks.iter().find(|disk| disk.name == name).or_else(|| {
                let number: usize = name.parse().ok()?;
                disks.get(number.checked_sub(1)?)
            }),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = disks.iter().map(|disk| disk.name.escape_debug().to_string()).collect();
            let message = format!("choose a disk of snapshot {}: it has {} (?disk=NAME)", self.id, names.join(", "));
            Error::new(Kind::NoSnapshot, message)
        })
    }
}

/// How many more manifests are read to find a parent of the same host. A container may have another name each time.
const MAX_FURTHER: usize = 32;

/// Who backed a snapshot up. Only who may change tags is believed that it was somebody else.
pub fn origin_of(ring: &KeyRing, signer: &Certificate, manifest: &Manifest) -> Certificate {
    let original = manifest.original.as_ref().filter(|_| is_keeper(signer));
    original.and_then(|original| original.signer(ring).ok()).unwrap_or_else(|| signer.clone())
}

/// True if the holder may change what others made.
pub fn is_keeper(holder: &Certificate) -> bool {
    holder.role.maintains()
}

impl Repository {
    /// The ids of manifests, ascending, and whether there is something by the name of a tombstone.
    pub(super) fn manifest_ids(&self) -> Result<Vec<(Id, bool)>> {
        let listed = self.store().list("snapshots/")?;
        let marked: HashSet<Id> = listed.iter().filter_map(|listed| names::parse_tombstone(&listed.name)).collect();
        let ids = listed.iter().filter_map(|listed| names::parse_flat("snapshots", &listed.name));
        let mut ids: Vec<(Id, bool)> = ids.map(|id| (id, marked.contains(&id))).collect();
        ids.sort();
        Ok(ids)
    }

    /// Whether a snapshot is forgotten. A tombstone of somebody who may not forget is none.
    pub fn is_forgotten(&self, id: Id) -> Result<bool> {
        let name = names::tombstone(id);
        let is_there = self.protocol().read(ObjectKind::Tombstone, &name)?.is_some();
        if is_there {
            // A prune that obeys it syncs it first.
            self.store().adopt(&name);
        }
        Ok(is_there)
    }

    /// The ids of manifests without a tombstone, ascending.
    pub fn snapshot_ids(&self) -> Result<Vec<Id>> {
        let mut ids = Vec::new();
        for (id, is_marked) in self.manifest_ids()? {
            if !is_marked || !self.is_forgotten(id)? {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Reads a manifest if its snapshot is committed; the error is of the manifest, not of the store.
    pub fn committed(&self, id: Id) -> Result<Option<Result<Snapshot>>> {
        self.read_manifest(id, |commit, envelope| {
            let end = self.protocol().session_end(envelope.session)?;
            Ok(end.is_some_and(|(end, signer)| end == commit && signer.signing == envelope.signer.signing))
        })
    }

    /// P6: like [`committed`](Self::committed), but also if there is an end of its session that does not count (it may have been
    /// its commit, and is damaged), or none at all and the manifest is whole (its writer works, or died, or the end was lost).
    pub fn kept(&self, id: Id) -> Result<Option<Result<Snapshot>>> {
        self.read_manifest(id, |commit, envelope| match self.protocol().session_end(envelope.session)? {
            Some((end, signer)) => Ok(end == commit && signer.signing == envelope.signer.signing),
            None => Ok(envelope.manifest.is_ok() || self.protocol().has_ended(envelope.session)?),
        })
    }

    fn read_manifest(
        &self,
        id: Id,
        counts: impl FnOnce(End, &Envelope) -> Result<bool>,
    ) -> Result<Option<Result<Snapshot>>> {
        let bytes = match self.store().get(&names::snapshot(id), manifest::MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(None),
            // No manifest is so long, whoever put it there.
            Err(cause) if cause.kind() == StoreErrorKind::TooLarge => return Ok(Some(Err(cause.into()))),
            Err(cause) => return Err(cause.into()),
        };
        let envelope = match manifest::open(self.ring(), id, &bytes) {
            Ok(envelope) => envelope,
            Err(cause) => return Ok(Some(Err(cause.into()))),
        };
        let commit = End::Commit { snapshot: id, manifest: *blake3::hash(&bytes).as_bytes() };
        if !counts(commit, &envelope)? {
            return Ok(None);
        }
        let (session, signer) = (envelope.session, envelope.signer);
        let snapshot = |manifest| {
            let origin = origin_of(self.ring(), &signer, &manifest);
            Snapshot { id, session, signer, origin, manifest }
        };
        Ok(Some(envelope.manifest.map(snapshot).map_err(Error::from)))
    }

    /// The newest snapshot of a name that these keys' own holder made: what its next backup builds on. One of this host comes
    /// first, for several may share a key. It is looked for from the newest id on, so that a backup reads few manifests.
    pub fn newest_own(&self, name: &str, host: &str) -> Result<Option<Snapshot>> {
        let own = &self.ring().certificate().name;
        let mut of_another_host = None;
        let mut further = 0;
        for (id, is_marked) in self.manifest_ids()?.into_iter().rev() {
            if of_another_host.is_some() {
                further += 1;
                if further > MAX_FURTHER {
                    break;
                }
            }
            if let Some(Ok(snapshot)) = self.committed(id)?
                && snapshot.manifest.name == name
                && snapshot.origin.name == *own
                && !(is_marked && self.is_forgotten(id)?)
            {
                if snapshot.manifest.host == host {
                    return Ok(Some(snapshot));
                }
                of_another_host.get_or_insert(snapshot);
            }
        }
        Ok(of_another_host)
    }

    /// Makes a snapshot of the same disks with other tags, and forgets this one; gives the new one's id.
    pub fn retag(self: &Arc<Self>, before: &Snapshot, tags: BTreeMap<String, String>) -> Result<Id> {
        self.require_admin("change the tags of a snapshot")?;
        names::check_tags(&tags)?;
        self.commit_again(before, tags, "tag")
    }

    /// Commits a snapshot of the same disks with these tags, and forgets this one; gives the new one's id.
    pub(super) fn commit_again(
        self: &Arc<Self>,
        before: &Snapshot,
        tags: BTreeMap<String, String>,
        operation: &str,
    ) -> Result<Id> {
        // What is not believed must not become so by being signed again.
        let original = before.manifest.original.clone().filter(|_| is_keeper(&before.signer));
        let original = original.unwrap_or_else(|| Original::new(before.id, &before.signer));
        let manifest = Manifest { tags, original: Some(original), ..before.manifest.clone() };
        let session = WriteSession::begin(self, operation, false)?;
        if let Err(cause) = self.check_keeps(before.id) {
            session.abandon();
            return Err(cause);
        }
        let id = session.commit_as(id_beside(before.id)?, &manifest)?;
        self.forget(before.id)?;
        Ok(id)
    }

    /// In a session: fails unless all that a snapshot uses stays until the session's end. A prune whose choice was open when
    /// the session began does not wait for it, and what it chose may have been this snapshot's, if that is forgotten meanwhile.
    fn check_keeps(&self, id: Id) -> Result<()> {
        let epochs = self.protocol().epochs()?;
        if epochs.0.values().any(|epoch| epoch.condemned.is_some() && epoch.verdict.is_none() && !epoch.done) {
            let message =
                "change the tags of a snapshot: a prune is at work, or was stopped; let it finish (\"tintype prune\")";
            return Err(Error::new(Kind::Fenced, message));
        }
        if !self.snapshot_ids()?.contains(&id) {
            return Err(no_such(&id.to_string(), "it was forgotten meanwhile"));
        }
        Ok(())
    }

    /// Forgets a snapshot: from now on it is not visible, and prune takes what only it used.
    pub fn forget(&self, id: Id) -> Result<()> {
        #[derive(Serialize)]
        struct Tombstone {
            time: String,
        }
        self.require_admin("forget a snapshot")?;
        self.allow_reserve(true);
        let body = serde_json::to_vec(&Tombstone { time: time::now() }).unwrap_or_default();
        let name = names::tombstone(id);
        let object = self.ring().sign(ObjectKind::Tombstone, &name, &body)?;
        match self.store().put(&name, &object) {
            Err(cause) if cause.kind() == StoreErrorKind::AlreadyExists => {
                if self.protocol().read(ObjectKind::Tombstone, &name)?.is_none() {
                    let message =
                        format!("forget snapshot {id}: \"{name}\" is there, and is damaged; repair removes it");
                    return Err(Error::new(Kind::Io, message));
                }
            }
            other => other?,
        }
        Ok(self.store().sync()?)
    }
}

fn no_such(wanted: &str, found: &str) -> Error {
    Error::new(Kind::NoSnapshot, format!("find the snapshot \"{}\": {found}", wanted.escape_debug()))
}
