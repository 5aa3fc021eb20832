//! Creating: blocks are given their places as the guest's data comes, in ascending order; the tables follow at the end.
//!
//! ```text
//!   0                    1 MiB        2 MiB            3 MiB
//!   identifier, headers  log (empty)  metadata region  BAT region  | block | block | ...
//! ```
//!
//! What makes the file valid, the identifier and the headers, is written when everything else has reached the disk. A
//! fresh file reads as zeros, so that neither the log, nor absent BAT entries, nor the rest of a block is written.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use super::tables::BatLayout;
use crate::HostFileMut;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::locks::Unpoisoned as _;
use crate::pieces::Pieces;
use crate::sink::{
    CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitWriter, WriterLayout, invalid_option,
};

/// As Hyper-V does.
const DEFAULT_BLOCK_BYTES: u64 = 32 * MIB;

/// File systems clone in blocks of this size.
const UNIT_BYTES: u64 = 4096;

const LOG: Range<u64> = MIB..2 * MIB;
const METADATA: Range<u64> = 2 * MIB..3 * MIB;
const BAT_OFFSET: u64 = 3 * MIB;

/// The BAT is written in parts of this size.
const BAT_PAGE_BYTES: u64 = 32 << 10;

/// What the new file will look like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    fixed: bool,
    layout: BatLayout,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
}

impl Plan {
    fn new(options: &CreateOptions) -> Result<Plan> {
        let default_bytes = if options.geometry.size_bytes == 0 { MIN_BLOCK_BYTES } else { DEFAULT_BLOCK_BYTES };
        let block_bytes = options.size_option("block_size")?.unwrap_or(default_bytes);
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
            let found = options.options.get("block_size").map_or("", String::as_str);
            return Err(invalid_option("block_size", found, "a power of two from 1M to 256M"));
        }
        let logical_sector_bytes = logical_sector(options)?;
        let size_bytes = options.geometry.size_bytes;
        check_size(size_bytes, logical_sector_bytes)?;
        // A hint for aligning writes, and only two values exist: the nearest one that is not below the logical sector.
        let large = options.geometry.physical_sector_bytes >= 4096 || logical_sector_bytes == 4096;
        Ok(Plan {
            fixed: options.subformat.as_deref() == Some("fixed"),
            layout: BatLayout::new(size_bytes, block_bytes, logical_sector_bytes),
            logical_sector_bytes,
            physical_sector_bytes: if large { 4096 } else { 512 },
        })
    }

    /// The BAT, with an entry for every payload and sector bitmap block (§2.5).
    fn bat(&self) -> Range<u64> {
        let blocks = self.layout.block_count();
        let entries = match blocks {
            // Of a disk without blocks QEMU expects as many entries as its 32-bit "blocks - 1" comes to.
            0 => u64::from(u32::MAX) / self.layout.chunk_ratio,
            _ => blocks + blocks.div_ceil(self.layout.chunk_ratio),
        };
        BAT_OFFSET..BAT_OFFSET + (entries * BAT_ENTRY_BYTES).next_multiple_of(MIB).max(MIB)
    }

    /// Where the first block goes.
    fn first_block_offset(&self) -> u64 {
        self.bat().end
    }

    /// The file's length with that many blocks.
    fn file_bytes(&self, blocks: u64) -> u64 {
        self.first_block_offset() + blocks * self.layout.block_bytes
    }
}

fn logical_sector(options: &CreateOptions) -> Result<u32> {
    match (options.size_option("logical_sector")?, options.geometry.logical_sector_bytes) {
        (Some(512), _) | (None, 512) => Ok(512),
        (Some(4096), _) | (None, 4096) => Ok(4096),
        (Some(other), _) => Err(invalid_option("logical_sector", &other.to_string(), "512 or 4096")),
        (None, source) => {
            let detail = format!("the source has sectors of {source} bytes; set logical_sector to 512 or 4096");
            Err(cannot_create(detail))
        }
    }
}

