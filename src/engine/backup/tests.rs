use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::tin::read::MappedDisk;
use tintype_formats::tin::write::{Base, StoredDisk};
use tintype_formats::{BlockSource, Geometry, ImageError, is_zero};
use tintype_tin::manifest::{DiskRecord, RootRecord, SourceRecord};
use tintype_tin::slot::Cost;

use super::store::Job;
use super::*;
use crate::engine::NamedDisk;
use crate::repository::InitOptions;
use crate::repository::disk::SnapshotDisk;
use crate::repository::store::simulated::{Faults, Simulation};

const BLOCK: usize = 4096;
const CHUNK: usize = 64 << 10;

/// A disk, and what somebody says of its blocks: which are as they were before.
struct Tracked {
    bytes: Vec<u8>,
    said_clean: Vec<bool>,
}

impl Tracked {
    fn kind(&self, block: usize) -> DiskKind {
        let bytes = &self.bytes[block * BLOCK..self.bytes.len().min((block + 1) * BLOCK)];
        match () {
            () if self.said_clean.get(block) == Some(&true) => DiskKind::Inherited,
            () if is_zero(bytes) => [DiskKind::Hole, DiskKind::Zero, DiskKind::Data(None)][block % 3],
            () => DiskKind::Data(None),
        }
    }
}

impl BlockSource for Tracked {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.bytes.len() as u64,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            unit_bytes: BLOCK as u64,
        }
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let max_bytes = self.geometry().clamp(guest_offset, max_bytes)?;
        let first = guest_offset as usize / BLOCK;
        let kind = self.kind(first);
        let blocks = self.bytes.len().div_ceil(BLOCK);
        let end = (first..blocks).find(|block| self.kind(*block) != kind).unwrap_or(blocks);
        Ok(DiskExtent { length_bytes: ((end * BLOCK) as u64 - guest_offset).min(max_bytes), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.bytes[guest_offset as usize..][..buffer.len()]);
        Ok(())
    }
}

fn repository() -> Arc<Repository> {
    let simulation = Simulation::new(1, Faults::default());
    let options =
        InitOptions { chunk_bytes: CHUNK as u64, secret: None, recovery: None, holder: "test", cost: Cost::default() };
    Repository::init(Box::new(simulation.client()), None, &options).unwrap()
}

fn options() -> BackupOptions {
    BackupOptions {
        name: "vm".to_owned(),
        host: "host".to_owned(),
        tags: BTreeMap::new(),
        level: Some(1),
        consistency: "unknown".to_owned(),
        workers: 3,
        rate_limit: None,
        dry_run: false,
        tolerance: Tolerance::NONE,
        allow_empty: false,
    }
}

/// Stores a disk in a session of its own, with what the base has, and returns it with its statistics.
fn store(repository: &Arc<Repository>, disk: &Tracked, base: Base) -> StoredDisk {
    let session = Arc::new(WriteSession::begin(repository, "backup", true).unwrap());
    let (options, progress) = (options(), Progress::new());
    let mut disk = BackupDisk {
        name: "disk".to_owned(),
        input: Input::Disk(NamedDisk { disk, path: Path::new("disk") }),
        path: "disk".to_owned(),
        format: "raw".to_owned(),
        is_declared: true,
        sector_bytes: (512, 512),
        identity: DiskIdentity::default(),
        is_device: false,
        unreadable: Vec::new(),
        earlier: None,
    };
    let job = Job { repository, session: &session, options: &options, progress: &progress };
    let (stored, _) = job.store_all(&mut disk, base).unwrap();
    Arc::into_inner(session).unwrap().close().unwrap();
    stored
}

fn record(disk: &Tracked, stored: &StoredDisk) -> DiskRecord {
    DiskRecord {
        name: "disk".to_owned(),
        size_bytes: disk.bytes.len() as u64,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        source: SourceRecord { path: "disk".to_owned(), format: "raw".to_owned() },
        identity: DiskIdentity::default(),
        unreadable: Vec::new(),
        root: stored.root.map(RootRecord::from),
        statistics: stored.statistics,
    }
}

