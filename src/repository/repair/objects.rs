//! Objects other than packs: taken from a copy of the repository, made again, or removed where they only stand in the way.

use std::sync::Arc;

use serde::Serialize;
use tintype_tin::id::Id;
use tintype_tin::signed::ObjectKind;
use tintype_tin::slot::SlotInfo;

use crate::error::Result;
use crate::repository::index::SegmentBuilder;
use crate::repository::names::{self, Named};
use crate::repository::protocol::{ListedPack, put_own};
use crate::repository::verify::{Finding, Wrong};
use crate::repository::{MAX_INDEX_BYTES, PROGRAM, Repository, row_of, time};

/// How an object was mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mended {
    /// It was taken from the other repository, which is a copy of this one.
    Copied,
    /// It was made again.
    Remade,
    /// It was of no use, and is gone.
    Removed,
}

/// What the beginning of a session says that was lost, for people.
#[derive(Serialize)]
struct Begin<'a> {
    host: &'a str,
    program: &'static str,
    operation: &'static str,
    time: String,
}

/// Mends an object, if that can be; `copy` is a copy of the repository. Says only what it would do if `dry_run`.
pub fn mend_object(
    repository: &Repository,
    finding: &Finding,
    copy: Option<&Arc<Repository>>,
    dry_run: bool,
) -> Result<Option<Mended>> {
    let name = &finding.object;
    let Some(named) = Named::parse(name) else { return mend_reserve(repository, name, dry_run) };
    if named == Named::Key
        && let Some(bytes) = copy.and_then(|copy| slot_of_copy(repository, copy, name))
    {
        replace(repository, finding, Some(&bytes), dry_run)?;
        return Ok(Some(Mended::Copied));
    }
    let Some(kind) = named.kind() else { return Ok(None) };
    if let Some(bytes) = copy.and_then(|copy| copy_of(repository, copy, kind, name)) {
        replace(repository, finding, Some(&bytes), dry_run)?;
        return Ok(Some(Mended::Copied));
    }
    let body = match named {
        Named::Index(_) | Named::Ledger(_) | Named::Quarantine(_) | Named::Tombstone(_) => {
            replace(repository, finding, None, dry_run)?;
            return Ok(Some(Mended::Removed));
        }
        Named::Begin(_) => {
            let host = &repository.ring().certificate().name;
            let begin = Begin { host, program: PROGRAM, operation: "repair", time: time::now() };
            serde_json::to_vec(&begin).unwrap_or_default()
        }
        // What a finished epoch condemned is gone; that it was one is to be known.
        Named::Epoch(number, ObjectKind::Condemned | ObjectKind::Verdict) if is_done(repository, number)? => vec![0; 4],
        // Prune deletes the verdict's packs once more, and closes the epoch.
        Named::Epoch(_, ObjectKind::Done) => {
            replace(repository, finding, None, dry_run)?;
            return Ok(Some(Mended::Removed));
        }
        _ => return Ok(None),
    };
    let bytes = repository.ring().sign(kind, name, &body)?;
    replace(repository, finding, Some(&bytes), dry_run)?;
    Ok(Some(Mended::Remade))
}

fn is_done(repository: &Repository, epoch: u32) -> Result<bool> {
    Ok(repository.protocol().read(ObjectKind::Done, &names::epoch(epoch, "done"))?.is_some())
}

/// The same object in a copy of the repository, if it counts there.
fn copy_of(repository: &Repository, copy: &Repository, kind: ObjectKind, name: &str) -> Option<Vec<u8>> {
    let bytes = copy.store().get(name, MAX_INDEX_BYTES).ok()?;
    repository.ring().verify(kind, name, &bytes).ok()?;
    Some(bytes)
}

/// The same key slot in a copy of the repository, if it is what the ledger says that it was, or if the ledger says nothing of it:
/// only who knows its password can tell then whether it is the true one, and a wrong one opens nothing.
fn slot_of_copy(repository: &Repository, copy: &Repository, name: &str) -> Option<Vec<u8>> {
    let id = names::parse_flat("keys", name)?;
    let bytes = copy.store().get(name, MAX_INDEX_BYTES).ok()?;
    let hash = blake3::hash(&bytes).to_string();
    let known: Vec<_> =
        repository.ledger().ok()?.into_iter().filter_map(|(_, mut entry)| entry.slots.remove(&id)).collect();
    let is_true = known.contains(&hash);
    let is_whole = || SlotInfo::parse(&bytes).is_ok_and(|info| info.repository == repository.config().id);
    (is_true || (known.is_empty() && is_whole())).then_some(bytes)
}

/// Makes the store's reserve again, if it is the object that is damaged.
fn mend_reserve(repository: &Repository, name: &str, dry_run: bool) -> Result<Option<Mended>> {
    let Some(reserve) = repository.store().reserve() else { return Ok(None) };
    if reserve.problem().is_none_or(|(damaged, _)| damaged != name) {
        return Ok(None);
    }
    if !dry_run {
        reserve.remake()?;
    }
    Ok(Some(Mended::Remade))
}

/// Takes a damaged object away, which is of no use to anybody, and puts what it should be.
fn replace(repository: &Repository, finding: &Finding, bytes: Option<&[u8]>, dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    if finding.wrong == Wrong::Damaged {
        repository.store().delete(&finding.object)?;
    }
    bytes.map_or(Ok(()), |bytes| put_own(repository.store(), &finding.object, bytes))
}

/// Writes an index segment for these packs; says how many there were.
pub fn re_index(repository: &Repository, packs: &[ListedPack]) -> Result<usize> {
    let mut segment = SegmentBuilder::default();
    let mut count = 0;
    for pack in packs {
        let table = repository.pack_table(*pack)?;
        segment.add_pack(row_of(*pack, &table), &table.chunks);
        count += 1;
    }
    if !segment.is_empty() {
        repository.protocol().create(ObjectKind::Index, &names::index(Id::random()?), &segment.encode())?;
    }
    Ok(count)
}
