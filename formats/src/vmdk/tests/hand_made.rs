//! COWD and seSparse extents, and corners of hosted ones, made by hand.

use super::*;
use crate::extent::DiskKind;
use crate::testing::{ModelDisk, open_disk};

fn sector(byte: u8) -> Vec<u8> {
    vec![byte; 512]
}

/// A COWD extent of 3 MiB with grains of one sector; each stored grain holds the low byte of its number.
fn cowd(stored: &[u32]) -> MemoryFile {
    let file = MemoryFile::new();
    file.write_all_at(0, b"COWD").unwrap();
    for (index, value) in [1, 3, 6144, 1, 4, 2, 0].into_iter().enumerate() {
        write_u32(&file, 4 + 4 * index as u64, value);
    }
    let mut next_sector = 5;
    let mut tables = [0u32; 2];
    for grain in stored {
        let table = (grain / 4096) as usize;
        if tables[table] == 0 {
            tables[table] = next_sector;
            write_u32(&file, 2048 + 4 * table as u64, next_sector);
            file.write_all_at(u64::from(next_sector) * 512, &vec![0; 4096 * 4]).unwrap();
            next_sector += 32;
        }
        write_u32(&file, u64::from(tables[table]) * 512 + u64::from(grain % 4096) * 4, next_sector);
        file.write_all_at(u64::from(next_sector) * 512, &sector(*grain as u8)).unwrap();
        next_sector += 1;
    }
    file
}

fn delta_over_flat(delta: &MemoryFile, kind: &str) -> Folder {
    let folder = Folder::with_descriptor("RW 6144 VMFS \"disk-flat.vmdk\"");
    folder.put("disk-flat.vmdk", &vec![0xee; 3 << 20]);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=2\nparentCID=12345678\nparentFileNameHint=\"disk.vmdk\"\n\
         RW 6144 {kind} \"delta\"\n"
    );
    folder.put("child.vmdk", text.as_bytes());
    folder.put("delta", &delta.to_bytes());
    folder
}

#[test]
fn cowd_grains_hide_the_parent_one_sector_at_a_time() {
    let delta = cowd(&[1, 2, 7, 4095, 4096, 6143]);
    let folder = delta_over_flat(&delta, "VMFSSPARSE");
    check_disk(&folder.open("child.vmdk").unwrap(), 1).unwrap();
    let bytes = folder.read("child.vmdk").unwrap();
    for (number, found) in bytes.chunks(512).enumerate() {
        let expected = if [1, 2, 7, 4095, 4096, 6143].contains(&number) { number as u8 } else { 0xee };
        assert!(found.iter().all(|byte| *byte == expected), "sector {number}");
    }
    // Alone it is a disk of its own, with a warning.
    let alone = open_disk(Arc::new(delta.duplicate()), Some(&FORMAT)).unwrap();
    assert_eq!(alone.extent_at(0, 512).unwrap().kind, DiskKind::Hole);
    assert!(warnings(Arc::new(delta.duplicate()))[0].contains("without its descriptor"));
    assert!(check_file(Arc::new(delta)).is_clean());
}

/// A seSparse extent of 32 MiB with grains of 4 KiB: in two tables, an entry of every type.
fn se_sparse() -> MemoryFile {
    const TABLES: u64 = 16;
    const GRAINS: u64 = 144;
    let file = MemoryFile::new();
    let header: [u64; 10] = [0xcafe_babe, 0x2_0000_0001, 65536, 8, 64, 0, 0, 0, 0, 0];
    let places: [u64; 16] = [1, 1, 2, 2, 4, 4, 8, 8, TABLES, 128, 2, 1, 3, 1, GRAINS, 8192 * 8];
    (0..).zip(header.iter().chain(&places)).for_each(|(index, value)| write_u64(&file, index * 8, *value));
    write_u64(&file, 512, 0xcafe_cafe);
    let directory = 8 * 512;
    // The second table stands first.
    write_u64(&file, directory, 0x1000_0000_0000_0001);
    write_u64(&file, directory + 8, 0x1000_0000_0000_0000);
    let entry = |index: u64| 3 << 60 | (index & 0xfff) << 48 | index >> 12;
    let first = TABLES * 512 + 32768;
    for (index, value) in [(1, entry(0)), (2, 1 << 60), (3, 2 << 60), (4095, entry(1))] {
        write_u64(&file, first + index * 8, value);
    }
    write_u64(&file, TABLES * 512, entry(4097));
    for (index, byte) in [(0u64, 1u8), (1, 2), (4097, 3)] {
        file.write_all_at(GRAINS * 512 + index * 4096, &[byte; 4096]).unwrap();
    }
    file
}

