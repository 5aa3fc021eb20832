//! Snapshots and repositories as files in a mounted folder.

mod common;
#[path = "common/mount.rs"]
mod mount;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Sandbox, assert_holds, names_in};
use mount::{LIMIT, Mount, can_mount};
use serde_json::Value;
use tintype::repository::Repository;
use tintype::repository::store::LocalStore;

const MIB: u64 = 1 << 20;

/// Starts a repository with a backup of "a.raw" under the name "web".
fn repository(sandbox: &Sandbox, options: &[&str]) {
    sandbox.raw_disk("a.raw", 6 * MIB, 40);
    sandbox.run(["init", "repo"].iter().chain(options)).ok();
    back_up(sandbox, &["a.raw"]);
}

fn back_up(sandbox: &Sandbox, disks: &[&str]) {
    let secret = sandbox.path("password").exists().then_some("--password-file=password");
    sandbox
        .run(["backup", "--repo", "repo", "--name", "web"].into_iter().chain(secret).chain(disks.iter().copied()))
        .ok();
}

#[test]
fn an_encrypted_snapshot_of_several_disks_has_a_folder_for_each() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("password"), "secret\n").unwrap();
    repository(&sandbox, &["--password-file", "password"]);
    let options = ["--password-file", "password"];
    let expected = fs::read(sandbox.path("a.raw")).unwrap();
    let mount = Mount::new(&sandbox, &[&options[..], &["repo::web"]].concat());
    assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json"]);
    assert_holds(&mount.path("disk.raw"), &expected, "the snapshot");
    mount.end(&sandbox);
    sandbox.raw_disk("b.raw", 3 * MIB, 9);
    back_up(&sandbox, &["a.raw", "b.raw"]);
    let mount = Mount::new(&sandbox, &[&options[..], &["repo::web"]].concat());
    assert_eq!(names_in(&mount.folder), ["a", "b"]);
    assert_holds(&mount.path("a/disk.raw"), &expected, "the first disk");
    assert_holds(&mount.path("b/disk.raw"), &fs::read(sandbox.path("b.raw")).unwrap(), "the second disk");
    mount.end(&sandbox);
    let mount = Mount::new(&sandbox, &[&options[..], &["repo::web?disk=b"]].concat());
    assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json"]);
    mount.end(&sandbox);
    sandbox.run(["mount", "--writable", "repo::web", "m"].iter().chain(&options)).fails(2, "there are 2");
    fs::write(sandbox.path("password"), "wrong\n").unwrap();
    sandbox.run(["mount", "repo::web", "m"].iter().chain(&options)).fails(12, "");
}

#[test]
fn a_repository_shows_its_names_and_new_snapshots_appear() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    repository(&sandbox, &["--no-encryption"]);
    let first = fs::read(sandbox.path("a.raw")).unwrap();
    let mount = Mount::new(&sandbox, &["repo"]);
    assert_eq!(names_in(&mount.folder), ["web"]);
    let snapshots = names_in(&mount.path("web"));
    assert_eq!((snapshots.len(), snapshots[1].as_str()), (2, "latest"));
    assert_holds(&mount.path("web/latest/disk.raw"), &first, "the newest snapshot");
    let open = File::open(mount.path("web/latest/disk.raw")).unwrap();
    File::options().write(true).open(sandbox.path("a.raw")).unwrap().write_all_at(&[7; 5000], MIB).unwrap();
    back_up(&sandbox, &["a.raw"]);
    let deadline = Instant::now() + LIMIT;
    while names_in(&mount.path("web")).len() < 3 {
        assert!(Instant::now() < deadline, "the new snapshot does not appear");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_millis(1500));
    assert_holds(&mount.path("web/latest/disk.raw"), &fs::read(sandbox.path("a.raw")).unwrap(), "the newest snapshot");
    assert_holds(&mount.path("web").join(&snapshots[0]).join("disk.raw"), &first, "the older snapshot");
    let mut whole = Vec::new();
    (&open).read_to_end(&mut whole).unwrap();
    assert!(whole == first, "an open file is what it was");
    let info: Value = serde_json::from_slice(&fs::read(mount.path("web/latest/info.json")).unwrap()).unwrap();
    assert_eq!(info["snapshot"]["name"], "web");
    let time = fs::metadata(mount.path("web/latest/disk.raw")).unwrap().modified().unwrap();
    assert!(time.elapsed().unwrap() < Duration::from_secs(120), "the snapshot's time");
    drop(open);
    mount.end(&sandbox);
    for session in names_in(&sandbox.path("repo/sessions")) {
        assert_eq!(names_in(&sandbox.path("repo/sessions").join(&session)).len(), 2, "session {session} has ended");
    }
}

