//! The objects by which many writers and pruners agree without locks or clocks (FORMAT.md §11). The steps carry its names.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tintype_tin::id::Id;
use tintype_tin::keys::{Certificate, KeyRing};
use tintype_tin::signed::ObjectKind;

use super::process::Process;
use super::store::{Store, StoreError, StoreErrorKind};
use super::{names, time};
use crate::error::{Error, Kind, Result};

/// The longest object of the protocol that is read: a verdict names 16 bytes per pack.
const MAX_OBJECT_BYTES: u64 = 256 << 20;

/// How often a request whose answer was lost is repeated.
const TRIES: usize = 8;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The snapshot with this manifest is whole.
    Commit {
        /// The snapshot.
        snapshot: Id,
        /// BLAKE3 of the manifest's object.
        manifest: [u8; 32],
    },
    /// A pruner did not wait for it.
    Fenced,
    /// It came to nothing, or was a reader's.
    Ended,
}

impl End {
    fn encode(self) -> Vec<u8> {
        let (state, snapshot, manifest) = match self {
            End::Commit { snapshot, manifest } => (1, snapshot.0, manifest),
            End::Fenced => (2, [0; 16], [0; 32]),
            End::Ended => (3, [0; 16], [0; 32]),
        };
        [[state].as_slice(), &snapshot, &manifest].concat()
    }

    fn parse(body: &[u8]) -> Option<End> {
        let (state, rest) = body.split_first()?;
        let (snapshot, manifest) = rest.split_first_chunk::<16>()?;
        let manifest: [u8; 32] = manifest.try_into().ok()?;
        Some(match state {
            1 => End::Commit { snapshot: Id(*snapshot), manifest },
            2 => End::Fenced,
            3 => End::Ended,
            _ => return None,
        })
    }
}

/// What a session's begin says: for people, but for the snapshots and the process.
#[derive(Serialize)]
struct Begin<'a> {
    host: &'a str,
    program: &'a str,
    operation: &'a str,
    time: String,
    #[serde(skip_serializing_if = "<[Id]>::is_empty")]
    snapshots: &'a [Id],
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process>,
}

/// What is known of an open session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// When it began, if it says so in a way that counts.
    pub time: Option<Timestamp>,
    /// The snapshots that it reads, if it is a lease.
    pub snapshots: Vec<Id>,
    /// Whose it is.
    pub process: Option<Process>,
    /// The signing key of who announced it.
    pub signer: Option<[u8; 32]>,
}

/// One round of prune.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epoch {
    /// What may be deleted; `None` if the epoch has not begun.
    pub condemned: Option<Vec<Id>>,
    /// What is deleted, once that is decided.
    pub verdict: Option<Vec<Id>>,
    /// Whether it was deleted.
    pub done: bool,
}

/// Every epoch there was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Epochs(pub BTreeMap<u32, Epoch>);

impl Epochs {
    /// The packs that a writer must not build on.
    pub fn excluded(&self) -> HashSet<Id> {
        let packs = |epoch: &Epoch| epoch.verdict.clone().or_else(|| epoch.condemned.clone()).unwrap_or_default();
        self.0.values().flat_map(packs).collect()
    }

    /// The packs on verdicts: their names are dead for ever.
    pub fn dead(&self) -> HashSet<Id> {
        self.0.values().flat_map(|epoch| epoch.verdict.clone().unwrap_or_default()).collect()
    }

    /// The newest epoch, if it is not finished.
    pub fn open(&self) -> Option<(u32, &Epoch)> {
        self.0.last_key_value().filter(|(_, epoch)| !epoch.done).map(|(number, epoch)| (*number, epoch))
    }

    /// The number of the next one.
    pub fn next(&self) -> u32 {
        self.0.last_key_value().map_or(1, |(number, _)| number.saturating_add(1))
    }
}

/// A pack in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedPack {
    /// Its id.
    pub id: Id,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// The protocol's requests to one store, with one holder's keys.
pub struct Protocol<'a> {
    /// Where the objects are.
    pub store: &'a dyn Store,
    /// Whose requests they are.
    pub ring: &'a KeyRing,
}

