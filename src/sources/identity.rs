//! Which file is which: the same file or device by other names, and disks that contain each other.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tintype_formats::host_file::FileIdentity;

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
            found.extend(containing_disk(metadata.rdev()));
            next = loop_backing_file(metadata.rdev());
        }
    }
    found
}

fn sysfs_folder(device: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

fn loop_backing_file(device: u64) -> Option<PathBuf> {
    let text = std::fs::read_to_string(sysfs_folder(device).join("loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

/// The whole disk that a partition is a part of.
fn containing_disk(device: u64) -> Option<FileIdentity> {
    let folder = sysfs_folder(device).canonicalize().ok()?;
    if !folder.join("partition").exists() {
        return None;
    }
    let number = std::fs::read_to_string(folder.parent()?.join("dev")).ok()?;
    let (major, minor) = number.trim().split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(FileIdentity { device, inode: DEVICE_INODE })
}
