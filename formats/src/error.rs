//! The one error of the format adapters: what was being done, where, what was found and what was expected.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use crate::contents::{DiskInfo, SnapshotInfo};

/// The result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, ImageError>;

/// What sort of failure it was: small and stable, so that callers and tests can match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is not of the format that was asked for.
    NotThisFormat,
    /// The file contradicts itself or its format's specification.
    Corrupt,
    /// The file ends before something that it must contain.
    Truncated,
    /// The file is valid, but uses something that this library does not do.
    Unsupported,
    /// A number in the file is beyond a bound of [`crate::limits`].
    LimitExceeded,
    /// The caller asked for bytes past the end of the disk.
    OutOfRange,
    /// The image names another file that may not, or cannot, be opened.
    ReferenceDenied,
    /// An option for a new image has a value that the format cannot have.
    InvalidOption,
    /// The image has no snapshot of that name.
    NotFound,
    /// The key or passphrase is not the one that is needed, or may not do this.
    WrongKey,
    /// The operating system refused to read or write.
    Io,
}

/// A failure to read, create or check an image.
///
/// Displayed as `doing [at host offset X] [for guest offset Y]: detail`; the cause, if there is one, is only in
/// [`Error::source`], so that printing the chain says nothing twice.
#[derive(Debug)]
pub struct ImageError {
    kind: ErrorKind,
    doing: Cow<'static, str>,
    detail: String,
    host_offset: Option<u64>,
    guest_offset: Option<u64>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ImageError {
    /// Makes an error of `kind`: `doing` is what was attempted ("read L2 table"), `detail` what was found and expected.
    pub fn new(kind: ErrorKind, doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        ImageError {
            kind,
            doing: doing.into(),
            detail: detail.into(),
            host_offset: None,
            guest_offset: None,
            source: None,
        }
    }

    /// The file is not of this format.
    pub fn not_this_format(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotThisFormat, doing, detail)
    }

    /// The file contradicts itself or its specification.
    pub fn corrupt(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, doing, detail)
    }

    /// The file is too short.
    pub fn truncated(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, doing, detail)
    }

    /// The file uses something that is not supported.
    pub fn unsupported(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, doing, detail)
    }

    /// A number is beyond its bound.
    pub fn limit_exceeded(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::LimitExceeded, doing, detail)
    }

    /// A file that the image names may not, or cannot, be opened.
    pub fn reference_denied(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::ReferenceDenied, doing, detail)
    }

    /// The key or passphrase is not the one that is needed, or may not do this.
    pub fn wrong_key(doing: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::WrongKey, doing, detail)
    }

    /// The image has no snapshot of that name or id.
    pub fn no_such_snapshot(name: &str, known: &[SnapshotInfo]) -> Self {
        let known: Vec<_> =
            known.iter().map(|one| format!("{} (id {})", one.name.escape_debug(), one.id.escape_debug())).collect();
        let known = if known.is_empty() { "no snapshots".to_owned() } else { known.join(", ") };
        let detail = format!("there is no \"{}\"; the image has {known}", name.escape_debug());
        Self::new(ErrorKind::NotFound, "find the snapshot", detail)
    }

    /// The file has no disk of that name, or several where one has to be chosen.
    pub fn no_such_disk(found: impl Into<String>, known: &[DiskInfo]) -> Self {
        let known: Vec<_> = known
            .iter()
            .enumerate()
            .map(|(index, disk)| format!("{} \"{}\"", index + 1, disk.name.escape_debug()))
            .collect();
        let found = found.into();
        let detail = if known.is_empty() { found } else { format!("{found}: {}", known.join(", ")) };
        Self::new(ErrorKind::NotFound, "choose the disk", detail)
    }

    /// The guest range is not inside the disk.
    pub fn out_of_range(guest_offset: u64, length_bytes: u64, size_bytes: u64) -> Self {
        let detail = format!("{length_bytes} bytes were asked for, the disk has {size_bytes}");
        Self::new(ErrorKind::OutOfRange, "read the disk", detail).at_guest(guest_offset)
    }

    /// The operating system failed; an unexpected end of the file counts as [`ErrorKind::Truncated`], and invalid data, which
    /// only files inside of other files give, as [`ErrorKind::Corrupt`].
    pub fn io(doing: impl Into<Cow<'static, str>>, cause: io::Error) -> Self {
        let (kind, detail) = match cause.kind() {
            io::ErrorKind::UnexpectedEof => (ErrorKind::Truncated, "the file ends before it"),
            io::ErrorKind::InvalidData => (ErrorKind::Corrupt, "what holds it is damaged"),
            _ => (ErrorKind::Io, "the operating system reports an error"),
        };
        Self::new(kind, doing, detail).caused_by(cause)
    }

    /// Adds where in the host file it happened.
    pub fn at_host(mut self, host_offset: u64) -> Self {
        self.host_offset = Some(host_offset);
        self
    }

    /// Adds which place of the guest's disk was concerned.
    pub fn at_guest(mut self, guest_offset: u64) -> Self {
        self.guest_offset = Some(guest_offset);
        self
    }

    /// Adds the underlying cause.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Where in the host file it happened, in bytes.
    pub fn host_offset(&self) -> Option<u64> {
        self.host_offset
    }

    /// Which place of the guest's disk was concerned, in bytes.
    pub fn guest_offset(&self) -> Option<u64> {
        self.guest_offset
    }

    /// The underlying cause alone, for callers that show this error's own text by themselves.
    pub fn into_source(self) -> Option<Box<dyn Error + Send + Sync>> {
        self.source
    }

    /// The operating system's error, if that was the cause.
    pub fn io_cause(&self) -> Option<&io::Error> {
        self.source.as_deref().and_then(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        if let Some(offset) = self.host_offset {
            write!(f, " at host offset {offset:#x}")?;
        }
        if let Some(offset) = self.guest_offset {
            write!(f, " for guest offset {offset:#x}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

impl Error for ImageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_what_was_done_where_and_what_was_found() {
        let error =
            ImageError::corrupt("read L2 table", "entry 17 points to 0x9f0000, past the end of the file (0x400000)")
                .at_host(0x50000);
        assert_eq!(
            error.to_string(),
            "read L2 table at host offset 0x50000: entry 17 points to 0x9f0000, past the end of the file (0x400000)"
        );
    }

    #[test]
    fn an_unexpected_end_of_file_is_a_truncation() {
        let error = ImageError::io("read header", io::ErrorKind::UnexpectedEof.into());
        assert_eq!(error.kind(), ErrorKind::Truncated);
        assert!(error.source().is_some());
    }
}
