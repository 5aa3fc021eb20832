//! What is read, and how often.

use super::*;
use crate::layer::Detail;
use crate::source::BlockSource;
use crate::testing::{CountingFile, check_disk, open_disk, open_file, read_all};

#[test]
fn segments_of_every_style_are_read() {
    for style in STYLES {
        let segments = segments(style);
        assert_eq!(segments.len(), 3);
        let folder = Folder::of(&segments);
        let disk = folder.disk().unwrap();
        assert!(read_all(&disk).unwrap() == content(22 * 8 + 3), "{style:?}");
        check_disk(&disk, 3).unwrap();
        let report = folder.check();
        assert!(report.is_clean(), "{style:?}: {:?}", report.findings);
        assert_eq!(report.allocated_bytes, (22 * 8 + 3) * 512);
    }
}

#[test]
fn one_segment_needs_no_name_and_no_other_file() {
    let builder = Builder { segment_tables: 9, ..Builder::new(Style::EnCase, &content(40)) };
    let file = Arc::new(MemoryFile::from_bytes(&builder.finish()[0]));
    let disk = open_disk(file.clone(), None).unwrap();
    assert!(read_all(&disk).unwrap() == content(40));
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file)).unwrap().check(&mut report).unwrap();
    assert!(report.is_clean());
}

#[test]
fn the_first_segment_is_checked_alone_without_a_gate() {
    let folder = Folder::of(&segments(Style::EnCase));
    let mut report = CheckReport::default();
    (FORMAT.open)(folder.file("disk.E01")).unwrap().check(&mut report).unwrap();
    assert!(report.is_clean());
    assert_eq!(report.allocated_bytes, 10 * 4096);
}

#[test]
fn optical_discs_have_sectors_of_512_bytes_and_others_keep_theirs() {
    for (sector_bytes, logical) in [(512, 512), (2048, 512), (4096, 4096)] {
        let builder = Builder { sector_bytes, segment_tables: 99, ..Builder::new(Style::EnCase, &content(64)) };
        let folder = Folder::of(&builder.finish());
        let disk = folder.disk().unwrap();
        assert_eq!((disk.geometry().logical_sector_bytes, disk.geometry().size_bytes), (logical, 64 * 512));
        assert!(read_all(&disk).unwrap() == content(64));
    }
    let builder = Builder { sector_bytes: 520, ..Builder::new(Style::EnCase, &content(65)) };
    assert_refused(&builder.finish(), ErrorKind::Unsupported, "520 bytes");
}

#[test]
fn what_is_said_of_the_image() {
    let builder = Builder { segment_tables: 9, ..Builder::new(Style::EnCase, &content(40)) };
    let image = (FORMAT.open)(Folder::of(&builder.finish()).file("disk.E01")).unwrap();
    let detail = |name| image.info().details.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    assert_eq!(detail("case_number"), Some(Detail::Text("case 7".to_owned())));
    assert_eq!(detail("notes"), Some(Detail::Text("note\x1b[1m".to_owned())));
    assert_eq!(detail("description"), None);
    assert!(detail("md5").is_some() && detail("sha1").is_some());
    assert_eq!(image.info().geometry.unit_bytes, 4096);
}

#[test]
fn each_stored_byte_is_read_once_although_buffers_cut_chunks() {
    let builder = Builder { segment_tables: 9, ..Builder::new(Style::EnCase, &content(200)) };
    let bytes = &builder.finish()[0];
    let file = Arc::new(CountingFile::new(MemoryFile::from_bytes(bytes)));
    let disk = open_disk(file.clone(), None).unwrap();
    let before = file.read_bytes();
    let mut buffer = vec![0; 5000];
    for offset in (0..disk.geometry().size_bytes).step_by(buffer.len()) {
        let length = (disk.geometry().size_bytes - offset).min(buffer.len() as u64) as usize;
        disk.read_at(offset, &mut buffer[..length]).unwrap();
    }
    assert!(file.read_bytes() - before <= bytes.len() as u64);
}
