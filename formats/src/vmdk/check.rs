//! Checking: what reading does not look at, because it takes all tables to see it.
//!
//! Every grain and every structure has to have a place of its own in the file. Grains of streams are looked at, too: each
//! has to be what its table says, and to expand. The files that a descriptor names are looked at in the same way; parents
//! are not.

use std::ops::Range;
use std::sync::Arc;

use super::descriptor::ExtentLine;
use super::extents::{Layout, in_extent};
use super::grains::GrainReader;
use super::header::{Directory, Shape, SparseKind};
use super::on_disk::*;
use super::read::{Storage, VmdkImage};
use super::tables::{self, GrainMap, TableCache};
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::host_file::HostFile;
use crate::reference_gate::ReferenceGate;

/// Most places of grains that are compared, 8 bytes each; with usual grains that is 1 TiB of data.
const MAX_COMPARED_GRAINS: usize = 16 << 20;

/// Looks for damage in the file's own structures.
pub(super) fn check(image: &VmdkImage, report: &mut CheckReport) -> Result<()> {
    report.host_end_offset = image.file_bytes;
    match &image.shape {
        Some(shape) => check_sparse(&image.file.file, image.file_bytes, shape, image.size_bytes(), report),
        None => Ok(()),
    }
}

/// The same, and in the files that the descriptor names.
pub(super) fn check_all_files(image: &VmdkImage, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
    check(image, report)?;
    let (None, Some(descriptor)) = (&image.shape, &image.descriptor) else { return Ok(()) };
    let mut layout = Layout::default();
    for (number, line) in (1..).zip(&descriptor.extents) {
        let mut found = CheckReport::default();
        check_extent(&mut layout, line, gate, &mut found).map_err(|cause| in_extent(number, line, cause))?;
        report.add_file(line.names.first().map_or("", String::as_str), found);
    }
    report.allocated_bytes = report.allocated_bytes.min(image.size_bytes());
    layout.check_ranges().or_else(|error| told(error, report))
}

fn check_extent(
    layout: &mut Layout,
    line: &ExtentLine,
    gate: &dyn ReferenceGate,
    report: &mut CheckReport,
) -> Result<()> {
    let known = layout.extents.len();
    match layout.open_extent(line, gate) {
        Err(error) if error.kind() == ErrorKind::ReferenceDenied => return Err(error),
        opened => opened.or_else(|error| told(error, report))?,
    }
    let Some(extent) = layout.extents.get(known) else { return Ok(()) };
    match &extent.storage {
        Storage::Zero => Ok(()),
        Storage::Flat { file_bytes, host_offset, .. } => {
            let end = host_offset.saturating_add(extent.length_bytes);
            if end > *file_bytes {
                report
                    .corruption(*host_offset, format_args!("the extent ends at {end:#x}, the file at {file_bytes:#x}"));
            }
            report.allocated_bytes = extent.length_bytes;
            Ok(())
        }
        Storage::Sparse { file, map } => {
            let (host, file_bytes) = layout.host_file(*file)?;
            check_sparse(&host, file_bytes, &map.shape, extent.length_bytes, report)
        }
    }
}

/// Looks for damage in a sparse extent, which has so much of the disk.
fn check_sparse(
    file: &Arc<dyn HostFile>,
    file_bytes: u64,
    shape: &Shape,
    size_bytes: u64,
    report: &mut CheckReport,
) -> Result<()> {
    if shape.unclean {
        report.corruption(0, "the header says that the extent was not closed properly");
    }
    check_directories(file.as_ref(), file_bytes, shape, report)?;
    let cache = Arc::new(TableCache::default());
    let map = match GrainMap::open(Arc::clone(file), file_bytes, shape.clone(), 0, cache) {
        Ok(map) => map,
        Err(error) => return told(error, report),
    };
    if let Some(scanned) = map.scanned() {
        report.corruption(scanned.cut_offset(), "the end of the stream is missing");
        report.allocated_bytes = scanned.count().saturating_mul(shape.grain_bytes).min(shape.capacity_bytes);
        return Ok(());
    }
    GrainCheck { map: &map, shape, size_bytes, places: Vec::new(), report }.run()
}

/// An error of the image is a finding; one of the operating system is an error.
fn told(error: crate::ImageError, report: &mut CheckReport) -> Result<()> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    report.corruption(error.host_offset(), &error);
    Ok(())
}

/// Both directories have to be good, and to name tables for the same parts of the disk.
fn check_directories(file: &dyn HostFile, file_bytes: u64, shape: &Shape, report: &mut CheckReport) -> Result<()> {
    let Directory::At { host_offset, redundant: Some(redundant) } = shape.directory else { return Ok(()) };
    let mut read = |offset| match tables::read_directory(file, file_bytes, shape, offset) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) => told(error, report).map(|()| None),
    };
    if let (Some(first), Some(second)) = (read(host_offset)?, read(redundant)?)
        && first.iter().zip(&second).any(|(first, second)| (*first == 0) != (*second == 0))
    {
        report.corruption(redundant, "the two grain directories do not name the same tables");
    }
    Ok(())
}

struct GrainCheck<'a> {
    map: &'a GrainMap,
    shape: &'a Shape,
    size_bytes: u64,
    /// Where grains begin.
    places: Vec<u64>,
    report: &'a mut CheckReport,
}

