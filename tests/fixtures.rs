//! The images in `fixtures/`: each holds what its maker put into it, and keeps it through every format.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Sandbox, have};
use serde::Deserialize;
use serde_json::Value;
use tintype_formats::registry::{self, FORMATS};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    image: Vec<Entry>,
    repository: Vec<Archive>,
}

/// An archive with a repository: tests/repository_fixtures.rs reads those.
#[derive(Deserialize)]
struct Archive {
    path: String,
}

/// What the head of `MANIFEST.toml` explains.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    format: String,
    made_by: String,
    how: Vec<String>,
    size_bytes: Option<u64>,
    sha256: Option<String>,
    #[serde(default)]
    snapshots: BTreeMap<String, String>,
    parent: Option<String>,
    #[serde(default)]
    parts: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    check: i32,
    error: Option<String>,
    sector_bytes: Option<u64>,
}

/// Larger disks go through one format only: most of the time is for hashing their zeros.
const LARGE_BYTES: u64 = 64 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn whole_manifest() -> Manifest {
    let text = fs::read_to_string(folder().join("MANIFEST.toml")).expect("the manifest");
    toml_edit::de::from_str(&text).expect("the manifest")
}

fn manifest() -> Vec<Entry> {
    whole_manifest().image
}

/// A folder with copies of all fixtures, unpacked; nothing where the tool for that is missing.
fn unpacked() -> Option<Sandbox> {
    if !have("zstd") {
        return None;
    }
    let sandbox = Sandbox::new();
    for path in files_below(&folder()) {
        let (from, to) = (folder().join(&path), sandbox.path(&path));
        fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
        fs::copy(&from, &to).expect("copy a fixture");
        if path.ends_with(".zst") {
            sandbox.tool("zstd", ["-d", "-q", "--rm", &path]);
        }
    }
    Some(sandbox)
}

/// The names of all files below a folder, with `/`, from there.
fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        if entry.path().is_dir() {
            names.extend(files_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.insert(name);
        }
    }
    names
}

impl Entry {
    /// Its name after unpacking.
    fn image(&self) -> &str {
        self.path.strip_suffix(".zst").unwrap_or(&self.path)
    }

    /// A raw file is only taken for one if it is said to be.
    fn run(&self, sandbox: &Sandbox, command: &str, address: &str, more: &[&str]) -> Run {
        let args = [command, address, "-f", &self.format].into_iter().chain(more.iter().copied());
        sandbox.run(args)
    }

    fn digest(&self, sandbox: &Sandbox, address: &str) -> String {
        let run = self.run(sandbox, "digest", address, &[]).ok();
        run.stdout.split_whitespace().next().expect("a digest").to_owned()
    }
}

fn warnings(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

#[test]
fn every_file_is_in_the_manifest() {
    let Manifest { image: entries, repository: archives } = whole_manifest();
    let mut listed: BTreeSet<String> = ["make", "MANIFEST.toml"].map(str::to_owned).into();
    listed.extend(archives.into_iter().map(|archive| archive.path));
    for entry in &entries {
        assert!(!entry.made_by.is_empty() && !entry.how.is_empty(), "{}: nothing says how it was made", entry.path);
        assert!(entry.sha256.is_some() != entry.error.is_some(), "{}: either a digest or an error", entry.path);
        assert!(registry::by_name(&entry.format).is_some(), "{}: no format {}", entry.path, entry.format);
        for name in [&entry.path].into_iter().chain(&entry.parts) {
            assert!(listed.insert(name.clone()), "{name} is in the manifest twice");
        }
    }
    let mut found = files_below(&folder());
    found.retain(|name| !name.starts_with("fuzz/"));
    assert_eq!(listed, found, "left: the manifest, right: the folder");
    for format in FORMATS {
        assert!(entries.iter().any(|entry| entry.format == format.name), "there is no fixture for {}", format.name);
    }
}

#[test]
fn fixtures_hold_what_their_maker_put_into_them() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest() {
        let run = entry.run(&sandbox, "digest", entry.image(), &[]);
        if let Some(error) = &entry.error {
            run.fails(1, error);
            continue;
        }
        let run = run.ok();
        assert_eq!(run.stdout.split_whitespace().next(), entry.sha256.as_deref(), "{}", entry.path);
        let found = warnings(&run);
        assert_eq!(found.len(), entry.warnings.len(), "{}: {found:?}", entry.path);
        for words in &entry.warnings {
            assert!(found.iter().any(|line| line.contains(words)), "{}: no \"{words}\" in {found:?}", entry.path);
        }
        // Without -f, the format is found, but for raw.
        let found = sandbox.run(["digest", entry.image()]).ok();
        assert_eq!(found.stdout, run.stdout, "{}", entry.path);
    }
}

