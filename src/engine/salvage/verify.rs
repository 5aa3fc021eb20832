//! Proof of what was written late: a digest of the first pass covers all but the areas that were set aside.

use std::ops::Range;

use tintype_formats::extent::DiskExtent;
use tintype_formats::{BlockSource, Geometry, ImageError};

use crate::error::Result;

/// A sum over rescued sectors and their offsets, whatever their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RescuedSum {
    sector_bytes: usize,
    sum: [u8; 32],
}

impl RescuedSum {
    /// A sum of nothing.
    pub fn new(sector_bytes: u32) -> Self {
        RescuedSum { sector_bytes: sector_bytes.max(1) as usize, sum: [0; 32] }
    }

    /// Adds bytes that begin and end at sectors, or at the edge of an area.
    pub fn add(&mut self, guest_offset: u64, bytes: &[u8]) {
        let mut offset = guest_offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let to_boundary = self.sector_bytes - (offset % self.sector_bytes as u64) as usize;
            let (sector, after) = rest.split_at(to_boundary.min(rest.len()));
            let mut hasher = blake3::Hasher::new();
            hasher.update(&offset.to_le_bytes()).update(sector);
            self.sum.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(sum, byte)| *sum ^= byte);
            offset += sector.len() as u64;
            rest = after;
        }
    }

    /// Returns the sum over ranges of a disk.
    pub fn of(disk: &dyn BlockSource, ranges: &[Range<u64>], sector_bytes: u32) -> Result<Self> {
        const STEP_BYTES: u64 = 1 << 20;
        let mut sum = Self::new(sector_bytes);
        let mut buffer = vec![0; STEP_BYTES as usize];
        for range in ranges {
            let mut offset = range.start;
            while offset < range.end {
                let end = ((offset / STEP_BYTES + 1) * STEP_BYTES).min(range.end);
                let bytes = &mut buffer[..(end - offset) as usize];
                disk.read_at(offset, bytes)?;
                sum.add(offset, bytes);
                offset = end;
            }
        }
        Ok(sum)
    }
}

/// A disk with zeros in some ranges.
pub struct Masked<'a> {
    disk: &'a dyn BlockSource,
    /// The ranges, ascending and apart.
    zeros: &'a [Range<u64>],
}

impl<'a> Masked<'a> {
    /// The disk with zeros in these ranges, which are ascending and apart.
    pub fn new(disk: &'a dyn BlockSource, zeros: &'a [Range<u64>]) -> Self {
        Masked { disk, zeros }
    }
}

impl BlockSource for Masked<'_> {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    /// A masked range may lie in a hole or in data: no kind of the disk's contradicts zeros but a place of its bytes.
    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.disk.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.disk.read_at(guest_offset, buffer)?;
        let end = guest_offset + buffer.len() as u64;
        let first = self.zeros.partition_point(|range| range.end <= guest_offset);
        for range in self.zeros[first..].iter().take_while(|range| range.start < end) {
            let part = range.start.max(guest_offset)..range.end.min(end);
            buffer[(part.start - guest_offset) as usize..(part.end - guest_offset) as usize].fill(0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tintype_formats::testing::{ModelDisk, read_all};

    use super::*;

    #[test]
    fn the_sum_does_not_depend_on_the_order_and_sees_every_byte() {
        let disk = ModelDisk::random(5, 64 << 10, 20, 10);
        let bytes = read_all(&disk).unwrap();
        let ranges = [512..4096, 10_240..10_752, 60_000..65_536];
        let expected = RescuedSum::of(&disk, &ranges, 512).unwrap();
        let mut other = RescuedSum::new(512);
        other.add(60_000, &bytes[60_000..61_440]);
        other.add(10_240, &bytes[10_240..10_752]);
        other.add(61_440, &bytes[61_440..]);
        other.add(512, &bytes[512..4096]);
        assert_eq!(other, expected);
        let mut wrong = bytes[512..4096].to_vec();
        wrong[700] ^= 1;
        other.add(512, &wrong);
        other.add(512, &bytes[512..4096]);
        assert_ne!(other, expected);
    }

    #[test]
    fn masked_ranges_are_zeros_and_others_are_not() {
        let disk = ModelDisk::random(6, 10_000, 20, 10);
        let zeros = [0..100, 200..300, 9_990..10_000];
        let mut expected = read_all(&disk).unwrap();
        zeros.iter().for_each(|range| expected[range.start as usize..range.end as usize].fill(0));
        let masked = Masked::new(&disk, &zeros);
        for (begin, end) in [(0, 10_000), (50, 250), (250, 9_995), (100, 200), (299, 300)] {
            let mut found = vec![1; end - begin];
            masked.read_at(begin as u64, &mut found).unwrap();
            assert_eq!(found, expected[begin..end]);
        }
    }
}
