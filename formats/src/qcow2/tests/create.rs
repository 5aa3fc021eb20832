use super::*;
use crate::HostFileMut;
use crate::error::ErrorKind;
use crate::extent::{DiskExtent, DiskKind};
use crate::layer::Choice;
use crate::sink::{Compression, ParentLink, SingleFile, Turn};
use crate::source::BlockSource;
use crate::testing::{
    CrashFile, FaultPlan, FaultyFile, ModelDisk, Random, check_disk, create_image, digest, open_disk, read_all,
    store_disk,
};
use std::collections::BTreeSet;

fn options(size_bytes: u64, named: &[(&str, &str)], compression: Compression) -> CreateOptions {
    let mut options = CreateOptions::new(Geometry::of_512_byte_sectors(size_bytes, 1));
    options.options = named.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    options.compression = compression;
    options
}

/// Every shape, with the compressions that it can have.
fn variants() -> Vec<(Vec<(&'static str, &'static str)>, Compression)> {
    let shapes: [&[(&str, &str)]; 7] = [
        &[],
        &[("cluster_size", "512")],
        &[("cluster_size", "4k"), ("compat", "0.10")],
        &[("cluster_size", "256k"), ("compat", "v3")],
        &[("compat", "v2")],
        &[("extended_l2", "on")],
        &[("extended_l2", "on"), ("cluster_size", "16k")],
    ];
    let compressions = [Compression::None, Compression::Zlib(6), Compression::Zstd(3)];
    let all = shapes.iter().flat_map(|shape| compressions.map(|compression| (shape.to_vec(), compression)));
    let old = |shape: &[(&str, &str)]| shape.iter().any(|(_, value)| matches!(*value, "0.10" | "v2"));
    all.filter(|(shape, compression)| !(old(shape) && matches!(compression, Compression::Zstd(_)))).collect()
}

#[test]
fn what_is_created_reads_the_same_and_checks_clean() {
    for (named, compression) in variants() {
        for (seed, size_bytes) in [(1, 0), (2, 512), (3, 3 << 20 | 512), (4, 5 << 20)] {
            let disk = ModelDisk::random(seed, size_bytes, 20, 60);
            let image = create_image(&FORMAT, &options(size_bytes, &named, compression), &disk, None).unwrap();
            let what = format!("{named:?} {compression:?} {size_bytes}");
            let opened = open_disk(image.clone(), None).unwrap();
            assert_eq!(digest(&opened).unwrap(), digest(&disk).unwrap(), "{what}");
            check_disk(&opened, seed).unwrap();
            let report = check(image.clone());
            assert!(report.is_clean(), "{what}: {:?}", report.findings);
            assert_eq!(report.host_end_offset, image.len_bytes().unwrap(), "{what}");
        }
    }
}

#[test]
fn over_a_parent_only_the_difference_is_stored() {
    let base = ModelDisk::random(7, 6 << 20, 20, 60);
    let base_image = create_image(&FORMAT, &options(6 << 20, &[], Compression::None), &base, None).unwrap();
    for (named, compression) in variants() {
        for size_bytes in [2 << 20, 6 << 20, 9 << 20] {
            let mut child = base.clone().resized(size_bytes);
            let mut random = Random(size_bytes);
            for _ in 0..12 {
                let (first, zero) = (random.below(size_bytes >> 12), random.below(2) == 0);
                (first..first + 1 + random.below(30))
                    .for_each(|block| child.write(block, if zero { 0 } else { block | 1 }));
            }
            let mut options = options(size_bytes, &named, compression);
            let (name, format) = ("base.qcow2".to_owned(), "qcow2".to_owned());
            options.parent = Some(ParentLink { name, format, identity: None, size_bytes: 6 << 20 });
            let image = create_image(&FORMAT, &options, &child, Some(&base)).unwrap();
            let gate = Arc::new(OneFile(base_image.clone()));
            let opened = Disk::open(open_file(image.clone()), Some(&FORMAT), Choice::default(), gate).unwrap();
            assert_eq!(digest(&opened).unwrap(), digest(&child).unwrap(), "{named:?} {compression:?} {size_bytes}");
            assert!(check(image).is_clean());
        }
    }
}

#[test]
fn zeros_over_a_parent_are_one_explicit_run_up_to_its_end() {
    let mut options = options(1 << 30, &[], Compression::None);
    let (name, format) = ("a".to_owned(), "vhd".to_owned());
    options.parent = Some(ParentLink { name, format, identity: None, size_bytes: 512 << 20 });
    let file = Arc::new(MemoryFile::new());
    let writer = FORMAT.begin(&SingleFile(file.clone()), &options).unwrap();
    let runs = [UnitRun { offset: 0, length_bytes: 1 << 30, kind: RunKind::Zero }];
    let unit = GuestUnit { guest_offset: 0, length_bytes: 1 << 30, content: UnitContent::Nothing, runs: &runs };
    writer.store(&unit, &InTurn).unwrap();
    writer.finish(&IdentitySeed([0; 32])).unwrap();
    let image = (FORMAT.open)(open_file(file.clone())).unwrap();
    let parent = image.parent().unwrap();
    assert_eq!((parent.names[0].as_str(), parent.format.as_deref()), ("a", Some("vhd")));
    let layer = image.layer(None, &NoReferences).unwrap();
    let extent = layer.extent_at(0, u64::MAX).unwrap();
    assert_eq!((extent.length_bytes, extent.kind), (512 << 20, crate::extent::LayerKind::Zero));
    assert!(file.len_bytes().unwrap() < 1 << 20);
    assert!(check(file).is_clean());
}

