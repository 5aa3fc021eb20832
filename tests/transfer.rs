//! Snapshots in `.tin` files: out of a repository, into the same and into another one, and read by everything that reads disks.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Run, Sandbox, cheap};

const PASSWORD: &str = "a password";

struct Shop(Sandbox);

impl Shop {
    /// Two disks, and an encrypted repository with a snapshot of them.
    fn new() -> Shop {
        let shop = Shop(Sandbox::new());
        shop.0.raw_disk("a.raw", 3 << 20, 9);
        shop.0.raw_disk("b.raw", (1 << 20) + 512, 4);
        cheap::init_with(&shop.0.path("repo"), PASSWORD, 64 << 10);
        shop.run(&["backup", "-r", "repo", "--name", "web", "--tag", "k=v", "-f", "raw", "a.raw", "b.raw"]).ok();
        shop
    }

    fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, Some(PASSWORD))
    }

    fn run_with(&self, args: &[&str], password: Option<&str>) -> Run {
        let mut command = self.0.command(args);
        command.env("TINTYPE_CACHE_DIR", self.0.path("cache")).stdin(Stdio::null());
        password.map(|password| command.env("TINTYPE_PASSWORD", password));
        Run::of(&command.output().expect("run tintype"))
    }

    fn digest(&self, address: &str, more: &[&str]) -> String {
        let run = self.run(&[&["digest", address], more].concat()).ok();
        run.stdout.split_whitespace().next().expect("a digest").to_owned()
    }

    /// Fails unless both disks are in the file or snapshot.
    fn holds_both(&self, address: &str) {
        for disk in ["a", "b"] {
            let found = self.digest(&format!("{address}?disk={disk}"), &[]);
            assert_eq!(found, self.digest(&format!("{disk}.raw"), &["-f", "raw"]), "{address} {disk}");
        }
    }

    fn packs(&self, repository: &str) -> usize {
        let folders = fs::read_dir(self.0.path(repository).join("packs")).expect("packs");
        folders.map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("a folder").count()).sum()
    }
}

#[test]
fn an_exported_snapshot_is_an_image_with_its_disks() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    shop.holds_both("web.tin");
    shop.run(&["check", "web.tin"]).ok();
    let info = shop.run(&["info", "web.tin", "--json"]).ok().stdout;
    assert!(info.contains("\"snapshot_name\": \"web\"") && info.contains("\"encrypted\": true"), "{info}");
    shop.run(&["convert", "web.tin?disk=b", "b.qcow2"]).ok();
    assert_eq!(shop.digest("b.qcow2", &[]), shop.digest("b.raw", &["-f", "raw"]));
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).fails(1, "it exists already");
    shop.run(&["export", "nothing", "other.tin", "-r", "repo"]).fails(1, "nothing");
    assert!(!shop.0.path("other.tin").exists());
}

#[test]
fn a_wrong_password_opens_nothing() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    for command in ["digest", "info", "check", "map"] {
        shop.run_with(&[command, "web.tin"], Some("wrong")).fails(12, "opens none");
    }
}

#[test]
fn a_file_in_a_pipe_is_the_same_file() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    let mut command = shop.0.command(["export", "web", "-", "-r", "repo"]);
    command.env("TINTYPE_PASSWORD", PASSWORD).env("TINTYPE_CACHE_DIR", shop.0.path("cache"));
    let output = command.stdin(Stdio::null()).output().expect("run tintype");
    assert!(output.status.success());
    assert!(output.stdout == fs::read(shop.0.path("web.tin")).expect("the file"));
    let mut command = shop.0.command(["convert", "a.raw", "-", "-f", "raw", "-O", "tin", "--reproducible"]);
    let output = command.stdin(Stdio::null()).output().expect("run tintype");
    shop.run(&["convert", "a.raw", "a.tin", "-f", "raw", "--reproducible"]).ok();
    assert!(output.stdout == fs::read(shop.0.path("a.tin")).expect("the file"));
}

#[test]
fn a_snapshot_comes_back_with_its_packs() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    let snapshots = shop.run(&["snapshots", "-r", "repo", "--json"]).ok().stdout;
    let before: serde_json::Value = serde_json::from_str(&snapshots).expect("JSON");
    // Into the same repository: nothing is stored but the manifest.
    let packs = shop.packs("repo");
    let said = shop.run(&["import", "web.tin", "-r", "repo", "--json"]).ok().stdout;
    assert!(said.contains("\"copied\":true") && said.contains("\"stored_bytes\":0"), "{said}");
    assert_eq!(shop.packs("repo"), packs);
    shop.holds_both("repo::web");
    // Into a copy of it that has lost its packs and its snapshot: they come from the file.
    for lost in ["packs", "snapshots", "index"] {
        fs::remove_dir_all(shop.0.path("repo").join(lost)).expect("remove");
    }
    fs::remove_dir_all(shop.0.path("cache")).expect("remove the cache");
    let said = shop.run(&["import", "web.tin", "-r", "repo", "--json"]).ok().stdout;
    assert!(said.contains("\"copied\":true"), "{said}");
    assert_eq!(shop.packs("repo"), packs);
    shop.holds_both("repo::web");
    // Those whose manifests are lost are still said to be damaged.
    let snapshots = shop.run(&["snapshots", "-r", "repo", "--json"]);
    assert_eq!(snapshots.code, Some(3), "{}", snapshots.stderr);
    let snapshots = snapshots.stdout;
    let after: serde_json::Value = serde_json::from_str(&snapshots).expect("JSON");
    for field in ["name", "time", "tags", "host", "disks"] {
        assert_eq!(before["snapshots"][0][field], after["snapshots"][0][field], "{field}");
    }
    // The next backup builds on what was imported.
    let args = ["backup", "-r", "repo", "--name", "web", "-f", "raw", "--json", "a.raw", "b.raw"];
    let said = shop.run(&args).ok().stdout;
    assert!(said.contains("\"new_bytes\":0"), "{said}");
}

