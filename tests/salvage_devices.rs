//! Devices with bad sectors: exactly these are missing from a copy, and a backup goes on while they are few.

mod common;

use std::fs;
use std::ops::Range;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::bad_device::{BadDevice, can_make};
use common::{Run, Sandbox, have};
use serde_json::Value;
use tintype_formats::testing::Random;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 32 * MIB;

/// Large enough for every sort of bad area, and small enough for a hundred copies.
const SALVAGED_BYTES: u64 = 12 * MIB;

/// Areas of one sector, of many, over the boundary of a large read, and at both ends of a disk.
fn bad_areas() -> Vec<Range<u64>> {
    let sector = |at: u64| at..at + 512;
    vec![
        sector(0),
        sector(2 * MIB + 0x600),
        sector(2 * MIB + 0x4a00),
        5 * MIB - 0x1000..5 * MIB + 0x600,
        8 * MIB + 0x10000..8 * MIB + 0x20000,
        sector(SALVAGED_BYTES - 512),
    ]
}

/// A disk without a sector of zeros.
fn noise(sandbox: &Sandbox, name: &str, size_bytes: u64) -> Vec<u8> {
    let mut random = Random(size_bytes);
    let bytes: Vec<u8> = (0..size_bytes / 8).flat_map(|_| (random.next_u64() | 1).to_le_bytes()).collect();
    fs::write(sandbox.path(name), &bytes).expect("a disk");
    bytes
}

fn without(bytes: &[u8], bad: &[Range<u64>]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bad.iter().for_each(|range| bytes[range.start as usize..range.end as usize].fill(0));
    bytes
}

/// The ranges of zeros in a disk of noise, by sectors.
#[track_caller]
fn assert_misses_only(sandbox: &Sandbox, name: &str, bytes: &[u8], bad: &[Range<u64>]) {
    common::assert_holds(&sandbox.path(name), &without(bytes, bad), name);
}

fn salvages_exactly(runs: usize) {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw", SALVAGED_BYTES);
    let bad = bad_areas();
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad);
    for run in 0..runs {
        let args = ["convert", &device.device, "copy.raw", "--salvage", "--force", "--json"];
        let ended = sandbox.run(args).fails(3, "");
        assert_misses_only(&sandbox, "copy.raw", &bytes, &bad);
        let report: Value = serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
        let ranges = report["unreadable"].as_array().expect("ranges");
        let found = ranges.iter().map(|range| {
            let (at, length) = (range["offset"].as_u64().unwrap(), range["length_bytes"].as_u64().unwrap());
            at..at + length
        });
        assert_eq!(found.collect::<Vec<_>>(), bad, "run {run}");
    }
}

#[test]
fn exactly_the_bad_sectors_are_missing() {
    salvages_exactly(3);
}

#[test]
#[ignore = "a hundred copies of a device take minutes: CI runs them"]
fn exactly_the_bad_sectors_are_missing_a_hundred_times() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| salvages_exactly(25));
        }
    });
}

/// What ddrescue asks of bad areas is the measure; and nothing is retried before the last good area was read.
#[test]
fn bad_areas_are_asked_as_little_as_ddrescue_does() {
    if !can_make() || !have("ddrescue") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw", SALVAGED_BYTES);
    let bad = bad_areas();
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad);
    sandbox.tool("ddrescue", ["-q", "-d", &device.device, "theirs.raw", "theirs.map"]);
    let theirs = device.requests_into_bad_areas();
    device.forget_requests();
    sandbox.run(["convert", &device.device, "ours.raw", "--salvage"]).fails(3, "");
    let ours = device.requests_into_bad_areas();
    assert!(ours.iter().sum::<usize>() * 10 <= theirs.iter().sum::<usize>() * 12, "{ours:?}, ddrescue {theirs:?}");
    assert_misses_only(&sandbox, "ours.raw", &bytes, &bad);
    let requests = device.requests();
    let small = |(_, length): &(u64, u64)| *length <= 4096;
    let first_retry = requests.iter().rposition(|request| !small(request)).expect("large reads");
    let seen_before =
        |at: u64| requests[..=first_retry].iter().any(|(offset, length)| (*offset..offset + length).contains(&at));
    assert!((0..SALVAGED_BYTES).step_by(4096).all(seen_before), "something was retried before all was read once");
}

#[test]
fn sectors_of_4096_bytes_are_salvaged_one_by_one() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw", DISK_BYTES);
    let bad = [3 * MIB + 0x5000..3 * MIB + 0x6000, 10 * MIB..10 * MIB + 0x3000];
    let device = BadDevice::new(&sandbox, "d.raw", 4096, &bad);
    sandbox.run(["convert", &device.device, "copy.raw", "--salvage"]).fails(3, "");
    assert_misses_only(&sandbox, "copy.raw", &bytes, &bad);
}

