//! Reading: the image and its one layer.

use uuid::Uuid;

use super::check;
use super::header::{self, Layout};
use super::tables::{ChunkState, Tables};
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::stored::read_stored;

/// Any part of a chunk can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

struct AsifImage {
    file: OpenFile,
    layout: Layout,
    info: ImageInfo,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let layout = header::read(file.file.as_ref())?;
    let info = describe(&layout);
    Ok(Box::new(AsifImage { file, layout, info }))
}

fn describe(layout: &Layout) -> ImageInfo {
    let sector_bytes = layout.sector_bytes as u32;
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry {
            size_bytes: layout.disk_bytes,
            logical_sector_bytes: sector_bytes,
            physical_sector_bytes: sector_bytes,
            unit_bytes: UNIT_BYTES,
        },
        identity: None,
        details: vec![
            ("uuid", Uuid::from_bytes(layout.uuid).to_string().into()),
            ("chunk_size_bytes", layout.chunk_bytes.into()),
            ("flags", layout.flags.into()),
        ],
        warnings: Vec::new(),
    }
}

impl AsifImage {
    fn tables(&self) -> Result<Tables> {
        if self.layout.flags != 0 {
            let detail = format!("its flags are {:#x}, which nobody describes", self.layout.flags);
            return Err(ImageError::unsupported("read ASIF image", detail));
        }
        Tables::new(self.file.clone(), self.layout.clone())
    }
}

impl Image for AsifImage {
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
        Ok(Box::new(AsifLayer { geometry: self.info.geometry, files: [self.file.clone()], tables: self.tables()? }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(&self.tables()?, report)
    }
}

struct AsifLayer {
    geometry: Geometry,
    files: [OpenFile; 1],
    tables: Tables,
}

impl AsifLayer {
    fn find(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let chunk_bytes = self.tables.layout.chunk_bytes;
        let (chunk, within) = (guest_offset / chunk_bytes, guest_offset % chunk_bytes);
        let (state, run) = self.tables.run_at(chunk, (within + max_bytes).div_ceil(chunk_bytes))?;
        let length_bytes = max_bytes.min(run * chunk_bytes - within);
        let data_at = |data: u64| LayerKind::Data(HostRange { file: HostFileId(0), host_offset: data + within });
        match state {
            ChunkState::Absent => Ok(LayerExtent { length_bytes, kind: LayerKind::Absent }),
            ChunkState::Whole(data) => Ok(LayerExtent { length_bytes, kind: data_at(data) }),
            ChunkState::Partial { data, bitmap } => {
                let sector_bytes = self.tables.layout.sector_bytes;
                let first = within / sector_bytes;
                let max_sectors = (within + length_bytes).div_ceil(sector_bytes) - first;
                let (present, sectors) = self.tables.sector_run(bitmap, first, max_sectors)?;
                let length_bytes = length_bytes.min((first + sectors) * sector_bytes - within);
                let kind = if present { data_at(data) } else { LayerKind::Absent };
                Ok(LayerExtent { length_bytes, kind })
            }
        }
    }
}

impl ImageLayer for AsifLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        self.find(guest_offset, max_bytes).map_err(|error| error.at_guest(guest_offset))
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read ASIF chunk", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
