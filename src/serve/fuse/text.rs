//! A file that is a text.

use std::time::SystemTime;

/// A text that does not change.
pub struct Text {
    /// What it says.
    pub bytes: Vec<u8>,
    /// Time of the last change.
    pub changed: SystemTime,
}
