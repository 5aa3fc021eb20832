//! Checking: what reading does not look at, because it takes all tables to see it.
//!
//! Every grain and every structure has to have a place of its own in the file. Grains of streams are looked at, too: each
//! has to be what its table says, and to expand. What other files hold is theirs to check.

use std::ops::Range;
use std::sync::Arc;

use super::grains::GrainReader;
use super::header::{Directory, Shape, SparseKind};
use super::image::VmdkImage;
use super::on_disk::*;
use super::tables::{self, Grain, GrainMap, TableCache};
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};

/// Most places of grains that are compared, 8 bytes each; with usual grains that is 1 TiB of data.
const MAX_COMPARED_GRAINS: usize = 16 << 20;

/// Looks for damage in the file's own structures.
pub(super) fn check(image: &VmdkImage, report: &mut CheckReport) -> Result<()> {
    report.host_end_offset = image.file_bytes;
    let Some(shape) = &image.shape else { return Ok(()) };
    if shape.unclean {
        report.corruption(0, "the header says that the extent was not closed properly");
    }
    check_directories(image, shape, report)?;
    let file = image.file.file.clone();
    let map = match GrainMap::open(file, image.file_bytes, shape.clone(), 0, Arc::new(TableCache::default())) {
        Ok(map) => map,
        Err(error) => return told(error, report),
    };
    if let Some(scanned) = map.scanned() {
        report.corruption(scanned.cut_offset(), "the end of the stream is missing");
        report.allocated_bytes = scanned.count().saturating_mul(shape.grain_bytes).min(shape.capacity_bytes);
        return Ok(());
    }
    let mut check = GrainCheck { map: &map, shape, size_bytes: image.size_bytes(), places: Vec::new(), report };
    check.run()
}

/// An error of the image is a finding; one of the operating system is an error.
fn told(error: crate::ImageError, report: &mut CheckReport) -> Result<()> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    report.corruption(error.host_offset(), error.to_string());
    Ok(())
}

/// Both directories have to be good, and to name tables for the same parts of the disk.
fn check_directories(image: &VmdkImage, shape: &Shape, report: &mut CheckReport) -> Result<()> {
    let Directory::At { host_offset, redundant: Some(redundant) } = shape.directory else { return Ok(()) };
    let file = image.file.file.as_ref();
    let mut read = |offset| match tables::read_directory(file, image.file_bytes, shape, offset) {
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
                    self.report.corruption(table_offset, format!("the entry of grain {grain} is {raw:#x}: no grain"));
                }
                Grain::Stored(_) if guest_offset >= self.shape.capacity_bytes => {
                    self.report.leak(table_offset, format!("grain {grain} is past the end of the disk"));
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
                self.report.corruption(place, format!("this grain overlaps {name} at {:#x}", range.start));
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
