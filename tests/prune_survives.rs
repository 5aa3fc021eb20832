//! Prunes in a store where everything goes wrong that can: no snapshot loses anything, and the garbage goes in the end.

#[path = "common/stored.rs"]
mod stored;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stored::{back_up, prune_all};
use tintype::error::Kind;
use tintype::repository::disk::SnapshotDisk;
use tintype::repository::protocol::End;
use tintype::repository::prune::Pruned;
use tintype::repository::store::simulated::{Faults, SimulatedStore, Simulation};
use tintype::repository::store::{Listed, Store, StoreError, StoreErrorKind};
use tintype::repository::{InitOptions, Repository};
use tintype_formats::testing::{ModelDisk, digest};
use tintype_tin::id::Id;
use tintype_tin::slot::Cost;

const DISK_BYTES: u64 = 24 << 16;
const HOUR: Duration = Duration::from_secs(3600);

/// The digests of the disks that were asked for.
static DIGESTS: Mutex<BTreeMap<u64, blake3::Hash>> = Mutex::new(BTreeMap::new());

fn digest_of(number: u64) -> blake3::Hash {
    *DIGESTS.lock().expect("a lock").entry(number).or_insert_with(|| digest(&disk(number)).expect("a digest"))
}

fn init(simulation: &Simulation) -> Arc<Repository> {
    let options =
        InitOptions { chunk_bytes: 64 << 10, secret: None, recovery: None, holder: "test", cost: Cost::default() };
    Repository::init(Box::new(simulation.client()), None, &options).expect("a repository")
}

fn open(simulation: &Simulation) -> Arc<Repository> {
    let nobody = &mut || panic!("it is not encrypted");
    Repository::open(Box::new(simulation.client()), None, false, nobody).expect("it opens")
}

/// A disk that is the same for the same number, and in part the same as its neighbours.
fn disk(number: u64) -> ModelDisk {
    let mut disk = ModelDisk::new(DISK_BYTES);
    for piece in 0..24 {
        let seed = if piece % 4 == number % 4 { 100 + number } else { 1 + piece / 6 * number.div_ceil(3) };
        disk.write(piece * 16 + piece % 3, 7 * seed + piece);
    }
    disk
}

/// Backs a disk up; what it must read as is told by the host's name.
fn store(repository: &Arc<Repository>, name: &str, number: u64) -> tintype::error::Result<Id> {
    back_up(repository, name, &number.to_string(), &disk(number), 2)
}

fn run(repository: &Arc<Repository>, fence_after: Duration) -> tintype::error::Result<Pruned> {
    prune_all(repository, fence_after, Duration::from_secs(20))
}

/// Panics unless every visible snapshot reads as it was stored, and all those of `required` are visible.
fn check(repository: &Arc<Repository>, required: &[Id], about: &str) {
    let listing = repository.snapshots().expect("a listing");
    assert!(listing.damaged.is_empty(), "{about}: {:?}", listing.damaged);
    let visible: HashSet<Id> = listing.snapshots.iter().map(|snapshot| snapshot.id).collect();
    assert!(required.iter().all(|id| visible.contains(id)), "{about}: a snapshot is lost");
    for snapshot in &listing.snapshots {
        let disk = SnapshotDisk::open(repository, &snapshot.manifest.disks[0]).expect("a disk");
        let found = digest(&disk).unwrap_or_else(|cause| panic!("{about}: snapshot {}: {cause}", snapshot.id));
        let number = snapshot.manifest.host.parse().expect("a number");
        assert_eq!(found, digest_of(number), "{about}: snapshot {}", snapshot.id);
    }
}

/// Panics unless nothing is left that nobody needs, after one more prune.
fn check_clean(repository: &Arc<Repository>, about: &str) {
    run(repository, Duration::ZERO).unwrap_or_else(|cause| panic!("{about}: {cause}"));
    let again = run(repository, Duration::ZERO).unwrap_or_else(|cause| panic!("{about}: {cause}"));
    let plan = again.plan.expect("a plan");
    assert!(plan.garbage.is_empty() && plan.repack.is_empty(), "{about}: {plan:?}");
    assert_eq!(plan.before.unused_bytes, 0, "{about}");
    let names: HashSet<Id> = plan_packs(repository);
    assert_eq!(names.len(), plan.before.packs, "{about}");
}

