//! Disks keep their names and their identity: by device, by hand, and from one day to the next.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use common::block::{LoopDevice, have_loop_devices};
use common::{Run, Sandbox, cheap, have};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn with_repository() -> Sandbox {
    let sandbox = Sandbox::new();
    cheap::init(&sandbox.path("repo"), "a b c");
    sandbox
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_PASSWORD", "a b c").env("TINTYPE_REPOSITORY", sandbox.path("repo"));
    Run::of(&command.stdin(Stdio::null()).output().unwrap())
}

/// Backs up; returns the report, and what was said on standard error.
fn backup(sandbox: &Sandbox, args: &[&str]) -> (Value, String) {
    let run = run(sandbox, &[&["backup", "--json"], args].concat()).ok();
    (serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap(), run.stderr)
}

fn names(report: &Value) -> Vec<&str> {
    report["disks"].as_array().unwrap().iter().map(|disk| disk["name"].as_str().unwrap()).collect()
}

fn restored(sandbox: &Sandbox, address: &str) -> Vec<u8> {
    run(sandbox, &["convert", address, "restored.raw", "--force"]).ok();
    fs::read(sandbox.path("restored.raw")).unwrap()
}

/// A raw disk with an MBR of this identifier, whose one partition begins at 1 MiB.
fn mbr_disk(sandbox: &Sandbox, name: &str, id: u32) -> PathBuf {
    let path = sandbox.raw_disk(name, 8 * MIB, 12 + u64::from(id % 7));
    let file = File::options().write(true).open(&path).unwrap();
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(&id.to_le_bytes());
    sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x10, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&sector, 0).unwrap();
    path
}

#[test]
fn devices_keep_their_whole_names_in_any_order() {
    if !have_loop_devices() || !have("addpart") {
        return;
    }
    let sandbox = with_repository();
    let (one, two) = (mbr_disk(&sandbox, "one.raw", 0x0a0b_0c0d), mbr_disk(&sandbox, "two.raw", 0x0102_0304));
    let (first, second) = (LoopDevice::over(&one, 512), LoopDevice::over(&two, 512));
    let links = ["nvme-eui.0025388b91b2e2c4", "nvme-eui.0025388b91b2e2c5"];
    for (link, device) in links.iter().zip([&first, &second]) {
        symlink(device.name(), sandbox.path(link)).unwrap();
    }
    let (report, _) = backup(&sandbox, &[links[0], links[1], "--name", "m"]);
    assert_eq!(names(&report), links);
    let (swapped, said) = backup(&sandbox, &[links[1], links[0], "--name", "m"]);
    assert_eq!(swapped["changed_bytes"], 0, "each is compared with itself");
    assert!(!said.contains("another disk"), "{said}");
    for (link, file) in links.iter().zip([&one, &two]) {
        assert!(restored(&sandbox, &format!("::m?disk={link}")) == fs::read(file).unwrap(), "{link}");
    }
    assert_eq!(report["disks"][0]["identity"]["mbr_id"], "0a0b0c0d");

    // A partition is known by its disk and by itself.
    let part = first.add_partition(MIB, 2 * MIB);
    let (report, _) = backup(&sandbox, &[&format!("boot={}", part.display()), "--host", "web"]);
    assert_eq!((names(&report), &report["name"]), (vec!["boot"], &"web-boot".into()));
    let identity = &report["disks"][0]["identity"];
    assert_eq!((&identity["mbr_id"], &identity["partition"]), (&"0a0b0c0d".into(), &"0a0b0c0d-01".into()));

    // Every computer has a loop0, or an sda.
    let (report, _) = backup(&sandbox, &[second.name(), "--host", "web"]);
    assert_eq!(report["name"], format!("web-{}", second.name().trim_start_matches("/dev/")).as_str());
}

