//! The directory and the tables: where each chunk of the disk is.

use std::collections::HashMap;
use std::sync::Mutex;

use byteorder::{BigEndian, ByteOrder};

use super::header::Layout;
use super::on_disk::*;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::OpenFile;
use crate::locks::Unpoisoned as _;
use crate::table_cache::TableCache;

const READ_DIRECTORY: &str = "read ASIF directory";
const READ_TABLE: &str = "read ASIF table";
const READ_BITMAP: &str = "read ASIF bitmap";

/// Where a chunk of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkState {
    /// Never written.
    Absent,
    /// At this host offset.
    Whole(u64),
    /// At this host offset, but only the sectors that the bitmap has, whose part for the chunk is at the other one.
    Partial { data: u64, bitmap: u64 },
}

/// The mapping of a file.
pub(super) struct Tables {
    pub layout: Layout,
    file: OpenFile,
    /// Where the disk's tables are, in chunks; 0 for nowhere.
    directory: Vec<u64>,
    cache: TableCache,
    /// The tables that were looked through, and what was wrong with them.
    checked: Mutex<HashMap<u64, Option<String>>>,
}

impl Tables {
    /// Reads the directory; no two of its entries may name the same table.
    pub fn new(file: OpenFile, layout: Layout) -> Result<Self> {
        let directory = read_directory(&file, &layout)?;
        let mut present: Vec<u64> = directory.iter().copied().filter(|chunk| *chunk != 0).collect();
        present.sort_unstable();
        if let Some(number) = twice(&present) {
            return Err(ImageError::corrupt(READ_DIRECTORY, format!("two entries name chunk {number:#x}")));
        }
        let cache = TableCache::new(file.file.clone(), layout.file_len_bytes);
        Ok(Tables { layout, file, directory, cache, checked: Mutex::default() })
    }

    /// Where the chunks of the disk from `chunk` on are, and for how many, at most `max_chunks`, that is the same.
    ///
    /// Chunks that are stored side by side are one run; partial ones come by themselves.
    pub fn run_at(&self, chunk: u64, max_chunks: u64) -> Result<(ChunkState, u64)> {
        let per_table = self.layout.chunks_per_table();
        let (table, within) = (chunk / per_table, chunk % per_table);
        let max_chunks = max_chunks.min(per_table - within);
        let Some(start) = self.table_at(table)? else { return Ok((ChunkState::Absent, max_chunks)) };
        let first = self.state_at(start, chunk)?;
        let mut count = 1;
        while count < max_chunks {
            let expected = match first {
                ChunkState::Absent => ChunkState::Absent,
                ChunkState::Whole(data) => ChunkState::Whole(data + count * self.layout.chunk_bytes),
                ChunkState::Partial { .. } => break,
            };
            // What is wrong with a later entry is told to whoever asks for that chunk.
            match self.state_at(start, chunk + count) {
                Ok(found) if found == expected => count += 1,
                _ => break,
            }
        }
        Ok((first, count))
    }

    /// Where a table begins in the file; it has been looked through.
    pub fn table_at(&self, table: u64) -> Result<Option<u64>> {
        let number = self.directory.get(table as usize).copied().unwrap_or_default();
        if number == 0 {
            return Ok(None);
        }
        let start = self.layout.locate(number, self.layout.table_bytes()).map_err(|found| {
            let detail = format!("entry {table} is {found}");
            ImageError::corrupt(READ_DIRECTORY, detail).at_host(self.layout.directory_entry_offset(table))
        })?;
        self.check_table(table, start)?;
        Ok(Some(start))
    }

    /// Looks for two entries of a table that name the same chunk: a small file would stand for a huge disk.
    fn check_table(&self, table: u64, start: u64) -> Result<()> {
        let known = self.checked.lock().unpoisoned().get(&table).cloned();
        let found = match known {
            Some(found) => found,
            None => {
                let mut chunks = self.chunks_of(start)?;
                chunks.sort_unstable();
                let found = twice(&chunks).map(|number| format!("two entries name chunk {number:#x}"));
                self.checked.lock().unpoisoned().insert(table, found.clone());
                found
            }
        };
        match found {
            None => Ok(()),
            Some(detail) => Err(ImageError::corrupt(READ_TABLE, detail).at_host(start)),
        }
    }

