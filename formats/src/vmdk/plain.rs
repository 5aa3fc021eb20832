//! Creating images whose grains are stored as they are: sparse, in one file or in parts of 2 GiB, or flat.
//!
//! ```text
//!   monolithicSparse      │ header │ descriptor │ directory, tables │ the same again │ grain │ grain │ ...
//!   twoGbMaxExtentSparse  descriptor;  -s001.vmdk │ header │ directory, tables │ the same again │ grain │ ...;  -s002 ...
//!   monolithicFlat        descriptor;  -flat.vmdk │ the disk
//! ```
//!
//! Grains are given their places as the guest's data comes, in ascending order. All tables have their places from the
//! begin, as VMware's programs expect; those without grains are not written, a fresh file reads as zeros. What makes the
//! image valid, the header or the descriptor, is written when everything else has reached the disk.

use std::sync::{Arc, Mutex, MutexGuard};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::on_disk::*;
use super::settings::{CREATE, GRAIN_BYTES, Settings, TABLE_ENTRIES};
use super::write_descriptor::{ContentIds, EMBEDDED_DESCRIPTOR_SECTORS, Hardware, NewDescriptor, NewExtent, own_name};
use crate::HostFileMut;
use crate::error::{ImageError, Result};
use crate::format::Measure;
use crate::limits::MAX_REFERENCE_NAME_BYTES;
use crate::locks::Unpoisoned as _;
use crate::pieces::Pieces;
use crate::sink::{GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitWriter, WriterLayout, invalid_option};

/// File systems clone in blocks of this size.
const UNIT_BYTES: u64 = 4096;

/// The length of a part of a split disk: what VMware's programs choose.
const SPLIT_BYTES: u64 = 2047 << 20;

const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR_BYTES;
const GRAIN_SECTORS: u64 = GRAIN_BYTES / SECTOR_BYTES;

/// How the disk is laid out in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    MonolithicSparse,
    MonolithicFlat,
    SplitSparse,
}

impl Layout {
    fn create_type(self) -> &'static str {
        match self {
            Layout::MonolithicSparse => "monolithicSparse",
            Layout::MonolithicFlat => "monolithicFlat",
            Layout::SplitSparse => "twoGbMaxExtentSparse",
        }
    }

    /// Whether the descriptor is in the file of the only extent.
    fn is_embedded(self) -> bool {
        self == Layout::MonolithicSparse
    }

    /// The longest part of the disk in one file.
    fn extent_bytes(self) -> u64 {
        if self == Layout::SplitSparse { SPLIT_BYTES } else { u64::MAX }
    }

    fn extent_lengths(self, size_bytes: u64) -> impl Iterator<Item = u64> {
        let count = size_bytes.div_ceil(self.extent_bytes()).max(1);
        (0..count).map(move |index| (size_bytes - index * self.extent_bytes()).min(self.extent_bytes()))
    }
}

/// Where the structures of a sparse extent are, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SparseLayout {
    tables: u64,
    descriptor_sectors: u64,
}

impl SparseLayout {
    fn new(length_bytes: u64, embedded: bool) -> Self {
        let tables = length_bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
        SparseLayout { tables, descriptor_sectors: if embedded { EMBEDDED_DESCRIPTOR_SECTORS } else { 0 } }
    }

    fn directory_sectors(&self) -> u64 {
        (self.tables * 4).div_ceil(SECTOR_BYTES)
    }

    /// The redundant directory, and the one that counts.
    fn directories(&self) -> [u64; 2] {
        let first = 1 + self.descriptor_sectors;
        [first, first + self.directory_sectors() + self.tables * TABLE_SECTORS]
    }

    fn first_grain_sector(&self) -> u64 {
        let [first, second] = self.directories();
        (second + (second - first)).next_multiple_of(GRAIN_SECTORS)
    }

    /// Where a table is, of the directory at `directory_sector`.
    fn table_sector(&self, directory_sector: u64, table: u64) -> u64 {
        directory_sector + self.directory_sectors() + table * TABLE_SECTORS
    }
}

/// A file with a part of the disk.
struct ExtentFile {
    file: Arc<dyn HostFileMut>,
    name: String,
    length_bytes: u64,
    sparse: Option<SparseLayout>,
    grains: Mutex<Grains>,
}

