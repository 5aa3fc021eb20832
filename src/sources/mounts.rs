//! The file systems that this process sees mounted, and the swap areas.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::block_device::BlockDevice;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number in this mount namespace.
    pub id: u64,
    /// Where it is mounted.
    pub at: PathBuf,
    /// The devices that its file system lies on.
    pub devices: Vec<BlockDevice>,
    /// True if the file system itself is read-only, and not only this view of it.
    pub is_read_only: bool,
}

/// Returns all mounts; none where `/proc` is not mounted.
pub fn mounts() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// Returns the devices that are swapped to.
pub fn swap_devices() -> Vec<BlockDevice> {
    let text = std::fs::read("/proc/swaps").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(u8::is_ascii_whitespace).next()).map(unescaped);
    paths.filter_map(|path| BlockDevice::at(&path)).collect()
}

/// Parses a line of `mountinfo` (proc_pid_mountinfo(5)).
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let [file_system, source, options] = fields.get(separator + 1..)?.get(..3)? else { return None };
    let number = BlockDevice::parse(str::from_utf8(fields.get(2)?).ok()?)?;
    let mut devices = Vec::new();
    // Btrfs and others that span devices have a number that is no device's; their source names one, or all.
    if rustix::fs::major(number.0) != 0 {
        devices.push(number);
    } else {
        let named = unescaped(source);
        let names = named.to_str().into_iter().flat_map(|names| names.split(':'));
        devices.extend(names.filter(|name| name.starts_with('/')).filter_map(|name| BlockDevice::at(Path::new(name))));
        if *file_system == b"btrfs" {
            devices.extend(btrfs_companions(&devices));
        }
    }
    Some(Mount {
        id: str::from_utf8(fields[0]).ok()?.parse().ok()?,
        at: unescaped(fields.get(4)?),
        devices,
        is_read_only: options.split(|byte| *byte == b',').any(|option| option == b"ro"),
    })
}

/// The other devices of a Btrfs.
fn btrfs_companions(known: &[BlockDevice]) -> Vec<BlockDevice> {
    let folders = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let members = |folder: PathBuf| -> Vec<BlockDevice> {
        let entries = std::fs::read_dir(folder.join("devices")).into_iter().flatten().flatten();
        let number = |path: PathBuf| BlockDevice::parse(&std::fs::read_to_string(path.join("dev")).ok()?);
        entries.filter_map(|entry| number(entry.path())).collect()
    };
    let all = folders.map(|folder| members(folder.path()));
    let same = all.filter(|members| members.iter().any(|member| known.contains(member)));
    same.flatten().filter(|member| !known.contains(member)).collect()
}

/// A path as `/proc` writes it: blanks and some other bytes stand there as `\ooo`.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_understood() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root ro,errors=continue";
        let expected = Mount {
            id: 36,
            at: PathBuf::from("/mnt 2"),
            devices: vec![BlockDevice(rustix::fs::makedev(98, 0))],
            is_read_only: true,
        };
        assert_eq!(parse(line), Some(expected));
        let view = parse(b"40 35 8:1 / /ro ro,relatime - ext4 /dev/sda1 rw").unwrap();
        assert!(!view.is_read_only, "a read-only view of a file system that others write");
        assert!(parse(b"40 35 0:6 / /dev rw - devtmpfs devtmpfs rw").unwrap().devices.is_empty());
        assert_eq!(parse(b"40 35 8:1 / /ro ro"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(unescaped(br"a\\b\134c\04"), PathBuf::from(r"a\\b\c\04"));
    }
}
