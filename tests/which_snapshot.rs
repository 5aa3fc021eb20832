//! A name means the snapshots of one key owner, a time means a time, and what cannot be read is not passed over in silence.

mod common;
#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Run, Sandbox, cheap};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stored::{backup_options, disk_to_back_up};
use tintype::engine::Progress;
use tintype::engine::backup::backup_as;
use tintype::repository::Repository;
use tintype::repository::resolve::Wishes;
use tintype::repository::store::{Listed, LocalStore, Store, StoreError};
use tintype_formats::tin::id::Id;
use tintype_formats::tin::keys::Role;
use tintype_formats::tin::slot::Secret;

const DISK_BYTES: usize = 64 << 10;

/// What a snapshot says of itself.
#[derive(Clone)]
struct Says<'a> {
    name: &'a str,
    host: &'a str,
    disk: &'a str,
    bytes: usize,
    /// How long ago it was made.
    age: SignedDuration,
}

fn says(name: &str) -> Says<'_> {
    Says { name, host: "alpha", disk: "sda", bytes: DISK_BYTES, age: SignedDuration::ZERO }
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// A repository with an admin and two hosts that may only write; every password is its owner's name.
struct Scene(Sandbox);

impl Scene {
    fn new() -> Scene {
        let scene = Scene(Sandbox::new());
        for name in ["admin", "web", "evil"] {
            fs::write(scene.0.path(name), name).unwrap();
        }
        let repository = cheap::init(&scene.0.path("repo"), "admin");
        ["web", "evil"].into_iter().for_each(|name| cheap::add(&repository, Role::Write, name));
        scene
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.0.command(args);
        command.env("TINTYPE_REPOSITORY", "repo").env("TINTYPE_PASSWORD_FILE", "admin").env("TZ", "UTC");
        command.stdin(std::process::Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        Run::of(&self.command(args).output().expect("run tintype"))
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["--json"]].concat()).stdout;
        serde_json::from_str(&out).expect("JSON")
    }

    fn open(&self, who: &str) -> Arc<Repository> {
        let store = LocalStore::open(&self.0.path("repo")).expect("a store");
        let secret = &mut || Ok(Secret::passphrase(who.as_bytes().to_vec()));
        Repository::open(Box::new(store), Some(self.0.path("cache/tintype")), true, secret).expect("the repository")
    }

    /// Backs up a disk that is filled with one letter.
    fn back_up(&self, who: &str, fill: u8, says: &Says<'_>) -> Id {
        let path = self.0.path("disk");
        fs::write(&path, vec![fill; says.bytes]).unwrap();
        let options = tintype::sources::OpenOptions::default();
        let disk = tintype::sources::open_disk(&path, &options, None).expect("a disk").disk;
        let mut disks = [disk_to_back_up(says.disk, &*disk)];
        let options = backup_options(says.name, says.host, 1);
        let time = (Timestamp::now() - says.age).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let amend = |manifest: &mut tintype_formats::tin::manifest::Manifest| manifest.time.clone_from(&time);
        let done = backup_as(&self.open(who), &mut disks, &options, &amend, &Progress::new()).expect("a backup");
        done.snapshot.expect("a snapshot")
    }

    /// Restores, and says what the disk is filled with.
    #[track_caller]
    fn restored(&self, args: &[&str], code: i32) -> (char, String) {
        let run = self.run(&[&["restore", "--force"], args, &["out.raw"]].concat());
        assert_eq!(run.code, Some(code), "{}", run.stderr);
        (fs::read(self.0.path("out.raw")).unwrap()[0].into(), run.stderr)
    }

    #[track_caller]
    fn refuses(&self, args: &[&str], words: &[&str]) {
        let run = self.run(&[&["restore", "--force"], args, &["refused.raw"]].concat());
        assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "expected \"{word}\" in: {}", run.stderr);
        }
        assert!(!self.0.path("refused.raw").exists());
    }

    /// The end of a snapshot's session.
    fn end_of(&self, id: Id) -> std::path::PathBuf {
        let session = self.open("admin").committed(id).unwrap().unwrap().unwrap().session;
        self.0.path("repo").join(tintype::repository::names::session_end(session))
    }

    fn manifest_of(&self, id: Id) -> std::path::PathBuf {
        self.0.path("repo").join(tintype::repository::names::snapshot(id))
    }
}

