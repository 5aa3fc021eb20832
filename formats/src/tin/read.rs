//! Reads disks through their maps: chunks at random, decrypted, decompressed and proved by their ids.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_tin::chunk::{self, ChunkHeader, ChunkKind};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::map::{self, Entry, Location, PAGE_ENTRIES, Page, Shape};
use tintype_tin::pack::{self, HEADER_PREFIX_BYTES, PackHeader};
use tintype_tin::seal::{Purpose, SegmentKey};

use crate::error::{ErrorKind, ImageError, Result};
use crate::locks::Unpoisoned as _;
use crate::unit_cache::UnitCache;

/// Pages of one map that are kept; one describes 256 MiB of a disk in pieces of 256 KiB, and takes about 60 KiB.
const MAX_PAGES: usize = 128;

/// Segment keys and pack headers that are kept.
const MAX_PACKS: usize = 1024;

/// How much of a pack is read at once at most, in bytes, unless one chunk alone is longer.
const MAX_FETCHED_BYTES: u64 = 4 << 20;

thread_local!(static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

/// Where packs are read from.
pub trait PackSource: Send + Sync {
    /// Fills `buffer` from a place in a pack.
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Other places where the chunk may be, if it is not where the map says.
    fn find_again(&self, id: &ChunkId, stale: &Location) -> Result<Vec<Location>>;
}

/// Reads single chunks.
pub struct ChunkReader {
    ring: Arc<KeyRing>,
    source: Arc<dyn PackSource>,
    headers: Mutex<HashMap<Id, Arc<PackHeader>>>,
    keys: Mutex<HashMap<Id, Arc<SegmentKey>>>,
}

impl ChunkReader {
    /// Reads from `source` with these keys.
    pub fn new(ring: Arc<KeyRing>, source: Arc<dyn PackSource>) -> Self {
        ChunkReader { ring, source, headers: Mutex::default(), keys: Mutex::default() }
    }

    /// The keys that it reads with.
    pub fn ring(&self) -> &Arc<KeyRing> {
        &self.ring
    }

    /// Fills `plain` with the bytes of a data chunk, wherever it is.
    pub fn read(&self, id: &ChunkId, location: &Location, plain: &mut [u8]) -> Result<()> {
        self.with_other_places(id, location, |place| {
            self.fetch(place, |stored| self.open_data(id, place, stored, plain))
        })
    }

    /// Reads data chunks that lie side by side in a pack, by one read of the pack.
    fn read_neighbours(&self, chunks: &mut [WantedChunk<'_>]) -> Result<()> {
        if chunks.len() > 1 {
            self.open_neighbours(chunks);
        }
        for index in 0..chunks.len() {
            let (before, rest) = chunks.split_at_mut(index);
            let chunk = &mut rest[0];
            match before.last() {
                _ if chunk.is_read => {}
                Some(previous) if chunk.equals(previous) => chunk.plain.copy_from_slice(previous.plain),
                _ => self
                    .read(&chunk.id, &chunk.location, chunk.plain)
                    .map_err(|cause| cause.at_guest(chunk.guest_offset))?,
            }
        }
        Ok(())
    }

    /// Opens what can be opened of the chunks; what fails here is tried again by itself, and elsewhere.
    fn open_neighbours(&self, chunks: &mut [WantedChunk<'_>]) {
        let [first, .., last] = &*chunks else { return };
        let (pack, begin) = (first.location.pack, u64::from(first.location.offset));
        let length = last.end().saturating_sub(begin);
        if length > MAX_FETCHED_BYTES {
            return;
        }
        STORED.with_borrow_mut(|stored| {
            stored.resize(length as usize, 0);
            if self.source.read(pack, begin, stored).is_err() {
                return;
            }
            let mut opened_to = 0;
            for chunk in chunks {
                let here = (u64::from(chunk.location.offset) - begin) as usize..(chunk.end() - begin) as usize;
                // Opening changes the bytes: a chunk that is wanted twice is opened once.
                if here.start >= opened_to {
                    opened_to = here.end;
                    chunk.is_read = self.open_data(&chunk.id, &chunk.location, &mut stored[here], chunk.plain).is_ok();
                }
            }
        });
    }

    fn open_data(&self, id: &ChunkId, location: &Location, stored: &mut [u8], plain: &mut [u8]) -> Result<()> {
        self.open(id, location, ChunkKind::Data, stored, |header, key, stored| {
            Ok(chunk::open(header, key, stored, plain)?)
        })?;
        check_id(id, &self.ring.chunk_id(plain))
    }

    /// Reads a page of a map, wherever it is.
    pub fn read_page(&self, id: &ChunkId, location: &Location) -> Result<Page> {
        self.with_other_places(id, location, |place| {
            let plain = self.fetch(place, |stored| {
                self.open(id, place, ChunkKind::MapPage, stored, |header, key, stored| {
                    let mut plain = vec![0; header.plain_bytes()];
                    chunk::open(header, key, stored, &mut plain)?;
                    Ok(plain)
                })
            })?;
            let (page, core_bytes) = Page::parse(&plain)?;
            check_id(id, &self.ring.page_id(&plain[..core_bytes]))?;
            Ok(page)
        })
    }

    /// Tries the place that the map says, then all others; the first failure is the one that is told.
    fn with_other_places<R>(
        &self,
        id: &ChunkId,
        location: &Location,
        mut read: impl FnMut(&Location) -> Result<R>,
    ) -> Result<R> {
        let first = match read(location) {
            Err(cause) if is_worth_another_try(&cause) => cause,
            other => return other,
        };
        for place in self.source.find_again(id, location)? {
            if place != *location
                && let Ok(result) = read(&place)
            {
                return Ok(result);
            }
        }
        Err(first)
    }

    /// Reads a chunk as it is stored, and hands it to whoever opens it.
    fn fetch<R>(&self, location: &Location, open: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
        STORED.with_borrow_mut(|stored| {
            stored.resize(pack::checked_length(location.length)?, 0);
            self.source.read(location.pack, location.offset.into(), stored)?;
            open(stored)
        })
    }

    /// Opens a chunk, if it is the one that is wanted.
    fn open<R>(
        &self,
        id: &ChunkId,
        location: &Location,
        kind: ChunkKind,
        stored: &mut [u8],
        open: impl FnOnce(&ChunkHeader, &SegmentKey, &mut [u8]) -> Result<R>,
    ) -> Result<R> {
        let header = ChunkHeader::parse(stored)?;
        if header.id() != *id || header.kind() != kind || header.chunk_bytes() != stored.len() {
            let detail = format!("pack {} holds another chunk at {:#x}", location.pack, location.offset);
            return Err(ImageError::corrupt("read a chunk", detail));
        }
        let key = self.key(location.pack, header.segment(), kind)?;
        open(&header, &key, stored)
    }

    /// The key of a segment, found by the header of a pack that it is used in.
    fn key(&self, pack: Id, segment: Id, kind: ChunkKind) -> Result<Arc<SegmentKey>> {
        if let Some(key) = lock(&self.keys).get(&segment) {
            return Ok(Arc::clone(key));
        }
        let header = self.header(pack)?;
        let record = header.segments.get(&segment).ok_or_else(|| {
            ImageError::corrupt("find the key of a chunk", format!("pack {pack} does not list segment {segment}"))
        })?;
        let purpose = match kind {
            ChunkKind::Data => Purpose::Data,
            ChunkKind::MapPage => Purpose::Map,
        };
        let key = Arc::new(self.ring.open_segment(purpose, record)?);
        insert_bounded(&mut lock(&self.keys), segment, &key);
        Ok(key)
    }

    fn header(&self, pack: Id) -> Result<Arc<PackHeader>> {
        if let Some(header) = lock(&self.headers).get(&pack) {
            return Ok(Arc::clone(header));
        }
        let header = Arc::new(read_header(self.source.as_ref(), self.ring.repository(), pack)?);
        insert_bounded(&mut lock(&self.headers), pack, &header);
        Ok(header)
    }
}

/// Reads the header of a pack.
pub fn read_header(source: &dyn PackSource, repository: Id, pack: Id) -> Result<PackHeader> {
    let mut prefix = [0; HEADER_PREFIX_BYTES];
    source.read(pack, 0, &mut prefix)?;
    let mut bytes = vec![0; PackHeader::length(&prefix)?];
    source.read(pack, 0, &mut bytes)?;
    Ok(PackHeader::parse(&bytes, repository, pack)?)
}

/// Keys open what they were made for; damage and absence may be a matter of the place.
fn is_worth_another_try(cause: &ImageError) -> bool {
    !matches!(cause.kind(), ErrorKind::WrongKey | ErrorKind::OutOfRange)
}

fn check_id(expected: &ChunkId, found: &ChunkId) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let detail = format!("its bytes have the id {found}, expected {expected}; somebody stored false bytes under it");
    Err(ImageError::corrupt("read a chunk", detail))
}

/// Keeps a few: when there are too many, all are forgotten.
fn insert_bounded<T>(kept: &mut HashMap<Id, Arc<T>>, id: Id, value: &Arc<T>) {
    if kept.len() >= MAX_PACKS {
        kept.clear();
    }
    kept.insert(id, Arc::clone(value));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}

/// A disk that is described by a map.
pub struct MappedDisk {
    reader: Arc<ChunkReader>,
    shape: Shape,
    root: Option<(ChunkId, Location)>,
    pages: Mutex<HashMap<(u8, u64), Arc<Page>>>,
    chunks: UnitCache,
}

impl MappedDisk {
    /// The disk of this shape whose map has this root.
    pub fn new(reader: Arc<ChunkReader>, shape: Shape, root: Option<(ChunkId, Location)>) -> Self {
        MappedDisk { reader, shape, root, pages: Mutex::default(), chunks: UnitCache::default() }
    }

    /// How its map is arranged.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What piece `index` is, and for how many pieces from it on that is known (for data always 1).
    pub fn entry(&self, index: u64) -> Result<(Entry, u64)> {
        map::look_up(self.shape, self.root, index, |id, location, level, number| self.page(id, location, level, number))
    }

    /// The page with this number at a level, and where it is stored, if there is one.
    pub fn page_at(&self, level: u8, number: u64) -> Result<Option<(ChunkId, Location, Arc<Page>)>> {
        let Some((mut id, mut location)) = self.root else { return Ok(None) };
        let mut at = self.shape.top_level();
        if level > at || number * PAGE_ENTRIES >= self.shape.entries(level) {
            return Ok(None);
        }
        loop {
            let number_here = number / PAGE_ENTRIES.pow((at - level).into());
            let page = self.page(&id, &location, at, number_here)?;
            if at == level {
                return Ok(Some((id, location, page)));
            }
            let child = number / PAGE_ENTRIES.pow((at - level - 1).into());
            match page.entries.get((child % PAGE_ENTRIES) as usize) {
                Some(Entry::Data(next, place)) => (id, location, at) = (*next, *place, at - 1),
                _ => return Ok(None),
            }
        }
    }

    fn page(&self, id: &ChunkId, location: &Location, level: u8, number: u64) -> Result<Arc<Page>> {
        if let Some(page) = lock(&self.pages).get(&(level, number)) {
            return Ok(Arc::clone(page));
        }
        let page = Arc::new(self.reader.read_page(id, location)?);
        let mut pages = lock(&self.pages);
        if pages.len() >= MAX_PAGES {
            pages.clear();
        }
        pages.insert((level, number), Arc::clone(&page));
        Ok(page)
    }

    /// Fills `buffer` with the disk's bytes; the range lies within the disk.
    pub fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_parts(&mut [(guest_offset, buffer)])
    }

    /// Fills each buffer with the disk's bytes from its offset on; the ranges lie within the disk. Chunks that lie side by side
    /// in a pack, and are named one after the other, are read at once.
    pub fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> Result<()> {
        let mut neighbours: Vec<WantedChunk<'_>> = Vec::new();
        for (guest_offset, buffer) in parts {
            let (mut offset, mut rest) = (*guest_offset, &mut **buffer);
            while !rest.is_empty() {
                let index = offset / self.shape.chunk_bytes;
                let within = offset % self.shape.chunk_bytes;
                let (entry, run) = self.entry(index)?;
                let run_bytes = run * self.shape.chunk_bytes - within;
                let (part, after) = rest.split_at_mut(run_bytes.min(rest.len() as u64) as usize);
                (rest, offset) = (after, offset + part.len() as u64);
                match entry {
                    Entry::Hole | Entry::Zero => part.fill(0),
                    Entry::Data(id, location) if part.len() == self.shape.chunk_length(index) => {
                        let guest_offset = index * self.shape.chunk_bytes;
                        let chunk = WantedChunk { id, location, guest_offset, plain: part, is_read: false };
                        if !chunk.joins(&neighbours) {
                            self.reader.read_neighbours(&mut neighbours)?;
                            neighbours.clear();
                        }
                        neighbours.push(chunk);
                    }
                    Entry::Data(id, location) => {
                        let length = self.shape.chunk_length(index) as u64;
                        self.chunks
                            .read(index, length, within, part, |plain| self.reader.read(&id, &location, plain))
                            .map_err(|cause| cause.at_guest(index * self.shape.chunk_bytes + within))?;
                    }
                }
            }
        }
        self.reader.read_neighbours(&mut neighbours)
    }
}

/// A chunk on its way from a pack to where it is wanted.
struct WantedChunk<'a> {
    id: ChunkId,
    location: Location,
    guest_offset: u64,
    plain: &'a mut [u8],
    is_read: bool,
}

impl WantedChunk<'_> {
    /// Where it ends in its pack.
    fn end(&self) -> u64 {
        u64::from(self.location.offset) + u64::from(self.location.length)
    }

    fn equals(&self, other: &WantedChunk<'_>) -> bool {
        self.location == other.location && self.id == other.id && self.plain.len() == other.plain.len()
    }

    /// Whether it lies right behind these, or is the last of them once more, and not too much is read at once.
    fn joins(&self, chunks: &[WantedChunk<'_>]) -> bool {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return true };
        let follows = self.location.pack == last.location.pack && u64::from(self.location.offset) == last.end();
        let fetched_bytes = self.end().saturating_sub(first.location.offset.into());
        self.equals(last) || (follows && fetched_bytes <= MAX_FETCHED_BYTES)
    }
}
