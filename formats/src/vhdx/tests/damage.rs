//! Damaged, hostile and unusual files: an error or the right bytes.

use uuid::uuid;

use super::*;
use crate::testing::{FaultPlan, FaultyFile};

fn example() -> (ModelDisk, Arc<MemoryFile>) {
    let disk = ModelDisk::random(11, 9 * MIB + 512, 12, 100);
    let file = small_blocks(&disk);
    (disk, file)
}

#[test]
fn either_header_and_either_region_table_will_do() {
    let (disk, file) = example();
    for (host_offset, damaged) in
        HEADER_OFFSETS.into_iter().chain(REGION_TABLE_OFFSETS).zip(["first", "second"].iter().cycle())
    {
        for byte in [0, 4, 20, 70] {
            let copy = file.duplicate();
            let mut bytes = [0];
            copy.read_exact_at(host_offset + byte, &mut bytes).unwrap();
            copy.write_all_at(host_offset + byte, &[bytes[0] ^ 1]).unwrap();
            let copy = Arc::new(copy);
            assert_same(copy.clone(), &disk, byte);
            assert!(warnings(copy.clone())[0].contains(damaged));
            assert_eq!(check_file(copy).unwrap().corruptions, 1);
        }
    }
    for pair in [HEADER_OFFSETS, REGION_TABLE_OFFSETS] {
        let copy = Arc::new(file.duplicate());
        pair.into_iter().for_each(|host_offset| copy.write_all_at(host_offset + 30, &[0xee]).unwrap());
        assert_eq!(open_error(copy), ErrorKind::Corrupt);
    }
}

#[test]
fn the_header_with_the_greater_number_counts() {
    let (_, file) = example();
    change_header(&file, 0, |header| {
        header.sequence_number.set(9);
        header.data_write_guid = uuid!("00112233-4455-6677-8899-aabbccddeeff").into();
    });
    let image = (FORMAT.open)(open_file(file.clone())).unwrap();
    assert_eq!(image.info().identity.as_deref(), Some("{00112233-4455-6677-8899-aabbccddeeff}"));
    change_header(&file, 1, |header| header.sequence_number.set(9));
    assert_eq!(open_error(file.clone()), ErrorKind::Corrupt, "one number, two contents");
    let mut copy = [0; HEADER_BYTES];
    file.read_exact_at(HEADER_OFFSETS[0], &mut copy).unwrap();
    file.write_all_at(HEADER_OFFSETS[1], &copy).unwrap();
    assert!(open_disk(file, None).is_ok(), "one number, one content");
}

#[test]
fn other_versions_are_unsupported() {
    let (_, file) = example();
    change_header(&file, 1, |header| header.log_version.set(1));
    assert!(open_disk(file.clone(), None).is_ok(), "no log, so its version does not matter");
    change_header(&file, 1, |header| header.version.set(2));
    assert_eq!(open_error(file), ErrorKind::Unsupported);
}

#[test]
fn what_must_be_understood_and_is_not_is_refused() {
    let unknown = uuid!("12345678-1234-1234-1234-123456789abc");
    let region = |flags: u32| RegionEntry {
        guid: unknown.into(),
        host_offset: (BAT_OFFSET + MIB).into(),
        length_bytes: (MIB as u32).into(),
        flags: flags.into(),
    };
    let with_region = |flags| {
        let (disk, file) = example();
        // Its place is taken from the first block, which is therefore declared absent.
        (0..9).for_each(|block| set_bat(&file, block, 0));
        (0..2).for_each(|number| change_regions(&file, number, |entries| entries.push(region(flags))));
        (disk, file)
    };
    assert_eq!(open_error(with_region(REGION_REQUIRED).1), ErrorKind::Unsupported);
    let file = with_region(0).1;
    assert!(open_disk(file.clone(), None).is_ok());
    set_bat(&file, 0, (BAT_OFFSET + MIB) | FULLY_PRESENT);
    let error = open_disk(file, None).unwrap().extent_at(0, 1).unwrap_err();
    assert!(error.to_string().contains("a region that is not known"), "{error}");
    for (flags, refused) in [(ITEM_IS_REQUIRED, true), (ITEM_IS_REQUIRED | ITEM_IS_USER, true), (ITEM_IS_USER, false)] {
        let (_, file) = example();
        add_item(&file, unknown, flags, b"what is this");
        assert_eq!(open_disk(file, None).err().map(|error| error.kind()), refused.then_some(ErrorKind::Unsupported));
    }
}

