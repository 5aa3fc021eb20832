//! Maps on disk, in the format of ddrescue's mapfiles: text, one area a line.
//!
//! ```text
//!   # Mapfile. Created by tintype 0.1.0
//!   # tintype source: /dev/sdb
//!   # tintype identity: wwn naa.5000c500a1b2c3d4
//!   # tintype size: 67108864
//!   # tintype target: /srv/rescued.raw
//!   # current_pos  current_status  current_pass
//!   0x01E20000     +               1
//!   #      pos        size  status
//!   0x00000000  0x01E10000  +
//!   0x01E10000  0x00010000  -
//! ```
//!
//! ddrescue ignores comments. Those of tintype say which disk the map is of, and what holds the bytes of its finished areas.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use tempfile::NamedTempFile;

use super::{AreaMap, State};
use crate::error::{Error, Kind, OnPath as _, Result};

const COMMENT: &str = "# tintype ";

/// The longest map file that is read, in bytes: some hundred thousand areas.
const MAX_BYTES: u64 = 64 << 20;

/// What a map is of, and what holds the bytes of its finished areas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The path or address of the source.
    pub source: String,
    /// What tells the source from others.
    pub identity: String,
    /// Size of the source in bytes.
    pub size_bytes: u64,
    /// The raw file or device that holds the rescued bytes.
    pub target: String,
}

/// A map that was read from a file.
#[derive(Debug)]
pub struct MapFile {
    /// The map.
    pub map: AreaMap,
    /// What it is of; none, if ddrescue wrote it.
    pub about: Option<About>,
}

/// Reads a map of a disk of this size; none if there is no such file.
pub fn read(path: &Path, size_bytes: u64) -> Result<Option<MapFile>> {
    let metadata = match std::fs::metadata(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|cause| Error::io("read the map", cause)).on_path(path)?,
    };
    if !metadata.is_file() {
        return Err(Error::new(Kind::Usage, "read the map: it is no regular file").with_path(path));
    }
    if metadata.len() > MAX_BYTES {
        let message = format!("read the map: it has {} bytes, expected at most {MAX_BYTES}", metadata.len());
        return Err(Error::new(Kind::Io, message).with_path(path));
    }
    let text = std::fs::read_to_string(path).map_err(|cause| Error::io("read the map", cause)).on_path(path)?;
    let wrong = |what: String| Error::new(Kind::Usage, format!("read the map: {what}")).with_path(path);
    parse(&text, size_bytes).map(Some).map_err(wrong)
}

fn parse(text: &str, size_bytes: u64) -> Result<MapFile, String> {
    let about = about(text)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let mut lines = lines.map(|(line, number)| (line.split_whitespace().collect::<Vec<_>>(), number));
    match lines.next() {
        Some((fields, _)) if matches!(fields.len(), 2 | 3) && number(fields[0]).is_some() => {}
        _ => return Err("expected ddrescue's mapfile format: a line with the current position first".to_owned()),
    }
    let mut map = AreaMap::new(size_bytes, State::NotTried);
    let mut end = 0;
    for (fields, line) in lines {
        let area = match fields.as_slice() {
            [begin, length, letter] => number(begin).zip(number(length)).zip(State::of_letter(letter)),
            _ => None,
        };
        let ((begin, length), state) =
            area.ok_or_else(|| format!("line {line} is no area: expected position, size and one of ? * / - +"))?;
        if begin != end {
            return Err(format!("line {line} begins at {begin:#x}, expected {end:#x}"));
        }
        end = begin.checked_add(length).ok_or_else(|| format!("line {line} ends past any disk"))?;
        map.set(begin..end, state);
    }
    if end != size_bytes {
        return Err(format!("it is of a disk of {end} bytes, this one has {size_bytes}"));
    }
    Ok(MapFile { map, about })
}

/// Reads the comments of tintype, if there are any.
fn about(text: &str) -> Result<Option<About>, String> {
    let comments = || text.lines().filter_map(|line| line.strip_prefix(COMMENT)?.split_once(": "));
    if comments().next().is_none() {
        return Ok(None);
    }
    let field = |name: &str| {
        let found = comments().find(|(key, _)| *key == name).map(|(_, value)| plain(value));
        found.ok_or_else(|| format!("its comment of tintype has no {name}"))
    };
    let size = field("size")?;
    let size_bytes = size.parse().map_err(|_| format!("its comment of tintype has the size \"{size}\""))?;
    Ok(Some(About { source: field("source")?, identity: field("identity")?, size_bytes, target: field("target")? }))
}

