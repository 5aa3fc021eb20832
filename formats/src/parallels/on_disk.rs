//! The structures of an expanding image as they lie in the file (QEMU's docs/interop/parallels.txt), all little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What the header and the BAT count in.
pub(super) const SECTOR_BYTES: u64 = 512;

pub(super) const BAT_ENTRY_BYTES: u64 = 4;

/// The only version.
pub(super) const VERSION: u32 = 2;

/// [`Header::in_use`] while some program has the image open for writing; it stays if that is killed.
pub(super) const IN_USE: u32 = 0x746F_6E59;

/// Bit 0 of [`Header::flags`]: nothing was ever written.
pub(super) const FLAG_EMPTY: u32 = 1;

/// The begin of the format extension cluster.
pub(super) const EXTENSION_MAGIC: u64 = 0xAB23_4CEF_23DC_EA87;

/// The extension that ends the list.
pub(super) const END_OF_FEATURES: u64 = 0;

/// The extension that holds a dirty bitmap, whose clusters its table names.
pub(super) const DIRTY_BITMAP: u64 = 0x2038_5FAE_252C_B34A;

/// Which of the two magics a file has: they differ in what BAT entries count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    /// `WithoutFreeSpace`: BAT entries in sectors, disk sizes of 32 bits.
    Sectors,
    /// `WithouFreSpacExt`: BAT entries in clusters.
    Clusters,
}

/// The magic that the file begins with, if it has one.
pub(super) fn magic_of(head: &[u8]) -> Option<Magic> {
    match head.get(..16)? {
        b"WithoutFreeSpace" => Some(Magic::Sectors),
        b"WithouFreSpacExt" => Some(Magic::Clusters),
        _ => None,
    }
}

/// The header; the BAT follows it.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 16],
    pub version: U32,
    pub heads: U32,
    pub cylinders: U32,
    /// The size of a cluster, in sectors.
    pub cluster_sectors: U32,
    pub bat_entries: U32,
    /// The size of the disk; only the low half counts with [`Magic::Sectors`].
    pub disk_sectors: U64,
    pub in_use: U32,
    /// Where the clusters begin, in sectors; 0 for the sector after the BAT.
    pub data_sector: U32,
    pub flags: U32,
    /// The format extension cluster, in sectors; 0 for none.
    pub extension_sector: U64,
}

/// The begin of the format extension cluster; its features follow.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExtensionHeader {
    pub magic: U64,
    /// The MD5 of the rest of the cluster.
    pub md5: [u8; 16],
}

/// The begin of a feature; its data follow, padded to 8 bytes.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FeatureHeader {
    pub magic: U64,
    pub flags: U64,
    pub data_bytes: U32,
    pub unused: U32,
}

/// The data of the feature [`DIRTY_BITMAP`]; the table of its clusters follows.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DirtyBitmap {
    pub size_sectors: U64,
    pub id: [u8; 16],
    pub granularity_sectors: U32,
    pub table_entries: U32,
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<ExtensionHeader>() == 24);
const _: () = assert!(size_of::<FeatureHeader>() == 24);
const _: () = assert!(size_of::<DirtyBitmap>() == 32);
