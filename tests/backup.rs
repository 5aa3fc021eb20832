//! Disks go into a repository and come out of it as they were, and what is stored already is not stored again.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, cheap};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;

/// A sandbox with an encrypted repository.
fn with_repository() -> Sandbox {
    let sandbox = Sandbox::new();
    cheap::init(&sandbox.path("repo"), "a b c");
    sandbox
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_PASSWORD", "a b c");
    command
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    Run::of(&command(sandbox, args).stdin(Stdio::null()).output().unwrap())
}

/// Backs up, and returns what the program says of it.
fn backup(sandbox: &Sandbox, args: &[&str]) -> Value {
    let all = [&["backup", "--repo", "repo", "--json"], args].concat();
    let run = run(sandbox, &all).ok();
    serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap()
}

/// Reads a stored disk back.
fn restored(sandbox: &Sandbox, address: &str) -> Vec<u8> {
    run(sandbox, &["convert", address, "restored.raw", "--force"]).ok();
    fs::read(sandbox.path("restored.raw")).unwrap()
}

/// How many bytes all packs have.
fn pack_bytes(sandbox: &Sandbox) -> u64 {
    let folders = fs::read_dir(sandbox.path("repo/packs")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    files.map(|file| file.metadata().unwrap().len()).sum()
}

/// Every file below the repository.
fn objects(sandbox: &Sandbox) -> String {
    sandbox.tool("find", ["repo", "-type", "f"])
}

#[test]
fn disks_of_all_shapes_come_back_as_they_were() {
    let sandbox = with_repository();
    let shapes = [(0, 0), (512, 1), (CHUNK, 1), (5 * MIB + 512, 20), (300 * MIB, 30), (64 * MIB, 0)];
    for (size_bytes, runs) in shapes {
        sandbox.raw_disk("disk.raw", size_bytes, runs);
        backup(&sandbox, &["disk.raw"]);
        let expected = fs::read(sandbox.path("disk.raw")).unwrap();
        assert!(restored(&sandbox, "repo::disk") == expected, "{size_bytes} bytes");
        run(&sandbox, &["compare", "--strict", "disk.raw", "repo::disk"]).ok();
        let digest = |address| run(&sandbox, &["digest", address]).ok().stdout.split(' ').next().unwrap().to_owned();
        assert_eq!(digest("repo::disk"), digest("disk.raw"));
        run(&sandbox, &["map", "repo::disk"]).ok();
    }
}

#[test]
fn formats_are_decoded_so_that_the_same_disk_is_stored_once() {
    let sandbox = with_repository();
    sandbox.raw_disk("disk.raw", 40 * MIB, 60);
    let first = backup(&sandbox, &["disk.raw"]);
    assert!(first["new_bytes"].as_u64().unwrap() > 0);
    for image in ["disk.qcow2", "disk.vhdx", "disk.vmdk"] {
        run(&sandbox, &["convert", "disk.raw", image]).ok();
        let again = backup(&sandbox, &[image, "--name", "other"]);
        assert_eq!(again["new_bytes"], 0, "{image}");
        assert!(restored(&sandbox, "repo::other") == fs::read(sandbox.path("disk.raw")).unwrap());
    }
    // A stored snapshot is a source like any other.
    let copy = backup(&sandbox, &["repo::disk", "--name", "copy"]);
    assert_eq!(copy["new_bytes"], 0);
}

#[test]
fn the_next_backup_stores_what_changed() {
    let sandbox = with_repository();
    let disk = sandbox.raw_disk("disk.raw", 600 * MIB, 100);
    let first = backup(&sandbox, &["disk.raw"]);
    assert_eq!(first["changed_bytes"], first["data_bytes"]);
    let before = fs::read(&disk).unwrap();
    let second = backup(&sandbox, &["disk.raw"]);
    assert_eq!((&second["changed_bytes"], &second["stored_bytes"]), (&0.into(), &0.into()));
    assert_eq!(second["parent"], first["snapshot"]);
    File::options().write(true).open(&disk).unwrap().write_all_at(b"changed", 300 * MIB + 5000).unwrap();
    let third = backup(&sandbox, &["disk.raw", "--tag", "why=test", "--consistency", "crash"]);
    assert_eq!((&third["changed_bytes"], &third["new_bytes"]), (&CHUNK.into(), &CHUNK.into()));
    assert_eq!(third["consistency"], "crash");
    // A single disk is what it was before, whatever its file is called by now.
    fs::rename(&disk, sandbox.path("renamed.raw")).unwrap();
    assert_eq!(backup(&sandbox, &["renamed.raw", "--name", "disk"])["changed_bytes"], 0);
    fs::rename(sandbox.path("renamed.raw"), &disk).unwrap();
    // Every snapshot is a full one.
    let by_id = |report: &Value| format!("repo::{}", report["snapshot"].as_str().unwrap());
    assert!(restored(&sandbox, &by_id(&first)) == before);
    assert!(restored(&sandbox, &by_id(&second)) == before);
    assert!(restored(&sandbox, "repo::disk") == fs::read(&disk).unwrap());
    let listed = run(&sandbox, &["snapshots", "--repo", "repo"]).ok();
    assert_eq!(listed.stdout.lines().count(), 5, "{}", listed.stdout);
    assert!(listed.stdout.contains("why=test"), "{}", listed.stdout);
}

#[test]
fn several_disks_are_one_snapshot() {
    let sandbox = with_repository();
    ["web", "mail"].into_iter().for_each(|folder| fs::create_dir(sandbox.path(folder)).unwrap());
    let (web, mail) = ("web/sda.raw", "mail/sda.raw");
    sandbox.raw_disk(web, 10 * MIB, 20);
    sandbox.raw_disk(mail, 20 * MIB, 30);
    run(&sandbox, &["backup", web, mail, "--repo", "repo"]).fails(2, "--name");
    backup(&sandbox, &[web, mail, "--name", "machine"]);
    for (address, file) in [("web-sda", web), ("1", web), ("mail-sda", mail), ("2", mail)] {
        let expected = fs::read(sandbox.path(file)).unwrap();
        assert!(restored(&sandbox, &format!("repo::machine?disk={address}")) == expected, "{address}");
    }
    run(&sandbox, &["info", "repo::machine"]).ok();
    run(&sandbox, &["digest", "repo::machine"]).fails(1, "web-sda, mail-sda");
    run(&sandbox, &["digest", "repo::machine?disk=sdb"]).fails(1, "web-sda, mail-sda");
    // Named in another order, they are what they were.
    backup(&sandbox, &[mail, web, "--name", "machine"]);
    for (address, file) in [("web-sda", web), ("mail-sda", mail)] {
        let expected = fs::read(sandbox.path(file)).unwrap();
        assert!(restored(&sandbox, &format!("repo::machine?disk={address}")) == expected, "{address}");
    }
}

#[test]
fn a_stream_can_be_backed_up() {
    let sandbox = with_repository();
    let disk = sandbox.raw_disk("disk.raw", 30 * MIB, 40);
    let stream = |args: &[&str]| {
        let cat = Command::new("cat").arg(&disk).stdout(Stdio::piped()).spawn().unwrap().stdout.unwrap();
        Run::of(&command(&sandbox, &[&["backup", "-", "--repo", "repo"], args].concat()).stdin(cat).output().unwrap())
    };
    stream(&["--size", "30M", "--name", "pipe"]).fails(2, "say -f raw");
    stream(&["-f", "raw", "--size", "31M", "--name", "pipe"]).fails(1, "the stream");
    for size in [&["--size", "30M"][..], &[]] {
        stream(&[&["-f", "raw", "--name", "pipe"], size].concat()).ok();
        assert!(restored(&sandbox, "repo::pipe") == fs::read(&disk).unwrap());
    }
}

#[test]
fn a_dry_run_stores_nothing_and_says_what_it_would() {
    let sandbox = with_repository();
    sandbox.raw_disk("disk.raw", 20 * MIB, 30);
    let before = objects(&sandbox);
    let dry = backup(&sandbox, &["disk.raw", "--dry-run"]);
    assert_eq!(objects(&sandbox), before);
    assert_eq!(dry["snapshot"], Value::Null);
    let wet = backup(&sandbox, &["disk.raw"]);
    assert_eq!(dry["new_bytes"], wet["new_bytes"]);
    let before = objects(&sandbox);
    assert_eq!(backup(&sandbox, &["disk.raw", "--dry-run"])["stored_bytes"], 0);
    assert_eq!(objects(&sandbox), before);
}

#[test]
fn a_killed_backup_is_resumed_without_storing_again() {
    let sandbox = with_repository();
    let disk = sandbox.path("disk.raw");
    let noise: Vec<u8> = {
        let mut random = tintype_formats::testing::Random(7);
        (0..(80 * MIB) / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
    };
    fs::write(&disk, &noise).unwrap();
    let args = ["backup", "disk.raw", "--repo", "repo", "--rate-limit", "20M", "--quiet"];
    let mut child = command(&sandbox, &args).stdin(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while pack_bytes(&sandbox) < 30 * MIB {
        assert!(Instant::now() < deadline, "the backup does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let stored = pack_bytes(&sandbox);
    assert!(run(&sandbox, &["snapshots", "--repo", "repo"]).ok().stdout.contains("no snapshots"));
    let second = backup(&sandbox, &["disk.raw"]);
    let new = second["new_bytes"].as_u64().unwrap();
    assert!(new + 30 * MIB <= 80 * MIB, "{new} bytes are stored again");
    assert!(pack_bytes(&sandbox) < 81 * MIB, "{stored} and {new}");
    assert!(restored(&sandbox, "repo::disk") == noise);
}

#[test]
fn what_cannot_be_read_is_recorded_and_told() {
    let sandbox = with_repository();
    let data: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x1f).collect();
    fs::write(sandbox.path("source.raw"), &data).unwrap();
    run(&sandbox, &["convert", "source.raw", "image.qcow2", "--compress", "zstd"]).ok();
    let mut image = fs::read(sandbox.path("image.qcow2")).unwrap();
    let middle = image.len() / 2;
    image[middle..middle + 64].fill(0xa5);
    fs::write(sandbox.path("image.qcow2"), image).unwrap();
    run(&sandbox, &["backup", "image.qcow2", "--repo", "repo"]).fails(1, "image.qcow2");
    assert!(run(&sandbox, &["snapshots", "--repo", "repo"]).ok().stdout.contains("no snapshots"));
    run(&sandbox, &["backup", "image.qcow2", "--repo", "repo", "--salvage"]).fails(3, "the snapshot is incomplete");
    // Whatever reads it says so, and does not end as if it were whole.
    let words = "could not be read when it was backed up";
    run(&sandbox, &["digest", "repo::image"]).fails(3, words);
    run(&sandbox, &["compare", "repo::image", "repo::image"]).fails(3, words);
    run(&sandbox, &["export", "image", "image.tin", "--repo", "repo"]).fails(3, words);
    run(&sandbox, &["restore", "image", "back.raw", "--repo", "repo"]).fails(3, words);
    assert!(run(&sandbox, &["info", "repo::image"]).ok().stdout.contains("INCOMPLETE"));
    run(&sandbox, &["convert", "repo::image", "found.raw"]).fails(3, words);
    let found = fs::read(sandbox.path("found.raw")).unwrap();
    assert!(fs::read(sandbox.path("back.raw")).unwrap() == found);
    let differing: Vec<usize> = (0..data.len()).filter(|at| found[*at] != data[*at]).collect();
    assert!(!differing.is_empty() && differing.iter().all(|at| found[*at] == 0));
}

#[test]
fn keys_and_places_that_are_wrong_have_their_exit_codes() {
    let sandbox = with_repository();
    sandbox.raw_disk("disk.raw", MIB, 2);
    backup(&sandbox, &["disk.raw"]);
    let mut wrong = sandbox.command(["snapshots", "--repo", "repo"]);
    Run::of(&wrong.env("TINTYPE_PASSWORD", "a b").output().unwrap()).fails(12, "opens none");
    // Nobody to ask.
    let mut alone = Command::new("setsid");
    alone.args(["-w", env!("CARGO_BIN_EXE_tintype"), "snapshots", "--repo", "repo"]).current_dir(sandbox.path(""));
    let asked = alone.stdin(Stdio::null()).output().unwrap();
    Run::of(&asked).fails(12, "no terminal");
    run(&sandbox, &["snapshots", "--repo", "nowhere"]).fails(10, "no such folder");
    fs::create_dir(sandbox.path("empty")).unwrap();
    run(&sandbox, &["snapshots", "--repo", "empty"]).fails(10, "no repository");
    run(&sandbox, &["convert", "repo::other", "x.raw"]).fails(1, "\"other\"");
    run(&sandbox, &["backup", "gone.raw", "--repo", "repo"]).fails(1, "gone.raw");
    run(&sandbox, &["init", "repo"]).fails(1, "repo");
}

#[test]
fn without_encryption_it_is_said_and_a_password_is_refused() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| sandbox.run(args);
    let made = run(&["init", "repo", "--no-encryption"]).ok();
    assert!(made.stderr.contains("not encrypted"), "{}", made.stderr);
    sandbox.raw_disk("disk.raw", 3 * MIB, 9);
    run(&["backup", "disk.raw", "--repo", "repo"]).ok();
    run(&["compare", "disk.raw", "repo::disk"]).ok();
    let mut with_password = sandbox.command(["snapshots", "--repo", "repo"]);
    Run::of(&with_password.env("TINTYPE_PASSWORD", "x").output().unwrap()).fails(12, "not encrypted");
}

#[test]
fn the_recovery_key_opens_it_too() {
    let sandbox = Sandbox::new();
    let made = run(&sandbox, &["init", "repo"]).ok();
    let key = made.stdout.lines().next().unwrap().strip_prefix("recovery key: ").unwrap().to_owned();
    let mut command = sandbox.command(["snapshots", "--repo", "repo"]);
    Run::of(&command.env("TINTYPE_PASSWORD", key).output().unwrap()).ok();
}

#[test]
fn a_full_disk_is_told_and_harms_nothing() {
    if !common::have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("small")).unwrap();
    sandbox.tool("mount", ["-t", "tmpfs", "-o", "size=30m", "tmpfs", "small"]);
    let (repo, noise) = ("small/repo", |seed: u64, length: u64| {
        let mut random = tintype_formats::testing::Random(seed);
        (0..length / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect::<Vec<u8>>()
    });
    run(&sandbox, &["init", repo]).ok();
    let small = noise(1, 8 * MIB);
    fs::write(sandbox.path("small.raw"), &small).unwrap();
    fs::write(sandbox.path("large.raw"), noise(2, 60 * MIB)).unwrap();
    run(&sandbox, &["backup", "small.raw", "--repo", repo]).ok();
    run(&sandbox, &["backup", "large.raw", "--repo", repo]).fails(13, "");
    assert!(restored(&sandbox, "small/repo::small") == small);
    run(&sandbox, &["convert", "small/repo::large", "x.raw"]).fails(1, "large");
    sandbox.tool("umount", ["small"]);
}

#[test]
fn a_source_that_shrinks_ends_the_backup() {
    let sandbox = with_repository();
    let disk = sandbox.path("disk.raw");
    fs::write(&disk, vec![7; (40 * MIB) as usize]).unwrap();
    let args = ["backup", "disk.raw", "--repo", "repo", "--rate-limit", "10M", "--json"];
    let child = command(&sandbox, &args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    // The disk is opened before the session begins.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !sandbox.path("repo/sessions").exists() {
        assert!(Instant::now() < deadline, "the backup does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    File::options().write(true).open(&disk).unwrap().set_len(30 * MIB).unwrap();
    let ended = Run::of(&child.unwrap().wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let expected = format!("has {} bytes, and had {}", 30 * MIB, 40 * MIB);
    assert!(ended.stderr.contains(&expected), "{ended:?}");
    assert!(run(&sandbox, &["snapshots", "--repo", "repo"]).ok().stdout.contains("no snapshots"));
    // It is as large as that from the beginning: that is a backup.
    run(&sandbox, &["backup", "disk.raw", "--repo", "repo"]).ok();
    assert!(restored(&sandbox, "repo::disk") == vec![7; (30 * MIB) as usize]);
}

#[test]
fn a_repository_that_can_only_be_read_is_read() {
    if !common::have_root() {
        return;
    }
    let sandbox = with_repository();
    let disk = sandbox.raw_disk("disk.raw", 9 * MIB, 20);
    backup(&sandbox, &["disk.raw"]);
    sandbox.tool("mount", ["--bind", "repo", "repo"]);
    sandbox.tool("mount", ["-o", "remount,bind,ro", "repo"]);
    let read = run(&sandbox, &["compare", "disk.raw", "repo::disk"]);
    let written = run(&sandbox, &["backup", "disk.raw", "--repo", "repo"]);
    sandbox.tool("umount", ["repo"]);
    read.ok();
    written.fails(1, "Read-only file system");
    assert!(disk.exists());
}
