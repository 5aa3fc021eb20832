//! From a failure to an exit code, and to words that help.

use std::error::Error as _;
use std::process::ExitCode;

use serde::Serialize;
use tintype_formats::{ErrorKind, ImageError};

use super::Global;
use super::escape::printable;
use super::output;
use crate::error::{Error, Kind};

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    hint: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = hint(error.kind()).map(str::to_owned);
        Failure { error, hint }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Error::from(error).into()
    }
}

#[derive(Serialize)]
struct FailureEvent<'a> {
    r#type: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
    exit_code: u8,
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

    /// The error and its causes in one line.
    fn message(&self) -> String {
        let mut message = self.error.to_string();
        let mut cause = self.error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        printable(&message)
    }

    /// Says what happened, and gives the exit code for it.
    pub fn report(&self, global: Global) -> ExitCode {
        let (message, exit_code) = (self.message(), exit_code(self.error.kind()));
        if global.json {
            let hint = self.hint.as_deref();
            // Nobody can be told that this failed, too.
            let _ = output::print_json_line(&FailureEvent { r#type: "error", message: &message, hint, exit_code });
        }
        output::say(&format!("tintype: {message}"));
        if let Some(hint) = self.hint.as_deref().filter(|_| !global.quiet) {
            output::say(&format!("hint: {hint}"));
        }
        ExitCode::from(exit_code)
    }
}

fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Usage | Kind::Image(ErrorKind::InvalidOption) => 2,
        Kind::VerificationFailed => 4,
        Kind::NoSpace => 13,
        Kind::TargetTooSmall => 14,
        Kind::Cancelled => 130,
        Kind::Image(_) | Kind::Io | Kind::TargetExists | Kind::TargetIsSource | Kind::TargetBusy | Kind::ImageInUse => {
            1
        }
    }
}

fn hint(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::TargetExists => "use --force to overwrite it",
        Kind::TargetBusy => "unmount it, or stop what uses it",
        Kind::ImageInUse => "stop the machine first, or use --force-share if a torn copy will do",
        Kind::NoSpace => "nothing was changed; make room, or choose another place",
        Kind::VerificationFailed => "do not trust the disk or the memory of this machine",
        Kind::Image(ErrorKind::ReferenceDenied) => {
            "by default only files in the image's own folder are opened; use --allow-references DIR for others"
        }
        Kind::Image(ErrorKind::NotThisFormat) => "leave -f out to have the format found",
        Kind::Image(ErrorKind::NotFound) => "\"tintype info\" lists the snapshots",
        Kind::Image(ErrorKind::InvalidOption) => "\"tintype formats\" lists what each format understands",
        _ => return None,
    })
}
