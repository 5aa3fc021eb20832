//! Every kind of object, damaged in every way: found, never returned as data, and mended where that can be.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Run, Sandbox};
use serde_json::Value;
use tintype::repository::Repository;
use tintype::repository::store::LocalStore;
use tintype_formats::secrets::Secret;

/// A repository with two visible snapshots of a disk and a forgotten one, and a finished epoch.
struct Scene {
    sandbox: Sandbox,
    ids: Vec<String>,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Delete,
    Truncate,
    /// A byte is changed at this share of the length.
    Flip(f64),
    /// Its bytes become another's, and the other's its own.
    Swap,
}

const HARMS: [Harm; 4] = [Harm::Delete, Harm::Truncate, Harm::Flip(0.5), Harm::Swap];
const PACK_HARMS: [Harm; 7] = [
    Harm::Delete,
    Harm::Truncate,
    // Header, a chunk, the table, the trailer.
    Harm::Flip(0.0001),
    Harm::Flip(0.3),
    Harm::Flip(0.995),
    Harm::Flip(0.99999),
    Harm::Swap,
];

impl Scene {
    fn new() -> Scene {
        let sandbox = Sandbox::new();
        sandbox.run(["init", "good", "--no-encryption", "--chunk-size", "64k", "--reserve", "0"]).ok();
        let disk = sandbox.raw_disk("d.raw", 6 << 20, 24);
        let scene = Scene { sandbox, ids: Vec::new() };
        scene.write_and_back_up(&disk, 3 << 20, b"forgotten");
        scene.write_and_back_up(&disk, 1 << 20, b"first");
        fs::copy(&disk, scene.sandbox.path("a.raw")).expect("a copy");
        scene.write_and_back_up(&disk, 2 << 20, b"second");
        fs::copy(&disk, scene.sandbox.path("b.raw")).expect("a copy");
        scene.run("good", ["verify"]).ok();
        let repository = open(&scene.sandbox.path("good"));
        let all = repository.snapshots().expect("snapshots").snapshots;
        repository.forget(all[0].id).expect("a forget");
        let protocol = repository.protocol();
        assert!(protocol.condemn(1, &[]).expect("an epoch"));
        protocol.decide(1, &[]).expect("a verdict");
        protocol.finish_epoch(1).expect("its end");
        let ids = all[1..].iter().map(|snapshot| snapshot.id.to_string()).collect();
        Scene { ids, ..scene }
    }

    fn write_and_back_up(&self, disk: &Path, offset: u64, text: &[u8]) {
        let file = fs::File::options().write(true).open(disk).expect("the disk");
        file.write_all_at(&text.repeat(9000), offset).expect("a write");
        self.run("good", ["backup", "d.raw"]).ok();
    }

    fn run<const N: usize>(&self, repository: &str, args: [&str; N]) -> Run {
        let args = args.into_iter().chain(["--repo", repository, "--cache-dir", "cache"]);
        self.sandbox.run(args)
    }

    /// A fresh copy of the repository, with a cache that knows nothing.
    fn copy(&self, name: &str) -> PathBuf {
        let _ = fs::remove_dir_all(self.sandbox.path("cache"));
        let _ = fs::remove_dir_all(self.sandbox.path(name));
        self.sandbox.tool("cp", ["-a", "good", name]);
        self.sandbox.path(name)
    }

    /// The objects of a folder that end so, by name.
    fn objects(&self, folder: &str, end: &str) -> Vec<String> {
        let text = self.sandbox.tool("find", [&format!("good/{folder}"), "-type", "f", "-printf", "%P\\n"]);
        let mut names: Vec<_> =
            text.lines().filter(|name| name.ends_with(end)).map(|name| format!("{folder}/{name}")).collect();
        names.sort();
        names
    }

    /// Restores a snapshot; true if that worked, and then its bytes are right.
    fn restores(&self, repository: &str, snapshot: usize, what: &str) -> bool {
        let address = format!("{repository}::{}", self.ids[snapshot]);
        let run = self.sandbox.run(["convert", &address, "out.raw", "--force", "--cache-dir", "cache"]);
        assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
        let expected = if snapshot == 0 { "a.raw" } else { "b.raw" };
        if run.code == Some(0) {
            let [found, expected] =
                ["out.raw", expected].map(|name| fs::read(self.sandbox.path(name)).expect("a file"));
            assert!(found == expected, "{what}: other bytes were returned");
        }
        run.code == Some(0)
    }

