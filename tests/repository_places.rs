//! Where repositories are and who uses them: shared ones, names of other computers, reports that cannot be written.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Run, Sandbox, have, have_root};

/// Two users, and a group that both are in.
const ONE: u32 = 64001;
const OTHER: u32 = 64002;
const GROUP: u32 = 64010;

fn as_user(sandbox: &Sandbox, user: u32, umask: &str, args: &[&str]) -> Run {
    let mut command = Command::new("setpriv");
    let (user, group) = (user.to_string(), GROUP.to_string());
    command.args(["--reuid", &user, "--regid", &user, "--groups", &group, "sh", "-c"]);
    command.arg(format!("umask {umask}; exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_tintype")).args(args);
    command.current_dir(sandbox.path(".")).env_clear().env("PATH", "/usr/bin:/bin").env("TINTYPE_PASSWORD", "pw");
    command.env("TINTYPE_CACHE_DIR", sandbox.path(&format!("cache-{user}")));
    Run::of(&command.output().expect("setpriv runs"))
}

fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder");
        entries.for_each(|entry| found.extend(all_below(&entry.expect("an entry").path())));
    }
    found
}

#[test]
fn several_users_share_a_repository_whatever_their_umask() {
    if !have_root() || !have("setpriv") {
        return;
    }
    let sandbox = Sandbox::in_folder(Path::new("/tmp"));
    fs::set_permissions(sandbox.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(sandbox.path("a.raw"), blake3::hash(b"disk").as_bytes().repeat(1 << 12)).expect("a disk");
    for (name, owner) in [("place".to_owned(), ONE), (format!("cache-{ONE}"), ONE), (format!("cache-{OTHER}"), OTHER)] {
        fs::create_dir(sandbox.path(&name)).unwrap();
        std::os::unix::fs::chown(sandbox.path(&name), Some(owner), Some(GROUP)).unwrap();
    }
    fs::set_permissions(sandbox.path("place"), fs::Permissions::from_mode(0o2750)).unwrap();
    let init = ["init", "place/repo", "--no-recovery-key", "--shared", "group", "--reserve", "1M"];
    as_user(&sandbox, ONE, "077", &init).ok();
    for (user, umask) in [(ONE, "077"), (OTHER, "777"), (OTHER, "000"), (ONE, "022"), (0, "077")] {
        as_user(&sandbox, user, umask, &["backup", "a.raw", "-r", "place/repo"]).ok();
        as_user(&sandbox, user, umask, &["forget", "--keep-last", "2", "--prune", "-r", "place/repo"]).ok();
        as_user(&sandbox, user, umask, &["verify", "-r", "place/repo"]).ok();
    }
    for path in all_below(&sandbox.path("place/repo")) {
        let found = fs::symlink_metadata(&path).unwrap();
        let expected = if found.is_dir() { 0o2770 } else { 0o660 };
        assert_eq!(found.permissions().mode() & 0o7777, expected, "{}", path.display());
        assert_eq!(found.gid(), GROUP, "{}", path.display());
        assert_ne!(found.uid(), 0, "{}", path.display());
    }
}

#[test]
fn one_that_is_not_shared_stays_private_in_a_folder_that_looks_shared() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("repo")).unwrap();
    fs::set_permissions(sandbox.path("repo"), fs::Permissions::from_mode(0o2775)).unwrap();
    let mut command = sandbox.command(["init", "repo", "--no-encryption"]);
    Run::of(&command.output().unwrap()).ok();
    for path in all_below(&sandbox.path("repo")).iter().filter(|path| **path != sandbox.path("repo")) {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_name_that_looks_remote_is_refused_by_every_command() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 16, 1);
    fs::write(sandbox.path("new"), "new\n").unwrap();
    let words = "remote repositories are not supported yet";
    for repo in ["sftp://host/path", "s3://bucket/x", "host:repo", "me@host:/srv/repo", "rclone:x", "file:///x"] {
        let commands: &[&[&str]] = &[
            &["backup", "a.raw", "-r", repo],
            &["snapshots", "-r", repo],
            &["restore", "a", "out.raw", "-r", repo],
            &["forget", "--keep-last", "1", "-r", repo],
            &["prune", "-r", repo],
            &["verify", "-r", repo],
            &["repair", "-r", repo],
            &["stats", "-r", repo],
            &["key", "list", "-r", repo],
            &["export", "a", "a.tin", "-r", repo],
            &["import", "a.tin", "-r", repo],
            &["tag", "a", "--set", "x=y", "-r", repo],
            &["init", repo],
        ];
        for args in commands {
            let run = Run::of(&sandbox.command(*args).env("TINTYPE_PASSWORD", "pw").output().unwrap());
            assert_eq!((run.code, run.stderr.contains(words)), (Some(2), true), "{args:?}: {}", run.stderr);
        }
        let address = format!("{repo}::a");
        for args in [&["convert", &address, "out.raw"][..], &["info", &address], &["digest", &address]] {
            let run = Run::of(&sandbox.command(args).env("TINTYPE_PASSWORD", "pw").output().unwrap());
            assert_eq!((run.code, run.stderr.contains(words)), (Some(2), true), "{args:?}: {}", run.stderr);
        }
    }
    // Targets, too: a file of that name here is not what was meant.
    for target in ["host:out.raw", "user@host:out.qcow2", "ssh://host/out.raw"] {
        sandbox.run(["convert", "a.raw", target]).fails(2, "remote targets are not supported yet");
        sandbox.run(["convert", target, "b.raw"]).fails(2, "remote sources are not supported yet");
        sandbox.run(["info", target]).fails(2, "remote sources are not supported yet");
        assert!(!sandbox.path(target).exists());
    }
    sandbox.run(["convert", "a.raw", "./host:out.raw"]).ok();
    // A folder that really has such a name, and one after a slash.
    for repo in ["a:b", "./c:d"] {
        fs::create_dir(sandbox.path(repo)).unwrap();
        sandbox.run(["init", repo, "--no-encryption"]).ok();
        sandbox.run(["snapshots", "-r", repo]).ok();
    }
    sandbox.run(["snapshots", "-r", "no-such"]).fails(10, "mounted");
}

