//! A name means the snapshots of one key owner, and a time means a time.

mod common;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use common::Run;
use jiff::{SignedDuration, Timestamp};
use scene::{DISK_BYTES, Says, Scene, days, flip, says};
use serde_json::Value;
use tintype::repository::Repository;
use tintype::repository::resolve::Wishes;
use tintype::repository::store::{Listed, LocalStore, Store, StoreError};
use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;

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
    for wrong in ["2026-11-31", "2026-13-01", "-7x", "yesterday"] {
        scene.refuses(&[&format!("vm@{wrong}")], &[&format!("\"{wrong}\" is no id, day, time or age")]);
    }
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
