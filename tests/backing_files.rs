//! Images over a backing file hold only what differs from it, and zeros where they hide something.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::{Sandbox, allocated_bytes, digest, have};

const MIB: u64 = 1 << 20;

/// A base disk, and a changed copy of it: new data, zeros over data, a longer or shorter end.
fn base_and_changed(sandbox: &Sandbox, changed_bytes: u64) {
    let base = sandbox.raw_disk("base.raw", 40 * MIB, 60);
    let changed = sandbox.path("changed.raw");
    fs::copy(&base, &changed).unwrap();
    let file = File::options().write(true).open(&changed).unwrap();
    file.write_all_at(&[1; 5000], 3 * MIB + 100).unwrap();
    file.write_all_at(&vec![0; 3 << 20], 10 * MIB + 512).unwrap();
    file.set_len(changed_bytes).unwrap();
    if changed_bytes > 41 * MIB {
        file.write_all_at(&[2; 512], changed_bytes - 512).unwrap();
    }
}

const VARIANTS: &[&[&str]] = &[
    &[],
    &["--compress", "zstd"],
    &["-o", "extended_l2=on"],
    &["-o", "cluster_size=4k"],
    &["-o", "compat=0.10"],
    &["-o", "cluster_size=2M"],
];

#[test]
fn only_what_differs_is_stored() {
    for size in [40 * MIB, 50 * MIB, 20 * MIB + 512] {
        let sandbox = Sandbox::new();
        base_and_changed(&sandbox, size);
        let expected = digest(&sandbox, &sandbox.path("changed.raw"));
        sandbox.run(["convert", "base.raw", "base.qcow2"]).ok();
        for backing in ["base.raw", "base.qcow2"] {
            for variant in VARIANTS {
                let args = ["convert", "changed.raw", "top.qcow2", "--force", "--verify", "--backing", backing];
                sandbox.run(args.iter().chain(*variant)).ok();
                assert_eq!(digest(&sandbox, &sandbox.path("top.qcow2")), expected, "{size} {backing} {variant:?}");
                sandbox.run(["check", "top.qcow2"]).ok();
                if variant.is_empty() {
                    assert!(allocated_bytes(&sandbox.path("top.qcow2")) < 2 * MIB, "{size} {backing}");
                }
                if have("qemu-img") {
                    sandbox.tool("qemu-img", ["check", "-q", "top.qcow2"]);
                    common::assert_qemu_reads_the_same(&sandbox, "changed.raw", "top.qcow2", "qcow2");
                }
            }
        }
    }
}

#[test]
fn an_overlay_over_the_same_base_is_not_read_through() {
    let sandbox = Sandbox::new();
    base_and_changed(&sandbox, 40 * MIB);
    sandbox.run(["convert", "changed.raw", "one.qcow2", "--backing", "base.raw"]).ok();
    sandbox.run(["convert", "one.qcow2", "two.qcow2", "--backing", "base.raw", "--verify"]).ok();
    sandbox.run(["compare", "two.qcow2", "changed.raw"]).ok();
    assert!(allocated_bytes(&sandbox.path("two.qcow2")) < 2 * MIB);
    let map = sandbox.run(["info", "--json", "two.qcow2"]).ok();
    assert!(map.stdout.contains("\"base.raw\""), "{}", map.stdout);
}

#[test]
fn a_backing_file_elsewhere_is_named_in_full() {
    let sandbox = Sandbox::new();
    base_and_changed(&sandbox, 40 * MIB);
    fs::create_dir(sandbox.path("tops")).unwrap();
    sandbox.run(["convert", "changed.raw", "tops/top.qcow2", "--backing", "base.raw", "--verify"]).ok();
    sandbox.run(["digest", "tops/top.qcow2"]).fails(1, "leads out");
    sandbox.run(["compare", "tops/top.qcow2", "changed.raw", "--allow-references", "."]).ok();
}

#[test]
fn formats_without_backing_files_say_so() {
    let sandbox = Sandbox::new();
    base_and_changed(&sandbox, 40 * MIB);
    for target in ["top.raw", "top.vhdx"] {
        let run = sandbox.run(["convert", "changed.raw", target, "--backing", "base.raw"]);
        run.fails(2, "has no backing files; formats that have them: qcow2");
    }
}
