//! Repositories that each version of the format wrote, in `fixtures/tin/`: this version reads them, and so does a reader that was
//! written from the specification alone.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Sandbox, have};
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    repository: Vec<Archive>,
    image: Vec<Image>,
}

/// What the last lines of `MANIFEST.toml` explain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Archive {
    path: String,
    version: u32,
    made_by: String,
    how: Vec<String>,
    password: Option<String>,
    snapshots: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Image {
    path: String,
    format: String,
    sha256: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn manifest() -> Manifest {
    let text = fs::read_to_string(fixtures().join("MANIFEST.toml")).expect("the manifest");
    toml_edit::de::from_str(&text).expect("the manifest")
}

/// A folder with one archive unpacked; nothing where the tools for that are missing.
fn unpacked(archive: &Archive) -> Option<Sandbox> {
    if !have("zstd") || !have("tar") {
        return None;
    }
    let sandbox = Sandbox::new();
    let path = fixtures().join(&archive.path);
    sandbox.tool("sh", ["-c", "zstd -dqc \"$0\" | tar -x", path.to_str().expect("a path")]);
    Some(sandbox)
}

fn tintype(sandbox: &Sandbox, password: Option<&str>, args: &[&str]) -> Run {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_CACHE_DIR", sandbox.path("cache"));
    with_password(command, password)
}

/// What the reader in Python says; nothing where its libraries are missing.
fn python_digest(sandbox: &Sandbox, password: Option<&str>, args: &[&str]) -> Option<String> {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/tin_reader.py");
    let libraries = Command::new("/usr/bin/python3").args(["-c", "import argon2, zstandard, cryptography"]).output();
    let found = libraries.is_ok_and(|output| output.status.success());
    if !common::have_or_skip(found, "python3-argon2, python3-zstandard and python3-cryptography") {
        return None;
    }
    let mut command = Command::new(reader);
    command.arg("digest").args(args).current_dir(sandbox.path("."));
    Some(first_word(&with_password(command, password).ok()))
}

fn with_password(mut command: Command, password: Option<&str>) -> Run {
    match password {
        Some(password) => command.env("TINTYPE_PASSWORD", password),
        None => command.env_remove("TINTYPE_PASSWORD"),
    };
    Run::of(&command.output().expect("start a program"))
}

fn first_word(run: &Run) -> String {
    run.stdout.split_whitespace().next().expect("a digest").to_owned()
}

#[test]
fn repositories_of_every_version_are_read_by_both_readers() {
    for archive in manifest().repository {
        assert!(archive.version >= 1 && !archive.made_by.is_empty() && !archive.how.is_empty(), "{}", archive.path);
        let Some(sandbox) = unpacked(&archive) else { return };
        let password = archive.password.as_deref();
        let listed = tintype(&sandbox, password, &["snapshots", "--repo", "repository", "--json"]).ok().stdout;
        for (snapshot, sha256) in &archive.snapshots {
            assert!(listed.contains(snapshot), "{}: {listed}", archive.path);
            let found = tintype(&sandbox, password, &["digest", &format!("repository::web@{snapshot}")]).ok();
            assert_eq!(first_word(&found), *sha256, "{}: {snapshot}", archive.path);
            let Some(found) = python_digest(&sandbox, password, &["repository", snapshot]) else { continue };
            assert_eq!(found, *sha256, "{}: {snapshot}, in Python", archive.path);
        }
    }
}

#[test]
fn files_of_every_version_are_read_in_python_too() {
    let sandbox = Sandbox::new();
    for image in manifest().image.iter().filter(|image| image.format == "tin") {
        let path = fixtures().join(&image.path);
        let Some(found) = python_digest(&sandbox, None, &[path.to_str().expect("a path")]) else { return };
        assert_eq!(Some(&found), image.sha256.as_ref(), "{}", image.path);
    }
}

/// The next backup goes on where an older version stopped: what is stored is found, and not stored again.
#[test]
fn repositories_of_every_version_are_written_on() {
    for archive in manifest().repository {
        let Some(sandbox) = unpacked(&archive) else { return };
        let password = archive.password.as_deref();
        let newest = archive.snapshots.keys().next_back().expect("a snapshot");
        let address = format!("repository::web@{newest}");
        tintype(&sandbox, password, &["convert", &address, "disk.raw"]).ok();
        let args = ["backup", "--repo", "repository", "--name", "web", "-f", "raw", "--json", "disk.raw"];
        let report = tintype(&sandbox, password, &args).ok().stdout;
        assert!(report.contains("\"new_bytes\":0"), "{}: {report}", archive.path);
        let found = tintype(&sandbox, password, &["digest", "repository::web"]).ok();
        assert_eq!(first_word(&found), archive.snapshots[newest], "{}", archive.path);
    }
}
