//! Checking: what opening does not look at because reading does not need it.

use std::ops::Range;

use uuid::Uuid;

use super::header;
use super::metadata::Table;
use super::on_disk::*;
use super::read::VhdxImage;
use super::tables::{Bat, BlockState};
use crate::check::CheckReport;
use crate::error::{ImageError, Result};

/// Longest file whose space is accounted for, in bytes: four times the largest disk. Takes 32 MiB of memory.
const MAX_CHECKED_FILE_BYTES: u64 = 4 * MAX_VIRTUAL_DISK_BYTES;

/// QEMU begins with the blocks at a multiple of this many bytes.
const QEMU_ALIGNMENT_BYTES: u64 = 8 * MIB;

/// Looks for damage in a file that could be opened.
pub(super) fn check(image: &VhdxImage, report: &mut CheckReport) -> Result<()> {
    check_copies(image, report)?;
    check_metadata(image, report)?;
    let mut space = Space::new(image.file_len_bytes)?;
    let bat = image.bat()?;
    for reserved in &bat.regions().reserved {
        space.take(&reserved.range);
    }
    let differencing = image.metadata.parent.is_some();
    BatCheck { bat: &bat, differencing, space: &mut space, report: &mut *report, kept_blocks: 0 }.run()?;
    report.host_end_offset = space.end();
    // The space of a fixed disk is held on purpose, also for blocks that QEMU has marked as zero.
    if image.is_fixed() {
        return Ok(());
    }
    for free in space.free_ranges().filter(|free| !is_padding(free, &bat)) {
        let text = format!("nothing uses the {:#x} bytes from {:#x} on", free.end - free.start, free.start);
        report.leak(free.start, text);
    }
    Ok(())
}

/// Writers align: what cannot hold a block is no loss, nor is what QEMU leaves before the first block.
fn is_padding(free: &Range<u64>, bat: &Bat) -> bool {
    let length_bytes = free.end - free.start;
    let follows_region = bat.regions().reserved.iter().any(|reserved| reserved.range.end == free.start);
    length_bytes < bat.layout().block_bytes || follows_region && length_bytes < QEMU_ALIGNMENT_BYTES
}

/// Both headers and both region tables must be whole, so that one can stand in for the other.
fn check_copies(image: &VhdxImage, report: &mut CheckReport) -> Result<()> {
    let file = image.file.file.as_ref();
    for host_offset in HEADER_OFFSETS {
        if header::read_header(file, host_offset)?.is_none() {
            report.corruption(host_offset, "this header has a wrong signature or checksum; the other one is used");
        }
    }
    for host_offset in REGION_TABLE_OFFSETS {
        if header::read_region_table(file, host_offset)?.is_none() {
            report.corruption(host_offset, "this region table is damaged; the other one is used");
        }
    }
    Ok(())
}

/// Flags and places of the metadata items (§2.6.1.2, §2.6.2).
fn check_metadata(image: &VhdxImage, report: &mut CheckReport) -> Result<()> {
    const OF_THE_FILE: u32 = ITEM_IS_REQUIRED;
    const OF_THE_DISK: u32 = ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK;
    const EXPECTED: [(Uuid, &str, u32); 6] = [
        (FILE_PARAMETERS, "file parameters", OF_THE_FILE),
        (VIRTUAL_DISK_SIZE, "virtual disk size", OF_THE_DISK),
        (VIRTUAL_DISK_ID, "virtual disk id", OF_THE_DISK),
        (LOGICAL_SECTOR_SIZE, "logical sector size", OF_THE_DISK),
        (PHYSICAL_SECTOR_SIZE, "physical sector size", OF_THE_DISK),
        (PARENT_LOCATOR, "parent locator", OF_THE_FILE),
    ];
    let region = &image.regions.metadata;
    let table = Table::read(image.file.file.as_ref(), region)?;
    for (item, name, expected) in EXPECTED {
        let Some(found) = table.find(item).map(|entry| entry.flags.get()).filter(|found| *found != expected) else {
            continue;
        };
        report.corruption(region.start, format_args!("the flags of the {name} are {found:#x}, expected {expected:#x}"));
    }
    let mut places: Vec<Range<u32>> =
        (table.entries.iter().map(|entry| (entry.offset.get(), entry.length_bytes.get())))
            .map(|(offset, length_bytes)| offset..offset.saturating_add(length_bytes))
            .filter(|place| !place.is_empty())
            .collect();
    places.sort_unstable_by_key(|place| place.start);
    for pair in places.windows(2) {
        if let [one, next] = pair
            && next.start < one.end
        {
            let text = format!("the metadata items at {:#x} and {:#x} overlap", one.start, next.start);
            report.corruption(region.start, text);
        }
    }
    Ok(())
}

struct BatCheck<'a> {
    bat: &'a Bat,
    differencing: bool,
    space: &'a mut Space,
    report: &'a mut CheckReport,
    /// Blocks that read as zeros, but keep their old place.
    kept_blocks: u64,
}

