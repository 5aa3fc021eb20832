//! The header as it lies in the file, all little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const SECTOR_BYTES: u64 = 512;

/// The begin of the file; NULs follow up to 32 bytes.
pub(super) const MAGIC: &[u8] = b"Bochs Virtual HD Image\0";
pub(super) const TYPE: &[u8] = b"Redolog";
/// The only subtype that is a disk by itself.
pub(super) const GROWING: &[u8] = b"Growing";

pub(super) const VERSION_1: u32 = 0x0001_0000;
pub(super) const VERSION_2: u32 = 0x0002_0000;

/// An entry of the catalog for an extent that is not stored.
pub(super) const NOT_STORED: u32 = u32::MAX;

pub(super) const CATALOG_ENTRY_BYTES: u64 = 4;

/// The header.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 32],
    pub kind: [u8; 16],
    pub subkind: [u8; 16],
    pub version: U32,
    /// Where the catalog begins.
    pub header_bytes: U32,
    pub catalog_entries: U32,
    pub bitmap_bytes: U32,
    pub extent_bytes: U32,
    /// Version 2: a time stamp, then the size of the disk in bytes. Version 1: the size alone.
    pub rest: [u8; 12],
}

impl Header {
    /// The size of the disk, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        let at = if self.version.get() == VERSION_1 { 0 } else { 4 };
        U64::read_from_prefix(self.rest.get(at..).unwrap_or_default()).map_or(0, |(size, _)| size.get())
    }
}

const _: () = assert!(size_of::<Header>() == 96);
