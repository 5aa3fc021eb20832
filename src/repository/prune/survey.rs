//! What the visible snapshots use: one copy of each chunk is marked, found by walking the maps.
//!
//! A mark is a bit per entry of the index, so that millions of chunks take a few hundred KiB. A page that several snapshots
//! share is walked once. The newest snapshots come first: where there are several copies of a chunk, theirs is the one kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tintype_formats::error::{ErrorKind, ImageError, Result as ImageResult};
use tintype_formats::tin::read::{ChunkReader, PackSource};
use tintype_tin::chunk::ChunkKind;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::{Certificate, Role};
use tintype_tin::map::{Entry, Location, Page};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::disk::store_to_image;
use crate::repository::index::{Found, Index, Rank};
use crate::repository::protocol::ListedPack;
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, names};

/// What a pack is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It stays.
    Kept,
    /// It stays, and no chunk is taken to be safe in it.
    Quarantined,
    /// It goes, if nothing in it is needed.
    Condemned,
}

/// A pack, and how much of it is used.
#[derive(Debug, Clone, Copy)]
pub struct PackUse {
    /// Its length in bytes.
    pub len_bytes: u64,
    /// What it is good for.
    pub standing: Standing,
    /// The kind of its chunks, if anything is known of it.
    pub kind: Option<ChunkKind>,
    /// The signing key of who sealed its chunks.
    pub author: [u8; 32],
    /// The length of all its chunks.
    pub chunk_bytes: u64,
    /// The length of the marked ones.
    pub used_bytes: u64,
}

impl PackUse {
    /// What a prune that leaves nothing over frees of it: the whole pack if none of its chunks is needed, else those that are not.
    /// Of a pack of which nothing is known, nothing.
    pub fn unused_bytes(&self) -> u64 {
        match (self.kind, self.used_bytes) {
            (None, _) => 0,
            (_, 0) => self.len_bytes,
            _ => self.chunk_bytes.saturating_sub(self.used_bytes),
        }
    }
}

/// A set of entries of an index.
struct Marks(Vec<Vec<u64>>);

impl Marks {
    fn new(index: &Index) -> Marks {
        Marks(index.entry_counts().iter().map(|entries| vec![0; entries.div_ceil(64) as usize]).collect())
    }

    fn set(&mut self, rank: Rank) {
        if let Some(word) = self.0.get_mut(rank.file as usize).and_then(|file| file.get_mut(rank.entry as usize / 64)) {
            *word |= 1 << (rank.entry % 64);
        }
    }

    fn has(&self, rank: Rank) -> bool {
        let word = self.0.get(rank.file as usize).and_then(|file| file.get(rank.entry as usize / 64));
        word.is_some_and(|word| word >> (rank.entry % 64) & 1 == 1)
    }
}

/// Whose chunks a snapshot's signer builds on: everybody builds on those of trusted holders, and on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Builder {
    Trusted,
    Holder([u8; 32]),
}

impl Builder {
    fn of(signer: &Certificate) -> Builder {
        if is_trusted(Some(signer.role)) { Builder::Trusted } else { Builder::Holder(signer.signing) }
    }

    fn builds_on(self, found: &Found) -> bool {
        is_trusted(found.role) || self == Builder::Holder(found.author)
    }
}

fn is_trusted(role: Option<Role>) -> bool {
    role.is_some_and(Role::is_trusted)
}

/// What is in a repository, and what of it is used.
pub struct Survey {
    /// Every pack that is listed, but for those on verdicts.
    pub packs: HashMap<Id, PackUse>,
    /// Packs that are there again though a verdict names them.
    pub returned: Vec<ListedPack>,
    /// The visible snapshots.
    pub snapshots: usize,
    index: Arc<Index>,
    marks: Marks,
}

/// Which packs are not to be relied on, and which snapshots do not count.
#[derive(Default)]
pub struct Assumptions<'a> {
    /// Packs that are condemned.
    pub condemned: HashSet<Id>,
    /// Packs on verdicts.
    pub dead: HashSet<Id>,
    /// Snapshots that are as good as forgotten.
    pub without: Option<&'a HashSet<Id>>,
    /// Whether what packs' tables say may be put into the store as an index segment.
    pub publish: bool,
}

impl Survey {
    /// What a prune that leaves nothing over frees.
    pub fn unused_bytes(&self) -> u64 {
        let returned: u64 = self.returned.iter().map(|pack| pack.len_bytes).sum();
        returned + self.packs.values().map(PackUse::unused_bytes).sum::<u64>()
    }

