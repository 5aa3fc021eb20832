//! Reading compressed grains: those that lie behind each other in the file are read at once.
//!
//! ```text
//!   | guest sector, length, zlib stream, padding | guest sector, length, ... |
//! ```
//!
//! Each says which part of the disk it is; one that says something else than the table that named it is damage.

use zerocopy::FromBytes;

use super::on_disk::*;
use super::tables::GrainMap;
use crate::codec;
use crate::error::{ImageError, Result};

const READ: &str = "read compressed grain";

/// Read at once, up to this many bytes and one more grain.
const MAX_READ_BYTES: u64 = 1 << 20;

/// Stored grains with consecutive numbers.
pub(super) struct GrainReader<'a> {
    map: &'a GrainMap,
    /// The number of the first one.
    first: u64,
    offsets: Vec<u64>,
    /// Where the one after the last begins, if that is known.
    next: Option<u64>,
}

/// Bytes of the file that hold some of the grains.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> GrainReader<'a> {
    /// Takes grains that are known to be stored.
    pub fn new(map: &'a GrainMap, first: u64, count: u64) -> Result<Self> {
        let (offsets, next) = map.stored_grains(first, count)?;
        Ok(GrainReader { map, first, offsets, next })
    }

    /// Fills `target` from the byte `skip_bytes` of the first grain on, as far as the grains go; returns how much that is.
    pub fn read(&self, skip_bytes: u64, target: &mut [u8]) -> Result<usize> {
        let grain_bytes = self.map.shape.grain_bytes;
        let (mut index, mut skip_bytes, mut done) = (0, skip_bytes, 0);
        while index < self.offsets.len() && done < target.len() {
            let count = self.adjoining(index);
            let window = self.load(index, count)?;
            for index in index..index + count {
                let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
                let length = (grain_bytes - skip_bytes).min(rest.len() as u64) as usize;
                self.decode(index, &window, skip_bytes, &mut rest[..length])?;
                (skip_bytes, done) = (0, done + length);
            }
            index += count;
        }
        Ok(done)
    }

    /// How many grains from `index` on follow each other closely enough to be read at once.
    fn adjoining(&self, index: usize) -> usize {
        let offsets = self.offsets.get(index..).unwrap_or_default();
        let start = offsets.first().copied().unwrap_or(0);
        let close = |pair: &&[u64]| {
            pair[1] > pair[0] && pair[1] - pair[0] <= self.longest_bytes() && pair[1] - start <= MAX_READ_BYTES
        };
        1 + offsets.windows(2).take_while(close).count()
    }

    /// What a grain takes at most, if it does not grow when it is compressed.
    fn longest_bytes(&self) -> u64 {
        self.map.shape.grain_bytes + self.map.shape.grain_bytes / 64 + 2 * SECTOR_BYTES
    }

    fn load(&self, index: usize, count: usize) -> Result<Window> {
        let (_, file_bytes) = self.map.file();
        let start = self.offsets.get(index).copied().unwrap_or(0);
        let last = self.offsets.get(index + count - 1).copied().unwrap_or(start);
        let next = self.offsets.get(index + count).copied().or(self.next);
        let longest = last.saturating_add(self.longest_bytes());
        let end = next.filter(|next| *next > last).map_or(longest, |next| next.min(longest)).min(file_bytes);
        self.read_range(start, end.saturating_sub(start))
    }

    fn read_range(&self, start: u64, length_bytes: u64) -> Result<Window> {
        let (file, file_bytes) = self.map.file();
        if length_bytes <= GRAIN_MARKER_BYTES as u64
            || start.checked_add(length_bytes).is_none_or(|end| end > file_bytes)
        {
            let detail = format!("it reaches past the end of the file ({file_bytes:#x})");
            return Err(ImageError::truncated(READ, detail).at_host(start));
        }
        let mut bytes = vec![0; length_bytes as usize];
        file.read_exact_at(start, &mut bytes).map_err(|cause| ImageError::io(READ, cause).at_host(start))?;
        Ok(Window { start, bytes })
    }

    /// Decodes a grain into `target`, from its byte `skip_bytes` on.
    fn decode(&self, index: usize, window: &Window, skip_bytes: u64, target: &mut [u8]) -> Result<()> {
        let offset = self.offsets.get(index).copied().unwrap_or(window.start);
        let stored = window.bytes.get((offset - window.start) as usize..).unwrap_or_default();
        if !self.map.shape.markers {
            return self.inflate(offset, stored, skip_bytes, target);
        }
        let stream_bytes = self.check_marker(index, offset, stored)?;
        let end = GRAIN_MARKER_BYTES + stream_bytes as usize;
        match stored.get(GRAIN_MARKER_BYTES..end) {
            Some(stream) => self.inflate(offset, stream, skip_bytes, target),
            None => {
                let whole = self.read_range(offset, end as u64)?;
                self.inflate(offset, whole.bytes.get(GRAIN_MARKER_BYTES..).unwrap_or_default(), skip_bytes, target)
            }
        }
    }

    /// Returns the length of the stream.
    fn check_marker(&self, index: usize, offset: u64, stored: &[u8]) -> Result<u32> {
        let Ok((marker, _)) = GrainMarker::read_from_prefix(stored) else {
            return Err(ImageError::truncated(READ, "the file ends in its marker").at_host(offset));
        };
        let grain_sectors = self.map.shape.grain_bytes / SECTOR_BYTES;
        let expected = (self.first + index as u64).saturating_mul(grain_sectors);
        if marker.sector.get() != expected {
            let found = marker.sector.get();
            let detail = format!("it says that it is guest sector {found:#x}, its table says {expected:#x}");
            return Err(ImageError::corrupt(READ, detail).at_host(offset));
        }
        let stream_bytes = marker.stream_bytes.get();
        let longest = self.map.shape.grain_bytes * 2;
        if stream_bytes == 0 || u64::from(stream_bytes) > longest {
            let detail = format!("its stream has {stream_bytes} bytes, expected 1 to {longest}");
            return Err(ImageError::corrupt(READ, detail).at_host(offset));
        }
        Ok(stream_bytes)
    }

    /// The last grain may expand to no more than the disk needs of it.
    fn inflate(&self, offset: u64, stream: &[u8], skip_bytes: u64, target: &mut [u8]) -> Result<()> {
        let grain_bytes = self.map.shape.grain_bytes as usize;
        let inflate = |output: &mut [u8], needed: usize| {
            let length = codec::inflate_zlib(stream, output).map_err(|cause| {
                let detail = format!("it does not expand to a grain of {grain_bytes} bytes");
                ImageError::corrupt(READ, detail).at_host(offset).caused_by(cause)
            })?;
            if length < needed {
                let detail = format!("it expands to {length} bytes, {needed} are needed");
                return Err(ImageError::corrupt(READ, detail).at_host(offset));
            }
            Ok(())
        };
        if target.len() == grain_bytes {
            return inflate(target, grain_bytes);
        }
        let mut whole = vec![0; grain_bytes];
        let skip_bytes = skip_bytes as usize;
        inflate(&mut whole, skip_bytes + target.len())?;
        target.iter_mut().zip(whole.iter().skip(skip_bytes)).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}
