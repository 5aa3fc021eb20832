//! Tintype reads what QEMU writes.

mod common;

use std::fs;
use std::process::Command;

use common::{Sandbox, digest, disk_of, have};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Options of qemu-img for images that tintype has to read.
const QEMU_IMAGES: &[(&str, &[&str])] = &[
    ("qcow2", &[]),
    ("qcow2", &["-o", "compat=0.10"]),
    ("qcow2", &["-o", "cluster_size=512"]),
    ("qcow2", &["-o", "cluster_size=1k,refcount_bits=1"]),
    ("qcow2", &["-o", "cluster_size=2M,refcount_bits=64"]),
    ("qcow2", &["-o", "refcount_bits=2"]),
    ("qcow2", &["-o", "refcount_bits=4"]),
    ("qcow2", &["-o", "refcount_bits=8"]),
    ("qcow2", &["-o", "refcount_bits=32"]),
    ("qcow2", &["-o", "extended_l2=on"]),
    ("qcow2", &["-o", "extended_l2=on,cluster_size=16k"]),
    ("qcow2", &["-o", "extended_l2=on,cluster_size=2M"]),
    ("qcow2", &["-o", "preallocation=metadata"]),
    ("qcow2", &["-o", "lazy_refcounts=on"]),
    ("qcow2", &["-c"]),
    ("qcow2", &["-c", "-o", "compression_type=zstd"]),
    ("qcow2", &["-c", "-o", "compression_type=zstd,cluster_size=4k"]),
    ("qcow2", &["-c", "-o", "cluster_size=2M"]),
    ("qcow2", &["-o", "data_file=data.bin"]),
    ("qcow2", &["-o", "data_file=data.bin,data_file_raw=on"]),
    ("vhdx", &[]),
    ("vhdx", &["-o", "subformat=fixed"]),
    ("vhdx", &["-o", "block_size=1M"]),
    ("vhdx", &["-o", "block_size=256M"]),
    ("vpc", &["-o", "force_size=on"]),
    ("vpc", &["-o", "force_size=on,subformat=fixed"]),
    ("vmdk", &[]),
    ("vmdk", &["-o", "subformat=monolithicFlat"]),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentSparse"]),
    ("vmdk", &["-o", "subformat=twoGbMaxExtentFlat"]),
    ("vmdk", &["-o", "subformat=streamOptimized"]),
    ("vdi", &[]),
    ("vdi", &["-o", "static=on"]),
];

#[test]
fn images_by_qemu_are_read_and_found_clean() {
    if !have("qemu-img") {
        return;
    }
    for size in [512 * 3, 65 * MIB + 512, 5 * GIB] {
        let sandbox = Sandbox::new();
        let source = disk_of(&sandbox, size);
        let expected = if size < GIB { digest(&sandbox, &source) } else { String::new() };
        for (format, options) in QEMU_IMAGES {
            let slow = ["fixed", "static=on", "cluster_size=512", "1k"];
            if size > GIB && options.iter().any(|option| slow.iter().any(|name| option.contains(name))) {
                continue;
            }
            let _ = fs::remove_file(sandbox.path("data.bin"));
            let args = ["convert", "-f", "raw", "-O", format];
            // Other files are opened only where the image's name says what it is.
            let image = match *format {
                "qcow2" => "q.qcow2",
                "vmdk" => "q.vmdk",
                _ => "q.img",
            };
            sandbox.tool("qemu-img", args.iter().chain(*options).chain(&["source.raw", image]));
            let check = sandbox.run(["check", image]);
            assert_eq!(check.code, Some(0), "{options:?}: {}{}", check.stdout, check.stderr);
            if size < GIB {
                assert_eq!(digest(&sandbox, &sandbox.path(image)), expected, "{options:?}");
            } else {
                sandbox.run(["compare", image, "source.raw"]).ok();
            }
        }
    }
}

#[test]
fn snapshots_by_qemu_are_read_with_their_own_size() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_of(&sandbox, 20 * MIB);
    sandbox.tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", "source.raw", "s.qcow2"]);
    sandbox.tool("qemu-img", ["snapshot", "-c", "before", "s.qcow2"]);
    sandbox.tool("qemu-io", ["-c", "write -P 9 1M 4M", "s.qcow2"]);
    sandbox.tool("qemu-img", ["snapshot", "-c", "second one", "s.qcow2"]);
    sandbox.tool("qemu-img", ["resize", "-q", "s.qcow2", "30M"]);
    sandbox.tool("qemu-io", ["-c", "write -P 10 25M 1M", "s.qcow2"]);
    sandbox.run(["compare", "--strict", "s.qcow2?snapshot=before", "source.raw"]).ok();
    sandbox.run(["compare", "--strict", "s.qcow2?snapshot=1", "source.raw"]).ok();
    sandbox.run(["convert", "s.qcow2?snapshot=second one", "mine.raw"]).ok();
    // qemu-img convert -l would give the snapshot the active disk's size.
    fs::copy(sandbox.path("s.qcow2"), sandbox.path("reverted.qcow2")).unwrap();
    sandbox.tool("qemu-img", ["snapshot", "-a", "second one", "reverted.qcow2"]);
    sandbox.tool("qemu-img", ["convert", "-O", "raw", "reverted.qcow2", "second.raw"]);
    assert!(fs::read(sandbox.path("mine.raw")).unwrap() == fs::read(sandbox.path("second.raw")).unwrap());
    let missing = sandbox.run(["digest", "s.qcow2?snapshot=third"]).fails(1, "there is no \"third\"");
    assert!(missing.stderr.contains("second one"), "{}", missing.stderr);
    let info: Value = serde_json::from_str(&sandbox.run(["info", "--json", "s.qcow2"]).ok().stdout).unwrap();
    assert_eq!(info["snapshots"][0]["size_bytes"], 20 * MIB);
    assert_eq!((info["size_bytes"].as_u64(), info["snapshots"].as_array().unwrap().len()), (Some(30 * MIB), 2));
    sandbox.run(["check", "s.qcow2"]).ok();
}

#[test]
fn encrypted_images_are_refused_by_name() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    let secret = ["create", "-q", "--object", "secret,id=s,data=password", "-f", "qcow2", "-o"];
    let luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    // Before QEMU 10, the work that a password takes is sometimes too little for its clock.
    let create = || {
        let mut command = Command::new("qemu-img");
        command.args(secret).args([luks, "e.qcow2", "1M"]).current_dir(sandbox.path(""));
        command.output().expect("run qemu-img").status.success()
    };
    assert!((0..20).any(|_| create()), "qemu-img makes no encrypted image");
    sandbox.run(["digest", "e.qcow2"]).fails(1, "LUKS");
    sandbox.run(["info", "e.qcow2"]).ok();
}
