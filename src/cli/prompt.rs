//! Asks for passwords at the terminal.
//!
//! The terminal shows what is typed again however the question ends: with an answer, by Ctrl-C, by Ctrl-Z (until `fg` asks again),
//! or by a signal from elsewhere. No crate was found that does all of it: `rpassword` 7.3 leaves the terminal silent after Ctrl-C,
//! and its later versions, which read single keys, know neither Ctrl-Z nor signals from elsewhere.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use tintype_formats::locks::Unpoisoned as _;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::system::CaughtSignals;

/// How often a person may type a password that opens nothing.
pub const TRIES: u32 = 3;

/// Longest answer in bytes: as much as the kernel keeps of a line.
const MAX_LINE_BYTES: usize = 4096;

/// What would leave the terminal silent, and what comes when the program goes on after it was stopped.
const SIGNALS: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT];

/// An answer, without the line feed. Wiped when it is dropped.
pub type Answer = Zeroizing<Vec<u8>>;

/// The terminal of this process.
pub struct Terminal(File);

impl Terminal {
    /// Opens the terminal, if this process has one.
    pub fn open() -> Result<Terminal> {
        let terminal = File::options().read(true).write(true).open("/dev/tty");
        terminal
            .ok()
            .filter(File::is_terminal)
            .map(Terminal)
            .ok_or_else(|| Error::new(Kind::WrongKey, "a password is needed, and there is no terminal to ask for it"))
    }

    /// Prints a line.
    pub fn say(&self, text: &str) {
        // The question that follows fails if the terminal is gone.
        let _ = writeln!(&self.0, "{text}");
    }

    /// Asks, without showing what is typed. Signals that end a program give [`Kind::Cancelled`].
    pub fn ask(&self, prompt: &str) -> Result<Answer> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unpoisoned();
        let doing = |cause| Error::io("ask for a password", cause);
        let before = tcgetattr(&self.0).map_err(|errno| doing(errno.into()))?;
        let mut signals = CaughtSignals::catch(&SIGNALS).map_err(doing)?;
        loop {
            let mut signal = match self.ask_once(prompt, &before, &signals).map_err(doing)? {
                Ok(answer) => return Ok(answer),
                Err(signal) => signal,
            };
            if signal == SIGTSTP {
                signals.stop().map_err(doing)?;
                signal = signals.next().map_err(doing)?.unwrap_or(SIGCONT);
            }
            if signal != SIGCONT && signal != SIGTSTP {
                return Err(Error::cancelled());
            }
        }
    }

    /// Asks until there is an answer, or a signal.
    fn ask_once(
        &self,
        prompt: &str,
        before: &Termios,
        signals: &CaughtSignals,
    ) -> io::Result<std::result::Result<Answer, i32>> {
        let _silence = match Silence::begin(&self.0, before, signals)? {
            Ok(silence) => silence,
            Err(signal) => return Ok(Err(signal)),
        };
        write!(&self.0, "{prompt}")?;
        let mut answer = Zeroizing::new(Vec::with_capacity(MAX_LINE_BYTES));
        let mut block = Zeroizing::new([0; MAX_LINE_BYTES]);
        loop {
            self.wait(signals)?;
            if let Some(signal) = signals.next()? {
                return Ok(Err(signal));
            }
            let count = match (&self.0).read(&mut block[..]) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let (line, is_whole) = match block[..count].iter().position(|byte| *byte == b'\n') {
                Some(end) => (&block[..end], true),
                None => (&block[..count], count == 0),
            };
            if answer.len() + line.len() > MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the password is too long"));
            }
            // Within its capacity: a vector that grows leaves a copy behind.
            answer.extend_from_slice(line);
            if is_whole {
                return Ok(Ok(answer));
            }
        }
    }

    /// Returns when there is something to read, or a signal.
    fn wait(&self, signals: &CaughtSignals) -> io::Result<()> {
        loop {
            let mut sources = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            match poll(&mut sources, None) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map(|_| ())?),
            }
        }
    }
}

/// Keeps the terminal from showing what is typed, until it is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: &'a Termios,
}

impl<'a> Silence<'a> {
    /// Gives a signal instead if one came meanwhile.
    fn begin(
        terminal: &'a File,
        before: &'a Termios,
        signals: &CaughtSignals,
    ) -> io::Result<std::result::Result<Self, i32>> {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK | LocalModes::ECHONL);
        // In the background this stops the process, until it is in the foreground again.
        while let Err(errno) = tcsetattr(terminal, OptionalActions::Flush, &silent) {
            match signals.next()? {
                _ if errno != Errno::INTR => return Err(errno.into()),
                None | Some(SIGCONT) => {}
                Some(signal) => return Ok(Err(signal)),
            }
        }
        Ok(Ok(Silence { terminal, before }))
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        while tcsetattr(self.terminal, OptionalActions::Now, self.before) == Err(Errno::INTR) {}
        // The line feed that was typed was not shown.
        let _ = writeln!(self.terminal);
    }
}