    /// Verifies; the report, or nothing if the repository cannot be opened any more.
    fn verify(&self, repository: &str, what: &str) -> Value {
        let run = self.run(repository, ["verify", "--json"]);
        assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
        let line = run.stdout.lines().last().unwrap_or_else(|| panic!("{what}: {}", run.stderr));
        let report: Value = serde_json::from_str(line).expect("a report");
        assert_eq!(run.code, Some(if report["clean"] == true { 0 } else { 4 }), "{what}: {line}");
        report
    }

    /// Damages a copy, and asks everything of it. `found` says whether the report has what it should.
    fn check(&self, object: &str, other: &str, harm: Harm, found: impl Fn(&Value) -> bool) {
        let what = format!("{object}, {harm:?}");
        hurt(&self.copy("bad"), object, other, harm);
        let report = self.verify("bad", &what);
        assert!(found(&report), "{what}: {report}");
        let hit = |id: &str| list(&report, "hit").iter().any(|hit| hit["snapshot"] == *id);
        let visible = self.visible("bad");
        for (snapshot, id) in self.ids.iter().enumerate().filter(|(_, id)| visible.contains(id)) {
            assert_eq!(self.restores("bad", snapshot, &what), !hit(id), "{what}: {id}");
        }
        let before = tree(&self.sandbox.path("bad"));
        self.run("bad", ["repair", "--dry-run"]);
        assert_eq!(tree(&self.sandbox.path("bad")), before, "{what}: a dry run changed something");
        let repaired = self.run("bad", ["repair"]);
        assert!(matches!(repaired.code, Some(0 | 3)), "{what}: {repaired:?}");
        if repaired.code == Some(0) {
            assert_eq!(self.verify("bad", &what)["clean"], true, "{what}");
        }
        self.run("bad", ["backup", "d.raw"]).ok();
        let newest = self.sandbox.run(["compare", "bad::d", "d.raw", "--cache-dir", "cache"]);
        assert_eq!(newest.code, Some(0), "{what}: {newest:?}");
        let after = self.verify("bad", &what);
        let newest_is_hit = list(&after, "hit").iter().any(|hit| !self.ids.iter().any(|id| hit["snapshot"] == *id));
        assert!(!newest_is_hit, "{what}: {after}");
    }

    /// Damages a copy, and mends it with another one.
    fn check_with_copy(&self, object: &str, other: &str, harm: Harm) {
        let what = format!("{object}, {harm:?}");
        hurt(&self.copy("bad"), object, other, harm);
        let repaired = self.run("bad", ["repair", "--from", "good"]);
        assert_eq!(repaired.code, Some(0), "{what}: {repaired:?}");
        assert_eq!(self.verify("bad", &what)["clean"], true, "{what}");
        assert!((0..2).all(|snapshot| self.restores("bad", snapshot, &what)), "{what}");
    }

    fn visible(&self, repository: &str) -> Vec<String> {
        let run = self.run(repository, ["snapshots", "--json"]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
        list(&report, "snapshots").iter().filter_map(|row| row["id"].as_str().map(str::to_owned)).collect()
    }

    /// The object, and one of its kind to swap it with.
    fn pairs(&self, folder: &str, end: &str) -> Vec<(String, String)> {
        let names = self.objects(folder, end);
        assert!(!names.is_empty(), "{folder}");
        let other = |index: usize| names[(index + 1) % names.len()].clone();
        names.iter().enumerate().map(|(index, name)| (name.clone(), other(index))).collect()
    }
}

fn open(path: &Path) -> std::sync::Arc<Repository> {
    let store = LocalStore::open(path).expect("a store");
    let nobody = &mut || Ok(Secret::passphrase(Vec::new()));
    Repository::open(Box::new(store), None, false, nobody).expect("a repository")
}

fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report[name].as_array().map_or(&[], Vec::as_slice)
}

fn names(report: &Value, object: &str) -> bool {
    list(report, "findings").iter().any(|finding| finding["object"] == *object)
}

