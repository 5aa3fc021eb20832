//! Names for files that are not whole yet.

use std::path::Path;

/// How the names end.
pub const SUFFIX: &str = ".partial";

/// Characters that a temporary name has more than the part of the final one: two dots, six random letters, the suffix.
const ADDED: usize = 2 + 6 + SUFFIX.len();

/// Names up to this many bytes fit everywhere.
const SHORT_BYTES: usize = 64;

/// Returns how the temporary name of a file begins, so that people see what it is going to be.
///
/// The whole temporary name is no longer than the final one, in characters and in bytes, or is short: it fits wherever that fits,
/// whether the file system counts bytes or the letters of UTF-16.
pub fn prefix(target: &Path) -> String {
    let name = target.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let name = name.replace(char::REPLACEMENT_CHARACTER, "_");
    let kept = match name.len() + ADDED {
        ..=SHORT_BYTES => usize::MAX,
        _ => name.chars().count().saturating_sub(ADDED),
    };
    format!(".{}.", name.chars().take(kept).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_as_short_as_the_final_ones() {
        for letter in ["x", "\u{e9}", "\u{5b57}", "\u{1f600}"] {
            for count in 1..=255 {
                let name = letter.repeat(count);
                let temporary = prefix(Path::new(&name)) + "123456" + SUFFIX;
                let utf16 = |text: &str| text.encode_utf16().count();
                let fits = temporary.len() <= name.len() && utf16(&temporary) <= utf16(&name);
                assert!(fits || temporary.len() <= SHORT_BYTES, "{temporary}");
            }
        }
        assert_eq!(prefix(Path::new("a/disk.raw")), ".disk.raw.");
    }
}
