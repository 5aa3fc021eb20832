//! What comes after the first pass of a conversion that salvages: retries into the target or a raw copy, and their proof.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_formats::extent::DiskExtent;
use tintype_formats::layer::Choice;
use tintype_formats::reference_gate::NoReferences;
use tintype_formats::secrets::Secrets;
use tintype_formats::sink::{IdentitySeed, RunKind, SingleFile, UnitRun};
use tintype_formats::{BlockSource, CreateOptions, Disk, Geometry, HostFileMut, ImageError, OpenFile, is_zero, raw};

use super::copy::{CopyOptions, copy};
use super::digest::{Digest, digest};
use super::pipeline::{Pipeline, Unreadable};
use super::plan::{Inherited, PlanOptions};
use super::rate_limit::RateLimit;
use super::salvage::{AreaMap, Masked, RescuedSum, Retry, SetAside, State, Tolerance};
use super::{NamedDisk, storage_order, zero_scan};
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::progress::Progress;
use crate::targets::OutputFile;

/// What was stored after the first pass.
pub struct Late {
    /// True if anything was stored late.
    pub is_changed: bool,
    /// Number of guest bytes that were stored late.
    pub stored_bytes: u64,
    /// Guest ranges that cannot be read, ascending.
    pub unreadable: Vec<Range<u64>>,
    /// The areas that were set aside, ascending.
    areas: Vec<Range<u64>>,
    sum: RescuedSum,
    sector_bytes: u32,
}

/// Where the first pass was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPass {
    /// In this run: all is stored but what was set aside, where there are zeros.
    Done,
    /// In another run, as far as its map says.
    Earlier,
}

/// Makes durable what the first pass stored in `file`, where every byte has its place, and retries what it set aside.
pub fn retry(
    source: NamedDisk<'_>,
    set_aside: &SetAside,
    file: &dyn HostFileMut,
    (tolerance, first_pass): (Tolerance, FirstPass),
    progress: &Progress,
) -> Result<Late> {
    let Geometry { size_bytes, logical_sector_bytes: sector_bytes, .. } = source.disk.geometry();
    let mut map = set_aside.map().clone();
    if first_pass == FirstPass::Done {
        map.finish_untried(0..size_bytes);
    }
    let areas = map.unfinished();
    let mut sum = RescuedSum::new(sector_bytes);
    let (mut is_changed, mut stored_bytes) = (false, 0);
    if !areas.is_empty() && !set_aside.is_at_once() {
        file.sync_data().map_err(|cause| Error::io("make durable what was read so far", cause))?;
        let mut store = |guest_offset: u64, bytes: &[u8]| {
            sum.add(guest_offset, bytes);
            is_changed = true;
            stored_bytes += store_late(file, guest_offset, bytes, first_pass)
                .map_err(|cause| Error::io("write to the target", cause))?;
            Ok(())
        };
        let options = tolerance.retry();
        let retry = Retry { source: source.disk, witness: set_aside.witness(), options, progress };
        let retried = retry.run(&mut map, &mut store, &mut |map| set_aside.note(map));
        let saved = set_aside.save(&map);
        retried.and(saved)?;
    } else {
        set_aside.save(&map)?;
    }
    if first_pass == FirstPass::Done {
        set_aside.check_anything_was_read()?;
    }
    Ok(Late { is_changed, stored_bytes, unreadable: map.unfinished(), areas, sum, sector_bytes })
}

/// Writes bytes in place, and leaves or makes holes where they are zeros; returns how many were data.
fn store_late(file: &dyn HostFileMut, guest_offset: u64, bytes: &[u8], first_pass: FirstPass) -> io::Result<u64> {
    // Blocks are those of the disk, so that what is stored does not depend on where the area begins.
    let lead = (guest_offset % zero_scan::BLOCK_BYTES as u64) as usize;
    let (mut runs, mut begin) = (Vec::new(), 0);
    while begin < bytes.len() {
        let end = ((lead + begin + 1).next_multiple_of(zero_scan::BLOCK_BYTES) - lead).min(bytes.len());
        let kind = if is_zero(&bytes[begin..end]) { RunKind::Zero } else { RunKind::Data };
        zero_scan::push_run(&mut runs, begin as u64, (end - begin) as u64, kind);
        begin = end;
    }
    let mut stored_bytes = 0;
    for UnitRun { offset, length_bytes, kind } in runs {
        match (kind, first_pass) {
            // The first pass left zeros there.
            (RunKind::Zero, FirstPass::Done) => {}
            (RunKind::Zero, FirstPass::Earlier) => file.write_zeros_at(guest_offset + offset, length_bytes)?,
            _ => {
                stored_bytes += length_bytes;
                file.write_all_at(guest_offset + offset, &bytes[offset as usize..][..length_bytes as usize])?;
            }
        }
    }
    Ok(stored_bytes)
}

