//! Standard output and standard error. A closed pipe ends the output, not the program.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::Serialize;

use super::Global;
use super::escape::{self, printable};
use super::failure::Failure;
use crate::error::Error;
use crate::system;

/// Prints text on standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(cause) => Err(Error::io("write to standard output", cause).into()),
        Ok(()) => Ok(()),
    }
}

/// Prints what is nowhere else: fails if nobody can have read it.
pub fn print_only_copy(text: &str) -> Result<(), Failure> {
    let lost = |cause| Failure::from(Error::io("write to standard output", cause));
    if system::standard_output() == system::StandardOutput::Closed {
        return Err(lost(io::Error::from(io::ErrorKind::BrokenPipe)));
    }
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(lost)
}

/// A JSON document, over several lines.
pub fn json_text(document: &impl Serialize) -> String {
    escape::json(&serde_json::to_string_pretty(document).unwrap_or_default()) + "\n"
}

/// Prints a JSON document, over several lines, for a program or a curious person.
pub fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    print(&json_text(document))
}

/// Prints a JSON document in one line, as an event of a long job.
pub fn print_json_line(event: &impl Serialize) -> Result<(), Failure> {
    print(&(escape::json(&serde_json::to_string(event).unwrap_or_default()) + "\n"))
}

/// Goes on after the report of finished work: what was done stays done, and the exit code says so, if nobody can read the report.
pub fn reported(done: &str, printed: Result<(), Failure>, global: Global) {
    if let Err(failure) = printed {
        warn(&format!("{done}; the report could not be written: {}", failure.message()), global);
    }
}

/// Says something on standard error; nobody may be listening.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// True if something was found that no command that succeeds may hide.
static IS_INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Makes the command end as incomplete, if it succeeds: what it read is not all that there should be.
pub fn mark_incomplete() {
    IS_INCOMPLETE.store(true, Relaxed);
}

/// True if the command cannot end better than incomplete.
pub fn is_incomplete() -> bool {
    IS_INCOMPLETE.load(Relaxed)
}

#[derive(Serialize)]
struct WarningEvent<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// Says that something is not as it should be, without keeping the work from being done.
pub fn warn(text: &str, global: Global) {
    let text = printable(text);
    tracing::warn!("{text}");
    if global.quiet {
        return;
    }
    if global.json {
        say_json(&WarningEvent { r#type: "warning", message: &text });
    } else {
        say(&format!("warning: {text}"));
    }
}

/// How this run prints, for warnings from where no command is at hand.
static GLOBAL: OnceLock<Global> = OnceLock::new();

/// Remembers how this run prints.
pub fn remember(global: Global) {
    _ = GLOBAL.set(global);
}

/// Warns from a place that does not know how this run prints.
pub fn warn_always(text: &str) {
    if let Some(global) = GLOBAL.get() {
        warn(text, *global);
    }
}

/// Says something in one line of JSON on standard error.
pub fn say_json(event: &impl Serialize) {
    say(&escape::json(&serde_json::to_string(event).unwrap_or_default()));
}

/// Tells a person what else is worth knowing; programs see it in what they get.
pub fn note(text: &str, global: Global) {
    tracing::info!("{}", printable(text));
    if !global.quiet && !global.json {
        say(&format!("note: {}", printable(text)));
    }
}

#[derive(Serialize)]
struct FailureEvent<'a> {
    r#type: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
    exit_code: u8,
}

/// Says why the command failed, and gives the exit code for it.
pub fn report(failure: &Failure, global: Global) -> u8 {
    let (message, hint, exit_code) = (failure.message(), failure.hint(), failure.exit_code());
    tracing::error!(exit_code, "{message}");
    if global.json {
        say_json(&FailureEvent { r#type: "error", message: &message, hint, exit_code });
        return exit_code;
    }
    say(&format!("tintype: {message}"));
    if let Some(hint) = hint.filter(|_| !global.quiet) {
        say(&format!("hint: {hint}"));
    }
    exit_code
}
