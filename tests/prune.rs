//! Forgetting and pruning from outside: space comes back, and every snapshot that stays reads as before.

mod common;

use std::path::Path;

use common::{Sandbox, assert_holds, cheap};

/// Runs tintype with the repository of the sandbox.
fn run(sandbox: &Sandbox, args: &[&str]) -> common::Run {
    let cache = sandbox.path("cache");
    let mut command = sandbox.command(args);
    command.env("TINTYPE_REPOSITORY", sandbox.path("repo")).env("TINTYPE_CACHE_DIR", cache);
    command.env("TINTYPE_PASSWORD", "secret");
    common::Run::of(&command.output().expect("run tintype"))
}

fn init(sandbox: &Sandbox) {
    cheap::init_with(&sandbox.path("repo"), "secret", 64 << 10);
}

/// Backs a disk up, and says the snapshot's id.
fn backup(sandbox: &Sandbox, disk: &str) -> String {
    let run = run(sandbox, &["backup", disk, "--name", "vm", "--json"]).ok();
    let last = run.stdout.lines().last().expect("a report");
    let report: serde_json::Value = serde_json::from_str(last).expect("JSON");
    report["snapshot"].as_str().expect("an id").to_owned()
}

fn restores(sandbox: &Sandbox, snapshot: &str, expected: &[u8]) {
    let address = format!("{}::vm@{snapshot}", sandbox.path("repo").display());
    let target = sandbox.path("restored.raw");
    run(sandbox, &["convert", &address, target.to_str().expect("UTF-8"), "--force"]).ok();
    assert_holds(&target, expected, snapshot);
}

/// All files of a repository with their contents.
fn everything(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(everything(&path)),
            false => files.push((path.clone(), std::fs::read(&path).expect("a file"))),
        }
    }
    files.sort();
    files
}

fn pack_bytes(sandbox: &Sandbox) -> u64 {
    everything(&sandbox.path("repo/packs")).iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

/// A disk of 64 pieces of noise, of which those in `changed` have other noise than in a disk with another seed.
fn disk(seed: u64, changed: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 16];
    for (number, piece) in bytes.chunks_mut(1 << 16).enumerate() {
        let seed = if changed.contains(&number) { seed } else { 0 };
        let mut random = tintype_formats::testing::Random(1 + seed * 1000 + number as u64);
        piece.chunks_mut(8).for_each(|word| word.copy_from_slice(&random.next_u64().to_le_bytes()));
    }
    bytes
}

/// Four snapshots; three quarters of the disk change each time.
fn four_snapshots(sandbox: &Sandbox) -> Vec<(String, Vec<u8>)> {
    init(sandbox);
    let make = |seed: u64| {
        let bytes = disk(seed, 16 * (seed as usize % 2)..64 - 8 * seed as usize);
        std::fs::write(sandbox.path("disk.raw"), &bytes).expect("a disk");
        (backup(sandbox, "disk.raw"), bytes)
    };
    (1..5).map(make).collect()
}

