//! A repository with an admin and two hosts that may only write, and what is backed up there.
#![allow(dead_code, reason = "every test takes what it needs")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tintype::engine::backup::backup_as;
use tintype::progress::Progress;
use tintype::repository::Repository;
use tintype::repository::store::LocalStore;
use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;
use tintype_tin::keys::Role;

use super::common::{Run, Sandbox, cheap};
use super::stored::{backup_options, disk_to_back_up};

pub const DISK_BYTES: usize = 64 << 10;

/// What a snapshot says of itself.
#[derive(Clone)]
pub struct Says<'a> {
    pub name: &'a str,
    pub host: &'a str,
    pub disk: &'a str,
    pub bytes: usize,
    /// How long ago it was made.
    pub age: SignedDuration,
}

pub fn says(name: &str) -> Says<'_> {
    Says { name, host: "alpha", disk: "sda", bytes: DISK_BYTES, age: SignedDuration::ZERO }
}

pub fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// A repository with an admin and two hosts that may only write; every password is its owner's name.
pub struct Scene(pub Sandbox);

impl Scene {
    pub fn new() -> Scene {
        let scene = Scene(Sandbox::new());
        for name in ["admin", "web", "evil"] {
            fs::write(scene.0.path(name), name).unwrap();
        }
        let repository = cheap::init(&scene.0.path("repo"), "admin");
        ["web", "evil"].into_iter().for_each(|name| cheap::add(&repository, Role::Write, name));
        scene
    }

    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.0.command(args);
        command.env("TINTYPE_REPOSITORY", "repo").env("TINTYPE_PASSWORD_FILE", "admin").env("TZ", "UTC");
        command.stdin(std::process::Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(&self.command(args).output().expect("run tintype"))
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["--json"]].concat()).stdout;
        serde_json::from_str(&out).expect("JSON")
    }

    pub fn open(&self, who: &str) -> Arc<Repository> {
        let store = LocalStore::open(&self.0.path("repo")).expect("a store");
        let secret = &mut || Ok(Secret::passphrase(who.as_bytes().to_vec()));
        Repository::open(Box::new(store), Some(self.0.path("cache/tintype")), true, secret).expect("the repository")
    }

    /// Backs up a disk that is filled with one letter.
    pub fn back_up(&self, who: &str, fill: u8, says: &Says<'_>) -> Id {
        let path = self.0.path("disk");
        fs::write(&path, vec![fill; says.bytes]).unwrap();
        let options = tintype::sources::OpenOptions::default();
        let disk = tintype::sources::open_disk(&path, &options, None).expect("a disk").disk;
        let mut disks = [disk_to_back_up(says.disk, &*disk)];
        let options = backup_options(says.name, says.host, 1);
        let time = (Timestamp::now() - says.age).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let amend = |manifest: &mut tintype_tin::manifest::Manifest| manifest.time.clone_from(&time);
        let done = backup_as(&self.open(who), &mut disks, &options, &amend, &Progress::new()).expect("a backup");
        done.snapshot.expect("a snapshot")
    }

    /// Restores, and says what the disk is filled with.
    #[track_caller]
    pub fn restored(&self, args: &[&str], code: i32) -> (char, String) {
        let run = self.run(&[&["restore", "--force"], args, &["out.raw"]].concat());
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        (fs::read(self.0.path("out.raw")).unwrap()[0].into(), run.stderr)
    }

    #[track_caller]
    pub fn refuses(&self, args: &[&str], words: &[&str]) {
        let run = self.run(&[&["restore", "--force"], args, &["refused.raw"]].concat());
        assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "expected \"{word}\" in: {}", run.stderr);
        }
        assert!(!self.0.path("refused.raw").exists());
    }

    /// The end of a snapshot's session.
    pub fn end_of(&self, id: Id) -> std::path::PathBuf {
        let session = self.open("admin").committed(id).unwrap().unwrap().unwrap().session;
        self.0.path("repo").join(tintype::repository::names::session_end(session))
    }

    pub fn manifest_of(&self, id: Id) -> std::path::PathBuf {
        self.0.path("repo").join(tintype::repository::names::snapshot(id))
    }
}

/// Changes one bit in the middle.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}