#[test]
fn old_data_of_the_target_does_not_show() {
    for (named, compression) in variants() {
        let disk = ModelDisk::random(9, 3 << 20 | 512, 30, 10);
        let mut options = options(3 << 20 | 512, &named, compression);
        options.target_holds_old_data = true;
        let device = Arc::new(MemoryFile::from_bytes(&vec![0xee; 20 << 20]));
        store_disk(&FORMAT, &options, &disk, None, device.clone()).unwrap();
        let opened = open_disk(device, None).unwrap();
        assert_eq!(digest(&opened).unwrap(), digest(&disk).unwrap(), "{named:?} {compression:?}");
    }
}

#[test]
fn power_cuts_leave_no_image_or_all_of_it() {
    for compression in [Compression::None, Compression::Zlib(1)] {
        let disk = ModelDisk::random(11, 2 << 20, 10, 20);
        let expected = digest(&disk).unwrap();
        let file = Arc::new(CrashFile::new());
        store_disk(&FORMAT, &options(2 << 20, &[], compression), &disk, None, file.clone()).unwrap();
        assert_eq!(file.syncs(), 2);
        for (sync, seed) in (0..=2).flat_map(|sync| (0..10).map(move |seed| (sync, seed))) {
            let left: Arc<dyn HostFile> = Arc::new(file.after_power_cut(sync, seed));
            match open_disk(left, Some(&FORMAT)) {
                Ok(opened) => assert_eq!((sync > 0, digest(&opened).unwrap()), (true, expected), "{sync} {seed}"),
                Err(error) => assert!(sync < 2, "{sync} {seed}: {error}"),
            }
        }
    }
}

#[test]
fn every_failing_call_is_reported() {
    let disk = ModelDisk::random(12, 1 << 20, 10, 20);
    let options = options(1 << 20, &[("cluster_size", "4k")], Compression::Zlib(1));
    let count = FaultPlan::never();
    store_disk(&FORMAT, &options, &disk, None, Arc::new(FaultyFile::new(MemoryFile::new(), count.clone()))).unwrap();
    for call in 0..count.calls() {
        let file = Arc::new(FaultyFile::new(MemoryFile::new(), FaultPlan::fail_from(call)));
        let error = store_disk(&FORMAT, &options, &disk, None, file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "call {call}");
    }
}

/// Hands out the turns of a unit only when its turn has come.
struct Ordered<'a> {
    unit: usize,
    next: &'a (std::sync::Mutex<usize>, std::sync::Condvar),
}

impl Turn for Ordered<'_> {
    fn place(&self, place: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut next = self.next.1.wait_while(self.next.0.lock().unwrap(), |next| *next != self.unit).unwrap();
        let placed = place();
        *next += 1;
        self.next.1.notify_all();
        placed
    }

    fn write(&self, write: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        write()
    }
}

#[test]
fn any_number_of_threads_makes_the_same_file() {
    const UNIT: u64 = 256 << 10;
    let disk = ModelDisk::random(13, 64 * UNIT, 60, 100);
    let options = options(64 * UNIT, &[("cluster_size", "4k")], Compression::Zlib(1));
    let make = |threads: usize| {
        let file = Arc::new(MemoryFile::new());
        let writer = FORMAT.begin(&SingleFile(file.clone()), &options).unwrap();
        let next = (std::sync::Mutex::new(0), std::sync::Condvar::new());
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (writer, next, disk) = (&writer, &next, &disk);
                scope.spawn(move || {
                    for unit in (thread..64).step_by(threads) {
                        let (guest_offset, mut bytes) = (unit as u64 * UNIT, vec![0; UNIT as usize]);
                        disk.read_at(guest_offset, &mut bytes).unwrap();
                        let runs = [UnitRun { offset: 0, length_bytes: UNIT, kind: RunKind::Data }];
                        let content = UnitContent::Bytes(&bytes);
                        let unit_of = GuestUnit { guest_offset, length_bytes: UNIT, content, runs: &runs };
                        writer.store(&unit_of, &Ordered { unit, next }).unwrap();
                    }
                });
            }
        });
        writer.finish(&IdentitySeed([0; 32])).unwrap();
        assert!(check(file.clone()).is_clean());
        file.to_bytes()
    };
    let alone = make(1);
    assert!(alone == make(2) && alone == make(7));
}