/// The size is never changed silently: a disk that cannot be had exactly is not made (§2.6.2.2).
fn check_size(size_bytes: u64, logical_sector_bytes: u32) -> Result<()> {
    if size_bytes > MAX_VIRTUAL_DISK_BYTES {
        let detail =
            format!("the disk has {size_bytes} bytes, a VHDX disk has at most {MAX_VIRTUAL_DISK_BYTES} (64 TiB)");
        return Err(cannot_create(detail));
    }
    if !size_bytes.is_multiple_of(logical_sector_bytes.into()) {
        let detail = format!(
            "the disk has {size_bytes} bytes, which is no whole number of logical sectors of {logical_sector_bytes}"
        );
        return Err(cannot_create(detail));
    }
    Ok(())
}

fn cannot_create(detail: String) -> ImageError {
    ImageError::new(ErrorKind::InvalidOption, "create VHDX image", detail)
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    if options.target_holds_old_data {
        let detail = "a VHDX image can only be made in an empty file, not over old data";
        return Err(ImageError::unsupported("create VHDX image", detail));
    }
    let plan = Plan::new(options)?;
    if plan.fixed {
        let file_bytes = plan.file_bytes(plan.layout.block_count());
        file.set_len_bytes(file_bytes).map_err(|cause| ImageError::io("set the length of the VHDX file", cause))?;
        file.allocate(0, file_bytes).map_err(|cause| ImageError::io("reserve space for the whole disk", cause))?;
    }
    let next_block_offset = plan.first_block_offset();
    let allocator = Mutex::new(Allocator { next_block_offset, last_block: None, page: None });
    Ok(Box::new(VhdxWriter { file, plan, allocator }))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let plan = Plan::new(options)?;
    let all = plan.layout.block_count();
    let touched_blocks = touched_bytes(plan.layout.block_bytes)?.div_ceil(plan.layout.block_bytes);
    let needed = if plan.fixed { all } else { touched_blocks.min(all) };
    Ok(Measure { required_bytes: plan.file_bytes(needed), fully_allocated_bytes: plan.file_bytes(all) })
}

struct VhdxWriter {
    file: Arc<dyn HostFileMut>,
    plan: Plan,
    allocator: Mutex<Allocator>,
}

/// Gives dynamic blocks their places. Units come in guest order, so only the last block can get more data, and only the
/// last page of the BAT more entries.
struct Allocator {
    next_block_offset: u64,
    /// Its number and its place.
    last_block: Option<(u64, u64)>,
    page: Option<BatPage>,
}

/// A part of the BAT that has entries.
struct BatPage {
    number: u64,
    bytes: Vec<u8>,
}

impl BatPage {
    fn write_to(&self, file: &dyn HostFileMut) -> Result<()> {
        let host_offset = BAT_OFFSET + self.number * BAT_PAGE_BYTES;
        file.write_all_at(host_offset, &self.bytes)
            .map_err(|cause| ImageError::io("write VHDX block allocation table", cause).at_host(host_offset))
    }
}

/// A unit on its way: what is written where, and the pages of the BAT that got their last entry before it.
struct Encoded<'a> {
    pieces: Pieces<'a>,
    full_pages: Vec<BatPage>,
}

impl Allocator {
    /// The place of a block: the last one's, or a new one at the end of the file.
    fn block_offset(&mut self, layout: &BatLayout, block: u64, full_pages: &mut Vec<BatPage>) -> u64 {
        if let Some((last, host_offset)) = self.last_block
            && last == block
        {
            return host_offset;
        }
        let host_offset = self.next_block_offset;
        self.next_block_offset += layout.block_bytes;
        self.last_block = Some((block, host_offset));
        self.set_entry(layout.payload_index(block), host_offset | FULLY_PRESENT, full_pages);
        host_offset
    }

