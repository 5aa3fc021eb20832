//! Sources that go away, shrink, or give errors: the run ends soon, and commits nothing.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, have};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// An NBD server that is ended with the test.
struct Server(Child);

impl Server {
    fn start(sandbox: &Sandbox, args: &[&str]) -> Server {
        let socket = sandbox.path("s");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("nbdkit");
        command.current_dir(sandbox.path(".")).args(["-f", "-U", "s"]).args(args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nbdkit");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Server(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("send a signal");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ADDRESS: &str = "nbd+unix:///?socket=s";

fn with_repository() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox
}

fn snapshots(sandbox: &Sandbox) -> usize {
    let listed = sandbox.run(["snapshots", "--repo", "repo", "--json"]).ok();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed["snapshots"].as_array().expect("snapshots").len()
}

/// Backs a slow export up, and does something to its server in the middle.
fn back_up_while(sandbox: &Sandbox, options: &[&str], act: impl FnOnce(&Server)) -> (Run, Duration) {
    let server = Server::start(sandbox, &["--filter=delay", "pattern", "256M", "rdelay=20ms"]);
    let args = [&["backup", ADDRESS, "--repo", "repo", "--name", "vm", "--nbd-timeout", "2"], options].concat();
    let child = sandbox.command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    std::thread::sleep(Duration::from_millis(1200));
    let began = Instant::now();
    act(&server);
    let run = Run::of(&child.expect("a run").wait_with_output().expect("an end"));
    (run, began.elapsed())
}

#[test]
fn a_server_that_dies_ends_a_backup_after_one_timeout() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = with_repository();
    for options in [&[][..], &["--salvage"], &["--threads", "16"]] {
        let (run, elapsed) = back_up_while(&sandbox, options, |server| server.signal(Signal::KILL));
        run.fails(1, "not back within 2 s");
        assert!(elapsed < Duration::from_secs(6), "{options:?}: {elapsed:?}");
    }
    assert_eq!(snapshots(&sandbox), 0);
}

#[test]
fn a_server_that_says_nothing_any_more_ends_a_backup_soon() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = with_repository();
    let (run, elapsed) = back_up_while(&sandbox, &["--threads", "16"], |server| server.signal(Signal::STOP));
    run.fails(1, "not back within 2 s");
    assert!(elapsed < Duration::from_secs(12), "{elapsed:?}");
    assert_eq!(snapshots(&sandbox), 0);
}

#[test]
fn a_read_error_of_an_export_ends_a_backup_unless_it_salvages() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = with_repository();
    let mut random = tintype_formats::testing::Random(8);
    let noise: Vec<u8> = (0..MIB).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    fs::write(sandbox.path("disk.raw"), noise).expect("a disk");
    let bad = 3 * MIB + 0x1000..3 * MIB + 0x2000;
    fs::write(sandbox.path("bad.map"), common::bad_device::mapfile(8 * MIB, &[bad])).expect("a map");
    let _server = Server::start(&sandbox, &["--filter=ddrescue", "file", "disk.raw", "ddrescue-mapfile=bad.map"]);
    sandbox.run(["backup", ADDRESS, "--repo", "repo", "--name", "vm"]).fails(1, "input/output error");
    assert_eq!(snapshots(&sandbox), 0);
    let run = sandbox.run(["backup", ADDRESS, "--repo", "repo", "--name", "vm", "--salvage", "--json"]);
    let run = run.fails(3, "incomplete");
    let report: Value = serde_json::from_str(run.stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["disks"][0]["unreadable"], serde_json::json!([[3 * MIB + 0x1000, 0x1000]]));
    assert_eq!(snapshots(&sandbox), 1);
}

#[test]
fn an_export_of_which_nothing_can_be_read_is_never_committed() {
    if !have("nbdkit") {
        return;
    }
    let sandbox = with_repository();
    let disk = sandbox.raw_disk("disk.raw", 2 * MIB, 20);
    let args = ["--filter=error", "file", "disk.raw", "error-pread=EIO", "error-pread-rate=100%", "error-file=broken"];
    let _server = Server::start(&sandbox, &args);
    let back_up =
        |options: &[&str]| sandbox.run([&["backup", ADDRESS, "--repo", "repo", "--name", "vm"], options].concat());
    back_up(&[]).ok();
    fs::write(sandbox.path("broken"), "").expect("a file");
    back_up(&[]).fails(1, "input/output error");
    back_up(&["--salvage"]).fails(1, "nothing of the disk could be read");
    assert_eq!(snapshots(&sandbox), 1);
    sandbox.run(["restore", "vm", "back.raw", "--repo", "repo"]).ok();
    common::assert_holds(&sandbox.path("back.raw"), &fs::read(disk).expect("a disk"), "the first backup");
}

#[test]
fn a_disk_that_shrinks_is_not_passed_over() {
    let sandbox = with_repository();
    let disk = sandbox.raw_disk("d.raw", 8 * MIB, 40);
    let back_up = |options: &[&str]| sandbox.run([&["backup", "d.raw", "--repo", "repo"], options].concat());
    back_up(&[]).ok();
    let set_len = |length| fs::File::options().write(true).open(&disk).and_then(|file| file.set_len(length));
    set_len(6 * MIB).expect("a smaller disk");
    let run = back_up(&[]).ok();
    assert!(run.stderr.contains("shrank") && run.stderr.contains("8 MiB"), "{}", run.stderr);
    set_len(0).expect("an empty disk");
    back_up(&[]).fails(1, "--allow-empty");
    assert_eq!(snapshots(&sandbox), 2);
    let run = back_up(&["--allow-empty"]).ok();
    assert!(run.stderr.contains("shrank"), "{}", run.stderr);
    // It stays empty: that is nothing new.
    back_up(&[]).ok();
    assert_eq!(snapshots(&sandbox), 4);
}
