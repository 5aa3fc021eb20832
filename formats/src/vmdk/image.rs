//! The image behind the interface that all formats share.

use super::check;
use super::extents::Layout;
use super::read::{Extent, OPEN, VmdkImage, VmdkLayer};
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(VmdkImage::open(file)?))
}

impl Image for VmdkImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.parent.as_ref()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        no_snapshot(snapshot)?;
        if self.parent.as_ref().is_some_and(|parent| parent.names.is_empty()) {
            return Err(ImageError::corrupt(OPEN, "it has a parent (parentCID), but does not name it"));
        }
        let mut layout = Layout::default();
        match (&self.shape, &self.descriptor) {
            (Some(shape), _) => {
                layout.files.push(self.file.clone());
                layout.push_sparse(0, shape.clone(), self.info.geometry.size_bytes)?;
            }
            (None, Some(descriptor)) => layout.open_extents(descriptor, gate)?,
            (None, None) => {}
        }
        let mut geometry = self.info.geometry;
        geometry.unit_bytes = layout.extents.iter().map(Extent::unit_bytes).max().unwrap_or(geometry.unit_bytes);
        Ok(Box::new(VmdkLayer { geometry, files: layout.files, extents: layout.extents }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self, report)
    }

    fn check_all_files(&self, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        check::check_all_files(self, gate, report)
    }
}
