//! Memory that the requests of all connections of a server share, in pieces of one size.
//!
//! Nobody waits for what another client holds. Where no piece is left, a request goes through the little memory that its
//! connection has of its own: slower, but as far.

use std::io::IoSlice;
use std::sync::Mutex;

use tintype_formats::locks::Unpoisoned as _;

/// How large a piece is, in bytes.
pub const PIECE_BYTES: usize = 256 << 10;

/// How many pieces that nobody uses are kept for the next ones: the system need not clear them again.
const MAX_SPARE: usize = 64;

type Piece = Box<[u8]>;

/// A number of pieces.
pub struct Budget(Mutex<State>);

struct State {
    /// Pieces that may be made.
    left: usize,
    /// Pieces that were made and are not used.
    spare: Vec<Piece>,
}

/// Pieces for so many bytes, until dropped. What they hold at first is anything.
pub struct Share<'a> {
    budget: &'a Budget,
    pieces: Vec<Piece>,
    length: usize,
}

impl Budget {
    /// As many pieces as there are in so many bytes.
    pub fn new(bytes: usize) -> Self {
        Budget(Mutex::new(State { left: bytes / PIECE_BYTES, spare: Vec::new() }))
    }

    /// Takes pieces for so many bytes, if there are enough.
    pub fn take(&self, length: usize) -> Option<Share<'_>> {
        let wanted = length.div_ceil(PIECE_BYTES);
        let mut state = self.0.lock().unpoisoned();
        let used_again = wanted.min(state.spare.len());
        state.left = state.left.checked_sub(wanted - used_again)?;
        let first = state.spare.len() - used_again;
        let mut pieces = state.spare.split_off(first);
        drop(state);
        pieces.resize_with(wanted, || vec![0; PIECE_BYTES].into());
        Some(Share { budget: self, pieces, length })
    }
}

impl Share<'_> {
    /// The bytes, part by part.
    pub fn parts_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut left = self.length;
        self.pieces.iter_mut().map(move |piece| {
            let length = left.min(PIECE_BYTES);
            left -= length;
            piece.get_mut(..length).unwrap_or_default()
        })
    }

    /// The bytes, as they are sent.
    pub fn slices(&mut self) -> impl Iterator<Item = IoSlice<'_>> {
        self.parts_mut().map(|part| IoSlice::new(part))
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.0.lock().unpoisoned();
        let kept = self.pieces.len().min(MAX_SPARE.saturating_sub(state.spare.len()));
        state.spare.extend(self.pieces.drain(..kept));
        drop(state);
        let gone = self.pieces.len();
        self.pieces.clear();
        self.budget.0.lock().unpoisoned().left += gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_no_more_is_there_than_was_said() {
        let budget = Budget::new(100 * PIECE_BYTES);
        for _ in 0..3 {
            let mut large = budget.take(70 * PIECE_BYTES - 1).unwrap();
            assert_eq!(large.parts_mut().map(|part| part.len()).sum::<usize>(), 70 * PIECE_BYTES - 1);
            assert!(budget.take(31 * PIECE_BYTES).is_none());
            let small: Vec<_> = (0..30).map(|_| budget.take(1).unwrap()).collect();
            assert!(budget.take(1).is_none());
            drop((large, small));
        }
        assert!(budget.0.lock().unpoisoned().spare.len() <= MAX_SPARE);
        assert!(budget.take(101 * PIECE_BYTES).is_none());
        assert!(budget.take(100 * PIECE_BYTES).is_some());
    }
}
