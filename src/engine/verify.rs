//! Verifies a repository: its objects, its packs, and what the snapshots need of them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;
use rayon::ThreadPoolBuilder;
use tintype_tin::id::Id;
use tintype_tin::manifest::DiskRecord;

use super::pipeline::joined;
use crate::error::{Error, Kind, Result, in_words};
use crate::progress::Progress;
use crate::repository::protocol::ListedPack;
use crate::repository::snapshots::Snapshot;
use crate::repository::verify::maps::{Lost, MapWalk, Packs};
use crate::repository::verify::objects::{Objects, look_at_objects};
use crate::repository::verify::packs::{PackState, look_at_pack};
use crate::repository::verify::{Depth, Finding, Room, in_parallel};
use crate::repository::{Repository, ledger, names, time};

/// Memory for packs that are being looked at, in bytes.
const PACK_ROOM_BYTES: u64 = 160 << 20;

/// Packs that are looked at at once; more threads than that share the chunks of one.
const MAX_PACKS_AT_ONCE: usize = 8;

/// How often all is looked at again because a prune ran meanwhile.
const ROUNDS: usize = 5;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// These snapshots (NAME, NAME@ID or ID) and the packs that they use; all of them, if there are none here.
    pub snapshots: Vec<Snapshot>,
    /// How deeply.
    pub depth: Depth,
    /// Only such a share (0 to 1) of the packs' bytes below their structure, those first that were not verified for the longest.
    pub sample: Option<f64>,
    /// Only packs that were last verified before this, below their structure.
    pub verified_before: Option<Timestamp>,
    /// How many threads.
    pub workers: usize,
}

/// A disk of a snapshot of which something is lost.
#[derive(Debug, Clone)]
pub struct HitDisk {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Which of its disks.
    pub disk: usize,
    /// Guest ranges that cannot be read, ascending.
    pub ranges: Vec<Range<u64>>,
    /// What is lost, piece by piece.
    pub lost: Vec<Lost>,
}

impl HitDisk {
    /// The disk.
    pub fn record(&self) -> &DiskRecord {
        &self.snapshot.manifest.disks[self.disk]
    }

    /// How many bytes of the disk cannot be read.
    pub fn lost_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Snapshots whose maps were walked.
    pub snapshots: usize,
    /// Snapshots of other hosts, which these keys do not open.
    pub sealed: usize,
    /// Objects that there are.
    pub objects: usize,
    /// Packs that there are.
    pub packs: usize,
    /// Packs that were looked at below their structure, and their bytes.
    pub packs_read: usize,
    /// The bytes of those packs.
    pub read_bytes: u64,
    /// Chunks in all packs.
    pub chunks: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Which disks are hit.
    pub hit: Vec<HitDisk>,
    /// Damaged packs that are marked as such already.
    pub quarantined: Vec<Id>,
    /// Snapshots that never became visible: their writer works or died.
    pub unfinished: Vec<Id>,
    /// Packs that no snapshot uses; what running backups store is among them.
    pub orphaned: Vec<ListedPack>,
    /// Packs that no trusted index segment names.
    pub unindexed: Vec<ListedPack>,
    /// Names that are no object's.
    pub foreign: Vec<String>,
    /// Packs that were found whole at the depth that was asked for.
    pub whole: Vec<Id>,
    /// The hash of each key slot, in hexadecimal digits.
    pub slots: BTreeMap<Id, String>,
    /// What is in the packs.
    pub states: Arc<Packs>,
}

impl Verified {
    /// Whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.hit.is_empty()
    }
}

/// Verifies, and notes in the ledger what was found whole.
pub fn verify(repository: &Arc<Repository>, options: &VerifyOptions, progress: &Progress) -> Result<Verified> {
    require_features(repository)?;
    if options.depth == Depth::Plain {
        repository.require_data("verify plain bytes")?;
    }
    let verified = look_until_quiet(repository, options, progress)?;
    let damaged: Vec<String> = verified.findings.iter().map(|finding| finding.object.clone()).collect();
    let mut slots = verified.slots.clone();
    slots.retain(|id, _| !damaged.contains(&names::key(*id)));
    let entry = ledger::Entry {
        time: time::now(),
        depth: options.depth,
        packs: verified.whole.clone(),
        damaged,
        slots,
        boots: BTreeMap::new(),
    };
    if let Err(cause) = repository.record(&entry) {
        progress.note(format!("what was verified could not be noted in the ledger: {}", in_words(&cause)));
    }
    Ok(verified)
}

/// Looks, and looks again if something is missing that a prune may have moved meanwhile (FORMAT.md §11, readers).
pub fn look_until_quiet(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
    progress: &Progress,
) -> Result<Verified> {
    for _ in 0..ROUNDS {
        let epochs = repository.protocol().epochs()?;
        let verified = look(repository, options, &Packs::new(), progress)?;
        if verified.is_clean() || repository.protocol().epochs()? == epochs {
            return Ok(verified);
        }
    }
    let message = format!("verify: prunes ran all the while, {ROUNDS} times; try again when they have ended");
    Err(Error::new(Kind::Io, message))
}

