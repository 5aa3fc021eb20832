//! Which file is which: the same file or device by other names, and disks that contain each other.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tintype_formats::host_file::FileIdentity;
use tintype_formats::local::{identity_of, identity_of_device};

use super::block_device::BlockDevice;

/// Returns true if two paths are one file that is there.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| std::fs::metadata(path).ok().as_ref().map(identity_of);
    found(one).is_some_and(|one| found(other) == Some(one))
}

/// Everything that writing to this file or device would change: itself, what a loop device lies on, and what a loop
/// device over a loop device lies on.
pub fn aliases(path: &Path) -> Vec<FileIdentity> {
    let mut found = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next.take() {
        let Ok(metadata) = std::fs::metadata(&path) else { break };
        let identity = identity_of(&metadata);
        if found.contains(&identity) {
            break;
        }
        found.push(identity);
        if metadata.file_type().is_block_device() {
            let device = BlockDevice(metadata.rdev());
            found.extend(device.whole_disk().map(|disk| identity_of_device(disk.0)));
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
