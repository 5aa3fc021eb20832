//! Committed snapshots that cannot be read are reported, and can be recovered or discarded.

mod common;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/stored.rs"]
mod stored;

use std::fs;

use scene::{Says, Scene, days, flip, says};
use tintype_tin::id::Id;

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
        let named = scene.run(&["restore", &new_text, "named.raw"]).fails(1, "find the snapshot");
        assert!(!named.stderr.contains("--ignore-damaged"), "{about}: {}", named.stderr);
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
fn a_snapshot_that_lost_all_of_its_session_is_whole_after_one_repair() {
    let lose = |scene: &Scene, id: Id| fs::remove_dir_all(scene.end_of(id).parent().unwrap()).unwrap();
    let (scene, _, new) = harmed(lose);
    let repaired = scene.run(&["repair"]).ok().stdout;
    assert!(repaired.contains("finished: snapshot"), "{repaired}");
    assert_eq!(scene.restored(&["vm"], 0).0, 'n', "{new}");
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
    let object = tintype_tin::manifest::seal(evil.ring(), id, session, &manifest).unwrap();
    evil.store().put(&tintype::repository::names::snapshot(id), &object).unwrap();
    scene.run(&["prune", "--wait", "0s", "--max-unused", "0%"]).fails(3, "did not end in time");
}
