//! What each key of a repository opens and may do, as its holder sees it, and what nobody may.

mod common;
#[path = "common/keys.rs"]
mod keys;

use std::sync::Arc;

use common::{Run, Sandbox, assert_holds};
use keys::Keys;
use tintype::error::Kind;
use tintype::repository::protocol::End;
use tintype::repository::resolve::Wishes;
use tintype::repository::session::WriteSession;
use tintype::repository::{Repository, names};
use tintype_formats::secrets::Secret;
use tintype_formats::tin::write::{ChunkSink, Reserved};
use tintype_tin::chunk::{ChunkKind, Packed};
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::manifest::{DiskRecord, Manifest, RootRecord, SourceRecord, Statistics};
use tintype_tin::map::{Entry, MapBuilder, Page};
use tintype_tin::signed::ObjectKind;

#[test]
fn a_host_that_may_only_write_backs_up_and_reads_nothing_back() {
    let keys = Keys::new();
    let disk = keys.disk("a.raw", 20);
    keys.run("admin", &["backup", "a.raw", "--name", "others"]).ok();
    let first = keys.json("write", &["backup", "a.raw", "--name", "own"]);
    let second = keys.json("write", &["backup", "a.raw", "--name", "own"]);
    assert_eq!(second["parent"], first["snapshot"]);
    assert_eq!((&second["changed_bytes"], &second["stored_bytes"]), (&0.into(), &0.into()));
    let listed = keys.json("write", &["snapshots"]);
    assert_eq!((listed["snapshots"].as_array().unwrap().len(), &listed["sealed"]), (2, &1.into()));
    keys.run("write", &["restore", "own", "x.raw"]).fails(12, "read or admin");
    keys.run("write", &["convert", "repo::own", "x.raw"]).fails(12, "");
    keys.run("write", &["convert", "repo::others", "x.raw"]).fails(12, "only its own host");
    assert!(!keys.0.path("x.raw").exists());
    let slot = keys.json("admin", &["key", "list"])["keys"][0]["id"].as_str().unwrap().to_owned();
    keys.run("write", &["key", "remove", &slot]).fails(12, "role admin");
    keys.run("write", &["key", "add", "--role", "read", "--name", "x", "--new-password-file", "new"])
        .fails(12, "role admin");
    keys.run("write", &["key", "rotate"]).fails(12, "role admin");
    keys.run("write", &["tag", "own", "--set", "a=b"]).fails(12, "admin or maintain");
    let writer = keys.open("write");
    let own = writer.resolve("own", &Wishes::default()).unwrap().snapshot;
    assert_eq!(writer.forget(own.id).unwrap_err().kind(), Kind::Denied);
    keys.assert_restores("admin", "own", &disk);
}

#[test]
fn a_host_that_may_only_write_cannot_fence_or_condemn() {
    let keys = Keys::new();
    let (admin, writer) = (keys.open("admin"), keys.open("write"));
    let session = admin.protocol().begin_session("backup", &[], false).unwrap();
    let _ = writer.protocol().end_session(session, End::Fenced);
    assert_eq!(admin.protocol().session_end(session).unwrap(), None, "a fence by a writer is none");
    for kind in [ObjectKind::Condemned, ObjectKind::Verdict, ObjectKind::Tombstone, ObjectKind::Quarantine] {
        assert!(writer.ring().sign(kind, "epochs/00000001/condemned", b"").is_err(), "{kind:?}");
    }
}

