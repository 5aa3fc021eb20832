//! A file is what its content is; where its name claims something else and the content is nothing known, that is said.

mod common;

use std::fs;

use common::Sandbox;
use serde_json::Value;

const WARNING: &str = "but the content is not: it is read as raw";

#[test]
fn a_name_that_claims_a_format_in_vain_is_warned_of() {
    let sandbox = Sandbox::new();
    let picture: Vec<u8> = b"\x89PNG\r\n\x1a\n".iter().copied().chain([7; 4088]).collect();
    for (name, format) in [("a.ova", "ova"), ("b.VMDK", "vmdk"), ("c.tar.gz", "gce"), ("d.E01", "ewf")] {
        fs::write(sandbox.path(name), &picture).unwrap();
        let warning = format!("{name}: the name says {format}, {WARNING}");
        for args in [&["digest", name][..], &["compare", name, name], &["map", name], &["convert", name, "t.raw"]] {
            let run = sandbox.run(args).ok();
            assert!(run.stderr.contains(&warning), "{args:?}: {}", run.stderr);
        }
        fs::remove_file(sandbox.path("t.raw")).unwrap();
        for command in ["info", "check"] {
            let report: Value = serde_json::from_str(&sandbox.run([command, "--json", name]).ok().stdout).unwrap();
            assert!(report["warnings"][0].as_str().unwrap().ends_with(WARNING), "{command}: {report}");
        }
        let run = sandbox.run(["digest", name, "-f", "raw"]).ok();
        assert_eq!(run.stderr, "", "who says raw means it");
    }
}

#[test]
fn names_that_claim_nothing_or_raw_are_fine() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk", 4096, 1);
    for name in ["e.raw", "e.img", "e.dd", "e.bin", "e.iso", "e", ".vmdk", "vmdk"] {
        fs::copy(sandbox.path("disk"), sandbox.path(name)).unwrap();
        assert_eq!(sandbox.run(["digest", name]).ok().stderr, "", "{name}");
    }
    // What is another format than its name says is read as what it is, with a note.
    sandbox.run(["convert", "disk", "f.vmdk", "-O", "qcow2"]).ok();
    let run = sandbox.run(["digest", "f.vmdk"]).ok();
    assert!(run.stderr.starts_with("note: f.vmdk: the name says vmdk, the content is qcow2"), "{}", run.stderr);
}

#[test]
fn characters_that_nobody_sees_or_that_reorder_others_are_shown() {
    let sandbox = Sandbox::new();
    let unseen =
        ["\u{61c}", "\u{200b}", "\u{200f}", "\u{202e}", "\u{2066}", "\u{2028}", "\u{feff}", "\u{ad}", "\u{e0041}"];
    let name = unseen.join("x") + ".raw";
    sandbox.raw_disk(&name, 4096, 1);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", &name, "--repo", "repo"]).ok();
    let gone = format!("gone{name}");
    for args in [
        &["info", &name][..],
        &["info", "--json", &name],
        &["map", &name],
        &["digest", &name],
        &["convert", &name, "copy.raw", "--force"],
        &["convert", &name, "copy.raw"],
        &["digest", &gone],
        &["digest", "--json", &gone],
        &["snapshots", "--repo", "repo"],
        &["snapshots", "--json", "--repo", "repo"],
        &["restore", "none", &name, "--repo", "repo"],
        &["info", &gone[..4], &name],
    ] {
        let run = sandbox.run(args);
        for text in [&run.stdout, &run.stderr] {
            let shown = unseen.iter().find(|letter| text.contains(**letter));
            assert_eq!(shown, None, "{args:?}: {}", text.escape_unicode());
        }
    }
    let info: Value = serde_json::from_str(&sandbox.run(["info", "--json", &name]).ok().stdout).unwrap();
    assert_eq!(info["path"], name.as_str(), "a program reads the same name");
    assert!(sandbox.run(["info", &name]).ok().stdout.contains("\\u{61c}x\\u{200b}"));
}
