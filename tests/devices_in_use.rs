//! Sources that something else uses are refused, or recorded as what they are.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use common::block::{LoopDevice, Mounted, have_loop_devices};
use common::{Run, Sandbox, have};

const MIB: u64 = 1 << 20;
const REPOSITORY: [&str; 4] = ["--repo", "repo", "--cache-dir", "cache"];

fn with_repository<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &REPOSITORY].concat()
}

fn ready() -> bool {
    have_loop_devices() && have("mkfs.ext4") && have("addpart")
}

/// A device with a file system.
fn device(sandbox: &Sandbox, name: &str) -> LoopDevice {
    File::create(sandbox.path(name)).unwrap().set_len(16 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path(name), 512);
    sandbox.tool("mkfs.ext4", ["-q", device.name()]);
    device
}

fn consistency(sandbox: &Sandbox) -> String {
    let listing = sandbox.run(with_repository(&["snapshots", "--json"])).ok().stdout;
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let newest = listing["snapshots"].as_array().unwrap().last().unwrap().clone();
    newest["consistency"].as_str().unwrap().to_owned()
}

#[test]
fn a_mounted_device_is_taken_only_on_request_and_recorded_as_live() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    let mounted = Mounted::at(&device.0, sandbox.path("mounted here"), "rw");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let where_mounted = format!("{} is mounted at {}", device.name(), mounted.0.display());
    for args in [&["convert", device.name(), "a.raw"][..], &with_repository(&["backup", device.name()])] {
        let run = sandbox.run(args).fails(1, &where_mounted);
        assert!(run.stderr.contains("--live"), "{}", run.stderr);
    }
    assert!(!sandbox.path("a.raw").exists());

    let run = sandbox.run(["convert", device.name(), "a.raw", "--live"]).ok();
    assert!(run.stderr.contains(&where_mounted) && run.stderr.contains("torn"), "{}", run.stderr);
    let run = sandbox.run(with_repository(&["backup", device.name(), "--name", "disk", "--live"])).ok();
    assert!(run.stderr.contains("torn"), "{}", run.stderr);
    assert_eq!(consistency(&sandbox), "live");
    let shown = sandbox.run(with_repository(&["snapshots"])).ok().stdout;
    assert!(shown.contains("live"), "{shown}");
    let shown = sandbox.run(["info", "repo::disk", "--cache-dir", "cache"]).ok().stdout;
    assert!(shown.lines().any(|line| line.starts_with("consistency") && line.ends_with("live")), "{shown}");

    // Of the environment; set to nothing it counts as not set.
    let by_variable = |value: &str| {
        let mut command = sandbox.command(["convert", device.name(), "b.raw", "--force"]);
        Run::of(&command.env("TINTYPE_LIVE", value).stdin(Stdio::null()).output().unwrap())
    };
    by_variable("1").ok();
    by_variable("").fails(1, "is in use");

    for args in
        [&["info", device.name()][..], &["map", device.name()], &["check", device.name()], &["digest", device.name()]]
    {
        let run = sandbox.run(args).ok();
        assert!(run.stderr.contains(&where_mounted), "{args:?}: {}", run.stderr);
    }
    let run = sandbox.run(["compare", device.name(), device.name()]).ok();
    assert!(run.stderr.contains(&where_mounted), "{}", run.stderr);
    let run = sandbox.run(with_repository(&["repair", "--from-disk", device.name()])).ok();
    assert!(run.stderr.contains(&where_mounted), "{}", run.stderr);

    drop(mounted);
    let run = sandbox.run(with_repository(&["backup", device.name(), "--name", "disk"])).ok();
    assert!(!run.stderr.contains("torn"), "{}", run.stderr);
    assert_eq!(consistency(&sandbox), "unknown");
}

#[test]
fn a_disk_is_in_use_through_its_partition_and_not_if_that_is_read_only() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    File::create(sandbox.path("disk.raw")).unwrap().set_len(32 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    let partition = device.add_partition(MIB, 16 * MIB);
    sandbox.tool("mkfs.ext4", ["-q", partition.to_str().unwrap()]);
    let convert = || sandbox.run(["convert", device.name(), "a.raw", "--force"]);
    convert().ok();
    let mounted = Mounted::at(&partition, sandbox.path("mounted"), "rw");
    convert().fails(1, &format!("{} is mounted at {}", partition.display(), mounted.0.display()));
    // A read-only view of a file system that is writable elsewhere changes nothing of that.
    let view = sandbox.path("view");
    fs::create_dir(&view).unwrap();
    sandbox.tool("mount", ["--bind", mounted.0.to_str().unwrap(), view.to_str().unwrap()]);
    sandbox.tool("mount", ["-o", "remount,bind,ro", view.to_str().unwrap()]);
    drop(mounted);
    let run = convert();
    sandbox.tool("umount", [view.to_str().unwrap()]);
    run.fails(1, &view.display().to_string());

    let _mounted = Mounted::at(&partition, sandbox.path("mounted"), "ro");
    let run = convert().ok();
    assert!(!run.stderr.contains("in use"), "{}", run.stderr);
}

