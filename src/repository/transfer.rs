//! Snapshots out of a repository into `.tin` files, and back: whole packs, as they are stored (formats/src/tin/SPEC.md).

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tintype_formats::HostFileMut;
use tintype_formats::error::{ImageError, Result as ImageResult};
use tintype_formats::tin::file::{FileBuilder, Header, MAX_SLOTS};
use tintype_formats::tin::open::TinFile;
use tintype_formats::tin::read::PackSource as _;
use tintype_formats::tin::walk::{Step, walk};
use tintype_tin::chunk::{self, ChunkHeader, ChunkKind, HEADER_BYTES};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::{self, Manifest};
use tintype_tin::map::{Location, Page};
use tintype_tin::pack::{self, PackHeader, PackTable, TRAILER_BYTES};
use tintype_tin::seal::{Purpose, SegmentKey};
use tintype_tin::slot::{SlotInfo, SlotKind};

use super::index::Index;
use super::protocol::ListedPack;
use super::session::{WriteSession, to_image};
use super::snapshots::Snapshot;
use super::{Repository, names, row_of};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// What a transfer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transferred {
    /// Packs that were copied.
    pub packs: u64,
    /// Their length in bytes.
    pub pack_bytes: u64,
}

impl Repository {
    /// Writes a snapshot into a file. The packs are copied as they are, after every stored byte of them was checked.
    pub fn export(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        file: Arc<dyn HostFileMut>,
        progress: &Progress,
    ) -> Result<Transferred> {
        // Where nothing can be written, nothing is pruned from here either.
        let _lease = match self.lease("export", snapshot) {
            Err(cause) if cause.kind() == Kind::NoSnapshot => return Err(cause),
            lease => lease.ok(),
        };
        self.export_packs(snapshot, file, progress)
    }

    fn export_packs(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        file: Arc<dyn HostFileMut>,
        progress: &Progress,
    ) -> Result<Transferred> {
        let config = self.config();
        let header = Header { repository: config.id, chunk_bytes: config.chunk_bytes, slots: self.reading_slots()? };
        let packs = self.packs_of(snapshot)?;
        let lengths = packs.iter().map(|pack| self.store().len_bytes(&names::pack(*pack)));
        progress.begin(lengths.sum::<std::result::Result<u64, _>>()?);
        let mut builder = FileBuilder::begin(file, &header)?;
        let mut done = Transferred { packs: 0, pack_bytes: 0 };
        for pack in packs {
            progress.reach(done.pack_bytes);
            progress.check_cancelled()?;
            let bytes = self.store().get(&names::pack(pack), pack::MAX_BYTES)?;
            checked_table(self.ring(), pack, &bytes)?;
            builder.append_pack(pack, &bytes)?;
            done.packs += 1;
            done.pack_bytes += bytes.len() as u64;
        }
        let object = self.store().get(&names::snapshot(snapshot.id), manifest::MAX_BYTES)?;
        builder.finish(self.ring(), snapshot.id, &object)?;
        Ok(done)
    }

    /// The key slots of those who can read; none where nothing is encrypted.
    fn reading_slots(&self) -> Result<Vec<Vec<u8>>> {
        if self.ring().is_public() {
            return Ok(Vec::new());
        }
        let mut slots = Vec::new();
        for listed in self.store().list("keys/")? {
            if names::parse_flat("keys", &listed.name).is_none() {
                continue;
            }
            let bytes = self.store().get(&listed.name, super::MAX_SMALL_BYTES)?;
            let Ok(info) = SlotInfo::parse(&bytes) else { continue };
            let reads = info.role.reads_data() && info.kind != SlotKind::Public;
            if reads && info.repository == self.config().id {
                slots.push(bytes);
            }
        }
        if slots.is_empty() || slots.len() > MAX_SLOTS {
            let found = slots.len();
            let message = format!("export: {found} key slots can read the file; expected from 1 to {MAX_SLOTS}");
            return Err(Error::new(Kind::Io, message));
        }
        Ok(slots)
    }

