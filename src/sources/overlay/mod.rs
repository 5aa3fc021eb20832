//! Disks that can be written to although what is below them never is.

use std::sync::Arc;

use tintype_formats::{BlockSource, ImageError};

/// A disk that takes writes.
///
/// What an implementer promises: every method may be called from many threads at once; what one call wrote is seen by every
/// read that begins after it returned; two writes that overlap in time may leave either's bytes in every sector of 512
/// bytes, never others. Ranges past the end of the disk fail with
/// [`OutOfRange`](tintype_formats::ErrorKind::OutOfRange) and change nothing. A full disk fails with the operating system's
/// error as its cause, and leaves what was written before whole.
pub trait WritableDisk: BlockSource {
    /// Writes all of `bytes` at `guest_offset`.
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError>;

    /// Makes a range read as zeros.
    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError>;

    /// Says that the content of a range is no longer wanted: it then reads as it did, or as zeros.
    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError>;

    /// Returns when every write that returned before this call would survive a crash.
    fn flush(&self) -> Result<(), ImageError>;
}

impl<D: WritableDisk + ?Sized> WritableDisk for Arc<D> {
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        (**self).write_at(guest_offset, bytes)
    }

    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        (**self).write_zeros_at(guest_offset, length_bytes)
    }

    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        (**self).discard_at(guest_offset, length_bytes)
    }

    fn flush(&self) -> Result<(), ImageError> {
        (**self).flush()
    }
}
