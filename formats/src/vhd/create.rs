//! Creating: blocks are given their places as the guest's data comes, in ascending order; the tables follow at the end.
//!
//! ```text
//!   0        512             1536                    a multiple of 4 KiB
//!   copy of  dynamic header  BAT (4 bytes a block)   | zeros, bitmap | block | zeros, bitmap | block | ... | footer |
//!   footer                                                           a multiple of 4 KiB
//! ```
//!
//! The zeros before a bitmap make blocks begin at multiples of 4 KiB, as Hyper-V and XenServer do: such blocks can be cloned,
//! and disks with sectors of 4 KiB need not read what they write. All bits of a bitmap are set, and what is not written of a
//! block is zeros, so that readers that look at bitmaps and those that do not see the same. What makes the file valid, the
//! footer and its copy, is written when everything else has reached the disk.

use std::sync::{Arc, Mutex, MutexGuard};

use byteorder::{BigEndian, ByteOrder};
use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use super::tables::bitmap_bytes;
use crate::HostFileMut;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::locks::Unpoisoned as _;
use crate::pieces::Pieces;
use crate::sink::{
    CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitWriter, WriterLayout, invalid_option,
};

/// File systems clone in blocks of this size, and large-sector disks write in it.
const UNIT_BYTES: u64 = 4096;

/// As Hyper-V does by default, and XenServer always.
const DEFAULT_BLOCK_BYTES: u64 = 2 << 20;
/// Hyper-V also makes this size.
const MIN_BLOCK_BYTES: u64 = 512 << 10;
/// Nobody is known to make larger ones: a block is allocated for its first sector.
const MAX_BLOCK_BYTES: u64 = 16 << 20;

const BAT_OFFSET: u64 = FOOTER_BYTES + HEADER_BYTES;

/// How much of the BAT is written at once.
const WRITE_BYTES: u64 = 1 << 20;

/// Last sector that a BAT entry can name.
const MAX_ENTRY: u64 = UNUSED_ENTRY as u64 - 1;

/// Who makes disks whose size is the size field, to the byte: readers ask for the creator to find out. QEMU 10 knows this
/// one, as do all older ones since 2012; of a creator that it does not know, QEMU took the geometry until 2025.
const CREATOR: [u8; 4] = *b"win ";
const CREATOR_VERSION: u32 = 0x000a_0000;
const CREATOR_HOST: [u8; 4] = *b"Wi2k";

/// What the new file will look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    fixed: bool,
    size_bytes: u64,
    block_bytes: u64,
}

impl Plan {
    fn new(options: &CreateOptions) -> Result<Plan> {
        let fixed = options.subformat.as_deref() == Some("fixed");
        let own = options.size_option("block_size")?;
        let found = options.options.get("block_size").map_or("", String::as_str);
        if fixed && own.is_some() {
            return Err(invalid_option("block_size", found, "none: a fixed VHD has no blocks"));
        }
        let block_bytes = own.unwrap_or(DEFAULT_BLOCK_BYTES);
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
            return Err(invalid_option("block_size", found, "a power of two from 512k to 16M"));
        }
        let plan = Plan { fixed, size_bytes: options.geometry.size_bytes, block_bytes };
        plan.check_size()?;
        Ok(plan)
    }

    /// The size is never changed silently: a disk that cannot be had exactly is not made.
    fn check_size(&self) -> Result<()> {
        let size_bytes = self.size_bytes;
        let fault = |detail: String| Err(ImageError::new(ErrorKind::InvalidOption, "create VHD image", detail));
        if size_bytes > MAX_DISK_BYTES {
            let detail = format!("the disk has {size_bytes} bytes, a VHD has at most {MAX_DISK_BYTES} (2040 GiB)");
            return fault(detail);
        }
        if !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return fault(format!("the disk has {size_bytes} bytes, which is no whole number of sectors of 512"));
        }
        if !self.fixed && self.file_bytes(self.block_count()) / SECTOR_BYTES > MAX_ENTRY {
            let (size, block) = (size_bytes, self.block_bytes);
            let detail = format!(
                "the disk has {size} bytes, which in blocks of {block} could grow past the 2 TiB that the table can name; a larger block_size needs less space for bitmaps"
            );
            return fault(detail);
        }
        Ok(())
    }

    fn block_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.block_bytes)
    }

    /// How long the zeros and the bitmap before a block are.
    fn prefix_bytes(&self) -> u64 {
        bitmap_bytes(self.block_bytes).next_multiple_of(UNIT_BYTES)
    }

    /// The BAT, whole sectors of it, and one for a disk of nothing.
    fn bat_bytes(&self) -> u64 {
        (self.block_count() * BAT_ENTRY_BYTES).next_multiple_of(SECTOR_BYTES).max(SECTOR_BYTES)
    }

    /// Where the data is of the block that is the `number`-th one in the file.
    fn block_offset(&self, number: u64) -> u64 {
        let first = (BAT_OFFSET + self.bat_bytes()).next_multiple_of(UNIT_BYTES);
        first + number * (self.prefix_bytes() + self.block_bytes) + self.prefix_bytes()
    }

    /// Where the footer goes after that many blocks.
    fn footer_offset(&self, blocks: u64) -> u64 {
        match (self.fixed, blocks) {
            (true, _) => self.size_bytes,
            (false, 0) => (BAT_OFFSET + self.bat_bytes()).next_multiple_of(UNIT_BYTES),
            (false, _) => self.block_offset(blocks) - self.prefix_bytes(),
        }
    }

    /// The file's length with that many blocks.
    fn file_bytes(&self, blocks: u64) -> u64 {
        self.footer_offset(blocks) + FOOTER_BYTES
    }
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    if options.target_holds_old_data {
        let detail = "a VHD image can only be made in an empty file, not over old data";
        return Err(ImageError::unsupported("create VHD image", detail));
    }
    let plan = Plan::new(options)?;
    if plan.fixed {
        let file_bytes = plan.file_bytes(0);
        file.set_len_bytes(file_bytes).map_err(|cause| ImageError::io("set the length of the VHD file", cause))?;
        file.allocate(0, file_bytes).map_err(|cause| ImageError::io("reserve space for the whole disk", cause))?;
    }
    Ok(Box::new(VhdWriter { file, plan, allocator: Mutex::default() }))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let plan = Plan::new(options)?;
    let all = plan.block_count();
    let touched_blocks = touched_bytes(plan.block_bytes)?.div_ceil(plan.block_bytes);
    let needed = if plan.fixed { all } else { touched_blocks.min(all) };
    Ok(Measure { required_bytes: plan.file_bytes(needed), fully_allocated_bytes: plan.file_bytes(all) })
}