    /// The packs that a snapshot has chunks in, in the order of its disks.
    fn packs_of(self: &Arc<Self>, snapshot: &Snapshot) -> Result<Vec<Id>> {
        let listed: HashSet<Id> = self.protocol().packs()?.into_iter().map(|pack| pack.id).collect();
        let (mut packs, mut seen) = (Vec::new(), HashSet::new());
        let mut index: Option<Index> = None;
        let reader = self.chunk_reader();
        for disk in &snapshot.manifest.disks {
            let mut add = |id: &ChunkId, location: &Location| -> Result<()> {
                let mut pack = location.pack;
                if !listed.contains(&pack) {
                    // The map was written before the chunk was moved.
                    if index.is_none() {
                        index = Some(self.index_for_reading()?);
                    }
                    let found = index.as_ref().map_or(Ok(Vec::new()), |index| index.find(id))?;
                    let mut places = found.iter().map(|found| found.location.pack);
                    let there = places.find(|pack| listed.contains(pack));
                    pack = there.ok_or_else(|| Error::new(Kind::Io, format!("export: chunk {id} is nowhere")))?;
                }
                if seen.insert(pack) {
                    packs.push(pack);
                }
                Ok(())
            };
            walk(&reader, self.shape_of(disk.size_bytes), disk.root(), &mut |step| match step {
                Step::Page(id, location) | Step::Chunk(id, location, _) => add(id, location).map_err(to_image),
                Step::Damaged(cause) => Err(cause),
            })?;
        }
        Ok(packs)
    }

    /// Takes the packs of a file that was exported from this very repository, as they are, and makes a snapshot of it.
    ///
    /// `None` if that cannot be: a prune has condemned one of the packs, and their names never count again, or one is
    /// quarantined, or is of an author on whom this holder does not build. Then the disks are to be stored anew.
    pub fn import(self: &Arc<Self>, file: &TinFile, progress: &Progress) -> Result<Option<(Id, Transferred)>> {
        self.require_data("import a file")?;
        let session = WriteSession::begin(self, "import", false)?;
        match self.import_packs(&session, file, progress) {
            Ok(Some(done)) => {
                // Who signs this is not to vouch for whose snapshot somebody else said that it was.
                let manifest = Manifest { original: None, ..file.manifest.clone() };
                Ok(Some((session.commit(&manifest)?, done)))
            }
            Ok(None) => {
                session.abandon();
                Ok(None)
            }
            Err(cause) => {
                session.abandon();
                Err(cause)
            }
        }
    }

    fn import_packs(&self, session: &WriteSession, file: &TinFile, progress: &Progress) -> Result<Option<Transferred>> {
        let mut refused = self.protocol().epochs()?.excluded();
        refused.extend(self.protocol().quarantined()?);
        let places = file.packs.places();
        for place in places.iter().filter(|place| !session.usable().contains(&place.id)) {
            let listed = ListedPack { id: place.id, len_bytes: place.length_bytes };
            if refused.contains(&place.id) || !row_of(listed, &file.packs.table(place)?).is_trusted_by(self.ring()) {
                return Ok(None);
            }
        }
        check_complete(file)?;
        progress.begin(places.iter().map(|place| place.length_bytes).sum());
        let (mut passed, mut done) = (0, Transferred { packs: 0, pack_bytes: 0 });
        for place in places {
            progress.reach(passed);
            progress.check_cancelled()?;
            passed += place.length_bytes;
            if session.usable().contains(&place.id) {
                continue;
            }
            let mut bytes = vec![0; place.length_bytes as usize];
            file.packs.read(place.id, 0, &mut bytes)?;
            let table = checked_table(self.ring(), place.id, &bytes)?;
            prove(self.ring(), place.id, &bytes, &table)?;
            session.adopt(place.id, &bytes, &table)?;
            done.packs += 1;
            done.pack_bytes += place.length_bytes;
        }
        Ok(Some(done))
    }
}

