//! Compares the guest content of two disks.

use std::ops::Range;
use std::sync::Mutex;

use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ImageError};

use super::NamedDisk;
use super::pipeline::{Pipeline, Stop, Unreadable, joined};
use super::plan::{DiskPlan, Inherited, PlanOptions};
use super::zero_scan;
use crate::error::{OnPath as _, Result};
use crate::progress::Progress;
use crate::sources::AlignedBuffer;

/// Differences are told by the sector.
const SECTOR_BYTES: usize = 512;

/// How many differing ranges are kept for the report; the bytes are all counted.
const MAX_RANGES: usize = 1 << 16;

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The sizes, in bytes.
    pub sizes_bytes: [u64; 2],
    /// Where the content differs: guest ranges of whole sectors, ascending. What lies past the end of the shorter disk
    /// counts as zeros there.
    pub differing: Vec<Range<u64>>,
    /// How many bytes those ranges are, also the ones that were not kept.
    pub differing_bytes: u64,
}

/// Reads both disks and compares; what both leave out is not read.
pub fn compare(a: NamedDisk<'_>, b: NamedDisk<'_>, workers: usize, progress: &Progress) -> Result<Comparison> {
    let sizes_bytes = [a.disk.geometry().size_bytes, b.disk.geometry().size_bytes];
    let (longer, shorter) = if sizes_bytes[0] >= sizes_bytes[1] { (a, b) } else { (b, a) };
    progress.begin(longer.disk.geometry().size_bytes);
    let found = Mutex::new(Comparison { sizes_bytes, ..Comparison::default() });
    let options = PlanOptions {
        parent: Some(shorter.disk),
        with_zeros: false,
        inherited: Inherited::Read,
        clonable: &[],
        salvage: false,
    };
    let mut plan = DiskPlan::new(longer.disk, None, options);
    let pipeline = Pipeline {
        source: Some(longer.disk),
        source_path: longer.path,
        workers,
        progress,
        rate_limit: None,
        unreadable: Unreadable::Fail,
    };
    pipeline.run(&mut plan, &[], &|loaded| {
        if let Some(bytes) = loaded.bytes {
            let differing = differing_ranges(bytes, shorter.disk, loaded.unit.guest_offset).on_path(shorter.path)?;
            found.lock().unpoisoned().add(differing);
        }
        progress.reach(loaded.unit.passed_bytes);
        Ok::<_, Stop>(())
    })?;
    let mut found = found.into_inner().unpoisoned();
    found.differing = joined(found.differing);
    Ok(found)
}

impl Comparison {
    fn add(&mut self, ranges: Vec<Range<u64>>) {
        self.differing_bytes += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        let room = MAX_RANGES.saturating_sub(self.differing.len());
        self.differing.extend(ranges.into_iter().take(room));
    }
}

fn differing_ranges(bytes: &[u8], other: &dyn BlockSource, guest_offset: u64) -> Result<Vec<Range<u64>>, ImageError> {
    let mut theirs = AlignedBuffer::zeroed(bytes.len());
    let inside = other.geometry().size_bytes.saturating_sub(guest_offset).min(bytes.len() as u64) as usize;
    if inside > 0 {
        other.read_at(guest_offset, &mut theirs[..inside])?;
    }
    let mut ranges = Vec::new();
    for (block, (ours, theirs)) in
        bytes.chunks(zero_scan::BLOCK_BYTES).zip(theirs.chunks(zero_scan::BLOCK_BYTES)).enumerate()
    {
        if ours == theirs {
            continue;
        }
        let begin = guest_offset + (block * zero_scan::BLOCK_BYTES) as u64;
        let sectors = ours.chunks(SECTOR_BYTES).zip(theirs.chunks(SECTOR_BYTES)).enumerate();
        ranges.extend(sectors.filter(|(_, (ours, theirs))| ours != theirs).map(|(sector, (ours, _))| {
            let offset = begin + (sector * SECTOR_BYTES) as u64;
            offset..offset + ours.len() as u64
        }));
    }
    Ok(joined(ranges))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::ModelDisk;

    fn named(disk: &ModelDisk) -> NamedDisk<'_> {
        NamedDisk { disk, path: std::path::Path::new("disk") }
    }

    #[test]
    fn finds_what_differs_and_nothing_else() {
        let a = ModelDisk::random(1, 9 << 20, 20, 100);
        let mut b = a.clone();
        let same = compare(named(&a), named(&b), 3, &Progress::new()).unwrap();
        assert_eq!((same.differing_bytes, same.differing), (0, vec![]));
        b.write(700, 99);
        b.write(701, 98);
        let other = compare(named(&a), named(&b), 3, &Progress::new()).unwrap();
        assert_eq!(other.differing, vec![700 * 4096..702 * 4096]);
        assert_eq!(other.differing_bytes, 8192);
    }

    #[test]
    fn what_is_longer_must_be_zeros_to_be_equal() {
        let short = ModelDisk::new(1 << 20);
        let mut long = ModelDisk::new(2 << 20);
        assert!(compare(named(&short), named(&long), 2, &Progress::new()).unwrap().differing.is_empty());
        long.write(300, 7);
        let found = compare(named(&short), named(&long), 2, &Progress::new()).unwrap();
        assert_eq!(found.differing, vec![300 * 4096..301 * 4096]);
    }
}
