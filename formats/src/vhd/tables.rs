//! The BAT, which is held in memory, and the bitmaps of the blocks, which are read when asked for.
//!
//! ```text
//!   BAT entry ──► | bitmap, whole sectors | block |      a bit for each sector, the most significant of a byte first
//! ```
//!
//! The bitmap says which sectors are the file's own in differencing disks, and which were ever written in XenServer's dynamic
//! ones. In all other dynamic disks it is not looked at: the block is what there is.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use super::on_disk::*;
use crate::bits::{FirstBit, run_of_bits};
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::HostFile;
use crate::table_cache::TableCache;

const READ_BAT: &str = "read VHD block allocation table";
const READ_BITMAP: &str = "read VHD block bitmap";

/// How much of the BAT is read at once.
const READ_BYTES: u64 = 1 << 20;

/// Where everything is, and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub size_bytes: u64,
    pub block_bytes: u64,
    pub header_offset: u64,
    pub bat_offset: u64,
    /// How many entries the BAT has room for; more than blocks in files of Disk2vhd, which leaves zeros in the rest.
    pub max_bat_entries: u64,
    /// Where the footer at the end of the file begins, or the file's length where there is none.
    pub data_end_offset: u64,
    pub bitmaps_decide: bool,
}

impl Layout {
    /// The layout that a checked header describes; fails if it has no room for the disk.
    pub fn new(
        header: &DynamicHeader,
        header_offset: u64,
        size_bytes: u64,
        data_end_offset: u64,
        bitmaps_decide: bool,
    ) -> Result<Layout> {
        let layout = Layout {
            size_bytes,
            block_bytes: header.block_bytes.get().into(),
            header_offset,
            bat_offset: header.bat_offset.get(),
            max_bat_entries: header.max_bat_entries.get().into(),
            data_end_offset,
            bitmaps_decide,
        };
        let (needed, found) = (layout.block_count(), layout.max_bat_entries);
        let fault = |detail: String| ImageError::corrupt(READ_BAT, detail).at_host(layout.bat_offset);
        if found < needed {
            return Err(fault(format!("it has room for {found} entries, the disk needs {needed}")));
        }
        if needed > MAX_BAT_ENTRIES {
            let detail = format!("the disk needs {needed} entries, at most {MAX_BAT_ENTRIES} are read");
            return Err(ImageError::new(ErrorKind::LimitExceeded, READ_BAT, detail));
        }
        let end = layout.bat_offset.checked_add(needed * BAT_ENTRY_BYTES);
        if layout.bat_offset < FOOTER_BYTES || end.is_none_or(|end| end > data_end_offset) {
            let detail = format!("its {needed} entries would have to be inside the file ({data_end_offset:#x})");
            return Err(fault(detail));
        }
        Ok(layout)
    }

    /// How many blocks the disk has.
    pub fn block_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    /// How long the bitmap before each block is: whole sectors.
    pub fn bitmap_bytes(&self) -> u64 {
        bitmap_bytes(self.block_bytes)
    }

    /// How many bytes of a block the disk reaches into.
    pub fn used_bytes(&self, block: u64) -> u64 {
        self.block_bytes.min(self.size_bytes.saturating_sub(block.saturating_mul(self.block_bytes)))
    }

