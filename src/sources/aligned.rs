//! Memory that direct I/O can read into.

use std::ops::{Deref, DerefMut};

use crate::system;

/// Alignment in bytes: a page, which is enough for every device.
pub const ALIGNMENT_BYTES: usize = 4096;

/// Size of a large page in bytes, on most machines.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Bytes that begin at a multiple of 4 KiB in memory.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Allocates a buffer of zeros.
    pub fn zeroed(length: usize) -> Self {
        Self::with(length, length, ALIGNMENT_BYTES)
    }

    /// Allocates a buffer of zeros that is used again and again, in large pages where the machine has them.
    pub fn for_many_reads(length: usize) -> Self {
        if length < LARGE_PAGE_BYTES / 2 {
            return Self::zeroed(length);
        }
        let room = length.next_multiple_of(LARGE_PAGE_BYTES);
        let mut buffer = Self::with(length, room, LARGE_PAGE_BYTES);
        system::prefer_large_pages(&mut buffer.bytes[buffer.begin..buffer.begin + room]);
        buffer
    }

    fn with(length: usize, room: usize, alignment_bytes: usize) -> Self {
        let bytes = vec![0; room + alignment_bytes];
        let begin = bytes.as_ptr().align_offset(alignment_bytes).min(alignment_bytes);
        AlignedBuffer { bytes, begin, length }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.length]
    }
}

/// Returns true if the memory begins where direct I/O can read into it.
pub fn is_aligned(buffer: &[u8]) -> bool {
    buffer.as_ptr().addr().is_multiple_of(ALIGNMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_any_length_are_aligned_and_zero() {
        for length in [0, 1, 511, 4096, 100_000, 1 << 20, (2 << 20) + 1] {
            for mut buffer in [AlignedBuffer::zeroed(length), AlignedBuffer::for_many_reads(length)] {
                assert!(is_aligned(&buffer) && buffer.len() == length && buffer.iter().all(|byte| *byte == 0));
                buffer.fill(1);
            }
        }
    }
}
