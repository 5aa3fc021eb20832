//! On a file system with reflinks blocks are shared instead of copied. Needs root, for the mount.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Sandbox, digest, have, have_root};

const MIB: u64 = 1 << 20;

/// A file system in a file, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(sandbox: &Sandbox, name: &str, mkfs: &[&str]) -> Mounted {
        let image = sandbox.path(&format!("{name}.fs"));
        fs::File::create(&image).unwrap().set_len(600 * MIB).unwrap();
        let mut args = mkfs[1..].to_vec();
        args.push(image.to_str().unwrap());
        sandbox.tool(mkfs[0], args);
        let folder = sandbox.path(name);
        fs::create_dir(&folder).unwrap();
        sandbox.tool("mount", ["-o", "loop", image.to_str().unwrap(), folder.to_str().unwrap()]);
        Mounted(folder)
    }

    /// Bytes in use, after everything is written back.
    fn used_bytes(&self) -> u64 {
        Command::new("sync").arg("-f").arg(&self.0).status().unwrap();
        let output = Command::new("df").args(["--output=used", "-B1"]).arg(&self.0).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap().trim().parse().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn check_sharing(sandbox: &Sandbox, mounted: &Mounted) {
    let noise: Vec<u8> = {
        let mut random = tintype_formats::testing::Random(7);
        (0..100 << 17).flat_map(|_| random.next_u64().to_le_bytes()).collect()
    };
    fs::write(mounted.0.join("source.raw"), &noise).unwrap();
    let file = fs::File::options().write(true).open(mounted.0.join("source.raw")).unwrap();
    file.set_len(130 * MIB + 512).unwrap();
    let run_in = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.current_dir(&mounted.0);
        common::Run::of(&command.output().unwrap())
    };
    let expected = digest(sandbox, &mounted.0.join("source.raw"));
    let before = mounted.used_bytes();
    for target in ["a.raw", "a.qcow2", "a.vhdx"] {
        run_in(&["convert", "source.raw", target]).ok();
        assert_eq!(digest(sandbox, &mounted.0.join(target)), expected, "{target}");
        run_in(&["check", target]).ok();
    }
    run_in(&["convert", "a.qcow2", "b.vhdx", "--verify"]).ok();
    assert_eq!(digest(sandbox, &mounted.0.join("b.vhdx")), expected);
    let shared = mounted.used_bytes() - before;
    assert!(shared < 30 * MIB, "{shared} bytes used by four copies of 100 MiB");
    run_in(&["convert", "source.raw", "c.raw", "--no-reflink"]).ok();
    assert!(mounted.used_bytes() - before > 90 * MIB, "--no-reflink copies");
    assert!(Path::new(&mounted.0).exists());
}

#[test]
fn blocks_are_shared_on_xfs() {
    if !have_root() || !have("mkfs.xfs") {
        return;
    }
    let sandbox = Sandbox::new();
    let mounted = Mounted::new(&sandbox, "xfs", &["mkfs.xfs", "-q", "-m", "reflink=1"]);
    check_sharing(&sandbox, &mounted);
}

#[test]
fn blocks_are_shared_on_btrfs() {
    if !have_root() || !have("mkfs.btrfs") {
        return;
    }
    let sandbox = Sandbox::new();
    let mounted = Mounted::new(&sandbox, "btrfs", &["mkfs.btrfs", "-q"]);
    check_sharing(&sandbox, &mounted);
}
