//! Makes strings from files safe for a terminal.

/// The text with everything that could move a cursor, change a colour or reorder letters made visible.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || reorders(letter) {
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
        if (letter.is_control() && letter != '\n') || reorders(letter) {
            safe.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            safe.push(letter);
        }
    }
    safe
}

fn reorders(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
}
