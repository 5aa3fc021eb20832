//! Reads the command line, and tells what is wrong with it as every other failure is told.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use super::failure::Failure;
use super::{Cli, Global, habits, output};

/// The options whose values came from variables.
static FROM_VARIABLES: OnceLock<HashSet<String>> = OnceLock::new();

/// Reads the arguments of the process, or reports why not.
pub fn parse() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let typed = typed(&arguments);
    let mut built = Cli::command();
    built.build();
    let mut command = without_variables(Cli::command(), &built, typed.as_ref(), &|name| std::env::var_os(name));
    let found = command.try_get_matches_from_mut(&arguments);
    let read = found.and_then(|mut matches| {
        let mut from_variables = HashSet::new();
        collect(&matches, ValueSource::EnvVariable, &mut from_variables);
        let _ = FROM_VARIABLES.set(from_variables);
        Cli::from_arg_matches_mut(&mut matches)
    });
    read.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.exit()
        }
        _ => output::report(&failure(&error, &command, typed.as_ref()), asked_for(&arguments)).into(),
    })
}

/// Returns true if nobody typed the option of this id in this run: its value is that of its variable.
///
/// For contradictions that no two options have by themselves, such as one between an option and a format.
pub fn is_from_variable(id: &str) -> bool {
    FROM_VARIABLES.get().is_some_and(|found| found.contains(id))
}

/// What was typed, without any variable. Where it cannot be read, the same parser fails again, and says why.
fn typed(arguments: &[OsString]) -> Option<ArgMatches> {
    fn bare(command: Command) -> Command {
        command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(bare)
    }
    bare(Cli::command()).ignore_errors(true).try_get_matches_from(arguments).ok()
}

/// Takes away the variables that do not count: those that are set to nothing, those that switch a flag off, and those whose
/// option contradicts one that was typed.
///
/// `built` is the same command, with its global options in every subcommand.
fn without_variables(
    command: Command,
    built: &Command,
    typed: Option<&ArgMatches>,
    variable: &dyn Fn(&OsStr) -> Option<OsString>,
) -> Command {
    let is_typed =
        |arg: &Arg| typed.is_some_and(|typed| is_from(typed, arg.get_id().as_str(), ValueSource::CommandLine));
    let typed_args: Vec<&Arg> = built.get_arguments().filter(|arg| is_typed(arg)).collect();
    let counts = |arg: &Arg| {
        let Some(value) = arg.get_env().and_then(variable) else { return true };
        let is_off = matches!(arg.get_action(), ArgAction::SetTrue) && is_no(&value);
        let contradicts = |typed: &&Arg| contradict(built, arg, typed);
        !value.is_empty() && !is_off && (is_typed(arg) || !typed_args.iter().any(contradicts))
    };
    command.mut_args(|arg| if counts(&arg) { arg } else { arg.env(Resettable::Reset) }).mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let typed = typed.and_then(|typed| typed.subcommand()).filter(|(chosen, _)| *chosen == name);
        match built.find_subcommand(&name) {
            Some(built) => without_variables(command, built, typed.map(|(_, typed)| typed), variable),
            None => command,
        }
    })
}

/// Returns true if one of the two options says that they do not go together: the other one need not say so as well.
fn contradict(built: &Command, a: &Arg, b: &Arg) -> bool {
    let says = |arg: &Arg, other: &Arg| {
        // By its id: `arg` may be one of a command that is not built, and conflicts of its own are all that is asked for.
        let arg = built.get_arguments().find(|own| own.get_id() == arg.get_id());
        arg.is_some_and(|arg| built.get_arg_conflicts_with(arg).iter().any(|found| found.get_id() == other.get_id()))
    };
    says(a, b) || says(b, a)
}

/// Returns true for what switches a flag off.
fn is_no(value: &OsStr) -> bool {
    const NO: [&str; 7] = ["", "n", "no", "f", "false", "off", "0"];
    value.to_str().is_some_and(|value| NO.contains(&value.to_ascii_lowercase().as_str()))
}

fn is_from(matches: &ArgMatches, id: &str, source: ValueSource) -> bool {
    matches.ids().any(|found| found == id) && matches.value_source(id) == Some(source)
}

/// The ids of the options whose values came from there, in all commands.
fn collect(matches: &ArgMatches, source: ValueSource, found: &mut HashSet<String>) {
    found.extend(matches.ids().map(clap::Id::as_str).filter(|id| is_from(matches, id, source)).map(str::to_owned));
    if let Some((_, matches)) = matches.subcommand() {
        collect(matches, source, found);
    }
}

/// How to report, when the arguments could not be read: by the look of them.
fn asked_for(arguments: &[OsString]) -> Global {
    let given = |names: &[&str]| {
        arguments
            .iter()
            .take_while(|argument| *argument != "--")
            .any(|argument| names.iter().any(|name| argument == name))
    };
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !is_no(&value));
    Global { json: given(&["--json"]) || set("TINTYPE_JSON"), quiet: given(&["-q", "--quiet"]) || set("TINTYPE_QUIET") }
}

