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
}
