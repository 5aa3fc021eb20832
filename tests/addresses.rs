//! Addresses choose disks, snapshots and partitions in every command.

mod common;

use std::fs;
use std::process::Stdio;

use common::{Run, Sandbox, assert_holds, partitioned_disk};

const MIB: usize = 1 << 20;

/// Bytes of the second of two partitions.
const PART: std::ops::Range<usize> = 4 * MIB..8 * MIB;

#[test]
fn a_partition_is_a_disk_to_every_command() {
    let sandbox = Sandbox::new();
    let disk = partitioned_disk(&sandbox, "d.raw");
    let part = &disk[PART];
    fs::write(sandbox.path("part.raw"), part).unwrap();
    sandbox.run(["convert", "d.raw", "d.qcow2", "--compress", "zstd"]).ok();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "d.raw", "-r", "repo"]).ok();
    let digest = |name: &str| sandbox.run(["digest", name]).ok().stdout.split(' ').next().unwrap().to_owned();
    let wanted = digest("part.raw");
    for source in ["d.raw?partition=2", "d.qcow2?partition=2", "repo::d?partition=2", "repo::d?disk=d&partition=2"] {
        assert_eq!(digest(source), wanted, "{source}");
        sandbox.run(["compare", "--strict", "part.raw", source]).ok();
        sandbox.run(["convert", source, "copy.raw", "--force"]).ok();
        assert_holds(&sandbox.path("copy.raw"), part, source);
    }
    sandbox.run(["map", "d.qcow2?partition=2"]).ok();
    let file = fs::File::open(sandbox.path("d.raw")).unwrap();
    let args = ["convert", "-f", "raw", "--", "-?partition=2", "in.raw"];
    Run::of(&sandbox.command(args).stdin(Stdio::from(file)).output().expect("a run")).ok();
    assert_holds(&sandbox.path("in.raw"), part, "standard input");
}

#[test]
fn a_partition_that_is_backed_up_is_a_disk_of_its_own() {
    let sandbox = Sandbox::new();
    let disk = partitioned_disk(&sandbox, "d.raw");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "d.raw", "d.raw?partition=2", "--name", "vm", "-r", "repo"]).ok();
    let listed = sandbox.run(["snapshots", "-r", "repo", "--json"]).ok().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> =
        listed["snapshots"][0]["disks"].as_array().unwrap().iter().map(|disk| disk["name"].clone()).collect();
    assert_eq!(names, ["d", "d-part2"]);
    sandbox.run(["restore", "vm", "p.raw", "--disk", "d-part2", "-r", "repo"]).ok();
    assert_holds(&sandbox.path("p.raw"), &disk[PART], "the partition");
    let refused = sandbox.run(["restore", "vm", "d.raw", "-r", "repo"]).fails(2, "d, d-part2");
    assert!(refused.stderr.contains("--disk"), "{}", refused.stderr);
}

#[test]
fn a_partition_that_is_not_there_or_not_meant_is_refused() {
    let sandbox = Sandbox::new();
    partitioned_disk(&sandbox, "d.raw");
    sandbox.raw_disk("plain.raw", MIB as u64, 4);
    sandbox.run(["digest", "d.raw?partition=3"]).fails(2, "it has 1, 2");
    sandbox.run(["digest", "d.raw?partition=0"]).fails(2, "the number of a partition");
    assert_ne!(sandbox.run(["digest", "plain.raw?partition=1"]).code, Some(0));
    sandbox.run(["info", "d.raw?partition=1"]).fails(2, "?partition=");
    let args = ["convert", "-f", "raw", "--size", "1M", "--", "-?partition=1", "x.raw"];
    let mut piped = sandbox.command(args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a run");
    drop(piped.stdin.take());
    Run::of(&piped.wait_with_output().expect("a run")).fails(2, "not a pipe");
}

/// A name that says another format than the one that is written deceives whoever opens it.
#[test]
fn a_target_whose_name_says_another_format() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB as u64, 4);
    let refused = sandbox.run(["convert", "a.raw", "a.qcow2", "--profile", "azure"]).fails(2, "azure takes vhd");
    assert!(refused.stderr.contains("name it .vhd"), "{}", refused.stderr);
    assert!(!sandbox.path("a.qcow2").exists());
    sandbox.run(["convert", "a.raw", "b.img", "--profile", "azure"]).ok();
    let written = sandbox.run(["convert", "a.raw", "c.qcow2", "-O", "vhdx"]).ok();
    assert!(written.stderr.contains("the name says qcow2"), "{}", written.stderr);
    assert!(sandbox.run(["info", "c.qcow2"]).ok().stdout.contains("vhdx"));
    let silent = sandbox.run(["convert", "a.raw", "d.img", "-O", "qcow2"]).ok();
    assert!(!silent.stderr.contains("the name says"), "{}", silent.stderr);
}

