//! The image: what its header says, and its one layer.

use super::header::{self, Header};
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::{Detail, Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::two_level::check;
use crate::two_level::read::TwoLevelLayer;

struct QcowImage {
    file: OpenFile,
    header: Header,
    info: ImageInfo,
    parent: Option<FileReference>,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let header = header::read(file.file.as_ref(), file_bytes)?;
    let info = describe(&header);
    let parent = parent(&header);
    Ok(Box::new(QcowImage { file, header, info, parent }))
}

fn parent(header: &Header) -> Option<FileReference> {
    let name = header.backing_name.clone()?;
    Some(FileReference { names: vec![name], format: None, identities: Vec::new() })
}

fn describe(header: &Header) -> ImageInfo {
    let mut details: Vec<(&'static str, Detail)> =
        vec![("cluster_bytes", header.shape.cluster_bytes.into()), ("l2_entries", header.shape.l2_entries.into())];
    if header.encrypted {
        details.push(("encryption", "AES".into()));
    }
    let mut warnings = Vec::new();
    if header.backing_name.is_some() {
        warnings.push(
            "the image does not say which format its parent has: that is guessed from the parent's content".into(),
        );
    }
    let (size, added) = (header.disk_bytes, header.shape.disk_bytes - header.disk_bytes);
    if added > 0 {
        warnings.push(format!("the disk has {size} bytes, which is no whole number of sectors: {added} are added"));
    }
    let geometry = Geometry::of_512_byte_sectors(header.shape.disk_bytes, header.shape.cluster_bytes);
    ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings }
}

impl Image for QcowImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.parent.as_ref()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, _gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        if self.header.encrypted {
            return Err(ImageError::unsupported("read QCOW image", "it is encrypted with AES"));
        }
        no_snapshot(snapshot)?;
        Ok(Box::new(TwoLevelLayer::open(self.file.clone(), self.header.shape, self.info.geometry)?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self.file.file.as_ref(), &self.header.shape, report)
    }
}
