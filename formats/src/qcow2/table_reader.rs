//! Reads a table whose entries differ in length (snapshots, bitmaps) front to back, a piece of the file at a time.

use crate::error::{ImageError, Result};
use crate::host_file::HostFile;

const PIECE_BYTES: u64 = 64 << 10;

/// A place in such a table.
pub(super) struct TableReader<'a> {
    file: &'a dyn HostFile,
    file_bytes: u64,
    doing: &'static str,
    start: u64,
    max_bytes: u64,
    position: u64,
    piece: Vec<u8>,
    piece_start: u64,
}

impl<'a> TableReader<'a> {
    /// Begins at host offset `start` and goes on for `max_bytes` at most; `doing` is for errors.
    pub fn new(
        file: &'a dyn HostFile,
        file_bytes: u64,
        doing: &'static str,
        start: u64,
        max_bytes: u64,
    ) -> TableReader<'a> {
        let piece = Vec::new();
        TableReader { file, file_bytes, doing, start, max_bytes, position: start, piece, piece_start: start }
    }

    /// The host offset of what comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `length` bytes, a number that fits into 16 bits or has been held against a bound.
    pub fn take_vec(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Goes to the next multiple of 8 bytes from the table's begin.
    pub fn skip_padding(&mut self) {
        let padding = (self.position - self.start).wrapping_neg() % 8;
        // The padding of the last entry may be missing at the end of the file.
        self.position = (self.position + padding).min(self.file_bytes);
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let within = (self.position - self.piece_start) as usize;
            let available = self.piece.get(within..).unwrap_or_default();
            if available.is_empty() {
                self.read_piece()?;
                continue;
            }
            let step = available.len().min(rest.len());
            rest.iter_mut().zip(available).for_each(|(to, from)| *to = *from);
            done += step;
            self.position += step as u64;
        }
        Ok(())
    }

    fn read_piece(&mut self) -> Result<()> {
        if self.position - self.start >= self.max_bytes {
            let detail = format!("it is longer than {} bytes", self.max_bytes);
            return Err(ImageError::limit_exceeded(self.doing, detail).at_host(self.start));
        }
        let length = self.file_bytes.saturating_sub(self.position).min(PIECE_BYTES);
        if length == 0 {
            let detail = format!("the file ends at {:#x}, before the table does", self.file_bytes);
            return Err(ImageError::truncated(self.doing, detail).at_host(self.start));
        }
        self.piece.resize(length as usize, 0);
        self.piece_start = self.position;
        let read = self.file.read_exact_at(self.position, &mut self.piece);
        read.map_err(|cause| ImageError::io(self.doing, cause).at_host(self.position))
    }
}
