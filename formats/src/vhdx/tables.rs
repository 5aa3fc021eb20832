//! The block allocation table (BAT), and the sector bitmaps of differencing disks.
//!
//! - *payload block*: a part of the guest's disk, 1 to 256 MiB long;
//! - *chunk*: the payload blocks, *chunk ratio* in number, whose sectors one *sector bitmap block* of 1 MiB describes.
//!
//! ```text
//!   BAT   | P0 | P1 | ... | P(r-1) | B0 | P(r) | P(r+1) | ... | P(2r-1) | B1 | ...      r: chunk ratio
//! ```
//!
//! The entry of a bitmap follows those of its chunk, and is there in every file, though only differencing ones use it.

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use super::header::Regions;
use super::on_disk::*;
use crate::bits::{FirstBit, run_of_bits};
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::table_cache::TableCache;

const READ_BAT: &str = "read VHDX block allocation table";
const READ_BITMAP: &str = "read VHDX sector bitmap";

/// How many further pages of the BAT one lookup may read to find the end of a run of blocks.
const MAX_PAGES_A_RUN: u32 = 16;

/// How blocks and their BAT entries are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatLayout {
    pub block_bytes: u64,
    pub size_bytes: u64,
    /// The payload blocks in a chunk; a power of two.
    pub chunk_ratio: u64,
}

impl BatLayout {
    /// The layout for a disk whose numbers have been checked: the block is from 1 to 256 MiB, a sector 512 or 4096 bytes.
    pub(super) fn new(size_bytes: u64, block_bytes: u64, logical_sector_bytes: u32) -> Self {
        let chunk_ratio = (CHUNK_SECTORS * u64::from(logical_sector_bytes) / block_bytes).max(1);
        BatLayout { block_bytes, size_bytes, chunk_ratio }
    }

    /// How many payload blocks the disk has.
    pub(super) fn block_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    /// The BAT entry of a payload block.
    pub(super) fn payload_index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio
    }

    /// The BAT entry of the sector bitmap block for the chunk of a payload block.
    pub(super) fn bitmap_index(&self, block: u64) -> u64 {
        (block / self.chunk_ratio + 1) * (self.chunk_ratio + 1) - 1
    }

    /// The first payload block whose BAT entry is `index` or a later one.
    pub(super) fn block_from(&self, index: u64) -> u64 {
        let (chunk, within) = (index / (self.chunk_ratio + 1), index % (self.chunk_ratio + 1));
        chunk * self.chunk_ratio + within
    }

    /// The payload block of an entry; `None` for the entry of a sector bitmap block, or of none.
    pub(super) fn payload_block(&self, index: u64) -> Option<u64> {
        let block = self.block_from(index);
        (self.payload_index(block) == index && block < self.block_count()).then_some(block)
    }

    /// How many entries the BAT must have at least: up to the last payload block's (§2.5).
    pub(super) fn entry_count(&self) -> u64 {
        match self.block_count().checked_sub(1) {
            Some(last) => self.payload_index(last) + 1,
            None => 0,
        }
    }

    /// How many bytes of a block the disk reaches into.
    pub(super) fn used_bytes(&self, block: u64) -> u64 {
        self.block_bytes.min(self.size_bytes.saturating_sub(block * self.block_bytes))
    }
}

/// What a BAT entry says of a payload block (§2.5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockState {
    /// Not in this file; without a parent, never written.
    Absent,
    /// Reads as zeros.
    Zero,
    /// All of it is at this host offset.
    Present(u64),
    /// The sectors that the bitmap names are at this host offset, the others in the parent.
    Partial(u64),
}

impl BlockState {
    /// Whether a block `bytes` after one of this state continues it.
    fn continues_in(self, next: BlockState, bytes: u64) -> bool {
        match (self, next) {
            (BlockState::Present(here), BlockState::Present(there)) => here.checked_add(bytes) == Some(there),
            (BlockState::Partial(_), _) => false,
            _ => self == next,
        }
    }
}

/// The BAT of one file, read in pages.
pub(super) struct Bat {
    file: Arc<dyn HostFile>,
    file_len_bytes: u64,
    layout: BatLayout,
    logical_sector_bytes: u64,
    differencing: bool,
    regions: Regions,
    cache: TableCache,
}

/// Consecutive entries, as they are in the file.
struct Page {
    bytes: Arc<[u8]>,
    /// Where in `bytes` entry number `first` is.
    begin: usize,
    first: u64,
}

impl Page {
    fn entry(&self, index: u64) -> Option<u64> {
        let begin = index.checked_sub(self.first)?.checked_mul(BAT_ENTRY_BYTES)? as usize + self.begin;
        self.bytes.get(begin..begin + BAT_ENTRY_BYTES as usize).map(LittleEndian::read_u64)
    }
}

