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
            Err(error) => report.corruption(error.host_offset(), &error),
            Ok(start) => {
                let needed = layout.needed_bytes(index);
                report.allocated_bytes += needed;
                report.host_end_offset = report.host_end_offset.max(start + layout.bitmap_space_bytes + needed);
            }
        }
    }
    check_order(layout, &catalog, report);
    Ok(())
}

/// Extents are stored one behind the other: a number that comes twice is damage, one that is left out space held for nothing.
fn check_order(layout: &Layout, catalog: &[u32], report: &mut CheckReport) {
    let numbered = catalog.iter().zip(0u64..).filter(|(entry, _)| **entry != NOT_STORED);
    // The entry in the high half, so that sorting sorts by the place; its index in the low half.
    let mut stored: Vec<u64> = numbered.map(|(entry, index)| u64::from(*entry) << 32 | index).collect();
    stored.sort_unstable();
    let mut expected = 0;
    for (entry, index) in stored.into_iter().map(|both| (both >> 32, both & 0xffff_ffff)) {
        if entry < expected {
            let text = format!("entry {index} names the extent {entry:#x}, which another one names too");
            report.corruption(layout.catalog_offset + index * CATALOG_ENTRY_BYTES, text);
        }
        if entry > expected {
            let start = layout.data_offset + expected * (layout.bitmap_space_bytes + layout.extent_bytes);
            report.leak(start, format_args!("{} extents from number {expected:#x} on are not used", entry - expected));
        }
        expected = entry + 1;
    }
}
