//! Whether QEMU holds an image open for writing.
//!
//! QEMU keeps locks on single bytes of its images: byte `100 + n` for each permission `n` that it uses. A lock on the
//! bytes of "write" or "resize" means that the content changes while it is read (QEMU, `block/file-posix.c`).

use std::fs::File;

use rustix::process::{Flock, FlockOffsetType, FlockType};

const WRITE_PERMISSION_BYTE: u64 = 101;
const RESIZE_PERMISSION_BYTE: u64 = 103;

/// Whether another process uses the image with the permission to write or resize it.
///
/// Where the file system has no such locks there is nothing to find.
pub fn is_held_for_writing(file: &File) -> bool {
    [WRITE_PERMISSION_BYTE, RESIZE_PERMISSION_BYTE].into_iter().any(|byte| is_locked(file, byte))
}

fn is_locked(file: &File, byte: u64) -> bool {
    let question =
        Flock { start: byte, length: 1, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };
    matches!(rustix::process::fcntl_getlk(file, &question), Ok(Some(_)))
}
