//! What a machine shows on its screen, and whose doing that is.
//!
//! While a BIOS works, and most boot loaders and consoles after it, the screen is in *text mode*: 80 by 25 cells, which can be
//! read as they are. Anything else is *graphics*, of which only pictures can be compared.

/// A screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Screen {
    /// The lines of a screen in text mode.
    Text(Vec<String>),
    /// A picture.
    Graphics(Picture),
}

/// A picture of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// Red, green and blue of each pixel.
    pixels: Vec<u8>,
}

/// The largest picture that is looked at, in pixels: of a screen of 8192 by 8192.
const MAX_PIXELS: usize = 1 << 26;

/// What a machine's VGA shows in text mode: 80 by 25 cells of 9 by 16 pixels.
const TEXT_MODE: (usize, usize) = (720, 400);
const TEXT_COLUMNS: usize = 80;

/// How much of a picture has to differ so that it counts as another one: more than a cursor and a line of text.
const CHANGED_SHARE: f64 = 0.01;

/// How many letters have to be there so that a screen counts as drawn: more than a blinking prompt.
const DRAWN_LETTERS: usize = 40;

impl Picture {
    /// Reads a PPM file.
    pub fn parse(bytes: &[u8]) -> Option<Picture> {
        let mut rest = bytes.strip_prefix(b"P6")?;
        let mut numbers = [0usize; 3];
        for number in &mut numbers {
            let begin = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
            let length = rest[begin..].iter().position(u8::is_ascii_whitespace)?;
            *number = std::str::from_utf8(&rest[begin..begin + length]).ok()?.parse().ok()?;
            rest = &rest[begin + length..];
        }
        let ([width, height, 255], Some((_, pixels))) = (numbers, rest.split_first()) else { return None };
        let count = width.checked_mul(height).filter(|count| (1..=MAX_PIXELS).contains(count))?;
        (pixels.len() == count * 3).then(|| Picture { width, height, pixels: pixels.to_vec() })
    }

    /// Whether the screen is in text mode.
    pub fn is_text_mode(&self) -> bool {
        (self.width, self.height) == TEXT_MODE
    }

    fn pixels(&self) -> &[[u8; 3]] {
        self.pixels.as_chunks().0
    }

    /// Whether all but a cursor is of one colour.
    fn is_blank(&self) -> bool {
        let pixels = self.pixels();
        let Some(most) = most_frequent(pixels) else { return true };
        let others = pixels.iter().filter(|pixel| *pixel != most).count();
        (others as f64) < pixels.len() as f64 * CHANGED_SHARE / 10.0
    }

    fn differs_from(&self, other: &Picture) -> bool {
        if (self.width, self.height) != (other.width, other.height) {
            return true;
        }
        let changed = self.pixels().iter().zip(other.pixels()).filter(|(one, other)| one != other).count();
        changed as f64 > self.pixels().len() as f64 * CHANGED_SHARE
    }
}

/// The colour of more than half of the pixels; any, if no colour has so many.
fn most_frequent(pixels: &[[u8; 3]]) -> Option<&[u8; 3]> {
    let (mut candidate, mut lead) = (pixels.first()?, 0usize);
    for pixel in pixels {
        match lead {
            0 => (candidate, lead) = (pixel, 1),
            _ if pixel == candidate => lead += 1,
            _ => lead -= 1,
        }
    }
    Some(candidate)
}

/// The text of a screen in text mode: its memory has a letter and a colour for each cell.
pub fn text_of(cells: &[u8]) -> Vec<String> {
    let letters: Vec<char> = cells.as_chunks::<2>().0.iter().map(|[letter, _]| shown(*letter)).collect();
    letters.chunks(TEXT_COLUMNS).map(|line| line.iter().collect::<String>().trim_end().to_owned()).collect()
}

fn shown(letter: u8) -> char {
    match letter {
        0 => ' ',
        letter if letter.is_ascii() && !letter.is_ascii_control() => char::from(letter),
        // Frames and the like: something is there.
        _ => '\u{b7}',
    }
}

/// How lines begin that the firmware itself writes.
const OF_FIRMWARE: [&str; 8] = [
    "SeaBIOS (version",
    "Machine UUID",
    "iPXE (",
    "Booting from",
    "Boot failed",
    "No bootable device",
    "Press F12",
    "Press ESC",
];