/// Changes one bit in the middle.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_name_of_several_key_owners_is_refused_until_one_is_said() {
    let scene = Scene::new();
    let own = scene.back_up("web", b'w', &says("vm"));
    let evil = scene.back_up("evil", b'e', &says("vm"));
    let (own_text, evil_text) = (own.to_string(), evil.to_string());
    for args in [["vm"], ["vm@latest"], ["vm@2099-01-01"]] {
        scene.refuses(&args, &["2 key owners", "web", "evil", &own_text, &evil_text, "--holder"]);
    }
    scene.run(&["convert", "::vm", "x.raw"]).fails(1, "2 key owners");
    scene.run(&["digest", "::vm"]).fails(1, "2 key owners");
    scene.run(&["export", "vm", "x.tin"]).fails(1, "2 key owners");
    scene.run(&["forget", "vm@latest"]).fails(1, "2 key owners");
    scene.run(&["tag", "vm@latest", "--set", "a=b"]).fails(1, "2 key owners");
    scene.run(&["verify", "vm"]).fails(1, "2 key owners");
    let (found, stderr) = scene.restored(&["web/vm"], 0);
    assert_eq!(found, 'w');
    assert!(stderr.contains(&own_text) && stderr.contains("key owner web"), "{stderr}");
    assert_eq!(scene.restored(&["vm", "--holder", "web"], 0).0, 'w');
    assert_eq!(scene.restored(&[&format!("vm@{evil}")], 0).0, 'e');
    assert_eq!(scene.restored(&[&evil_text], 0).0, 'e');
    assert_eq!(scene.restored(&["evil/vm@latest"], 0).0, 'e');
    let mut command = scene.command(&["digest", "::vm"]);
    assert!(command.env("TINTYPE_HOLDER", "web").output().unwrap().status.success());
    scene.refuses(&["vm", "--holder", "nobody"], &["only by others"]);
    // The writer's own next backup builds on its own.
    let next = scene.back_up("web", b'w', &says("vm"));
    let parent = scene.open("admin").committed(next).unwrap().unwrap().unwrap().manifest.parent;
    assert_eq!(parent, Some(own));
}

#[test]
fn a_reinstalled_host_with_a_new_key_of_its_name_goes_on() {
    let scene = Scene::new();
    scene.back_up("web", b'o', &Says { age: days(2), ..says("vm") });
    fs::write(scene.0.path("again"), "again").unwrap();
    scene.run(&["key", "add", "--role", "write", "--name", "web", "--new-password-file", "again"]).ok();
    scene.back_up("again", b'n', &says("vm"));
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
}

#[test]
fn the_newest_is_the_newest_by_time() {
    let scene = Scene::new();
    scene.back_up("web", b'n', &says("vm"));
    scene.back_up("web", b'o', &Says { age: days(3), ..says("vm") });
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
    // The cache says the same.
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
}

#[test]
fn what_is_dated_in_the_future_is_not_the_newest() {
    let scene = Scene::new();
    let first = scene.back_up("web", b'f', &Says { age: days(-400), ..says("vm") });
    let (found, stderr) = scene.restored(&["vm"], 0);
    assert_eq!(found, 'f');
    assert!(stderr.contains("dated in the future") && stderr.contains("clock"), "{stderr}");
    let second = scene.back_up("web", b's', &says("vm"));
    scene.refuses(&["vm"], &["dated in the future", &first.to_string(), &second.to_string(), "clock says"]);
    assert_eq!(scene.restored(&["vm@-0d"], 0).0, 's');
    assert_eq!(scene.restored(&[&format!("vm@{second}")], 0).0, 's');
    // Clocks that are a few hours apart are no reason.
    scene.run(&["forget", &first.to_string()]).ok();
    scene.back_up("web", b't', &Says { age: SignedDuration::from_hours(-20), ..says("vm") });
    assert_eq!(scene.restored(&["vm"], 0).0, 't');
}

