//! The structures of [MS-VHDX] as they lie in the file, and their constants. All numbers are little-endian.

use uuid::{Uuid, uuid};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Regions, blocks and the log begin at multiples of this many bytes and are multiples of it long (§2.2).
pub(super) const MIB: u64 = 1 << 20;

/// Everything before this offset belongs to the identifier, the headers and the region tables (§2.2).
pub(super) const HEADER_SECTION_BYTES: u64 = MIB;

/// `vhdxfile`, at the beginning of the file (§2.2.1).
pub(super) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// Where the two headers are (§2.2.2).
pub(super) const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_BYTES: usize = 4096;
pub(super) const HEADER_SIGNATURE: [u8; 4] = *b"head";
/// The only version of the format (§2.2.2).
pub(super) const VERSION: u16 = 1;
/// The only version of the log (§2.2.2).
pub(super) const LOG_VERSION: u16 = 0;

/// Where the two region tables are (§2.2.3).
pub(super) const REGION_TABLE_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE_BYTES: usize = 64 << 10;
pub(super) const REGION_SIGNATURE: [u8; 4] = *b"regi";
/// Most entries of a region table (§2.2.3.1): more do not fit into its 64 KiB.
pub(super) const MAX_REGIONS: u32 = 2047;
/// Bit 0 of [`RegionEntry::flags`]: who does not know the region must refuse the file.
pub(super) const REGION_REQUIRED: u32 = 1;

pub(super) const BAT_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
pub(super) const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// The log, and everything that is written through it, counts in sectors of this size (§2.3.1).
pub(super) const LOG_SECTOR_BYTES: u64 = 4096;
pub(super) const LOG_ENTRY_SIGNATURE: [u8; 4] = *b"loge";
pub(super) const ZERO_DESCRIPTOR_SIGNATURE: [u8; 4] = *b"zero";
pub(super) const DATA_DESCRIPTOR_SIGNATURE: [u8; 4] = *b"desc";
pub(super) const DATA_SECTOR_SIGNATURE: [u8; 4] = *b"data";
/// Largest log that is replayed, in bytes: it is held in memory. Hyper-V and QEMU make logs of 1 MiB.
pub(super) const MAX_LOG_BYTES: u64 = 32 << 20;

pub(super) const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
/// The metadata table takes this much of its region; items come after it (§2.6).
pub(super) const METADATA_TABLE_BYTES: u64 = 64 << 10;
/// Most entries of a metadata table (§2.6.1.1).
pub(super) const MAX_METADATA_ITEMS: u16 = 2047;
/// Largest metadata item, in bytes (§2.6.1.2).
pub(super) const MAX_METADATA_ITEM_BYTES: u32 = 1 << 20;
/// Flags of [`MetadataEntry`] (§2.6.1.2).
pub(super) const ITEM_IS_USER: u32 = 1;
pub(super) const ITEM_IS_VIRTUAL_DISK: u32 = 2;
pub(super) const ITEM_IS_REQUIRED: u32 = 4;

pub(super) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
pub(super) const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
pub(super) const VIRTUAL_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
pub(super) const LOGICAL_SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
pub(super) const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
pub(super) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
/// The only type of parent locator that the specification defines (§2.6.2.6.3).
pub(super) const VHDX_LOCATOR_TYPE: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// Flags of [`FileParameters`] (§2.6.2.1).
pub(super) const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
pub(super) const HAS_PARENT: u32 = 2;

/// Bounds of the block size, in bytes; it is a power of two (§2.6.2.1).
pub(super) const MIN_BLOCK_BYTES: u64 = MIB;
pub(super) const MAX_BLOCK_BYTES: u64 = 256 * MIB;
/// Largest disk, in bytes (§2.6.2.2).
pub(super) const MAX_VIRTUAL_DISK_BYTES: u64 = 64 << 40;
/// A sector bitmap block, in bytes, whatever the size of payload blocks (§2.4).
pub(super) const BITMAP_BLOCK_BYTES: u64 = MIB;
/// The logical sectors that one sector bitmap block describes: a chunk (§2.4).
pub(super) const CHUNK_SECTORS: u64 = 8 * BITMAP_BLOCK_BYTES;

pub(super) const BAT_ENTRY_BYTES: u64 = 8;
/// The state, in the low bits of a BAT entry; above them 17 reserved bits, then the offset in MiB (§2.5.1).
pub(super) const STATE_MASK: u64 = 0b111;
pub(super) const OFFSET_MASK: u64 = !(MIB - 1);

/// States of payload blocks (§2.5.1.1).
pub(super) const NOT_PRESENT: u64 = 0;
pub(super) const UNDEFINED: u64 = 1;
pub(super) const ZERO: u64 = 2;
pub(super) const UNMAPPED: u64 = 3;
/// What version 0.95 of the specification called unmapped; reserved since.
pub(super) const UNMAPPED_0_95: u64 = 5;
pub(super) const FULLY_PRESENT: u64 = 6;
pub(super) const PARTIALLY_PRESENT: u64 = 7;

/// States of sector bitmap blocks (§2.5.1.2).
pub(super) const BITMAP_NOT_PRESENT: u64 = 0;
pub(super) const BITMAP_PRESENT: u64 = 6;

/// A GUID: three little-endian numbers and eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Guid([u8; 16]);