impl Protocol<'_> {
    /// W1: announces a session; a reader names the snapshots that it reads.
    ///
    /// `begins_again` says that its writer does so if it is fenced by mistake: then it is fenced at once when it seems to have died.
    pub fn begin_session(&self, operation: &str, snapshots: &[Id], begins_again: bool) -> Result<Id> {
        let id = Id::random()?;
        let begin = Begin {
            host: &self.ring.certificate().name,
            program: super::PROGRAM,
            operation,
            time: time::now(),
            snapshots,
            process: begins_again.then(|| Process::own(self.ring.repository())).flatten(),
        };
        let body = serde_json::to_vec(&begin).unwrap_or_default();
        self.create(ObjectKind::SessionBegin, &names::session_begin(id), &body)?;
        Ok(id)
    }

    /// W6, and fencing: ends a session, and says how it really ended: whoever came first decides.
    pub fn end_session(&self, session: Id, end: End) -> Result<End> {
        let name = names::session_end(session);
        let bytes = self.ring.sign(ObjectKind::SessionEnd, &name, &end.encode())?;
        match self.exclusive(&name, &bytes)? {
            true => Ok(end),
            false => self
                .session_end(session)?
                .map(|(end, _)| end)
                .ok_or_else(|| Error::new(Kind::Io, format!("read {name}: it is there, and not what it should be"))),
        }
    }

    /// How a session ended, and by whom; `None` if it has not. An end that does not count is none: whoever may only write
    /// must not keep others from listing the snapshots.
    pub fn session_end(&self, session: Id) -> Result<Option<(End, Certificate)>> {
        let name = names::session_end(session);
        let Some((body, signer)) = self.read(ObjectKind::SessionEnd, &name)? else { return Ok(None) };
        // What does not count must not stand in anybody's way: only its own session does not get another end.
        let end = End::parse(&body).filter(|end| match end {
            End::Fenced => signer.role.maintains(),
            End::Commit { .. } => signer.role.adds(),
            End::Ended => true,
        });
        Ok(end.map(|end| (end, signer)))
    }

    /// Whether there is an end of this session, of any kind: nobody can give it another.
    pub fn has_ended(&self, session: Id) -> Result<bool> {
        self.exists(&names::session_end(session))
    }

    fn exists(&self, name: &str) -> Result<bool> {
        match self.store.len_bytes(name) {
            Ok(_) => Ok(true),
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => Ok(false),
            Err(cause) => Err(cause.into()),
        }
    }

    /// What a session says of itself; nothing if it does not say so in a way that counts.
    pub fn session_begun(&self, session: Id) -> Result<Begun> {
        #[derive(Deserialize)]
        struct Said {
            time: String,
            #[serde(default)]
            snapshots: Vec<Id>,
            // In another shape it is not known.
            process: Option<serde_json::Value>,
        }
        let found = self.read(ObjectKind::SessionBegin, &names::session_begin(session))?;
        let said = found.and_then(|(body, by)| Some((serde_json::from_slice::<Said>(&body).ok()?, by.signing)));
        let begun = |(said, signer): (Said, [u8; 32])| Begun {
            signer: Some(signer),
            time: time::parse(&said.time),
            snapshots: said.snapshots,
            process: said.process.and_then(|process| serde_json::from_value(process).ok()),
        };
        Ok(said.map(begun).unwrap_or_default())
    }

    /// The sessions without an end.
    pub fn open_sessions(&self) -> Result<Vec<Id>> {
        let names: Vec<String> = self.store.list("sessions/")?.into_iter().map(|listed| listed.name).collect();
        let ended: HashSet<Id> = names.iter().filter_map(|name| names::parse_session(name, "end")).collect();
        Ok(names
            .iter()
            .filter_map(|name| names::parse_session(name, "begin"))
            .filter(|id| !ended.contains(id))
            .collect())
    }

    /// W2, P1: every epoch. One of whose objects does not count is over, and deletes nothing: their names are taken.
    pub fn epochs(&self) -> Result<Epochs> {
        let mut epochs = Epochs::default();
        for listed in self.store.list("epochs/")? {
            let Some((number, part)) = names::parse_epoch(&listed.name) else { continue };
            let epoch = epochs.0.entry(number).or_default();
            match part {
                "condemned" => {
                    epoch.condemned = self.read_packs(ObjectKind::Condemned, &listed.name)?;
                    epoch.done |= epoch.condemned.is_none();
                }
                "verdict" => {
                    epoch.verdict = self.read_packs(ObjectKind::Verdict, &listed.name)?;
                    epoch.done |= epoch.verdict.is_none();
                }
                _ => epoch.done = true,
            }
        }
        Ok(epochs)
    }

    fn read_packs(&self, kind: ObjectKind, name: &str) -> Result<Option<Vec<Id>>> {
        let Some((body, _)) = self.read(kind, name)? else { return Ok(None) };
        let ids = body
            .split_first_chunk::<4>()
            .filter(|(count, ids)| ids.len() as u64 == u64::from(u32::from_le_bytes(**count)) * 16);
        let (_, ids) = ids.ok_or_else(|| Error::new(Kind::Io, format!("read {name}: its length is wrong")))?;
        Ok(Some(ids.as_chunks::<16>().0.iter().map(|id| Id(*id)).collect()))
    }

    /// P4: opens an epoch; false if another one was first.
    pub fn condemn(&self, epoch: u32, packs: &[Id]) -> Result<bool> {
        self.create_packs(ObjectKind::Condemned, &names::epoch(epoch, "condemned"), packs)
    }

    /// P7: decides an epoch, and says what was decided: whoever came first decides.
    pub fn decide(&self, epoch: u32, packs: &[Id]) -> Result<Vec<Id>> {
        let name = names::epoch(epoch, "verdict");
        if self.create_packs(ObjectKind::Verdict, &name, packs)? {
            return Ok(packs.to_vec());
        }
        let found = self.read_packs(ObjectKind::Verdict, &name)?;
        found.ok_or_else(|| Error::new(Kind::Io, format!("read {name}: it is there, and not what it should be")))
    }

    /// P8: closes an epoch.
    pub fn finish_epoch(&self, epoch: u32) -> Result<()> {
        let name = names::epoch(epoch, "done");
        let bytes = self.ring.sign(ObjectKind::Done, &name, &[])?;
        self.exclusive(&name, &bytes).map(|_| ())
    }

    fn create_packs(&self, kind: ObjectKind, name: &str, packs: &[Id]) -> Result<bool> {
        let mut packs: Vec<[u8; 16]> = packs.iter().map(|id| id.0).collect();
        packs.sort_unstable();
        let mut body = (packs.len() as u32).to_le_bytes().to_vec();
        body.extend(packs.iter().flatten());
        let bytes = self.ring.sign(kind, name, &body)?;
        self.exclusive(name, &bytes)
    }

    /// W3, P2, P6: the packs that there are.
    pub fn packs(&self) -> Result<Vec<ListedPack>> {
        let listed = self.store.list("packs/")?;
        let pack = |listed: super::store::Listed| {
            Some(ListedPack { id: names::parse_pack(&listed.name)?, len_bytes: listed.len_bytes })
        };
        Ok(listed.into_iter().filter_map(pack).collect())
    }

    /// The packs that are marked as damaged.
    pub fn quarantined(&self) -> Result<HashSet<Id>> {
        let mut packs = HashSet::new();
        for listed in self.store.list("quarantine/")? {
            if let Some(id) = names::parse_quarantine(&listed.name)
                && self.read(ObjectKind::Quarantine, &listed.name)?.is_some()
            {
                packs.insert(id);
            }
        }
        Ok(packs)
    }

    /// Creates a signed object under a name that nobody else uses.
    pub fn create(&self, kind: ObjectKind, name: &str, body: &[u8]) -> Result<()> {
        let bytes = self.ring.sign(kind, name, body)?;
        put_own(self.store, name, &bytes)
    }

    /// Creates an object that others may create too; durable when it returns. False if another one was first.
    pub(super) fn exclusive(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let mut unclear = false;
        for attempt in 0..TRIES {
            match self.store.put(name, bytes) {
                Ok(()) => return self.store.sync().map(|()| true).map_err(Error::from),
                Err(cause) if cause.kind() == StoreErrorKind::AlreadyExists => {
                    // Ours, perhaps, if an earlier answer was lost.
                    let own = unclear && self.store.get(name, MAX_OBJECT_BYTES)? == bytes;
                    self.store.sync()?;
                    return Ok(own);
                }
                Err(cause) if cause.kind() == StoreErrorKind::Unclear => unclear = true,
                Err(cause) => return Err(cause.into()),
            }
            std::thread::sleep(Duration::from_millis(10 << attempt));
        }
        Err(Error::new(Kind::Io, format!("create {name}: no clear answer after {TRIES} tries")))
    }

    /// The body and the signer of an object; `None` if it is not there, or does not count.
    pub fn read(&self, kind: ObjectKind, name: &str) -> Result<Option<(Vec<u8>, Certificate)>> {
        let bytes = match self.store.get(name, MAX_OBJECT_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        Ok(self.ring.verify(kind, name, &bytes).ok().map(|signed| (signed.body.to_vec(), signed.signer)))
    }
}

/// Puts an object under a name that nobody else uses, and asks again where the answer was lost.
pub fn put_own(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    let mut unclear = false;
    for attempt in 0..TRIES {
        match store.put(name, bytes) {
            Ok(()) => return Ok(()),
            Err(cause) if unclear && cause.kind() == StoreErrorKind::AlreadyExists => return Ok(()),
            Err(cause) if cause.kind() == StoreErrorKind::Unclear => unclear = true,
            Err(cause) => return Err(cause.into()),
        }
        std::thread::sleep(Duration::from_millis(10 << attempt));
    }
    Err(StoreError::new(StoreErrorKind::Unclear, "create", name, format!("no clear answer after {TRIES} tries")).into())
}