#[test]
fn another_host_is_said_and_another_disk_as_well_is_refused() {
    let scene = Scene::new();
    scene.back_up("web", b'a', &Says { age: days(3), ..says("vm") });
    scene.back_up("web", b'b', &Says { age: days(2), host: "beta", ..says("vm") });
    let (found, stderr) = scene.restored(&["vm"], 0);
    assert_eq!(found, 'b');
    assert!(stderr.contains("beta") && stderr.contains("alpha"), "{stderr}");
    let other = Says { age: days(1), host: "gamma", bytes: 2 * DISK_BYTES, ..says("vm") };
    scene.back_up("web", b'c', &other);
    scene.refuses(&["vm"], &["another host and another disk", "gamma", "beta", "--host"]);
    assert_eq!(scene.restored(&["vm", "--host", "beta"], 0).0, 'b');
    assert_eq!(scene.restored(&["vm", "--host", "gamma"], 0).0, 'c');
    // It goes on.
    scene.back_up("web", b'd', &Says { age: days(0), ..other });
    assert_eq!(scene.restored(&["vm"], 0).0, 'd');
}

#[test]
fn snapshots_are_named_by_times() {
    let scene = Scene::new();
    for (fill, age) in [(b'1', 10), (b'2', 5), (b'3', 0)] {
        scene.back_up("web", fill, &Says { age: days(age), ..says("vm") });
    }
    let at = |age: i64, format: &str| format!("vm@{}", (Timestamp::now() - days(age)).strftime(format));
    assert_eq!(scene.restored(&[&at(10, "%Y-%m-%d")], 0).0, '1');
    assert_eq!(scene.restored(&[&at(6, "%Y-%m-%d")], 0).0, '1');
    assert_eq!(scene.restored(&[&at(5, "%Y-%m-%d")], 0).0, '2');
    assert_eq!(scene.restored(&[&at(4, "%Y-%m-%dT%H:%M")], 0).0, '2');
    assert_eq!(scene.restored(&["vm@-7d"], 0).0, '1');
    assert_eq!(scene.restored(&["vm@-1d"], 0).0, '2');
    assert_eq!(scene.restored(&["vm@latest"], 0).0, '3');
    scene.refuses(&[&at(11, "%Y-%m-%d")], &["none was made by", "the oldest is"]);
    for args in [["forget", "vm@-7d"], ["forget", "vm"]] {
        scene.run(&args).fails(1, "NAME@latest");
    }
    scene.run(&["tag", "vm@-7d", "--set", "a=b"]).fails(1, "NAME@latest");
    scene.run(&["tag", "vm", "--set", "a=b"]).fails(1, "NAME@latest");
    assert_eq!(scene.json(&["snapshots"])["snapshots"].as_array().unwrap().len(), 3);
    // The end of a day is that of the local one.
    let day = |zone: &str, text: &str| {
        let run = Run::of(&scene.command(&["restore", text, "zone.raw", "--force"]).env("TZ", zone).output().unwrap());
        run.ok();
        char::from(fs::read(scene.0.path("zone.raw")).unwrap()[0])
    };
    let exact = Timestamp::now() - days(20);
    let midnight = exact.strftime("%Y-%m-%d").to_string();
    let start: Timestamp = format!("{midnight}T00:30:00Z").parse().unwrap();
    scene.back_up("web", b'0', &Says { age: days(60), ..says("vm") });
    scene.back_up("web", b'z', &Says { age: Timestamp::now().duration_since(start), ..says("vm") });
    let yesterday = (start - days(1)).strftime("vm@%Y-%m-%d").to_string();
    assert_eq!([day("UTC", &yesterday), day("EST5", &yesterday)], ['0', 'z']);
}

#[test]
fn odd_names_stay_addressable_and_take_nobody_elses_place() {
    let scene = Scene::new();
    let own = scene.back_up("web", b'w', &says("vm"));
    let text = own.to_string();
    for (fill, name) in [(b'1', "web/vm"), (b'2', "vm@latest"), (b'3', &text[..12]), (b'4', &text), (b'5', "a::b?c d/")]
    {
        scene.back_up("evil", fill, &says(name));
    }
    for text in ["web/vm", "vm@latest", &text[..12]] {
        scene.refuses(&[text], &["it can mean"]);
    }
    assert_eq!(scene.restored(&[&text], 0).0, 'w');
    assert_eq!(scene.restored(&[&format!("vm@{text}")], 0).0, 'w');
    assert_eq!(scene.restored(&["vm"], 0).0, 'w');
    assert_eq!(scene.restored(&["web/vm", "--holder", "evil"], 0).0, '1');
    assert_eq!(scene.restored(&["evil/web/vm"], 0).0, '1');
    assert_eq!(scene.restored(&["vm@latest@latest"], 0).0, '2');
    assert_eq!(scene.restored(&[&format!("evil/{}", &text[..12])], 0).0, '3');
    assert_eq!(scene.restored(&[&format!("{text}@latest")], 0).0, '4');
    assert_eq!(scene.restored(&["a::b?c d/"], 0).0, '5');
}

