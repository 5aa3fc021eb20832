//! Tables: where chunks are. Each is loaded when it is needed, and the few that were used last are kept.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use super::checksum::read_checked;
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

const READ_TABLE: &str = "read EWF table";

/// Most entries of a table; takes 16 MiB of memory. EnCase writes at most 65,534.
const MAX_TABLE_ENTRIES: u32 = 1 << 22;

/// Entries of tables that are kept in memory, of all tables together (unless one alone has more).
const MAX_KEPT_ENTRIES: u64 = 1 << 20;

/// A table of fewer entries counts as one of this many, so that no more than 64 tables are kept.
const LEAST_WEIGHT: u64 = MAX_KEPT_ENTRIES / 64;

/// A table with its copy.
pub(super) struct TablePlace {
    /// `table` and `table2`; never empty.
    pub copies: Vec<TableCopy>,
    /// The section that the chunks are in, if it is not that of the table.
    pub sectors: Option<Range<u64>>,
}

/// One of them.
pub(super) struct TableCopy {
    /// The content of the section.
    pub content: Range<u64>,
    /// The number of entries and the base offset, if the checksum over them is right.
    pub shape: Option<(u32, u64)>,
}

impl TableCopy {
    pub fn read(file: &OpenFile, content: Range<u64>) -> Result<TableCopy> {
        let length_bytes = content.end - content.start;
        let header_bytes = size_of::<TableHeader>() as u64;
        if length_bytes < header_bytes {
            let detail = format!("the section has {length_bytes} bytes, expected at least {header_bytes}");
            return Err(ImageError::corrupt(READ_TABLE, detail).at_host(content.start));
        }
        let bytes = read_checked(file, READ_TABLE, content.start, header_bytes)?;
        let header = bytes.as_deref().and_then(|bytes| TableHeader::ref_from_bytes(bytes).ok());
        let Some(header) = header else { return Ok(TableCopy { content, shape: None }) };
        let entry_count = header.entry_count.get();
        if entry_count > MAX_TABLE_ENTRIES {
            let detail = format!("it has {entry_count} entries, at most {MAX_TABLE_ENTRIES} are read");
            return Err(ImageError::limit_exceeded(READ_TABLE, detail).at_host(content.start));
        }
        if header_bytes + u64::from(entry_count) * TABLE_ENTRY_BYTES > length_bytes {
            let detail = format!("its {entry_count} entries do not fit into its section of {length_bytes} bytes");
            return Err(ImageError::corrupt(READ_TABLE, detail).at_host(content.start));
        }
        let shape = Some((entry_count, header.base_offset.get()));
        Ok(TableCopy { content, shape })
    }

    fn entries_begin(&self) -> u64 {
        self.content.start + size_of::<TableHeader>() as u64
    }
}

impl TablePlace {
    /// How many chunks it has.
    pub fn chunks(&self) -> Result<u64> {
        let shape = self.copies.iter().find_map(|copy| copy.shape);
        let host_offset = self.copies.first().map_or(0, |copy| copy.content.start);
        let damaged = || ImageError::corrupt(READ_TABLE, "the Adler-32 of its header is wrong, also in the copy");
        shape.map(|(entry_count, _)| entry_count.into()).ok_or_else(|| damaged().at_host(host_offset))
    }

    /// Loads the table, or its copy if it is damaged.
    pub fn load(&self, file: &OpenFile) -> Result<Table> {
        let mut failure = None;
        for copy in &self.copies {
            match self.load_copy(file, copy) {
                Err(error) if error.kind() != crate::ErrorKind::Io => failure = failure.or(Some(error)),
                loaded => return loaded,
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::corrupt(READ_TABLE, "there is none")))
    }

    /// Loads one of the two.
    pub fn load_copy(&self, file: &OpenFile, copy: &TableCopy) -> Result<Table> {
        let at = |error: ImageError| error.at_host(copy.content.start);
        let (count, base) =
            copy.shape.ok_or_else(|| at(ImageError::corrupt(READ_TABLE, "the Adler-32 of its header is wrong")))?;
        let length_bytes = u64::from(count) * TABLE_ENTRY_BYTES;
        let entries_end = copy.entries_begin() + length_bytes;
        let mut bytes = vec![0; length_bytes as usize];
        file.file
            .read_exact_at(copy.entries_begin(), &mut bytes)
            .map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(copy.entries_begin()))?;
        let entries = <[U32]>::ref_from_bytes(&bytes).unwrap_or_default().iter().map(|entry| entry.get()).collect();
        let own = entries_end..copy.content.end;
        let has_data_inside = self.sectors.is_none();
        let data = self.sectors.clone().unwrap_or(own);
        let table =
            Table::new(entries, base, data.clone()).map_err(|detail| at(ImageError::corrupt(READ_TABLE, detail)))?;
        // SMART has no checksum here: its first chunk follows at once.
        let has_checksum = match has_data_inside {
            true => table.chunk(0).is_none_or(|first| first.host.start >= entries_end + CHECKSUM_BYTES),
            false => true,
        };
        if has_checksum && entries_end + CHECKSUM_BYTES <= copy.content.end {
            let mut expected = [0; CHECKSUM_BYTES as usize];
            file.file
                .read_exact_at(entries_end, &mut expected)
                .map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(entries_end))?;
            let (found, expected) = (libdeflater::adler32(&bytes), u32::from_le_bytes(expected));
            if found != expected {
                let detail = format!("the Adler-32 of its entries is {found:#010x}, expected {expected:#010x}");
                return Err(at(ImageError::corrupt(READ_TABLE, detail)));
            }
        }
        Ok(table)
    }
}

