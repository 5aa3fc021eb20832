//! A file that is a text.

use std::time::SystemTime;

/// A text that does not change.
pub struct Text {
    /// What it says.
    pub bytes: Vec<u8>,
    /// When it was written.
    pub changed: SystemTime,
}
