//! Maps of what was read of a failing disk: another run goes on from there, and so does ddrescue.

mod common;

use std::fs;
use std::ops::Range;

use common::bad_device::{BadDevice, can_make};
use common::{Sandbox, assert_holds, have};
use tintype_formats::testing::Random;

const MIB: u64 = 1 << 20;
const DISK_BYTES: u64 = 16 * MIB;

fn bad() -> Vec<Range<u64>> {
    vec![3 * MIB + 0x600..3 * MIB + 0x800, 9 * MIB + 0x1000..9 * MIB + 0x5000]
}

fn noise(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    let mut random = Random(DISK_BYTES);
    let bytes: Vec<u8> = (0..DISK_BYTES / 8).flat_map(|_| (random.next_u64() | 1).to_le_bytes()).collect();
    fs::write(sandbox.path(name), &bytes).expect("a disk");
    bytes
}

fn without_bad(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bad().iter().for_each(|range| bytes[range.start as usize..range.end as usize].fill(0));
    bytes
}

fn map(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path("map")).expect("a map")
}

#[test]
fn a_map_is_continued_and_what_was_read_is_not_read_again() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    let run = |options: &[&str]| {
        let args = [&["convert", &device.device, "copy.raw", "--salvage", "--salvage-map", "map"], options].concat();
        sandbox.run(args)
    };
    run(&["--salvage-passes", "1"]).fails(3, "");
    assert!(map(&sandbox).contains("0x00300000  0x00100000  *"), "{}", map(&sandbox));
    device.forget_requests();
    run(&[]).fails(3, "");
    assert!(map(&sandbox).contains("0x00901000  0x00004000  -"), "{}", map(&sandbox));
    assert_holds(&sandbox.path("copy.raw"), &without_bad(&bytes), "continued");
    let outside = |(offset, _): &(u64, u64)| ![3, 9].contains(&(offset / MIB)) && *offset > 0;
    let again: Vec<_> = device.requests().into_iter().filter(outside).collect();
    assert!(again.len() < 24, "what was read is read again: {again:?}");
    // All is known: nothing is asked of the bad areas any more.
    device.forget_requests();
    run(&[]).fails(3, "");
    assert_eq!(device.requests_into_bad_areas(), [0, 0]);
    fs::copy(sandbox.path("d.raw"), sandbox.path("other.raw")).expect("a copy");
    let args = ["convert", "other.raw", "copy.raw", "--salvage", "--salvage-map", "map"];
    sandbox.run(args).fails(2, "the map is of");
    // ddrescue understands it.
    if have("ddrescue") {
        sandbox.tool("ddrescue", ["-q", "-d", &device.device, "copy.raw", "map"]);
        assert_holds(&sandbox.path("copy.raw"), &without_bad(&bytes), "after ddrescue");
    }
}

#[test]
fn a_map_belongs_to_its_source_and_target() {
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    let run = |source: &str, target: &str, options: &[&str]| {
        sandbox.run([&["convert", source, target, "--salvage", "--salvage-map", "map"], options].concat())
    };
    run("d.raw", "copy.raw", &[]).ok();
    assert_holds(&sandbox.path("copy.raw"), &bytes, "a whole disk");
    fs::copy(sandbox.path("d.raw"), sandbox.path("other.raw")).expect("a copy");
    run("other.raw", "copy.raw", &[]).fails(2, "the map is of");
    run("d.raw", "elsewhere.raw", &[]).fails(2, "holds what was read");
    run("d.raw", "copy.qcow2", &[]).fails(2, "needs a raw file");
    for own in ["new.raw", "./new.raw", "d.raw"] {
        let args = ["convert", "d.raw", "new.raw", "--salvage", "--salvage-map", own];
        sandbox.run(args).fails(2, "would take the place of");
    }
    assert!(!sandbox.path("new.raw").exists());
    sandbox.run(["convert", "d.raw", "new.raw", "--salvage", "--salvage-map", "/dev/full"]).fails(2, "no regular file");
    fs::remove_file(sandbox.path("map")).expect("a map");
    run("d.raw", "copy.raw", &["--force"]).fails(2, "it exists, and the map does not");
    assert_holds(&sandbox.path("copy.raw"), &bytes, "still there");
    sandbox.run(["convert", "d.raw", "new.raw", "--salvage-map", "map"]).fails(2, "--salvage");
}

