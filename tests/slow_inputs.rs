//! Small files that stand for very much: they are read in bounded time, and say little.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::{Sandbox, have};

/// How long a run may take, on a loaded machine and without optimization. Before there were bounds, it was minutes.
const BOUND: Duration = Duration::from_secs(20);

fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    assert!(began.elapsed() < BOUND, "it took {:?}", began.elapsed());
    done
}

/// A VDI of 64 TiB whose 67 million entries are a hole in the file: all blocks are the first.
fn sparse_vdi(sandbox: &Sandbox) {
    sandbox.raw_disk("one.raw", 1 << 20, 1);
    sandbox.run(["convert", "one.raw", "a.vdi"]).ok();
    let file = File::options().read(true).write(true).open(sandbox.path("a.vdi")).unwrap();
    let blocks: u32 = 64 << 20;
    let data_offset = (1u32 << 20) + blocks * 4;
    // Where the data begins, the disk's size, how many blocks it has, and how many of them are said to be stored.
    file.write_all_at(&data_offset.to_le_bytes(), 0x158).unwrap();
    file.write_all_at(&(u64::from(blocks) << 20).to_le_bytes(), 0x170).unwrap();
    file.write_all_at(&blocks.to_le_bytes(), 0x180).unwrap();
    file.write_all_at(&1u32.to_le_bytes(), 0x184).unwrap();
    let mut map_offset = [0; 4];
    file.read_exact_at(&mut map_offset, 0x154).unwrap();
    let head = fs::read(sandbox.path("a.vdi")).unwrap()[..512].to_vec();
    file.set_len(0).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.set_len(u64::from(data_offset) + (1 << 20)).unwrap();
    assert!(u32::from_le_bytes(map_offset) + blocks * 4 <= data_offset);
}

#[test]
fn a_map_of_millions_of_equal_entries_is_checked_at_once() {
    let sandbox = Sandbox::new();
    sparse_vdi(&sandbox);
    let checked = in_time(|| sandbox.run(["check", "a.vdi"])).fails(4, "");
    assert!(checked.stdout.contains("67108863 corruptions"), "{}", checked.stdout);
    assert!(checked.stdout.len() < 100_000, "{} bytes", checked.stdout.len());
}

/// A QCOW2 of which all L1 entries name the same L2 table, and every second entry of that the same cluster.
fn shared_tables(sandbox: &Sandbox) {
    const CLUSTER: u64 = 512;
    const L1_ENTRIES: u64 = 65536;
    let (l1, l2, refcounts) = (CLUSTER, CLUSTER + L1_ENTRIES * 8, 2 * CLUSTER + L1_ENTRIES * 8);
    let size_bytes = L1_ENTRIES * (CLUSTER / 8) * CLUSTER;
    let file = File::create(sandbox.path("a.qcow2")).unwrap();
    let mut header = vec![0; 104];
    header[..4].copy_from_slice(b"QFI\xfb");
    let put = |header: &mut Vec<u8>, at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut header, 4, &3u32.to_be_bytes());
    put(&mut header, 20, &9u32.to_be_bytes());
    put(&mut header, 24, &size_bytes.to_be_bytes());
    put(&mut header, 36, &(L1_ENTRIES as u32).to_be_bytes());
    put(&mut header, 40, &l1.to_be_bytes());
    put(&mut header, 48, &refcounts.to_be_bytes());
    put(&mut header, 56, &1u32.to_be_bytes());
    put(&mut header, 96, &4u32.to_be_bytes());
    put(&mut header, 100, &104u32.to_be_bytes());
    file.write_all_at(&header, 0).unwrap();
    let entry = (l2 | 1 << 63).to_be_bytes();
    file.write_all_at(&entry.repeat(L1_ENTRIES as usize), l1).unwrap();
    let data = 4 * CLUSTER + L1_ENTRIES * 8;
    let pair = [(data | 1 << 63).to_be_bytes(), [0; 8]].concat();
    file.write_all_at(&pair.repeat(32), l2).unwrap();
    file.set_len(data + CLUSTER).unwrap();
}

#[test]
fn a_map_ends_where_the_file_cannot_account_for_more() {
    let sandbox = Sandbox::new();
    shared_tables(&sandbox);
    let mapped = in_time(|| sandbox.run(["map", "a.qcow2"])).fails(3, "more than its files account for");
    assert!(mapped.stdout.len() < 32 << 20, "{} bytes", mapped.stdout.len());
    let json = in_time(|| sandbox.run(["map", "a.qcow2", "--json"])).fails(3, "");
    let rows: serde_json::Value = serde_json::from_str(&json.stdout).expect("a whole document");
    assert!(rows.as_array().unwrap().len() < 300_000);
    let few = sandbox.run(["map", "a.qcow2", "--max-extents", "10", "--json"]).fails(3, "--max-extents");
    let rows: serde_json::Value = serde_json::from_str(&few.stdout).expect("a whole document");
    assert_eq!(rows.as_array().unwrap().len(), 10);
}

#[test]
fn a_map_of_an_image_with_many_extents_is_whole() {
    if !have("qemu-img") {
        return;
    }
    let sandbox = Sandbox::new();
    // Every second cluster of 512 bytes holds data.
    let mut bytes = vec![0; 16 << 20];
    bytes.chunks_mut(1024).for_each(|pair| pair[..512].fill(1));
    fs::write(sandbox.path("a.raw"), bytes).unwrap();
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "-o", "cluster_size=512", "-S", "512", "a.raw", "a.qcow2"]);
    let mapped = sandbox.run(["map", "a.qcow2"]).ok();
    assert!(mapped.stdout.lines().count() > 20_000, "{}", mapped.stdout.lines().count());
    sandbox.run(["map", "a.qcow2", "--max-extents", "32768"]).ok();
    sandbox.run(["map", "a.qcow2", "--max-extents", "100"]).fails(3, "");
}