#[test]
fn what_is_stacked_on_a_device_or_hidden_is_found() {
    if !ready() || !have("mkswap") || !have("unshare") {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    let upper = LoopDevice::over(&device.0, 512);
    let convert = || sandbox.run(["convert", device.name(), "a.raw", "--force"]);
    convert().ok();
    let mounted = Mounted::at(&upper.0, sandbox.path("mounted"), "rw");
    convert().fails(1, &format!("{} is mounted at", upper.name()));
    drop(mounted);
    drop(upper);
    // A mount that only another mount namespace has.
    fs::create_dir_all(sandbox.path("mounted")).unwrap();
    let script = format!("mount {} mounted && echo ready && read line", device.name());
    let mut other = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(sandbox.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(other.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut String::new()).unwrap();
    let run = convert();
    drop(other.stdin.take());
    other.wait().unwrap();
    run.fails(1, "the kernel says");
    convert().ok();
    // Swap. Where the machine allows none, there is nothing to see.
    sandbox.tool("mkswap", [device.name()]);
    if std::process::Command::new("swapon").arg(&device.0).status().is_ok_and(|status| status.success()) {
        let run = convert();
        sandbox.tool("swapoff", [device.name()]);
        run.fails(1, "is swapped to");
    }
}

#[test]
fn several_readers_do_not_take_each_other_for_users() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    let start = |number: u32| {
        let target = format!("{number}.raw");
        let mut command = sandbox.command(["convert", device.name(), &target]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = (0..12).map(start).collect();
    for child in running {
        Run::of(&child.wait_with_output().unwrap()).ok();
    }
}

#[test]
fn an_image_that_something_uses_is_refused() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["convert", "disk.raw", "a.raw"]).ok();
    let mounted = Mounted::at(&device.0, sandbox.path("mounted"), "rw");
    let convert = |more: &[&str]| sandbox.run([&["convert", "disk.raw", "a.raw", "--force"], more].concat());
    convert(&[]).fails(1, &format!("{} is mounted at", device.name()));
    sandbox.run(with_repository(&["backup", "disk.raw"])).fails(1, "is mounted at");
    let run = convert(&["--live", "--json"]).ok();
    assert!(run.stdout.contains("\"consistency\":\"live\""), "{}", run.stdout);
    drop(mounted);
    let mounted = Mounted::at(&device.0, sandbox.path("mounted"), "ro");
    convert(&[]).ok();
    drop((mounted, device));

    sandbox.run(["convert", "disk.raw", "disk.vmdk"]).ok();
    fs::create_dir(sandbox.path("disk.vmdk.lck")).unwrap();
    fs::write(sandbox.path("disk.vmdk.lck/M12345.lck"), "VMware").unwrap();
    sandbox.run(["convert", "disk.vmdk", "b.raw"]).fails(1, "disk.vmdk.lck");
    let run = sandbox.run(["digest", "disk.vmdk"]).ok();
    assert!(run.stderr.contains("disk.vmdk.lck"), "{}", run.stderr);
    sandbox.run(with_repository(&["backup", "disk.vmdk", "--live"])).ok();
    assert_eq!(consistency(&sandbox), "live");
    // What a new image inherits from must stay as it is, too.
    sandbox.run(["convert", "disk.raw", "d.qcow2", "--backing", "disk.vmdk"]).fails(1, "disk.vmdk.lck");
    sandbox.run(["convert", "disk.raw", "d.qcow2", "--backing", "disk.vmdk", "--live"]).ok();
    let overlay = ["create", "-q", "-f", "qcow2", "-b", "disk.vmdk", "-F", "vmdk", "top.qcow2"];
    if have("qemu-img") {
        sandbox.tool("qemu-img", overlay);
        sandbox.run(["convert", "top.qcow2", "c.raw"]).fails(1, "disk.vmdk.lck");
    }
}

/// A second loop device over the same bytes is a second way to them.
#[test]
fn a_disk_is_in_use_through_another_device_over_the_same_bytes() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    let file = sandbox.path("disk.raw");
    let (second, third) = (LoopDevice::over(&file, 512), LoopDevice::over(&device.0, 512));
    let beside = LoopDevice::with(&file, &["--offset", &(64u64 << 20).to_string()]);
    let mounted = Mounted::at(&device.0, sandbox.path("mounted"), "rw");
    let is_mounted = format!("{} is mounted at", device.name());
    for other in [&second, &third] {
        sandbox.run(["convert", other.name(), "a.raw"]).fails(1, &is_mounted);
        fs::write(mounted.0.join("new"), other.name()).unwrap();
        sandbox.run(["convert", other.name(), "a.raw", "--live", "--force"]).ok();
        let copy = fs::read(sandbox.path("a.raw")).unwrap();
        let name = other.name().as_bytes();
        assert!(copy.windows(name.len()).any(|part| part == name), "{} was not written back", other.name());
    }
    // Set read-only, its file system goes on writing.
    sandbox.tool("blockdev", ["--setro", device.name()]);
    sandbox.run(["convert", device.name(), "b.raw"]).fails(1, &is_mounted);
    sandbox.tool("blockdev", ["--setrw", device.name()]);
    // What is written to the file, or by another device, goes under the mounted file system.
    fs::write(sandbox.path("small.raw"), [7; 4096]).unwrap();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(with_repository(&["backup", "small.raw"])).ok();
    for line in [
        &["convert", "small.raw", "disk.raw", "-n"][..],
        &["convert", "small.raw", "disk.raw", "--force"],
        &["convert", "small.raw", second.name(), "--force"],
        &["convert", "small.raw", third.name(), "--force"],
        &with_repository(&["restore", "small", "disk.raw", "-n"]),
        &with_repository(&["restore", "small", "disk.raw", "--delta"]),
    ] {
        sandbox.run(line).fails(1, &is_mounted);
    }
    drop(mounted);
    sandbox.run(["convert", second.name(), "b.raw"]).ok();
    sandbox.run(["convert", "small.raw", "disk.raw", "-n"]).ok();
    sandbox.run(["convert", "small.raw", second.name(), "--force"]).ok();
    drop(beside);
}

