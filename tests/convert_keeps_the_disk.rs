//! What convert writes is the disk that it read, sparse, and the same for any number of threads.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use common::{Sandbox, allocated_bytes, assert_holds, digest, names_in};

const MIB: u64 = 1 << 20;

/// Every way to write a disk: file name, further arguments.
const WAYS: &[(&str, &[&str])] = &[
    ("a.raw", &[]),
    ("b.raw", &["--subformat", "full"]),
    ("a.qcow2", &[]),
    ("b.qcow2", &["--compress", "zstd"]),
    ("c.qcow2", &["--compress", "zlib:1"]),
    ("d.qcow2", &["-o", "cluster_size=4k"]),
    ("e.qcow2", &["-o", "extended_l2=on,cluster_size=128k"]),
    ("f.qcow2", &["-o", "compat=0.10,cluster_size=2M"]),
    ("a.vhdx", &[]),
    ("b.vhdx", &["--subformat", "fixed", "-o", "block_size=1M"]),
    ("c.vhdx", &["-o", "block_size=1M"]),
];

#[test]
fn every_way_gives_the_disk_back() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 70 * MIB + 512 * 3, 40);
    let expected = digest(&sandbox, &source);
    for (name, args) in WAYS {
        sandbox.run(["convert", "source.raw", name].iter().chain(*args)).ok();
        assert_eq!(digest(&sandbox, &sandbox.path(name)), expected, "{name} {args:?}");
        sandbox.run(["compare", "--strict", "source.raw", name]).ok();
        sandbox.run(["check", name]).ok();
        sandbox.run(["convert", name, "back.raw", "--force"]).ok();
        assert!(fs::read(sandbox.path("back.raw")).unwrap() == fs::read(&source).unwrap(), "{name} back to raw");
    }
}

#[test]
fn every_format_converts_to_every_other() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 20 * MIB, 20);
    let expected = digest(&sandbox, &source);
    let formats = ["raw", "qcow2", "vhdx"];
    for from in formats {
        sandbox.run(["convert", "source.raw", &format!("from.{from}")]).ok();
        for to in formats {
            let target = format!("{from}-to.{to}");
            sandbox.run(["convert", &format!("from.{from}"), &target]).ok();
            assert_eq!(digest(&sandbox, &sandbox.path(&target)), expected, "{from} to {to}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 64 * MIB, 60);
    for (name, args) in WAYS {
        let mut outputs = Vec::new();
        for threads in ["1", "2", "7"] {
            let base = ["convert", "source.raw", name, "--force", "--reproducible", "--threads", threads];
            sandbox.run(base.iter().chain(*args)).ok();
            outputs.push(fs::read(sandbox.path(name)).unwrap());
        }
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{name} {args:?}");
    }
}

#[test]
fn sparse_stays_sparse() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 10 << 30, 10);
    let stored = allocated_bytes(&source);
    for name in ["a.raw", "a.qcow2", "a.vhdx"] {
        sandbox.run(["convert", "source.raw", name]).ok();
        let found = allocated_bytes(&sandbox.path(name));
        assert!(found <= stored + 6 * MIB, "{name} stores {found} bytes for {stored}");
    }
}

#[test]
fn zeros_in_a_full_file_are_not_stored() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("zeros.raw"), vec![0; 8 << 20]).unwrap();
    sandbox.run(["convert", "zeros.raw", "a.raw"]).ok();
    assert_eq!(allocated_bytes(&sandbox.path("a.raw")), 0);
    sandbox.run(["convert", "zeros.raw", "b.raw", "--subformat", "full"]).ok();
    assert!(allocated_bytes(&sandbox.path("b.raw")) >= 8 << 20);
}

#[test]
fn a_tail_that_is_no_whole_sector_is_padded_and_said() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("odd.raw"), [7; 1000]).unwrap();
    for name in ["a.raw", "a.qcow2", "a.vhdx"] {
        let run = sandbox.run(["convert", "odd.raw", name]).ok();
        assert!(run.stderr.contains("24 zero bytes are added"), "{}", run.stderr);
        sandbox.run(["convert", "-q", name, "back.raw", "--force"]).ok();
        let mut expected = vec![7; 1000];
        expected.resize(1024, 0);
        assert_holds(&sandbox.path("back.raw"), &expected, name);
    }
}

#[test]
fn empty_and_tiny_disks_work() {
    let sandbox = Sandbox::new();
    for size in [0, 512, 1024, 4096 + 512] {
        fs::write(sandbox.path("tiny.raw"), vec![5; size]).unwrap();
        for name in ["a.raw", "a.qcow2", "b.qcow2", "a.vhdx"] {
            let compress: &[&str] = if name == "b.qcow2" { &["--compress", "zstd"] } else { &[] };
            sandbox.run(["convert", "tiny.raw", name, "--force"].iter().chain(compress)).ok();
            sandbox.run(["convert", name, "back.raw", "--force"]).ok();
            assert_holds(&sandbox.path("back.raw"), &vec![5; size], &format!("{name} of {size} bytes"));
        }
    }
}

#[test]
fn slices_are_taken() {
    let sandbox = Sandbox::new();
    let source = fs::read(sandbox.raw_disk("source.raw", 4 * MIB, 20)).unwrap();
    sandbox.run(["convert", "source.raw", "whole.qcow2"]).ok();
    sandbox.run(["convert", "whole.qcow2", "slice.raw", "--offset", "512k", "--size", "1M"]).ok();
    assert!(fs::read(sandbox.path("slice.raw")).unwrap() == source[512 << 10..(512 << 10) + (1 << 20)]);
    sandbox.run(["convert", "whole.qcow2", "rest.raw", "--offset", "3M"]).ok();
    assert!(fs::read(sandbox.path("rest.raw")).unwrap() == source[3 << 20..]);
    sandbox.run(["convert", "whole.qcow2", "x.raw", "--offset", "3M", "--size", "2M"]).fails(2, "4194304");
    sandbox.run(["convert", "whole.qcow2", "x.raw", "--offset", "100"]).fails(2, "multiples of 512");
}

