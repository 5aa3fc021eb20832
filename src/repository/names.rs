//! The names of objects (FORMAT.md §1).

use std::collections::BTreeMap;

use tintype_tin::id::Id;
pub use tintype_tin::manifest::name as snapshot;
pub use tintype_tin::pack::name as pack;
use tintype_tin::signed::ObjectKind;

use crate::error::{Error, Kind, Result};

/// The longest name of a snapshot or a disk, and the longest key of a tag, in bytes of UTF-8: that of a file (FORMAT.md §10).
pub const MAX_NAME_BYTES: usize = 255;

/// The longest value of a tag, in bytes of UTF-8 (FORMAT.md §10).
pub const MAX_TAG_VALUE_BYTES: usize = 4096;

/// Most tags of a snapshot (FORMAT.md §10).
pub const MAX_TAGS: usize = 256;

/// Fails if this is too long for a name of a snapshot or a disk, or the key of a tag.
pub fn check_length(what: &str, name: &str) -> Result<()> {
    check(what, name, MAX_NAME_BYTES)
}

/// Fails if a snapshot cannot have these tags.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    if tags.len() > MAX_TAGS {
        let message = format!("a snapshot has at most {MAX_TAGS} tags, these are {}", tags.len());
        return Err(Error::new(Kind::Usage, message));
    }
    tags.iter().try_for_each(|(key, value)| {
        check("the key of a tag", key, MAX_NAME_BYTES)?;
        check("the value of a tag", value, MAX_TAG_VALUE_BYTES)
    })
}

fn check(what: &str, text: &str, max_bytes: usize) -> Result<()> {
    if text.len() <= max_bytes {
        return Ok(());
    }
    let (begin, bytes) = (text.chars().take(20).collect::<String>(), text.len());
    let begin = begin.escape_debug();
    Err(Error::new(Kind::Usage, format!("{what} has at most {max_bytes} bytes, \"{begin}…\" has {bytes}")))
}

/// What the repository is.
pub const REPOSITORY: &str = "repository";

/// A key slot.
pub fn key(id: Id) -> String {
    format!("keys/{id}")
}

/// Whose a key slot is.
pub fn key_holder(slot: Id) -> String {
    format!("keys/{slot}.holder")
}

/// The mark of a key slot that was taken away.
pub fn key_removed(slot: Id) -> String {
    format!("keys/{slot}.removed")
}

/// A rotation of the keys.
pub fn rotation(number: u32) -> String {
    format!("keys/{number:08}.rotation")
}

/// The number of the rotation that has this name.
pub fn parse_rotation(name: &str) -> Option<u32> {
    let number = name.strip_prefix("keys/")?.strip_suffix(".rotation")?.parse().ok()?;
    (rotation(number) == name).then_some(number)
}

/// An index segment.
pub fn index(id: Id) -> String {
    format!("index/{id}")
}

/// A snapshot's tombstone.
pub fn tombstone(snapshot: Id) -> String {
    format!("snapshots/{snapshot}.forgotten")
}

/// The begin of a session.
pub fn session_begin(id: Id) -> String {
    format!("sessions/{id}/begin")
}

/// The end of a session.
pub fn session_end(id: Id) -> String {
    format!("sessions/{id}/end")
}

/// A part of an epoch.
pub fn epoch(number: u32, part: &str) -> String {
    format!("epochs/{number:08}/{part}")
}

/// The mark of a damaged pack.
pub fn quarantine(pack: Id) -> String {
    format!("quarantine/{pack}")
}

/// What was verified.
pub fn ledger(id: Id) -> String {
    format!("ledger/{id}")
}

/// The pack that has this name.
pub fn parse_pack(name: &str) -> Option<Id> {
    let (_, id) = name.strip_prefix("packs/")?.split_once('/')?;
    id.parse().ok().filter(|id| pack(*id) == name)
}

/// The id in a name of one of the flat folders: keys, index, snapshots, ledger.
pub fn parse_flat(folder: &str, name: &str) -> Option<Id> {
    name.strip_prefix(folder)?.strip_prefix('/')?.parse().ok()
}

/// The snapshot that has this tombstone.
pub fn parse_tombstone(name: &str) -> Option<Id> {
    parse_flat("snapshots", name.strip_suffix(".forgotten")?)
}

/// The pack that this mark is for.
pub fn parse_quarantine(name: &str) -> Option<Id> {
    parse_flat("quarantine", name)
}

/// The session that this is the beginning or end of.
pub fn parse_session(name: &str, part: &str) -> Option<Id> {
    parse_flat("sessions", name.strip_suffix(part)?.strip_suffix('/')?)
}

/// The number and part of an epoch's object.
pub fn parse_epoch(name: &str) -> Option<(u32, &str)> {
    let (number, part) = name.strip_prefix("epochs/")?.split_once('/')?;
    let number = number.parse().ok().filter(|number| name == epoch(*number, part))?;
    ["condemned", "verdict", "done"].contains(&part).then_some((number, part))
}