fn plan_packs(repository: &Repository) -> HashSet<Id> {
    repository.protocol().packs().expect("a listing").iter().map(|pack| pack.id).collect()
}

/// A repository with five snapshots, of which two are forgotten, and with the remains of a backup that was killed.
fn used(simulation: &Simulation) -> (Arc<Repository>, Vec<Id>) {
    let repository = init(simulation);
    let stored: Vec<Id> = (0..5).map(|number| store(&repository, "vm", number).expect("a backup")).collect();
    repository.forget(stored[0]).expect("forgotten");
    repository.forget(stored[3]).expect("forgotten");
    repository.protocol().begin_session("killed", &[], false).expect("a session");
    let left = [1, 2, 4].map(|number| stored[number]).to_vec();
    (repository, left)
}

#[test]
fn a_prune_that_is_cut_anywhere_is_finished_by_the_next() {
    let whole = Simulation::new(1, Faults::default());
    let (repository, _) = used(&whole);
    let before = whole.counts().operations();
    run(&repository, Duration::ZERO).expect("a prune");
    let operations = whole.counts().operations() - before;
    assert!(operations > 50, "{operations}");
    let mut taken_over = 0;
    for number in 1..=operations {
        let about = format!("cut in operation {number} of {operations}");
        let simulation = Simulation::new(number, Faults::default());
        let (repository, mut required) = used(&simulation);
        simulation.cut_power_at(simulation.counts().operations() + number);
        let result = run(&repository, Duration::ZERO);
        assert_eq!(result.is_err(), simulation.is_power_cut(), "{about}: {result:?}");
        let simulation = simulation.after_power_cut();
        let repository = open(&simulation);
        check(&repository, &required, &about);
        let id = store(&repository, "vm", 9).unwrap_or_else(|cause| panic!("{about}: {cause}"));
        required.push(id);
        check(&repository, &required, &about);
        let pruned = run(&repository, Duration::ZERO).unwrap_or_else(|cause| panic!("{about}: {cause}"));
        taken_over += pruned.taken_over.len();
        check(&repository, &required, &about);
        check_clean(&repository, &about);
        check(&repository, &required, &about);
    }
    assert!(taken_over > 0, "no epoch was left open");
}

#[test]
fn a_prune_in_an_unreliable_store_loses_nothing() {
    let faults = Faults { unclear: 60, max_delay_operations: 20, failure: 8, ..Faults::default() };
    for seed in 0..40 {
        let about = format!("seed {seed}");
        let simulation = Simulation::new(seed, Faults::default());
        let (_, mut required) = used(&simulation);
        simulation.set_faults(faults);
        for number in 0..4 {
            // Each may fail; what counts is what is there afterwards.
            simulation.set_faults(Faults::default());
            let repository = open(&simulation);
            simulation.set_faults(faults);
            _ = run(&repository, Duration::ZERO);
            simulation.set_faults(Faults::default());
            let repository = open(&simulation);
            simulation.set_faults(faults);
            let stored = store(&repository, "vm", 10 + number);
            simulation.set_faults(Faults::default());
            required.extend(stored.ok());
            check(&open(&simulation), &required, &about);
        }
        check_clean(&open(&simulation), &about);
        check(&open(&simulation), &required, &about);
    }
}

#[test]
fn prunes_run_beside_backups() {
    for seed in 0..6 {
        let simulation = Simulation::new(seed, Faults { give_way: 300, ..Faults::default() });
        let (_, required) = used(&simulation);
        let required = Mutex::new(required);
        std::thread::scope(|scope| {
            let (simulation, required) = (&simulation, &required);
            for writer in 0..2u64 {
                scope.spawn(move || {
                    for round in 0..4 {
                        let number = 20 + writer * 2 + round;
                        match store(&open(simulation), &format!("vm{writer}"), number) {
                            // Every other one is forgotten.
                            Ok(id) if round % 2 == 0 => required.lock().expect("a lock").push(id),
                            Ok(id) => open(simulation).forget(id).expect("forgotten"),
                            Err(cause) => assert_eq!(cause.kind(), Kind::Fenced, "{cause}"),
                        }
                    }
                });
            }
            for pruner in 0..2u64 {
                scope.spawn(move || {
                    for _ in 0..3 {
                        // One waits, the other one is in a hurry.
                        let fence_after = if pruner == 0 { HOUR } else { Duration::ZERO };
                        let pruned = run(&open(simulation), fence_after);
                        pruned.unwrap_or_else(|cause| panic!("seed {seed}, pruner {pruner}: {cause}"));
                    }
                });
            }
        });
        let required = required.into_inner().expect("a lock");
        check(&open(&simulation), &required, &format!("seed {seed}"));
        check_clean(&open(&simulation), &format!("seed {seed}"));
        check(&open(&simulation), &required, &format!("seed {seed}"));
    }
}