impl GrainCheck<'_> {
    fn run(&mut self) -> Result<()> {
        let tables: Vec<(u64, u64)> =
            (0..).zip(self.map.table_offsets()).filter_map(|(number, offset)| Some((number, offset?))).collect();
        for (number, table_offset) in &tables {
            match self.map.read_table(*table_offset) {
                Ok(grains) => self.check_table(*number, *table_offset, &grains)?,
                Err(error) => told(error, self.report)?,
            }
        }
        self.report.allocated_bytes = self.report.allocated_bytes.min(self.size_bytes);
        self.compare_places();
        self.compare_with_structures(&tables);
        Ok(())
    }

    fn check_table(&mut self, number: u64, table_offset: u64, grains: &[Grain]) -> Result<()> {
        let first = number * self.shape.table_entries;
        let (_, file_bytes) = self.map.file();
        for (grain, found) in (first..).zip(grains) {
            let guest_offset = grain.saturating_mul(self.shape.grain_bytes);
            match found {
                Grain::Absent | Grain::Zero => {}
                Grain::Bad(raw) => {
                    self.report
                        .corruption(table_offset, format_args!("the entry of grain {grain} is {raw:#x}: no grain"));
                }
                Grain::Stored(_) if guest_offset >= self.shape.capacity_bytes => {
                    self.report.leak(table_offset, format_args!("grain {grain} is past the end of the disk"));
                }
                Grain::Stored(host_offset) => {
                    self.report.allocated_bytes += self.shape.grain_bytes;
                    let needed = self.shape.grain_bytes.min(self.shape.capacity_bytes - guest_offset);
                    let least = if self.shape.compressed { GRAIN_MARKER_BYTES as u64 } else { needed };
                    if host_offset.checked_add(least).is_none_or(|end| end > file_bytes) {
                        let text = format!("grain {grain} reaches past the end of the file ({file_bytes:#x})");
                        self.report.corruption(*host_offset, text);
                    } else if self.places.len() < MAX_COMPARED_GRAINS {
                        self.places.push(*host_offset);
                    }
                }
            }
        }
        if self.shape.compressed { self.expand(first, grains) } else { Ok(()) }
    }

    /// Expands every grain of a table.
    fn expand(&mut self, first: u64, grains: &[Grain]) -> Result<()> {
        let mut buffer = vec![0; self.shape.grain_bytes as usize];
        for (grain, found) in (first..).zip(grains) {
            let guest_offset = grain.saturating_mul(self.shape.grain_bytes);
            if !matches!(found, Grain::Stored(_)) || guest_offset >= self.shape.capacity_bytes {
                continue;
            }
            let wanted = self.shape.grain_bytes.min(self.shape.capacity_bytes - guest_offset) as usize;
            let target = buffer.get_mut(..wanted).unwrap_or_default();
            let read = GrainReader::new(self.map, grain, 1).and_then(|reader| reader.read(0, target));
            if let Err(error) = read {
                told(error.at_guest(guest_offset), self.report)?;
            }
        }
        Ok(())
    }

    /// No two grains may share bytes.
    fn compare_places(&mut self) {
        self.places.sort_unstable();
        let least = if self.shape.compressed { SECTOR_BYTES } else { self.shape.grain_bytes };
        for pair in self.places.windows(2).filter(|pair| pair[1] - pair[0] < least) {
            let text = format!("this grain overlaps the one at {:#x}", pair[0]);
            self.report.corruption(pair[1], text);
        }
    }

    /// No grain may lie in the header, the descriptor, a directory or a table.
    fn compare_with_structures(&mut self, tables: &[(u64, u64)]) {
        let grain_bytes = if self.shape.compressed { SECTOR_BYTES } else { self.shape.grain_bytes };
        let mut used = vec![("the header", 0..SECTOR_BYTES)];
        used.extend(self.shape.descriptor.map(|(offset, length)| ("the descriptor", offset..offset + length)));
        if let Directory::At { host_offset, redundant } = self.shape.directory {
            let length = self.shape.table_count() * self.shape.entry_bytes();
            let range = |offset: u64| offset..offset.saturating_add(length);
            used.push(("the grain directory", range(host_offset)));
            used.extend(redundant.map(|offset| ("the redundant grain directory", range(offset))));
        }
        let table_bytes = self.shape.table_entries * self.shape.entry_bytes();
        used.extend(tables.iter().map(|(_, offset)| ("a grain table", *offset..offset.saturating_add(table_bytes))));
        for (name, range) in used {
            if let Some(place) = first_overlap(&self.places, grain_bytes, &range) {
                self.report.corruption(place, format_args!("this grain overlaps {name} at {:#x}", range.start));
            }
        }
        if self.shape.kind == SparseKind::Hosted && !self.shape.compressed {
            self.find_leaks();
        }
    }

    /// Space between grains that nothing names.
    fn find_leaks(&mut self) {
        let grain_bytes = self.shape.grain_bytes;
        let gaps: Vec<Range<u64>> = self
            .places
            .windows(2)
            .map(|pair| pair[0].saturating_add(grain_bytes)..pair[1])
            .filter(|gap| gap.end.saturating_sub(gap.start) >= grain_bytes && gap.start < gap.end)
            .collect();
        let table_bytes = self.shape.table_entries * self.shape.entry_bytes();
        let mut tables: Vec<u64> = self.map.table_offsets().flatten().collect();
        tables.sort_unstable();
        for gap in gaps {
            if first_overlap(&tables, table_bytes, &gap).is_none() {
                let text = format!("nothing uses the {:#x} bytes from {:#x} on", gap.end - gap.start, gap.start);
                self.report.leak(gap.start, text);
            }
        }
    }
}

/// The first of equally long things, sorted by their places, that overlaps a range.
fn first_overlap(places: &[u64], length_bytes: u64, range: &Range<u64>) -> Option<u64> {
    let index = places.partition_point(|place| place.saturating_add(length_bytes) <= range.start);
    places.get(index).copied().filter(|place| *place < range.end)
}
