//! Environment variables: what overrides them, and when they count as not set.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use clap::builder::ArgAction;
use clap::{Arg, Command, CommandFactory as _};
use common::{Run, Sandbox};

fn run(sandbox: &Sandbox, args: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = sandbox.command(args);
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    Run::of(&command.output().expect("run tintype"))
}

fn built() -> Command {
    let mut command = tintype::cli::Cli::command();
    command.build();
    command
}

/// A command with all that it cannot do without, so that nothing but a contradiction stops its parser.
fn words(command: &Command) -> Vec<String> {
    let mut words = vec![command.get_name().to_owned()];
    for arg in command.get_arguments().filter(|arg| arg.is_required_set()) {
        match arg.get_long() {
            Some(long) => words.push(format!("--{long}={}", value_of(arg))),
            None => words.push(value_of(arg)),
        }
    }
    words
}

fn value_of(arg: &Arg) -> String {
    arg.get_possible_values().first().map_or_else(|| "1".to_owned(), |value| value.get_name().to_owned())
}

fn contradicts(command: &Command, a: &Arg, b: &Arg) -> bool {
    let says = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|found| found.get_id() == b.get_id());
    says(a, b) || says(b, a)
}

/// Every option with a variable, set to a value that it takes, and every option that contradicts it, typed.
#[test]
fn a_typed_option_overrides_every_variable_that_contradicts_it() {
    let sandbox = Sandbox::new();
    let program = built();
    let mut pairs = 0;
    for command in program.get_subcommands().filter(|command| !command.has_subcommands()) {
        for arg in command.get_arguments() {
            let Some(variable) = arg.get_env().and_then(|name| name.to_str()) else { continue };
            for other in command.get_arguments().filter(|other| contradicts(command, arg, other)) {
                let Some(long) = other.get_long() else { continue };
                let is_flag = !matches!(other.get_action(), ArgAction::Set | ArgAction::Append);
                let typed = if is_flag { format!("--{long}") } else { format!("--{long}={}", value_of(other)) };
                let mut args = words(command);
                args.push(typed);
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let found = run(&sandbox, &args, &[(variable, &value_of(arg))]);
                assert!(!found.stderr.contains("cannot be used with"), "{variable}, {args:?}: {}", found.stderr);
                pairs += 1;
            }
        }
    }
    assert!(pairs > 50, "only {pairs} pairs were tried");
}

/// Each variable by itself, set to nothing: as if it were not there.
#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    let program = built();
    let mut empty: Vec<(&str, &str)> = vec![("TINTYPE_PASSWORD", "")];
    for arg in program.get_subcommands().flat_map(Command::get_arguments) {
        empty.extend(arg.get_env().and_then(|name| name.to_str()).map(|name| (name, "")));
    }
    run(&sandbox, &["convert", "a.raw", "a.qcow2"], &empty).ok();
    run(&sandbox, &["digest", "a.qcow2"], &empty).ok();
    run(&sandbox, &["init", "repo", "--no-encryption"], &empty).ok();
    run(&sandbox, &["backup", "a.raw", "--repo", "repo"], &empty).ok();
    run(&sandbox, &["restore", "a", "b.raw", "-r", "repo"], &empty).ok();
    run(&sandbox, &["digest", "::a"], &empty).fails(2, "TINTYPE_REPOSITORY is not set");
    std::fs::write(sandbox.path("secret"), "secret").unwrap();
    let typed = ["init", "sealed", "--password-file", "secret", "--no-recovery-key"];
    run(&sandbox, &typed, &empty).ok();
    run(&sandbox, &["snapshots", "-r", "sealed", "--password-command", "cat secret"], &empty).ok();
    let one = |name, value| [&empty[..], &[(name, value)]].concat();
    run(&sandbox, &["snapshots", "-r", "sealed"], &one("TINTYPE_PASSWORD_FILE", "secret")).ok();
    run(&sandbox, &["snapshots", "-r", "sealed"], &one("TINTYPE_PASSWORD", "secret")).ok();
}

#[test]
fn a_password_that_is_named_by_an_option_comes_before_every_variable() {
    let sandbox = Sandbox::new();
    for name in ["good", "bad"] {
        std::fs::write(sandbox.path(name), name).unwrap();
    }
    run(&sandbox, &["init", "repo", "--password-file", "good", "--no-recovery-key"], &[]).ok();
    let variables = ["TINTYPE_PASSWORD", "TINTYPE_PASSWORD_FILE", "TINTYPE_PASSWORD_COMMAND", "TINTYPE_KEY_FILE"];
    let commands = ["bad", "bad", "echo bad", "bad"];
    for option in [["--password-file", "good"], ["--password-command", "echo good"], ["--key-file", "good"]] {
        for (variable, value) in variables.iter().zip(commands) {
            run(&sandbox, &[&["snapshots", "-r", "repo"], &option[..]].concat(), &[(variable, value)]).ok();
        }
        let all: Vec<_> = variables.iter().copied().zip(commands).collect();
        run(&sandbox, &[&["snapshots", "-r", "repo"], &option[..]].concat(), &all).ok();
    }
    // Two variables that contradict each other are a mistake that nobody can guess.
    let both = [("TINTYPE_PASSWORD_FILE", "good"), ("TINTYPE_KEY_FILE", "good")];
    run(&sandbox, &["snapshots", "-r", "repo"], &both).fails(2, "cannot be used with");
}

