//! Mends a damaged repository: marks what is broken, saves what is whole, and takes what is lost from wherever it still is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tintype_formats::BlockSource;
use tintype_formats::tin::read::ChunkReader;
use tintype_formats::tin::write::{ChunkSink, Reserved};
use tintype_tin::chunk::{ChunkKind, Packed};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::signed::ObjectKind;

use super::verify::{HitDisk, Verified, VerifyOptions, look, look_until_quiet};
use crate::error::Result;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::repository::names::{self, Named};
use crate::repository::repair::{Mended, Salvaged, Uncommitted, mend_object, re_index, salvage_pack};
use crate::repository::session::WriteSession;
use crate::repository::verify::maps::{Lost, MapWalk, Packs};
use crate::repository::verify::packs::ShortId;
use crate::repository::verify::{Depth, Finding};

/// How hard what was lost is compressed when it is stored again: a level of Zstandard.
const LEVEL: Option<i32> = Some(3);

/// A page that is found again may say what else is lost; maps have fewer levels than this.
const ROUNDS: usize = 8;

/// How to repair.
pub struct RepairOptions<'a> {
    /// Change nothing, only say what would be done.
    pub dry_run: bool,
    /// How deeply to look for damage.
    pub depth: Depth,
    /// Another repository, to take from it what is lost: a copy of this one, or one with snapshots of the same name.
    pub from: Option<&'a Arc<Repository>>,
    /// Disks that what is lost may still be on, at its place.
    pub disks: Vec<&'a dyn BlockSource>,
    /// How many threads.
    pub workers: usize,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was found before.
    pub before: Verified,
    /// Objects that were mended, and how.
    pub mended: Vec<(String, Mended)>,
    /// Packs that were marked as damaged.
    pub quarantined: Vec<Id>,
    /// Packs that are in an index again.
    pub indexed: usize,
    /// Chunks that were copied out of damaged packs.
    pub salvaged: Salvaged,
    /// Chunks and pages that were lost and were found elsewhere.
    pub fetched: u64,
    /// Snapshots that are visible again.
    pub committed: Vec<Id>,
    /// What is left; of a dry run, what was there.
    pub after: Verified,
}

/// Repairs; each step is of use by itself, and what is interrupted is done by the next run.
pub fn repair(repository: &Arc<Repository>, options: &RepairOptions<'_>, progress: &Progress) -> Result<Repaired> {
    repository.require_admin("repair")?;
    let looking = VerifyOptions {
        snapshots: Vec::new(),
        depth: options.depth,
        sample: None,
        verified_before: None,
        workers: options.workers,
    };
    let mut done = Repaired { before: look_until_quiet(repository, &looking, progress)?, ..Repaired::default() };
    mend_objects(repository, options, &mut done)?;
    mark_packs(repository, options, &mut done)?;
    salvage(repository, options, &mut done, progress)?;
    if !options.dry_run {
        repository.store().sync()?;
        commit_late(repository, options, &mut done)?;
    }
    let mut after = look(repository, &looking, &done.before.states, progress)?;
    for _ in 0..ROUNDS {
        let fetched = fetch_lost(repository, options, &after.hit, progress)?;
        done.fetched += fetched;
        if fetched == 0 || options.dry_run {
            break;
        }
        after = look(repository, &looking, &after.states, progress)?;
    }
    done.after = after;
    Ok(done)
}

/// Mends what is not a pack, and names the packs that no index names.
fn mend_objects(repository: &Repository, options: &RepairOptions<'_>, done: &mut Repaired) -> Result<()> {
    let copy = copy_of(repository, options);
    let whole: HashSet<Id> = done.before.whole.iter().copied().collect();
    let unindexed: Vec<_> = done.before.unindexed.iter().filter(|pack| whole.contains(&pack.id)).copied().collect();
    done.indexed = if options.dry_run { unindexed.len() } else { re_index(repository, &unindexed)? };
    for finding in &done.before.findings {
        if let Some(how) = mend_object(repository, finding, copy, options.dry_run)? {
            done.mended.push((finding.object.clone(), how));
        }
    }
    Ok(())
}