/// The parser's words: a message, perhaps with tips and the usage, each a paragraph.
fn failure(error: &clap::Error, command: &Command, typed: Option<&ArgMatches>) -> Failure {
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
    let message = match variable(error, command, typed) {
        Some(name) => format!("{name}: {message}"),
        None => message,
    };
    let is_nested = typed.is_some_and(|typed| typed.subcommand_name().is_some());
    if habits::is_far_fetched(error) {
        tips.clear();
        usage = None;
    }
    let hint = match (habits::hint(error, is_nested), tips.is_empty(), usage) {
        (Some(hint), _, _) => hint.to_owned(),
        (None, false, _) => tips.join("; "),
        (None, true, Some(usage)) => format!("usage: {usage}"),
        (None, true, None) => "--help shows what there is".to_owned(),
    };
    Failure::usage(message).hinted(hint)
}

/// The environment variable that the wrong value came from.
fn variable(error: &clap::Error, command: &Command, typed: Option<&ArgMatches>) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut command = command.clone();
    command.build();
    let all = command.get_subcommands().chain([&command]).flat_map(Command::get_arguments);
    let arg = all.into_iter().find(|arg| arg.to_string() == *name)?;
    let variable = arg.get_env().filter(|variable| std::env::var_os(variable).is_some())?;
    let mut ids = HashSet::new();
    if let Some(typed) = typed {
        collect(typed, ValueSource::CommandLine, &mut ids);
    }
    (!ids.contains(arg.get_id().as_str())).then(|| variable.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options of a command that still have their variables, when those in `set` are set and this is typed.
    fn left(command: &str, arguments: &[&str], set: &[(&str, &str)]) -> Vec<String> {
        let words: Vec<OsString> = ["tintype", command].iter().chain(arguments).map(OsString::from).collect();
        let mut built = Cli::command();
        built.build();
        let get = |name: &OsStr| set.iter().find(|(known, _)| name == *known).map(|(_, value)| value.into());
        let found = without_variables(Cli::command(), &built, typed(&words).as_ref(), &get);
        let arguments = found.find_subcommand(command).expect("a command").get_arguments();
        arguments.filter(|arg| arg.get_env().is_some()).map(|arg| arg.get_id().to_string()).collect()
    }

    #[test]
    fn what_is_typed_overrides_variables_in_both_directions() {
        let set = [("TINTYPE_PASSWORD_FILE", "a"), ("TINTYPE_PASSWORD_COMMAND", "b"), ("TINTYPE_KEY_FILE", "c")];
        let options = [("--password-file=x", 0), ("--password-command=x", 1), ("--key-file=x", 2)];
        for (typed, own) in options {
            let left = left("snapshots", &[typed], &set);
            for (index, id) in ["password_file", "password_command", "key_file"].iter().enumerate() {
                assert_eq!(left.contains(&(*id).to_owned()), index == own, "{typed}: {left:?}");
            }
        }
    }

    #[test]
    fn a_value_that_looks_like_an_option_is_none() {
        let set = [("TINTYPE_KEY_FILE", "c")];
        assert!(
            left("backup", &["a", "--name", "password-file", "--tag=a=--password-file"], &set)
                .contains(&"key_file".into())
        );
        assert!(left("backup", &["--", "--password-file=x"], &set).contains(&"key_file".into()));
    }

    /// Every option that has a variable, against everything that contradicts it.
    #[test]
    fn every_contradicted_variable_is_overridden() {
        let mut built = Cli::command();
        built.build();
        let mut pairs = 0;
        for command in built.get_subcommands() {
            for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
                for other in command.get_arguments().filter(|other| other.get_long().is_some()) {
                    if !contradict(command, arg, other) {
                        continue;
                    }
                    let long = other.get_long().expect("an option");
                    let values = other.get_possible_values();
                    let value = values.first().map_or("1", |value| value.get_name());
                    let takes = other.get_action().takes_values();
                    let typed = if takes { format!("--{long}={value}") } else { format!("--{long}") };
                    let variable = arg.get_env().and_then(OsStr::to_str).expect("a name");
                    let left = left(command.get_name(), &[&typed], &[(variable, "1")]);
                    assert!(!left.contains(&arg.get_id().to_string()), "{} {typed}, {variable}", command.get_name());
                    pairs += 1;
                }
            }
        }
        assert!(pairs > 50, "{pairs}");
    }

    #[test]
    fn what_is_set_to_nothing_or_to_no_does_not_count() {
        for value in ["", "0", "false", "No", "OFF"] {
            let left = left("convert", &[], &[("TINTYPE_FORCE", value)]);
            assert!(!left.contains(&"force".to_owned()), "{value}");
        }
        assert!(left("convert", &[], &[("TINTYPE_FORCE", "1")]).contains(&"force".to_owned()));
        assert!(!left("convert", &[], &[("TINTYPE_THREADS", "")]).contains(&"threads".to_owned()));
        assert!(left("convert", &[], &[("TINTYPE_THREADS", "0")]).contains(&"threads".to_owned()));
    }

    /// So that "1", "yes" and "0" work for all of them, and "flase" for none.
    #[test]
    fn every_flag_with_a_variable_takes_words_of_yes_and_no() {
        let mut built = Cli::command();
        built.build();
        for command in built.get_subcommands() {
            let flags = command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
            for flag in flags.filter(|flag| flag.get_env().is_some()) {
                let values: Vec<_> = flag.get_value_parser().possible_values().expect("words").collect();
                let takes = |word: &str| values.iter().any(|value| value.matches(word, false));
                assert!(takes("1") && takes("yes") && takes("off"), "{} {flag}", command.get_name());
            }
        }
    }
}
