//! The structures of a VHD file, and their constants. All numbers are big-endian.
//!
//! Clause names are those of Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0 (2006).

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Everything counts in sectors of this size; the format knows no other.
pub(super) const SECTOR_BYTES: u64 = 512;

/// `conectix`, at the beginning of each footer ("Hard Disk Footer Format").
pub(super) const FOOTER_COOKIE: [u8; 8] = *b"conectix";
pub(super) const FOOTER_BYTES: u64 = 512;
/// Virtual PC before 2004 wrote one byte less, of the reserved ones.
pub(super) const SHORT_FOOTER_BYTES: u64 = 511;
/// Bit 1 is to be set in every file.
pub(super) const FEATURES: u32 = 2;
/// Version 1.0 of footers and dynamic headers; another major version is another format.
pub(super) const VERSION: u32 = 0x0001_0000;
/// A fixed disk has no dynamic header, and no header has a further one: their offset is this.
pub(super) const NO_OFFSET: u64 = u64::MAX;
/// Where the checksum is in a footer.
const FOOTER_CHECKSUM_AT: usize = 64;

/// Types of disks.
pub(super) const FIXED: u32 = 2;
pub(super) const DYNAMIC: u32 = 3;
pub(super) const DIFFERENCING: u32 = 4;

/// Seconds from 1970 to 2000, when time stamps begin.
pub(super) const EPOCH_UNIX_S: u64 = 946_684_800;

/// `cxsparse`, at the beginning of a dynamic header ("Dynamic Disk Header Format").
pub(super) const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
pub(super) const HEADER_BYTES: u64 = 1024;
/// Where the checksum is in a dynamic header.
const HEADER_CHECKSUM_AT: usize = 36;

/// A BAT entry of a block that is not in the file ("Block Allocation Table and Data Blocks").
pub(super) const UNUSED_ENTRY: u32 = u32::MAX;
pub(super) const BAT_ENTRY_BYTES: u64 = 4;

/// The greatest geometry that a footer can express: the disk may be larger.
pub(super) const MAX_GEOMETRY_SECTORS: u64 = 65535 * 16 * 255;
/// Largest disk with a BAT, in bytes: 2040 GiB. Entries are 32-bit sector numbers, and bitmaps need some of them.
pub(super) const MAX_DISK_BYTES: u64 = 2040 << 30;
/// Most BAT entries that are read; they are held in memory, 32 MiB. Blocks have 512 KiB or 2 MiB in practice, so that the
/// largest disk has 4,177,920 of them.
pub(super) const MAX_BAT_ENTRIES: u64 = 8 << 20;

/// The footer, at the end of every file and, as a copy, at the beginning of dynamic and differencing ones.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Footer {
    pub cookie: [u8; 8],
    pub features: U32,
    pub version: U32,
    /// Where the dynamic header is; [`NO_OFFSET`] in fixed disks.
    pub header_offset: U64,
    /// When it was created, in seconds since 2000.
    pub timestamp: U32,
    pub creator: [u8; 4],
    pub creator_version: U32,
    pub creator_host: [u8; 4],
    pub original_bytes: U64,
    pub current_bytes: U64,
    pub cylinders: U16,
    pub heads: u8,
    pub sectors_per_track: u8,
    pub disk_type: U32,
    pub checksum: U32,
    pub unique_id: [u8; 16],
    /// 1 if a machine was suspended with this disk.
    pub saved_state: u8,
    pub reserved: [u8; 427],
}

/// The header of dynamic and differencing disks.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DynamicHeader {
    pub cookie: [u8; 8],
    pub next_offset: U64,
    /// Where the BAT is.
    pub bat_offset: U64,
    pub version: U32,
    pub max_bat_entries: U32,
    /// The size of a block without its bitmap.
    pub block_bytes: U32,
    pub checksum: U32,
    pub parent_unique_id: [u8; 16],
    /// When the parent was last changed, in seconds since 2000.
    pub parent_timestamp: U32,
    pub reserved: U32,
    /// The parent's file name, UTF-16.
    pub parent_name: [U16; 256],
    pub parent_locators: [ParentLocator; 8],
    pub reserved2: [u8; 256],
}

/// Where one of the parent's names is.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ParentLocator {
    /// On which platform, and how, the name is to be understood.
    pub platform: [u8; 4],
    /// The space reserved for it: sectors by the specification, bytes in many files.
    pub space: U32,
    pub length_bytes: U32,
    pub reserved: U32,
    pub host_offset: U64,
}

const _: () = assert!(size_of::<Footer>() == FOOTER_BYTES as usize);
const _: () = assert!(size_of::<DynamicHeader>() == HEADER_BYTES as usize);
const _: () = assert!(size_of::<ParentLocator>() == 24);

/// The complement of the sum of all bytes, but for the four of the checksum itself.
fn checksum(bytes: &[u8], checksum_at: usize) -> u32 {
    let own = checksum_at..checksum_at + 4;
    let counted = bytes.iter().enumerate().filter(|(index, _)| !own.contains(index));
    !counted.map(|(_, byte)| u32::from(*byte)).sum::<u32>()
}

impl Footer {
    /// What its checksum has to be.
    pub fn right_checksum(&self) -> u32 {
        checksum(self.as_bytes(), FOOTER_CHECKSUM_AT)
    }

    /// Whether it is a footer, and whole.
    pub fn is_valid(&self) -> bool {
        self.cookie == FOOTER_COOKIE && self.checksum.get() == self.right_checksum()
    }
}

impl DynamicHeader {
    /// What its checksum has to be.
    pub fn right_checksum(&self) -> u32 {
        checksum(self.as_bytes(), HEADER_CHECKSUM_AT)
    }
}
