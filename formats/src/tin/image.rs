//! A `.tin` file behind the interface that all formats share: one disk, or a container of several.

use std::ops::Range;
use std::sync::Arc;

use tintype_tin::manifest::{DiskRecord, Manifest};
use tintype_tin::map::Entry;

use super::check;
use super::open::TinFile;
use super::read::MappedDisk;
use crate::check::CheckReport;
use crate::contents::{DiskInfo, SnapshotInfo};
use crate::error::{ImageError, Result};
use crate::extent::{LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;

fn geometry(record: &DiskRecord, chunk_bytes: u64) -> Geometry {
    Geometry {
        size_bytes: record.size_bytes,
        logical_sector_bytes: record.logical_sector_bytes,
        physical_sector_bytes: record.physical_sector_bytes,
        unit_bytes: chunk_bytes,
    }
}

/// A file, or one of its disks.
struct TinImage {
    file: Arc<TinFile>,
    /// Number of the disk; `None` for a file of several.
    disk: Option<usize>,
    disks: Vec<DiskInfo>,
    info: ImageInfo,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let file = Arc::new(TinFile::load(&file)?);
    let only = (file.manifest.disks.len() == 1).then_some(0);
    Ok(Box::new(TinImage::new(file, only)))
}

impl TinImage {
    fn new(file: Arc<TinFile>, disk: Option<usize>) -> TinImage {
        let record = disk.and_then(|index| file.manifest.disks.get(index));
        let info = describe(&file, record);
        let entry = |record: &DiskRecord| DiskInfo {
            name: record.name.clone(),
            size_bytes: Some(record.size_bytes),
            format: Some(super::FORMAT.name),
        };
        let disks = if disk.is_none() { file.manifest.disks.iter().map(entry).collect() } else { Vec::new() };
        TinImage { disk, disks, info, file }
    }

    fn record(&self) -> Result<&DiskRecord> {
        let record = self.disk.and_then(|index| self.file.manifest.disks.get(index));
        record.ok_or_else(|| ImageError::no_such_disk("it has several disks", &self.disks))
    }
}

fn describe(file: &TinFile, record: Option<&DiskRecord>) -> ImageInfo {
    let Manifest { name, time, host, program, consistency, .. } = &file.manifest;
    let mut details = vec![
        ("encrypted", file.is_encrypted().into()),
        ("chunk_size_bytes", file.chunk_bytes().into()),
        ("packs", (file.packs.places().len() as u64).into()),
        ("snapshot", file.snapshot.to_string().into()),
        ("snapshot_name", name.clone().into()),
        ("time", time.clone().into()),
        ("host", host.clone().into()),
        ("program", program.clone().into()),
        ("consistency", consistency.clone().into()),
    ];
    let mut warnings = Vec::new();
    if let Some(record) = record {
        details.push(("disk", record.name.clone().into()));
        details.extend(record.root.map(|root| ("merkle_root", root.id.to_string().into())));
        if !record.unreadable.is_empty() {
            warnings.push(unreadable_text(record));
        }
    }
    let geometry = match record {
        Some(record) => geometry(record, file.chunk_bytes()),
        None => Geometry::of_512_byte_sectors(0, file.chunk_bytes()),
    };
    ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings }
}

/// The most ranges that are listed.
const SHOWN: usize = 10;

fn unreadable_text(record: &DiskRecord) -> String {
    let ranges = record.unreadable.iter().take(SHOWN).map(|(at, length)| format!("{length} bytes at {at:#x}"));
    let more = record.unreadable.len().saturating_sub(SHOWN);
    let ranges: Vec<_> = ranges.chain((more > 0).then(|| format!("{more} more ranges"))).collect();
    let bytes = record.unreadable_bytes();
    format!("{bytes} bytes could not be read when the disk was stored, and are zeros: {}", ranges.join(", "))
}

impl Image for TinImage {
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
        let record = self.record()?;
        Ok(Box::new(TinLayer { geometry: self.info.geometry, mapped: self.file.mapped(record) }))
    }

    fn disks(&self) -> &[DiskInfo] {
        &self.disks
    }

    fn open_disk(&self, index: usize, _gate: &dyn ReferenceGate) -> Result<Box<dyn Image>> {
        if index >= self.disks.len() {
            return Err(ImageError::no_such_disk(format!("there is no disk {}", index + 1), &self.disks));
        }
        Ok(Box::new(TinImage::new(Arc::clone(&self.file), Some(index))))
    }

    fn unreadable(&self) -> Vec<Range<u64>> {
        self.record().map(DiskRecord::unreadable_ranges).unwrap_or_default()
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        let disks = &self.file.manifest.disks;
        let chosen = match self.disk {
            Some(index) => disks.get(index).map(std::slice::from_ref).unwrap_or_default(),
            None => disks.as_slice(),
        };
        check::check(&self.file, chosen, report)
    }
}

struct TinLayer {
    geometry: Geometry,
    mapped: MappedDisk,
}

impl ImageLayer for TinLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let chunk_bytes = self.mapped.shape().chunk_bytes;
        let (entry, run) =
            self.mapped.entry(guest_offset / chunk_bytes).map_err(|cause| cause.at_guest(guest_offset))?;
        let kind = match entry {
            Entry::Hole => LayerKind::Absent,
            Entry::Zero => LayerKind::Zero,
            Entry::Data(..) => LayerKind::Encoded,
        };
        let run_bytes = run.saturating_mul(chunk_bytes) - guest_offset % chunk_bytes;
        Ok(LayerExtent { length_bytes: run_bytes.min(max_bytes), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        self.mapped.read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &[]
    }
}
