//! Independent readers read what tintype writes as the same bytes.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use common::{Sandbox, digest, disk_of, have, have_or_skip, have_root};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Sizes where formats have their edges.
const SIZES: [u64; 6] = [0, 512, 3 * 512, 65 * MIB + 512, 5 * GIB, 40 * GIB];

/// A format that both tintype and QEMU write.
struct Common {
    target: &'static str,
    /// What QEMU calls it.
    qemu_name: &'static str,
    /// Options of `convert`, for each variant; the usual one first.
    ways: &'static [&'static [&'static str]],
    /// Whether qemu-img can check it.
    checked: bool,
}

const COMMON: &[Common] = &[
    Common { target: "t.qcow2", qemu_name: "qcow2", ways: QCOW2_WAYS, checked: true },
    Common { target: "t.vhdx", qemu_name: "vhdx", ways: VHDX_WAYS, checked: true },
    Common { target: "t.vhd", qemu_name: "vpc", ways: VHD_WAYS, checked: false },
    Common { target: "t.vmdk", qemu_name: "vmdk", ways: VMDK_WAYS, checked: true },
    Common { target: "t.vdi", qemu_name: "vdi", ways: VDI_WAYS, checked: true },
];

const QCOW2_WAYS: &[&[&str]] = &[
    &[],
    &["--compress", "zlib"],
    &["--compress", "zstd"],
    &["-o", "cluster_size=512"],
    &["-o", "cluster_size=2M"],
    &["-o", "compat=0.10"],
    &["-o", "extended_l2=on"],
    &["-o", "extended_l2=on,cluster_size=16k"],
    &["-o", "cluster_size=4k", "--compress", "zlib:9"],
];

const VHDX_WAYS: &[&[&str]] = &[&[], &["-o", "block_size=1M"], &["-o", "block_size=256M"], &["--subformat", "fixed"]];

const VHD_WAYS: &[&[&str]] = &[&[], &["-o", "block_size=512k"], &["-o", "block_size=16M"], &["--subformat", "fixed"]];

const VMDK_WAYS: &[&[&str]] = &[
    &[],
    &["--subformat", "streamOptimized"],
    &["--subformat", "twoGbMaxExtentSparse"],
    &["--subformat", "monolithicFlat"],
];

const VDI_WAYS: &[&[&str]] = &[&[], &["--subformat", "fixed"]];

/// Those that QEMU can write into.
fn is_writable(way: &[&str]) -> bool {
    !way.contains(&"streamOptimized")
}

impl Common {
    /// Whether QEMU can be asked, and in a reasonable time.
    fn is_worth_it(&self, way: &[&str], size: u64) -> bool {
        let fixed = way.contains(&"fixed");
        match self.qemu_name {
            // For a disk of nothing QEMU expects a table of gigabytes if blocks are large.
            "vhdx" if size == 0 => way.is_empty(),
            // It finds no footer there, and a VMDK of nothing ends it with a failed assertion.
            "vpc" if size == 0 => !fixed,
            "vmdk" if size == 0 => false,
            // It compares these by reading every zero: many gigabytes are worth one or two ways of each.
            "qcow2" | "vhdx" => size <= GIB || way.is_empty() || (size <= 5 * GIB && way.contains(&"zstd")),
            _ => size <= GIB || (size <= 5 * GIB && way.is_empty()),
        }
    }

    fn make(&self, sandbox: &Sandbox, way: &[&str]) {
        // Of an image in several files, only the first one is replaced by --force.
        for name in common::names_in(&sandbox.path("")).iter().filter(|name| name.starts_with("t")) {
            fs::remove_file(sandbox.path(name)).unwrap();
        }
        sandbox.run(["convert", "source.raw", self.target].iter().chain(way)).ok();
    }

