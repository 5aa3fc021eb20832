//! Reads the command line, and tells what is wrong with it as every other failure is told.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use super::failure::Failure;
use super::{Cli, Global};

/// Reads the arguments of the process, or reports why not.
pub fn parse() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut command = without_contradicted_variables(without_empty_variables(Cli::command()), &arguments);
    let found = command.try_get_matches_from_mut(&arguments);
    found.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        _ => failure(&error, &command, &arguments).report(asked_for(&arguments)).into(),
    })
}

/// A variable that is set to nothing counts as not set.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// A variable whose option contradicts one that was typed counts as not set.
fn without_contradicted_variables(command: Command, arguments: &[OsString]) -> Command {
    let typed = command.get_arguments().filter(|arg| is_typed(arg, arguments));
    let contradicted: Vec<_> =
        typed.flat_map(|arg| command.get_arg_conflicts_with(arg)).map(|arg| arg.get_id().clone()).collect();
    command
        .mut_args(|arg| match contradicted.contains(arg.get_id()) && !is_typed(&arg, arguments) {
            true => arg.env(Resettable::Reset),
            false => arg,
        })
        .mut_subcommands(|command| without_contradicted_variables(command, arguments))
}

/// Whether an option stands among the arguments.
fn is_typed(arg: &Arg, arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|argument| *argument != "--").any(|argument| {
        let text = argument.to_string_lossy();
        arg.get_long().is_some_and(|long| text.split('=').next() == Some(&format!("--{long}")))
            || arg.get_short().is_some_and(|short| text.starts_with(&format!("-{short}")))
    })
}

/// How to report, when the arguments could not be read: by the look of them.
fn asked_for(arguments: &[OsString]) -> Global {
    let given = |names: &[&str]| {
        arguments
            .iter()
            .take_while(|argument| *argument != "--")
            .any(|argument| names.iter().any(|name| argument == name))
    };
    let set = |name: &str| {
        let no = ["", "n", "no", "f", "false", "off", "0"];
        std::env::var(name).is_ok_and(|value| !no.contains(&value.to_ascii_lowercase().as_str()))
    };
    Global { json: given(&["--json"]) || set("TINTYPE_JSON"), quiet: given(&["-q", "--quiet"]) || set("TINTYPE_QUIET") }
}

/// The parser's words: a message, perhaps with tips and the usage, each a paragraph.
fn failure(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Failure {
    let text = error.render().to_string();
    let mut message = Vec::new();
    let mut tips = Vec::new();
    let mut usage = None;
    for line in text.trim_start_matches("error: ").lines().map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            tips.push(tip.to_owned());
        } else if let Some(line) = line.strip_prefix("Usage: ") {
            usage = Some(line.to_owned());
        } else if tips.is_empty() && usage.is_none() && !line.starts_with("For more information") {
            message.push(line);
        }
    }
    let message = message.join(" ").trim().to_owned();
    let message = match variable(error, command, arguments) {
        Some(name) => format!("{name}: {message}"),
        None => message,
    };
    let hint = match (tips.is_empty(), usage) {
        (false, _) => tips.join("; "),
        (true, Some(usage)) => format!("usage: {usage}"),
        (true, None) => "--help shows what there is".to_owned(),
    };
    Failure::usage(message).hinted(hint)
}

/// The environment variable that the wrong value came from.
fn variable(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut command = command.clone();
    command.build();
    let all = command.get_subcommands().chain([&command]).flat_map(Command::get_arguments);
    let arg = all.into_iter().find(|arg| arg.to_string() == *name)?;
    let variable = arg.get_env().filter(|variable| std::env::var_os(variable).is_some())?;
    (!is_typed(arg, arguments)).then(|| variable.to_string_lossy().into_owned())
}
