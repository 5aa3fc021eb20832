//! Reading: the archive is a container, each of its disks an image with one layer.

use std::sync::Arc;

use uuid::Uuid;

use super::check;
use super::extents::{ExtentCache, Index, Run, overlap, scan};
use super::header::{self, Archive, Device};
use super::on_disk::*;
use crate::check::CheckReport;
use crate::contents::{DiskInfo, SnapshotInfo};
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::stored::read_stored;

const SECTOR_BYTES: u64 = 512;
const READ: &str = "read VMA archive";

/// An archive whose header is good.
struct VmaArchive {
    file: OpenFile,
    archive: Arc<Archive>,
    info: ImageInfo,
    disks: Vec<DiskInfo>,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let archive = header::read(file.file.as_ref())?;
    let info = describe(&archive);
    let disks = disks_of(&archive);
    let disks = disks
        .map(|device| DiskInfo {
            name: device.name.clone(),
            size_bytes: Some(device.size_bytes),
            format: Some(super::FORMAT.name),
        })
        .collect();
    Ok(Box::new(VmaArchive { file, archive: Arc::new(archive), info, disks }))
}

/// The machine's memory is no disk.
fn disks_of(archive: &Archive) -> impl Iterator<Item = &Device> {
    archive.devices.iter().filter(|device| !device.is_machine_state())
}

fn describe(archive: &Archive) -> ImageInfo {
    let has_state = archive.devices.iter().any(Device::is_machine_state);
    let created = u64::try_from(archive.created_unix_s).unwrap_or_default();
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(0, BLOCK_BYTES),
        identity: None,
        details: vec![
            ("uuid", Uuid::from_bytes(archive.uuid).to_string().into()),
            ("created_unix_s", created.into()),
            ("configurations", archive.config_names.join(", ").into()),
            ("machine_state", has_state.into()),
        ],
        warnings: Vec::new(),
    }
}

impl Image for VmaArchive {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, _snapshot: Option<&str>, _gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        Err(ImageError::no_such_disk("the archive is no disk itself", &self.disks))
    }

    fn disks(&self) -> &[DiskInfo] {
        &self.disks
    }

    fn open_disk(&self, index: usize, _gate: &dyn ReferenceGate) -> Result<Box<dyn Image>> {
        let device = disks_of(&self.archive).nth(index);
        let device = device.ok_or_else(|| ImageError::no_such_disk("there is no disk of that number", &self.disks))?;
        Ok(Box::new(VmaDisk::new(self, device.clone())))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self.file.file.as_ref(), &self.archive, &self.archive.devices, report)
    }
}

/// A disk of the archive.
struct VmaDisk {
    file: OpenFile,
    archive: Arc<Archive>,
    device: Device,
    info: ImageInfo,
}

impl VmaDisk {
    fn new(archive: &VmaArchive, device: Device) -> Self {
        let size_bytes = device.size_bytes.next_multiple_of(SECTOR_BYTES);
        let mut warnings = Vec::new();
        if size_bytes != device.size_bytes {
            warnings
                .push(format!("the disk has {} bytes, it is read to the end of its last sector", device.size_bytes));
        }
        let info = ImageInfo {
            format: super::FORMAT.name,
            geometry: Geometry::of_512_byte_sectors(size_bytes, BLOCK_BYTES),
            identity: None,
            details: vec![("name", device.name.clone().into()), ("device", u32::from(device.number).into())],
            warnings,
        };
        VmaDisk { file: archive.file.clone(), archive: Arc::clone(&archive.archive), device, info }
    }
}

impl Image for VmaDisk {
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
        let number = self.device.number;
        let index = scan(self.file.file.as_ref(), &self.archive, &|device| device == number)?;
        check_runs(&index, &self.device)?;
        Ok(Box::new(VmaLayer {
            geometry: self.info.geometry,
            files: [self.file.clone()],
            file_len_bytes: self.archive.file_len_bytes,
            index,
            extents: ExtentCache::default(),
        }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self.file.file.as_ref(), &self.archive, std::slice::from_ref(&self.device), report)
    }
}

