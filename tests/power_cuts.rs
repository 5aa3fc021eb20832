//! The power is cut in the middle of everything: the last committed snapshots read whole, and work goes on afterwards.
//!
//! `TINTYPE_SEEDS` says how many runs to make (500 if not set).

#[path = "common/cheap.rs"]
mod cheap;
#[path = "common/stored.rs"]
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cheap::CHEAP;
use stored::{back_up, prune_all};
use tintype::error::{Kind, Result};
use tintype::progress::Progress;
use tintype::repository::disk::SnapshotDisk;
use tintype::repository::store::simulated::{Faults, Simulation};
use tintype::repository::{InitOptions, Repository};
use tintype_formats::OpenFile;
use tintype_formats::secrets::{Secret, Secrets};
use tintype_formats::testing::{MemoryFile, Random, open_disk, read_all};
use tintype_formats::tin::open::TinFile;
use tintype_tin::id::Id;

const CHUNK: u64 = 64 << 10;
const DISK_CHUNKS: u64 = 24;

/// What the disk holds, which snapshots of it must be there, and what opens them.
struct World {
    content: Vec<u8>,
    kept: BTreeMap<Id, Vec<u8>>,
    /// One of these opens the repository; more than one only while it is not known whether a change of the password came through.
    passwords: Vec<String>,
    /// A snapshot in a file, and what it holds.
    exported: Option<(OpenFile, Vec<u8>)>,
}

impl World {
    fn change(&mut self, random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            let chunk = random.below(DISK_CHUNKS) as usize * CHUNK as usize;
            let value = random.next_u64().to_le_bytes();
            self.content[chunk..chunk + 5000].chunks_mut(8).for_each(|part| part.copy_from_slice(&value[..part.len()]));
        }
    }

    fn back_up(&mut self, repository: &Arc<Repository>) -> Result<Id> {
        let file = Arc::new(MemoryFile::from_bytes(&self.content));
        let disk = open_disk(file, Some(&tintype_formats::raw::FORMAT))?;
        let id = back_up(repository, "machine", "host", &disk, 1)?;
        self.kept.insert(id, self.content.clone());
        Ok(id)
    }

    fn forget_one(&mut self, repository: &Arc<Repository>, random: &mut Random) -> Result<()> {
        let ids: Vec<Id> = self.kept.keys().copied().collect();
        let id = ids[random.below(ids.len() as u64) as usize];
        let forgotten = repository.forget(id);
        // Also a forget that failed may have happened.
        self.kept.remove(&id);
        forgotten
    }

    fn prune(&self, repository: &Arc<Repository>) -> Result<()> {
        prune_all(repository, Duration::ZERO, Duration::from_secs(5)).map(|_| ())
    }

    fn change_password(&mut self, repository: &Arc<Repository>, random: &mut Random) -> Result<()> {
        let new = format!("password {}", random.next_u64());
        self.passwords.push(new.clone());
        repository.change_secret(&secret(&new), CHEAP)?;
        self.passwords = vec![new];
        Ok(())
    }

    fn export(&mut self, repository: &Arc<Repository>) {
        let snapshot = repository.newest_own("machine", "host").unwrap().expect("a snapshot");
        let file = Arc::new(MemoryFile::default());
        repository.export(&snapshot, Arc::clone(&file) as _, &Progress::new()).unwrap();
        let file = OpenFile { file, name: "exported".to_owned(), identity: None, secrets: Secrets::default() };
        self.exported = Some((file, self.kept[&snapshot.id].clone()));
    }

    fn import(&mut self, repository: &Arc<Repository>) -> Result<()> {
        let (file, content) = self.exported.as_ref().expect("an exported snapshot");
        let file = TinFile::open_with(file, repository.ring())?.expect("a file of this repository");
        if let Some((id, _)) = repository.import(&file, &Progress::new())? {
            self.kept.insert(id, content.clone());
        }
        Ok(())
    }

    /// Opens the repository by the passwords that there may be.
    fn open(&self, simulation: &Simulation) -> Result<Arc<Repository>> {
        let mut tried = Err(tintype::error::Error::new(Kind::WrongKey, "there is no password"));
        for password in self.passwords.iter().rev() {
            tried = Repository::open(Box::new(simulation.client()), None, true, &mut || Ok(secret(password)));
            match &tried {
                Err(cause) if cause.kind() == Kind::WrongKey => {}
                _ => break,
            }
        }
        tried
    }

    /// Every snapshot that is visible reads whole, and none that was promised is missing.
    fn check(&self, repository: &Arc<Repository>, seed: u64) {
        let listing = repository.snapshots().unwrap();
        assert!(listing.damaged.is_empty(), "seed {seed}: {:?}", listing.damaged);
        let visible: BTreeMap<Id, _> = listing.snapshots.iter().map(|snapshot| (snapshot.id, snapshot)).collect();
        for (id, content) in &self.kept {
            let snapshot = visible.get(id).unwrap_or_else(|| panic!("seed {seed}: snapshot {id} is gone"));
            let disk = SnapshotDisk::open(repository, snapshot.disk(None).unwrap()).unwrap();
            assert!(read_all(&disk).unwrap() == *content, "seed {seed}: snapshot {id} has changed");
        }
        for snapshot in visible.values() {
            let disk = SnapshotDisk::open(repository, snapshot.disk(None).unwrap()).unwrap();
            read_all(&disk).unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
        }
    }
}

fn secret(password: &str) -> Secret {
    Secret::passphrase(password.as_bytes().to_vec())
}

/// One step of a random history, by a new process.
fn step(world: &mut World, simulation: &Simulation, random: &mut Random) -> Result<()> {
    let repository = &world.open(simulation)?;
    match random.below(10) {
        0 | 1 if world.kept.len() > 1 => world.forget_one(repository, random),
        2 | 3 => world.prune(repository),
        4 => world.change_password(repository, random),
        5 => repository.rotate_keys().map(|_| ()),
        6 if world.exported.is_some() => world.import(repository),
        _ => {
            world.change(random);
            world.back_up(repository).map(|_| ())
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let simulation = Simulation::new(seed, Faults::default());
    let first = secret("first");
    let options = InitOptions { chunk_bytes: CHUNK, secret: Some(&first), recovery: None, holder: "host", cost: CHEAP };
    let repository = Repository::init(Box::new(simulation.client()), None, &options).unwrap();
    let content = vec![0; (DISK_CHUNKS * CHUNK - 512) as usize];
    let passwords = vec!["first".to_owned()];
    let mut world = World { content, kept: BTreeMap::new(), passwords, exported: None };
    world.change(&mut random);
    world.back_up(&repository).unwrap();
    world.export(&repository);
    for _ in 0..random.below(5) {
        step(&mut world, &simulation, &mut random).unwrap();
    }
    // A process that began before a rotation does not know the new keys.
    world.check(&world.open(&simulation).unwrap(), seed);
    simulation.cut_power_at(simulation.counts().operations() + 1 + random.below(60));
    while !simulation.is_power_cut() {
        let _ = step(&mut world, &simulation, &mut random);
    }
    let simulation = simulation.after_power_cut();
    let repository = world.open(&simulation).unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
    world.check(&repository, seed);
    // The next ones succeed, whatever was left behind.
    world.change(&mut random);
    world.back_up(&repository).unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
    world.prune(&repository).unwrap_or_else(|cause| panic!("seed {seed}: {cause}"));
    world.check(&repository, seed);
}

#[test]
fn a_power_cut_loses_no_committed_snapshot() {
    let seeds = std::env::var("TINTYPE_SEEDS").map_or(500, |text| text.parse().expect("a number"));
    let next = std::sync::atomic::AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}