fn json(run: &common::Run) -> serde_json::Value {
    serde_json::from_str(run.stdout.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn forgotten_snapshots_give_their_space_back_and_the_others_read_as_before() {
    let sandbox = Sandbox::new();
    let snapshots = four_snapshots(&sandbox);
    let before = pack_bytes(&sandbox);
    run(&sandbox, &["forget", "--keep-last", "2"]).ok();
    assert_eq!(pack_bytes(&sandbox), before, "forget frees nothing");
    let unused = || {
        let stats = run(&sandbox, &["stats", "--json"]).ok().stdout;
        serde_json::from_str::<serde_json::Value>(&stats).expect("JSON")["unused_bytes"].as_u64().expect("a number")
    };
    let unused_before = unused();
    let report = json(&run(&sandbox, &["prune", "--json", "--max-unused", "0"]).ok());
    assert!(unused_before > 0 && report["before"]["unused_bytes"] == unused_before, "{unused_before} of {report}");
    assert!(report["deleted_packs"].as_u64().expect("a number") > 0, "{report}");
    assert!(report["repacked_packs"].as_u64().expect("a number") > 0, "{report}");
    let stats: serde_json::Value =
        serde_json::from_str(&run(&sandbox, &["stats", "--json"]).ok().stdout).expect("JSON");
    assert_eq!(stats["unused_bytes"], 0, "{stats}");
    assert_eq!(stats["snapshots"], 2, "{stats}");
    assert!(pack_bytes(&sandbox) < before * 3 / 4, "{} of {before}", pack_bytes(&sandbox));
    for (id, bytes) in &snapshots[2..] {
        restores(&sandbox, id, bytes);
    }
    run(&sandbox, &["digest", &format!("{}::vm@{}", sandbox.path("repo").display(), snapshots[0].0)])
        .fails(1, "snapshot");
    // Also without what this computer knows of the index.
    std::fs::remove_dir_all(sandbox.path("cache")).expect("the cache is disposable");
    for (id, bytes) in &snapshots[2..] {
        restores(&sandbox, id, bytes);
    }
    // Nothing is left to do.
    let again = everything(&sandbox.path("repo"));
    run(&sandbox, &["prune", "--max-unused", "0"]).ok();
    assert!(everything(&sandbox.path("repo")) == again, "a second prune changes something");
}

#[test]
fn after_a_prune_the_next_backup_stores_maps_and_the_one_after_nothing() {
    let sandbox = Sandbox::new();
    let snapshots = four_snapshots(&sandbox);
    run(&sandbox, &["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]).ok();
    let report = json(&run(&sandbox, &["backup", "disk.raw", "--name", "vm", "--json"]).ok());
    assert_eq!((&report["changed_bytes"], &report["new_bytes"]), (&0.into(), &0.into()), "{report}");
    let stored = report["stored_bytes"].as_u64().expect("a number");
    assert!(stored > 0 && stored < 64 << 10, "the map with new places: {report}");
    let report = json(&run(&sandbox, &["backup", "disk.raw", "--name", "vm", "--json"]).ok());
    assert_eq!(report["stored_bytes"], 0, "{report}");
    // The newer page with the same id is the one that stays.
    run(&sandbox, &["prune", "--max-unused", "0"]).ok();
    let report = json(&run(&sandbox, &["backup", "disk.raw", "--name", "vm", "--json"]).ok());
    assert_eq!(report["stored_bytes"], 0, "{report}");
    restores(&sandbox, "latest", &snapshots[3].1);
    restores(&sandbox, &snapshots[3].0, &snapshots[3].1);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let sandbox = Sandbox::new();
    four_snapshots(&sandbox);
    let before = everything(&sandbox.path("repo"));
    let args = ["forget", "--keep-last", "1", "--prune", "--max-unused", "0", "--json"];
    let would = json(&run(&sandbox, &[&args[..], &["--dry-run"]].concat()).ok());
    assert!(everything(&sandbox.path("repo")) == before, "a dry run changes something");
    let did = json(&run(&sandbox, &args).ok());
    assert_eq!(would["forgotten"], did["forgotten"]);
    assert_eq!(would["forgotten"].as_array().expect("a list").len(), 3);
    for part in ["before", "after", "garbage_packs", "repacked_packs"] {
        assert_eq!(would["prune"][part], did["prune"][part], "{part}");
    }
}

#[test]
fn nothing_is_forgotten_by_accident() {
    let sandbox = Sandbox::new();
    let snapshots = four_snapshots(&sandbox);
    run(&sandbox, &["forget"]).fails(2, "say which");
    run(&sandbox, &["forget", "--keep-last", "0"]).fails(2, "say which");
    run(&sandbox, &["forget", "--keep-tag", "a=b"]).fails(2, "keep none of the 4 snapshots");
    run(&sandbox, &["forget", "vm"]).fails(1, "NAME@latest");
    run(&sandbox, &["forget", "vm@0123456789"]).fails(1, "none of that name");
    run(&sandbox, &["forget", &snapshots[0].0, "--keep-last", "1"]).fails(2, "cannot be used");
    assert_eq!(run(&sandbox, &["snapshots"]).ok().stdout.lines().count(), 5);
    run(&sandbox, &["forget", &snapshots[0].0, "vm@latest"]).ok();
    let left = run(&sandbox, &["snapshots"]).ok().stdout;
    assert_eq!(left.lines().count(), 3, "{left}");
    assert!(left.contains(&snapshots[1].0[..8]) && left.contains(&snapshots[2].0[..8]), "{left}");
}

#[test]
fn a_snapshot_that_is_not_whole_stops_the_prune() {
    let sandbox = Sandbox::new();
    let snapshots = four_snapshots(&sandbox);
    for (path, bytes) in everything(&sandbox.path("repo/packs")) {
        // The maps are the small packs.
        if bytes.len() < 64 << 10 {
            std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a damaged pack");
        }
    }
    let before = pack_bytes(&sandbox);
    run(&sandbox, &["prune"]).fails(1, "nothing was deleted");
    assert_eq!(pack_bytes(&sandbox), before);
    let ids: Vec<&str> = snapshots.iter().map(|(id, _)| id.as_str()).collect();
    run(&sandbox, &[&["forget"][..], &ids].concat()).ok();
    run(&sandbox, &["prune"]);
    assert!(pack_bytes(&sandbox) < before);
}
