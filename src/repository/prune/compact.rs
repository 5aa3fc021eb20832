//! Makes few index segments of many, and leaves out packs that are gone (FORMAT.md §9: the index is a cache).
//!
//! A segment names each of its packs whole, always: so it does not matter which of them somebody else sees.

use std::collections::HashSet;

use tintype_tin::id::Id;

use crate::error::Result;
use crate::progress::Progress;
use crate::repository::index::{PackRow, SegmentBuilder, SegmentFile};
use crate::repository::{Repository, names};

/// About how many chunks a new segment has: 6 MB, which has to be in memory to be put.
const SEGMENT_CHUNKS: usize = 128 << 10;

/// A segment with fewer chunks than this is small.
const SMALL_CHUNKS: u32 = 64 << 10;

/// So many small segments are made into one.
const MANY_SMALL: usize = 8;

/// A segment of whose packs so many of a hundred are gone is written anew.
const HOLEY_PERCENT: usize = 25;

/// How many segments there were and are.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Compacted {
    /// Before.
    pub segments_before: usize,
    /// After.
    pub segments_after: usize,
}

/// A segment that is to be replaced.
struct Old {
    id: Id,
    file: SegmentFile,
    trusted: bool,
}

/// Merges index segments where that pays; `pruned` says that packs have gone.
pub fn compact(repository: &Repository, pruned: bool, progress: &Progress) -> Result<Compacted> {
    // The packs are listed after the segments: what a segment names then and is not listed is gone.
    let ids = repository.index_ids()?;
    let unchanged = Compacted { segments_before: ids.len(), segments_after: ids.len() };
    if ids.len() < MANY_SMALL && !pruned {
        return Ok(unchanged);
    }
    let live: HashSet<Id> = repository.protocol().packs()?.iter().map(|pack| pack.id).collect();
    let mut kept = HashSet::new();
    let mut old = Vec::new();
    let mut holey = false;
    for id in ids {
        progress.check_cancelled()?;
        let trusted = repository.fetch_index(id, true)?;
        let is_trusted = trusted.is_some();
        let Some(body) = trusted.map_or_else(|| repository.fetch_index(id, false), |body| Ok(Some(body)))? else {
            continue;
        };
        // What cannot be read says nothing.
        let Ok(file) = SegmentFile::of_body(&body) else { continue };
        let rows = file.packs();
        let gone = rows.iter().filter(|row| !live.contains(&row.id)).count();
        let is_holey = gone * 100 >= rows.len().max(1) * HOLEY_PERCENT;
        if is_trusted && !is_holey && file.chunks() >= SMALL_CHUNKS {
            kept.extend(rows.iter().map(|row| row.id));
        } else {
            holey |= is_holey && is_trusted;
            old.push(Old { id, file, trusted: is_trusted });
        }
    }
    if !holey && old.len() < MANY_SMALL {
        return Ok(unchanged);
    }
    let put = merge(repository, &old, &live, &mut kept)?;
    let deleted = delete(repository, &old, &live, &kept)?;
    Ok(Compacted { segments_after: (unchanged.segments_before + put).saturating_sub(deleted), ..unchanged })
}

/// Puts segments that say what the old ones say of packs that are there; returns how many.
fn merge(repository: &Repository, old: &[Old], live: &HashSet<Id>, kept: &mut HashSet<Id>) -> Result<usize> {
    let mut builder = SegmentBuilder::default();
    let mut put = 0;
    for segment in old.iter().filter(|old| old.trusted) {
        let wanted: Vec<&PackRow> =
            segment.file.packs().iter().filter(|row| live.contains(&row.id) && kept.insert(row.id)).collect();
        let wanted: std::collections::HashMap<Id, &PackRow> = wanted.into_iter().map(|row| (row.id, row)).collect();
        wanted.values().for_each(|row| builder.add_pack((*row).clone(), &[]));
        segment.file.for_each(&mut |_, id, found| {
            if let Some(row) = wanted.get(&found.location.pack) {
                builder.add_entry(row, id, found.location.offset, found.location.length);
            }
        })?;
        if builder.len() >= SEGMENT_CHUNKS {
            repository.put_index(std::mem::take(&mut builder))?;
            put += 1;
        }
    }
    if !builder.is_empty() {
        repository.put_index(builder)?;
        put += 1;
    }
    repository.store().sync()?;
    Ok(put)
}

/// Deletes the old segments all of whose packs are named elsewhere, or gone.
fn delete(repository: &Repository, old: &[Old], live: &HashSet<Id>, kept: &HashSet<Id>) -> Result<usize> {
    let mut deleted = 0;
    for segment in old {
        let replaced = |row: &PackRow| kept.contains(&row.id) || !live.contains(&row.id);
        if segment.file.packs().iter().all(replaced) {
            repository.store().delete(&names::index(segment.id))?;
            deleted += 1;
        }
    }
    repository.store().sync()?;
    Ok(deleted)
}