#[test]
fn ids_are_cut_as_short_as_they_may_be() {
    let scene = Scene::new();
    let (a, b) = (scene.back_up("web", b'a', &says("vm")), scene.back_up("web", b'b', &says("vm")));
    let shown = scene.run(&["snapshots"]).ok().stdout;
    let column: Vec<&str> = shown.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(column.len(), 2, "{shown}");
    for (short, id) in column.iter().zip([a, b]) {
        assert!(short.len() >= 8 && id.to_string().starts_with(short), "{shown}");
        scene.restored(&[short], 0);
        scene.restored(&[&format!("vm@{short}")], 0);
    }
    scene.refuses(&[&a.to_string()[..6]], &["2 snapshots match", &a.to_string(), &b.to_string()]);
    scene.run(&["forget", &a.to_string()[..6]]).fails(1, "2 snapshots match");
    let local = Run::of(&scene.command(&["snapshots"]).env("TZ", "EST5").output().unwrap()).ok().stdout;
    assert!(local.contains(" EST "), "{local}");
    let json = scene.json(&["snapshots"]);
    assert_eq!(json["snapshots"][0]["id"], a.to_string());
    assert!(json["snapshots"][0]["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn commands_say_which_snapshot_they_take() {
    let scene = Scene::new();
    let id = scene.back_up("web", b'a', &says("vm")).to_string();
    for args in [["digest", "::vm"], ["info", "::vm"], ["map", "::vm"], ["export", "vm"], ["restore", "vm"]] {
        let target = format!("{}.raw", args[0]);
        let args =
            if matches!(args[0], "export" | "restore") { [&args[..], &[&target]].concat() } else { args.to_vec() };
        let stderr = scene.run(&args).ok().stderr;
        assert!(
            stderr.contains(&id) && stderr.contains("UTC") && stderr.contains("key owner web"),
            "{args:?}: {stderr}"
        );
        if args.len() == 2 {
            let json = scene.run(&[&args[..], &["--json"]].concat()).ok();
            let event: Value = serde_json::from_str(json.stderr.lines().next().unwrap()).unwrap();
            assert_eq!((&event["type"], &event["id"]), (&"snapshot".into(), &id.clone().into()));
            assert_eq!(scene.run(&[&args[..], &["-q"]].concat()).ok().stderr, "");
        }
    }
}

type Harm<'a> = &'a dyn Fn(&Scene, Id);

/// A repository with two snapshots, and what is done to the newer one.
fn harmed(harm: impl Fn(&Scene, Id)) -> (Scene, Id, Id) {
    let scene = Scene::new();
    let old = scene.back_up("web", b'o', &Says { age: days(1), ..says("vm") });
    let new = scene.back_up("web", b'n', &says("vm"));
    harm(&scene, new);
    (scene, old, new)
}

#[test]
fn a_newer_damaged_snapshot_is_not_passed_over_in_silence() {
    let harms: [(&str, Harm<'_>); 4] = [
        ("manifest flipped", &|scene, id| flip(&scene.manifest_of(id))),
        ("manifest missing", &|scene, id| fs::remove_file(scene.manifest_of(id)).unwrap()),
        ("end flipped", &|scene, id| flip(&scene.end_of(id))),
        // The cache knows it as whole.
        ("flipped after it was seen", &|scene, id| {
            scene.restored(&["vm"], 0);
            flip(&scene.manifest_of(id));
        }),
    ];
    for (about, harm) in harms {
        let (scene, old, new) = harmed(harm);
        let new_text = new.to_string();
        scene.refuses(&["vm"], &[&new_text, "damaged", "--ignore-damaged"]);
        scene.refuses(&[&new_text], &["find the snapshot"]);
        scene.run(&["convert", "::vm", "x.raw"]).fails(1, &new_text);
        let (found, stderr) = scene.restored(&["vm", "--ignore-damaged"], 3);
        assert_eq!((found, stderr.contains(&new_text)), ('o', true), "{about}: {stderr}");
        // With a warm cache, only the manifest that is taken is read.
        let code = if about == "flipped after it was seen" { 0 } else { 3 };
        assert_eq!(scene.restored(&[&format!("vm@{old}")], code).0, 'o', "{about}");
        assert_eq!(scene.restored(&[&old.to_string()], 0).0, 'o');
        scene.run(&["digest", "::vm", "--ignore-damaged"]).fails(3, &new_text);
        let listed = scene.run(&["snapshots"]);
        assert_eq!(listed.code, Some(3));
        assert!(listed.stdout.contains("damaged") && listed.stdout.contains(&new_text[..8]), "{}", listed.stdout);
        assert_eq!(scene.json(&["snapshots"])["damaged"][0]["id"], new_text);
        assert_eq!(scene.run(&["verify"]).code, Some(4), "{about}");
        // Of another holder, it is nobody's business here.
        scene.back_up("evil", b'e', &says("other"));
        assert_eq!(scene.restored(&["other"], 0).0, 'e');
    }
}

#[test]
fn a_damaged_snapshot_that_is_older_or_of_another_name_is_no_reason() {
    let scene = Scene::new();
    let other = scene.back_up("web", b'x', &Says { age: days(0), ..says("other") });
    let end = scene.end_of(other);
    let old = scene.back_up("web", b'o', &Says { age: days(1), ..says("vm") });
    scene.back_up("web", b'n', &says("vm"));
    flip(&scene.manifest_of(old));
    flip(&end);
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
    assert_eq!(scene.run(&["snapshots", "vm"]).code, Some(3));
}

#[test]
fn what_counts_for_nothing_keeps_nobody_from_anything() {
    let scene = Scene::new();
    let id = scene.back_up("web", b'w', &says("vm"));
    // Another's end for the same snapshot, a stray manifest, and a commit of what never was.
    let evil = scene.open("evil");
    let session = evil.protocol().begin_session("backup", &[], false).unwrap();
    let commit = tintype::repository::protocol::End::Commit { snapshot: id, manifest: [7; 32] };
    evil.protocol().end_session(session, commit).unwrap();
    fs::write(scene.0.path(&format!("repo/snapshots/{}", "ff".repeat(16))), "stray").unwrap();
    let session = evil.protocol().begin_session("backup", &[], false).unwrap();
    let never = tintype::repository::protocol::End::Commit { snapshot: Id([0xfe; 16]), manifest: [7; 32] };
    evil.protocol().end_session(session, never).unwrap();
    assert_eq!(scene.restored(&["vm"], 0).0, 'w');
    let damaged = scene.json(&["snapshots"])["damaged"].clone();
    assert_eq!((damaged.as_array().unwrap().len(), &damaged[0]["holder"]), (1, &"evil".into()));
}

#[test]
fn a_snapshot_that_lost_its_end_is_kept_and_can_be_had_back() {
    let lose = |scene: &Scene, id: Id| fs::remove_file(scene.end_of(id)).unwrap();
    let (scene, old, new) = harmed(lose);
    let (found, stderr) = scene.restored(&["vm"], 0);
    assert_eq!((found, stderr.contains("not committed")), ('o', true), "{stderr}");
    let listed = scene.run(&["snapshots"]).ok().stdout;
    assert!(listed.contains("not committed") && listed.contains(&new.to_string()[..8]), "{listed}");
    assert_eq!(scene.json(&["snapshots"])["uncommitted"][0]["id"], new.to_string());
    scene.run(&["verify"]).ok();
    for _ in 0..2 {
        scene.run(&["prune", "--fence-after", "0", "--wait", "0s", "--max-unused", "0%"]).ok();
    }
    let repaired = scene.run(&["repair"]).ok().stdout;
    assert!(repaired.contains("finished: snapshot"), "{repaired}");
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
    assert_eq!(scene.json(&["snapshots"])["uncommitted"].as_array().unwrap().len(), 0);
    assert_eq!(scene.restored(&[&old.to_string()], 0).0, 'o');
    scene.run(&["verify"]).ok();
}

#[test]
fn a_snapshot_that_lost_its_end_can_be_discarded() {
    let (scene, _, new) = harmed(|scene, id| fs::remove_file(scene.end_of(id)).unwrap());
    scene.run(&["forget", &new.to_string()[..12]]).ok();
    scene.run(&["prune", "--fence-after", "0", "--max-unused", "0%"]).ok();
    assert_eq!(scene.json(&["snapshots"])["uncommitted"].as_array().unwrap().len(), 0);
    let repaired = scene.run(&["repair"]).ok().stdout;
    assert!(!repaired.contains("finished"), "{repaired}");
    assert_eq!(scene.restored(&["vm"], 0).0, 'o');
}

/// What is not meant must not be forgotten, or changed, or taken.
#[test]
fn a_holder_and_a_host_bound_policies_and_ids_too() {
    let scene = Scene::new();
    let ids: Vec<Id> = [("web", days(3)), ("web", days(2)), ("evil", days(3)), ("evil", days(2))]
        .map(|(who, age)| scene.back_up(who, b'x', &Says { age, ..says("vm") }))
        .into();
    let visible = || {
        let listed = scene.json(&["snapshots"])["snapshots"].clone();
        let ids = listed.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    let of_evil = ids[3].to_string();
    scene.run(&["restore", &of_evil, "x.raw", "--holder", "web"]).fails(1, "key owner evil");
    scene.run(&["tag", &of_evil, "--set", "a=b", "--host", "nowhere"]).fails(1, "host alpha");
    scene.run(&["forget", &of_evil, "--holder", "web"]).fails(1, "key owner evil");
    assert_eq!(visible().len(), 4);
    scene.run(&["forget", "--keep-last", "1", "--host", "nowhere"]).ok();
    assert_eq!(visible().len(), 4);
    scene.run(&["forget", "--keep-last", "1", "--holder", "web"]).ok();
    assert_eq!(visible().len(), 3);
    assert!(!visible().contains(&ids[0].to_string()));
    // As a script says it whose variable is empty.
    for command in [&["forget", "vm@"][..], &["tag", "web/vm@", "--set", "a=b"], &["restore", "web/vm@", "x.raw"]] {
        scene.run(command).fails(1, "none of that name");
    }
    assert_eq!(visible().len(), 3);
}

/// A copy of the repository may have the manifest: what it needs stays, until somebody gives it up.
#[test]
fn a_snapshot_whose_manifest_is_missing_stops_prune_and_can_be_given_up() {
    let scene = Scene::new();
    scene.back_up("web", b'o', &Says { age: days(1), ..says("vm") });
    let new = scene.back_up("web", b'n', &says("vm"));
    let saved = fs::read(scene.manifest_of(new)).unwrap();
    let prune = ["prune", "--fence-after", "0", "--max-unused", "0%"];
    fs::remove_file(scene.manifest_of(new)).unwrap();
    scene.run(&prune).fails(1, "nothing was deleted");
    fs::write(scene.manifest_of(new), &saved).unwrap();
    scene.run(&prune).ok();
    assert_eq!(scene.restored(&["vm"], 0).0, 'n');
    for damage in ["missing", "flipped", "end flipped"] {
        let new = scene.back_up("web", b'm', &says("vm"));
        match damage {
            "missing" => fs::remove_file(scene.manifest_of(new)).unwrap(),
            "flipped" => flip(&scene.manifest_of(new)),
            _ => flip(&scene.end_of(new)),
        }
        assert_eq!(scene.run(&["verify"]).code, Some(4), "{damage}");
        scene.run(&["forget", &new.to_string()]).ok();
        scene.run(&["snapshots"]).ok();
        scene.run(&prune).ok();
        let verified = scene.run(&["verify"]);
        assert_eq!(verified.code, Some(0), "{damage}: {}{}", verified.stdout, verified.stderr);
        assert_eq!(scene.restored(&["vm"], 0).0, 'n', "{damage}");
    }
}

/// A backup that runs has a manifest without an end for a moment: a policy must not take it for a dead one.
#[test]
fn a_policy_judges_what_lost_its_end_only_when_its_backup_must_be_over() {
    let scene = Scene::new();
    let ids: Vec<Id> = [(b'a', days(3)), (b'b', days(2)), (b'c', days(0))]
        .map(|(fill, age)| scene.back_up("web", fill, &Says { age, ..says("vm") }))
        .into();
    for id in &ids[..2] {
        fs::remove_file(scene.end_of(*id)).unwrap();
    }
    let young = scene.back_up("web", b'y', &says("vm"));
    fs::remove_file(scene.end_of(young)).unwrap();
    scene.run(&["forget", "--name", "vm", "--keep-last", "1"]).ok();
    let uncommitted = scene.json(&["snapshots"])["uncommitted"].clone();
    let left: Vec<_> = uncommitted.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    // Of those that must be dead the newest stays, as of incomplete ones.
    assert_eq!(left, [ids[1].to_string(), young.to_string()]);
    assert_eq!(scene.restored(&["vm"], 0).0, 'c');
}

/// Another's manifest that names a session must not make prune pass that one by.
#[test]
fn only_its_own_manifest_speaks_for_a_session() {
    let scene = Scene::new();
    scene.back_up("web", b'w', &says("vm"));
    let garbage = scene.back_up("web", b'g', &says("garbage"));
    scene.run(&["forget", &garbage.to_string()]).ok();
    let (web, evil) = (scene.open("web"), scene.open("evil"));
    let session = web.protocol().begin_session("backup", &[], false).unwrap();
    let (id, own) = (Id([9; 16]), scene.back_up("evil", b'e', &says("x")));
    let manifest = evil.committed(own).unwrap().unwrap().unwrap().manifest;
    let object = tintype_formats::tin::manifest::seal(evil.ring(), id, session, &manifest).unwrap();
    evil.store().put(&tintype::repository::names::snapshot(id), &object).unwrap();
    scene.run(&["prune", "--wait", "0s", "--max-unused", "0%"]).fails(3, "did not end in time");
}

/// A store that counts how often each object is read.
struct Counting {
    store: LocalStore,
    reads: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Store for Counting {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put(name, bytes)
    }
    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        *self.reads.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        self.store.get(name, max_bytes)
    }
    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.store.get_range(name, offset, buffer)
    }
    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.store.len_bytes(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix)
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name)
    }
    fn adopt(&self, name: &str) {
        self.store.adopt(name);
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.store.sync()
    }
    fn shown(&self) -> String {
        self.store.shown()
    }
}

