//! Growing disks made by hand, as bximage makes them.

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::BlockSource;
use crate::check::CheckReport;
use crate::error::ErrorKind;
use crate::testing::{MemoryFile, check_damage, check_disk, open_disk, open_file, read_all};

const EXTENT: usize = 8192;
const SECTORS: usize = EXTENT / 512;

/// A disk of four extents and a half.
const DISK: usize = 4 * EXTENT + 4096;

fn header(version: u32) -> Header {
    let mut header = Header::new_zeroed();
    header.magic[..MAGIC.len()].copy_from_slice(MAGIC);
    header.kind[..TYPE.len()].copy_from_slice(TYPE);
    header.subkind[..GROWING.len()].copy_from_slice(GROWING);
    header.version.set(version);
    header.header_bytes.set(512);
    header.catalog_entries.set(6);
    header.bitmap_bytes.set(2);
    header.extent_bytes.set(EXTENT as u32);
    let at = if version == VERSION_1 { 0 } else { 4 };
    header.rest[at..at + 8].copy_from_slice(&(DISK as u64).to_le_bytes());
    header
}

/// The stored extents: which of the disk it is, and its bitmap.
const STORED: [(usize, u16); 3] = [(4, 0x00ff), (1, 0xffff), (2, 0b1000_0000_0110_0001)];

fn sector(extent: usize, sector: usize) -> [u8; 512] {
    [(1 + extent * SECTORS + sector) as u8; 512]
}

fn image_with(header: &Header) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(512, 0);
    for extent in 0..header.catalog_entries.get() as usize {
        let place = STORED.iter().position(|(stored, _)| *stored == extent);
        bytes.extend(place.map_or(NOT_STORED, |place| place as u32).to_le_bytes());
    }
    for (extent, bitmap) in STORED {
        bytes.extend(bitmap.to_le_bytes());
        bytes.extend([0; 510]);
        // What was not written may hold anything.
        for at in 0..SECTORS {
            bytes.extend(if bitmap >> at & 1 != 0 { sector(extent, at) } else { [0xee; 512] });
        }
    }
    bytes
}

fn content() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    for (extent, bitmap) in STORED {
        for at in (0..SECTORS).filter(|at| bitmap >> at & 1 != 0) {
            disk[extent * EXTENT + at * 512..][..512].copy_from_slice(&sector(extent, at));
        }
    }
    disk
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
fn both_versions_are_read() {
    for version in [VERSION_1, VERSION_2] {
        let bytes = image_with(&header(version));
        let disk = open_disk(file(&bytes), None).unwrap();
        check_disk(&disk, 1).unwrap();
        assert_eq!(read_all(&disk).unwrap(), content());
        assert!(check(&bytes).is_clean(), "{:?}", check(&bytes));
        assert_eq!(disk.extent_at(0, u64::MAX).unwrap().length_bytes, EXTENT as u64);
        assert_eq!(disk.extent_at(2 * EXTENT as u64 + 512, u64::MAX).unwrap().length_bytes, 4 * 512);
    }
}

#[test]
fn redologs_are_refused() {
    for subkind in [&b"Undoable"[..], b"Volatile", b"Growable", b"vvfat"] {
        let mut header = header(VERSION_2);
        header.subkind = [0; 16];
        header.subkind[..subkind.len()].copy_from_slice(subkind);
        assert_eq!(read_error(&image_with(&header)), ErrorKind::Unsupported);
    }
}