#[test]
fn a_key_to_read_restores_everything_and_adds_nothing() {
    let keys = Keys::new();
    let disk = keys.disk("a.raw", 20);
    keys.run("write", &["backup", "a.raw", "--name", "of the writer"]).ok();
    keys.run("admin", &["backup", "a.raw", "--name", "of the admin"]).ok();
    keys.assert_restores("read", "of the writer", &disk);
    keys.assert_restores("read", "of the admin", &disk);
    let reader = keys.open("read");
    let id = reader.resolve("of the admin", &Wishes::default()).unwrap().snapshot.id;
    assert_eq!(reader.forget(id).unwrap_err().kind(), Kind::Denied);
    keys.run("read", &["tag", "of the admin", "--set", "a=b"]).fails(12, "admin or maintain");
    keys.run("read", &["backup", "a.raw"]).fails(12, "write, use, maintain or admin");
    // Nor does its word count if its program does not ask.
    for kind in [ObjectKind::Manifest, ObjectKind::PackTable, ObjectKind::Index] {
        assert!(reader.ring().sign(kind, "name", b"").is_err(), "{kind:?}");
    }
}

/// Commits a snapshot whose map has the true ids of this disk, at places that hold other bytes.
fn plant(writer: &Arc<Repository>, disk: &[u8], name: &str) {
    let shape = writer.shape_of(disk.len() as u64);
    let session = WriteSession::begin(writer, "backup", false).unwrap();
    let ring = writer.ring();
    let put = |kind, id, bytes: &[u8]| {
        let packed = Packed::new(kind, id, bytes, None);
        match session.reserve(kind, id, packed.chunk_bytes()).unwrap() {
            Reserved::Known(location) => location,
            Reserved::New(place) => {
                let location = place.location;
                session.store(kind, place, packed).unwrap();
                location
            }
        }
    };
    let mut store = |page: &Page, _: u64| -> tintype_tin::Result<Entry> {
        let (bytes, core_bytes) = page.encode();
        let id = ring.page_id(&bytes[..core_bytes]);
        Ok(Entry::Data(id, put(ChunkKind::MapPage, id, &bytes)))
    };
    let mut map = MapBuilder::new(shape);
    for (index, plain) in disk.chunks(shape.chunk_bytes as usize).enumerate() {
        let entry = match plain.iter().all(|byte| *byte == 0) {
            true => Entry::Zero,
            false => {
                let id = ring.chunk_id(plain);
                Entry::Data(id, put(ChunkKind::Data, id, &vec![0x66; plain.len()]))
            }
        };
        map.fill_to(index as u64, Entry::Hole, &mut store).unwrap();
        map.push(entry, &mut store).unwrap();
    }
    let root = map.finish(&mut store).unwrap();
    let record = DiskRecord {
        name: "a".to_owned(),
        size_bytes: disk.len() as u64,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        source: SourceRecord { path: "a.raw".to_owned(), format: "raw".to_owned() },
        identity: DiskIdentity::default(),
        unreadable: Vec::new(),
        root: root.map(RootRecord::from),
        statistics: Statistics::default(),
    };
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        features: Vec::new(),
        name: name.to_owned(),
        time: "2026-11-23T02:00:00Z".to_owned(),
        host: "host".to_owned(),
        tags: Default::default(),
        parent: None,
        original: None,
        program: "planted".to_owned(),
        consistency: "unknown".to_owned(),
        disks: vec![record],
        machine: None,
    };
    session.commit(&manifest).unwrap();
}

/// Through the index, and through the map of a snapshot that looks like the parent.
#[test]
fn nobody_builds_on_a_planted_chunk_and_nobody_gets_it() {
    for name in ["a", "elsewhere"] {
        let keys = Keys::new();
        let disk = keys.disk("a.raw", 20);
        plant(&keys.open("write"), &std::fs::read(&disk).unwrap(), name);
        keys.run("admin", &["restore", name, "x.raw"]).fails(1, "false bytes");
        assert!(!keys.0.path("x.raw").exists());
        for who in ["admin", "use"] {
            let done = keys.json(who, &["backup", "a.raw", "--name", "a"]);
            assert!(who == "use" || done["new_bytes"].as_u64().unwrap() > 0, "{done}");
            keys.assert_restores("admin", done["snapshot"].as_str().unwrap(), &disk);
        }
        // The planted snapshot is whole now as well: its chunks are somewhere.
        keys.assert_restores("admin", &format!("write/{name}"), &disk);
    }
}

