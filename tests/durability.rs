//! File systems that do not sync a file or a folder: all of the file system is synced, or the repository is not made.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Run, Sandbox, have, names_in};

/// Makes the system calls fail that are named in FAIL_FSYNC, FAIL_FSYNC_FOLDER and FAIL_SYNCFS, with that error.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
static int failing(const char *name) {
    const char *value = getenv(name);
    if (!value) return 0;
    errno = atoi(value);
    return 1;
}
static int is_folder(int fd) { struct stat found; return fstat(fd, &found) == 0 && S_ISDIR(found.st_mode); }
int fsync(int fd) {
    if (failing(is_folder(fd) ? "FAIL_FSYNC_FOLDER" : "FAIL_FSYNC")) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (failing("FAIL_FSYNC")) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int syncfs(int fd) {
    if (failing("FAIL_SYNCFS")) return -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "syncfs"))(fd);
}
"#;

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;
const EDQUOT: i32 = 122;

struct Shim(PathBuf);

impl Shim {
    fn new(sandbox: &Sandbox) -> Option<Shim> {
        if !have("cc") {
            return None;
        }
        fs::write(sandbox.path("shim.c"), SHIM).expect("a source");
        sandbox.tool("cc", ["-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]);
        Some(Shim(sandbox.path("shim.so")))
    }

    fn run(&self, sandbox: &Sandbox, args: &[&str], failing: &[(&str, i32)]) -> Run {
        let mut command = sandbox.command(args);
        command.env("TINTYPE_PASSWORD", "pw").env("LD_PRELOAD", &self.0);
        failing.iter().for_each(|(call, errno)| _ = command.env(call, errno.to_string()));
        Run::of(&command.output().expect("tintype runs"))
    }
}

#[test]
fn a_file_system_that_syncs_only_as_a_whole_will_do() {
    let sandbox = Sandbox::new();
    let Some(shim) = Shim::new(&sandbox) else { return };
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    for errno in [EOPNOTSUPP, EINVAL, ENOTTY, EBADF, EACCES] {
        let failing = [("FAIL_FSYNC", errno), ("FAIL_FSYNC_FOLDER", errno)];
        let on = |args: &[&str]| shim.run(&sandbox, args, &failing).ok();
        on(&["init", "repo", "--no-recovery-key", "--reserve", "0"]);
        on(&["backup", "a.raw", "-r", "repo"]);
        on(&["convert", "a.raw", "a.qcow2", "--force"]);
        on(&["verify", "-r", "repo"]);
        fs::remove_dir_all(sandbox.path("repo")).unwrap();
    }
}

#[test]
fn one_that_does_not_is_refused_before_anything_is_there() {
    let sandbox = Sandbox::new();
    let Some(shim) = Shim::new(&sandbox) else { return };
    let before = names_in(&sandbox.path("."));
    for (errno, all) in [(EINVAL, ENOSYS), (EOPNOTSUPP, EOPNOTSUPP), (ENOSYS, 0)] {
        for call in ["FAIL_FSYNC", "FAIL_FSYNC_FOLDER"] {
            let failing = [(call, errno), ("FAIL_SYNCFS", all)];
            let refused = shim.run(&sandbox, &["init", "repo", "--no-recovery-key"], &failing);
            refused.fails(1, "the file system cannot make files durable");
            assert_eq!(names_in(&sandbox.path(".")), before, "{call} {errno}");
        }
    }
    // A folder that was there stays, and stays empty.
    fs::create_dir(sandbox.path("repo")).unwrap();
    let failing = [("FAIL_FSYNC", ENOSYS)];
    shim.run(&sandbox, &["init", "repo", "--no-recovery-key"], &failing).fails(1, "durable");
    assert_eq!(names_in(&sandbox.path("repo")), [""; 0]);
    let refused = shim.run(&sandbox, &["convert", "shim.c", "a.qcow2", "-f", "raw"], &failing);
    refused.fails(1, "the file system cannot make files durable");
    assert!(!sandbox.path("a.qcow2").exists());
}

#[test]
fn what_was_lost_is_never_passed_over() {
    let sandbox = Sandbox::new();
    let Some(shim) = Shim::new(&sandbox) else { return };
    sandbox.raw_disk("a.raw", 1 << 20, 4);
    shim.run(&sandbox, &["init", "repo", "--no-recovery-key"], &[]).ok();
    for (errno, code) in [(EIO, 1), (ENOSPC, 13), (EDQUOT, 13)] {
        for call in ["FAIL_FSYNC", "FAIL_FSYNC_FOLDER"] {
            let stored = shim.run(&sandbox, &["backup", "a.raw", "-r", "repo"], &[(call, errno)]);
            assert_eq!(stored.code, Some(code), "{call} {errno}: {}", stored.stderr);
            let converted = shim.run(&sandbox, &["convert", "a.raw", "a.qcow2", "--force"], &[(call, errno)]);
            assert_eq!(converted.code, Some(code), "{call} {errno}: {}", converted.stderr);
            let made = shim.run(&sandbox, &["init", "new", "--no-recovery-key"], &[(call, errno)]);
            assert_eq!(made.code, Some(code), "{call} {errno}: {}", made.stderr);
            assert!(!sandbox.path("new").exists(), "{call} {errno}");
        }
    }
    let listed = shim.run(&sandbox, &["snapshots", "-r", "repo", "--json"], &[]).ok();
    assert!(listed.stdout.contains("\"snapshots\": []"), "{}", listed.stdout);
}
