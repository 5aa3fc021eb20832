//! The log: which entries are replayed, and what they do.

use std::time::{Duration, Instant};

use uuid::{Uuid, uuid};
use zerocopy::little_endian::{U32, U64};

use super::super::overlay::Overlay;
use super::*;
use crate::testing::{Random, read_all};

const LOG_OFFSET: u64 = MIB;
const LOG_BYTES: u64 = MIB;
const GUID: Uuid = uuid!("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
const SECTOR: usize = LOG_SECTOR_BYTES as usize;

/// What an entry of a log does.
enum Change {
    Sector(u64, Vec<u8>),
    Zeros(u64, u64),
}

/// An entry that is to be written into a log.
struct Entry {
    sequence_number: u64,
    tail: u64,
    guid: Uuid,
    flushed_file_offset: u64,
    last_file_offset: u64,
    changes: Vec<Change>,
}

impl Entry {
    fn new(sequence_number: u64, tail: u64, changes: Vec<Change>) -> Self {
        Entry { sequence_number, tail, guid: GUID, flushed_file_offset: MIB, last_file_offset: MIB, changes }
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut descriptors, mut sectors) = (Vec::new(), Vec::new());
        for change in &self.changes {
            let mut descriptor = LogDescriptor::new_zeroed();
            descriptor.sequence_number.set(self.sequence_number);
            match change {
                Change::Sector(host_offset, bytes) => {
                    descriptor.signature = DATA_DESCRIPTOR_SIGNATURE;
                    descriptor.host_offset.set(*host_offset);
                    descriptor.leading_bytes.copy_from_slice(&bytes[..8]);
                    descriptor.trailing_bytes.copy_from_slice(&bytes[SECTOR - 4..]);
                    let mut sector = DataSector::new_zeroed();
                    sector.signature = DATA_SECTOR_SIGNATURE;
                    sector.sequence_high.set((self.sequence_number >> 32) as u32);
                    sector.sequence_low.set(self.sequence_number as u32);
                    sector.data.copy_from_slice(&bytes[8..SECTOR - 4]);
                    sectors.extend_from_slice(sector.as_bytes());
                }
                Change::Zeros(host_offset, length_bytes) => {
                    descriptor.signature = ZERO_DESCRIPTOR_SIGNATURE;
                    descriptor.host_offset.set(*host_offset);
                    descriptor.leading_bytes = length_bytes.to_le_bytes();
                }
            }
            descriptors.extend_from_slice(descriptor.as_bytes());
        }
        descriptors.resize((64 + descriptors.len()).next_multiple_of(SECTOR) - 64, 0);
        let header = LogEntryHeader {
            signature: LOG_ENTRY_SIGNATURE,
            checksum: U32::ZERO,
            entry_length_bytes: U32::new((64 + descriptors.len() + sectors.len()) as u32),
            tail: U32::new(self.tail as u32),
            sequence_number: U64::new(self.sequence_number),
            descriptor_count: U32::new(self.changes.len() as u32),
            reserved: U32::ZERO,
            log_guid: self.guid.into(),
            flushed_file_offset: U64::new(self.flushed_file_offset),
            last_file_offset: U64::new(self.last_file_offset),
        };
        let mut bytes = [header.as_bytes(), &descriptors, &sectors].concat();
        seal(&mut bytes);
        bytes
    }

    /// Writes it at a place of the log, round its end if need be; returns where the next one goes.
    fn write(&self, file: &MemoryFile, log_offset: u64) -> u64 {
        write_entry(file, log_offset, &self.bytes())
    }
}

