//! What the kernel gets to know of a failure, and who else does.

use std::io;

use fuser::Errno;

use crate::error::{Error, Kind, system_says};

/// Gets to know what went wrong: the kernel is told only a number.
pub trait Observer: Send + Sync {
    /// A request failed.
    fn failed(&self, doing: &str, cause: &Error);
}

/// The number for a failure.
pub(super) fn errno_of(cause: &Error) -> Errno {
    use tintype_formats::ErrorKind;
    match cause.kind() {
        Kind::NoSpace => Errno::ENOSPC,
        Kind::Denied => Errno::EROFS,
        Kind::Image(ErrorKind::OutOfRange) => Errno::EINVAL,
        _ if system_says(cause, io::ErrorKind::OutOfMemory) => Errno::ENOMEM,
        _ => Errno::EIO,
    }
}
