//! The names of objects (FORMAT.md §1).

use tintype_formats::tin::id::Id;
pub use tintype_formats::tin::manifest::name as snapshot;
pub use tintype_formats::tin::pack::name as pack;

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

/// The session that this is the begin or end of.
pub fn parse_session(name: &str, part: &str) -> Option<Id> {
    parse_flat("sessions", name.strip_suffix(part)?.strip_suffix('/')?)
}

/// The number and part of an epoch's object.
pub fn parse_epoch(name: &str) -> Option<(u32, &str)> {
    let (number, part) = name.strip_prefix("epochs/")?.split_once('/')?;
    let number = number.parse().ok().filter(|number| name == epoch(*number, part))?;
    ["condemned", "verdict", "done"].contains(&part).then_some((number, part))
}
