//! The header of a QED file as it lies in it, and its constants. All numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 4] = *b"QED\0";

pub(super) const MIN_CLUSTER_BYTES: u32 = 4 << 10;
pub(super) const MAX_CLUSTER_BYTES: u32 = 64 << 20;
/// Most clusters of a table.
pub(super) const MAX_TABLE_CLUSTERS: u32 = 16;
/// Longest name of the backing file, in bytes: more do not go into QEMU's names.
pub(super) const MAX_BACKING_NAME_BYTES: u32 = 1023;

/// Feature bits. Who does not know one that is set must refuse the file.
pub(super) const FEATURE_BACKING_FILE: u64 = 1;
pub(super) const FEATURE_NEED_CHECK: u64 = 2;
pub(super) const FEATURE_BACKING_FORMAT_NO_PROBE: u64 = 4;
pub(super) const FEATURES_KNOWN: u64 = FEATURE_BACKING_FILE | FEATURE_NEED_CHECK | FEATURE_BACKING_FORMAT_NO_PROBE;

/// The entry of a cluster that reads as zeros, whatever the parent holds.
pub(super) const ENTRY_ZERO: u64 = 1;

/// The header.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct QedHeader {
    pub magic: [u8; 4],
    pub cluster_bytes: U32,
    /// The length of the L1 table and of every L2 table.
    pub table_clusters: U32,
    pub header_clusters: U32,
    pub features: U64,
    pub compatible_features: U64,
    pub autoclear_features: U64,
    pub l1_offset: U64,
    pub disk_bytes: U64,
    pub backing_name_offset: U32,
    pub backing_name_bytes: U32,
}

const _: () = assert!(size_of::<QedHeader>() == 64);
