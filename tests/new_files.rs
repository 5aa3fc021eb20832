//! New files: who may open them, what they are called meanwhile, and where a name leads.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::block::{LoopDevice, have_loop_devices};
use common::{Run, Sandbox, assert_holds, names_in};

const MIB: u64 = 1 << 20;

/// Runs tintype with this umask.
fn run_as(sandbox: &Sandbox, umask: &str, args: &[&str]) -> Run {
    let tintype = sandbox.command(args);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(tintype.get_program()).args(args);
    command
        .current_dir(sandbox.path(""))
        .env("TINTYPE_REPOSITORY", "repo")
        .env("XDG_CACHE_HOME", sandbox.path("cache"));
    Run::of(&command.output().expect("run tintype"))
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    run_as(sandbox, "022", args)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set the mode");
}

#[test]
fn converted_files_are_no_wider_than_their_source() {
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("disk.raw", 4 * MIB, 10);
    for (source, umask, expected) in [
        (0o600, "000", 0o600),
        (0o640, "000", 0o640),
        (0o640, "022", 0o640),
        (0o644, "022", 0o644),
        (0o666, "022", 0o644),
        (0o664, "000", 0o664),
        (0o400, "000", 0o600),
        (0o755, "000", 0o644),
    ] {
        set_mode(&disk, source);
        run_as(&sandbox, umask, &["convert", "disk.raw", "a.qcow2", "--force"]).ok();
        assert_eq!(mode(&sandbox.path("a.qcow2")), expected, "from {source:o}, umask {umask}");
    }
}

/// The files of a whole machine are on its disk: who may not open the device may not open the copy.
#[test]
fn copies_of_devices_are_no_wider_than_the_device() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("disk.raw", 4 * MIB, 10);
    let device = LoopDevice::over(&disk, 512);
    set_mode(&device.0, 0o600);
    for target in ["a.raw", "a.qcow2"] {
        run_as(&sandbox, "000", &["convert", device.name(), target]).ok();
        assert_eq!(mode(&sandbox.path(target)), 0o600, "{target}");
    }
    set_mode(&device.0, 0o660);
}

#[test]
fn all_files_of_a_conversion_are_as_private_as_the_most_private_source() {
    let sandbox = Sandbox::new();
    let base = sandbox.raw_disk("base.raw", 4 * MIB, 10);
    run(&sandbox, &["convert", "base.raw", "base.qcow2"]).ok();
    sandbox.raw_disk("changed.raw", 4 * MIB, 12);
    run(&sandbox, &["convert", "changed.raw", "top.qcow2", "--backing", "base.qcow2"]).ok();
    set_mode(&sandbox.path("base.qcow2"), 0o600);
    assert_eq!(mode(&sandbox.path("top.qcow2")), 0o644);
    // What is read from the parent is the parent's.
    run(&sandbox, &["convert", "top.qcow2", "flat.raw"]).ok();
    assert_eq!(mode(&sandbox.path("flat.raw")), 0o600);
    fs::create_dir(sandbox.path("chain")).unwrap();
    run(&sandbox, &["convert", "top.qcow2", "chain/top.qcow2", "--layers"]).ok();
    let all: Vec<_> =
        names_in(&sandbox.path("chain")).iter().map(|name| mode(&sandbox.path("chain").join(name))).collect();
    assert_eq!(all, [0o600, 0o600]);
    set_mode(&base, 0o600);
    fs::create_dir(sandbox.path("split")).unwrap();
    run(&sandbox, &["convert", "base.raw", "split/a.vmdk", "--subformat", "monolithicFlat"]).ok();
    let names = names_in(&sandbox.path("split"));
    assert!(names.len() > 1, "{names:?}");
    assert!(names.iter().all(|name| mode(&sandbox.path("split").join(name)) == 0o600), "{names:?}");
    let redirected = fs::File::open(&base).unwrap();
    sandbox.run_with_input(["convert", "-", "stdin.qcow2", "-f", "raw"], redirected.into()).ok();
    assert_eq!(mode(&sandbox.path("stdin.qcow2")), 0o600);
}

