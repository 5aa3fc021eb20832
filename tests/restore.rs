//! Restoring: whole disks, partitions, several disks, and only what differs.

mod common;

use std::os::unix::fs::FileExt;

use common::{Run, Sandbox, assert_holds, have, have_or_skip, names_in};
use tintype_formats::testing::Random;

const DISK_BYTES: u64 = (8 << 20) + 4096;

struct Repo(Sandbox);

impl Repo {
    fn new() -> Self {
        let repo = Repo(Sandbox::new());
        repo.run(&["init", "repo", "--no-encryption"]).ok();
        repo
    }

    fn run(&self, args: &[&str]) -> Run {
        let mut command = self.0.command(args);
        command.env("TINTYPE_REPOSITORY", "repo").env("TINTYPE_CACHE_DIR", self.0.path("cache"));
        Run::of(&command.output().expect("run tintype"))
    }

    /// What a run prints, and how often it reads from packs.
    fn reads_of_packs(&self, args: &[&str]) -> (Vec<u8>, usize) {
        let mut command = std::process::Command::new("strace");
        command
            .args(["-f", "-y", "-qq", "-e", "trace=pread64", "-o", "reads", env!("CARGO_BIN_EXE_tintype")])
            .args(args);
        command.env("TINTYPE_REPOSITORY", "repo").env("TINTYPE_CACHE_DIR", self.0.path("cache"));
        let output = command.current_dir(self.0.path("")).output().expect("run strace");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let reads = std::fs::read_to_string(self.0.path("reads")).expect("the reads");
        (output.stdout, reads.lines().filter(|line| line.contains("/packs/")).count())
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = self.run(&[args, &["--json"]].concat()).ok().stdout;
        serde_json::from_str(&out)
            .or_else(|_| serde_json::from_str(out.lines().last().unwrap_or_default()))
            .expect("JSON")
    }
}

#[test]
fn a_disk_comes_back_in_any_format() {
    let repo = Repo::new();
    let disk = repo.0.raw_disk("a.raw", DISK_BYTES, 40);
    let bytes = std::fs::read(&disk).unwrap();
    repo.run(&["backup", "a.raw"]).ok();
    repo.run(&["restore", "a", "b.qcow2"]).ok();
    repo.run(&["compare", "a.raw", "b.qcow2"]).ok();
    repo.run(&["restore", "a", "b", "-O", "raw"]).ok();
    assert_holds(&repo.0.path("b"), &bytes, "raw");
    repo.run(&["restore", "a", "b", "-O", "raw"]).fails(1, "exists already");
    repo.run(&["restore", "a", "b", "-O", "raw", "--force"]).ok();
    repo.run(&["restore", "a", "-"]).fails(2, "files and devices");
    repo.run(&["restore", "none", "c.raw"]).fails(1, "none of that name");
    repo.run(&["restore", "a", "c.raw", "--disk", "sdx"]).fails(1, "choose a disk");
}

/// Bytes that nothing makes shorter.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}

#[test]
fn chunks_that_lie_side_by_side_are_read_at_once() {
    if !have_or_skip(have("strace"), "strace") {
        return;
    }
    let repo = Repo::new();
    // 64 chunks in their order, then all even ones anew, then all odd ones: neighbours on the disk are in two packs.
    let mut bytes = noise(1, 16 << 20);
    for first in [64, 0, 1] {
        for chunk in (first..64).step_by(2) {
            bytes[chunk << 18..][..8].fill(first as u8 + 1);
        }
        std::fs::write(repo.0.path("a.raw"), &bytes).unwrap();
        repo.run(&["backup", "a.raw"]).ok();
    }
    let (_, to_file) = repo.reads_of_packs(&["restore", "a", "b.raw"]);
    assert_holds(&repo.0.path("b.raw"), &bytes, "file");
    let (out, to_pipe) = repo.reads_of_packs(&["convert", "repo::a", "-"]);
    assert!(out == bytes, "pipe");
    // In the guest's order each chunk is a read. Besides there are maps, and headers of packs.
    assert!(to_file * 2 <= to_pipe && to_pipe >= 64, "{to_file} reads for a file, {to_pipe} for a pipe");
    let list = repo.json(&["snapshots"]);
    let oldest = format!("repo::a@{}", list["snapshots"][0]["id"].as_str().unwrap());
    let (_, in_order) = repo.reads_of_packs(&["convert", &oldest, "-"]);
    assert!(in_order <= 48, "{in_order} reads for 64 chunks that are stored in the guest's order");
}

#[test]
fn what_is_damaged_is_named_and_everything_else_comes_back() {
    let repo = Repo::new();
    let mut bytes = noise(3, 8 << 20);
    bytes[5 << 18..6 << 18].fill(0);
    std::fs::write(repo.0.path("a.raw"), &bytes).unwrap();
    repo.run(&["backup", "a.raw"]).ok();
    let packs = repo.0.tool("find", ["repo/packs", "-type", "f", "-size", "+1M"]);
    let pack = std::fs::File::options().read(true).write(true).open(repo.0.path(packs.trim())).unwrap();
    let mut byte = [0];
    pack.read_exact_at(&mut byte, 3 << 20).unwrap();
    pack.write_all_at(&[byte[0] ^ 1], 3 << 20).unwrap();
    repo.run(&["restore", "a", "b.raw"]).fails(1, "for guest offset 0x300000");
    assert!(!repo.0.path("b.raw").exists());
    let report = repo.run(&["restore", "a", "b.raw", "--salvage", "--json"]).fails(3, "");
    let report: serde_json::Value = serde_json::from_str(report.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["unreadable"], serde_json::json!([[0x300000, 0x40000]]), "{report}");
    bytes[0x300000..0x340000].fill(0);
    assert_holds(&repo.0.path("b.raw"), &bytes, "all but the damaged chunk");
}