#[test]
fn every_format_gets_what_could_be_read() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw", SALVAGED_BYTES);
    let bad = bad_areas();
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad);
    for (name, options) in
        [("a.qcow2", vec!["--compress", "zstd"]), ("b.vhdx", vec![]), ("c.raw", vec!["--digest", "sha256"])]
    {
        let args = [vec!["convert", &device.device, name, "--salvage", "--verify"], options].concat();
        sandbox.run(args).fails(3, "verified");
        sandbox.run(["convert", name, "copy.raw", "--force"]).ok();
        assert_misses_only(&sandbox, "copy.raw", &bytes, &bad);
    }
    let to_pipe = sandbox.command(["convert", &device.device, "-", "-O", "raw", "--salvage"]).output().expect("a run");
    assert_eq!(to_pipe.status.code(), Some(3));
    assert!(to_pipe.stdout == without(&bytes, &bad));
    // The digest is of all that was stored, also of what came late.
    let wanted = common::digest(&sandbox, &sandbox.path("copy.raw"));
    let args = ["convert", &device.device, "d2.raw", "--salvage", "--digest", "sha256"];
    assert!(sandbox.run(args).fails(3, "").stdout.starts_with(&wanted));
}

#[test]
fn passes_and_time_bound_the_retries() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw", DISK_BYTES);
    let bad = [5 * MIB + 0x600..5 * MIB + 0x800, 5 * MIB + 0x4000..5 * MIB + 0x4200];
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad);
    let missing = |options: &[&str]| {
        let args = [&["convert", &device.device, "copy.raw", "--salvage", "--force"], options].concat();
        sandbox.run(args).fails(3, "");
        let found = fs::read(sandbox.path("copy.raw")).expect("a copy");
        let sectors = found.chunks(512).zip(0..).filter(|(sector, _)| sector.iter().all(|byte| *byte == 0));
        let sectors: Vec<u64> = sectors.map(|(_, index)| index).collect();
        sectors.first().zip(sectors.last()).map(|(first, last)| first * 512..(last + 1) * 512)
    };
    assert_eq!(missing(&["--salvage-passes", "1"]), Some(5 * MIB..6 * MIB));
    assert_eq!(missing(&["--salvage-time", "0s"]), Some(5 * MIB..6 * MIB));
    assert_eq!(missing(&["--salvage-passes", "2"]), Some(bad[0].start..bad[1].end));
    missing(&["--salvage-passes", "4"]);
    assert_misses_only(&sandbox, "copy.raw", &bytes, &bad);
}

fn with_repository() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox
}

fn snapshots(sandbox: &Sandbox) -> Vec<Value> {
    let listed = sandbox.run(["snapshots", "--repo", "repo", "--json"]).ok();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    listed["snapshots"].as_array().expect("snapshots").clone()
}

#[test]
fn a_backup_goes_on_while_few_sectors_are_bad_and_is_incomplete() {
    if !can_make() {
        return;
    }
    let sandbox = with_repository();
    let bytes = noise(&sandbox, "d.raw", DISK_BYTES);
    // Bad sectors in many large reads: few bytes, although much is set aside.
    let bad: Vec<_> = (0..24)
        .map(|at| at * MIB + 0x3000..at * MIB + 0x3200)
        .chain(std::iter::once(30 * MIB..30 * MIB + 0x8000))
        .collect();
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad);
    let args = ["backup", &device.device, "--repo", "repo", "--name", "vm", "--json"];
    let ended = sandbox.run(args).fails(3, "incomplete");
    let report: Value = serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(report["incomplete"], true);
    let ranges: Vec<_> = bad.iter().map(|range| serde_json::json!([range.start, range.end - range.start])).collect();
    assert_eq!(report["disks"][0]["unreadable"], Value::Array(ranges));
    let listed = snapshots(&sandbox);
    assert_eq!(listed[0]["incomplete"], true);
    assert_eq!(listed[0]["disks"][0]["unreadable_bytes"], 24 * 512 + 0x8000);
    assert!(sandbox.run(["snapshots", "--repo", "repo"]).ok().stdout.contains("INCOMPLETE (44 KiB)"));
    sandbox.run(["restore", "vm", "back.raw", "--repo", "repo"]).fails(3, "512 bytes at 0x3000");
    assert_misses_only(&sandbox, "back.raw", &bytes, &bad);
    sandbox.run(["verify", "--repo", "repo"]).ok();
    // All or nothing.
    let args = ["backup", &device.device, "--repo", "repo", "--name", "vm", "--max-unreadable", "0"];
    sandbox.run(args).fails(1, "");
    let args = ["backup", &device.device, "--repo", "repo", "--name", "vm", "--max-unreadable", "10k"];
    sandbox.run(args).fails(1, "--salvage");
    assert_eq!(snapshots(&sandbox).len(), 1);
    sandbox.run(["backup", &device.device, "--repo", "repo", "--name", "vm", "--salvage"]).fails(3, "incomplete");
    // Nothing is new: also the chunks that were put together late are found.
    let listed = snapshots(&sandbox);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1]["disks"][0]["unreadable_bytes"], 24 * 512 + 0x8000);
    // The same disk without bad sectors is whole again.
    sandbox.run(["backup", "d.raw", "--repo", "repo", "--name", "vm"]).ok();
    let listed = snapshots(&sandbox);
    assert_eq!(listed[2]["incomplete"], false);
    sandbox.run(["restore", "vm", "whole.raw", "--repo", "repo"]).ok();
    common::assert_holds(&sandbox.path("whole.raw"), &bytes, "whole");
}

