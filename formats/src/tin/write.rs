//! Stores a disk as chunks and a map: only what is not stored already.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_tin::chunk::{ChunkKind, Level, Packed};
use tintype_tin::id::ChunkId;
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::Statistics;
use tintype_tin::map::{Entry, Location, MapBuilder, Page, Shape};

use super::pack_stream::Place;
use super::read::MappedDisk;
use crate::error::Result;
use crate::is_zero;
use crate::locks::Unpoisoned as _;
use crate::sink::{GuestUnit, RunKind, Turn, UnitContent, UnitTarget, WriterLayout};

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

/// A disk that is stored already, and what it is to the one that is stored now.
#[derive(Clone)]
pub enum Base {
    /// There is none.
    Nothing,
    /// The new disk is probably like it: pieces that are equal are found without asking the index. It decides nothing about the
    /// content; what is never passed in is a hole.
    ComparedWith(Arc<MappedDisk>),
    /// What is never passed in is as it is there, and past its end a hole. All else is compared with it.
    InheritsFrom(Arc<MappedDisk>),
}

impl Base {
    fn disk(&self) -> Option<&Arc<MappedDisk>> {
        match self {
            Base::Nothing => None,
            Base::ComparedWith(disk) | Base::InheritsFrom(disk) => Some(disk),
        }
    }
}

/// Stores a disk, unit by unit.
pub struct DiskWriter<S> {
    sink: Arc<S>,
    ring: Arc<KeyRing>,
    shape: Shape,
    level: Level,
    base: Base,
    map: Mutex<MapBuilder>,
    counters: Counters,
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
    /// Stores a disk of this shape.
    pub fn new(sink: Arc<S>, ring: Arc<KeyRing>, shape: Shape, level: Level, base: Base) -> Self {
        let (map, counters) = (Mutex::new(MapBuilder::new(shape)), Counters::default());
        DiskWriter { sink, ring, shape, level, base, map, counters }
    }

    /// Describes the pieces before `end` that were never passed in.
    fn pass_over(&self, map: &mut MapBuilder, end: u64) -> Result<()> {
        let mut store = |page: &Page, number| self.store_page(page, number);
        let Base::InheritsFrom(before) = &self.base else { return map.fill_to(end, Entry::Hole, &mut store) };
        while map.position() < end {
            let index = map.position();
            match self.inherited(before, index)? {
                (entry @ Entry::Data(..), _) => map.push(entry, &mut store)?,
                (empty, run) => map.fill_to(end.min(index + run), empty, &mut store)?,
            }
        }
        Ok(())
    }

    /// What piece `index` is in the disk that is inherited from, and for how many pieces from it on that is known.
    fn inherited(&self, before: &MappedDisk, index: u64) -> Result<(Entry, u64)> {
        let (guest_offset, length) = (index * self.shape.chunk_bytes, self.shape.chunk_length(index));
        let there = before.shape();
        let left = there.size_bytes.saturating_sub(guest_offset);
        if left == 0 {
            return Ok((Entry::Hole, self.shape.chunks() - index));
        }
        let (entry, run) = before.entry(guest_offset / there.chunk_bytes)?;
        let is_same_piece = there.chunk_bytes == self.shape.chunk_bytes && there.chunk_length(index) == length;
        match entry {
            Entry::Data(id, location) if is_same_piece => {
                // In a pack that is not to be built on: if a prune moved it, it is found.
                let usable = if self.sink.may_use(&location) { Some(location) } else { self.sink.find(&id)? };
                if let Some(location) = usable {
                    self.counters.data.fetch_add(length as u64, Relaxed);
                    return Ok((Entry::Data(id, location), 1));
                }
            }
            Entry::Data(..) => {}
            empty => {
                let end = (guest_offset / there.chunk_bytes + run) * there.chunk_bytes;
                let whole = (end - guest_offset) / self.shape.chunk_bytes;
                if whole > 0 {
                    return Ok((empty, whole));
                }
            }
        }
        let mut plain = vec![0; length];
        before.read_at(guest_offset, &mut plain[..left.min(length as u64) as usize])?;
        Ok((self.store_again(index, &plain)?, 1))
    }

    /// Stores a piece that was read from the disk that is inherited from.
    fn store_again(&self, index: u64, plain: &[u8]) -> Result<Entry> {
        if is_zero(plain) {
            return Ok(Entry::Zero);
        }
        let content = self.encode_piece(index, plain)?;
        let (entry, content) = self.settle(content, plain.len() as u64)?;
        if let Content::Reserved(place, packed) = content {
            self.sink.store(ChunkKind::Data, place, packed)?;
        }
        Ok(entry)
    }