#[test]
fn a_map_of_ddrescue_is_continued_with_n_and_equal_size() {
    if !can_make() || !have("ddrescue") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    sandbox.tool("ddrescue", ["-q", "-d", "-n", "-N", &device.device, "copy.raw", "map"]);
    let args = ["convert", &device.device, "copy.raw", "--salvage", "--salvage-map", "map"];
    sandbox.run(args).fails(2, "expected -n");
    sandbox.run([&args[..], &["-n"]].concat()).fails(3, "");
    assert_holds(&sandbox.path("copy.raw"), &without_bad(&bytes), "continued after ddrescue");
}

#[test]
fn a_backup_goes_on_from_the_snapshot_that_its_map_names() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    let device = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let back_up = |source: &str, options: &[&str]| {
        let args = ["backup", source, "-r", "repo", "--name", "vm", "--salvage", "--salvage-map", "map"];
        sandbox.run([&args[..], options].concat())
    };
    let restored = || {
        sandbox.run(["restore", "vm", "copy.raw", "-r", "repo", "--force"]).fails(3, "could not be read");
        fs::read(sandbox.path("copy.raw")).expect("a copy")
    };
    back_up(&device.device, &["--salvage-passes", "1"]).fails(3, "incomplete");
    assert!(map(&sandbox).contains("0x00300000  0x00100000  *"), "{}", map(&sandbox));
    assert!(restored() != without_bad(&bytes), "nothing is missing yet");
    let first = map(&sandbox);
    device.forget_requests();
    back_up(&device.device, &[]).fails(3, "incomplete");
    assert!(restored() == without_bad(&bytes), "continued");
    assert!(map(&sandbox).contains("0x00901000  0x00004000  -"), "{}", map(&sandbox));
    let outside = |(offset, _): &(u64, u64)| ![3, 9].contains(&(offset / MIB)) && *offset > 0;
    let again: Vec<_> = device.requests().into_iter().filter(outside).collect();
    assert!(again.len() < 24, "what was read is read again: {again:?}");
    // All is known: nothing is asked of the bad areas any more.
    device.forget_requests();
    back_up(&device.device, &[]).fails(3, "incomplete");
    assert_eq!(device.requests_into_bad_areas(), [0, 0]);
    assert!(restored() == without_bad(&bytes), "nothing more was there");
    sandbox.run(["verify", "-r", "repo", "--depth", "plain"]).ok();

    // A map is of one source, and of one snapshot that has what it says.
    fs::copy(sandbox.path("d.raw"), sandbox.path("other.raw")).expect("a copy");
    back_up("other.raw", &[]).fails(2, "the map is of");
    let convert = ["convert", &device.device, "copy.raw", "-n", "--salvage", "--salvage-map", "map"];
    sandbox.run(convert).fails(2, "holds what was read");
    let last = map(&sandbox);
    let stated = |text: &str| text.lines().find(|line| line.contains("target: ")).expect("a target").to_owned();
    fs::write(sandbox.path("map"), last.replace(&stated(&last), &stated(&first))).expect("a map");
    back_up(&device.device, &[]).fails(2, "is not what snapshot");
    fs::write(sandbox.path("map"), &first).expect("a map");
    let id = stated(&first).split_whitespace().nth(4).expect("an id").to_owned();
    sandbox.run(["forget", &id, "-r", "repo"]).ok();
    back_up(&device.device, &[]).fails(2, "does not have the map's snapshot");
    sandbox.run(["init", "other", "--no-encryption"]).ok();
    fs::write(sandbox.path("map"), &last).expect("a map");
    let args = ["backup", &device.device, "-r", "other", "--name", "vm", "--salvage", "--salvage-map", "map"];
    sandbox.run(args).fails(2, "another repository");
}

