//! A disk with zeros after its end.

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::limits::MAX_DISK_BYTES;
use tintype_formats::{BlockSource, Geometry, ImageError, OpenFile, StorageOrder, StoredPiece};

/// A disk made larger.
pub struct Extended<S> {
    disk: S,
    geometry: Geometry,
}

impl<S: BlockSource> Extended<S> {
    /// Gives the disk `size_bytes`; fails if it has more already.
    pub fn new(disk: S, size_bytes: u64) -> Result<Self, ImageError> {
        let geometry = disk.geometry();
        if size_bytes < geometry.size_bytes || size_bytes > MAX_DISK_BYTES {
            let detail = format!(
                "to {size_bytes} bytes; expected at least the {} that it has, and at most {MAX_DISK_BYTES}",
                geometry.size_bytes
            );
            return Err(ImageError::new(tintype_formats::ErrorKind::InvalidOption, "extend the disk", detail));
        }
        Ok(Extended { disk, geometry: Geometry { size_bytes, ..geometry } })
    }

    /// How many of `length_bytes` from `guest_offset` on are the disk's own.
    fn own_bytes(&self, guest_offset: u64, length_bytes: u64) -> u64 {
        self.disk.geometry().size_bytes.saturating_sub(guest_offset).min(length_bytes)
    }
}

impl<S: BlockSource> BlockSource for Extended<S> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        match self.own_bytes(guest_offset, length_bytes) {
            0 => Ok(DiskExtent { length_bytes, kind: DiskKind::Hole }),
            own => self.disk.extent_at(guest_offset, own),
        }
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let own = self.own_bytes(guest_offset, buffer.len() as u64) as usize;
        let (inside, past_the_end) = buffer.split_at_mut(own);
        past_the_end.fill(0);
        if inside.is_empty() { Ok(()) } else { self.disk.read_at(guest_offset, inside) }
    }

    fn host_files(&self) -> &[OpenFile] {
        self.disk.host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        self.disk.storage_order().map(|_| self as &dyn StorageOrder)
    }
}

impl<S: BlockSource> StorageOrder for Extended<S> {
    fn stored_at(&self, guest_offset: u64) -> Result<Option<(StoredPiece, u64)>, ImageError> {
        self.geometry.clamp(guest_offset, 1)?;
        match (self.disk.storage_order(), self.own_bytes(guest_offset, 1)) {
            (Some(disk), 1..) => disk.stored_at(guest_offset),
            _ => Ok(None),
        }
    }

    fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), ImageError> {
        let inside = |(at, buffer): &(u64, &mut [u8])| self.own_bytes(*at, buffer.len() as u64) == buffer.len() as u64;
        match self.disk.storage_order() {
            Some(disk) if parts.iter().all(inside) => disk.read_parts(parts),
            _ => parts.iter_mut().try_for_each(|(guest_offset, buffer)| self.read_at(*guest_offset, buffer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::{ModelDisk, check_disk, read_all};

    #[test]
    fn an_extended_disk_ends_with_zeros() {
        let disk = ModelDisk::random(5, 300_032, 10, 20);
        let mut bytes = read_all(&disk).unwrap();
        let extended = Extended::new(disk, 1 << 20).unwrap();
        check_disk(&extended, 1).unwrap();
        bytes.resize(1 << 20, 0);
        assert_eq!(read_all(&extended).unwrap(), bytes);
        assert!(Extended::new(extended, 512).is_err());
    }
}