/// A host that may only write can use the name of another's snapshots. Who looks sees whose they are, also if it gave itself
/// another's name.
#[test]
fn snapshots_of_several_keys_say_whose_they_are() {
    let keys = Keys::new();
    keys.disk("a.raw", 20);
    keys.run("admin", &["backup", "a.raw", "--name", "server"]).ok();
    let listed = || {
        let text = keys.run("read", &["snapshots"]).ok().stdout;
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!listed()[0].contains("holder"), "one key only: {:?}", listed());
    keys.run("write", &["backup", "a.raw", "--name", "server"]).ok();
    let lines = listed();
    let is_of_writer = [1, 2].map(|line: usize| lines[line].contains("  write  "));
    assert!(lines[0].contains("  holder  ") && is_of_writer == [false, true], "{lines:?}");

    std::fs::write(keys.0.path("other"), "other").unwrap();
    let args = ["key", "add", "--role", "write", "--name", "write", "--new-password-file", "other"];
    keys.run("admin", &args).ok();
    keys.run("other", &["backup", "a.raw", "--name", "server"]).ok();
    let lines = listed();
    let holder = |line: usize| lines[line].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).nth(3).unwrap();
    assert!(
        holder(2).starts_with("write (") && holder(3).starts_with("write (") && holder(2) != holder(3),
        "{lines:?}"
    );
    let report = keys.json("read", &["snapshots"]);
    let signers: Vec<_> = (0..3).map(|index| report["snapshots"][index]["signing_key"].as_str().unwrap()).collect();
    assert!(signers[0] != signers[1] && signers[1] != signers[2] && signers[0].len() == 64, "{report}");
}

#[test]
fn keys_come_and_go() {
    let keys = Keys::new();
    let listed = keys.json("admin", &["key", "list"]);
    let listed = listed["keys"].as_array().unwrap();
    let roles: Vec<_> = listed.iter().map(|key| (key["holder"].clone(), key["own"].as_bool().unwrap())).collect();
    assert_eq!((roles.len(), roles.iter().filter(|(_, own)| *own).count()), (4, 1));
    let id_of = |role: &str| listed.iter().find(|key| key["role"] == role).unwrap()["id"].as_str().unwrap().to_owned();
    keys.run("admin", &["key", "remove", &id_of("admin")]).fails(1, "last of an administrator");
    keys.run("admin", &["key", "remove", "zz"]).fails(2, "none with that id");
    // Another password for the same holder, a changed one, and one that goes.
    keys.run("write", &["key", "add", "--same", "--label", "second", "--new-password-file", "new"]).ok();
    keys.run("new", &["snapshots"]).ok();
    std::fs::write(keys.0.path("changed"), "changed").unwrap();
    keys.run("new", &["key", "passwd", "--new-password-file", "changed"]).ok();
    keys.run("new", &["snapshots"]).fails(12, "opens none");
    keys.run("changed", &["snapshots"]).ok();
    let removed = keys.run("admin", &["key", "remove", &id_of("write")[..8]]).ok();
    assert!(removed.stderr.contains("--holder"), "{}", removed.stderr);
    keys.run("write", &["snapshots"]).fails(12, "opens none");
    keys.run("changed", &["snapshots"]).ok();
    // A slot that is put back is none.
    let slot = keys.0.path("repo").join(names::key(id_of("read").parse().unwrap()));
    let bytes = std::fs::read(&slot).unwrap();
    keys.run("admin", &["key", "remove", &id_of("read")]).ok();
    std::fs::write(&slot, bytes).unwrap();
    keys.run("read", &["snapshots"]).fails(12, "was removed");
}

