//! Finds the grains of a stream without its tables: each grain says where it belongs and how long it is.
//!
//! ```text
//!   | marker, stream | marker, stream | ... | table marker | table | ... | directory marker | directory | footer | end
//! ```
//!
//! A stream that was cut before its directory marker lacks grains, nobody knows which: what follows the last grain on the
//! disk is then an error, never zeros.

use zerocopy::FromBytes;

use super::header::Shape;
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;

const SCAN: &str = "look for the grains of a stream without its end";

/// Most grains that are found this way, 16 bytes each; with usual ones that is a disk of 256 GiB of data.
const MAX_SCANNED_GRAINS: usize = 4 << 20;

/// Read at once: a marker, and with small grains some more.
const WINDOW_BYTES: u64 = 4096;

/// Grains that were found by their markers.
pub(super) struct ScannedGrains {
    /// Grain number and host offset, by number.
    grains: Vec<(u64, u64)>,
    /// Grains from this number on may be missing.
    known_end: u64,
    /// Where the file is cut, if grains are missing.
    cut_offset: Option<u64>,
}

enum Found {
    Grain { number: u64, length_bytes: u64 },
    Metadata { kind: u32, length_bytes: u64 },
    Nothing,
}

impl ScannedGrains {
    /// Goes from marker to marker until the directory, or until something is no marker.
    pub fn scan(file: &dyn HostFile, file_bytes: u64, shape: &Shape) -> Result<ScannedGrains> {
        let mut window = Window { file, file_bytes, start: 0, bytes: Vec::new() };
        let mut grains: Vec<(u64, u64)> = Vec::new();
        let mut offset = shape.first_grain_offset;
        let complete = loop {
            match window.marker_at(offset, shape)? {
                Found::Grain { number, length_bytes } => {
                    if grains.len() >= MAX_SCANNED_GRAINS {
                        let detail = format!("there are more than {MAX_SCANNED_GRAINS} grains");
                        return Err(ImageError::limit_exceeded(SCAN, detail));
                    }
                    grains.push((number, offset));
                    offset += length_bytes;
                }
                Found::Metadata { kind: MARKER_GRAIN_DIRECTORY | MARKER_FOOTER, .. } => break true,
                Found::Metadata { length_bytes, .. } => offset += length_bytes,
                Found::Nothing => break false,
            }
        };
        let in_order = grains.is_sorted_by(|a, b| a.0 < b.0);
        if !in_order {
            grains.sort_unstable();
            if let Some(pair) = grains.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let detail = format!("grain {} is there twice, at {:#x} and {:#x}", pair[0].0, pair[0].1, pair[1].1);
                return Err(ImageError::corrupt(SCAN, detail));
            }
        }
        let known_end = match grains.last() {
            _ if complete => u64::MAX,
            Some((last, _)) if in_order => last + 1,
            _ => 0,
        };
        Ok(ScannedGrains { grains, known_end, cut_offset: (!complete).then_some(offset) })
    }

    /// As [`super::tables::GrainMap::run_at`].
    pub fn run_at(&self, grain: u64, max_grains: u64) -> Result<(Grain, u64)> {
        let index = self.grains.partition_point(|(number, _)| *number < grain);
        let rest = self.grains.get(index..).unwrap_or_default();
        match rest.first() {
            Some((number, offset)) if *number == grain => {
                let follows = |(expected, (number, _)): &(u64, &(u64, u64))| expected == number;
                let run = (grain..).zip(rest).take(max_grains as usize).take_while(follows).count();
                Ok((Grain::Stored(*offset), run as u64))
            }
            next => {
                let end = next.map_or(u64::MAX, |(number, _)| *number).min(self.known_end);
                if let Some(cut_offset) = self.cut_offset.filter(|_| end <= grain || self.known_end == 0) {
                    let detail = format!("the file is cut at {cut_offset:#x}, before this part of the disk");
                    return Err(ImageError::truncated(SCAN, detail));
                }
                Ok((Grain::Absent, max_grains.min(end - grain)))
            }
        }
    }

    /// As [`super::tables::GrainMap::stored_grains`].
    pub fn stored_grains(&self, grain: u64, count: u64) -> (Vec<u64>, Option<u64>) {
        let index = self.grains.partition_point(|(number, _)| *number < grain);
        let mut rest = self.grains.get(index..).unwrap_or_default().iter().map(|(_, offset)| *offset);
        let stored = rest.by_ref().take(count as usize).collect();
        (stored, rest.next())
    }

    /// Where the file is cut, if grains are missing.
    pub fn cut_offset(&self) -> Option<u64> {
        self.cut_offset
    }

    /// How many grains there are.
    pub fn count(&self) -> u64 {
        self.grains.len() as u64
    }
}

struct Window<'a> {
    file: &'a dyn HostFile,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// What the marker at `offset` says; nothing if there is none, or what it announces is not all in the file.
    fn marker_at(&mut self, offset: u64, shape: &Shape) -> Result<Found> {
        if offset.checked_add(SECTOR_BYTES).is_none_or(|end| end > self.file_bytes) {
            return Ok(Found::Nothing);
        }
        let marker = self.read_marker(offset)?;
        let stream_bytes = u64::from(marker.stream_bytes.get());
        let length_bytes = match stream_bytes {
            0 => marker.sectors.get().checked_add(1).and_then(|sectors| sectors.checked_mul(SECTOR_BYTES)),
            _ => Some((GRAIN_MARKER_BYTES as u64 + stream_bytes).next_multiple_of(SECTOR_BYTES)),
        };
        let kept = |length: &u64| offset.checked_add(*length).is_some_and(|end| end <= self.file_bytes);
        if stream_bytes > 0 {
            // The rest of a grain's last sector may be cut off.
            let end = offset + GRAIN_MARKER_BYTES as u64 + stream_bytes;
            let sector = marker.sectors.get();
            let guest_offset = sector.checked_mul(SECTOR_BYTES).filter(|offset| {
                offset.is_multiple_of(shape.grain_bytes) && *offset < shape.capacity_bytes && end <= self.file_bytes
            });
            return Ok(match (guest_offset, length_bytes) {
                (Some(guest_offset), Some(length_bytes)) => {
                    Found::Grain { number: guest_offset / shape.grain_bytes, length_bytes }
                }
                _ => Found::Nothing,
            });
        }
        // An end marker is all zeros, as is what a crash left out: it proves nothing.
        Ok(match (marker.kind.get(), length_bytes) {
            (kind @ (MARKER_GRAIN_DIRECTORY | MARKER_FOOTER), Some(length_bytes)) => {
                Found::Metadata { kind, length_bytes }
            }
            (MARKER_END_OF_STREAM, _) => Found::Nothing,
            (kind, Some(length_bytes)) if kept(&length_bytes) => Found::Metadata { kind, length_bytes },
            _ => Found::Nothing,
        })
    }

    fn read_marker(&mut self, offset: u64) -> Result<Marker> {
        let inside =
            offset.checked_sub(self.start).is_some_and(|within| within + SECTOR_BYTES <= self.bytes.len() as u64);
        if !inside {
            self.bytes.resize(WINDOW_BYTES.min(self.file_bytes - offset) as usize, 0);
            self.start = offset;
            self.file
                .read_exact_at(offset, &mut self.bytes)
                .map_err(|cause| ImageError::io(SCAN, cause).at_host(offset))?;
        }
        let bytes = self.bytes.get((offset - self.start) as usize..).unwrap_or_default();
        let marker = Marker::read_from_prefix(bytes).map(|(marker, _)| marker);
        marker.map_err(|_| ImageError::truncated(SCAN, "the file ends in a marker").at_host(offset))
    }
}
