//! Standard output as a file that can only be appended to.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tintype_formats::host_file::{HostFile, HostFileMut};
use tintype_formats::locks::Unpoisoned as _;

use crate::error::{Error, Kind, Result};
use crate::system::{self, durable};

/// A pipe or file behind standard output. Writes come in ascending order; what they leave out is written as zeros.
pub struct StandardOutput {
    state: Mutex<State>,
    /// Beside the state, which is held while a write waits for the reader.
    is_begun: AtomicBool,
}

struct State {
    file: File,
    position: u64,
    /// How long the output has to become.
    length_bytes: u64,
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl StandardOutput {
    /// Opens standard output; a terminal is refused.
    pub fn open() -> Result<Self> {
        if io::stdout().is_terminal() {
            return Err(Error::new(Kind::Usage, "a disk will not be written to a terminal; redirect standard output"));
        }
        if system::standard_output() == system::StandardOutput::Closed {
            return Err(Error::new(Kind::Io, "standard output is closed: a disk written to it would be lost"));
        }
        let output =
            io::stdout().as_fd().try_clone_to_owned().map_err(|cause| Error::io("open standard output", cause))?;
        let state = State { file: File::from(output), position: 0, length_bytes: 0 };
        Ok(StandardOutput { state: Mutex::new(state), is_begun: AtomicBool::new(false) })
    }

    /// Whether anything was written.
    pub fn is_begun(&self) -> bool {
        self.is_begun.load(Relaxed)
    }

    fn begin(&self) {
        self.is_begun.store(true, Relaxed);
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        work(&mut self.state.lock().unpoisoned())
    }
}

impl State {
    fn fill_to(&mut self, offset: u64) -> io::Result<()> {
        while self.position < offset {
            let step = (offset - self.position).min(ZEROS.len() as u64);
            self.file.write_all(&ZEROS[..step as usize])?;
            self.position += step;
        }
        Ok(())
    }
}

impl HostFile for StandardOutput {
    fn len_bytes(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.length_bytes.max(state.position)))
    }

    fn read_exact_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "standard output cannot be read back"))
    }
}

impl HostFileMut for StandardOutput {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.begin();
        self.with(|state| {
            if host_offset < state.position {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "standard output cannot go back"));
            }
            state.fill_to(host_offset)?;
            state.file.write_all(bytes)?;
            state.position += bytes.len() as u64;
            Ok(())
        })
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.begin();
        self.with(|state| state.fill_to(host_offset + length_bytes))
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.with(|state| {
            state.length_bytes = length_bytes;
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.begin();
        self.with(|state| {
            state.fill_to(state.length_bytes)?;
            if state.file.metadata()?.is_file() {
                return durable::sync_data(&state.file);
            }
            match state.file.sync_data() {
                // Pipes have nothing to sync.
                Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => Ok(()),
                done => done,
            }
        })
    }
}