/// Gives grains their places. Units come in guest order, so only the last grain can get more data, and only the last table
/// more entries.
struct Grains {
    next_sector: u64,
    /// Its number and its place in bytes.
    last: Option<(u64, u64)>,
    table: Option<OpenTable>,
}

struct OpenTable {
    number: u64,
    bytes: Vec<u8>,
}

struct PlainWriter {
    layout: Layout,
    /// The descriptor's file, if it has one of its own.
    main: Arc<dyn HostFileMut>,
    extents: Vec<ExtentFile>,
    hardware: Hardware,
}

/// A unit on its way: what is written where in which extent, and the tables that got their last entry before it.
pub(super) struct Placed<'a> {
    unit: GuestUnit<'a>,
    parts: Vec<(usize, Pieces<'a>)>,
    full_tables: Vec<(usize, OpenTable)>,
}

pub(super) fn begin(files: &dyn TargetFiles, settings: Settings, layout: Layout) -> Result<Box<dyn ImageWriter>> {
    let lengths: Vec<u64> = layout.extent_lengths(settings.size_bytes).take(MAX_EXTENTS + 1).collect();
    if lengths.len() > MAX_EXTENTS {
        let most = MAX_EXTENTS as u64 * SPLIT_BYTES;
        let detail = format!("the disk has {} bytes, at most {most} can be split in parts", settings.size_bytes);
        return Err(ImageError::limit_exceeded(CREATE, detail));
    }
    let mut extents = Vec::with_capacity(lengths.len());
    for (number, length_bytes) in (1..).zip(lengths) {
        extents.push(begin_extent(files, layout, number, length_bytes)?);
    }
    Ok(Box::new(PlainWriter { layout, main: files.main(), extents, hardware: settings.hardware }))
}

fn begin_extent(files: &dyn TargetFiles, layout: Layout, number: u64, length_bytes: u64) -> Result<ExtentFile> {
    let sparse = (layout != Layout::MonolithicFlat).then(|| SparseLayout::new(length_bytes, layout.is_embedded()));
    let name = extent_name(files.main_name(), layout, number)?;
    let file = if layout.is_embedded() { files.main() } else { files.create(&name)? };
    if sparse.is_none() {
        file.set_len_bytes(length_bytes).map_err(|cause| ImageError::io("set the length of the flat file", cause))?;
    }
    let next_sector = sparse.map_or(0, |sparse| sparse.first_grain_sector());
    let grains = Mutex::new(Grains { next_sector, last: None, table: None });
    Ok(ExtentFile { file, name, length_bytes, sparse, grains })
}

/// The name of an extent's file, beside the descriptor.
fn extent_name(main_name: &str, layout: Layout, number: u64) -> Result<String> {
    let end = main_name.len().saturating_sub(".vmdk".len());
    let base = match main_name.get(end..) {
        Some(extension) if extension.eq_ignore_ascii_case(".vmdk") && end > 0 => main_name.get(..end),
        _ => None,
    };
    let base = base.unwrap_or(main_name);
    let name = match layout {
        Layout::MonolithicSparse => return Ok(own_name(main_name)),
        Layout::MonolithicFlat => format!("{base}-flat.vmdk"),
        Layout::SplitSparse => format!("{base}-s{number:03}.vmdk"),
    };
    if name.chars().any(|c| c.is_control() || c == '"') || name.len() > MAX_REFERENCE_NAME_BYTES {
        return Err(invalid_option("target name", main_name, "a name without quotes and control characters"));
    }
    Ok(name)
}

pub(super) fn measure(settings: &Settings, layout: Layout, touched_bytes: u64) -> Measure {
    if layout == Layout::MonolithicFlat {
        return Measure { required_bytes: settings.size_bytes, fully_allocated_bytes: settings.size_bytes };
    }
    let overhead_of = |length_bytes| SparseLayout::new(length_bytes, layout.is_embedded()).first_grain_sector();
    let overhead: u64 = layout.extent_lengths(settings.size_bytes).map(overhead_of).sum();
    let file_bytes = |bytes: u64| overhead * SECTOR_BYTES + bytes.next_multiple_of(GRAIN_BYTES);
    let touched_bytes = touched_bytes.min(settings.size_bytes);
    Measure { required_bytes: file_bytes(touched_bytes), fully_allocated_bytes: file_bytes(settings.size_bytes) }
}

