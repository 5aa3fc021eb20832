//! Checking: all checksums, and what opening does not look at.

use crc32fast::Hasher;

use super::codecs::Codec;
use super::read::{DmgImage, decode};
use super::tables::{Chunk, ChunkKind};
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};

/// What is read at once, in bytes.
const STEP_BYTES: u64 = 1 << 20;

/// Looks for damage in a file that could be opened; decodes all of it.
pub(super) fn check(image: &DmgImage, report: &mut CheckReport) -> Result<()> {
    check_places(image, report);
    check_partitions(image, report)?;
    check_master(image, report);
    check_data_fork(image, report)?;
    report.host_end_offset = image.layout.file_bytes;
    Ok(())
}

/// Every sector is in a chunk, every chunk in the data fork.
fn check_places(image: &DmgImage, report: &mut CheckReport) {
    let (layout, tables) = (&image.layout, &image.tables);
    let sectors = layout.sectors.max(tables.end_sector());
    if tables.end_sector() > layout.sectors {
        let text = format!("the disk has {} sectors, but its chunks reach to {sectors}", layout.sectors);
        report.corruption(layout.trailer_offset, text);
    }
    for gap in tables.gaps(sectors) {
        report.corruption(None, format_args!("no chunk holds the sectors from {} to {}", gap.start, gap.end - 1));
    }
    for chunk in tables.chunks.iter().filter(|chunk| chunk.is_stored()) {
        report.allocated_bytes += chunk.length_bytes();
        if chunk.host_offset < layout.data.start || chunk.host_end() > layout.data.end {
            let text = format!("the chunk of sector {} is outside of the data fork", chunk.first_sector);
            report.corruption(chunk.host_offset, text);
        }
    }
}

/// The partitions' checksums are those of their bytes, ignored chunks left out.
fn check_partitions(image: &DmgImage, report: &mut CheckReport) -> Result<()> {
    let tables = &image.tables;
    let mut hashers: Vec<_> = tables.partitions.iter().map(|_| Some(Hasher::new())).collect();
    let mut buffer = Vec::new();
    for chunk in &tables.chunks {
        let Some(slot) = hashers.get_mut(chunk.partition as usize) else { continue };
        match hash_chunk(image, chunk, slot.as_mut(), &mut buffer) {
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                *slot = None;
                let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                report.corruption(
                    chunk.host_offset,
                    format_args!("the chunk of sector {}: {error}{cause}", chunk.first_sector),
                );
            }
            Ok(()) => {}
        }
    }
    for (partition, hasher) in tables.partitions.iter().zip(hashers) {
        let (Some(expected), Some(hasher)) = (partition.crc, hasher) else { continue };
        let found = hasher.finalize();
        if found != expected {
            let name = partition.name.escape_debug();
            let text = format!("the CRC-32 of the partition \"{name}\" is {found:#010x}, expected {expected:#010x}");
            report.corruption(None, text);
        }
    }
    Ok(())
}

/// Adds a chunk's bytes to a checksum; decodes it even if nobody wants that.
fn hash_chunk(image: &DmgImage, chunk: &Chunk, hasher: Option<&mut Hasher>, buffer: &mut Vec<u8>) -> Result<()> {
    match chunk.kind {
        ChunkKind::Ignored => Ok(()),
        ChunkKind::Zero => {
            if let Some(hasher) = hasher {
                hasher.combine(&hasher_of_zeros(chunk.length_bytes()));
            }
            Ok(())
        }
        ChunkKind::Raw => hash_range(image, chunk.host_offset, chunk.host_end(), hasher, buffer),
        ChunkKind::Encoded(codec) => hash_encoded(image, chunk, codec, hasher, buffer),
    }
}

fn hash_encoded(
    image: &DmgImage,
    chunk: &Chunk,
    codec: Codec,
    hasher: Option<&mut Hasher>,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    buffer.resize(chunk.length_bytes() as usize, 0);
    decode(&image.file, chunk, codec, buffer)?;
    if let Some(hasher) = hasher {
        hasher.update(buffer);
    }
    Ok(())
}

fn hash_range(
    image: &DmgImage,
    begin: u64,
    end: u64,
    mut hasher: Option<&mut Hasher>,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let mut host_offset = begin;
    while host_offset < end {
        buffer.resize((end - host_offset).min(STEP_BYTES) as usize, 0);
        let read = image.file.file.read_exact_at(host_offset, buffer);
        read.map_err(|cause| ImageError::io("read DMG data", cause).at_host(host_offset))?;
        if let Some(hasher) = hasher.as_deref_mut() {
            hasher.update(buffer);
        }
        host_offset += buffer.len() as u64;
    }
    Ok(())
}

/// The checksum of so many zero bytes, by doubling: a table may speak of exabytes.
fn hasher_of_zeros(length_bytes: u64) -> Hasher {
    let (mut all, mut power) = (Hasher::new(), Hasher::new());
    power.update(&[0]);
    let mut left = length_bytes;
    while left > 0 {
        if left & 1 != 0 {
            all.combine(&power);
        }
        left >>= 1;
        // Not once too often: it counts its bytes.
        if left > 0 {
            let same = power.clone();
            power.combine(&same);
        }
    }
    all
}

/// The master checksum is that of the partitions' checksums, one after the other.
fn check_master(image: &DmgImage, report: &mut CheckReport) {
    let Some(expected) = image.layout.master_crc else { return };
    let mut hasher = Hasher::new();
    for crc in image.tables.partitions.iter().filter_map(|partition| partition.crc) {
        hasher.update(&crc.to_be_bytes());
    }
    let found = hasher.finalize();
    if found != expected {
        let text = format!("the CRC-32 of all partitions' checksums is {found:#010x}, expected {expected:#010x}");
        report.corruption(image.layout.trailer_offset, text);
    }
}

fn check_data_fork(image: &DmgImage, report: &mut CheckReport) -> Result<()> {
    let Some(expected) = image.layout.data_crc else { return Ok(()) };
    let (data, mut hasher) = (&image.layout.data, Hasher::new());
    hash_range(image, data.start, data.end, Some(&mut hasher), &mut Vec::new())?;
    let found = hasher.finalize();
    if found != expected {
        let text = format!("the CRC-32 of the data fork is {found:#010x}, expected {expected:#010x}");
        report.corruption(data.start, text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_hashed_by_their_number() {
        for length in [0, 1, 512, 513, 70_000] {
            let mut hasher = Hasher::new();
            hasher.update(b"before");
            hasher.combine(&hasher_of_zeros(length as u64));
            let mut plain = b"before".to_vec();
            plain.resize(6 + length, 0);
            assert_eq!(hasher.finalize(), crc32fast::hash(&plain));
        }
        hasher_of_zeros(crate::limits::MAX_DISK_BYTES);
    }
}
