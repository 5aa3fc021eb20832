//! The file as it would be after the log was replayed, without writing to it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::on_disk::LOG_SECTOR_BYTES;
use crate::host_file::{HostExtent, HostFile};

/// A host file with sectors of the log, and ranges of zeros, laid over it.
///
/// Everything that reads a file with an active log reads it through this; it is no file of the operating system any more.
pub(super) struct Overlay {
    base: Arc<dyn HostFile>,
    base_len_bytes: u64,
    len_bytes: u64,
    /// The log, whose data sectors have got their own first and last bytes back.
    log: Vec<u8>,
    /// By where they begin; they do not overlap, and begin and end at multiples of the log's sectors.
    pieces: BTreeMap<u64, Piece>,
}

#[derive(Clone, Copy)]
struct Piece {
    end: u64,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Zeros,
    /// One sector of the log, that begins here in it.
    LogSector(usize),
}

enum Segment<'a> {
    Base,
    Zeros,
    Bytes(&'a [u8]),
}

impl Overlay {
    /// Lays nothing over `base` yet.
    pub(super) fn new(base: Arc<dyn HostFile>, base_len_bytes: u64, log: Vec<u8>) -> Self {
        Overlay { base, base_len_bytes, len_bytes: base_len_bytes, log, pieces: BTreeMap::new() }
    }

    /// The log, for reading it and for giving its sectors their own bytes back.
    pub(super) fn log_mut(&mut self) -> &mut Vec<u8> {
        &mut self.log
    }

    /// Makes the file at least this long; what is new reads as zeros.
    pub(super) fn extend_to(&mut self, len_bytes: u64) {
        self.len_bytes = self.len_bytes.max(len_bytes);
    }

    /// Lays the sector that begins at `log_offset` over the file, and over what was laid there before.
    pub(super) fn put_sector(&mut self, host_offset: u64, log_offset: usize) {
        self.put(host_offset..host_offset.saturating_add(LOG_SECTOR_BYTES), Content::LogSector(log_offset));
    }

    /// Lays zeros over a range of the file, and over what was laid there before.
    pub(super) fn put_zeros(&mut self, range: Range<u64>) {
        self.put(range, Content::Zeros);
    }

    fn put(&mut self, range: Range<u64>, content: Content) {
        if range.is_empty() {
            return;
        }
        self.extend_to(range.end);
        // Only zeros are ever cut: a sector's piece is as small as the multiples that ranges begin and end at.
        if let Some((_, before)) = self.pieces.range_mut(..range.start).next_back()
            && before.end > range.start
        {
            let rest = Piece { end: before.end, ..*before };
            before.end = range.start;
            self.put_back(range.end, rest);
        }
        while let Some((begin, piece)) = self.pieces.range(range.clone()).next().map(|(begin, piece)| (*begin, *piece))
        {
            self.pieces.remove(&begin);
            self.put_back(range.end, piece);
        }
        self.pieces.insert(range.start, Piece { end: range.end, content });
    }

    fn put_back(&mut self, begin: u64, rest: Piece) {
        if rest.end > begin {
            self.pieces.insert(begin, rest);
        }
    }

    /// What lies at `host_offset`, and for how long at most `max_bytes`.
    fn segment_at(&self, host_offset: u64, max_bytes: u64) -> (Segment<'_>, u64) {
        if let Some((begin, piece)) = self.pieces.range(..=host_offset).next_back()
            && piece.end > host_offset
        {
            let length = max_bytes.min(piece.end - host_offset);
            return match piece.content {
                Content::Zeros => (Segment::Zeros, length),
                Content::LogSector(log_offset) => {
                    let within = (host_offset - begin) as usize;
                    let bytes = self.log.get(log_offset + within..).unwrap_or_default();
                    (Segment::Bytes(bytes), length)
                }
            };
        }
        let next = self.pieces.range(host_offset..).next().map_or(u64::MAX, |(begin, _)| *begin);
        let length = max_bytes.min(next - host_offset);
        match self.base_len_bytes.saturating_sub(host_offset) {
            0 => (Segment::Zeros, length),
            stored => (Segment::Base, length.min(stored)),
        }
    }
}

impl HostFile for Overlay {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if host_offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut host_offset, mut left) = (host_offset, buffer);
        while !left.is_empty() {
            let (segment, length) = self.segment_at(host_offset, left.len() as u64);
            let (part, rest) = left.split_at_mut(length as usize);
            match segment {
                Segment::Base => self.base.read_exact_at(host_offset, part)?,
                Segment::Zeros => part.fill(0),
                Segment::Bytes(bytes) => {
                    let bytes = bytes.get(..part.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                    part.copy_from_slice(bytes);
                }
            }
            host_offset += length;
            left = rest;
        }
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        match self.segment_at(host_offset, max_bytes) {
            (Segment::Base, length_bytes) => self.base.extent_at(host_offset, length_bytes),
            (Segment::Zeros, length_bytes) => Ok(HostExtent { length_bytes, hole: true }),
            (Segment::Bytes(_), length_bytes) => Ok(HostExtent { length_bytes, hole: false }),
        }
    }
}