#[test]
fn se_sparse_entries_turn_their_numbers() {
    let disk = open_disk(Arc::new(se_sparse()), Some(&FORMAT)).unwrap();
    check_disk(&disk, 2).unwrap();
    let kind = |grain: u64| disk.extent_at(grain * 4096, 4096).unwrap().kind;
    assert_eq!([kind(0), kind(2), kind(3), kind(4)], [DiskKind::Hole, DiskKind::Zero, DiskKind::Zero, DiskKind::Hole]);
    for (grain, byte) in [(0, 0), (1, 1), (2, 0), (4095, 2), (4096, 3), (4097, 0)] {
        let mut bytes = [9; 4096];
        disk.read_at(grain * 4096, &mut bytes).unwrap();
        assert_eq!(bytes, [byte; 4096], "grain {grain}");
    }
    assert!(check_file(Arc::new(se_sparse())).is_clean());
}

#[test]
fn se_sparse_damage_is_refused() {
    let journal = se_sparse();
    write_u64(&journal, 512 + 24, 1);
    assert_eq!(open_error(Arc::new(journal)), ErrorKind::Unsupported);
    let flags = se_sparse();
    write_u64(&flags, 40, 1);
    assert_eq!(open_error(Arc::new(flags)), ErrorKind::Unsupported);
    let entry = se_sparse();
    write_u64(&entry, 16 * 512, 5 << 60);
    let disk = open_disk(Arc::new(entry), Some(&FORMAT)).unwrap();
    assert_eq!(disk.extent_at(4096 * 4096, 1).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(disk.extent_at(4096, 1).is_ok());
    let directory = se_sparse();
    write_u64(&directory, 8 * 512, 0x2000_0000_0000_0001);
    assert_eq!(open_disk(Arc::new(directory), Some(&FORMAT)).err().unwrap().kind(), ErrorKind::Corrupt);
}

/// Where the first grain table of a monolithicSparse image is, of the directory that counts.
fn first_table(file: &MemoryFile) -> u64 {
    let directory = u64::from(read_u32(file, 56)) * 512;
    u64::from(read_u32(file, directory)) * 512
}

#[test]
fn entry_1_is_a_grain_of_zeros_only_if_the_header_says_so() {
    let disk = ModelDisk::random(1, 1 << 20, 3, 40);
    let file = image_of(&disk, "monolithicSparse").file(MAIN);
    write_u32(&file, first_table(&file) + 4 * 9, 1);
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    assert_eq!(image.extent_at(9 << 16, 1).unwrap_err().kind(), ErrorKind::Corrupt);
    write_u32(&file, 8, 7);
    let image = open_disk(file, Some(&FORMAT)).unwrap();
    assert_eq!(image.extent_at(9 << 16, 1).unwrap().kind, DiskKind::Zero);
}

#[test]
fn the_redundant_directory_stands_in_for_a_damaged_one() {
    let disk = ModelDisk::random(1, 40 << 20, 9, 40);
    let file = image_of(&disk, "monolithicSparse").file(MAIN);
    let directory = u64::from(read_u32(&file, 56)) * 512;
    write_u32(&file, directory, 0xffff_0000);
    assert_same(&open_disk(file.clone(), Some(&FORMAT)).unwrap(), &disk, 1);
    assert_eq!(check_file(file.clone()).corruptions, 1);
    // The directory's place itself.
    write_u64(&file, 56, u64::MAX / 1024);
    assert_same(&open_disk(file, Some(&FORMAT)).unwrap(), &disk, 1);
}

#[test]
fn a_capacity_that_was_rounded_up_does_not_make_the_disk_longer() {
    let disk = ModelDisk::random(2, (1 << 20) + 512 * 3, 4, 40);
    let file = image_of(&disk, "monolithicSparse").file(MAIN);
    write_u64(&file, 12, (1 << 11) + 128);
    assert_same(&open_disk(file.clone(), Some(&FORMAT)).unwrap(), &disk, 1);
    assert!(warnings(file.clone()).is_empty());
    write_u64(&file, 12, (1 << 11) + 131);
    assert!(warnings(file)[0].contains("the header says"));
}