#[test]
fn regions_lie_apart_and_inside_the_file() {
    type Change = fn(&mut Vec<RegionEntry>);
    let changes: [(Change, ErrorKind); 8] = [
        (|entries| entries[0].host_offset.set(METADATA_OFFSET), ErrorKind::Corrupt),
        (|entries| entries[0].host_offset.set(MIB), ErrorKind::Corrupt),
        (|entries| entries[0].host_offset.set(0), ErrorKind::Corrupt),
        (|entries| entries[0].host_offset.set(BAT_OFFSET + 4096), ErrorKind::Corrupt),
        (|entries| entries[0].host_offset.set(1 << 40), ErrorKind::Truncated),
        (|entries| entries[0].host_offset.set(u64::MAX - MIB + 1), ErrorKind::Corrupt),
        (|entries| entries[0].length_bytes.set(0), ErrorKind::Corrupt),
        (|entries| entries.truncate(1), ErrorKind::Corrupt),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let (_, file) = example();
        (0..2).for_each(|table| change_regions(&file, table, change));
        assert_eq!(open_error(file), expected, "change {number}");
    }
    let (_, file) = example();
    change_regions(&file, 0, |entries| entries[0].host_offset.set(BAT_OFFSET + MIB));
    assert_eq!(open_error(file), ErrorKind::Corrupt, "two valid tables that differ");
}

#[test]
fn impossible_entries_are_errors_of_their_own_block_only() {
    let (disk, file) = example();
    let present = bat(&file, 0) & OFFSET_MASK;
    let end = file.len_bytes().unwrap();
    let bad = [
        4,
        PARTIALLY_PRESENT | present,
        FULLY_PRESENT,
        FULLY_PRESENT | BAT_OFFSET,
        FULLY_PRESENT | MIB,
        FULLY_PRESENT | METADATA_OFFSET,
        FULLY_PRESENT | end,
        FULLY_PRESENT | (1 << 62),
        FULLY_PRESENT | OFFSET_MASK,
    ];
    for raw in bad {
        let copy = Arc::new(file.duplicate());
        set_bat(&copy, 3, raw);
        let image = open_disk(copy.clone(), None).unwrap();
        let error = image.extent_at(3 * MIB + 700, 9).unwrap_err();
        assert_eq!((error.kind(), error.guest_offset()), (ErrorKind::Corrupt, Some(3 * MIB + 700)), "{raw:#x}");
        assert!(image.read_at(3 * MIB, &mut [0; 512]).is_err());
        let (mut found, mut expected) = (vec![0; 3 << 20], vec![0; 3 << 20]);
        image.read_at(0, &mut found).unwrap();
        disk.read_at(0, &mut expected).unwrap();
        assert!(found == expected, "the blocks before it");
        assert_eq!(check_file(copy).unwrap().corruptions, 1, "{raw:#x}");
    }
}

#[test]
fn states_without_data_read_as_zeros() {
    let (_, file) = example();
    let kept = bat(&file, 2) & OFFSET_MASK;
    for state in [NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, UNMAPPED_0_95] {
        set_bat(&file, 2, state | kept);
        let image = open_disk(file.clone(), None).unwrap();
        let extent = image.extent_at(2 * MIB, MIB).unwrap();
        assert!(extent.kind.reads_as_zeros() && extent.length_bytes == MIB, "{state}");
        let report = check_file(file.clone()).unwrap();
        let is_kept = !matches!(state, NOT_PRESENT | ZERO);
        assert_eq!((report.corruptions, report.leaks), (0, u64::from(!is_kept && kept != 0)), "{state}");
    }
}

