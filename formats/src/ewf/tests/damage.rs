//! What is refused, and what the check finds.

use super::build::Segment;
use super::*;
use crate::error::ErrorKind::{Corrupt, LimitExceeded, NotThisFormat, ReferenceDenied, Truncated, Unsupported};
use crate::source::BlockSource;
use crate::testing::{exercise, read_all};

/// Where the sections of this kind begin in a segment.
fn find(segment: &[u8], kind: &str) -> Vec<usize> {
    let mut wanted = [0; 16];
    wanted[..kind.len()].copy_from_slice(kind.as_bytes());
    (0..segment.len() - 16).filter(|place| segment[*place..].starts_with(&wanted)).collect()
}

#[test]
fn relatives_are_refused_by_name() {
    for (signature, words) in
        [(b"LVF\x09\x0d\x0a\xff\x00", "L01"), (b"EVF2\x0d\x0a\x81\x00", "Ex01"), (b"LEF2\x0d\x0a\x81\x00", "Lx01")]
    {
        let mut file = vec![0; 600];
        file[..8].copy_from_slice(signature);
        assert_refused(&[file], Unsupported, words);
    }
    let error = (FORMAT.open)(Folder::of(&[vec![0; 600]]).file("disk.E01")).err().unwrap();
    assert_eq!(error.kind(), NotThisFormat);
}

#[test]
fn segments_must_be_there_in_order_and_of_one_set() {
    let whole = segments(Style::EnCase);
    assert_refused(&whole[..2], ReferenceDenied, "disk.E03");
    let [one, two, three] = &whole[..] else { panic!() };
    assert_refused(&[two.clone(), one.clone()], Unsupported, "segment 2 of an image");
    let swapped = [one.clone(), three.clone(), two.clone()];
    assert_refused(&swapped, Corrupt, "\"disk.E02\" says that it is segment 3, expected 2");
    let other = Builder { set_id: [8; 16], ..Builder::new(Style::EnCase, &content(22 * 8 + 3)) }.finish();
    assert_refused(&[one.clone(), other[1].clone(), three.clone()], Corrupt, "belongs to another image");
    let mut renamed = Folder::of(&whole);
    let first = renamed.0.remove("disk.E01").unwrap();
    renamed.0.insert("disk.raw".to_owned(), first);
    let opened = Disk::open(renamed.file("disk.raw"), None, Choice::default(), Arc::new(renamed));
    assert!(opened.err().unwrap().to_string().contains("not like NAME.E01"));
}

#[test]
fn sections_that_cannot_be_are_refused() {
    let with = |spoil: &dyn Fn(&mut Segment)| {
        let mut segment = Segment::new(1);
        spoil(&mut segment);
        [segment.bytes]
    };
    assert_refused(&with(&|segment| segment.header("volume", 13, 76)), Corrupt, "inside of or before this one");
    assert_refused(&with(&|segment| segment.header("x", 1 << 63, 76)), Truncated, "past the end of the file");
    assert_refused(&with(&|segment| segment.section("x", &[])), Truncated, "it was cut");
    assert_refused(&with(&|segment| segment.last("done")), Corrupt, "no volume section");
    assert_refused(&with(&|segment| segment.section("volume", &[0; 93])), Corrupt, "it has 93 bytes");
    assert_refused(&with(&|segment| segment.section("volume", &[9; 94])), Corrupt, "Adler-32 is wrong");
    assert_refused(&with(&|segment| segment.section("table", &[0; 23])), Corrupt, "has 23 bytes");
    let mut broken = segments(Style::EnCase);
    broken[0][13 + 70] ^= 1;
    assert_refused(&broken, Corrupt, "the Adler-32 of its header");
}

#[test]
fn volumes_that_cannot_be_are_refused() {
    let with = |chunk_sectors, sector_bytes, sectors: u64| {
        let mut header = [0; 94];
        header[8..12].copy_from_slice(&u32::to_le_bytes(chunk_sectors));
        header[12..16].copy_from_slice(&u32::to_le_bytes(sector_bytes));
        header[16..24].copy_from_slice(&sectors.to_le_bytes());
        let mut bytes = header.to_vec();
        bytes.resize(1048, 0);
        bytes.extend_from_slice(&libdeflater::adler32(&bytes).to_le_bytes());
        let mut segment = Segment::new(1);
        segment.section("volume", &bytes);
        segment.last("done");
        [segment.bytes]
    };
    assert_refused(&with(0, 512, 1), Corrupt, "no sectors");
    assert_refused(&with(1 << 31, 4096, 1), LimitExceeded, "a chunk has");
    assert_refused(&with(64, 512, u64::MAX), LimitExceeded, "sectors of 512 bytes");
    // Nothing is allocated for chunks that are not there.
    let disk = Folder::of(&with(64, 512, 1 << 53)).disk().unwrap();
    let error = disk.read_at(1 << 40, &mut [0; 100]).unwrap_err();
    assert!(error.kind() == Truncated && error.to_string().contains("the tables have 0 chunks"), "{error}");
}

