//! The map of a disk: a tree of pages that say, for each piece, what it is and where it lies (FORMAT.md §10).

use std::collections::HashMap;

use crate::error::{Result, TinError};
use crate::id::{ChunkId, Id};
use crate::parts::Parts;

/// How many entries a page has, but for the last one of its level.
pub const PAGE_ENTRIES: u64 = 1024;

const DOING: &str = "read a page of the map";

/// Levels that a map can have: 1024^6 chunks are more than any disk.
const MAX_LEVELS: u8 = 6;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack.
    pub pack: Id,
    /// Where in it the chunk's header begins.
    pub offset: u32,
    /// How long the chunk is, with its header, in bytes.
    pub length: u32,
}

/// What a map says of a piece of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Never written: reads as zeros.
    Hole,
    /// Zeros.
    Zero,
    /// A chunk, or a page of the level below, and where it was when this was written.
    Data(ChunkId, Location),
}

impl Entry {
    fn state(&self) -> u8 {
        match self {
            Entry::Hole => 0,
            Entry::Zero => 1,
            Entry::Data(..) => 2,
        }
    }
}

/// A page of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// 0 if its entries are chunks.
    pub level: u8,
    /// What it says.
    pub entries: Vec<Entry>,
}

impl Page {
    /// The page's bytes, and how many of them at the beginning its id is made of.
    pub fn encode(&self) -> (Vec<u8>, usize) {
        let data = || {
            self.entries.iter().filter_map(|entry| match entry {
                Entry::Data(id, location) => Some((id, location)),
                Entry::Hole | Entry::Zero => None,
            })
        };
        let mut bytes = vec![self.level, 0];
        bytes.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
        bytes.extend(self.entries.iter().map(Entry::state));
        data().for_each(|(id, _)| bytes.extend_from_slice(&id.0));
        let core_bytes = bytes.len();
        let mut packs: Vec<Id> = Vec::new();
        let mut numbers: HashMap<Id, u16> = HashMap::new();
        for (_, location) in data() {
            numbers.entry(location.pack).or_insert_with(|| {
                packs.push(location.pack);
                (packs.len() - 1) as u16
            });
        }
        bytes.extend_from_slice(&(packs.len() as u16).to_le_bytes());
        packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.0));
        for (_, location) in data() {
            bytes.extend_from_slice(&numbers.get(&location.pack).copied().unwrap_or_default().to_le_bytes());
            bytes.extend_from_slice(&location.offset.to_le_bytes());
            bytes.extend_from_slice(&location.length.to_le_bytes());
        }
        (bytes, core_bytes)
    }

    /// Reads a page, and says how many bytes at its beginning its id is made of.
    pub fn parse(bytes: &[u8]) -> Result<(Page, usize)> {
        let mut parts = Parts::new(DOING, bytes);
        let (level, reserved) = (parts.u8()?, parts.u8()?);
        let count = usize::from(parts.u16()?);
        if level >= MAX_LEVELS || reserved != 0 || count == 0 || count as u64 > PAGE_ENTRIES {
            return Err(corrupt(format!("level {level} with {count} entries")));
        }
        let states = parts.slice(count)?;
        let data = states.iter().filter(|state| **state == 2).count();
        let ids = parts.slice(data * 32)?;
        let core_bytes = parts.position();
        let packs = usize::from(parts.u16()?);
        let packs = parts.slice(packs * 16)?;
        let hints = parts.slice(data * 10)?;
        parts.end()?;
        let mut pointers = ids.chunks_exact(32).zip(hints.chunks_exact(10));
        let mut entries = Vec::with_capacity(count);
        for state in states {
            entries.push(match state {
                0 => Entry::Hole,
                1 => Entry::Zero,
                2 => pointer(pointers.next(), packs)?,
                other => return Err(corrupt(format!("an entry has the state {other}"))),
            });
        }
        Ok((Page { level, entries }, core_bytes))
    }

    /// Whether every entry is a hole, or every one is zero: such a page is not stored, its parent says so.
    fn uniform(&self) -> Option<Entry> {
        let first = *self.entries.first()?;
        let alike = !matches!(first, Entry::Data(..)) && self.entries.iter().all(|entry| *entry == first);
        alike.then_some(first)
    }
}

