//! The beginning of a pipe, which cannot be read again.

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::{BlockSource, Geometry, ImageError};

/// The beginning of a pipe's disk, as a disk.
pub struct Head(pub Vec<u8>);

impl BlockSource for Head {
    fn geometry(&self) -> Geometry {
        Geometry::of_512_byte_sectors(self.0.len() as u64, 512)
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let length_bytes = self.geometry().clamp(guest_offset, max_bytes)?;
        Ok(DiskExtent { length_bytes, kind: DiskKind::Encoded })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.0[guest_offset as usize..][..buffer.len()]);
        Ok(())
    }
}
