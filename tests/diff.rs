//! What changed between two snapshots, and what it costs to find out.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::Sandbox;
use serde_json::Value;

fn write(disk: &Path, offset: u64, text: &[u8]) {
    File::options().write(true).open(disk).expect("the disk").write_all_at(text, offset).expect("a write");
}

fn snapshot_ids(sandbox: &Sandbox) -> Vec<String> {
    let run = sandbox.run(["snapshots", "--json", "-r", "r", "--cache-dir", "cache"]).ok();
    let report: Value = serde_json::from_str(&run.stdout).expect("a report");
    let rows = report["snapshots"].as_array().expect("rows");
    rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

fn diff(sandbox: &Sandbox, a: &str, b: &str, code: i32) -> Value {
    let run = sandbox.run(["diff", a, b, "--json", "-r", "r", "--cache-dir", "cache"]);
    assert_eq!(run.code, Some(code), "{run:?}");
    serde_json::from_str(&run.stdout).expect("a report")
}

#[test]
fn says_what_changed_and_reads_no_more_than_that() {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "r", "--no-encryption", "--chunk-size", "64k"]).ok();
    // A hundred pages of 64 MiB, all but a few of them holes.
    let disk = sandbox.raw_disk("d.raw", 6400 << 20, 40);
    let backup = || sandbox.run(["backup", "d.raw", "-r", "r", "--cache-dir", "cache"]).ok();
    backup();
    backup();
    write(&disk, 70_000, b"changed");
    write(&disk, 3200 << 20, b"new");
    backup();
    File::options().write(true).open(&disk).expect("the disk").set_len(6401 << 20).expect("a longer disk");
    write(&disk, (6400 << 20) + 5, b"at the end");
    backup();
    let ids = snapshot_ids(&sandbox);

    let same = diff(&sandbox, &ids[0], &ids[1], 0);
    assert_eq!((&same["same"], &same["disks"][0]["pages_read"]), (&Value::Bool(true), &0.into()));
    let changed = diff(&sandbox, &ids[1], &ids[2], 3);
    let row = &changed["disks"][0];
    let expected = serde_json::json!([
        {"offset": 65536, "length_bytes": 65536},
        {"offset": 3200u64 << 20, "length_bytes": 65536},
    ]);
    assert_eq!(row["changed"], expected);
    assert_eq!(changed["changed_bytes"], 131_072);
    // Both roots, and the two pages below each at most.
    assert!(row["pages_read"].as_u64().is_some_and(|pages| pages <= 6), "{row}");
    let back = diff(&sandbox, &ids[2], &ids[1], 3);
    assert_eq!(back["disks"][0]["changed"], expected);
    let longer = diff(&sandbox, &ids[2], &format!("{}?disk=d", ids[3]), 3);
    assert_eq!(longer["disks"][0]["changed"], serde_json::json!([{"offset": 6400u64 << 20, "length_bytes": 65536}]));
    sandbox.run(["diff", &ids[0], "none", "-r", "r", "--cache-dir", "cache"]).fails(1, "find the snapshot");
    sandbox.run(["diff", &ids[0], "d?partition=1", "-r", "r", "--cache-dir", "cache"]).fails(2, "disk=NAME");
}

#[test]
fn several_disks_are_compared_by_their_names() {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "r", "--no-encryption", "--chunk-size", "64k"]).ok();
    let [one, _two, _three] = ["one", "two", "three"].map(|name| sandbox.raw_disk(&format!("{name}.raw"), 1 << 20, 3));
    let backup = |disks: [&str; 2]| {
        let args = ["backup", disks[0], disks[1], "--name", "m", "-r", "r", "--cache-dir", "cache"];
        sandbox.run(args).ok();
    };
    backup(["one.raw", "two.raw"]);
    write(&one, 0, b"changed");
    backup(["one.raw", "three.raw"]);
    let ids = snapshot_ids(&sandbox);
    let report = diff(&sandbox, &ids[0], &ids[1], 3);
    let rows = report["disks"].as_array().expect("rows");
    let names: Vec<_> = rows.iter().map(|row| row["names"].to_string()).collect();
    assert_eq!(names, ["[\"one\",\"one\"]", "[null,\"three\"]", "[\"two\",null]"]);
    assert_eq!(rows[0]["changed"], serde_json::json!([{"offset": 0, "length_bytes": 65536}]));
    let one = diff(&sandbox, &format!("{}?disk=two", ids[0]), &format!("{}?disk=three", ids[1]), 0);
    assert_eq!(one["same"], true);
}