#[test]
fn what_users_of_other_tools_type_is_answered() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB as u64, 4);
    let hint = |args: &[&str]| sandbox.run(args).fails(2, "hint: ").stderr;
    for (word, wanted) in [
        ("list", "tintype snapshots"),
        ("ls", "tintype snapshots"),
        ("create", "tintype init"),
        ("resize", "--extend-to"),
        ("commit", "one image of a chain"),
        ("rebase", "--backing"),
        ("umount", "tintype unmount"),
        ("unlock", "nothing to unlock"),
    ] {
        let said = hint(&[word]);
        assert!(said.contains(wanted) && !said.contains("digest"), "{word}: {said}");
    }
    for (option, wanted) in [("-c", "--compress"), ("-p", "progress"), ("-U", "--force-share"), ("-b", "--backing")] {
        let said = hint(&["convert", option, "a.raw", "b.qcow2"]);
        assert!(said.contains(wanted), "{option}: {said}");
    }
    assert!(!hint(&["frobnicate"]).contains("similar"));
}

#[test]
fn a_snapshot_is_named_with_its_repository_in_every_command() {
    let sandbox = Sandbox::new();
    let disk = fs::read(sandbox.raw_disk("a.raw", MIB as u64, 4)).unwrap();
    for repository in ["one", "two"] {
        sandbox.run(["init", repository, "--no-encryption"]).ok();
        sandbox.run(["backup", "a.raw", "-r", repository]).ok();
    }
    fs::write(sandbox.path("a.raw"), vec![7; MIB]).unwrap();
    sandbox.run(["backup", "a.raw", "-r", "one"]).ok();
    // The variable names another one: what is typed counts.
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        Run::of(&command.env("TINTYPE_REPOSITORY", "two").output().expect("run tintype"))
    };
    run(&["restore", "one::a@latest", "new.raw"]).ok();
    assert_holds(&sandbox.path("new.raw"), &[7; MIB], "of the repository that is named");
    run(&["restore", "::a", "old.raw"]).ok();
    assert_holds(&sandbox.path("old.raw"), &disk, "of the variable's");
    let rows = |args: &[&str]| run(args).ok().stdout.lines().count();
    assert_eq!((rows(&["snapshots", "one::"]), rows(&["snapshots", "one::a"]), rows(&["snapshots"])), (3, 3, 2));
    run(&["verify", "one::"]).ok();
    run(&["verify", "one::a"]).ok();
    run(&["export", "one::a", "a.tin"]).ok();
    run(&["diff", "one::a@latest", "a"]).ok();
    run(&["tag", "one::a@latest", "--set", "k=v"]).ok();
    assert!(run(&["snapshots", "one::"]).ok().stdout.contains("k=v"));
    run(&["forget", "one::a@latest"]).ok();
    assert_eq!((rows(&["snapshots", "one::"]), rows(&["snapshots", "two::"])), (2, 2));
    for args in [&["restore", "one::", "x.raw"][..], &["forget", "one::"], &["tag", "one::", "--set", "a=b"]] {
        run(args).fails(2, "one:: is a whole repository");
    }
    run(&["diff", "one::a", "two::a"]).fails(2, "two repositories are named");
    run(&["restore", "one::a", "x.raw", "-r", "two"]).fails(2, "two repositories are named");
    let missing = sandbox.run(["restore", "a", "x.raw"]).fails(2, "no repository is named");
    assert!(missing.stderr.contains("TINTYPE_REPOSITORY"), "{}", missing.stderr);
}