fn pointer(parts: Option<(&[u8], &[u8])>, packs: &[u8]) -> Result<Entry> {
    let (id, hint) = parts.ok_or_else(|| corrupt("an id is missing".to_owned()))?;
    let mut hint = Parts::new(DOING, hint);
    let pack = usize::from(hint.u16()?);
    let pack = packs.chunks_exact(16).nth(pack).and_then(|pack| pack.try_into().ok());
    let pack = Id(pack.ok_or_else(|| corrupt("a hint names a pack that is not listed".to_owned()))?);
    let id = ChunkId(id.try_into().map_err(|_| corrupt("an id is cut short".to_owned()))?);
    Ok(Entry::Data(id, Location { pack, offset: hint.u32()?, length: hint.u32()? }))
}

fn corrupt(detail: String) -> TinError {
    TinError::corrupt(DOING, detail)
}

/// How the pages of a disk's map are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The disk's size in bytes.
    pub size_bytes: u64,
    /// The length of a piece, in bytes.
    pub chunk_bytes: u64,
}

impl Shape {
    /// How many pieces the disk has.
    pub fn chunks(&self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_bytes)
    }

    /// How many entries there are at a level.
    pub fn entries(&self, level: u8) -> u64 {
        (0..level).fold(self.chunks(), |entries, _| entries.div_ceil(PAGE_ENTRIES))
    }

    /// The level of the root page.
    pub fn top_level(&self) -> u8 {
        (0..MAX_LEVELS).find(|level| self.entries(*level) <= PAGE_ENTRIES).unwrap_or(MAX_LEVELS)
    }

    /// How many entries the page has that holds entry `index` of a level.
    pub fn page_entries(&self, level: u8, index: u64) -> u64 {
        let begin = index / PAGE_ENTRIES * PAGE_ENTRIES;
        (self.entries(level) - begin).min(PAGE_ENTRIES)
    }

    /// How many pieces an entry of a level stands for.
    pub fn chunks_under(level: u8) -> u64 {
        PAGE_ENTRIES.pow(level.into())
    }

    /// The length of piece `index`, in bytes: the last one ends with the disk.
    pub fn chunk_length(&self, index: u64) -> usize {
        (self.size_bytes - index * self.chunk_bytes).min(self.chunk_bytes) as usize
    }
}

/// Stores a complete page whose number at its level is given, and says where it lies. Its failures are the caller's own.
pub type StorePage<'a, E> = dyn FnMut(&Page, u64) -> Result<Entry, E> + 'a;

/// A map that is built from front to back.
pub struct MapBuilder {
    shape: Shape,
    /// Per level, from 0: the page that is being filled, and how many entries the level has got so far.
    levels: Vec<(Vec<Entry>, u64)>,
    root: Option<Entry>,
}

impl MapBuilder {
    /// An empty map of a disk.
    pub fn new(shape: Shape) -> MapBuilder {
        let levels = if shape.chunks() == 0 { 0 } else { shape.top_level() + 1 };
        MapBuilder { shape, levels: vec![(Vec::new(), 0); levels.into()], root: None }
    }

    /// How many pieces are described so far.
    pub fn position(&self) -> u64 {
        let covered =
            |(level, (page, _)): (usize, &(Vec<Entry>, u64))| page.len() as u64 * Shape::chunks_under(level as u8);
        let in_pages: u64 = self.levels.iter().enumerate().map(covered).sum();
        if self.root.is_some() { self.shape.chunks() } else { in_pages }
    }

    /// Describes the next piece.
    pub fn push<E>(&mut self, entry: Entry, store: &mut StorePage<'_, E>) -> Result<(), E> {
        self.push_at(0, entry, store)
    }