fn seal(entry: &mut [u8]) {
    let sum = checksum(entry, &[]);
    entry[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn write_entry(file: &MemoryFile, log_offset: u64, bytes: &[u8]) -> u64 {
    for (sector, bytes) in (0..).zip(bytes.chunks(SECTOR)) {
        file.write_all_at(LOG_OFFSET + (log_offset + sector * LOG_SECTOR_BYTES) % LOG_BYTES, bytes).unwrap();
    }
    (log_offset + bytes.len() as u64) % LOG_BYTES
}

/// An image whose headers name a log, its disk, and the first sector of its BAT as it should be: it is zero in the file.
fn unclean() -> (Arc<MemoryFile>, ModelDisk, Vec<u8>) {
    let mut disk = ModelDisk::new(64 * MIB);
    (0..40).for_each(|block| disk.write(block * 256 + block, block + 1));
    let file = small_blocks(&disk);
    let mut table = vec![0; SECTOR];
    file.read_exact_at(BAT_OFFSET, &mut table).unwrap();
    file.write_zeros_at(BAT_OFFSET, LOG_SECTOR_BYTES).unwrap();
    (0..2).for_each(|number| change_header(&file, number, |header| header.log_guid = GUID.into()));
    (file, disk, table)
}

fn replayed_bytes(file: &Arc<MemoryFile>) -> Vec<u8> {
    read_all(&open_disk(file.clone(), Some(&FORMAT)).unwrap()).unwrap()
}

#[test]
fn an_entry_is_carried_out_in_memory() {
    let (file, disk, table) = unclean();
    Entry::new(1 << 40, 0, vec![Change::Sector(BAT_OFFSET, table)]).write(&file, 0);
    let before = file.duplicate().to_bytes();
    assert_same(file.clone(), &disk, 1);
    assert!(check_file(file.clone()).unwrap().is_clean());
    assert!(warnings(file.clone())[0].ends_with("(entries: 1)"));
    assert!(file.to_bytes() == before);
    assert!(open_disk(file, None).unwrap().host_files()[0].file.as_file().is_none());
}

#[test]
fn entries_are_carried_out_in_order_and_round_the_end() {
    let (file, disk, table) = unclean();
    let changes = vec![
        vec![Change::Sector(BAT_OFFSET, vec![0xff; SECTOR]), Change::Sector(BAT_OFFSET + 8192, vec![0xff; SECTOR])],
        vec![Change::Zeros(BAT_OFFSET + 4096, 64 << 10), Change::Sector(BAT_OFFSET, vec![0xee; SECTOR])],
        vec![],
        vec![Change::Zeros(BAT_OFFSET, 4096), Change::Sector(BAT_OFFSET, table)],
    ];
    for first in [0, 7 * LOG_SECTOR_BYTES, LOG_BYTES - 4096, LOG_BYTES - 8192, LOG_BYTES - 16384] {
        file.write_zeros_at(LOG_OFFSET, LOG_BYTES).unwrap();
        // A stale entry before the tail, with the number that the tail would continue.
        let mut place = Entry::new(8, first, vec![Change::Zeros(MIB * 4, MIB)]).write(&file, first);
        let tail = place;
        for (sequence_number, changes) in (9..).zip(&changes) {
            let copies = changes.iter().map(|change| match change {
                Change::Sector(host_offset, bytes) => Change::Sector(*host_offset, bytes.clone()),
                Change::Zeros(host_offset, length) => Change::Zeros(*host_offset, *length),
            });
            place = Entry::new(sequence_number, tail, copies.collect()).write(&file, place);
        }
        assert_same(file.clone(), &disk, first);
        assert!(warnings(file.clone())[0].ends_with("(entries: 4)"), "{:?}", warnings(file.clone()));
    }
}

#[test]
fn many_descriptors_take_several_sectors() {
    let (file, disk, table) = unclean();
    let mut changes: Vec<_> =
        (0..200).map(|n| Change::Sector(BAT_OFFSET + n % 7 * 4096, vec![n as u8; SECTOR])).collect();
    changes.extend((0..150).map(|n| Change::Zeros(BAT_OFFSET + n % 7 * 4096, 4096)));
    changes.push(Change::Sector(BAT_OFFSET, table));
    Entry::new(3, LOG_BYTES - 20480, changes).write(&file, LOG_BYTES - 20480);
    assert_same(file, &disk, 2);
}

#[test]
fn a_torn_entry_ends_the_sequence_before_it() {
    let (file, disk, table) = unclean();
    let next = Entry::new(1, 0, vec![Change::Sector(BAT_OFFSET, table)]).write(&file, 0);
    let mut torn =
        Entry::new(2, 0, vec![Change::Zeros(BAT_OFFSET, 4096), Change::Sector(BAT_OFFSET, vec![1; SECTOR])]).bytes();
    torn[SECTOR + 100] ^= 1;
    let after = write_entry(&file, next, &torn);
    assert_same(file.clone(), &disk, 3);
    // The entry after the torn one reached the disk; its tail leads to a sequence that ends without it.
    Entry::new(3, 0, vec![Change::Zeros(BAT_OFFSET, 4096)]).write(&file, after);
    assert_same(file, &disk, 3);
}

#[test]
fn only_entries_of_this_log_in_unbroken_order_count() {
    let zeros = || vec![Change::Zeros(BAT_OFFSET, 4096)];
    let (file, disk, table) = unclean();
    let next = Entry::new(5, 0, vec![Change::Sector(BAT_OFFSET, table)]).write(&file, 0);
    let other = Uuid::from_u128(7);
    for follower in [
        Entry::new(7, 0, zeros()),
        Entry::new(5, 0, zeros()),
        Entry::new(4, 0, zeros()),
        Entry { guid: other, ..Entry::new(6, 0, zeros()) },
    ] {
        follower.write(&file, next);
        assert_same(file.clone(), &disk, 4);
    }
    // One that begins a newer sequence of its own does count.
    Entry::new(9, next, zeros()).write(&file, next);
    assert!(replayed_bytes(&file).iter().all(|byte| *byte == 0));
}

#[test]
fn a_log_without_a_complete_sequence_is_corrupt() {
    let (file, _, table) = unclean();
    let changes = || vec![Change::Sector(BAT_OFFSET, table.clone())];
    Entry::new(0, 0, changes()).write(&file, 0);
    assert_eq!(open_error(file.clone()), ErrorKind::Corrupt, "number 0");
    Entry::new(2, 64 << 10, changes()).write(&file, 0);
    assert_eq!(open_error(file.clone()), ErrorKind::Corrupt, "the tail is missing");
    for tail in [1, 4095, LOG_BYTES, u64::from(u32::MAX)] {
        Entry::new(2, tail, changes()).write(&file, 0);
        assert_eq!(open_error(file.clone()), ErrorKind::Corrupt, "the tail is at {tail:#x}");
    }
    Entry::new(2, 0, changes()).write(&file, 0);
    Entry::new(2, 64 << 10, changes()).write(&file, 64 << 10);
    assert_eq!(open_error(file), ErrorKind::Corrupt, "two of one number");
}

#[test]
fn a_log_that_was_begun_without_an_entry_changes_nothing() {
    let disk = ModelDisk::random(3, 8 * MIB, 5, 50);
    let file = small_blocks(&disk);
    (0..2).for_each(|number| change_header(&file, number, |header| header.log_guid = GUID.into()));
    let stale = Entry { guid: Uuid::from_u128(7 << 90), ..Entry::new(1, 0, vec![Change::Zeros(BAT_OFFSET, 4096)]) };
    for _ in 0..2 {
        assert_same(file.clone(), &disk, 1);
        assert!(warnings(file.clone())[0].contains("no entries"));
        stale.write(&file, 0);
    }
    // A damaged entry is no missing one, whatever byte is damaged.
    let entry = Entry::new(1, 0, vec![Change::Zeros(BAT_OFFSET, 4096)]).bytes();
    for byte in 0..entry.len() {
        let mut damaged = entry.clone();
        damaged[byte] ^= 0xff;
        write_entry(&file, 0, &damaged);
        assert_eq!(open_error(file.clone()), ErrorKind::Corrupt, "byte {byte}");
    }
    write_entry(&file, 0, &entry[..64]);
    file.write_zeros_at(LOG_OFFSET + 64, 8192).unwrap();
    assert_eq!(open_error(file), ErrorKind::Corrupt, "only its beginning");
}

#[test]
fn a_truncated_file_is_refused_and_an_unfinished_one_extended() {
    let (file, disk, table) = unclean();
    let len_bytes = file.len_bytes().unwrap();
    let entry = |flushed, last| Entry {
        flushed_file_offset: flushed,
        last_file_offset: last,
        ..Entry::new(1, 0, vec![Change::Sector(BAT_OFFSET, table.clone())])
    };
    entry(len_bytes, len_bytes).write(&file, 0);
    assert_same(file.clone(), &disk, 5);
    entry(len_bytes + 1, len_bytes).write(&file, 0);
    assert_eq!(open_error(file.clone()), ErrorKind::Truncated);
    entry(len_bytes, u64::MAX).write(&file, 0);
    assert_eq!(open_error(file.clone()), ErrorKind::LimitExceeded);
    // The last block was being added: it is in the BAT, but not in the file yet.
    file.set_len_bytes(len_bytes - MIB).unwrap();
    entry(len_bytes - MIB, len_bytes).write(&file, 0);
    let image = open_disk(file.clone(), None).unwrap();
    assert_eq!(image.host_files()[0].file.len_bytes().unwrap(), len_bytes);
    let mut last = vec![1; 1 << 20];
    image.read_at(39 * MIB, &mut last).unwrap();
    assert!(last.iter().all(|byte| *byte == 0));
    check_disk(&image, 6).unwrap();
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    let (file, _, table) = unclean();
    let good =
        Entry::new(1, 0, vec![Change::Sector(BAT_OFFSET, table), Change::Zeros(BAT_OFFSET + 4096, 4096)]).bytes();
    let refuse = |what: &str, change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        seal(&mut bytes);
        write_entry(&file, 0, &bytes);
        let kind = open_error(file.clone());
        assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::LimitExceeded), "{what}: {kind:?}");
    };
    refuse("a descriptor of another entry", &|bytes| bytes[64 + 24] = 2);
    refuse("an unknown descriptor", &|bytes| bytes[64] = b'x');
    refuse("more descriptors than fit", &|bytes| bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes()));
    refuse("a descriptor without a sector", &|bytes| bytes[24] = 3);
    refuse("a sector of another entry", &|bytes| bytes[2 * SECTOR - 4] = 2);
    refuse("no data sector", &|bytes| bytes[SECTOR] = b'x');
    refuse("an unaligned sector", &|bytes| bytes[64 + 16] = 1);
    refuse("zeros of odd length", &|bytes| bytes[96 + 8] = 1);
    refuse("the headers", &|bytes| bytes[64 + 16..64 + 24].copy_from_slice(&65536_u64.to_le_bytes()));
    refuse("the log", &|bytes| bytes[64 + 16..64 + 24].copy_from_slice(&(LOG_OFFSET + 8192).to_le_bytes()));
    refuse("past 2^63", &|bytes| bytes[96 + 16..96 + 24].copy_from_slice(&(u64::MAX << 12).to_le_bytes()));
    refuse("zeros over the log", &|bytes| {
        bytes[96 + 8..96 + 16].copy_from_slice(&(8 * MIB).to_le_bytes());
        bytes[96 + 16..96 + 24].copy_from_slice(&(192_u64 << 10).to_le_bytes());
    });
}

