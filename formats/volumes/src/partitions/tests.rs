//! The tables that are read, and what becomes of damaged ones.

use tintype_formats::testing::{MemoryDisk, Random};

use super::*;

fn entry(disk: &mut MemoryDisk, sector: usize, place: usize, kind: u8, begin: u32, sectors: u32) {
    let at = sector * 512 + 446 + place * 16;
    disk.bytes[at + 4] = kind;
    disk.bytes[at + 8..at + 12].copy_from_slice(&begin.to_le_bytes());
    disk.bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    disk.bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
}

fn found(disk: &MemoryDisk) -> Vec<(u32, u64, u64)> {
    let all = partitions(disk).unwrap();
    all.iter().map(|found| (found.number, found.begin / 512, found.size_bytes / 512)).collect()
}

fn gpt_disk() -> MemoryDisk {
    let mut disk = MemoryDisk::new(vec![0; 200 * 512]);
    entry(&mut disk, 0, 0, 0xee, 1, 199);
    for (header, table) in [(1, 2), (199, 167)] {
        let at = table * 512 + 128;
        disk.bytes[at..at + 16].fill(7);
        disk.bytes[at + 32..at + 40].copy_from_slice(&40u64.to_le_bytes());
        disk.bytes[at + 40..at + 48].copy_from_slice(&59u64.to_le_bytes());
        let sum = crc32fast::hash(&disk.bytes[table * 512..table * 512 + 128 * 128]);
        let mut bytes = [0; 92];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[12..16].copy_from_slice(&92u32.to_le_bytes());
        bytes[24..32].copy_from_slice(&(header as u64).to_le_bytes());
        bytes[72..80].copy_from_slice(&(table as u64).to_le_bytes());
        bytes[80..84].copy_from_slice(&128u32.to_le_bytes());
        bytes[84..88].copy_from_slice(&128u32.to_le_bytes());
        bytes[88..92].copy_from_slice(&sum.to_le_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        disk.bytes[header * 512..header * 512 + 92].copy_from_slice(&bytes);
    }
    disk
}

#[test]
fn primary_and_logical_partitions_have_their_numbers() {
    let mut disk = MemoryDisk::new(vec![0; 1000 * 512]);
    entry(&mut disk, 0, 0, 0x83, 10, 20);
    entry(&mut disk, 0, 2, 0x0f, 100, 800);
    entry(&mut disk, 100, 0, 0x83, 2, 50);
    entry(&mut disk, 100, 1, 0x05, 200, 60);
    entry(&mut disk, 300, 0, 0x82, 2, 58);
    assert_eq!(found(&disk), [(1, 10, 20), (5, 102, 50), (6, 302, 58)]);
    entry(&mut disk, 300, 1, 0x05, 200, 60);
    assert!(partitions(&disk).is_err(), "a loop");
    entry(&mut disk, 300, 1, 0x05, 5000, 60);
    assert!(partitions(&disk).is_err(), "past the end");
}

#[test]
fn a_gpt_is_read_and_its_backup_when_it_is_damaged() {
    let mut disk = gpt_disk();
    assert_eq!(found(&disk), [(2, 40, 20)]);
    disk.bytes[2 * 512 + 300] ^= 1;
    assert_eq!(found(&disk), [(2, 40, 20)]);
    disk.bytes[199 * 512] ^= 1;
    assert!(partitions(&disk).is_err());
}

#[test]
fn a_disk_without_a_table_is_refused() {
    for length in [0, 512, 100 * 512] {
        assert!(partitions(&MemoryDisk::new(vec![0; length])).is_err(), "{length} bytes");
    }
}

#[test]
fn no_table_makes_it_panic_or_reach_past_the_disk() {
    let mut random = Random(11);
    for _ in 0..2000 {
        let mut disk = gpt_disk();
        if random.below(2) == 0 {
            entry(&mut disk, 0, 0, 0x05, 1, 199);
            entry(&mut disk, 1, 1, 0x05, 3, 199);
        }
        for _ in 0..random.below(40) {
            let at = [random.below(2048), 510 + random.below(200), 199 * 512 + random.below(100)];
            disk.bytes[at[random.below(3) as usize] as usize] = random.next_u64() as u8;
        }
        for partition in partitions(&disk).unwrap_or_default() {
            assert!(partition.begin + partition.size_bytes <= 200 * 512);
        }
    }
}

#[test]
fn guids_are_written_as_other_programs_write_them() {
    let bytes = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
    assert_eq!(guid_text(&bytes), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
}
