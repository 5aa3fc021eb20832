//! Names of the disks in a snapshot, and of a snapshot that is given none.
//!
//! A name must not depend on the order of the arguments: two disks whose names swap would swap their contents for everyone who
//! restores by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tintype_formats::registry;

use super::address::Address;
use crate::error::{Error, Kind, Result};
use crate::sources;

/// A source of a backup, and the name that its user gives its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAddress {
    /// The name before the equals sign.
    pub name: Option<String>,
    /// The address.
    pub address: Address,
}

impl NamedAddress {
    /// Reads `ADDRESS` or `NAME=ADDRESS`. A file whose name really is that wins.
    pub fn parse(text: &OsStr, default_repository: Option<&Path>) -> Result<NamedAddress, String> {
        let bytes = text.as_bytes();
        let mark = bytes.iter().position(|byte| !is_of_names(*byte)).filter(|mark| *mark > 0 && bytes[*mark] == b'=');
        let is_file = Path::new(text).symlink_metadata().is_ok();
        let Some(mark) = mark.filter(|_| !is_file) else {
            return Ok(NamedAddress { name: None, address: Address::parse(text, default_repository)? });
        };
        let name = String::from_utf8_lossy(&bytes[..mark]).into_owned();
        let address = OsStr::from_bytes(&bytes[mark + 1..]);
        if address.is_empty() {
            return Err(format!("nothing follows \"{name}=\"; expected NAME=ADDRESS"));
        }
        Ok(NamedAddress { name: Some(name), address: Address::parse(address, default_repository)? })
    }
}

fn is_of_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// Returns the name of each disk: the one it was given, or that of its device, export or file, made different where two are
/// the same.
pub fn disk_names(sources: &[NamedAddress]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        let twin = |name: &String| sources.iter().filter(|other| other.name.as_ref() == Some(name)).count() > 1;
        if let Some(name) = source.name.as_ref().filter(|name| twin(name)) {
            let message = format!("two disks are named \"{name}\"; give each another NAME=ADDRESS");
            return Err(Error::new(Kind::Usage, message));
        }
        let is_taken = |name: &String| {
            let is_given = sources.iter().any(|other| source.name.is_none() && other.name.as_ref() == Some(name));
            is_given || names.contains(name)
        };
        let base = base_name(source, sources);
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let name = std::iter::once(base.clone()).chain(numbered).find(|name| !is_taken(name));
        names.extend(name);
    }
    Ok(names)
}

/// Returns the name of a snapshot that is given none: that of its only disk. Every computer has an "sda", so a device's begins
/// with the computer's name.
pub fn snapshot_name(sources: &[NamedAddress], names: &[String], host: &str) -> Option<String> {
    let ([source], [name]) = (sources, names) else { return None };
    let is_device = source.address.stored.is_none() && sources::is_device(&source.address.path);
    Some(if is_device { format!("{}-{name}", without_separators(host)) } else { name.clone() })
}

fn base_name(source: &NamedAddress, sources: &[NamedAddress]) -> String {
    let name = name_of_whole(source, sources);
    match source.address.partition.filter(|_| source.name.is_none()) {
        Some(number) => format!("{name}-part{number}"),
        None => name,
    }
}

fn name_of_whole(source: &NamedAddress, sources: &[NamedAddress]) -> String {
    let address = &source.address;
    if let Some(chosen) = source.name.as_ref().or(address.disk.as_ref()) {
        return chosen.clone();
    }
    if let Some(stored) = &address.stored {
        return stored.split('@').next().unwrap_or_default().to_owned();
    }
    if address.is_standard_input() {
        return "disk".to_owned();
    }
    if let Some(name) = export_name(&address.path) {
        return name;
    }
    let own = own_name(&address.path);
    let is_namesake = |other: &NamedAddress| {
        let path = &other.address.path;
        other.name.is_none() && *path != address.path && own_name(path) == own
    };
    let folder = folder_name(&address.path).filter(|_| sources.iter().any(is_namesake));
    without_separators(&folder.map_or(own.clone(), |folder| format!("{folder}-{own}")))
}

