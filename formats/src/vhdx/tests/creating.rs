//! What is created reads back, is clean, and is created economically and safely.

use super::*;
use crate::reference_gate::NoReferences;
use crate::sink::{GuestUnit, IdentitySeed, InTurn, RunKind, SingleFile, UnitContent, UnitRun};
use crate::source::Geometry;
use crate::testing::{CountingFile, CrashFile, FaultPlan, FaultyFile, Random, store_disk};

const GIB: u64 = 1 << 30;

#[test]
fn what_is_created_reads_back_and_is_clean() {
    let sizes = [512, 4096 * 3, MIB, 10 * MIB + 512, 700 * MIB, 5 * GIB];
    for (seed, size_bytes) in (1..).zip(sizes) {
        for (block_size, runs) in [("1M", 30), ("32M", 6), ("256M", 2)] {
            let disk = ModelDisk::random(seed, size_bytes, runs, 300);
            let file = image_of(&disk, "dynamic", &[("block_size", block_size)]);
            assert_same(file.clone(), &disk, seed);
            let report = check_file(file.clone()).unwrap();
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.host_end_offset, file.len_bytes().unwrap());
            assert!(file.len_bytes().unwrap().is_multiple_of(MIB));
            assert!(file.stored_bytes() <= disk.data_bytes() + 600_000, "{size_bytes} {block_size}");
            assert_eq!(warnings(file), Vec::<String>::new());
        }
    }
}

#[test]
fn fixed_disks_have_every_block_at_its_place() {
    for size_bytes in [512, 33 * MIB, 4 * GIB + 3 * MIB] {
        let mut disk = ModelDisk::random(size_bytes, size_bytes, 10, 100);
        (0..size_bytes / MIB).for_each(|block| disk.write(block * 256 + block % 256, block + 1));
        let file = image_of(&disk, "fixed", &[("block_size", "1M")]);
        check_disk(&open_disk(file.clone(), None).unwrap(), 3).unwrap();
        let report = check_file(file.clone()).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.allocated_bytes, report.host_end_offset), (size_bytes, file.len_bytes().unwrap()));
        let image = open_disk(file.clone(), None).unwrap();
        let layer = (FORMAT.open)(open_file(file)).unwrap().layer(None, &NoReferences).unwrap();
        assert_eq!(layer.extent_at(0, u64::MAX).unwrap().length_bytes, size_bytes, "one extent");
        let mut random = Random(size_bytes);
        for _ in 0..500 {
            let offset = random.below(size_bytes);
            let (mut found, mut expected) = (vec![0; (size_bytes - offset).min(200_000) as usize], Vec::new());
            image.read_at(offset, &mut found).unwrap();
            expected.resize(found.len(), 1);
            disk.read_at(offset, &mut expected).unwrap();
            assert!(found == expected, "at {offset:#x}");
        }
    }
}

#[test]
fn large_sectors_have_larger_chunks() {
    // A chunk is 32 GiB: this disk has data on both sides of its end.
    let mut disk = ModelDisk::random(9, 33 * GIB, 50, 100).with_sectors(4096, 4096);
    for block in 0..16 {
        disk.write((32 * GIB - 32768) / 4096 + block, block + 1);
    }
    let file = small_blocks(&disk);
    assert_same(file.clone(), &disk, 4);
    assert_eq!(open_disk(file, None).unwrap().geometry().logical_sector_bytes, 4096);
}

#[test]
fn a_disk_without_data_takes_no_memory_and_is_walked_in_one_step() {
    let file = Arc::new(MemoryFile::new());
    let options = options(&ModelDisk::new(64 << 40), "dynamic", &[("block_size", "1M")]);
    FORMAT.begin(&SingleFile(file.clone()), &options).unwrap().finish(&IdentitySeed([0; 32])).unwrap();
    assert!(file.stored_bytes() < 200_000);
    let counting = Arc::new(CountingFile::new(file.duplicate()));
    let image = open_disk(counting.clone(), None).unwrap();
    assert!(counting.read_bytes() < 200_000, "opening reads {} bytes", counting.read_bytes());
    let before = counting.reads();
    assert_eq!(image.extent_at(0, u64::MAX).unwrap().length_bytes, 64 << 40);
    assert_eq!(counting.reads(), before + 1);
}

