//! The suite that every disk passes, whatever format it is in.

use super::Random;
use crate::error::{ErrorKind, Result};
use crate::extent::{DiskExtent, DiskKind};
use crate::source::BlockSource;
use crate::zeros::is_zero;

/// Reads a whole disk; for small ones.
pub fn read_all(disk: &dyn BlockSource) -> Result<Vec<u8>> {
    let mut bytes = vec![0; disk.geometry().size_bytes as usize];
    disk.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The BLAKE3 digest of a disk's size and data, without reading what reads as zeros; for disks of any size.
///
/// Blocks of 4 KiB are hashed whole, so that it does not depend on how the disk is cut into extents.
pub fn digest(disk: &dyn BlockSource) -> Result<blake3::Hash> {
    const BLOCK_BYTES: u64 = 4096;
    let size_bytes = disk.geometry().size_bytes;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size_bytes.to_le_bytes());
    let mut buffer = vec![0; 64 * BLOCK_BYTES as usize];
    let mut hashed_to = 0;
    for (offset, extent) in walk(disk)? {
        let end = (offset + extent.length_bytes).next_multiple_of(BLOCK_BYTES).min(size_bytes);
        let mut begin = (offset - offset % BLOCK_BYTES).max(hashed_to);
        while begin < end && !extent.kind.reads_as_zeros() {
            let part = &mut buffer[..(end - begin).min(64 * BLOCK_BYTES) as usize];
            disk.read_at(begin, part)?;
            for (index, block) in part.chunks(BLOCK_BYTES as usize).enumerate() {
                if !is_zero(block) {
                    hasher.update(&(begin + index as u64 * BLOCK_BYTES).to_le_bytes());
                    // By itself, since the hash is fast only from the beginning of what it gets.
                    hasher.update(blake3::hash(block).as_bytes());
                }
            }
            begin += part.len() as u64;
            hashed_to = begin;
        }
    }
    Ok(hasher.finalize())
}

/// All extents of a disk.
fn walk(disk: &dyn BlockSource) -> Result<Vec<(u64, DiskExtent)>> {
    let size_bytes = disk.geometry().size_bytes;
    let (mut offset, mut extents) = (0, Vec::new());
    while offset < size_bytes {
        let extent = disk.extent_at(offset, size_bytes - offset)?;
        assert!(extent.length_bytes > 0, "an empty extent at {offset:#x}");
        assert!(extent.length_bytes <= size_bytes - offset, "the extent at {offset:#x} goes past the end");
        extents.push((offset, extent));
        offset += extent.length_bytes;
    }
    Ok(extents)
}

/// Checks what [`BlockSource`] promises; panics with what is broken. `seed` chooses the random places.
pub fn check_disk(disk: &dyn BlockSource, seed: u64) -> Result<()> {
    let extents = walk(disk)?;
    check_edges(disk);
    check_random_lookups(disk, &extents, seed)?;
    check_random_reads(disk, &extents, seed)?;
    check_threads(disk, seed);
    Ok(())
}

fn check_edges(disk: &dyn BlockSource) {
    let size = disk.geometry().size_bytes;
    for offset in [size, size + 1, u64::MAX - 1, u64::MAX] {
        for length in [1, 512, u64::MAX] {
            let error = disk.extent_at(offset, length).expect_err("an extent past the end");
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "extent_at({offset:#x}, {length:#x})");
        }
        let error = disk.read_at(offset, &mut [0; 512]).expect_err("a read past the end");
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "read_at({offset:#x})");
    }
    disk.read_at(size, &mut []).expect("reading nothing at the end");
    if size > 0 {
        let mut beyond = vec![0; 1024];
        assert!(disk.read_at(size - 512, &mut beyond).is_err(), "a read over the end succeeds");
        disk.read_at(size - 1, &mut [0]).expect("reading the last byte");
        let extent = disk.extent_at(size - 1, u64::MAX).expect("the extent of the last byte");
        assert_eq!(extent.length_bytes, 1);
    }
}

