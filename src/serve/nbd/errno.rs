//! Errors as clients get them: a number of the protocol, and words for those who understand structured replies.

use std::io;

use tintype_formats::{ErrorKind, ImageError};

use crate::error::in_words;
use crate::nbd_protocol::errno;

/// The protocol's error numbers that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only, or the operating system says so.
    NotPermitted = errno::PERM,
    /// The disk could not be read or written.
    Io = errno::IO,
    /// No memory.
    NoMemory = errno::NOMEM,
    /// The request makes no sense, or reaches past the end.
    Invalid = errno::INVAL,
    /// No space, or a write past the end.
    NoSpace = errno::NOSPC,
    /// The request is longer than can be answered.
    Overflow = errno::OVERFLOW,
}

/// Why a request was not carried out.
#[derive(Debug)]
pub struct Refusal {
    /// The number.
    pub errno: Errno,
    /// What a person should know.
    pub message: String,
}

impl Refusal {
    /// A refusal with these words.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Refusal { errno, message: message.into() }
    }

    /// What became of a disk's error, and its causes.
    pub fn of(error: &ImageError) -> Self {
        Refusal { errno: errno_of(error), message: in_words(error) }
    }
}

fn errno_of(error: &ImageError) -> Errno {
    match (error.kind(), error.io_cause().map(io::Error::kind)) {
        (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => Errno::NoSpace,
        (_, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) => Errno::NotPermitted,
        (_, Some(io::ErrorKind::OutOfMemory)) => Errno::NoMemory,
        (ErrorKind::OutOfRange, _) => Errno::Invalid,
        _ => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_wrong_range_have_numbers_of_their_own() {
        let full = ImageError::io("write to the overlay", io::ErrorKind::StorageFull.into());
        assert_eq!(Refusal::of(&full).errno, Errno::NoSpace);
        assert_eq!(Refusal::of(&ImageError::out_of_range(1, 2, 3)).errno, Errno::Invalid);
        let damaged = ImageError::corrupt("read L2 table", "entry 17 is odd");
        assert_eq!(Refusal::of(&damaged).errno, Errno::Io);
        assert!(Refusal::of(&damaged).message.contains("entry 17"));
    }
}
