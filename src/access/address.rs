//! Addresses of disks, the same for all commands: a path, and what to choose inside of it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sources::{NbdAddress, is_nbd};

/// The environment variable that names the default repository.
pub const REPOSITORY_VARIABLE: &str = "TINTYPE_REPOSITORY";

/// A disk as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The file or device; "-" is standard input. Of a stored snapshot, the repository.
    pub path: PathBuf,
    /// Which snapshot of the repository is meant: a name, NAME@ID, or an id; nothing for all of it (`REPO::`).
    pub stored: Option<String>,
    /// The disk inside a container, by name or number.
    pub disk: Option<String>,
    /// The snapshot inside the image, by id or name.
    pub snapshot: Option<String>,
    /// The partition of the disk, by its number as Linux counts.
    pub partition: Option<u32>,
}

impl Address {
    /// A file or device, with nothing chosen inside.
    pub fn of_path(path: &Path) -> Address {
        Address { path: path.to_owned(), stored: None, disk: None, snapshot: None, partition: None }
    }

    /// Reads an address. A file whose name really is that wins over what stands behind a question mark.
    /// `::NAME` is in the default repository.
    pub fn parse(text: &OsStr, default_repository: Option<&Path>) -> Result<Address, String> {
        let whole = Address::of_text(text, default_repository)?;
        if is_nbd(&whole.path) {
            return Address::of_nbd(whole);
        }
        let bytes = text.as_bytes();
        let Some(mark) = bytes.iter().rposition(|byte| *byte == b'?') else { return Ok(whole) };
        if Path::new(text).symlink_metadata().is_ok() {
            return Ok(whole);
        }
        let path = PathBuf::from(OsStr::from_bytes(&bytes[..mark]));
        let Ok(choices) = std::str::from_utf8(&bytes[mark + 1..]) else { return Ok(whole) };
        let mut address = Address::of_text(path.as_os_str(), default_repository)?;
        for choice in choices.split('&') {
            if !address.choose(choice)? {
                let found = choice.escape_debug();
                return Err(format!(
                    "\"{found}\" after the question mark; expected disk=NAME, snapshot=NAME or partition=N"
                ));
            }
        }
        Ok(address)
    }

    /// Takes a choice of what is inside; false if it is none.
    fn choose(&mut self, choice: &str) -> Result<bool, String> {
        let (slot, name) = match choice.split_once('=') {
            Some(("disk", name)) if !name.is_empty() => (&mut self.disk, name),
            Some(("snapshot", name)) if !name.is_empty() => (&mut self.snapshot, name),
            Some(("partition", number)) => return self.choose_partition(number, choice),
            _ => return Ok(false),
        };
        match slot.replace(name.to_owned()) {
            None => Ok(true),
            Some(_) => Err(once_more(choice)),
        }
    }

    fn choose_partition(&mut self, number: &str, choice: &str) -> Result<bool, String> {
        let number = number.parse().ok().filter(|number| *number > 0);
        let number =
            number.ok_or_else(|| format!("\"{}\": expected the number of a partition", choice.escape_debug()))?;
        match self.partition.replace(number) {
            None => Ok(true),
            Some(_) => Err(once_more(choice)),
        }
    }

    /// The address of an export: what stands behind its question mark is the server's, but for what is chosen inside.
    fn of_nbd(whole: Address) -> Result<Address, String> {
        let text = whole.path.to_str().ok_or("the NBD address is not UTF-8")?.to_owned();
        let (place, query) = text.split_once('?').unwrap_or((&text, ""));
        let mut address = whole;
        let mut kept = Vec::new();
        for choice in query.split('&').filter(|choice| !choice.is_empty()) {
            if !address.choose(choice)? {
                kept.push(choice);
            }
        }
        let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        let text = format!("{place}{query}");
        NbdAddress::parse(&text)?;
        Ok(Address { path: text.into(), ..address })
    }

    /// What stands before the question mark: a path, or a snapshot in a repository.
    fn of_text(text: &OsStr, default_repository: Option<&Path>) -> Result<Address, String> {
        let plain = Address::of_path(Path::new(text));
        if is_nbd(&plain.path) {
            return Ok(plain);
        }
        let bytes = text.as_bytes();
        let Some(mark) = bytes.windows(2).position(|pair| pair == b"::") else { return Ok(plain) };
        if plain.path.symlink_metadata().is_ok() {
            return Ok(plain);
        }
        let (repository, wanted) = (OsStr::from_bytes(&bytes[..mark]), &bytes[mark + 2..]);
        let wanted = std::str::from_utf8(wanted).map_err(|_| "the snapshot's name is not UTF-8".to_owned())?;
        let repository = match repository.is_empty() {
            false => PathBuf::from(repository),
            true => default_repository
                .map(Path::to_owned)
                .ok_or_else(|| format!("no repository is named before \"::\", and {REPOSITORY_VARIABLE} is not set"))?,
        };
        Ok(Address { path: repository, stored: Some(wanted.to_owned()), ..plain })
    }

