//! How often and how much the files are read and written: speed regressions without a clock.

mod common;

use std::sync::Arc;

use common::cases;
use tintype_formats::BlockSource;
use tintype_formats::testing::{CountingFile, MemoryFile, ModelDisk, open_disk, open_file, store_disk};

/// A disk with 24 MiB of data in runs of 1 MiB.
fn disk() -> ModelDisk {
    let mut disk = ModelDisk::new(256 << 20);
    for run in 0..24u64 {
        (run * 2560..run * 2560 + 256).for_each(|block| disk.write(block, block * 3 + 1));
    }
    disk
}

#[test]
fn opening_reads_a_few_blocks() {
    for case in cases() {
        let file = Arc::new(CountingFile::new(case.create(&disk()).duplicate()));
        let image = (case.format.open)(open_file(file.clone())).unwrap();
        assert_eq!(image.info().geometry.size_bytes, 256 << 20);
        assert!(file.reads() <= 24, "{}: opening takes {} reads", case.name, file.reads());
        assert!(file.read_bytes() <= 1 << 20, "{}: opening reads {} bytes", case.name, file.read_bytes());
    }
}

#[test]
fn each_data_byte_is_read_once() {
    for case in cases() {
        let disk = disk();
        let file = Arc::new(CountingFile::new(case.create(&disk).duplicate()));
        let image = open_disk(file.clone(), Some(case.format)).unwrap();
        let size = image.geometry().size_bytes;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < size {
            let extent = image.extent_at(offset, buffer.len() as u64).unwrap();
            if !extent.kind.reads_as_zeros() {
                image.read_at(offset, &mut buffer[..extent.length_bytes as usize]).unwrap();
            }
            offset += extent.length_bytes;
        }
        // The runs are 10 MiB apart: each has units of its own.
        let touched = 24 * case.unit_bytes().max(1 << 20);
        let stored = if case.is_preallocated() && !case.is_raw() { size } else { touched };
        let allowed = stored + stored / 8 + (2 << 20) + 4 * case.unit_bytes();
        assert!(file.read_bytes() <= allowed, "{}: {} bytes read for {stored}", case.name, file.read_bytes());
    }
}

#[test]
fn each_data_byte_is_written_once_and_in_large_writes() {
    for case in cases() {
        let disk = disk();
        let file = Arc::new(CountingFile::new(MemoryFile::new()));
        store_disk(case.format, &case.options(&disk), &disk, None, file.clone()).unwrap();
        let allowed = disk.data_bytes() + disk.data_bytes() / 8 + (3 << 20);
        assert!(file.written_bytes() <= allowed, "{}: {} bytes written", case.name, file.written_bytes());
        // The test's driver hands over 256 KiB at a time: 4 writes for each MiB of data, and tables.
        assert!(file.writes() <= 24 * 5 + 600, "{}: {} writes", case.name, file.writes());
        assert!(file.syncs() <= 3, "{}: {} syncs", case.name, file.syncs());
    }
}