#[test]
fn a_backup_of_several_disks_or_a_pipe_keeps_no_map() {
    let sandbox = Sandbox::new();
    noise(&sandbox, "a.raw");
    noise(&sandbox, "b.raw");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let with_map = ["-r", "repo", "--name", "vm", "--salvage", "--salvage-map", "map"];
    sandbox.run([&["backup", "a.raw", "b.raw"], &with_map[..]].concat()).fails(2, "of one disk");
    let unwritable = ["--salvage", "--salvage-map", "none/map"];
    sandbox
        .run([&["backup", "a.raw", "-r", "repo", "--name", "lost"], &unwritable[..]].concat())
        .fails(1, "write the map");
    sandbox.run([&["convert", "a.raw", "lost.raw"], &unwritable[..]].concat()).fails(1, "write the map");
    assert!(
        !sandbox.path("lost.raw").exists() && !sandbox.run(["snapshots", "-r", "repo"]).ok().stdout.contains("lost")
    );
    sandbox.run([&["backup", "a.raw"], &with_map[..]].concat()).ok();
    assert!(map(&sandbox).contains("target: snapshot "), "{}", map(&sandbox));
    // A whole disk: a run that goes on would store what may have changed since as if it were new.
    sandbox.run([&["backup", "a.raw"], &with_map[..]].concat()).fails(2, "nothing to go on with");
    sandbox.run(["restore", "vm", "copy.raw", "-r", "repo"]).ok();
    assert_holds(&sandbox.path("copy.raw"), &fs::read(sandbox.path("a.raw")).expect("a disk"), "whole");
}

#[test]
fn a_source_that_is_gone_when_a_map_is_continued_ends_the_run() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    noise(&sandbox, "d.raw");
    let mut device = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let source = device.device.clone();
    let salvage = |command: &[&str], passes: &str| {
        let args = ["--salvage", "--salvage-passes", passes, "--salvage-map", command[0]];
        sandbox.run([&command[..1], &[&source], &command[1..], &args].concat())
    };
    let commands = [&["convert", "copy.raw"][..], &["backup", "-r", "repo", "--name", "vm"]];
    let maps = || ["convert", "backup"].map(|name| fs::read_to_string(sandbox.path(name)).expect("a map"));
    for command in commands {
        salvage(command, "1").fails(3, "");
    }
    let before = maps();
    device.vanish();
    for command in commands {
        salvage(command, "3").fails(1, "the source is gone");
    }
    assert_eq!(maps(), before);
}

/// A path says little: another disk may have come there, and the target may have been made again.
#[test]
fn a_map_is_continued_only_where_source_and_target_have_what_it_calls_read() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let convert = |device: &str| sandbox.run(["convert", device, "copy.raw", "--salvage", "--salvage-map", "map"]);
    let back_up = |device: &str| {
        sandbox.run(["backup", device, "-r", "repo", "--name", "vm", "--salvage", "--salvage-map", "stored"])
    };
    let first = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    convert(&first.device).fails(3, "");
    back_up(&first.device).fails(3, "");
    let rescued = fs::read(sandbox.path("copy.raw")).expect("a copy");
    fs::write(sandbox.path("copy.raw"), vec![0; DISK_BYTES as usize]).expect("a new target");
    convert(&first.device).fails(2, "something else is stored there");
    fs::write(sandbox.path("copy.raw"), &rescued).expect("the target");
    let name = first.device.clone();
    drop(first);
    // Another disk under the same name.
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    fs::write(sandbox.path("d.raw"), other).expect("another disk");
    let second = BadDevice::new(&sandbox, "d.raw", 512, &bad());
    if second.device != name {
        return;
    }
    convert(&second.device).fails(2, "something else is stored there");
    back_up(&second.device).fails(2, "something else is stored there");
    assert_holds(&sandbox.path("copy.raw"), &rescued, "untouched");
}

#[test]
fn a_device_of_which_nothing_can_be_read_replaces_no_good_copy() {
    if !can_make() {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = noise(&sandbox, "d.raw");
    fs::write(sandbox.path("good.raw"), &bytes).expect("a good copy");
    let mut device = BadDevice::new(&sandbox, "d.raw", 512, &[]);
    device.vanish();
    for target in ["good.raw", "new.qcow2"] {
        let args = ["convert", &device.device, target, "--salvage", "--force", "--salvage-time", "20s"];
        sandbox.run(args).fails(1, "nothing of the disk could be read");
    }
    assert_holds(&sandbox.path("good.raw"), &bytes, "the good copy");
    assert!(!sandbox.path("new.qcow2").exists());
}
