//! The block map: a 32-bit number for every block of the disk, which says where in the file it is.
//!
//! Two entries with one number would be two places of the disk in one place of the file. Reading looks for that first,
//! through the whole map; blocks that share their place are errors, and the others can be read.

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use super::header::Header;
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::table_cache::TableCache;

const READ_MAP: &str = "read VDI block map";

/// How many further pages of the map one lookup may read to find the end of a run of blocks.
const MAX_PAGES_A_RUN: u32 = 16;

/// The map is looked through in parts of this size.
const SCAN_BYTES: u64 = 1 << 20;

/// What an entry says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockState {
    /// Not in this file.
    Absent,
    /// Reads as zeros, whatever the parent holds.
    Zero,
    /// The guest's bytes begin at this host offset.
    Stored(u64),
}

/// The map of one file, read in pages.
pub(super) struct BlockMap {
    file_bytes: u64,
    header: Header,
    cache: TableCache,
    /// The block numbers that more than one entry has.
    shared: Option<Bits>,
}

impl BlockMap {
    /// Prepares to read a map; goes through all of it once.
    pub fn new(file: Arc<dyn HostFile>, file_bytes: u64, header: Header) -> Result<Self> {
        let shared = find_shared(file.as_ref(), file_bytes, &header)?;
        Ok(BlockMap { file_bytes, header, cache: TableCache::new(file, file_bytes), shared })
    }

    /// What the entry `raw` of block `block` says.
    fn state(&self, block: u64, raw: u32) -> Result<BlockState> {
        match raw {
            ENTRY_FREE => return Ok(BlockState::Absent),
            ENTRY_ZERO => return Ok(BlockState::Zero),
            _ => {}
        }
        if self.shared.as_ref().is_some_and(|shared| shared.contains(raw)) {
            let detail = format!("entry {block} is {raw}, and so is another one");
            return Err(self.fault(block, detail));
        }
        locate(&self.header, self.file_bytes, block, raw).map(BlockState::Stored).map_err(|detail| {
            ImageError::truncated(READ_MAP, detail).at_host(self.header.map_offset + block * ENTRY_BYTES)
        })
    }

    fn fault(&self, block: u64, detail: String) -> ImageError {
        ImageError::corrupt(READ_MAP, detail).at_host(self.header.map_offset + block * ENTRY_BYTES)
    }

    /// What the entry of `block` says, and how many blocks from it on, at most `max_blocks`, continue it.
    pub fn run_at(&self, block: u64, max_blocks: u64) -> Result<(BlockState, u64)> {
        let mut page = self.page_at(block)?;
        let raw = page.entry(block).ok_or_else(|| self.fault(block, "the file ends in it".to_owned()))?;
        let state = self.state(block, raw)?;
        let (mut count, mut pages_left) = (1, MAX_PAGES_A_RUN);
        while count < max_blocks {
            let next = block + count;
            let Some(raw) = page.entry(next) else {
                // A page that cannot be read fails the lookup of its own blocks, not of those before.
                let Some(next_page) = self.page_at(next).ok().filter(|_| pages_left > 0) else { break };
                page = next_page;
                pages_left -= 1;
                continue;
            };
            match self.state(next, raw) {
                Ok(next_state) if self.continues(state, next_state, count) => count += 1,
                _ => break,
            }
        }
        Ok((state, count))
    }

    /// Whether a block `count` blocks after one of this state continues it.
    fn continues(&self, state: BlockState, next: BlockState, count: u64) -> bool {
        match (state, next) {
            (BlockState::Stored(here), BlockState::Stored(there)) => here + count * self.header.block_bytes == there,
            _ => state == next,
        }
    }

    fn page_at(&self, block: u64) -> Result<Page> {
        let (bytes, begin) = self.cache.page_at(READ_MAP, self.header.map_offset + block * ENTRY_BYTES)?;
        Ok(Page { bytes, begin, first: block })
    }
}

/// Consecutive entries, as they are in the file.
struct Page {
    bytes: Arc<[u8]>,
    /// Where in `bytes` the entry of block `first` is.
    begin: usize,
    first: u64,
}

impl Page {
    fn entry(&self, block: u64) -> Option<u32> {
        let begin = block.checked_sub(self.first)?.checked_mul(ENTRY_BYTES)? as usize + self.begin;
        self.bytes.get(begin..)?.first_chunk().map(|entry| u32::from_le_bytes(*entry))
    }
}

