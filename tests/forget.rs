//! What a policy forgets: by group, by list, and not at all where times look wrong.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use common::clock::WrongClock;
use common::{Run, Sandbox};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// How far the computer's clock is off, in hours.
const NOW: i64 = 0;
const DAY: i64 = 24;

/// A repository without encryption, and a clock.
struct World {
    sandbox: Sandbox,
    clock: Option<WrongClock>,
}

impl World {
    fn new() -> World {
        let sandbox = Sandbox::new();
        let world = World { clock: WrongClock::build(&sandbox), sandbox };
        world.run(NOW, &["init", "repo", "--no-encryption"]).ok();
        world
    }

    fn run(&self, hours: i64, args: &[&str]) -> Run {
        let mut command = self.sandbox.command(args);
        command.env("TINTYPE_REPOSITORY", self.sandbox.path("repo")).env("TZ", "UTC");
        if let Some(clock) = &self.clock {
            clock.shift(&mut command, hours);
        }
        Run::of(&command.stdin(Stdio::null()).output().unwrap())
    }

    /// Backs up at a time; returns what was said.
    fn backup(&self, hours: i64, args: &[&str]) -> String {
        self.run(hours, &[&["backup"], args].concat()).ok().stderr
    }

    /// A disk of 1 MiB, with an MBR of this identifier if it is not 0.
    fn disk(&self, name: &str, id: u32) {
        let path = self.sandbox.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(2 * MIB).unwrap();
        let mut sector = [0; 512];
        sector[440..444].copy_from_slice(&id.to_le_bytes());
        sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        if id != 0 {
            file.write_all_at(&sector, 0).unwrap();
        }
    }

    fn listed(&self) -> Vec<Value> {
        let listed = self.run(NOW, &["snapshots", "--json"]).ok().stdout;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed["snapshots"].as_array().unwrap().clone()
    }

    /// How many snapshots there are of this host, or of all.
    fn count(&self, host: Option<&str>) -> usize {
        self.listed().iter().filter(|one| host.is_none_or(|host| one["host"] == host)).count()
    }
}

#[test]
fn two_hosts_with_one_name_have_their_own_places() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    world.disk("a/sda.raw", 0);
    world.disk("b/sda.raw", 0);
    for day in (0..4).rev() {
        world.backup(-day * DAY, &["a/sda.raw", "--host", "alpha"]);
        world.backup(-day * DAY, &["b/sda.raw", "--host", "beta"]);
        world.run(-day * DAY, &["forget", "--keep-daily", "3"]).ok();
    }
    assert_eq!((world.count(Some("alpha")), world.count(Some("beta"))), (3, 3));
    let listed = world.run(NOW, &["snapshots"]).ok().stdout;
    assert!(listed.contains("host") && listed.contains("alpha") && listed.contains("beta"), "{listed}");
    // One line for each snapshot, unless somebody wants to know why.
    let rule = ["forget", "--keep-last", "1", "--group-by", "name"];
    let table = world.run(NOW, &[&rule[..], &["--dry-run"]].concat()).ok().stdout;
    assert!(table.contains("because"), "{table}");
    let forgot = world.run(NOW, &rule).ok().stdout;
    let begins = |what: &str| forgot.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!((begins("kept "), begins("forgot "), forgot.lines().count()), (1, 6, 7), "{forgot}");
    assert!(forgot.ends_with("forgot 5 snapshots\n"), "{forgot}");
    assert!(!world.run(NOW, &["snapshots"]).ok().stdout.contains("host"), "one host is not worth a column");
}

#[test]
fn images_of_one_disk_named_by_the_day_are_one_group() {
    let world = World::new();
    for day in 1..6 {
        let name = format!("vm-2026-11-0{day}.raw");
        world.disk(&name, 0xabcd_0001);
        world.backup(NOW, &[&name, "--name", "vm"]);
    }
    let forgot = world.run(NOW, &["forget", "--keep-last", "2"]).ok();
    assert!(!forgot.stderr.contains("--group-by"), "{}", forgot.stderr);
    assert_eq!(world.count(None), 2);
}

