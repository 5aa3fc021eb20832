//! Hostile and damaged files: an error within a second and bounded memory, never a panic.

use std::time::Instant;

use super::*;
use crate::testing::{ModelDisk, exercise, open_disk};

fn sparse() -> (ModelDisk, Arc<MemoryFile>) {
    let mut disk = ModelDisk::new(70 << 20);
    (0..64).for_each(|block| disk.write(block, block | 1));
    (9000..9064).for_each(|block| disk.write(block, block | 1));
    let file = image_of(&disk, "monolithicSparse").file(MAIN);
    (disk, file)
}

fn table(file: &MemoryFile, number: u64) -> u64 {
    let directory = u64::from(read_u32(file, 56)) * 512;
    u64::from(read_u32(file, directory + 4 * number)) * 512
}

fn read_error(file: &Arc<MemoryFile>) -> ErrorKind {
    let disk = match open_disk(file.clone(), Some(&FORMAT)) {
        Ok(disk) => disk,
        Err(error) => return error.kind(),
    };
    digest(&disk).expect_err("the disk can be read").kind()
}

#[test]
fn one_grain_in_two_places_is_corruption() {
    let (_, file) = sparse();
    // In one table.
    let first = table(&file, 0);
    let entry = read_u32(&file, first);
    write_u32(&file, first + 40, entry);
    assert_eq!(read_error(&file), ErrorKind::Corrupt);
    assert!(check_file(file.clone()).corruptions > 0);
    // Half over another one.
    write_u32(&file, first + 40, entry + 8);
    assert_eq!(read_error(&file), ErrorKind::Corrupt);
    write_u32(&file, first + 40, 0);
    // In two tables: a check sees it.
    write_u32(&file, table(&file, 1) + 40, entry);
    assert_eq!(check_file(file.clone()).corruptions, 1);
    // One table for two parts of the disk.
    let directory = u64::from(read_u32(&file, 56)) * 512;
    write_u32(&file, directory + 4, read_u32(&file, directory));
    write_u32(&file, u64::from(read_u32(&file, 48)) * 512, 0xffff_0000);
    assert_eq!(read_error(&file), ErrorKind::Corrupt);
}

/// Tables that repeat the same grains would turn a small file into a disk of any size.
#[test]
fn many_tables_of_the_same_grains_are_a_bomb() {
    let (tables, grains) = (2000u32, 512u32);
    let file = MemoryFile::new();
    let mut header = image_of(&ModelDisk::new(1 << 20), "monolithicSparse").file(MAIN).to_bytes();
    header.truncate(512);
    header[28..44].fill(0);
    file.write_all_at(0, &header).unwrap();
    write_u64(&file, 12, u64::from(tables) * 65536);
    write_u32(&file, 8, 1);
    write_u64(&file, 56, 1);
    let first_grain = 17 + tables * 4;
    for number in 0..tables {
        write_u32(&file, 512 + 4 * u64::from(number), 17 + number * 4);
        let entries: Vec<u8> = (0..grains).flat_map(|grain| (first_grain + grain * 128).to_le_bytes()).collect();
        file.write_all_at(u64::from(17 + number * 4) * 512, &entries).unwrap();
    }
    file.set_len_bytes(u64::from(first_grain) * 512 + (32 << 20)).unwrap();
    let file = Arc::new(file);
    let began = Instant::now();
    assert_eq!(read_error(&file), ErrorKind::Corrupt);
    assert!(check_file(file).corruptions > 0);
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn numbers_beyond_all_bounds_are_refused_at_once() {
    let (_, file) = sparse();
    let changed = |offset: u64, value: u64| {
        let file = Arc::new(file.duplicate());
        write_u64(&file, offset, value);
        let _ = exercise(&FORMAT, file.clone());
        open_disk(file, Some(&FORMAT)).err().map(|error| error.kind())
    };
    // capacity, grain size, descriptor, entries of a table, directory.
    assert_eq!(changed(12, u64::MAX), Some(ErrorKind::LimitExceeded));
    assert_eq!(changed(12, 1 << 53), Some(ErrorKind::LimitExceeded));
    assert_eq!(changed(12, 1 << 40), Some(ErrorKind::LimitExceeded));
    assert_eq!(changed(12, 1 << 36), Some(ErrorKind::Truncated));
    assert_eq!(changed(20, 1 << 63), Some(ErrorKind::LimitExceeded));
    assert_eq!(changed(20, 0), Some(ErrorKind::Corrupt));
    assert_eq!(changed(20, 100), Some(ErrorKind::Corrupt));
    assert_eq!(changed(28, u64::MAX), Some(ErrorKind::Truncated));
    assert_eq!(changed(36, u64::MAX), Some(ErrorKind::Truncated));
    assert_eq!(changed(36, 1 << 20), Some(ErrorKind::Truncated));
    assert_eq!(changed(44, 0), Some(ErrorKind::Corrupt));
    assert_eq!(changed(44, 8192), Some(ErrorKind::Corrupt));
}

#[test]
fn headers_that_went_through_text_mode_are_found_out() {
    let (_, file) = sparse();
    file.write_all_at(73, b"\n \n\n").unwrap();
    assert_eq!(open_error(file.clone()), ErrorKind::Corrupt);
    let (_, file) = sparse();
    write_u32(&file, 4, 4);
    assert_eq!(open_error(file.clone()), ErrorKind::Unsupported);
    write_u32(&file, 4, 1);
    write_u32(&file, 8, 0x40003);
    assert_eq!(open_error(file), ErrorKind::Unsupported);
}

#[test]
fn grains_past_the_end_are_errors_of_their_own() {
    let (disk, file) = sparse();
    let length = file.len_bytes().unwrap();
    file.set_len_bytes(length - 65536).unwrap();
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    let (mut found, mut expected) = (vec![0; 65536], vec![0; 65536]);
    image.read_at(0, &mut found).unwrap();
    disk.read_at(0, &mut expected).unwrap();
    assert!(found == expected);
    assert_eq!(digest(&image).unwrap_err().kind(), ErrorKind::Truncated);
    assert_eq!(check_file(file).corruptions, 1);
}

#[test]
fn what_nothing_names_is_a_leak() {
    let (_, file) = sparse();
    let first = table(&file, 0);
    write_u32(&file, first + 8, 0);
    let report = check_file(file);
    assert_eq!((report.leaks, report.corruptions), (1, 0), "{:?}", report.findings);
}

/// Every bit of the header, and cuts at every sector of the structures, of every sparse kind.
#[test]
fn flipped_bits_and_cuts_never_panic() {
    let disk = ModelDisk::random(8, 1 << 20, 4, 20);
    for variant in ["monolithicSparse", "streamOptimized", "twoGbMaxExtentSparse", "monolithicFlat"] {
        let folder = image_of(&disk, variant);
        for name in folder.names().iter().filter(|name| !name.ends_with("-flat.vmdk")) {
            let file = folder.file(name);
            let length = file.len_bytes().unwrap();
            for place in 0..length.min(1200) {
                for bit in [0x01, 0x80, 0xff] {
                    let changed = Arc::new(file.duplicate());
                    let mut byte = [0];
                    changed.read_exact_at(place, &mut byte).unwrap();
                    changed.write_all_at(place, &[byte[0] ^ bit]).unwrap();
                    let _ = exercise(&FORMAT, changed);
                }
            }
            for cut in (0..length.min(64 << 10)).step_by(512).flat_map(|cut| [cut, cut + 1]) {
                let changed = Arc::new(file.duplicate());
                changed.set_len_bytes(cut).unwrap();
                let _ = exercise(&FORMAT, changed);
            }
        }
    }
}
