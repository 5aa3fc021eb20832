//! What lies in the file: structures, constants, and the bounds on the numbers in them. Everything is big-endian.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `QFI\xfb`
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The header of version 2, and the beginning of that of version 3.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct HeaderV2 {
    pub magic: [u8; 4],
    pub version: U32,
    pub backing_file_offset: U64,
    pub backing_file_bytes: U32,
    pub cluster_bits: U32,
    pub size_bytes: U64,
    pub crypt_method: U32,
    pub l1_entries: U32,
    pub l1_table_offset: U64,
    pub refcount_table_offset: U64,
    pub refcount_table_clusters: U32,
    pub snapshot_count: U32,
    pub snapshots_offset: U64,
}
const _: () = assert!(size_of::<HeaderV2>() == 72);

/// What version 3 adds.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct HeaderV3 {
    pub incompatible_features: U64,
    pub compatible_features: U64,
    pub autoclear_features: U64,
    pub refcount_order: U32,
    pub header_bytes: U32,
}
const _: () = assert!(size_of::<HeaderV3>() == 32);

/// Where version 3 may have the compression type, if the header is that long.
pub(super) const COMPRESSION_TYPE_OFFSET: usize = 104;
/// The shortest header of version 3.
pub(super) const MIN_HEADER_V3_BYTES: u32 = 104;
/// The header of version 3 with the compression type and its padding, as it is written.
pub(super) const WRITTEN_HEADER_V3_BYTES: u32 = 112;

/// Before each header extension; its data is padded to 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtensionHead {
    pub kind: U32,
    pub data_bytes: U32,
}
const _: () = assert!(size_of::<ExtensionHead>() == 8);

pub(super) const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const EXTENSION_BITMAPS: u32 = 0x2385_2875;
pub(super) const EXTENSION_CRYPTO_HEADER: u32 = 0x0537_be77;
pub(super) const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// One name in the feature name table.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub kind: u8,
    pub bit: u8,
    pub name: [u8; 46],
}
const _: () = assert!(size_of::<FeatureName>() == 48);

/// The data of the bitmaps extension.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct BitmapsExtension {
    pub bitmap_count: U32,
    pub reserved: U32,
    pub directory_bytes: U64,
    pub directory_offset: U64,
}
const _: () = assert!(size_of::<BitmapsExtension>() == 24);

/// The fixed part of an entry of the bitmap directory; extra data and the name follow, padded to 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct BitmapEntry {
    pub table_offset: U64,
    pub table_entries: U32,
    pub flags: U32,
    pub kind: u8,
    pub granularity_bits: u8,
    pub name_bytes: U16,
    pub extra_bytes: U32,
}
const _: () = assert!(size_of::<BitmapEntry>() == 24);

/// The data of the extension that points to the LUKS header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct CryptoHeaderExtension {
    pub offset: U64,
    pub length_bytes: U64,
}
const _: () = assert!(size_of::<CryptoHeaderExtension>() == 16);

/// The fixed part of an entry of the snapshot table; extra data, id and name follow, padded to 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct SnapshotEntry {
    pub l1_table_offset: U64,
    pub l1_entries: U32,
    pub id_bytes: U16,
    pub name_bytes: U16,
    pub taken_s: U32,
    pub taken_ns: U32,
    pub guest_clock_ns: U64,
    pub machine_state_bytes: U32,
    pub extra_bytes: U32,
}
const _: () = assert!(size_of::<SnapshotEntry>() == 40);

/// The known part of a snapshot's extra data; older images have less of it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub(super) struct SnapshotExtra {
    pub machine_state_bytes: U64,
    pub size_bytes: U64,
}
const _: () = assert!(size_of::<SnapshotExtra>() == 16);

// Incompatible features: bits that a reader must know.
pub(super) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
pub(super) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(super) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
pub(super) const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
pub(super) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
pub(super) const INCOMPATIBLE_KNOWN: u64 = (1 << 5) - 1;
// Compatible features: bits that change nothing for a reader.
pub(super) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;
// Autoclear features: bits that a writer that does not know them clears.
pub(super) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
pub(super) const AUTOCLEAR_DATA_FILE_RAW: u64 = 1 << 1;

pub(super) const COMPRESSION_DEFLATE: u8 = 0;
pub(super) const COMPRESSION_ZSTD: u8 = 1;

