//! From the number of a grain to its place: through the grain directory and the grain tables.
//!
//! ```text
//!   grain number = | directory index | table index |
//!   grain directory (in memory) ──► grain table (cached) ──► grain: absent, zeros, or stored at a host offset
//! ```
//!
//! Invariants: no two entries of the directory name the same table, no two entries of a table the same grain, and all
//! tables that were looked at together name no more grains than the file has room for. Errors about one grain come when
//! that grain is asked for.

use std::sync::{Arc, Mutex};

use byteorder::{ByteOrder, LittleEndian};

use super::header::{Directory, Shape, SparseKind};
use super::markers::ScannedGrains;
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::TABLE_CACHE_BYTES;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

const READ_DIRECTORY: &str = "read grain directory";
const READ_TABLE: &str = "read grain table";

/// The grains of one sparse extent.
pub(super) struct GrainMap {
    file: Arc<dyn HostFile>,
    file_bytes: u64,
    pub shape: Shape,
    places: Places,
    /// Which extent this is, for the cache that it shares with others.
    number: usize,
    cache: Arc<TableCache>,
    named: Mutex<NamedGrains>,
}

enum Places {
    /// For each grain table its place: sectors, or in seSparse extents its number plus one; 0 for none.
    Tables(Vec<u32>),
    /// The tables are lost.
    Scanned(ScannedGrains),
}

/// The grain tables of all extents of an image that were used last, by the extent's number and the table's.
pub(super) struct TableCache(Mutex<KeptTables>);

type KeptTables = Lru<(usize, u64), Arc<[Grain]>>;

/// What the tables that were loaded so far name.
#[derive(Default)]
struct NamedGrains {
    /// One bit for each table that was loaded once.
    loaded: Vec<u64>,
    /// How many bytes of the file their grains take at least.
    bytes: u64,
}

/// A table, or that there is none.
enum Table {
    None,
    /// So many tables from here on lie in a hole of the file: all their entries are 0.
    Empty(u64),
    Loaded(Arc<[Grain]>),
}

impl GrainMap {
    /// Reads the directory, or looks for the grains where it is lost.
    ///
    /// `number` tells the extent from others that share the cache.
    pub fn open(
        file: Arc<dyn HostFile>,
        file_bytes: u64,
        shape: Shape,
        number: usize,
        cache: Arc<TableCache>,
    ) -> Result<GrainMap> {
        let places = match shape.directory {
            Directory::At { host_offset, redundant } => {
                Places::Tables(read_directories(file.as_ref(), file_bytes, &shape, host_offset, redundant)?)
            }
            Directory::Lost => Places::Scanned(ScannedGrains::scan(file.as_ref(), file_bytes, &shape)?),
        };
        Ok(GrainMap { file, file_bytes, shape, places, number, cache, named: Mutex::default() })
    }

    /// The file that holds the extent, and its length.
    pub fn file(&self) -> (&dyn HostFile, u64) {
        (self.file.as_ref(), self.file_bytes)
    }

    /// What the end of a stream that was cut keeps secret.
    pub fn scanned(&self) -> Option<&ScannedGrains> {
        match &self.places {
            Places::Scanned(scanned) => Some(scanned),
            Places::Tables(_) => None,
        }
    }

    /// For each grain table its host offset, if there is one; empty where the directory is lost.
    pub fn table_offsets(&self) -> impl Iterator<Item = Option<u64>> {
        let entries = match &self.places {
            Places::Tables(entries) => entries.as_slice(),
            Places::Scanned(_) => &[],
        };
        entries.iter().map(|entry| table_offset(&self.shape, *entry))
    }

