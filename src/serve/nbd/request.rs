//! Requests, as a client sends them. Pure functions: any bytes give a request, a [`Refusal`] or a [`Malformed`].

use super::errno::{Errno, Refusal};
use super::export::{Export, MAX_PAYLOAD_BYTES};
use super::option::Malformed;
use crate::nbd_protocol::{REQUEST_BYTES, REQUEST_MAGIC, RequestHeader, command, command_flag};

/// What a client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    /// Something that this server has never said it can do.
    Unknown(u16),
}

impl Command {
    fn of(number: u16) -> Command {
        match number {
            command::READ => Command::Read,
            command::WRITE => Command::Write,
            command::DISC => Command::Disconnect,
            command::FLUSH => Command::Flush,
            command::TRIM => Command::Trim,
            command::CACHE => Command::Cache,
            command::WRITE_ZEROES => Command::WriteZeroes,
            command::BLOCK_STATUS => Command::BlockStatus,
            other => Command::Unknown(other),
        }
    }

    fn changes_the_disk(self) -> bool {
        matches!(self, Command::Write | Command::Trim | Command::WriteZeroes)
    }

    /// The flags that it may have. "Force unit access" may stand anywhere, and means nothing where nothing is written.
    fn flags(self) -> u16 {
        command_flag::FUA
            | match self {
                Command::Read => command_flag::DF,
                Command::WriteZeroes => command_flag::NO_HOLE,
                Command::BlockStatus => command_flag::REQ_ONE,
                _ => 0,
            }
    }
}

/// A request, without the bytes that are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub command: Command,
    /// Flags of [`command_flag`].
    pub flags: u16,
    /// The client's number for it.
    pub cookie: u64,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much of it, in bytes.
    pub length_bytes: u32,
}

/// What the client and the server have agreed on, as far as it decides which requests make sense.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreed {
    /// Replies come in chunks.
    pub structured: bool,
    /// Block status can be asked for.
    pub block_status: bool,
}

