//! Addresses of disks, the same for all commands: a path, and what to choose inside of it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A disk as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The file or device; "-" is standard input.
    pub path: PathBuf,
    /// The snapshot inside the image, by id or name.
    pub snapshot: Option<String>,
}

impl Address {
    /// Reads an address. A file whose name really is that wins over what stands behind a question mark.
    pub fn parse(text: &OsStr) -> Result<Address, String> {
        let whole = Address { path: PathBuf::from(text), snapshot: None };
        let bytes = text.as_bytes();
        let Some(mark) = bytes.iter().rposition(|byte| *byte == b'?') else { return Ok(whole) };
        if whole.path.symlink_metadata().is_ok() {
            return Ok(whole);
        }
        let path = PathBuf::from(OsStr::from_bytes(&bytes[..mark]));
        let Ok(choice) = std::str::from_utf8(&bytes[mark + 1..]) else { return Ok(whole) };
        match choice.split_once('=') {
            Some(("snapshot", name)) if !name.is_empty() => Ok(Address { path, snapshot: Some(name.to_owned()) }),
            _ => Err(format!("\"{}\" after the question mark; expected snapshot=NAME", choice.escape_debug())),
        }
    }

    /// Whether it is standard input.
    pub fn is_standard_input(&self) -> bool {
        self.path == Path::new("-")
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.snapshot.as_ref().map_or(Ok(()), |name| write!(f, "?snapshot={name}"))
    }
}

/// Reads an address for clap.
pub fn parser() -> impl clap::builder::TypedValueParser<Value = Address> {
    use clap::builder::TypedValueParser as _;
    clap::builder::OsStringValueParser::new().try_map(|text| Address::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_a_part_of_the_address() {
        let parse = |text: &str| Address::parse(OsStr::new(text));
        assert_eq!(parse("a.qcow2"), Ok(Address { path: "a.qcow2".into(), snapshot: None }));
        let found = parse("/no/such/a.qcow2?snapshot=before=after").unwrap();
        assert_eq!(found, Address { path: "/no/such/a.qcow2".into(), snapshot: Some("before=after".to_owned()) });
        assert_eq!(found.to_string(), "/no/such/a.qcow2?snapshot=before=after");
        assert!(parse("/no/such/a.qcow2?disk").is_err());
        assert!(parse("/no/such/a.qcow2?snapshot=").is_err());
    }

    #[test]
    fn a_file_of_that_name_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a?snapshot=b");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Address::parse(path.as_os_str()), Ok(Address { path, snapshot: None }));
    }
}