#[test]
fn a_damaged_table_is_replaced_by_its_copy() {
    for within in [76 + 2, 76 + 24 + 2, 76 + 24 + 5 * 4 + 1] {
        let mut damaged = segments(Style::EnCase);
        let place = find(&damaged[1], "table")[0];
        damaged[1][place + within] ^= 0x10;
        let folder = Folder::of(&damaged);
        assert!(read_all(&folder.disk().unwrap()).unwrap() == content(22 * 8 + 3));
        assert_eq!(folder.check().corruptions, 1, "{}", folder.findings());
        let copy = find(&damaged[1], "table2")[0];
        damaged[1][copy + within] ^= 0x20;
        let read = Folder::of(&damaged).disk().and_then(|disk| read_all(&disk));
        assert_eq!(read.unwrap_err().kind(), Corrupt);
    }
    for within in [76 + 2, 76 + 24 + 2, 76 + 24 + 5 * 4 + 1] {
        let mut damaged = segments(Style::OldEnCase);
        let place = find(&damaged[1], "table")[0];
        damaged[1][place + within] ^= 0x10;
        let read = Folder::of(&damaged).disk().and_then(|disk| read_all(&disk));
        assert_eq!(read.unwrap_err().kind(), Corrupt);
    }
}

/// Everything but S01's table entries is protected, and those must point to a stream with a checksum.
#[test]
fn no_changed_bit_gives_another_disk() {
    let expected = content(20);
    for style in STYLES {
        let builder = Builder { table_chunks: 2, segment_tables: 9, ..Builder::new(style, &expected) };
        let whole = builder.finish().remove(0);
        for place in 0..whole.len() {
            for flip in [0x01, 0x80] {
                let mut changed = whole.clone();
                changed[place] ^= flip;
                let folder = Folder::of(&[changed]);
                let read = folder.disk().and_then(|disk| read_all(&disk));
                // A probe that fails makes it a raw file.
                let harmless = place < 8 || read.as_ref().map_or(true, |read| *read == expected);
                assert!(harmless, "{style:?}: byte {place:#x} flipped by {flip:#x}");
            }
        }
        for length in 0..whole.len() {
            let cut = Arc::new(MemoryFile::from_bytes(&whole[..length]));
            assert!(exercise(&FORMAT, cut).is_err(), "{style:?}: cut to {length}");
        }
    }
}

#[test]
fn the_check_finds_changed_chunks_and_digests() {
    let mut damaged = segments(Style::EnCase);
    let place = find(&damaged[2], "sectors")[0];
    damaged[2][place + 76 + 20] ^= 1;
    assert!(
        Folder::of(&damaged).findings().starts_with("chunk 20: read EWF chunk"),
        "{}",
        Folder::of(&damaged).findings()
    );
    let mut damaged = segments(Style::EnCase);
    let place = find(&damaged[2], "digest")[0] + 76;
    damaged[2][place] ^= 1;
    assert!(Folder::of(&damaged).findings().contains("digests is damaged"));
    let sum = libdeflater::adler32(&damaged[2][place..place + 76]);
    damaged[2][place + 76..place + 80].copy_from_slice(&sum.to_le_bytes());
    assert!(Folder::of(&damaged).findings().contains("the MD5 of the disk is"));
}

#[test]
fn a_disk_with_fewer_chunks_than_it_says_is_found() {
    let mut builder = Builder { segment_tables: 9, ..Builder::new(Style::EnCase, &content(40)) };
    let whole = builder.finish().remove(0);
    builder.disk.resize(48 * 512, 0);
    let mut longer = builder.finish().remove(0);
    let (volume, tables) = (find(&longer, "volume")[0], find(&longer, "sectors")[0]);
    longer.truncate(tables);
    assert_eq!(find(&whole, "volume")[0], volume);
    longer.extend_from_slice(&whole[tables..]);
    let folder = Folder::of(&[longer]);
    let disk = folder.disk().unwrap();
    disk.read_at(0, &mut vec![0; 40 * 512]).unwrap();
    assert_eq!(disk.read_at(0, &mut vec![0; 41 * 512]).unwrap_err().kind(), Truncated);
    assert!(folder.findings().contains("the tables have 5 chunks, the disk has 6"));
}
