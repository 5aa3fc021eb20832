//! Reading: the image, and the layer that answers where the guest's bytes are.

use super::header::{self, Header};
use super::map::{BlockMap, BlockState};
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Detail, ImageInfo, ImageLayer};
use crate::reference_gate::FileReference;
use crate::source::Geometry;
use crate::stored::read_stored;

/// Any part of a block can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

/// A VDI file whose header is good.
pub(super) struct VdiImage {
    pub file: OpenFile,
    pub file_bytes: u64,
    pub header: Header,
    pub info: ImageInfo,
    pub parent: Option<FileReference>,
}

impl VdiImage {
    /// Reads and checks the header.
    pub fn open(file: OpenFile) -> Result<VdiImage> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let header = header::read(file.file.as_ref(), file_bytes)?;
        let info = describe(&header);
        let parent = header.parent.map(|parent| FileReference {
            names: Vec::new(),
            format: Some(super::FORMAT.name.to_owned()),
            identities: vec![parent.text()],
        });
        Ok(VdiImage { file, file_bytes, header, info, parent })
    }

    /// The disk, with a map of its own.
    pub fn disk(&self) -> Result<VdiLayer> {
        let map = BlockMap::new(self.file.file.clone(), self.file_bytes, self.header.clone())?;
        let (geometry, block_bytes) = (self.info.geometry, self.header.block_bytes);
        Ok(VdiLayer { geometry, block_bytes, files: [self.file.clone()], map })
    }
}

fn describe(header: &Header) -> ImageInfo {
    let (major, minor) = header.version;
    let mut details: Vec<(&'static str, Detail)> = vec![
        ("type", header.kind.name().into()),
        ("format_version", format!("{major}.{minor}").into()),
        ("creator", header.banner.clone().into()),
        ("block_size_bytes", header.block_bytes.into()),
        ("allocated_blocks", header.allocated_count.into()),
        ("uuid", header.own.create.to_string().into()),
        ("modification_uuid", header.own.modify.to_string().into()),
    ];
    if header.extra_bytes > 0 {
        details.push(("block_extra_bytes", header.extra_bytes.into()));
    }
    if !header.comment.is_empty() {
        details.push(("comment", header.comment.clone().into()));
    }
    let (size, added) = (header.disk_bytes, header.sectored_bytes() - header.disk_bytes);
    let mut warnings = Vec::new();
    if added > 0 {
        warnings.push(format!("the disk has {size} bytes, which is no whole number of sectors: {added} are added"));
    }
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(header.sectored_bytes(), UNIT_BYTES),
        identity: header.identity(),
        details,
        warnings,
    }
}

/// The disk.
pub(super) struct VdiLayer {
    geometry: Geometry,
    block_bytes: u64,
    files: [OpenFile; 1],
    map: BlockMap,
}

impl ImageLayer for VdiLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let (block, within) = (guest_offset / self.block_bytes, guest_offset % self.block_bytes);
        let max_blocks = (within + max_bytes).div_ceil(self.block_bytes);
        let (state, blocks) = self.map.run_at(block, max_blocks).map_err(|error| error.at_guest(guest_offset))?;
        let kind = match state {
            BlockState::Absent => LayerKind::Absent,
            BlockState::Zero => LayerKind::Zero,
            BlockState::Stored(host_offset) => {
                LayerKind::Data(HostRange { file: HostFileId(0), host_offset: host_offset + within })
            }
        };
        Ok(LayerExtent { length_bytes: max_bytes.min(blocks * self.block_bytes - within), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read VDI block", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
