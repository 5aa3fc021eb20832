//! A part of a disk, as a disk of its own.

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::{BlockSource, Geometry, ImageError, OpenFile, StorageOrder, StoredPiece};

use super::overlay::WritableDisk;

/// The bytes of a disk from an offset on.
pub struct Slice<S> {
    disk: S,
    begin: u64,
    geometry: Geometry,
}

impl<S: BlockSource> Slice<S> {
    /// Takes `size_bytes` (or all that is left) from `begin` on; fails if the disk does not have them.
    pub fn new(disk: S, begin: u64, size_bytes: Option<u64>) -> Result<Self, ImageError> {
        let geometry = disk.geometry();
        let size_bytes = size_bytes.unwrap_or_else(|| geometry.size_bytes.saturating_sub(begin));
        geometry.check_range(begin, size_bytes)?;
        Ok(Slice { disk, begin, geometry: Geometry { size_bytes, ..geometry } })
    }
}

impl<S: BlockSource> BlockSource for Slice<S> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let extent = self.disk.extent_at(self.begin + guest_offset, max_bytes)?;
        // At another place of the parent there is something else: here it has to be read.
        let is_moved = self.begin > 0 && extent.kind == DiskKind::Inherited;
        Ok(if is_moved { DiskExtent { kind: DiskKind::Data(None), ..extent } } else { extent })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        self.disk.read_at(self.begin + guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        self.disk.host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        self.disk.storage_order().map(|_| self as &dyn StorageOrder)
    }
}

impl<S: BlockSource> StorageOrder for Slice<S> {
    fn stored_at(&self, guest_offset: u64) -> Result<Option<(StoredPiece, u64)>, ImageError> {
        let left = self.geometry.clamp(guest_offset, u64::MAX)?;
        let Some(disk) = self.disk.storage_order() else { return Ok(None) };
        let stored = disk.stored_at(self.begin + guest_offset)?;
        Ok(stored.map(|(piece, length_bytes)| (piece, length_bytes.min(left))))
    }

    fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), ImageError> {
        let Some(disk) = self.disk.storage_order() else {
            return parts.iter_mut().try_for_each(|(guest_offset, buffer)| self.read_at(*guest_offset, buffer));
        };
        let mut moved = Vec::with_capacity(parts.len());
        for (guest_offset, buffer) in parts {
            self.geometry.check_range(*guest_offset, buffer.len() as u64)?;
            moved.push((self.begin + *guest_offset, &mut **buffer));
        }
        disk.read_parts(&mut moved)
    }
}

impl<S: WritableDisk> WritableDisk for Slice<S> {
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, bytes.len() as u64)?;
        self.disk.write_at(self.begin + guest_offset, bytes)
    }

    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, length_bytes)?;
        self.disk.write_zeros_at(self.begin + guest_offset, length_bytes)
    }

    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, length_bytes)?;
        self.disk.discard_at(self.begin + guest_offset, length_bytes)
    }

    fn flush(&self) -> Result<(), ImageError> {
        self.disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::{ModelDisk, check_disk, read_all};

    #[test]
    fn a_slice_is_a_disk_with_the_right_bytes() {
        let disk = ModelDisk::random(3, 1 << 20, 10, 20);
        let whole = read_all(&disk).unwrap();
        let slice = Slice::new(disk, 512 * 33, Some(300_032)).unwrap();
        check_disk(&slice, 1).unwrap();
        assert_eq!(read_all(&slice).unwrap(), whole[512 * 33..512 * 33 + 300_032]);
        assert!(Slice::new(slice, 300_000, Some(33)).is_err());
    }
}
