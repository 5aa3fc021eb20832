//! Which file systems are mounted where.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Where the kernel lists them (proc_pid_mountinfo(5)).
const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its type, with what comes behind a dot in it: "ext4", "fuse.tintype".
    pub fs_type: String,
    /// Its device numbers, as "major:minor".
    pub device: String,
}

/// What is mounted at this place itself, not above it: the last one, which covers the others.
pub fn mount_at(place: &Path) -> io::Result<Option<MountEntry>> {
    let place = whole_path(place)?;
    let table = std::fs::read(MOUNT_TABLE)?;
    let mut lines = table.split(|byte| *byte == b'\n').rev().filter_map(parse);
    Ok(lines.find(|(mounted, _)| *mounted == place).map(|(_, entry)| entry))
}

/// The path without links. What is mounted there need not answer: nobody may serve it any more.
pub fn whole_path(place: &Path) -> io::Result<PathBuf> {
    let cause = match place.canonicalize() {
        Ok(whole) => return Ok(whole),
        Err(cause) => cause,
    };
    let absolute = std::path::absolute(place)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(above), Some(name)) if cause.kind() != io::ErrorKind::NotFound => Ok(above.canonicalize()?.join(name)),
        _ => Err(cause),
    }
}

fn parse(line: &[u8]) -> Option<(PathBuf, MountEntry)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8_lossy(fields.by_ref().nth(2)?).into_owned();
    let place = unescape(fields.by_ref().nth(1)?);
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    let fs_type = String::from_utf8_lossy(fs_type).into_owned();
    Some((PathBuf::from(OsString::from_vec(place)), MountEntry { fs_type, device }))
}

/// Spaces, tabs, line ends and backslashes stand in the table as a backslash and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match after.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line =
            br"36 35 0:34 / /mnt/my\040disk\134 rw,noatime shared:1 master:2 - fuse.tintype /a\040b rw,user_id=0";
        let entry = MountEntry { fs_type: "fuse.tintype".to_owned(), device: "0:34".to_owned() };
        assert_eq!(parse(line), Some((PathBuf::from("/mnt/my disk\\"), entry)));
        assert_eq!([parse(b""), parse(b"36 35 0:34 / /mnt"), parse(b"36 35 0:34 / /mnt rw -")], [None, None, None]);
    }

    #[test]
    fn proc_is_mounted_and_its_files_are_not() {
        assert_eq!(mount_at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        assert_eq!(mount_at(Path::new("/proc/self")).unwrap(), None);
        assert!(mount_at(Path::new("/no/such/place")).is_err());
    }
}
