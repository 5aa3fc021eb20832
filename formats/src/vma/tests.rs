//! Archives made by hand.

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::layer::Choice;
use crate::reference_gate::NoReferences;
use crate::testing::{CountingFile, MemoryFile, Random, check_damage, check_disk, exercise, open_file, read_all};
use crate::{BlockSource, Disk, HostFile};

const UUID: [u8; 16] = *b"an archive's id.";

/// A cluster: device, number, and which blocks are stored, filled with a byte that tells them apart.
type Cluster = (u8, u32, u16);

fn stored_block(cluster: Cluster, block: u64) -> Vec<u8> {
    let number = u64::from(cluster.0) * 100 + u64::from(cluster.1) * BLOCKS_PER_CLUSTER + block;
    vec![1 + (number % 251) as u8; BLOCK_BYTES as usize]
}

fn header(devices: &[(u8, &str, u64)]) -> Vec<u8> {
    let mut header = Header::new_zeroed();
    let mut blobs = vec![0];
    let mut blob = |text: &str| {
        let place = blobs.len() as u32;
        blobs.extend((text.len() as u16 + 1).to_le_bytes());
        blobs.extend(text.bytes().chain([0]));
        place
    };
    (header.magic, header.uuid) = (MAGIC, UUID);
    header.version.set(VERSION);
    header.created_unix_s.set(1_700_000_000);
    header.config_names[0].set(blob("qemu-server.conf"));
    header.config_data[0].set(blob("cores: 2\n"));
    for (number, name, size_bytes) in devices {
        let device = &mut header.devices[usize::from(*number)];
        device.name.set(blob(name));
        device.size_bytes.set(*size_bytes);
    }
    header.blobs_offset.set(size_of::<Header>() as u32);
    header.blobs_bytes.set(blobs.len() as u32);
    header.header_bytes.set((size_of::<Header>() + blobs.len()) as u32);
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(blobs);
    sign(&mut bytes, HEADER_MD5);
    bytes
}

fn sign(bytes: &mut [u8], place: std::ops::Range<usize>) {
    let sum = md5_without(bytes, place.clone());
    bytes[place].copy_from_slice(&sum);
}

fn extent_header(clusters: &[Cluster]) -> ExtentHeader {
    let mut header = ExtentHeader::new_zeroed();
    (header.magic, header.uuid) = (EXTENT_MAGIC, UUID);
    header.block_count.set(clusters.iter().map(|(_, _, stored)| stored.count_ones() as u16).sum());
    for (info, (device, cluster, stored)) in header.clusters.iter_mut().zip(clusters) {
        info.device = *device;
        info.cluster.set(*cluster);
        info.stored_blocks.set(*stored);
    }
    header
}

fn extent_of(mut header: ExtentHeader, clusters: &[Cluster]) -> Vec<u8> {
    sign(header.as_mut_bytes(), EXTENT_MD5);
    let mut bytes = header.as_bytes().to_vec();
    for cluster in clusters {
        for block in (0..16).filter(|block| cluster.2 >> block & 1 != 0) {
            bytes.extend(stored_block(*cluster, block));
        }
    }
    bytes
}

fn extent(clusters: &[Cluster]) -> Vec<u8> {
    extent_of(extent_header(clusters), clusters)
}

/// Two disks, the second one no whole number of clusters, and a machine's memory; mixed and out of order.
const DEVICES: [(u8, &str, u64); 3] = [
    (1, "drive-scsi0", 6 * CLUSTER_BYTES),
    (2, "drive-efidisk0", CLUSTER_BYTES + 5 * 512),
    (5, MACHINE_STATE, 1 << 20),
];

const EXTENTS: [&[Cluster]; 3] = [
    &[(1, 0, 0xffff), (1, 1, 0), (2, 0, 0x8001), (1, 2, 0x0ff0), (5, 0, 0xffff)],
    &[(1, 5, 0xffff), (1, 4, 0xffff)],
    &[(2, 1, 0x0001), (1, 3, 0xffff)],
];

fn archive() -> Vec<u8> {
    [header(&DEVICES), EXTENTS.concat_extents()].concat()
}

trait ConcatExtents {
    fn concat_extents(&self) -> Vec<u8>;
}

impl ConcatExtents for [&[Cluster]; 3] {
    fn concat_extents(&self) -> Vec<u8> {
        self.iter().flat_map(|clusters| extent(clusters)).collect()
    }
}

fn expected(device: u8, size_bytes: u64) -> Vec<u8> {
    let whole = DEVICES.iter().find(|(number, ..)| *number == device).unwrap().2;
    let mut disk = vec![0; whole.next_multiple_of(CLUSTER_BYTES) as usize];
    for cluster in EXTENTS.concat().into_iter().filter(|cluster| cluster.0 == device) {
        for block in (0..16).filter(|block| cluster.2 >> block & 1 != 0) {
            let start = (u64::from(cluster.1) * CLUSTER_BYTES + block * BLOCK_BYTES) as usize;
            disk[start..start + BLOCK_BYTES as usize].copy_from_slice(&stored_block(cluster, block));
        }
    }
    disk.truncate(size_bytes as usize);
    disk
}