/// Fails unless every chunk of the file's disks is in its packs.
fn check_complete(file: &TinFile) -> Result<()> {
    let missing = |id: &ChunkId| ImageError::corrupt("import a file", format!("it lacks chunk {id}"));
    for disk in &file.manifest.disks {
        walk(&file.reader, file.shape(disk), disk.root(), &mut |step| match step {
            Step::Page(id, location) | Step::Chunk(id, location, _) => {
                let there = file.packs.has(location.pack) || !file.packs.find_again(id, location)?.is_empty();
                if there { Ok(()) } else { Err(missing(id)) }
            }
            Step::Damaged(cause) => {
                Err(ImageError::corrupt("import a file", "the map of its disk is damaged").caused_by(cause))
            }
        })?;
    }
    Ok(())
}

/// Opens every chunk of a pack, and compares its id.
///
/// Nobody signs a pack's header, and the keys of its chunks are in there: with other ones the pack would be worthless, and
/// backups would build on it.
fn prove(ring: &KeyRing, id: Id, bytes: &[u8], table: &PackTable) -> ImageResult<()> {
    const DOING: &str = "prove a pack";
    let header = PackHeader::parse(bytes, ring.repository(), id)?;
    let purpose = match header.kind {
        ChunkKind::Data => Purpose::Data,
        ChunkKind::MapPage => Purpose::Map,
    };
    let mut keys: HashMap<Id, SegmentKey> = HashMap::new();
    let mut plain = Vec::new();
    for (offset, entry) in &table.chunks {
        let wrong = |what: &str| ImageError::corrupt(DOING, format!("chunk {} of pack {id} {what}", entry.id()));
        let key = match keys.entry(entry.segment()) {
            Vacant(place) => {
                let record = header.segments.get(&entry.segment()).ok_or_else(|| wrong("has no key"))?;
                place.insert(ring.open_segment(purpose, record)?)
            }
            Occupied(place) => place.into_mut(),
        };
        let stored = bytes.get(*offset as usize..).and_then(|rest| rest.get(..entry.chunk_bytes()));
        let mut stored = stored.ok_or_else(|| wrong("is cut short"))?.to_vec();
        plain.resize(entry.plain_bytes(), 0);
        chunk::open(entry, key, &mut stored, &mut plain)?;
        let found = match header.kind {
            ChunkKind::Data => ring.chunk_id(&plain),
            ChunkKind::MapPage => ring.page_id(&plain[..Page::parse(&plain)?.1]),
        };
        if entry.kind() != header.kind || found != entry.id() {
            return Err(wrong("holds other bytes than it says"));
        }
    }
    Ok(())
}

/// The table of a pack, after every stored byte was held against it.
fn checked_table(ring: &KeyRing, id: Id, bytes: &[u8]) -> Result<PackTable> {
    let table = table_of(ring, id, bytes)?;
    for (offset, header) in &table.chunks {
        let chunk = bytes.get(*offset as usize..).and_then(|rest| rest.get(..header.chunk_bytes()));
        let whole = |chunk: &[u8]| {
            ChunkHeader::parse(chunk).is_ok_and(|found| found == *header)
                && header.check_matches(&chunk[HEADER_BYTES..])
        };
        if !chunk.is_some_and(whole) {
            let detail = format!("pack {id} is damaged: chunk {} is not what was written", header.id());
            return Err(ImageError::corrupt("copy a pack", detail).into());
        }
    }
    Ok(table)
}

fn table_of(ring: &KeyRing, id: Id, bytes: &[u8]) -> ImageResult<PackTable> {
    const DOING: &str = "copy a pack";
    let short = || ImageError::truncated(DOING, format!("pack {id} has {} bytes", bytes.len()));
    let trailer: &[u8; TRAILER_BYTES] = bytes.last_chunk().ok_or_else(short)?;
    let (offset, length) = pack::table_range(trailer, bytes.len() as u64)?;
    let begin = usize::try_from(offset).map_err(|_| short())?;
    let table = bytes.get(begin..).and_then(|rest| rest.get(..length)).ok_or_else(short)?;
    Ok(PackTable::parse(ring, id, table, offset)?)
}
