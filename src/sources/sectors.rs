//! Disks whose source does not say how large their sectors are, or says it wrongly.

use tintype_formats::extent::DiskExtent;
use tintype_formats::{BlockSource, Geometry, ImageError, OpenFile, StorageOrder};
use tintype_volumes::partitions::gpt_sector_bytes;

use crate::error::{Error, Kind, Result};

/// A disk that presents sectors of another size than its source does.
pub struct WithSectors<S> {
    disk: S,
    geometry: Geometry,
}

impl<S: BlockSource> WithSectors<S> {
    /// Gives the disk logical sectors of this size; fails unless its size is a whole number of them.
    pub fn new(disk: S, sector_bytes: u32) -> Result<Self> {
        let geometry = disk.geometry();
        if sector_bytes == 0 || !geometry.size_bytes.is_multiple_of(u64::from(sector_bytes)) {
            let size_bytes = geometry.size_bytes;
            let message =
                format!("the disk has {size_bytes} bytes, which is no whole number of sectors of {sector_bytes}");
            return Err(Error::new(Kind::Usage, message));
        }
        let physical_sector_bytes = geometry.physical_sector_bytes.max(sector_bytes);
        let geometry = Geometry { logical_sector_bytes: sector_bytes, physical_sector_bytes, ..geometry };
        Ok(WithSectors { disk, geometry })
    }
}

impl<S: BlockSource> BlockSource for WithSectors<S> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.disk.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.disk.read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        self.disk.host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        self.disk.storage_order()
    }
}

/// Returns the sector size of a disk whose source records none: that of its GPT, if there is one.
pub fn recognised_sector_bytes(disk: &dyn BlockSource) -> Option<u32> {
    let size_bytes = disk.geometry().size_bytes;
    gpt_sector_bytes(disk).filter(|sector_bytes| size_bytes.is_multiple_of(u64::from(*sector_bytes)))
}

/// Gives a disk whose source records no sector size the sectors of its GPT.
pub fn with_recognised_sectors(disk: Box<dyn BlockSource>) -> Result<Box<dyn BlockSource>> {
    match recognised_sector_bytes(disk.as_ref()) {
        Some(sector_bytes) if sector_bytes != disk.geometry().logical_sector_bytes => {
            Ok(Box::new(WithSectors::new(disk, sector_bytes)?))
        }
        _ => Ok(disk),
    }
}