impl Request {
    /// Reads the beginning of a request. After a malformed one nothing that follows can be understood.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Request, Malformed> {
        let header: RequestHeader = zerocopy::transmute!(*bytes);
        if header.magic.get() != REQUEST_MAGIC {
            let found = header.magic;
            return Err(Malformed(format!("a request begins with {found:#x}, expected {REQUEST_MAGIC:#x}")));
        }
        let request = Request {
            command: Command::of(header.command.get()),
            flags: header.flags.get(),
            cookie: header.cookie.get(),
            offset: header.offset.get(),
            length_bytes: header.length_bytes.get(),
        };
        if request.payload_bytes() > MAX_PAYLOAD_BYTES {
            let text = format!("a write of {} bytes, expected at most {MAX_PAYLOAD_BYTES}", request.length_bytes);
            return Err(Malformed(text));
        }
        Ok(request)
    }

    /// How many bytes follow, to be written.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == Command::Write { self.length_bytes } else { 0 }
    }

    /// Whether this flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The first byte after the range; the range was checked.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length_bytes.into())
    }

    /// Whether it makes sense for this export.
    pub fn check(&self, export: &Export, agreed: Agreed) -> Result<(), Refusal> {
        let refuse = |errno, message: String| Err(Refusal::new(errno, message));
        if let Command::Unknown(number) = self.command {
            return refuse(Errno::Invalid, format!("there is no command {number}"));
        }
        let flags = self.flags & !self.command.flags();
        if flags != 0 || (self.has(command_flag::DF) && !agreed.structured) {
            return refuse(Errno::Invalid, format!("flags {:#x} mean nothing here", self.flags));
        }
        if self.command.changes_the_disk() && export.writable().is_none() {
            return refuse(Errno::NotPermitted, "the export is read-only".to_owned());
        }
        if self.command == Command::Read && self.length_bytes > MAX_PAYLOAD_BYTES {
            let length_bytes = self.length_bytes;
            return refuse(Errno::Overflow, format!("{length_bytes} bytes at once; at most {MAX_PAYLOAD_BYTES}"));
        }
        if self.command == Command::BlockStatus && (!agreed.block_status || self.length_bytes == 0) {
            return refuse(Errno::Invalid, "block status of nothing, or without a metadata context".to_owned());
        }
        self.check_range(export)
    }

    fn check_range(&self, export: &Export) -> Result<(), Refusal> {
        if matches!(self.command, Command::Flush | Command::Disconnect) {
            return Ok(());
        }
        export.geometry().check_range(self.offset, self.length_bytes.into()).map_err(|_| {
            let (offset, length_bytes, size_bytes) = (self.offset, self.length_bytes, export.geometry().size_bytes);
            let errno = if self.command.changes_the_disk() { Errno::NoSpace } else { Errno::Invalid };
            Refusal::new(errno, format!("{length_bytes} bytes at {offset}; the disk has {size_bytes}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tintype_formats::testing::ModelDisk;
    use zerocopy::IntoBytes;

    use super::super::export::Access;
    use super::*;

    fn bytes(command: u16, flags: u16, offset: u64, length_bytes: u32) -> [u8; REQUEST_BYTES] {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: command.into(),
            cookie: 7.into(),
            offset: offset.into(),
            length_bytes: length_bytes.into(),
        };
        header.as_bytes().try_into().unwrap()
    }

    fn export() -> Export {
        Export::new("a", "", Access::ReadOnly(Arc::new(ModelDisk::random(1, 1 << 20, 4, 4))))
    }

    fn answer(command: u16, flags: u16, offset: u64, length_bytes: u32) -> Option<Errno> {
        let agreed = Agreed { structured: true, block_status: true };
        let request = Request::parse(&bytes(command, flags, offset, length_bytes)).unwrap();
        request.check(&export(), agreed).err().map(|refusal| refusal.errno)
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        assert_eq!(answer(command::READ, 0, 0, 1 << 20), None);
        assert_eq!(answer(command::READ, command_flag::DF, 1 << 20, 0), None);
        assert_eq!(answer(command::READ, 0, 1, 1 << 20), Some(Errno::Invalid));
        assert_eq!(answer(command::READ, 0, u64::MAX, u32::MAX), Some(Errno::Overflow));
        assert_eq!(answer(command::READ, 1 << 9, 0, 1), Some(Errno::Invalid));
        assert_eq!(answer(command::WRITE, 0, 0, 1), Some(Errno::NotPermitted));
        assert_eq!(answer(command::TRIM, 0, 0, 1), Some(Errno::NotPermitted));
        assert_eq!(answer(command::FLUSH, 0, u64::MAX, 0), None);
        assert_eq!(answer(command::BLOCK_STATUS, 0, 0, 0), Some(Errno::Invalid));
        assert_eq!(answer(99, 0, 0, 0), Some(Errno::Invalid));
    }

    #[test]
    fn a_write_that_nobody_can_hold_ends_the_connection() {
        assert!(Request::parse(&bytes(command::WRITE, 0, 0, MAX_PAYLOAD_BYTES)).is_ok());
        assert!(Request::parse(&bytes(command::WRITE, 0, 0, MAX_PAYLOAD_BYTES + 1)).is_err());
        let mut other = bytes(command::READ, 0, 0, 1);
        other[0] ^= 1;
        assert!(Request::parse(&other).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(number in 0u16..10, flags: u16, offset: u64, length_bytes: u32, junk: [u8; REQUEST_BYTES]) {
            let export = export();
            for bytes in [junk, bytes(number, flags, offset, length_bytes)] {
                if let Ok(request) = Request::parse(&bytes) {
                    let in_range = request.check(&export, Agreed::default()).is_ok();
                    let ranged = !matches!(request.command, Command::Flush | Command::Disconnect);
                    prop_assert!(!in_range || !ranged || request.end() <= 1 << 20);
                }
            }
        }
    }
}