#[test]
fn a_clone_of_a_gigabyte_is_placed_in_one_piece() {
    let source = MemoryFile::with_len(1 << 30);
    source.write_all_at(700 << 20, &[b"here", &[1; (1 << 20) - 4][..]].concat()).unwrap();
    let file = Arc::new(MemoryFile::new());
    let writer = FORMAT.begin(&SingleFile(file.clone()), &options(1 << 30, &[], Compression::None)).unwrap();
    let runs = [UnitRun { offset: 0, length_bytes: 1 << 20, kind: RunKind::Data }];
    let content = UnitContent::Host(&source, 700 << 20);
    writer.store(&GuestUnit { guest_offset: 0, length_bytes: 1 << 20, content, runs: &runs }, &InTurn).unwrap();
    writer.finish(&IdentitySeed([0; 32])).unwrap();
    let opened = open_disk(file, None).unwrap();
    let mut found = [0; 4];
    opened.read_at(0, &mut found).unwrap();
    assert_eq!(&found, b"here");
    assert!(
        matches!(opened.extent_at(0, 2 << 20).unwrap(), DiskExtent { length_bytes, kind: DiskKind::Data(_) } if length_bytes == 1 << 20)
    );
}

#[test]
fn options_that_cannot_be() {
    let kind = |size_bytes, named: &[(&str, &str)], compression| {
        let begun = FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options(size_bytes, named, compression));
        begun.map(|_| ()).unwrap_err()
    };
    for named in [
        ("compat", "v4"),
        ("cluster_size", "1000"),
        ("cluster_size", "4M"),
        ("cluster_size", "256"),
        ("extended_l2", "maybe"),
    ] {
        assert_eq!(kind(1 << 20, &[named], Compression::None).kind(), ErrorKind::InvalidOption, "{named:?}");
    }
    for named in [[("extended_l2", "on"), ("cluster_size", "8k")], [("extended_l2", "on"), ("compat", "v2")]] {
        assert_eq!(kind(1 << 20, &named, Compression::None).kind(), ErrorKind::InvalidOption, "{named:?}");
    }
    assert_eq!(kind(1 << 20, &[("compat", "v2")], Compression::Zstd(3)).kind(), ErrorKind::InvalidOption);
    let error = kind(200 << 30, &[("cluster_size", "512")], Compression::None);
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().ends_with("cluster_size=1024 fits"), "{error}");
    let mut long_name = options(1 << 20, &[("cluster_size", "512")], Compression::None);
    let (name, format) = ("n".repeat(500), "qcow2".to_owned());
    long_name.parent = Some(ParentLink { name, format, identity: None, size_bytes: 512 });
    let begun = FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &long_name);
    assert_eq!(begun.map(|_| ()).unwrap_err().kind(), ErrorKind::InvalidOption);
}

#[test]
fn measuring_a_full_disk_gives_the_size_of_the_file() {
    for named in [&[("cluster_size", "512")], &[("cluster_size", "64k")], &[("extended_l2", "on")]] {
        let options = options(10 << 20, named, Compression::None);
        let mut disk = ModelDisk::new(10 << 20);
        (0..2560).for_each(|block| disk.write(block, block | 1));
        let image = create_image(&FORMAT, &options, &disk, None).unwrap();
        let measured = FORMAT.measure(&options, &|_| Ok(10 << 20)).unwrap();
        assert_eq!(measured.required_bytes, measured.fully_allocated_bytes);
        assert_eq!(measured.required_bytes, image.len_bytes().unwrap(), "{named:?}");
        assert_eq!(read_all(&open_disk(image, None).unwrap()).unwrap().len(), 10 << 20);
    }
}

#[test]
fn what_is_measured_is_what_sparse_disks_become() {
    let spread: &[u64] = &[0, 1, 16, 600 << 8, 601 << 8, (9 << 18) - 1];
    for (size_bytes, blocks) in [(10 << 40, &[][..]), (9 << 30, spread), (5 << 20, &[1279]), (0, &[])] {
        for named in [&[][..], &[("cluster_size", "512")], &[("extended_l2", "on")], &[("compat", "0.10")]] {
            let options = options(size_bytes, named, Compression::None);
            let mut disk = ModelDisk::new(size_bytes);
            blocks.iter().for_each(|block| disk.write(*block, 7));
            let touched_bytes = |unit_bytes: u64| {
                let sectors = blocks.iter().flat_map(|block| (block * 8..(block + 1) * 8).map(|sector| sector * 512));
                let units: BTreeSet<u64> = sectors.map(|offset| offset / unit_bytes).collect();
                Ok(units.len() as u64 * unit_bytes)
            };
            let Ok(measured) = FORMAT.measure(&options, &touched_bytes) else { continue };
            let image = create_image(&FORMAT, &options, &disk, None).unwrap();
            assert_eq!(measured.required_bytes, image.len_bytes().unwrap(), "{size_bytes} {named:?}");
            assert!(measured.fully_allocated_bytes >= size_bytes);
        }
    }
}