fn require_features(repository: &Repository) -> Result<()> {
    let Some(feature) = repository.config().features.check.first() else { return Ok(()) };
    let message = format!("verify takes a program that knows of \"{}\": use a newer one", feature.escape_debug());
    Err(Error::new(Kind::Io, message))
}

/// Looks once; packs that are known are not read again.
pub fn look(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
    known: &Packs,
    progress: &Progress,
) -> Result<Verified> {
    let objects = look_at_objects(repository, options.workers)?;
    let (snapshots, sealed, broken) = chosen_snapshots(repository, options)?;
    let chosen = match options.depth {
        Depth::Structure => HashSet::new(),
        _ => chosen_packs(repository, options, &objects, &snapshots, progress)?,
    };
    let packs = Arc::new(look_at_packs(repository, options, (&objects.packs, known), &chosen, progress)?);
    let mut walk = MapWalk::new(repository, &packs);
    let hit = walk_all(repository, &mut walk, &snapshots, progress)?;
    let all = options.snapshots.is_empty() && sealed == 0;
    let used = walk.used().filter(|_| all);
    let mut verified = summary(&objects, &packs, &hit, used, &chosen, options.depth);
    let known: HashSet<String> = verified.findings.iter().map(|finding| finding.object.clone()).collect();
    verified.findings.extend(broken.into_iter().filter(|finding| !known.contains(&finding.object)));
    verified.findings.sort_by(|one, other| one.object.cmp(&other.object));
    Ok(Verified { snapshots: snapshots.len(), sealed, hit, states: packs, ..verified })
}

/// The snapshots to look at; how many there are that cannot be opened; manifests that cannot be read.
fn chosen_snapshots(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
) -> Result<(Vec<Snapshot>, usize, Vec<Finding>)> {
    if !options.snapshots.is_empty() {
        return Ok((options.snapshots.clone(), 0, Vec::new()));
    }
    let listing = repository.snapshots()?;
    // Where the manifest can be read, what is wrong is another object's.
    let unread = listing.damaged.into_iter().filter(|damage| damage.fact.is_none());
    let broken = unread.map(|damage| Finding::damaged(names::snapshot(damage.id), damage.cause));
    Ok((listing.snapshots, listing.sealed, broken.collect()))
}

/// The packs to look at below their structure.
fn chosen_packs(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
    objects: &Objects,
    snapshots: &[Snapshot],
    progress: &Progress,
) -> Result<HashSet<Id>> {
    let mut packs = objects.packs.clone();
    if !options.snapshots.is_empty() {
        let states = look_at_packs(repository, options, (&packs, &Packs::new()), &HashSet::new(), progress)?;
        let mut walk = MapWalk::new(repository, &Arc::new(states));
        walk_all(repository, &mut walk, snapshots, progress)?;
        // Maps that are not up to date do not name all that they need: then all is looked at.
        if let Some(used) = walk.used() {
            packs.retain(|pack| used.contains(&pack.id));
        }
    }
    if options.sample.is_none() && options.verified_before.is_none() {
        return Ok(packs.iter().map(|pack| pack.id).collect());
    }
    let last = repository.last_verified(options.depth)?;
    if let Some(before) = options.verified_before {
        packs.retain(|pack| last.get(&pack.id).is_none_or(|at| *at < before));
    }
    let all_bytes: u64 = packs.iter().map(|pack| pack.len_bytes).sum();
    let wanted = options.sample.map_or(all_bytes, |share| (all_bytes as f64 * share).ceil() as u64);
    // So that ten runs of a tenth see everything. Ids are random, and so is the order of those never seen.
    packs.sort_by_key(|pack| (last.get(&pack.id).copied(), pack.id));
    let mut taken_bytes = 0;
    let fits = |pack: &&ListedPack| {
        let before = taken_bytes;
        taken_bytes += pack.len_bytes;
        before < wanted
    };
    Ok(packs.iter().take_while(fits).map(|pack| pack.id).collect())
}

