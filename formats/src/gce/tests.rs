//! Images made here, by any way of handing the disk over, and images cut, changed and sparse.

use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::sink::{Compression, CreateOptions, SingleFile};
use crate::testing::{
    CrashFile, FaultPlan, FaultyFile, MemoryFile, ModelDisk, Random, check_disk, create_image, digest, exercise,
    open_disk, store_disk,
};
use crate::{BlockSource, HostFile, HostFileMut};

/// The format for disks of any size: gigabytes are too slow to try everything with.
static ANY_SIZE: Format = Format {
    name: FORMAT.name,
    title: FORMAT.title,
    extensions: FORMAT.extensions,
    reads: FORMAT.reads,
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: FORMAT.probe,
    open: FORMAT.open,
    create: Some(Create {
        begin: create::begin_any_size,
        measure: create::measure,
        subformats: &["oldgnu"],
        options: &[],
        compressions: &["zlib"],
        parents: false,
        records_sectors: false,
        streamable: &["oldgnu"],
    }),
};

fn image_of(disk: &ModelDisk) -> Arc<MemoryFile> {
    create_image(&ANY_SIZE, &CreateOptions::new(disk.geometry()), disk, None).unwrap()
}

#[test]
fn images_give_back_the_disk() {
    let sizes = [0, 512, 4096, 65536 + 512, 1 << 20, (3 << 20) + 512 * 7, (33 << 20) + 4096];
    for (seed, size) in sizes.into_iter().enumerate() {
        let disk = ModelDisk::random(seed as u64, size, 12, 400);
        let file = image_of(&disk);
        assert_eq!(crate::registry::probe(file.as_ref()).unwrap().name, "gce");
        let image = open_disk(file.clone(), None).unwrap();
        assert_eq!(image.geometry().size_bytes, size);
        check_disk(&image, seed as u64).unwrap();
        assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{size}");
        assert!(file.to_bytes() == image_of(&disk).to_bytes());
        let mut report = crate::check::CheckReport::default();
        (FORMAT.open)(crate::testing::open_file(file)).unwrap().check(&mut report).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}

#[test]
fn a_disk_of_gibibytes_is_made_of_little() {
    let mut disk = ModelDisk::new(2 << 30);
    [0, 1, 100_000, (2 << 30) / 4096 - 1].into_iter().for_each(|block| disk.write(block, block | 1));
    let file = create_image(&FORMAT, &CreateOptions::new(disk.geometry()), &disk, None).unwrap();
    assert!(file.stored_bytes() < 3 << 20, "{}", file.stored_bytes());
    let image = open_disk(file, Some(&FORMAT)).unwrap();
    assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap());
}

#[test]
fn sizes_that_compute_engine_refuses_are_refused_with_what_is_missing() {
    let begin = |size| {
        let options = CreateOptions::new(ModelDisk::new(size).geometry());
        FORMAT.begin(&SingleFile(Arc::new(MemoryFile::new())), &options).err()
    };
    assert!(begin(3 << 30).is_none());
    let error = begin((3 << 30) - 1536).unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("extend it by 1536 bytes to 3 GiB"), "{error}");
    assert!(begin(0).unwrap().to_string().contains("to 1 GiB"));
    for too_large in [(64 << 40) + (1 << 30), !511] {
        assert!(begin(too_large).unwrap().to_string().contains("64 TiB"));
    }
}

#[test]
fn levels_change_the_size_and_not_the_disk() {
    let disk = ModelDisk::random(3, 5 << 20, 20, 100);
    let with = |compression| {
        let options = CreateOptions { compression, ..CreateOptions::new(disk.geometry()) };
        create_image(&ANY_SIZE, &options, &disk, None).unwrap()
    };
    let (fast, usual, best) = (with(Compression::Zlib(1)), with(Compression::None), with(Compression::Zlib(9)));
    assert!(fast.len_bytes().unwrap() > best.len_bytes().unwrap());
    assert!(usual.to_bytes() == with(Compression::Zlib(6)).to_bytes());
    for file in [fast, usual, best] {
        assert_eq!(digest(&open_disk(file, None).unwrap()).unwrap(), digest(&disk).unwrap());
    }
}

