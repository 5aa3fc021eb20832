//! Checking a `.tin` file: every pack's table and every chunk's stored bytes, and every page of the disks' maps.

use tintype_tin::chunk::{ChunkHeader, HEADER_BYTES};
use tintype_tin::manifest::DiskRecord;

use super::file::Place;
use super::open::TinFile;
use super::read::{PackSource, read_header};
use super::walk::{Step, walk};
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};

/// Checks the packs, and the maps of these disks.
pub(super) fn check(file: &TinFile, disks: &[DiskRecord], report: &mut CheckReport) -> Result<()> {
    report.host_end_offset = file.end();
    for place in file.packs.places() {
        if let Err(cause) = check_pack(file, place) {
            note(cause, Some(place.host_offset), report)?;
        }
    }
    for disk in disks {
        let mut allocated_bytes = 0u64;
        walk(&file.reader, file.shape(disk), disk.root(), &mut |step| {
            match step {
                Step::Page(..) => {}
                Step::Chunk(id, location, length_bytes) => {
                    allocated_bytes = allocated_bytes.saturating_add(length_bytes as u64);
                    let mut header = [0; HEADER_BYTES];
                    let read = file.packs.read(location.pack, location.offset.into(), &mut header);
                    let header = read.and_then(|()| Ok(ChunkHeader::parse(&header)?));
                    let there =
                        |header: &ChunkHeader| header.id() == *id && header.chunk_bytes() == location.length as usize;
                    if !header.is_ok_and(|header| there(&header)) && file.packs.find_again(id, location)?.is_empty() {
                        report.corruption(
                            None,
                            format_args!("chunk {id} of disk \"{}\" is nowhere", disk.name.escape_debug()),
                        );
                    }
                }
                Step::Damaged(cause) => note(cause, None, report)?,
            }
            Ok(())
        })?;
        report.allocated_bytes = report.allocated_bytes.saturating_add(allocated_bytes);
    }
    Ok(())
}

/// Checks a pack's header, its table, and that every chunk is what was written.
fn check_pack(file: &TinFile, place: &Place) -> Result<()> {
    const DOING: &str = "check a pack";
    let repository = file.reader.ring().repository();
    let header = read_header(file.packs.as_ref(), repository, place.id)?;
    let table = file.packs.table(place)?;
    let mut bytes = Vec::new();
    for (offset, entry) in &table.chunks {
        bytes.resize(entry.chunk_bytes(), 0);
        file.packs.read(place.id, (*offset).into(), &mut bytes)?;
        let host_offset = place.host_offset + u64::from(*offset);
        let same = ChunkHeader::parse(&bytes).is_ok_and(|found| found == *entry);
        if !same || !entry.check_matches(&bytes[HEADER_BYTES..]) {
            let detail = format!("chunk {} of pack {} is damaged", entry.id(), place.id);
            return Err(ImageError::corrupt(DOING, detail).at_host(host_offset));
        }
        if entry.kind() != header.kind || !header.segments.contains_key(&entry.segment()) {
            let detail = format!("chunk {} does not belong into pack {}", entry.id(), place.id);
            return Err(ImageError::corrupt(DOING, detail).at_host(host_offset));
        }
    }
    Ok(())
}

fn note(cause: ImageError, host_offset: Option<u64>, report: &mut CheckReport) -> Result<()> {
    if cause.kind() == ErrorKind::Io {
        return Err(cause);
    }
    report.corruption(cause.host_offset().or(host_offset), &cause);
    Ok(())
}
