//! The terminal as it was.

use std::io;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How standard input was; it is so again when this is dropped. What another program sets there stays set for the shell, too.
pub struct Terminal {
    modes: Option<Termios>,
    flags: Option<OFlags>,
}

impl Terminal {
    /// Remembers how it is: its modes, if it is a terminal, and whether reads wait.
    pub fn remember() -> Terminal {
        Terminal { modes: tcgetattr(io::stdin()).ok(), flags: fcntl_getfl(io::stdin()).ok() }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If it has gone, there is nothing to restore.
        if let Some(modes) = &self.modes {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
        if let Some(flags) = self.flags {
            let _ = fcntl_setfl(io::stdin(), flags);
        }
    }
}