#[test]
fn a_disk_of_which_too_much_is_bad_is_not_committed_but_its_chunks_are_found() {
    if !can_make() {
        return;
    }
    let sandbox = with_repository();
    noise(&sandbox, "d.raw", DISK_BYTES);
    let half = 16 * MIB..32 * MIB;
    let device = BadDevice::new(&sandbox, "d.raw", 512, std::slice::from_ref(&half));
    let args = ["backup", &device.device, "--repo", "repo", "--name", "vm", "--max-unreadable", "1M"];
    sandbox.run(args).fails(1, "cannot be read");
    assert!(snapshots(&sandbox).is_empty());
    let args = ["backup", "d.raw", "--repo", "repo", "--name", "vm", "--json"];
    let ended = sandbox.run(args).ok();
    let report: Value = serde_json::from_str(ended.stdout.lines().last().expect("a line")).expect("JSON");
    assert!(report["new_bytes"].as_u64().expect("a number") <= 17 * MIB, "{report}");
}

#[test]
fn a_disk_of_which_nothing_can_be_read_is_never_committed() {
    if !can_make() {
        return;
    }
    let sandbox = with_repository();
    noise(&sandbox, "d.raw", 4 * MIB);
    let all = 0..4 * MIB;
    let device = BadDevice::new(&sandbox, "d.raw", 4096, std::slice::from_ref(&all));
    for options in [vec![], vec!["--salvage"]] {
        let args = [vec!["backup", &device.device, "--repo", "repo", "--name", "vm"], options].concat();
        sandbox.run(args).fails(1, "nothing of the disk could be read");
    }
    assert!(snapshots(&sandbox).is_empty());
}

#[test]
fn a_device_that_vanishes_ends_the_run() {
    if !can_make() {
        return;
    }
    let sandbox = with_repository();
    noise(&sandbox, "d.raw", DISK_BYTES);
    for command in [&["backup", "--repo", "repo", "--salvage"][..], &["convert", "copy.raw", "--salvage"]] {
        let mut device = BadDevice::new(&sandbox, "d.raw", 512, &[]);
        let mut args = command.to_vec();
        args.insert(1, &device.device);
        args.extend(["--rate-limit", "8M"]);
        let child = sandbox.command(&args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        std::thread::sleep(Duration::from_millis(1500));
        device.vanish();
        let began = Instant::now();
        Run::of(&child.expect("a run").wait_with_output().expect("an end")).fails(1, "the source is gone");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
    assert!(snapshots(&sandbox).is_empty());
    assert!(!sandbox.path("copy.raw").exists());
}

/// What is missing stays missing, wherever the disk goes.
#[test]
fn copies_of_an_incomplete_snapshot_are_incomplete() {
    if !can_make() {
        return;
    }
    let sandbox = with_repository();
    noise(&sandbox, "d.raw", SALVAGED_BYTES);
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad_areas());
    sandbox.run(["backup", &device.device, "-r", "repo", "--name", "vm"]).fails(3, "incomplete");
    let unreadable = |name: &str| {
        let all = snapshots(&sandbox);
        let snapshot = all.iter().rfind(|snapshot| snapshot["name"] == name).expect("a snapshot");
        assert_eq!(snapshot["incomplete"], true, "{name}");
        let disk = &snapshot["disks"][0];
        (disk["unreadable_ranges"].as_u64().expect("ranges"), disk["unreadable_bytes"].as_u64().expect("bytes"))
    };
    let missing = unreadable("vm");
    sandbox.run(["convert", "repo::vm", "a.tin"]).fails(3, "could not be read");
    sandbox.run(["restore", "vm", "b.tin", "-r", "repo"]).fails(3, "could not be read");
    sandbox.run(["export", "-r", "repo", "vm", "c.tin"]).fails(3, "could not be read");
    sandbox.run(["convert", &device.device, "d.tin", "--salvage"]).fails(3, "");
    sandbox.run(["import", "c.tin", "-r", "repo"]).fails(3, "incomplete");
    for args in [&["convert", "repo::vm", "e.raw", "--json"][..], &["restore", "vm", "f.raw", "-r", "repo", "--json"]] {
        let run = sandbox.run(args).fails(3, "");
        let report: Value = serde_json::from_str(run.stdout.lines().last().expect("a report")).expect("JSON");
        assert_eq!(report["unreadable"].as_array().map(Vec::len), Some(missing.0 as usize), "{report}");
    }
    for name in ["repo::vm", "a.tin", "b.tin", "c.tin", "d.tin"] {
        sandbox.run(["digest", name]).fails(3, "could not be read");
        sandbox
            .run(["backup", name, "-r", "repo", "--name", &format!("copy of {name}").replace("::", "-")])
            .fails(3, "incomplete");
        assert_eq!(unreadable(&format!("copy of {name}").replace("::", "-")), missing, "{name}");
    }
}