#[test]
fn what_comes_out_of_a_repository_is_for_its_owner_alone() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    sandbox.raw_disk("disk.raw", 4 * MIB, 10);
    run(&sandbox, &["backup", "disk.raw", "--name", "vm"]).ok();
    sandbox.raw_disk("other.raw", 4 * MIB, 10);
    run(&sandbox, &["backup", "disk.raw", "other.raw", "--name", "two"]).ok();
    let line: [&[&str]; 5] = [
        &["restore", "vm", "a.raw"],
        &["restore", "vm", "a.qcow2"],
        &["convert", "repo::vm", "b.raw"],
        &["export", "vm", "a.tin"],
        &["restore", "two", "folder"],
    ];
    line.iter().for_each(|line| _ = run_as(&sandbox, "000", line).ok());
    for file in ["a.raw", "a.qcow2", "b.raw", "a.tin", "folder/disk.raw", "folder/other.raw"] {
        assert_eq!(mode(&sandbox.path(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&sandbox.path("folder")), 0o700);
}

#[test]
fn a_name_that_the_file_system_takes_is_written() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    let disk = sandbox.raw_disk("disk.raw", MIB, 4);
    let bytes = fs::read(&disk).unwrap();
    run(&sandbox, &["backup", "disk.raw", "--name", "vm"]).ok();
    for length in [47, 49, 230, 240, 250, 255] {
        let name = "x".repeat(length - 4) + ".raw";
        run(&sandbox, &["convert", "disk.raw", &name]).ok();
        assert_holds(&sandbox.path(&name), &bytes, &name);
        run(&sandbox, &["restore", "vm", &name, "--force"]).ok();
    }
    for letters in [75, 80, 83] {
        let name = "字".repeat(letters);
        let source = format!("{name}.raw");
        fs::copy(&disk, sandbox.path(&source)).unwrap();
        run(&sandbox, &["backup", &source]).ok();
        let folder = format!("folder{letters}");
        fs::create_dir(sandbox.path(&folder)).unwrap();
        run(&sandbox, &["restore", &name, &folder]).ok();
        assert_eq!(names_in(&sandbox.path(&folder)), [source]);
    }
    // The longest name that a file has gets another extension.
    let name = "y".repeat(251);
    fs::copy(&disk, sandbox.path(&format!("{name}.raw"))).unwrap();
    run(&sandbox, &["backup", &format!("{name}.raw")]).ok();
    fs::create_dir(sandbox.path("folder")).unwrap();
    run(&sandbox, &["restore", &name, "folder", "-O", "qcow2"]).ok();
    assert_eq!(names_in(&sandbox.path("folder"))[0].len(), 255);
    run(&sandbox, &["export", &name, &("z".repeat(251) + ".tin")]).ok();
}

#[test]
fn names_have_a_bound() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    sandbox.raw_disk("disk.raw", MIB, 4);
    let (longest, too_long) = ("n".repeat(255), "n".repeat(256));
    run(&sandbox, &["backup", "disk.raw", "--name", &longest, "--tag", &format!("{longest}=v")]).ok();
    let backup = |more: &[&str]| run(&sandbox, &[&["backup", "disk.raw"], more].concat());
    backup(&["--name", &too_long]).fails(2, "the name of a snapshot has at most 255 bytes");
    backup(&["--tag", &format!("{too_long}=v")]).fails(2, "the key of a tag has at most 255 bytes");
    backup(&["--tag", &format!("k={}", "v".repeat(4097))]).fails(2, "the value of a tag has at most 4096 bytes");
    let many: Vec<_> = (0..257).flat_map(|number| ["--tag".to_owned(), format!("k{number}=v")]).collect();
    backup(&many.iter().map(String::as_str).collect::<Vec<_>>()).fails(2, "at most 256 tags");
    run(&sandbox, &["tag", &longest, "--set", &format!("{too_long}=v")]).fails(2, "the key of a tag has at most");
    let name = format!("nbd+unix:///{too_long}?socket=none");
    run(&sandbox, &["backup", &name, "--name", "vm"]).fails(2, "the name of a disk has at most 255 bytes");
    let listed: serde_json::Value = serde_json::from_str(&run(&sandbox, &["snapshots", "--json"]).ok().stdout).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn in_place_no_link_is_followed_to_a_file() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    sandbox.raw_disk("disk.raw", MIB, 4);
    run(&sandbox, &["backup", "disk.raw", "--name", "vm"]).ok();
    let victim = vec![0x77; 1 << 20];
    fs::write(sandbox.path("victim"), &victim).unwrap();
    symlink("victim", sandbox.path("link.raw")).unwrap();
    for line in [&["convert", "disk.raw"][..], &["restore", "vm"]] {
        run(&sandbox, &[line, &["link.raw", "-n"]].concat()).fails(1, "symbolic link");
        run(&sandbox, &[line, &["link.raw", "-n", "--force"]].concat()).fails(1, "symbolic link");
    }
    run(&sandbox, &["restore", "vm", "link.raw", "--delta"]).fails(1, "symbolic link");
    assert_holds(&sandbox.path("victim"), &victim, "a link led to it");
    if !have_loop_devices() {
        return;
    }
    // Names like /dev/disk/by-id/... are links.
    let device = LoopDevice::over(&sandbox.path("victim"), 512);
    symlink(device.name(), sandbox.path("by-id")).unwrap();
    for line in [&["convert", "disk.raw", "by-id", "-n"][..], &["restore", "vm", "by-id"]] {
        run(&sandbox, &[line, &["--force"]].concat()).ok();
    }
    drop(device);
    assert_holds(&sandbox.path("victim"), &fs::read(sandbox.path("disk.raw")).unwrap(), "through the device");
}