fn open_named(file: Arc<dyn HostFile>, disk: &str) -> Result<Disk> {
    let choice = Choice { disk: Some(disk), snapshot: None };
    Disk::open(open_file(file), Some(&FORMAT), choice, Arc::new(NoReferences))
}

fn open_bytes(bytes: &[u8], disk: &str) -> Result<Disk> {
    open_named(Arc::new(MemoryFile::from_bytes(bytes)), disk)
}

fn check_bytes(bytes: &[u8]) -> CheckReport {
    let mut report = CheckReport::default();
    let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(bytes)))).unwrap();
    image.check(&mut report).unwrap();
    report
}

#[test]
fn each_disk_of_an_archive_is_read() {
    let bytes = archive();
    let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(&bytes)))).unwrap();
    let names: Vec<_> = image.disks().iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["drive-scsi0", "drive-efidisk0"]);
    for (number, name, size_bytes) in &DEVICES[..2] {
        let disk = open_bytes(&bytes, name).unwrap();
        check_disk(&disk, 7).unwrap();
        assert_eq!(read_all(&disk).unwrap(), expected(*number, *size_bytes), "{name}");
    }
    assert_eq!(open_bytes(&bytes, MACHINE_STATE).err().unwrap().kind(), ErrorKind::NotFound);
    assert!(image.layer(None, &NoReferences).is_err());
    assert_eq!(
        check_bytes(&bytes),
        CheckReport { allocated_bytes: 91 * 4096, host_end_offset: bytes.len() as u64, ..CheckReport::default() }
    );
}

#[test]
fn a_disk_that_ends_in_a_sector_is_read_to_its_end() {
    let devices = [(1, "disk", CLUSTER_BYTES + 100)];
    let bytes = [header(&devices), extent(&[(1, 0, 1), (1, 1, 1)])].concat();
    let disk = open_bytes(&bytes, "disk").unwrap();
    assert_eq!(disk.geometry().size_bytes, CLUSTER_BYTES + 512);
    check_disk(&disk, 1).unwrap();
    assert_eq!(read_all(&disk).unwrap()[CLUSTER_BYTES as usize..], stored_block((1, 1, 1), 0)[..512]);
}

#[test]
fn clusters_that_are_missing_are_errors_where_they_are_missed() {
    let whole = archive();
    let begin = header(&DEVICES).len() + extent(EXTENTS[0]).len();
    // The second extent is left out: clusters 4 and 5 of the first disk.
    let bytes = [&whole[..begin], &whole[begin + extent(EXTENTS[1]).len()..]].concat();
    let disk = open_bytes(&bytes, "drive-scsi0").unwrap();
    let mut buffer = vec![0; 4 * CLUSTER_BYTES as usize];
    disk.read_at(0, &mut buffer).unwrap();
    assert_eq!(buffer, expected(1, 4 * CLUSTER_BYTES));
    let error = disk.extent_at(4 * CLUSTER_BYTES, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("the backup is not complete"), "{error}");
    assert_eq!(check_bytes(&bytes).corruptions, 1);
}

#[test]
fn an_archive_that_was_cut_is_read_up_to_there() {
    let whole = archive();
    let begin = header(&DEVICES).len() + extent(EXTENTS[0]).len();
    // In the data of cluster 5, in the header of the extent after it, and at its beginning.
    for (cut, says) in
        [(begin + 512 + 8192 + 10, "after the end"), (begin + 100, "VMA extent header"), (begin, "not complete")]
    {
        let disk = open_bytes(&whole[..cut], "drive-scsi0").unwrap();
        let mut buffer = vec![0; 3 * CLUSTER_BYTES as usize];
        disk.read_at(0, &mut buffer).unwrap();
        assert_eq!(buffer, expected(1, 3 * CLUSTER_BYTES));
        let error = disk.read_at(3 * CLUSTER_BYTES, &mut [0; 512]).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(check_bytes(&whole[..cut]).corruptions > 0);
        let found = disk.read_at(5 * CLUSTER_BYTES + 4096, &mut [0; 4096]);
        assert_eq!(found.is_ok(), cut > begin + 8192, "{found:?}");
        assert!(disk.read_at(5 * CLUSTER_BYTES + 8192, &mut [0; 4096]).is_err());
    }
}

#[test]
fn clusters_that_contradict_each_other_are_refused() {
    let kind = |extents: &[&[Cluster]]| {
        let extents: Vec<u8> = extents.iter().flat_map(|clusters| extent(clusters)).collect();
        let bytes = [header(&[(1, "disk", 3 * CLUSTER_BYTES)]), extents].concat();
        let report = check_bytes(&bytes);
        (open_bytes(&bytes, "disk").err().map(|error| error.kind()), report.corruptions)
    };
    assert_eq!(kind(&[&[(1, 0, 1), (1, 1, 1)], &[(1, 2, 0)]]), (None, 0));
    assert_eq!(kind(&[&[(1, 0, 1), (1, 1, 1)], &[(1, 1, 1), (1, 2, 0)]]), (Some(ErrorKind::Corrupt), 1));
    assert_eq!(kind(&[&[(1, 0, 1), (1, 1, 1), (1, 2, 0), (1, 3, 0)]]), (Some(ErrorKind::Corrupt), 1));
    // Another device's troubles are not this disk's.
    assert_eq!(kind(&[&[(1, 0, 1), (1, 1, 1), (1, 2, 0), (9, 3, 1)]]), (None, 1));
}

