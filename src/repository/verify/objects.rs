//! Every object but the packs: whether it is whole, counts, and fits to the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tintype_tin::id::Id;
use tintype_tin::keys::Certificate;
use tintype_tin::manifest;
use tintype_tin::signed::ObjectKind;
use tintype_tin::slot::SlotInfo;

use super::{Finding, in_parallel};
use crate::error::{Result, in_words};
use crate::repository::index::parse_rows;
use crate::repository::names::{self, Named};
use crate::repository::protocol::{End, ListedPack};
use crate::repository::store::{Listed, Reserve, StoreErrorKind};
use crate::repository::{MAX_INDEX_BYTES, Repository, ledger};

/// What the objects are.
#[derive(Debug, Default)]
pub struct Objects {
    /// The packs, unread.
    pub packs: Vec<ListedPack>,
    /// Those that are marked as damaged.
    pub quarantined: HashSet<Id>,
    /// Those that an index segment names whose signer every writer trusts.
    pub indexed: HashSet<Id>,
    /// Snapshots that are not visible because their session has no end: their writer works or died, or the end was lost.
    pub unfinished: Vec<Id>,
    /// The hash of each key slot.
    pub slots: BTreeMap<Id, String>,
    /// Names that are no object's.
    pub foreign: Vec<String>,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// How many objects were looked at.
    pub count: usize,
}

/// What one object says that others must fit to.
enum Said {
    Nothing,
    Slot(Id, String),
    Quarantined(Id),
    Indexed(Vec<Id>),
    Manifest {
        id: Id,
        session: Id,
        hash: [u8; 32],
        signer: [u8; 32],
    },
    Tombstone(Id),
    Begin(Id),
    End {
        session: Id,
        end: End,
        signer: [u8; 32],
    },
    Epoch(u32, ObjectKind),
    /// It is not what it should be; the name is taken all the same.
    Wrong(Finding),
    /// It was deleted meanwhile.
    Gone,
}

/// Reads every object but the packs.
pub fn look_at_objects(repository: &Repository, workers: usize) -> Result<Objects> {
    let listed = repository.store().list("")?;
    let mut objects = Objects { count: listed.len(), ..Objects::default() };
    let mut others = Vec::new();
    for listed in listed {
        match Named::parse(&listed.name) {
            None => objects.foreign.push(listed.name),
            Some(Named::Pack(id)) => objects.packs.push(ListedPack { id, len_bytes: listed.len_bytes }),
            Some(named) => others.push((named, listed)),
        }
    }
    let said = in_parallel(workers, &others, |(named, listed)| read(repository, *named, listed))?;
    let mut known = Known::default();
    for (said, (_, listed)) in said.into_iter().zip(&others) {
        known.names.insert(listed.name.clone());
        known.take(said, &mut objects);
    }
    known.compare(repository, &mut objects)?;
    compare_slots(repository, &mut objects)?;
    let reserve = repository.store().reserve().and_then(Reserve::problem);
    objects.findings.extend(reserve.map(|(name, problem)| Finding::damaged(name, problem)));
    objects.findings.sort_by(|one, other| one.object.cmp(&other.object));
    Ok(objects)
}

/// Reads one object, and says what is wrong with it.
fn read(repository: &Repository, named: Named, listed: &Listed) -> Result<Said> {
    let name = &listed.name;
    let bytes = match repository.store().get(name, MAX_INDEX_BYTES) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(Said::Gone),
        Err(cause) => return Ok(Said::Wrong(Finding::damaged(name, in_words(&cause)))),
    };
    let Some(kind) = named.kind() else { return Ok(read_slot(repository, name, &bytes)) };
    let signed = match repository.ring().verify(kind, name, &bytes) {
        Ok(signed) => signed,
        Err(cause) => return Ok(Said::Wrong(Finding::damaged(name, in_words(&cause)))),
    };
    let wrong = |detail: &str| Said::Wrong(Finding::damaged(name, detail));
    let (body, signer) = (signed.body, &signed.signer);
    Ok(match named {
        Named::Repository | Named::Key | Named::Holder | Named::Removed | Named::Rotation | Named::Pack(_) => {
            Said::Nothing
        }
        Named::Quarantine(pack) => Said::Quarantined(pack),
        Named::Tombstone(id) => Said::Tombstone(id),
        Named::Begin(id) => Said::Begin(id),
        Named::Index(_) => match parse_rows(body) {
            Some(rows) if is_trusted(repository, signer) => Said::Indexed(rows.into_iter().map(|row| row.id).collect()),
            Some(_) => Said::Nothing,
            None => wrong("its lengths do not fit"),
        },
        Named::Snapshot(id) => match manifest::open(repository.ring(), id, &bytes) {
            Ok(envelope) => {
                let hash = *blake3::hash(&bytes).as_bytes();
                Said::Manifest { id, session: envelope.session, hash, signer: envelope.signer.signing }
            }
            Err(cause) => wrong(&in_words(&cause)),
        },
        Named::End(session) => match repository.protocol().session_end(session)? {
            Some((end, signer)) => Said::End { session, end, signer: signer.signing },
            None => wrong("it has no known state, or is a fence of a holder who may not fence"),
        },
        Named::Epoch(number, kind) if kind == ObjectKind::Done || is_pack_list(body) => Said::Epoch(number, kind),
        Named::Epoch(..) => wrong("its length is not that of the packs that it names"),
        Named::Ledger(_) => match serde_json::from_slice::<ledger::Entry>(body) {
            Ok(_) => Said::Nothing,
            Err(cause) => wrong(&cause.to_string()),
        },
    })
}

