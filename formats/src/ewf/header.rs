//! What an image says of itself: the disk's numbers, and who made it when.

use std::ops::Range;

use zerocopy::FromBytes;

use super::on_disk::*;
use super::segment::{Section, read_checked};
use crate::codec;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::Detail;
use crate::limits::MAX_DISK_BYTES;

const READ_VOLUME: &str = "read EWF volume section";

/// Largest chunk, in bytes: 32,768 sectors, as many as libewf allows. EnCase makes 64.
const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// Longest text of a header section that is shown, packed and unpacked, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
const MAX_HEADER_TEXT_BYTES: usize = 256 << 10;

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
    /// How many chunks the disk has.
    pub fn chunks(&self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_bytes)
    }

    /// How much of the disk a chunk has: the last one may have less than the others.
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

/// What the header sections say of the case, if they can be read; the Unicode one first.
pub(super) fn case_details(file: &OpenFile, notes: &[Section]) -> Result<Vec<(&'static str, Detail)>> {
    for kind in ["header2", "header"] {
        if let Some(section) = notes.iter().find(|section| section.kind == kind)
            && let Some(text) = read_text(file, section)?
        {
            return Ok(details(&text));
        }
    }
    Ok(Vec::new())
}

fn read_text(file: &OpenFile, section: &Section) -> Result<Option<String>> {
    let Range { start, end } = section.content;
    let mut packed = vec![0; (end - start).min(MAX_HEADER_BYTES) as usize];
    file.file
        .read_exact_at(start, &mut packed)
        .map_err(|cause| ImageError::io("read EWF header section", cause).at_host(start))?;
    let mut text = vec![0; MAX_HEADER_TEXT_BYTES];
    let Ok(length) = codec::inflate_zlib(&packed, &mut text) else { return Ok(None) };
    text.truncate(length);
    Ok(Some(match text.strip_prefix(b"\xff\xfe") {
        Some(utf_16) => {
            let units: Vec<_> = utf_16.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            String::from_utf16_lossy(&units)
        }
        None => String::from_utf8_lossy(&text).into_owned(),
    }))
}

/// The third line has the fields' names, the fourth their values.
fn details(text: &str) -> Vec<(&'static str, Detail)> {
    const FIELDS: [(&str, &str); 7] = [
        ("c", "case_number"),
        ("n", "evidence_number"),
        ("a", "description"),
        ("e", "examiner"),
        ("t", "notes"),
        ("av", "software_version"),
        ("ov", "operating_system"),
    ];
    let mut lines = text.lines().skip(2);
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found: Vec<_> = names.split('\t').zip(values.split('\t')).collect();
    let value =
        |field: &str| found.iter().find(|(name, value)| *name == field && !value.is_empty()).map(|(_, value)| *value);
    FIELDS.iter().filter_map(|(field, name)| Some((*name, value(field)?.into()))).collect()
}
