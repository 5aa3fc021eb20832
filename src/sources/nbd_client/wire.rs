//! The numbers of the NBD protocol (its `doc/proto.md`), all big endian.

use std::io;

/// What a server says first, and that it speaks the newer dialect.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub const FLAG_NO_ZEROES: u16 = 2;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_SET_META_CONTEXT: u32 = 10;

pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_META_CONTEXT: u32 = 4;
pub const REP_ERROR_BIT: u32 = 1 << 31;
pub const REP_ERR_UNSUP: u32 = REP_ERROR_BIT | 1;
pub const REP_ERR_TLS_REQUIRED: u32 = REP_ERROR_BIT | 5;
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR_BIT | 6;

pub const INFO_EXPORT: u16 = 0;
pub const INFO_BLOCK_SIZE: u16 = 3;

pub const EXPORT_READ_ONLY: u16 = 1 << 1;
pub const EXPORT_FLUSH: u16 = 1 << 2;
pub const EXPORT_WRITE_ZEROES: u16 = 1 << 6;
pub const EXPORT_MULTI_CONN: u16 = 1 << 8;

pub const CHUNK_DONE: u16 = 1;
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_DATA: u16 = 1;
pub const CHUNK_HOLE: u16 = 2;
pub const CHUNK_STATUS: u16 = 5;
pub const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// Of `base:allocation`: the range reads as zeros.
pub const STATUS_ZERO: u32 = 1 << 1;

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
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
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
    pub fn encode(&self, cookie: u64) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.number().to_be_bytes());
        bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length_bytes.to_be_bytes());
        bytes
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
        1 => (io::ErrorKind::PermissionDenied, "operation not permitted"),
        5 => (io::ErrorKind::Other, "input/output error"),
        12 => (io::ErrorKind::OutOfMemory, "out of memory"),
        22 => (io::ErrorKind::InvalidInput, "invalid request"),
        28 => (io::ErrorKind::StorageFull, "no space left"),
        75 => (io::ErrorKind::InvalidInput, "request too long"),
        95 => (io::ErrorKind::Unsupported, "not supported"),
        _ => (io::ErrorKind::Other, "unknown error"),
    };
    let message = if message.is_empty() { String::new() } else { format!(" (\"{}\")", message.escape_debug()) };
    io::Error::new(kind, format!("the NBD server answers with error {number}, {name}{message}"))
}

/// The error number by which a server says that it is about to end.
pub const ERROR_SHUTDOWN: u32 = 108;

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