#[test]
fn two_disks_are_never_one_group() {
    let world = World::new();
    world.disk("a/disk.raw", 1);
    world.disk("b/disk.raw", 2);
    world.disk("sda.raw", 0);
    world.disk("sdb.raw", 0);
    for disk in ["a/disk.raw", "b/disk.raw", "sda.raw", "sdb.raw"].repeat(2) {
        world.backup(NOW, &[disk, "--name", "vm"]);
    }
    let forgot = world.run(NOW, &["forget", "--keep-last", "1", "-v"]).ok();
    assert!(forgot.stdout.contains("because"), "{}", forgot.stdout);
    assert_eq!(world.count(None), 4, "{}", forgot.stdout);
    // Two of them may be the same disk: nothing tells but their names.
    assert!(forgot.stderr.contains("2 groups of \"vm\"") && forgot.stderr.contains("--group-by name,holder,host"));
}

#[test]
fn groups_that_differ_in_names_of_disks_can_be_joined() {
    let world = World::new();
    for day in 1..4 {
        let name = format!("vm-{day}.raw");
        world.disk(&name, 0);
        world.backup(NOW, &[&name, "--name", "vm"]);
    }
    let said = world.run(NOW, &["forget", "--keep-last", "1"]).ok().stderr;
    assert!(said.contains("3 groups of \"vm\"") && said.contains("--group-by name,holder,host\n"), "{said}");
    assert_eq!(world.count(None), 3);
    world.run(NOW, &["forget", "--keep-last", "1", "--group-by", "name,holder,host"]).ok();
    assert_eq!(world.count(None), 1);
    world.run(NOW, &["forget", "--keep-last", "1", "--group-by", "name,disk"]).fails(2, "name,holder,host,disks");
}

#[test]
fn a_machine_that_got_a_second_disk_is_one_group() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    for (disk, id) in [("sda.raw", 7), ("sdb.raw", 8), ("sdc.raw", 0)] {
        world.disk(disk, id);
    }
    for (hours, disks) in [(-5, &["sda.raw"][..]), (-4, &["sda.raw"]), (-3, &["sda.raw", "sdb.raw"])] {
        world.backup(hours, &[disks, &["--name", "host"]].concat());
    }
    world.backup(-2, &["sda.raw", "sdb.raw", "sdc.raw", "--name", "host"]);
    world.run(NOW, &["forget", "--name", "host", "--keep-last", "1"]).ok();
    assert_eq!(world.count(None), 1);
    // One that is backed up alone since is another.
    world.backup(-1, &["sda.raw", "--name", "host"]);
    world.backup(NOW, &["sda.raw", "sdb.raw", "sdc.raw", "--name", "host"]);
    world.run(NOW, &["forget", "--name", "host", "--keep-last", "1"]).ok();
    assert_eq!(world.count(None), 2);
}

#[test]
fn two_disks_that_became_one_machine_stay_two_groups_before() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    world.disk("sda.raw", 7);
    world.disk("sdb.raw", 8);
    world.backup(-5, &["sda.raw", "--name", "host"]);
    world.backup(-4, &["sdb.raw", "--name", "host"]);
    world.run(-3, &["forget", "--keep-daily", "9"]).ok();
    world.backup(-2, &["sda.raw", "sdb.raw", "--name", "host"]);
    world.run(-1, &["forget", "--keep-last", "1"]).ok();
    assert_eq!(world.count(None), 3);
}

