//! Going past what cannot be read, and saying what it was.

mod common;

use std::fs;

use common::Sandbox;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A compressed image with one damaged cluster in the middle.
fn damaged_image(sandbox: &Sandbox) {
    let data: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 & 0x1f).collect();
    fs::write(sandbox.path("source.raw"), data).unwrap();
    sandbox.run(["convert", "source.raw", "image.qcow2", "--compress", "zstd"]).ok();
    let mut image = fs::read(sandbox.path("image.qcow2")).unwrap();
    let middle = image.len() / 2;
    image[middle..middle + 64].fill(0xa5);
    fs::write(sandbox.path("image.qcow2"), image).unwrap();
}

#[test]
fn unreadable_ranges_stop_it_or_are_passed_over_and_listed() {
    let sandbox = Sandbox::new();
    damaged_image(&sandbox);
    sandbox.run(["convert", "image.qcow2", "a.raw"]).fails(1, "image.qcow2");
    assert!(!sandbox.path("a.raw").exists());
    let run = sandbox.run(["convert", "image.qcow2", "a.raw", "--salvage"]).fails(3, "unreadable at 0x");
    assert!(run.stderr.matches("unreadable").count() <= 2, "{}", run.stderr);
    let (source, found) = (fs::read(sandbox.path("source.raw")).unwrap(), fs::read(sandbox.path("a.raw")).unwrap());
    assert_eq!(source.len(), found.len());
    let run = sandbox.run(["convert", "image.qcow2", "b.raw", "--salvage", "--json"]).fails(3, "");
    let summary: Value = serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap();
    let unreadable = summary["unreadable"].as_array().unwrap();
    assert!(!unreadable.is_empty());
    let mut expected = source;
    for range in unreadable {
        let offset = range["offset"].as_u64().unwrap() as usize;
        let length = range["length_bytes"].as_u64().unwrap() as usize;
        assert!(length as u64 <= MIB);
        expected[offset..offset + length].fill(0);
    }
    assert!(found == expected);
    let run =
        sandbox.run(["convert", "image.qcow2", "c.raw", "--salvage", "--verify"]).fails(3, "read back and verified");
    assert!(run.stderr.contains("unreadable at 0x"), "{}", run.stderr);
    assert!(fs::read(sandbox.path("c.raw")).unwrap() == expected);
    assert!(fs::read(sandbox.path("b.raw")).unwrap() == expected);
}
