//! The disk as the guest sees it: the one abstraction that every reader of disks takes.

use std::sync::Arc;

use crate::error::Result;
use crate::extent::DiskExtent;
use crate::host_file::OpenFile;

/// The numbers that describe a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The size that the guest sees, in bytes.
    pub size_bytes: u64,
    /// The logical sector size: what partition tables count in. 512 or 4096.
    pub logical_sector_bytes: u32,
    /// The physical sector size: what the guest aligns its writes to.
    pub physical_sector_bytes: u32,
    /// The unit in which the disk is best read (cluster, block): reading a part of it may cost as much as all of it.
    pub unit_bytes: u64,
}

impl Geometry {
    /// A disk of 512-byte sectors.
    pub fn of_512_byte_sectors(size_bytes: u64, unit_bytes: u64) -> Self {
        Geometry { size_bytes, logical_sector_bytes: 512, physical_sector_bytes: 512, unit_bytes }
    }

    /// Cuts `max_bytes` to what remains after `guest_offset`; fails if nothing remains or nothing was asked for.
    pub fn clamp(&self, guest_offset: u64, max_bytes: u64) -> Result<u64> {
        match self.size_bytes.checked_sub(guest_offset) {
            Some(remaining) if remaining > 0 && max_bytes > 0 => Ok(remaining.min(max_bytes)),
            _ => Err(crate::ImageError::out_of_range(guest_offset, max_bytes, self.size_bytes)),
        }
    }

    /// Fails unless the range lies within the disk.
    pub fn check_range(&self, guest_offset: u64, length_bytes: u64) -> Result<()> {
        match guest_offset.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(crate::ImageError::out_of_range(guest_offset, length_bytes, self.size_bytes)),
        }
    }
}

/// A whole readable disk: an image with its parents, a device, a slice of one.
///
/// What an implementer promises:
/// - [`extent_at`](Self::extent_at) starts exactly at the offset, is never empty, has one kind, and may be shorter than
///   the run of that kind. It does no more I/O than the lookup needs and answers the same from any thread, at any time.
/// - [`read_at`](Self::read_at) fills the whole buffer or fails. Ranges whose extent reads as zeros read as zeros.
/// - Any `u64` is legal input and gives [`OutOfRange`](crate::ErrorKind::OutOfRange), never a panic. Reading nothing at or
///   before the end of the disk succeeds.
///
/// What it may rely on: nothing; callers are not trusted to have checked the range.
pub trait BlockSource: Send + Sync {
    /// The numbers that describe the disk; they never change while it is open.
    fn geometry(&self) -> Geometry;

    /// What the disk is made of from `guest_offset` on, for at most `max_bytes`.
    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent>;

    /// Reads the guest's bytes at `guest_offset`.
    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The files that [`HostRange`](crate::extent::HostRange)s point into. The default, for disks that give none, is empty.
    fn host_files(&self) -> &[OpenFile] {
        &[]
    }

    /// The same disk for who reads all of it in any order, if it has another order than the guest's. The default is none.
    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        None
    }
}

/// A disk whose pieces are stored in an order of their own, side by side in larger objects: whoever follows that order reads
/// each object from front to back, and several pieces at once.
///
/// The promises of [`BlockSource`] hold here too.
pub trait StorageOrder: Send + Sync {
    /// Where the data at `guest_offset` is stored, and how many of the guest's bytes from there on are in the same piece (at
    /// least one); none where there is no data.
    fn stored_at(&self, guest_offset: u64) -> Result<Option<(StoredPiece, u64)>>;

    /// Fills each buffer with the guest's bytes from its offset on. Pieces that are stored side by side, and named one after the
    /// other, are fetched together.
    fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> Result<()>;
}

/// Where a piece of a disk is stored. Pieces are sorted as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPiece {
    /// The object.
    pub object: [u8; 16],
    /// Where in the object the piece begins.
    pub offset: u64,
    /// How long it is there, in bytes.
    pub stored_bytes: u64,
}

impl<S: BlockSource + ?Sized> BlockSource for Box<S> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        (**self).extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        (**self).read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        (**self).host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        (**self).storage_order()
    }
}

impl<S: BlockSource + ?Sized> BlockSource for &S {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        (**self).extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        (**self).read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        (**self).host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        (**self).storage_order()
    }
}

impl<S: BlockSource + ?Sized> BlockSource for Arc<S> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        (**self).extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        (**self).read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        (**self).host_files()
    }

    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        (**self).storage_order()
    }
}