#[test]
fn cut_and_changed_images_give_errors_and_never_another_disk() {
    let disk = ModelDisk::random(5, 3 << 20, 10, 30);
    let (good, expected) = (image_of(&disk).to_bytes(), digest(&disk).unwrap());
    let found =
        |bytes: &[u8]| open_disk(Arc::new(MemoryFile::from_bytes(bytes)), Some(&FORMAT)).and_then(|it| digest(&it));
    for cut in (0..good.len()).step_by(997).chain(good.len() - 20..good.len()) {
        assert!(found(&good[..cut]).is_err(), "cut at {cut}");
        let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&good[..cut])));
    }
    let mut random = Random(7);
    for place in (0..100).chain((0..200).map(|_| random.below(good.len() as u64) as usize)) {
        for flip in [0xff, 0x01, 0x80] {
            let mut bytes = good.clone();
            bytes[place] ^= flip;
            let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&bytes)));
            assert!(found(&bytes).map_or(true, |found| found == expected), "byte {place:#x} by {flip:#x}");
        }
    }
}

#[test]
fn failures_and_power_cuts_leave_no_image_or_the_whole_one() {
    let disk = ModelDisk::random(6, 3 << 20, 8, 40);
    let (options, expected) = (CreateOptions::new(disk.geometry()), digest(&disk).unwrap());
    let create = |plan: &FaultPlan| {
        store_disk(&ANY_SIZE, &options, &disk, None, Arc::new(FaultyFile::new(MemoryFile::new(), plan.clone())))
    };
    let counted = FaultPlan::never();
    create(&counted).unwrap();
    for n in 0..counted.calls() {
        assert_eq!(create(&FaultPlan::fail_from(n)).unwrap_err().kind(), ErrorKind::Io, "call {n}");
    }
    let file = image_of(&disk);
    let read = |plan: &FaultPlan| {
        let faulty = Arc::new(FaultyFile::new(file.duplicate(), plan.clone()));
        open_disk(faulty, Some(&FORMAT)).and_then(|image| digest(&image))
    };
    let counted = FaultPlan::never();
    read(&counted).unwrap();
    for n in 0..counted.calls() {
        assert_eq!(read(&FaultPlan::fail_from(n)).unwrap_err().kind(), ErrorKind::Io, "call {n}");
    }
    let file = Arc::new(CrashFile::new());
    store_disk(&ANY_SIZE, &options, &disk, None, file.clone()).unwrap();
    for cut in 0..=file.syncs() {
        for seed in 0..20 {
            match open_disk(Arc::new(file.after_power_cut(cut, seed)), Some(&FORMAT)).and_then(|image| digest(&image)) {
                Ok(found) => assert_eq!(found, expected, "{cut}, {seed}"),
                Err(error) => assert!(cut < file.syncs(), "{cut}, {seed}: {error}"),
            }
        }
    }
}

#[test]
fn other_archives_are_refused() {
    let gzip = |name: &str, content: &[u8]| {
        let header = crate::tar::file_header(crate::tar::Flavour::Ustar, name, content.len() as u64).unwrap();
        let archive = [&header[..], content, &[0; 1536][content.len() % 512..]].concat();
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        bytes.extend(crate::codec::deflate_part(&archive, 6).unwrap());
        bytes.extend([1, 0, 0, 0xff, 0xff]);
        bytes.extend(crc32fast::hash(&archive).to_le_bytes());
        bytes.extend((archive.len() as u32).to_le_bytes());
        Arc::new(MemoryFile::from_bytes(&bytes))
    };
    let good = open_disk(gzip("./disk.raw", &[7; 512]), None).unwrap();
    assert_eq!(crate::testing::read_all(&good).unwrap(), [7; 512]);
    let other = gzip("notes.txt", &[7; 512]);
    assert_eq!(crate::registry::probe(other.as_ref()).unwrap().name, "gce");
    assert_eq!(open_disk(other, None).err().unwrap().kind(), ErrorKind::NotThisFormat);
    let plain = Arc::new(MemoryFile::from_bytes(b"disk.raw"));
    assert_eq!(open_disk(plain.clone(), Some(&FORMAT)).err().unwrap().kind(), ErrorKind::NotThisFormat);
    plain.set_len_bytes(0).unwrap();
    assert_eq!(open_disk(plain, Some(&FORMAT)).err().unwrap().kind(), ErrorKind::NotThisFormat);
}
