//! Checking: what opening and reading do not look at.

use std::ops::Range;

use super::header;
use super::on_disk::*;
use super::read::VhdImage;
use super::tables::Bat;
use crate::check::CheckReport;
use crate::error::{ImageError, Result};
use crate::zeros::is_zero;

/// How much of a block is read at once.
const READ_BYTES: usize = 256 << 10;

/// Looks for damage in a file that could be opened.
pub(super) fn check(image: &VhdImage, report: &mut CheckReport) -> Result<()> {
    check_footers(image, report)?;
    let footer_end = image.file_len_bytes;
    let Some(bat) = image.bat()? else {
        report.allocated_bytes = image.size_bytes();
        report.host_end_offset = footer_end;
        return Ok(());
    };
    let mut places = Vec::new();
    for (block, found) in bat.present_blocks() {
        match found {
            Ok(host_offset) => {
                places.push(Place { host_offset, block: block as u32 });
                report.allocated_bytes += bat.layout().used_bytes(block);
            }
            Err(error) => report.corruption(bat.entry_offset(block), &error),
        }
    }
    places.sort_unstable_by_key(|place| place.host_offset);
    // With a damaged entry, something else may be where it should point to.
    if report.corruptions == 0 {
        find_leaks(image, &bat, &places, report);
    }
    check_bitmaps(image, &bat, &places, report)?;
    report.host_end_offset = footer_end;
    Ok(())
}

/// A block in the file.
struct Place {
    /// Where its bitmap begins.
    host_offset: u64,
    block: u32,
}

/// How long a block is, with its bitmap.
fn block_bytes(bat: &Bat) -> u64 {
    bat.layout().bitmap_bytes() + bat.layout().block_bytes
}

/// There must be a whole footer at the end and, but in fixed disks, the same one at the beginning.
fn check_footers(image: &VhdImage, report: &mut CheckReport) -> Result<()> {
    if image.data_end_offset == image.file_len_bytes {
        report
            .corruption(image.file_len_bytes, "there is no whole footer at the end; the copy at the beginning is used");
        return Ok(());
    }
    if image.tables.is_none() {
        return Ok(());
    }
    match header::read_copy(image.file.file.as_ref(), image.file_len_bytes)? {
        Some(copy) if copy == image.footer => {}
        Some(copy) if copy.is_valid() => report.corruption(0, "the copy of the footer is not the same as the footer"),
        _ => report.corruption(0, "the copy of the footer is damaged; the footer at the end is used"),
    }
    Ok(())
}

/// What nothing uses is a leak if a block would fit in: less may be for alignment, or for what only the creator knows.
fn find_leaks(image: &VhdImage, bat: &Bat, places: &[Place], report: &mut CheckReport) {
    let layout = bat.layout();
    let bat_end = layout.bat_offset.saturating_add(layout.max_bat_entries * BAT_ENTRY_BYTES);
    let mut others: Vec<Range<u64>> = layout.reserved().into_iter().map(|(range, _)| range).collect();
    others.push(layout.bat_offset..bat_end);
    others.push(image.data_end_offset..image.file_len_bytes);
    others.sort_unstable_by_key(|range| range.start);
    let mut others = others.into_iter().peekable();
    let mut end = 0;
    let mut use_range = |range: Range<u64>| {
        let free_bytes = range.start.saturating_sub(end);
        if free_bytes >= block_bytes(bat) {
            report.leak(end, format_args!("nothing uses the {free_bytes:#x} bytes from {end:#x} on"));
        }
        end = end.max(range.end);
    };
    for place in places {
        while let Some(other) = others.next_if(|other| other.start <= place.host_offset) {
            use_range(other);
        }
        use_range(place.host_offset..place.host_offset + block_bytes(bat));
    }
    others.for_each(use_range);
}

/// In a dynamic disk, sectors that were never written are zeros, so that it does not matter whether a reader looks at bitmaps.
fn check_bitmaps(image: &VhdImage, bat: &Bat, places: &[Place], report: &mut CheckReport) -> Result<()> {
    if bat.layout().bitmaps_decide {
        return Ok(());
    }
    let file = image.file.file.as_ref();
    let (mut bitmap, mut data) = (vec![0; bat.layout().bitmap_bytes() as usize], Vec::new());
    for Place { host_offset: begin, block } in places {
        let failed = |cause| ImageError::io("read VHD block", cause).at_host(*begin);
        let sectors = (bat.layout().used_bytes((*block).into()) / SECTOR_BYTES) as usize;
        file.read_exact_at(*begin, &mut bitmap).map_err(failed)?;
        if bitmap[..sectors / 8].iter().all(|byte| *byte == 0xff) && sectors.is_multiple_of(8) {
            continue;
        }
        let is_clear = |sector: usize| bitmap.get(sector / 8).is_some_and(|byte| byte << (sector % 8) & 0x80 == 0);
        let mut contradictions = 0;
        for first in (0..sectors).step_by(READ_BYTES / SECTOR_BYTES as usize) {
            let count = (sectors - first).min(READ_BYTES / SECTOR_BYTES as usize);
            if !(first..first + count).any(is_clear) {
                continue;
            }
            data.resize(count * SECTOR_BYTES as usize, 0);
            let host_offset = begin + bitmap.len() as u64 + first as u64 * SECTOR_BYTES;
            file.read_exact_at(host_offset, &mut data).map_err(failed)?;
            let sectors = data.chunks_exact(SECTOR_BYTES as usize).zip(first..);
            contradictions += sectors.filter(|(bytes, sector)| is_clear(*sector) && !is_zero(bytes)).count();
        }
        if contradictions > 0 {
            report.corruption(
                *begin,
                format_args!("block {block}: {contradictions} sectors have data, though the bitmap says that they were never written; they are read, other programs may not"),
            );
        }
    }
    Ok(())
}
