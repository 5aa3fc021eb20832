//! Reading: the image and its one layer.

use super::check;
use super::header::{self, Layout, READ_CATALOG};
use super::on_disk::*;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::stored::read_stored;
use crate::table_cache::TableCache;

/// Any part of an extent can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

const READ_BITMAP: &str = "read Bochs bitmap";

/// Most extents of which none is stored that are told at once.
const MAX_ABSENT_RUN: u64 = 1 << 20;

/// A growing disk whose header is good.
struct BochsImage {
    file: OpenFile,
    layout: Layout,
    info: ImageInfo,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let layout = header::read(file.file.as_ref())?;
    let info = ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(layout.disk_bytes, UNIT_BYTES),
        identity: None,
        details: vec![("format_version", layout.version.into()), ("extent_size_bytes", layout.extent_bytes.into())],
        warnings: Vec::new(),
    };
    Ok(Box::new(BochsImage { file, layout, info }))
}

impl Image for BochsImage {
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
        let catalog = header::read_catalog(self.file.file.as_ref(), &self.layout)?;
        if let Some(entry) = header::twice(&header::stored(&catalog)) {
            return Err(ImageError::corrupt(READ_CATALOG, format!("two entries name the extent {entry:#x}")));
        }
        Ok(Box::new(BochsLayer {
            geometry: self.info.geometry,
            layout: self.layout,
            bitmaps: TableCache::new(self.file.file.clone(), self.layout.file_len_bytes),
            files: [self.file.clone()],
            catalog,
        }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self.file.file.as_ref(), &self.layout, report)
    }
}

struct BochsLayer {
    geometry: Geometry,
    layout: Layout,
    bitmaps: TableCache,
    files: [OpenFile; 1],
    catalog: Vec<u32>,
}

impl BochsLayer {
    /// Whether sector `sector` of the extent at `start` was written.
    fn is_written(&self, start: u64, sector: u64) -> Result<bool> {
        let (page, within) = self.bitmaps.page_at(READ_BITMAP, start + sector / 8)?;
        Ok(page.get(within).is_some_and(|byte| byte >> (sector % 8) & 1 != 0))
    }

    fn entry(&self, index: u64) -> u32 {
        self.catalog.get(index as usize).copied().unwrap_or(NOT_STORED)
    }

    fn find(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let extent_bytes = self.layout.extent_bytes;
        let (index, within) = (guest_offset / extent_bytes, guest_offset % extent_bytes);
        let entry = self.entry(index);
        if entry == NOT_STORED {
            let most = (within + max_bytes).div_ceil(extent_bytes).min(MAX_ABSENT_RUN);
            let run = 1 + (1..most).take_while(|next| self.entry(index + next) == NOT_STORED).count() as u64;
            let length_bytes = max_bytes.min(run * extent_bytes - within);
            return Ok(LayerExtent { length_bytes, kind: LayerKind::Absent });
        }
        let start = self.layout.locate(index, entry)?;
        let max_bytes = max_bytes.min(extent_bytes - within);
        let (first, end) = (within / SECTOR_BYTES, (within + max_bytes).div_ceil(SECTOR_BYTES));
        let written = self.is_written(start, first)?;
        let mut next = first + 1;
        while next < end && matches!(self.is_written(start, next), Ok(found) if found == written) {
            next += 1;
        }
        let length_bytes = max_bytes.min(next * SECTOR_BYTES - within);
        let host_offset = start + self.layout.bitmap_space_bytes + within;
        let data = LayerKind::Data(HostRange { file: HostFileId(0), host_offset });
        Ok(LayerExtent { length_bytes, kind: if written { data } else { LayerKind::Absent } })
    }
}

impl ImageLayer for BochsLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        self.find(guest_offset, max_bytes).map_err(|error| error.at_guest(guest_offset))
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read Bochs extent", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