/// Marks the damaged packs, so that nobody builds on them.
fn mark_packs(repository: &Repository, options: &RepairOptions<'_>, done: &mut Repaired) -> Result<()> {
    let known: HashSet<Id> = done.before.quarantined.iter().copied().collect();
    for finding in &done.before.findings {
        let Some(Named::Pack(pack)) = Named::parse(&finding.object) else { continue };
        if known.contains(&pack) || !done.before.states.contains_key(&pack) {
            continue;
        }
        if !options.dry_run {
            repository.quarantine(pack, &finding.detail)?;
        }
        done.quarantined.push(pack);
    }
    Ok(())
}

/// Copies the whole chunks of damaged packs that are nowhere else.
fn salvage(
    repository: &Arc<Repository>,
    options: &RepairOptions<'_>,
    done: &mut Repaired,
    progress: &Progress,
) -> Result<()> {
    let states = &done.before.states;
    let (damaged, whole): (Vec<_>, Vec<_>) = states.values().partition(|state| state.problem.is_some());
    if damaged.is_empty() {
        return Ok(());
    }
    // What a prune is about to delete is no place to stay.
    let excluded = repository.protocol().epochs()?.excluded();
    let stays = whole.iter().filter(|state| !excluded.contains(&state.pack.id));
    let good = stays.flat_map(|state| &state.chunks).filter(|chunk| chunk.good);
    let elsewhere: HashSet<ShortId> = good.map(|chunk| chunk.id).collect();
    done.salvaged = in_session(repository, options, |session| {
        let mut sum = Salvaged::default();
        for state in damaged {
            progress.check_cancelled()?;
            let salvaged = salvage_pack(repository, session, state.pack, &elsewhere)?;
            sum.chunks += salvaged.chunks;
            sum.bytes += salvaged.bytes;
        }
        Ok(sum)
    })?;
    Ok(())
}

/// Does the work with a session to store with, or with none for a dry run.
fn in_session<R>(
    repository: &Arc<Repository>,
    options: &RepairOptions<'_>,
    work: impl FnOnce(Option<&WriteSession>) -> Result<R>,
) -> Result<R> {
    if options.dry_run {
        return work(None);
    }
    let session = WriteSession::begin(repository, "repair", false)?;
    match work(Some(&session)) {
        Ok(result) => session.close().map(|()| result),
        Err(cause) => {
            session.abandon();
            Err(cause)
        }
    }
}

/// Commits whole snapshots whose session has no end that counts: those of this holder as they are, those of others under
/// another id. While a prune is not finished this is left alone: what it decides on must not change below it.
fn commit_late(repository: &Arc<Repository>, options: &RepairOptions<'_>, done: &mut Repaired) -> Result<()> {
    if repository.protocol().epochs()?.open().is_some() {
        return Ok(());
    }
    let packs: Arc<Packs> = Arc::clone(&done.before.states);
    let mut walk = MapWalk::new(repository, &packs);
    for id in &done.before.unfinished {
        let Some(Uncommitted { session, snapshot, commit }) = repository.uncommitted(*id)? else { continue };
        mend_missing(repository, names::session_end(session), options, &mut done.mended)?;
        let Some(snapshot) = snapshot else { continue };
        let mut whole = true;
        for record in &snapshot.manifest.disks {
            whole &= walk.walk(repository.shape_of(record.size_bytes), record.root())?.is_empty();
        }
        if !whole {
            continue;
        }
        let is_own = snapshot.signer.signing == repository.ring().certificate().signing;
        match is_own {
            true => done.committed.extend(repository.commit_late(session, commit)?.then_some(*id)),
            false => done.committed.push(repository.commit_for_another(&snapshot)?),
        }
        // The whole folder of the session may have been lost: its end would be there without a begin.
        let begin = names::session_begin(session);
        if repository.protocol().read(ObjectKind::SessionBegin, &begin)?.is_none() {
            mend_missing(repository, begin, options, &mut done.mended)?;
        }
    }
    Ok(())
}

/// Makes an object that is not there, if that can be.
fn mend_missing(
    repository: &Arc<Repository>,
    object: String,
    options: &RepairOptions<'_>,
    mended: &mut Vec<(String, Mended)>,
) -> Result<()> {
    let missing = Finding::missing(object, "");
    let how = mend_object(repository, &missing, copy_of(repository, options), false)?;
    mended.extend(how.map(|how| (missing.object, how)));
    Ok(())
}