#[test]
fn a_disk_can_be_named_by_hand() {
    let sandbox = with_repository();
    mbr_disk(&sandbox, "a.raw", 5);
    mbr_disk(&sandbox, "b.raw", 6);
    let (report, _) = backup(&sandbox, &["root=a.raw", "data.1=b.raw", "--name", "m"]);
    assert_eq!(names(&report), ["root", "data.1"]);
    assert!(restored(&sandbox, "::m?disk=data.1") == fs::read(sandbox.path("b.raw")).unwrap());
    run(&sandbox, &["backup", "root=a.raw", "root=b.raw", "--name", "m"]).fails(2, "two disks are named \"root\"");
    run(&sandbox, &["backup", "root="]).fails(2, "NAME=ADDRESS");
    // A file whose name really is that wins.
    fs::copy(sandbox.path("b.raw"), sandbox.path("x=a.raw")).unwrap();
    let (report, _) = backup(&sandbox, &["x=a.raw"]);
    assert_eq!((names(&report), &report["name"]), (vec!["x=a"], &"x=a".into()));
    assert!(restored(&sandbox, "::x=a") == fs::read(sandbox.path("b.raw")).unwrap());
}

#[test]
fn a_name_that_comes_back_with_another_disk_is_warned_of() {
    let sandbox = with_repository();
    mbr_disk(&sandbox, "vm.raw", 0xaaaa_0001);
    let (_, said) = backup(&sandbox, &["vm.raw"]);
    assert!(!said.contains("another disk"), "{said}");
    fs::remove_file(sandbox.path("vm.raw")).unwrap();
    mbr_disk(&sandbox, "vm.raw", 0xaaaa_0002);
    let (_, said) = backup(&sandbox, &["vm.raw"]);
    assert!(said.contains("another disk") && said.contains("aaaa0001") && said.contains("aaaa0002"), "{said}");
    let (_, said) = backup(&sandbox, &["vm.raw"]);
    assert!(!said.contains("another disk"), "{said}");
}

#[test]
fn images_named_by_the_day_are_compared_with_their_own_past() {
    let sandbox = with_repository();
    for (disk, id) in [("a", 0xbbbb_0001), ("b", 0xbbbb_0002)] {
        mbr_disk(&sandbox, &format!("{disk}-monday.raw"), id);
        fs::copy(sandbox.path(&format!("{disk}-monday.raw")), sandbox.path(&format!("{disk}-tuesday.raw"))).unwrap();
    }
    backup(&sandbox, &["a-monday.raw", "b-monday.raw", "--name", "m"]);
    let (report, _) = backup(&sandbox, &["b-tuesday.raw", "a-tuesday.raw", "--name", "m"]);
    assert_eq!(report["changed_bytes"], 0);
}

#[test]
fn the_table_on_an_image_is_its_identity_in_any_format() {
    let sandbox = with_repository();
    if !have("sgdisk") {
        return;
    }
    sandbox.raw_disk("gpt.raw", 8 * MIB, 3);
    sandbox.tool("sgdisk", ["-o", "-U", "0F3AB5C1-1111-2222-3333-0123456789AB", "-n1:2048:0", "gpt.raw"]);
    run(&sandbox, &["convert", "gpt.raw", "gpt.qcow2"]).ok();
    for image in ["gpt.raw", "gpt.qcow2"] {
        let (report, _) = backup(&sandbox, &[image]);
        let expected = serde_json::json!({"gpt_guid": "0f3ab5c1-1111-2222-3333-0123456789ab"});
        assert_eq!(report["disks"][0]["identity"], expected, "{image}");
    }
    let info = run(&sandbox, &["info", "::gpt"]).ok();
    assert!(info.stdout.contains("GPT 0f3ab5c1-1111-2222-3333-0123456789ab"), "{}", info.stdout);
    // It stays when the snapshot is kept in a file meanwhile.
    run(&sandbox, &["export", "gpt", "gpt.tin"]).ok();
    cheap::init(&sandbox.path("other"), "a b c");
    run(&sandbox, &["import", "gpt.tin", "--repo", "other"]).ok();
    let info = run(&sandbox, &["info", "other::gpt"]).ok();
    assert!(info.stdout.contains("GPT 0f3ab5c1"), "{}", info.stdout);
    // The boot sector of a file system is no table.
    let plain = sandbox.raw_disk("plain.raw", 2 * MIB, 0);
    let mut sector = [0xeb; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    File::options().write(true).open(plain).unwrap().write_all_at(&sector, 0).unwrap();
    let (report, _) = backup(&sandbox, &["plain.raw"]);
    assert_eq!(report["disks"][0]["identity"], Value::Null);
}
