//! Checking: whether the catalog's extents are in the file, and each of them once.

use super::header::{self, Layout};
use super::on_disk::{CATALOG_ENTRY_BYTES, NOT_STORED};
use crate::check::CheckReport;
use crate::error::Result;
use crate::host_file::HostFile;

/// Goes through the catalog.
pub(super) fn check(file: &dyn HostFile, layout: &Layout, report: &mut CheckReport) -> Result<()> {
    let catalog = header::read_catalog(file, layout)?;
    report.host_end_offset = layout.data_offset;
    for (entry, index) in catalog.iter().zip(0u64..).filter(|(entry, _)| **entry != NOT_STORED) {
        match layout.locate(index, *entry) {
            Err(error) => report.corruption(error.host_offset(), error.to_string()),
            Ok(start) => {
                let needed = layout.needed_bytes(index);
                report.allocated_bytes += needed;
                report.host_end_offset = report.host_end_offset.max(start + layout.bitmap_space_bytes + needed);
            }
        }
    }
    let stored = header::stored(&catalog);
    for entry in stored.windows(2).filter_map(header::twice) {
        let second = catalog.iter().rposition(|found| *found == entry).unwrap_or_default() as u64;
        let text = format!("entry {second} names the extent {entry:#x}, which another one names too");
        report.corruption(layout.catalog_offset + second * CATALOG_ENTRY_BYTES, text);
    }
    // Extents are stored one behind the other: a number that is left out is space held for nothing.
    let mut expected = 0;
    for entry in stored {
        if entry > expected {
            let start = layout.data_offset + u64::from(expected) * (layout.bitmap_space_bytes + layout.extent_bytes);
            report.leak(start, format!("{} extents from number {expected:#x} on are not used", entry - expected));
        }
        expected = entry.saturating_add(1);
    }
    Ok(())
}