#[test]
fn the_region_tables_can_be_in_the_log() {
    let (file, disk, table) = unclean();
    let mut changes = vec![Change::Sector(BAT_OFFSET, table)];
    for host_offset in REGION_TABLE_OFFSETS {
        let mut bytes = vec![0; REGION_TABLE_BYTES];
        file.read_exact_at(host_offset, &mut bytes).unwrap();
        file.write_all_at(host_offset, &[0xff; REGION_TABLE_BYTES]).unwrap();
        changes.push(Change::Sector(host_offset, bytes[..SECTOR].to_vec()));
        changes.push(Change::Zeros(host_offset + 4096, REGION_TABLE_BYTES as u64 - 4096));
    }
    Entry::new(1, 0, changes).write(&file, 0);
    assert_same(file, &disk, 8);
}

#[test]
fn a_hostile_log_is_refused_quickly() {
    let (file, _, _) = unclean();
    (0..2).for_each(|number| {
        change_header(&file, number, |header| {
            header.log_offset.set(256 * MIB);
            header.log_length_bytes.set(MAX_LOG_BYTES as u32);
        });
    });
    file.set_len_bytes(512 * MIB).unwrap();
    let mut header = LogEntryHeader::read_from_prefix(&Entry::new(1, 0, vec![]).bytes()).unwrap().0;
    header.entry_length_bytes.set(MAX_LOG_BYTES as u32);
    for sector in 0..MAX_LOG_BYTES / LOG_SECTOR_BYTES {
        file.write_all_at(256 * MIB + sector * LOG_SECTOR_BYTES, header.as_bytes()).unwrap();
    }
    let begin = Instant::now();
    assert_eq!(open_error(file.clone()), ErrorKind::Corrupt);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    (0..2).for_each(|number| change_header(&file, number, |header| header.log_length_bytes.set(128 << 20)));
    assert_eq!(open_error(file.clone()), ErrorKind::LimitExceeded);
    (0..2).for_each(|number| change_header(&file, number, |header| header.log_length_bytes.set(1 << 30)));
    assert_eq!(open_error(file.clone()), ErrorKind::Truncated);
    (0..2).for_each(|number| change_header(&file, number, |header| header.log_length_bytes.set(0)));
    assert_eq!(open_error(file), ErrorKind::Corrupt);
}