/// A cluster that comes twice could be either; one past the end of the disk is of another one.
fn check_runs(index: &Index, device: &Device) -> Result<()> {
    if let Some(pair) = index.runs.windows(2).find(|pair| overlap(pair)) {
        let cluster = pair.last().map_or(0, |run| run.first_cluster);
        return Err(ImageError::corrupt(READ, format!("cluster {cluster} is in it twice")));
    }
    let end = index.runs.last().map_or(0, Run::end_cluster);
    if end > device.cluster_count() {
        let detail = format!("cluster {} is in it, the disk has {} clusters", end - 1, device.cluster_count());
        return Err(ImageError::corrupt(READ, detail));
    }
    Ok(())
}

struct VmaLayer {
    geometry: Geometry,
    files: [OpenFile; 1],
    file_len_bytes: u64,
    index: Index,
    extents: ExtentCache,
}

impl VmaLayer {
    /// The run that a cluster is in.
    fn run_at(&self, cluster: u64) -> Result<&Run> {
        let after = self.index.runs.partition_point(|run| u64::from(run.first_cluster) <= cluster);
        let run = after.checked_sub(1).and_then(|index| self.index.runs.get(index));
        run.filter(|run| cluster < run.end_cluster()).ok_or_else(|| {
            let reason = self.index.ended_early.as_deref().unwrap_or("the backup is not complete");
            ImageError::corrupt(READ, format!("cluster {cluster} is not in it: {reason}"))
        })
    }

    fn check_inside(&self, host_offset: u64, length_bytes: u64) -> Result<()> {
        if host_offset + length_bytes > self.file_len_bytes {
            let detail = format!("a block ends past the end of the file ({:#x})", self.file_len_bytes);
            return Err(ImageError::truncated(READ, detail).at_host(host_offset));
        }
        Ok(())
    }

    /// The extent from a block on: `within` bytes into `block`, at most `max_bytes`.
    fn extent_from(&self, block: u64, within: u64, max_bytes: u64) -> Result<LayerExtent> {
        let run = self.run_at(block / BLOCKS_PER_CLUSTER)?;
        let offset = self.index.extents.get(run.extent as usize).copied().unwrap_or_default();
        let map = self.extents.get(self.files[0].file.as_ref(), offset)?;
        let is_stored = |block: u64| {
            let slot = (block / BLOCKS_PER_CLUSTER).saturating_sub(run.first_cluster.into()) + u64::from(run.slot);
            let stored = map.stored_blocks.get(slot as usize).copied().unwrap_or_default();
            let place = block % BLOCKS_PER_CLUSTER;
            let before = (stored & ((1u16 << place) - 1)).count_ones();
            let first = map.host_offsets.get(slot as usize).copied().unwrap_or_default();
            (stored >> place & 1 != 0).then_some(first + u64::from(before) * BLOCK_BYTES)
        };
        let found = is_stored(block);
        // What is stored lies one behind the other, whichever clusters it is of.
        let last_block =
            (run.end_cluster() * BLOCKS_PER_CLUSTER).min(block + (within + max_bytes).div_ceil(BLOCK_BYTES));
        let same = (block + 1..last_block).take_while(|next| is_stored(*next).is_some() == found.is_some()).count();
        let length_bytes = max_bytes.min((same as u64 + 1) * BLOCK_BYTES - within);
        let Some(host_offset) = found else { return Ok(LayerExtent { length_bytes, kind: LayerKind::Zero }) };
        let host_offset = host_offset + within;
        // A cut archive: as much as there is, block by block.
        let available = self.file_len_bytes.saturating_sub(host_offset).min(length_bytes);
        let length_bytes = if available >= BLOCK_BYTES { available } else { length_bytes };
        self.check_inside(host_offset, length_bytes)?;
        Ok(LayerExtent { length_bytes, kind: LayerKind::Data(HostRange { file: HostFileId(0), host_offset }) })
    }
}

impl ImageLayer for VmaLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let (block, within) = (guest_offset / BLOCK_BYTES, guest_offset % BLOCK_BYTES);
        self.extent_from(block, within, max_bytes).map_err(|error| error.at_guest(guest_offset))
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read VMA cluster", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
