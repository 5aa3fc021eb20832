//! A guest that writes the header of an image into its own raw disk does not get the disk of a neighbour.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use common::{Run, Sandbox, digest, have};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const REFUSED: &str = "only the content says";

/// Names of files that do not state the format of what the guest wrote.
const NAMES: [&str; 8] =
    ["guest.raw", "guest.img", "guest.bin", "guest.dd", "guest.iso", "guest", "guest.old", "guest-flat.vmdk"];

/// A disk in which the guest wrote this at the beginning.
fn guest_disk(sandbox: &Sandbox, name: &str, head: &[u8]) {
    let file = File::create(sandbox.path(name)).unwrap();
    file.set_len(MIB).unwrap();
    file.write_all_at(head, 0).unwrap();
}

fn header_by_qemu(sandbox: &Sandbox, format: &str) -> Vec<u8> {
    sandbox.tool("qemu-img", ["create", "-q", "-f", format, "-u", "-F", "raw", "-b", "victim.raw", "stand-in", "1M"]);
    let bytes = fs::read(sandbox.path("stand-in")).unwrap();
    fs::remove_file(sandbox.path("stand-in")).unwrap();
    bytes
}

fn vmdk(lines: &str) -> Vec<u8> {
    format!("# Disk DescriptorFile\nversion=1\nCID=fffffffe\n{lines}\n").into_bytes()
}

/// What a guest can write, all of which names a neighbour's disk.
fn headers(sandbox: &Sandbox) -> Vec<(&'static str, Vec<u8>)> {
    let extent = "parentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2048 FLAT \"victim.raw\" 0";
    let parent = "parentCID=12345678\ncreateType=\"vmfs\"\nparentFileNameHint=\"victim.raw\"\nRW 2048 ZERO";
    let top = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
    let bundle = format!(
        "<?xml version='1.0'?><Parallels_disk_image Version=\"1.0\"><Disk_Parameters><Disk_size>2048</Disk_size>\
         <Cylinders>2</Cylinders><Heads>16</Heads><Sectors>63</Sectors><Padding>0</Padding></Disk_Parameters>\
         <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize><Image><GUID>{top}</GUID>\
         <Type>Plain</Type><File>victim.raw</File></Image></Storage></StorageData><Snapshots><Shot><GUID>{top}</GUID>\
         <ParentGUID>{{00000000-0000-0000-0000-000000000000}}</ParentGUID></Shot></Snapshots></Parallels_disk_image>"
    );
    vec![
        ("vmdk", vmdk(extent)),
        ("vmdk", vmdk(parent)),
        ("parallels", bundle.into_bytes()),
        ("qcow2", header_by_qemu(sandbox, "qcow2")),
        ("qcow", header_by_qemu(sandbox, "qcow")),
        ("qed", header_by_qemu(sandbox, "qed")),
    ]
}

#[track_caller]
fn refused(run: Run, what: &str) {
    assert_eq!(run.code, Some(1), "{what}: {run:?}");
    let is_refused = run.stderr.contains(REFUSED) || run.stderr.contains("trailing") || run.stderr.contains("XML");
    assert!(is_refused, "{what}: {}", run.stderr);
    assert!(run.stdout.is_empty(), "{what}: {}", run.stdout);
}

#[test]
fn a_neighbours_disk_is_not_opened() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("victim.raw", MIB, 4);
    fs::create_dir(sandbox.path("folder")).unwrap();
    sandbox.run(["init", "--no-encryption", "repo"]).ok();
    for (format, head) in headers(&sandbox) {
        for name in NAMES {
            guest_disk(&sandbox, name, &head);
            refused(sandbox.run(["digest", name]), &format!("{format} in {name}"));
            fs::remove_file(sandbox.path(name)).unwrap();
        }
        let name = "guest.raw";
        guest_disk(&sandbox, name, &head);
        let raw = sandbox.run(["digest", "-f", "raw", name]).ok();
        assert_eq!(raw.stderr, "", "who says raw means it");
        for arguments in [
            &["convert", name, "out.raw"][..],
            &["convert", "-q", name, "out.qcow2"],
            &["compare", name, "victim.raw"],
            &["map", name],
            &["backup", "--repo", "repo", name],
            &["serve", "--socket", "socket", name],
            &["mount", name, "folder"],
        ] {
            refused(sandbox.run(arguments), &format!("{format}: {arguments:?}"));
        }
        assert!(!sandbox.path("out.raw").exists() && !sandbox.path("out.qcow2").exists());
        sandbox.run(["convert", "-f", "raw", name, "out.raw"]).ok();
        assert_eq!(fs::read(sandbox.path("out.raw")).unwrap(), fs::read(sandbox.path(name)).unwrap());
        fs::remove_file(sandbox.path("out.raw")).unwrap();
    }
}

/// What a disk's descriptor names is not even looked at.
#[test]
fn check_opens_no_neighbour() {
    let sandbox = Sandbox::new();
    let text = "parentCID=ffffffff\ncreateType=\"twoGbMaxExtentSparse\"\nRW 2048 SPARSE \"victim.vmdk\"";
    guest_disk(&sandbox, "guest.img", &vmdk(text));
    sandbox.raw_disk("victim.raw", MIB, 4);
    sandbox.run(["convert", "victim.raw", "victim.vmdk"]).ok();
    refused(sandbox.run(["check", "guest.img"]), "check");
    let info = sandbox.run(["info", "guest.img"]).ok();
    assert!(info.stdout.contains("the name says raw, the content is vmdk"), "{}", info.stdout);
}

