//! From a failure to an exit code, and to words that help.

use std::io;

use tintype_formats::{ErrorKind, ImageError};
use tintype_tin::TinError;

use super::escape::printable;
use crate::error::{Aftermath, Error, Kind, in_words, system_says};

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    hint: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error.advice().or_else(|| hint(&error)).map(str::to_owned);
        Failure { error, hint }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Error::from(error).into()
    }
}

impl From<TinError> for Failure {
    fn from(error: TinError) -> Self {
        Error::from(error).into()
    }
}

impl Failure {
    /// The command line contradicts itself or the files.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Kind::Usage, message).into()
    }

    /// What to do next, in the place of the usual hint.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, if there is something to say.
    pub fn hinted_if(self, hint: Option<&str>) -> Self {
        match hint {
            Some(hint) => self.hinted(hint),
            None => self,
        }
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.error.kind()
    }

    /// The error, its causes, and what became of the target, in one line.
    pub fn message(&self) -> String {
        let mut message = in_words(&self.error);
        if let Some(remark) = self.error.aftermath().and_then(|aftermath| remark(self.kind(), aftermath)) {
            message.push_str("; ");
            message.push_str(remark);
        }
        printable(&message)
    }

    /// Returns the advice for the user, if there is any.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        exit_code(self.kind())
    }
}

fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage | Kind::Image(ErrorKind::InvalidOption) => 2,
        Kind::VerificationFailed | Kind::RepositoryDamaged => 4,
        Kind::NoRepository => 10,
        Kind::WrongKey | Kind::Denied | Kind::Image(ErrorKind::WrongKey) => 12,
        Kind::NoSpace => 13,
        Kind::TargetTooSmall => 14,
        Kind::Cancelled => 130,
        Kind::Image(_)
        | Kind::UndeclaredFormat
        | Kind::Io
        | Kind::NoSnapshot
        | Kind::SeveralSnapshots
        | Kind::SnapshotDamaged
        | Kind::NewerDamaged
        | Kind::Unreadable
        | Kind::ShrankToNothing
        | Kind::Fenced
        | Kind::TargetExists
        | Kind::TargetUnfit
        | Kind::SectorsDiffer
        | Kind::TargetIsSource
        | Kind::TargetBusy
        | Kind::ImageInUse
        | Kind::DiskInUse => 1,
    }
}

/// What became of the target, where that is not what one expects of a failure.
fn remark(kind: Kind, aftermath: Aftermath) -> Option<&'static str> {
    match aftermath {
        Aftermath::Unchanged => (kind == Kind::Cancelled).then_some("the target was left as it was"),
        Aftermath::Overwritten => Some("the target was overwritten in part and must not be used as it is"),
        Aftermath::Streamed => Some("what went to standard output is not the whole disk"),
    }
}

fn hint(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        Kind::TargetExists => "use --force to overwrite it",
        Kind::TargetBusy => "unmount it, or stop what uses it",
        Kind::SectorsDiffer => "choose a target with the disk's sectors, or write it all the same with --keep-sectors",
        Kind::DiskInUse => {
            "unmount it or stop what uses it, or take a snapshot (of LVM, of the hypervisor) and read that; --live reads it as it \
             is, and the copy may be torn"
        }
        Kind::ImageInUse => "stop the machine first, or use --force-share if a torn copy will do",
        Kind::NoSpace if error.aftermath() == Some(Aftermath::Unchanged) => {
            "nothing was changed; make room, or choose another place"
        }
        Kind::NoSpace => "make room, or choose another place",
        Kind::VerificationFailed => "do not trust the disk or the memory of this machine",
        Kind::Image(ErrorKind::ReferenceDenied) if system_says(error, io::ErrorKind::NotFound) => {
            "put the file where the image expects it: a name without a folder means the image's own folder"
        }
        Kind::Image(ErrorKind::ReferenceDenied) => {
            "by default only files in the image's own folder are opened; use --allow-references DIR for others"
        }
        Kind::UndeclaredFormat => {
            "pass -f raw for a guest's own disk; pass -f FORMAT only if you know that the image comes from you"
        }
        Kind::Image(ErrorKind::NotThisFormat) => "leave -f out to have the format detected",
        Kind::Image(ErrorKind::NotFound) => "\"tintype info\" lists what there is",
        Kind::NoRepository => "check that its file system is mounted; \"tintype init\" makes a new repository",
        Kind::RepositoryDamaged => "\"tintype repair --from COPY\" restores it from a copy of the repository",
        Kind::NoSnapshot => "\"tintype snapshots\" lists what there is",
        Kind::Unreadable => {
            "the next run finds what was stored; --max-unreadable allows more, --salvage takes whatever can be read"
        }
        Kind::ShrankToNothing => "check the source; if it is meant to be empty, pass --allow-empty",
        Kind::SeveralSnapshots => "name one by its id (NAME@ID), or say whose: HOLDER/NAME or --holder, --host",
        Kind::SnapshotDamaged => "\"tintype repair\" may mend it; \"tintype snapshots\" lists the others",
        Kind::NewerDamaged => {
            "\"tintype repair\" may mend it; name another one by its id (NAME@ID), or pass --ignore-damaged"
        }
        Kind::Fenced => "run it again: what is stored already is not stored twice",
        Kind::Denied => "use a key of another role; \"tintype key list\" shows the keys and their roles",
        Kind::WrongKey | Kind::Image(ErrorKind::WrongKey) => {
            "check which passphrase or key file was given, and what its role may do"
        }
        Kind::Image(ErrorKind::InvalidOption) => "\"tintype formats\" lists what each format understands",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_has_its_own_exit_code() {
        let failure = Failure::from(ImageError::wrong_key("open a key slot", "the passphrase is not the one"));
        assert_eq!(exit_code(failure.kind()), 12);
        assert!(failure.hint.is_some());
    }
}