#[test]
fn pipes_work_both_ways() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 5 * MIB + 512, 20);
    let bytes = fs::read(&source).unwrap();
    let cat = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let bytes = bytes.clone();
        std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        Stdio::from(reader)
    };
    let size = bytes.len().to_string();
    for args in [vec!["--size", &size], vec![]] {
        let base = ["convert", "-f", "raw", "-", "piped.qcow2", "--force", "--verify"];
        sandbox.run_with_input(base.iter().chain(&args), cat()).ok();
        assert_eq!(digest(&sandbox, &sandbox.path("piped.qcow2")), digest(&sandbox, &source));
    }
    let output = sandbox.command(["convert", "piped.qcow2", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == bytes);
    let redirected = Stdio::from(File::open(&source).unwrap());
    sandbox.run_with_input(["convert", "-f", "raw", "-", "redirected.raw"], redirected).ok();
    assert!(fs::read(sandbox.path("redirected.raw")).unwrap() == bytes);
    let short = ["convert", "-f", "raw", "-", "x.raw", "--size", "6M"];
    sandbox.run_with_input(short, cat()).fails(1, "standard input");
    let long = ["convert", "-f", "raw", "-", "x.raw", "--size", "4M"];
    sandbox.run_with_input(long, cat()).fails(1, "goes on after the 4194304 bytes");
    assert!(!names_in(source.parent().unwrap()).iter().any(|name| name.contains("x.raw")));
}

#[test]
fn a_stream_target_must_be_streamable_and_unprobed_input_named() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", MIB, 2);
    sandbox.run(["convert", "source.raw", "-", "-O", "qcow2"]).fails(2, "front to back");
    sandbox.run(["convert", "-", "x.raw"]).fails(2, "standard input");
    sandbox.run(["convert", "-f", "qcow2", "-", "x.raw"]).fails(2, "only be raw");
}

#[test]
fn digests_are_made_in_the_same_pass() {
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 9 * MIB, 20);
    let expected = digest(&sandbox, &source);
    let sha256 = sandbox.tool("sha256sum", ["source.raw"]);
    assert!(sha256.starts_with(&expected), "{sha256}");
    let run = sandbox.run(["convert", "source.raw", "a.qcow2", "--digest", "sha256"]).ok();
    assert!(run.stdout.starts_with(&expected), "{}", run.stdout);
    let run = sandbox.run(["convert", "a.qcow2", "a.vhdx", "--digest", "blake3", "--verify"]).ok();
    let blake3 = sandbox.run(["digest", "-a", "blake3", "source.raw"]).ok();
    assert_eq!(run.stdout.split_whitespace().next(), blake3.stdout.split_whitespace().next());
    assert_eq!(
        blake3.stdout.split_whitespace().next().unwrap(),
        blake3::hash(&fs::read(&source).unwrap()).to_hex().as_str()
    );
}

#[test]
fn existing_targets_are_written_in_place_on_request() {
    let sandbox = Sandbox::new();
    let source = fs::read(sandbox.raw_disk("source.raw", 4 * MIB, 10)).unwrap();
    let old = vec![0xee; 5 << 20];
    fs::write(sandbox.path("existing.raw"), &old).unwrap();
    sandbox.run(["convert", "source.raw", "existing.raw", "-n", "--verify"]).ok();
    let found = fs::read(sandbox.path("existing.raw")).unwrap();
    assert!(found[..4 << 20] == source && found[4 << 20..] == old[4 << 20..]);
    File::create(sandbox.path("zero.raw")).unwrap().set_len(4 * MIB).unwrap();
    sandbox.run(["convert", "source.raw", "zero.raw", "-n", "--target-is-zero"]).ok();
    assert!(fs::read(sandbox.path("zero.raw")).unwrap() == source);
    File::create(sandbox.path("small.raw")).unwrap().set_len(4 * MIB - 512).unwrap();
    sandbox.run(["convert", "source.raw", "small.raw", "-n"]).fails(14, "needs 4194304");
    sandbox.run(["convert", "source.raw", "missing.raw", "-n"]).fails(1, "open the existing target");
    sandbox.run(["convert", "source.raw", "x.qcow2", "-n"]).fails(2, "written as raw");
}

#[test]
fn verification_reads_what_is_on_the_disk() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 4 * MIB, 10);
    for name in ["a.raw", "a.qcow2", "a.vhdx"] {
        let run = sandbox.run(["convert", "source.raw", name, "--verify"]).ok();
        assert!(run.stderr.contains("read back and verified"), "{}", run.stderr);
    }
}

#[test]
fn compare_finds_a_single_changed_byte() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("source.raw", 8 * MIB, 10);
    sandbox.run(["convert", "source.raw", "a.qcow2"]).ok();
    let changed = File::options().write(true).open(sandbox.path("source.raw")).unwrap();
    changed.write_all_at(&[0x5a], 7 * MIB + 1234).unwrap();
    let run = sandbox.run(["compare", "source.raw", "a.qcow2"]).fails(3, "");
    assert!(run.stdout.contains(&format!("at {:#x}, 512 bytes", 7 * MIB + 1024)), "{}", run.stdout);
    let run = sandbox.run(["compare", "--json", "source.raw", "a.qcow2"]);
    assert!(run.stdout.contains("\"same\":false") && run.stdout.contains("\"differing_bytes\":512"), "{}", run.stdout);
}
