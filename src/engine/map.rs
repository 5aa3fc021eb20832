//! Walks the extents of a disk.

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::{BlockSource, ImageError};

use crate::error::Result;

/// Visits the extents of a disk in order, neighbours that are alike joined into one, and at most `max_extents` of them.
/// Returns the offset that it came to: the disk's size, if that was all of them.
pub fn for_each_extent(
    source: &dyn BlockSource,
    max_extents: u64,
    visit: &mut dyn FnMut(u64, DiskExtent) -> Result<()>,
) -> Result<u64> {
    let size_bytes = source.geometry().size_bytes;
    let mut run: Option<(u64, DiskExtent)> = None;
    let (mut offset, mut visited) = (0, 0);
    while offset < size_bytes {
        let extent = source.extent_at(offset, size_bytes - offset)?;
        match &mut run {
            Some((_, joined)) if adjoin(joined, extent.kind) => joined.length_bytes += extent.length_bytes,
            other => {
                if let Some((begin, done)) = other.replace((offset, extent)) {
                    visit(begin, done)?;
                    visited += 1;
                    if visited == max_extents {
                        return Ok(offset);
                    }
                }
            }
        }
        offset += extent.length_bytes;
    }
    run.map_or(Ok(()), |(begin, last)| visit(begin, last))?;
    Ok(size_bytes)
}

fn adjoin(run: &DiskExtent, next: DiskKind) -> bool {
    run.kind.advanced(run.length_bytes) == next
}

/// How many bytes of a disk lie in units of `unit_bytes` that are not known to be zeros.
pub fn touched_bytes(source: &dyn BlockSource, unit_bytes: u64) -> Result<u64, ImageError> {
    let size_bytes = source.geometry().size_bytes;
    let (mut offset, mut counted_to, mut touched) = (0, 0, 0);
    while offset < size_bytes {
        let extent = source.extent_at(offset, size_bytes - offset)?;
        let end = offset + extent.length_bytes;
        if !extent.kind.reads_as_zeros() {
            let begin = (offset - offset % unit_bytes).max(counted_to);
            counted_to = end.checked_next_multiple_of(unit_bytes).map_or(size_bytes, |end| end.min(size_bytes));
            touched += counted_to.saturating_sub(begin);
        }
        offset = end;
    }
    Ok(touched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::ModelDisk;

    #[test]
    fn alike_neighbours_are_one_extent() {
        let mut disk = ModelDisk::new(1 << 20);
        (10..20).for_each(|block| disk.write(block, 1));
        let mut found = Vec::new();
        let mut take = |offset: u64, extent: DiskExtent| -> Result<()> {
            found.push((offset, extent.length_bytes));
            Ok(())
        };
        assert_eq!(for_each_extent(&disk, 3, &mut take).unwrap(), 1 << 20);
        assert_eq!(for_each_extent(&disk, 2, &mut take).unwrap(), 81920);
        let all = [(0, 40960), (40960, 40960), (81920, (1 << 20) - 81920)];
        assert_eq!(found, [&all[..], &all[..2]].concat());
    }

    #[test]
    fn touched_units_count_once() {
        let mut disk = ModelDisk::new(1 << 20);
        [0, 2, 15, 16, 255].into_iter().for_each(|block| disk.write(block, 1));
        assert_eq!(touched_bytes(&disk, 4096).unwrap(), 5 * 4096);
        assert_eq!(touched_bytes(&disk, 65536).unwrap(), 3 * 65536);
        assert_eq!(touched_bytes(&disk, 2 << 20).unwrap(), 1 << 20);
    }
}
