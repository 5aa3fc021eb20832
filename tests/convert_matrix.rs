//! Guest 2 goes from every format that can be created to every other, and stays the same disk.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Sandbox, have, have_root};
use tintype_formats::FORMATS;

/// Compute Engine takes whole GiB: the disk is extended on its way there, and cut on its way back.
const WHOLE_GIB: &[&str] = &["--extend-to", "1G"];

/// A variant of a format, with the name of an image of it: each in a folder of its own, since some are several files.
struct Endpoint {
    format: &'static str,
    subformat: Option<&'static str>,
    compress: &'static str,
}

impl Endpoint {
    /// Whether this is what `convert` makes where nothing is said of subformat and compression.
    fn is_usual(&self) -> bool {
        let create = FORMATS.iter().find(|format| format.name == self.format).and_then(|format| format.create.as_ref());
        self.compress == "none" && self.subformat == create.and_then(|create| create.subformats.first().copied())
    }

    fn folder(&self) -> String {
        format!("{}-{}-{}", self.format, self.subformat.unwrap_or("default"), self.compress)
    }

    /// The options of `convert` that make it.
    fn options(&self) -> Vec<&'static str> {
        let subformat = self.subformat.map(|name| ["--subformat", name]);
        let extended = if self.format == "gce" { WHOLE_GIB } else { &[] };
        let named = ["-O", self.format, "--compress", self.compress];
        named.into_iter().chain(subformat.into_iter().flatten()).chain(extended.iter().copied()).collect()
    }
}

/// Every format that can be created, in every variant and with every compression.
fn endpoints() -> Vec<Endpoint> {
    let mut found = Vec::new();
    for format in FORMATS {
        let Some(create) = &format.create else { continue };
        let (format, default) = (format.name, create.subformats.first().copied());
        let subformats = create.subformats.iter().map(|name| Some(*name)).chain(default.is_none().then_some(None));
        found.extend(subformats.map(|subformat| Endpoint { format, subformat, compress: "none" }));
        if format == "qcow2" {
            let compressed = |compress| Endpoint { format, subformat: default, compress };
            found.extend(create.compressions.iter().map(|name| compressed(name)));
        }
    }
    found
}

/// Whether QEMU reads the format, by its own name.
fn qemu_name(endpoint: &Endpoint) -> Option<&'static str> {
    match (endpoint.format, endpoint.subformat) {
        ("raw", _) => Some("raw"),
        ("qcow2", _) => Some("qcow2"),
        ("vhdx", _) => Some("vhdx"),
        ("vdi", _) => Some("vdi"),
        ("vhd", _) => Some("vpc"),
        ("vmdk", _) => Some("vmdk"),
        _ => None,
    }
}

fn guest(sandbox: &Sandbox) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/build-kernel");
    let output = Command::new(script).arg(sandbox.path("source.raw")).output().expect("build the guest");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_format_becomes_every_other_and_stays_the_same_disk() {
    if !have("qemu-img") || !have("syslinux") || !have("grub-mkstandalone") || !have("sgdisk") || !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    guest(&sandbox);
    let size = std::fs::metadata(sandbox.path("source.raw")).unwrap().len().to_string();
    let endpoints = endpoints();
    assert!(endpoints.len() >= FORMATS.iter().filter(|format| format.create.is_some()).count());
    for endpoint in &endpoints {
        let folder = endpoint.folder();
        std::fs::create_dir(sandbox.path(&folder)).unwrap();
        let target = format!("{folder}/disk.image");
        sandbox.run(["convert", "source.raw", &target].into_iter().chain(endpoint.options())).ok();
        assert_same(&sandbox, &target, endpoint, &folder);
        foreign_reader_agrees(&sandbox, &target, endpoint);
    }
    // The variants of one format have been read above: between formats, the usual one stands for all.
    let usual = |endpoint: &&Endpoint| endpoint.is_usual();
    for from in endpoints.iter().filter(usual) {
        for to in endpoints.iter().filter(usual) {
            let source = format!("{}/disk.image", from.folder());
            std::fs::create_dir(sandbox.path("result")).unwrap();
            let args = ["convert", "-f", from.format, &source, "result/disk.image", "--size", &size];
            sandbox.run(args.into_iter().chain(to.options())).ok();
            assert_same(&sandbox, "result/disk.image", to, &format!("{} to {}", from.folder(), to.folder()));
            std::fs::remove_dir_all(sandbox.path("result")).unwrap();
        }
    }
}

/// Holes are not read to be compared, as they would be for a digest: there are a hundred pairs.
fn assert_same(sandbox: &Sandbox, image: &str, endpoint: &Endpoint, about: &str) {
    let strict = (endpoint.format != "gce").then_some("--strict");
    let args = ["compare", "-f", "raw", "-F", endpoint.format, "source.raw", image];
    let run = sandbox.run(args.into_iter().chain(strict));
    assert_eq!(run.code, Some(0), "{about}: {}{}", run.stdout, run.stderr);
}

fn foreign_reader_agrees(sandbox: &Sandbox, image: &str, endpoint: &Endpoint) {
    let Some(name) = qemu_name(endpoint) else { return };
    sandbox.tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", name, "source.raw", image]);
    if matches!(name, "qcow2" | "vhdx" | "vdi" | "vmdk") && endpoint.subformat != Some("streamOptimized") {
        let output = Command::new("qemu-img").args(["check", "-q", "-f", name]).arg(sandbox.path(image)).output();
        let output = output.expect("run qemu-img");
        // 63: the format has nothing to check (flat VMDK).
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0 | 63)), "qemu-img check {}: {said}", endpoint.folder());
    }
}