#[test]
fn a_backup_that_runs_is_waited_for_and_an_impatient_prune_stops() {
    let simulation = Simulation::new(1, Faults::default());
    let (repository, required) = used(&simulation);
    let packs = plan_packs(&repository);
    let pruned = prune_all(&repository, HOUR, Duration::ZERO).expect("it ends");
    assert_eq!((pruned.waiting.len(), pruned.deleted), (1, 0));
    assert!(packs.is_subset(&plan_packs(&repository)), "a pack was deleted");
    check(&repository, &required, "stopped");
    // The session ends while the next prune waits for it.
    let session = pruned.waiting[0];
    let other = open(&simulation);
    let pruned = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            other.protocol().end_session(session, End::Ended).expect("it ends");
        });
        run(&repository, HOUR).expect("a prune")
    });
    assert_eq!((pruned.taken_over.len(), pruned.fenced.len()), (1, 0));
    assert!(pruned.deleted > 0);
    check(&repository, &required, "finished");
}

#[test]
fn what_a_backup_used_meanwhile_is_rescued() {
    let simulation = Simulation::new(1, Faults::default());
    let (repository, mut required) = used(&simulation);
    // A backup that began before anything was condemned builds on what is garbage then.
    let session = tintype::repository::session::WriteSession::begin(&repository, "backup", false).expect("a session");
    prune_all(&repository, HOUR, Duration::ZERO).expect("it ends");
    let manifest = forgotten_manifest(&repository);
    let id = session.commit(&manifest).expect("it is committed");
    required.push(id);
    let pruned = run(&repository, Duration::ZERO).expect("a prune");
    assert!(pruned.rescued > 0, "{pruned:?}");
    check(&repository, &required, "rescued");
    check_clean(&repository, "rescued");
    check(&repository, &required, "rescued");
}

/// The manifest of the first snapshot, which is forgotten: a backup may find the same disk again.
fn forgotten_manifest(repository: &Repository) -> tintype_tin::manifest::Manifest {
    let names = repository.store().list("snapshots/").expect("a listing");
    let name = names.iter().find_map(|listed| listed.name.strip_suffix(".forgotten")).expect("a tombstone").to_owned();
    let id: Id = name.trim_start_matches("snapshots/").parse().expect("an id");
    repository.committed(id).expect("a manifest").expect("committed").expect("whole").manifest
}

#[test]
fn objects_that_do_not_count_do_not_stand_in_the_way() {
    let simulation = Simulation::new(1, Faults::default());
    let (repository, required) = used(&simulation);
    let store = simulation.client();
    for name in ["epochs/00000001/condemned", "epochs/00000002/condemned", "epochs/00000002/verdict"] {
        store.put(name, b"nonsense").expect("a put");
    }
    let session = repository.protocol().open_sessions().expect("a listing")[0];
    store.put(&format!("sessions/{session}/end"), b"nonsense").expect("a put");
    let pruned = run(&repository, Duration::ZERO).expect("a prune");
    assert!(pruned.deleted > 0 && pruned.fenced.is_empty());
    check(&repository, &required, "void objects");
    check_clean(&repository, "void objects");
    // The end of a snapshot's session is damaged: it cannot be seen any more, and keeps what it needs.
    let packs = plan_packs(&repository);
    let session = repository.snapshots().expect("a listing").snapshots[0].session;
    let end = format!("sessions/{session}/end");
    store.delete(&end).expect("a delete");
    store.put(&end, b"nonsense").expect("a put");
    assert_eq!(repository.snapshots().expect("a listing").snapshots.len(), required.len() - 1);
    run(&repository, Duration::ZERO).expect("a prune");
    assert_eq!(plan_packs(&repository), packs);
}