    fn encode_piece(&self, index: u64, plain: &[u8]) -> Result<Content> {
        let length = plain.len() as u64;
        self.counters.data.fetch_add(length, Relaxed);
        let id = self.ring.chunk_id(plain);
        match self.in_base(index, &id) {
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

    /// Where the base says that the same bytes are, which it has at the same place.
    fn in_base(&self, index: u64, id: &ChunkId) -> Option<Location> {
        // Pieces of another length can be found by their ids only.
        let is_alike = |base: &&Arc<MappedDisk>| base.shape().chunk_bytes == self.shape.chunk_bytes;
        let base = self.base.disk().filter(is_alike).filter(|base| index < base.shape().chunks())?;
        // A base whose map is damaged is no reason to fail: then the piece is stored again.
        match base.entry(index) {
            Ok((Entry::Data(known, location), _)) if known == *id => Some(location),
            _ => None,
        }
    }

    fn place_piece(&self, piece: &mut Piece) -> Result<()> {
        let content = std::mem::replace(&mut piece.content, Content::Zero);
        let (entry, content) = self.settle(content, piece.plain_bytes)?;
        piece.content = content;
        let mut map = lock(&self.map);
        self.pass_over(&mut map, piece.index)?;
        map.push(entry, &mut |page, number| self.store_page(page, number))
    }

    /// Gives a piece its place, and its entry in the map.
    fn settle(&self, content: Content, plain_bytes: u64) -> Result<(Entry, Content)> {
        match content {
            Content::Zero => Ok((Entry::Zero, content)),
            Content::Known(id, location) => Ok((Entry::Data(id, location), content)),
            Content::Reserved(ref place, ref packed) => Ok((Entry::Data(packed.id(), place.location), content)),
            Content::New(packed) => {
                let (id, chunk_bytes) = (packed.id(), packed.chunk_bytes());
                match self.sink.reserve(ChunkKind::Data, id, chunk_bytes)? {
                    Reserved::Known(location) => Ok((Entry::Data(id, location), Content::Known(id, location))),
                    Reserved::New(place) => {
                        self.counters.new.fetch_add(plain_bytes, Relaxed);
                        self.counters.stored.fetch_add(chunk_bytes as u64, Relaxed);
                        Ok((Entry::Data(id, place.location), Content::Reserved(place, packed)))
                    }
                }
            }
        }
    }

    /// Stores a page, unless the base has the same one at the same place.
    fn store_page(&self, page: &Page, number: u64) -> Result<Entry> {
        if let Some(base) = self.base.disk()
            && let Ok(Some((id, location, same))) = base.page_at(page.level, number)
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

/// The steps of [`UnitWriter`](crate::sink::UnitWriter), for images that have such a disk in them.
impl<S: ChunkSink> DiskWriter<S> {
    /// Decides what of the unit is stored and compresses it.
    pub(super) fn encode(&self, unit: &GuestUnit<'_>) -> Result<EncodedUnit> {
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

    /// Gives the unit its place in a pack, and in the map.
    pub(super) fn place(&self, encoded: &mut EncodedUnit) -> Result<()> {
        let pieces = encoded.0.get_mut().unpoisoned();
        pieces.iter_mut().try_for_each(|piece| self.place_piece(piece))
    }

    /// Writes the unit at its place.
    pub(super) fn write(&self, encoded: &EncodedUnit) -> Result<()> {
        let pieces = std::mem::take(&mut *lock(&encoded.0));
        for piece in pieces {
            if let Content::Reserved(place, packed) = piece.content {
                self.sink.store(ChunkKind::Data, place, packed)?;
            }
        }
        Ok(())
    }

    /// Completes the map: what it came to.
    pub fn finish(self) -> Result<StoredDisk> {
        let mut map = std::mem::replace(&mut *lock(&self.map), MapBuilder::new(self.shape));
        self.pass_over(&mut map, self.shape.chunks())?;
        let root = map.finish(&mut |page, number| self.store_page(page, number))?;
        let statistics = Statistics {
            data_bytes: self.counters.data.load(Relaxed),
            changed_bytes: self.counters.changed.load(Relaxed),
            new_bytes: self.counters.new.load(Relaxed),
            stored_bytes: self.counters.stored.load(Relaxed),
        };
        Ok(StoredDisk { root, statistics })
    }
}

impl<S: ChunkSink> UnitTarget for DiskWriter<S> {
    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: self.shape.chunk_bytes, clones: false, in_place: false }
    }

    fn store(&self, unit: &GuestUnit<'_>, turn: &dyn Turn) -> Result<()> {
        let mut encoded = self.encode(unit)?;
        turn.place(&mut || self.place(&mut encoded))?;
        turn.write(&mut || self.write(&encoded))
    }
}

/// Whether a part of the unit has anything but zeros.
fn has_data(unit: &GuestUnit<'_>, begin: u64, length_bytes: u64) -> bool {
    let end = begin + length_bytes;
    unit.runs.iter().any(|run| run.kind == RunKind::Data && run.offset < end && run.offset + run.length_bytes > begin)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}