impl Grains {
    /// The place of a grain: the last one's, or a new one at the end of the file; and the table that got its last entry
    /// before it.
    fn place(&mut self, number: u64) -> Result<(u64, Option<OpenTable>)> {
        if let Some((last, host_offset)) = self.last
            && last == number
        {
            return Ok((host_offset, None));
        }
        let sector = self.next_sector;
        let entry = u32::try_from(sector).map_err(|_| {
            let detail = "the file becomes larger than 2 TiB, which its tables cannot say";
            ImageError::limit_exceeded("place grains", detail)
        })?;
        self.next_sector += GRAIN_SECTORS;
        self.last = Some((number, sector * SECTOR_BYTES));
        let full_table = self.set_entry(number, entry);
        Ok((sector * SECTOR_BYTES, full_table))
    }

    /// Returns the table before this one, if this is the first entry after it.
    fn set_entry(&mut self, grain: u64, entry: u32) -> Option<OpenTable> {
        let (number, within) = (grain / TABLE_ENTRIES, (grain % TABLE_ENTRIES) as usize * 4);
        let full = self.table.take_if(|table| table.number != number);
        let empty = || OpenTable { number, bytes: vec![0; TABLE_ENTRIES as usize * 4] };
        let table = self.table.get_or_insert_with(empty);
        if let Some(place) = table.bytes.get_mut(within..within + 4) {
            place.copy_from_slice(&entry.to_le_bytes());
        }
        full
    }
}

impl ExtentFile {
    fn lock(&self) -> MutexGuard<'_, Grains> {
        self.grains.lock().unpoisoned()
    }

    fn write_at(&self, host_offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io("write VMDK extent", cause).at_host(host_offset))
    }

    /// Writes a table in both its places.
    fn write_table(&self, table: &OpenTable) -> Result<()> {
        let Some(sparse) = self.sparse else { return Ok(()) };
        let places = sparse.directories().map(|directory| sparse.table_sector(directory, table.number));
        places.into_iter().try_for_each(|sector| self.write_at(sector * SECTOR_BYTES, &table.bytes))
    }

    /// Writes what is left of the tables, and sets the file's length; all but the header.
    fn finish_tables(&self) -> Result<()> {
        let Some(sparse) = self.sparse else { return Ok(()) };
        let (table, end_sector) = {
            let mut grains = self.lock();
            (grains.table.take(), grains.next_sector)
        };
        table.iter().try_for_each(|table| self.write_table(table))?;
        for directory in sparse.directories() {
            let sectors = (0..sparse.tables).map(|table| sparse.table_sector(directory, table) as u32);
            let bytes: Vec<u8> = sectors.flat_map(u32::to_le_bytes).collect();
            self.write_at(directory * SECTOR_BYTES, &bytes)?;
        }
        self.file
            .set_len_bytes(end_sector * SECTOR_BYTES)
            .map_err(|cause| ImageError::io("set the length of the VMDK extent", cause))
    }

    fn write_header(&self) -> Result<()> {
        let Some(sparse) = self.sparse else { return Ok(()) };
        self.write_at(0, header(self.length_bytes, &sparse).as_bytes())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io("flush VMDK extent", cause))
    }
}

fn header(length_bytes: u64, sparse: &SparseLayout) -> HostedHeader {
    let [redundant, directory] = sparse.directories();
    HostedHeader {
        magic: HOSTED_MAGIC,
        version: U32::new(1),
        flags: U32::new(FLAG_LINE_ENDS | FLAG_REDUNDANT_DIRECTORY),
        capacity_sectors: U64::new(length_bytes / SECTOR_BYTES),
        grain_sectors: U64::new(GRAIN_SECTORS),
        descriptor_sector: U64::new(u64::from(sparse.descriptor_sectors > 0)),
        descriptor_sectors: U64::new(sparse.descriptor_sectors),
        table_entries: U32::new(TABLE_ENTRIES as u32),
        redundant_directory_sector: U64::new(redundant),
        directory_sector: U64::new(directory),
        overhead_sectors: U64::new(sparse.first_grain_sector()),
        unclean_shutdown: 0,
        line_ends: LINE_ENDS,
        compression: U16::ZERO,
        padding: [0; 433],
    }
}