    /// All chunks that a table names, bitmaps too.
    pub fn chunks_of(&self, start: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; self.layout.table_bytes() as usize];
        self.file
            .file
            .read_exact_at(start, &mut bytes)
            .map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(start))?;
        let entries = bytes.chunks_exact(ENTRY_BYTES as usize).map(BigEndian::read_u64);
        Ok(entries.map(|entry| entry & CHUNK_MASK).filter(|number| *number != 0).collect())
    }

    /// The tables of the disk that there are, with their place in the file; damaged entries are left out.
    pub fn present_tables(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let numbered = self.directory.iter().zip(0u64..).filter(|(number, _)| **number != 0);
        numbered
            .filter_map(|(number, table)| Some((table, self.layout.locate(*number, self.layout.table_bytes()).ok()?)))
    }

    fn state_at(&self, table_start: u64, chunk: u64) -> Result<ChunkState> {
        let layout = &self.layout;
        let within = chunk % layout.chunks_per_table();
        let (group, place) = (within / layout.chunks_per_group, within % layout.chunks_per_group);
        let group_start = table_start + group * (layout.chunks_per_group + 1) * ENTRY_BYTES;
        let offset = group_start + place * ENTRY_BYTES;
        let entry = self.entry_at(offset)?;
        let fault = |kind: ErrorKind, detail: String| ImageError::new(kind, READ_TABLE, detail).at_host(offset);
        let number = entry & CHUNK_MASK;
        if entry & RESERVED_MASK != 0 {
            return Err(fault(
                ErrorKind::Unsupported,
                format!("an entry is {entry:#x}, with bits that nobody describes"),
            ));
        }
        let locate = || {
            let found = layout.locate(number, layout.needed_bytes(chunk));
            found.map_err(|found| fault(ErrorKind::Corrupt, format!("an entry is {found}")))
        };
        match entry >> STATUS_SHIFT {
            STATUS_ABSENT if number == 0 => Ok(ChunkState::Absent),
            STATUS_WHOLE => Ok(ChunkState::Whole(locate()?)),
            STATUS_PARTIAL => {
                let data = locate()?;
                let bitmap_entry = self.entry_at(group_start + layout.chunks_per_group * ENTRY_BYTES)?;
                let bitmap = layout.locate(bitmap_entry & CHUNK_MASK, layout.chunk_bytes);
                let bitmap =
                    bitmap.map_err(|found| fault(ErrorKind::Corrupt, format!("the bitmap of its group is {found}")))?;
                Ok(ChunkState::Partial { data, bitmap: bitmap + place * self.bitmap_bytes_per_chunk() })
            }
            status => {
                let detail = format!("an entry is {entry:#x}, with the state {status}, which nobody describes");
                Err(fault(ErrorKind::Unsupported, detail))
            }
        }
    }

    fn bitmap_bytes_per_chunk(&self) -> u64 {
        self.layout.chunk_bytes / self.layout.sector_bytes / SECTORS_PER_BITMAP_BYTE
    }

    /// Whether sector `first` of a partial chunk is there, and for how many sectors, at most `max_sectors`, that is so.
    pub fn sector_run(&self, bitmap: u64, first: u64, max_sectors: u64) -> Result<(bool, u64)> {
        let present = self.is_sector_present(bitmap, first)?;
        let mut count = 1;
        while count < max_sectors
            && matches!(self.is_sector_present(bitmap, first + count), Ok(next) if next == present)
        {
            count += 1;
        }
        Ok((present, count))
    }

    fn is_sector_present(&self, bitmap: u64, sector: u64) -> Result<bool> {
        let offset = bitmap + sector / SECTORS_PER_BITMAP_BYTE;
        let (page, within) = self.cache.page_at(READ_BITMAP, offset)?;
        let byte = page.get(within).copied().unwrap_or_default();
        match byte >> (2 * (sector % SECTORS_PER_BITMAP_BYTE)) & 0b11 {
            SECTOR_ABSENT => Ok(false),
            SECTOR_PRESENT => Ok(true),
            state => {
                let detail = format!("a sector has the state {state}, which nobody describes");
                Err(ImageError::unsupported(READ_BITMAP, detail).at_host(offset))
            }
        }
    }

    fn entry_at(&self, host_offset: u64) -> Result<u64> {
        let (page, within) = self.cache.page_at(READ_TABLE, host_offset)?;
        let entry = page
            .get(within..)
            .and_then(|rest| rest.first_chunk::<8>())
            .ok_or_else(|| ImageError::truncated(READ_TABLE, "the file ends in an entry").at_host(host_offset))?;
        Ok(u64::from_be_bytes(*entry))
    }
}

fn read_directory(file: &OpenFile, layout: &Layout) -> Result<Vec<u64>> {
    let offset = layout.directory_entry_offset(0);
    let mut bytes = vec![0; (layout.used_tables().min(layout.table_count) * ENTRY_BYTES) as usize];
    file.file
        .read_exact_at(offset, &mut bytes)
        .map_err(|cause| ImageError::io(READ_DIRECTORY, cause).at_host(offset))?;
    Ok(bytes.chunks_exact(ENTRY_BYTES as usize).map(BigEndian::read_u64).collect())
}

/// A number that comes twice among the sorted ones.
pub(super) fn twice(sorted: &[u64]) -> Option<u64> {
    sorted.windows(2).find_map(|pair| match *pair {
        [one, other] if one == other => Some(one),
        _ => None,
    })
}
