//! Text from sysfs.

use std::path::Path;

/// The most letters of a serial number that are kept.
const MAX_LETTERS: usize = 128;

/// Reads one line of sysfs as text that can be printed; none if it says nothing.
pub fn text_of(path: &Path) -> Option<String> {
    clean(&std::fs::read(path).ok()?)
}

/// Returns what a disk said as text that can be printed; none if it says nothing, as disks do whose number is all zeros.
pub fn clean(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().filter(|letter| !letter.is_control()).take(MAX_LETTERS).collect();
    let text = text.trim();
    let number = text.split_once('.').map_or(text, |(_, number)| number);
    number.contains(|letter| letter != '0').then(|| text.to_owned())
}
