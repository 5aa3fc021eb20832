//! The structures of UDIF as they lie in the file, and their constants. All numbers are big-endian.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const SECTOR_BYTES: u64 = 512;

/// `koly`, at the beginning of the trailer.
pub(super) const TRAILER_SIGNATURE: [u8; 4] = *b"koly";
/// The only version of the trailer.
pub(super) const TRAILER_VERSION: u32 = 4;
pub(super) const TRAILER_BYTES: u64 = 512;

/// At the beginning of an encrypted image, version 2.
pub(super) const ENCRYPTED_SIGNATURE: [u8; 8] = *b"encrcdsa";
/// At the end of an encrypted image, version 1.
pub(super) const OLD_ENCRYPTED_SIGNATURE: [u8; 8] = *b"cdsaencr";

/// `mish`, at the beginning of a chunk table.
pub(super) const TABLE_SIGNATURE: [u8; 4] = *b"mish";
/// The only version of the chunk table.
pub(super) const TABLE_VERSION: u32 = 1;

/// [`Checksum::kind`]: a CRC-32, in the first four bytes.
pub(super) const CHECKSUM_CRC_32: u32 = 2;

/// Values of [`ChunkEntry::kind`].
pub(super) const CHUNK_ZERO: u32 = 0;
pub(super) const CHUNK_RAW: u32 = 1;
/// Sectors that the file system does not use.
pub(super) const CHUNK_IGNORE: u32 = 2;
pub(super) const CHUNK_ADC: u32 = 0x8000_0004;
pub(super) const CHUNK_ZLIB: u32 = 0x8000_0005;
pub(super) const CHUNK_BZIP2: u32 = 0x8000_0006;
pub(super) const CHUNK_LZFSE: u32 = 0x8000_0007;
pub(super) const CHUNK_LZMA: u32 = 0x8000_0008;
pub(super) const CHUNK_COMMENT: u32 = 0x7fff_fffe;
pub(super) const CHUNK_END: u32 = 0xffff_ffff;

/// A checksum with its kind.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Checksum {
    pub kind: U32,
    pub length_bits: U32,
    pub value: [u8; 128],
}

impl Checksum {
    /// The CRC-32, if it is one.
    pub fn crc_32(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.value;
        (self.kind.get() == CHECKSUM_CRC_32 && self.length_bits.get() == 32).then(|| u32::from_be_bytes([a, b, c, d]))
    }
}

/// The last bytes of the file.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Trailer {
    pub signature: [u8; 4],
    pub version: U32,
    /// The length of this structure.
    pub trailer_bytes: U32,
    pub flags: U32,
    /// Where this segment's data begins in that of all segments.
    pub running_data_offset: U64,
    pub data_offset: U64,
    pub data_bytes: U64,
    pub resource_offset: U64,
    pub resource_bytes: U64,
    pub segment_number: U32,
    pub segment_count: U32,
    pub segment_id: [u8; 16],
    /// Of the data fork.
    pub data_checksum: Checksum,
    pub property_list_offset: U64,
    pub property_list_bytes: U64,
    pub reserved: [u8; 120],
    /// Of the checksums of all chunk tables.
    pub master_checksum: Checksum,
    /// 1: of a whole device; 2: of a partition.
    pub image_variant: U32,
    /// The size of the disk.
    pub sector_count: U64,
    pub reserved_2: [u8; 12],
}

/// The begin of a chunk table; `chunk_count` [`ChunkEntry`]s follow.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct TableHeader {
    pub signature: [u8; 4],
    pub version: U32,
    /// Where the partition begins on the disk.
    pub first_sector: U64,
    pub sector_count: U64,
    /// From the beginning of the data fork; chunks count from here.
    pub data_offset: U64,
    /// The longest chunk, in sectors, and a few more.
    pub buffer_sectors: U32,
    pub descriptor: U32,
    pub reserved: [u8; 24],
    /// Of the partition's bytes.
    pub checksum: Checksum,
    pub chunk_count: U32,
}

/// One chunk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ChunkEntry {
    pub kind: U32,
    pub comment: U32,
    /// From the beginning of the partition.
    pub first_sector: U64,
    pub sector_count: U64,
    /// From the table's `data_offset`.
    pub stored_offset: U64,
    pub stored_bytes: U64,
}

const _: () = assert!(size_of::<Trailer>() == TRAILER_BYTES as usize);
const _: () = assert!(size_of::<TableHeader>() == 204);
const _: () = assert!(size_of::<ChunkEntry>() == 40);

/// The begin of a resource fork (Inside Macintosh: More Macintosh Toolbox, chapter 1).
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ResourceHeader {
    pub data_offset: U32,
    pub map_offset: U32,
    pub data_bytes: U32,
    pub map_bytes: U32,
}