/// Stores again what is lost, from wherever its bytes have the same id. Says how much it was.
fn fetch_lost(
    repository: &Arc<Repository>,
    options: &RepairOptions<'_>,
    hit: &[HitDisk],
    progress: &Progress,
) -> Result<u64> {
    if hit.is_empty() || (options.from.is_none() && options.disks.is_empty()) {
        return Ok(0);
    }
    in_session(repository, options, |session| {
        let copy = copy_of(repository, options).map(Repository::chunk_reader);
        let fetch = Fetch { repository, session, copy };
        let mut tried: HashMap<ChunkId, bool> = HashMap::new();
        for hit in hit {
            let stored = similar_disks(options.from, hit)?;
            let disks = stored.iter().map(|disk| disk as &dyn BlockSource).chain(options.disks.iter().copied());
            let disks: Vec<&dyn BlockSource> = disks.collect();
            for lost in &hit.lost {
                progress.check_cancelled()?;
                if !tried.get(&lost.id).copied().unwrap_or(false) {
                    tried.insert(lost.id, fetch.fetch(hit, lost, &disks)?);
                }
            }
        }
        Ok(tried.values().filter(|found| **found).count() as u64)
    })
}

/// The other repository, if it is a copy of this one.
fn copy_of<'a>(repository: &Repository, options: &RepairOptions<'a>) -> Option<&'a Arc<Repository>> {
    options.from.filter(|other| other.config().id == repository.config().id)
}

/// Disks of the other repository on which what is lost may be: those of the same name in snapshots of the same name.
fn similar_disks(from: Option<&Arc<Repository>>, hit: &HitDisk) -> Result<Vec<SnapshotDisk>> {
    let Some(other) = from else { return Ok(Vec::new()) };
    let mut snapshots = other.snapshots()?.snapshots;
    snapshots.retain(|snapshot| snapshot.manifest.name == hit.snapshot.manifest.name);
    let records = snapshots.iter().rev().flat_map(|snapshot| &snapshot.manifest.disks);
    let records = records.filter(|record| record.name == hit.record().name);
    records.map(|record| SnapshotDisk::open(other, record)).collect()
}

/// Finds what is lost.
struct Fetch<'a> {
    repository: &'a Repository,
    /// None, if nothing is to be stored.
    session: Option<&'a WriteSession>,
    copy: Option<Arc<ChunkReader>>,
}

impl Fetch<'_> {
    fn fetch(&self, hit: &HitDisk, lost: &Lost, disks: &[&dyn BlockSource]) -> Result<bool> {
        if lost.level > 0 {
            return self.fetch_page(lost);
        }
        let shape = self.repository.shape_of(hit.record().size_bytes);
        let mut plain = vec![0; shape.chunk_length(lost.first_piece)];
        let from_copy = |copy: &Arc<ChunkReader>, plain: &mut [u8]| copy.read(&lost.id, &lost.location, plain).is_ok();
        if self.copy.as_ref().is_some_and(|copy| from_copy(copy, &mut plain)) && self.is(lost, &plain) {
            return self.store(ChunkKind::Data, lost, &plain).map(|()| true);
        }
        let offset = lost.first_piece * shape.chunk_bytes;
        for disk in disks {
            // A disk that became shorter, or cannot be read there, does not have it.
            if disk.read_at(offset, &mut plain).is_ok() && self.is(lost, &plain) {
                return self.store(ChunkKind::Data, lost, &plain).map(|()| true);
            }
        }
        Ok(false)
    }

    /// Whether these bytes are the ones that were lost.
    fn is(&self, lost: &Lost, plain: &[u8]) -> bool {
        self.repository.ring().chunk_id(plain) == lost.id
    }

    /// Only a copy has the same pages: elsewhere holes and zeros may be others.
    fn fetch_page(&self, lost: &Lost) -> Result<bool> {
        let Some(page) = self.copy.as_ref().and_then(|copy| copy.read_page(&lost.id, &lost.location).ok()) else {
            return Ok(false);
        };
        let (bytes, core_bytes) = page.encode();
        if self.repository.ring().page_id(&bytes[..core_bytes]) != lost.id {
            return Ok(false);
        }
        self.store(ChunkKind::MapPage, lost, &bytes).map(|()| true)
    }

    fn store(&self, kind: ChunkKind, lost: &Lost, plain: &[u8]) -> Result<()> {
        let Some(session) = self.session else { return Ok(()) };
        let packed = Packed::new(kind, lost.id, plain, LEVEL);
        match session.reserve(kind, lost.id, packed.chunk_bytes())? {
            Reserved::Known(_) => Ok(()),
            Reserved::New(place) => Ok(session.store(kind, place, packed)?),
        }
    }
}
