//! Expanding images by themselves.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::super::FORMAT;
use super::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::layer::Choice;
use crate::testing::{CountingFile, MemoryFile, check_damage, check_disk, open_disk, open_file, read_all};
use crate::{BlockSource, HostFile};

const MAGICS: [&[u8; 16]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];

fn open_error(maker: &Maker) -> ErrorKind {
    let disk = open_disk(maker.file(), Some(&FORMAT));
    disk.and_then(|disk| read_all(&disk)).expect_err("the image is read").kind()
}

fn check_file(file: Arc<dyn HostFile>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file))?.check(&mut report)?;
    Ok(report)
}

fn warnings(maker: &Maker) -> Vec<String> {
    (FORMAT.open)(open_file(maker.file())).unwrap().info().warnings.clone()
}

#[test]
fn both_magics_are_read() {
    for magic in MAGICS {
        let maker = some_image(magic);
        let disk = open_disk(maker.file(), None).unwrap();
        check_disk(&disk, 1).unwrap();
        assert_eq!(read_all(&disk).unwrap(), maker.disk());
        assert!(check_file(maker.file()).unwrap().is_clean());
    }
}

#[test]
fn the_first_magic_counts_32_bits_and_may_leave_out_where_the_data_begins() {
    let mut maker = some_image(MAGICS[0]);
    maker.header.data_sector.set(0);
    maker.header.disk_sectors.set(84 | 7 << 32);
    let disk = open_disk(maker.file(), Some(&FORMAT)).unwrap();
    maker.header.disk_sectors.set(84);
    assert_eq!(read_all(&disk).unwrap(), maker.disk());
    assert!(check_file(maker.file()).unwrap().is_clean());
}

#[test]
fn runs_of_clusters_are_one_extent() {
    let maker = some_image(MAGICS[1]);
    let disk = open_disk(maker.file(), Some(&FORMAT)).unwrap();
    let lengths: Vec<_> = [0, 1, 3, 5, 9, 10]
        .map(|cluster| disk.extent_at(cluster * CLUSTER as u64, u64::MAX).unwrap().length_bytes / 512)
        .to_vec();
    assert_eq!(lengths, [8, 16, 16, 32, 8, 4]);
}

#[test]
fn a_table_of_ten_thousand_entries_is_read_once() {
    let file =
        Arc::new(CountingFile::new(MemoryFile::from_bytes(&Maker::new(MAGICS[1], 80_000).put(9_999, 1).bytes())));
    let disk = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    let opened = file.reads();
    assert!(opened <= 3, "{opened} reads");
    assert_eq!(disk.extent_at(0, u64::MAX).unwrap().length_bytes, 9_999 * CLUSTER as u64);
    assert_eq!(file.reads(), opened);
}

#[test]
fn wrong_headers_are_refused() {
    let with = |change: fn(&mut Header)| {
        let mut maker = some_image(MAGICS[1]);
        change(&mut maker.header);
        open_error(&maker)
    };
    assert_eq!(with(|header| header.magic = *b"WithFreeSpace\0\0\0"), ErrorKind::NotThisFormat);
    assert_eq!(with(|header| header.version = 3.into()), ErrorKind::Unsupported);
    assert_eq!(with(|header| header.cluster_sectors = 0.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.cluster_sectors = 4.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.disk_sectors = u64::MAX.into()), ErrorKind::LimitExceeded);
    assert_eq!(with(|header| header.disk_sectors = (u64::MAX / 512).into()), ErrorKind::LimitExceeded);
    assert_eq!(with(|header| header.bat_entries = 10.into()), ErrorKind::Corrupt);
    assert_eq!(with(|header| header.bat_entries = u32::MAX.into()), ErrorKind::Truncated);
}

#[test]
fn wrong_entries_are_refused_where_they_are_needed() {
    for (entry, kind) in [
        (0u32, None),
        (1, Some(ErrorKind::Corrupt)),
        (5, Some(ErrorKind::Corrupt)),
        (6, None),
        (u32::MAX, Some(ErrorKind::Corrupt)),
    ] {
        let maker = some_image(MAGICS[1]);
        // Cluster 3 of the file, then 6 (behind the last one), and what is not in the file.
        let mut bytes = maker.bytes();
        bytes.extend([0x77; CLUSTER]);
        bytes[64 + 4 * 7..][..4].copy_from_slice(&entry.to_le_bytes());
        let disk = open_disk(Arc::new(MemoryFile::from_bytes(&bytes)), Some(&FORMAT));
        let found = disk.and_then(|disk| disk.read_at(7 * CLUSTER as u64, &mut [0; CLUSTER]));
        assert_eq!(found.err().map(|error| error.kind()), kind, "{entry:#x}");
        let report = check_file(Arc::new(MemoryFile::from_bytes(&bytes))).unwrap();
        assert_eq!(report.corruptions > 0, kind.is_some(), "{entry:#x}: {report:?}");
    }
}