/// Runs `args`, which take some seconds, and calls `change` meanwhile.
fn run_while(sandbox: &Sandbox, args: &[&str], change: impl FnOnce()) -> Run {
    let mut command = sandbox.command(args);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    change();
    Run::of(&child.wait_with_output().unwrap())
}

#[test]
fn what_is_changed_while_it_is_read_is_found_at_the_end() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("disk.raw"), vec![7; 8 << 20]).unwrap();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let write = || {
        let mut file = File::options().write(true).open(sandbox.path("disk.raw")).unwrap();
        file.write_all(b"changed").unwrap();
    };
    let slow = |args: &[&'static str]| [args, &["--rate-limit", "2M"]].concat();
    let run = run_while(&sandbox, &slow(&["convert", "disk.raw", "a.raw", "--no-reflink"]), write);
    run.fails(3, "was changed");
    assert!(sandbox.path("a.raw").exists());
    let run = run_while(&sandbox, &slow(&with_repository(&["backup", "disk.raw"])), write);
    run.fails(3, "was changed");
    assert_eq!(consistency(&sandbox), "live");
    let run = run_while(&sandbox, &slow(&with_repository(&["backup", "disk.raw", "--live"])), write).ok();
    assert!(run.stderr.contains("was changed"), "{}", run.stderr);
    assert_eq!(consistency(&sandbox), "live");
    let grow = || File::options().write(true).open(sandbox.path("disk.raw")).unwrap().set_len(9 << 20).unwrap();
    run_while(&sandbox, &slow(&["convert", "disk.raw", "b.raw", "--no-reflink"]), grow).fails(3, "has 9437184 now");

    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    let write = || {
        let mut file = File::options().write(true).open(&device.0).unwrap();
        file.write_all(&[9; 4096]).unwrap();
        file.sync_all().unwrap();
    };
    let args = ["convert", device.name(), "c.raw", "--rate-limit", "2M"];
    run_while(&sandbox, &args, write).fails(3, "was written to");
    let below = || {
        let mut file = File::options().write(true).open(sandbox.path("disk.raw")).unwrap();
        file.write_all(b"below").unwrap();
    };
    let args = [&args[..], &["--force"]].concat();
    run_while(&sandbox, &args, below).fails(3, "disk.raw was changed");
    sandbox.run(["convert", device.name(), "c.raw", "--force"]).ok();
}

#[test]
fn what_is_written_to_the_disk_that_is_read_is_said() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    let device = device(&sandbox, "disk.raw");
    let mounted = Mounted::at(&device.0, sandbox.path("mounted"), "rw");
    sandbox.run(["init", "mounted/repo", "--no-encryption", "--reserve", "0"]).ok();
    let args = ["backup", device.name(), "--live", "--repo", "mounted/repo", "--cache-dir", "mounted/cache"];
    let run = sandbox.run(args).ok();
    for what in ["the repository", "the cache"] {
        assert!(run.stderr.contains(&format!("{what} mounted/")), "{what}: {}", run.stderr);
    }
    let run = sandbox.run(["convert", device.name(), "mounted/copy.qcow2", "--live"]).ok();
    assert!(run.stderr.contains("the target mounted/copy.qcow2 lies on"), "{}", run.stderr);
    std::fs::remove_dir_all(mounted.0.join("repo")).unwrap();
    std::fs::remove_file(mounted.0.join("copy.qcow2")).unwrap();
    let run = sandbox.run(["convert", "disk.raw", "mounted/copy.qcow2", "--live"]).ok();
    assert!(run.stderr.contains("the target mounted/copy.qcow2 lies on"), "{}", run.stderr);
    let run = sandbox.run(["convert", device.name(), "elsewhere.qcow2", "--live"]).ok();
    assert!(!run.stderr.contains("lies on"), "{}", run.stderr);
    let run = sandbox.run(["convert", device.name(), device.name(), "--live", "--force"]).fails(1, "");
    assert!(!run.stderr.contains("lies on"), "{}", run.stderr);
    drop(mounted);
}