#[test]
fn the_check_finds_overlaps_leaks_and_reserved_bits() {
    let mut disk = ModelDisk::new(64 * MIB);
    (0..8).for_each(|block| disk.write(block * 256, block + 1));
    let file = small_blocks(&disk);
    set_bat(&file, 1, bat(&file, 0) | 1 << 10);
    set_bat(&file, 20, FULLY_PRESENT | (BAT_OFFSET + 3 * MIB));
    set_bat(&file, 21, ZERO);
    add_item(&file, uuid!("12345678-1234-1234-1234-123456789abc"), 0, b"apart");
    let report = check_file(file.clone()).unwrap();
    let texts: Vec<_> = report.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert_eq!((report.corruptions, report.leaks), (3, 1), "{texts:?}");
    assert_eq!(
        report.findings.last().unwrap().host_offset,
        Some(BAT_OFFSET + 2 * MIB),
        "the block that lost its entry"
    );
    // The flags of the file parameters, and an item that lies in another one.
    file.write_all_at(METADATA_OFFSET + 32 + 24, &[0]).unwrap();
    file.write_all_at(METADATA_OFFSET + 64 + 16, &(METADATA_TABLE_BYTES as u32 + 4).to_le_bytes()).unwrap();
    write_u64(&file, METADATA_OFFSET + METADATA_TABLE_BYTES + 4, 64 * MIB);
    assert_eq!(check_file(file).unwrap().corruptions, 5);
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_the_same_disk() {
    let (disk, file) = example();
    let end = file.len_bytes().unwrap();
    let expected = digest(&disk).unwrap();
    let structures = [0, 7, 8, 519, 520, 65535, 65536, 69632, 131072, 196608, 262144, 327680];
    for cut in structures.into_iter().chain((1..=end / MIB).flat_map(|mib| [mib * MIB - 1, mib * MIB])) {
        let copy = Arc::new(file.duplicate());
        copy.set_len_bytes(cut).unwrap();
        let found = open_disk(copy, Some(&FORMAT)).and_then(|image| digest(&image));
        match found {
            Ok(found) => assert_eq!(found, expected, "cut at {cut:#x}"),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::NotThisFormat | ErrorKind::Truncated | ErrorKind::Corrupt),
                "cut at {cut:#x}: {error}"
            ),
        }
    }
}

#[test]
fn the_last_block_need_not_go_further_than_the_disk() {
    let mut disk = ModelDisk::new(2 * MIB + 4096);
    (0..513).for_each(|block| disk.write(block, block + 1));
    let file = small_blocks(&disk);
    file.set_len_bytes(BAT_OFFSET + 3 * MIB + 4096).unwrap();
    assert_same(file.clone(), &disk, 1);
    file.set_len_bytes(BAT_OFFSET + 3 * MIB + 4095).unwrap();
    let error = open_disk(file, None).unwrap().extent_at(2 * MIB, 1).unwrap_err();
    assert!(error.to_string().contains("past the end of the file"), "{error}");
}

#[test]
fn flipped_metadata_is_an_error_or_changes_what_nothing_protects() {
    let (disk, file) = example();
    let expected = digest(&disk).unwrap();
    // Block size and flags, and the disk's size, have no checksum; the identifier is not the guest's data.
    let unprotected = [0..8, 8..16];
    for byte in (0..192).chain(METADATA_TABLE_BYTES..METADATA_TABLE_BYTES + 40) {
        for bit in [byte % 8, (byte + 3) % 8] {
            let copy = file.duplicate();
            let mut bytes = [0];
            copy.read_exact_at(METADATA_OFFSET + byte, &mut bytes).unwrap();
            copy.write_all_at(METADATA_OFFSET + byte, &[bytes[0] ^ 1 << bit]).unwrap();
            let Ok(image) = open_disk(Arc::new(copy), Some(&FORMAT)) else { continue };
            let item = byte.checked_sub(METADATA_TABLE_BYTES);
            if item.is_some_and(|item| unprotected.iter().any(|range| range.contains(&item))) {
                continue;
            }
            if image.geometry() == disk.geometry() {
                assert_eq!(digest(&image).unwrap(), expected, "bit {bit} of byte {byte:#x}");
            }
        }
    }
}

#[test]
fn a_failing_host_file_is_an_error() {
    let disk = ModelDisk::random(2, 2 * MIB, 3, 10);
    let file = small_blocks(&disk);
    let attempt = |plan: FaultPlan| {
        open_disk(Arc::new(FaultyFile::new(file.duplicate(), plan)), Some(&FORMAT)).and_then(|image| digest(&image))
    };
    let plan = FaultPlan::never();
    assert_eq!(attempt(plan.clone()).unwrap(), digest(&disk).unwrap());
    for n in 0..plan.calls() {
        assert_eq!(attempt(FaultPlan::fail_from(n)).unwrap_err().kind(), ErrorKind::Io, "call {n}");
    }
}
