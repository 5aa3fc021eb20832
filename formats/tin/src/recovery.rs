//! Recovery keys: secrets that are printed once and typed again years later (FORMAT.md §4).
//!
//! ```text
//! 7kmq-x2bd-…-p9wc     31 random letters and a check letter, in groups of four
//! ```

use std::fmt;

use zeroize::Zeroizing;

use crate::error::Result;
use crate::id::random;

/// The letters of a recovery key. The index of a letter is its value.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Number of letters, with the check letter.
const LENGTH: usize = 32;

/// Number of letters between two dashes.
const GROUP: usize = 4;

/// Most letters that are no letters of recovery keys in a text that is still taken for a mistyped one.
const MAX_STRANGE: usize = 2;

/// Most letters too many or too few in a text that is still taken for a mistyped one.
const MAX_OFF: usize = 2;

/// A recovery key. Wiped when it is dropped.
pub struct RecoveryKey(Zeroizing<[u8; LENGTH]>);

impl RecoveryKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self> {
        let random = Zeroizing::new(random::<LENGTH>()?);
        let mut letters = Zeroizing::new([0; LENGTH]);
        for (letter, byte) in letters.iter_mut().zip(random.iter()) {
            *letter = LETTERS[usize::from(byte % 32)];
        }
        letters[LENGTH - 1] = LETTERS[usize::from(times_x(remainder(&letters[..LENGTH - 1])))];
        Ok(RecoveryKey(letters))
    }

    /// Reads a key as people type it: in any case, with dashes and spaces anywhere. `None` if it is not whole and right.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut letters = Zeroizing::new([0; LENGTH]);
        let mut count = 0;
        for byte in text.iter().filter(|byte| !is_separator(**byte)) {
            let letter = byte.to_ascii_lowercase();
            *letters.get_mut(count).filter(|_| LETTERS.contains(&letter))? = letter;
            count += 1;
        }
        (count == LENGTH && remainder(&*letters) == 0).then_some(RecoveryKey(letters))
    }

    /// Returns true if the text looks like a recovery key, and is none.
    pub fn is_mistyped(text: &[u8]) -> bool {
        let letters = || text.iter().filter(|byte| !is_separator(**byte));
        let count = letters().count();
        let strange = letters().filter(|byte| !LETTERS.contains(&byte.to_ascii_lowercase())).count();
        let is_grouped = text.len() - count >= LENGTH / GROUP - 2;
        letters().all(u8::is_ascii_alphanumeric)
            && count.abs_diff(LENGTH) <= MAX_OFF
            && (is_grouped || strange <= MAX_STRANGE)
            && Self::read(text).is_none()
    }

    /// The bytes that slots are made with: the letters in lower case, without dashes.
    pub fn letters(&self) -> &[u8] {
        &*self.0
    }

    /// The key as it is printed.
    pub fn shown(&self) -> Zeroizing<String> {
        // Of the right size from the start: a string that grows leaves copies behind.
        let mut shown = Zeroizing::new(String::with_capacity(LENGTH + LENGTH / GROUP));
        for (index, letter) in self.0.iter().enumerate() {
            if index > 0 && index % GROUP == 0 {
                shown.push('-');
            }
            shown.push(char::from(*letter));
        }
        shown
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

fn is_separator(byte: u8) -> bool {
    byte == b'-' || byte.is_ascii_whitespace()
}

/// The letters' values as a polynomial over GF(32), the first letter highest, at x. It is 0 for a whole key, and never for one in
/// which one letter is another, or two neighbours have changed places.
fn remainder(letters: &[u8]) -> u8 {
    let value = |letter: &u8| LETTERS.iter().position(|known| known == letter).unwrap_or(0) as u8;
    letters.iter().fold(0, |sum, letter| times_x(sum) ^ value(letter))
}

/// Multiplies by x in GF(32), modulo x⁵ + x² + 1.
fn times_x(value: u8) -> u8 {
    let shifted = value << 1;
    if shifted & 32 == 0 { shifted } else { shifted ^ 0b100101 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        RecoveryKey::generate().unwrap().shown().to_string()
    }

    #[test]
    fn a_key_is_read_however_it_is_typed() {
        for _ in 0..100 {
            let key = key();
            assert_eq!(key.len(), LENGTH + LENGTH / GROUP - 1);
            let letters = key.replace('-', "");
            let typed = [key.to_uppercase(), letters.to_uppercase(), key.replace('-', " "), format!(" {letters}\r\n")];
            for text in typed.iter().chain([&key, &letters]) {
                assert_eq!(RecoveryKey::read(text.as_bytes()).unwrap().letters(), letters.as_bytes(), "{text}");
                assert!(!RecoveryKey::is_mistyped(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn every_wrong_letter_and_every_swap_of_neighbours_is_found() {
        let key = key().replace('-', "").into_bytes();
        for index in 0..LENGTH {
            for letter in LETTERS.iter().chain(b"01lo").filter(|letter| **letter != key[index]) {
                let mut wrong = key.clone();
                wrong[index] = *letter;
                assert!(RecoveryKey::read(&wrong).is_none() && RecoveryKey::is_mistyped(&wrong), "{index}");
            }
            let mut short = key.clone();
            short.remove(index);
            assert!(RecoveryKey::read(&short).is_none() && RecoveryKey::is_mistyped(&short), "{index}");
        }
        for index in 1..LENGTH {
            let mut swapped = key.clone();
            swapped.swap(index - 1, index);
            assert_eq!(RecoveryKey::read(&swapped).is_none(), swapped != key, "{index}");
        }
    }

    #[test]
    fn passwords_are_no_mistyped_keys() {
        for text in
            ["", "secret", "correct horse battery staple", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "ü-ü-ü-ü-ü-ü-ü-ü"]
        {
            assert!(!RecoveryKey::is_mistyped(text.as_bytes()), "{text}");
        }
    }

    /// The vector of FORMAT.md §14.
    #[test]
    fn the_check_letter_is_that_of_the_specification() {
        let key = "abcd-efgh-ijkm-npqr-stuv-wxyz-2345-678";
        let whole = LETTERS
            .iter()
            .filter(|letter| RecoveryKey::read(format!("{key}{}", char::from(**letter)).as_bytes()).is_some());
        assert_eq!(whole.copied().map(char::from).collect::<String>(), CHECK);
    }

    const CHECK: &str = "p";
}
