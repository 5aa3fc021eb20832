//! The structures of EWF as they lie in a segment, and their constants. All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// At the beginning of every segment.
pub(super) const SIGNATURE: [u8; 8] = *b"EVF\x09\x0d\x0a\xff\x00";

/// What segments of this family begin with, and how each is called.
pub(super) const ALL_SIGNATURES: [([u8; 8], &str); 4] = [
    (SIGNATURE, "E01"),
    (*b"LVF\x09\x0d\x0a\xff\x00", "L01 (files, not a disk)"),
    (*b"EVF2\x0d\x0a\x81\x00", "Ex01 (EnCase 7)"),
    (*b"LEF2\x0d\x0a\x81\x00", "Lx01 (files, not a disk)"),
];

/// The begin of a segment.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SegmentHeader {
    pub signature: [u8; 8],
    pub fields_start: u8,
    /// From 1.
    pub segment_number: U16,
    pub fields_end: U16,
}

/// The begin of a section.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SectionHeader {
    /// ASCII, filled with zeros.
    pub kind: [u8; 16],
    /// Where the next section begins; the last one of a segment points to itself, or to the end.
    pub next_offset: U64,
    /// With this header.
    pub length_bytes: U64,
    pub padding: [u8; 40],
    /// The Adler-32 of all before it.
    pub checksum: U32,
}

/// The begin of a `volume`, `disk` or `data` section.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct VolumeHeader {
    pub media_type: u8,
    pub unknown: [u8; 3],
    pub chunk_count: U32,
    pub sectors_per_chunk: U32,
    pub bytes_per_sector: U32,
    pub sector_count: U32,
    /// The high half of the number of sectors; not in SMART's short form.
    pub sector_count_high: U32,
}

/// The length of a `volume` section without its header, as EnCase writes it, and as SMART does.
pub(super) const VOLUME_BYTES: u64 = 1052;
pub(super) const SMART_VOLUME_BYTES: u64 = 94;
/// Where the identifier of the set of segments is in EnCase's form.
pub(super) const SET_ID_OFFSET: usize = 64;

/// The begin of a `table` or `table2` section; `entry_count` entries of four bytes follow.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct TableHeader {
    pub entry_count: U32,
    pub padding: U32,
    /// What is added to every entry.
    pub base_offset: U64,
    pub padding_2: U32,
    /// The Adler-32 of all before it.
    pub checksum: U32,
}

pub(super) const TABLE_ENTRY_BYTES: u64 = 4;
/// The bit of a table entry that says that the chunk is compressed; the others are its offset.
pub(super) const ENTRY_COMPRESSED: u32 = 1 << 31;

/// An Adler-32 after a table's entries, a chunk, a section's content.
pub(super) const CHECKSUM_BYTES: u64 = 4;

/// The length of a `hash` section without its header: an MD5, 16 bytes, a checksum.
pub(super) const HASH_BYTES: u64 = 36;
/// The length of a `digest` section without its header: an MD5, a SHA-1, 40 bytes, a checksum.
pub(super) const DIGEST_BYTES: u64 = 80;

const _: () = assert!(size_of::<SegmentHeader>() == 13);
const _: () = assert!(size_of::<SectionHeader>() == 76);
const _: () = assert!(size_of::<VolumeHeader>() == 24);
const _: () = assert!(size_of::<TableHeader>() == 24);