/// Host offsets in L1 and standard L2 entries: bits 9 to 55.
pub(super) const ENTRY_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits 0 to 8 and 56 to 62 of an L1 entry.
pub(super) const L1_RESERVED_MASK: u64 = 0x7f00_0000_0000_01ff;
/// Bits 1 to 8 and 56 to 61 of a standard L2 entry.
pub(super) const L2_RESERVED_MASK: u64 = 0x3f00_0000_0000_01fe;
/// The refcount of what the entry points to is exactly 1.
pub(super) const ENTRY_COPIED: u64 = 1 << 63;
/// The L2 entry is that of a compressed cluster.
pub(super) const L2_COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3, without extended L2 entries).
pub(super) const L2_ZERO: u64 = 1 << 0;
/// Bits 0 to 8 of an entry of the refcount table.
pub(super) const REFCOUNT_TABLE_RESERVED_MASK: u64 = 0x1ff;
/// Bits 9 to 55 of a bitmap table entry are an offset; of the others, only bit 0 may be set.
pub(super) const BITMAP_TABLE_RESERVED_MASK: u64 = 0xff00_0000_0000_01fe;

/// Subclusters in a cluster with extended L2 entries.
pub(super) const SUBCLUSTERS: u64 = 32;

/// 512 bytes, the least that the specification allows.
pub(super) const MIN_CLUSTER_BITS: u32 = 9;
/// 2 MiB, QEMU's bound: larger clusters would make each table, and each decoded unit, that large.
pub(super) const MAX_CLUSTER_BITS: u32 = 21;
/// 16 KiB, so that a subcluster has a sector at least.
pub(super) const MIN_EXTENDED_L2_CLUSTER_BITS: u32 = 14;
/// 64 bits.
pub(super) const MAX_REFCOUNT_ORDER: u32 = 6;
/// 16 bits, which version 2 always has.
pub(super) const DEFAULT_REFCOUNT_ORDER: u32 = 4;
/// 32 MiB, QEMU's bound.
pub(super) const MAX_L1_TABLE_BYTES: u64 = 32 << 20;
/// 8 MiB, QEMU's bound.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The specification's bound.
pub(super) const MAX_BACKING_NAME_BYTES: u32 = 1023;
/// QEMU's bound.
pub(super) const MAX_SNAPSHOTS: u32 = 65536;
/// QEMU's bound.
pub(super) const MAX_SNAPSHOT_EXTRA_BYTES: u32 = 1024;
/// A quarter of QEMU's bound, still 256 bytes for each of the most snapshots: names are kept in memory.
pub(super) const MAX_SNAPSHOT_TABLE_BYTES: u64 = 16 << 20;
/// QEMU's bound.
pub(super) const MAX_BITMAPS: u32 = 65535;
/// Bounds what the names of the bitmaps take: 256 bytes for each of the most bitmaps.
pub(super) const MAX_BITMAP_DIRECTORY_BYTES: u64 = 16 << 20;
/// QEMU's bound on the entries of a bitmap table.
pub(super) const MAX_BITMAP_TABLE_ENTRIES: u32 = 0x0800_0000;

/// The two numbers that everything else follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Between [`MIN_CLUSTER_BITS`] and [`MAX_CLUSTER_BITS`].
    pub cluster_bits: u32,
    /// Whether L2 entries have 16 bytes and clusters have subclusters.
    pub extended_l2: bool,
}

impl Shape {
    pub fn cluster_bytes(self) -> u64 {
        1 << self.cluster_bits
    }

    /// The offset within its cluster.
    pub fn within_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster_bytes() - 1)
    }

    pub fn l2_entry_bytes(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    pub fn l2_entries(self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes()
    }

    /// The guest bytes that one L2 table maps; at most 512 GiB.
    pub fn l2_span_bytes(self) -> u64 {
        self.cluster_bytes() * self.l2_entries()
    }

    /// The unit in which space is allocated: the subcluster, or the cluster where there are none.
    pub fn allocation_bytes(self) -> u64 {
        self.cluster_bytes() / self.allocations_per_cluster()
    }

    /// How many units of allocation a cluster has: 32 or 1.
    pub fn allocations_per_cluster(self) -> u64 {
        if self.extended_l2 { SUBCLUSTERS } else { 1 }
    }

    /// How many L1 entries a disk of this size needs.
    pub fn l1_entries_for(self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.l2_span_bytes())
    }

    /// How many clusters so many bytes need.
    pub fn clusters_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_bytes())
    }
}