    /// Describes the pieces before `index` that were not described as `entry`, which is no data.
    pub fn fill_to<E>(&mut self, index: u64, entry: Entry, store: &mut StorePage<'_, E>) -> Result<(), E> {
        while self.position() < index {
            let missing = index - self.position();
            let top = self.levels.len() as u8 - 1;
            // The highest level at which a whole entry is missing, and nothing below it has begun.
            let fits = |level: &u8| {
                let below_empty = self.levels[..usize::from(*level)].iter().all(|(page, _)| page.is_empty());
                let under = Shape::chunks_under(*level);
                below_empty && (missing >= under || self.position() + missing == self.shape.chunks())
            };
            let level = (0..=top).rev().find(fits).unwrap_or(0);
            self.push_at(level, entry, store)?;
        }
        Ok(())
    }

    fn push_at<E>(&mut self, level: u8, entry: Entry, store: &mut StorePage<'_, E>) -> Result<(), E> {
        let (page, count) = &mut self.levels[usize::from(level)];
        page.push(entry);
        let index = *count;
        *count += 1;
        // What a higher level was told directly counts below as well.
        for lower in 0..usize::from(level) {
            let under = Shape::chunks_under(level - lower as u8);
            let entries = self.shape.entries(lower as u8);
            let (_, count) = &mut self.levels[lower];
            *count = (*count + under).min(entries);
        }
        if (self.levels[usize::from(level)].0.len() as u64) < self.shape.page_entries(level, index) {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.levels[usize::from(level)].0);
        let page = Page { level, entries };
        let is_root = usize::from(level) + 1 == self.levels.len();
        let entry = match page.uniform() {
            Some(uniform) if !is_root => uniform,
            _ => store(&page, index / PAGE_ENTRIES)?,
        };
        if is_root {
            self.root = Some(entry);
            return Ok(());
        }
        self.push_up(level + 1, entry, store)
    }

    /// Like [`push_at`](Self::push_at), for an entry whose pieces were counted below already.
    fn push_up<E>(&mut self, level: u8, entry: Entry, store: &mut StorePage<'_, E>) -> Result<(), E> {
        let before: Vec<u64> = self.levels[..usize::from(level)].iter().map(|(_, count)| *count).collect();
        let result = self.push_at(level, entry, store);
        self.levels.iter_mut().zip(before).for_each(|((_, count), before)| *count = before);
        result
    }

    /// The root page, when every piece is described; none for a disk of 0 bytes.
    pub fn finish<E>(mut self, store: &mut StorePage<'_, E>) -> Result<Option<(ChunkId, Location)>, E> {
        self.fill_to(self.shape.chunks(), Entry::Hole, store)?;
        Ok(match self.root {
            Some(Entry::Data(id, location)) => Some((id, location)),
            _ => None,
        })
    }
}

