//! The old target and the source stay whole, whatever goes wrong.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Sandbox, names_in};

const MIB: u64 = 1 << 20;

#[test]
fn existing_files_are_not_replaced_without_force() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", MIB, 2);
    fs::write(sandbox.path("old.qcow2"), b"precious").unwrap();
    sandbox.run(["convert", "source.raw", "old.qcow2"]).fails(1, "exists already");
    assert_eq!(fs::read(sandbox.path("old.qcow2")).unwrap(), b"precious");
    sandbox.run(["convert", "source.raw", "old.qcow2", "--force"]).ok();
    sandbox.run(["compare", "source.raw", "old.qcow2"]).ok();
    fs::create_dir(sandbox.path("folder.raw")).unwrap();
    for options in [&["--force"][..], &[], &["-n"]] {
        let run = sandbox.run(["convert", "source.raw", "folder.raw"].iter().chain(options));
        assert!(!run.stderr.contains("hint"), "{}", run.stderr);
        run.fails(1, if options == ["-n"] { "neither a regular file" } else { "it is a folder" });
    }
}

#[test]
fn an_empty_pipe_replaces_nothing() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("old.qcow2"), b"precious").unwrap();
    sandbox.run(["convert", "-f", "raw", "-", "old.qcow2", "--force"]).fails(1, "it is empty");
    assert_eq!(fs::read(sandbox.path("old.qcow2")).unwrap(), b"precious");
}

#[test]
fn links_to_what_is_no_file_are_not_replaced() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", MIB, 2);
    symlink("/dev/null", sandbox.path("null.raw")).unwrap();
    sandbox.run(["convert", "source.raw", "null.raw", "--force"]).fails(1, "no regular file");
    assert!(fs::symlink_metadata(sandbox.path("null.raw")).unwrap().is_symlink());
}

#[test]
fn the_source_is_never_the_target_by_any_name() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", MIB, 2);
    let before = fs::read(&source).unwrap();
    symlink("source.raw", sandbox.path("link.raw")).unwrap();
    fs::hard_link(&source, sandbox.path("hard.raw")).unwrap();
    for name in ["source.raw", "./source.raw", "link.raw", "hard.raw"] {
        sandbox.run(["convert", "source.raw", name, "--force"]).fails(1, "the target is the source");
        sandbox.run(["convert", "link.raw", name, "-n"]).fails(1, "the target is the source");
    }
    sandbox.run(["convert", "source.raw", "base.qcow2"]).ok();
    sandbox.run(["convert", "source.raw", "top.qcow2", "--backing", "base.qcow2"]).ok();
    sandbox.run(["convert", "top.qcow2", "base.qcow2", "--force"]).fails(1, "the target is the source");
    sandbox
        .run(["convert", "source.raw", "base.qcow2", "--force", "--backing", "base.qcow2"])
        .fails(1, "the target is");
    assert!(fs::read(&source).unwrap() == before);
}

#[test]
fn a_failed_conversion_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 8 * MIB, 20);
    sandbox.run(["convert", "source.raw", "good.qcow2", "--compress", "zstd"]).ok();
    let mut image = fs::read(sandbox.path("good.qcow2")).unwrap();
    let length = image.len();
    image[length / 4..length / 2].fill(0xff);
    fs::write(sandbox.path("bad.qcow2"), image).unwrap();
    fs::write(sandbox.path("old.raw"), b"precious").unwrap();
    let before = names_in(sandbox.path("x").parent().unwrap());
    let run = sandbox.run(["convert", "bad.qcow2", "old.raw", "--force"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("bad.qcow2"), "{}", run.stderr);
    assert_eq!(fs::read(sandbox.path("old.raw")).unwrap(), b"precious");
    assert_eq!(names_in(sandbox.path("x").parent().unwrap()), before);
}

/// Starts a conversion that takes long enough to be interrupted, and waits until it writes.
fn slow_conversion(sandbox: &Sandbox) -> std::process::Child {
    let args = ["convert", "source.raw", "old.qcow2", "--force", "--rate-limit", "2M"];
    let child = sandbox.command(args).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !names_in(sandbox.path("x").parent().unwrap()).iter().any(|name| name.ends_with(".partial")) {
        assert!(Instant::now() < deadline, "the conversion does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

#[test]
fn signals_stop_it_cleanly() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 64 * MIB, 600);
    fs::write(sandbox.path("old.qcow2"), b"precious").unwrap();
    for signal in ["INT", "TERM", "HUP"] {
        let child = slow_conversion(&sandbox);
        let began = Instant::now();
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{signal}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("stopped"), "{signal}");
        assert!(began.elapsed() < Duration::from_secs(3), "{signal} takes {:?}", began.elapsed());
        assert_eq!(names_in(sandbox.path("x").parent().unwrap()), ["old.qcow2", "source.raw"], "{signal}");
        assert_eq!(fs::read(sandbox.path("old.qcow2")).unwrap(), b"precious", "{signal}");
    }
}

#[test]
fn a_killed_conversion_leaves_the_old_target_whole() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 64 * MIB, 600);
    fs::write(sandbox.path("old.qcow2"), b"precious").unwrap();
    let mut child = slow_conversion(&sandbox);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(sandbox.path("old.qcow2")).unwrap(), b"precious");
}

