//! The names of segments: E01 to E99, then EAA to EZZ, FAA to FZZ, and so on to ZZZ.

/// Most segments that there can be: 99, and 26² for each letter from E to Z.
pub(super) const MAX_SEGMENTS: u32 = 99 + 22 * 26 * 26;

/// The name of segment `number`, beside a first segment of this name; `None` if that is no such name, or has no room.
pub(super) fn of_segment(first: &str, number: u32) -> Option<String> {
    let base = first.rsplit(['/', '\\']).next()?;
    let (stem, extension) = base.rsplit_once('.')?;
    let letter = extension.chars().next()?;
    if !letter.is_ascii_alphabetic() || extension.get(1..) != Some("01") || number < 2 {
        return None;
    }
    if number <= 99 {
        return Some(format!("{stem}.{letter}{number:02}"));
    }
    let (rest, third) = ((number - 100) / 26, (number - 100) % 26);
    let (first, second) = (rest / 26, rest % 26);
    let last_letter = if letter.is_ascii_uppercase() { b'Z' } else { b'z' };
    let a = last_letter - 25;
    let first = u8::try_from(first).ok().and_then(|first| (letter as u8).checked_add(first))?;
    let letters = [first, a + second as u8, a + third as u8].map(char::from);
    (first <= last_letter).then(|| format!("{stem}.{}", String::from_iter(letters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_counted_in_digits_and_then_in_letters() {
        let name = |number| of_segment("dir/a disk.E01", number);
        let expect = [(2, "E02"), (99, "E99"), (100, "EAA"), (126, "EBA"), (775, "EZZ"), (776, "FAA"), (14971, "ZZZ")];
        for (number, extension) in expect {
            assert_eq!(name(number), Some(format!("a disk.{extension}")));
        }
        assert_eq!(MAX_SEGMENTS, 14971);
        assert_eq!(name(14972), None);
        assert_eq!(of_segment("x.s01", 101).as_deref(), Some("x.sab"));
        assert_eq!(of_segment("x.raw", 2), None);
        assert_eq!(of_segment("E01", 2), None);
        assert_eq!(of_segment("x.ä01", 2), None);
    }
}
