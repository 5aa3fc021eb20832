//! Reading: the header, and blocks by the table of where they begin. All numbers are big-endian.

use byteorder::{BigEndian, ByteOrder};

use crate::check::CheckReport;
use crate::codec;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::extent::{LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::limits::MAX_DISK_BYTES;
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::table_cache::TableCache;

const READ_HEADER: &str = "read cloop header";
const READ_TABLE: &str = "read cloop block table";
const READ_BLOCK: &str = "read cloop block";

/// The script that a file begins with, up to the version.
const SCRIPT: &[u8] = b"#!/bin/sh\n#V";
/// The version that is read; `V3.0` and `V4.0` are laid out in other ways.
const VERSION: &[u8] = b"2.0";

/// Where the block size is; the number of blocks follows.
const SIZES_OFFSET: usize = 128;
/// Where the table begins.
const TABLE_OFFSET: u64 = 136;
const ENTRY_BYTES: u64 = 8;
const SECTOR_BYTES: u64 = 512;

/// Largest block, in bytes: one is held in memory, stored and expanded. The kernel's module warns above 256 KiB.
const MAX_BLOCK_BYTES: u64 = 16 << 20;

/// What the header says, checked.
#[derive(Debug, Clone, Copy)]
struct Layout {
    block_bytes: u64,
    block_count: u64,
    table_end: u64,
    file_len_bytes: u64,
}

/// The version of the format that a file's begin names.
pub(super) fn version_of(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(SCRIPT)?.get(..16)?;
    let end = line.windows(7).position(|part| part == b" Format")?;
    line.get(..end)
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let layout = Layout::read(&file)?;
    let info = ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(layout.block_bytes * layout.block_count, layout.block_bytes),
        identity: None,
        details: vec![("block_size_bytes", layout.block_bytes.into()), ("compression", "zlib".into())],
        warnings: Vec::new(),
    };
    Ok(Box::new(CloopImage { file, layout, info }))
}

impl Layout {
    fn read(file: &OpenFile) -> Result<Self> {
        let file_len_bytes =
            file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut head = [0; TABLE_OFFSET as usize];
        file.file.read_exact_at(0, &mut head).map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(0))?;
        let version = version_of(&head)
            .ok_or_else(|| ImageError::not_this_format(READ_HEADER, "it does not begin like a cloop file"))?;
        if version != VERSION {
            let detail = format!("its version is V{}, only V2.0 is known", version.escape_ascii());
            return Err(ImageError::unsupported(READ_HEADER, detail));
        }
        let number_at = |at: usize| u64::from(head.get(at..).map_or(0, BigEndian::read_u32));
        Layout::check(number_at(SIZES_OFFSET), number_at(SIZES_OFFSET + 4), file_len_bytes)
    }

    fn check(block_bytes: u64, block_count: u64, file_len_bytes: u64) -> Result<Self> {
        let corrupt = |detail: String| ImageError::corrupt(READ_HEADER, detail).at_host(SIZES_OFFSET as u64);
        if block_bytes == 0 || !block_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(corrupt(format!("blocks have {block_bytes} bytes, expected whole sectors")));
        }
        if block_bytes > MAX_BLOCK_BYTES || block_bytes * block_count > MAX_DISK_BYTES {
            let detail = format!("{block_count} blocks of {block_bytes} bytes are more than can be read");
            return Err(ImageError::limit_exceeded(READ_HEADER, detail).at_host(SIZES_OFFSET as u64));
        }
        let table_end = TABLE_OFFSET + (block_count + 1) * ENTRY_BYTES;
        if table_end > file_len_bytes {
            let detail =
                format!("the table of {block_count} blocks ends at {table_end:#x}, the file at {file_len_bytes:#x}");
            return Err(ImageError::truncated(READ_HEADER, detail).at_host(SIZES_OFFSET as u64));
        }
        Ok(Layout { block_bytes, block_count, table_end, file_len_bytes })
    }

    /// More than zlib makes of a block that cannot be compressed.
    fn max_stored_bytes(&self) -> u64 {
        self.block_bytes + self.block_bytes / 8 + 4096
    }
}

struct CloopImage {
    file: OpenFile,
    layout: Layout,
    info: ImageInfo,
}

