//! Signals stop a run within a second and leave nothing behind, and what became of the target is told truly.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, names_in};

const MIB: u64 = 1 << 20;

/// Starts a run that waits for its standard input or its rate limit.
fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut command = sandbox.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the run has begun a new file.
fn wait_for_partial(sandbox: &Sandbox) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !names_in(sandbox.path("x").parent().unwrap()).iter().any(|name| name.ends_with(".partial")) {
        assert!(Instant::now() < deadline, "the run does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Stops a run; it has to end soon.
fn stop(mut child: Child, name: &str) -> Run {
    let began = Instant::now();
    signal(&child, name);
    // Standard input stays open until it has ended: the child waits for it all the while.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    Run::of(&output)
}

#[test]
fn one_signal_stops_a_run_that_waits_for_a_pipe() {
    for (name, options) in [("INT", &[][..]), ("TERM", &["--verify"]), ("HUP", &["--json"])] {
        let sandbox = Sandbox::new();
        let args = ["convert", "-f", "raw", "-", "target.qcow2", "--size", "8M"];
        let child = start(&sandbox, &[&args, options].concat());
        wait_for_partial(&sandbox);
        stop(child, name).fails(130, "the target was left as it was");
        assert!(names_in(sandbox.path("x").parent().unwrap()).is_empty(), "{name}");
    }
}

#[test]
fn a_second_signal_leaves_nothing_behind_either() {
    let sandbox = Sandbox::new();
    let child = start(&sandbox, &["convert", "-f", "raw", "-", "target.qcow2", "--size", "8M"]);
    wait_for_partial(&sandbox);
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(50));
    stop(child, "INT").fails(130, "the target was left as it was");
    assert!(names_in(sandbox.path("x").parent().unwrap()).is_empty());
}

#[test]
fn a_target_in_place_is_said_to_be_overwritten_in_part() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 64 * MIB, 600);
    let target = sandbox.path("old.raw");
    fs::write(&target, vec![0xee; (64 * MIB) as usize]).unwrap();
    let child = start(&sandbox, &["convert", "source.raw", "old.raw", "-n", "--rate-limit", "8M"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut byte = [0xee];
    while byte == [0xee] {
        assert!(Instant::now() < deadline, "the run does not begin");
        std::thread::sleep(Duration::from_millis(20));
        File::open(&target).unwrap().read_exact_at(&mut byte, 0).unwrap();
    }
    let run = stop(child, "INT");
    assert!(!run.stderr.contains("left as it was"), "{}", run.stderr);
    run.fails(130, "was overwritten in part and must not be used");
}

#[test]
fn what_has_no_target_claims_nothing_of_one() {
    let sandbox = Sandbox::new();
    File::create(sandbox.path("large.raw")).unwrap().set_len(1 << 40).unwrap();
    let child = start(&sandbox, &["digest", "large.raw"]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stop(child, "INT").stderr, "tintype: stopped\n");
}

#[test]
fn signals_that_were_ignored_stay_ignored() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 8 * MIB, 60);
    let script = r#"trap '' HUP INT; exec "$@""#;
    let tintype = sandbox.command(["convert", "source.raw", "target.qcow2", "--rate-limit", "8M"]);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(tintype.get_program()).args(tintype.get_args());
    command.current_dir(sandbox.path("x").parent().unwrap()).stdin(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_partial(&sandbox);
    signal(&child, "HUP");
    signal(&child, "INT");
    Run::of(&child.wait_with_output().unwrap()).ok();
    sandbox.run(["compare", "source.raw", "target.qcow2"]).ok();
}

#[test]
fn a_stream_that_ends_with_the_signal_is_stopped_and_one_that_ends_early_is_not_whole() {
    let sandbox = Sandbox::new();
    let args = ["convert", "-f", "raw", "-", "target.qcow2", "--size", "2M"];
    let mut child = start(&sandbox, &args);
    wait_for_partial(&sandbox);
    drop(child.stdin.take());
    signal(&child, "INT");
    Run::of(&child.wait_with_output().unwrap()).fails(130, "stopped");
    sandbox.raw_disk("short.raw", MIB, 3);
    let mut child = start(&sandbox, &args);
    std::io::copy(&mut File::open(sandbox.path("short.raw")).unwrap(), &mut child.stdin.take().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    Run::of(&output).fails(1, "the stream ended after 1048576 bytes, --size says 2097152 bytes");
    assert_eq!(names_in(sandbox.path("x").parent().unwrap()), ["short.raw"]);
}

#[test]
fn standard_output_that_is_full_is_not_said_to_be_unchanged() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 8 * MIB, 60);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = sandbox.command(["convert", "source.raw", "-"]).stdout(full).output().unwrap();
    let run = Run::of(&output);
    assert!(!run.stderr.contains("nothing was changed") && !run.stderr.contains("os error"), "{}", run.stderr);
    run.fails(13, "what went to standard output is not the whole disk");
}
