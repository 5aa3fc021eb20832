//! Walks the maps of disks, and says what they need that is not there.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tintype_formats::error::Result as ImageResult;
use tintype_formats::tin::read::{ChunkReader, PackSource};
use tintype_tin::chunk::ChunkKind;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::map::{Entry, Location, PAGE_ENTRIES, Page, Shape};

use super::packs::{PackState, ShortId, short};
use crate::error::{Error, Kind, Result, in_words};
use crate::repository::Repository;
use crate::repository::disk::StorePacks;

/// All packs, by their ids.
pub type Packs = HashMap<Id, PackState>;

/// A chunk that is nowhere, or a page: then nobody knows what is below it.
#[derive(Debug, Clone)]
pub struct Lost {
    /// Its id.
    pub id: ChunkId,
    /// Where the map says that it is.
    pub location: Location,
    /// 0 for a chunk; one more than its own level for a page.
    pub level: u8,
    /// The first of the disk's pieces that it stands for.
    pub first_piece: u64,
    /// How many pieces those are.
    pub pieces: u64,
    /// What was found where it should be.
    pub detail: String,
}

/// Reads pages by what is known of the packs.
struct KnownPacks {
    repository: Arc<Repository>,
    packs: Arc<Packs>,
}

impl PackSource for KnownPacks {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        StorePacks(&self.repository).read(pack, offset, buffer)
    }

    fn find_again(&self, id: &ChunkId, _: &Location) -> ImageResult<Vec<Location>> {
        // Only pages are read here, and one in a thousand chunks is one.
        let maps = self.packs.values().filter(|pack| pack.kind == Some(ChunkKind::MapPage));
        Ok(maps.flat_map(|pack| pack.find(id)).collect())
    }
}

/// A walk over the maps of many disks; pages that they share are read once.
pub struct MapWalk {
    reader: ChunkReader,
    packs: Arc<Packs>,
    /// Pages with all that is below them there.
    whole: HashSet<(ChunkId, Location)>,
    /// The ids of all whole chunks, ascending; made when a map is not up to date.
    anywhere: OnceCell<Vec<ShortId>>,
    /// The packs that the maps name.
    used: HashSet<Id>,
    /// Whether a map named a place where its chunk is not any more.
    stale: bool,
}

impl MapWalk {
    /// A walk that knows these packs.
    pub fn new(repository: &Arc<Repository>, packs: &Arc<Packs>) -> MapWalk {
        let source = KnownPacks { repository: Arc::clone(repository), packs: Arc::clone(packs) };
        MapWalk {
            reader: ChunkReader::new(Arc::clone(repository.ring()), Arc::new(source)),
            packs: Arc::clone(packs),
            whole: HashSet::new(),
            anywhere: OnceCell::new(),
            used: HashSet::new(),
            stale: false,
        }
    }

    /// The packs that the maps name; nothing if a map was not up to date, and so does not name all that it needs.
    pub fn used(&self) -> Option<&HashSet<Id>> {
        (!self.stale).then_some(&self.used)
    }

    /// Walks the map of a disk, and says what of it is nowhere.
    pub fn walk(&mut self, shape: Shape, root: Option<(ChunkId, Location)>) -> Result<Vec<Lost>> {
        let mut lost = Vec::new();
        if let Some((id, location)) = root {
            self.page(shape, (id, location), shape.top_level(), 0, &mut lost)?;
        }
        Ok(lost)
    }

    /// Goes through page `number` of a level.
    fn page(
        &mut self,
        shape: Shape,
        (id, location): (ChunkId, Location),
        level: u8,
        number: u64,
        lost: &mut Vec<Lost>,
    ) -> Result<()> {
        if self.whole.contains(&(id, location)) {
            return Ok(());
        }
        self.used.insert(location.pack);
        self.stale |= !self.packs.get(&location.pack).is_some_and(|pack| pack.has(&id, &location));
        let lost_before = lost.len();
        let begin = number * PAGE_ENTRIES;
        match self.read(shape, (&id, &location), level, begin)? {
            Ok(page) => {
                for (index, entry) in (begin..).zip(&page.entries) {
                    if let Entry::Data(id, location) = entry {
                        self.entry(shape, (*id, *location), level, index, lost)?;
                    }
                }
            }
            Err(detail) => lost.push(missing(shape, (id, location), level + 1, number, detail)),
        }
        if lost.len() == lost_before {
            self.whole.insert((id, location));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        shape: Shape,
        (id, location): (ChunkId, Location),
        level: u8,
        index: u64,
        lost: &mut Vec<Lost>,
    ) -> Result<()> {
        if level > 0 {
            return self.page(shape, (id, location), level - 1, index, lost);
        }
        let pack = self.packs.get(&location.pack);
        if pack.is_some_and(|pack| pack.has(&id, &location)) {
            self.used.insert(location.pack);
            return Ok(());
        }
        self.stale = true;
        if !self.is_anywhere(&id) {
            let detail = match pack {
                None => format!("pack {} is not there", location.pack),
                Some(pack) => match &pack.problem {
                    Some(problem) => format!("pack {}: {problem}", location.pack),
                    None => format!("pack {} has another chunk at {:#x}", location.pack, location.offset),
                },
            };
            lost.push(missing(shape, (id, location), 0, index, detail));
        }
        Ok(())
    }

    /// Reads a page; the inner error says why it cannot be read.
    fn read(
        &mut self,
        shape: Shape,
        (id, location): (&ChunkId, &Location),
        level: u8,
        begin: u64,
    ) -> Result<std::result::Result<Page, String>> {
        let page = match self.reader.read_page(id, location) {
            Ok(page) => page,
            Err(cause) if cause.kind() == tintype_formats::ErrorKind::WrongKey => {
                return Err(Error::new(Kind::WrongKey, in_words(&cause)));
            }
            Err(cause) => return Ok(Err(in_words(&cause))),
        };
        let expected = shape.page_entries(level, begin);
        if page.level == level && page.entries.len() as u64 == expected {
            return Ok(Ok(page));
        }
        let found = format!("it has level {} and {} entries", page.level, page.entries.len());
        Ok(Err(format!("{found}, expected level {level} and {expected}")))
    }

    /// Whether a whole chunk with this id is in any pack.
    fn is_anywhere(&self, id: &ChunkId) -> bool {
        let all = self.anywhere.get_or_init(|| {
            let chunks = self.packs.values().flat_map(|pack| &pack.chunks);
            let mut ids: Vec<ShortId> = chunks.filter(|chunk| chunk.good).map(|chunk| chunk.id).collect();
            ids.sort_unstable();
            ids
        });
        all.binary_search(&short(id)).is_ok()
    }
}

/// What is lost with an entry of a level.
fn missing(shape: Shape, (id, location): (ChunkId, Location), level: u8, index: u64, detail: String) -> Lost {
    let under = Shape::chunks_under(level);
    let first_piece = index.saturating_mul(under);
    let pieces = under.min(shape.chunks().saturating_sub(first_piece));
    Lost { id, location, level, first_piece, pieces, detail }
}
