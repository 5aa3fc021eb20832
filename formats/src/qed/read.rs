//! The image: what its header says, and its one layer.

use super::header::{self, Header};
use super::on_disk::*;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::{Detail, Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::two_level::check;
use crate::two_level::read::TwoLevelLayer;

struct QedImage {
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
    Ok(Box::new(QedImage { file, header, info, parent }))
}

fn parent(header: &Header) -> Option<FileReference> {
    let name = header.backing_name.clone()?;
    let format = header.has(FEATURE_BACKING_FORMAT_NO_PROBE).then(|| "raw".to_owned());
    Some(FileReference { names: vec![name], format, identities: Vec::new() })
}

fn describe(header: &Header) -> ImageInfo {
    let need_check = header.has(FEATURE_NEED_CHECK);
    let details: Vec<(&'static str, Detail)> = vec![
        ("cluster_bytes", header.shape.cluster_bytes.into()),
        ("table_clusters", header.table_clusters.into()),
        ("need_check", need_check.into()),
    ];
    let mut warnings = Vec::new();
    if need_check {
        warnings.push("the image was not closed properly: its tables may be damaged, check it".to_owned());
    }
    if header.backing_name.is_some() && !header.has(FEATURE_BACKING_FORMAT_NO_PROBE) {
        warnings.push(
            "the image does not say which format its parent has: that is guessed from the parent's content".into(),
        );
    }
    let geometry = Geometry::of_512_byte_sectors(header.shape.disk_bytes, header.shape.cluster_bytes);
    ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings }
}

impl Image for QedImage {
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
        no_snapshot(snapshot)?;
        Ok(Box::new(TwoLevelLayer::open(self.file.clone(), self.header.shape, self.info.geometry)?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self.file.file.as_ref(), &self.header.shape, report)
    }
}