#[test]
fn the_users_word_opens_what_an_image_names() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    let base = sandbox.raw_disk("victim.raw", MIB, 4);
    for name in ["mine.img", "mine"] {
        fs::write(sandbox.path(name), header_by_qemu(&sandbox, "qcow2")).unwrap();
        let run = sandbox.run(["digest", name]);
        assert!(run.stderr.contains("hint: pass -f raw for a guest's own disk"), "{}", run.stderr);
        refused(run, name);
        for said in [&["-f", "qcow2"][..], &["--allow-references", "."]] {
            let arguments = [&["digest", name][..], said].concat();
            let found = sandbox.run(arguments).ok().stdout;
            assert_eq!(found.split_whitespace().next(), Some(digest(&sandbox, &base).as_str()), "{name} {said:?}");
        }
        sandbox.run(["digest", name, "--no-references"]).fails(1, "");
    }
    fs::rename(sandbox.path("mine.img"), sandbox.path("mine.qcow2")).unwrap();
    assert_eq!(sandbox.run(["compare", "mine.qcow2", "victim.raw"]).ok().stderr, "");
}

/// Cloud images are qcow2 and have names in `.img`.
#[test]
fn an_image_that_names_nothing_opens_with_a_note() {
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("disk.raw", MIB, 4);
    sandbox.run(["convert", "disk.raw", "cloud.img", "-O", "qcow2"]).ok();
    let run = sandbox.run(["digest", "cloud.img"]).ok();
    assert!(run.stdout.starts_with(&digest(&sandbox, &disk)), "{}", run.stdout);
    let note = "note: cloud.img: the name says raw, the content is qcow2: it is read as qcow2";
    assert!(run.stderr.starts_with(note), "{}", run.stderr);
    assert_eq!(sandbox.run(["digest", "-q", "cloud.img"]).ok().stderr, "");
    assert_eq!(sandbox.run(["digest", "-f", "qcow2", "cloud.img"]).ok().stderr, "");
    for command in ["info", "check"] {
        let report: Value = serde_json::from_str(&sandbox.run([command, "--json", "cloud.img"]).ok().stdout).unwrap();
        let text = report.to_string();
        assert!(text.contains("the content is qcow2"), "{command}: {text}");
    }
}

/// The chain was made by the host, and does not say of which format its base is.
#[test]
fn a_base_that_became_an_image_ends_the_chain() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("victim.raw", MIB, 4);
    guest_disk(&sandbox, "base.img", &header_by_qemu(&sandbox, "qcow2"));
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "base.img", "top.qcow2", "1M"]);
    sandbox.run(["compare", "-q", "top.qcow2", "base.img"]).fails(1, "");
    let raw = sandbox.run(["digest", "-f", "raw", "base.img"]).ok().stdout;
    let stated = sandbox.run(["digest", "top.qcow2"]).ok().stdout;
    assert_eq!(raw.split_whitespace().next(), stated.split_whitespace().next(), "the chain states that it is raw");
    // The extension that states the format (0xe2792aca) becomes one that nobody knows.
    let mut bytes = fs::read(sandbox.path("top.qcow2")).unwrap();
    let at = bytes.windows(4).position(|part| part == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at..at + 4].copy_from_slice(&[0x11, 0x22, 0x33, 0x44]);
    fs::write(sandbox.path("top.qcow2"), bytes).unwrap();
    sandbox.run(["digest", "top.qcow2"]).fails(1, REFUSED);
    sandbox.run(["digest", "-f", "qcow2", "top.qcow2"]).fails(1, REFUSED);
    sandbox.run(["digest", "top.qcow2", "--allow-references", "."]).ok();
}

#[test]
fn a_raw_disk_that_becomes_an_image_is_not_backed_up_as_that() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", MIB, 4);
    sandbox.run(["init", "--no-encryption", "repo"]).ok();
    let backup =
        |arguments: &[&str]| sandbox.run([&["backup", "--repo", "repo", "--name", "vm"][..], arguments].concat());
    backup(&["disk.raw"]).ok();
    // The guest makes its disk an image without any reference.
    sandbox.run(["convert", "disk.raw", "image", "-O", "qcow2"]).ok();
    let image = fs::read(sandbox.path("image")).unwrap();
    guest_disk(&sandbox, "disk.raw", &image[..image.len().min(MIB as usize)]);
    let run = backup(&["disk.raw"]).fails(1, "the snapshot before recorded a raw disk");
    assert!(run.stderr.contains("hint: pass -f raw for a guest's own disk"), "{}", run.stderr);
    backup(&["-f", "raw", "disk.raw"]).ok();
    sandbox.run(["restore", "--repo", "repo", "vm", "restored.raw"]).ok();
    assert_eq!(fs::read(sandbox.path("restored.raw")).unwrap(), fs::read(sandbox.path("disk.raw")).unwrap());
    // Recorded as what it is, it goes on.
    sandbox.run(["convert", "disk.raw", "-f", "raw", "other.img", "-O", "qcow2"]).ok();
    let backup =
        |arguments: &[&str]| sandbox.run([&["backup", "--repo", "repo", "--name", "image"][..], arguments].concat());
    backup(&["other.img"]).ok();
    backup(&["other.img"]).ok();
}
