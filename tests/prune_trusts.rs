//! A prune takes no copy of a chunk for another's that its snapshot's signer would not build on.

#[path = "common/cheap.rs"]
mod cheap;
#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cheap::CHEAP;
use stored::{back_up, prune_all};
use tintype::error::Kind;
use tintype::repository::disk::SnapshotDisk;
use tintype::repository::prune::Pruned;
use tintype::repository::session::WriteSession;
use tintype::repository::store::simulated::{Faults, Simulation};
use tintype::repository::{InitOptions, Repository, names};
use tintype_formats::secrets::Secret;
use tintype_formats::testing::{ModelDisk, digest};
use tintype_formats::tin::write::{ChunkSink as _, Reserved};
use tintype_formats::{BlockSource as _, ImageError};
use tintype_tin::chunk::{ChunkKind, Packed};
use tintype_tin::id::Id;
use tintype_tin::keys::Role;
use tintype_tin::manifest::Manifest;
use tintype_tin::slot::{self, SlotSecret};

const CHUNK_BYTES: u64 = 64 << 10;

fn secret(name: &str) -> Secret {
    Secret::passphrase(name.as_bytes().to_vec())
}

fn open(simulation: &Simulation, holder: &str) -> Arc<Repository> {
    Repository::open(Box::new(simulation.client()), None, true, &mut || Ok(secret(holder))).expect("it opens")
}

/// A repository with an admin, and two hosts that can only write.
fn init(simulation: &Simulation) {
    let admin = secret("admin");
    let options =
        InitOptions { chunk_bytes: CHUNK_BYTES, secret: Some(&admin), recovery: None, holder: "admin", cost: CHEAP };
    let repository = Repository::init(Box::new(simulation.client()), None, &options).expect("a repository");
    for (holder, role) in [("one", Role::Write), ("two", Role::Write), ("keeper", Role::Maintain)] {
        let ring = repository.ring().issue(role, holder).expect("a ring");
        let secret = SlotSecret::Password(holder.as_bytes());
        let slot = slot::seal_slot(&ring, Some(secret), holder, CHEAP).expect("a slot");
        repository.store().put(&names::key(Id::random().expect("an id")), &slot).expect("a put");
    }
}

fn store(repository: &Arc<Repository>, name: &str, disk: &ModelDisk) -> Id {
    back_up(repository, name, name, disk, 2).expect("a backup")
}

fn run(repository: &Arc<Repository>) -> tintype::error::Result<Pruned> {
    prune_all(repository, Duration::ZERO, Duration::from_secs(5))
}

fn reads(repository: &Arc<Repository>, id: Id) -> Result<blake3::Hash, ImageError> {
    let snapshot = repository.committed(id).expect("a manifest").expect("committed").expect("it opens");
    digest(&SnapshotDisk::open(repository, &snapshot.manifest.disks[0]).expect("a disk"))
}

/// Stores other bytes under the ids that a disk's chunks have.
fn plant(repository: &Arc<Repository>, disk: &ModelDisk) {
    let session = WriteSession::begin(repository, "plant", false).expect("a session");
    for offset in (0..disk.geometry().size_bytes).step_by(CHUNK_BYTES as usize) {
        let mut plain = vec![0; CHUNK_BYTES as usize];
        disk.read_at(offset, &mut plain).expect("a read");
        if plain.iter().all(|byte| *byte == 0) {
            continue;
        }
        let id = repository.ring().chunk_id(&plain);
        let packed = Packed::new(ChunkKind::Data, id, &[0x66; CHUNK_BYTES as usize], Some(1));
        if let Reserved::New(place) = session.reserve(ChunkKind::Data, id, packed.chunk_bytes()).expect("room") {
            session.store(ChunkKind::Data, place, packed).expect("stored");
        }
    }
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        features: Vec::new(),
        name: "innocent".to_owned(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        host: "two".to_owned(),
        tags: BTreeMap::new(),
        parent: None,
        program: "evil".to_owned(),
        consistency: "unknown".to_owned(),
        disks: Vec::new(),
        machine: None,
        original: None,
    };
    session.commit(&manifest).expect("committed");
}

#[test]
fn a_planted_chunk_is_not_what_a_true_one_is_given_up_for() {
    let disk = ModelDisk::random(1, 24 * CHUNK_BYTES, 12, 40);
    let expected = digest(&disk).expect("a digest");
    // Whichever of the hosts comes first.
    for hostile_first in [true, false] {
        let simulation = Simulation::new(1, Faults::default());
        init(&simulation);
        let (one, two) = (open(&simulation, "one"), open(&simulation, "two"));
        let mut true_ones = Vec::new();
        for hostile in [hostile_first, !hostile_first] {
            if hostile {
                plant(&two, &disk);
                // It builds on its own false chunks.
                store(&two, "two", &disk);
            } else {
                true_ones.push(store(&one, "one", &disk));
            }
        }
        for holder in ["keeper", "admin"] {
            for _ in 0..2 {
                run(&open(&simulation, holder)).expect("a prune");
                let admin = open(&simulation, "admin");
                assert_eq!(reads(&admin, true_ones[0]).expect("it reads"), expected);
            }
        }
        // What a trusted holder stores stands in for all.
        true_ones.push(store(&open(&simulation, "admin"), "admin", &disk));
        let before = open(&simulation, "admin").protocol().packs().expect("a listing").len();
        run(&open(&simulation, "keeper")).expect("a prune");
        let admin = open(&simulation, "admin");
        assert!(admin.protocol().packs().expect("a listing").len() < before);
        for id in &true_ones {
            assert_eq!(reads(&admin, *id).expect("it reads"), expected);
        }
    }
}

#[test]
fn repacked_chunks_keep_their_author_and_open() {
    let simulation = Simulation::new(1, Faults::default());
    init(&simulation);
    let mut disk = ModelDisk::random(1, 24 * CHUNK_BYTES, 12, 40);
    let first = store(&open(&simulation, "one"), "one", &disk);
    (0..200).for_each(|block| disk.write(block, 900 + block));
    let second = store(&open(&simulation, "one"), "one", &disk);
    let admin = open(&simulation, "admin");
    admin.forget(first).expect("forgotten");
    let pruned = run(&open(&simulation, "keeper")).expect("a prune");
    assert!(!pruned.plan.expect("a plan").repack.is_empty());
    let admin = open(&simulation, "admin");
    assert_eq!(reads(&admin, second).expect("it reads"), digest(&disk).expect("a digest"));
    let host = open(&simulation, "one").ring().certificate().signing;
    for pack in admin.protocol().packs().expect("a listing") {
        assert_eq!(admin.pack_table(pack).expect("a table").author.signing, host);
    }
    // So the host builds on them: nothing but pages is stored.
    let packs = admin.protocol().packs().expect("a listing").len();
    store(&open(&simulation, "one"), "one", &disk);
    assert!(admin.protocol().packs().expect("a listing").len() <= packs + 1);
}

#[test]
fn who_may_only_write_can_neither_forget_nor_prune() {
    let simulation = Simulation::new(1, Faults::default());
    init(&simulation);
    let one = open(&simulation, "one");
    let id = store(&one, "one", &ModelDisk::random(1, 8 * CHUNK_BYTES, 4, 8));
    assert_eq!(run(&one).expect_err("it may not").kind(), Kind::Denied);
    assert_eq!(one.forget(id).expect_err("it may not").kind(), Kind::Denied);
}
