//! Streams: written front to back, read with and without their ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use super::*;
use crate::host_file::HostExtent;
use crate::testing::{ModelDisk, open_disk, store_disk};

fn disk() -> ModelDisk {
    let mut disk = ModelDisk::random(5, (70 << 20) + 512 * 9, 12, 60);
    disk.write(17_000, 3);
    disk
}

fn stream() -> Arc<MemoryFile> {
    image_of(&disk(), "streamOptimized").file(MAIN)
}

fn cut(file: &MemoryFile, len_bytes: u64) -> Arc<MemoryFile> {
    Arc::new(MemoryFile::from_bytes(&file.to_bytes()[..len_bytes as usize]))
}

/// Goes forward only, without gaps.
struct Tape(MemoryFile, AtomicU64);

impl HostFile for Tape {
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
    fn read_exact_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn extent_at(&self, _: u64, _: u64) -> io::Result<HostExtent> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn as_file(&self) -> Option<&fs::File> {
        None
    }
}

impl HostFileMut for Tape {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(
            host_offset,
            self.1.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            "not where the last write ended"
        );
        self.0.write_all_at(host_offset, bytes)
    }
    fn write_zeros_at(&self, _: u64, _: u64) -> io::Result<()> {
        panic!("a stream has no zeros of its own");
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        panic!("a stream's length is not known");
    }
    fn set_len_bytes(&self, _: u64) -> io::Result<()> {
        panic!("a stream's length is not known");
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_byte_is_written_once_from_front_to_back() {
    let tape = Arc::new(Tape(MemoryFile::new(), AtomicU64::new(0)));
    let options = options(&disk(), "streamOptimized", &[]);
    store_disk(&FORMAT, &options, &disk(), None, tape.clone()).unwrap();
    // The descriptor before it has the file's name.
    assert!(tape.0.to_bytes()[65536..] == stream().to_bytes()[65536..]);
}

/// The structures, one after the other: ESX's importer reads them in this order.
#[test]
fn the_structures_follow_their_markers() {
    let bytes = stream().to_bytes();
    let u32_at = |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    let u64_at = |offset: usize| u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    assert_eq!((u32_at(4), u32_at(8)), (3, 0x30001));
    assert_eq!((u64_at(12), u64_at(20), u64_at(56), u64_at(64)), ((70 << 11) + 9, 128, u64::MAX, 128));
    let (mut offset, mut seen, mut last_sector) = (65536, Vec::new(), None);
    loop {
        match (u32_at(offset + 8), u32_at(offset + 12)) {
            (0, 0) => break,
            (0, kind) => {
                seen.push((kind, offset));
                offset += 512 * (1 + u64_at(offset) as usize);
            }
            (length, _) => {
                assert!(last_sector < Some(u64_at(offset)), "grains ascend");
                last_sector = Some(u64_at(offset));
                offset += (12 + length as usize).next_multiple_of(512);
            }
        }
    }
    assert_eq!(seen.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 1, 1, 2, 3]);
    assert_eq!(offset + 512, bytes.len());
    let (directory, footer) = (seen[3].1 + 512, seen[4].1 + 512);
    assert_eq!(u64_at(footer + 56) * 512, directory as u64);
    let tables: Vec<usize> = (0..3).map(|index| u32_at(directory + 4 * index) as usize * 512).collect();
    assert_eq!(tables, seen[..3].iter().map(|(_, marker)| marker + 512).collect::<Vec<_>>());
}

#[test]
fn without_its_tables_a_stream_is_read_by_its_markers() {
    let whole = stream();
    let length = whole.len_bytes().unwrap();
    for lost in [512, 1024, 1536, 1536 + 511, 1536 + 512] {
        let file = cut(&whole, length - lost);
        let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
        assert_same(&image, &disk(), 1);
        if lost > 512 {
            assert!(warnings(file.clone())[0].contains("the end of the file is missing"));
            assert_eq!(check_file(file).corruptions, 1);
        }
    }
    // Filled up with zeros, as some tools do, it is whole.
    let padded = Arc::new(whole.duplicate());
    padded.set_len_bytes(length.next_multiple_of(4096) + 4096).unwrap();
    assert_same(&open_disk(padded.clone(), Some(&FORMAT)).unwrap(), &disk(), 1);
    assert!(warnings(padded).is_empty());
}

