//! The structures of a VDI file as they lie in it, and their constants. All numbers are little-endian.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the signature stands: after a text for people.
pub(super) const SIGNATURE_OFFSET: usize = 64;
pub(super) const SIGNATURE: u32 = 0xbeda_107f;

/// The version that is created: 1.1.
pub(super) const VERSION: u32 = 0x0001_0001;

/// Image types.
pub(super) const DYNAMIC: u32 = 1;
pub(super) const FIXED: u32 = 2;
pub(super) const UNDO: u32 = 3;
pub(super) const DIFFERENCING: u32 = 4;

/// Entries of the block map that are no block's number.
pub(super) const ENTRY_FREE: u32 = 0xffff_ffff;
pub(super) const ENTRY_ZERO: u32 = 0xffff_fffe;
pub(super) const ENTRY_BYTES: u64 = 4;

pub(super) const MIN_BLOCK_BYTES: u32 = 512;
pub(super) const MIB: u64 = 1 << 20;

/// Longest block map that is read and written, in bytes: 64 TiB of disk in blocks of 1 MiB. All of it is looked through
/// before the disk is read, and 4 GiB, which the fields would allow, would take too long.
pub(super) const MAX_MAP_BYTES: u64 = 256 << 20;

/// Most blocks of a file that are kept account of: a bit each, 32 MiB of memory. 256 TiB in blocks of 1 MiB.
pub(super) const MAX_FILE_BLOCKS: u64 = 1 << 28;

/// A UUID: three little-endian numbers and eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DiskUuid([u8; 16]);

impl From<Uuid> for DiskUuid {
    fn from(uuid: Uuid) -> Self {
        DiskUuid(uuid.to_bytes_le())
    }
}

impl From<DiskUuid> for Uuid {
    fn from(uuid: DiskUuid) -> Self {
        Uuid::from_bytes_le(uuid.0)
    }
}

/// What every version begins with.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PreHeader {
    /// Which program made the file, for people.
    pub banner: [u8; SIGNATURE_OFFSET],
    pub signature: U32,
    /// The major version in the upper 16 bits, the minor one in the lower.
    pub version: U32,
}

/// Cylinders, heads, sectors: not used here.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DiskGeometry {
    pub cylinders: U32,
    pub heads: U32,
    pub sectors: U32,
    pub sector_bytes: U32,
}

/// The header of version 0; the block map follows it, the blocks follow the map.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct HeaderV0 {
    pub image_type: U32,
    pub flags: U32,
    pub comment: [u8; 256],
    pub geometry: DiskGeometry,
    pub disk_bytes: U64,
    pub block_bytes: U32,
    pub block_count: U32,
    pub allocated_count: U32,
    pub create: DiskUuid,
    pub modify: DiskUuid,
    pub parent_create: DiskUuid,
}

/// The header of version 1, as far as all of them have it.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct HeaderV1 {
    /// The length of the header without the [`PreHeader`].
    pub header_bytes: U32,
    pub image_type: U32,
    pub flags: U32,
    pub comment: [u8; 256],
    pub map_offset: U32,
    pub data_offset: U32,
    pub geometry: DiskGeometry,
    pub unused: U32,
    pub disk_bytes: U64,
    pub block_bytes: U32,
    /// What stands before the guest's bytes in every block.
    pub extra_bytes: U32,
    pub block_count: U32,
    pub allocated_count: U32,
    pub create: DiskUuid,
    pub modify: DiskUuid,
    pub parent_create: DiskUuid,
    pub parent_modify: DiskUuid,
}

/// A file's begin as it is written.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct NewHeader {
    pub pre: PreHeader,
    pub v1: HeaderV1,
    pub logical_geometry: DiskGeometry,
}

impl NewHeader {
    /// The length that goes into [`HeaderV1::header_bytes`].
    pub fn stated_bytes() -> u32 {
        (size_of::<NewHeader>() - size_of::<PreHeader>()) as u32
    }

    pub fn empty() -> Self {
        NewHeader::new_zeroed()
    }
}

const _: () = assert!(size_of::<PreHeader>() == 72);
const _: () = assert!(size_of::<HeaderV0>() == 348);
const _: () = assert!(size_of::<HeaderV1>() == 384);
const _: () = assert!(size_of::<NewHeader>() == 472);
