//! A repository on a full file system, and how space comes back.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Sandbox, have, have_root};

const MIB: u64 = 1 << 20;

/// A small file system, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(sandbox: &Sandbox, kind: &str, mib: u64) -> Mounted {
        let folder = sandbox.path("fs");
        fs::create_dir(&folder).expect("a folder");
        let mut mount = Command::new("mount");
        match kind {
            "tmpfs" => mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]),
            _ => {
                File::create(sandbox.path("image")).and_then(|image| image.set_len(mib * MIB)).expect("an image");
                sandbox.tool(&format!("mkfs.{kind}"), ["-q", "image"]);
                mount.args(["-t", kind, "-o", "loop"]).arg(sandbox.path("image"))
            }
        };
        assert!(mount.arg(&folder).status().expect("mount runs").success(), "mount {kind}");
        Mounted(folder)
    }

    fn free_bytes(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.0).expect("a file system");
        found.f_bavail * found.f_frsize
    }

    /// Leaves so many bytes free, or none at all.
    fn fill(&self, left_bytes: u64) {
        let mut filler = File::create(self.0.join("filler")).expect("a file");
        let mut step = vec![0; MIB as usize];
        while !step.is_empty() {
            let wanted = match left_bytes {
                // Also what is free for root only.
                0 => step.len(),
                _ => self.free_bytes().saturating_sub(left_bytes).min(step.len() as u64) as usize,
            };
            if wanted == 0 || filler.write_all(&step[..wanted]).is_err() {
                step.truncate(step.len() / 2);
            }
            if left_bytes > 0 {
                filler.sync_all().expect("a sync");
            }
        }
        filler.sync_all().expect("a sync");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(&self.0).status();
    }
}

