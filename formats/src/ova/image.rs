//! A package as an image: a container, which has no disk of its own.

use super::check;
use super::read::Package;
use crate::check::CheckReport;
use crate::contents::{DiskInfo, SnapshotInfo};
use crate::error::{ImageError, Result};
use crate::format::Formats;
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};

pub(crate) fn open(file: OpenFile, formats: Formats) -> Result<Box<dyn Image>> {
    Ok(Box::new(Package::open(file, formats)?))
}

impl Image for Package {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, _: Option<&str>, _: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        Err(ImageError::no_such_disk("a package has no disk of its own", &self.disks))
    }

    fn disks(&self) -> &[DiskInfo] {
        &self.disks
    }

    fn open_disk(&self, index: usize, gate: &dyn ReferenceGate) -> Result<Box<dyn Image>> {
        Ok(Box::new(self.disk_image(index, gate)?))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check_package(self, report)
    }
}
