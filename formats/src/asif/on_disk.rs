//! The structures of an ASIF file, all big-endian.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 4] = *b"shdw";

/// The only version seen.
pub(super) const VERSION: u32 = 1;

/// The size of an entry of a directory or table.
pub(super) const ENTRY_BYTES: u64 = 8;

/// The chunk number, in an entry of a table.
pub(super) const CHUNK_MASK: u64 = 0x007f_ffff_ffff_ffff;

/// The bits of an entry that nobody has seen in use.
pub(super) const RESERVED_MASK: u64 = 0x3f80_0000_0000_0000;

/// The state of a chunk, in the highest bits of its entry.
pub(super) const STATUS_SHIFT: u32 = 62;
pub(super) const STATUS_ABSENT: u64 = 0;
pub(super) const STATUS_WHOLE: u64 = 1;
/// The bitmap says which sectors are there.
pub(super) const STATUS_PARTIAL: u64 = 3;

/// The states of a sector, two bits in the bitmap.
pub(super) const SECTOR_ABSENT: u8 = 0;
pub(super) const SECTOR_PRESENT: u8 = 1;
pub(super) const SECTORS_PER_BITMAP_BYTE: u64 = 4;

/// The header, at the beginning of the file.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 4],
    pub version: U32,
    pub header_bytes: U32,
    pub flags: U32,
    /// Where the two directories are, in bytes.
    pub directory_offsets: [U64; 2],
    pub uuid: [u8; 16],
    /// The size of the disk.
    pub sector_count: U64,
    /// The size up to which the disk can grow: the directory has room for it.
    pub max_sector_count: U64,
    pub chunk_bytes: U32,
    pub sector_bytes: U16,
    pub unknown: U16,
    /// Where, past the end of the disk, a property list is kept.
    pub metadata_chunk: U64,
}

const _: () = assert!(size_of::<Header>() == 80);
