//! Disks, snapshots and repositories as files in a mounted folder.

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Sandbox, assert_holds, have, have_or_skip, have_root, names_in};
use serde_json::Value;
use tintype::repository::Repository;
use tintype::repository::store::LocalStore;

const MIB: u64 = 1 << 20;

/// Longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

fn can_mount() -> bool {
    have_root() && have_or_skip(Path::new("/dev/fuse").exists(), "/dev/fuse")
}

/// A mount that ends with the test, however that ends.
struct Mount {
    child: Option<Child>,
    folder: PathBuf,
    line: String,
}

impl Mount {
    /// Mounts at "m", and waits until it is there.
    fn new(sandbox: &Sandbox, args: &[&str]) -> Mount {
        let folder = sandbox.path("m");
        fs::create_dir_all(&folder).unwrap();
        let mut command = sandbox.command(["mount"].iter().chain(args).chain(&["m"]));
        let log = File::create(sandbox.path("mount.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut mount = Mount { child: Some(command.spawn().unwrap()), folder, line: String::new() };
        let output = mount.child.as_mut().unwrap().stdout.take().unwrap();
        BufReader::new(output).read_line(&mut mount.line).unwrap();
        let said = fs::read_to_string(sandbox.path("mount.log")).unwrap();
        assert!(mount.line.contains("mounted"), "{args:?}: {}{said}", mount.line);
        mount
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits until the program has ended, and gives its exit code.
    fn code(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        panic!("it does not end");
    }

    /// Ends it as its user would.
    fn end(mut self, sandbox: &Sandbox) {
        sandbox.run(["unmount", "m"]).ok();
        assert_eq!(self.code(), Some(0));
        assert!(!is_mounted(&self.folder));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.folder) {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_mounted(folder: &Path) -> bool {
    let folder = folder.display().to_string();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(&folder))
}

/// A loop device, and what is mounted of it.
struct Loop {
    device: String,
    folder: PathBuf,
}

impl Loop {
    fn mount(sandbox: &Sandbox, file: &Path, options: &str) -> Loop {
        let folder = sandbox.path("loop");
        fs::create_dir_all(&folder).unwrap();
        let read_only = options.contains("ro").then_some("-r");
        let args = read_only.into_iter().chain(["-f", "--show", file.to_str().unwrap()]);
        let device = sandbox.tool("losetup", args).trim().to_owned();
        let made = Loop { device, folder };
        sandbox.tool("mount", ["-o", options, &made.device, "loop"]);
        made
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.folder).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

/// An ext4 with files in it.
fn ext4(sandbox: &Sandbox, name: &str) {
    fs::create_dir(sandbox.path("files")).unwrap();
    for number in 0..40_usize {
        let text = format!("file {number} ").repeat(10 + number * 3000);
        fs::write(sandbox.path("files").join(number.to_string()), text).unwrap();
    }
    sandbox.tool("mke2fs", ["-q", "-t", "ext4", "-d", "files", name, "32M"]);
}

fn assert_files_are_the_same(sandbox: &Sandbox) {
    for name in names_in(&sandbox.path("files")) {
        let expected = fs::read(sandbox.path("files").join(&name)).unwrap();
        assert_holds(&sandbox.path("loop").join(&name), &expected, "the loop mount");
    }
}

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
fn images_of_any_format_are_shown_as_raw_files() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 20 * MIB + 512, 60);
    let expected = fs::read(&disk).unwrap();
    for (name, options) in [("a.qcow2", &["--compress", "zstd"][..]), ("a.vhdx", &[]), ("a.vmdk", &[])] {
        sandbox.run(["convert", "a.raw", name].iter().chain(options)).ok();
        let source = fs::read(sandbox.path(name)).unwrap();
        let mount = Mount::new(&sandbox, &[name]);
        assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json"]);
        assert_holds(&mount.path("disk.raw"), &expected, name);
        let found = fs::metadata(mount.path("disk.raw")).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (20 * MIB + 512, 0o444), "{name}");
        assert!(File::options().write(true).open(mount.path("disk.raw")).is_err());
        let info: Value = serde_json::from_slice(&fs::read(mount.path("info.json")).unwrap()).unwrap();
        assert_eq!((&info["size_bytes"], &info["writable"]), (&(20 * MIB + 512).into(), &false.into()));
        assert_eq!(fs::metadata(mount.path("nothing")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        mount.end(&sandbox);
        assert_holds(&sandbox.path(name), &source, "the source");
    }
}

#[test]
fn any_part_is_read_by_several_at_once() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 24 * MIB, 300);
    let expected = fs::read(&disk).unwrap();
    sandbox.run(["convert", "a.raw", "a.qcow2", "--compress", "zstd"]).ok();
    let mount = Mount::new(&sandbox, &["a.qcow2"]);
    let file = File::open(mount.path("disk.raw")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (file, expected) = (&file, &expected);
            scope.spawn(move || {
                let mut random = tintype_formats::testing::Random(thread);
                for _ in 0..200 {
                    let offset = random.below(24 * MIB);
                    let mut part = vec![0; random.below(200_000).min(24 * MIB - offset) as usize];
                    file.read_exact_at(&mut part, offset).unwrap();
                    assert!(part == expected[offset as usize..][..part.len()], "{} bytes at {offset}", part.len());
                }
            });
        }
    });
    drop(file);
    mount.end(&sandbox);
}

