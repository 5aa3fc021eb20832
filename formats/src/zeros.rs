//! Whether bytes are all zero, at the speed of memory.

const BLOCK_BYTES: usize = 4096;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Whether all of the bytes are zero: compared in blocks, so that the first byte of data ends it.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK_BYTES).all(|block| *block == ZEROS[..block.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_anywhere_is_seen() {
        let mut bytes = vec![0; 3 * BLOCK_BYTES + 5];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for place in [0, BLOCK_BYTES - 1, BLOCK_BYTES, bytes.len() - 1] {
            bytes[place] = 1;
            assert!(!is_zero(&bytes));
            bytes[place] = 0;
        }
    }
}
