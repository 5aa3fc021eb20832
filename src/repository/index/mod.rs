//! Where chunks are: index segments, looked up in files of a local cache (FORMAT.md §9).
//!
//! The cache is disposable, and the index too: packs' tables say the same. An entry counts only if the caller finds its pack
//! usable. Nothing of it is kept in memory but each file's list of packs and its fanout.

mod cache;
mod merge;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Mutex;

use tintype_formats::locks::Unpoisoned as _;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::{KeyRing, Role};
use tintype_tin::map::Location;

pub use cache::{Cache, Scope, is_trusted, private_folder};
pub use segment::{PackRow, SegmentBuilder, SegmentFile, parse_rows};

use crate::error::Result;

/// Every index segment that a reader or writer knows of.
#[derive(Default)]
pub struct Index {
    files: Vec<SegmentFile>,
    /// The packs, each with the number of the first file that names it.
    packs: HashMap<Id, u32>,
}

/// Which entry of an index: the number of its file, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// The number of the file.
    pub file: u32,
    /// The number of the entry.
    pub entry: u32,
}

/// A place of a chunk, and whose word it is that the chunk is there.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The place.
    pub location: Location,
    /// The signing key of who sealed the chunk.
    pub author: [u8; 32],
    /// The role that the author had.
    pub role: Option<Role>,
}

impl Found {
    /// Whether a writer with these keys may build on the chunk.
    pub fn is_trusted_by(&self, ring: &KeyRing) -> bool {
        trusts(ring, self.author, self.role)
    }
}

impl PackRow {
    /// Whether a writer with these keys may build on the pack's chunks.
    pub fn is_trusted_by(&self, ring: &KeyRing) -> bool {
        trusts(ring, self.author, self.role)
    }
}

/// Whom a writer believes that a chunk's bytes are those of its id (FORMAT.md §8).
fn trusts(ring: &KeyRing, author: [u8; 32], role: Option<Role>) -> bool {
    author == ring.certificate().signing || role.is_some_and(Role::is_trusted)
}

impl Index {
    fn add(&mut self, file: SegmentFile) {
        let number = self.files.len() as u32;
        for row in file.packs() {
            self.packs.entry(row.id).or_insert(number);
        }
        self.files.push(file);
    }

    /// Adds a segment that is in no file of the cache.
    pub fn add_body(&mut self, body: &[u8]) -> Result<()> {
        self.add(SegmentFile::of_body(body)?);
        Ok(())
    }

    /// Whether a segment says what is in this pack.
    pub fn knows_pack(&self, pack: &Id) -> bool {
        self.packs.contains_key(pack)
    }

    /// The number of the file that says what is in this pack; what others say of it is the same again.
    pub fn file_of(&self, pack: &Id) -> Option<u32> {
        self.packs.get(pack).copied()
    }

    /// The places that the segments say for a chunk.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        self.files.iter().rev().try_for_each(|file| file.find(id, |_, one| found.push(one)))?;
        Ok(found)
    }

    /// The places that the segments say for a chunk, each once, with what entry says so.
    pub fn find_ranked(&self, id: &ChunkId) -> Result<Vec<(Rank, Found)>> {
        let mut found = Vec::new();
        for (number, file) in (0..).zip(&self.files) {
            file.find(id, |entry, one| {
                if self.file_of(&one.location.pack) == Some(number) {
                    found.push((Rank { file: number, entry }, one));
                }
            })?;
        }
        Ok(found)
    }

    /// How many entries each file has.
    pub fn entry_counts(&self) -> Vec<u32> {
        self.files.iter().map(SegmentFile::chunks).collect()
    }

    /// What the segments say of packs, each once.
    pub fn packs(&self) -> impl Iterator<Item = &PackRow> {
        let numbered = (0..).zip(&self.files);
        numbered.flat_map(move |(number, file)| {
            file.packs().iter().filter(move |row| self.file_of(&row.id) == Some(number))
        })
    }

    /// Calls `visit` for every entry, each place once.
    pub fn for_each(&self, visit: &mut dyn FnMut(Rank, &ChunkId, &Found)) -> Result<()> {
        for (number, file) in (0..).zip(&self.files) {
            file.for_each(&mut |entry, id, found| {
                if self.file_of(&found.location.pack) == Some(number) {
                    visit(Rank { file: number, entry }, id, found);
                }
            })?;
        }
        Ok(())
    }
}

/// The chunks of a session that are in no segment yet.
#[derive(Default)]
pub struct FreshChunks(Mutex<HashMap<ChunkId, Location>>);

impl FreshChunks {
    /// Where a chunk of this session is.
    pub fn get(&self, id: &ChunkId) -> Option<Location> {
        self.lock().get(id).copied()
    }

    /// Notes a chunk.
    pub fn insert(&self, id: ChunkId, location: Location) {
        self.lock().insert(id, location);
    }

    /// Forgets the chunks of a pack, which a segment names now.
    pub fn remove_all(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut chunks = self.lock();
        ids.for_each(|id| _ = chunks.remove(&id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ChunkId, Location>> {
        self.0.lock().unpoisoned()
    }
}
