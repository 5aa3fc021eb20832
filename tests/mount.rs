//! Disks as files in a mounted folder, and how a mount begins and ends.

mod common;
#[path = "common/mount.rs"]
mod mount;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Sandbox, assert_holds, have, names_in};
use mount::{Mount, can_mount, is_mounted};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A loop device, and what is mounted of it.
struct Loop {
    device: String,
    folder: PathBuf,
}

impl Loop {
    fn mount(sandbox: &Sandbox, file: &Path, options: &str) -> Loop {
        let folder = sandbox.path("loop");
        fs::create_dir_all(&folder).unwrap();
        let read_only = options.contains("ro").then_some("-r");
        let args = read_only.into_iter().chain(["-f", "--show", file.to_str().unwrap()]);
        let device = sandbox.tool("losetup", args).trim().to_owned();
        let made = Loop { device, folder };
        sandbox.tool("mount", ["-o", options, &made.device, "loop"]);
        made
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.folder).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// An ext4 with files in it.
fn ext4(sandbox: &Sandbox, name: &str) {
    fs::create_dir(sandbox.path("files")).unwrap();
    for number in 0..40_usize {
        let text = format!("file {number} ").repeat(10 + number * 3000);
        fs::write(sandbox.path("files").join(number.to_string()), text).unwrap();
    }
    sandbox.tool("mke2fs", ["-q", "-t", "ext4", "-d", "files", name, "32M"]);
}

fn assert_files_are_the_same(sandbox: &Sandbox) {
    for name in names_in(&sandbox.path("files")) {
        let expected = fs::read(sandbox.path("files").join(&name)).unwrap();
        assert_holds(&sandbox.path("loop").join(&name), &expected, "the loop mount");
    }
}

#[test]
fn images_of_any_format_are_shown_as_raw_files() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 20 * MIB + 512, 60);
    let expected = fs::read(&disk).unwrap();
    for (name, options) in [("a.qcow2", &["--compress", "zstd"][..]), ("a.vhdx", &[]), ("a.vmdk", &[])] {
        sandbox.run(["convert", "a.raw", name].iter().chain(options)).ok();
        let source = fs::read(sandbox.path(name)).unwrap();
        let mount = Mount::new(&sandbox, &[name]);
        assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json"]);
        assert_holds(&mount.path("disk.raw"), &expected, name);
        let found = fs::metadata(mount.path("disk.raw")).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (20 * MIB + 512, 0o444), "{name}");
        assert!(File::options().write(true).open(mount.path("disk.raw")).is_err());
        let info: Value = serde_json::from_slice(&fs::read(mount.path("info.json")).unwrap()).unwrap();
        assert_eq!((&info["size_bytes"], &info["writable"]), (&(20 * MIB + 512).into(), &false.into()));
        assert_eq!(fs::metadata(mount.path("nothing")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        mount.end(&sandbox);
        assert_holds(&sandbox.path(name), &source, "the source");
    }
}

#[test]
fn any_part_is_read_by_several_at_once() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 24 * MIB, 300);
    let expected = fs::read(&disk).unwrap();
    sandbox.run(["convert", "a.raw", "a.qcow2", "--compress", "zstd"]).ok();
    let mount = Mount::new(&sandbox, &["a.qcow2"]);
    let file = File::open(mount.path("disk.raw")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (file, expected) = (&file, &expected);
            scope.spawn(move || {
                let mut random = tintype_formats::testing::Random(thread);
                for _ in 0..200 {
                    let offset = random.below(24 * MIB);
                    let mut part = vec![0; random.below(200_000).min(24 * MIB - offset) as usize];
                    file.read_exact_at(&mut part, offset).unwrap();
                    assert!(part == expected[offset as usize..][..part.len()], "{} bytes at {offset}", part.len());
                }
            });
        }
    });
    drop(file);
    mount.end(&sandbox);
}

#[test]
fn partitions_have_files_of_their_own() {
    if !can_mount() || !have("sgdisk") {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 32 * MIB, 90);
    sandbox.tool("sgdisk", ["-o", "-n", "1:2048:+8M", "-n", "3:0:0", "a.raw"]);
    let expected = fs::read(&disk).unwrap();
    sandbox.run(["convert", "a.raw", "a.vhdx"]).ok();
    let mount = Mount::new(&sandbox, &["a.vhdx"]);
    assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json", "partition-1.raw", "partition-3.raw"]);
    let info: Value = serde_json::from_slice(&fs::read(mount.path("info.json")).unwrap()).unwrap();
    for partition in info["partitions"].as_array().unwrap() {
        let number = |name: &str| partition[name].as_u64().unwrap() as usize;
        let content = &expected[number("offset_bytes")..][..number("size_bytes")];
        assert_holds(&mount.path(partition["file"].as_str().unwrap()), content, "the partition");
    }
    assert_eq!(info["partitions"][0]["size_bytes"], 8 * MIB);
    mount.end(&sandbox);
}

#[test]
fn a_file_system_on_a_disk_is_mounted_through_a_loop_device() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    let sandbox = Sandbox::new();
    ext4(&sandbox, "a.raw");
    sandbox.run(["convert", "a.raw", "a.qcow2", "--compress", "zstd"]).ok();
    let mount = Mount::new(&sandbox, &["a.qcow2"]);
    let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "ro");
    assert_files_are_the_same(&sandbox);
    sandbox.run(["unmount", "m"]).fails(1, "it is in use");
    drop(inside);
    mount.end(&sandbox);
}

