//! Disks whose compressed units are decoded once for several readers of their parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::unit_cache::UnitCache;
use tintype_formats::{BlockSource, Geometry, ImageError, OpenFile};

/// Units that are larger than this, in bytes, are not kept here: formats that have such keep them themselves.
const MAX_UNIT_BYTES: u64 = 4 << 20;

/// Decoded units of any number of disks, in bounded memory; those that were used least recently go first.
pub struct DiskCache {
    units: UnitCache<(u64, u64)>,
    disks: AtomicU64,
}

impl DiskCache {
    /// A cache that takes so much memory.
    pub fn of_bytes(max_bytes: u64) -> Arc<Self> {
        Arc::new(DiskCache { units: UnitCache::of_bytes(max_bytes), disks: AtomicU64::new(0) })
    }
}

/// A disk that keeps units of which it was asked for a part; whole ones are read past the cache.
///
/// The disk below must not change.
pub struct CachedDisk<S> {
    disk: S,
    geometry: Geometry,
    cache: Arc<DiskCache>,
    number: u64,
}

impl<S: BlockSource> CachedDisk<S> {
    /// Keeps units of `disk` in `cache`.
    pub fn new(disk: S, cache: &Arc<DiskCache>) -> Self {
        let number = cache.disks.fetch_add(1, Relaxed);
        CachedDisk { geometry: disk.geometry(), disk, cache: Arc::clone(cache), number }
    }

    /// Reads a part of one unit.
    fn read_part(&self, guest_offset: u64, part: &mut [u8]) -> Result<(), ImageError> {
        let unit_bytes = self.geometry.unit_bytes;
        let extent = self.disk.extent_at(guest_offset, part.len() as u64)?;
        if extent.kind != DiskKind::Encoded {
            return self.disk.read_at(guest_offset, part);
        }
        let (index, skip_bytes) = (guest_offset / unit_bytes, guest_offset % unit_bytes);
        let begin = index * unit_bytes;
        let length_bytes = unit_bytes.min(self.geometry.size_bytes - begin);
        let decode = |unit: &mut [u8]| self.disk.read_at(begin, unit);
        let cached = self.cache.units.read((self.number, index), length_bytes, skip_bytes, part, decode);
        // What is damaged may be another part of the unit.
        cached.or_else(|_| self.disk.read_at(guest_offset, part))
    }
}

impl<S: BlockSource> BlockSource for CachedDisk<S> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.disk.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let unit_bytes = self.geometry.unit_bytes;
        if !(512..=MAX_UNIT_BYTES).contains(&unit_bytes) {
            return self.disk.read_at(guest_offset, buffer);
        }
        let (mut offset, mut buffer) = (guest_offset, buffer);
        while !buffer.is_empty() {
            let (skip_bytes, left) = (offset % unit_bytes, buffer.len() as u64);
            let whole_bytes = if skip_bytes == 0 { left - left % unit_bytes } else { 0 };
            let part_bytes = if whole_bytes > 0 { whole_bytes } else { left.min(unit_bytes - skip_bytes) };
            let (part, rest) = buffer.split_at_mut(part_bytes as usize);
            match whole_bytes {
                0 => self.read_part(offset, part)?,
                _ => self.disk.read_at(offset, part)?,
            }
            (offset, buffer) = (offset + part_bytes, rest);
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        self.disk.host_files()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::{ModelDisk, Random, check_disk, read_all};

    /// A disk of units of 64 KiB that counts how many bytes are read from it.
    struct Compressed(ModelDisk, AtomicU64);

    impl BlockSource for Compressed {
        fn geometry(&self) -> Geometry {
            Geometry { unit_bytes: 64 << 10, ..self.0.geometry() }
        }

        fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
            let length_bytes = self.0.geometry().clamp(guest_offset, max_bytes)?;
            Ok(DiskExtent { length_bytes, kind: DiskKind::Encoded })
        }

        fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
            self.1.fetch_add(buffer.len() as u64, Relaxed);
            self.0.read_at(guest_offset, buffer)
        }
    }

    #[test]
    fn bytes_are_the_same_and_each_unit_is_decoded_once() {
        let size_bytes = (1 << 20) + 512;
        let model = ModelDisk::random(5, size_bytes, 20, 40);
        let whole = read_all(&model).unwrap();
        let cache = DiskCache::of_bytes(8 << 20);
        let disk = CachedDisk::new(Compressed(model, AtomicU64::new(0)), &cache);
        let other = CachedDisk::new(ModelDisk::random(6, size_bytes, 20, 40), &cache);
        check_disk(&disk, 2).unwrap();
        check_disk(&other, 3).unwrap();
        disk.disk.1.store(0, Relaxed);
        let mut random = Random(7);
        for _ in 0..500 {
            let offset = random.below(size_bytes);
            let mut part = vec![0; random.below(5000).min(size_bytes - offset) as usize];
            disk.read_at(offset, &mut part).unwrap();
            assert_eq!(part, whole[offset as usize..][..part.len()]);
        }
        assert!(disk.disk.1.load(Relaxed) <= size_bytes);
    }
}
