//! Images that other people's software wrote: their content is what independent readers agree on, and bad ones give errors.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Sandbox, have};
use tintype_formats::registry;

/// Where the corpus is: `TINTYPE_CORPUS`, or `../shared/corpus` beside the project.
fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let folder = std::env::var_os("TINTYPE_CORPUS").map_or(beside, PathBuf::from);
    common::have_or_skip(folder.join("MANIFEST.tsv").exists(), "the corpus (TINTYPE_CORPUS)").then_some(folder)
}

/// Its name does not state its format, and it has a backing file: that is opened only if the user states the format.
const NAMES_ANOTHER_IN_IMG: &str = "qcow2/kubevirt__containerized-data-importer/cirros-snapshot-qcow2.img";

/// Its data is in another file, which is missing. The manifest's digest is that of the metadata read as if it were data.
const WITHOUT_ITS_DATA: &str = "qcow2/abbbi__virtnbdbackup/vm6-sda.qcow2";

/// One reader alone gave the manifest's digest, and it is wrong (formats/src/parallels/SPEC.md): the disk is that of the image
/// in the bundle, which other readers agree on.
const READ_WRONG_BY_ITS_ONLY_READER: (&str, &str) = (
    "parallels/fox-it__dissect.hypervisor/expanding.hdd/DiskDescriptor.xml",
    "7906281f7a25f13df78c907d7bc4e9313d9a26fa86386c6e2a737a784fe80b8f",
);

/// The SHA-256 of disks of 16 to 40 GiB, nearly all of it zeros, and the BLAKE3 that was seen to be of the same bytes: to hash
/// them takes 3 s instead of 20.
const LARGE: &[(&str, &str)] = &[
    (
        "60dd30b4c74361427d1089510cabb36e2eeda0cc4747f467ea43173acd358c49",
        "0789e036786a0043223ba2000a267225ad83b662b904933bbefd56001a234c7b",
    ),
    (
        "edc5d630b2da0ddb08992afb58ded06ffb56b884e184b4974fda16e31b7e6817",
        "2500313de8b91bb040ecc69b52e15ddabb1f21fb8ab58da225c631e996e64dae",
    ),
    (
        "f7dc6812a3b12a35f3ec895ce981bd59ff4558270fc80cd812c9cd522bff1295",
        "f8d750cb5c61ce460e0dfc8a8eb0d162cdbdb9b23beb940c6dfff90141de5c4c",
    ),
    (
        "ebfb4ef19ae410f190327b5ebd312711263bc7579970e87d9c1e2d84e06b3c25",
        "875283713208b0d6be59b2c6862b0a3cfdd8ebe5366b815e34dfffd98554ef26",
    ),
    (
        "8ca2bd2d91f1c6ada47128fc2f8d38587e73954ede5a664fe2bb09c19606060e",
        "ba8d439a2dc07215d55c8ec9fe0f24c36e14e6cba321e5850911f666bcbc2050",
    ),
];

struct Entry {
    path: String,
    format: String,
    guest_sha256: String,
}

fn manifest(corpus: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(corpus.join("MANIFEST.tsv")).expect("the manifest");
    let fields = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let rows = text.lines().skip(1).map(fields);
    rows.map(|row| Entry { path: row[0].clone(), format: row[1].clone(), guest_sha256: row[5].clone() }).collect()
}

/// Unpacks the corpus, or only a folder of it.
fn unpack(sandbox: &Sandbox, corpus: &Path, folder: Option<&str>) {
    let status = Command::new("tar")
        .args(["--zstd", "-xf"])
        .arg(corpus.join("images.tar.zst"))
        .arg("-C")
        .arg(sandbox.path(""))
        .args(folder)
        .status()
        .expect("tar");
    assert!(status.success(), "unpacking the corpus");
}