#[test]
fn what_is_laid_over_a_file_hides_what_was_there() {
    const SECTORS: u64 = 64;
    let mut random = Random(12);
    for _ in 0..50 {
        let base: Vec<u8> = (0..SECTORS * LOG_SECTOR_BYTES).map(|_| random.next_u64() as u8).collect();
        let log: Vec<u8> = (0..8 * SECTOR).map(|_| random.next_u64() as u8).collect();
        let mut expected = base.clone();
        let mut overlay = Overlay::new(Arc::new(MemoryFile::from_bytes(&base)), base.len() as u64, log.clone());
        expected.resize(80 * SECTOR, 0);
        overlay.extend_to(expected.len() as u64);
        for _ in 0..random.below(60) {
            let first = random.below(80);
            if random.below(2) == 0 {
                let sectors = random.below(81 - first);
                overlay.put_zeros(first * LOG_SECTOR_BYTES..(first + sectors) * LOG_SECTOR_BYTES);
                expected[first as usize * SECTOR..(first + sectors) as usize * SECTOR].fill(0);
            } else {
                let from = random.below(8) as usize * SECTOR;
                overlay.put_sector(first * LOG_SECTOR_BYTES, from);
                expected[first as usize * SECTOR..][..SECTOR].copy_from_slice(&log[from..][..SECTOR]);
            }
        }
        for _ in 0..50 {
            let begin = random.below(expected.len() as u64);
            let mut found = vec![0; random.below(expected.len() as u64 - begin) as usize];
            overlay.read_exact_at(begin, &mut found).unwrap();
            assert!(found == expected[begin as usize..][..found.len()]);
            let extent = overlay.extent_at(begin, expected.len() as u64 - begin).unwrap();
            let part = &expected[begin as usize..][..extent.length_bytes as usize];
            assert!(!part.is_empty() && (!extent.hole || part.iter().all(|byte| *byte == 0)));
        }
        assert!(overlay.read_exact_at(expected.len() as u64 - 1, &mut [0; 2]).is_err());
    }
}