#[test]
fn partitions_have_files_of_their_own() {
    if !can_mount() || !have("sgdisk") {
        return;
    }
    let sandbox = Sandbox::new();
    let disk = sandbox.raw_disk("a.raw", 32 * MIB, 90);
    sandbox.tool("sgdisk", ["-o", "-n", "1:2048:+8M", "-n", "3:0:0", "a.raw"]);
    let expected = fs::read(&disk).unwrap();
    sandbox.run(["convert", "a.raw", "a.vhdx"]).ok();
    let mount = Mount::new(&sandbox, &["a.vhdx"]);
    assert_eq!(names_in(&mount.folder), ["disk.raw", "info.json", "partition-1.raw", "partition-3.raw"]);
    let info: Value = serde_json::from_slice(&fs::read(mount.path("info.json")).unwrap()).unwrap();
    for partition in info["partitions"].as_array().unwrap() {
        let number = |name: &str| partition[name].as_u64().unwrap() as usize;
        let content = &expected[number("offset_bytes")..][..number("size_bytes")];
        assert_holds(&mount.path(partition["file"].as_str().unwrap()), content, "the partition");
    }
    assert_eq!(info["partitions"][0]["size_bytes"], 8 * MIB);
    mount.end(&sandbox);
}

#[test]
fn a_file_system_on_a_disk_is_mounted_through_a_loop_device() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    let sandbox = Sandbox::new();
    ext4(&sandbox, "a.raw");
    sandbox.run(["convert", "a.raw", "a.qcow2", "--compress", "zstd"]).ok();
    let mount = Mount::new(&sandbox, &["a.qcow2"]);
    let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "ro");
    assert_files_are_the_same(&sandbox);
    sandbox.run(["unmount", "m"]).fails(1, "it is in use");
    drop(inside);
    mount.end(&sandbox);
}