#[test]
fn a_rotation_reaches_those_who_are_left() {
    let keys = Keys::new();
    let disk = keys.disk("a.raw", 20);
    keys.run("write", &["backup", "a.raw", "--name", "before"]).ok();
    std::fs::write(keys.0.path("gone"), "gone").unwrap();
    keys.run("admin", &["key", "add", "--role", "read", "--name", "gone", "--new-password-file", "gone"]).ok();
    let gone = keys.open("gone");
    let slot = gone.key_slots().unwrap().into_iter().find(|slot| slot.is_own).unwrap();
    keys.run("admin", &["key", "remove", &slot.id.to_string()]).ok();
    // It may still write to the store, and makes itself another slot.
    gone.add_own_slot(&Secret::passphrase(b"back".to_vec()), "back", Default::default()).unwrap();
    let rotated = keys.json("admin", &["key", "rotate"]);
    let names: Vec<_> = rotated["holders"].as_array().unwrap().iter().map(|holder| &holder["name"]).collect();
    assert_eq!((names.len(), &rotated["rotation"]), (4, &1.into()), "{names:?}");
    assert!(!names.contains(&&"gone".into()));
    keys.disk("b.raw", 21);
    let second = keys.0.path("b.raw");
    keys.run("write", &["backup", "b.raw", "--name", "after"]).ok();
    for who in ["admin", "read"] {
        keys.assert_restores(who, "before", &disk);
        keys.assert_restores(who, "after", &second);
    }
    assert!(gone.snapshots().unwrap().snapshots.iter().all(|snapshot| snapshot.manifest.name == "before"));
    assert_eq!(keys.json("write", &["snapshots"])["snapshots"].as_array().unwrap().len(), 2);
    assert_eq!(keys.json("admin", &["key", "rotate"])["rotation"], 2);
    keys.assert_restores("read", "after", &second);
}

#[test]
fn tags_change_and_the_snapshot_keeps_its_place() {
    let keys = Keys::new();
    let (disk, other) = (keys.disk("a.raw", 20), keys.disk("b.raw", 30));
    let first = keys.json("write", &["backup", "a.raw", "--name", "n", "--tag", "k=v"]);
    keys.run("write", &["backup", "b.raw", "--name", "n"]).ok();
    let id = first["snapshot"].as_str().unwrap();
    let tagged = keys.json("admin", &["tag", id, "--set", "new=1", "--remove", "k"]);
    assert_eq!((&tagged["tags"], &tagged["replaces"]), (&serde_json::json!({"new": "1"}), &id.into()));
    let listed = keys.json("write", &["snapshots"]);
    let ids: Vec<_> = listed["snapshots"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &tagged["snapshot"]), "its writer sees it, before the later one");
    keys.assert_restores("read", tagged["snapshot"].as_str().unwrap(), &disk);
    keys.assert_restores("read", "n", &other);
    keys.run("admin", &["tag", "n@latest", "--remove", "k"]).fails(2, "no tag");
    let again = keys.json("admin", &["tag", tagged["snapshot"].as_str().unwrap(), "--set", "new=2"]);
    assert_eq!(keys.json("write", &["snapshots"])["snapshots"][0]["id"], again["snapshot"]);
}

#[test]
fn what_opens_a_repository() {
    let keys = Keys::new();
    let opens = |name: &str, value: &str| {
        let output = keys.command(&["snapshots"]).env(name, value).output().expect("run tintype");
        Run::of(&output)
    };
    opens("TINTYPE_PASSWORD", "admin").ok();
    opens("TINTYPE_PASSWORD_COMMAND", "echo admin").ok();
    opens("TINTYPE_PASSWORD", "wrong").fails(12, "opens none of the 4 key slots");
    opens("TINTYPE_PASSWORD_COMMAND", "exit 3").fails(1, "password command ended with");
    opens("TINTYPE_PASSWORD_FILE", "missing").fails(1, "missing");
    opens("TINTYPE_KEY_FILE", "missing").fails(1, "missing");
    // Nobody to ask: a session of its own has no terminal.
    let alone = std::process::Command::new("setsid")
        .args(["-w", env!("CARGO_BIN_EXE_tintype"), "snapshots", "-r"])
        .arg(keys.0.path("repo"))
        .env_remove("TINTYPE_PASSWORD")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("setsid runs");
    Run::of(&alone).fails(12, "there is no terminal");
    std::fs::write(keys.0.path("key"), [0, 10, 255, 10]).unwrap();
    keys.run("admin", &["key", "add", "--role", "read", "--name", "k", "--new-key-file", "key"]).ok();
    opens("TINTYPE_KEY_FILE", "key").ok();
}

