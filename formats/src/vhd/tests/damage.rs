//! Damaged tables are errors where they matter, and findings of the check; other software's habits are neither.

use super::*;
use crate::limits::MAX_CHECK_FINDINGS;

#[test]
fn impossible_headers_are_refused() {
    let refused = |change: &dyn Fn(&mut DynamicHeader)| {
        let (_, file) = example();
        change_header(&file, change);
        open_error(file).kind()
    };
    assert_eq!(refused(&|header| header.cookie[3] = b'S'), ErrorKind::Corrupt);
    assert_eq!(refused(&|header| header.version.set(0x0002_0000)), ErrorKind::Unsupported);
    for block_bytes in [0, 1, 256, 3 << 10, u32::MAX] {
        assert_eq!(refused(&|header| header.block_bytes.set(block_bytes)), ErrorKind::Corrupt, "{block_bytes}");
    }
    assert_eq!(refused(&|header| header.max_bat_entries.set(8)), ErrorKind::Corrupt, "nine are needed");
    for bat_offset in [0, 511, 1 << 40, u64::MAX, u64::MAX - 35] {
        assert_eq!(refused(&|header| header.bat_offset.set(bat_offset)), ErrorKind::Corrupt, "{bat_offset:#x}");
    }
    let (_, file) = example();
    flip(&file, HEADER_OFFSET + 800);
    assert!(open_error(file).to_string().contains("its checksum is"));
    // A table that would be larger than memory.
    let (_, file) = example();
    change_footers(&file, &|footer| footer.current_bytes.set(1 << 40));
    change_header(&file, |header| {
        header.max_bat_entries.set(u32::MAX);
        header.block_bytes.set(512);
    });
    assert_eq!(open_error(file).kind(), ErrorKind::LimitExceeded);
}

#[test]
fn entries_that_point_nowhere_fail_their_block_only() {
    let mut disk = ModelDisk::new(4 * MIB);
    (0..8).for_each(|block| disk.write(block * 128, block + 1));
    let end_sector = (footer_offset(&small_blocks(&disk)) / 512) as u32;
    for (entry, words) in [
        (0, "where the copy of the footer is"),
        (2, "where the dynamic header is"),
        (3, "where the BAT is"),
        (end_sector, "past the end of the file"),
        (end_sector - 1024, "past the end of the file"),
        (0xffff_fffe, "past the end of the file"),
    ] {
        let file = small_blocks(&disk);
        set_bat(&file, 3, entry);
        let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
        let error = image.extent_at(3 * BLOCK_BYTES + 5, 1).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(words), "{error}");
        assert_eq!(error.host_offset(), Some(BAT_OFFSET + 12));
        image.read_at(0, &mut vec![0; 3 << 19]).unwrap();
        image.read_at(4 * BLOCK_BYTES, &mut vec![0; 4 << 19]).unwrap();
        assert_eq!(check_file(file).unwrap().corruptions, 1);
    }
}

/// From two blocks at one place, at most one can be right, and nobody knows which.
#[test]
fn blocks_that_share_bytes_cannot_be_read() {
    let mut disk = ModelDisk::new(4 * MIB);
    (0..8).for_each(|block| disk.write(block * 128, block + 1));
    for shift in [0i64, 1, -1, 7, -7] {
        let file = small_blocks(&disk);
        set_bat(&file, 6, (i64::from(bat(&file, 2)) + shift) as u32);
        let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
        // There is a gap of seven sectors before each bitmap: no other block is touched.
        for block in 0..8 {
            let found = image.read_at(block * BLOCK_BYTES, &mut [0; 512]);
            assert_eq!(found.is_ok(), !matches!(block, 2 | 6), "{shift}: block {block}");
        }
        assert_eq!(check_file(file).unwrap().corruptions, 2, "{shift}");
    }
}

