//! Makes strings from files safe for a terminal.

use std::cmp::Ordering;

/// Characters that move, hide or reorder others, or that nobody sees: the general categories Cf, Zl and Zp of Unicode 16, and
/// what else its property Default_Ignorable_Code_Point names. In ascending order.
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// The text with everything that could move a cursor, change a colour, reorder letters or stay unseen made visible.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_unseen(letter) {
            safe.extend(letter.escape_default());
        } else {
            safe.push(letter);
        }
    }
    safe
}

/// The same for a JSON document, which says the same as before to a program. What is no string has no such letters but the
/// ends of lines, and in strings the first 32 are escaped already.
pub fn json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for letter in document.chars() {
        if (letter.is_control() && letter != '\n') || is_unseen(letter) {
            let mut units = [0; 2];
            letter.encode_utf16(&mut units).iter().for_each(|unit| safe.push_str(&format!("\\u{unit:04x}")));
        } else {
            safe.push(letter);
        }
    }
    safe
}

fn is_unseen(letter: char) -> bool {
    let compare = |(first, last): &(char, char)| match letter {
        _ if *last < letter => Ordering::Less,
        _ if *first > letter => Ordering::Greater,
        _ => Ordering::Equal,
    };
    UNSEEN.binary_search_by(compare).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_visible_and_the_rest_stays() {
        assert_eq!(printable("größe \"a\\b\""), "größe \"a\\b\"");
        let text = "a\u{9b}2J\n\u{202e}ß\u{7f}";
        let document = serde_json::to_string_pretty(&[text]).unwrap();
        assert!(json(&document).contains("a\\u009b2J\\n\\u202eß\\u007f"));
        assert_eq!(serde_json::from_str::<[String; 1]>(&json(&document)).unwrap(), [text]);
        assert_eq!(printable("\u{1b}[2J\n\u{202e}"), "\\u{1b}[2J\\n\\u{202e}");
    }

    #[test]
    fn unseen_characters_become_visible() {
        assert!(UNSEEN.windows(2).all(|pair| pair[0].1 < pair[1].0), "in order");
        for unseen in ['\u{61c}', '\u{200b}', '\u{2028}', '\u{2066}', '\u{feff}', '\u{e0041}', '\u{ad}', '\u{3164}'] {
            assert_eq!(printable(&format!("a{unseen}b")), format!("a\\u{{{:x}}}b", u32::from(unseen)));
            let document = serde_json::to_string_pretty(&[format!("a{unseen}b")]).unwrap();
            assert!(json(&document).is_ascii(), "{}", json(&document));
            let read: [String; 1] = serde_json::from_str(&json(&document)).unwrap();
            assert_eq!(read, [format!("a{unseen}b")]);
        }
        for seen in ["ａ", "é", "e\u{301}", "한", "👍", "\u{a0}"] {
            assert_eq!(printable(seen), seen);
        }
    }
}