#[test]
fn a_snapshot_of_another_repository_is_stored_anew() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    fs::write(shop.0.path("old-password"), PASSWORD).expect("write");
    let other = |args: &[&str]| shop.run_with(args, Some("another one"));
    cheap::init(&shop.0.path("other"), "another one");
    other(&["import", "web.tin", "-r", "other"]).fails(12, "opens none");
    let said = other(&["import", "web.tin", "-r", "other", "--file-password-file", "old-password", "--json"]).ok();
    assert!(said.stdout.contains("\"copied\":false"), "{}", said.stdout);
    for disk in ["a", "b"] {
        let found = other(&["digest", &format!("other::web?disk={disk}")]).ok().stdout;
        assert!(found.starts_with(&shop.digest(&format!("{disk}.raw"), &["-f", "raw"])), "{found}");
    }
    let time = |listed: String| {
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        (listed["snapshots"][0]["time"].clone(), listed["snapshots"][0]["tags"].clone())
    };
    let there = time(other(&["snapshots", "-r", "other", "--json"]).ok().stdout);
    assert_eq!(there, time(shop.run(&["snapshots", "-r", "repo", "--json"]).ok().stdout));
    // And one that was never in a repository.
    shop.run(&["convert", "a.raw", "plain.tin", "-f", "raw"]).ok();
    shop.run(&["import", "plain.tin", "-r", "repo"]).ok();
    assert_eq!(shop.digest("repo::disk", &[]), shop.digest("a.raw", &["-f", "raw"]));
}

#[test]
fn damage_is_neither_exported_nor_imported() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    let whole = fs::read(shop.0.path("web.tin")).expect("the file");
    let first_chunk = whole.windows(4).position(|word| word == b"TCHK").expect("a chunk");
    let mut damaged = whole.clone();
    damaged[first_chunk + 200] ^= 1;
    fs::write(shop.0.path("damaged.tin"), damaged).expect("write");
    fs::write(shop.0.path("cut.tin"), &whole[..whole.len() - 1]).expect("write");
    let checked = shop.run(&["check", "damaged.tin"]);
    assert!(checked.code == Some(4) && checked.stdout.contains("is damaged"), "{checked:?}");
    shop.run(&["digest", "cut.tin"]).fails(1, "cut short");
    fs::remove_dir_all(shop.0.path("repo/packs")).expect("remove");
    shop.run(&["import", "damaged.tin", "-r", "repo"]).fails(1, "damaged");
    shop.run(&["import", "cut.tin", "-r", "repo"]).fails(1, "cut short");
    shop.run(&["export", "web", "again.tin", "-r", "repo"]).fails(1, "is nowhere");
    assert!(!shop.0.path("again.tin").exists());
    shop.run(&["import", "a.raw", "-r", "repo"]).fails(1, "does not begin with");
}

/// Nobody signs a pack's header, and in there are the keys of its chunks: an import that did not open the chunks would take a pack
/// that nobody can read, and backups would build on it.
#[test]
fn a_pack_whose_keys_do_not_open_it_is_not_imported() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    let mut file = fs::read(shop.0.path("web.tin")).expect("the file");
    let mut changed = 0;
    for pack in 0..file.len() - 8 {
        if &file[pack..pack + 8] == b"TINPACK1" && file[pack + 10] == 1 {
            let length = u32::from_le_bytes(file[pack + 12..pack + 16].try_into().expect("4 bytes")) as usize;
            // The end of the sealed key, and the header's hash after it.
            file[pack + length - 33] ^= 1;
            let hash = blake3::hash(&file[pack..pack + length - 32]);
            file[pack + length - 32..pack + length].copy_from_slice(hash.as_bytes());
            changed += 1;
        }
    }
    assert!(changed > 0);
    fs::write(shop.0.path("web.tin"), file).expect("write");
    fs::remove_dir_all(shop.0.path("repo/packs")).expect("remove");
    shop.run(&["import", "web.tin", "-r", "repo"]).fails(1, "does not open it");
}

#[test]
fn exported_files_are_read_in_python_too() {
    let shop = Shop::new();
    shop.run(&["export", "web", "web.tin", "-r", "repo"]).ok();
    let libraries = Command::new("/usr/bin/python3").args(["-c", "import argon2, zstandard, cryptography"]).output();
    let found = libraries.is_ok_and(|output| output.status.success());
    if !common::have_or_skip(found, "python3-argon2, python3-zstandard and python3-cryptography") {
        return;
    }
    for disk in ["a", "b"] {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/tin_reader.py"));
        command.args(["digest", "web.tin", "web", disk]).env("TINTYPE_PASSWORD", PASSWORD);
        let run = Run::of(&command.current_dir(shop.0.path(".")).output().expect("python")).ok();
        assert!(run.stdout.starts_with(&shop.digest(&format!("{disk}.raw"), &["-f", "raw"])), "{run:?}");
    }
}
