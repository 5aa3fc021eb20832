//! A repository whose keys have every role.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype::repository::Repository;
use tintype::repository::store::LocalStore;
use tintype_formats::secrets::Secret;
use tintype_tin::keys::Role;

use crate::common::{Run, Sandbox, assert_holds, cheap};

pub const DISK_BYTES: u64 = 2 << 20;

/// A repository with an admin, and a holder of each other role; every password is the holder's name.
pub struct Keys(pub Sandbox);

impl Keys {
    pub fn new() -> Self {
        let keys = Keys(Sandbox::new());
        for name in ["admin", "write", "read", "use", "maintain", "new"] {
            std::fs::write(keys.0.path(name), name).unwrap();
        }
        let repository = cheap::init(&keys.0.path("repo"), "admin");
        for (role, name) in [(Role::Write, "write"), (Role::Read, "read"), (Role::Use, "use")] {
            cheap::add(&repository, role, name);
        }
        keys
    }

    /// Runs tintype with somebody's password.
    pub fn run(&self, who: &str, args: &[&str]) -> Run {
        let output = self.command(args).env("TINTYPE_PASSWORD_FILE", who).output().expect("run tintype");
        Run::of(&output)
    }

    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.0.command(args);
        command.env("TINTYPE_REPOSITORY", "repo").env("TINTYPE_CACHE_DIR", self.0.path("cache"));
        command.stdin(std::process::Stdio::null());
        command
    }

    pub fn json(&self, who: &str, args: &[&str]) -> serde_json::Value {
        let out = self.run(who, &[args, &["--json"]].concat()).ok().stdout;
        serde_json::from_str(out.lines().last().filter(|_| out.starts_with("{\"")).unwrap_or(&out)).expect("JSON")
    }

    pub fn open(&self, who: &str) -> Arc<Repository> {
        let store = LocalStore::open(&self.0.path("repo")).expect("a store");
        let secret = &mut || Ok(Secret::passphrase(who.as_bytes().to_vec()));
        Repository::open(Box::new(store), Some(self.0.path("library-cache")), true, secret).expect("the repository")
    }

    pub fn disk(&self, name: &str, runs: u64) -> PathBuf {
        self.0.raw_disk(name, DISK_BYTES, runs)
    }

    #[track_caller]
    pub fn assert_restores(&self, who: &str, snapshot: &str, disk: &Path) {
        self.run(who, &["restore", snapshot, "restored.raw", "--force"]).ok();
        assert_holds(&self.0.path("restored.raw"), &std::fs::read(disk).unwrap(), snapshot);
    }
}
