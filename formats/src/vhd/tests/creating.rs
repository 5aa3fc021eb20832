//! What is created reads back, is clean, and is as other programs want it.

use super::super::create::geometry_of;
use super::*;
use crate::reference_gate::NoReferences;
use crate::sink::{IdentitySeed, SingleFile};
use crate::source::Geometry;
use crate::testing::{CountingFile, read_all};

const GIB: u64 = 1 << 30;

#[test]
fn what_is_created_reads_back_and_is_clean() {
    let sizes = [0, 512, 4096 * 3, 2 * MIB, 10 * MIB + 512, 700 * MIB, 5 * GIB + 512];
    for (seed, size_bytes) in (1..).zip(sizes) {
        for (block_size, runs) in [("512k", 30), ("2M", 20), ("16M", 6)] {
            let disk = ModelDisk::random(seed, size_bytes, runs, 300);
            let file = image_of(&disk, "dynamic", &[("block_size", block_size)]);
            assert_same(file.clone(), &disk, seed);
            let report = check_file(file.clone()).unwrap();
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.host_end_offset, file.len_bytes().unwrap());
            assert!(file.stored_bytes() <= disk.data_bytes() + 300_000, "{size_bytes} {block_size}");
            assert_eq!(warnings(file.clone()), Vec::<String>::new());
            assert_eq!(footer_at(&file, 0), footer_at(&file, footer_offset(&file)));
        }
    }
}

#[test]
fn blocks_begin_at_whole_pages_behind_a_bitmap_of_ones() {
    for (block_size, bitmap_bytes) in [("512k", 512), ("2M", 512), ("4M", 1024), ("16M", 4096)] {
        let disk = ModelDisk::random(3, 40 * MIB, 10, 200);
        let file = image_of(&disk, "dynamic", &[("block_size", block_size)]);
        let blocks = (40 * MIB).div_ceil(crate::sink::parse_size(block_size).unwrap());
        for entry in (0..blocks).map(|block| bat(&file, block)).filter(|entry| *entry != UNUSED_ENTRY) {
            let begin = u64::from(entry) * SECTOR_BYTES;
            assert!((begin + bitmap_bytes).is_multiple_of(4096), "{begin:#x}");
            let mut bitmap = vec![0; bitmap_bytes as usize];
            file.read_exact_at(begin, &mut bitmap).unwrap();
            let bits = bitmap.iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert_eq!(u64::from(bits), crate::sink::parse_size(block_size).unwrap() / 512);
        }
    }
}

#[test]
fn a_fixed_disk_is_the_disk_and_a_footer() {
    for size_bytes in [512, 3 * MIB, 3 * MIB + 512 * 7] {
        let disk = ModelDisk::random(size_bytes, size_bytes, 10, 100);
        let file = image_of(&disk, "fixed", &[]);
        assert_eq!(file.len_bytes().unwrap(), size_bytes + 512);
        assert!(file.to_bytes().starts_with(&read_all(&disk).unwrap()));
        assert_same(file.clone(), &disk, 3);
        assert_eq!(probed(&file), "vhd");
        let layer = (FORMAT.open)(open_file(file.clone())).unwrap().layer(None, &NoReferences).unwrap();
        assert_eq!(layer.extent_at(0, u64::MAX).unwrap().length_bytes, size_bytes, "one extent");
        assert!(check_file(file).unwrap().is_clean());
    }
}

/// Readers that take the size from the geometry and readers that take it from the field must not differ.
#[test]
fn the_size_is_exact_by_a_creator_whose_size_field_counts() {
    for subformat in ["dynamic", "fixed"] {
        let file = image_of(&ModelDisk::new(65 * MIB + 512), subformat, &[]);
        let footer = footer_at(&file, footer_offset(&file));
        assert_eq!((&footer.creator, footer.current_bytes.get()), (b"win ", 65 * MIB + 512));
        assert_eq!(footer.original_bytes, footer.current_bytes);
    }
}

