//! The image behind the interface that all formats share.

use super::check;
use super::read::EwfImage;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::Result;
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(EwfImage::open(file)?))
}

impl Image for EwfImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        no_snapshot(snapshot)?;
        Ok(Box::new(self.all(gate)?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(&self.first_only()?, report)
    }

    fn check_all_files(&self, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        check::check(&self.all(gate)?, report)
    }
}