#[test]
fn what_is_written_goes_into_the_overlay_and_is_there_the_next_time() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    let sandbox = Sandbox::new();
    ext4(&sandbox, "a.raw");
    sandbox.run(["convert", "a.raw", "a.qcow2"]).ok();
    let source = fs::read(sandbox.path("a.qcow2")).unwrap();
    for (options, is_kept) in [(&["--overlay", "overlay"][..], true), (&["--writable"], false)] {
        let args = [options, &["a.qcow2"]].concat();
        let mount = Mount::new(&sandbox, &args);
        assert_eq!(fs::metadata(mount.path("disk.raw")).unwrap().mode() & 0o7777, 0o644);
        assert!(File::options().write(true).open(mount.path("info.json")).is_err());
        assert!(fs::write(mount.path("disk.raw"), "").is_err(), "a disk has its size");
        let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "rw,discard");
        fs::write(sandbox.path("loop/new"), "something new").unwrap();
        fs::remove_file(sandbox.path("loop/39")).unwrap();
        sandbox.tool("sync", ["-f", "loop"]);
        drop(inside);
        mount.end(&sandbox);
        let mount = Mount::new(&sandbox, &args);
        let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "ro");
        assert_eq!(sandbox.path("loop/new").exists(), is_kept);
        assert_eq!(sandbox.path("loop/39").exists(), !is_kept);
        drop(inside);
        mount.end(&sandbox);
    }
    assert_holds(&sandbox.path("a.qcow2"), &source, "the source");
    assert!(sandbox.path("overlay").exists());
}

#[test]
fn signals_end_it_within_a_second_even_while_it_is_in_use() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    for (name, is_used) in [("INT", false), ("TERM", false), ("HUP", true)] {
        let mut mount = Mount::new(&sandbox, &["a.raw"]);
        let open = is_used.then(|| File::open(mount.path("disk.raw")).unwrap());
        let began = Instant::now();
        mount.signal(name);
        assert_eq!(mount.code(), Some(0), "{name}");
        assert!(began.elapsed() < Duration::from_millis(1500), "{name}: {:?}", began.elapsed());
        assert!(!is_mounted(&mount.folder), "{name}");
        let said = fs::read_to_string(sandbox.path("mount.log")).unwrap();
        assert_eq!(said.contains("still in use"), is_used, "{said}");
        assert!(open.is_none_or(|open| open.read_at(&mut [0; 10], MIB / 2).is_err()));
    }
}

#[test]
fn it_goes_on_in_the_background_and_tells_before_what_fails() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    fs::create_dir(sandbox.path("m")).unwrap();
    let guard = Mount::none(sandbox.path("m"));
    sandbox.run(["mount", "--daemon", "missing.qcow2", "m"]).fails(1, "missing.qcow2");
    sandbox.run(["mount", "--daemon", "-f", "qcow2", "a.raw", "m"]).fails(1, "a.raw");
    assert!(!is_mounted(&guard.folder));
    let run = sandbox.run(["mount", "--daemon", "--json", "a.raw", "m"]).ok();
    let event: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&event["type"], &event["disks"]), (&"mounted".into(), &1.into()));
    assert_holds(&sandbox.path("m/disk.raw"), &fs::read(sandbox.path("a.raw")).unwrap(), "in the background");
    sandbox.run(["unmount", "m"]).ok();
    assert!(!is_mounted(&guard.folder));
    // Again and again: the end of one mount must not take the next one away.
    for _ in 0..10 {
        let run = sandbox.run(["mount", "--daemon", "--quiet", "a.raw", "m"]).ok();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        sandbox.run(["unmount", "m"]).ok();
    }
}

#[test]
fn what_cannot_be_mounted_or_unmounted_is_said_with_what_to_do() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    fs::create_dir_all(sandbox.path("full/inside")).unwrap();
    sandbox.run(["mount", "a.raw", "missing"]).fails(1, "there is no such folder");
    sandbox.run(["mount", "a.raw", "a.raw"]).fails(1, "it is no folder");
    sandbox.run(["mount", "a.raw", "full"]).fails(1, "it is not empty");
    sandbox.run(["unmount", "full"]).fails(1, "nothing is mounted there");
    sandbox.run(["unmount", "missing"]).fails(1, "missing");
    sandbox.run(["unmount", "/proc"]).fails(1, "is proc, not of tintype");
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.run(["mount", "-", "m"]).fails(2, "not standard input");
    sandbox.run(["mount", "--writable", "--overlay", "x", "a.raw", "m"]).fails(2, "cannot be used with");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["mount", "--writable", "repo", "m"]).fails(2, "say REPO::NAME");
    sandbox.run(["mount", "repo::web", "m"]).fails(1, "there is none of that name");
    let mut mount = Mount::new(&sandbox, &["a.raw"]);
    sandbox.run(["mount", "a.raw", "m"]).fails(1, "something is mounted there already (fuse.tintype)");
    let open = File::open(mount.path("disk.raw")).unwrap();
    sandbox.run(["unmount", "m"]).fails(1, "--lazy");
    sandbox.run(["unmount", "--lazy", "m"]).ok();
    assert!(!is_mounted(&mount.folder));
    open.read_exact_at(&mut [0; 512], MIB / 2).expect("who has it open still reads");
    drop(open);
    assert_eq!(mount.code(), Some(0));
    // A mount whose program was killed is ended the same way.
    let mut mount = Mount::new(&sandbox, &["a.raw"]);
    mount.signal("KILL");
    assert_eq!(mount.code(), None);
    assert!(is_mounted(&mount.folder));
    sandbox.run(["unmount", "m"]).ok();
    assert!(!is_mounted(&mount.folder));
}
