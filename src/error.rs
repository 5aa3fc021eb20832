//! What can go wrong outside the format adapters, and which file it concerned.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};

use tintype_formats::{ErrorKind as ImageErrorKind, ImageError};
use tintype_tin::TinError;
use tintype_volumes::partitions::TableError;

/// The result of every fallible call outside the formats.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was; the command line makes an exit code and a hint of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The format adapter's own kind.
    Image(ImageErrorKind),
    /// Only an image's content states its format, where that is not enough: a guest can have written it.
    UndeclaredFormat,
    /// The operating system refused.
    Io,
    /// The options contradict each other or the files.
    Usage,
    /// The target exists and may not be replaced.
    TargetExists,
    /// The target is the source, or a part of it, by some name.
    TargetIsSource,
    /// The target is mounted or otherwise held.
    TargetBusy,
    /// The target is nothing that a disk can be written to: a folder, a FIFO.
    TargetUnfit,
    /// The target has sectors of another size than the disk.
    SectorsDiffer,
    /// The target cannot hold the disk.
    TargetTooSmall,
    /// The file system or device is full.
    NoSpace,
    /// A running virtual machine holds the image open for writing.
    ImageInUse,
    /// Something has the disk mounted or otherwise uses it: a copy would be torn.
    DiskInUse,
    /// What was read back is not what was written.
    VerificationFailed,
    /// There is no repository at the address.
    NoRepository,
    /// The objects that open a repository are damaged.
    RepositoryDamaged,
    /// The repository has no such snapshot.
    NoSnapshot,
    /// A name stands for several snapshots, and it cannot be told which one is meant.
    SeveralSnapshots,
    /// A snapshot is there, or a newer one than the one that would be taken, and cannot be read.
    SnapshotDamaged,
    /// A newer snapshot than the one that could be taken is damaged.
    NewerDamaged,
    /// The password or key opens nothing.
    WrongKey,
    /// The key's role does not allow it.
    Denied,
    /// More of the source cannot be read than is allowed.
    Unreadable,
    /// The disk had a size in the snapshot before, and has none now.
    ShrankToNothing,
    /// A prune did not wait for this session: what it has not committed counts for nothing.
    Fenced,
    /// The user or a signal stopped the work.
    Cancelled,
}

/// What a run that failed has done to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// Nothing: what was there before is there.
    Unchanged,
    /// A part of what was there is gone.
    Overwritten,
    /// Standard output got a part of the disk.
    Streamed,
}

/// A failure, with the path it concerns.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    path: Option<PathBuf>,
    message: String,
    advice: Option<&'static str>,
    aftermath: Option<Aftermath>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of this kind; the message says what was being done, what was found and what was expected.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, path: None, message: message.into(), advice: None, aftermath: None, source: None }
    }

    /// The operating system failed while `doing`; a full disk is a kind of its own.
    pub fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        let kind = if is_out_of_space(&cause) { Kind::NoSpace } else { Kind::Io };
        Error { kind, path: None, message: doing.into(), advice: None, aftermath: None, source: Some(cause.into()) }
    }

    /// The work was stopped.
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "stopped")
    }

    /// Adds the path of the file it concerns. That the work was stopped concerns none.
    pub fn with_path(mut self, path: &Path) -> Self {
        if self.kind != Kind::Cancelled {
            self.path.get_or_insert_with(|| path.to_owned());
        }
        self
    }

    /// Adds what became of the target.
    pub fn with_aftermath(mut self, aftermath: Aftermath) -> Self {
        self.aftermath = Some(aftermath);
        self
    }

    /// Adds what to do next, where the kind alone does not tell.
    pub fn with_advice(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// Makes it a failure of another sort.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do next, where the kind alone does not tell.
    pub fn advice(&self) -> Option<&'static str> {
        self.advice
    }

    /// What became of the target, if there was one.
    pub fn aftermath(&self) -> Option<Aftermath> {
        self.aftermath
    }
}

/// The causes of an error, the nearest first.
fn causes(error: &dyn StdError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    iter::successors(error.source(), |&cause| cause.source())
}

/// An error and its causes, in one line, for people; what an error repeats of its cause stands there once.
pub fn in_words(error: &dyn StdError) -> String {
    let mut words = error.to_string();
    for cause in causes(error) {
        let more = cause.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
    }
    without_numbers(&words)
}

/// The words of the operating system's errors, without their numbers.
fn without_numbers(text: &str) -> String {
    let mut pieces = text.split(" (os error ");
    let mut words = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|letter: char| letter.is_ascii_digit());
        match rest.strip_prefix(')') {
            Some(rest) => words.push_str(rest),
            None => words.extend([" (os error ", piece]),
        }
    }
    words
}

/// Whether the operating system gave this reason, somewhere among the causes.
pub fn system_says(error: &dyn StdError, reason: io::ErrorKind) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.kind() == reason)
}

/// Whether the operating system says that there is no room: the disk, the quota, or the device's end.
fn is_out_of_space(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<ImageError> for Error {
    fn from(cause: ImageError) -> Self {
        let kind = match cause.io_cause() {
            Some(io) if is_out_of_space(io) => Kind::NoSpace,
            _ if cause.kind() == ImageErrorKind::WrongKey => Kind::WrongKey,
            _ => Kind::Image(cause.kind()),
        };
        let message = cause.to_string();
        match cause.into_source().map(|source| source.downcast::<Error>()) {
            // It came from out here, through an image writer or a layer, and is told as what it was.
            Some(Ok(own)) => *own,
            Some(Err(source)) => {
                Error { kind, path: None, message, advice: None, aftermath: None, source: Some(source) }
            }
            None => Error { kind, path: None, message, advice: None, aftermath: None, source: None },
        }
    }
}

impl From<TinError> for Error {
    fn from(cause: TinError) -> Self {
        ImageError::from(cause).into()
    }
}

impl From<TableError> for Error {
    fn from(cause: TableError) -> Self {
        match cause {
            TableError::Disk(cause) => cause.into(),
            TableError::Table(_) => Error::new(Kind::Io, cause.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display().to_string().escape_debug())?;
        }
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Adds a path to the error of any result.
pub trait OnPath<T> {
    /// Says which file it was about.
    fn on_path(self, path: &Path) -> Result<T>;
}

impl<T, E: Into<Error>> OnPath<T> for std::result::Result<T, E> {
    fn on_path(self, path: &Path) -> Result<T> {
        self.map_err(|cause| cause.into().with_path(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_system_errors_go_and_nothing_else() {
        assert_eq!(without_numbers("a: gone (os error 2); b: full (os error 28)"), "a: gone; b: full");
        assert_eq!(without_numbers("odd (os error x) name"), "odd (os error x) name");
    }
}
