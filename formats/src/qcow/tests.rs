//! Images made by hand: each rule of the header, and compressed clusters.

use zerocopy::big_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::codec::deflate_raw_small_window;
use crate::error::ErrorKind;
use crate::extent::DiskKind;
use crate::source::BlockSource;
use crate::testing::{check_disk, read_all};
use crate::two_level::tests::{Made, check_corners};

const CLUSTER: usize = 4096;

/// 4 MiB of disk with clusters of 4 KiB and two L2 tables of 512 entries, of which one is there.
fn made(l2: &[u64]) -> Made {
    let mut head = QcowHeader::new_zeroed();
    head.magic_and_version = MAGIC_AND_VERSION;
    head.disk_bytes = U64::new(4 << 20);
    head.cluster_bits = 12;
    head.l2_bits = 9;
    head.l1_offset = U64::new(CLUSTER as u64);
    let mut bytes = head.as_bytes().to_vec();
    bytes.resize(6 * CLUSTER, 0);
    let mut made =
        Made { format: &FORMAT, bytes, cluster_bytes: CLUSTER, big_endian: true, l1: CLUSTER, l2: 2 * CLUSTER };
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
fn compressed_clusters_follow_each_other_byte_by_byte() {
    let mut made = made(&[3 * CLUSTER as u64]);
    let text: Vec<u8> = (0..CLUSTER as u32).map(|i| ((i * i) >> 9) as u8).collect();
    for index in [1, 2] {
        let stream = deflate_raw_small_window(&text[..], 6, CLUSTER).unwrap();
        let entry = ENTRY_COMPRESSED | (stream.len() as u64) << 51 | made.bytes.len() as u64;
        made.bytes.extend(stream);
        made.set_l2(index, entry);
    }
    let disk = made.disk().unwrap();
    check_disk(&disk, 1).unwrap();
    let bytes = read_all(&disk).unwrap();
    assert!(bytes[CLUSTER..][..CLUSTER] == text && bytes[2 * CLUSTER..][..CLUSTER] == text);
    assert_eq!(disk.extent_at(CLUSTER as u64 + 7, 10).unwrap().kind, DiskKind::Encoded);
    assert_eq!(made.check().corruptions, 0, "{:?}", made.check());
    // One stream for two clusters is a way to make much of little.
    let entry = made.l2_entry(1);
    made.set_l2(5, entry);
    let error = made.disk().unwrap().read_at(CLUSTER as u64, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(made.check().corruptions, 1);
    // Damage in the stream, and a stream past the end of the file.
    made.set_l2(5, 0);
    let place = made.bytes.len() - 3;
    made.bytes.truncate(place);
    assert!(made.disk().unwrap().read_at(2 * CLUSTER as u64, &mut [0]).is_err());
    assert_eq!(made.check().corruptions, 1);
}

#[test]
fn the_header_is_checked() {
    let cases: [(usize, u64, usize, ErrorKind, &str); 11] = [
        (4, 2, 4, ErrorKind::NotThisFormat, "version 1"),
        (8, 1 << 40, 8, ErrorKind::Corrupt, "name is at"),
        (8, 48, 8, ErrorKind::Corrupt, "0 bytes long"),
        (24, u64::MAX, 8, ErrorKind::LimitExceeded, "at most"),
        (24, 1 << 60, 8, ErrorKind::LimitExceeded, "L1 table has"),
        (24, 1 << 40, 8, ErrorKind::Truncated, "past the end"),
        (32, 8, 1, ErrorKind::Corrupt, "cluster_bits is 8"),
        (32, 17, 1, ErrorKind::Corrupt, "cluster_bits is 17"),
        (33, 14, 1, ErrorKind::Corrupt, "l2_bits is 14"),
        (36, 2, 4, ErrorKind::Unsupported, "unknown method 2"),
        (40, 0, 8, ErrorKind::Corrupt, "in the header"),
    ];
    for (offset, value, length, kind, words) in cases {
        let mut made = made(&[3 * CLUSTER as u64]);
        made.bytes[offset..offset + length].copy_from_slice(&value.to_be_bytes()[8 - length..]);
        let error = made.image().err().expect(words);
        assert!(error.kind() == kind && error.to_string().contains(words), "{words}: {error}");
    }
}

#[test]
fn encrypted_images_are_refused_by_name() {
    let mut made = made(&[]);
    made.bytes[39] = 1;
    assert!(made.image().is_ok());
    let error = made.disk().err().unwrap();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("AES"), "{error}");
}

#[test]
fn version_1_is_not_qcow2_and_the_other_way_round() {
    let probe = |format: &crate::Format, bytes: &[u8]| {
        (format.probe)(&crate::format::ProbeInput { head: bytes, tail: bytes, len_bytes: bytes.len() as u64 })
    };
    let mut bytes = made(&[]).bytes;
    assert!(probe(&FORMAT, &bytes) && !probe(&crate::qcow2::FORMAT, &bytes));
    bytes[7] = 2;
    assert!(!probe(&FORMAT, &bytes) && probe(&crate::qcow2::FORMAT, &bytes));
}

#[test]
fn a_size_of_no_whole_sectors_is_filled_up() {
    let mut made = made(&[]);
    made.bytes[31] = 1;
    let image = made.image().unwrap();
    assert_eq!(image.info().geometry.size_bytes, (4 << 20) + 512);
    assert!(image.info().warnings[0].contains("511 are added"));
}
