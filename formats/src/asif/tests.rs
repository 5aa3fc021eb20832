//! Images made by hand, with chunks of 32 KiB.

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::ErrorKind;
use crate::testing::{CountingFile, MemoryFile, check_damage, check_disk, exercise, open_disk, open_file, read_all};
use crate::{BlockSource, HostFileMut};

const CHUNK: u64 = 32 << 10;
const SECTORS: u64 = CHUNK / 512;
/// Chunks of a group, which is all of a table here.
const GROUP: u64 = 2048;
const TABLE: u64 = GROUP * CHUNK;
/// Six chunks, of which the last one is cut.
const DISK_SECTORS: u64 = 5 * SECTORS + 10;
const DIRECTORIES: [u64; 2] = [512, 1024];

/// An image in the making: the header and directories in chunk 0, the table in chunk 1, its bitmap in chunk 2.
struct Maker {
    header: Header,
    file: MemoryFile,
}

fn maker() -> Maker {
    let mut header = Header::new_zeroed();
    header.magic = MAGIC;
    header.version.set(VERSION);
    header.header_bytes.set(512);
    header.directory_offsets = DIRECTORIES.map(Into::into);
    header.uuid = [7; 16];
    header.sector_count.set(DISK_SECTORS);
    header.max_sector_count.set(10 * TABLE / 512);
    header.chunk_bytes.set(CHUNK as u32);
    header.sector_bytes.set(512);
    header.metadata_chunk.set(10 * GROUP - 1);
    let maker = Maker { header, file: MemoryFile::with_len(3 * CHUNK) };
    // The older directory points elsewhere.
    maker.put(DIRECTORIES[0], 3);
    maker.put(DIRECTORIES[0] + 8, 9);
    maker.put(DIRECTORIES[1], 4);
    maker.put(DIRECTORIES[1] + 8, 1);
    maker.put(CHUNK + GROUP * 8, 2);
    maker
}

/// The usual disk: whole chunks, side by side and not, and one of which some sectors are there.
fn some_image() -> Maker {
    let maker = maker();
    maker.store(0, STATUS_WHOLE, 4);
    maker.store(1, STATUS_WHOLE, 5);
    maker.store(3, STATUS_PARTIAL, 3);
    maker.store(5, STATUS_WHOLE, 6);
    for sector in [0, 1, 2, 7, 62] {
        let place = 2 * CHUNK + 3 * SECTORS / 4 + sector / 4;
        let mut byte = [0];
        crate::HostFile::read_exact_at(&maker.file, place, &mut byte).unwrap();
        maker.file.write_all_at(place, &[byte[0] | 1 << (2 * (sector % 4))]).unwrap();
    }
    maker
}

fn content() -> Vec<u8> {
    let mut disk: Vec<u8> = [4u8, 5, 0, 3, 0, 6].into_iter().flat_map(chunk_content).collect();
    for sector in (0..SECTORS).filter(|sector| ![0, 1, 2, 7, 62].contains(sector)) {
        disk[(3 * CHUNK + sector * 512) as usize..][..512].fill(0);
    }
    disk.truncate(DISK_SECTORS as usize * 512);
    disk
}

/// What chunk `number` of the file holds.
fn chunk_content(number: u8) -> Vec<u8> {
    if number == 0 {
        vec![0; CHUNK as usize]
    } else {
        (0..CHUNK).map(|at| number.wrapping_mul(40).wrapping_add((at / 512) as u8 % 37)).collect()
    }
}

impl Maker {
    fn put(&self, host_offset: u64, value: u64) {
        self.file.write_all_at(host_offset, &value.to_be_bytes()).unwrap();
    }

    fn entry(&self, chunk: u64, value: u64) {
        self.put(CHUNK + chunk * 8, value);
    }

    fn store(&self, chunk: u64, status: u64, number: u8) {
        self.entry(chunk, status << STATUS_SHIFT | u64::from(number));
        self.file.write_all_at(u64::from(number) * CHUNK, &chunk_content(number)).unwrap();
    }

    fn file(&self) -> Arc<MemoryFile> {
        self.file.write_all_at(0, self.header.as_bytes()).unwrap();
        Arc::new(self.file.duplicate())
    }

