//! The structures of an archive (Proxmox's vma_spec.txt and vma.h), all big-endian but the lengths of blobs.

use md5::{Digest, Md5};
use zerocopy::big_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The begin of an archive.
pub(super) const MAGIC: [u8; 4] = *b"VMA\0";
pub(super) const VERSION: u32 = 1;

/// The begin of an extent.
pub(super) const EXTENT_MAGIC: [u8; 4] = *b"VMAE";

/// The unit in which what is zero is left out.
pub(super) const BLOCK_BYTES: u64 = 4096;
pub(super) const BLOCKS_PER_CLUSTER: u64 = 16;
pub(super) const CLUSTER_BYTES: u64 = BLOCK_BYTES * BLOCKS_PER_CLUSTER;

/// Clusters that one extent can hold.
pub(super) const CLUSTERS_PER_EXTENT: usize = 59;

/// Room for configurations and for devices in the header. Number 0 of the devices is never used.
pub(super) const TABLE_ENTRIES: usize = 256;

/// The name of the device that is the machine's memory.
pub(super) const MACHINE_STATE: &str = "vmstate";

/// Where the MD5 sum is in [`Header`], counted as zeros in the sum.
pub(super) const HEADER_MD5: std::ops::Range<usize> = 32..48;

/// The same in [`ExtentHeader`].
pub(super) const EXTENT_MD5: std::ops::Range<usize> = 24..40;

/// The header; the blobs follow somewhere in its `header_bytes`.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub magic: [u8; 4],
    pub version: U32,
    pub uuid: [u8; 16],
    pub created_unix_s: I64,
    /// Of all `header_bytes`, this field zero.
    pub md5: [u8; 16],
    pub blobs_offset: U32,
    pub blobs_bytes: U32,
    pub header_bytes: U32,
    pub reserved: [u8; 1984],
    /// Blobs: the file names of the configurations.
    pub config_names: [U32; TABLE_ENTRIES],
    /// Blobs: what is in them.
    pub config_data: [U32; TABLE_ENTRIES],
    pub padding: [u8; 4],
    pub devices: [DeviceInfo; TABLE_ENTRIES],
}

/// A device.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DeviceInfo {
    /// A blob: the device's name, ended by a NUL.
    pub name: U32,
    pub reserved: U32,
    pub size_bytes: U64,
    pub reserved2: [U64; 2],
}

/// The header of an extent.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ExtentHeader {
    pub magic: [u8; 4],
    pub reserved: U16,
    /// How many blocks follow.
    pub block_count: U16,
    /// The archive's.
    pub uuid: [u8; 16],
    /// Of the header, this field zero.
    pub md5: [u8; 16],
    pub clusters: [ClusterInfo; CLUSTERS_PER_EXTENT],
}

/// A cluster of an extent.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ClusterInfo {
    /// A bit for each block, the lowest one first: set if it follows.
    pub stored_blocks: U16,
    pub reserved: u8,
    /// 0 for an entry that is not used.
    pub device: u8,
    pub cluster: U32,
}

const _: () = assert!(size_of::<Header>() == 12288);
const _: () = assert!(size_of::<DeviceInfo>() == 32);
const _: () = assert!(size_of::<ExtentHeader>() == 512);
const _: () = assert!(size_of::<ClusterInfo>() == 8);

/// The MD5 sum of `bytes` with `range` counted as zeros.
pub(super) fn md5_without(bytes: &[u8], range: std::ops::Range<usize>) -> [u8; 16] {
    let mut sum = Md5::new();
    sum.update(bytes.get(..range.start).unwrap_or_default());
    sum.update([0; 16]);
    sum.update(bytes.get(range.end..).unwrap_or_default());
    sum.finalize().into()
}
