//! The structures of VMDK files as they lie in the file, and their constants. All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What every offset and length in a VMDK counts in.
pub(super) const SECTOR_BYTES: u64 = 512;

/// The begin of a hosted sparse extent.
pub(super) const HOSTED_MAGIC: [u8; 4] = *b"KDMV";
/// The begin of a COWD extent (vmfsSparse).
pub(super) const COWD_MAGIC: [u8; 4] = *b"COWD";
/// The begin of a seSparse extent.
pub(super) const SE_SPARSE_MAGIC: u64 = 0xcafe_babe;

/// [`HostedHeader::flags`]: [`HostedHeader::line_ends`] mean something.
pub(super) const FLAG_LINE_ENDS: u32 = 1;
/// There is a second grain directory.
pub(super) const FLAG_REDUNDANT_DIRECTORY: u32 = 1 << 1;
/// The grain table entry 1 stands for a grain of zeros.
pub(super) const FLAG_ZERO_GRAINS: u32 = 1 << 2;
/// Grains are compressed.
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
/// Grains and tables follow markers.
pub(super) const FLAG_MARKERS: u32 = 1 << 17;

/// Changes if the file went through a transfer in text mode.
pub(super) const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// [`HostedHeader::compression`]: zlib streams (RFC 1950).
pub(super) const COMPRESSION_DEFLATE: u16 = 1;

/// [`HostedHeader::directory_sector`]: the footer says where the directory is.
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// A grain table entry that stands for zeros, if [`FLAG_ZERO_GRAINS`] is set.
pub(super) const ZERO_GRAIN_ENTRY: u32 = 1;

/// The newest version of the hosted header that is known.
pub(super) const MAX_HOSTED_VERSION: u32 = 3;

/// Largest grain, in sectors (1 GiB): QEMU's bound.
pub(super) const MAX_GRAIN_SECTORS: u64 = 0x20_0000;

/// Largest compressed grain, in sectors (16 MiB): it is held in memory whole. Usual ones have 64 KiB.
pub(super) const MAX_COMPRESSED_GRAIN_SECTORS: u64 = 0x8000;

/// Most entries of a grain table; hosted ones have 512, COWD and seSparse ones 4096.
pub(super) const MAX_TABLE_ENTRIES: u32 = 4096;

/// Most grain tables of one image, in all its extents: their directories are kept in memory, 4 bytes each. With usual
/// grains that is a disk of 256 TiB.
pub(super) const MAX_TABLES: u64 = 8 << 20;

/// Longest descriptor, in bytes: ten thousand extents need half of it.
pub(super) const MAX_DESCRIPTOR_BYTES: u64 = 1 << 20;

/// Most extents of an image. A disk of 8 TiB in parts of 2 GiB has this many; each is an open file.
pub(super) const MAX_EXTENTS: usize = 4096;

/// The header of a hosted sparse extent, and of a stream's footer.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct HostedHeader {
    pub magic: [u8; 4],
    pub version: U32,
    pub flags: U32,
    pub capacity_sectors: U64,
    pub grain_sectors: U64,
    /// Where the embedded descriptor is; 0 for none.
    pub descriptor_sector: U64,
    pub descriptor_sectors: U64,
    pub table_entries: U32,
    pub redundant_directory_sector: U64,
    pub directory_sector: U64,
    /// Where the first grain can be.
    pub overhead_sectors: U64,
    pub unclean_shutdown: u8,
    pub line_ends: [u8; 4],
    pub compression: U16,
    pub padding: [u8; 433],
}
const _: () = assert!(size_of::<HostedHeader>() as u64 == SECTOR_BYTES);

/// What stands before a compressed grain.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct GrainMarker {
    /// The guest sector of the grain.
    pub sector: U64,
    /// The length of the stream that follows.
    pub stream_bytes: U32,
}
pub(super) const GRAIN_MARKER_BYTES: usize = 12;
const _: () = assert!(size_of::<GrainMarker>() == GRAIN_MARKER_BYTES);

/// What stands, in a sector of its own, before everything else in a stream.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Marker {
    /// How many sectors follow.
    pub sectors: U64,
    /// Always 0: what tells it from a grain's.
    pub stream_bytes: U32,
    pub kind: U32,
    pub padding: [u8; 496],
}
const _: () = assert!(size_of::<Marker>() as u64 == SECTOR_BYTES);

pub(super) const MARKER_END_OF_STREAM: u32 = 0;
pub(super) const MARKER_GRAIN_TABLE: u32 = 1;
pub(super) const MARKER_GRAIN_DIRECTORY: u32 = 2;
pub(super) const MARKER_FOOTER: u32 = 3;

/// The begin of a COWD extent; what follows up to [`COWD_HEADER_BYTES`] concerns nobody.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct CowdHeader {
    pub magic: [u8; 4],
    pub version: U32,
    pub flags: U32,
    pub capacity_sectors: U32,
    pub grain_sectors: U32,
    pub directory_sector: U32,
    pub directory_entries: U32,
    pub next_free_sector: U32,
}
const _: () = assert!(size_of::<CowdHeader>() == 32);
pub(super) const COWD_HEADER_BYTES: u64 = 2048;
pub(super) const COWD_VERSION: u32 = 1;
pub(super) const COWD_TABLE_ENTRIES: u64 = 4096;

/// The constant header of a seSparse extent; offsets and sizes in sectors.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SeSparseHeader {
    pub magic: U64,
    pub version: U64,
    pub capacity_sectors: U64,
    pub grain_sectors: U64,
    pub table_sectors: U64,
    pub flags: U64,
    pub reserved: [U64; 4],
    pub volatile_header_sector: U64,
    pub volatile_header_sectors: U64,
    pub journal_header_sector: U64,
    pub journal_header_sectors: U64,
    pub journal_sector: U64,
    pub journal_sectors: U64,
    pub directory_sector: U64,
    pub directory_sectors: U64,
    pub tables_sector: U64,
    pub tables_sectors: U64,
    pub free_bitmap_sector: U64,
    pub free_bitmap_sectors: U64,
    pub back_map_sector: U64,
    pub back_map_sectors: U64,
    pub grains_sector: U64,
    pub grains_sectors: U64,
}
const _: () = assert!(size_of::<SeSparseHeader>() == 208);
/// Version 2.1, in the halves of the field.
pub(super) const SE_SPARSE_VERSION: u64 = 0x2_0000_0001;

/// The volatile header of a seSparse extent.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SeSparseVolatileHeader {
    pub magic: U64,
    pub free_table: U64,
    pub next_txn: U64,
    pub replay_journal: U64,
}
const _: () = assert!(size_of::<SeSparseVolatileHeader>() == 32);
pub(super) const SE_SPARSE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;

/// Meaning of a grain table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// The parent decides.
    Absent,
    /// Reads as zeros.
    Zero,
    /// Begins here in the file, as it is or compressed.
    Stored(u64),
    /// The entry makes no sense.
    Bad(u64),
}