    /// What grain number `grain` is, and for how many grains (at most `max_grains`) the same is true, or in the case of
    /// stored ones that are not compressed, they follow each other.
    pub fn run_at(&self, grain: u64, max_grains: u64) -> Result<(Grain, u64)> {
        let entries = match &self.places {
            Places::Tables(entries) => entries,
            Places::Scanned(scanned) => return scanned.run_at(grain, max_grains),
        };
        let (number, within) = (grain / self.shape.table_entries, grain % self.shape.table_entries);
        let absent = |tables: u64| (Grain::Absent, (tables * self.shape.table_entries - within).min(max_grains));
        match self.table(entries, number, (within + max_grains).div_ceil(self.shape.table_entries))? {
            Table::None => {
                let rest = entries.get(number as usize..).unwrap_or_default();
                let max_tables = (within + max_grains).div_ceil(self.shape.table_entries) as usize;
                let run = rest.iter().take(max_tables).take_while(|entry| **entry == 0).count();
                Ok(absent((run as u64).max(1)))
            }
            Table::Empty(tables) => Ok(absent(tables)),
            Table::Loaded(grains) => {
                let grains = grains.get(within as usize..).unwrap_or_default();
                let first = grains.first().copied().unwrap_or(Grain::Absent);
                let follows = |(index, next): &(u64, &Grain)| match (first, **next) {
                    (Grain::Stored(_), Grain::Stored(_)) if self.shape.compressed => true,
                    (Grain::Stored(begin), Grain::Stored(next)) => {
                        begin.checked_add(index * self.shape.grain_bytes) == Some(next)
                    }
                    (first, next) => first == next,
                };
                let run = (0..).zip(grains).take(max_grains as usize).take_while(follows).count();
                Ok((first, (run as u64).max(1)))
            }
        }
    }

    /// The places of `count` stored grains from `grain` on, all in one table, and where the next one in the table begins.
    pub fn stored_grains(&self, grain: u64, count: u64) -> Result<(Vec<u64>, Option<u64>)> {
        let entries = match &self.places {
            Places::Tables(entries) => entries,
            Places::Scanned(scanned) => return Ok(scanned.stored_grains(grain, count)),
        };
        let (number, within) = (grain / self.shape.table_entries, grain % self.shape.table_entries);
        let Table::Loaded(grains) = self.table(entries, number, 1)? else { return Ok((Vec::new(), None)) };
        let offset_of = |grain: &Grain| match grain {
            Grain::Stored(host_offset) => Some(*host_offset),
            _ => None,
        };
        let mut rest = grains.get(within as usize..).unwrap_or_default().iter();
        let stored = rest.by_ref().take(count as usize).map_while(offset_of).collect();
        Ok((stored, rest.find_map(offset_of)))
    }

    /// The entries of a table; `None` for no table. Nothing is kept.
    pub fn read_table(&self, table_offset: u64) -> Result<Vec<Grain>> {
        let length = self.shape.table_entries * self.shape.entry_bytes();
        if table_offset.checked_add(length).is_none_or(|end| end > self.file_bytes) {
            let detail = format!("it is {length} bytes long, the file ends at {:#x}", self.file_bytes);
            return Err(ImageError::truncated(READ_TABLE, detail).at_host(table_offset));
        }
        let mut bytes = vec![0; length as usize];
        self.file
            .read_exact_at(table_offset, &mut bytes)
            .map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(table_offset))?;
        Ok(decode_table(&self.shape, &bytes))
    }

    fn table(&self, entries: &[u32], number: u64, max_tables: u64) -> Result<Table> {
        let entry = entries.get(number as usize).copied().unwrap_or(0);
        let Some(table_offset) = table_offset(&self.shape, entry) else { return Ok(Table::None) };
        if let Some(grains) = self.cache.get((self.number, number)) {
            return Ok(Table::Loaded(grains));
        }
        let empty = self.tables_in_hole(entries, number, table_offset, max_tables)?;
        if empty > 0 {
            return Ok(Table::Empty(empty));
        }
        let grains: Arc<[Grain]> = self.read_table(table_offset)?.into();
        let stored = check_grains(&self.shape, &grains).map_err(|error| error.at_host(table_offset))?;
        self.count_named(number, entries.len(), stored).map_err(|error| error.at_host(table_offset))?;
        self.cache.insert((self.number, number), Arc::clone(&grains));
        Ok(Table::Loaded(grains))
    }

    /// Adds what a table names, once; fails if there is more than the file has room for.
    fn count_named(&self, number: u64, tables: usize, stored: u64) -> Result<()> {
        let mut named = self.named.lock().unpoisoned();
        named.loaded.resize(tables.div_ceil(64), 0);
        if let Some(word) = named.loaded.get_mut((number / 64) as usize)
            && *word & (1 << (number % 64)) == 0
        {
            *word |= 1 << (number % 64);
            named.bytes = named.bytes.saturating_add(stored * self.least_grain_bytes());
        }
        // The last grain may be cut.
        if named.bytes > self.file_bytes.saturating_add(self.shape.grain_bytes) {
            let detail = format!(
                "the tables name {:#x} bytes of grains, more than the file has ({:#x}): some name the same ones",
                named.bytes, self.file_bytes
            );
            return Err(ImageError::corrupt(READ_TABLE, detail));
        }
        Ok(())
    }

    fn least_grain_bytes(&self) -> u64 {
        if self.shape.compressed { SECTOR_BYTES } else { self.shape.grain_bytes }
    }

    /// How many tables from `number` on lie behind each other in one hole of the file: those of an empty disk were never
    /// written, and there are half a million of them in 16 TiB.
    fn tables_in_hole(&self, entries: &[u32], number: u64, table_offset: u64, max_tables: u64) -> Result<u64> {
        let table_bytes = self.shape.table_entries * self.shape.entry_bytes();
        let rest = self.file_bytes.saturating_sub(table_offset);
        let wanted = rest.min(table_bytes.saturating_mul(max_tables));
        if wanted < table_bytes {
            return Ok(0);
        }
        let found = self
            .file
            .extent_at(table_offset, wanted)
            .map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(table_offset))?;
        if !found.hole || found.length_bytes < table_bytes {
            return Ok(0);
        }
        let step = if self.shape.kind == SparseKind::SeSparse { 1 } else { table_bytes / SECTOR_BYTES };
        let tables = entries.get(number as usize..).unwrap_or_default();
        let adjoining = tables.windows(2).take_while(|pair| u64::from(pair[0]) + step == u64::from(pair[1])).count();
        Ok((found.length_bytes / table_bytes).min(adjoining as u64 + 1).min(max_tables.max(1)))
    }
}