#[test]
fn what_is_written_goes_into_the_overlay_and_is_there_the_next_time() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    let sandbox = Sandbox::new();
    ext4(&sandbox, "a.raw");
    sandbox.run(["convert", "a.raw", "a.qcow2"]).ok();
    let source = fs::read(sandbox.path("a.qcow2")).unwrap();
    for (options, is_kept) in [(&["--overlay", "overlay"][..], true), (&["--writable"], false)] {
        let args = [options, &["a.qcow2"]].concat();
        let mount = Mount::new(&sandbox, &args);
        assert_eq!(fs::metadata(mount.path("disk.raw")).unwrap().mode() & 0o7777, 0o644);
        assert!(File::options().write(true).open(mount.path("info.json")).is_err());
        assert!(fs::write(mount.path("disk.raw"), "").is_err(), "a disk has its size");
        let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "rw,discard");
        fs::write(sandbox.path("loop/new"), "something new").unwrap();
        fs::remove_file(sandbox.path("loop/39")).unwrap();
        sandbox.tool("sync", ["-f", "loop"]);
        drop(inside);
        mount.end(&sandbox);
        let mount = Mount::new(&sandbox, &args);
        let inside = Loop::mount(&sandbox, &mount.path("disk.raw"), "ro");
        assert_eq!(sandbox.path("loop/new").exists(), is_kept);
        assert_eq!(sandbox.path("loop/39").exists(), !is_kept);
        drop(inside);
        mount.end(&sandbox);
    }
    assert_holds(&sandbox.path("a.qcow2"), &source, "the source");
    assert!(sandbox.path("overlay").exists());
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
fn signals_end_it_within_a_second_even_while_it_is_in_use() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    for (name, is_used) in [("INT", false), ("TERM", false), ("HUP", true)] {
        let mut mount = Mount::new(&sandbox, &["a.raw"]);
        let open = is_used.then(|| File::open(mount.path("disk.raw")).unwrap());
        let began = Instant::now();
        mount.signal(name);
        assert_eq!(mount.code(), Some(0), "{name}");
        assert!(began.elapsed() < Duration::from_millis(1500), "{name}: {:?}", began.elapsed());
        assert!(!is_mounted(&mount.folder), "{name}");
        let said = fs::read_to_string(sandbox.path("mount.log")).unwrap();
        assert_eq!(said.contains("still in use"), is_used, "{said}");
        assert!(open.is_none_or(|open| open.read_at(&mut [0; 10], MIB / 2).is_err()));
    }
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
fn it_goes_on_in_the_background_and_tells_before_what_fails() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    fs::create_dir(sandbox.path("m")).unwrap();
    let guard = Mount { child: None, folder: sandbox.path("m"), line: String::new() };
    sandbox.run(["mount", "--daemon", "missing.qcow2", "m"]).fails(1, "missing.qcow2");
    sandbox.run(["mount", "--daemon", "-f", "qcow2", "a.raw", "m"]).fails(1, "a.raw");
    assert!(!is_mounted(&guard.folder));
    let run = sandbox.run(["mount", "--daemon", "--json", "a.raw", "m"]).ok();
    let event: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&event["type"], &event["disks"]), (&"mounted".into(), &1.into()));
    assert_holds(&sandbox.path("m/disk.raw"), &fs::read(sandbox.path("a.raw")).unwrap(), "in the background");
    sandbox.run(["unmount", "m"]).ok();
    assert!(!is_mounted(&guard.folder));
    // Again and again: the end of one mount must not take the next one away.
    for _ in 0..10 {
        let run = sandbox.run(["mount", "--daemon", "--quiet", "a.raw", "m"]).ok();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        sandbox.run(["unmount", "m"]).ok();
    }
}

#[test]
fn what_cannot_be_mounted_or_unmounted_is_said_with_what_to_do() {
    if !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", MIB, 3);
    fs::create_dir_all(sandbox.path("full/inside")).unwrap();
    sandbox.run(["mount", "a.raw", "missing"]).fails(1, "there is no such folder");
    sandbox.run(["mount", "a.raw", "a.raw"]).fails(1, "it is no folder");
    sandbox.run(["mount", "a.raw", "full"]).fails(1, "it is not empty");
    sandbox.run(["unmount", "full"]).fails(1, "nothing is mounted there");
    sandbox.run(["unmount", "missing"]).fails(1, "missing");
    sandbox.run(["unmount", "/proc"]).fails(1, "is proc, not of tintype");
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.run(["mount", "-", "m"]).fails(2, "not standard input");
    sandbox.run(["mount", "--writable", "--overlay", "x", "a.raw", "m"]).fails(2, "cannot be used with");
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["mount", "--writable", "repo", "m"]).fails(2, "say REPO::NAME");
    sandbox.run(["mount", "repo::web", "m"]).fails(1, "there is none of that name");
    let mut mount = Mount::new(&sandbox, &["a.raw"]);
    sandbox.run(["mount", "a.raw", "m"]).fails(1, "something is mounted there already (fuse.tintype)");
    let open = File::open(mount.path("disk.raw")).unwrap();
    sandbox.run(["unmount", "m"]).fails(1, "--lazy");
    sandbox.run(["unmount", "--lazy", "m"]).ok();
    assert!(!is_mounted(&mount.folder));
    open.read_exact_at(&mut [0; 512], MIB / 2).expect("who has it open still reads");
    drop(open);
    assert_eq!(mount.code(), Some(0));
    // A mount whose program was killed is ended the same way.
    let mut mount = Mount::new(&sandbox, &["a.raw"]);
    mount.signal("KILL");
    assert_eq!(mount.code(), None);
    assert!(is_mounted(&mount.folder));
    sandbox.run(["unmount", "m"]).ok();
    assert!(!is_mounted(&mount.folder));
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