impl From<Uuid> for Guid {
    fn from(uuid: Uuid) -> Self {
        Guid(uuid.to_bytes_le())
    }
}

impl From<Guid> for Uuid {
    fn from(guid: Guid) -> Self {
        Uuid::from_bytes_le(guid.0)
    }
}

/// The file type identifier (§2.2.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileIdentifier {
    pub signature: [u8; 8],
    /// Who made the file: UTF-16, ended by a NUL or the field's end.
    pub creator: [U16; 256],
}

/// One of the two headers (§2.2.2).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub signature: [u8; 4],
    /// CRC-32C of the whole structure with this field zero.
    pub checksum: U32,
    /// The valid header with the greater number counts.
    pub sequence_number: U64,
    /// Changes whenever the file is written.
    pub file_write_guid: Guid,
    /// Changes whenever the guest's data is written.
    pub data_write_guid: Guid,
    /// The log entries to replay; zero for none.
    pub log_guid: Guid,
    pub log_version: U16,
    pub version: U16,
    pub log_length_bytes: U32,
    pub log_offset: U64,
    pub reserved: [u8; 4016],
}

/// The begin of a region table (§2.2.3.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RegionTableHeader {
    pub signature: [u8; 4],
    /// CRC-32C of all 64 KiB with this field zero.
    pub checksum: U32,
    pub entry_count: U32,
    pub reserved: U32,
}

/// A region (§2.2.3.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RegionEntry {
    pub guid: Guid,
    pub host_offset: U64,
    pub length_bytes: U32,
    pub flags: U32,
}

/// The begin of a log entry (§2.3.1.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LogEntryHeader {
    pub signature: [u8; 4],
    /// CRC-32C of the whole entry with this field zero.
    pub checksum: U32,
    pub entry_length_bytes: U32,
    /// Where in the log the sequence begins that ends with this entry.
    pub tail: U32,
    pub sequence_number: U64,
    pub descriptor_count: U32,
    pub reserved: U32,
    pub log_guid: Guid,
    /// How long the file was for certain when the entry was written.
    pub flushed_file_offset: U64,
    /// How long the file must be to hold everything.
    pub last_file_offset: U64,
}

/// A zero or data descriptor (§2.3.1.2, §2.3.1.3).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LogDescriptor {
    pub signature: [u8; 4],
    /// Of a data descriptor: the last bytes of the sector.
    pub trailing_bytes: [u8; 4],
    /// Of a data descriptor: the first bytes of the sector. Of a zero descriptor: the length to zero.
    pub leading_bytes: [u8; 8],
    pub host_offset: U64,
    pub sequence_number: U64,
}

/// A sector to write, with its first eight and last four bytes replaced (§2.3.1.4).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DataSector {
    pub signature: [u8; 4],
    pub sequence_high: U32,
    pub data: [u8; 4084],
    pub sequence_low: U32,
}

/// The begin of the metadata table (§2.6.1.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MetadataTableHeader {
    pub signature: [u8; 8],
    pub reserved: U16,
    pub entry_count: U16,
    pub reserved2: [u8; 20],
}

/// A metadata item's place (§2.6.1.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MetadataEntry {
    pub item: Guid,
    /// Where it begins, in bytes from the beginning of the region.
    pub offset: U32,
    pub length_bytes: U32,
    pub flags: U32,
    pub reserved: U32,
}

/// The item [`FILE_PARAMETERS`] (§2.6.2.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileParameters {
    pub block_bytes: U32,
    pub flags: U32,
}

/// The begin of the item [`PARENT_LOCATOR`] (§2.6.2.6.1).
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ParentLocatorHeader {
    pub locator_type: Guid,
    pub reserved: U16,
    pub entry_count: U16,
}

/// A key and its value; offsets count from the beginning of the item (§2.6.2.6.2).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ParentLocatorEntry {
    pub key_offset: U32,
    pub value_offset: U32,
    pub key_length_bytes: U16,
    pub value_length_bytes: U16,
}

const _: () = assert!(size_of::<FileIdentifier>() == 520);
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(size_of::<RegionTableHeader>() == 16);
const _: () = assert!(size_of::<RegionEntry>() == 32);
const _: () = assert!(size_of::<LogEntryHeader>() == 64);
const _: () = assert!(size_of::<LogDescriptor>() == 32);
const _: () = assert!(size_of::<DataSector>() == LOG_SECTOR_BYTES as usize);
const _: () = assert!(size_of::<MetadataTableHeader>() == 32);
const _: () = assert!(size_of::<MetadataEntry>() == 32);
const _: () = assert!(size_of::<FileParameters>() == 8);
const _: () = assert!(size_of::<ParentLocatorHeader>() == 20);
const _: () = assert!(size_of::<ParentLocatorEntry>() == 12);

/// The CRC-32C of a header, region table or log entry: its bytes 4 to 8, the checksum itself, count as zeros.
///
/// A log entry that goes round the end of the log comes in two parts.
pub(super) fn checksum(bytes: &[u8], rest: &[u8]) -> u32 {
    let mut start = [0; 8];
    for (to, from) in start[..4].iter_mut().zip(bytes) {
        *to = *from;
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&start), bytes.get(8..).unwrap_or_default());
    crc32c::crc32c_append(sum, rest)
}
