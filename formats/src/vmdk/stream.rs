//! Creating streamOptimized images: one file, written from front to back, every byte of it once.
//!
//! ```text
//!   0        512          64 KiB
//!   │ header │ descriptor │ grains of table 0 │ table 0 │ grains of table 1 │ ... │ directory │ footer │ end
//! ```
//!
//! Each grain, table and the footer follow their markers. A table is placed as soon as a grain of a later one comes; one
//! without grains is left out. The header says that the directory is at the end; the footer, which makes the file whole, is
//! written when everything before it has reached the disk.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::on_disk::*;
use super::settings::{GRAIN_BYTES, Settings, TABLE_ENTRIES};
use super::write_descriptor::{ContentIds, EMBEDDED_DESCRIPTOR_SECTORS, NewDescriptor, NewExtent, own_name};
use crate::HostFileMut;
use crate::codec;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::Measure;
use crate::locks::Unpoisoned as _;
use crate::sink::{GuestUnit, IdentitySeed, ImageWriter, RunKind, TargetFiles, UnitContent, UnitWriter, WriterLayout};

/// Where the grains begin, in sectors.
const OVERHEAD_SECTORS: u64 = 128;
const GRAIN_SECTORS: u64 = GRAIN_BYTES / SECTOR_BYTES;
const TABLE_BYTES: usize = TABLE_ENTRIES as usize * 4;

const WRITE: &str = "write VMDK stream";

struct StreamWriter {
    file: Arc<dyn HostFileMut>,
    size_bytes: u64,
    level: u32,
    allocator: Mutex<Allocator>,
}

/// Where the next thing goes, and the table that is being filled.
struct Allocator {
    next_sector: u64,
    /// Places of the tables, in sectors; 0 for none.
    directory: Vec<u32>,
    table: Option<OpenTable>,
}

struct OpenTable {
    number: u64,
    entries: Vec<u32>,
}

/// A unit between the steps.
pub(super) struct Packed {
    grains: Vec<PackedGrain>,
    /// Their markers and streams, each up to a sector boundary.
    bytes: Vec<u8>,
    writes: Vec<PlacedBytes>,
}

struct PackedGrain {
    number: u64,
    range: Range<usize>,
}

/// What is written at one place.
struct PlacedBytes {
    host_offset: u64,
    content: Content,
}

enum Content {
    /// A range of the unit's bytes.
    Grains(Range<usize>),
    Table(Vec<u8>),
}

pub(super) fn begin(files: &dyn TargetFiles, settings: &Settings, level: u32) -> Result<Box<dyn ImageWriter>> {
    let file = files.main();
    let tables = settings.size_bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
    let mut begin = header(settings.size_bytes, DIRECTORY_AT_END).as_bytes().to_vec();
    begin.extend(descriptor(files.main_name(), settings)?);
    begin.resize((OVERHEAD_SECTORS * SECTOR_BYTES) as usize, 0);
    file.write_all_at(0, &begin).map_err(|cause| ImageError::io(WRITE, cause).at_host(0))?;
    let directory = vec![0; tables as usize];
    let allocator = Mutex::new(Allocator { next_sector: OVERHEAD_SECTORS, directory, table: None });
    Ok(Box::new(StreamWriter { file, size_bytes: settings.size_bytes, level, allocator }))
}

/// Without compression, which nobody can foresee.
pub(super) fn measure(settings: &Settings, touched_bytes: u64) -> Measure {
    let grains = settings.size_bytes.div_ceil(GRAIN_BYTES);
    let tables = settings.size_bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
    let file_bytes = |grains: u64| {
        let tables_bytes = tables.min(grains) * (TABLE_BYTES as u64 + SECTOR_BYTES);
        let directory_bytes = (tables * 4).next_multiple_of(SECTOR_BYTES) + SECTOR_BYTES;
        OVERHEAD_SECTORS * SECTOR_BYTES
            + grains * (GRAIN_BYTES + SECTOR_BYTES)
            + tables_bytes
            + directory_bytes
            + 3 * SECTOR_BYTES
    };
    let touched = touched_bytes.div_ceil(GRAIN_BYTES).min(grains);
    Measure { required_bytes: file_bytes(touched), fully_allocated_bytes: file_bytes(grains) }
}