#[test]
fn several_disks_get_a_file_each_in_a_folder() {
    let repo = Repo::new();
    let first = repo.0.raw_disk("a.raw", DISK_BYTES, 10);
    let second = repo.0.raw_disk("b.raw", DISK_BYTES / 2, 10);
    repo.run(&["backup", "a.raw", "b.raw", "--name", "vm"]).ok();
    repo.run(&["restore", "vm", "out"]).ok();
    assert_eq!(names_in(&repo.0.path("out")), ["a.raw", "b.raw"]);
    assert_holds(&repo.0.path("out/a.raw"), &std::fs::read(&first).unwrap(), "a");
    assert_holds(&repo.0.path("out/b.raw"), &std::fs::read(&second).unwrap(), "b");
    repo.run(&["restore", "vm", "out", "--disk", "b", "-O", "qcow2"]).ok();
    assert_eq!(names_in(&repo.0.path("out")), ["a.raw", "b.qcow2", "b.raw"]);
    repo.run(&["restore", "vm", "a.raw"]).fails(2, "2 disks");
}

#[test]
fn a_delta_writes_only_what_differs() {
    let repo = Repo::new();
    let disk = repo.0.raw_disk("a.raw", DISK_BYTES, 40);
    let bytes = std::fs::read(&disk).unwrap();
    repo.run(&["backup", "a.raw"]).ok();
    std::fs::copy(&disk, repo.0.path("t.raw")).unwrap();
    let same = repo.json(&["restore", "a", "t.raw", "--delta"]);
    assert_eq!((&same["stored_bytes"], &same["zeroed_bytes"]), (&0.into(), &0.into()));
    let file = std::fs::File::options().write(true).open(repo.0.path("t.raw")).unwrap();
    for at in [5, (1 << 20) - 1, DISK_BYTES - 1] {
        file.write_all_at(&[0x99], at).unwrap();
    }
    let changed = repo.json(&["restore", "a", "t.raw", "--delta"]);
    let rewritten = changed["stored_bytes"].as_u64().unwrap() + changed["zeroed_bytes"].as_u64().unwrap();
    assert!((4096..=3 << 18).contains(&rewritten), "{changed}");
    assert_holds(&repo.0.path("t.raw"), &bytes, "changed in three places");
    // Noise, nothing, and a larger file, whose end stays.
    std::fs::write(repo.0.path("t.raw"), vec![0x77; DISK_BYTES as usize + 4096]).unwrap();
    let run = repo.run(&["restore", "a", "t.raw", "--delta"]).ok();
    assert!(run.stderr.contains("larger than the disk"), "{}", run.stderr);
    let found = std::fs::read(repo.0.path("t.raw")).unwrap();
    assert!(found[..bytes.len()] == bytes && found[bytes.len()..].iter().all(|byte| *byte == 0x77));
    std::fs::File::create(repo.0.path("e.raw")).unwrap().set_len(DISK_BYTES).unwrap();
    repo.run(&["restore", "a", "e.raw", "--delta"]).ok();
    assert_holds(&repo.0.path("e.raw"), &bytes, "a file of holes");
    std::fs::write(repo.0.path("s.raw"), "short").unwrap();
    repo.run(&["restore", "a", "s.raw", "--delta"]).fails(14, "the disk needs");
    repo.run(&["restore", "a", "none.raw", "--delta"]).fails(1, "none.raw");
    repo.run(&["restore", "a", "t.raw", "--delta", "-O", "qcow2"]).fails(2, "--delta");
}

#[test]
fn one_partition_comes_back_whole_or_by_what_differs() {
    let repo = Repo::new();
    let disk = repo.0.raw_disk("a.raw", DISK_BYTES, 60);
    let mut bytes = std::fs::read(&disk).unwrap();
    let (begin, sectors) = (2048u32 + 7, 5000u32);
    bytes[..512].fill(0);
    bytes[446 + 16 + 4] = 0x83;
    bytes[446 + 16 + 8..][..4].copy_from_slice(&begin.to_le_bytes());
    bytes[446 + 16 + 12..][..4].copy_from_slice(&sectors.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&disk, &bytes).unwrap();
    repo.run(&["backup", "a.raw"]).ok();
    let part = &bytes[begin as usize * 512..][..sectors as usize * 512];
    repo.run(&["restore", "a", "p.raw", "--partition", "2"]).ok();
    assert_holds(&repo.0.path("p.raw"), part, "whole");
    let mut changed = part.to_vec();
    changed[0] ^= 1;
    changed[part.len() - 1] ^= 1;
    changed[part.len() / 2] ^= 1;
    std::fs::write(repo.0.path("p.raw"), changed).unwrap();
    repo.run(&["restore", "a", "p.raw", "--partition", "2", "--delta"]).ok();
    assert_holds(&repo.0.path("p.raw"), part, "delta");
    repo.run(&["restore", "a", "q.raw", "--partition", "3"]).fails(2, "it has 2");
    repo.run(&["restore", "a", "q.raw", "--partition", "0"]).fails(2, "--partition");
}
