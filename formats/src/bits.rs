//! Bitmaps of sectors.

/// Which bit of a byte comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBit {
    /// The most significant one.
    Highest,
    /// The least significant one.
    Lowest,
}

/// Whether the bit at `first` is set, and how many bits from there on equal it: at least one, at most `max_bits`.
pub fn run_of_bits(bytes: &[u8], order: FirstBit, first: usize, max_bits: usize) -> (bool, u64) {
    let bit_at = |bit: usize| bytes.get(bit / 8).is_some_and(|byte| is_set(*byte, order, bit % 8));
    let (set, end) = (bit_at(first), first.saturating_add(max_bits).min(bytes.len() * 8));
    let whole = if set { 0xff } else { 0 };
    let mut bit = first + 1;
    while bit < end {
        if bit.is_multiple_of(8) && bytes.get(bit / 8) == Some(&whole) {
            bit += 8;
        } else if bit_at(bit) == set {
            bit += 1;
        } else {
            break;
        }
    }
    (set, (bit.min(end).max(first + 1) - first) as u64)
}

fn is_set(byte: u8, order: FirstBit, bit: usize) -> bool {
    match order {
        FirstBit::Highest => byte << bit & 0x80 != 0,
        FirstBit::Lowest => byte >> bit & 1 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_end_where_the_bits_change() {
        for (order, bytes) in [
            (FirstBit::Highest, [0b1110_0000, 0xff, 0xff, 0x80, 0, 0]),
            (FirstBit::Lowest, [0b0000_0111, 0xff, 0xff, 0x01, 0, 0]),
        ] {
            let run = |first, max_bits| run_of_bits(&bytes, order, first, max_bits);
            assert_eq!(run(0, 48), (true, 3));
            assert_eq!(run(3, 48), (false, 5));
            assert_eq!(run(8, 48), (true, 17));
            assert_eq!(run(8, 9), (true, 9));
            assert_eq!(run(25, 48), (false, 23));
            assert_eq!(run(25, 1), (false, 1));
        }
    }
}