/// Looks a piece up, going down from the root; `read_page` gets each page on the way.
///
/// Returns what the piece is, and for how many pieces from it on that is known to be so (for data always 1).
pub fn look_up<P: std::ops::Deref<Target = Page>, E: From<TinError>>(
    shape: Shape,
    root: Option<(ChunkId, Location)>,
    index: u64,
    mut read_page: impl FnMut(&ChunkId, &Location, u8, u64) -> Result<P, E>,
) -> Result<(Entry, u64), E> {
    let Some((mut id, mut location)) = root else { return Ok((Entry::Hole, shape.chunks().saturating_sub(index))) };
    let mut level = shape.top_level();
    loop {
        let under = Shape::chunks_under(level);
        let at_level = index / under;
        let page = read_page(&id, &location, level, at_level / PAGE_ENTRIES)?;
        if page.level != level || page.entries.len() as u64 != shape.page_entries(level, at_level) {
            let detail = format!("level {} with {} entries, expected level {level}", page.level, page.entries.len());
            return Err(corrupt(detail).into());
        }
        let within = (at_level % PAGE_ENTRIES) as usize;
        match page.entries[within] {
            Entry::Data(next, place) if level > 0 => (id, location, level) = (next, place, level - 1),
            data @ Entry::Data(..) => return Ok((data, 1)),
            empty => {
                let run = page.entries[within..].iter().take_while(|entry| **entry == empty).count() as u64;
                let end = ((at_level + run) * under).min(shape.chunks());
                return Ok((empty, end - index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: u64 = 65536;

    fn data(number: u64) -> Entry {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        let location = Location { pack: Id([(number % 7) as u8; 16]), offset: number as u32, length: 200 };
        Entry::Data(ChunkId(id), location)
    }

    /// Builds a map of `chunks` pieces, of which those in `runs` (begin, length) are data, and looks each one up again.
    fn build_and_compare(chunks: u64, runs: &[(u64, u64)], probe: impl Iterator<Item = u64>) -> usize {
        let shape = Shape { size_bytes: chunks * CHUNK - u64::from(chunks > 0) * 5, chunk_bytes: CHUNK };
        let mut pages: HashMap<ChunkId, Page> = HashMap::new();
        let mut store = |page: &Page, _: u64| -> Result<Entry> {
            let (bytes, _) = page.encode();
            assert_eq!(Page::parse(&bytes).unwrap().0, *page);
            let id = ChunkId(*blake3::hash(&bytes).as_bytes());
            pages.insert(id, page.clone());
            Ok(Entry::Data(id, Location { pack: Id([0; 16]), offset: 0, length: 0 }))
        };
        let mut builder = MapBuilder::new(shape);
        for (begin, length) in runs {
            builder.fill_to(*begin, Entry::Hole, &mut store).unwrap();
            assert_eq!(builder.position(), *begin);
            (*begin..begin + length).for_each(|index| builder.push(data(index), &mut store).unwrap());
        }
        let root = builder.finish(&mut store).unwrap();
        assert_eq!(root.is_some(), chunks > 0);
        for index in probe {
            let is_data = runs.iter().any(|(begin, length)| (*begin..begin + length).contains(&index));
            let (entry, run) = look_up(shape, root, index, |id, _, _, _| Ok::<_, TinError>(&pages[id])).unwrap();
            assert_eq!(entry, if is_data { data(index) } else { Entry::Hole }, "piece {index}");
            assert!(run > 0 && index + run <= chunks);
            assert!(is_data || runs.iter().all(|(begin, _)| *begin < index || *begin >= index + run));
        }
        pages.len()
    }

    #[test]
    fn maps_of_all_depths_say_what_was_pushed() {
        assert_eq!(build_and_compare(0, &[], 0..0), 0);
        assert_eq!(build_and_compare(1, &[(0, 1)], 0..1), 1);
        assert_eq!(build_and_compare(1024, &[(3, 4)], 0..1024), 1);
        assert_eq!(build_and_compare(1025, &[(1024, 1)], 0..1025), 2);
        let far = (1 << 30) + 77;
        let runs = [(0u64, 1u64), (5000, 2000), (1 << 29, 3), (far - 2, 2)];
        let near = runs.iter().flat_map(|(begin, length)| begin.saturating_sub(3)..(begin + length + 3).min(far));
        build_and_compare(far, &runs, near.collect::<Vec<_>>().into_iter());
    }

    #[test]
    fn an_empty_disk_of_any_size_is_one_page() {
        assert_eq!(build_and_compare(1 << 40, &[], [0, 5, (1 << 40) - 1].into_iter()), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_runs(gaps in prop::collection::vec((0u64..3000, 1u64..2500), 0..5), tail in 0u64..3000) {
            let mut end = 0;
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for (gap, length) in gaps {
                runs.push((end + gap, length));
                end += gap + length;
            }
            build_and_compare(end + tail, &runs, (0..end + tail).step_by(7));
        }

        #[test]
        fn hostile_pages_are_errors_or_pages(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((page, core_bytes)) = Page::parse(&bytes) {
                prop_assert!(core_bytes <= bytes.len() && !page.entries.is_empty());
            }
        }
    }
}
