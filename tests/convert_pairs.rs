//! Options that move, cut, or replace what a disk holds, several at a time: what comes out is the same as of a plain copy.
//!
//! Each of them is right by itself; wrong bytes were found where two of them met.

mod common;

use std::fs;
use std::ops::Range;

use common::{Sandbox, have, partitioned_disk};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// Ways to take a part of a disk: what is added to the address, options, and the part.
const CUTS: [(&str, &[&str], Range<usize>); 7] = [
    ("", &[], 0..8 * MIB),
    ("", &["--size", "3M"], 0..3 * MIB),
    ("", &["--offset", "1M"], MIB..8 * MIB),
    ("", &["--offset", "1536K", "--size", "2M"], 1536 * KIB..3584 * KIB),
    ("?partition=1", &[], 32 * KIB..2032 * KIB),
    ("?partition=2", &[], 4 * MIB..8 * MIB),
    ("?partition=2", &["--offset", "512K", "--size", "1M"], 4608 * KIB..5632 * KIB),
];

/// Ways to write: the target, options, and how many bytes of zeros follow the part.
const WAYS: [(&str, &[&str], usize); 12] = [
    ("t.raw", &[], 0),
    ("t.raw", &["--no-reflink", "--threads", "1"], 0),
    ("t.raw", &["--salvage"], 0),
    ("t.raw", &["-n"], 0),
    ("t.qcow2", &["--compress", "zstd", "--digest", "sha256"], 0),
    ("t.qcow2", &["--reproducible"], 0),
    ("t.qcow2", &["--backing", "d.raw"], 0),
    ("t.qcow2", &["--backing", "d.raw", "--salvage"], 0),
    ("t.qcow2", &["--backing", "top.qcow2"], 0),
    ("t.qcow2", &["--backing", "other.raw", "--digest", "blake3"], 0),
    ("t.vhdx", &["--verify"], 0),
    ("t.vhd", &["--extend-to", "9M"], 9 * MIB),
];

/// A disk, a chain of images over it, and others of the same content.
struct Disks {
    sandbox: Sandbox,
    base: Vec<u8>,
    top: Vec<u8>,
}

impl Disks {
    fn new() -> Disks {
        let sandbox = Sandbox::new();
        let base = partitioned_disk(&sandbox, "d.raw");
        let mut top = base.clone();
        sandbox.raw_disk("other.raw", 8 * MIB as u64, 50);
        sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "d.raw", "-F", "raw", "top.qcow2"]);
        for (at, length, fill) in [(MIB + 4096, 70 * KIB, 0x11), (5 * MIB, 64 * KIB, 0x22), (7 * MIB, 8 * KIB, 0)] {
            top[at..at + length].fill(fill);
            let write =
                if fill == 0 { format!("write -z {at} {length}") } else { format!("write -P {fill} {at} {length}") };
            sandbox.tool("qemu-io", ["-f", "qcow2", "-c", &write, "top.qcow2"]);
        }
        sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "over.qcow2"]);
        Disks { sandbox, base, top }
    }

    /// Makes every cut of a source in every way, and compares what comes out.
    fn check(&self, source: &str, disk: &[u8]) {
        let mut made = 0;
        for (address, cut, part) in CUTS {
            for (target, how, end) in WAYS {
                let _ = fs::remove_file(self.sandbox.path(target));
                let mut expected = disk[part.clone()].to_vec();
                if how.contains(&"-n") {
                    fs::write(self.sandbox.path(target), vec![0xee; expected.len()]).expect("an old file");
                }
                expected.resize(expected.len().max(end), 0);
                let whole = format!("{source}{address}");
                let line = [&["convert", &whole, target], cut, how].concat();
                self.sandbox.run(&line).ok();
                self.assert_reads(target, &expected, &line.join(" "));
                made += 1;
            }
        }
        assert_eq!(made, CUTS.len() * WAYS.len());
    }

    /// Compares with what QEMU reads.
    fn assert_reads(&self, target: &str, expected: &[u8], about: &str) {
        let format = match target.rsplit('.').next() {
            Some("vhd") => "vpc",
            other => other.expect("an extension"),
        };
        self.sandbox.tool("qemu-img", ["convert", "-f", format, "-O", "raw", target, "read.raw"]);
        let found = fs::read(self.sandbox.path("read.raw")).expect("a disk");
        // A VHD is as long as its geometry says.
        assert!(
            found.len() >= expected.len() && found[expected.len()..].iter().all(|byte| *byte == 0),
            "{about}: its end"
        );
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        assert_eq!(differs, None, "{about}: where it differs");
    }
}

#[test]
fn a_raw_disk_and_its_parts() {
    if !have("qemu-img") {
        return;
    }
    let disks = Disks::new();
    disks.check("d.raw", &disks.base);
}

#[test]
fn a_chain_and_its_parts() {
    if !have("qemu-img") {
        return;
    }
    let disks = Disks::new();
    disks.check("top.qcow2", &disks.top);
    disks.check("over.qcow2", &disks.top);
}

#[test]
fn what_is_stored_compressed_and_its_parts() {
    if !have("qemu-img") {
        return;
    }
    let disks = Disks::new();
    disks.sandbox.run(["convert", "over.qcow2", "d.tin"]).ok();
    disks.sandbox.run(["init", "repo", "--no-encryption"]).ok();
    disks.sandbox.run(["backup", "over.qcow2", "-r", "repo", "--name", "d"]).ok();
    for source in ["d.tin", "repo::d"] {
        disks.check(source, &disks.top);
    }
}