fn check_random_lookups(disk: &dyn BlockSource, extents: &[(u64, DiskExtent)], seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let size = disk.geometry().size_bytes;
    for _ in 0..if size == 0 { 0 } else { 500 } {
        let offset = random.below(size);
        let found = disk.extent_at(offset, 1 + random.below(1 << 22))?;
        let walked = kind_by_walk(extents, offset);
        assert_eq!(found.kind, walked, "the extent at {offset:#x} differs from the walk");
        let last = offset + found.length_bytes - 1;
        let (walked, found) = (kind_by_walk(extents, last), found.kind.advanced(found.length_bytes - 1));
        assert_eq!(found, walked, "the extent from {offset:#x} does not reach {last:#x} as one kind");
    }
    Ok(())
}

fn kind_by_walk(extents: &[(u64, DiskExtent)], offset: u64) -> DiskKind {
    let index = extents.partition_point(|(start, _)| *start <= offset) - 1;
    let (start, extent) = extents[index];
    extent.kind.advanced(offset - start)
}

/// Random reads agree with each other however they are cut, with the host file where there is one, and with zeros.
fn check_random_reads(disk: &dyn BlockSource, extents: &[(u64, DiskExtent)], seed: u64) -> Result<()> {
    let mut random = Random(!seed);
    for _ in 0..if extents.is_empty() { 0 } else { 200 } {
        let (start, extent) = extents[random.below(extents.len() as u64) as usize];
        let offset = start + random.below(extent.length_bytes);
        let length = (1 + random.below(200_000)).min(disk.geometry().size_bytes - offset) as usize;
        let mut whole = vec![0xaa; length];
        disk.read_at(offset, &mut whole)?;
        let mut halves = vec![0x55; length];
        let cut = random.below(length as u64) as usize;
        disk.read_at(offset + cut as u64, &mut halves[cut..])?;
        disk.read_at(offset, &mut halves[..cut])?;
        assert!(whole == halves, "a read at {offset:#x} of {length} bytes differs when it is cut at {cut}");
        check_against_extents(disk, offset, &whole)?;
    }
    Ok(())
}

fn check_against_extents(disk: &dyn BlockSource, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let extent = disk.extent_at(offset + done as u64, (bytes.len() - done) as u64)?;
        let part = &bytes[done..done + extent.length_bytes as usize];
        match extent.kind {
            DiskKind::Zero | DiskKind::Hole => {
                assert!(is_zero(part), "data in a zero range at {:#x}", offset + done as u64);
            }
            DiskKind::Data(Some(range)) => {
                let mut stored = vec![0; part.len()];
                let file = &disk.host_files()[range.file.0].file;
                file.read_exact_at(range.host_offset, &mut stored).expect("reading the host range");
                assert!(part == stored, "the host range of guest offset {:#x} holds other bytes", offset + done as u64);
            }
            DiskKind::Data(None) | DiskKind::Encoded | DiskKind::Inherited => {}
        }
        done += part.len();
    }
    Ok(())
}

fn check_threads(disk: &dyn BlockSource, seed: u64) {
    let sample = |seed: u64| {
        let mut random = Random(seed);
        let mut hasher = blake3::Hasher::new();
        let size = disk.geometry().size_bytes;
        for _ in 0..if size == 0 { 0 } else { 40 } {
            let offset = random.below(size);
            let mut bytes = vec![0; (1 + random.below(70_000)).min(size - offset) as usize];
            disk.read_at(offset, &mut bytes).expect("a read");
            let extent = disk.extent_at(offset, bytes.len() as u64).expect("an extent");
            hasher.update(&bytes);
            hasher.update(format!("{extent:?}").as_bytes());
        }
        hasher.finalize()
    };
    let alone: Vec<_> = (0..8).map(|thread| sample(seed ^ thread)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|thread| scope.spawn(move || sample(seed ^ thread))).collect();
        for (thread, alone) in threads.into_iter().zip(alone) {
            assert_eq!(thread.join().expect("a thread"), alone, "eight threads read something else than one");
        }
    });
}
