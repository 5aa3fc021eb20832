//! Every format passes the conformance suite and gives back the disk that it was made of, at least as sparse.

mod common;

use common::cases;
use proptest::prelude::*;
use tintype_formats::BlockSource;
use tintype_formats::testing::{ModelDisk, check_disk, digest, open_disk};

const SIZES: [u64; 8] =
    [0, 512, 4096, 65536 + 512, 1 << 20, (3 << 20) + 512 * 7, (33 << 20) + 4096, (9 << 30) + (1 << 20) + 512];

#[test]
fn images_give_back_the_disk() {
    for case in cases() {
        for (seed, size) in SIZES.into_iter().enumerate() {
            let size = size.next_multiple_of(case.sector_bytes());
            let disk = ModelDisk::random(seed as u64, size, 12, 400);
            let image = open_disk(case.create(&disk), Some(case.format))
                .unwrap_or_else(|error| panic!("{}: open {size} bytes: {error}", case.name));
            assert_eq!(image.geometry().size_bytes, size, "{}", case.name);
            check_disk(&image, seed as u64).unwrap_or_else(|error| panic!("{}: {size} bytes: {error}", case.name));
            assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{}: content of {size} bytes", case.name);
        }
    }
}

#[test]
fn images_are_found_by_probing() {
    for case in cases() {
        let file = case.create(&ModelDisk::random(1, 1 << 20, 3, 20));
        let found = tintype_formats::registry::probe(file.as_ref()).unwrap();
        assert_eq!(found.name, case.format.name, "{}", case.name);
    }
}

/// Data past 4 GiB and 32 GiB: where interleaved tables and 32-bit numbers go wrong.
#[test]
fn disks_past_forty_gibibytes_come_back() {
    for case in cases().iter().filter(|case| !case.is_preallocated()) {
        let mut disk = ModelDisk::new((40 << 30) + (1 << 20));
        for gib in [0u64, 1, 3, 4, 5, 31, 32, 33, 39, 40] {
            let block = (gib << 30) / 4096;
            [block, block + 1, block.saturating_sub(1)].into_iter().for_each(|block| disk.write(block, block | 1));
        }
        let image = open_disk(case.create(&disk), Some(case.format)).unwrap();
        assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{}", case.name);
        check_disk(&image, 5).unwrap();
    }
}

#[test]
fn the_largest_empty_disk_costs_next_to_nothing() {
    for case in cases().iter().filter(|case| !case.is_preallocated()) {
        let disk = ModelDisk::new(case.max_disk_bytes());
        let began = std::time::Instant::now();
        let file = case.create(&disk);
        // A VDI's block map cannot be a hole: 4 bytes for each MiB.
        assert!(file.stored_bytes() < 80 << 20, "{}: stores {} bytes", case.name, file.stored_bytes());
        let image = open_disk(file, Some(case.format)).unwrap();
        assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{}", case.name);
        assert!(began.elapsed().as_secs() < 10, "{}: takes {:?}", case.name, began.elapsed());
    }
}

#[test]
fn the_same_disk_gives_the_same_bytes() {
    for case in cases() {
        let disk = ModelDisk::random(9, 5 << 20, 20, 60);
        assert!(case.create(&disk).to_bytes() == case.create(&disk).to_bytes(), "{}", case.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Random writes on a model disk: equal bytes in every format, and stored no more than whole units of it.
    #[test]
    fn random_disks_come_back_as_sparse(
        sectors in 1u64..20_000,
        writes in prop::collection::vec((0u64..2500, 1u64..40, any::<u64>()), 0..12),
    ) {
        for case in cases() {
            let mut disk = ModelDisk::new((sectors * 512).next_multiple_of(case.sector_bytes()));
            for (first, length, seed) in &writes {
                (*first..first + length).for_each(|block| disk.write(block, seed.wrapping_mul(block | 1)));
            }
            let file = case.create(&disk);
            let stored = file.stored_bytes();
            let image = open_disk(file, Some(case.format)).unwrap();
            prop_assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{}", case.name);
            // What is stored besides the data: tables, which are a few units, and the rest of partly filled pages.
            // A partly compressed disk may waste a unit in places.
            let allowed = disk.data_bytes() + (1 << 20) + 64 * 1024;
            prop_assert!(stored <= allowed, "{}: {} bytes stored, {} of data", case.name, stored, disk.data_bytes());
        }
    }
}
