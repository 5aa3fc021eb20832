//! Files made by hand, as create_compressed_fs makes them.

use std::io::Write;
use std::sync::Arc;

use super::FORMAT;
use crate::BlockSource;
use crate::check::CheckReport;
use crate::error::ErrorKind;
use crate::testing::{MemoryFile, check_damage, check_disk, open_disk, open_file, read_all};

const BLOCK: usize = 4096;

fn content() -> Vec<u8> {
    (0..5 * BLOCK as u32).map(|at| if at < 9000 { ((at * at) >> 9) as u8 } else { 0 }).collect()
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(9));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn head(version: &str, block_bytes: u32, blocks: u32) -> Vec<u8> {
    let mut bytes =
        format!("#!/bin/sh\n#V{version} Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n")
            .into_bytes();
    bytes.resize(128, 0);
    bytes.extend(block_bytes.to_be_bytes());
    bytes.extend(blocks.to_be_bytes());
    bytes
}

fn image_of(content: &[u8]) -> Vec<u8> {
    let blocks: Vec<_> = content.chunks(BLOCK).map(pack).collect();
    let mut bytes = head("2.0", BLOCK as u32, blocks.len() as u32);
    let mut place = bytes.len() as u64 + 8 * (blocks.len() as u64 + 1);
    for length in blocks.iter().map(|block| block.len() as u64).chain([0]) {
        bytes.extend(place.to_be_bytes());
        place += length;
    }
    bytes.extend(blocks.concat());
    bytes
}

fn file(bytes: &[u8]) -> Arc<MemoryFile> {
    Arc::new(MemoryFile::from_bytes(bytes))
}

fn read_error(bytes: &[u8]) -> ErrorKind {
    open_disk(file(bytes), Some(&FORMAT)).and_then(|disk| read_all(&disk)).expect_err("the file is read").kind()
}

fn check(bytes: &[u8]) -> CheckReport {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file(bytes))).unwrap().check(&mut report).unwrap();
    report
}

#[test]
fn blocks_are_read() {
    let bytes = image_of(&content());
    let disk = open_disk(file(&bytes), None).unwrap();
    check_disk(&disk, 1).unwrap();
    assert_eq!(read_all(&disk).unwrap(), content());
    assert_eq!(disk.geometry().unit_bytes, BLOCK as u64);
    assert_eq!(check(&bytes).host_end_offset, bytes.len() as u64);
    assert!(check(&bytes).is_clean());
    assert!(read_all(&open_disk(file(&image_of(&[])), None).unwrap()).unwrap().is_empty());
}

#[test]
fn other_versions_are_refused_by_name() {
    for version in ["0.68", "1.0", "3.0", "4.0"] {
        let bytes = head(version, BLOCK as u32, 0);
        let error = open_disk(file(&bytes), None).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(&format!("V{version}")), "{error}");
    }
    let error = open_disk(file(&[b'x'; 500]), Some(&FORMAT)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotThisFormat);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for (block_bytes, blocks, kind) in [
        (0, 1, ErrorKind::Corrupt),
        (1000, 1, ErrorKind::Corrupt),
        (32 << 20, 1, ErrorKind::LimitExceeded),
        (4096, 1, ErrorKind::Truncated),
        (4096, u32::MAX, ErrorKind::Truncated),
    ] {
        assert_eq!(read_error(&head("2.0", block_bytes, blocks)), kind, "{block_bytes} {blocks}");
    }
}

#[test]
fn places_that_cannot_be_are_refused() {
    let bytes = image_of(&content());
    let entry = |index: usize| u64::from_be_bytes(bytes[136 + 8 * index..][..8].try_into().unwrap());
    for (index, value) in
        [(0, 100), (1, entry(0)), (2, entry(0)), (2, entry(1) + 100_000), (5, u64::MAX), (5, bytes.len() as u64 + 1)]
    {
        let mut changed = bytes.clone();
        changed[136 + 8 * index..][..8].copy_from_slice(&value.to_be_bytes());
        assert_eq!(read_error(&changed), ErrorKind::Corrupt, "entry {index} is {value:#x}");
        assert!(check(&changed).corruptions > 0, "entry {index} is {value:#x}");
    }
}

#[test]
fn blocks_of_another_size_are_refused() {
    for length in [BLOCK - 1, BLOCK + 1] {
        let stored = pack(&vec![7; length]);
        let mut bytes = head("2.0", BLOCK as u32, 1);
        bytes.extend(152u64.to_be_bytes());
        bytes.extend((152 + stored.len() as u64).to_be_bytes());
        bytes.extend(stored);
        assert_eq!(read_error(&bytes), ErrorKind::Corrupt, "{length}");
    }
}

#[test]
fn damage_gives_an_error_or_the_same_disk() {
    let bytes = image_of(&content());
    // The number of blocks: fewer of them are another disk. Blocks have a checksum.
    check_damage(&FORMAT, &bytes, 0..bytes.len().min(600), |place| matches!(place, 132..136));
}