#[test]
fn a_flag_that_a_variable_switches_on_is_switched_off_for_one_run() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    let convert = ["convert", "a.raw", "b.raw"];
    run(&sandbox, &convert, &[]).ok();
    for on in ["1", "yes", "true"] {
        run(&sandbox, &convert, &[("TINTYPE_FORCE", on)]).ok();
    }
    for off in ["", "0", "no", "False", "off"] {
        run(&sandbox, &convert, &[("TINTYPE_FORCE", off)]).fails(1, "--force");
        let shown = run(&sandbox, &["digest", "a.raw"], &[("TINTYPE_JSON", off), ("TINTYPE_QUIET", off)]).ok();
        assert!(!shown.stdout.starts_with('{'), "{off}: {}", shown.stdout);
    }
    for variable in ["TINTYPE_FORCE", "TINTYPE_QUIET"] {
        run(&sandbox, &convert, &[(variable, "flase")]).fails(2, variable);
    }
}

/// Two options that go together when both are typed: one that is typed is all that was asked for.
#[test]
fn a_typed_place_to_listen_on_comes_before_the_variable_of_another() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    let places = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = sandbox.command(["serve", "a.raw", "--json"].iter().chain(args));
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("run tintype");
        let (mut output, mut lines) = (BufReader::new(child.stdout.take().expect("its output")), String::new());
        output.read_line(&mut lines).expect("a line");
        // One line follows the other at once.
        std::thread::sleep(Duration::from_millis(500));
        child.kill().and_then(|()| child.wait()).expect("it ends");
        output.read_to_string(&mut lines).expect("the other lines");
        let (tcp, unix) = (lines.matches("nbd://").count(), lines.matches("nbd+unix://").count());
        (tcp, unix)
    };
    let (listen, socket) = (("TINTYPE_LISTEN", "127.0.0.1:0"), ("TINTYPE_SOCKET", "s"));
    assert_eq!(places(&["--socket", "t"], &[listen]), (0, 1));
    assert_eq!(places(&["--listen", "127.0.0.1:0"], &[socket]), (1, 0));
    assert_eq!(places(&["--listen", "127.0.0.1:0", "--socket", "u"], &[socket]), (1, 1));
    assert_eq!(places(&[], &[listen, socket]), (1, 1));
}

/// What has no JSON prints what it has, where only a variable asks for JSON.
#[test]
fn a_variable_for_json_does_not_stop_what_has_none() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    let json = [("TINTYPE_JSON", "1")];
    for args in
        [&["man"][..], &["completions", "bash"], &["formats", "--markdown"], &["convert", "a.raw", "-", "-O", "raw"]]
    {
        run(&sandbox, args, &json).ok();
        run(&sandbox, &[args, &["--json"]].concat(), &[]).fails(2, "--json");
    }
}

/// One variable for all conversions, also those to formats that cannot do it.
#[test]
fn a_variable_for_compression_counts_where_there_is_compression() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    let zstd = [("TINTYPE_COMPRESS", "zstd")];
    run(&sandbox, &["convert", "a.raw", "a.vhd"], &zstd).ok();
    run(&sandbox, &["convert", "a.raw", "a.qcow2"], &zstd).ok();
    assert!(run(&sandbox, &["info", "a.qcow2"], &[]).ok().stdout.contains("zstd"));
    run(&sandbox, &["convert", "a.raw", "b.vhd", "--compress", "zstd"], &[]).fails(2, "does not compress");
}

#[test]
fn a_variable_for_the_format_counts_for_new_files() {
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 1 << 20, 4);
    sandbox.raw_disk("b.raw", 1 << 20, 0);
    let qcow2 = [("TINTYPE_OUTPUT_FORMAT", "qcow2")];
    run(&sandbox, &["convert", "a.raw", "b.raw", "--no-create", "--force"], &qcow2).ok();
    common::assert_holds(&sandbox.path("b.raw"), &std::fs::read(disk).unwrap(), "in place");
    run(&sandbox, &["convert", "a.raw", "c.img"], &qcow2).ok();
    assert!(run(&sandbox, &["info", "c.img"], &[]).ok().stdout.contains("qcow2"));
    run(&sandbox, &["convert", "a.raw", "d.vhdx", "--profile", "hyperv"], &qcow2).ok();
}

#[test]
fn the_password_variable_is_documented() {
    let sandbox = Sandbox::new();
    for args in [&["--help"][..], &["man"], &["backup", "--help"], &["man", "backup"], &["snapshots", "-h"]] {
        let text = run(&sandbox, args, &[]).ok().stdout.replace("\\_", "_");
        assert!(
            text.contains("TINTYPE_PASSWORD ")
                || text.contains("TINTYPE_PASSWORD\n")
                || text.contains("TINTYPE_PASSWORD\\fR"),
            "{args:?}: {text}"
        );
    }
    let page = run(&sandbox, &["man", "backup"], &[]).ok().stdout;
    let environment = page.split(".SH ENVIRONMENT").nth(1).expect("a section");
    for name in ["TINTYPE_REPOSITORY", "TINTYPE_KEY_FILE", "TINTYPE_JSON", "set to nothing"] {
        assert!(environment.contains(name), "{name}: {environment}");
    }
    run(&sandbox, &["man", "--output", "pages"], &[]).ok();
    assert!(
        std::fs::read_to_string(sandbox.path("pages/tintype-key-add.1")).expect("a page").contains(".SH ENVIRONMENT")
    );
}
