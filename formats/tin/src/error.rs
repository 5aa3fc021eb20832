//! The one error of the codecs: what was being done, what was found and what was expected.

use std::error::Error;
use std::fmt;

/// The result of every fallible call in this crate, unless a callback fails in its own way.
pub type Result<T, E = TinError> = std::result::Result<T, E>;

/// What sort of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The bytes are not such a structure.
    NotThisFormat,
    /// The bytes contradict themselves or the specification, or are not what was sealed or signed.
    Corrupt,
    /// The bytes end before something that they must contain.
    Truncated,
    /// The bytes are valid, but of a version or a kind that this library does not know.
    Unsupported,
    /// A number is beyond its bound.
    LimitExceeded,
    /// The caller asked for something that cannot be made.
    InvalidOption,
    /// The key or passphrase is not the one that is needed, or may not do this.
    WrongKey,
    /// The operating system gave no random bytes.
    NoRandomness,
}

/// A failure to make, read or open a structure of the native format.
///
/// Displayed as `doing: detail`; the cause, if there is one, is only in [`Error::source`].
#[derive(Debug)]
pub struct TinError {
    kind: ErrorKind,
    doing: &'static str,
    detail: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TinError {
    /// Makes an error of `kind`: `doing` is what was attempted ("read a chunk"), `detail` what was found and expected.
    pub(crate) fn new(kind: ErrorKind, doing: &'static str, detail: impl Into<String>) -> Self {
        TinError { kind, doing, detail: detail.into(), source: None }
    }

    pub(crate) fn not_this_format(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotThisFormat, doing, detail)
    }

    pub(crate) fn corrupt(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, doing, detail)
    }

    pub(crate) fn truncated(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, doing, detail)
    }

    pub(crate) fn unsupported(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, doing, detail)
    }

    pub(crate) fn limit_exceeded(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::LimitExceeded, doing, detail)
    }

    pub(crate) fn invalid_option(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidOption, doing, detail)
    }

    pub(crate) fn wrong_key(doing: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::WrongKey, doing, detail)
    }

    /// Adds the underlying cause.
    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Returns what sort of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns what was attempted.
    pub fn doing(&self) -> &'static str {
        self.doing
    }

    /// Returns what was found and expected.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the underlying cause alone.
    pub fn into_source(self) -> Option<Box<dyn Error + Send + Sync>> {
        self.source
    }
}

impl fmt::Display for TinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.detail)
    }
}

impl Error for TinError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}
