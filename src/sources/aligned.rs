//! Memory that direct I/O can read into.

use std::ops::{Deref, DerefMut};

/// Alignment in bytes: a page, which is enough for every device.
pub const ALIGNMENT_BYTES: usize = 4096;

/// Bytes that begin at a multiple of [`ALIGNMENT_BYTES`] in memory.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Allocates a buffer of zeros.
    pub fn zeroed(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT_BYTES];
        let begin = bytes.as_ptr().align_offset(ALIGNMENT_BYTES).min(ALIGNMENT_BYTES);
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
        for length in [0, 1, 511, 4096, 100_000, 1 << 20] {
            let buffer = AlignedBuffer::zeroed(length);
            assert!(is_aligned(&buffer) && buffer.len() == length && buffer.iter().all(|byte| *byte == 0));
        }
    }
}
