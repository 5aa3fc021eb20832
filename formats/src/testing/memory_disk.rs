//! A disk of bytes in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::extent::{DiskExtent, DiskKind};
use crate::{BlockSource, Geometry, Result};

/// Disk of bytes that tests put there themselves, with the number of times that it was read.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    /// Bytes of the disk.
    pub bytes: Vec<u8>,
    sector_bytes: u32,
    reads: AtomicU64,
}

impl MemoryDisk {
    /// Makes a disk of these bytes, with sectors of 512 bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        MemoryDisk { bytes, sector_bytes: 512, reads: AtomicU64::new(0) }
    }

    /// Sets the sector size.
    pub fn with_sectors(self, sector_bytes: u32) -> Self {
        MemoryDisk { sector_bytes, ..self }
    }

    /// Puts bytes at an offset that the disk has.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Returns how often the disk was read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl BlockSource for MemoryDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            logical_sector_bytes: self.sector_bytes,
            physical_sector_bytes: self.sector_bytes,
            ..Geometry::of_512_byte_sectors(self.bytes.len() as u64, 512)
        }
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        let length_bytes = self.geometry().clamp(guest_offset, max_bytes)?;
        Ok(DiskExtent { length_bytes, kind: DiskKind::Data(None) })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.geometry().check_range(guest_offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.bytes[guest_offset as usize..][..buffer.len()]);
        Ok(())
    }
}