#[test]
fn damaged_extents_end_the_archive() {
    let clusters: &[Cluster] = &[(1, 0, 1)];
    let with = |change: fn(&mut ExtentHeader)| {
        let mut header_of_extent = extent_header(clusters);
        change(&mut header_of_extent);
        let bytes = [header(&[(1, "disk", CLUSTER_BYTES)]), extent_of(header_of_extent, clusters)].concat();
        let error = open_bytes(&bytes, "disk").unwrap().read_at(0, &mut [0; 512]).err().map(|error| error.to_string());
        assert_eq!(check_bytes(&bytes).is_clean(), error.is_none());
        error.unwrap_or_default()
    };
    assert_eq!(with(|_| ()), "");
    assert!(with(|header| header.magic = *b"VMAX").contains("does not begin like one"));
    assert!(with(|header| header.reserved = 1.into()).contains("does not begin like one"));
    assert!(with(|header| header.uuid = [0; 16]).contains("another archive"));
    assert!(with(|header| header.block_count = 2.into()).contains("number of blocks"));
    let mut bytes = [header(&[(1, "disk", CLUSTER_BYTES)]), extent(clusters)].concat();
    let place = bytes.len() - 4096 - 30;
    bytes[place] ^= 1;
    let error = open_bytes(&bytes, "disk").unwrap().read_at(0, &mut [0; 512]).unwrap_err();
    assert!(error.to_string().contains("checksum is wrong"), "{error}");
}

#[test]
fn wrong_headers_are_refused() {
    let with = |change: fn(&mut Header)| {
        let mut bytes = archive();
        let length = header(&DEVICES).len();
        let (mut header, _) = <Header as zerocopy::FromBytes>::read_from_prefix(&bytes).unwrap();
        change(&mut header);
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        sign(&mut bytes[..length], HEADER_MD5);
        open_bytes(&bytes, "1").err().map(|error| error.kind())
    };
    assert_eq!(with(|_| ()), None);
    assert_eq!(with(|header| header.magic = *b"VMA\x01"), Some(ErrorKind::NotThisFormat));
    assert_eq!(with(|header| header.version = 2.into()), Some(ErrorKind::Unsupported));
    assert_eq!(with(|header| header.header_bytes = 12287.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.header_bytes = u32::MAX.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.header_bytes = (32 << 20).into()), Some(ErrorKind::Truncated));
    assert_eq!(with(|header| header.blobs_offset = 100.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.blobs_bytes = u32::MAX.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.devices[1].name = u32::MAX.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.devices[1].name = 2.into()), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.devices[1].name = header.devices[2].name), Some(ErrorKind::Corrupt));
    assert_eq!(with(|header| header.devices[1].size_bytes = (1 << 60).into()), Some(ErrorKind::LimitExceeded));
    let mut bytes = archive();
    bytes[100] ^= 1;
    assert_eq!(open_bytes(&bytes, "1").err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn empty_extents_are_read_many_at_once() {
    let clusters: Vec<u8> = (0..800u32)
        .flat_map(|number| extent(&(0..59).map(|slot| (1, number * 59 + slot, 0)).collect::<Vec<_>>()))
        .collect();
    let bytes = [header(&[(1, "disk", 800 * 59 * CLUSTER_BYTES)]), clusters].concat();
    let file = Arc::new(CountingFile::new(MemoryFile::from_bytes(&bytes)));
    open_named(file.clone(), "disk").unwrap();
    assert!(file.reads() < 800 / 8 + 10, "{} reads", file.reads());
}

#[test]
fn damage_gives_an_error_or_the_same_disk() {
    let clusters: &[Cluster] = &[(1, 1, 0x00ff), (1, 0, 0xf00f)];
    let bytes = [header(&[(1, "disk", 2 * CLUSTER_BYTES)]), extent(clusters)].concat();
    check_damage(&FORMAT, &bytes, 0..128, |_| false);
    let end = bytes.len() - 16 * 4096;
    check_damage(&FORMAT, &bytes, end - 512..end - 400, |_| false);
}

#[test]
fn random_damage_never_panics() {
    let bytes = archive();
    let mut random = Random(9);
    let places = header(&DEVICES).len() as u64 + 512;
    for _ in 0..300 {
        let mut changed = bytes.clone();
        for _ in 0..1 + random.below(5) {
            changed[random.below(places) as usize] = random.next_u64() as u8;
        }
        let length = header(&DEVICES).len();
        sign(&mut changed[..length], HEADER_MD5);
        sign(&mut changed[length..length + 512], EXTENT_MD5);
        let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&changed)));
    }
}
