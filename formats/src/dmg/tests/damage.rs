//! What is refused, and what the check finds.

use zerocopy::IntoBytes;

use super::*;
use crate::error::ErrorKind::{self, Corrupt, LimitExceeded, NotThisFormat, Unsupported};
use crate::source::BlockSource;
use crate::testing::{exercise, read_all};

/// A disk of two chunks, spoiled before it is put together.
fn spoiled(spoil: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut builder =
        Builder::new().table("whole disk").chunk(CHUNK_ZLIB, &content(8, 1)).chunk(CHUNK_RAW, &content(8, 2));
    spoil(&mut builder);
    builder.finish()
}

fn assert_refused(file: &[u8], kind: ErrorKind, words: &str) {
    let error = open_error(file);
    let text = error.to_string();
    assert!(error.kind() == kind && text.contains(words), "{:?}: {text}", error.kind());
}

#[test]
fn encrypted_and_segmented_images_are_refused_by_name() {
    let mut file = vec![0; 4096];
    file[..8].copy_from_slice(b"encrcdsa");
    assert_refused(&file, Unsupported, "encrypted (\"encrcdsa\", version 2)");
    assert_eq!(crate::registry::probe(memory(&file).as_ref()).unwrap().name, "dmg");
    let mut file = vec![0; 4096];
    file[4088..].copy_from_slice(b"cdsaencr");
    assert_refused(&file, Unsupported, "encrypted (\"cdsaencr\", version 1)");
    assert_eq!(crate::registry::probe(memory(&file).as_ref()).unwrap().name, "dmg");
    let file = every_kind().finish_with(|trailer| trailer.segment_count.set(3));
    assert_refused(&file, Unsupported, "segment 1 of 3");
}

#[test]
fn trailers_that_cannot_be_are_refused() {
    let with = |spoil: fn(&mut Trailer)| every_kind().finish_with(spoil);
    assert_refused(&[0; 100], NotThisFormat, "only 100 bytes");
    assert_refused(&with(|trailer| trailer.signature = *b"kol\n"), NotThisFormat, "\"kol\\n\"");
    assert_refused(&with(|trailer| trailer.version.set(5)), Unsupported, "version is 5");
    assert_refused(&with(|trailer| trailer.trailer_bytes.set(511)), Corrupt, "511 bytes");
    assert_refused(&with(|trailer| trailer.sector_count.set(u64::MAX)), LimitExceeded, "sectors");
    assert_refused(&with(|trailer| trailer.property_list_bytes.set(u64::MAX)), Corrupt, "property list");
    assert_refused(&with(|trailer| trailer.property_list_offset.set(u64::MAX)), Corrupt, "property list");
    assert_refused(&with(|trailer| trailer.property_list_bytes.set(0)), Corrupt, "neither");
    assert_refused(&with(|trailer| trailer.data_bytes.set(1 << 62)), Corrupt, "data fork");
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let header = |spoil: fn(&mut TableHeader)| spoiled(|builder| spoil(&mut builder.tables[0].header));
    assert_refused(&header(|header| header.signature = *b"mush"), Corrupt, "\"mush\"");
    assert_refused(&header(|header| header.version.set(2)), Unsupported, "version is 2");
    assert_refused(&header(|header| header.first_sector.set(u64::MAX - 3)), LimitExceeded, "chunk 0");
    assert_refused(&header(|header| header.sector_count.set(15)), Corrupt, "chunk 1: it has 8 sectors from 8 on");
    assert_refused(&header(|header| header.data_offset.set(u64::MAX)), Corrupt, "chunk 0");
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let chunk =
        |index: usize, spoil: fn(&mut ChunkEntry)| spoiled(|builder| spoil(&mut builder.tables[0].chunks[index]));
    assert_refused(&chunk(0, |chunk| chunk.kind.set(0x8000_0009)), Unsupported, "0x80000009");
    assert_refused(&chunk(0, |chunk| chunk.sector_count.set(u64::MAX)), Corrupt, "chunk 0");
    assert_refused(&chunk(0, |chunk| chunk.stored_bytes.set(0)), Corrupt, "compressed to nothing");
    assert_refused(&chunk(0, |chunk| chunk.stored_bytes.set(u64::MAX)), Corrupt, "past the beginning of the trailer");
    assert_refused(&chunk(1, |chunk| chunk.stored_bytes.set(4095)), Corrupt, "4096 bytes as they are in 4095");
    assert_refused(&chunk(1, |chunk| chunk.first_sector.set(7)), Corrupt, "sectors 0 and 7 overlap");
    assert_refused(&chunk(1, |chunk| chunk.stored_offset.set(1)), Corrupt, "stored at");
    let long = spoiled(|builder| {
        builder.tables[0].header.sector_count.set(1 << 30);
        builder.tables[0].chunks[0].sector_count.set((16 << 11) + 1);
        builder.tables[0].chunks[1].first_sector.set(1 << 29);
    });
    assert_refused(&long, LimitExceeded, "at most 16777216 are decoded");
}

