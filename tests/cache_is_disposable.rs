//! Every command works without the cache, whatever is wrong with it, and says so once.

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use common::{Run, Sandbox, have_root};

/// A user without any rights.
const NOBODY: u32 = 65534;

/// A repository of user nobody with a backup, and a disk.
fn prepare(sandbox: &Sandbox) {
    fs::write(sandbox.path("a.raw"), blake3::hash(b"disk").as_bytes().repeat(1 << 16)).expect("a disk");
    run(sandbox, &["init", "repo", "--no-recovery-key"], &[]).ok();
    run(sandbox, &["backup", "a.raw", "-r", "repo"], &[("TINTYPE_CACHE_DIR", "elsewhere")]).ok();
}

fn run(sandbox: &Sandbox, args: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_PASSWORD", "pw").envs(environment.iter().copied());
    Run::of(&command.output().expect("tintype runs"))
}

/// Runs every command that uses the index; each warns once at most, and `backup` exactly once.
fn works(sandbox: &Sandbox, environment: &[(&str, &str)]) {
    let on = |args: &[&str]| {
        let done = run(sandbox, &[args, &["-r", "repo"]].concat(), environment).ok();
        assert!(done.stderr.matches("the cache is not used").count() <= 1, "{args:?}: {}", done.stderr);
        done
    };
    on(&["snapshots"]);
    let stored = on(&["backup", "a.raw"]);
    assert_eq!(stored.stderr.matches("warning: the cache is not used").count(), 1, "{}", stored.stderr);
    on(&["restore", "a", "out.raw", "--force"]);
    assert_eq!(fs::read(sandbox.path("out.raw")).unwrap(), fs::read(sandbox.path("a.raw")).unwrap());
    on(&["verify"]);
    on(&["stats"]);
    on(&["forget", "--keep-last", "1", "--prune"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    fs::write(sandbox.path("file"), b"no folder").expect("a file");
    works(&sandbox, &[("TINTYPE_CACHE_DIR", "file")]);
    // And where there is no other place, from memory.
    works(&sandbox, &[("TINTYPE_CACHE_DIR", "/proc/no-such"), ("TMPDIR", "/proc/no-such")]);
}

#[test]
fn without_a_home_there_is_no_cache() {
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    works(&sandbox, &[("XDG_CACHE_HOME", ""), ("HOME", "")]);
}

#[test]
fn a_cache_on_a_full_disk_is_done_without() {
    if !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    prepare(&sandbox);
    let full = sandbox.path("full");
    fs::create_dir(&full).expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&full).status();
    assert!(mounted.expect("mount runs").success());
    let mut filler = fs::File::create(full.join("filler")).expect("a file");
    while filler.write_all(&[0; 4096]).is_ok() {}
    drop(filler);
    let result = std::panic::catch_unwind(|| works(&sandbox, &[("TINTYPE_CACHE_DIR", "full/t")]));
    _ = Command::new("umount").arg(&full).status();
    result.expect("it works");
}

/// Runs as another user, with a home of its own.
fn run_as(sandbox: &Sandbox, user: u32, args: &[&str]) -> Run {
    let mut command = Command::new("setpriv");
    let user = user.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", env!("CARGO_BIN_EXE_tintype")]);
    command.args(args).current_dir(sandbox.path(".")).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("TINTYPE_PASSWORD", "pw").env("HOME", sandbox.path("home"));
    Run::of(&command.output().expect("setpriv runs"))
}

/// A folder that other users reach: that of the tests is below one of root's.
fn open_sandbox() -> Sandbox {
    Sandbox::in_folder(Path::new("/tmp"))
}

fn owners_below(folder: &Path) -> Vec<u32> {
    let mut owners = vec![fs::symlink_metadata(folder).expect("a file").uid()];
    if folder.is_dir() {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.for_each(|entry| owners.extend(owners_below(&entry.expect("an entry").path())));
    }
    owners.sort_unstable();
    owners.dedup();
    owners
}

#[test]
fn root_leaves_nothing_of_its_own_in_a_users_repository_or_cache() {
    if !have_root() {
        return;
    }
    let sandbox = open_sandbox();
    fs::set_permissions(sandbox.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["home", "r", "out"] {
        fs::create_dir(sandbox.path(name)).unwrap();
        std::os::unix::fs::chown(sandbox.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::write(sandbox.path("a.raw"), blake3::hash(b"disk").as_bytes().repeat(1 << 16)).expect("a disk");
    run_as(&sandbox, NOBODY, &["init", "r/repo", "--no-recovery-key"]).ok();
    let by_root = run_as(&sandbox, 0, &["backup", "a.raw", "-r", "r/repo"]).ok();
    assert!(by_root.stderr.contains("belongs to user 65534"), "{}", by_root.stderr);
    assert_eq!(owners_below(&sandbox.path("r")), [NOBODY]);
    assert_eq!(owners_below(&sandbox.path("home")), [NOBODY]);
    for args in [&["snapshots"][..], &["backup", "a.raw"], &["restore", "a", "out/a.raw"], &["verify"]] {
        let done = run_as(&sandbox, NOBODY, &[args, &["-r", "r/repo"]].concat()).ok();
        assert!(!done.stderr.contains("cache"), "{args:?}: {}", done.stderr);
    }
    // What an older root has left is passed over, and what keeps the user out is named.
    let cache = fs::read_dir(sandbox.path("home/.cache/tintype")).unwrap().next().unwrap().unwrap().path();
    for folder in [cache.join("index/trusted"), cache.join("index")] {
        Command::new("chown").args(["-R", "0:0"]).arg(folder).status().unwrap();
    }
    run_as(&sandbox, NOBODY, &["backup", "a.raw", "-r", "r/repo"]).ok();
    Command::new("chown").args(["-R", "0:0"]).arg(sandbox.path("r/repo/snapshots")).status().unwrap();
    run_as(&sandbox, NOBODY, &["snapshots", "-r", "r/repo"]).fails(1, "\"snapshots\" belongs to root (mode 700)");
}
