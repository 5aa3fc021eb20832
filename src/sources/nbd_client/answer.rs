//! An answer that comes in pieces, and whether it is what was asked for.

use std::io;

use super::handshake::Export;
use super::wire::{Command, Request, broken};

/// What a range is, as block status has it: its length in bytes, and flags.
pub type StatusRun = (u32, u32);

/// How many pieces the answer to a read may come in, besides one for every sector.
const MAX_SPARE_CHUNKS: u32 = 16;

/// Where an answer goes.
pub enum Answer<'a> {
    Nothing,
    Bytes(&'a mut [u8]),
    Status(&'a mut Vec<StatusRun>),
}

/// How much of an answer has come.
pub struct Progress {
    request: Request,
    export: Export,
    /// How many of the bytes that were asked for have come.
    pub answered: u64,
    chunks: u32,
    /// The number and the message of the first error.
    pub error: Option<(u32, String)>,
    /// The ranges of the buffer that were filled.
    pieces: Vec<(usize, usize)>,
}

impl Progress {
    /// Nothing has come yet.
    pub fn new(request: Request, export: Export) -> Self {
        Progress { request, export, answered: 0, chunks: 0, error: None, pieces: Vec::new() }
    }

    /// The command that is answered.
    pub fn command(&self) -> Command {
        self.request.command
    }

    /// Counts a piece; fails if there are more than the command can need.
    pub fn count_chunk(&mut self) -> io::Result<()> {
        self.chunks += 1;
        match self.chunks <= self.request.length_bytes.min(self.export.max_bytes) / 512 + MAX_SPARE_CHUNKS {
            true => Ok(()),
            false => Err(broken("it answers in too many pieces")),
        }
    }

    /// The place of a piece in the buffer, which no other piece has.
    pub fn piece(&mut self, offset: u64, length_bytes: u32) -> io::Result<std::ops::Range<usize>> {
        let Request { offset: first, length_bytes: wanted, .. } = self.request;
        let begin = offset.checked_sub(first).filter(|begin| *begin < u64::from(wanted));
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(length_bytes.into())?));
        let range = range.filter(|range| !range.is_empty() && range.end <= u64::from(wanted));
        let range = range.ok_or_else(|| {
            broken(format!("it was asked for {wanted} bytes at {first} and answers with {length_bytes} at {offset}"))
        })?;
        self.answered += u64::from(length_bytes);
        self.pieces.push((range.start as usize, range.end as usize));
        Ok(range.start as usize..range.end as usize)
    }

    /// Checks that all was answered; gives the server's error, if it had one.
    pub fn end(mut self, answer: &Answer<'_>) -> io::Result<Option<(u32, String)>> {
        if self.error.is_some() {
            return Ok(self.error);
        }
        self.pieces.sort_unstable();
        let overlap = self.pieces.windows(2).any(|pair| matches!(pair, [(_, end), (begin, _)] if end > begin));
        let complete = match answer {
            Answer::Nothing => true,
            Answer::Bytes(buffer) => !overlap && self.answered == buffer.len() as u64,
            Answer::Status(runs) => !runs.is_empty(),
        };
        if complete { Ok(None) } else { Err(broken("its answer is not what was asked for, no less and no more")) }
    }
}
