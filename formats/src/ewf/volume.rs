//! The disk's numbers.

use std::ops::Range;

use zerocopy::FromBytes;

use super::checksum::read_checked;
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::limits::MAX_DISK_BYTES;

const READ_VOLUME: &str = "read EWF volume section";

/// Largest chunk, in bytes: 32,768 sectors, as many as libewf allows. EnCase makes 64.
const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// The disk's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub media_type: u8,
    pub sector_bytes: u64,
    pub chunk_bytes: u64,
    pub size_bytes: u64,
    /// The same in all segments; zeros in old images.
    pub set_id: [u8; 16],
}

impl Volume {
    /// Number of chunks of the disk.
    pub fn chunks(&self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_bytes)
    }

    /// Returns the number of the disk's bytes in a chunk: the last chunk may have fewer.
    pub fn chunk_length_bytes(&self, chunk: u64) -> u64 {
        self.size_bytes.saturating_sub(chunk.saturating_mul(self.chunk_bytes)).min(self.chunk_bytes)
    }

    /// The medium's kind, for people.
    pub fn media(&self) -> &'static str {
        match self.media_type {
            0x00 => "removable disk",
            0x01 => "fixed disk",
            0x03 => "optical disc",
            0x0e => "single files",
            0x10 => "memory",
            _ => "unknown",
        }
    }
}

pub(super) fn read_volume(file: &OpenFile, content: Range<u64>) -> Result<Volume> {
    let at = |error: ImageError| error.at_host(content.start);
    let length_bytes = content.end - content.start;
    let is_smart = length_bytes == SMART_VOLUME_BYTES;
    if !is_smart && length_bytes < VOLUME_BYTES {
        let detail = format!("it has {length_bytes} bytes, expected {VOLUME_BYTES} or {SMART_VOLUME_BYTES}");
        return Err(at(ImageError::corrupt(READ_VOLUME, detail)));
    }
    let bytes = read_checked(file, READ_VOLUME, content.start, length_bytes.min(VOLUME_BYTES))?;
    let bytes = bytes.ok_or_else(|| at(ImageError::corrupt(READ_VOLUME, "its Adler-32 is wrong")))?;
    let (header, _) =
        VolumeHeader::ref_from_prefix(&bytes).map_err(|_| at(ImageError::corrupt(READ_VOLUME, "it is too short")))?;
    let set_id = bytes.get(SET_ID_OFFSET..).and_then(|rest| rest.first_chunk()).copied().filter(|_| !is_smart);
    volume(header, is_smart, set_id.unwrap_or_default()).map_err(at)
}

fn volume(header: &VolumeHeader, is_smart: bool, set_id: [u8; 16]) -> Result<Volume> {
    let sector_bytes = u64::from(header.bytes_per_sector.get());
    if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
        let detail = format!("a sector has {sector_bytes} bytes, expected 512, 1024, 2048 or 4096");
        return Err(ImageError::unsupported(READ_VOLUME, detail));
    }
    let chunk_sectors = u64::from(header.sectors_per_chunk.get());
    let chunk_bytes = chunk_sectors * sector_bytes;
    if chunk_bytes == 0 {
        return Err(ImageError::corrupt(READ_VOLUME, "a chunk has no sectors"));
    }
    if chunk_bytes > MAX_CHUNK_BYTES {
        let detail = format!("a chunk has {chunk_bytes} bytes, at most {MAX_CHUNK_BYTES} are read");
        return Err(ImageError::limit_exceeded(READ_VOLUME, detail));
    }
    let high = if is_smart { 0 } else { u64::from(header.sector_count_high.get()) };
    let stated = high << 32 | u64::from(header.sector_count.get());
    // Who wrote to a pipe did not know.
    let sectors = if stated == 0 { u64::from(header.chunk_count.get()) * chunk_sectors } else { stated };
    let size_bytes = sectors.checked_mul(sector_bytes).filter(|size_bytes| *size_bytes <= MAX_DISK_BYTES);
    let size_bytes = size_bytes.ok_or_else(|| {
        let detail =
            format!("the disk has {sectors} sectors of {sector_bytes} bytes, at most {MAX_DISK_BYTES} bytes work");
        ImageError::limit_exceeded(READ_VOLUME, detail)
    })?;
    Ok(Volume { media_type: header.media_type, sector_bytes, chunk_bytes, size_bytes, set_id })
}
