//! Which files an image may make tintype open: only those that the user would expect.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{Sandbox, have};

const MIB: u64 = 1 << 20;

/// A qcow2 file that names `backing` as its parent, whatever that is.
fn overlay_naming(sandbox: &Sandbox, name: &str, backing: &str) {
    let path = sandbox.path(name);
    sandbox.tool(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", backing, path.to_str().unwrap(), "1M"],
    );
}

#[test]
fn files_beside_the_image_and_below_open() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("base.raw", MIB, 4);
    fs::create_dir(sandbox.path("below")).unwrap();
    fs::copy(sandbox.path("base.raw"), sandbox.path("below/base.raw")).unwrap();
    symlink("base.raw", sandbox.path("inside.raw")).unwrap();
    for name in ["base.raw", "below/base.raw", "./base.raw", "inside.raw"] {
        overlay_naming(&sandbox, "top.qcow2", name);
        sandbox.run(["compare", "top.qcow2", "base.raw"]).ok();
    }
}

#[test]
fn everything_else_is_denied() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("images")).unwrap();
    fs::create_dir(sandbox.path("secret")).unwrap();
    sandbox.raw_disk("secret/base.raw", MIB, 4);
    symlink("../secret/base.raw", sandbox.path("images/link.raw")).unwrap();
    symlink("../secret", sandbox.path("images/folder")).unwrap();
    symlink("/dev/zero", sandbox.path("images/zero.raw")).unwrap();
    Command::new("mkfifo").arg(sandbox.path("images/fifo.raw")).status().unwrap();
    fs::create_dir(sandbox.path("images/plain")).unwrap();
    let absolute = sandbox.path("secret/base.raw");
    let names = [
        "../secret/base.raw",
        absolute.to_str().unwrap(),
        "link.raw",
        "folder/base.raw",
        "zero.raw",
        "fifo.raw",
        "plain",
        "/dev/zero",
        "/proc/self/mem",
        "/proc/self/fd/0",
        "nbd://localhost/x",
        "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}}",
        "missing.raw",
        "file:../secret/base.raw",
    ];
    for name in names {
        overlay_naming(&sandbox, "images/top.qcow2", name);
        let run = sandbox.run(["digest", "images/top.qcow2"]).fails(1, "open a file that the image names");
        assert!(run.stdout.is_empty(), "{name}: {}", run.stdout);
        sandbox.run(["info", "images/top.qcow2"]).ok();
        sandbox.run(["check", "images/top.qcow2"]).ok();
    }
}

#[test]
fn the_user_widens_and_closes_the_gate() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("images")).unwrap();
    fs::create_dir(sandbox.path("bases")).unwrap();
    let base = sandbox.raw_disk("bases/base.raw", MIB, 4);
    for name in ["../bases/base.raw", base.to_str().unwrap()] {
        overlay_naming(&sandbox, "images/top.qcow2", name);
        sandbox.run(["compare", "images/top.qcow2", "bases/base.raw", "--allow-references", "bases"]).ok();
        sandbox.run(["digest", "images/top.qcow2", "--allow-references", "images"]).fails(1, "leads out");
    }
    overlay_naming(&sandbox, "bases/top.qcow2", "base.raw");
    sandbox.run(["digest", "bases/top.qcow2", "--no-references"]).fails(1, "references are not allowed");
}

#[test]
fn info_opens_nothing_and_escapes_what_it_prints() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    overlay_naming(&sandbox, "top.qcow2", "evil\u{1b}[2Jname\u{202e}.raw");
    let run = sandbox.run(["info", "top.qcow2"]).ok();
    assert!(!run.stdout.contains('\u{1b}') && !run.stdout.contains('\u{202e}'), "{:?}", run.stdout);
    assert!(run.stdout.contains("\\u{1b}[2Jname"), "{}", run.stdout);
    let run = sandbox.run(["digest", "top.qcow2"]).fails(1, "");
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
}

#[test]
fn chains_that_loop_end_and_deep_ones_work() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    overlay_naming(&sandbox, "a.qcow2", "b.qcow2");
    sandbox.tool("qemu-img", ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "b.qcow2", "a.qcow2"]);
    sandbox.tool("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", "b.qcow2", "1M"]);
    sandbox.run(["digest", "a.qcow2"]).fails(1, "comes back to a file");
    let base = sandbox.raw_disk("base.raw", MIB, 4);
    let mut below = "base.raw".to_owned();
    for depth in 0..20 {
        let name = format!("layer{depth}.qcow2");
        let format = if depth == 0 { "raw" } else { "qcow2" };
        sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-F", format, "-b", &below, &name]);
        below = name;
    }
    sandbox.run(["compare", &below, base.to_str().unwrap()]).ok();
}

