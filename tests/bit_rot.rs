//! One flipped bit in any object: verify says so, restore gives no wrong byte as if it were right, and a copy mends it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Sandbox};

fn on(sandbox: &Sandbox, args: &[&str]) -> Run {
    let mut command = sandbox.command(args);
    if !sandbox.path("plain").exists() {
        command.env("TINTYPE_PASSWORD", "pw");
    }
    Run::of(&command.output().expect("tintype runs"))
}

fn copy(from: &Path, to: &Path) {
    _ = fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() { files.extend(files_below(&entry)) } else { files.push(entry) }
    }
    files.sort();
    files
}

fn prepare(sandbox: &Sandbox, init: &[&str]) -> Vec<u8> {
    let noise = |seed: u64, length: usize| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    if init.contains(&"--no-encryption") {
        fs::write(sandbox.path("plain"), "").unwrap();
    }
    on(sandbox, &[&["init", "repo", "--reserve", "1M"][..], init].concat()).ok();
    fs::write(sandbox.path("d.raw"), noise(1, 1 << 20)).unwrap();
    on(sandbox, &["backup", "d.raw", "--name", "vm", "-r", "repo"]).ok();
    fs::write(sandbox.path("d.raw"), noise(2, 1 << 20)).unwrap();
    on(sandbox, &["backup", "d.raw", "--name", "vm", "-r", "repo"]).ok();
    on(sandbox, &["verify", "-r", "repo"]).ok();
    copy(&sandbox.path("repo"), &sandbox.path("good"));
    fs::read(sandbox.path("d.raw")).unwrap()
}

/// Flips a bit of a file of the repository; the number chooses which.
fn flip(file: &Path, number: usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = (number * 7919 + bytes.len() / 3) % bytes.len();
    bytes[at] ^= 1 << (number % 8);
    fs::write(file, bytes).unwrap();
}

fn check(sandbox: &Sandbox, disk: &[u8], file: &str, number: usize) {
    copy(&sandbox.path("good"), &sandbox.path("repo"));
    _ = fs::remove_dir_all(sandbox.path("cache"));
    flip(&sandbox.path("repo").join(file), number);
    let about = format!("{file}, flip {number}");
    let verified = on(sandbox, &["verify", "-r", "repo"]);
    assert_eq!(verified.code, Some(4), "{about}: {}{}", verified.stdout, verified.stderr);
    let said = verified.stdout + &verified.stderr;
    assert!(said.contains(file), "{about}: {said}");
    let restored = on(sandbox, &["restore", "vm", "out.raw", "--force", "-r", "repo"]);
    if restored.code == Some(0) && !file.starts_with("sessions/") && !file.starts_with("snapshots/") {
        assert!(fs::read(sandbox.path("out.raw")).unwrap() == disk, "{about}");
    }
    let mended = on(sandbox, &["repair", "-r", "repo", "--from", "good"]);
    assert_eq!(mended.code, Some(0), "{about}: {}{}", mended.stdout, mended.stderr);
    on(sandbox, &["verify", "-r", "repo"]).ok();
}

#[test]
fn a_flip_in_any_object_is_found_and_mended() {
    let sandbox = Sandbox::new();
    let disk = prepare(&sandbox, &["--no-encryption"]);
    for (number, file) in files_below(&sandbox.path("good")).iter().enumerate() {
        let file = file.strip_prefix(sandbox.path("good")).unwrap().to_str().unwrap();
        check(&sandbox, &disk, file, number);
    }
}

#[test]
fn what_opens_a_repository_comes_from_a_copy_too() {
    let sandbox = Sandbox::new();
    let disk = prepare(&sandbox, &["--no-recovery-key"]);
    for (number, file) in files_below(&sandbox.path("good")).iter().enumerate() {
        let file = file.strip_prefix(sandbox.path("good")).unwrap().to_str().unwrap();
        if file == "repository" || file.starts_with("keys/") || file == ".reserve" {
            check(&sandbox, &disk, file, number);
            check(&sandbox, &disk, file, number + 90);
        }
    }
    // Both at once, and gone instead of damaged.
    let good = sandbox.path("good");
    let slot = files_below(&good.join("keys")).into_iter().find(|path| path.extension().is_none()).unwrap();
    let slot = slot.strip_prefix(&good).unwrap().to_owned();
    copy(&good, &sandbox.path("repo"));
    flip(&sandbox.path("repo").join(&slot), 3);
    fs::remove_file(sandbox.path("repo/repository")).unwrap();
    let dry = on(&sandbox, &["repair", "-r", "repo", "--from", "good", "--dry-run"]);
    assert_eq!((dry.code, dry.stdout.contains("would be taken from the copy: repository")), (Some(3), true), "{dry:?}");
    assert!(!sandbox.path("repo/repository").exists());
    on(&sandbox, &["repair", "-r", "repo", "--from", "good"]).ok();
    on(&sandbox, &["verify", "-r", "repo"]).ok();
}

#[test]
fn another_repository_is_no_copy() {
    let sandbox = Sandbox::new();
    prepare(&sandbox, &["--no-recovery-key"]);
    on(&sandbox, &["init", "other", "--no-recovery-key"]).ok();
    flip(&sandbox.path("repo/repository"), 1);
    let before = fs::read(sandbox.path("repo/repository")).unwrap();
    on(&sandbox, &["repair", "-r", "repo", "--from", "other"]).fails(4, "repository");
    // One that has the slot of the true one, and says something else.
    copy(&sandbox.path("good"), &sandbox.path("forged"));
    let forged = sandbox.path("forged/repository");
    let text = fs::read(&forged).unwrap();
    let at = text.windows(6).position(|part| part == b"262144").unwrap();
    let mut changed = text.clone();
    changed[at..at + 6].copy_from_slice(b"131072");
    fs::write(&forged, changed).unwrap();
    on(&sandbox, &["repair", "-r", "repo", "--from", "forged"]).fails(4, "repository");
    assert_eq!(fs::read(sandbox.path("repo/repository")).unwrap(), before);
}

#[test]
fn a_slot_that_was_removed_does_not_come_back() {
    let sandbox = Sandbox::new();
    prepare(&sandbox, &["--no-recovery-key"]);
    fs::write(sandbox.path("new"), "new\n").unwrap();
    on(&sandbox, &["key", "passwd", "-r", "repo", "--new-password-file", "new"]).ok();
    let repaired = on(&sandbox, &["repair", "-r", "repo", "--from", "good"]);
    assert_eq!(repaired.code, Some(12), "{repaired:?}");
    on(&sandbox, &["snapshots", "-r", "repo"]).fails(12, "");
}