/// Verifies a disk that got bytes after the digest of the first pass was `made`.
pub fn verify_late(
    written: NamedDisk<'_>,
    late: &Late,
    made: &Digest,
    workers: usize,
    progress: &Progress,
) -> Result<()> {
    let masked = Masked::new(written.disk, &late.areas);
    let first = digest(NamedDisk { disk: &masked, path: written.path }, made.algorithm, workers, progress)?;
    let rescued = without(&late.areas, &late.unreadable);
    if first == *made && RescuedSum::of(written.disk, &rescued, late.sector_bytes)? == late.sum {
        return Ok(());
    }
    let message = "what was read back is not what was read from the source";
    Err(Error::new(Kind::VerificationFailed, message).with_path(written.path))
}

/// The parts of ascending ranges that other ascending ranges leave.
fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut begin = range.start;
        let first = others.partition_point(|other| other.end <= range.start);
        for other in others[first..].iter().take_while(|other| other.start < range.end) {
            if begin < other.start {
                left.push(begin..other.start);
            }
            begin = other.end.min(range.end).max(begin);
        }
        if begin < range.end {
            left.push(begin..range.end);
        }
    }
    left
}

/// A raw copy of a disk in an unnamed file, with zeros where it could not be read.
pub struct Staged {
    /// The copy.
    pub disk: StagedDisk,
    /// Guest ranges that cannot be read, ascending.
    pub unreadable: Vec<Range<u64>>,
}

/// A raw file as a disk with the source's sectors.
pub struct StagedDisk {
    disk: Disk,
    geometry: Geometry,
}

impl BlockSource for StagedDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.disk.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.disk.read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        self.disk.host_files()
    }
}

/// Salvages a disk into a sparse raw file without a name in `folder`.
pub fn stage(
    source: NamedDisk<'_>,
    folder: &Path,
    tolerance: Tolerance,
    (workers, rate_limit): (usize, Option<u64>),
    progress: &Progress,
) -> Result<Staged> {
    let doing = |cause| Error::io("make a temporary file for the salvaged disk in the target's folder", cause);
    let file = tempfile::tempfile_in(folder).map_err(doing)?;
    let reader = file.try_clone().map_err(doing)?;
    let file = Arc::new(OutputFile::new(file));
    let source_geometry = source.disk.geometry();
    let size_bytes = source_geometry.size_bytes;
    progress.begin(size_bytes);
    let writer = raw::FORMAT.begin(&SingleFile(file.clone()), &CreateOptions::new(source_geometry))?;
    let plan =
        PlanOptions { parent: None, with_zeros: false, inherited: Inherited::Read, clonable: &[], salvage: true };
    let mut feed = storage_order::plan(source.disk, writer.layout(), plan);
    let rate_limit = rate_limit.map(RateLimit::new);
    let set_aside = SetAside::new(AreaMap::new(size_bytes, State::NotTried), tolerance.bound());
    let pipeline = Pipeline {
        source: Some(source.disk),
        source_path: source.path,
        workers,
        progress,
        rate_limit: rate_limit.as_ref(),
        unreadable: Unreadable::SetAside(&set_aside),
    };
    let copy_options = CopyOptions { parent: None, explicit_zeros: false, ordered_writes: false, digest: None };
    copy(&pipeline, feed.as_mut(), size_bytes, writer.as_ref(), &copy_options)?;
    let late = retry(source, &set_aside, file.as_ref(), (tolerance, FirstPass::Done), progress).on_path(source.path)?;
    writer.finish(&IdentitySeed([0; 32]))?;
    Ok(Staged { disk: open_staged(reader, source_geometry)?, unreadable: late.unreadable })
}

fn open_staged(file: std::fs::File, source: Geometry) -> Result<StagedDisk> {
    let file =
        tintype_formats::local::LocalFile::new(file).map_err(|cause| Error::io("open the salvaged disk", cause))?;
    let name = "the salvaged disk".to_owned();
    let file = OpenFile { file: Arc::new(file), name, identity: None, secrets: Secrets::default() };
    let disk = Disk::open(file, Some(&raw::FORMAT), Choice::default(), Arc::new(NoReferences))?;
    let geometry = Geometry { unit_bytes: disk.geometry().unit_bytes, ..source };
    Ok(StagedDisk { disk, geometry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_out_of_ranges() {
        let found = without(&[0..10, 20..30, 40..50], &[0..2, 4..5, 8..25, 44..60]);
        assert_eq!(found, [2..4, 5..8, 25..30, 40..44]);
        assert_eq!(without(&[1..2, 3..9], &[]), [1..2, 3..9]);
    }
}