impl BatCheck<'_> {
    fn run(&mut self) -> Result<()> {
        let bat = self.bat;
        bat.for_each_entry(self.differencing, &mut |index, raw| self.check_entry(index, raw))?;
        if self.kept_blocks > 0 {
            // These may be stale: they make no overlap, but their space is not lost.
            bat.for_each_entry(self.differencing, &mut |index, raw| self.keep(index, raw))?;
        }
        Ok(())
    }

    fn fault(&mut self, index: u64, text: impl std::fmt::Display) {
        self.report.corruption(self.bat.entry_offset(index), format_args!("BAT entry {index}: {text}"));
    }

    fn check_entry(&mut self, index: u64, raw: u64) {
        if raw & !(STATE_MASK | OFFSET_MASK) != 0 {
            self.fault(index, "reserved bits are set");
        }
        match self.bat.layout().payload_block(index) {
            Some(block) => self.check_payload(index, block, raw),
            None => self.check_bitmap(index, raw),
        }
    }

    fn check_payload(&mut self, index: u64, block: u64, raw: u64) {
        let layout = *self.bat.layout();
        match self.bat.state(block, raw) {
            Ok(BlockState::Present(host_offset)) => self.take(index, host_offset, layout.block_bytes),
            Ok(BlockState::Partial(host_offset)) => {
                self.take(index, host_offset, layout.block_bytes);
                let bitmap = layout.bitmap_index(block);
                if let Err(error) = self.bat.entry(bitmap).and_then(|raw| self.bat.locate_bitmap(bitmap, raw)) {
                    self.fault(index, error);
                }
            }
            Ok(BlockState::Absent | BlockState::Zero) => {
                self.kept_blocks += u64::from(keeps_its_place(raw));
                return;
            }
            Err(error) => return self.fault(index, error),
        }
        self.report.allocated_bytes += layout.used_bytes(block);
    }

    /// Only differencing disks have sector bitmaps (§2.5.1.2).
    fn check_bitmap(&mut self, index: u64, raw: u64) {
        match raw & STATE_MASK {
            BITMAP_NOT_PRESENT => {}
            BITMAP_PRESENT if self.differencing => match self.bat.locate_bitmap(index, raw) {
                Ok(host_offset) => self.take(index, host_offset, BITMAP_BLOCK_BYTES),
                Err(error) => self.fault(index, error),
            },
            state => self.fault(index, format_args!("a sector bitmap block cannot have the state {state} here")),
        }
    }

    fn take(&mut self, index: u64, host_offset: u64, length_bytes: u64) {
        if !self.space.take(&(host_offset..host_offset.saturating_add(length_bytes))) {
            self.fault(index, format_args!("the block at {host_offset:#x} overlaps another one"));
        }
    }

    fn keep(&mut self, index: u64, raw: u64) {
        if self.bat.layout().payload_block(index).is_some() && keeps_its_place(raw) {
            let host_offset = raw & OFFSET_MASK;
            self.space.take(&(host_offset..host_offset.saturating_add(self.bat.layout().block_bytes)));
        }
    }
}

/// Undefined and unmapped blocks may still say where they were (§2.5.1.1).
fn keeps_its_place(raw: u64) -> bool {
    matches!(raw & STATE_MASK, UNDEFINED | UNMAPPED | UNMAPPED_0_95) && raw & OFFSET_MASK != 0
}

/// Which MiB of the file are used: everything lies at whole MiB.
struct Space {
    file_len_bytes: u64,
    used: Vec<u64>,
}

impl Space {
    fn new(file_len_bytes: u64) -> Result<Space> {
        if file_len_bytes > MAX_CHECKED_FILE_BYTES {
            let detail = format!("the file has {file_len_bytes} bytes, at most {MAX_CHECKED_FILE_BYTES} are checked");
            return Err(ImageError::limit_exceeded("check VHDX image", detail));
        }
        let words = file_len_bytes.div_ceil(MIB).div_ceil(64);
        Ok(Space { file_len_bytes, used: vec![0; words as usize] })
    }

    /// Takes what of a range is inside the file; says whether all of it was free.
    fn take(&mut self, range: &Range<u64>) -> bool {
        let mut free = true;
        for unit in range.start / MIB..range.end.min(self.file_len_bytes).div_ceil(MIB) {
            let (word, bit) = ((unit / 64) as usize, 1 << (unit % 64));
            if let Some(word) = self.used.get_mut(word) {
                free &= *word & bit == 0;
                *word |= bit;
            }
        }
        free
    }

    fn is_used(&self, unit: u64) -> bool {
        self.used.get((unit / 64) as usize).is_some_and(|word| word >> (unit % 64) & 1 != 0)
    }

    /// Where the last used MiB ends.
    fn end(&self) -> u64 {
        let last = self.used.iter().rposition(|word| *word != 0);
        let units = last.map_or(0, |word| word as u64 * 64 + 64 - u64::from(self.used[word].leading_zeros()));
        (units * MIB).min(self.file_len_bytes)
    }

    /// The ranges that nothing uses, in order.
    fn free_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let units = self.file_len_bytes.div_ceil(MIB);
        let mut unit = 0;
        std::iter::from_fn(move || {
            let begin = (unit..units).find(|unit| !self.is_used(*unit))?;
            unit = (begin..units).find(|unit| self.is_used(*unit)).unwrap_or(units);
            Some(begin * MIB..(unit * MIB).min(self.file_len_bytes))
        })
    }
}
