//! Targets: `convert` and `restore` write a disk by the same rules, with the same checks and warnings.

mod common;

use std::fs;

use common::nbd::Serving;
use common::{Run, Sandbox, assert_holds, have};

const MIB: u64 = 1 << 20;

/// A sandbox with a repository, in which `disk.raw` is stored under the name `disk`.
struct Repo(Sandbox);

impl Repo {
    fn of(sandbox: Sandbox) -> Repo {
        let repo = Repo(sandbox);
        repo.run(&["init", "repo", "--no-encryption"]).ok();
        repo.run(&["backup", "disk.raw"]).ok();
        repo
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(&self.0.command(args).env("TINTYPE_REPOSITORY", "repo").output().expect("run tintype"))
    }

    /// Writes the disk by both commands, as `convert.EXTENSION` and `restore.EXTENSION`.
    fn both(&self, extension: &str, options: &[&str]) -> [(String, Run); 2] {
        [("convert", "disk.raw"), ("restore", "disk")].map(|(command, source)| {
            let target = format!("{command}.{extension}");
            let run = self.run(&[&[command, source, target.as_str()], options].concat());
            (target, run)
        })
    }
}

fn disk_of(size_bytes: u64) -> Repo {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", size_bytes, 20);
    Repo::of(sandbox)
}

#[test]
fn a_platform_gets_the_size_that_it_accepts() {
    let repo = disk_of(5 * MIB + 512);
    for (target, run) in repo.both("vhd", &["--profile", "azure", "--verify"]) {
        let run = run.ok();
        assert!(run.stderr.contains("azure takes vhd, fixed"), "{}", run.stderr);
        assert!(run.stderr.contains("the disk becomes larger"), "{}", run.stderr);
        assert!(run.stderr.contains("read back and verified"), "{}", run.stderr);
        assert_eq!(fs::metadata(repo.0.path(&target)).unwrap().len(), 6 * MIB + 512, "{target}: disk and footer");
        repo.run(&["convert", &target, "back.raw", "--size", &(5 * MIB + 512).to_string(), "--force"]).ok();
        assert_holds(&repo.0.path("back.raw"), &fs::read(repo.0.path("disk.raw")).unwrap(), &target);
    }
    for (target, run) in repo.both("tar.gz", &["--profile", "gcp"]) {
        run.fails(2, "--extend-to 1073741824");
        assert!(!repo.0.path(&target).exists());
    }
    for (target, run) in repo.both("tar.gz", &["--profile", "gcp", "--extend-to", "1G"]) {
        run.ok();
        repo.run(&["compare", &target, "disk.raw"]).ok();
    }
}

#[test]
fn sectors_that_a_format_does_not_record_are_told() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.img", 4 * MIB, 10);
    sandbox.run(["convert", "disk.img", "disk.vhdx", "-o", "logical_sector=4096"]).ok();
    fs::rename(sandbox.path("disk.vhdx"), sandbox.path("disk.raw")).unwrap();
    let repo = Repo::of(sandbox);
    for (target, run) in repo.both("qcow2", &[]) {
        let run = run.ok();
        assert!(run.stderr.contains("sectors of 4096 bytes, which qcow2 does not record"), "{target}: {}", run.stderr);
    }
    for (target, run) in repo.both("vhdx", &[]) {
        assert!(!run.ok().stderr.contains("does not record"), "{target}");
        let info = repo.run(&["info", "--json", &target]).ok().stdout;
        assert!(info.contains("\"logical_sector_bytes\": 4096"), "{info}");
    }
    for (_, run) in repo.both("vhd", &["--profile", "azure"]) {
        run.fails(2, "azure presents sectors of 512 bytes");
    }
}

#[test]
fn a_file_in_place_keeps_its_end_and_that_is_told() {
    let repo = disk_of(3 * MIB);
    let bytes = fs::read(repo.0.path("disk.raw")).unwrap();
    for target in ["convert.raw", "restore.raw"] {
        fs::write(repo.0.path(target), vec![0x55; 4 << 20]).unwrap();
    }
    for (target, run) in repo.both("raw", &["-n", "--verify"]) {
        let run = run.ok();
        assert!(run.stderr.contains("its last 1 MiB (1048576 bytes) keep what they hold"), "{target}: {}", run.stderr);
        let found = fs::read(repo.0.path(&target)).unwrap();
        assert!(found[..3 << 20] == bytes && found[3 << 20..].iter().all(|byte| *byte == 0x55), "{target}");
    }
    for (_, run) in repo.both("none", &["-n", "-O", "raw"]) {
        run.fails(1, "existing target");
    }
    for (_, run) in repo.both("qcow2", &["-n"]) {
        run.fails(2, "written as raw");
    }
    for (_, run) in repo.both("qcow2", &["--target-is-zero"]) {
        run.fails(2, "existing targets");
    }
    repo.run(&["restore", "disk", "restore.raw", "--delta", "--compress", "zstd"]).fails(2, "raw does not compress");
    repo.run(&["restore", "disk", "restore.raw", "--delta", "--extend-to", "8M"]).fails(2, "--delta");
}

#[test]
fn a_target_that_loses_what_is_written_is_found_by_verify() {
    if !have("nbdkit") {
        return;
    }
    let repo = disk_of(3 * MIB);
    let socket = repo.0.path("socket");
    // This server takes every write and stores none.
    let mut command = std::process::Command::new("nbdkit");
    command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket).args(["null", "size=3M"]);
    let _server = Serving::of(command, 0);
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let address = format!("nbd+unix:///?socket={}", socket.display());
    for (command, source) in [("convert", "disk.raw"), ("restore", "disk")] {
        repo.run(&[command, source, &address, "--force"]).ok();
        repo.run(&[command, source, &address, "--force", "--verify"]).fails(4, "what was read back has the");
    }
}
