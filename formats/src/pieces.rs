//! A unit on its way into a file, for formats that store the guest's bytes as they are: which of them go where.

use std::ops::Range;

use crate::HostFileMut;
use crate::error::{ImageError, Result};
use crate::sink::GuestUnit;

/// A unit, and the places that parts of it have got.
pub struct Pieces<'a> {
    unit: GuestUnit<'a>,
    pieces: Vec<Piece>,
}

/// Bytes of a unit that go to one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Where they begin in the unit.
    offset: u64,
    length_bytes: u64,
    host_offset: u64,
}

impl<'a> Pieces<'a> {
    /// A unit of which no part has a place yet.
    pub fn new(unit: &GuestUnit<'a>) -> Self {
        Pieces { unit: *unit, pieces: Vec::new() }
    }

    /// The unit.
    pub fn unit(&self) -> &GuestUnit<'a> {
        &self.unit
    }

    /// Gives a guest range its place: a piece, or more of the last one if it continues that both in the unit and in the file.
    pub fn push(&mut self, range: Range<u64>, host_offset: u64) {
        let (offset, length_bytes) = (range.start - self.unit.guest_offset, range.end - range.start);
        match self.pieces.last_mut() {
            Some(last)
                if last.offset + last.length_bytes == offset && last.host_offset + last.length_bytes == host_offset =>
            {
                last.length_bytes += length_bytes;
            }
            _ => self.pieces.push(Piece { offset, length_bytes, host_offset }),
        }
    }

    /// Writes every piece at its place; `doing` is what an error says was attempted.
    pub fn write_to(&self, file: &dyn HostFileMut, doing: &'static str) -> Result<()> {
        self.pieces.iter().try_for_each(|piece| {
            self.unit
                .write_part(piece.offset, piece.length_bytes, file, piece.host_offset)
                .map_err(|cause| ImageError::io(doing, cause).at_host(piece.host_offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostFile as _;
    use crate::sink::{RunKind, UnitContent, UnitRun};
    use crate::testing::MemoryFile;

    #[test]
    fn what_adjoins_in_the_unit_and_in_the_file_is_one_piece() {
        let runs = [UnitRun { offset: 0, length_bytes: 8, kind: RunKind::Data }];
        let content = UnitContent::Bytes(b"abcdefgh");
        let unit = GuestUnit { guest_offset: 100, length_bytes: 8, content, runs: &runs };
        let mut pieces = Pieces::new(&unit);
        for (range, host_offset) in [(100..102, 4), (102..104, 6), (104..106, 0), (106..108, 2)] {
            pieces.push(range, host_offset);
        }
        assert_eq!(pieces.pieces.len(), 2);
        let file = MemoryFile::new();
        pieces.write_to(&file, "write").unwrap();
        let mut bytes = [0; 8];
        file.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"efghabcd");
    }
}
