//! Stores a disk as chunks and a map: only what is not stored already.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tintype_tin::chunk::{ChunkKind, Level, Packed};
use tintype_tin::id::ChunkId;
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::Statistics;
use tintype_tin::map::{Entry, Location, MapBuilder, Page, Shape};

use super::pack_stream::Place;
use super::read::MappedDisk;
use crate::error::Result;
use crate::sink::{GuestUnit, IdentitySeed, RunKind, UnitContent, UnitWriter, WriterLayout};

/// Zstandard level of map pages: they are small, and half of their bytes are hashes.
const PAGE_LEVEL: Level = Some(1);

/// Where chunks go.
pub trait ChunkSink: Send + Sync {
    /// Whether a chunk that lies there may be built on.
    fn may_use(&self, location: &Location) -> bool;

    /// Where the chunk lies already, if it may be built on there.
    fn find(&self, id: &ChunkId) -> Result<Option<Location>>;

    /// Makes room for a chunk, unless it came meanwhile; called in guest order, by one thread at a time.
    fn reserve(&self, kind: ChunkKind, id: ChunkId, chunk_bytes: usize) -> Result<Reserved>;

    /// Puts a chunk where room was made for it; by any thread, in any order.
    fn store(&self, kind: ChunkKind, place: Place, packed: Packed) -> Result<()>;
}

/// What became of a wish for room.
pub enum Reserved {
    /// The chunk is stored already, or will be.
    Known(Location),
    /// There is room for it.
    New(Place),
}

/// A stored disk.
#[derive(Debug, Clone, Copy)]
pub struct StoredDisk {
    /// The root page of its map; a disk of 0 bytes has none.
    pub root: Option<(ChunkId, Location)>,
    /// What it took.
    pub statistics: Statistics,
}

/// Where a writer leaves what it came to.
pub type Outcome = Arc<Mutex<Option<StoredDisk>>>;

/// Stores a disk, unit by unit.
pub struct DiskWriter<S> {
    sink: Arc<S>,
    ring: Arc<KeyRing>,
    shape: Shape,
    level: Level,
    parent: Option<Arc<MappedDisk>>,
    map: Mutex<MapBuilder>,
    counters: Counters,
    outcome: Outcome,
}

#[derive(Default)]
struct Counters {
    data: AtomicU64,
    changed: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
}

/// A piece of the disk between the steps.
struct Piece {
    index: u64,
    plain_bytes: u64,
    content: Content,
}

enum Content {
    Zero,
    Known(ChunkId, Location),
    New(Packed),
    Reserved(Place, Packed),
}

impl<S: ChunkSink> DiskWriter<S> {
    /// Stores a disk of this shape; `parent` is the disk that it is probably like.
    pub fn new(
        sink: Arc<S>,
        ring: Arc<KeyRing>,
        shape: Shape,
        level: Level,
        parent: Option<Arc<MappedDisk>>,
    ) -> (Self, Outcome) {
        // Pieces of another length can be found by their ids only.
        let parent = parent.filter(|parent| parent.shape().chunk_bytes == shape.chunk_bytes);
        let (map, outcome) = (Mutex::new(MapBuilder::new(shape)), Outcome::default());
        let counters = Counters::default();
        let writer = DiskWriter { sink, ring, shape, level, parent, map, counters, outcome: Arc::clone(&outcome) };
        (writer, outcome)
    }

