//! Where chunks are: index segments, looked up in files of a local cache (FORMAT.md §9).
//!
//! The cache is disposable, and the index too: packs' tables say the same. An entry counts only if the caller finds its pack
//! usable. Nothing of it is kept in memory but each file's list of packs and its fanout.

mod cache;
mod segment;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use tintype_formats::tin::id::{ChunkId, Id};
use tintype_formats::tin::keys::{KeyRing, Role};
use tintype_formats::tin::map::Location;

pub use cache::Cache;
use segment::SegmentFile;
pub use segment::{PackRow, SegmentBuilder};

use crate::error::Result;

/// Every index segment that a reader or writer knows of.
#[derive(Default)]
pub struct Index {
    files: Vec<SegmentFile>,
    packs: HashSet<Id>,
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
    /// Whether a writer with these keys may build on the chunk (FORMAT.md §8).
    pub fn is_trusted_by(&self, ring: &KeyRing) -> bool {
        self.author == ring.certificate().signing || matches!(self.role, Some(Role::Read | Role::Admin))
    }
}

impl Index {
    fn add(&mut self, file: SegmentFile) {
        self.packs.extend(file.packs().iter().map(|row| row.id));
        self.files.push(file);
    }

    /// Whether a segment says what is in this pack.
    pub fn knows_pack(&self, pack: &Id) -> bool {
        self.packs.contains(pack)
    }

    /// The places that the segments say for a chunk.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        self.files.iter().rev().try_for_each(|file| file.find(id, &mut found))?;
        Ok(found)
    }

    /// How many files are asked for each chunk.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Calls `visit` for every entry of every segment.
    pub fn for_each(&self, visit: &mut dyn FnMut(&ChunkId, &Found)) -> Result<()> {
        self.files.iter().try_for_each(|file| file.for_each(visit))
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
