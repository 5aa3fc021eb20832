//! Many programs use one repository at once, and some are killed: nothing that was promised is lost.
//!
//! `TINTYPE_ROUNDS` says how many rounds to make (4 and 12 if not set; 50 and 100 before a release).

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox};
use serde_json::Value;
use tintype_formats::testing::Random;

const MIB: usize = 1 << 20;

fn rounds(usual: u64) -> u64 {
    std::env::var("TINTYPE_ROUNDS").map_or(usual, |text| text.parse().expect("a number"))
}

/// A sandbox with a repository that is not encrypted: deriving keys would take longer than everything else.
fn with_repository() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "repo", "--no-encryption", "--chunk-size", "64k"]).ok();
    sandbox
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_REPOSITORY", sandbox.path("repo")).stdin(Stdio::null());
    command
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    Run::of(&command(sandbox, args).output().unwrap())
}

/// Changes some places of a disk.
fn change(sandbox: &Sandbox, name: &str, random: &mut Random) {
    let path = sandbox.path(name);
    let mut content = fs::read(&path).unwrap_or_else(|_| vec![0; 6 * MIB]);
    for _ in 0..10 {
        let at = random.below(content.len() as u64 - 70_000) as usize;
        let length = 1 + random.below(70_000) as usize;
        content[at..at + length].iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
    }
    fs::write(path, content).unwrap();
}

/// The ids of the visible snapshots of a name, the oldest first.
fn snapshots(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(&run(sandbox, &["snapshots", "--json"]).ok().stdout).unwrap();
    let rows = listed["snapshots"].as_array().unwrap().iter().filter(|row| row["name"] == name);
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

/// Every visible snapshot reads whole, and verify finds nothing.
fn check(sandbox: &Sandbox, about: &str) {
    let run = run(sandbox, &["verify", "--depth", "plain"]);
    assert_eq!(run.code, Some(0), "{about}: {run:?}");
}

fn spawn(sandbox: &Sandbox, args: &[&str]) -> Child {
    command(sandbox, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn four_backups_and_two_prunes_at_once() {
    let sandbox = with_repository();
    let mut random = Random(42);
    let disks = ["a", "b", "c", "d"].map(|name| format!("{name}.raw"));
    for round in 0..rounds(4) {
        disks.iter().for_each(|disk| change(&sandbox, disk, &mut random));
        for name in ["a", "b", "c", "d"] {
            let ids = snapshots(&sandbox, name);
            if ids.len() > 2 {
                run(&sandbox, &["forget", &ids[0]]).ok();
            }
        }
        let mut children: Vec<Child> =
            disks.iter().map(|disk| spawn(&sandbox, &["backup", disk, "--threads", "1"])).collect();
        children.extend((0..2).map(|_| spawn(&sandbox, &["prune"])));
        for child in children {
            let run = Run::of(&child.wait_with_output().unwrap());
            assert_eq!(run.code, Some(0), "round {round}: {run:?}");
        }
        for disk in &disks {
            let stem = disk.strip_suffix(".raw").unwrap();
            let same = run(&sandbox, &["compare", "--strict", disk, &format!("::{stem}")]);
            assert_eq!(same.code, Some(0), "round {round}: {same:?}");
        }
        check(&sandbox, &format!("round {round}"));
    }
}

#[test]
fn what_is_killed_harms_nothing() {
    let sandbox = with_repository();
    let mut random = Random(7);
    change(&sandbox, "disk.raw", &mut random);
    run(&sandbox, &["backup", "disk.raw"]).ok();
    for round in 0..rounds(12) {
        let ids = snapshots(&sandbox, "disk");
        let before = sandbox.path("before.raw");
        run(&sandbox, &["convert", "::disk", before.to_str().unwrap(), "--force"]).ok();
        let last = ids.last().unwrap().clone();
        let mut child = match random.below(3) {
            0 if ids.len() > 1 => spawn(&sandbox, &["forget", &ids[0]]),
            1 => spawn(&sandbox, &["prune"]),
            _ => {
                change(&sandbox, "disk.raw", &mut random);
                spawn(&sandbox, &["backup", "disk.raw"])
            }
        };
        std::thread::sleep(Duration::from_millis(random.below(120)));
        child.kill().unwrap();
        child.wait().unwrap();
        let same = run(&sandbox, &["compare", "before.raw", &format!("::{last}")]);
        assert_eq!(same.code, Some(0), "round {round}: {same:?}");
        check(&sandbox, &format!("round {round}"));
        run(&sandbox, &["backup", "disk.raw"]).ok();
        run(&sandbox, &["compare", "--strict", "disk.raw", "::disk"]).ok();
    }
    // The killed are not waited for.
    run(&sandbox, &["prune", "--fence-after", "0s"]).ok();
    check(&sandbox, "at the end");
}

/// A backup that was killed a minute ago looks like one that still runs, but for its process.
#[test]
fn a_prune_does_not_wait_for_who_was_killed_on_its_computer() {
    let sandbox = with_repository();
    let mut random = Random(9);
    let open_sessions = || {
        let sessions = fs::read_dir(sandbox.path("repo/sessions")).unwrap().map(|entry| entry.unwrap().path());
        sessions.filter(|session| session.join("begin").exists() && !session.join("end").exists()).count()
    };
    change(&sandbox, "disk.raw", &mut random);
    run(&sandbox, &["backup", "disk.raw"]).ok();
    change(&sandbox, "disk.raw", &mut random);
    run(&sandbox, &["backup", "disk.raw"]).ok();
    while open_sessions() == 0 {
        // Slow enough to be caught in the middle of its work.
        let mut child = spawn(&sandbox, &["backup", "disk.raw", "--rate-limit", "1M", "--name", "other"]);
        while open_sessions() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(&sandbox, &["forget", &snapshots(&sandbox, "disk")[0]]).ok();
    let began = Instant::now();
    let pruned = run(&sandbox, &["prune", "--max-unused", "0", "--wait", "1m"]).ok();
    assert!(pruned.stderr.contains("was given up") && began.elapsed() < Duration::from_secs(50), "{pruned:?}");
    assert_eq!(open_sessions(), 0);
    check(&sandbox, "after the prune");
}