    /// Flat extents have nothing that could be checked.
    fn check(&self, sandbox: &Sandbox, way: &[&str]) {
        if self.checked && !way.contains(&"monolithicFlat") {
            sandbox.tool("qemu-img", ["check", "-q", "-f", self.qemu_name, self.target]);
        }
    }
}

#[test]
fn qemu_finds_what_is_written_clean_and_reads_the_same() {
    if !have("qemu-img") {
        return;
    }
    // Large disks first; two at a time, for QEMU compares by one thread.
    let jobs = SIZES.iter().rev().flat_map(|size| COMMON.iter().map(move |common| (*size, common)));
    let jobs = Mutex::new(jobs);
    let work = || {
        loop {
            let Some((size, common)) = jobs.lock().expect("a lock").next() else { return };
            let sandbox = Sandbox::new();
            disk_of(&sandbox, size);
            for way in common.ways.iter().filter(|way| common.is_worth_it(way, size)) {
                common.make(&sandbox, way);
                common.check(&sandbox, way);
                common::assert_qemu_reads_the_same(&sandbox, "source.raw", common.target, common.qemu_name);
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
}

/// QEMU writes into the image, closes it, and everybody still finds it in order: counts and checksums are those QEMU needs.
#[test]
fn qemu_goes_on_writing_into_what_is_written() {
    if !have("qemu-io") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_of(&sandbox, 65 * MIB);
    for common in COMMON {
        for way in common.ways.iter().filter(|way| is_writable(way)) {
            common.make(&sandbox, way);
            fs::copy(sandbox.path("source.raw"), sandbox.path("expected.raw")).unwrap();
            for (image, format) in [(common.target, common.qemu_name), ("expected.raw", "raw")] {
                let commands = ["-c", "write -P 17 1M 300k", "-c", "write -P 18 40M 5M", "-c", "write -z 50M 2M"];
                sandbox.tool("qemu-io", ["-f", format].iter().chain(&commands).chain(&[image]));
            }
            common.check(&sandbox, way);
            sandbox.run(["check", common.target]).ok();
            sandbox.run(["compare", "--strict", common.target, "expected.raw"]).ok();
        }
    }
}

/// What goes to a pipe is written in another way: nothing of it is written twice.
#[test]
fn what_goes_to_standard_output_is_read_by_qemu() {
    if !have("qemu-img") {
        return;
    }
    for size in [512, 65 * MIB + 512, 5 * GIB] {
        let sandbox = Sandbox::new();
        disk_of(&sandbox, size);
        let stream = File::create(sandbox.path("t.vmdk")).unwrap();
        let args = ["convert", "-q", "source.raw", "-", "-O", "vmdk", "--subformat", "streamOptimized"];
        assert!(sandbox.command(args).stdout(stream).status().unwrap().success(), "{size}");
        sandbox.tool("qemu-img", ["check", "-q", "-f", "vmdk", "t.vmdk"]);
        common::assert_qemu_reads_the_same(&sandbox, "source.raw", "t.vmdk", "vmdk");
    }
}

/// The package of an appliance: GNU tar unpacks it, the manifest has the digests of its files, QEMU reads the disk.
#[test]
fn appliances_are_unpacked_by_tar_and_read_by_qemu() {
    if !have("qemu-img") || !have("tar") || !have("sha256sum") {
        return;
    }
    for size in [512, 65 * MIB + 512, 5 * GIB] {
        let sandbox = Sandbox::new();
        disk_of(&sandbox, size);
        sandbox.run(["convert", "source.raw", "t.ova"]).ok();
        let names = sandbox.tool("tar", ["-xvf", "t.ova"]);
        let names: Vec<_> = names.lines().collect();
        let of_kind = |end: &str| names.iter().copied().find(|name| name.ends_with(end)).expect(end);
        assert_eq!((names.len(), names[0]), (3, of_kind(".ovf")));
        sandbox.tool("sha256sum", ["--check", "--quiet", "--strict", of_kind(".mf")]);
        common::assert_qemu_reads_the_same(&sandbox, "source.raw", of_kind(".vmdk"), "vmdk");
    }
}

/// What Compute Engine does with an image: GNU tar unpacks it.
#[test]
fn compute_engine_images_are_unpacked_by_tar() {
    if !have("tar") || !have("gzip") || !have("cmp") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_of(&sandbox, GIB);
    sandbox.run(["convert", "source.raw", "t.tar.gz"]).ok();
    // To write all of its zeros would take most of the time.
    let script = "set -o pipefail; tar -xvzOf t.tar.gz 2>names | cmp - source.raw && cat names";
    assert_eq!(sandbox.tool("bash", ["-c", script]), "disk.raw\n");
    let stream = File::create(sandbox.path("stream.tar.gz")).unwrap();
    let mut command = sandbox.command(["convert", "-q", "source.raw", "-", "-O", "gce"]);
    assert!(command.stdout(stream).status().unwrap().success());
    sandbox.tool("cmp", ["t.tar.gz", "stream.tar.gz"]);
}

/// A FUSE mount by a foreign reader, gone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn by(sandbox: &Sandbox, tool: &str, image: &str) -> Mounted {
        let folder = sandbox.path("mounted");
        fs::create_dir_all(&folder).unwrap();
        sandbox.tool(tool, [image, folder.to_str().unwrap()]);
        Mounted(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Compares a foreign reader's view with the source where the source holds data, and around it.
fn check_view(sandbox: &Sandbox, view: &Path, source: &Path) {
    let (view, source) = (File::open(view).unwrap(), File::open(source).unwrap());
    let map: Value = serde_json::from_str(&sandbox.run(["map", "--json", "source.raw"]).ok().stdout).unwrap();
    let size = source.metadata().unwrap().len();
    for extent in map.as_array().unwrap() {
        let offset = extent["offset"].as_u64().unwrap();
        let length = extent["length_bytes"].as_u64().unwrap().min(2 * MIB).min(size - offset);
        let (mut theirs, mut ours) = (vec![0; length as usize], vec![0; length as usize]);
        view.read_exact_at(&mut theirs, offset).unwrap();
        source.read_exact_at(&mut ours, offset).unwrap();
        assert!(theirs == ours, "the foreign reader sees other bytes at {offset:#x}");
    }
}

#[test]
fn libvhdi_reads_vhdx_with_both_sector_sizes() {
    if !have("vhdimount") || !have_root() {
        return;
    }
    for size in [4096, 65 * MIB, 40 * GIB] {
        let sandbox = Sandbox::new();
        let source = disk_of(&sandbox, size);
        for way in ["logical_sector=512", "logical_sector=4096", "logical_sector=4096,block_size=1M", "block_size=2M"] {
            sandbox.run(["convert", "source.raw", "t.vhdx", "--force", "-o", way]).ok();
            let mounted = Mounted::by(&sandbox, "vhdimount", "t.vhdx");
            check_view(&sandbox, &mounted.0.join("vhdi1"), &source);
        }
    }
}

#[test]
fn libvhdi_reads_vhd() {
    if !have("vhdimount") || !have_root() {
        return;
    }
    for size in [512, 65 * MIB + 512, 5 * GIB, 40 * GIB] {
        let sandbox = Sandbox::new();
        let source = disk_of(&sandbox, size);
        for way in VHD_WAYS {
            if size > GIB && !way.is_empty() {
                continue;
            }
            sandbox.run(["convert", "source.raw", "t.vhd", "--force"].iter().chain(*way)).ok();
            let mounted = Mounted::by(&sandbox, "vhdimount", "t.vhd");
            check_view(&sandbox, &mounted.0.join("vhdi1"), &source);
        }
    }
}

#[test]
fn libvmdk_reads_vmdk() {
    if !have("vmdkmount") || !have_root() {
        return;
    }
    for size in [65 * MIB, 5 * GIB, 40 * GIB] {
        let sandbox = Sandbox::new();
        let source = disk_of(&sandbox, size);
        // Flat ones it does not know.
        for (number, way) in VMDK_WAYS.iter().enumerate().filter(|(_, way)| !way.contains(&"monolithicFlat")) {
            let target = format!("t{number}.vmdk");
            sandbox.run(["convert", "source.raw", &target].iter().chain(*way)).ok();
            let mounted = Mounted::by(&sandbox, "vmdkmount", &target);
            check_view(&sandbox, &mounted.0.join("vmdk1"), &source);
        }
    }
}

#[test]
fn libqcow_reads_plain_and_zlib_qcow2() {
    if !have("qcowmount") || !have_root() {
        return;
    }
    for size in [65 * MIB, 5 * GIB] {
        let sandbox = Sandbox::new();
        let source = disk_of(&sandbox, size);
        for way in [&[][..], &["--compress", "zlib"], &["-o", "cluster_size=4k"]] {
            sandbox.run(["convert", "source.raw", "t.qcow2", "--force"].iter().chain(way)).ok();
            let mounted = Mounted::by(&sandbox, "qcowmount", "t.qcow2");
            check_view(&sandbox, &mounted.0.join("qcow1"), &source);
        }
    }
}

/// The oracle program of `tests/oracles`, built beside tintype.
fn oracle() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_tintype")).with_file_name("oracle");
    have_or_skip(path.exists(), "the oracle program (cargo build -p tintype-oracles)").then_some(path)
}

/// Which reader is trusted with what (tests/oracles/README.md says why).
const ORACLES: &[(&str, &str, &[&str])] = &[
    ("imago", "t.qcow2", &[]),
    ("imago", "t.qcow2", &["--compress", "zlib"]),
    ("imago", "t.qcow2", &["-o", "cluster_size=4k"]),
    ("qcow2-rs", "t.qcow2", &[]),
    ("vhdx-core", "t.vhdx", &[]),
    ("vhdx-core", "t.vhdx", &["-o", "block_size=1M"]),
    ("vhdx", "t.vhdx", &["-o", "block_size=1M"]),
];

#[test]
fn other_libraries_read_the_same() {
    let Some(oracle) = oracle() else { return };
    let sandbox = Sandbox::new();
    let source = disk_of(&sandbox, 65 * MIB);
    let expected = digest(&sandbox, &source);
    for (reader, target, way) in ORACLES {
        sandbox.run(["convert", "source.raw", target, "--force"].iter().chain(*way)).ok();
        let found = sandbox.tool(oracle.to_str().unwrap(), [*reader, *target]);
        assert!(found.starts_with(&expected), "{reader} {way:?}: {found}");
    }
}