impl Default for TableCache {
    fn default() -> Self {
        const MAX_ENTRIES: usize = TABLE_CACHE_BYTES / size_of::<Grain>();
        TableCache(Mutex::new(Lru::new(MAX_ENTRIES as u64)))
    }
}

impl TableCache {
    fn get(&self, key: (usize, u64)) -> Option<Arc<[Grain]>> {
        self.0.lock().unpoisoned().get(key)
    }

    fn insert(&self, key: (usize, u64), grains: Arc<[Grain]>) {
        let weight = grains.len() as u64;
        self.0.lock().unpoisoned().insert(key, grains, weight);
    }
}

/// Where the table of a directory entry is.
fn table_offset(shape: &Shape, entry: u32) -> Option<u64> {
    let table_bytes = shape.table_entries * 8;
    match (entry, shape.kind) {
        (0, _) => None,
        (_, SparseKind::SeSparse) => Some(shape.tables_offset.saturating_add(u64::from(entry - 1) * table_bytes)),
        _ => Some(u64::from(entry) * SECTOR_BYTES),
    }
}

/// The directory, or the redundant one if that is damaged.
fn read_directories(
    file: &dyn HostFile,
    file_bytes: u64,
    shape: &Shape,
    host_offset: u64,
    redundant: Option<u64>,
) -> Result<Vec<u32>> {
    let first = read_directory(file, file_bytes, shape, host_offset);
    match (first, redundant) {
        (Err(error), Some(redundant)) => read_directory(file, file_bytes, shape, redundant).map_err(|_| error),
        (first, _) => first,
    }
}

/// Reads a directory and checks that its tables are in the file, each in a place of its own.
pub(super) fn read_directory(
    file: &dyn HostFile,
    file_bytes: u64,
    shape: &Shape,
    host_offset: u64,
) -> Result<Vec<u32>> {
    const STEP_BYTES: u64 = 1 << 20;
    let mut entries = Vec::with_capacity(shape.table_count() as usize);
    let length = shape.table_count() * shape.entry_bytes();
    if host_offset.checked_add(length).is_none_or(|end| end > file_bytes) {
        let detail = format!("it is {length} bytes long, the file ends at {file_bytes:#x}");
        return Err(ImageError::truncated(READ_DIRECTORY, detail).at_host(host_offset));
    }
    for begin in (0..length).step_by(STEP_BYTES as usize) {
        let mut bytes = vec![0; (length - begin).min(STEP_BYTES) as usize];
        file.read_exact_at(host_offset + begin, &mut bytes)
            .map_err(|cause| ImageError::io(READ_DIRECTORY, cause).at_host(host_offset + begin))?;
        decode_directory(shape, &bytes, &mut entries).map_err(|error| error.at_host(host_offset + begin))?;
    }
    check_directory(shape, &entries, file_bytes).map_err(|error| error.at_host(host_offset))?;
    Ok(entries)
}