/// A small file that is a huge disk of one block.
#[test]
fn a_table_of_one_entry_is_no_disk() {
    let file = small_blocks(&{
        let mut disk = ModelDisk::new(1 << 40);
        disk.write(0, 1);
        disk
    });
    let entry = bat(&file, 0).to_be_bytes();
    file.write_all_at(BAT_OFFSET, &entry.repeat(1 << 21)).unwrap();
    let began = std::time::Instant::now();
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    assert!(image.read_at(0, &mut [0]).is_err() && image.read_at((1 << 40) - 1, &mut [0]).is_err());
    let report = check_file(file).unwrap();
    assert_eq!((report.corruptions, report.findings.len()), (1 << 21, MAX_CHECK_FINDINGS));
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

/// Disk2vhd makes tables with more entries than the disk needs, and leaves zeros in the rest.
#[test]
fn entries_past_the_end_of_the_disk_are_not_looked_at() {
    let (disk, file) = example();
    change_header(&file, |header| header.max_bat_entries.set(64));
    file.write_all_at(BAT_OFFSET + 9 * 4, &[0; 55 * 4]).unwrap();
    assert_same(file.clone(), &disk, 3);
    assert!(check_file(file).unwrap().is_clean());
}

/// A disk with a whole block of data, whose bitmap says that the second half was never written.
fn half_written(creator: [u8; 4]) -> (Vec<u8>, Arc<MemoryFile>) {
    let mut disk = ModelDisk::new(2 * MIB);
    (0..128).for_each(|block| disk.write(block, block + 1));
    let file = small_blocks(&disk);
    change_footers(&file, &|footer| footer.creator = creator);
    file.write_all_at(u64::from(bat(&file, 0)) * 512 + 64, &[0; 64]).unwrap();
    (crate::testing::read_all(&disk).unwrap(), file)
}

#[test]
fn bitmaps_of_dynamic_disks_count_for_xenserver_only() {
    let (mut expected, file) = half_written(*b"win ");
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    assert!(crate::testing::read_all(&image).unwrap() == expected);
    let report = check_file(file).unwrap();
    assert!(report.corruptions == 1 && report.findings[0].text.contains("512 sectors"), "{report:?}");

    let (_, file) = half_written(*b"tap\0");
    expected[256 << 10..512 << 10].fill(0);
    let image = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    check_disk(&image, 4).unwrap();
    assert!(crate::testing::read_all(&image).unwrap() == expected);
    assert!(check_file(file).unwrap().is_clean());
}

#[test]
fn space_for_a_block_that_nothing_uses_is_a_leak() {
    let mut disk = ModelDisk::new(4 * MIB);
    (0..8).for_each(|block| disk.write(block * 128, block + 1));
    let file = small_blocks(&disk);
    let lost = u64::from(bat(&file, 2)) * 512;
    set_bat(&file, 2, UNUSED_ENTRY);
    let report = check_file(file).unwrap();
    assert_eq!((report.corruptions, report.leaks, report.allocated_bytes), (0, 1, 7 * BLOCK_BYTES));
    let found = report.findings[0].host_offset.unwrap();
    assert!(lost - 4096 < found && found <= lost, "{found:#x} {lost:#x}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_the_same_disk() {
    for subformat in ["dynamic", "fixed"] {
        let disk = ModelDisk::random(7, 4 * MIB + 512, 8, 60);
        let file = image_of(&disk, subformat, &[]);
        let (end, expected) = (file.len_bytes().unwrap(), digest(&disk).unwrap());
        let edges = (0..4096).step_by(128).chain((0..end).step_by(64 << 10)).chain(end - 520..end);
        for cut in edges.flat_map(|edge| [edge, edge + 1]).filter(|cut| *cut < end) {
            let copy = Arc::new(file.duplicate());
            copy.set_len_bytes(cut).unwrap();
            if let Ok(found) = open_disk(copy, Some(&FORMAT)).and_then(|image| digest(&image)) {
                assert_eq!(found, expected, "{subformat} cut at {cut:#x}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_of_footers_and_header_is_an_error_or_harmless() {
    let (disk, file) = example();
    let (end, expected) = (footer_offset(&file), digest(&disk).unwrap());
    for place in (0..BAT_OFFSET).chain(end..end + 512) {
        let copy = Arc::new(file.duplicate());
        flip(&copy, place);
        match open_disk(copy, Some(&FORMAT)).and_then(|image| digest(&image)) {
            Ok(found) => assert_eq!(found, expected, "{place:#x}"),
            Err(error) => assert!((HEADER_OFFSET..BAT_OFFSET).contains(&place), "{place:#x}: {error}"),
        }
    }
}
