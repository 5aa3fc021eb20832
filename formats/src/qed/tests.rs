//! Images made by hand: each rule of the header.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::error::ErrorKind;
use crate::extent::LayerKind;
use crate::reference_gate::NoReferences;
use crate::testing::{MemoryFile, open_disk};
use crate::two_level::tests::{Made, check_corners};

const CLUSTER: usize = 4096;

/// 2 GiB of disk with clusters of 4 KiB and one L1 table of 512 entries: header, L1 table, one L2 table, clusters.
pub(super) fn made(l2: &[u64]) -> Made {
    let mut head = QedHeader::new_zeroed();
    head.magic = MAGIC;
    head.cluster_bytes = U32::new(CLUSTER as u32);
    head.table_clusters = U32::new(1);
    head.header_clusters = U32::new(1);
    head.l1_offset = U64::new(CLUSTER as u64);
    head.disk_bytes = U64::new(4 << 20);
    let mut bytes = head.as_bytes().to_vec();
    bytes.resize(6 * CLUSTER, 0);
    let mut made =
        Made { format: &FORMAT, bytes, cluster_bytes: CLUSTER, big_endian: false, l1: CLUSTER, l2: 2 * CLUSTER };
    made.set_l1(0, 2 * CLUSTER as u64);
    l2.iter().enumerate().for_each(|(index, entry)| made.set_l2(index, *entry));
    made.fill(3..6);
    made
}

#[test]
fn tables_and_clusters_are_checked() {
    check_corners(made);
}

#[test]
fn zero_clusters_hide_the_parent_and_absent_ones_do_not() {
    let made = made(&[0, ENTRY_ZERO, ENTRY_ZERO, 3 * CLUSTER as u64]);
    let layer = made.image().unwrap().layer(None, &NoReferences).unwrap();
    let kind = |cluster: usize| layer.extent_at((cluster * CLUSTER) as u64, 1 << 20).unwrap();
    assert_eq!(kind(0).kind, LayerKind::Absent);
    assert_eq!((kind(1).kind, kind(1).length_bytes), (LayerKind::Zero, 2 * CLUSTER as u64));
    assert!(matches!(kind(3).kind, LayerKind::Data(_)));
}

#[test]
fn the_header_is_checked() {
    let cases: [(usize, u64, usize, ErrorKind, &str); 13] = [
        (0, 0, 4, ErrorKind::NotThisFormat, "QED"),
        (4, 2048, 4, ErrorKind::Corrupt, "cluster size is 2048"),
        (4, 5000, 4, ErrorKind::Corrupt, "cluster size is 5000"),
        (4, 128 << 20, 4, ErrorKind::Corrupt, "cluster size"),
        (8, 0, 4, ErrorKind::Corrupt, "tables have 0"),
        (8, 32, 4, ErrorKind::Corrupt, "tables have 32"),
        (12, 0, 4, ErrorKind::Corrupt, "no clusters"),
        (12, 1000, 4, ErrorKind::Truncated, "the header has"),
        (16, 8, 8, ErrorKind::Unsupported, "bit 3"),
        (40, 4097, 8, ErrorKind::Corrupt, "not the beginning of a cluster"),
        (40, 0, 8, ErrorKind::Corrupt, "in the header"),
        (48, 1000, 8, ErrorKind::Corrupt, "no whole number of sectors"),
        (48, 1 << 40, 8, ErrorKind::Corrupt, "the tables reach"),
    ];
    for (offset, value, length, kind, words) in cases {
        let mut made = made(&[3 * CLUSTER as u64]);
        made.bytes[offset..offset + length].copy_from_slice(&value.to_le_bytes()[..length]);
        let error = made.image().err().expect(words);
        assert!(error.kind() == kind && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_backing_file_is_named_and_its_format_too_if_it_is_raw() {
    let mut made = made(&[]);
    made.bytes[100..108].copy_from_slice(b"base.img");
    made.bytes[56..64].copy_from_slice(&[100, 0, 0, 0, 8, 0, 0, 0]);
    made.bytes[16] = 1;
    let parent = made.image().unwrap().parent().cloned().unwrap();
    assert_eq!((parent.names, parent.format), (vec!["base.img".to_owned()], None));
    made.bytes[16] = 5;
    assert_eq!(made.image().unwrap().parent().unwrap().format.as_deref(), Some("raw"));
    assert_eq!(made.disk().err().unwrap().kind(), ErrorKind::ReferenceDenied);
    made.bytes[57] = 0xff;
    assert_eq!(made.image().err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn images_that_need_a_check_are_read_with_a_warning() {
    let mut made = made(&[3 * CLUSTER as u64]);
    made.bytes[16] = 2;
    assert!(made.image().unwrap().info().warnings[0].contains("not closed properly"));
    assert!(made.disk().is_ok());
}

/// The largest tables that the header can state, in a file of a few KiB: refused, not read.
#[test]
fn tables_larger_than_the_file_are_refused() {
    let mut made = made(&[]);
    made.bytes[4..8].copy_from_slice(&(64u32 << 20).to_le_bytes());
    made.bytes[8] = 16;
    assert_eq!(made.image().err().unwrap().kind(), ErrorKind::Truncated);
    let file = Arc::new(MemoryFile::from_bytes(&made.bytes));
    crate::HostFileMut::set_len_bytes(file.as_ref(), 1 << 40).unwrap();
    assert!(open_disk(file, Some(&FORMAT)).is_err());
}