/// Returns what a file or device is called: of a device the whole last part of its path, for `nvme-eui.0025…` and its neighbour
/// differ behind the dot.
fn own_name(path: &Path) -> String {
    match sources::is_device(path) {
        true => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        false => file_stem(path),
    }
}

/// Returns the name of the folder that a path is in: it tells `/dev/vg1/root` from `/dev/vg2/root`, and `web/disk.raw` from
/// `mail/disk.raw`, in whatever order they are named.
fn folder_name(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// Returns what an NBD server calls the disk; none for another address. Only the ending of an image format is cut off.
fn export_name(path: &Path) -> Option<String> {
    let address = sources::is_nbd(path).then(|| sources::NbdAddress::parse(path.to_str()?).ok())??;
    let name = Path::new(&address.export);
    let is_of_format = |ending: &str| registry::FORMATS.iter().any(|format| format.extensions.contains(&ending));
    let ending = name.extension().and_then(OsStr::to_str).map(str::to_lowercase);
    let name = match ending.is_some_and(|ending| is_of_format(&ending)) {
        true => file_stem(name),
        false => name.file_name().unwrap_or(name.as_os_str()).to_string_lossy().into_owned(),
    };
    Some(if name.is_empty() { "disk".to_owned() } else { without_separators(&name) })
}

fn file_stem(path: &Path) -> String {
    path.file_stem().or_else(|| path.file_name()).unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Replaces what separates a name from what follows it in an address.
fn without_separators(name: &str) -> String {
    name.replace("::", "-").replace('@', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NamedAddress {
        NamedAddress::parse(OsStr::new(text), None).unwrap()
    }

    fn names(sources: &[&str]) -> Vec<String> {
        disk_names(&sources.iter().map(|text| parse(text)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_name_stands_before_an_equals_sign() {
        for (text, name, path) in [
            ("root=/dev/sda1", Some("root"), "/dev/sda1"),
            ("a.b_c-1=x=y.raw", Some("a.b_c-1"), "x=y.raw"),
            ("data=nbd://host/a=b", Some("data"), "nbd://host/a=b"),
            ("in=-", Some("in"), "-"),
            ("/no/such/a=b.raw", None, "/no/such/a=b.raw"),
            ("./a=b.raw", None, "./a=b.raw"),
            ("ä=b.raw", None, "ä=b.raw"),
            ("=b.raw", None, "=b.raw"),
        ] {
            let found = parse(text);
            assert_eq!((found.name.as_deref(), found.address.path.as_path()), (name, Path::new(path)), "{text}");
        }
        let query = parse("/no/such/a.ova?disk=2");
        assert_eq!((query.name, query.address.disk.as_deref()), (None, Some("2")));
        let named = parse("b=/no/such/a.ova?disk=2");
        assert_eq!((named.name.as_deref(), named.address.disk.as_deref()), (Some("b"), Some("2")));
        assert!(NamedAddress::parse(OsStr::new("root="), None).is_err());
    }

    #[test]
    fn names_do_not_depend_on_the_order_where_they_need_not() {
        assert_eq!(names(&["/no/a.raw", "/no/b.qcow2", "c=/no/a.raw"]), ["a", "b", "c"]);
        assert_eq!(names(&["/no/a.raw", "/no/2/a.raw"]), ["no-a", "2-a"]);
        assert_eq!(names(&["/no/2/a.raw", "/no/a.raw"]), ["2-a", "no-a"], "in any order");
        assert_eq!(names(&["/1/no/a.raw", "/2/no/a.raw"]), ["no-a", "no-a-2"]);
        assert_eq!(names(&["/dev/vg1/root", "/dev/vg2/root"]), ["vg1-root", "vg2-root"]);
        assert_eq!(names(&["/no/a.raw", "a=/no/b.raw"]), ["a-2", "a"], "a given name stays");
        assert_eq!(
            names(&["nbd://host/eui.0025", "nbd://host/disk.qcow2", "nbd://host/"]),
            ["eui.0025", "disk", "disk-2"]
        );
        assert_eq!(without_separators("a::b@c"), "a-b-c");
        let twice = [parse("a=/no/1"), parse("a=/no/2")];
        assert!(disk_names(&twice).is_err());
    }
}