#[test]
fn property_lists_that_cannot_be_are_refused() {
    let with = |text: &str| {
        let mut file = vec![0; 64];
        file.extend_from_slice(text.as_bytes());
        let mut end = every_kind().finish_with(|trailer| {
            trailer.property_list_offset.set(64);
            trailer.property_list_bytes.set(text.len() as u64);
            trailer.data_bytes.set(0);
        });
        file.extend(end.split_off(end.len() - 512));
        file
    };
    let plist = |inside: &str| with(&format!("<plist><dict>{inside}</dict></plist>"));
    let blkx = |inside: &str| {
        plist(&format!("<key>resource-fork</key><dict><key>blkx</key><array><dict>{inside}</dict></array></dict>"))
    };
    assert_refused(&with("<plist><dict>"), Corrupt, "no XML");
    assert_refused(&with("<!DOCTYPE p [<!ENTITY a \"b\">]><plist/>"), Unsupported, "<!ENTITY");
    assert_refused(&with("<p><![CDATA[x]]></p>"), Unsupported, "<![CDATA[");
    assert_refused(&with(&format!("<plist {}=\"\"/>", "a".repeat(2000))), LimitExceeded, "tag of");
    assert_refused(&with(&"<a>".repeat(300_000)), Corrupt, "no XML");
    assert_refused(&plist(""), Corrupt, "no chunk tables");
    assert_refused(&blkx("<key>Name</key><string>n</string>"), Corrupt, "\"n\" has no data");
    assert_refused(&blkx("<key>Data</key><data>!!</data>"), Corrupt, "is no base64");
    assert_refused(&blkx("<key>Data</key><data>AAAA</data>"), Corrupt, "it has 3 bytes");
}

#[test]
fn sectors_without_a_chunk_are_an_error_not_zeros() {
    let file = spoiled(|builder| {
        builder.tables[0].header.sector_count.set(30);
        builder.tables[0].chunks[1].first_sector.set(22);
    });
    let disk = open_disk(memory(&file), None).unwrap();
    assert_eq!(disk.geometry().size_bytes, 30 * 512);
    disk.read_at(0, &mut [0; 8 * 512]).unwrap();
    let error = disk.read_at(0, &mut [0; 9 * 512]).unwrap_err();
    assert_eq!((error.kind(), error.guest_offset()), (Corrupt, Some(8 * 512)));
    assert!(findings(&file).contains("no chunk holds the sectors from 8 to 21"));
}

