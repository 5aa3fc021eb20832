//! Reading: every byte of the file is the guest's.

use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::format::Format;
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::limits::MAX_DISK_BYTES;
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;

const SECTOR_BYTES: u64 = 512;

/// Holes of files come in the file system's blocks.
const UNIT_BYTES: u64 = 4096;

struct RawImage {
    files: [OpenFile; 1],
    file_bytes: u64,
    info: ImageInfo,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(RawImage::open(file)?))
}

/// Opens a file whose name claims a format that its content is not.
pub(crate) fn open_doubtful(file: OpenFile, claimed: &Format) -> Result<Box<dyn Image>> {
    let mut image = RawImage::open(file)?;
    image.info.warnings.push(format!("the name says {}, but the content is not: it is read as raw", claimed.name));
    Ok(Box::new(image))
}

impl RawImage {
    fn open(file: OpenFile) -> Result<Self> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        if file_bytes > MAX_DISK_BYTES {
            return Err(ImageError::limit_exceeded(
                "open raw disk",
                format!("it has {file_bytes} bytes, at most {MAX_DISK_BYTES} work"),
            ));
        }
        Ok(RawImage::new(file, file_bytes))
    }

    fn new(file: OpenFile, file_bytes: u64) -> Self {
        let size_bytes = file_bytes.next_multiple_of(SECTOR_BYTES);
        let mut warnings = Vec::new();
        if size_bytes != file_bytes {
            warnings.push(format!(
                "the file has {file_bytes} bytes, which is no whole number of sectors: {} zero bytes are added",
                size_bytes - file_bytes
            ));
        }
        let geometry = Geometry::of_512_byte_sectors(size_bytes, UNIT_BYTES);
        let info = ImageInfo { format: super::FORMAT.name, geometry, identity: None, details: Vec::new(), warnings };
        RawImage { files: [file], file_bytes, info }
    }
}

impl Image for RawImage {
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
        Ok(Box::new(RawImage::new(self.files[0].clone(), self.file_bytes)))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        report.allocated_bytes = self.file_bytes;
        report.host_end_offset = self.file_bytes;
        Ok(())
    }
}

impl ImageLayer for RawImage {
    fn geometry(&self) -> Geometry {
        self.info.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let length_bytes = self.info.geometry.clamp(guest_offset, max_bytes)?;
        let stored_bytes = self.file_bytes.saturating_sub(guest_offset).min(length_bytes);
        if stored_bytes == 0 {
            return Ok(LayerExtent { length_bytes, kind: LayerKind::Absent });
        }
        // The chain looks for the holes in it.
        let kind = LayerKind::Data(HostRange { file: HostFileId(0), host_offset: guest_offset });
        Ok(LayerExtent { length_bytes: stored_bytes, kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.info.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let stored = self.file_bytes.saturating_sub(guest_offset).min(buffer.len() as u64) as usize;
        let (inside, past_the_end) = buffer.split_at_mut(stored);
        past_the_end.fill(0);
        self.files[0]
            .file
            .read_exact_at(guest_offset, inside)
            .map_err(|cause| ImageError::io("read raw disk", cause).at_host(guest_offset))
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