fn noise(path: &Path, mib: u64, seed: u64) {
    let mut bytes = vec![0; (mib * MIB) as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    fs::write(path, bytes).expect("a disk");
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    let output = sandbox.command(args).env("TINTYPE_PASSWORD", "pw").output().expect("tintype runs");
    Run::of(&output)
}

fn check_way_out(kind: &str, mib: u64) {
    if !have_root() || (kind != "tmpfs" && !have(&format!("mkfs.{kind}"))) {
        return;
    }
    let sandbox = Sandbox::new();
    let mounted = Mounted::new(&sandbox, kind, mib);
    let on = |args: &[&str]| run(&sandbox, &[args, &["-r", "fs/repo"]].concat());
    assert_eq!(run(&sandbox, &["init", "fs/repo", "--no-recovery-key"]).code, Some(0));
    noise(&sandbox.path("a.raw"), 8, 1);
    noise(&sandbox.path("b.raw"), mib + 16, 2);
    assert_eq!(on(&["backup", "a.raw", "--name", "a"]).code, Some(0));
    let reserve = sandbox.path("fs/repo/.reserve");
    let before = fs::metadata(&reserve).expect("a reserve").len();
    assert_eq!(on(&["backup", "b.raw", "--name", "b"]).code, Some(13), "{kind}");
    assert_eq!(fs::metadata(&reserve).expect("a reserve").len(), before, "a backup leaves the reserve alone");
    mounted.fill(0);
    let verified = on(&["verify", "--depth", "structure"]);
    assert_eq!((verified.code, verified.stderr.contains("ledger")), (Some(0), false), "{kind}: {}", verified.stderr);
    let forgot = on(&["forget", "a@latest"]);
    assert_eq!(forgot.code, Some(0), "{kind}: {}", forgot.stderr);
    let pruned = on(&["prune"]);
    assert_eq!(pruned.code, Some(0), "{kind}: {}", pruned.stderr);
    assert!(mounted.free_bytes() > 8 * MIB, "{kind}: {}", mounted.free_bytes());
    assert!(fs::metadata(&reserve).expect("a reserve").len() > MIB, "{kind}: it is made again");
    assert_eq!(on(&["verify"]).code, Some(0), "{kind}");
    assert_eq!(on(&["backup", "a.raw", "--name", "a"]).code, Some(0), "{kind}");
}

#[test]
fn a_full_memory_file_system_has_a_way_out() {
    check_way_out("tmpfs", 64);
}

#[test]
fn a_full_ext4_has_a_way_out() {
    check_way_out("ext4", 96);
}

#[test]
fn a_full_xfs_has_a_way_out() {
    check_way_out("xfs", 320);
}

#[test]
fn garbage_goes_before_anything_is_copied() {
    if !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let mounted = Mounted::new(&sandbox, "tmpfs", 260);
    let on = |args: &[&str]| run(&sandbox, &[args, &["-r", "fs/repo"]].concat());
    assert_eq!(run(&sandbox, &["init", "fs/repo", "--no-recovery-key", "--reserve", "0"]).code, Some(0));
    assert!(!sandbox.path("fs/repo/.reserve").exists());
    noise(&sandbox.path("a.raw"), 64, 1);
    noise(&sandbox.path("g.raw"), 32, 2);
    assert_eq!(on(&["backup", "a.raw", "--name", "a"]).code, Some(0));
    assert_eq!(on(&["backup", "g.raw", "--name", "g"]).code, Some(0));
    // Half of the chunks change: each pack is used in part.
    let mut disk = fs::read(sandbox.path("a.raw")).expect("the disk");
    let mut chunk = vec![0; 256 << 10];
    for place in (0..disk.len()).step_by(512 << 10) {
        blake3::Hasher::new().update(&place.to_le_bytes()).finalize_xof().fill(&mut chunk);
        disk[place..place + chunk.len()].copy_from_slice(&chunk);
    }
    fs::write(sandbox.path("a.raw"), &disk).expect("the disk");
    assert_eq!(on(&["backup", "a.raw", "--name", "a"]).code, Some(0));
    assert_eq!(on(&["forget", "g@latest"]).code, Some(0));
    assert_eq!(on(&["forget", "--name", "a", "--keep-last", "1"]).code, Some(0));
    mounted.fill(4 * MIB);
    let dry = on(&["prune", "--dry-run"]);
    assert!(dry.stdout.contains("would delete"), "{}", dry.stdout);
    let pruned = on(&["prune"]);
    assert_eq!(pruned.code, Some(0), "the garbage made space for all copies: {}{}", pruned.stdout, pruned.stderr);
    // 32 MiB of garbage and 32 MiB of unused halves.
    assert!(mounted.free_bytes() > 60 * MIB, "{}", mounted.free_bytes());
    assert_eq!(on(&["verify"]).code, Some(0));
    assert_eq!(on(&["restore", "a", "out.raw"]).code, Some(0));
    assert!(fs::read(sandbox.path("out.raw")).expect("the disk") == disk);
    // Now without garbage: what cannot be copied is left, and said.
    for place in (0..disk.len()).step_by(1 << 20) {
        disk[place..place + 1000].fill(7);
    }
    fs::write(sandbox.path("a.raw"), &disk).expect("the disk");
    fs::remove_file(mounted.0.join("filler")).expect("the filler");
    assert_eq!(on(&["backup", "a.raw", "--name", "a"]).code, Some(0));
    assert_eq!(on(&["forget", "--name", "a", "--keep-last", "1"]).code, Some(0));
    mounted.fill(2 * MIB);
    let dry = on(&["prune", "--dry-run"]);
    assert_eq!((dry.code, dry.stdout.contains("no space to copy")), (Some(3), true), "{}{}", dry.stdout, dry.stderr);
    let pruned = on(&["prune"]);
    assert_eq!(
        (pruned.code, pruned.stderr.contains("left for later")),
        (Some(3), true),
        "{}{}",
        pruned.stdout,
        pruned.stderr
    );
    assert_eq!(on(&["verify"]).code, Some(0));
}