#[test]
fn usr1_prints_how_far_it_is() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 64 * MIB, 600);
    fs::write(sandbox.path("old.qcow2"), b"precious").unwrap();
    let mut child = slow_conversion(&sandbox);
    let said = std::io::BufReader::new(child.stderr.take().unwrap());
    Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap();
    let told = std::io::BufRead::lines(said).map_while(Result::ok).any(|line| line.contains("of 64 MiB"));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    child.wait().unwrap();
    assert!(told);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !common::have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 32 * MIB, 300);
    let mount = Mounted::tmpfs(&sandbox, "small", "size=4m");
    for name in ["small/a.raw", "small/a.qcow2", "small/a.vhdx", "small/b.qcow2"] {
        let compress: &[&str] = if name == "small/b.qcow2" { &["--compress", "zstd"] } else { &[] };
        let run = sandbox.run(["convert", source.to_str().unwrap(), name].iter().chain(compress));
        assert!(run.stderr.contains("nothing was changed"), "{}", run.stderr);
        run.fails(13, "No space left");
        assert!(names_in(&mount.0).is_empty(), "{name}");
    }
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(sandbox: &Sandbox, name: &str, options: &str) -> Mounted {
        let folder = sandbox.path(name);
        fs::create_dir(&folder).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&folder).status();
        assert!(status.unwrap().success());
        Mounted(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn what_the_command_line_gets_wrong_is_told() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", MIB, 2);
    sandbox.run(["convert", "missing.raw", "x.qcow2"]).fails(1, "missing.raw: open for reading: No such file");
    sandbox
        .run(["convert", "source.raw", "nowhere/x.qcow2"])
        .fails(1, "nowhere/x.qcow2: there is no folder \"nowhere\"");
    sandbox.run(["convert", "source.raw", "x"]).fails(2, "does not tell the target's format");
    sandbox.run(["convert", "source.raw", "x.qcow2", "-O", "zip"]).fails(2, "there is no format \"zip\"");
    sandbox.run(["convert", "source.raw", "x.raw", "--compress", "zstd"]).fails(2, "compress");
    sandbox.run(["convert", "source.raw", "x.raw", "-o", "cluster_size=64k"]).fails(2, "option cluster_size");
    sandbox.run(["convert", "source.raw", "x.qcow2", "-o", "cluster_size=65k"]).fails(2, "cluster_size");
    sandbox.run(["convert", "source.raw", "x.raw", "--subformat", "fast"]).fails(2, "subformat");
    sandbox.run(["convert", "source.raw", "x.raw", "--target-is-zero"]).fails(2, "--target-is-zero");
    sandbox.run(["convert", "source.raw?snapshot=one", "x.raw"]).fails(1, "no snapshots");
    sandbox.run(["convert", "-f", "qcow2", "source.raw", "x.raw"]).fails(1, "source.raw");
    sandbox.run(["convert", ".", "x.raw"]).fails(1, "a folder");
    sandbox.run(["info", "missing.raw"]).fails(1, "missing.raw");
    assert_eq!(names_in(sandbox.path("x").parent().unwrap()), ["source.raw"]);
}

#[test]
fn json_tells_failures_too() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(["convert", "--json", "missing.raw", "x.qcow2"]).fails(1, "missing.raw");
    let event: serde_json::Value = serde_json::from_str(run.stderr.trim()).unwrap();
    assert_eq!((event["type"].as_str(), event["exit_code"].as_u64()), (Some("error"), Some(1)));
}

/// A qcow2 file of a few kibibytes that is a disk of 1 GiB: every entry of the L1 table names the same L2 table, and all of
/// that one's the same cluster, stored as it is or compressed.
fn bomb(compressed: bool) -> Vec<u8> {
    const CLUSTER: u64 = 4096;
    let entry = if compressed { 1 << 62 | 8 << 58 | (3 * CLUSTER) } else { 1 << 63 | (3 * CLUSTER) };
    let mut bytes = b"QFI\xfb\0\0\0\x02".to_vec();
    bytes.extend([0; 12]);
    bytes.extend(12u32.to_be_bytes());
    bytes.extend((1u64 << 30).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 2, 0]);
    bytes.extend(CLUSTER.to_be_bytes());
    bytes.resize(CLUSTER as usize, 0);
    bytes.extend((1u64 << 63 | (2 * CLUSTER)).to_be_bytes().repeat(512));
    bytes.extend(entry.to_be_bytes().repeat(512));
    if compressed {
        // A deflate block that is stored.
        bytes.extend([1, 0x00, 0x10, 0xff, 0xef]);
    }
    bytes.extend([b'x'; CLUSTER as usize]);
    bytes.resize(bytes.len().next_multiple_of(CLUSTER as usize), 0);
    bytes
}

#[test]
fn a_small_file_does_not_fill_the_disk() {
    let sandbox = Sandbox::new();
    for compressed in [false, true] {
        fs::write(sandbox.path("bomb.qcow2"), bomb(compressed)).unwrap();
        for target in ["target.raw", "target.qcow2"] {
            sandbox.run(["convert", "bomb.qcow2", target]).fails(1, "it uses the same bytes several times");
        }
        sandbox.run(["digest", "bomb.qcow2"]).fails(1, "it uses the same bytes several times");
        // So much of it there is.
        sandbox.run(["convert", "bomb.qcow2", "part.raw", "--size", "1M", "--force"]).ok();
        assert!(fs::read(sandbox.path("part.raw")).unwrap() == vec![b'x'; 1 << 20]);
    }
    assert_eq!(names_in(&sandbox.path("")), ["bomb.qcow2", "part.raw"]);
}