fn read_back(repository: &Arc<Repository>, record: &DiskRecord) -> Vec<u8> {
    let disk = SnapshotDisk::open(repository, record).unwrap();
    let mut bytes = vec![1; record.size_bytes as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What is stored when the tracking is believed: chunks of which every block is said to be clean are as they were before, and
/// past the end of that nothing.
fn expected(disk: &Tracked, before: &[u8]) -> Vec<u8> {
    let mut expected = disk.bytes.clone();
    for (index, chunk) in expected.chunks_mut(CHUNK).enumerate() {
        let first = index * CHUNK / BLOCK;
        if (first..first + chunk.len().div_ceil(BLOCK)).all(|block| disk.said_clean[block]) {
            let begin = index * CHUNK;
            let inside = before.len().saturating_sub(begin).min(chunk.len());
            chunk.fill(0);
            chunk[..inside].copy_from_slice(&before[begin.min(before.len())..][..inside]);
        }
    }
    expected
}

fn data_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(CHUNK).filter(|chunk| !is_zero(chunk)).map(|chunk| chunk.len() as u64).sum()
}

/// A write of one byte to a range of blocks.
type Write = (usize, usize, u8);

fn write(bytes: &mut [u8], (begin, blocks, byte): Write) {
    let begin = begin * BLOCK % bytes.len().max(1);
    let end = bytes.len().min(begin + blocks * BLOCK);
    bytes[begin..end].fill(byte);
}

/// The next generation of a disk: its size in blocks and bytes, the writes, and what is said wrongly of which blocks.
#[derive(Debug, Clone)]
struct Generation {
    blocks: usize,
    tail: usize,
    writes: Vec<Write>,
    /// Blocks that did not change, and are said to have.
    modest: Vec<usize>,
    /// Blocks that did change, and are said not to have.
    lies: Vec<(usize, usize)>,
    /// Which of the packs that there are can no longer be built on.
    quarantined: Option<prop::sample::Index>,
}

fn generation() -> impl Strategy<Value = Generation> {
    let write = (0usize..200, 1usize..40, 0u8..4);
    let writes = prop::collection::vec(write, 0..6);
    let lies = prop_oneof![Just(Vec::new()), prop::collection::vec((0usize..200, 1usize..60), 1..4)];
    let modest = prop::collection::vec(0usize..200, 0..4);
    let quarantined = prop::option::weighted(0.4, any::<prop::sample::Index>());
    (30usize..150, 0usize..BLOCK / 512, writes, modest, lies, quarantined).prop_map(
        |(blocks, tail, writes, modest, lies, quarantined)| Generation {
            blocks,
            tail: tail * 512,
            writes,
            modest,
            lies,
            quarantined,
        },
    )
}

fn next(before: &[u8], generation: &Generation) -> Tracked {
    let mut bytes = before.to_vec();
    bytes.resize(generation.blocks * BLOCK + generation.tail, 0);
    generation.writes.iter().for_each(|one| write(&mut bytes, *one));
    let blocks = bytes.len().div_ceil(BLOCK);
    let block = |bytes: &[u8], index: usize| {
        let mut block = bytes.get(index * BLOCK..).unwrap_or_default().iter().take(BLOCK).copied().collect::<Vec<_>>();
        block.resize(BLOCK, 0);
        block
    };
    let mut said_clean: Vec<_> = (0..blocks).map(|index| block(&bytes, index) == block(before, index)).collect();
    generation.modest.iter().for_each(|index| said_clean[index % blocks] = false);
    for (begin, length) in &generation.lies {
        said_clean.iter_mut().skip(begin % blocks).take(*length).for_each(|clean| *clean = true);
    }
    Tracked { bytes, said_clean }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is said of what changed: what is stored is the disk where it is said to have changed, and what it is said to
    /// be like elsewhere; never zeros, never another place's bytes. Without a lie it is the disk.
    #[test]
    fn inherited_parts_are_as_they_were(first in generation(), later in prop::collection::vec(generation(), 1..4)) {
        let repository = repository();
        let mut tracked = next(&[], &first);
        tracked.said_clean.fill(false);
        let stored = store(&repository, &tracked, Base::Nothing);
        let mut before = record(&tracked, &stored);
        let mut known = tracked.bytes.clone();
        prop_assert_eq!(&read_back(&repository, &before), &known);
        for generation in &later {
            if let Some(which) = &generation.quarantined {
                let packs = repository.protocol().packs().unwrap();
                if !packs.is_empty() {
                    // One that is quarantined already stays so.
                    let _ = repository.quarantine(packs[which.index(packs.len())].id, "a test");
                }
            }
            let tracked = next(&known, generation);
            let mapped = repository.mapped(&repository.chunk_reader(), &before);
            let stored = store(&repository, &tracked, Base::InheritsFrom(Arc::new(mapped)));
            before = record(&tracked, &stored);
            let expected = expected(&tracked, &known);
            prop_assert!(!generation.lies.is_empty() || expected == tracked.bytes);
            prop_assert!(read_back(&repository, &before) == expected);
            prop_assert_eq!(stored.statistics.data_bytes, data_bytes(&expected));
            known = expected;
        }
    }

    /// Who only compares believes nothing: the result is the disk.
    #[test]
    fn what_is_only_compared_is_read(first in generation(), second in generation()) {
        let repository = repository();
        let tracked = next(&[], &first);
        let stored = store(&repository, &tracked, Base::Nothing);
        let before = record(&tracked, &stored);
        prop_assert_eq!(&read_back(&repository, &before), &tracked.bytes);
        let tracked = next(&tracked.bytes, &second);
        let mapped = repository.mapped(&repository.chunk_reader(), &before);
        let stored = store(&repository, &tracked, Base::ComparedWith(Arc::new(mapped)));
        prop_assert_eq!(&read_back(&repository, &record(&tracked, &stored)), &tracked.bytes);
    }
}

/// Three pages of the map, of which one byte of the middle one's pieces changed.
#[test]
fn clean_pages_are_taken_over_and_little_is_read() {
    let repository = repository();
    let blocks = 2500 * CHUNK / BLOCK;
    let mut tracked = Tracked { bytes: vec![0; blocks * BLOCK], said_clean: vec![false; blocks] };
    for (index, chunk) in tracked.bytes.chunks_mut(CHUNK).enumerate() {
        chunk[..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
    }
    let stored = store(&repository, &tracked, Base::Nothing);
    let record = record(&tracked, &stored);
    let before = Arc::new(repository.mapped(&repository.chunk_reader(), &record));
    tracked.said_clean.fill(true);
    let unchanged = store(&repository, &tracked, Base::InheritsFrom(Arc::clone(&before)));
    assert_eq!(unchanged.root, stored.root);
    let statistics = unchanged.statistics;
    assert_eq!((statistics.stored_bytes, statistics.changed_bytes), (0, 0));
    assert_eq!(statistics.data_bytes, stored.statistics.data_bytes);
    let changed = 1500 * CHUNK;
    tracked.bytes[changed] ^= 1;
    tracked.said_clean[changed / BLOCK] = false;
    let again = store(&repository, &tracked, Base::InheritsFrom(Arc::clone(&before)));
    assert_eq!(again.statistics.changed_bytes, CHUNK as u64);
    let page = |of: &StoredDisk, number| {
        let mapped = MappedDisk::new(repository.chunk_reader(), before.shape(), of.root);
        mapped.page_at(0, number).unwrap().map(|(id, location, _)| (id, location))
    };
    assert_eq!(page(&again, 0), page(&stored, 0));
    assert_ne!(page(&again, 1), page(&stored, 1));
    assert_eq!(page(&again, 2), page(&stored, 2));
}
