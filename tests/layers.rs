//! A chain becomes one file, or a chain of files: the same disk at every layer.

mod common;

use std::fs;

use common::{Sandbox, digest, have};

const MIB: u64 = 1 << 20;

/// base.raw <- middle.qcow2 <- top.qcow2, each with something of its own, and what middle was as a raw disk.
fn chain(sandbox: &Sandbox) {
    sandbox.raw_disk("base.raw", 8 * MIB, 6);
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", "middle.qcow2"]);
    sandbox.tool("qemu-io", ["-f", "qcow2", "-c", "write -q -P 5 1M 64k", "-c", "write -q -z 2M 1M", "middle.qcow2"]);
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle.qcow2", "top.qcow2"]);
    sandbox.tool("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 3M 4k", "-c", "write -q -z 1M 4k", "top.qcow2"]);
    fs::create_dir(sandbox.path("new")).unwrap();
}

#[test]
fn a_chain_stays_a_chain() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    chain(&sandbox);
    sandbox.run(["convert", "--layers", "top.qcow2", "new/top.qcow2", "-o", "cluster_size=4k", "--verify"]).ok();
    for name in ["top.qcow2", "middle.qcow2"] {
        let new = sandbox.path("new").join(name);
        assert_eq!(digest(&sandbox, &new), digest(&sandbox, &sandbox.path(name)), "{name}");
        sandbox.tool("qemu-img", ["compare", "-q", name, new.to_str().unwrap()]);
        sandbox.tool("qemu-img", ["check", "-q", new.to_str().unwrap()]);
    }
    let base = sandbox.path("new/base.qcow2");
    sandbox.run(["compare", "base.raw", base.to_str().unwrap()]).ok();
    let info = sandbox.run(["info", "new/top.qcow2"]).ok();
    assert!(info.stdout.contains("middle.qcow2 (qcow2)"), "{}", info.stdout);
    // Only what differs is in the upper files.
    let stored = |name: &str| fs::metadata(sandbox.path(name)).unwrap().len();
    assert!(stored("new/top.qcow2") < 128 << 10 && stored("new/middle.qcow2") < 256 << 10);
}

#[test]
fn without_layers_it_is_flattened_and_said() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    chain(&sandbox);
    let run = sandbox.run(["convert", "top.qcow2", "new/flat.qcow2"]).ok();
    assert!(run.stderr.contains("the 3 files of the chain become one"), "{}", run.stderr);
    let info = sandbox.run(["info", "new/flat.qcow2"]).ok();
    assert!(!info.stdout.contains("parent"), "{}", info.stdout);
    assert_eq!(digest(&sandbox, &sandbox.path("new/flat.qcow2")), digest(&sandbox, &sandbox.path("top.qcow2")));
}

#[test]
fn nothing_is_replaced_and_nothing_left_behind() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    chain(&sandbox);
    fs::write(sandbox.path("new/middle.qcow2"), "mine").unwrap();
    sandbox.run(["convert", "--layers", "top.qcow2", "new/top.qcow2"]).fails(2, "exists already");
    fs::remove_file(sandbox.path("new/middle.qcow2")).unwrap();
    fs::write(sandbox.path("new/top.qcow2"), "mine").unwrap();
    sandbox.run(["convert", "--layers", "top.qcow2", "new/top.qcow2"]).fails(1, "exists already");
    let left: Vec<_> = fs::read_dir(sandbox.path("new")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["top.qcow2"]);
    sandbox.run(["convert", "--layers", "top.qcow2", "new/top.vhdx"]).fails(2, "qcow2");
}

/// A device and a stored disk have no files to keep: nothing was made, and exit code 0 said that it was.
#[test]
fn what_has_no_chain_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 6);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "a.raw", "--repo", "repo", "--name", "a"]).ok();
    sandbox.run(["convert", "--layers", "repo::a", "b.qcow2"]).fails(2, "has no chain; leave --layers out");
    assert!(!sandbox.path("b.qcow2").exists());
}