#[test]
fn a_lease_keeps_a_forgotten_snapshot_and_no_prune_waits_for_it() {
    let simulation = Simulation::new(1, Faults::default());
    let (repository, required) = used(&simulation);
    run(&repository, Duration::ZERO).expect("a prune");
    let snapshot = repository.committed(required[0]).expect("a manifest").expect("committed").expect("whole");
    let lease = repository.lease("serve", &snapshot).expect("a lease");
    repository.forget(snapshot.id).expect("forgotten");
    store(&open(&simulation), "vm", 50).expect("a backup");
    let began = std::time::Instant::now();
    for about in ["first", "second"] {
        let pruned = run(&open(&simulation), HOUR).expect("a prune");
        assert!(pruned.waiting.is_empty() && pruned.fenced.is_empty(), "{about}: {pruned:?}");
        let disk = SnapshotDisk::open(&repository, &snapshot.manifest.disks[0]).expect("a disk");
        assert_eq!(digest(&disk).expect("it reads"), digest_of(1), "{about}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "a prune waited for a reader");
    let denied = open(&simulation).lease("serve", &snapshot).err().expect("it is forgotten");
    assert_eq!(denied.kind(), Kind::NoSnapshot);
    drop(lease);
    assert!(run(&open(&simulation), HOUR).expect("a prune").deleted > 0);
    check(&open(&simulation), &required[1..], "afterwards");
    check_clean(&open(&simulation), "afterwards");
}

#[test]
fn the_lease_of_a_reader_that_died_is_fenced() {
    let simulation = Simulation::new(1, Faults::default());
    let (repository, required) = used(&simulation);
    repository.protocol().begin_session("serve", &[required[0]], false).expect("a session");
    repository.forget(required[0]).expect("forgotten");
    let pruned = run(&repository, Duration::ZERO).expect("a prune");
    assert_eq!(pruned.fenced.len(), 2, "{pruned:?}");
    check(&repository, &required[1..], "fenced");
    check_clean(&repository, "fenced");
}

/// A process that is killed before it can sync anything.
struct NeverSyncs(SimulatedStore);

impl Store for NeverSyncs {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.put(name, bytes)
    }

    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.0.get(name, max_bytes)
    }

    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.0.get_range(name, offset, buffer)
    }

    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.0.len_bytes(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.0.list(prefix)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.delete(name)
    }

    fn sync(&self) -> Result<(), StoreError> {
        Err(StoreError::new(StoreErrorKind::Io, "sync", "", "it was killed"))
    }

    fn adopt(&self, name: &str) {
        self.0.adopt(name);
    }

    fn shown(&self) -> String {
        self.0.shown()
    }
}

#[test]
fn what_a_killed_backup_stored_is_durable_when_the_next_one_is_committed() {
    for seed in 0..12 {
        let simulation = Simulation::new(seed, Faults::default());
        let (_, mut required) = used(&simulation);
        let killed = Box::new(NeverSyncs(simulation.client()));
        let killed = Repository::open(killed, None, false, &mut || panic!("it is not encrypted")).expect("it opens");
        store(&killed, "vm", 30).expect_err("it was killed");
        let id = store(&open(&simulation), "vm", 30).expect("a backup");
        required.push(id);
        check(&open(&simulation.after_power_cut()), &required, &format!("seed {seed}"));
    }
}

#[test]
fn a_snapshot_whose_chunks_were_pruned_stays_forgotten() {
    for seed in 0..12 {
        let simulation = Simulation::new(seed, Faults::default());
        let (_, mut required) = used(&simulation);
        let id = store(&open(&simulation), "other", 40).expect("a backup");
        let killed = Box::new(NeverSyncs(simulation.client()));
        let killed = Repository::open(killed, None, false, &mut || panic!("it is not encrypted")).expect("it opens");
        killed.forget(id).expect_err("it was killed");
        run(&open(&simulation), Duration::ZERO).expect("a prune");
        let id = store(&open(&simulation), "vm", 41).expect("a backup");
        required.push(id);
        check(&open(&simulation.after_power_cut()), &required, &format!("seed {seed}"));
    }
}
