//! Checking: every entry of the block map, and what of the file none of them names.

use super::header::{Header, Kind};
use super::map::{self, Bits};
use super::on_disk::*;
use super::read::VdiImage;
use crate::check::CheckReport;
use crate::error::Result;

/// Looks for damage in a file whose header is good.
pub(super) fn check(image: &VdiImage, report: &mut CheckReport) -> Result<()> {
    let header = &image.header;
    let room = map::file_block_count(header, image.file_bytes)?;
    check_header(header, report);
    report.host_end_offset = header.map_end();
    let mut check = MapCheck { header, file_bytes: image.file_bytes, used: Bits::new(room), count: 0, end: 0, report };
    map::for_each_run(image.file.file.as_ref(), header, header.block_count, &mut |block, raw, count| {
        check.take_run(block, raw, count);
    })?;
    check.compare_counts();
    if header.kind != Kind::Fixed {
        check.report_unused(room);
    }
    Ok(())
}

/// What readers can do without, but VirtualBox cannot.
fn check_header(header: &Header, report: &mut CheckReport) {
    if header.identity().is_none() {
        report.corruption(0, "the image has no UUIDs: VirtualBox does not open it");
    }
    if header.disk_bytes == 0 {
        return;
    }
    if header.allocated_count > header.block_count {
        let (allocated, all) = (header.allocated_count, header.block_count);
        report.corruption(0, format_args!("{allocated} blocks are said to be allocated, the disk has {all}"));
    }
}

struct MapCheck<'a> {
    header: &'a Header,
    file_bytes: u64,
    used: Bits,
    /// How many entries name a block.
    count: u64,
    /// One more than the greatest number of a block.
    end: u64,
    report: &'a mut CheckReport,
}

impl MapCheck<'_> {
    /// Takes the same entry for `count` blocks in a row. All but the first are corruptions, of one kind: the second and the
    /// last are looked at, those between are counted.
    fn take_run(&mut self, block: u64, raw: u32, count: u64) {
        self.take(block, raw);
        if count == 1 || matches!(raw, ENTRY_FREE | ENTRY_ZERO) {
            return;
        }
        let between = count.saturating_sub(3);
        (block + 1..block + count - between - 1).for_each(|block| self.take(block, raw));
        self.count += between;
        self.report.corruptions += between;
        self.take(block + count - 1, raw);
    }

    fn take(&mut self, block: u64, raw: u32) {
        if matches!(raw, ENTRY_FREE | ENTRY_ZERO) {
            return;
        }
        let host_offset = self.header.map_offset + block * ENTRY_BYTES;
        self.count += 1;
        let place = match map::locate(self.header, self.file_bytes, block, raw) {
            Ok(place) => place,
            Err(detail) => return self.report.corruption(host_offset, detail),
        };
        self.end = self.end.max(u64::from(raw) + 1);
        if !self.used.insert(raw) {
            return self
                .report
                .corruption(host_offset, format_args!("entry {block} is {raw}, and so is an earlier one"));
        }
        let left = self.header.sectored_bytes().saturating_sub(block * self.header.block_bytes);
        self.report.allocated_bytes += left.min(self.header.block_bytes);
        let block_end = place.saturating_add(self.header.block_bytes).min(self.file_bytes);
        self.report.host_end_offset = self.report.host_end_offset.max(block_end);
    }

    /// VirtualBox and QEMU put the next block where the number of those in the header says.
    fn compare_counts(&mut self) {
        let stated = self.header.allocated_count;
        if stated < self.end {
            let text = format!(
                "the header counts {stated} allocated blocks, but number {} is in use: the next block that is allocated will overwrite another one",
                self.end - 1
            );
            self.report.corruption(0, text);
        } else if stated > self.count && stated > self.end {
            let text = format!("the header counts {stated} allocated blocks, the map has {}", self.count);
            self.report.leak(0, text);
        }
    }

    /// Whole blocks of the file that no entry names.
    fn report_unused(&mut self, room: u64) {
        let stored_bytes = self.header.stored_block_bytes();
        let (mut number, whole) =
            (0, room.min((self.file_bytes.saturating_sub(self.header.data_offset)) / stored_bytes));
        while number < whole {
            let first = number;
            while number < whole && !self.used.contains(number as u32) {
                number += 1;
            }
            if number > first {
                let place = self.header.data_offset + first * stored_bytes;
                self.report.leak(place, format_args!("nothing uses {} blocks from {place:#x} on", number - first));
            }
            number += 1;
        }
    }
}