#[test]
fn one_cluster_for_the_whole_disk_is_no_disk() {
    let mut maker = Maker::new(MAGICS[1], 8 << 20).put(0, 1);
    maker.header.data_sector.set(8192);
    maker.clusters.fill(Some(0));
    assert_eq!(open_error(&maker), ErrorKind::Corrupt);
}

#[test]
fn clusters_that_overlap_by_a_part_are_refused() {
    let maker = some_image(MAGICS[0]);
    let mut bytes = maker.bytes();
    bytes[64 + 4 * 7..][..4].copy_from_slice(&(maker.entry(1) + 3).to_le_bytes());
    let file = Arc::new(MemoryFile::from_bytes(&bytes));
    assert_eq!(open_disk(file.clone(), Some(&FORMAT)).err().unwrap().kind(), ErrorKind::Corrupt);
    // Two pairs overlap, and the entry does not lie at a whole cluster.
    assert_eq!(check_file(file).unwrap().corruptions, 3);
}

#[test]
fn a_disk_of_more_clusters_than_a_table_may_have_is_refused() {
    let mut maker = Maker::new(MAGICS[1], 0);
    maker.header.bat_entries.set(u32::MAX);
    maker.header.disk_sectors.set(u64::from(u32::MAX) * 8);
    let file = MemoryFile::from_bytes(&maker.bytes());
    crate::HostFileMut::set_len_bytes(&file, 1 << 50).unwrap();
    let error = open_disk(Arc::new(file), Some(&FORMAT)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
}

#[test]
fn use_and_emptiness_are_warned_about() {
    let mut maker = some_image(MAGICS[1]);
    assert!(warnings(&maker).is_empty());
    maker.header.in_use.set(IN_USE);
    maker.header.flags.set(FLAG_EMPTY);
    assert_eq!(warnings(&maker).len(), 2);
    assert_eq!(read_all(&open_disk(maker.file(), Some(&FORMAT)).unwrap()).unwrap(), maker.disk());
    let choice = Choice { snapshot: Some("x"), ..Choice::default() };
    let gate = Arc::new(crate::reference_gate::NoReferences);
    let error = crate::Disk::open(open_file(maker.file()), Some(&FORMAT), choice, gate).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn unused_clusters_are_leaks() {
    let mut maker = some_image(MAGICS[1]);
    maker.clusters[4] = None;
    let report = check_file(maker.file()).unwrap();
    assert_eq!((report.leaks, report.corruptions), (1, 0), "{report:?}");
    assert_eq!(report.findings[0].host_offset, Some(2 * CLUSTER as u64));
}

/// An image whose last cluster is a format extension with a dirty bitmap in the cluster before it.
fn with_extension() -> (Maker, Vec<u8>) {
    let mut maker = some_image(MAGICS[1]).put(1, 0).put(2, 0);
    (maker.clusters[1], maker.clusters[2]) = (None, None);
    maker.header.extension_sector.set(7 * 8);
    let mut features = DIRTY_BITMAP.to_le_bytes().to_vec();
    features.extend([0; 8]);
    features.extend(40u32.to_le_bytes());
    features.extend([0; 4 + 8 + 16 + 4]);
    features.extend(1u32.to_le_bytes());
    features.extend((6u64 * 8).to_le_bytes());
    features.resize(CLUSTER - 24, 0);
    let mut extension = EXTENSION_MAGIC.to_le_bytes().to_vec();
    extension.extend(Md5::digest(&features));
    extension.extend(features);
    let mut bytes = maker.bytes();
    bytes.truncate(7 * CLUSTER);
    bytes.extend(extension);
    (maker, bytes)
}

#[test]
fn the_format_extension_is_checked_and_its_clusters_are_no_leaks() {
    let (maker, bytes) = with_extension();
    let check = |bytes: &[u8]| check_file(Arc::new(MemoryFile::from_bytes(bytes))).unwrap();
    assert_eq!(check(&bytes).findings, []);
    let disk = open_disk(Arc::new(MemoryFile::from_bytes(&bytes)), None).unwrap();
    assert_eq!(read_all(&disk).unwrap(), maker.disk());
    for place in [7 * CLUSTER, 7 * CLUSTER + 10, 7 * CLUSTER + 100] {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        assert_eq!(check(&changed).corruptions, 1, "{place:#x}");
    }
    assert_eq!(check(&bytes[..8 * CLUSTER - 1]).corruptions, 1);
}

#[test]
fn damage_gives_an_error_or_the_same_disk() {
    for magic in MAGICS {
        // Not protected: which magic and so what entries count (bytes 3 to 15), the cluster and disk sizes, entries.
        let bytes = some_image(magic).bytes();
        check_damage(&FORMAT, &bytes, 0..64 + 44, |place| matches!(place, 28..32 | 36..44 | 64..));
    }
}