impl Bat {
    /// Prepares to read the BAT; fails if it is too small for the disk (§2.5).
    pub(super) fn new(
        file: Arc<dyn HostFile>,
        file_len_bytes: u64,
        layout: BatLayout,
        logical_sector_bytes: u32,
        differencing: bool,
        regions: Regions,
    ) -> Result<Self> {
        let (needed, found) = (layout.entry_count(), (regions.bat.end - regions.bat.start) / BAT_ENTRY_BYTES);
        if found < needed {
            let detail = format!("it has room for {found} entries, the disk needs {needed}");
            return Err(ImageError::corrupt(READ_BAT, detail).at_host(regions.bat.start));
        }
        let cache = TableCache::new(file.clone(), file_len_bytes);
        let logical_sector_bytes = logical_sector_bytes.into();
        Ok(Bat { file, file_len_bytes, layout, logical_sector_bytes, differencing, regions, cache })
    }

    /// How blocks and entries are numbered.
    pub(super) fn layout(&self) -> &BatLayout {
        &self.layout
    }

    /// Where an entry is in the file.
    pub(super) fn entry_offset(&self, index: u64) -> u64 {
        self.regions.bat.start + index * BAT_ENTRY_BYTES
    }

    fn page_at(&self, index: u64) -> Result<Page> {
        let host_offset = self.entry_offset(index);
        if host_offset >= self.regions.bat.end {
            let detail = format!("entry {index} is past its end");
            return Err(ImageError::corrupt(READ_BAT, detail).at_host(self.regions.bat.start));
        }
        let (bytes, begin) = self.cache.page_at(READ_BAT, host_offset)?;
        Ok(Page { bytes, begin, first: index })
    }

    /// The entry as it is in the file.
    pub(super) fn entry(&self, index: u64) -> Result<u64> {
        let page = self.page_at(index)?;
        page.entry(index).ok_or_else(|| self.cut_entry(index))
    }

    fn cut_entry(&self, index: u64) -> ImageError {
        ImageError::truncated(READ_BAT, format!("the file ends in entry {index}")).at_host(self.entry_offset(index))
    }

    /// How many entries from `index` on, at most `max_entries`, are known to be zero because the file has a hole there.
    pub(super) fn hole_entries(&self, index: u64, max_entries: u64) -> u64 {
        let host_offset = self.entry_offset(index);
        let max_bytes = (max_entries * BAT_ENTRY_BYTES).min(self.regions.bat.end.saturating_sub(host_offset));
        if max_bytes == 0 {
            return 0;
        }
        match self.file.extent_at(host_offset, max_bytes) {
            Ok(extent) if extent.hole => extent.length_bytes.min(max_bytes) / BAT_ENTRY_BYTES,
            // It is only a short cut: without it, the entries are read.
            _ => 0,
        }
    }

    /// What the entry `raw` says of payload block `block`.
    pub(super) fn state(&self, block: u64, raw: u64) -> Result<BlockState> {
        match raw & STATE_MASK {
            NOT_PRESENT => Ok(BlockState::Absent),
            // Any bytes are allowed here, zeros among them; but nothing says that they are the parent's.
            UNDEFINED if self.differencing => Ok(BlockState::Zero),
            UNDEFINED => Ok(BlockState::Absent),
            ZERO | UNMAPPED | UNMAPPED_0_95 => Ok(BlockState::Zero),
            FULLY_PRESENT => self.locate_block(block, raw).map(BlockState::Present),
            PARTIALLY_PRESENT if self.differencing => self.locate_block(block, raw).map(BlockState::Partial),
            state => {
                let index = self.layout.payload_index(block);
                let detail = format!("entry {index} has the state {state}, which this kind of disk cannot have");
                Err(self.entry_fault(index, detail))
            }
        }
    }

    /// What the entry of payload block `block` says, and how many blocks from it on, at most `max_blocks`, continue it.
    pub(super) fn run_at(&self, block: u64, max_blocks: u64) -> Result<(BlockState, u64)> {
        let index = self.layout.payload_index(block);
        let mut page = self.page_at(index)?;
        let state = self.state(block, page.entry(index).ok_or_else(|| self.cut_entry(index))?)?;
        let (mut count, mut pages_left) = (1, MAX_PAGES_A_RUN);
        while count < max_blocks {
            let next = block + count;
            let index = self.layout.payload_index(next);
            let Some(raw) = page.entry(index) else {
                let absent = if state == BlockState::Absent { self.absent_blocks(next, max_blocks - count) } else { 0 };
                count += absent;
                if absent == 0 {
                    // A page that cannot be read fails the lookup of its own blocks, not of those before.
                    let Some(next_page) = self.page_at(index).ok().filter(|_| pages_left > 0) else { break };
                    page = next_page;
                    pages_left -= 1;
                }
                continue;
            };
            match self.state(next, raw) {
                Ok(next_state) if state.continues_in(next_state, count * self.layout.block_bytes) => count += 1,
                _ => break,
            }
        }
        Ok((state, count))
    }

    /// How many blocks from `block` on, at most `max_blocks`, have entries in a hole of the file, so that they are zero.
    fn absent_blocks(&self, block: u64, max_blocks: u64) -> u64 {
        let index = self.layout.payload_index(block);
        let end = self.layout.payload_index(block + max_blocks - 1) + 1;
        let entries = self.hole_entries(index, end - index);
        (self.layout.block_from(index + entries) - block).min(max_blocks)
    }