/// Inherited ranges have the offset of the whole disk in the parent, not that of the part.
#[test]
fn a_part_of_a_disk_inherits_nothing_from_what_that_inherits_from() {
    let sandbox = Sandbox::new();
    let disk = partitioned_disk(&sandbox, "d.raw");
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "d.raw", "-F", "raw", "top.qcow2"]);
    let args = ["--backing", "d.raw", "--verify", "--force"];
    sandbox.run(["convert", "top.qcow2?partition=2", "x.qcow2"].iter().chain(&args)).ok();
    sandbox.run(["convert", "x.qcow2", "x.raw", "--force"]).ok();
    assert_holds(&sandbox.path("x.raw"), &disk[PART], "a partition");
    sandbox.run(["convert", "top.qcow2", "y.qcow2", "--offset", "1M", "--size", "2M"].iter().chain(&args)).ok();
    sandbox.run(["convert", "y.qcow2", "y.raw"]).ok();
    assert_holds(&sandbox.path("y.raw"), &disk[MIB..3 * MIB], "an offset");
    sandbox.run(["convert", "top.qcow2", "z.qcow2", "--size", "2M"].iter().chain(&args)).ok();
    sandbox.run(["convert", "z.qcow2", "z.raw"]).ok();
    assert_holds(&sandbox.path("z.raw"), &disk[..2 * MIB], "the begin");
    sandbox.run(["convert", "--layers", "top.qcow2?partition=2", "l.qcow2"]).fails(2, "--layers keeps whole files");
}

#[test]
fn partitions_of_two_disks_are_two_disks() {
    let sandbox = Sandbox::new();
    for (name, id) in [("a.raw", 1u8), ("b.raw", 2)] {
        let mut disk = partitioned_disk(&sandbox, name);
        disk[440..444].fill(id);
        fs::write(sandbox.path(name), disk).unwrap();
    }
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    for name in ["a.raw?partition=2", "b.raw?partition=2"] {
        sandbox.run(["backup", name, "-r", "repo", "--name", "vm"]).ok();
    }
    sandbox.run(["forget", "-r", "repo", "--keep-last", "1"]).ok();
    let listed = sandbox.run(["snapshots", "-r", "repo", "--json"]).ok().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2, "{listed}");
    // Nor does a map of one go on with the other.
    let map = ["copy.raw", "--salvage", "--salvage-map", "map"];
    sandbox.run(["convert", "a.raw?partition=2"].iter().chain(&map)).ok();
    sandbox.run(["convert", "a.raw?partition=1"].iter().chain(&map)).fails(2, "");
    let text = fs::read_to_string(sandbox.path("map")).unwrap();
    assert!(text.contains("?partition=2"), "{text}");
}

/// A file in the way of the second disk is found before the first is restored.
#[test]
fn several_disks_are_restored_only_where_all_have_room() {
    let sandbox = Sandbox::new();
    ["a.raw", "b.raw"].into_iter().for_each(|name| drop(sandbox.raw_disk(name, MIB as u64, 4)));
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "a.raw", "b.raw", "-r", "repo", "--name", "vm"]).ok();
    fs::create_dir(sandbox.path("out")).unwrap();
    fs::write(sandbox.path("out/b.raw"), "mine").unwrap();
    sandbox.run(["restore", "vm", "out", "-r", "repo"]).fails(1, "exists already");
    assert!(!sandbox.path("out/a.raw").exists());
    sandbox.run(["restore", "vm", "out", "-r", "repo", "--force"]).ok();
    assert!(sandbox.path("out/a.raw").exists());
}

#[test]
fn a_hint_is_for_the_command_that_was_typed() {
    let sandbox = Sandbox::new();
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let nested = sandbox.run(["key", "rm", "x", "-r", "repo"]).fails(2, "");
    assert!(!nested.stderr.contains("tintype forget"), "{}", nested.stderr);
    sandbox.raw_disk("a.raw", MIB as u64, 4);
    sandbox.run(["backup", "a.raw", "-r", "repo"]).ok();
    sandbox.run(["restore", "a@-6m", "x.raw", "-r", "repo"]).fails(1, "6min or 6mo");
}

/// `REPO::` is the whole repository: where one disk is wanted, a snapshot has to be named.
#[test]
fn a_whole_repository_is_an_address() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("d.raw", MIB as u64, 4);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "d.raw", "-r", "repo"]).ok();
    let info = sandbox.run(["info", "repo::"]).ok().stdout;
    assert!(info.contains("snapshots     1 of 1 name") && info.contains("whose role is admin"), "{info}");
    let info = sandbox.run(["info", "repo::", "--json"]).ok().stdout;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!((info["snapshots"].as_u64(), info["encryption"].as_str()), (Some(1), Some("none")));
    for command in [&["digest", "repo::"][..], &["convert", "repo::", "e.raw"], &["backup", "repo::", "-r", "repo"]] {
        let refused = sandbox.run(command).fails(2, "repo:: is a whole repository; name one of its snapshots");
        assert!(refused.stderr.contains("\"tintype snapshots\""), "{}", refused.stderr);
    }
    sandbox.run(["info", "repo::?disk=d"]).fails(2, "REPO::NAME?disk=");
}
