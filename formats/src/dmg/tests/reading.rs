//! What is read, and how often.

use std::sync::Arc;

use super::*;
use crate::extent::DiskKind;
use crate::registry;
use crate::source::BlockSource;
use crate::testing::{CountingFile, check_disk, read_all};

#[test]
fn every_kind_of_chunk_is_read_from_either_fork() {
    for resource_fork in [false, true] {
        let builder = Builder { resource_fork, ..every_kind() };
        let expected = builder.disk.clone();
        let file = builder.finish();
        assert_eq!(registry::probe(memory(&file).as_ref()).unwrap().name, "dmg");
        let disk = open_disk(memory(&file), None).unwrap();
        assert_eq!(disk.geometry().size_bytes, expected.len() as u64);
        assert!(read_all(&disk).unwrap() == expected);
        check_disk(&disk, 7).unwrap();
        let report = check_file(&file);
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(report.allocated_bytes, (1 + 12 * 64 + 3) * 512);
    }
}

#[test]
fn extents_say_what_is_stored_how() {
    let file = every_kind().finish();
    let disk = open_disk(memory(&file), None).unwrap();
    let kind_of = |sector: u64| disk.extent_at(sector * 512, 1 << 20).unwrap();
    assert!(matches!(kind_of(0).kind, DiskKind::Data(Some(range)) if range.host_offset == build::DATA_OFFSET + 16));
    // Two raw chunks in two tables, one behind the other in the file: one extent.
    assert_eq!(kind_of(0).length_bytes, 65 * 512);
    assert_eq!((kind_of(65).kind, kind_of(65).length_bytes), (DiskKind::Zero, 40 * 512));
    assert_eq!(kind_of(105).kind, DiskKind::Encoded);
    assert_eq!((kind_of(169).kind, kind_of(169).length_bytes), (DiskKind::Hole, 24 * 512));
    // zlib and bzip2.
    assert_eq!((kind_of(200).kind, kind_of(200).length_bytes), (DiskKind::Encoded, (193 + 128 - 200) * 512));
}

#[test]
fn what_is_said_of_the_image() {
    let image = (FORMAT.open)(open_file(memory(&every_kind().finish()))).unwrap();
    let details = format!("{:?}", image.info().details);
    assert!(details.contains("ADC, zlib, bzip2, LZFSE, LZMA") && details.contains("Apple_HFS"), "{details}");
    assert_eq!(image.info().warnings, Vec::<String>::new());
    assert_eq!(image.info().geometry.unit_bytes, 64 * 512);
}

#[test]
fn each_stored_byte_is_read_once_although_buffers_cut_chunks() {
    let mut builder = Builder::new().table("whole disk");
    for number in 0..40 {
        builder = builder.chunk(STORED_KINDS[1 + number % 5], &content(256, number as u64));
    }
    let stored_bytes = builder.data.len() as u64;
    let file = Arc::new(CountingFile::new(MemoryFile::from_bytes(&builder.finish())));
    let disk = open_disk(file.clone(), Some(&FORMAT)).unwrap();
    let before = file.read_bytes();
    let mut buffer = vec![0; 50 << 10];
    for offset in (0..disk.geometry().size_bytes).step_by(buffer.len()) {
        let length = (disk.geometry().size_bytes - offset).min(buffer.len() as u64) as usize;
        disk.read_at(offset, &mut buffer[..length]).unwrap();
    }
    assert!(file.read_bytes() - before <= stored_bytes, "{} of {stored_bytes}", file.read_bytes() - before);
}

#[test]
fn a_table_that_reaches_further_than_the_trailer_says_counts() {
    let builder = every_kind();
    let expected = builder.disk.clone();
    let file = builder.finish_with(|trailer| trailer.sector_count.set(5));
    let image = (FORMAT.open)(open_file(memory(&file))).unwrap();
    assert!(image.info().warnings[0].contains("has 5 sectors"), "{:?}", image.info().warnings);
    assert!(read_all(&open_disk(memory(&file), None).unwrap()).unwrap() == expected);
    assert_eq!(check_file(&file).corruptions, 1);
}

#[test]
fn an_empty_disk_is_read() {
    let file = Builder::new().table("nothing").finish();
    let disk = open_disk(memory(&file), None).unwrap();
    assert_eq!(disk.geometry().size_bytes, 0);
    check_disk(&disk, 1).unwrap();
}