/// Where the guest's bytes of `block` begin. What the file lacks of a block past the end of the disk does not matter.
pub(super) fn locate(header: &Header, file_bytes: u64, block: u64, raw: u32) -> std::result::Result<u64, String> {
    let used_bytes = header.sectored_bytes().saturating_sub(block * header.block_bytes).min(header.block_bytes);
    let place = u64::from(raw)
        .checked_mul(header.stored_block_bytes())
        .and_then(|place| place.checked_add(header.data_offset + header.extra_bytes));
    match place {
        Some(place) if place.checked_add(used_bytes).is_some_and(|end| end <= file_bytes) => Ok(place),
        _ => {
            let place = place.map_or_else(|| "2^64".to_owned(), |place| format!("{place:#x}"));
            Err(format!("entry {block} is {raw}, at {place}, past the end of the file ({file_bytes:#x})"))
        }
    }
}

/// How many blocks the file has room for, counting one that it ends in; more cannot be accounted for.
pub(super) fn file_block_count(header: &Header, file_bytes: u64) -> Result<u64> {
    let count = file_bytes.saturating_sub(header.data_offset).div_ceil(header.stored_block_bytes());
    if count > MAX_FILE_BLOCKS {
        let detail = format!("the file has room for {count} blocks, at most {MAX_FILE_BLOCKS} are read");
        return Err(ImageError::limit_exceeded(READ_MAP, detail));
    }
    Ok(count)
}

/// The numbers that more than one entry for the disk has.
fn find_shared(file: &dyn HostFile, file_bytes: u64, header: &Header) -> Result<Option<Bits>> {
    let room = file_block_count(header, file_bytes)?;
    let (mut seen, mut shared) = (Bits::new(room), None);
    for_each_run(file, header, header.used_block_count(), &mut |_, raw, count| {
        let is_first = seen.insert(raw);
        if !is_first || (count > 1 && seen.contains(raw)) {
            shared.get_or_insert_with(|| Bits::new(room)).insert(raw);
        }
    })?;
    Ok(shared)
}

/// Goes through the first `count` entries of the map, in order: block, entry, and how many blocks in a row have that entry.
///
/// Runs are those that fill a part of the map: a sparse file holds millions of zeros in no space.
pub(super) fn for_each_run(
    file: &dyn HostFile,
    header: &Header,
    count: u64,
    take: &mut dyn FnMut(u64, u32, u64),
) -> Result<()> {
    let (mut offset, end) = (header.map_offset, header.map_offset + count * ENTRY_BYTES);
    let mut part = vec![0; SCAN_BYTES.min(end - offset) as usize];
    let mut block = 0;
    while offset < end {
        let length = SCAN_BYTES.min(end - offset) as usize;
        part.truncate(length);
        file.read_exact_at(offset, &mut part).map_err(|cause| ImageError::io(READ_MAP, cause).at_host(offset))?;
        let entries = length as u64 / ENTRY_BYTES;
        let is_one_run = part[ENTRY_BYTES as usize..] == part[..length - ENTRY_BYTES as usize];
        if is_one_run {
            take(block, LittleEndian::read_u32(&part), entries);
        } else {
            let part = part.chunks_exact(ENTRY_BYTES as usize).map(LittleEndian::read_u32);
            (block..).zip(part).for_each(|(block, raw)| take(block, raw, 1));
        }
        block += entries;
        offset += length as u64;
    }
    Ok(())
}

/// A bit for every block that the file has room for.
pub(super) struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    /// None of `count` bits, which has been held against a bound.
    pub fn new(count: u64) -> Self {
        Bits { words: vec![0; count.div_ceil(64) as usize], count }
    }

    /// Sets a bit; says whether it was not set before. Numbers past the end, which are none of a block, never were.
    pub fn insert(&mut self, number: u32) -> bool {
        let mask = 1 << (number % 64);
        match self.words.get_mut((number / 64) as usize).filter(|_| u64::from(number) < self.count) {
            Some(word) => {
                let free = *word & mask == 0;
                *word |= mask;
                free
            }
            None => true,
        }
    }

    pub fn contains(&self, number: u32) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 != 0)
    }
}
