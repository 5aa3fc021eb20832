//! The header of a QCOW file of version 1 as it lies in it, and its constants. All numbers are big-endian.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `QFI` and 0xfb, then the version: later versions are another format.
pub(super) const MAGIC_AND_VERSION: [u8; 8] = *b"QFI\xfb\0\0\0\x01";

pub(super) const CLUSTER_BITS: std::ops::RangeInclusive<u8> = 9..=16;
/// The entries of an L2 table, as a power of two.
pub(super) const L2_BITS: std::ops::RangeInclusive<u8> = 6..=13;
/// Longest name of the backing file, in bytes: QEMU refuses longer ones.
pub(super) const MAX_BACKING_NAME_BYTES: u32 = 1023;

pub(super) const NOT_ENCRYPTED: u32 = 0;
pub(super) const AES: u32 = 1;

/// Bit 63 of an L2 entry: the cluster is compressed. Below it are `cluster_bits` bits of length, and the host offset.
pub(super) const ENTRY_COMPRESSED: u64 = 1 << 63;

/// The header.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct QcowHeader {
    pub magic_and_version: [u8; 8],
    pub backing_name_offset: U64,
    pub backing_name_bytes: U32,
    /// When the backing file was changed last; QEMU writes 0 and does not look at it.
    pub backing_changed_unix_s: U32,
    pub disk_bytes: U64,
    pub cluster_bits: u8,
    pub l2_bits: u8,
    pub padding: U16,
    pub encryption: U32,
    pub l1_offset: U64,
}

const _: () = assert!(size_of::<QcowHeader>() == 48);