    /// P2, P6: reads all visible snapshots, then lists the packs, then marks.
    pub fn new(repository: &Arc<Repository>, assumptions: &Assumptions<'_>, progress: &Progress) -> Result<Survey> {
        let snapshots = snapshots_to_keep(repository, assumptions.without)?;
        let listed = repository.protocol().packs()?;
        let quarantined = repository.protocol().quarantined()?;
        let (dead, alive): (Vec<_>, Vec<_>) = listed.into_iter().partition(|pack| assumptions.dead.contains(&pack.id));
        let index = Arc::new(repository.index_of_packs(&alive, assumptions.publish)?);
        let standing = |id: &Id| match (assumptions.condemned.contains(id), quarantined.contains(id)) {
            (true, _) => Standing::Condemned,
            (false, true) => Standing::Quarantined,
            (false, false) => Standing::Kept,
        };
        let pack_use = |pack: &ListedPack| PackUse {
            len_bytes: pack.len_bytes,
            standing: standing(&pack.id),
            kind: None,
            author: [0; 32],
            chunk_bytes: 0,
            used_bytes: 0,
        };
        let packs = alive.iter().map(|pack| (pack.id, pack_use(pack))).collect();
        let marks = Marks::new(&index);
        let mut survey = Survey { packs, returned: dead, snapshots: snapshots.len(), index, marks };
        survey.mark_all(repository, &snapshots, progress)?;
        survey.sum_up()?;
        Ok(survey)
    }

    /// Whether the copy of a chunk that lies there is marked.
    pub fn is_used(&self, id: &ChunkId, pack: Id, offset: u32) -> Result<bool> {
        let found = self.index.find_ranked(id)?;
        let here = |found: &Found| found.location.pack == pack && found.location.offset == offset;
        Ok(found.iter().any(|(rank, found)| here(found) && self.marks.has(*rank)))
    }

    fn mark_all(&mut self, repository: &Arc<Repository>, snapshots: &[Snapshot], progress: &Progress) -> Result<()> {
        let source = SurveyedPacks { repository: Arc::clone(repository), index: Arc::clone(&self.index) };
        let reader = ChunkReader::new(Arc::clone(repository.ring()), Arc::new(source));
        let disks = || snapshots.iter().rev().flat_map(|snapshot| &snapshot.manifest.disks);
        progress.enter("marking what is used");
        progress.begin(disks().map(|disk| disk.size_bytes).sum());
        let mut walk = Walk { survey: self, reader, progress, walked: HashSet::new(), missing: None };
        let mut done = 0;
        for snapshot in snapshots.iter().rev() {
            let builder = Builder::of(&snapshot.origin);
            for disk in &snapshot.manifest.disks {
                let level = repository.shape_of(disk.size_bytes).top_level();
                let walked = disk.root().map_or(Ok(()), |(id, at)| walk.page(builder, &id, &at, level));
                let failure = walked.err().or_else(|| walk.missing.take());
                failure.map_or(Ok(()), |cause| Err(incomplete(snapshot, cause)))?;
                done += disk.size_bytes;
                progress.reach(done);
            }
        }
        Ok(())
    }

    /// Marks the copy of a chunk that stays; the one at `hint`, if that is as good as others. Nothing if there is none.
    fn mark(&mut self, builder: Builder, id: &ChunkId, hint: &Location) -> Result<bool> {
        let mut copies = self.index.find_ranked(id)?;
        copies.retain(|(_, found)| self.packs.contains_key(&found.location.pack));
        let stands_in = |(_, found): &&(Rank, Found)| {
            let pack = self.packs.get(&found.location.pack);
            pack.is_some_and(|pack| pack.standing == Standing::Kept) && builder.builds_on(found)
        };
        let good = || copies.iter().filter(stands_in);
        if good().any(|(rank, _)| self.marks.has(*rank)) {
            return Ok(true);
        }
        match good().find(|(_, found)| found.location == *hint).or_else(|| good().next()) {
            Some((rank, _)) => self.marks.set(*rank),
            // None of them can stand in for the others: whichever is the true one, it stays.
            None => copies.iter().for_each(|(rank, _)| self.marks.set(*rank)),
        }
        Ok(!copies.is_empty())
    }

    /// What is marked of each pack.
    fn sum_up(&mut self) -> Result<()> {
        let (packs, marks) = (&mut self.packs, &self.marks);
        for row in self.index.packs() {
            if let Some(pack) = packs.get_mut(&row.id) {
                (pack.kind, pack.author) = (ChunkKind::from_number(row.kind), row.author);
            }
        }
        self.index.for_each(&mut |rank, _, found| {
            if let Some(pack) = packs.get_mut(&found.location.pack) {
                let length = u64::from(found.location.length);
                pack.chunk_bytes += length;
                pack.used_bytes += if marks.has(rank) { length } else { 0 };
            }
        })
    }
}