#[test]
fn damaged_chunks_give_errors() {
    for kind in [CHUNK_ADC, CHUNK_ZLIB, CHUNK_BZIP2, CHUNK_LZFSE, CHUNK_LZMA] {
        let whole = content(64, 5);
        for sectors in [63, 65] {
            let mut builder = Builder::new().table("whole disk").chunk(kind, &whole);
            builder.tables[0].header.sector_count.set(sectors);
            builder.tables[0].chunks[0].sector_count.set(sectors);
            let disk = open_disk(memory(&builder.finish()), None).unwrap();
            assert_eq!(read_all(&disk).unwrap_err().kind(), Corrupt, "{kind:#x} with {sectors} sectors");
        }
        let mut builder = Builder::new().table("whole disk").chunk(kind, &whole);
        let stored = &mut builder.tables[0].chunks[0].stored_bytes;
        stored.set(stored.get() - 8);
        let file = builder.finish();
        assert!(read_all(&open_disk(memory(&file), None).unwrap()).is_err() || kind == CHUNK_LZFSE, "{kind:#x} cut");
        assert!(!check_file(&file).is_clean() || kind == CHUNK_LZFSE, "{kind:#x} cut");
    }
}

#[test]
fn the_check_finds_changed_bytes_by_every_checksum() {
    let mut file = every_kind().finish();
    // The first sector is stored as it is.
    file[build::DATA_OFFSET as usize + 20] ^= 1;
    let found = findings(&file);
    assert!(found.contains("partition \"Driver Descriptor Map (DDM : 0)\"") && found.contains("data fork"), "{found}");
    let file = every_kind().finish_with(|trailer| trailer.master_checksum.value[0] ^= 1);
    assert!(findings(&file).contains("all partitions' checksums"));
    let file = every_kind().finish_with(|trailer| trailer.data_bytes -= 100);
    assert!(findings(&file).contains("outside of the data fork"));
}

#[test]
fn zeros_of_exabytes_are_checked_at_once() {
    let file = spoiled(|builder| {
        let mut zeros = builder.tables[0].chunks[1];
        zeros.kind.set(CHUNK_ZERO);
        zeros.first_sector.set(16);
        zeros.sector_count.set(1 << 53);
        builder.tables[0].header.sector_count.set(16 + (1 << 53));
        builder.tables[0].chunks.push(zeros);
    });
    assert!(findings(&file).contains("the CRC-32 of the partition"));
}

/// No byte of the trailer or the tables can be changed so that something panics, or cut so that another disk is read.
#[test]
fn flipped_and_missing_bytes_never_panic() {
    for resource_fork in [false, true] {
        let chunks = |builder: Builder| builder.chunk(CHUNK_ZLIB, &content(2, 1)).chunk(CHUNK_RAW, &content(2, 2));
        let builder = chunks(Builder { resource_fork, ..Builder::new() }.table("one")).table("two");
        let builder = chunks(builder).chunk(CHUNK_ZERO, &[0; 1024]);
        let (tables_begin, expected) = (builder.data.len() + build::DATA_OFFSET as usize, builder.disk.clone());
        let file = builder.finish();
        for place in tables_begin..file.len() {
            for flip in [0x01, 0x80] {
                let mut changed = file.clone();
                changed[place] ^= flip;
                let _ = exercise(&FORMAT, memory(&changed));
            }
        }
        for length in (0..file.len()).step_by(37) {
            assert!(exercise(&FORMAT, memory(&file[..length])).is_err(), "cut to {length}");
            let mut front = file[length + 1..].to_vec();
            front.splice(0..0, [0; 3]);
            let changed = open_disk(memory(&front), Some(&FORMAT)).and_then(|disk| read_all(&disk));
            assert!(changed.is_err() || changed.is_ok_and(|disk| disk == expected), "cut in front at {length}");
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let file = every_kind().finish();
    let mut random = Random(3);
    for _ in 0..100 {
        let mut changed = file.clone();
        for _ in 0..1 + random.below(8) {
            let place = random.below(changed.len() as u64 - 8) as usize;
            let bytes = random.next_u64();
            changed[place..place + 8].copy_from_slice(bytes.as_bytes());
        }
        let _ = exercise(&FORMAT, memory(&changed));
    }
}
