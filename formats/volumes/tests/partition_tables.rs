//! Partition tables that are built here, by their specifications alone, read back as what they were; damaged ones give an error, or
//! partitions that the disk has.

mod hostile;

use std::ops::Range;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tintype_formats::testing::MemoryDisk;
use tintype_volumes::content::{Content, content_of};
use tintype_volumes::partitions::{Partition, PartitionKind, TableId, partition_table};

/// Sectors of every disk.
const SECTORS: u64 = 256;

/// Partition of a table, in sectors; its type is made from a number.
#[derive(Debug, Clone)]
struct Part {
    kind: u8,
    sectors: Range<u64>,
}

#[derive(Debug, Clone)]
struct Gpt {
    sector_bytes: u32,
    entry_bytes: usize,
    entries: u32,
    header_bytes: usize,
    parts: Vec<(u32, Part)>,
}

#[derive(Debug, Clone)]
struct Mbr {
    sector_bytes: u32,
    id: u32,
    primary: Vec<(usize, Part)>,
    /// Types and lengths of the logical partitions; no extended one without them.
    logical: Vec<(u8, u32)>,
}

/// GUID that is different for each number.
fn guid(number: u8) -> [u8; 16] {
    std::array::from_fn(|place| number.wrapping_mul(3).wrapping_add(place as u8 + 1))
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes an entry of an MBR, or of the sector of a logical partition.
fn put_mbr_entry(disk: &mut [u8], sector_at: usize, slot: usize, kind: u8, begin: u64, sectors: u64) {
    let numbers = [(begin as u32).to_le_bytes(), (sectors as u32).to_le_bytes()].concat();
    disk[sector_at + 446 + slot * 16 + 4] = kind;
    put(disk, sector_at + 446 + slot * 16 + 8, &numbers);
    put(disk, sector_at + 510, &[0x55, 0xaa]);
}

impl Gpt {
    fn table_sectors(&self) -> u64 {
        (u64::from(self.entries) * self.entry_bytes as u64).div_ceil(u64::from(self.sector_bytes))
    }

    fn disk(&self) -> Vec<u8> {
        let unit = self.sector_bytes as usize;
        let mut disk = vec![0; SECTORS as usize * unit];
        put_mbr_entry(&mut disk, 0, 0, 0xee, 1, SECTORS - 1);
        let mut table = vec![0; self.entries as usize * self.entry_bytes];
        for (number, part) in &self.parts {
            let at = (*number as usize - 1) * self.entry_bytes;
            put(&mut table, at, &guid(part.kind));
            put(&mut table, at + 16, &guid(*number as u8));
            put(&mut table, at + 32, &part.sectors.start.to_le_bytes());
            put(&mut table, at + 40, &(part.sectors.end - 1).to_le_bytes());
        }
        let last = SECTORS - 1;
        for (own, other, table_at) in [(1, last, 2), (last, 1, last - self.table_sectors())] {
            put(&mut disk, table_at as usize * unit, &table);
            let mut header = vec![0; self.header_bytes];
            put(&mut header, 0, b"EFI PART\0\0\x01\0");
            put(&mut header, 12, &(self.header_bytes as u32).to_le_bytes());
            let usable = [2 + self.table_sectors(), last - self.table_sectors() - 1];
            for (at, number) in [(24, own), (32, other), (40, usable[0]), (48, usable[1]), (72, table_at)] {
                put(&mut header, at, &number.to_le_bytes());
            }
            put(&mut header, 56, &guid(200));
            for (at, number) in [(80, self.entries), (84, self.entry_bytes as u32), (88, crc32fast::hash(&table))] {
                put(&mut header, at, &number.to_le_bytes());
            }
            let sum = crc32fast::hash(&header);
            put(&mut header, 16, &sum.to_le_bytes());
            put(&mut disk, own as usize * unit, &header);
        }
        disk
    }

    fn expected(&self) -> Vec<Partition> {
        let unit = u64::from(self.sector_bytes);
        let partition = |(number, part): &(u32, Part)| Partition {
            number: *number,
            begin: part.sectors.start * unit,
            size_bytes: (part.sectors.end - part.sectors.start) * unit,
            kind: PartitionKind::Gpt(guid(part.kind)),
            guid: Some(guid(*number as u8)),
        };
        self.parts.iter().map(partition).collect()
    }
}

/// A partition: number, type, sectors.
type Expected = (u32, u8, Range<u64>);

impl Mbr {
    /// Slot of the extended partition: the first that is free.
    fn extended_slot(&self) -> Option<usize> {
        (0..4).find(|slot| !self.logical.is_empty() && self.primary.iter().all(|(used, _)| used != slot))
    }

    /// Writes the table; returns its disk and its partitions.
    fn disk(&self) -> (Vec<u8>, Vec<Expected>) {
        let unit = self.sector_bytes as usize;
        let mut disk = vec![0; SECTORS as usize * unit];
        let mut expected = Vec::new();
        put(&mut disk, 440, &self.id.to_le_bytes());
        put(&mut disk, 510, &[0x55, 0xaa]);
        for (slot, Part { kind, sectors }) in &self.primary {
            put_mbr_entry(&mut disk, 0, *slot, *kind, sectors.start, sectors.end - sectors.start);
            expected.push((*slot as u32 + 1, *kind, sectors.clone()));
        }
        let Some(slot) = self.extended_slot() else { return (disk, expected) };
        let extended = 128;
        put_mbr_entry(&mut disk, 0, slot, 0x0f, extended, SECTORS - extended);
        let mut at = extended;
        for (index, (kind, sectors)) in self.logical.iter().enumerate() {
            let (sectors, sector_at) = (u64::from(*sectors), at as usize * unit);
            put_mbr_entry(&mut disk, sector_at, 0, *kind, 1, sectors);
            expected.push((5 + index as u32, *kind, at + 1..at + 1 + sectors));
            at += 1 + sectors;
            if let Some((_, next)) = self.logical.get(index + 1) {
                put_mbr_entry(&mut disk, sector_at, 1, 0x05, at - extended, u64::from(*next) + 1);
            }
        }
        (disk, expected)
    }
}

fn sector_bytes() -> impl Strategy<Value = u32> {
    prop_oneof![Just(512), Just(4096)]
}

fn part(kinds: impl Strategy<Value = u8>, sectors: Range<u64>) -> impl Strategy<Value = Part> {
    (kinds, sectors.clone(), sectors).prop_map(|(kind, one, other)| {
        let sectors = one.min(other)..one.max(other) + 1;
        Part { kind, sectors }
    })
}

fn gpt() -> impl Strategy<Value = Gpt> {
    let shape = (sector_bytes(), prop_oneof![Just(128), Just(256)], 1..=128u32, 92..=512usize);
    shape.prop_flat_map(|(sector_bytes, entry_bytes, entries, header_bytes)| {
        let parts = btree_map(1..=entries, part(0..100u8, 70..190), 0..8);
        parts.prop_map(move |parts| Gpt {
            sector_bytes,
            entry_bytes,
            entries,
            header_bytes,
            parts: parts.into_iter().collect(),
        })
    })
}

fn mbr_kind() -> impl Strategy<Value = u8> {
    (1..=255u8).prop_filter("a type of its own", |kind| ![0x05, 0x0f, 0x85, 0xee].contains(kind))
}

fn mbr() -> impl Strategy<Value = Mbr> {
    let primary = btree_map(0..4usize, part(mbr_kind(), 1..128), 0..=4);
    (sector_bytes(), 1u32.., primary, vec((mbr_kind(), 1..10u32), 0..8)).prop_map(
        |(sector_bytes, id, primary, logical)| Mbr {
            sector_bytes,
            id,
            primary: primary.into_iter().collect(),
            logical,
        },
    )
}

/// Bytes to change: the first sectors and the last ones are where most structures are.
fn damage() -> impl Strategy<Value = Vec<(u64, usize, u8)>> {
    let sector = prop_oneof![3 => 0..4u64, 1 => 128..132u64, 1 => SECTORS - 34..SECTORS, 1 => 0..SECTORS];
    let byte = prop_oneof![3 => 0..128usize, 2 => 440..512usize, 1 => 0..512usize];
    vec((sector, byte, any::<u8>()), 1..16)
}

/// Reads a disk with some of its bytes changed, as it is and with checksums that fit.
fn check_damaged(mut disk: Vec<u8>, sector_bytes: u32, damage: &[(u64, usize, u8)]) {
    for (sector, byte, value) in damage {
        disk[*sector as usize * sector_bytes as usize + byte] = *value;
    }
    let mended = hostile::mended(&disk, sector_bytes as usize);
    for bytes in [disk, mended] {
        let _ = hostile::check(&MemoryDisk::new(bytes).with_sectors(sector_bytes));
    }
}

proptest! {
    #[test]
    fn a_gpt_is_read_back(gpt in gpt()) {
        let unit = gpt.sector_bytes as usize;
        let whole = gpt.disk();
        // The disk's source may not know the sectors that the table counts.
        for (source_sectors, damaged) in [(gpt.sector_bytes, None), (512, None), (gpt.sector_bytes, Some(unit + 30))] {
            let mut disk = MemoryDisk::new(whole.clone()).with_sectors(source_sectors);
            damaged.into_iter().for_each(|at: usize| disk.bytes[at] ^= 1);
            let table = partition_table(&disk).unwrap();
            prop_assert_eq!(&table.partitions, &gpt.expected());
            prop_assert_eq!(table.id, Some(TableId::Gpt(guid(200))));
            prop_assert_eq!(content_of(&disk), Some(Content::Gpt { sector_bytes: gpt.sector_bytes }));
        }
    }

    #[test]
    fn an_mbr_is_read_back(mbr in mbr()) {
        let unit = u64::from(mbr.sector_bytes);
        let (bytes, expected) = mbr.disk();
        let table = partition_table(&MemoryDisk::new(bytes).with_sectors(mbr.sector_bytes)).unwrap();
        let expected: Vec<_> = expected.into_iter().map(|(number, kind, sectors)| Partition {
            number,
            begin: sectors.start * unit,
            size_bytes: (sectors.end - sectors.start) * unit,
            kind: PartitionKind::Mbr(kind),
            guid: None,
        }).collect();
        prop_assert_eq!(table.id, (!expected.is_empty()).then_some(TableId::Mbr(mbr.id)));
        prop_assert_eq!(table.partitions, expected);
    }

    #[test]
    fn a_damaged_gpt_names_nothing_outside_of_the_disk(gpt in gpt(), damage in damage()) {
        check_damaged(gpt.disk(), gpt.sector_bytes, &damage);
    }

    #[test]
    fn a_damaged_mbr_names_nothing_outside_of_the_disk(mbr in mbr(), damage in damage()) {
        check_damaged(mbr.disk().0, mbr.sector_bytes, &damage);
    }
}

#[test]
fn a_gpt_of_four_billion_entries_is_refused_before_they_are_read() {
    let gpt = Gpt { sector_bytes: 512, entry_bytes: 128, entries: 4, header_bytes: 92, parts: Vec::new() };
    let mut bytes = gpt.disk();
    for header in [512, bytes.len() - 512] {
        put(&mut bytes, header + 80, &u32::MAX.to_le_bytes());
    }
    let disk = MemoryDisk::new(hostile::mended(&bytes, 512));
    assert!(partition_table(&disk).is_err());
    assert!(disk.reads() < 10, "{} reads", disk.reads());
}

#[test]
fn logical_partitions_in_a_loop_are_refused() {
    let mbr = Mbr { sector_bytes: 512, id: 1, primary: Vec::new(), logical: vec![(0x83, 2), (0x83, 2)] };
    let mut disk = mbr.disk().0;
    // The second names the first as the next one.
    put_mbr_entry(&mut disk, 131 * 512, 1, 0x05, 0, 3);
    let error = hostile::check(&MemoryDisk::new(disk)).0.unwrap_err();
    assert!(error.to_string().ends_with("has more than 256, or is a loop"), "{error}");
}