#[test]
fn a_gap_longer_than_the_window_leaves_the_group_as_it_is() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    world.disk("vm.raw", 0);
    world.disk("other.raw", 0);
    for day in [102, 101, 100, 1, 0] {
        world.backup(-day * DAY, &["vm.raw"]);
        world.backup(-(day % 10) * DAY, &["other.raw"]);
    }
    let forget = |args: &[&str]| world.run(NOW, &[&["forget", "--keep-within", "30d"], args].concat());
    let run = forget(&[]).fails(3, "clock");
    let said = &run.stderr;
    assert!(said.contains("vm") && said.contains("--force") && !said.contains("other ("), "{said}");
    forget(&["--keep-last", "1"]).fails(3, "clock");
    assert_eq!(world.count(None), 10);
    // Another rule that keeps older ones decides by itself.
    let run = forget(&["--keep-last", "4", "--dry-run"]).ok();
    assert!(run.stdout.contains("would forget 1 snapshot"), "{}", run.stdout);
    let report = forget(&["--json"]);
    let report: Value = serde_json::from_str(report.stdout.lines().last().unwrap()).unwrap();
    assert!(report["groups"][1]["left"].is_string() && report["groups"][1]["keep"].as_array().unwrap().len() == 5);
    forget(&["--force"]).ok();
    assert_eq!(world.count(None), 7);
    // No gap: nothing to ask about.
    for day in [41, 35, 28] {
        world.disk("steady.raw", 0);
        world.backup(-day * DAY, &["steady.raw"]);
    }
    world.run(NOW, &["forget", "--name", "steady", "--keep-within", "10d"]).ok();
    assert_eq!(world.count(None), 9);
}

/// Two hosts that share a key and a name have two clocks: each is judged by its own.
#[test]
fn the_clock_of_another_host_is_no_reason_to_keep_anything() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    world.disk("d.raw", 7);
    for day in [-6, -4, -2] {
        world.backup((day + 1) * DAY, &["d.raw", "--name", "vm", "--host", "ahead"]);
        let said = world.backup(day * DAY, &["d.raw", "--name", "vm", "--host", "right"]);
        assert!(day == -6 || !said.contains("parent"), "{said}");
    }
    let run = world.run(NOW, &["forget", "--keep-last", "1"]).ok();
    assert!(run.stdout.contains("forgot 4 snapshots"), "{}", run.stdout);
}

#[test]
fn a_snapshot_before_its_parent_leaves_the_group_as_it_is() {
    let world = World::new();
    if world.clock.is_none() {
        return;
    }
    for disk in ["vm.raw", "other.raw"] {
        world.disk(disk, 0);
    }
    world.backup(-50 * DAY, &["vm.raw"]);
    let said = world.backup(-5 * DAY, &["vm.raw"]);
    assert!(said.contains("30 days after its parent"), "{said}");
    let said = world.backup(-4 * DAY, &["vm.raw"]);
    assert!(!said.contains("parent"), "{said}");
    let said = world.backup(-20 * DAY, &["vm.raw"]);
    assert!(said.contains("before its parent"), "{said}");
    world.backup(-2 * DAY, &["other.raw"]);
    world.backup(-DAY, &["other.raw"]);
    let run = world.run(NOW, &["forget", "--keep-last", "1"]).fails(3, "before its parent");
    assert!(run.stdout.contains("forgot 1 snapshot"), "{}", run.stdout);
    assert_eq!(world.count(None), 5);
    world.run(NOW, &["forget", "--keep-last", "1", "--force"]).ok();
    assert_eq!(world.count(None), 2);
}

#[test]
fn names_that_do_not_exist_fail() {
    let world = World::new();
    world.disk("vm.raw", 0);
    world.backup(NOW, &["vm.raw"]);
    world.run(NOW, &["snapshots", "vm"]).ok();
    world.run(NOW, &["snapshots", "mv"]).fails(1, "\"mv\"");
    world.run(NOW, &["snapshots", "mv", "--json"]).fails(1, "\\\"mv\\\"");
    world.run(NOW, &["forget", "--name", "mv", "--keep-last", "1"]).fails(1, "\"mv\"");
    assert_eq!(world.count(None), 1);
}
