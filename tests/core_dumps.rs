//! A program that dies leaves no copy of its memory, which may hold passwords, keys and what is on disks.

mod common;

use common::Sandbox;

/// Prints how large a core file of tintype may be, and what it would hold, then a password.
const ASK: &str =
    "grep 'core file' /proc/$PPID/limits >&2; sed 's/^/filter /' /proc/$PPID/coredump_filter >&2; echo secret";

#[test]
fn no_core_is_dumped_while_a_secret_is_in_memory() {
    let sandbox = Sandbox::new();
    let asked = sandbox.run(["init", "repo", "--password-command", ASK]).ok();
    let words: Vec<Vec<_>> = asked.stderr.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.iter().any(|line| line[..] == ["Max", "core", "file", "size", "0", "0", "bytes"]), "{words:?}");
    assert!(words.iter().any(|line| line[..] == ["filter", "00000000"]), "{words:?}");
}
