//! A bounded cache of parts of L2 tables, which are looked through for repeated places when they are read.

use std::sync::{Arc, Mutex};

use super::{Cluster, READ_L2, Shape, repeated};
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::TABLE_CACHE_BYTES;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

/// The entries of a part; a table of fewer is one part.
const PART_ENTRIES: u64 = 4096;

const MAX_PARTS: u64 = TABLE_CACHE_BYTES as u64 / (PART_ENTRIES * 8);

/// A table, and the first entry of a part of it. Damaged tables may overlap: one place can be in two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PartKey {
    table: u64,
    first: u64,
}

/// Consecutive entries of one L2 table.
pub(super) struct Part {
    first: u64,
    entries: Vec<u64>,
    /// The places that more than one entry names, in order.
    shared: Vec<u64>,
}

impl Part {
    /// Which part of the table at `table` has that entry.
    pub fn key(table: u64, entry: u64) -> PartKey {
        PartKey { table, first: entry / PART_ENTRIES * PART_ENTRIES }
    }

    /// An entry of the table; 0, which is none, outside of the part.
    pub fn entry(&self, index: u64) -> u64 {
        let within = index.checked_sub(self.first).map(|within| within as usize);
        within.and_then(|within| self.entries.get(within)).copied().unwrap_or(0)
    }

    pub fn is_shared(&self, host_offset: u64) -> bool {
        self.shared.binary_search(&host_offset).is_ok()
    }

    /// Reads a part of a table that is in the file.
    pub fn read(file: &dyn HostFile, shape: &Shape, PartKey { table, first }: PartKey) -> Result<Part> {
        let count = PART_ENTRIES.min(shape.l2_entries - first);
        let place = table + first * 8;
        let mut bytes = vec![0; count as usize * 8];
        file.read_exact_at(place, &mut bytes).map_err(|cause| ImageError::io(READ_L2, cause).at_host(place))?;
        let (numbers, _) = bytes.as_chunks();
        let entries: Vec<u64> = numbers.iter().map(|bytes| shape.rules.number(*bytes)).collect();
        let places = entries.iter().filter_map(|raw| match shape.cluster(*raw) {
            Cluster::Data { host_offset } | Cluster::Compressed { host_offset, .. } => Some(host_offset),
            Cluster::Absent | Cluster::Zero => None,
        });
        let shared = repeated(places.collect());
        Ok(Part { first, entries, shared })
    }

    /// The entries of the part with their numbers in the table.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, u64)> {
        (self.first..).zip(self.entries.iter().copied())
    }
}

/// Parts; the one that was used least recently makes room.
pub(super) struct PartCache {
    file: Arc<dyn HostFile>,
    parts: Mutex<Lru<PartKey, Arc<Part>>>,
}

impl PartCache {
    pub fn new(file: Arc<dyn HostFile>) -> Self {
        PartCache { file, parts: Mutex::new(Lru::new(MAX_PARTS)) }
    }

    /// A part of a table that is in the file.
    pub fn part(&self, shape: &Shape, key: PartKey) -> Result<Arc<Part>> {
        if let Some(part) = self.lock().get(key) {
            return Ok(part);
        }
        let part = Arc::new(Part::read(self.file.as_ref(), shape, key)?);
        self.lock().insert(key, Arc::clone(&part), 1);
        Ok(part)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lru<PartKey, Arc<Part>>> {
        self.parts.lock().unpoisoned()
    }
}
