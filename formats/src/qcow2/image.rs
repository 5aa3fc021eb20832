//! The image behind the interface that all formats share.

use super::check;
use super::read::Qcow2Image;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::Result;
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(Qcow2Image::open(file)?))
}

impl Image for Qcow2Image {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.parent.as_ref()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &self.snapshots
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        Ok(Box::new(self.disk(snapshot, gate)?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self, report)
    }
}
