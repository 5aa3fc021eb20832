//! What can go wrong with an object.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::error::{Error, Kind};

/// What was being done, in the words of every store.
pub(super) mod doing {
    pub const CREATE: &str = "create object";
    pub const READ: &str = "read object";
    pub const LENGTH: &str = "find the length of object";
    pub const LIST: &str = "list folder";
    pub const DELETE: &str = "delete object";
    pub const SYNC: &str = "make durable what was stored";
}

/// What sort of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object ends too early.
    Truncated,
    /// The object is longer than the caller would take.
    TooLarge,
    /// No object can have this name.
    InvalidName,
    /// The store is full.
    NoSpace,
    /// The store may not be read, or not be written to.
    Denied,
    /// The store cannot create without replacing.
    Unsupported,
    /// The answer was lost: it may have happened, or may happen yet.
    Unclear,
    /// Anything else that the system refused.
    Io,
}

/// A failure, with the object that it concerns.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    doing: &'static str,
    name: String,
    detail: String,
    source: Option<io::Error>,
}

impl StoreError {
    /// Makes an error of this kind; `doing` is what was done with the object of this name, `detail` what was found.
    pub fn new(kind: StoreErrorKind, doing: &'static str, name: &str, detail: impl Into<String>) -> Self {
        StoreError { kind, doing, name: name.to_owned(), detail: detail.into(), source: None }
    }

    /// The system failed; its error says what kind it is.
    pub fn io(doing: &'static str, name: &str, cause: io::Error) -> Self {
        let kind = kind_of(&cause);
        StoreError { source: Some(cause), ..Self::new(kind, doing, name, "") }
    }

    /// The system's answer does not tell whether it happened.
    pub fn unclear(doing: &'static str, name: &str, cause: io::Error) -> Self {
        let detail = "the answer was lost, it may have happened or not";
        StoreError { source: Some(cause), ..Self::new(StoreErrorKind::Unclear, doing, name, detail) }
    }

    /// What the system failed at was to make something durable.
    pub(super) fn not_durable(doing: &'static str, name: &str, cause: io::Error) -> Self {
        let kind = match kind_of(&cause) {
            StoreErrorKind::NoSpace => StoreErrorKind::NoSpace,
            _ => StoreErrorKind::Io,
        };
        StoreError { source: Some(cause), ..Self::new(kind, doing, name, "it could not be made durable") }
    }

    pub(super) fn taken(doing: &'static str, name: &str) -> Self {
        Self::new(StoreErrorKind::AlreadyExists, doing, name, "there is one already")
    }

    pub(super) fn too_large(doing: &'static str, name: &str, len_bytes: u64, max_bytes: u64) -> Self {
        let detail = format!("it has {len_bytes} bytes; expected at most {max_bytes}");
        Self::new(StoreErrorKind::TooLarge, doing, name, detail)
    }

    pub(super) fn truncated(doing: &'static str, name: &str, len_bytes: u64, end: u64) -> Self {
        let detail = format!("it ends after {len_bytes} bytes; expected at least {end}");
        Self::new(StoreErrorKind::Truncated, doing, name, detail)
    }

    /// Adds what was found.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The object or folder that it concerns; empty if it concerns the whole store.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn kind_of(cause: &io::Error) -> StoreErrorKind {
    match cause.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => StoreErrorKind::AlreadyExists,
        io::ErrorKind::UnexpectedEof => StoreErrorKind::Truncated,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        io::ErrorKind::Unsupported => StoreErrorKind::Unsupported,
        _ => StoreErrorKind::Io,
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doing)?;
        if !self.name.is_empty() {
            write!(f, " \"{}\"", self.name.escape_debug())?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(cause: StoreError) -> Self {
        let message = cause.to_string();
        match cause.source {
            Some(source) => Error::io(message, source),
            None if cause.kind == StoreErrorKind::NoSpace => Error::new(Kind::NoSpace, message),
            None => Error::new(Kind::Io, message),
        }
    }
}