/// Text on one line.
fn on_one_line(text: &str) -> String {
    text.replace('%', "%25").replace('\n', "%0A").replace('\r', "%0D")
}

fn plain(text: &str) -> String {
    text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn text(map: &AreaMap, about: &About) -> String {
    let mut text = format!("# Mapfile. Created by tintype {}\n", env!("CARGO_PKG_VERSION"));
    let size = about.size_bytes.to_string();
    let fields = [("source", &about.source), ("identity", &about.identity), ("size", &size), ("target", &about.target)];
    for (name, value) in fields {
        let _ = writeln!(text, "{COMMENT}{name}: {}", on_one_line(value));
    }
    let (position, status) = map
        .areas()
        .find(|(_, state)| *state != State::Finished)
        .map_or((map.size_bytes(), State::Finished), |(range, state)| (range.start, state));
    text.push_str("# current_pos  current_status  current_pass\n");
    let _ = writeln!(text, "0x{position:08X}     {}               1", status.letter());
    text.push_str("#      pos        size  status\n");
    for (range, state) in map.areas() {
        let _ = writeln!(text, "0x{:08X}  0x{:08X}  {}", range.start, range.end - range.start, state.letter());
    }
    text
}

/// Fails if no map can be written to `path`. Before hours of reading, that is worth a look.
pub fn check_writable(path: &Path) -> Result<()> {
    temporary(path).map(drop)
}

/// A file beside `path` that gets its name once it is whole.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new().prefix(".map.").tempfile_in(folder);
    file.map_err(|cause| Error::io("write the map", cause)).on_path(path)
}

/// Writes a map under a temporary name beside `path`, and renames it.
pub fn write(path: &Path, map: &AreaMap, about: &About) -> Result<()> {
    let doing = |cause| Error::io("write the map", cause);
    let mut file = temporary(path)?;
    file.write_all(text(map, about).as_bytes()).map_err(doing).on_path(path)?;
    file.as_file().sync_all().map_err(doing).on_path(path)?;
    file.persist(path).map_err(|cause| doing(cause.error)).on_path(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_DDRESCUE: &str = "\
# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue -d /dev/loop0 out map
# Start time:   2026-11-30 10:00:00
# current_pos  current_status  current_pass
0x01E1FE00     +               1
#      pos        size  status
0x00000000  0x01E10000  +
0x01E10000  0x00010000  -
0x01E20000  0x021E0000  +
";

    #[test]
    fn maps_of_ddrescue_are_read() {
        let found = parse(OF_DDRESCUE, 64 << 20).unwrap();
        assert_eq!(found.about, None);
        assert_eq!(found.map.unfinished(), vec![0x1e1_0000..0x1e2_0000; 1]);
        assert_eq!(found.map.bytes_in(State::Bad), 0x10000);
        assert!(parse(OF_DDRESCUE, 63 << 20).unwrap_err().contains("this one has"));
        for (before, after) in
            [("0x01E20000  0x021E0000  +", "0x01E20200  0x021DFE00  +"), ("  -", "  x"), ("0x01E1FE00", "here")]
        {
            assert!(parse(&OF_DDRESCUE.replace(before, after), 64 << 20).is_err(), "{after}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        let mut map = AreaMap::new(10 << 40, State::Finished);
        map.set(5 << 40..6 << 40, State::NotScraped);
        map.set(0..512, State::Bad);
        map.set(9 << 40..10 << 40, State::NotTried);
        let target = "/tmp/a\n100%0A: b".to_owned();
        let about = About { source: "/dev/sdb".into(), identity: "wwn".into(), size_bytes: 10 << 40, target };
        assert!(read(&path, 10 << 40).unwrap().is_none());
        write(&path, &map, &about).unwrap();
        let found = read(&path, 10 << 40).unwrap().unwrap();
        assert_eq!((found.map, found.about), (map, Some(about)));
    }
}
