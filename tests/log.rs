//! `--log` tells those who help others what a run did.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::Sandbox;

#[test]
fn a_run_can_be_followed_and_no_password_is_in_it() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("d.raw", 1 << 20, 4);
    let password = ["--password-command", "printf s3cret"];
    sandbox.run([&["init", "repo"][..], &password].concat()).ok();
    let quiet =
        sandbox.run([&["backup", "d.raw", "-r", "repo", "--log", "run.log", "-q"][..], &password].concat()).ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let log = fs::read_to_string(sandbox.path("run.log")).unwrap();
    for words in
        ["tintype version=", "\"backup\"", "open image name=\"d.raw\"", "open store", "put name=\"packs/", "syncing"]
    {
        assert!(log.contains(words), "{words} in {log}");
    }
    assert!(!log.contains("s3cret") && !log.contains('\u{1b}'), "{log}");
    assert_eq!(fs::metadata(sandbox.path("run.log")).unwrap().permissions().mode() & 0o777, 0o600);
    // Failures stand in it, too, and a second run is appended.
    let mut failing = sandbox.command(["digest", "missing.raw"]);
    assert!(!failing.env("TINTYPE_LOG", sandbox.path("run.log")).output().unwrap().status.success());
    let both = fs::read_to_string(sandbox.path("run.log")).unwrap();
    assert!(both.starts_with(&log) && both.contains("ERROR") && both.contains("missing.raw"), "{both}");
    sandbox.run(["formats", "--log", "no/such/folder/run.log"]).fails(1, "open the log");
    // A log that cannot be written is said once, and ends nothing.
    let full = sandbox.run(["digest", "d.raw", "--log", "/dev/full"]).ok();
    assert_eq!(full.stderr.matches("the log is not complete").count(), 1, "{}", full.stderr);
}