#[test]
fn what_was_committed_is_reported_so_where_the_report_cannot_be_written() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("a.raw", 1 << 16, 1);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let to_full = |args: &[&str]| {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let output = sandbox.command(args).args(["-r", "repo"]).stdout(Stdio::from(full)).output();
        Run::of(&output.expect("tintype runs"))
    };
    let stored = to_full(&["backup", "a.raw", "--json"]).ok();
    assert!(stored.stderr.contains("is stored; the report could not be written"), "{}", stored.stderr);
    to_full(&["backup", "a.raw"]).ok();
    to_full(&["forget", "--keep-last", "1"]).ok();
    to_full(&["prune"]).ok();
    to_full(&["snapshots"]).fails(13, "standard output");
    let listed = sandbox.run(["snapshots", "-r", "repo", "--json"]).ok();
    assert_eq!(listed.stdout.matches("\"id\"").count(), 1, "{}", listed.stdout);
    // A recovery key that nobody has seen is no success.
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let made = sandbox.command(["init", "other"]).env("TINTYPE_PASSWORD", "pw").stdout(Stdio::from(full)).output();
    Run::of(&made.unwrap()).fails(1, "its recovery key could not be written");
}

/// Scripts take exit code 10 as "make one": what cannot be looked at is no such case.
#[test]
fn a_repository_behind_a_closed_door_is_not_a_missing_one() {
    if !have_root() || !have("setpriv") {
        return;
    }
    let sandbox = Sandbox::in_folder(Path::new("/tmp"));
    fs::set_permissions(sandbox.path("."), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::create_dir(sandbox.path("closed")).expect("a folder");
    sandbox.run(["init", "closed/repo", "--no-encryption"]).ok();
    fs::set_permissions(sandbox.path("closed"), fs::Permissions::from_mode(0o700)).expect("a mode");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_tintype")]);
    command.args(["snapshots", "-r", "closed/repo"]).current_dir(sandbox.path("."));
    Run::of(&command.output().expect("setpriv")).fails(1, "Permission denied");
}