#[test]
fn info_tells_what_the_manifest_tells() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest() {
        let about = |address: &str| -> Value {
            serde_json::from_str(&sandbox.run(["info", "--json", address]).ok().stdout).expect("JSON")
        };
        let mut info = about(entry.image());
        assert_eq!(info["format"], entry.format.as_str(), "{}", entry.path);
        // A container's numbers are those of the disk in it.
        if info["disks"].is_array() {
            info = about(&format!("{}?disk=1", entry.image()));
        }
        assert_eq!(info["logical_sector_bytes"], entry.sector_bytes.unwrap_or(512), "{}", entry.path);
        if let Some(size_bytes) = entry.size_bytes {
            assert_eq!(info["size_bytes"], size_bytes, "{}", entry.path);
        }
        assert_eq!(info["parent"].is_object(), entry.parent.is_some(), "{}", entry.path);
        let snapshots = info["snapshots"].as_array().expect("snapshots");
        let names = snapshots.iter().flat_map(|found| [found["id"].as_str(), found["name"].as_str()]);
        let names: BTreeSet<_> = names.map(|name| name.expect("a name")).collect();
        assert_eq!(names, entry.snapshots.keys().map(String::as_str).collect(), "{}", entry.path);
    }
}

#[test]
fn snapshots_have_their_own_content() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest() {
        for (snapshot, sha256) in &entry.snapshots {
            let address = format!("{}?snapshot={snapshot}", entry.image());
            assert_eq!(entry.digest(&sandbox, &address), *sha256, "{address}");
        }
    }
}

#[test]
fn check_finds_what_is_wrong_and_nothing_else() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest() {
        let run = entry.run(&sandbox, "check", entry.image(), &[]);
        assert_eq!(run.code, Some(entry.check), "{}: {}{}", entry.path, run.stdout, run.stderr);
    }
}

#[test]
fn images_do_not_open_without_what_they_need() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest().iter().filter(|entry| entry.parent.is_some() || !entry.parts.is_empty()) {
        entry.run(&sandbox, "digest", entry.image(), &["--no-references"]).fails(1, "references are not allowed");
        let needed = entry.parent.iter().chain(&entry.parts).map(|name| name.strip_suffix(".zst").unwrap_or(name));
        for name in needed {
            fs::rename(sandbox.path(name), sandbox.path("elsewhere")).expect("rename");
            entry.run(&sandbox, "digest", entry.image(), &[]).fails(1, "open a file that the image names");
            fs::rename(sandbox.path("elsewhere"), sandbox.path(name)).expect("rename");
        }
        assert_eq!(Some(entry.digest(&sandbox, entry.image())), entry.sha256);
    }
}

/// To two of the formats that can be created, taking turns, and from there to the format that the fixture came in: every format
/// becomes every other in tests/convert_matrix.rs.
#[test]
fn content_survives_every_format_and_the_way_back() {
    let Some(sandbox) = unpacked() else { return };
    // Images for Compute Engine hold whole gibibytes only.
    let creatable = FORMATS.iter().filter(|format| format.create.is_some() && format.name != "gce");
    let creatable: Vec<_> = creatable.map(|format| format.name).collect();
    for (index, entry) in manifest().iter().filter(|entry| entry.sha256.is_some()).enumerate() {
        let back = if creatable.contains(&entry.format.as_str()) { &entry.format } else { "raw" };
        let large = entry.size_bytes.is_some_and(|bytes| bytes > LARGE_BYTES);
        for there in creatable.iter().cycle().skip(index).take(if large { 1 } else { 2 }) {
            let about = format!("{} to {there} and back to {back}", entry.path);
            entry.run(&sandbox, "convert", entry.image(), &["there", "--force", "-O", there]).ok();
            sandbox.run(["check", "there", "-f", there]).ok();
            sandbox.run(["convert", "there", "back", "--force", "-f", there, "-O", back]).ok();
            for (image, format) in [("there", *there), ("back", back)] {
                let digest = sandbox.run(["digest", image, "-f", format]).ok().stdout;
                assert_eq!(digest.split_whitespace().next(), entry.sha256.as_deref(), "{about}: {image}");
            }
        }
    }
}

/// What fuzzing once found, in a folder for each format, or for what is inside raw disks: nobody knows what it holds, but it is read or refused.
#[test]
fn what_fuzzing_found_is_read_or_refused() {
    let folder = folder().join("fuzz");
    if !folder.exists() {
        return;
    }
    let sandbox = Sandbox::new();
    for path in files_below(&folder) {
        // Beside the folders is what makes the seeds in them.
        let Some((kind, _)) = path.split_once('/') else { continue };
        let format = if kind == "volumes" { "raw" } else { kind };
        for command in ["info", "check", "digest"] {
            let run = sandbox.run([command, folder.join(&path).to_str().expect("a path"), "-f", format]);
            assert!(matches!(run.code, Some(0 | 1 | 3 | 4)), "{command} {path}: {run:?}");
            assert!(!run.stderr.contains("panicked"), "{command} {path}: {}", run.stderr);
        }
    }
}

#[test]
fn damage_is_not_converted() {
    let Some(sandbox) = unpacked() else { return };
    for entry in manifest() {
        let Some(error) = &entry.error else { continue };
        entry.run(&sandbox, "convert", entry.image(), &["target.raw"]).fails(1, error);
        assert!(!sandbox.path("target.raw").exists(), "{}", entry.path);
    }
}