struct VhdWriter {
    file: Arc<dyn HostFileMut>,
    plan: Plan,
    allocator: Mutex<Allocator>,
}

/// Gives dynamic blocks their places: the n-th one that gets data is the n-th one in the file.
#[derive(Default)]
struct Allocator {
    /// The blocks in the file, ascending: units come in guest order.
    blocks: Vec<u32>,
}

impl Allocator {
    /// Where a block's data goes, and whether the block is new.
    fn block_offset(&mut self, plan: &Plan, block: u64) -> (u64, bool) {
        // There are no more than 2040 GiB / 512 KiB of them.
        let block = block as u32;
        let new = self.blocks.last() != Some(&block);
        if new {
            self.blocks.push(block);
        }
        (plan.block_offset(self.blocks.len() as u64 - 1), new)
    }
}

/// A unit on its way: what is written where, and the new blocks that need a bitmap.
struct Encoded<'a> {
    pieces: Pieces<'a>,
    /// Where the data of these blocks begins.
    new_blocks: Vec<u64>,
}

impl UnitWriter for VhdWriter {
    type Encoded<'a> = Encoded<'a>;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: UNIT_BYTES, clones: true, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Encoded<'a>> {
        Ok(Encoded { pieces: Pieces::new(unit), new_blocks: Vec::new() })
    }

    fn place(&self, encoded: &mut Encoded<'_>) -> Result<()> {
        if self.plan.fixed {
            encoded
                .pieces
                .unit()
                .data_ranges(u64::MAX)
                .for_each(|range| encoded.pieces.push(range.clone(), range.start));
            return Ok(());
        }
        let mut allocator = self.lock();
        for range in encoded.pieces.unit().data_ranges(self.plan.block_bytes) {
            let (block, within) = (range.start / self.plan.block_bytes, range.start % self.plan.block_bytes);
            let (block_offset, new) = allocator.block_offset(&self.plan, block);
            encoded.new_blocks.extend(new.then_some(block_offset));
            encoded.pieces.push(range, block_offset + within);
        }
        Ok(())
    }

    fn write(&self, encoded: &Encoded<'_>) -> Result<()> {
        for block_offset in &encoded.new_blocks {
            self.write_at(block_offset - self.plan.prefix_bytes(), &self.prefix())?;
        }
        encoded.pieces.write_to(self.file.as_ref(), "write VHD block")
    }

    fn finish(self, seed: &IdentitySeed) -> Result<()> {
        let blocks = std::mem::take(&mut self.lock().blocks);
        let footer_offset = self.plan.footer_offset(blocks.len() as u64);
        if !self.plan.fixed {
            self.file
                .set_len_bytes(footer_offset + FOOTER_BYTES)
                .map_err(|cause| ImageError::io("set the length of the VHD file", cause))?;
            self.write_bat(&blocks)?;
            self.write_at(FOOTER_BYTES, self.dynamic_header().as_bytes())?;
        }
        self.sync()?;
        let footer = self.footer(seed);
        if !self.plan.fixed {
            self.write_at(0, footer.as_bytes())?;
        }
        self.write_at(footer_offset, footer.as_bytes())?;
        self.sync()
    }
}

