//! File names for what people named otherwise.

use percent_encoding::percent_encode_byte;

/// The longest name of a file, in bytes, less what may be put behind it.
const MAX_NAME_BYTES: usize = 200;

/// A name that a file can have: what cannot stand in it is written as `%2F`. Different names stay different.
pub fn file_name(name: &str) -> String {
    let mut safe = String::new();
    for (index, letter) in name.char_indices() {
        let hides = index == 0 && letter == '.';
        if letter == '/' || letter == '%' || letter.is_control() || hides {
            let mut bytes = [0; 4];
            safe.extend(letter.encode_utf8(&mut bytes).bytes().map(percent_encode_byte));
        } else {
            safe.push(letter);
        }
    }
    if safe.is_empty() {
        return "%".to_owned();
    }
    if safe.len() > MAX_NAME_BYTES {
        let digest = blake3::hash(name.as_bytes()).to_hex();
        let cut = (0..=MAX_NAME_BYTES).rev().find(|at| safe.is_char_boundary(*at)).unwrap_or(0);
        safe.truncate(cut);
        safe.push('%');
        safe.push_str(&digest[..16]);
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_those_of_files() {
        assert_eq!(file_name("web server"), "web server");
        assert_eq!(file_name("a/b%2Fc"), "a%2Fb%252Fc");
        assert_eq!([file_name(".."), file_name("."), file_name("")], ["%2E.", "%2E", "%"]);
        assert_eq!(file_name("a\n\u{85}"), "a%0A%C2%85");
        let long = [file_name(&"ä".repeat(300)), file_name(&"ä".repeat(301))];
        assert!(long[0].len() < 240 && long[0] != long[1]);
    }
}
