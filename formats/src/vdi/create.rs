//! Creating: blocks are given their places as the guest's data comes, in ascending order; the header follows at the end.
//!
//! ```text
//!   0        1 MiB        the next whole MiB
//!   header   block map    | block | block | ...
//! ```
//!
//! A free block has no zeros in the map, so that all of the map is written, in pages: one that has blocks as soon as it
//! can get no more of them, the others at the end. The rest of a block that is partly data is a hole of the new file.

use std::sync::{Arc, Mutex, MutexGuard};

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::on_disk::*;
use crate::HostFileMut;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::locks::Unpoisoned as _;
use crate::pieces::Pieces;
use crate::sink::{CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitWriter, WriterLayout};

/// The only size that QEMU opens.
const BLOCK_BYTES: u64 = MIB;

/// File systems clone in blocks of this size.
const UNIT_BYTES: u64 = 4096;

const MAP_OFFSET: u64 = MIB;

/// The map is written in parts of this size.
const PAGE_BYTES: u64 = 32 << 10;
const PAGE_ENTRIES: u64 = PAGE_BYTES / ENTRY_BYTES;

/// At the end, pages without blocks are written at once up to this many bytes.
const FREE_PAGES_BYTES: u64 = 1 << 20;

const BANNER: &[u8] = b"<<< Tintype VirtualBox Disk Image >>>\n";

/// What the new file will look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    fixed: bool,
    size_bytes: u64,
}

impl Plan {
    /// The size is never changed silently: a disk that cannot be had exactly is not made.
    fn new(options: &CreateOptions) -> Result<Plan> {
        let size_bytes = options.geometry.size_bytes;
        let most = MAX_MAP_BYTES / ENTRY_BYTES * BLOCK_BYTES;
        if size_bytes > most {
            let detail = format!("the disk has {size_bytes} bytes, a VDI image is made for at most {most} (64 TiB)");
            return Err(ImageError::new(ErrorKind::InvalidOption, "create VDI image", detail));
        }
        Ok(Plan { fixed: options.subformat.as_deref() == Some("fixed"), size_bytes })
    }

    fn block_count(self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES)
    }

    fn map_end(self) -> u64 {
        MAP_OFFSET + self.block_count() * ENTRY_BYTES
    }

    /// Where the first block goes.
    fn data_offset(self) -> u64 {
        self.map_end().next_multiple_of(MIB)
    }

    /// Where block number `number` of the file goes, and the file's length with that many blocks.
    fn place(self, number: u64) -> u64 {
        self.data_offset() + number * BLOCK_BYTES
    }
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    if options.target_holds_old_data {
        let detail = "a VDI image can only be made in an empty file, not over old data";
        return Err(ImageError::unsupported("create VDI image", detail));
    }
    let plan = Plan::new(options)?;
    if plan.fixed {
        let file_bytes = plan.place(plan.block_count());
        file.set_len_bytes(file_bytes).map_err(|cause| ImageError::io("set the length of the VDI file", cause))?;
        file.allocate(0, file_bytes).map_err(|cause| ImageError::io("reserve space for the whole disk", cause))?;
    }
    let pages = plan.block_count().div_ceil(PAGE_ENTRIES);
    let map = Mutex::new(Map { allocated: 0, last_block: None, page: None, has_blocks: vec![false; pages as usize] });
    Ok(Box::new(VdiWriter { file, plan, map }))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let plan = Plan::new(options)?;
    let all = plan.block_count();
    let needed = if plan.fixed { all } else { touched_bytes(BLOCK_BYTES)?.div_ceil(BLOCK_BYTES).min(all) };
    Ok(Measure { required_bytes: plan.place(needed), fully_allocated_bytes: plan.place(all) })
}

struct VdiWriter {
    file: Arc<dyn HostFileMut>,
    plan: Plan,
    map: Mutex<Map>,
}

/// Gives dynamic blocks their numbers. Units come in guest order, so only the last block can get more data, and only the
/// last page of the map more entries.
struct Map {
    /// How many blocks the file has.
    allocated: u64,
    /// The block of the disk that got the last of them.
    last_block: Option<u64>,
    page: Option<MapPage>,
    /// For each page, whether it has been begun.
    has_blocks: Vec<bool>,
}

/// A part of the map that has blocks.
struct MapPage {
    number: u64,
    bytes: Vec<u8>,
}

impl MapPage {
    fn write_to(&self, file: &dyn HostFileMut, plan: Plan) -> Result<()> {
        write_map(file, plan, self.number * PAGE_BYTES, &self.bytes)
    }
}

/// Writes a part of the map, as far as the map goes.
fn write_map(file: &dyn HostFileMut, plan: Plan, offset: u64, bytes: &[u8]) -> Result<()> {
    let host_offset = MAP_OFFSET + offset;
    let length = plan.map_end().saturating_sub(host_offset).min(bytes.len() as u64) as usize;
    file.write_all_at(host_offset, &bytes[..length])
        .map_err(|cause| ImageError::io("write VDI block map", cause).at_host(host_offset))
}

impl Map {
    /// The number of a block of the disk in the file: the last one's, or a new one.
    fn number_of(&mut self, block: u64, full_pages: &mut Vec<MapPage>) -> u64 {
        if self.last_block != Some(block) {
            self.set_entry(block, self.allocated as u32, full_pages);
            self.allocated += 1;
            self.last_block = Some(block);
        }
        self.allocated - 1
    }