#[test]
fn what_is_no_repository() {
    let keys = Keys::new();
    std::fs::create_dir(keys.0.path("folder")).unwrap();
    std::fs::write(keys.0.path("folder/file"), "mine").unwrap();
    for path in ["folder", "admin", "nowhere"] {
        keys.run("admin", &["snapshots", "-r", path]).fails(10, path);
        keys.run("admin", &["convert", &format!("{path}::x"), "x.raw"]).fails(10, path);
    }
    keys.run("admin", &["init", "folder"]).fails(1, "not empty");
    keys.run("admin", &["init", "repo"]).fails(1, "not empty");
    assert_eq!(common::names_in(&keys.0.path("folder")), ["file"]);
    let admin = keys.open("admin");
    let mut config = admin.config().clone();
    let path = keys.0.path("repo/repository");
    for (format, features) in [(2, vec![]), (1, vec!["odd\u{1b}[2J".to_owned()])] {
        (config.format, config.features.read) = (format, features);
        let body = serde_json::to_vec(&config).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, admin.ring().sign(ObjectKind::Repository, "repository", &body).unwrap()).unwrap();
        let run = keys.run("admin", &["snapshots"]).fails(1, "use a newer one");
        assert!(!run.stderr.contains('\u{1b}'));
    }
}

#[test]
fn an_unencrypted_repository_has_no_keys() {
    let keys = Keys(Sandbox::new());
    let run = |args: &[&str]| Run::of(&keys.command(args).output().expect("run tintype"));
    run(&["init", "repo", "--no-encryption"]).ok();
    for args in [&["list"][..], &["add", "--same"], &["passwd"], &["rotate"], &["remove", "abcd"]] {
        run(&[&["key"], args].concat()).fails(2, "not encrypted");
    }
    keys.disk("a.raw", 5);
    run(&["backup", "a.raw"]).ok();
    run(&["tag", "a@latest", "--set", "k=v"]).ok();
    run(&["restore", "a", "b.raw"]).ok();
}

#[test]
fn odd_names_are_shown_and_do_nothing() {
    let keys = Keys::new();
    let disk = keys.disk("a.raw", 5);
    let odd = "../a\u{1b}[2J\n\u{202e}/b";
    let quiet = |run: Run| {
        let all = run.stdout + &run.stderr;
        assert!(!all.contains('\u{1b}') && !all.contains('\u{202e}') && !all.contains("2J\n"), "{all:?}");
    };
    let (tag, latest) = (format!("{odd}={odd}"), format!("{odd}@latest"));
    quiet(keys.run("admin", &["backup", "a.raw", "--name", odd, "--tag", &tag]).ok());
    quiet(keys.run("admin", &["snapshots"]).ok());
    quiet(keys.run("admin", &["snapshots", "--json"]).ok());
    quiet(keys.run("admin", &["tag", &latest, "--set", &tag, "--set", "x=y"]).ok());
    quiet(keys.run("admin", &["tag", &latest, "--remove", "\u{1b}"]).fails(2, "no tag"));
    quiet(keys.run("admin", &["restore", &format!("{odd}x"), "x.raw"]).fails(1, "there is none"));
    quiet(keys.run("admin", &["restore", odd, "x.raw"]).ok());
    assert_holds(&keys.0.path("x.raw"), &std::fs::read(&disk).unwrap(), "odd");
    quiet(keys.run("admin", &["key", "add", "--role", "read", "--name", odd, "--new-password-file", "new"]).ok());
    quiet(keys.run("admin", &["key", "list"]).ok());
}