fn descriptor(main_name: &str, settings: &Settings) -> Result<Vec<u8>> {
    let name = own_name(main_name);
    let extents = [NewExtent { length_bytes: settings.size_bytes, kind: "SPARSE", name }];
    let descriptor = NewDescriptor {
        create_type: "streamOptimized",
        access: "RDONLY",
        ids: ContentIds::of_stream(settings.size_bytes),
        extents: &extents,
        hardware: &settings.hardware,
    };
    descriptor.embedded()
}

fn header(size_bytes: u64, directory_sector: u64) -> HostedHeader {
    HostedHeader {
        magic: HOSTED_MAGIC,
        version: U32::new(MAX_HOSTED_VERSION),
        flags: U32::new(FLAG_LINE_ENDS | FLAG_COMPRESSED | FLAG_MARKERS),
        capacity_sectors: U64::new(size_bytes / SECTOR_BYTES),
        grain_sectors: U64::new(GRAIN_SECTORS),
        descriptor_sector: U64::new(1),
        descriptor_sectors: U64::new(EMBEDDED_DESCRIPTOR_SECTORS),
        table_entries: U32::new(TABLE_ENTRIES as u32),
        redundant_directory_sector: U64::ZERO,
        directory_sector: U64::new(directory_sector),
        overhead_sectors: U64::new(OVERHEAD_SECTORS),
        unclean_shutdown: 0,
        line_ends: LINE_ENDS,
        compression: U16::new(COMPRESSION_DEFLATE),
        padding: [0; 433],
    }
}

fn marker(kind: u32, sectors: u64) -> Marker {
    Marker { sectors: U64::new(sectors), stream_bytes: U32::ZERO, kind: U32::new(kind), padding: [0; 496] }
}

impl Allocator {
    /// Takes sectors from the front.
    fn take(&mut self, length_bytes: u64) -> Result<u64> {
        let sector = self.next_sector;
        let end = sector + length_bytes.div_ceil(SECTOR_BYTES);
        if end > u64::from(u32::MAX) {
            let detail = "the image becomes larger than 2 TiB, which its tables cannot say";
            return Err(ImageError::limit_exceeded(WRITE, detail));
        }
        self.next_sector = end;
        Ok(sector)
    }

    fn place_grain(&mut self, grain: &PackedGrain, writes: &mut Vec<PlacedBytes>) -> Result<()> {
        let (number, within) = (grain.number / TABLE_ENTRIES, grain.number % TABLE_ENTRIES);
        if self.table.as_ref().is_some_and(|table| table.number != number) {
            self.place_table(writes)?;
        }
        let sector = self.take(grain.range.len() as u64)?;
        let table = self.table.get_or_insert_with(|| OpenTable { number, entries: vec![0; TABLE_ENTRIES as usize] });
        if let Some(entry) = table.entries.get_mut(within as usize) {
            *entry = sector as u32;
        }
        let host_offset = sector * SECTOR_BYTES;
        match writes.last_mut() {
            Some(PlacedBytes { content: Content::Grains(range), .. }) if range.end == grain.range.start => {
                range.end = grain.range.end;
            }
            _ => writes.push(PlacedBytes { host_offset, content: Content::Grains(grain.range.clone()) }),
        }
        Ok(())
    }

    /// Places the table that is being filled, with its marker.
    fn place_table(&mut self, writes: &mut Vec<PlacedBytes>) -> Result<()> {
        let Some(table) = self.table.take() else { return Ok(()) };
        let mut bytes = marker(MARKER_GRAIN_TABLE, TABLE_BYTES as u64 / SECTOR_BYTES).as_bytes().to_vec();
        table.entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
        let sector = self.take(bytes.len() as u64)?;
        if let Some(entry) = self.directory.get_mut(table.number as usize) {
            *entry = sector as u32 + 1;
        }
        writes.push(PlacedBytes { host_offset: sector * SECTOR_BYTES, content: Content::Table(bytes) });
        Ok(())
    }
}