/// Geometries that Windows wrote, and the edges of the calculation.
#[test]
fn geometries_are_those_of_windows() {
    let expected = [
        (10 * MIB / 512, (301, 4, 17)),
        (512 * MIB / 512, (1040, 16, 63)),
        (2 * GIB / 512, (4161, 16, 63)),
        (0, (0, 4, 17)),
        (1, (0, 4, 17)),
        (17 * 4 * 1024 - 1, (1023, 4, 17)),
        (17 * 5 * 1024 - 1, (1023, 5, 17)),
        (17 * 16 * 1024, (561, 16, 31)),
        (31 * 16 * 1024, (503, 16, 63)),
        (65535 * 16 * 63 - 1, (65534, 16, 63)),
        (65535 * 16 * 63, (16191, 16, 255)),
        (MAX_GEOMETRY_SECTORS, (65535, 16, 255)),
        (u64::MAX, (65535, 16, 255)),
    ];
    for (sectors, geometry) in expected {
        assert_eq!(geometry_of(sectors), geometry, "{sectors}");
    }
}

#[test]
fn the_largest_disk_without_data_is_its_table() {
    let file = Arc::new(MemoryFile::new());
    let options = options(&ModelDisk::new(MAX_DISK_BYTES), "dynamic", &[]);
    FORMAT.begin(&SingleFile(file.clone()), &options).unwrap().finish(&IdentitySeed([0; 32])).unwrap();
    assert!(file.stored_bytes() < (4 << 20) + 100_000);
    let counting = Arc::new(CountingFile::new(file.duplicate()));
    let opened = (FORMAT.open)(open_file(counting.clone())).unwrap();
    assert!(counting.read_bytes() < 10_000, "opening reads {} bytes", counting.read_bytes());
    drop(opened);
    let image = open_disk(counting.clone(), None).unwrap();
    let before = counting.reads();
    assert_eq!(image.extent_at(0, u64::MAX).unwrap().length_bytes, MAX_DISK_BYTES);
    assert_eq!(counting.reads(), before);
}

#[test]
fn what_cannot_be_had_exactly_is_refused() {
    let begin = |size_bytes: u64, subformat: &str, own: &[(&str, &str)]| {
        let options = options(&ModelDisk::new(size_bytes), subformat, own);
        FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options).err()
    };
    let refused = |size_bytes, subformat, own: &[(&str, &str)], words: &str| {
        let error = begin(size_bytes, subformat, own).expect(words);
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains(words), "{error}");
    };
    assert!(begin(MAX_DISK_BYTES, "dynamic", &[]).is_none());
    refused(MAX_DISK_BYTES + 512, "dynamic", &[], "2040 GiB");
    refused(MAX_DISK_BYTES + 512, "fixed", &[], "2040 GiB");
    refused(MAX_DISK_BYTES, "dynamic", &[("block_size", "512k")], "a larger block_size");
    assert!(begin(2000 << 30, "dynamic", &[("block_size", "512k")]).is_none());
    refused(4096 + 100, "dynamic", &[], "no whole number of sectors");
    for bad in ["256k", "3M", "32M", "big"] {
        refused(4096, "dynamic", &[("block_size", bad)], "option block_size");
    }
    refused(4096, "fixed", &[("block_size", "2M")], "a fixed VHD has no blocks");
    let mut options = CreateOptions::new(Geometry::of_512_byte_sectors(4096, 512));
    options.target_holds_old_data = true;
    assert!(FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options).is_err());
}

#[test]
fn the_measure_is_the_size() {
    let mut disk = ModelDisk::new(100 * MIB);
    (0..1000).for_each(|block| disk.write(block, block + 1));
    for subformat in ["dynamic", "fixed"] {
        let options = options(&disk, subformat, &[]);
        let measure = FORMAT.measure(&options, &|_| Ok(disk.data_bytes())).unwrap();
        let file = create_image(&FORMAT, &options, &disk, None).unwrap();
        assert_eq!(measure.required_bytes, file.len_bytes().unwrap(), "{subformat}");
        assert!(measure.fully_allocated_bytes >= 100 * MIB + 512);
    }
}
