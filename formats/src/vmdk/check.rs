//! Checking: what reading does not look at.

use super::image::VmdkImage;
use crate::check::CheckReport;
use crate::error::Result;

/// Looks for damage in the file's own structures.
pub(super) fn check(image: &VmdkImage, report: &mut CheckReport) -> Result<()> {
    report.host_end_offset = image.file_bytes;
    Ok(())
}