    fn error(&self) -> Option<ErrorKind> {
        let _ = exercise(&FORMAT, self.file());
        open_disk(self.file(), Some(&FORMAT)).and_then(|disk| read_all(&disk)).err().map(|error| error.kind())
    }

    fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        (FORMAT.open)(open_file(self.file())).unwrap().check(&mut report).unwrap();
        report
    }
}

#[test]
fn chunks_and_sectors_are_read() {
    let maker = some_image();
    let disk = open_disk(maker.file(), None).unwrap();
    check_disk(&disk, 1).unwrap();
    assert_eq!(read_all(&disk).unwrap(), content());
    let runs = [0, 2 * CHUNK, 3 * CHUNK, 3 * CHUNK + 1536, 5 * CHUNK + 512];
    let lengths = runs.map(|offset| disk.extent_at(offset, u64::MAX).unwrap().length_bytes);
    assert_eq!(lengths, [2 * CHUNK, CHUNK, 1536, 4 * 512, 9 * 512]);
    assert!(maker.check().is_clean(), "{:?}", maker.check());
}

#[test]
fn large_sectors_are_read() {
    let mut maker = maker();
    maker.header.sector_bytes.set(4096);
    maker.header.chunk_bytes.set(1 << 20);
    maker.header.sector_count.set(100);
    maker.header.max_sector_count.set(100);
    maker.file.set_len_bytes(8 << 20).unwrap();
    maker.put(1 << 20, STATUS_WHOLE << STATUS_SHIFT | 5);
    maker.file.write_all_at(5 << 20, &[9; 1 << 20]).unwrap();
    let disk = open_disk(maker.file(), None).unwrap();
    assert_eq!((disk.geometry().logical_sector_bytes, disk.geometry().size_bytes), (4096, 409_600));
    assert_eq!(read_all(&disk).unwrap(), [9; 409_600]);
}

#[test]
fn the_directory_with_the_greater_number_counts() {
    let maker = some_image();
    maker.put(DIRECTORIES[0], 5);
    // Its table would be chunk 9, which is not in the file.
    assert_eq!(maker.error(), Some(ErrorKind::Corrupt));
    maker.put(DIRECTORIES[0], 4);
    assert_eq!(maker.error(), Some(ErrorKind::Corrupt));
    maker.put(DIRECTORIES[0] + 8, 1);
    assert_eq!(maker.error(), None);
}

#[test]
fn a_disk_without_tables_is_read_at_once() {
    let mut maker = maker();
    maker.header.max_sector_count.set(1 << 43);
    maker.header.sector_count.set(1 << 40);
    maker.header.chunk_bytes.set(1 << 20);
    let directory = 8 * ((1u64 << 52) / ((63 * 2048) << 20) + 2);
    maker.header.directory_offsets = [512.into(), (512 + directory).into()];
    let file = MemoryFile::with_len(1 << 20);
    file.write_all_at(0, maker.header.as_bytes()).unwrap();
    let file = Arc::new(CountingFile::new(file));
    let disk = open_disk(file.clone(), None).unwrap();
    let (mut offset, mut extents) = (0, 0);
    while offset < disk.geometry().size_bytes {
        offset += disk.extent_at(offset, u64::MAX).unwrap().length_bytes;
        extents += 1;
    }
    assert!(extents < 5000 && file.reads() < 10, "{extents} extents, {} reads", file.reads());
}

#[test]
fn what_nobody_describes_is_refused() {
    for entry in [6, 2 << 62 | 6, 1 << 62 | 1 << 55 | 6, 1 << 62 | 1 << 61 | 6] {
        let maker = some_image();
        maker.entry(5, entry);
        assert_eq!(maker.error(), Some(ErrorKind::Unsupported), "{entry:#x}");
        assert_eq!(maker.check().corruptions, 1, "{entry:#x}");
    }
    for state in [2u8, 3] {
        let maker = some_image();
        maker.file.write_all_at(2 * CHUNK + 3 * SECTORS / 4 + 5, &[state]).unwrap();
        assert_eq!(maker.error(), Some(ErrorKind::Unsupported));
    }
    let mut maker = some_image();
    maker.header.flags.set(1);
    assert_eq!(maker.error(), Some(ErrorKind::Unsupported));
    let mut maker = some_image();
    maker.header.version.set(2);
    assert_eq!(maker.error(), Some(ErrorKind::Unsupported));
}

