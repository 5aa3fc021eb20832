//! Requests as they go to a server, and what begins its answers.

use std::io;

use crate::nbd_protocol::{REQUEST_BYTES, REQUEST_MAGIC, RequestHeader, command, errno};

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    WriteZeroes,
    BlockStatus,
}

impl Command {
    fn number(self) -> u16 {
        match self {
            Command::Read => command::READ,
            Command::Write => command::WRITE,
            Command::Disconnect => command::DISC,
            Command::Flush => command::FLUSH,
            Command::WriteZeroes => command::WRITE_ZEROES,
            Command::BlockStatus => command::BLOCK_STATUS,
        }
    }
}

/// A request for a range.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub command: Command,
    pub offset: u64,
    pub length_bytes: u32,
}

impl Request {
    /// As it goes to the server.
    pub fn encode(&self, cookie: u64) -> [u8; REQUEST_BYTES] {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: 0.into(),
            command: self.command.number().into(),
            cookie: cookie.into(),
            offset: self.offset.into(),
            length_bytes: self.length_bytes.into(),
        };
        zerocopy::transmute!(header)
    }
}

/// The begin of a server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The whole answer, but for the bytes that were read.
    Simple { error: u32 },
    /// A part of one.
    Chunk { is_last: bool, kind: u16, length_bytes: u32 },
}

/// The error that a server answered with.
pub fn server_error(number: u32, message: &str) -> io::Error {
    let (kind, name) = match number {
        errno::PERM => (io::ErrorKind::PermissionDenied, "operation not permitted"),
        errno::IO => (io::ErrorKind::Other, "input/output error"),
        errno::NOMEM => (io::ErrorKind::OutOfMemory, "out of memory"),
        errno::INVAL => (io::ErrorKind::InvalidInput, "invalid request"),
        errno::NOSPC => (io::ErrorKind::StorageFull, "no space left"),
        errno::OVERFLOW => (io::ErrorKind::InvalidInput, "request too long"),
        errno::NOTSUP => (io::ErrorKind::Unsupported, "not supported"),
        _ => (io::ErrorKind::Other, "unknown error"),
    };
    let message = if message.is_empty() { String::new() } else { format!(" (\"{}\")", message.escape_debug()) };
    io::Error::new(kind, format!("the NBD server answers with error {number}, {name}{message}"))
}

/// Takes numbers from the front of a message; fails where it ends too early.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| broken("a message is too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

/// The server does not keep to the protocol.
pub fn broken(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server does not speak NBD as it should: {what}"))
}