/// Every file below a folder with its content's hash, but for what was verified.
fn tree(folder: &Path) -> String {
    let command = "find . -type f -not -path './ledger/*' -print0 | sort -z | xargs -0 sha256sum";
    let output = std::process::Command::new("sh").args(["-c", command]).current_dir(folder).output().expect("find");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hurt(repository: &Path, object: &str, other: &str, harm: Harm) {
    let (path, other) = (repository.join(object), repository.join(other));
    let mut bytes = fs::read(&path).expect("an object");
    match harm {
        Harm::Delete => fs::remove_file(&path).expect("a delete"),
        Harm::Truncate => fs::write(&path, &bytes[..bytes.len() * 9 / 10]).expect("a write"),
        Harm::Flip(share) => {
            let index = (bytes.len() as f64 * share) as usize;
            bytes[index] ^= 0x40;
            fs::write(&path, &bytes).expect("a write");
        }
        Harm::Swap => {
            let others = fs::read(&other).expect("the other object");
            fs::write(&path, others).expect("a write");
            fs::write(&other, bytes).expect("a write");
        }
    }
}

#[test]
fn damaged_packs() {
    let scene = Scene::new();
    for (object, other) in scene.pairs("packs", "") {
        for harm in PACK_HARMS {
            // A pack that only the forgotten snapshot used may be missing.
            let is_used = |report: &Value| names(report, &object) || matches!(harm, Harm::Delete);
            scene.check(&object, &other, harm, is_used);
        }
    }
}

#[test]
fn damaged_packs_are_mended_from_a_copy() {
    let scene = Scene::new();
    for (object, other) in scene.pairs("packs", "") {
        for harm in PACK_HARMS {
            scene.check_with_copy(&object, &other, harm);
        }
    }
}

#[test]
fn damaged_manifests() {
    let scene = Scene::new();
    for (object, other) in scene.ids.iter().zip(scene.ids.iter().rev()) {
        let (object, other) = (format!("snapshots/{object}"), format!("snapshots/{other}"));
        for harm in HARMS {
            scene.check(&object, &other, harm, |report| names(report, &object));
            scene.check_with_copy(&object, &other, harm);
        }
    }
}

#[test]
fn damaged_ends_of_sessions() {
    let scene = Scene::new();
    let repository = open(&scene.sandbox.path("good"));
    let visible = repository.snapshots().expect("snapshots").snapshots;
    for (object, other) in scene.pairs("sessions", "/end") {
        // What was forgotten may be damaged.
        let is_needed = visible.iter().any(|snapshot| object.contains(&snapshot.session.to_string()));
        for harm in HARMS {
            // Without its end, nothing tells a snapshot from one whose writer died.
            let found = |report: &Value| names(report, &object) || !list(report, "unfinished").is_empty();
            scene.check(&object, &other, harm, |report| found(report) || !is_needed || matches!(harm, Harm::Delete));
            scene.check_with_copy(&object, &other, harm);
        }
    }
}

#[test]
fn damaged_indexes() {
    let scene = Scene::new();
    for (object, other) in scene.pairs("index", "") {
        for harm in HARMS {
            scene
                .check(&object, &other, harm, |report| names(report, &object) || !list(report, "unindexed").is_empty());
            scene.check_with_copy(&object, &other, harm);
        }
    }
}

#[test]
fn damaged_marks() {
    let scene = Scene::new();
    let kinds = [("snapshots", ".forgotten"), ("sessions", "/begin"), ("epochs", ""), ("ledger", "")];
    for (folder, end) in kinds {
        for (object, other) in scene.pairs(folder, end) {
            let alone = object == other;
            for harm in HARMS.into_iter().filter(|harm| !(alone && matches!(harm, Harm::Swap))) {
                // A tombstone, the last word of an epoch and a ledger may never have been.
                let may_be_missing =
                    ["forgotten", "done"].iter().any(|end| object.ends_with(end)) || folder == "ledger";
                let found = |report: &Value| names(report, &object) || (may_be_missing && matches!(harm, Harm::Delete));
                scene.check(&object, &other, harm, found);
            }
        }
    }
}

#[test]
fn damaged_descriptions_and_slots_open_nothing() {
    let scene = Scene::new();
    let slot = scene.objects("keys", "").remove(0);
    for object in ["repository".to_owned(), slot] {
        for harm in [Harm::Delete, Harm::Truncate, Harm::Flip(0.5)] {
            hurt(&scene.copy("bad"), &object, &object, harm);
            let what = format!("{object}, {harm:?}");
            let run = scene.run("bad", ["verify"]);
            assert!(matches!(run.code, Some(4 | 10 | 12)), "{what}: {run:?}");
            assert!(!run.stderr.contains("panicked"), "{what}: {run:?}");
            assert!(!scene.restores("bad", 0, &what), "{what}");
        }
    }
}

#[test]
fn what_is_lost_is_taken_from_the_disk() {
    let scene = Scene::new();
    let packs = scene.objects("packs", "");
    for pack in packs {
        hurt(&scene.copy("bad"), &pack, &pack, Harm::Delete);
        let before = scene.verify("bad", &pack);
        if list(&before, "findings").is_empty() {
            continue;
        }
        let only_b = |report: &Value| list(report, "hit").iter().all(|hit| hit["snapshot"] != scene.ids[1]);
        let repaired = scene.run("bad", ["repair", "--from-disk", "d.raw", "-f", "raw"]);
        let after = scene.verify("bad", &pack);
        let is_map = !only_b(&after);
        // A page of the map is not on the disk.
        assert!(is_map || scene.restores("bad", 1, &pack), "{repaired:?}");
    }
}

#[test]
fn what_is_lost_is_taken_from_another_repository() {
    let scene = Scene::new();
    scene.sandbox.run(["init", "other", "--no-encryption", "--chunk-size", "128k"]).ok();
    for (disk, _) in [("a.raw", 0), ("b.raw", 1)] {
        fs::copy(scene.sandbox.path(disk), scene.sandbox.path("d.raw")).expect("a copy");
        scene.run("other", ["backup", "d.raw"]).ok();
    }
    for pack in scene.objects("packs", "") {
        hurt(&scene.copy("bad"), &pack, &pack, Harm::Delete);
        let before = scene.verify("bad", &pack);
        // Pages of maps are those of one repository only: the whole disk is lost with its root.
        let whole_disk = list(&before, "hit").iter().any(|hit| hit["lost_bytes"] == 6 << 20);
        let repaired = scene.run("bad", ["repair", "--from", "other"]);
        assert_eq!(repaired.code, Some(if whole_disk { 3 } else { 0 }), "{before} {repaired:?}");
        if !whole_disk {
            assert!(scene.restores("bad", 0, &pack) && scene.restores("bad", 1, &pack));
        }
    }
}

#[test]
fn an_index_of_a_host_that_only_writes_is_not_believed() {
    use tintype::repository::index::{PackRow, SegmentBuilder};
    use tintype::repository::{InitOptions, names};
    use tintype_tin::id::{ChunkId, Id};
    use tintype_tin::keys::Role;
    use tintype_tin::signed::ObjectKind;
    use tintype_tin::slot::{Cost, SlotSecret, seal_slot};

    let sandbox = Sandbox::new();
    let (path, cache) = (sandbox.path("r"), sandbox.path("cache"));
    let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
    let secret = |text: &str| Secret::passphrase(text.as_bytes().to_vec());
    let admin = secret("admin");
    let options = InitOptions { chunk_bytes: 65536, secret: Some(&admin), recovery: None, holder: "admin", cost };
    let store = Box::new(LocalStore::create(&path).expect("a store"));
    let repository = Repository::init(store, Some(cache.clone()), &options).expect("a repository");
    let host = repository.ring().issue(Role::Write, "host").expect("keys");
    let slot = seal_slot(&host, Some(SlotSecret::Password(b"host")), "host", cost).expect("a slot");
    repository.protocol().create(ObjectKind::SessionBegin, &names::session_begin(Id([1; 16])), b"{}").expect("a put");
    repository.store().put(&names::key(Id([2; 16])), &slot).expect("a put");

    // The host says that a chunk is in a pack of the admin's.
    let row = PackRow {
        id: Id([3; 16]),
        author: repository.ring().certificate().signing,
        role: Some(Role::Admin),
        kind: 1,
        length_bytes: 1 << 20,
    };
    let chunk = ChunkId([4; 32]);
    let mut segment = SegmentBuilder::default();
    segment.add_entry(&row, &chunk, 1000, 2000);
    let store = Box::new(LocalStore::open(&path).expect("a store"));
    let as_host = Repository::open(store, None, true, &mut || Ok(secret("host"))).expect("it opens");
    as_host.protocol().create(ObjectKind::Index, &names::index(Id([5; 16])), &segment.encode()).expect("a put");
    assert_eq!(as_host.index_for_reading().expect("an index").find(&chunk).expect("a look").len(), 1);

    // A reader's copy of the index is a writer's, too.
    repository.index_for_reading().expect("an index");
    let index = repository.index_of_packs(&[], true).expect("an index");
    assert!(index.find(&chunk).expect("a look").is_empty());
}

#[test]
fn a_slot_that_changed_since_it_was_verified_is_named() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        Run::of(&command.env("TINTYPE_PASSWORD", "secret").output().expect("run tintype"))
    };
    run(&["init", "good"]).ok();
    let verify = |repository: &str| run(&["verify", "-r", repository, "--cache-dir", "cache"]);
    verify("good").ok();
    let mut locked = 0;
    for slot in sandbox.tool("ls", ["good/keys"]).lines() {
        sandbox.tool("rm", ["-rf", "bad"]);
        sandbox.tool("cp", ["-a", "good", "bad"]);
        let slot = format!("keys/{slot}");
        hurt(&sandbox.path("bad"), &slot, &slot, Harm::Flip(0.9));
        let run = verify("bad");
        // Without the one slot that the password opens, nothing can be opened; that it is damaged can be told.
        assert_eq!(run.code, Some(4), "{run:?}");
        assert!(run.stdout.contains(&slot) || run.stderr.contains(&slot), "{run:?}");
        locked += usize::from(run.stderr.contains(&slot));
    }
    assert_eq!(locked, 1);
}
