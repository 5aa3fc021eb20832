//! Which file is which: the same file or device by other names, and disks that contain each other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tintype_formats::host_file::FileIdentity;

use super::block_device::BlockDevice;

/// In place of an inode number, for devices: they are known by their own number, whatever node names them.
const DEVICE_INODE: u64 = u64::MAX;

/// The identity of a file or device.
pub fn of_metadata(metadata: &Metadata) -> FileIdentity {
    if metadata.file_type().is_block_device() || metadata.file_type().is_char_device() {
        FileIdentity { device: metadata.rdev(), inode: DEVICE_INODE }
    } else {
        FileIdentity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Returns the identity of a device.
pub fn of_device(device: BlockDevice) -> FileIdentity {
    FileIdentity { device: device.0, inode: DEVICE_INODE }
}

/// Returns true if it is that of a device.
pub fn is_device(identity: &FileIdentity) -> bool {
    identity.inode == DEVICE_INODE
}

/// Returns true if two paths are one file that is there.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| std::fs::metadata(path).ok().as_ref().map(of_metadata);
    found(one).is_some_and(|one| found(other) == Some(one))
}

/// Everything that writing to this file or device would change: itself, what a loop device lies on, and what a loop
/// device over a loop device lies on.
pub fn aliases(path: &Path) -> Vec<FileIdentity> {
    let mut found = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next.take() {
        let Ok(metadata) = std::fs::metadata(&path) else { break };
        let identity = of_metadata(&metadata);
        if found.contains(&identity) {
            break;
        }
        found.push(identity);
        if metadata.file_type().is_block_device() {
            let device = BlockDevice(metadata.rdev());
            found.extend(device.whole_disk().map(of_device));
            next = device.backing_file();
        }
    }
    found
}

/// True if a name looks like one of another computer. By the rule of scp and git, that is a colon before the first slash; a file
/// that really has that name wins.
pub fn looks_remote(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    first.contains(':') && path.symlink_metadata().is_err()
}
