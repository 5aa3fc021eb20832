//! A repository's folder on file systems that are full, or that may only be read.

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Sandbox, have, have_root};
use tintype::repository::store::{LocalStore, Store, StoreErrorKind};

/// A mounted file system, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(sandbox: &Sandbox, what: &str, args: &[&str]) -> Self {
        let folder = sandbox.path("mounted");
        std::fs::create_dir(&folder).expect("a folder");
        let status =
            Command::new("mount").args(args).arg(sandbox.path(what)).arg(&folder).status().expect("mount runs");
        assert!(status.success(), "mount {args:?} {what}");
        Mounted(folder)
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", options]).arg(&self.0).status().expect("mount runs");
        assert!(status.success(), "mount -o {options}");
    }

    /// All files below, but for folders.
    fn files(&self) -> Vec<String> {
        let output =
            Command::new("find").arg(&self.0).args(["-type", "f", "-printf", "%P\\n"]).output().expect("find runs");
        let mut files: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        files.sort();
        files
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Fills a file system of less than 16 MiB, makes room, and goes on.
fn check_full(mounted: &Mounted) {
    let store = LocalStore::create(&mounted.0.join("repository")).expect("it is made");
    store.put("small", b"here").expect("a put");
    let error = store.put("packs/3f/3f00", &vec![1; 16 << 20]).expect_err("it does not fit");
    assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}");
    assert_eq!(tintype::error::Error::from(error).kind(), tintype::error::Kind::NoSpace);
    assert_eq!(mounted.files(), ["repository/small"]);
    store.put("packs/3f/3f01", &vec![1; 1 << 20]).expect("smaller ones fit");
    store.sync().expect("a sync");
    assert_eq!(mounted.files(), ["repository/packs/3f/3f01", "repository/small"]);
}

#[test]
fn a_full_file_system_says_so_and_keeps_nothing_of_the_object() {
    if !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    check_full(&Mounted::new(&sandbox, "tmpfs", &["-t", "tmpfs", "-o", "size=4m"]));
}

#[test]
fn a_full_disk_says_so_and_keeps_nothing_of_the_object() {
    if !have_root() || !have("mkfs.ext4") {
        return;
    }
    let sandbox = Sandbox::new();
    std::fs::File::create(sandbox.path("disk")).and_then(|disk| disk.set_len(8 << 20)).expect("a disk");
    sandbox.tool("mkfs.ext4", ["-q", "disk"]);
    check_full(&Mounted::new(&sandbox, "disk", &["-t", "ext4", "-o", "loop"]));
}

#[test]
fn a_file_system_that_may_only_be_read_is_read() {
    if !have_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let mounted = Mounted::new(&sandbox, "tmpfs", &["-t", "tmpfs", "-o", "size=4m"]);
    std::fs::create_dir(mounted.0.join("tmp")).expect("a folder");
    std::fs::write(mounted.0.join("tmp/.tmp-left"), b"x").expect("a file");
    std::fs::write(mounted.0.join("object"), b"0123456789").expect("a file");
    mounted.remount("remount,ro");
    let store = LocalStore::open(&mounted.0).expect("it opens");
    assert_eq!(store.get("object", 10).expect("a get"), b"0123456789");
    let mut four = [0; 4];
    store.get_range("object", 6, &mut four).expect("a range");
    assert_eq!(&four, b"6789");
    assert_eq!(store.list("").expect("a list").len(), 1);
    store.sync().expect("there is nothing to sync");
    for error in [store.put("new", b"x"), store.put("packs/new", b"x"), store.delete("object")] {
        assert_eq!(error.expect_err("it may only be read").kind(), StoreErrorKind::Denied);
    }
}