#[test]
fn what_cannot_be_had_exactly_is_refused() {
    let kind = |geometry: Geometry, own: &[(&str, &str)]| {
        let mut options = CreateOptions::new(geometry);
        options.options = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options).err().map(|error| error.kind())
    };
    let sectors = |size_bytes| Geometry::of_512_byte_sectors(size_bytes, 512);
    let invalid = Some(ErrorKind::InvalidOption);
    assert_eq!(kind(sectors(0), &[]), None);
    assert_eq!(kind(sectors((64 << 40) + 512), &[]), invalid);
    assert_eq!(kind(sectors(512), &[("logical_sector", "4096")]), invalid);
    assert_eq!(kind(sectors(4096), &[("logical_sector", "1024")]), invalid);
    for bad in ["512k", "3M", "512M", "big"] {
        assert_eq!(kind(sectors(4096), &[("block_size", bad)]), invalid, "{bad}");
    }
    assert_eq!(kind(Geometry { logical_sector_bytes: 2048, ..sectors(4096) }, &[]), invalid);
    assert_eq!(kind(Geometry { logical_sector_bytes: 2048, ..sectors(4096) }, &[("logical_sector", "512")]), None);
    let mut options = CreateOptions::new(sectors(4096));
    options.target_holds_old_data = true;
    assert!(FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options).is_err());
}

#[test]
fn the_measure_is_the_size() {
    let mut disk = ModelDisk::new(100 * MIB);
    (0..1000).for_each(|block| disk.write(block, block + 1));
    for subformat in ["dynamic", "fixed"] {
        let options = options(&disk, subformat, &[("block_size", "4M")]);
        let measure = FORMAT.measure(&options, &|_| Ok(disk.data_bytes())).unwrap();
        let file = create_image(&FORMAT, &options, &disk, None).unwrap();
        assert_eq!(measure.required_bytes, file.len_bytes().unwrap(), "{subformat}");
        assert_eq!(measure.fully_allocated_bytes, (4 + 100) * MIB);
    }
}

#[test]
fn a_run_over_several_new_blocks_is_one_write() {
    let bytes = vec![7; 6 << 20];
    let file = Arc::new(CountingFile::new(MemoryFile::new()));
    let disk = ModelDisk::new(64 * MIB);
    let writer = FORMAT.begin(&SingleFile(file.clone()), &options(&disk, "dynamic", &[("block_size", "1M")])).unwrap();
    let runs = [
        UnitRun { offset: 0, length_bytes: 4096, kind: RunKind::Zero },
        UnitRun { offset: 4096, length_bytes: (5 << 20) - 4096, kind: RunKind::Data },
        UnitRun { offset: 5 << 20, length_bytes: 1 << 20, kind: RunKind::Zero },
    ];
    let unit =
        GuestUnit { guest_offset: MIB / 2, length_bytes: 6 << 20, content: UnitContent::Bytes(&bytes), runs: &runs };
    writer.store(&unit, &InTurn).unwrap();
    assert_eq!((file.writes(), file.written_bytes()), (1, (5 << 20) - 4096));
    writer.finish(&IdentitySeed([0; 32])).unwrap();
    assert_eq!(check_file(file).unwrap().allocated_bytes, 6 << 20);
}

#[test]
fn a_power_cut_leaves_the_whole_image_or_none() {
    let disk = ModelDisk::random(5, 20 * MIB, 10, 50);
    for subformat in ["dynamic", "fixed"] {
        let file = Arc::new(CrashFile::new());
        store_disk(&FORMAT, &options(&disk, subformat, &[("block_size", "1M")]), &disk, None, file.clone()).unwrap();
        assert_eq!(file.syncs(), 2);
        for sync in 0..=file.syncs() {
            for seed in 0..40 {
                match open_disk(Arc::new(file.after_power_cut(sync, seed)), Some(&FORMAT)) {
                    Ok(image) => assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap()),
                    Err(_) => assert!(sync < file.syncs(), "after the last sync"),
                }
            }
        }
    }
}

#[test]
fn every_failed_call_is_an_error() {
    let disk = ModelDisk::random(6, 20 * MIB, 10, 50);
    let options = options(&disk, "dynamic", &[("block_size", "1M")]);
    let attempt = |plan: FaultPlan| {
        store_disk(&FORMAT, &options, &disk, None, Arc::new(FaultyFile::new(MemoryFile::new(), plan)))
    };
    let plan = FaultPlan::never();
    attempt(plan.clone()).unwrap();
    for n in 0..plan.calls() {
        assert_eq!(attempt(FaultPlan::fail_from(n)).unwrap_err().kind(), ErrorKind::Io, "call {n}");
    }
}
