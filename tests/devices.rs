//! Block devices as source and target: real loop devices, so only as root.

mod common;

use std::fs;

use common::block::{LoopDevice, have_loop_devices};
use common::{Sandbox, digest, have};

const MIB: u64 = 1 << 20;

#[test]
fn a_device_is_a_disk_with_its_own_sectors() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 24 * MIB, 30);
    for sector_bytes in [512, 4096] {
        let device = LoopDevice::over(&source, sector_bytes);
        let info = sandbox.run(["info", device.name()]).ok();
        let sectors = format!("{sector_bytes} logical");
        assert!(info.stdout.contains("raw") && info.stdout.contains(&sectors), "{}", info.stdout);
        sandbox.run(["convert", device.name(), "a.vhdx", "--force"]).ok();
        let info = sandbox.run(["info", "--json", "a.vhdx"]).ok();
        assert!(info.stdout.contains(&format!("\"logical_sector_bytes\": {sector_bytes}")), "{}", info.stdout);
        assert_eq!(digest(&sandbox, &sandbox.path("a.vhdx")), digest(&sandbox, &source));
        let run = sandbox.run(["convert", device.name(), "a.qcow2", "--force"]).ok();
        assert_eq!(run.stderr.contains("does not record"), sector_bytes == 4096, "{}", run.stderr);
        sandbox.run(["compare", "a.qcow2", "source.raw"]).ok();
    }
}

#[test]
fn a_device_is_overwritten_only_on_request_and_wholly() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 24 * MIB, 30);
    sandbox.run(["convert", "source.raw", "source.qcow2"]).ok();
    fs::write(sandbox.path("disk.raw"), vec![0xee; 32 << 20]).unwrap();
    for sector_bytes in [512, 4096] {
        let device = LoopDevice::over(&sandbox.path("disk.raw"), sector_bytes);
        sandbox.run(["convert", "source.qcow2", device.name()]).fails(1, "would be overwritten");
        let run = sandbox.run(["convert", "source.qcow2", device.name(), "--force", "--verify"]).ok();
        assert!(run.stderr.contains("larger than the disk"), "{}", run.stderr);
        drop(device);
        let found = fs::read(sandbox.path("disk.raw")).unwrap();
        assert!(found[..24 << 20] == fs::read(&source).unwrap(), "{sector_bytes}");
        assert!(found[24 << 20..].iter().all(|byte| *byte == 0xee), "what is past the disk stays");
        fs::write(sandbox.path("disk.raw"), vec![0xee; 32 << 20]).unwrap();
    }
}

#[test]
fn a_snapshot_comes_back_on_a_device_that_was_in_use() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| sandbox.run(args.iter().copied().chain(["--repo", "repo", "--cache-dir", "cache"]));
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let source = sandbox.raw_disk("source.raw", 24 * MIB, 30);
    run(&["backup", "source.raw"]).ok();
    // The chunks of what changed are stored far from their neighbours.
    let mut bytes = fs::read(&source).unwrap();
    (0..24).step_by(5).for_each(|mib| bytes[mib << 20..][..5000].fill(0x77));
    bytes[7 << 20..9 << 20].fill(0);
    fs::write(&source, &bytes).unwrap();
    run(&["backup", "source.raw"]).ok();
    for sector_bytes in [512, 4096] {
        fs::write(sandbox.path("disk.raw"), vec![0xee; 32 << 20]).unwrap();
        let device = LoopDevice::over(&sandbox.path("disk.raw"), sector_bytes);
        run(&["restore", "source", device.name()]).fails(1, "would be overwritten");
        let restored = run(&["restore", "source", device.name(), "--force"]).ok();
        assert!(restored.stderr.contains("larger than the disk"), "{}", restored.stderr);
        drop(device);
        let found = fs::read(sandbox.path("disk.raw")).unwrap();
        assert!(found[..24 << 20] == bytes, "{sector_bytes}");
        assert!(found[24 << 20..].iter().all(|byte| *byte == 0xee), "what is past the disk stays");
    }
}

#[test]
fn a_device_that_is_too_small_held_or_the_source_is_refused() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 24 * MIB, 30);
    fs::write(sandbox.path("small.raw"), vec![0; 23 << 20]).unwrap();
    let small = LoopDevice::over(&sandbox.path("small.raw"), 512);
    sandbox.run(["convert", "source.raw", small.name(), "--force"]).fails(14, "the disk needs 25165824");
    let itself = LoopDevice::over(&source, 512);
    sandbox.run(["convert", "source.raw", itself.name(), "--force"]).fails(1, "the target is the source");
    sandbox.run(["convert", itself.name(), "source.raw", "--force"]).fails(1, "the target is the source");
    sandbox.run(["convert", itself.name(), itself.name(), "--force"]).fails(1, "the target is the source");
    sandbox.run(["convert", "source.raw", small.name(), "--force", "-O", "qcow2"]).fails(2, "written as raw");
}

#[test]
fn a_mounted_device_is_refused() {
    if !have_loop_devices() || !have("mkfs.ext4") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 4 * MIB, 3);
    fs::File::create(sandbox.path("disk.raw")).unwrap().set_len(16 * MIB).unwrap();
    sandbox.tool("mkfs.ext4", ["-q", "disk.raw"]);
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    fs::create_dir(sandbox.path("mounted")).unwrap();
    sandbox.tool("mount", [device.name(), "mounted"]);
    let run = sandbox.run(["convert", "source.raw", device.name(), "--force"]);
    sandbox.tool("umount", ["mounted"]);
    run.fails(1, "mounted or in use");
    sandbox.tool("e2fsck", ["-fn", "disk.raw"]);
}