/// A walk through maps.
struct Walk<'a> {
    survey: &'a mut Survey,
    reader: ChunkReader,
    progress: &'a Progress,
    walked: HashSet<(Builder, ChunkId)>,
    /// The first chunk that is nowhere.
    missing: Option<Error>,
}

impl Walk<'_> {
    /// Marks a page and all that is under it.
    fn page(&mut self, builder: Builder, id: &ChunkId, hint: &Location, level: u8) -> Result<()> {
        // What a trusted holder builds on, everybody builds on.
        if self.walked.contains(&(Builder::Trusted, *id)) || self.walked.contains(&(builder, *id)) {
            return Ok(());
        }
        self.progress.check_cancelled()?;
        self.chunk(builder, id, hint)?;
        let page: Page = self.reader.read_page(id, hint)?;
        if page.level != level {
            let detail = format!("a page of level {} stands where one of level {level} is expected", page.level);
            return Err(ImageError::corrupt("walk a map", detail).into());
        }
        for entry in &page.entries {
            match entry {
                Entry::Data(id, hint) if level == 0 => self.chunk(builder, id, hint)?,
                Entry::Data(id, hint) => self.page(builder, id, hint, level - 1)?,
                Entry::Hole | Entry::Zero => {}
            }
        }
        self.walked.insert((builder, *id));
        Ok(())
    }

    fn chunk(&mut self, builder: Builder, id: &ChunkId, hint: &Location) -> Result<()> {
        if !self.survey.mark(builder, id, hint)? && self.missing.is_none() {
            self.missing = Some(Error::new(Kind::Io, format!("chunk {id} is in no pack")));
        }
        Ok(())
    }
}

/// The packs, and the index that the survey has anyway.
struct SurveyedPacks {
    repository: Arc<Repository>,
    index: Arc<Index>,
}

impl PackSource for SurveyedPacks {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        self.repository.store().get_range(&names::pack(pack), offset, buffer).map_err(store_to_image)
    }

    fn find_again(&self, id: &ChunkId, _stale: &Location) -> ImageResult<Vec<Location>> {
        let found = self.index.find_ranked(id);
        let found = found.map_err(|cause| ImageError::new(ErrorKind::Io, "find a page", cause.to_string()))?;
        Ok(found.iter().map(|(_, found)| found.location).collect())
    }
}

/// Every snapshot whose chunks must stay, the oldest first; those that readers hold come last. Where one cannot be read,
/// nobody knows which these are.
fn snapshots_to_keep(repository: &Arc<Repository>, without: Option<&HashSet<Id>>) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    let mut ids = repository.snapshot_ids()?;
    ids.retain(|id| without.is_none_or(|without| !without.contains(id)));
    // Of one that was committed, and whose manifest is missing, nobody knows what it uses; a copy may have it.
    let is_given_up = |id: &Id| without.is_some_and(|without| without.contains(id));
    let damaged = repository.lineup(&|_| false)?.damaged;
    if let Some(lost) = damaged.iter().find(|damaged| !ids.contains(&damaged.id) && !is_given_up(&damaged.id)) {
        return Err(unknown_use(lost.id, &lost.cause));
    }
    // After the snapshots: one that was forgotten before they were read was leased before that, or nobody reads it.
    let leased = repository.leased_snapshots()?;
    ids.extend(leased.into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
    for id in ids {
        match repository.kept(id)? {
            None => {}
            Some(Ok(snapshot)) => snapshots.push(snapshot),
            Some(Err(cause)) => return Err(unknown_use(id, &cause.to_string())),
        }
    }
    Ok(snapshots)
}

fn unknown_use(id: Id, cause: &str) -> Error {
    let message = format!(
        "find out what is in use: snapshot {id} cannot be read ({cause}); nothing was deleted; \"tintype forget {id}\" gives it \
         up"
    );
    Error::new(Kind::Io, message)
}

fn incomplete(snapshot: &Snapshot, cause: Error) -> Error {
    if cause.kind() == Kind::Cancelled {
        return cause;
    }
    let (name, id) = (snapshot.manifest.name.escape_debug(), snapshot.id);
    let message = format!(
        "find out what is in use: snapshot {name}@{id} is not whole ({cause}); nothing was deleted; \"tintype verify\" \
         says what is damaged, and \"tintype forget {id}\" gives it up"
    );
    Error::new(Kind::Io, message)
}