#[test]
fn every_manifest_is_read_once_and_none_that_the_cache_has() {
    let scene = Scene::new();
    for age in (0..12).rev() {
        scene.back_up("web", b'w', &Says { age: days(age), ..says("vm") });
    }
    let gone = scene.back_up("web", b'w', &says("gone"));
    scene.run(&["forget", &gone.to_string()]).ok();
    let reads = Arc::new(Mutex::new(BTreeMap::new()));
    let open_as = |who: &str, cache: &str| {
        let store = Counting { store: LocalStore::open(&scene.0.path("repo")).unwrap(), reads: Arc::clone(&reads) };
        let secret = &mut || Ok(Secret::passphrase(who.as_bytes().to_vec()));
        Repository::open(Box::new(store), Some(scene.0.path(cache)), true, secret).unwrap()
    };
    let open = |cache: &str| open_as("admin", cache);
    let counted = |work: &dyn Fn()| {
        reads.lock().unwrap().clear();
        work();
        let reads = reads.lock().unwrap();
        let of = |folder: &'static str| {
            reads.iter().filter(move |(name, _)| name.starts_with(folder)).map(|(_, count)| *count)
        };
        (of("snapshots/").sum::<usize>(), of("snapshots/").max().unwrap_or(0), of("sessions/").sum::<usize>())
    };
    let repository = open("fresh");
    let resolve = || drop(repository.resolve("vm", &Wishes::default()).unwrap());
    // 12 manifests and a tombstone; 13 ends.
    assert_eq!(counted(&resolve), (13, 1, 13));
    // The chosen one is read for its disks, and its end to see that it still counts.
    assert_eq!(counted(&resolve), (1, 1, 1));
    assert_eq!(counted(&|| drop(open("fresh").resolve("vm@-3d", &Wishes::default()).unwrap())), (1, 1, 1));
    let several = || drop(open("other").resolve_all(&["vm", "vm@-3d", "vm@latest"], &Wishes::default()).unwrap());
    assert_eq!(counted(&several).1, 1);
    // A backup looks for its parent without any of that.
    let parent = || drop(open_as("web", "third").newest_own("vm", "alpha").unwrap());
    assert_eq!(counted(&parent).0, 2, "the newest one, and that the other name's is not it");
    // A cache that somebody changed says nothing.
    for entry in fs::read_dir(scene.0.path("fresh")).unwrap() {
        for file in fs::read_dir(entry.unwrap().path().join("snapshots")).unwrap() {
            flip(&file.unwrap().path());
        }
    }
    assert_eq!(counted(&|| drop(open("fresh").resolve("vm", &Wishes::default()).unwrap())).0, 13);
}