/// What loaders and systems write when they cannot go on, and nobody is going to mend that by waiting.
const FAILURES: [&str; 16] = [
    "No bootable device",
    "No bootable option or device was found",
    "Missing operating system",
    "Operating system not found",
    "Error loading operating system",
    "Invalid partition table",
    "Non-System disk",
    "BOOTMGR is missing",
    "NTLDR is missing",
    "A disk read error occurred",
    "grub rescue>",
    "error: no such partition",
    "Kernel panic - not syncing",
    "UEFI Interactive Shell",
    "No DEFAULT or UI configuration directive found",
    "isolinux.bin missing or corrupt",
];

/// The longest of these is shorter.
pub const LONGEST_FAILURE_BYTES: usize = 64;

/// What says, in a text, that the machine cannot start.
pub fn failure_in(text: &str) -> Option<&'static str> {
    FAILURES.iter().copied().find(|failure| text.contains(failure))
}

impl Screen {
    /// What of its text says that the machine cannot start.
    pub fn failure(&self) -> Option<&'static str> {
        match self {
            Screen::Text(lines) => lines.iter().find_map(|line| failure_in(line)),
            Screen::Graphics(_) => None,
        }
    }

    /// Whether it shows something that the firmware did not draw; `before` is the last that was seen while the firmware worked.
    pub fn is_the_guests(&self, before: Option<&Screen>) -> bool {
        match self {
            Screen::Text(lines) => {
                let own = lines.iter().filter(|line| !OF_FIRMWARE.iter().any(|start| line.starts_with(start)));
                let letters: usize = own.map(|line| line.chars().filter(|letter| *letter != ' ').count()).sum();
                letters >= DRAWN_LETTERS
            }
            Screen::Graphics(picture) => match before {
                Some(Screen::Graphics(before)) => !picture.is_blank() && picture.differs_from(before),
                _ => !picture.is_blank(),
            },
        }
    }

    /// Whether it shows the same, but for a cursor or a clock.
    pub fn resembles(&self, other: &Screen) -> bool {
        match (self, other) {
            (Screen::Text(one), Screen::Text(other)) => {
                let letters = |lines: &[String]| lines.concat().chars().filter(|letter| *letter != ' ').count();
                let differ = one.iter().zip(other).filter(|(one, other)| one != other).count();
                differ <= 1 && letters(one).abs_diff(letters(other)) < TEXT_COLUMNS
            }
            (Screen::Graphics(one), Screen::Graphics(other)) => !one.differs_from(other),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, colour: impl Fn(usize) -> u8) -> Picture {
        let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
        bytes.extend((0..width * height).flat_map(|pixel| [colour(pixel); 3]));
        Picture::parse(&bytes).unwrap()
    }

    #[test]
    fn pictures_are_read_and_nothing_else_is() {
        assert!(picture(720, 400, |_| 0).is_text_mode());
        for wrong in [
            &b""[..],
            b"P6",
            b"P6\n1 1\n255",
            b"P6\n2 2\n255\nabc",
            b"P6 99999999999 99999999999 255 ",
            b"P5 1 1 255 abc",
        ] {
            assert_eq!(Picture::parse(wrong), None);
        }
    }

    #[test]
    fn a_cursor_changes_nothing_and_a_window_does() {
        let (blank, window) = (picture(100, 100, |_| 0), picture(100, 100, |pixel| u8::from(pixel < 500)));
        let cursor = picture(100, 100, |pixel| u8::from(pixel < 5));
        let [blank, window, cursor] = [blank, window, cursor].map(Screen::Graphics);
        assert!(window.is_the_guests(Some(&blank)) && window.is_the_guests(None));
        assert!(!window.is_the_guests(Some(&window)) && !cursor.is_the_guests(None) && !blank.is_the_guests(None));
        assert!(cursor.resembles(&blank) && !window.resembles(&blank));
    }

    #[test]
    fn the_firmwares_words_are_not_the_guests() {
        let text = |words: &[&str]| {
            let mut cells = vec![0; 4000];
            for (row, line) in words.iter().enumerate() {
                line.bytes().enumerate().for_each(|(column, letter)| cells[(row * 80 + column) * 2] = letter);
            }
            Screen::Text(text_of(&cells))
        };
        let words = ["SeaBIOS (version 1.16.3-debian-1.16.3-2)", "Booting from Hard Disk...", "No bootable device."];
        let firmware = text(&words);
        assert!(!firmware.is_the_guests(None));
        assert_eq!(firmware.failure(), Some("No bootable device"));
        let guest =
            text(&["Booting from Hard Disk...", "Welcome to a system that has quite something to say", "login:"]);
        assert!(guest.is_the_guests(None) && guest.failure().is_none());
        assert!(guest.resembles(&guest) && !guest.resembles(&firmware));
    }
}
