//! The image behind the interface that all formats share.

use super::check;
use super::read::VhdImage;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::Result;
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer, no_snapshot};
use crate::reference_gate::{FileReference, ReferenceGate};

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(VhdImage::open(file)?))
}

impl Image for VhdImage {
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
        Ok(Box::new(self.disk()?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self, report)
    }
}
