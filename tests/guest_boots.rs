//! A machine's disk goes through the formats that machines run from, unchanged, and boots from each of them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Sandbox, have, have_root};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(name)
}

fn build(script_name: &str, target: &Path) {
    let output = Command::new(script(script_name)).arg(target).output().expect("run the guest's script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn boots(image: &Path, format: &str, firmware: &str, line: &str) {
    let output = Command::new(script("boot")).arg(image).args([format, firmware, line]).output().expect("boot");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} does not boot by {firmware}: {said}", image.display());
}

fn ready() -> bool {
    have("qemu-system-x86_64") && have("syslinux") && have("grub-mkstandalone") && have("sgdisk")
}

#[test]
fn a_boot_sector_boots_from_every_format() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    let guest = sandbox.path("guest1.raw");
    build("build-boot-sector", &guest);
    // The target, and what QEMU calls its format.
    let targets = [
        ("a.qcow2", "qcow2"),
        ("a.vhdx", "vhdx"),
        ("a.raw", "raw"),
        ("a.vhd", "vpc"),
        ("a.vmdk", "vmdk"),
        ("a.vdi", "vdi"),
    ];
    for (target, format) in targets {
        sandbox.run(["convert", "guest1.raw", target]).ok();
        boots(&sandbox.path(target), format, "bios", "TINTYPE-GUEST-1");
    }
    for (subformat, target) in
        [("monolithicFlat", "flat.vmdk"), ("twoGbMaxExtentSparse", "split.vmdk"), ("streamOptimized", "stream.vmdk")]
    {
        sandbox.run(["convert", "guest1.raw", target, "--subformat", subformat]).ok();
        boots(&sandbox.path(target), "vmdk", "bios", "TINTYPE-GUEST-1");
    }
}

/// What the disk goes through, one after the other: the options of `convert`, and the target.
const WAY: &[(&[&str], &str)] = &[
    (&[], "a.vhdx"),
    (&["--compress", "zstd"], "b.qcow2"),
    (&[], "c.vhd"),
    (&[], "d.vdi"),
    (&[], "e.vmdk"),
    (&["--subformat", "streamOptimized"], "f.vmdk"),
];

/// From which of them QEMU boots, and what it calls them.
const BOOTED: &[(&str, &str)] = &[
    ("a.vhdx", "vhdx"),
    ("b.qcow2", "qcow2"),
    ("c.vhd", "vpc"),
    ("d.vdi", "vdi"),
    ("e.vmdk", "vmdk"),
    ("f.vmdk", "vmdk"),
];

/// Sends guest 2 through every format and back.
fn after_the_way(sandbox: &Sandbox) {
    let guest = sandbox.path("guest2.raw");
    build("build-kernel", &guest);
    let mut source = "guest2.raw";
    for (options, target) in WAY {
        sandbox.run(["convert", source, target].iter().chain(*options)).ok();
        source = target;
    }
    sandbox.run(["convert", source, "end.raw"]).ok();
    assert!(fs::read(&guest).unwrap() == fs::read(sandbox.path("end.raw")).unwrap(), "the disk changed on the way");
}

#[test]
fn a_kernel_boots_after_going_through_every_format() {
    if !ready() || !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    after_the_way(&sandbox);
    for ((target, format), firmware) in BOOTED.iter().zip(["bios", "uefi"]) {
        boots(&sandbox.path(target), format, firmware, "TINTYPE-GUEST-2");
    }
}

#[test]
#[ignore = "takes minutes: .ci/run calls it"]
fn a_kernel_boots_from_every_format_by_bios_and_uefi() {
    assert!(ready() && have_root());
    let sandbox = Sandbox::new();
    after_the_way(&sandbox);
    for (target, format) in BOOTED {
        for firmware in ["bios", "uefi"] {
            boots(&sandbox.path(target), format, firmware, "TINTYPE-GUEST-2");
        }
    }
}
