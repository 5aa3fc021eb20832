//! The terminal as it was.

use std::io;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How the terminal was; it is so again when this is dropped.
pub struct Terminal(Option<Termios>);

impl Terminal {
    /// Remembers how the terminal is, if there is one.
    pub fn remember() -> Terminal {
        Terminal(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // If it has gone, there is nothing to restore.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