#[test]
fn wrong_headers_are_refused() {
    let with = |change: fn(&mut Header)| {
        let (mut header, bytes) = (header(VERSION_2), image_with(&header(VERSION_2)));
        change(&mut header);
        read_error(&[header.as_bytes(), &bytes[96..]].concat())
    };
    assert_eq!(with(|header| header.magic[0] = b'b'), ErrorKind::NotThisFormat);
    assert_eq!(with(|header| header.version = 0x30000.into()), ErrorKind::Unsupported);
    assert_eq!(with(|header| header.header_bytes = 95.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.header_bytes = u32::MAX.into()), ErrorKind::Truncated);
    assert_eq!(with(|header| header.catalog_entries = 4.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.catalog_entries = 1_000_000.into()), ErrorKind::Truncated);
    assert_eq!(with(|header| header.catalog_entries = u32::MAX.into()), ErrorKind::LimitExceeded);
    assert_eq!(with(|header| header.bitmap_bytes = 1.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.bitmap_bytes = u32::MAX.into()), ErrorKind::Corrupt);
    for extent_bytes in [0, 256, 12288, 16 << 20, 1 << 31] {
        let mut header = header(VERSION_2);
        header.extent_bytes.set(extent_bytes);
        assert_eq!(read_error(&image_with(&header)), ErrorKind::Corrupt, "{extent_bytes}");
    }
    assert_eq!(with(|header| header.rest[4..].copy_from_slice(&u64::MAX.to_le_bytes())), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.rest[4..].copy_from_slice(&5001u64.to_le_bytes())), ErrorKind::Corrupt);
}

#[test]
fn wrong_entries_are_refused() {
    for (entry, leaks) in [(1u32, 0), (3, 0), (0x7fff_ffff, 0), (NOT_STORED - 1, 0)] {
        let mut bytes = image_with(&header(VERSION_2));
        bytes[512..516].copy_from_slice(&entry.to_le_bytes());
        assert_eq!(read_error(&bytes), ErrorKind::Corrupt, "{entry:#x}");
        assert!(check(&bytes).corruptions > leaks, "{entry:#x}");
    }
    let mut bytes = image_with(&header(VERSION_2));
    bytes[512 + 4 * 4..][..4].copy_from_slice(&NOT_STORED.to_le_bytes());
    let report = check(&bytes);
    assert_eq!((report.leaks, report.corruptions), (1, 0));
}

#[test]
fn a_check_of_many_doubles_takes_no_time() {
    let mut header = header(VERSION_2);
    let half = 200_000u32;
    header.catalog_entries.set(2 * half);
    header.rest[4..].copy_from_slice(&(u64::from(2 * half) * EXTENT as u64).to_le_bytes());
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(512, 0);
    bytes.extend((0..2 * half).flat_map(|index| (index % half).to_le_bytes()));
    let file = MemoryFile::from_bytes(&bytes);
    crate::HostFileMut::set_len_bytes(&file, 1 << 40).unwrap();
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(Arc::new(file))).unwrap().check(&mut report).unwrap();
    assert_eq!(report.corruptions, u64::from(half));
}

#[test]
fn the_last_extent_need_not_be_whole() {
    let bytes = image_with(&header(VERSION_2));
    let end = 512 + 24 + 3 * (512 + EXTENT);
    assert_eq!(bytes.len(), end);
    assert_eq!(read_error(&bytes[..end - 1]), ErrorKind::Corrupt);
    // Extent 4, of which the disk has the first half, last in the file.
    let order = [(1, 0xffff), (2, 0xffff), (4, 0x00ff)];
    let mut moved = bytes[..512 + 24].to_vec();
    for (place, (extent, _)) in order.iter().enumerate() {
        moved[512 + 4 * extent..][..4].copy_from_slice(&(place as u32).to_le_bytes());
        let old = STORED.iter().position(|(stored, _)| stored == extent).unwrap();
        moved.extend(&bytes[512 + 24 + old * (512 + EXTENT)..][..512 + EXTENT]);
    }
    let disk = open_disk(file(&moved[..end - EXTENT / 2]), Some(&FORMAT)).unwrap();
    assert_eq!(read_all(&disk).unwrap(), content());
    assert_eq!(read_error(&moved[..end - EXTENT / 2 - 1]), ErrorKind::Corrupt);
}

#[test]
fn damage_gives_an_error_or_the_same_disk() {
    let bytes = image_with(&header(VERSION_2));
    // Version, header length, number of entries, bitmap and extent sizes, the disk's size; the catalog.
    check_damage(&FORMAT, &bytes, 0..512 + 24, |place| matches!(place, 64..84 | 88..96 | 512..));
}