    /// Visits every entry that is not zero; those of all sector bitmaps, too, if asked for and if there is room for them.
    pub(super) fn for_each_entry(&self, with_bitmaps: bool, visit: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let room = (self.regions.bat.end - self.regions.bat.start) / BAT_ENTRY_BYTES;
        let end = match self.layout.block_count().checked_sub(1) {
            Some(last) if with_bitmaps => (self.layout.bitmap_index(last) + 1).min(room),
            _ => self.layout.entry_count(),
        };
        let mut index = 0;
        while index < end {
            let zeros = self.hole_entries(index, end - index);
            index += zeros;
            if zeros == 0 {
                let first = index;
                let page = self.page_at(index)?;
                while let Some(raw) = page.entry(index).filter(|_| index < end) {
                    if raw != 0 {
                        visit(index, raw);
                    }
                    index += 1;
                }
                if index == first {
                    return Err(self.cut_entry(index));
                }
            }
        }
        Ok(())
    }

    /// Which sectors from `sector` of a partially present block on are alike: present or not, and how many, at least one
    /// and at most `max_sectors`.
    pub(super) fn sector_run(&self, block: u64, sector: u64, max_sectors: u64) -> Result<(bool, u64)> {
        let index = self.layout.bitmap_index(block);
        let bitmap = self.locate_bitmap(index, self.entry(index)?)?;
        let sectors_a_block = self.layout.block_bytes / self.logical_sector_bytes;
        let bit = block % self.layout.chunk_ratio * sectors_a_block + sector;
        let (page, begin) = self.cache.page_at(READ_BITMAP, bitmap + bit / 8)?;
        let max_bits = max_sectors.min(page.len() as u64 * 8) as usize;
        // §2.4: the least significant bit of a byte is the first sector's.
        Ok(run_of_bits(page.get(begin..).unwrap_or_default(), FirstBit::Lowest, (bit % 8) as usize, max_bits))
    }

    /// Checks where a payload block is: in the file as far as the disk reaches into it, and apart from everything else.
    ///
    /// QEMU, too, opens files that end within the last block, after the end of the disk, and refuses what is shorter.
    fn locate_block(&self, block: u64, raw: u64) -> Result<u64> {
        let index = self.layout.payload_index(block);
        self.locate(index, raw, self.layout.block_bytes, self.layout.used_bytes(block))
    }

    /// Checks the entry of a sector bitmap block and where that block is (§2.5.1.2).
    pub(super) fn locate_bitmap(&self, index: u64, raw: u64) -> Result<u64> {
        if raw & STATE_MASK != BITMAP_PRESENT {
            let state = raw & STATE_MASK;
            let detail =
                format!("entry {index}, the sector bitmap of a partially present block, has the state {state}");
            return Err(self.entry_fault(index, detail));
        }
        self.locate(index, raw, BITMAP_BLOCK_BYTES, BITMAP_BLOCK_BYTES)
    }

    fn locate(&self, index: u64, raw: u64, length_bytes: u64, needed_bytes: u64) -> Result<u64> {
        let host_offset = raw & OFFSET_MASK;
        let fault =
            |detail: String| self.entry_fault(index, format!("entry {index} points to {host_offset:#x}, {detail}"));
        let end = host_offset.checked_add(length_bytes).ok_or_else(|| fault("near 2^64".to_owned()))?;
        if let Some(reserved) = self.regions.touched_by(&(host_offset..end)) {
            return Err(fault(format!("where {} is", reserved.name)));
        }
        if host_offset + needed_bytes > self.file_len_bytes {
            let detail = format!("{needed_bytes:#x} bytes, past the end of the file ({:#x})", self.file_len_bytes);
            return Err(fault(detail));
        }
        Ok(host_offset)
    }

    fn entry_fault(&self, index: u64, detail: String) -> ImageError {
        ImageError::corrupt(READ_BAT, detail).at_host(self.entry_offset(index))
    }

    /// Everything in the file but the blocks.
    pub(super) fn regions(&self) -> &Regions {
        &self.regions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_entries_follow_their_chunk() {
        let layout = BatLayout::new(10 << 30, 256 << 20, 512);
        assert_eq!((layout.chunk_ratio, layout.block_count(), layout.entry_count()), (16, 40, 42));
        let of = |block| (layout.payload_index(block), layout.bitmap_index(block));
        assert_eq!([of(0), of(15), of(16), of(31), of(32)], [(0, 16), (15, 16), (17, 33), (32, 33), (34, 50)]);
        for block in 0..40 {
            assert_eq!(layout.block_from(layout.payload_index(block)), block);
        }
        assert_eq!((layout.block_from(16), layout.block_from(33)), (16, 32));
        assert_eq!(BatLayout::new(64 << 40, MIB, 4096).chunk_ratio, 32768);
        assert_eq!(BatLayout::new(0, MIB, 512).entry_count(), 0);
    }
}
