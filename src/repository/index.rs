//! Where chunks are: index segments, looked up in files of a local cache (FORMAT.md §9).
//!
//! The cache is disposable, and the index too: packs' tables say the same. An entry counts only if the caller finds its pack
//! usable. Nothing of it is kept in memory but each file's list of packs and its fanout.

mod cache;
mod segment;

use std::collections::HashMap;
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
    /// Who sealed the chunks of each pack.
    authors: HashMap<Id, Author>,
}

/// Who sealed chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Author {
    /// The signing key.
    pub signing: [u8; 32],
    /// The role that the certificate gives.
    pub role: Option<Role>,
}

impl Author {
    /// Whether a writer with these keys may build on the author's chunks (FORMAT.md §8).
    pub fn is_trusted_by(&self, ring: &KeyRing) -> bool {
        self.signing == ring.certificate().signing || matches!(self.role, Some(Role::Read | Role::Admin))
    }
}

impl Index {
    fn add(&mut self, file: SegmentFile) {
        self.authors.extend(file.packs().iter().map(|row| (row.id, row.author)));
        self.files.push(file);
    }

    /// Who sealed the chunks of a pack, if a segment says what is in it.
    pub fn author_of(&self, pack: &Id) -> Option<Author> {
        self.authors.get(pack).copied()
    }

    /// The places that the segments say for a chunk.
    pub fn find(&self, id: &ChunkId) -> Result<Vec<Location>> {
        let mut found = Vec::new();
        self.files.iter().rev().try_for_each(|file| file.find(id, &mut found))?;
        Ok(found)
    }

    /// How many files are asked for each chunk.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Calls `visit` for every entry of every segment.
    pub fn for_each(&self, visit: &mut dyn FnMut(&ChunkId, &Location)) -> Result<()> {
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