impl UnitWriter for StreamWriter {
    type Encoded<'a> = Packed;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: GRAIN_BYTES, clones: false, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Packed> {
        let mut packed = Packed { grains: Vec::new(), bytes: Vec::new(), writes: Vec::new() };
        let UnitContent::Bytes(bytes) = unit.content else { return Ok(packed) };
        let mut runs = unit.runs.iter().filter(|run| run.kind == RunKind::Data).peekable();
        for (number, grain) in (unit.guest_offset / GRAIN_BYTES..).zip(bytes.chunks(GRAIN_BYTES as usize)) {
            let begin = number * GRAIN_BYTES - unit.guest_offset;
            while runs.next_if(|run| run.offset + run.length_bytes <= begin).is_some() {}
            if runs.peek().is_some_and(|run| run.offset < begin + GRAIN_BYTES) {
                packed.push(number, grain, self.level)?;
            }
        }
        Ok(packed)
    }

    fn place(&self, packed: &mut Packed) -> Result<()> {
        let mut allocator = self.allocator.lock().unpoisoned();
        packed.grains.iter().try_for_each(|grain| allocator.place_grain(grain, &mut packed.writes))
    }

    fn write(&self, packed: &Packed) -> Result<()> {
        packed.writes.iter().try_for_each(|write| match &write.content {
            Content::Grains(range) => self.write_at(write.host_offset, &packed.bytes[range.clone()]),
            Content::Table(bytes) => self.write_at(write.host_offset, bytes),
        })
    }

    fn finish(self, _: &IdentitySeed) -> Result<()> {
        let mut allocator = self.allocator.lock().unpoisoned();
        let mut writes = Vec::new();
        allocator.place_table(&mut writes)?;
        for write in &writes {
            if let Content::Table(bytes) = &write.content {
                self.write_at(write.host_offset, bytes)?;
            }
        }
        let directory_bytes = (allocator.directory.len() as u64 * 4).next_multiple_of(SECTOR_BYTES);
        let mut bytes = marker(MARKER_GRAIN_DIRECTORY, directory_bytes / SECTOR_BYTES).as_bytes().to_vec();
        allocator.directory.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_le_bytes()));
        bytes.resize((SECTOR_BYTES + directory_bytes) as usize, 0);
        let directory_sector = allocator.take(bytes.len() as u64)? + 1;
        self.write_at((directory_sector - 1) * SECTOR_BYTES, &bytes)?;
        self.sync()?;

        let mut end = marker(MARKER_FOOTER, 1).as_bytes().to_vec();
        end.extend_from_slice(header(self.size_bytes, directory_sector).as_bytes());
        end.extend_from_slice(marker(MARKER_END_OF_STREAM, 0).as_bytes());
        let footer_sector = allocator.take(end.len() as u64)?;
        self.write_at(footer_sector * SECTOR_BYTES, &end)?;
        self.sync()
    }
}

impl StreamWriter {
    fn write_at(&self, host_offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(host_offset, bytes).map_err(|cause| ImageError::io(WRITE, cause).at_host(host_offset))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush VMDK stream", cause))
    }
}

impl Packed {
    /// Compresses a grain; the disk's last one is filled up with zeros.
    fn push(&mut self, number: u64, grain: &[u8], level: u32) -> Result<()> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; GRAIN_MARKER_BYTES]);
        let packed = if grain.len() == GRAIN_BYTES as usize {
            codec::deflate_zlib(grain, level, &mut self.bytes)
        } else {
            let mut whole = grain.to_vec();
            whole.resize(GRAIN_BYTES as usize, 0);
            codec::deflate_zlib(&whole, level, &mut self.bytes)
        };
        packed.map_err(|cause| ImageError::new(ErrorKind::Io, "compress a grain", cause.to_string()))?;
        let stream_bytes = self.bytes.len() - begin - GRAIN_MARKER_BYTES;
        let marker =
            GrainMarker { sector: U64::new(number * GRAIN_SECTORS), stream_bytes: U32::new(stream_bytes as u32) };
        if let Some(place) = self.bytes.get_mut(begin..begin + GRAIN_MARKER_BYTES) {
            place.copy_from_slice(marker.as_bytes());
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR_BYTES as usize), 0);
        self.grains.push(PackedGrain { number, range: begin..self.bytes.len() });
        Ok(())
    }
}