impl VhdWriter {
    fn lock(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unpoisoned()
    }

    fn write_at(&self, host_offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io("write VHD structures", cause).at_host(host_offset))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush the VHD file", cause))
    }

    /// What comes before each block: zeros, and a bitmap of which the bits of all sectors are set.
    fn prefix(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.plan.prefix_bytes() as usize];
        let bitmap_at = (self.plan.prefix_bytes() - bitmap_bytes(self.plan.block_bytes)) as usize;
        let bits_bytes = (self.plan.block_bytes / SECTOR_BYTES / 8) as usize;
        bytes[bitmap_at..][..bits_bytes].fill(0xff);
        bytes
    }

    /// Writes the BAT: the block that is the n-th in the list is the n-th in the file.
    fn write_bat(&self, blocks: &[u32]) -> Result<()> {
        let bitmap_bytes = bitmap_bytes(self.plan.block_bytes);
        let mut present = (0u64..).zip(blocks).peekable();
        let (mut first, mut offset) = (0, 0);
        while offset < self.plan.bat_bytes() {
            let mut bytes = vec![0xff; (self.plan.bat_bytes() - offset).min(WRITE_BYTES) as usize];
            let end = first + bytes.len() as u64 / BAT_ENTRY_BYTES;
            while let Some((number, block)) = present.next_if(|(_, block)| u64::from(**block) < end) {
                let entry = (self.plan.block_offset(number) - bitmap_bytes) / SECTOR_BYTES;
                let within = (u64::from(*block) - first) * BAT_ENTRY_BYTES;
                BigEndian::write_u32(&mut bytes[within as usize..][..BAT_ENTRY_BYTES as usize], entry as u32);
            }
            self.write_at(BAT_OFFSET + offset, &bytes)?;
            (first, offset) = (end, offset + bytes.len() as u64);
        }
        Ok(())
    }

    fn dynamic_header(&self) -> DynamicHeader {
        let mut header = DynamicHeader::new_zeroed();
        header.cookie = HEADER_COOKIE;
        header.next_offset = U64::new(NO_OFFSET);
        header.bat_offset = U64::new(BAT_OFFSET);
        header.version = U32::new(VERSION);
        header.max_bat_entries = U32::new(self.plan.block_count() as u32);
        header.block_bytes = U32::new(self.plan.block_bytes as u32);
        header.checksum = U32::new(header.right_checksum());
        header
    }

    fn footer(&self, seed: &IdentitySeed) -> Footer {
        let (cylinders, heads, sectors_per_track) = geometry_of(self.plan.size_bytes / SECTOR_BYTES);
        let mut footer = Footer::new_zeroed();
        footer.cookie = FOOTER_COOKIE;
        footer.features = U32::new(FEATURES);
        footer.version = U32::new(VERSION);
        footer.header_offset = U64::new(if self.plan.fixed { NO_OFFSET } else { FOOTER_BYTES });
        footer.creator = CREATOR;
        footer.creator_version = U32::new(CREATOR_VERSION);
        footer.creator_host = CREATOR_HOST;
        footer.original_bytes = U64::new(self.plan.size_bytes);
        footer.current_bytes = U64::new(self.plan.size_bytes);
        footer.cylinders = U16::new(cylinders);
        footer.heads = heads;
        footer.sectors_per_track = sectors_per_track;
        footer.disk_type = U32::new(if self.plan.fixed { FIXED } else { DYNAMIC });
        footer.unique_id = seed.uuid("vhd unique id").into_bytes();
        footer.checksum = U32::new(footer.right_checksum());
        footer
    }
}

/// Cylinders, heads and sectors of a track: what a BIOS is to show the guest (appendix "CHS Calculation"). They cover the disk
/// down to a whole cylinder, or as much of it as they can express.
pub(super) fn geometry_of(sectors: u64) -> (u16, u8, u8) {
    const MOST_CYLINDERS: u64 = 65535;
    const MOST_BIOS_CYLINDERS: u64 = 1024;
    let sectors = sectors.min(MAX_GEOMETRY_SECTORS);
    let (heads, sectors_per_track) = if sectors >= MOST_CYLINDERS * 16 * 63 {
        (16, 255)
    } else {
        // The least heads that keep the cylinders below 1024, from 4 to 16; with 17, 31, then 63 sectors.
        let heads = (sectors / 17).div_ceil(MOST_BIOS_CYLINDERS).max(4);
        let fits = |heads: u64, per_track: u64| heads <= 16 && sectors / per_track < heads * MOST_BIOS_CYLINDERS;
        match () {
            () if fits(heads, 17) => (heads, 17),
            () if fits(16, 31) => (16, 31),
            () => (16, 63),
        }
    };
    ((sectors / sectors_per_track / heads) as u16, heads as u8, sectors_per_track as u8)
}