/// Looks at all packs, at the chosen ones as deeply as asked.
fn look_at_packs(
    repository: &Arc<Repository>,
    options: &VerifyOptions,
    (packs, known): (&[ListedPack], &Packs),
    chosen: &HashSet<Id>,
    progress: &Progress,
) -> Result<Packs> {
    let to_read = packs.iter().filter(|pack| chosen.contains(&pack.id) && !known.contains_key(&pack.id));
    progress.begin(to_read.map(|pack| pack.len_bytes).sum());
    let (room, done_bytes) = (Room::new(PACK_ROOM_BYTES), AtomicU64::new(0));
    let at_once = options.workers.clamp(1, MAX_PACKS_AT_ONCE);
    // Those that read packs wait for the store; what they have read is proved here.
    let pool = ThreadPoolBuilder::new().num_threads(options.workers).build();
    let pool = pool.map_err(|cause| Error::new(Kind::Io, format!("start threads: {cause}")))?;
    let states = in_parallel(at_once, packs, |pack| {
        progress.check_cancelled()?;
        if let Some(state) = known.get(&pack.id) {
            return Ok(state.clone());
        }
        if !chosen.contains(&pack.id) {
            return look_at_pack(repository, *pack, Depth::Structure, &pool);
        }
        let taken = room.take(pack.len_bytes);
        let state = look_at_pack(repository, *pack, options.depth, &pool)?;
        drop(taken);
        progress.reach(done_bytes.fetch_add(pack.len_bytes, Relaxed) + pack.len_bytes);
        Ok(state)
    })?;
    Ok(states.into_iter().filter(|state| !state.gone).map(|state| (state.pack.id, state)).collect())
}

/// Walks the maps of the snapshots, and says what of their disks is lost.
fn walk_all(
    repository: &Arc<Repository>,
    walk: &mut MapWalk,
    snapshots: &[Snapshot],
    progress: &Progress,
) -> Result<Vec<HitDisk>> {
    let mut hit = Vec::new();
    for snapshot in snapshots {
        for (disk, record) in snapshot.manifest.disks.iter().enumerate() {
            progress.check_cancelled()?;
            let lost = walk.walk(repository.shape_of(record.size_bytes), record.root())?;
            if !lost.is_empty() {
                let ranges = lost.iter().map(|lost| range_of(repository, record, lost));
                hit.push(HitDisk { snapshot: snapshot.clone(), disk, ranges: joined(ranges.collect()), lost });
            }
        }
    }
    Ok(hit)
}

/// The part of the disk that something lost stands for.
pub fn range_of(repository: &Repository, record: &DiskRecord, lost: &Lost) -> Range<u64> {
    let chunk_bytes = repository.config().chunk_bytes;
    let offset = |piece: u64| piece.saturating_mul(chunk_bytes).min(record.size_bytes);
    offset(lost.first_piece)..offset(lost.first_piece.saturating_add(lost.pieces))
}

fn summary(
    objects: &Objects,
    packs: &Arc<Packs>,
    hit: &[HitDisk],
    used: Option<&HashSet<Id>>,
    chosen: &HashSet<Id>,
    depth: Depth,
) -> Verified {
    let mut findings = objects.findings.clone();
    for state in packs.values().filter(|state| !objects.quarantined.contains(&state.pack.id)) {
        findings.extend(state.problem.as_ref().map(|problem| Finding::damaged(names::pack(state.pack.id), problem)));
    }
    findings.extend(missing_packs(packs, hit).into_values());
    let read: Vec<&PackState> = packs.values().filter(|state| chosen.contains(&state.pack.id)).collect();
    let looked_at = |state: &&PackState| depth == Depth::Structure || chosen.contains(&state.pack.id);
    let mut whole: Vec<Id> =
        packs.values().filter(looked_at).filter(|state| state.problem.is_none()).map(|state| state.pack.id).collect();
    whole.sort_unstable();
    let listed = |unlike: &dyn Fn(&Id) -> bool| {
        let mut packs: Vec<_> = packs.values().map(|state| state.pack).filter(|pack| unlike(&pack.id)).collect();
        packs.sort_unstable_by_key(|pack| pack.id);
        packs
    };
    Verified {
        objects: objects.count,
        packs: packs.len(),
        packs_read: read.len(),
        read_bytes: read.iter().map(|state| state.pack.len_bytes).sum(),
        chunks: packs.values().map(|state| state.chunks.len() as u64).sum(),
        findings,
        quarantined: listed(&|id| objects.quarantined.contains(id)).iter().map(|pack| pack.id).collect(),
        unfinished: objects.unfinished.clone(),
        orphaned: used.map(|used| listed(&|id| !used.contains(id))).unwrap_or_default(),
        unindexed: listed(&|id| !objects.indexed.contains(id)),
        foreign: objects.foreign.clone(),
        slots: objects.slots.clone(),
        whole,
        ..Verified::default()
    }
}

/// Packs that something lost should be in, and that are not there.
fn missing_packs(packs: &Packs, hit: &[HitDisk]) -> BTreeMap<Id, Finding> {
    let lost = hit.iter().flat_map(|hit| &hit.lost).map(|lost| lost.location.pack);
    let missing = lost.filter(|pack| !packs.contains_key(pack));
    missing.map(|pack| (pack, Finding::missing(names::pack(pack), "snapshots need what is in it"))).collect()
}