#[test]
fn images_of_others_have_the_content_that_readers_agree_on() {
    let Some(corpus) = corpus().filter(|_| have("zstd")) else { return };
    let sandbox = Sandbox::new();
    unpack(&sandbox, &corpus, None);
    let mut tried = BTreeSet::new();
    for entry in manifest(&corpus) {
        let bad = entry.path.starts_with("bad/");
        if bad || entry.guest_sha256.is_empty() || registry::by_name(&entry.format).is_none() {
            continue;
        }
        if entry.path == WITHOUT_ITS_DATA {
            sandbox.run(["digest", &entry.path]).fails(1, "/tmp/datafile.raw");
            continue;
        }
        if entry.path == NAMES_ANOTHER_IN_IMG {
            sandbox.run(["digest", &entry.path]).fails(1, "only the content says that the image is qcow2");
        }
        let is_stated = entry.format == "raw" || entry.path == NAMES_ANOTHER_IN_IMG;
        let args: &[&str] = if is_stated { &["-f", &entry.format] } else { &[] };
        let (algorithm, expected) = expected(&entry);
        let run = sandbox.run(["digest", "-a", algorithm, &entry.path].iter().chain(args)).ok();
        assert_eq!(run.stdout.split_whitespace().next(), Some(expected), "{}", entry.path);
        let check = sandbox.run(["check", &entry.path].iter().chain(args));
        assert!(matches!(check.code, Some(0 | 3 | 4)), "{}: {}", entry.path, check.stderr);
        tried.insert(entry.format);
    }
    assert!(tried.contains("qcow2") && tried.contains("vhdx") && tried.contains("raw"), "{tried:?}");
}

/// By which algorithm to take an image's digest, and what it is to be.
fn expected(entry: &Entry) -> (&'static str, &str) {
    let (path, digest) = READ_WRONG_BY_ITS_ONLY_READER;
    if path == entry.path {
        return ("sha256", digest);
    }
    let large = LARGE.iter().find(|(sha256, _)| *sha256 == entry.guest_sha256);
    large.map_or(("sha256", &entry.guest_sha256), |(_, blake3)| ("blake3", blake3))
}

#[test]
fn bad_images_give_errors() {
    let Some(corpus) = corpus().filter(|_| have("zstd")) else { return };
    let sandbox = Sandbox::new();
    unpack(&sandbox, &corpus, Some("bad"));
    for entry in manifest(&corpus).iter().filter(|entry| entry.path.starts_with("bad/")) {
        // What is of a format that is not read yet looks raw: it is opened as what it claims to be.
        let Some(format) = registry::by_name(&entry.format) else { continue };
        let run = sandbox.run(["digest", &entry.path, "-f", format.name]);
        assert!(matches!(run.code, Some(1)), "{}: {:?}", entry.path, run);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }
}

/// What an image names is found beside it, and missed when it is not there.
#[test]
fn parents_are_found_beside_the_child() {
    let Some(corpus) = corpus().filter(|_| have("zstd")) else { return };
    let sandbox = Sandbox::new();
    unpack(&sandbox, &corpus, Some("qcow2"));
    let chains = [
        (
            "qcow2/fox-it__dissect.hypervisor/backing-chain-1.qcow2",
            "qcow2/fox-it__dissect.hypervisor/backing-chain-2.qcow2",
        ),
        ("qcow2/fox-it__dissect.hypervisor/data-file.qcow2", "qcow2/fox-it__dissect.hypervisor/data-file.bin"),
    ];
    for (child, parent) in chains {
        sandbox.run(["digest", child]).ok();
        sandbox.run(["digest", child, "--no-references"]).fails(1, "references are not allowed");
        fs::rename(sandbox.path(parent), sandbox.path("elsewhere")).unwrap();
        sandbox.run(["digest", child]).fails(1, "open a file that the image names");
    }
}

/// A backup that was cut: what is missing is not zeros.
#[test]
fn a_cut_backup_is_not_read_as_zeros() {
    let Some(corpus) = corpus().filter(|_| have("zstd")) else { return };
    let sandbox = Sandbox::new();
    unpack(&sandbox, &corpus, Some("vma"));
    let archive = "vma/fox-it__dissect.hypervisor/test.vma";
    sandbox.run(["digest", archive]).fails(1, "the backup is not complete");
    assert_eq!(sandbox.run(["check", archive]).code, Some(4));
}