impl CloopImage {
    fn cloop_layer(&self) -> CloopLayer {
        CloopLayer {
            geometry: self.info.geometry,
            layout: self.layout,
            table: TableCache::new(self.file.file.clone(), self.layout.file_len_bytes),
            files: [self.file.clone()],
        }
    }
}

impl Image for CloopImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, _gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        no_snapshot(snapshot)?;
        Ok(Box::new(self.cloop_layer()))
    }

    /// Looks at the table; whether the blocks decode is for reading them to find out.
    fn check(&self, report: &mut CheckReport) -> Result<()> {
        let layer = self.cloop_layer();
        report.host_end_offset = self.layout.table_end;
        for block in 0..self.layout.block_count {
            match layer.place_of(block) {
                Ok((_, end)) => {
                    report.allocated_bytes += self.layout.block_bytes;
                    report.host_end_offset = report.host_end_offset.max(end);
                }
                Err(error) if error.kind() == crate::ErrorKind::Io => return Err(error),
                Err(error) => report.corruption(error.host_offset(), &error),
            }
        }
        Ok(())
    }
}

struct CloopLayer {
    geometry: Geometry,
    layout: Layout,
    table: TableCache,
    files: [OpenFile; 1],
}

impl CloopLayer {
    fn entry_at(&self, index: u64) -> Result<u64> {
        let offset = TABLE_OFFSET + index * ENTRY_BYTES;
        let (page, within) = self.table.page_at(READ_TABLE, offset)?;
        let entry = page.get(within..).and_then(|rest| rest.first_chunk::<8>());
        let entry =
            entry.ok_or_else(|| ImageError::truncated(READ_TABLE, "the file ends in an entry").at_host(offset))?;
        Ok(u64::from_be_bytes(*entry))
    }

    /// Where a block begins and ends in the file. Blocks follow each other, so that none is there twice.
    fn place_of(&self, block: u64) -> Result<(u64, u64)> {
        let (start, end) = (self.entry_at(block)?, self.entry_at(block + 1)?);
        let fault = |found: &str| {
            let detail = format!("block {block} goes from {start:#x} to {end:#x}, {found}");
            ImageError::corrupt(READ_TABLE, detail).at_host(TABLE_OFFSET + block * ENTRY_BYTES)
        };
        if start < self.layout.table_end || end > self.layout.file_len_bytes {
            let (least, most) = (self.layout.table_end, self.layout.file_len_bytes);
            return Err(fault(&format!("outside of the blocks' place ({least:#x} to {most:#x})")));
        }
        if end <= start || end - start > self.layout.max_stored_bytes() {
            return Err(fault(&format!("expected 1 to {} bytes", self.layout.max_stored_bytes())));
        }
        Ok((start, end))
    }

    /// Decodes a whole block.
    fn read_block(&self, block: u64, target: &mut [u8]) -> Result<()> {
        let (start, end) = self.place_of(block)?;
        let mut stored = vec![0; (end - start) as usize];
        self.files[0]
            .file
            .read_exact_at(start, &mut stored)
            .map_err(|cause| ImageError::io(READ_BLOCK, cause).at_host(start))?;
        let detail = format!("block {block} does not decode to {} bytes", target.len());
        let damaged = |detail| ImageError::corrupt(READ_BLOCK, detail).at_host(start);
        match codec::inflate_zlib(&stored, target) {
            Ok(length) if length == target.len() => Ok(()),
            Ok(length) => Err(damaged(format!("{detail}, but to {length}"))),
            Err(cause) => Err(damaged(detail).caused_by(cause)),
        }
    }
}

impl ImageLayer for CloopLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Everything is compressed: nothing needs to be looked up.
    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        Ok(LayerExtent { length_bytes, kind: LayerKind::Encoded })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let block_bytes = self.layout.block_bytes;
        let (mut guest_offset, mut left) = (guest_offset, buffer);
        while !left.is_empty() {
            let (block, within) = (guest_offset / block_bytes, guest_offset % block_bytes);
            let length = (block_bytes - within).min(left.len() as u64);
            let (part, rest) = left.split_at_mut(length as usize);
            let read = if length == block_bytes {
                self.read_block(block, part)
            } else {
                let mut whole = vec![0; block_bytes as usize];
                self.read_block(block, &mut whole).map(|()| {
                    let wanted = whole.iter().skip(within as usize);
                    part.iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
                })
            };
            read.map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += length;
            left = rest;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
