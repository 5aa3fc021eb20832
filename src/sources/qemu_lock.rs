//! Whether QEMU holds an image open for writing.
//!
//! QEMU keeps locks on single bytes of its images: byte `100 + n` for each permission `n` that it uses. A lock on the
//! bytes of "write" or "resize" means that the content changes while it is read (QEMU, `block/file-posix.c`).

use std::fs::File;

use crate::system;

const WRITE_PERMISSION_BYTE: i64 = 101;
const RESIZE_PERMISSION_BYTE: i64 = 103;

/// Whether somebody uses the image with the permission to write or resize it.
///
/// Where the file system has no such locks there is nothing to find.
pub fn is_held_for_writing(file: &File) -> bool {
    [WRITE_PERMISSION_BYTE, RESIZE_PERMISSION_BYTE].into_iter().any(|byte| system::is_byte_locked(file, byte))
}
