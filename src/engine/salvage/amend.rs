//! Puts rescued bytes into a stored disk: its map is written again, with other chunks where bytes came late.
//!
//! A map is written in the order of the disk, so a unit cannot come late. The first map, with zeros in the place of what was
//! set aside, becomes garbage, and so do the few pages of it that changed.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use tintype_formats::sink::{GuestUnit, InTurn, RunKind, UnitContent, UnitRun};
use tintype_formats::tin::read::MappedDisk;
use tintype_formats::tin::write::{ChunkSink, DiskWriter};
use tintype_formats::{ImageWriter as _, is_zero};
use tintype_tin::map::Entry;

use crate::error::{Error, Result};

/// Bytes that were rescued, in an unnamed file until they are stored. All else in it is zeros.
pub struct Spool {
    file: File,
    /// The areas that it has room for, whole chunks each, and where each begins in the file.
    areas: Vec<(Range<u64>, u64)>,
    is_empty: bool,
}

impl Spool {
    /// Makes an empty spool for ascending areas of a disk, in the folder for temporary files.
    pub fn new(areas: &[Range<u64>], chunk_bytes: u64) -> Result<Self> {
        let mut whole: Vec<(Range<u64>, u64)> = Vec::new();
        let mut file_bytes = 0;
        for area in areas {
            let range = area.start / chunk_bytes * chunk_bytes..area.end.next_multiple_of(chunk_bytes);
            let known = whole.last().map_or(0, |(last, _)| last.end.saturating_sub(range.start));
            match whole.last_mut() {
                Some((last, _)) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => whole.push((range.clone(), file_bytes)),
            }
            file_bytes += (range.end - range.start).saturating_sub(known);
        }
        let doing = |cause| Error::io("make a temporary file for rescued bytes", cause);
        let file = tempfile::tempfile().map_err(doing)?;
        file.set_len(file_bytes).map_err(doing)?;
        Ok(Spool { file, areas: whole, is_empty: true })
    }

    fn position(&self, guest_offset: u64) -> u64 {
        let index = self.areas.partition_point(|(area, _)| area.end <= guest_offset);
        self.areas.get(index).map_or(0, |(area, begin)| begin + (guest_offset - area.start))
    }

    /// Takes rescued bytes from inside one of the areas.
    pub fn put(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
        self.is_empty = false;
        let doing = |cause| Error::io("keep rescued bytes in a temporary file (set TMPDIR to another place)", cause);
        self.file.write_all_at(bytes, self.position(guest_offset)).map_err(doing)
    }

    /// True if nothing was rescued.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }
}

/// Stores `before` again through `writer`, with the rescued bytes. It has zeros wherever the spool has anything.
pub fn amend<S: ChunkSink>(before: &MappedDisk, spool: &Spool, writer: &DiskWriter<S>) -> Result<()> {
    let shape = before.shape();
    let chunk_bytes = shape.chunk_bytes;
    let mut areas = spool.areas.iter().map(|(area, _)| area.start / chunk_bytes..area.end / chunk_bytes).peekable();
    let (mut bytes, mut rescued) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < shape.chunks() {
        while areas.next_if(|area| area.end <= index).is_some() {}
        let next_changed = areas.peek().map_or(shape.chunks(), |area| area.start.max(index));
        if next_changed > index
            && let Some(kept) = keep(before, index, next_changed, writer)?
        {
            index += kept;
            continue;
        }
        let (guest_offset, length) = (index * chunk_bytes, shape.chunk_length(index));
        bytes.resize(length, 0);
        rescued.clear();
        rescued.resize(length, 0);
        before.read_at(guest_offset, &mut bytes)?;
        if next_changed == index {
            let doing = |cause| Error::io("read rescued bytes from a temporary file", cause);
            spool.file.read_exact_at(&mut rescued, spool.position(guest_offset)).map_err(doing)?;
        }
        bytes.iter_mut().zip(&rescued).filter(|(_, late)| **late != 0).for_each(|(byte, late)| *byte = *late);
        let kind = if is_zero(&bytes) { RunKind::Zero } else { RunKind::Data };
        let runs = [UnitRun { offset: 0, length_bytes: length as u64, kind }];
        let unit =
            GuestUnit { guest_offset, length_bytes: length as u64, content: UnitContent::Bytes(&bytes), runs: &runs };
        writer.store(&unit, &InTurn)?;
        index += 1;
    }
    Ok(())
}

/// Keeps what the map says of pieces from `index` on, before `end`; returns the number of pieces. None, if the next one has to be
/// stored again.
fn keep<S: ChunkSink>(before: &MappedDisk, index: u64, end: u64, writer: &DiskWriter<S>) -> Result<Option<u64>> {
    let (entry, run) = before.entry(index)?;
    if !writer.may_keep(&entry) {
        return Ok(None);
    }
    let run = run.min(end - index);
    match entry {
        Entry::Data(..) => writer.keep(index, 1, entry)?,
        Entry::Hole | Entry::Zero => writer.keep(index, run, entry)?,
    }
    Ok(Some(if matches!(entry, Entry::Data(..)) { 1 } else { run }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_each_area_have_a_place_of_their_own() {
        const CHUNK: u64 = 1000;
        let mut spool = Spool::new(&[10..20, 30..40, 5500..7001, 9999..10000], CHUNK).unwrap();
        let areas: Vec<_> = spool.areas.iter().map(|(area, begin)| (area.clone(), *begin)).collect();
        assert_eq!(areas, [(0..1000, 0), (5000..8000, 1000), (9000..10000, 4000)]);
        assert!(spool.is_empty());
        spool.put(7000, &[7; 10]).unwrap();
        assert!(!spool.is_empty());
        let mut found = [0; 12];
        spool.file.read_exact_at(&mut found, spool.position(6999)).unwrap();
        assert_eq!(found, [0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
        assert_eq!(spool.file.metadata().unwrap().len(), 5000);
    }
}