#[test]
fn what_is_lost_with_the_end_is_an_error_and_the_rest_is_not() {
    let whole = stream();
    let image = open_disk(cut(&whole, whole.len_bytes().unwrap() - 20_000), Some(&FORMAT)).unwrap();
    let (mut expected, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut good, mut lost) = (0, 0);
    for offset in (0..70u64 << 20).step_by(1 << 20) {
        match image.read_at(offset, &mut found) {
            Ok(()) => {
                assert_eq!(lost, 0, "data after the cut");
                disk().read_at(offset, &mut expected).unwrap();
                assert!(expected == found, "at {offset:#x}");
                good += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Truncated);
                lost += 1;
            }
        }
    }
    assert!(good > 10 && lost > 0, "{good} {lost}");
}

/// A crash leaves zeros where something was not written: they look like the end of the stream, and prove nothing.
#[test]
fn zeros_in_the_place_of_grains_are_no_end() {
    let whole = stream();
    let length = whole.len_bytes().unwrap();
    let holed = cut(&whole, length - 1536);
    holed.write_zeros_at(length / 4 / 512 * 512, length / 2).unwrap();
    let image = open_disk(holed, Some(&FORMAT)).unwrap();
    assert!(digest(&image).is_err());
}

#[test]
fn a_grain_that_is_not_what_its_table_says_is_damage() {
    let file = stream();
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    assert!(digest(&image).is_ok());
    let sector = read_u32(&file, 65536);
    write_u32(&file, 65536, sector + 128);
    assert_eq!(digest(&image).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(check_file(file.clone()).corruptions, 1);
    write_u32(&file, 65536, sector);
    let mut stored = [0; 1];
    file.read_exact_at(65536 + 40, &mut stored).unwrap();
    file.write_all_at(65536 + 40, &[stored[0] ^ 0x10]).unwrap();
    assert_eq!(digest(&image).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(check_file(file).corruptions, 1);
}

#[test]
fn other_writers_place_grains_and_footers_differently() {
    // The directory at its place in the header, as QEMU has it, and no footer.
    let file = stream();
    let length = file.len_bytes().unwrap();
    let mut footer = [0; 512];
    file.read_exact_at(length - 1024, &mut footer).unwrap();
    let qemu = cut(&file, length - 1536);
    qemu.write_all_at(0, &footer).unwrap();
    assert_same(&open_disk(qemu.clone(), Some(&FORMAT)).unwrap(), &disk(), 2);
    assert!(warnings(qemu).is_empty());
    // A footer that contradicts the header.
    footer[12] ^= 1;
    file.write_all_at(length - 1024, &footer).unwrap();
    assert_eq!(open_error(file), ErrorKind::Corrupt);
}

#[test]
fn a_stream_may_be_one_of_several_extents_if_it_is_whole() {
    let folder = Folder::with_descriptor("RW 1 ZERO\nRDONLY 143369 SPARSE \"stream.vmdk\"");
    let whole = stream().to_bytes();
    folder.put("stream.vmdk", &whole);
    let image = folder.open(MAIN).unwrap();
    check_disk(&image, 6).unwrap();
    let (mut found, mut expected) = (vec![0; 4 << 20], vec![0; 4 << 20]);
    image.read_at(512 + (60 << 20), &mut found).unwrap();
    disk().read_at(60 << 20, &mut expected).unwrap();
    assert!(found == expected);
    folder.put("stream.vmdk", &whole[..whole.len() - 1536]);
    assert_eq!(folder.open(MAIN).err().unwrap().kind(), ErrorKind::Truncated);
}