/// The places of some chunks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    entries: Vec<u32>,
    base: u64,
    /// From this entry on, all 32 bits are the offset, and chunks are not compressed.
    long_from: usize,
    data_end: u64,
}

/// Where a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredChunk {
    pub host: Range<u64>,
    pub compressed: bool,
}

impl Table {
    /// Checks that all chunks lie one behind the other in `data`.
    fn new(entries: Vec<u32>, base: u64, data: Range<u64>) -> std::result::Result<Table, String> {
        let mut table = Table { entries, base, long_from: usize::MAX, data_end: data.end };
        let mut end = data.start;
        for index in 0..table.entries.len() {
            // EnCase 6.7 and later go on past 2 GiB, where bit 31 belongs to the offset.
            if index > 0 && table.long_from == usize::MAX && table.offset(index) < Some(end) {
                table.long_from = index;
            }
            match table.offset(index) {
                Some(offset) if offset >= end && offset < data.end => end = offset + 1,
                found => {
                    let found = found.map_or("past all files".to_owned(), |offset| format!("at {offset:#x}"));
                    let detail = format!("entry {index} is {found}, expected between {end:#x} and {:#x}", data.end);
                    return Err(detail);
                }
            }
        }
        Ok(table)
    }

    fn offset(&self, index: usize) -> Option<u64> {
        let entry = *self.entries.get(index)?;
        let offset = if index >= self.long_from { entry } else { entry & !ENTRY_COMPRESSED };
        self.base.checked_add(offset.into())
    }

    /// Where a chunk is, up to the next one.
    pub fn chunk(&self, index: usize) -> Option<StoredChunk> {
        let compressed = index < self.long_from && self.entries.get(index)? & ENTRY_COMPRESSED != 0;
        let host = self.offset(index)?..self.offset(index + 1).unwrap_or(self.data_end);
        Some(StoredChunk { host, compressed })
    }
}

/// The tables that were used last, by their number.
pub(super) struct KeptTables(Mutex<Lru<usize, Arc<Table>>>);

impl Default for KeptTables {
    fn default() -> Self {
        KeptTables(Mutex::new(Lru::new(MAX_KEPT_ENTRIES)))
    }
}

impl KeptTables {
    /// The table, loaded if it is not there.
    pub fn get(&self, number: usize, load: impl FnOnce() -> Result<Table>) -> Result<Arc<Table>> {
        if let Some(table) = self.0.lock().unpoisoned().get(number) {
            return Ok(table);
        }
        let table = Arc::new(load()?);
        let weight = (table.entries.len() as u64).max(LEAST_WEIGHT);
        self.0.lock().unpoisoned().insert(number, Arc::clone(&table), weight);
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_go_on_past_two_gib_without_the_flag() {
        let entries = vec![0x8000_0000 | 100, 0x7fff_f000, 0x8000_7000, 0x8000_f004];
        let table = Table::new(entries, 1000, 1100..0x1_0000_0000).unwrap();
        let chunk = |index| table.chunk(index).map(|chunk| (chunk.host.start, chunk.compressed));
        assert_eq!(chunk(0), Some((1100, true)));
        assert_eq!(chunk(1), Some((0x7fff_f000 + 1000, false)));
        assert_eq!(chunk(2), Some((0x8000_7000 + 1000, false)));
        assert_eq!(table.chunk(3).unwrap().host, 0x8000_f004 + 1000..0x1_0000_0000);
        assert_eq!(chunk(4), None);
    }

    #[test]
    fn entries_that_repeat_or_lie_outside_are_refused() {
        assert!(Table::new(vec![10, 10], 0, 0..100).is_err());
        assert!(Table::new(vec![10, 9], 0, 0..100).is_err());
        assert!(Table::new(vec![10, 100], 0, 0..100).is_err());
        assert!(Table::new(vec![10], 0, 11..100).is_err());
        assert!(Table::new(vec![10], u64::MAX, 0..100).is_err());
        assert!(Table::new(vec![10, 0x8000_0000 | 11], 0, 0..100).is_ok());
    }
}
