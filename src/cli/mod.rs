//! The command line: one file per command, and what people and programs get to see.

mod bar;
mod choice;
mod commands;
mod create_args;
mod digest_algorithm;
mod escape;
mod failure;
mod findings;
mod habits;
mod info_repository;
mod info_stored;
mod job;
mod live_args;
mod log;
mod machine_args;
mod output;
mod profile;
mod prompt;
mod pruning;
mod repository_args;
mod salvage_args;
mod salvage_map;
mod secrets;
mod short_ids;
mod source_args;
mod tag_arg;
mod target_args;
mod texts;
mod units;
mod usage;
mod verify_boot;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::SIGUSR1;

use self::commands::{
    backup, boot, check, compare, completions, convert, diff, digest, export, forget, formats, import, info, init, key,
    man, map, measure, mount, prune, repair, restore, serve, snapshots, stats, tag, unmount, verify,
};
use self::failure::Failure;
use crate::system;

/// Converts virtual and physical disks between formats, and backs them up
///
/// Every command reads any disk: an image file of any format with its backing files, a block device, a disk of an
/// NBD server (nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH), a stored snapshot (REPO::NAME, REPO::NAME@ID), or "-" for a raw stream on standard input. What is chosen inside is a part of the
/// address: disk.qcow2?snapshot=before, machine.ova?disk=2, /dev/sda?partition=1, several of them joined by "&".
#[derive(Debug, Parser)]
#[command(name = "tintype", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done; 1 failed; 2 wrong usage; 3 finished, but something could not be read, or \
    differences or leaks were found; 4 verification failed or an image is damaged; 10 no such repository; 12 wrong key; 13 no space left; 14 target too \
    small; 130 stopped.\n\n\
    Environment: TINTYPE_PASSWORD holds the password of the repository, unless an option or another variable gives it. Options \
    with [env: NAME=] have the value of that variable where they are not typed. A variable that is set to nothing counts as not \
    set, and a typed option overrides every variable that contradicts it. NAME= or NAME=false before the command switches a flag \
    off that NAME=1 has switched on.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    /// Append to FILE what is done, and how long it takes; for those who help others. Passwords never stand in it
    #[arg(long, global = true, value_name = "FILE", env = "TINTYPE_LOG", help_heading = "Options of every command")]
    log: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Print one JSON document, or JSON lines with a "type" for long jobs, on standard output; warnings and errors as JSON
    /// lines on standard error
    #[arg(long, global = true, env = "TINTYPE_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,
    /// Print no progress, no summary and no warnings
    #[arg(long, short, global = true, env = "TINTYPE_QUIET", value_parser = clap::builder::BoolishValueParser::new())]
    quiet: bool,
}

impl Global {
    /// For what has no JSON: fails with this message if --json was typed. A variable that asks for JSON does not count here.
    fn without_json(self, message: &str) -> Result<Global, Failure> {
        if self.json && !usage::is_from_variable("json") {
            return Err(Failure::usage(message));
        }
        Ok(Global { json: false, ..self })
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Backup(backup::Args),
    Boot(boot::Args),
    Check(check::Args),
    Compare(compare::Args),
    Completions(completions::Args),
    Convert(convert::Args),
    Diff(diff::Args),
    Digest(digest::Args),
    Export(export::Args),
    Forget(forget::Args),
    Formats(formats::Args),
    Import(import::Args),
    Info(info::Args),
    Init(init::Args),
    #[command(subcommand)]
    Key(key::Command),
    Man(man::Args),
    Map(map::Args),
    Measure(measure::Args),
    Mount(mount::Args),
    Prune(prune::Args),
    Repair(repair::Args),
    Restore(restore::Args),
    Serve(serve::Args),
    Snapshots(snapshots::Args),
    Stats(stats::Args),
    Tag(tag::Args),
    Unmount(unmount::Args),
    Verify(verify::Args),
}

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Finished, but something could not be read, or differences or leaks were found.
    Incomplete,
    /// An image is damaged.
    Damaged,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Incomplete => ExitCode::from(3),
            Outcome::Damaged => ExitCode::from(4),
        }
    }
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let Cli { global, log, command } = match usage::parse() {
        Ok(cli) => cli,
        Err(exit_code) => return exit_code,
    };
    output::remember(global);
    outlive_questions();
    allow_many_open_files();
    system::forbid_core_dumps();
    let began = log.map_or(Ok(()), |path| log::begin(&path));
    match began.and_then(|()| run(command, global)) {
        Ok(Outcome::Done) if output::is_incomplete() => Outcome::Incomplete.into(),
        Ok(outcome) => outcome.into(),
        Err(failure) => output::report(&failure, global).into(),
    }
}

/// SIGUSR1 asks how far a job is. Before there is one, it must not end the process.
fn outlive_questions() {
    if !system::is_signal_ignored(SIGUSR1) {
        // Where this is refused, nothing is lost but that.
        let _ = signal_hook::flag::register(SIGUSR1, Arc::default());
    }
}

/// A disk may consist of thousands of files, each a part of 2 GiB; shells allow 1,024 unless asked for more.
fn allow_many_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where this is refused, the file that is one too many cannot be opened, and the error says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn run(command: Command, global: Global) -> Result<Outcome, Failure> {
    match command {
        Command::Backup(args) => backup::run(&args, global),
        Command::Boot(args) => boot::run(&args, global),
        Command::Check(args) => check::run(&args, global),
        Command::Compare(args) => compare::run(&args, global),
        Command::Completions(args) => completions::run(&args, global),
        Command::Convert(args) => convert::run(&args, global),
        Command::Diff(args) => diff::run(&args, global),
        Command::Digest(args) => digest::run(&args, global),
        Command::Export(args) => export::run(&args, global),
        Command::Forget(args) => forget::run(&args, global),
        Command::Formats(args) => formats::run(&args, global),
        Command::Import(args) => import::run(&args, global),
        Command::Info(args) => info::run(&args, global),
        Command::Init(args) => init::run(&args, global),
        Command::Key(command) => key::run(&command, global),
        Command::Man(args) => man::run(&args, global),
        Command::Map(args) => map::run(&args, global),
        Command::Measure(args) => measure::run(&args, global),
        Command::Mount(args) => mount::run(&args, global),
        Command::Prune(args) => prune::run(&args, global),
        Command::Repair(args) => repair::run(&args, global),
        Command::Restore(args) => restore::run(&args, global),
        Command::Serve(args) => serve::run(&args, global),
        Command::Snapshots(args) => snapshots::run(&args, global),
        Command::Stats(args) => stats::run(&args, global),
        Command::Tag(args) => tag::run(&args, global),
        Command::Unmount(args) => unmount::run(&args, global),
        Command::Verify(args) => verify::run(&args, global),
    }
}