/// The link means what a name means to every other command.
#[test]
fn latest_of_a_repository_is_what_the_name_means() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    repository(&sandbox, &["--no-encryption"]);
    let of_host = |host: &str| {
        sandbox.run(["backup", "--repo", "repo", "--name", "web", "--host", host, "a.raw"]).ok();
    };
    ["alpha", "beta"].into_iter().for_each(of_host);
    let mount = Mount::new(&sandbox, &["repo", "--host", "alpha"]);
    assert_eq!(names_in(&mount.path("web")).len(), 2, "one snapshot and its link");
    mount.end(&sandbox);
    let newest = names_in(&sandbox.path("repo/snapshots")).into_iter().max().unwrap();
    let manifest = sandbox.path("repo/snapshots").join(&newest);
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[200] ^= 1;
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, bytes).unwrap();
    let mount = Mount::new(&sandbox, &["repo"]);
    let said = fs::read_to_string(sandbox.path("mount.log")).unwrap();
    assert!(said.contains(&format!("snapshot {newest} is damaged and not shown")), "{said}");
    let names = names_in(&mount.path("web"));
    assert!(names.len() == 2 && !names.contains(&"latest".to_owned()), "{names:?}");
    mount.end(&sandbox);
    let mount = Mount::new(&sandbox, &["repo", "--ignore-damaged"]);
    assert_eq!(names_in(&mount.path("web")).len(), 3);
    mount.end(&sandbox);
}

#[test]
fn a_damaged_pack_gives_errors_for_its_blocks_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    repository(&sandbox, &["--no-encryption", "--chunk-size", "64k"]);
    let expected = fs::read(sandbox.path("a.raw")).unwrap();
    let packs = walk(&sandbox.path("repo/packs"));
    let pack = packs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let middle = fs::metadata(pack).unwrap().len() / 2;
    let file = File::options().read(true).write(true).open(pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    let mount = Mount::new(&sandbox, &["repo::web"]);
    let disk = File::open(mount.path("disk.raw")).unwrap();
    let mut failed = 0;
    for (index, part) in expected.chunks(64 << 10).enumerate() {
        let mut found = vec![0; part.len()];
        match disk.read_exact_at(&mut found, (index << 16) as u64) {
            Ok(()) => assert!(found == part, "piece {index}"),
            Err(cause) => {
                assert_eq!(cause.raw_os_error(), Some(5), "{cause}");
                failed += 1;
            }
        }
    }
    assert!((1..=4).contains(&failed), "{failed} pieces cannot be read");
    drop(disk);
    mount.end(&sandbox);
    assert!(fs::read_to_string(sandbox.path("mount.log")).unwrap().contains("warning: read "));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_repository_that_was_away_is_read_again_when_it_is_back() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    repository(&sandbox, &["--no-encryption", "--chunk-size", "64k"]);
    let expected = fs::read(sandbox.path("a.raw")).unwrap();
    sandbox.tool("cp", ["-a", "repo", "copy"]);
    let mount = Mount::new(&sandbox, &["--retry-time", "1s", "repo"]);
    let path = mount.path("web/latest/disk.raw");
    let disk = File::open(&path).unwrap();
    disk.read_exact_at(&mut [0; 512], 0).unwrap();
    fs::remove_dir_all(sandbox.path("repo")).unwrap();
    let began = Instant::now();
    // What was read before is still known, and packs that are open can be read; so all of it is wanted.
    let _ = (&disk).read_to_end(&mut Vec::new());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let listed = names_in(&mount.path("web"));
    assert_eq!(listed.len(), 2, "what was there is still shown");
    fs::rename(sandbox.path("copy"), sandbox.path("repo")).unwrap();
    assert_holds(&path, &expected, "the repository is back");
    drop(disk);
    mount.end(&sandbox);
}

#[test]
fn a_prune_leaves_what_is_read() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    repository(&sandbox, &["--no-encryption", "--chunk-size", "64k"]);
    let expected = fs::read(sandbox.path("a.raw")).unwrap();
    let mount = Mount::new(&sandbox, &["repo"]);
    let disk = File::open(mount.path("web/latest/disk.raw")).unwrap();
    disk.read_exact_at(&mut [0; 512], 0).unwrap();
    let repository = open(&sandbox.path("repo"));
    let snapshots = repository.snapshots().unwrap().snapshots;
    repository.forget(snapshots[0].id).unwrap();
    sandbox.run(["prune", "--repo", "repo", "--wait", "0s"]).ok();
    let mut whole = Vec::new();
    (&disk).read_to_end(&mut whole).unwrap();
    assert!(whole == expected, "what is read is what was forgotten");
    drop(disk);
    mount.end(&sandbox);
}

fn open(path: &Path) -> std::sync::Arc<Repository> {
    let store = LocalStore::open(path).unwrap();
    Repository::open(Box::new(store), None, false, &mut || panic!("nothing is encrypted")).unwrap()
}