    /// What blocks may not touch, with names.
    pub fn reserved(&self) -> [(Range<u64>, &'static str); 3] {
        let bat_end = self.bat_offset + self.block_count() * BAT_ENTRY_BYTES;
        [
            (0..FOOTER_BYTES, "the copy of the footer"),
            (self.header_offset..self.header_offset.saturating_add(HEADER_BYTES), "the dynamic header"),
            (self.bat_offset..bat_end, "the BAT"),
        ]
    }

    /// Where a block and its bitmap are, as far as the disk reaches into it.
    fn block_range(&self, block: u64, entry: u32) -> Range<u64> {
        let begin = u64::from(entry) * SECTOR_BYTES;
        begin..begin + self.bitmap_bytes() + self.used_bytes(block)
    }

    /// Why a block cannot be there: blocks are after the tables and before the end of the file.
    fn misplacement(&self, range: &Range<u64>) -> Option<String> {
        let touched = |reserved: &Range<u64>| range.start < reserved.end && reserved.start < range.end;
        if let Some((_, name)) = self.reserved().iter().find(|(reserved, _)| touched(reserved)) {
            return Some(format!("where {name} is"));
        }
        let (end, limit) = (range.end, self.data_end_offset);
        (end > limit).then(|| format!("and the block would end at {end:#x}, past the end of the file ({limit:#x})"))
    }
}

/// How long the bitmap of a block is: whole sectors.
pub(super) fn bitmap_bytes(block_bytes: u64) -> u64 {
    (block_bytes / SECTOR_BYTES).div_ceil(8).next_multiple_of(SECTOR_BYTES)
}

/// The BAT of one file.
pub(super) struct Bat {
    layout: Layout,
    entries: Vec<u32>,
    /// The blocks that share bytes with another one, ascending.
    overlapping: Vec<u32>,
    bitmaps: TableCache,
}

impl Bat {
    /// Reads the BAT and looks for blocks that share bytes: those, and no others, cannot be read.
    pub fn read(file: Arc<dyn HostFile>, file_len_bytes: u64, layout: Layout) -> Result<Bat> {
        let entries = read_entries(file.as_ref(), &layout)?;
        let overlapping = find_overlaps(&entries, &layout);
        Ok(Bat { layout, entries, overlapping, bitmaps: TableCache::new(file, file_len_bytes) })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The blocks that are in the file, with the places of their bitmaps: checked, or what is wrong with the entry.
    pub fn present_blocks(&self) -> impl Iterator<Item = (u64, Result<u64>)> {
        let present = self.entries.iter().enumerate().filter(|(_, entry)| **entry != UNUSED_ENTRY);
        present.map(|(block, entry)| (block as u64, self.locate(block as u64, *entry)))
    }

    /// Where a block's bitmap is, if the block is in the file; its data comes after it.
    pub fn block_at(&self, block: u64) -> Result<Option<u64>> {
        match self.entry(block) {
            None | Some(UNUSED_ENTRY) => Ok(None),
            Some(entry) => self.locate(block, entry).map(Some),
        }
    }

    /// How many blocks from `block` on, at most `max_blocks`, are not in the file.
    pub fn absent_run(&self, block: u64, max_blocks: u64) -> u64 {
        let from = self.entries.iter().skip(usize::try_from(block).unwrap_or(usize::MAX));
        from.zip(0..max_blocks).take_while(|(entry, _)| **entry == UNUSED_ENTRY).count() as u64
    }

    fn entry(&self, block: u64) -> Option<u32> {
        self.entries.get(usize::try_from(block).ok()?).copied()
    }

    /// Checks where a block is: apart from everything else.
    fn locate(&self, block: u64, entry: u32) -> Result<u64> {
        let range = self.layout.block_range(block, entry);
        let overlaps = || u32::try_from(block).is_ok_and(|block| self.overlapping.binary_search(&block).is_ok());
        let found = match self.layout.misplacement(&range) {
            Some(found) => found,
            None if overlaps() => "and shares bytes with another block".to_owned(),
            None => return Ok(range.start),
        };
        let detail = format!("entry {block} points to {:#x}, {found}", range.start);
        Err(ImageError::corrupt(READ_BAT, detail).at_host(self.entry_offset(block)))
    }

    /// Where a block's entry is in the file.
    pub fn entry_offset(&self, block: u64) -> u64 {
        self.layout.bat_offset + block * BAT_ENTRY_BYTES
    }

    /// Which sectors from `sector` of a block on are alike by its bitmap: set or not, and how many, at least one and at most
    /// `max_sectors`.
    pub fn sector_run(&self, bitmap_offset: u64, sector: u64, max_sectors: u64) -> Result<(bool, u64)> {
        let (page, begin) = self.bitmaps.page_at(READ_BITMAP, bitmap_offset + sector / 8)?;
        let bytes = page.get(begin..).unwrap_or_default();
        let max_bits = max_sectors.min(bytes.len() as u64 * 8) as usize;
        Ok(run_of_bits(bytes, FirstBit::Highest, (sector % 8) as usize, max_bits))
    }
}

fn read_entries(file: &dyn HostFile, layout: &Layout) -> Result<Vec<u32>> {
    let mut entries = vec![UNUSED_ENTRY; layout.block_count() as usize];
    let mut bytes = vec![0; (layout.block_count() * BAT_ENTRY_BYTES).min(READ_BYTES) as usize];
    let mut host_offset = layout.bat_offset;
    for part in entries.chunks_mut((READ_BYTES / BAT_ENTRY_BYTES) as usize) {
        let bytes = &mut bytes[..part.len() * BAT_ENTRY_BYTES as usize];
        file.read_exact_at(host_offset, bytes).map_err(|cause| ImageError::io(READ_BAT, cause).at_host(host_offset))?;
        BigEndian::read_u32_into(bytes, part);
        host_offset += bytes.len() as u64;
    }
    Ok(entries)
}

/// The blocks that share bytes with another one: from two such blocks, at most one can be right. Blocks that cannot be where
/// they are said to be do not count.
///
/// Also the guard against a small file that is a huge disk of one block.
fn find_overlaps(entries: &[u32], layout: &Layout) -> Vec<u32> {
    let present = entries.iter().zip(0u64..).filter(|(entry, _)| **entry != UNUSED_ENTRY);
    let possible = present.filter(|(entry, block)| layout.misplacement(&layout.block_range(*block, **entry)).is_none());
    let mut places: Vec<u64> = possible.map(|(entry, block)| u64::from(*entry) << 32 | block).collect();
    places.sort_unstable();
    let mut overlapping = Vec::new();
    // Of the blocks so far, the one that reaches furthest.
    let (mut furthest, mut furthest_end) = (None, 0);
    for place in places {
        let (entry, block) = ((place >> 32) as u32, place as u32);
        let range = layout.block_range(block.into(), entry);
        if range.start < furthest_end {
            overlapping.extend(furthest);
            overlapping.push(block);
        }
        if range.end > furthest_end {
            (furthest, furthest_end) = (Some(block), range.end);
        }
    }
    overlapping.sort_unstable();
    overlapping.dedup();
    overlapping
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_are_whole_sectors() {
        assert_eq!([512, 4096, 512 << 10, 2 << 20, 4 << 20].map(bitmap_bytes), [512, 512, 512, 512, 1024]);
    }
}