#[test]
fn an_image_that_a_machine_writes_to_is_refused() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "busy.qcow2", "1M"]);
    let mut holder = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "sleep 20000"])
        .arg(sandbox.path("busy.qcow2"))
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let refused = sandbox.run(["digest", "busy.qcow2"]);
    let shared = sandbox.run(["digest", "busy.qcow2", "--force-share"]);
    let info = sandbox.run(["info", "busy.qcow2"]);
    sandbox.raw_disk("other.raw", MIB, 2);
    let replaced = sandbox.run(["convert", "other.raw", "busy.qcow2", "--force"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    refused.fails(1, "running machine");
    replaced.fails(1, "the target open for writing");
    shared.ok();
    info.ok();
    sandbox.run(["digest", "busy.qcow2"]).ok();
    assert!(Path::new("/proc/locks").exists());
}

/// VDI files know their parents by two UUIDs, and by no name.
#[test]
fn a_parent_without_a_name_is_looked_for_by_its_identity() {
    let sandbox = Sandbox::new();
    for folder in ["base", "base/Snapshots", "other"] {
        fs::create_dir(sandbox.path(folder)).unwrap();
    }
    sandbox.raw_disk("base.raw", MIB, 4);
    sandbox.run(["convert", "base.raw", "base/base.VDI", "-O", "vdi"]).ok();
    let base = fs::read(sandbox.path("base/base.VDI")).unwrap();
    // A child that has no block of its own: type 4, the parent's UUIDs, a UUID of its own.
    let mut child = base[..2 << 20].to_vec();
    child[76] = 4;
    child.copy_within(392..424, 424);
    child[392] ^= 1;
    child[388..392].fill(0);
    child[1 << 20..(1 << 20) + 4].fill(0xff);
    fs::write(sandbox.path("base/child.vdi"), &child).unwrap();
    fs::write(sandbox.path("base/unrelated.vdi"), b"no VDI file").unwrap();
    symlink("/dev/zero", sandbox.path("base/zero.vdi")).unwrap();
    Command::new("mkfifo").arg(sandbox.path("base/fifo.vdi")).status().unwrap();
    symlink("base.VDI", sandbox.path("base/link.vdi")).unwrap();
    sandbox.run(["compare", "base/child.vdi", "base.raw"]).ok();
    sandbox.run(["digest", "base/child.vdi", "--no-references"]).fails(1, "references are not allowed");
    assert!(sandbox.run(["info", "base/child.vdi"]).ok().stdout.contains("by identity (vdi)"));

    // Only what the user allows is looked into, and links do not lead out of it.
    fs::rename(sandbox.path("base/child.vdi"), sandbox.path("base/Snapshots/child.vdi")).unwrap();
    symlink("../base.VDI", sandbox.path("base/Snapshots/base.vdi")).unwrap();
    sandbox.run(["digest", "base/Snapshots/child.vdi"]).fails(1, "is not in the image's folder");
    sandbox.run(["compare", "base/Snapshots/child.vdi", "base.raw", "--allow-references", "base"]).ok();

    // Of two files with the same identity, one may have been changed.
    fs::copy(sandbox.path("base/base.VDI"), sandbox.path("base/copy.vdi")).unwrap();
    let allowed = ["digest", "base/Snapshots/child.vdi", "--allow-references", "base"];
    sandbox.run(allowed).fails(1, "only one of them may be in the folder");
    // The parent was written to: another modification UUID.
    fs::remove_file(sandbox.path("base/copy.vdi")).unwrap();
    let mut changed = base.clone();
    changed[408] ^= 1;
    fs::write(sandbox.path("base/base.VDI"), &changed).unwrap();
    sandbox.run(allowed).fails(1, "is not in the image's folder");
    // A child that is its own parent.
    child[392] ^= 1;
    fs::write(sandbox.path("other/self.vdi"), &child).unwrap();
    sandbox.run(["digest", "other/self.vdi"]).fails(1, "the chain comes back");
}