    /// Returns the choices inside, as written behind the path.
    pub fn choices(&self) -> String {
        let partition = self.partition.map(|number| number.to_string());
        let choices = [("disk", &self.disk), ("snapshot", &self.snapshot), ("partition", &partition)];
        let chosen = choices.iter().filter_map(|(what, name)| Some(format!("{what}={}", name.as_ref()?)));
        let has_mark = is_nbd(&self.path) && self.path.as_os_str().as_bytes().contains(&b'?');
        let begin = if has_mark { "&" } else { "?" };
        let text = chosen.collect::<Vec<_>>().join("&");
        if text.is_empty() { text } else { format!("{begin}{text}") }
    }

    /// The path, for people.
    pub fn shown(&self) -> &Path {
        if self.is_standard_input() { Path::new("standard input") } else { &self.path }
    }

    /// True if it is a whole repository, and no snapshot in it.
    pub fn is_repository(&self) -> bool {
        self.stored.as_deref() == Some("")
    }

    /// Whether it is standard input.
    pub fn is_standard_input(&self) -> bool {
        self.path == Path::new("-")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(stored) = &self.stored {
            write!(f, "::{stored}")?;
        }
        f.write_str(&self.choices())
    }
}

fn once_more(choice: &str) -> String {
    format!("\"{}\" chooses once more", choice.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_a_part_of_the_address() {
        let parse = |text: &str| Address::parse(OsStr::new(text), None);
        let whole = |path: &str| Address::of_path(Path::new(path));
        assert_eq!(parse("a.qcow2"), Ok(whole("a.qcow2")));
        let found = parse("/no/such/a.qcow2?snapshot=before=after").unwrap();
        assert_eq!(found, Address { snapshot: Some("before=after".to_owned()), ..whole("/no/such/a.qcow2") });
        assert_eq!(found.to_string(), "/no/such/a.qcow2?snapshot=before=after");
        let found = parse("/no/such/a.ova?disk=2&snapshot=x").unwrap();
        assert_eq!((found.disk.as_deref(), found.snapshot.as_deref()), (Some("2"), Some("x")));
        assert_eq!(found.to_string(), "/no/such/a.ova?disk=2&snapshot=x");
        let found = parse("/no/such/a.ova?disk=2&partition=3").unwrap();
        assert_eq!((found.partition, found.to_string().as_str()), (Some(3), "/no/such/a.ova?disk=2&partition=3"));
        for wrong in ["partition=0", "partition=", "partition=x", "partition=1&partition=2", "disk=2&disk=3"] {
            assert!(parse(&format!("/no/such/a.ova?{wrong}")).is_err(), "{wrong}");
        }
        assert!(parse("/no/such/a.qcow2?disk").is_err());
        assert!(parse("/no/such/a.qcow2?snapshot=").is_err());
    }

    #[test]
    fn an_export_is_an_address() {
        let parse = |text: &str| Address::parse(OsStr::new(text), None);
        let found = parse("nbd+unix:///x::y?socket=/run/a&snapshot=before").unwrap();
        assert_eq!(found.path, Path::new("nbd+unix:///x::y?socket=/run/a"));
        assert_eq!((found.stored.as_deref(), found.snapshot.as_deref()), (None, Some("before")));
        assert_eq!(found.to_string(), "nbd+unix:///x::y?socket=/run/a&snapshot=before");
        let found = parse("nbd://[::1]/x?disk=2").unwrap();
        assert_eq!((found.path.as_path(), found.disk.as_deref()), (Path::new("nbd://[::1]/x"), Some("2")));
        assert_eq!(found.to_string(), "nbd://[::1]/x?disk=2");
        assert!(parse("nbd+unix:///x").is_err() && parse("nbd://host/x?socket=y").is_err());
    }

    #[test]
    fn a_stored_snapshot_is_an_address() {
        let parse = |text: &str| Address::parse(OsStr::new(text), None);
        let found = parse("/no/such/repo::web@01a2?disk=sda").unwrap();
        assert_eq!((found.path.as_path(), found.stored.as_deref()), (Path::new("/no/such/repo"), Some("web@01a2")));
        assert_eq!(
            (found.disk.as_deref(), found.to_string().as_str()),
            (Some("sda"), "/no/such/repo::web@01a2?disk=sda")
        );
        let whole = parse("/no/such/repo::").unwrap();
        assert!(whole.is_repository() && !found.is_repository());
        assert_eq!(whole.to_string(), "/no/such/repo::");
    }

    #[test]
    fn a_file_of_that_name_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a?snapshot=b");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Address::parse(path.as_os_str(), None), Ok(Address::of_path(&path)));
    }
}