    fn set_entry(&mut self, block: u64, raw: u32, full_pages: &mut Vec<MapPage>) {
        let (number, within) = (block / PAGE_ENTRIES, block % PAGE_ENTRIES * ENTRY_BYTES);
        if self.page.as_ref().is_some_and(|page| page.number != number) {
            full_pages.extend(self.page.take());
        }
        self.has_blocks[number as usize] = true;
        // Every byte of a free entry is 0xff.
        let page = self.page.get_or_insert_with(|| MapPage { number, bytes: vec![0xff; PAGE_BYTES as usize] });
        LittleEndian::write_u32(&mut page.bytes[within as usize..][..ENTRY_BYTES as usize], raw);
    }
}

/// A unit on its way: what is written where, and the pages of the map that got their last block before it.
struct Encoded<'a> {
    pieces: Pieces<'a>,
    full_pages: Vec<MapPage>,
}

impl UnitWriter for VdiWriter {
    type Encoded<'a> = Encoded<'a>;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: UNIT_BYTES, clones: true, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Encoded<'a>> {
        Ok(Encoded { pieces: Pieces::new(unit), full_pages: Vec::new() })
    }

    fn place(&self, encoded: &mut Encoded<'_>) -> Result<()> {
        let mut map = self.lock();
        for range in encoded.pieces.unit().data_ranges(BLOCK_BYTES) {
            let (block, within) = (range.start / BLOCK_BYTES, range.start % BLOCK_BYTES);
            let number = if self.plan.fixed { block } else { map.number_of(block, &mut encoded.full_pages) };
            encoded.pieces.push(range, self.plan.place(number) + within);
        }
        Ok(())
    }

    fn write(&self, encoded: &Encoded<'_>) -> Result<()> {
        encoded.pieces.write_to(self.file.as_ref(), "write VDI block")?;
        encoded.full_pages.iter().try_for_each(|page| page.write_to(self.file.as_ref(), self.plan))
    }

    fn finish(self, seed: &IdentitySeed) -> Result<()> {
        let allocated = if self.plan.fixed { self.write_fixed_map()? } else { self.write_dynamic_map()? };
        self.sync()?;
        self.file
            .write_all_at(0, header(self.plan, allocated, seed).as_bytes())
            .map_err(|cause| ImageError::io("write VDI header", cause).at_host(0))?;
        self.sync()
    }
}

impl VdiWriter {
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unpoisoned()
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush the VDI file", cause))
    }

    /// Writes what is left of the map; returns how many blocks there are.
    fn write_dynamic_map(&self) -> Result<u64> {
        let mut map = self.lock();
        let (allocated, last_page) = (map.allocated, map.page.take());
        if let Some(page) = last_page {
            page.write_to(self.file.as_ref(), self.plan)?;
        }
        let free = vec![0xff; FREE_PAGES_BYTES.min(map.has_blocks.len() as u64 * PAGE_BYTES) as usize];
        let mut page = 0;
        for pages in map.has_blocks.chunk_by(|page, next| page == next) {
            let end = (page + pages.len() as u64) * PAGE_BYTES;
            let mut offset = page * PAGE_BYTES;
            while pages.first() == Some(&false) && offset < end {
                let part = &free[..FREE_PAGES_BYTES.min(end - offset) as usize];
                write_map(self.file.as_ref(), self.plan, offset, part)?;
                offset += part.len() as u64;
            }
            page += pages.len() as u64;
        }
        self.file
            .set_len_bytes(self.plan.place(allocated))
            .map_err(|cause| ImageError::io("set the length of the VDI file", cause))?;
        Ok(allocated)
    }

    /// Every block of a fixed disk is there, and has its own number.
    fn write_fixed_map(&self) -> Result<u64> {
        let count = self.plan.block_count();
        let mut page = vec![0; PAGE_BYTES as usize];
        for first in (0..count).step_by(PAGE_ENTRIES as usize) {
            for (number, entry) in (first..).zip(page.chunks_exact_mut(ENTRY_BYTES as usize)) {
                LittleEndian::write_u32(entry, number as u32);
            }
            write_map(self.file.as_ref(), self.plan, first * ENTRY_BYTES, &page)?;
        }
        Ok(count)
    }
}

fn header(plan: Plan, allocated: u64, seed: &IdentitySeed) -> NewHeader {
    let mut header = NewHeader::empty();
    header.pre.banner[..BANNER.len()].copy_from_slice(BANNER);
    header.pre.signature = U32::new(SIGNATURE);
    header.pre.version = U32::new(VERSION);
    let v1 = &mut header.v1;
    v1.header_bytes = U32::new(NewHeader::stated_bytes());
    v1.image_type = U32::new(if plan.fixed { FIXED } else { DYNAMIC });
    v1.map_offset = U32::new(MAP_OFFSET as u32);
    v1.data_offset = U32::new(plan.data_offset() as u32);
    v1.geometry.sector_bytes = U32::new(512);
    v1.disk_bytes = U64::new(plan.size_bytes);
    v1.block_bytes = U32::new(BLOCK_BYTES as u32);
    v1.block_count = U32::new(plan.block_count() as u32);
    v1.allocated_count = U32::new(allocated as u32);
    v1.create = seed.uuid("vdi creation uuid").into();
    v1.modify = seed.uuid("vdi modification uuid").into();
    header.logical_geometry.sector_bytes = U32::new(512);
    header
}