#[test]
fn wrong_places_are_refused() {
    // The header, a chunk that is there twice, the end of the file, far behind it.
    for number in [0, 4, 7, CHUNK_MASK] {
        let maker = some_image();
        maker.entry(5, STATUS_WHOLE << STATUS_SHIFT | number);
        assert_eq!(maker.error(), Some(ErrorKind::Corrupt), "{number:#x}");
        assert!(maker.check().corruptions > 0, "{number:#x}");
    }
    let maker = some_image();
    maker.put(CHUNK + GROUP * 8, 0);
    assert_eq!(maker.error(), Some(ErrorKind::Corrupt));
    for number in [7, CHUNK_MASK, u64::MAX] {
        let maker = some_image();
        maker.put(DIRECTORIES[1] + 8, number);
        assert_eq!(maker.error(), Some(ErrorKind::Corrupt), "{number:#x}");
    }
}

#[test]
fn one_table_for_the_whole_disk_is_no_disk() {
    let mut maker = some_image();
    maker.header.sector_count.set(10 * TABLE / 512);
    for table in 0..10 {
        maker.put(DIRECTORIES[1] + 8 + 8 * table, 1);
    }
    assert_eq!(open_disk(maker.file(), Some(&FORMAT)).err().unwrap().kind(), ErrorKind::Corrupt);
    // A chunk that two tables use is found by a check.
    maker.put(DIRECTORIES[1] + 8, 1);
    (1..10).for_each(|table| maker.put(DIRECTORIES[1] + 8 + 8 * table, 0));
    maker.put(DIRECTORIES[1] + 16, 7);
    maker.file.set_len_bytes(8 * CHUNK).unwrap();
    maker.put(7 * CHUNK, STATUS_WHOLE << STATUS_SHIFT | 4);
    assert_eq!(maker.check().corruptions, 1);
}

#[test]
fn wrong_headers_are_refused() {
    let with = |change: fn(&mut Header)| {
        let mut maker = some_image();
        change(&mut maker.header);
        maker.error()
    };
    assert_eq!(with(|header| header.magic = *b"shdx"), Some(ErrorKind::NotThisFormat));
    for sector_bytes in [0u16, 1, 256, 1024, 8192] {
        let mut maker = some_image();
        maker.header.sector_bytes.set(sector_bytes);
        assert_eq!(maker.error(), Some(ErrorKind::Corrupt), "{sector_bytes}");
    }
    for chunk_bytes in [0u32, 512, 16384, CHUNK as u32 + 1, 32 << 20, 1 << 31] {
        let mut maker = some_image();
        maker.header.chunk_bytes.set(chunk_bytes);
        assert_eq!(maker.error(), Some(ErrorKind::Corrupt), "{chunk_bytes}");
    }
    assert_eq!(with(|header| header.sector_count = u64::MAX.into()), Some(ErrorKind::LimitExceeded));
    assert_eq!(with(|header| header.max_sector_count = u64::MAX.into()), Some(ErrorKind::LimitExceeded));
    assert_eq!(with(|header| header.max_sector_count = (1 << 53).into()), Some(ErrorKind::LimitExceeded));
    assert_eq!(with(|header| header.max_sector_count = (DISK_SECTORS - 1).into()), Some(ErrorKind::Corrupt));
    for places in [[0, 512], [512, 512], [512, 520], [513, 1024], [512, 7 * CHUNK], [512, u64::MAX]] {
        let mut maker = some_image();
        maker.header.directory_offsets = places.map(Into::into);
        assert_eq!(maker.error(), Some(ErrorKind::Corrupt), "{places:?}");
    }
}

#[test]
fn damage_gives_an_error_or_the_same_disk() {
    let bytes = some_image().file().to_bytes();
    // Directories' places, the disk's sizes, chunk and sector size; the directories.
    check_damage(&FORMAT, &bytes, 0..80, |place| matches!(place, 16..32 | 48..70));
    check_damage(&FORMAT, &bytes, 512..528, |_| true);
}