    fn set_entry(&mut self, index: u64, raw: u64, full_pages: &mut Vec<BatPage>) {
        let (number, within) = (index * BAT_ENTRY_BYTES / BAT_PAGE_BYTES, index * BAT_ENTRY_BYTES % BAT_PAGE_BYTES);
        if self.page.as_ref().is_some_and(|page| page.number != number) {
            full_pages.extend(self.page.take());
        }
        let page = self.page.get_or_insert_with(|| BatPage { number, bytes: vec![0; BAT_PAGE_BYTES as usize] });
        LittleEndian::write_u64(&mut page.bytes[within as usize..][..BAT_ENTRY_BYTES as usize], raw);
    }
}

impl UnitWriter for VhdxWriter {
    type Encoded<'a> = Encoded<'a>;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: UNIT_BYTES, clones: true, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Encoded<'a>> {
        Ok(Encoded { pieces: Pieces::new(unit), full_pages: Vec::new() })
    }

    fn place(&self, encoded: &mut Encoded<'_>) -> Result<()> {
        let layout = &self.plan.layout;
        let mut allocator = self.lock();
        for range in encoded.pieces.unit().data_ranges(layout.block_bytes) {
            let (block, within) = (range.start / layout.block_bytes, range.start % layout.block_bytes);
            let block_offset = if self.plan.fixed {
                self.plan.file_bytes(block)
            } else {
                allocator.block_offset(layout, block, &mut encoded.full_pages)
            };
            encoded.pieces.push(range, block_offset + within);
        }
        Ok(())
    }

    fn write(&self, encoded: &Encoded<'_>) -> Result<()> {
        encoded.pieces.write_to(self.file.as_ref(), "write VHDX block")?;
        encoded.full_pages.iter().try_for_each(|page| page.write_to(self.file.as_ref()))
    }

    fn finish(self, seed: &IdentitySeed) -> Result<()> {
        let file_bytes = self.lock().next_block_offset;
        if self.plan.fixed {
            self.write_fixed_bat()?;
        } else {
            if let Some(page) = self.lock().page.take() {
                page.write_to(self.file.as_ref())?;
            }
            self.file
                .set_len_bytes(file_bytes)
                .map_err(|cause| ImageError::io("set the length of the VHDX file", cause))?;
        }
        self.write_at(METADATA.start, &metadata_table())?;
        self.write_at(METADATA.start + METADATA_TABLE_BYTES, &self.metadata_items(seed))?;
        let regions = region_table(&self.plan.bat());
        for host_offset in REGION_TABLE_OFFSETS {
            self.write_at(host_offset, &regions)?;
        }
        self.sync()?;
        for (host_offset, sequence_number) in HEADER_OFFSETS.into_iter().zip(1..) {
            self.write_at(host_offset, header(seed, sequence_number).as_bytes())?;
        }
        self.write_at(0, identifier().as_bytes())?;
        self.sync()
    }
}

impl VhdxWriter {
    fn lock(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unpoisoned()
    }

    fn write_at(&self, host_offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io("write VHDX structures", cause).at_host(host_offset))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush the VHDX file", cause))
    }

    /// Every block of a fixed disk is present, at the place that its number gives it.
    fn write_fixed_bat(&self) -> Result<()> {
        let layout = &self.plan.layout;
        let entries_a_page = BAT_PAGE_BYTES / BAT_ENTRY_BYTES;
        let mut page = BatPage { number: 0, bytes: vec![0; BAT_PAGE_BYTES as usize] };
        while page.number * entries_a_page < layout.entry_count() {
            let first = page.number * entries_a_page;
            for (index, entry) in (first..).zip(page.bytes.chunks_exact_mut(BAT_ENTRY_BYTES as usize)) {
                let block = layout.payload_block(index);
                let raw = block.map_or(BITMAP_NOT_PRESENT, |block| self.plan.file_bytes(block) | FULLY_PRESENT);
                LittleEndian::write_u64(entry, raw);
            }
            page.write_to(self.file.as_ref())?;
            page.number += 1;
        }
        Ok(())
    }

    /// The items in the order of [`ITEMS`].
    fn metadata_items(&self, seed: &IdentitySeed) -> Vec<u8> {
        let flags = if self.plan.fixed { LEAVE_BLOCKS_ALLOCATED } else { 0 };
        let parameters =
            FileParameters { block_bytes: U32::new(self.plan.layout.block_bytes as u32), flags: U32::new(flags) };
        let mut items = Vec::new();
        items.extend_from_slice(parameters.as_bytes());
        items.extend_from_slice(&self.plan.layout.size_bytes.to_le_bytes());
        items.extend_from_slice(&self.plan.logical_sector_bytes.to_le_bytes());
        items.extend_from_slice(&self.plan.physical_sector_bytes.to_le_bytes());
        items.extend_from_slice(Guid::from(seed.uuid("vhdx virtual disk id")).as_bytes());
        items
    }
}

