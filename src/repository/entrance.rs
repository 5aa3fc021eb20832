//! What can be told of a repository that does not open: which of the objects that open it are damaged.
//!
//! Nothing here is vouched for by a signature, for there is no key yet: a store can only make it say "damaged" of what it
//! could damage as well.

use tintype_tin::id::Id;
use tintype_tin::signed::{ObjectKind, SignedObject};
use tintype_tin::slot::SlotInfo;

use super::store::{Store, StoreErrorKind};
use super::{MAX_SMALL_BYTES, ledger, names};
use crate::error::{Error, Kind, Result};

/// How many entries of the ledger are asked for the hash of a slot.
const MAX_LEDGERS: usize = 256;

/// The longest entry of the ledger that is asked, in bytes.
const MAX_LEDGER_BYTES: u64 = 16 << 20;

/// Where a signed object's body begins, and where its length stands (FORMAT.md §2).
const BODY_AT: usize = 32;
const LENGTH_AT: usize = 12;

/// What stands at the door: the object "repository", if it is there, and the repository's id.
pub(super) struct Entrance {
    pub object: Option<Vec<u8>>,
    pub id: Id,
}

impl Entrance {
    /// Reads the object "repository". Where it does not say which repository this is, the key slots do.
    pub(super) fn find(store: &dyn Store) -> Result<Entrance> {
        let shown = store.shown();
        let object = match store.get(names::REPOSITORY, MAX_SMALL_BYTES) {
            Ok(object) => Some(object),
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => None,
            Err(cause) => return Err(cause.into()),
        };
        let said = object.as_deref().and_then(|object| match SignedObject::sniff(object) {
            Some((ObjectKind::Repository, id)) => Some(id),
            _ => None,
        });
        let slots = repositories_of_slots(store)?;
        match (said, slots.first()) {
            (Some(id), None) => Ok(Entrance { object, id }),
            (Some(id), Some(_)) if slots.contains(&id) => Ok(Entrance { object, id }),
            (_, Some(id)) => Ok(Entrance { object, id: *id }),
            (None, None) => {
                let message = match object {
                    Some(_) => {
                        format!("{shown} is not a repository: the object \"repository\" there is something else")
                    }
                    None => format!("there is no repository in {shown}"),
                };
                Err(Error::new(Kind::NoRepository, message))
            }
        }
    }
}

/// The repositories that the key slots are for, by their own word.
fn repositories_of_slots(store: &dyn Store) -> Result<Vec<Id>> {
    let mut ids = Vec::new();
    for (_, bytes) in slots(store)? {
        ids.extend(SlotInfo::parse(&bytes).map(|info| info.repository).ok());
    }
    Ok(ids)
}

fn slots(store: &dyn Store) -> Result<Vec<(Id, Vec<u8>)>> {
    let mut slots = Vec::new();
    for id in store.list("keys/")?.iter().filter_map(|listed| names::parse_flat("keys", &listed.name)) {
        match store.get(&names::key(id), MAX_SMALL_BYTES) {
            Ok(bytes) => slots.push((id, bytes)),
            Err(cause) if matches!(cause.kind(), StoreErrorKind::NotFound | StoreErrorKind::TooLarge) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(slots)
}

/// A key slot that is not what was written, if one can be told; and how it shows.
pub(super) fn damaged_slot(store: &dyn Store, repository: Id) -> Result<Option<(Id, String)>> {
    let slots = slots(store)?;
    for (id, bytes) in &slots {
        match SlotInfo::parse(bytes) {
            Ok(info) if info.repository == repository => {}
            Ok(info) => return Ok(Some((*id, format!("it is of repository {}", info.repository)))),
            Err(cause) => return Ok(Some((*id, cause.to_string()))),
        }
    }
    let entries = store.list("ledger/")?;
    for listed in entries.iter().filter(|listed| listed.len_bytes <= MAX_LEDGER_BYTES).take(MAX_LEDGERS) {
        let Ok(bytes) = store.get(&listed.name, MAX_LEDGER_BYTES) else { continue };
        let Some(entry) = ledger_entry(&bytes) else { continue };
        let differs = |(id, bytes): &&(Id, Vec<u8>)| {
            entry.slots.get(id).is_some_and(|before| *before != blake3::hash(bytes).to_string())
        };
        if let Some((id, _)) = slots.iter().find(differs) {
            return Ok(Some((*id, "its bytes are not those that it had when it was verified before".to_owned())));
        }
    }
    Ok(None)
}

/// What an entry of the ledger says, whoever signed it.
fn ledger_entry(object: &[u8]) -> Option<ledger::Entry> {
    let length = u32::from_le_bytes(object.get(LENGTH_AT..LENGTH_AT + 4)?.try_into().ok()?) as usize;
    serde_json::from_slice(object.get(BODY_AT..)?.get(..length)?).ok()
}

/// The error of a repository that its own objects keep from being opened.
pub(super) fn damaged(object: &str, detail: impl std::fmt::Display) -> Error {
    Error::new(Kind::RepositoryDamaged, format!("damaged: {object}: {detail}"))
}
