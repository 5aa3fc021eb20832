//! Sector sizes: a disk goes nowhere where its partitions or its file system would not be found, unless somebody says so.

mod common;

use std::fs;
use std::process::Stdio;

use common::block::{LoopDevice, have_loop_devices};
use common::{Run, Sandbox, have};

const MIB: u64 = 1 << 20;

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    Run::of(&sandbox.command(args).env("TINTYPE_REPOSITORY", "repo").output().expect("run tintype"))
}

/// A GPT with one partition, for sectors of this size, with its backup; written by hand, as tools ask the device.
fn write_gpt(sandbox: &Sandbox, name: &str, size_bytes: u64, sector_bytes: u64) {
    let (sectors, table_sectors) = (size_bytes / sector_bytes, 128 * 128 / sector_bytes);
    let mut disk = vec![0; size_bytes as usize];
    disk[446 + 4] = 0xee;
    disk[446 + 8..][..4].copy_from_slice(&1u32.to_le_bytes());
    disk[446 + 12..][..4].copy_from_slice(&((sectors - 1) as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut table = vec![0; 128 * 128];
    table[..16].copy_from_slice(b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");
    table[16..32].fill(9);
    table[32..40].copy_from_slice(&(MIB / sector_bytes).to_le_bytes());
    table[40..48].copy_from_slice(&(2 * MIB / sector_bytes - 1).to_le_bytes());
    let (first_usable, last_usable) = (2 + table_sectors, sectors - 2 - table_sectors);
    for (header, other, table_at) in [(1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - table_sectors)] {
        let mut bytes = [0; 92];
        bytes[..8].copy_from_slice(b"EFI PART");
        bytes[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&92u32.to_le_bytes());
        for (at, number) in [(24, header), (32, other), (40, first_usable), (48, last_usable), (72, table_at)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..72].fill(7);
        for (at, number) in [(80, 128), (84, 128), (88, crc32fast::hash(&table))] {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
        }
        let sum = crc32fast::hash(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        disk[(header * sector_bytes) as usize..][..92].copy_from_slice(&bytes);
        disk[(table_at * sector_bytes) as usize..][..table.len()].copy_from_slice(&table);
    }
    fs::write(sandbox.path(name), disk).expect("a disk");
}

fn info(sandbox: &Sandbox, image: &str) -> serde_json::Value {
    serde_json::from_str(&run(sandbox, &["info", "--json", image]).ok().stdout).expect("JSON")
}

/// Both ways to write a disk to a device, and the way that writes what differs.
fn onto(sandbox: &Sandbox, name: &str, device: &LoopDevice, more: &[&str]) -> Vec<Run> {
    let ways: [&[&str]; 3] = [
        &["convert", &format!("{name}.raw"), device.name(), "--force"],
        &["restore", name, device.name(), "--force"],
        &["restore", name, device.name(), "--force", "--delta"],
    ];
    ways.iter().map(|way| run(sandbox, &[way, more].concat())).collect()
}

#[test]
fn a_disk_with_a_table_or_a_file_system_is_refused_by_a_device_of_other_sectors() {
    if !have_loop_devices() || !have("mkfs.ext4") || !have("mkswap") {
        return;
    }
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    write_gpt(&sandbox, "gpt.raw", 8 * MIB, 512);
    write_gpt(&sandbox, "big.raw", 8 * MIB, 4096);
    let mut mbr = vec![0; 8 << 20];
    mbr[446 + 4..446 + 16].copy_from_slice(&[0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(sandbox.path("mbr.raw"), mbr).unwrap();
    for (name, tool) in [("ext.raw", "mkfs.ext4"), ("swap.raw", "mkswap")] {
        fs::File::create(sandbox.path(name)).unwrap().set_len(8 * MIB).unwrap();
        sandbox.tool(tool, ["-q", name]);
    }
    let large = vec![0xee; 16 << 20];
    let cases = [
        ("gpt", 4096, "nothing would find the partitions of its GPT"),
        ("big", 512, "nothing would find the partitions of its GPT"),
        ("mbr", 4096, "its partitions would be looked for at other places"),
        ("ext", 4096, "its ext file system may not be usable"),
        ("swap", 4096, "its swap space may not be usable"),
    ];
    for (name, sector_bytes, words) in cases {
        run(&sandbox, &["backup", &format!("{name}.raw")]).ok();
        fs::write(sandbox.path("target"), &large).unwrap();
        let device = LoopDevice::over(&sandbox.path("target"), sector_bytes);
        for refused in onto(&sandbox, name, &device, &[]) {
            let refused = refused.fails(1, words);
            assert!(refused.stderr.contains("--keep-sectors"), "{}", refused.stderr);
        }
        assert!(fs::read(sandbox.path("target")).unwrap() == large, "{name}: nothing was written");
        for taken in onto(&sandbox, name, &device, &["--keep-sectors"]) {
            taken.ok();
        }
        drop(device);
        let found = fs::read(sandbox.path("target")).unwrap();
        assert!(found[..8 << 20] == fs::read(sandbox.path(&format!("{name}.raw"))).unwrap(), "{name}");
        let same = LoopDevice::over(&sandbox.path("target"), if sector_bytes == 512 { 4096 } else { 512 });
        onto(&sandbox, name, &same, &[]).into_iter().for_each(|run| _ = run.ok());
    }
}

#[test]
fn a_pipe_is_looked_into_before_it_goes_to_a_device() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    write_gpt(&sandbox, "gpt.raw", 8 * MIB, 512);
    fs::write(sandbox.path("target"), vec![0xee; 8 << 20]).unwrap();
    let device = LoopDevice::over(&sandbox.path("target"), 4096);
    let piped = |more: &[&str]| {
        let mut cat =
            std::process::Command::new("cat").arg(sandbox.path("gpt.raw")).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = Stdio::from(cat.stdout.take().unwrap());
        let line = [&["convert", "-", device.name(), "-f", "raw", "--size", "8M", "--force"], more].concat();
        let run = sandbox.run_with_input(line, pipe);
        let _ = cat.wait();
        run
    };
    piped(&[]).fails(1, "nothing would find the partitions");
    piped(&["--keep-sectors", "--verify"]).ok();
    drop(device);
    assert!(fs::read(sandbox.path("target")).unwrap() == fs::read(sandbox.path("gpt.raw")).unwrap());
}

#[test]
fn an_option_that_changes_the_sectors_is_refused_like_a_device() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    write_gpt(&sandbox, "gpt.raw", 8 * MIB, 512);
    run(&sandbox, &["backup", "gpt.raw"]).ok();
    for source in [["convert", "gpt.raw"], ["restore", "gpt"]] {
        let line = [&source[..], &["a.vhdx", "--force", "-o", "logical_sector=4096"]].concat();
        run(&sandbox, &line).fails(1, "the target would have sectors of 4096");
        assert!(!sandbox.path("a.vhdx").exists());
        run(&sandbox, &[&line[..], &["--keep-sectors"]].concat()).ok();
        assert_eq!(info(&sandbox, "a.vhdx")["logical_sector_bytes"], 4096);
        fs::remove_file(sandbox.path("a.vhdx")).unwrap();
        run(&sandbox, &[&source[..], &["a.vhdx", "-o", "logical_sector=512"]].concat()).ok();
        fs::remove_file(sandbox.path("a.vhdx")).unwrap();
    }
    // Nothing is known of such a disk.
    sandbox.raw_disk("plain.raw", 8 * MIB, 10);
    run(&sandbox, &["convert", "plain.raw", "plain.vhdx", "-o", "logical_sector=4096"]).ok();
}

#[test]
fn a_raw_file_has_the_sectors_that_its_gpt_counts() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    write_gpt(&sandbox, "gpt.raw", 8 * MIB, 4096);
    assert_eq!(info(&sandbox, "gpt.raw")["logical_sector_bytes"], 4096);
    run(&sandbox, &["convert", "gpt.raw", "a.vhdx"]).ok();
    assert_eq!(info(&sandbox, "a.vhdx")["logical_sector_bytes"], 4096);
    run(&sandbox, &["backup", "gpt.raw"]).ok();
    assert_eq!(info(&sandbox, "repo::gpt")["disks"][0]["logical_sector_bytes"], 4096);
    let redirected = fs::File::open(sandbox.path("gpt.raw")).unwrap();
    sandbox.run_with_input(["convert", "-", "b.vhdx", "-f", "raw"], redirected.into()).ok();
    assert_eq!(info(&sandbox, "b.vhdx")["logical_sector_bytes"], 4096);
    // Formats that record no sectors lose none on the way.
    for name in ["a.qcow2", "a.vmdk", "a.vdi", "a.vhd"] {
        run(&sandbox, &["convert", "gpt.raw", name]).ok();
        run(&sandbox, &["convert", name, "c.vhdx", "--force"]).ok();
        assert_eq!(info(&sandbox, "c.vhdx")["logical_sector_bytes"], 4096, "{name}");
    }
    for source in [["convert", "gpt.raw"], ["restore", "gpt"]] {
        let noted = run(&sandbox, &[&source[..], &["a.qcow2", "--force"]].concat()).ok();
        assert!(noted.stderr.contains("sectors of 4096 bytes, which qcow2 does not record"), "{}", noted.stderr);
    }
    write_gpt(&sandbox, "usual.raw", 8 * MIB, 512);
    assert_eq!(info(&sandbox, "usual.raw")["logical_sector_bytes"], 512);
}

#[test]
fn the_sector_size_is_said_by_hand() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["init", "repo", "--no-encryption"]).ok();
    sandbox.raw_disk("plain.raw", 8 * MIB, 10);
    run(&sandbox, &["convert", "plain.raw", "a.vhdx", "--sector-size", "4096"]).ok();
    assert_eq!(info(&sandbox, "a.vhdx")["logical_sector_bytes"], 4096);
    run(&sandbox, &["backup", "plain.raw", "--sector-size", "4096"]).ok();
    assert_eq!(info(&sandbox, "repo::plain")["disks"][0]["logical_sector_bytes"], 4096);
    let bytes = fs::File::open(sandbox.path("plain.raw")).unwrap();
    let line = ["convert", "-", "b.vhdx", "-f", "raw", "--sector-size", "4096"];
    sandbox.run_with_input(line, bytes.into()).ok();
    assert_eq!(info(&sandbox, "b.vhdx")["logical_sector_bytes"], 4096);
    run(&sandbox, &["convert", "plain.raw", "c.vhdx", "--sector-size", "1000"]).fails(2, "expected 512 or 4096");
    fs::write(sandbox.path("odd.raw"), vec![1; 5120]).unwrap();
    run(&sandbox, &["convert", "odd.raw", "c.raw", "--sector-size", "4096"]).fails(2, "no whole number of sectors");
}