/// The items of every new disk, with their lengths and flags (§2.6.2).
const ITEMS: [(uuid::Uuid, u32, u32); 5] = [
    (FILE_PARAMETERS, 8, ITEM_IS_REQUIRED),
    (VIRTUAL_DISK_SIZE, 8, ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK),
    (LOGICAL_SECTOR_SIZE, 4, ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK),
    (PHYSICAL_SECTOR_SIZE, 4, ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK),
    (VIRTUAL_DISK_ID, 16, ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK),
];

fn metadata_table() -> Vec<u8> {
    let mut header = MetadataTableHeader::new_zeroed();
    header.signature = METADATA_SIGNATURE;
    header.entry_count = U16::new(ITEMS.len() as u16);
    let mut table = header.as_bytes().to_vec();
    let mut offset = METADATA_TABLE_BYTES as u32;
    for (item, length_bytes, flags) in ITEMS {
        let entry = MetadataEntry {
            item: item.into(),
            offset: U32::new(offset),
            length_bytes: U32::new(length_bytes),
            flags: U32::new(flags),
            reserved: U32::ZERO,
        };
        table.extend_from_slice(entry.as_bytes());
        offset += length_bytes;
    }
    table
}

fn region_table(bat: &Range<u64>) -> Vec<u8> {
    let regions = [(BAT_REGION, bat), (METADATA_REGION, &METADATA)];
    let mut header = RegionTableHeader::new_zeroed();
    header.signature = REGION_SIGNATURE;
    header.entry_count = U32::new(regions.len() as u32);
    let mut table = header.as_bytes().to_vec();
    for (guid, range) in regions {
        let entry = RegionEntry {
            guid: guid.into(),
            host_offset: U64::new(range.start),
            length_bytes: U32::new((range.end - range.start) as u32),
            flags: U32::new(REGION_REQUIRED),
        };
        table.extend_from_slice(entry.as_bytes());
    }
    table.resize(REGION_TABLE_BYTES, 0);
    let sum = checksum(&table, &[]);
    table[4..8].copy_from_slice(&sum.to_le_bytes());
    table
}

fn header(seed: &IdentitySeed, sequence_number: u64) -> Header {
    let mut header = Header::new_zeroed();
    header.signature = HEADER_SIGNATURE;
    header.sequence_number = U64::new(sequence_number);
    header.file_write_guid = seed.uuid("vhdx file write guid").into();
    header.data_write_guid = seed.uuid("vhdx data write guid").into();
    header.log_version = U16::new(LOG_VERSION);
    header.version = U16::new(VERSION);
    header.log_length_bytes = U32::new((LOG.end - LOG.start) as u32);
    header.log_offset = U64::new(LOG.start);
    header.checksum = U32::new(checksum(header.as_bytes(), &[]));
    header
}

fn identifier() -> FileIdentifier {
    let mut identifier = FileIdentifier::new_zeroed();
    identifier.signature = FILE_SIGNATURE;
    let creator = concat!("Tintype ", env!("CARGO_PKG_VERSION"));
    for (to, from) in identifier.creator.iter_mut().zip(creator.encode_utf16()) {
        *to = U16::new(from);
    }
    identifier
}
