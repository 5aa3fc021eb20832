//! Gzip files read at any place, whole and damaged.

use std::io::Write as _;

use flate2::{Compression, GzBuilder};

use super::cursor::{HISTORY_BYTES, INPUT_BYTES};
use super::*;
use crate::testing::{CountingFile, MemoryFile, Random};

/// Text, noise and zeros in turn.
fn content(length: usize) -> Vec<u8> {
    let mut random = Random(3);
    let mut bytes = Vec::with_capacity(length + 70_000);
    while bytes.len() < length {
        let run = 1 + random.below(70_000) as usize;
        match random.below(3) {
            0 => bytes.extend((0..run).map(|_| random.next_u64() as u8)),
            1 => bytes.extend((0..run).map(|i| ((i * i) >> 5) as u8 & 0x1f)),
            _ => bytes.extend(vec![0; run]),
        }
    }
    bytes.truncate(length);
    bytes
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().filename("a name").comment("a comment").extra(vec![7; 300]);
    let mut encoder = builder.write(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> GzipFile {
    GzipFile::new(Arc::new(MemoryFile::from_bytes(bytes))).unwrap()
}

#[test]
fn any_place_can_be_read_and_the_end_is_known() {
    let bytes = content(9 << 20);
    let file = gzip(&packed(&bytes));
    let mut random = Random(8);
    for _ in 0..300 {
        let offset = random.below(bytes.len() as u64);
        let mut found = vec![0; (1 + random.below(400_000)).min(bytes.len() as u64 - offset) as usize];
        file.read_exact_at(offset, &mut found).unwrap();
        assert!(found == bytes[offset as usize..][..found.len()], "{offset:#x}");
    }
    assert_eq!(file.len_bytes().unwrap(), bytes.len() as u64);
    for (offset, length) in [(bytes.len() as u64, 1), (bytes.len() as u64 - 3, 4), (u64::MAX, 2), (1 << 60, 1)] {
        let error = file.read_exact_at(offset, &mut vec![0; length]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[test]
fn members_follow_each_other_and_padding_is_ignored() {
    let bytes = content(1 << 20);
    let mut file = Vec::new();
    let cuts = [0, 10, 10, CHUNK_BYTES as usize, CHUNK_BYTES as usize + 1, 777_777, bytes.len()];
    cuts.windows(2).for_each(|cut| file.extend(packed(&bytes[cut[0]..cut[1]])));
    for padding in [0, 1, 512] {
        let mut padded = file.clone();
        padded.resize(file.len() + padding, 0);
        let found = gzip(&padded);
        let mut whole = vec![0; bytes.len()];
        found.read_exact_at(0, &mut whole).unwrap();
        assert!(whole == bytes);
        assert_eq!(found.len_bytes().unwrap(), bytes.len() as u64);
    }
    assert_eq!(gzip(&packed(&[])).len_bytes().unwrap(), 0);
}

#[test]
fn reading_on_never_begins_again_and_readers_may_overtake_each_other() {
    let bytes = content(20 << 20);
    let packed = packed(&bytes);
    let counting = Arc::new(CountingFile::new(MemoryFile::from_bytes(&packed)));
    let file = GzipFile::new(counting.clone()).unwrap();
    // Four workers with units of 1 MiB: groups of four come in any order.
    for group in 0..5u64 {
        for unit in [2, 0, 3, 1] {
            let offset = (group * 4 + unit) << 20;
            let mut found = vec![0; 1 << 20];
            file.read_exact_at(offset, &mut found).unwrap();
            assert!(found == bytes[offset as usize..][..1 << 20]);
        }
    }
    assert!(counting.read_bytes() <= packed.len() as u64 + INPUT_BYTES, "{}", counting.read_bytes());
}

#[test]
fn memory_does_not_depend_on_the_length() {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(1));
    let zeros = vec![0; 1 << 20];
    (0..600).for_each(|_| encoder.write_all(&zeros).unwrap());
    let file = gzip(&encoder.finish().unwrap());
    assert_eq!(file.len_bytes().unwrap(), 600 << 20);
    let state = file.lock();
    let each = size_of::<Checkpoint>() + HISTORY_BYTES;
    assert!(state.checkpoints.len() > MAX_CHECKPOINTS / 2 && state.checkpoints.len() <= MAX_CHECKPOINTS);
    assert!(each * MAX_CHECKPOINTS + (MAX_CHUNKS * CHUNK_BYTES) as usize <= 30 << 20, "{each}");
}

#[test]
fn damage_and_cuts_are_errors() {
    let bytes = content(700_000);
    let whole = packed(&bytes);
    for cut in [0, 5, 11, 200, whole.len() / 2, whole.len() - 9, whole.len() - 8, whole.len() - 1] {
        assert!(gzip(&whole[..cut]).len_bytes().is_err(), "cut at {cut}");
    }
    let mut random = Random(1);
    for _ in 0..200 {
        // Bytes 4 to 9 are a time, hints and an operating system; the name and the rest follow.
        let place = 400 + random.below(whole.len() as u64 - 400) as usize;
        let mut changed = whole.clone();
        changed[place] ^= 1 << random.below(8);
        assert!(gzip(&changed).len_bytes().is_err(), "changed at {place}");
    }
}

#[test]
fn a_head_is_inflated_as_far_as_it_goes() {
    let bytes = content(100_000);
    let packed = packed(&bytes);
    let mut found = [0; 512];
    assert_eq!(inflate_head(&packed[..4096], &mut found), 512);
    assert_eq!(found[..], bytes[..512]);
    assert_eq!(inflate_head(&packed[..8], &mut found), 0);
    assert_eq!(inflate_head(b"no gzip file at all", &mut found), 0);
}