fn decode_directory(shape: &Shape, bytes: &[u8], entries: &mut Vec<u32>) -> Result<()> {
    if shape.kind != SparseKind::SeSparse {
        entries.extend(bytes.chunks_exact(4).map(LittleEndian::read_u32));
        return Ok(());
    }
    for raw in bytes.chunks_exact(8).map(LittleEndian::read_u64) {
        // The upper half says that there is a table, the lower one which.
        let entry = match (raw, (raw as u32).checked_add(1)) {
            (0, _) => 0,
            (raw, Some(number)) if raw >> 32 == 0x1000_0000 => number,
            _ => {
                let detail = format!("entry {} is {raw:#x}, which is no table", entries.len());
                return Err(ImageError::corrupt(READ_DIRECTORY, detail));
            }
        };
        entries.push(entry);
    }
    Ok(())
}

fn check_directory(shape: &Shape, entries: &[u32], file_bytes: u64) -> Result<()> {
    let table_bytes = shape.table_entries * shape.entry_bytes();
    for (index, entry) in entries.iter().enumerate() {
        let Some(offset) = table_offset(shape, *entry) else { continue };
        if offset.checked_add(table_bytes).is_none_or(|end| end > file_bytes) {
            let detail =
                format!("entry {index} names a table at {offset:#x}, past the end of the file ({file_bytes:#x})");
            return Err(ImageError::corrupt(READ_DIRECTORY, detail));
        }
    }
    let step = if shape.kind == SparseKind::SeSparse { 1 } else { table_bytes.div_ceil(SECTOR_BYTES) };
    let mut sorted: Vec<u32> = entries.iter().copied().filter(|entry| *entry != 0).collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| u64::from(pair[1] - pair[0]) < step) {
        let detail = format!("two entries name tables that overlap ({:#x} and {:#x})", pair[0], pair[1]);
        return Err(ImageError::corrupt(READ_DIRECTORY, detail));
    }
    Ok(())
}

fn decode_table(shape: &Shape, bytes: &[u8]) -> Vec<Grain> {
    if shape.kind == SparseKind::SeSparse {
        return bytes.chunks_exact(8).map(|raw| decode_se_sparse(shape, LittleEndian::read_u64(raw))).collect();
    }
    let decode = |raw: u32| match raw {
        0 => Grain::Absent,
        ZERO_GRAIN_ENTRY if shape.zero_grains => Grain::Zero,
        sector if u64::from(sector) * SECTOR_BYTES < shape.first_data_offset() => Grain::Bad(sector.into()),
        sector => Grain::Stored(u64::from(sector) * SECTOR_BYTES),
    };
    bytes.chunks_exact(4).map(|raw| decode(LittleEndian::read_u32(raw))).collect()
}

/// The upper four bits say what it is; the number of a stored grain is turned by 12 bits.
fn decode_se_sparse(shape: &Shape, raw: u64) -> Grain {
    match raw >> 60 {
        0 if raw == 0 => Grain::Absent,
        1 | 2 => Grain::Zero,
        3 => {
            let number = (raw & 0x0fff_0000_0000_0000) >> 48 | (raw & 0x0000_ffff_ffff_ffff) << 12;
            let offset = number.checked_mul(shape.grain_bytes).and_then(|bytes| bytes.checked_add(shape.grains_offset));
            offset.map_or(Grain::Bad(raw), Grain::Stored)
        }
        _ => Grain::Bad(raw),
    }
}

impl Shape {
    /// No grain can begin before.
    fn first_data_offset(&self) -> u64 {
        self.descriptor.map_or(SECTOR_BYTES, |(offset, _)| offset).max(SECTOR_BYTES)
    }
}

/// No two entries may name the same bytes; returns how many are stored.
fn check_grains(shape: &Shape, grains: &[Grain]) -> Result<u64> {
    let offset_of = |grain: &Grain| match grain {
        Grain::Stored(host_offset) => Some(*host_offset),
        _ => None,
    };
    let mut sorted: Vec<u64> = grains.iter().filter_map(offset_of).collect();
    let least = if shape.compressed { SECTOR_BYTES } else { shape.grain_bytes };
    if !sorted.is_sorted() {
        sorted.sort_unstable();
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[1] - pair[0] < least) {
        let detail = format!("two entries name grains that overlap (at {:#x} and {:#x})", pair[0], pair[1]);
        return Err(ImageError::corrupt(READ_TABLE, detail));
    }
    Ok(sorted.len() as u64)
}