impl<'a> Placed<'a> {
    fn pieces_in(&mut self, extent: usize) -> &mut Pieces<'a> {
        if self.parts.last().is_none_or(|(last, _)| *last != extent) {
            self.parts.push((extent, Pieces::new(&self.unit)));
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last].1
    }
}

impl PlainWriter {
    fn descriptor(&self, seed: &IdentitySeed) -> Result<Vec<u8>> {
        let kind = if self.layout == Layout::MonolithicFlat { "FLAT" } else { "SPARSE" };
        let describe =
            |extent: &ExtentFile| NewExtent { length_bytes: extent.length_bytes, kind, name: extent.name.clone() };
        let extents: Vec<_> = self.extents.iter().map(describe).collect();
        let descriptor = NewDescriptor {
            create_type: self.layout.create_type(),
            access: "RW",
            ids: ContentIds::from_seed(seed),
            extents: &extents,
            hardware: &self.hardware,
        };
        if self.layout.is_embedded() { descriptor.embedded() } else { Ok(descriptor.text().into_bytes()) }
    }

    fn write_main(&self, host_offset: u64, bytes: &[u8]) -> Result<()> {
        self.main
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io("write VMDK descriptor", cause).at_host(host_offset))
    }

    fn sync_main(&self) -> Result<()> {
        self.main.sync_data().map_err(|cause| ImageError::io("flush VMDK descriptor", cause))
    }
}

impl UnitWriter for PlainWriter {
    type Encoded<'a> = Placed<'a>;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: UNIT_BYTES, clones: true, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Placed<'a>> {
        Ok(Placed { unit: *unit, parts: Vec::new(), full_tables: Vec::new() })
    }

    fn place(&self, placed: &mut Placed<'_>) -> Result<()> {
        // The parts of a split disk are whole grains.
        let step_bytes = if self.layout == Layout::MonolithicFlat { u64::MAX } else { GRAIN_BYTES };
        for range in placed.unit.data_ranges(step_bytes) {
            let index = (range.start / self.layout.extent_bytes()) as usize;
            let mut host_offset = range.start % self.layout.extent_bytes();
            let Some(extent) = self.extents.get(index) else {
                return Err(ImageError::out_of_range(range.start, range.end - range.start, 0));
            };
            if extent.sparse.is_some() {
                let (grain, within) = (host_offset / GRAIN_BYTES, host_offset % GRAIN_BYTES);
                let (grain_offset, full_table) = extent.lock().place(grain)?;
                placed.full_tables.extend(full_table.map(|table| (index, table)));
                host_offset = grain_offset + within;
            }
            placed.pieces_in(index).push(range, host_offset);
        }
        Ok(())
    }

    fn write(&self, placed: &Placed<'_>) -> Result<()> {
        for (index, pieces) in &placed.parts {
            let Some(extent) = self.extents.get(*index) else { continue };
            pieces.write_to(extent.file.as_ref(), "write VMDK grains")?;
        }
        let write = |(index, table): &(usize, OpenTable)| match self.extents.get(*index) {
            Some(extent) => extent.write_table(table),
            None => Ok(()),
        };
        placed.full_tables.iter().try_for_each(write)
    }

    fn finish(self, seed: &IdentitySeed) -> Result<()> {
        self.extents.iter().try_for_each(ExtentFile::finish_tables)?;
        let descriptor = self.descriptor(seed)?;
        if self.layout.is_embedded() {
            self.write_main(SECTOR_BYTES, &descriptor)?;
            self.sync_main()?;
            self.extents.iter().try_for_each(ExtentFile::write_header)?;
            return self.sync_main();
        }
        self.extents.iter().try_for_each(ExtentFile::write_header)?;
        self.extents.iter().try_for_each(ExtentFile::sync)?;
        self.write_main(0, &descriptor)?;
        self.sync_main()
    }
}
