//! Reading: from the header to the layer that answers where the guest's bytes are.
//!
//! ```text
//!   identifier ─► headers ─► log (replayed in memory) ─► region tables ─► metadata ─► BAT, by the page, when asked
//! ```
//!
//! From the log on, everything is read through the [overlay](super::overlay), if there was anything to replay.

use std::sync::Arc;

use super::header::{self, CurrentHeader, Regions};
use super::log::{self, LogState};
use super::metadata::{self, Metadata};
use super::parent::linkage_text;
use super::tables::{Bat, BatLayout, BlockState};
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Detail, ImageInfo, ImageLayer};
use crate::source::Geometry;
use crate::stored::read_stored;

/// Any part of a block can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

const UNUSED_LOG: &str =
    "the file was not closed properly: its log was begun, but has no entries, so the file is read as it is";
const REPLAYED_LOG: &str =
    "the file was not closed properly, or is in use: its log is replayed in memory; the file itself is left as it is";

/// A VHDX file whose headers, region table and metadata have been read, and whose log has been replayed.
pub(super) struct VhdxImage {
    /// The file, with the log replayed.
    pub file: OpenFile,
    pub file_len_bytes: u64,
    pub regions: Regions,
    pub metadata: Metadata,
    pub info: ImageInfo,
}

fn describe(
    header: &CurrentHeader,
    metadata: &Metadata,
    creator: String,
    log_state: String,
    warnings: Vec<String>,
) -> ImageInfo {
    let kind = match (&metadata.parent, metadata.leave_blocks_allocated) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let details: Vec<(&'static str, Detail)> = vec![
        ("type", kind.into()),
        ("format_version", u32::from(super::on_disk::VERSION).into()),
        ("block_size_bytes", metadata.block_bytes.into()),
        ("creator", creator.into()),
        ("log", log_state.into()),
        ("page83_id", metadata.disk_id.to_string().into()),
        ("data_write_guid", header.data_write_guid.to_string().into()),
        ("file_write_guid", header.file_write_guid.to_string().into()),
    ];
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry {
            size_bytes: metadata.size_bytes,
            logical_sector_bytes: metadata.logical_sector_bytes,
            physical_sector_bytes: metadata.physical_sector_bytes,
            unit_bytes: UNIT_BYTES,
        },
        identity: Some(linkage_text(header.data_write_guid)),
        details,
        warnings,
    }
}

impl VhdxImage {
    /// Reads and checks everything but the BAT.
    pub fn open(file: OpenFile) -> Result<VhdxImage> {
        let source_len_bytes =
            file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut warnings = Vec::new();
        let creator = header::read_creator(file.file.as_ref(), source_len_bytes)?;
        let header = header::read_current_header(file.file.as_ref(), &mut warnings)?;
        let (log_state, file) = match log::replay(&file.file, source_len_bytes, &header)? {
            LogState::Clean => ("clean".to_owned(), file),
            LogState::Unused => {
                warnings.push(UNUSED_LOG.to_owned());
                ("begun, without entries".to_owned(), file)
            }
            LogState::Replayed(overlay, count) => {
                warnings.push(format!("{REPLAYED_LOG} (entries: {count})"));
                (format!("replayed in memory, entries: {count}"), OpenFile { file: Arc::new(overlay), ..file })
            }
        };
        let file_len_bytes =
            file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let regions = header::read_regions(file.file.as_ref(), file_len_bytes, &header.log, &mut warnings)?;
        let metadata = metadata::read_metadata(file.file.as_ref(), &regions.metadata)?;
        let info = describe(&header, &metadata, creator, log_state, warnings);
        let image = VhdxImage { file, file_len_bytes, regions, metadata, info };
        image.bat()?;
        Ok(image)
    }

    /// Whether the file is to hold space for every block (§2.6.2.1).
    pub(super) fn is_fixed(&self) -> bool {
        self.metadata.parent.is_none() && self.metadata.leave_blocks_allocated
    }

    /// The BAT, with a cache of its own.
    pub(super) fn bat(&self) -> Result<Bat> {
        let Metadata { size_bytes, block_bytes, logical_sector_bytes, .. } = self.metadata;
        Bat::new(
            self.file.file.clone(),
            self.file_len_bytes,
            BatLayout::new(size_bytes, block_bytes, logical_sector_bytes),
            logical_sector_bytes,
            self.metadata.parent.is_some(),
            self.regions.clone(),
        )
    }

    /// The disk, with a BAT of its own.
    pub fn disk(&self) -> Result<VhdxLayer> {
        Ok(VhdxLayer { geometry: self.info.geometry, files: [self.file.clone()], bat: self.bat()? })
    }
}

/// The disk.
pub(super) struct VhdxLayer {
    geometry: Geometry,
    files: [OpenFile; 1],
    bat: Bat,
}

impl VhdxLayer {
    /// A part of a partially present block: sectors that are all here or all in the parent.
    fn partial_extent(&self, block: u64, within: u64, block_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let sector_bytes = u64::from(self.geometry.logical_sector_bytes);
        let left = max_bytes.min(self.bat.layout().block_bytes - within);
        let first = within / sector_bytes;
        let max_sectors = (within + left).div_ceil(sector_bytes) - first;
        let (present, sectors) = self.bat.sector_run(block, first, max_sectors)?;
        let length_bytes = left.min((first + sectors) * sector_bytes - within);
        let kind = if present { data_at(block_offset + within) } else { LayerKind::Absent };
        Ok(LayerExtent { length_bytes, kind })
    }
}

fn data_at(host_offset: u64) -> LayerKind {
    LayerKind::Data(HostRange { file: HostFileId(0), host_offset })
}

impl ImageLayer for VhdxLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let block_bytes = self.bat.layout().block_bytes;
        let (block, within) = (guest_offset / block_bytes, guest_offset % block_bytes);
        let max_blocks = (within + max_bytes).div_ceil(block_bytes);
        let (state, blocks) = self.bat.run_at(block, max_blocks).map_err(|error| error.at_guest(guest_offset))?;
        let kind = match state {
            BlockState::Absent => LayerKind::Absent,
            BlockState::Zero => LayerKind::Zero,
            BlockState::Present(host_offset) => data_at(host_offset + within),
            BlockState::Partial(host_offset) => {
                return self
                    .partial_extent(block, within, host_offset, max_bytes)
                    .map_err(|error| error.at_guest(guest_offset));
            }
        };
        Ok(LayerExtent { length_bytes: max_bytes.min(blocks * block_bytes - within), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read VHDX block", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
