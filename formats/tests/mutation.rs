//! Images that were cut short or changed: an error or the same bytes, never a panic, and never other bytes, except where a
//! format protects nothing (its `SPEC.md` lists what).

mod common;

use std::sync::Arc;

use common::{Case, cases};
use tintype_formats::testing::{MemoryFile, ModelDisk, digest, exercise, open_disk};
use tintype_formats::{HostFile, HostFileMut};

/// More than one block of a VDI and of a VHDX.
const SMALL_DISK_BYTES: u64 = 3 << 19;

fn small_disk() -> ModelDisk {
    ModelDisk::random(11, SMALL_DISK_BYTES, 10, 30)
}

/// Where headers and other checked structures are: the bytes to flip, one by one.
fn header_places(case: &Case) -> Vec<u64> {
    match case.format.name {
        "qcow2" => (0..512).collect(),
        // The fields of the header, and the beginning of the embedded descriptor.
        "vmdk" => (0..80).chain(512..640).collect(),
        // The identifier, both headers, both region tables, the metadata table and its items.
        "vhdx" => [0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 2 << 20, (2 << 20) + (64 << 10)]
            .into_iter()
            .flat_map(|begin| begin..begin + 256)
            .collect(),
        // The footer of a fixed disk, at its end; else the copy of the footer, and the dynamic header: their fields, and
        // some of what is reserved.
        "vhd" if case.is_preallocated() => (SMALL_DISK_BYTES..SMALL_DISK_BYTES + 96).collect(),
        "vhd" => (0..96).chain(512..600).chain((96..1536).step_by(17)).collect(),
        // Without the banner and the comment; then the block map.
        "vdi" => (64..84).chain(340..472).chain((1 << 20)..(1 << 20) + 12).collect(),
        // The file's header, the first pack's header and the beginning of its first chunk.
        "tin" => (0..72).chain((72..1024).step_by(23)).collect(),
        _ => Vec::new(),
    }
}

/// Fields without any redundancy: another value is another disk.
fn is_unprotected(case: &Case, place: u64) -> bool {
    match case.format.name {
        // cluster_bits, size, l1_size, l1_table_offset; incompatible_features (data file, compression, extended L2).
        "qcow2" => matches!(place, 20..32 | 36..48 | 72..80 | 104),
        // capacity, gdOffset.
        "vmdk" => matches!(place, 12..20 | 56..64),
        // The metadata table and items have no checksum.
        "vhdx" => place >= 2 << 20,
        "vhd" | "tin" => false,
        // Where map and blocks begin; the sizes of disk, blocks and extra bytes; the map.
        "vdi" => matches!(place, 340..348 | 368..384) || place >= 1 << 20,
        _ => true,
    }
}

#[test]
fn flipped_header_bytes_give_an_error_or_the_same_disk() {
    for case in cases() {
        let disk = small_disk();
        let expected = digest(&disk).unwrap();
        let file = case.create(&disk);
        for place in header_places(&case) {
            // All bits of the byte, and one of them.
            for flip in [0xff, 1 << (place % 8)] {
                let mut byte = [0];
                let changed = Arc::new(file.duplicate());
                changed.read_exact_at(place, &mut byte).unwrap();
                changed.write_all_at(place, &[byte[0] ^ flip]).unwrap();
                let _ = exercise(case.format, changed.clone());
                let found = open_disk(changed, Some(case.format)).and_then(|image| digest(&image));
                let harmless = found.as_ref().map_or(true, |found| *found == expected);
                assert!(
                    harmless || is_unprotected(&case, place),
                    "{}: byte {place:#x} flipped by {flip:#x}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn random_damage_anywhere_never_panics() {
    for case in cases() {
        let file = case.create(&small_disk());
        let length = file.len_bytes().unwrap();
        let mut random = tintype_formats::testing::Random(5);
        for _ in 0..300 {
            let changed = Arc::new(file.duplicate());
            for _ in 0..1 + random.below(6) {
                // Tables come in whole entries: some damage is shaped like them.
                let place = random.below(length);
                let bytes = random.next_u64().to_be_bytes();
                let place = if random.below(2) == 0 { place } else { place & !7 };
                let kept = bytes.len().min((length - place) as usize);
                changed.write_all_at(place, &bytes[..kept]).unwrap();
            }
            let _ = exercise(case.format, changed);
        }
    }
}

#[test]
fn files_cut_short_give_an_error_or_the_same_disk() {
    for case in cases().iter().filter(|case| !case.is_raw()) {
        let disk = small_disk();
        let expected = digest(&disk).unwrap();
        let file = case.create(&disk);
        let length = file.len_bytes().unwrap();
        let step = if length > 1 << 20 { 64 << 10 } else { 4096 };
        let boundaries = (0..length).step_by(step);
        for cut in boundaries.flat_map(|boundary| [boundary.saturating_sub(1), boundary, boundary + 1]) {
            let shorter = Arc::new(MemoryFile::new());
            let mut bytes = vec![0; cut.min(length) as usize];
            file.read_exact_at(0, &mut bytes).unwrap();
            shorter.write_all_at(0, &bytes).unwrap();
            let _ = exercise(case.format, shorter.clone());
            let found = open_disk(shorter, Some(case.format)).and_then(|image| digest(&image));
            let harmless = found.as_ref().map_or(true, |found| *found == expected);
            assert!(harmless, "{}: cut at {cut:#x} of {length:#x}", case.name);
        }
    }
}