fn read_slot(repository: &Repository, name: &str, bytes: &[u8]) -> Said {
    match SlotInfo::parse(bytes) {
        Ok(info) if info.repository == repository.config().id => match names::parse_flat("keys", name) {
            Some(id) => Said::Slot(id, blake3::hash(bytes).to_string()),
            None => Said::Nothing,
        },
        Ok(info) => Said::Wrong(Finding::damaged(name, format!("it is of repository {}", info.repository))),
        Err(cause) => Said::Wrong(Finding::damaged(name, in_words(&cause))),
    }
}

/// Finds slots that are not what they were when somebody verified them.
fn compare_slots(repository: &Repository, objects: &mut Objects) -> Result<()> {
    let before: HashMap<Id, String> = repository.ledger()?.into_iter().flat_map(|(_, entry)| entry.slots).collect();
    let changed = objects.slots.iter().filter(|(id, hash)| before.get(id).is_some_and(|before| before != *hash));
    let detail = "its bytes are not those that it had when it was verified before";
    objects.findings.extend(changed.map(|(id, _)| Finding::damaged(names::key(*id), detail)));
    Ok(())
}

fn is_trusted(repository: &Repository, signer: &Certificate) -> bool {
    signer.role.reads_maps() || signer.signing == repository.ring().certificate().signing
}

fn is_pack_list(body: &[u8]) -> bool {
    body.split_first_chunk::<4>()
        .is_some_and(|(count, ids)| ids.len() as u64 == u64::from(u32::from_le_bytes(*count)) * Id::BYTES as u64)
}

/// What the objects said, to be held against each other.
#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    manifests: Vec<(Id, Id, [u8; 32], [u8; 32])>,
    forgotten: HashSet<Id>,
    begun: HashSet<Id>,
    ends: HashMap<Id, (End, [u8; 32])>,
    epochs: BTreeMap<u32, Vec<ObjectKind>>,
}

impl Known {
    fn take(&mut self, said: Said, objects: &mut Objects) {
        match said {
            Said::Nothing | Said::Gone => {}
            Said::Slot(id, hash) => _ = objects.slots.insert(id, hash),
            Said::Quarantined(pack) => _ = objects.quarantined.insert(pack),
            Said::Indexed(packs) => objects.indexed.extend(packs),
            Said::Manifest { id, session, hash, signer } => self.manifests.push((id, session, hash, signer)),
            Said::Tombstone(id) => _ = self.forgotten.insert(id),
            Said::Begin(id) => _ = self.begun.insert(id),
            Said::End { session, end, signer } => _ = self.ends.insert(session, (end, signer)),
            Said::Epoch(number, kind) => self.epochs.entry(number).or_default().push(kind),
            Said::Wrong(finding) => objects.findings.push(finding),
        }
    }

    /// Finds what should be there and is not. What was listed while others wrote is asked for once more.
    fn compare(&self, repository: &Repository, objects: &mut Objects) -> Result<()> {
        self.compare_manifests(objects);
        self.pass_over_forgotten(objects);
        let mut missing = Vec::new();
        for (session, (end, _)) in &self.ends {
            if let End::Commit { snapshot, .. } = end
                && !self.forgotten.contains(snapshot)
            {
                missing.push((names::snapshot(*snapshot), "its session committed it: the snapshot is lost"));
            }
            if !self.begun.contains(session) {
                missing.push((names::session_begin(*session), "its session has an end"));
            }
        }
        for (number, parts) in &self.epochs {
            let after = |kind: ObjectKind| parts.iter().any(|part| *part as u16 > kind as u16);
            for (kind, part) in [(ObjectKind::Condemned, "condemned"), (ObjectKind::Verdict, "verdict")] {
                if after(kind) && !parts.contains(&kind) {
                    missing.push((names::epoch(*number, part), "what comes after it is there"));
                }
            }
        }
        for (name, detail) in missing {
            // What is there and damaged was found already.
            if !self.names.contains(&name) && is_missing(repository, &name)? {
                objects.findings.push(Finding::missing(name, detail));
            }
        }
        Ok(())
    }

    /// What is damaged of a snapshot that was given up is no damage any more.
    fn pass_over_forgotten(&self, objects: &mut Objects) {
        let manifests = self.forgotten.iter().map(|id| names::snapshot(*id));
        let sessions =
            self.manifests.iter().filter(|(id, ..)| self.forgotten.contains(id)).map(|(_, session, ..)| session);
        let ends =
            sessions.filter(|session| !self.ends.contains_key(*session)).map(|session| names::session_end(*session));
        let given_up: HashSet<String> = manifests.chain(ends).collect();
        objects.findings.retain(|finding| !given_up.contains(&finding.object));
    }

    fn compare_manifests(&self, objects: &mut Objects) {
        for (id, session, hash, signer) in &self.manifests {
            if self.forgotten.contains(id) {
                continue;
            }
            match self.ends.get(session) {
                None => objects.unfinished.push(*id),
                Some((End::Fenced | End::Ended, _)) => {}
                Some((End::Commit { snapshot, manifest }, committer)) => {
                    if snapshot != id || manifest != hash || committer != signer {
                        let detail = "its session committed other bytes, or by another hand";
                        objects.findings.push(Finding::damaged(names::snapshot(*id), detail));
                    }
                }
            }
        }
    }
}

fn is_missing(repository: &Repository, name: &str) -> Result<bool> {
    match repository.store().len_bytes(name) {
        Err(cause) if cause.kind() == StoreErrorKind::NotFound => Ok(true),
        Err(cause) => Err(cause.into()),
        Ok(_) => Ok(false),
    }
}