/// What an object is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// What the repository is.
    Repository,
    /// A key slot.
    Key,
    /// Whose a key slot is.
    Holder,
    /// The mark of a key slot that was taken away.
    Removed,
    /// New keys for all holders.
    Rotation,
    /// A pack.
    Pack(Id),
    /// An index segment.
    Index(Id),
    /// A manifest.
    Snapshot(Id),
    /// A tombstone of this snapshot.
    Tombstone(Id),
    /// The begin of this session.
    Begin(Id),
    /// The end of this session.
    End(Id),
    /// The part of this epoch that such an object is.
    Epoch(u32, ObjectKind),
    /// The mark of this pack.
    Quarantine(Id),
    /// What was verified.
    Ledger(Id),
}

impl Named {
    /// Reads a name; nothing if it is somebody else's.
    pub fn parse(name: &str) -> Option<Named> {
        let epoch = |(number, part)| match part {
            "condemned" => Named::Epoch(number, ObjectKind::Condemned),
            "verdict" => Named::Epoch(number, ObjectKind::Verdict),
            _ => Named::Epoch(number, ObjectKind::Done),
        };
        let folder = name.split('/').next().unwrap_or_default();
        match folder {
            REPOSITORY if name == REPOSITORY => Some(Named::Repository),
            "keys" => Named::parse_key(name),
            "packs" => parse_pack(name).map(Named::Pack),
            "index" => parse_flat("index", name).map(Named::Index),
            "snapshots" => parse_flat("snapshots", name)
                .map(Named::Snapshot)
                .or_else(|| parse_tombstone(name).map(Named::Tombstone)),
            "sessions" => {
                parse_session(name, "begin").map(Named::Begin).or_else(|| parse_session(name, "end").map(Named::End))
            }
            "epochs" => parse_epoch(name).map(epoch),
            "quarantine" => parse_quarantine(name).map(Named::Quarantine),
            "ledger" => parse_flat("ledger", name).map(Named::Ledger),
            _ => None,
        }
    }

    fn parse_key(name: &str) -> Option<Named> {
        let of_slot = |end: &str| name.strip_suffix(end).and_then(|name| parse_flat("keys", name));
        let own = parse_flat("keys", name).map(|_| Named::Key);
        let holder = || of_slot(".holder").map(|_| Named::Holder);
        let removed = || of_slot(".removed").map(|_| Named::Removed);
        own.or_else(holder).or_else(removed).or_else(|| parse_rotation(name).map(|_| Named::Rotation))
    }

    /// The kind of signed object that it is; packs and key slots are none.
    pub fn kind(self) -> Option<ObjectKind> {
        Some(match self {
            Named::Repository => ObjectKind::Repository,
            Named::Key | Named::Pack(_) => return None,
            Named::Holder => ObjectKind::Holder,
            Named::Removed => ObjectKind::Removed,
            Named::Rotation => ObjectKind::Rotation,
            Named::Index(_) => ObjectKind::Index,
            Named::Snapshot(_) => ObjectKind::Manifest,
            Named::Tombstone(_) => ObjectKind::Tombstone,
            Named::Begin(_) => ObjectKind::SessionBegin,
            Named::End(_) => ObjectKind::SessionEnd,
            Named::Epoch(_, kind) => kind,
            Named::Quarantine(_) => ObjectKind::Quarantine,
            Named::Ledger(_) => ObjectKind::Ledger,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_is_made_is_known() {
        let id = Id([0xab; 16]);
        let known = [
            (REPOSITORY.to_owned(), Named::Repository),
            (key(id), Named::Key),
            (key_holder(id), Named::Holder),
            (key_removed(id), Named::Removed),
            (rotation(7), Named::Rotation),
            (pack(id), Named::Pack(id)),
            (index(id), Named::Index(id)),
            (snapshot(id), Named::Snapshot(id)),
            (tombstone(id), Named::Tombstone(id)),
            (session_begin(id), Named::Begin(id)),
            (session_end(id), Named::End(id)),
            (epoch(12, "condemned"), Named::Epoch(12, ObjectKind::Condemned)),
            (epoch(12, "verdict"), Named::Epoch(12, ObjectKind::Verdict)),
            (epoch(12, "done"), Named::Epoch(12, ObjectKind::Done)),
            (quarantine(id), Named::Quarantine(id)),
            (ledger(id), Named::Ledger(id)),
        ];
        for (name, named) in known {
            assert_eq!(Named::parse(&name), Some(named), "{name}");
            for other in [format!("{name}x"), format!("x{name}"), name.to_uppercase(), format!("{name}/x")] {
                assert_eq!(Named::parse(&other), None, "{other}");
            }
        }
    }
}
