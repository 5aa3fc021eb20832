//! Has the kernel pass pages of a host file to a socket, without a copy through this process.
//!
//! By way of a pipe: what cannot be read is found out before the reply has begun.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::budget::PIECE_BYTES;
use crate::channel::{Socket, check_time};

/// Room for a piece that begins and ends in the middle of a page.
const PIPE_BYTES: usize = 2 * PIECE_BYTES;

/// A pipe, and how much is in it.
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    filled_bytes: usize,
}

impl Pipe {
    /// An empty pipe; none if the system gives only small ones, with which it is not worth the calls.
    pub fn new() -> Option<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&writer, PIPE_BYTES).ok()?;
        (size >= PIPE_BYTES).then_some(Pipe { reader, writer, filled_bytes: 0 })
    }

    /// How much is in it.
    pub fn filled_bytes(&self) -> usize {
        self.filled_bytes
    }

    /// Takes bytes of a file, as many as fit and can be read: none if the first cannot.
    pub fn fill(&mut self, file: &File, host_offset: u64, length_bytes: usize) {
        let mut at = host_offset;
        while self.filled_bytes < length_bytes {
            let want = length_bytes - self.filled_bytes;
            // A full pipe is an error, not a wait for whoever empties it: that is this thread.
            let flags = SpliceFlags::NONBLOCK;
            match rustix::io::retry_on_intr(|| splice(file, Some(&mut at), &self.writer, None, want, flags)) {
                Ok(0) | Err(_) => return,
                Ok(moved) => self.filled_bytes += moved,
            }
        }
    }

    /// Sends all that is in it.
    pub fn send(&mut self, socket: &Socket) -> io::Result<()> {
        let deadline = socket.write_deadline(self.filled_bytes);
        while self.filled_bytes > 0 {
            let (want, flags) = (self.filled_bytes, SpliceFlags::empty());
            match rustix::io::retry_on_intr(|| splice(&self.reader, None, socket, None, want, flags))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => self.filled_bytes -= moved.min(self.filled_bytes),
            }
            check_time(self.filled_bytes == 0, deadline)?;
        }
        Ok(())
    }
}

/// A worker's pipe: made when it is first needed, and not asked for again where there is none.
#[derive(Default)]
pub enum LazyPipe {
    #[default]
    Untried,
    None,
    Some(Pipe),
}

impl LazyPipe {
    /// The pipe, if there is one.
    pub fn get(&mut self) -> Option<&mut Pipe> {
        if matches!(self, LazyPipe::Untried) {
            *self = Pipe::new().map_or(LazyPipe::None, LazyPipe::Some);
        }
        match self {
            LazyPipe::Some(pipe) => Some(pipe),
            _ => None,
        }
    }
}