    /// Returns true if a piece may be kept at the place that another map gives: its pack may have been condemned since.
    pub fn may_keep(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Data(_, location) => self.sink.may_use(location),
            Entry::Hole | Entry::Zero => true,
        }
    }

    /// Describes pieces from `index` on as another map of the repository does: one with data, or several without. They come in
    /// the order of the disk, between the units that are stored; those with data only if they [may be kept](Self::may_keep).
    pub fn keep(&self, index: u64, pieces: u64, entry: Entry) -> Result<()> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = |page: &Page, number| self.store_page(page, number);
        map.fill_to(index, Entry::Hole, &mut store)?;
        match entry {
            Entry::Data(..) => map.push(entry, &mut store),
            empty => map.fill_to(index + pieces, empty, &mut store),
        }
    }

    fn encode_piece(&self, index: u64, plain: &[u8]) -> Result<Content> {
        let length = plain.len() as u64;
        self.counters.data.fetch_add(length, Relaxed);
        let id = self.ring.chunk_id(plain);
        match self.in_parent(index, &id) {
            Some(location) if self.sink.may_use(&location) => return Ok(Content::Known(id, location)),
            // The same bytes, in a pack that is not to be built on: if a prune moved them, they are found.
            Some(_) => {}
            None => _ = self.counters.changed.fetch_add(length, Relaxed),
        }
        if let Some(location) = self.sink.find(&id)? {
            return Ok(Content::Known(id, location));
        }
        Ok(Content::New(Packed::new(ChunkKind::Data, id, plain, self.level)))
    }

    /// Where the parent says that the same bytes are, which it has at the same place.
    fn in_parent(&self, index: u64, id: &ChunkId) -> Option<Location> {
        let parent = self.parent.as_ref().filter(|parent| index < parent.shape().chunks())?;
        // A parent whose map is damaged is no reason to fail: then the piece is stored again.
        match parent.entry(index) {
            Ok((Entry::Data(known, location), _)) if known == *id => Some(location),
            _ => None,
        }
    }

    fn place_piece(&self, piece: &mut Piece) -> Result<()> {
        let content = std::mem::replace(&mut piece.content, Content::Zero);
        let (entry, content) = match content {
            Content::Zero => (Entry::Zero, Content::Zero),
            Content::New(packed) => {
                let (id, chunk_bytes) = (packed.id(), packed.chunk_bytes());
                match self.sink.reserve(ChunkKind::Data, id, chunk_bytes)? {
                    Reserved::Known(location) => (Entry::Data(id, location), Content::Known(id, location)),
                    Reserved::New(place) => {
                        self.counters.new.fetch_add(piece.plain_bytes, Relaxed);
                        self.counters.stored.fetch_add(chunk_bytes as u64, Relaxed);
                        (Entry::Data(id, place.location), Content::Reserved(place, packed))
                    }
                }
            }
            Content::Known(id, location) => (Entry::Data(id, location), Content::Known(id, location)),
            reserved @ Content::Reserved(..) => {
                piece.content = reserved;
                return Ok(());
            }
        };
        piece.content = content;
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = |page: &Page, number| self.store_page(page, number);
        map.fill_to(piece.index, Entry::Hole, &mut store)?;
        map.push(entry, &mut store)
    }

    /// Stores a page, unless the parent has the same one at the same place.
    fn store_page(&self, page: &Page, number: u64) -> Result<Entry> {
        if let Some(parent) = &self.parent
            && let Ok(Some((id, location, same))) = parent.page_at(page.level, number)
            && *same == *page
            && self.sink.may_use(&location)
        {
            return Ok(Entry::Data(id, location));
        }
        let (bytes, core_bytes) = page.encode();
        let id = self.ring.page_id(&bytes[..core_bytes]);
        let packed = Packed::new(ChunkKind::MapPage, id, &bytes, PAGE_LEVEL);
        let chunk_bytes = packed.chunk_bytes();
        match self.sink.reserve(ChunkKind::MapPage, id, chunk_bytes)? {
            Reserved::Known(location) => Ok(Entry::Data(id, location)),
            Reserved::New(place) => {
                let location = place.location;
                self.sink.store(ChunkKind::MapPage, place, packed)?;
                self.counters.stored.fetch_add(chunk_bytes as u64, Relaxed);
                Ok(Entry::Data(id, location))
            }
        }
    }
}

/// A unit between the steps: its pieces.
pub struct EncodedUnit(Mutex<Vec<Piece>>);

impl<S: ChunkSink> UnitWriter for DiskWriter<S> {
    type Encoded<'a> = EncodedUnit;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: self.shape.chunk_bytes, clones: false, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<EncodedUnit> {
        let first = unit.guest_offset / self.shape.chunk_bytes;
        let count = unit.length_bytes.div_ceil(self.shape.chunk_bytes);
        let mut pieces = Vec::with_capacity(count as usize);
        for index in first..first + count {
            let begin = (index - first) * self.shape.chunk_bytes;
            let plain_bytes = self.shape.chunk_length(index) as u64;
            let content = match unit.content {
                UnitContent::Bytes(bytes) if has_data(unit, begin, plain_bytes) => {
                    self.encode_piece(index, &bytes[begin as usize..][..plain_bytes as usize])?
                }
                _ => Content::Zero,
            };
            pieces.push(Piece { index, plain_bytes, content });
        }
        Ok(EncodedUnit(Mutex::new(pieces)))
    }

    fn place(&self, encoded: &mut EncodedUnit) -> Result<()> {
        let pieces = encoded.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        pieces.iter_mut().try_for_each(|piece| self.place_piece(piece))
    }

    fn write(&self, encoded: &EncodedUnit) -> Result<()> {
        let pieces = std::mem::take(&mut *encoded.0.lock().unwrap_or_else(PoisonError::into_inner));
        for piece in pieces {
            if let Content::Reserved(place, packed) = piece.content {
                self.sink.store(ChunkKind::Data, place, packed)?;
            }
        }
        Ok(())
    }

    fn finish(self, _seed: &IdentitySeed) -> Result<()> {
        let map = std::mem::replace(
            &mut *self.map.lock().unwrap_or_else(PoisonError::into_inner),
            MapBuilder::new(self.shape),
        );
        let root = map.finish(&mut |page, number| self.store_page(page, number))?;
        let statistics = Statistics {
            data_bytes: self.counters.data.load(Relaxed),
            changed_bytes: self.counters.changed.load(Relaxed),
            new_bytes: self.counters.new.load(Relaxed),
            stored_bytes: self.counters.stored.load(Relaxed),
        };
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(StoredDisk { root, statistics });
        Ok(())
    }
}

/// Whether a part of the unit has anything but zeros.
fn has_data(unit: &GuestUnit<'_>, begin: u64, length_bytes: u64) -> bool {
    let end = begin + length_bytes;
    unit.runs.iter().any(|run| run.kind == RunKind::Data && run.offset < end && run.offset + run.length_bytes > begin)
}
