//! `--profile` makes what a platform takes, says where it changed the disk, and refuses what the platform would.

mod common;

use std::fs;

use common::{Sandbox, have};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn info(sandbox: &Sandbox, image: &str) -> Value {
    serde_json::from_str(&sandbox.run(["info", "--json", image]).ok().stdout).expect("JSON")
}

#[test]
fn azure_gets_a_fixed_vhd_of_whole_mib() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("odd.raw", 3 * MIB + 512, 4);
    let run = sandbox.run(["convert", "odd.raw", "odd.vhd", "--profile", "azure", "--verify"]).ok();
    assert!(run.stderr.contains("azure takes vhd, fixed"), "{}", run.stderr);
    assert!(run.stderr.contains("the disk becomes larger"), "{}", run.stderr);
    assert_eq!(fs::metadata(sandbox.path("odd.vhd")).unwrap().len(), 4 * MIB + 512);
    assert_eq!(info(&sandbox, "odd.vhd")["size_bytes"], 4 * MIB);
    sandbox.raw_disk("whole.raw", 3 * MIB, 4);
    let run = sandbox.run(["convert", "whole.raw", "whole.vhd", "--profile", "azure"]).ok();
    assert!(!run.stderr.contains("larger"), "{}", run.stderr);
    assert_eq!(fs::metadata(sandbox.path("whole.vhd")).unwrap().len(), 3 * MIB + 512);
    sandbox.run(["compare", "whole.raw", "whole.vhd"]).ok();
}

#[test]
fn compute_engine_gets_whole_gib_or_nothing() {
    if !have("tar") || !have("gzip") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 5 * MIB, 4);
    sandbox.run(["convert", "disk.raw", "disk.tar.gz", "--profile", "gcp"]).fails(2, "--extend-to 1073741824");
    assert!(!sandbox.path("disk.tar.gz").exists());
    sandbox.run(["convert", "disk.raw", "disk.tar.gz", "--profile", "gcp", "--extend-to", "1G"]).ok();
    assert_eq!(sandbox.tool("tar", ["-tzf", "disk.tar.gz"]).trim(), "disk.raw");
    sandbox.run(["convert", "disk.raw", "extended.raw", "--extend-to", "1G"]).ok();
    sandbox.run(["compare", "extended.raw", "disk.tar.gz"]).ok();
}

#[test]
fn the_others_get_their_format() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 5 * MIB, 4);
    let profiles = [("hyperv", "vhdx"), ("vmware", "vmdk"), ("virtualbox", "vdi"), ("kvm", "qcow2"), ("aws", "vmdk")];
    for (profile, format) in profiles {
        let target = format!("{profile}.{format}");
        sandbox.run(["convert", "disk.raw", &target, "--profile", profile]).ok();
        assert_eq!(info(&sandbox, &target)["format"], format, "{profile}");
        sandbox.run(["compare", "disk.raw", &target]).ok();
    }
    for streamed in ["vmware.vmdk", "aws.vmdk"] {
        let described = info(&sandbox, streamed).to_string();
        assert!(described.contains("streamOptimized"), "{described}");
    }
    sandbox.run(["convert", "disk.raw", "x", "--profile", "kvm", "-O", "vhdx"]).fails(2, "");
}

#[test]
fn a_disk_of_a_package_is_chosen_by_the_address() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 5 * MIB, 4);
    sandbox.run(["convert", "disk.raw", "machine.ova", "-o", "firmware=efi"]).ok();
    sandbox.run(["compare", "disk.raw", "machine.ova"]).ok();
    sandbox.run(["compare", "disk.raw", "machine.ova?disk=1"]).ok();
    sandbox.run(["digest", "machine.ova?disk=2"]).fails(1, "there is no disk \"2\"");
    sandbox.run(["digest", "disk.raw?disk=1"]).fails(1, "one disk itself");
    sandbox.run(["check", "machine.ova"]).ok();
    let text = sandbox.run(["info", "machine.ova"]).ok().stdout;
    assert!(text.contains("disk 1:"), "{text}");
}
