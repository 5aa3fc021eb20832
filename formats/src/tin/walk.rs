//! Goes through all pages of a map, each once however often it is used.

use std::collections::HashMap;

use tintype_tin::id::ChunkId;
use tintype_tin::map::{Entry, Location, PAGE_ENTRIES, Shape};

use super::read::ChunkReader;
use crate::error::{ImageError, Result};

/// What a walk comes by.
pub enum Step<'a> {
    /// A page, before what is under it.
    Page(&'a ChunkId, &'a Location),
    /// A chunk of the disk, and how many bytes of it. One that is used in several places comes several times.
    Chunk(&'a ChunkId, &'a Location, usize),
    /// A page that cannot be read: what is under it is passed over.
    Damaged(ImageError),
}

/// What a walk does at each step; an error ends it.
pub type Visit<'a> = dyn FnMut(Step<'_>) -> Result<()> + 'a;

/// Goes through the map of a disk.
///
/// A file with a few pages can describe a disk that nobody lives long enough to read, by using the same page again and
/// again: so each is gone through once.
pub fn walk(
    reader: &ChunkReader,
    shape: Shape,
    root: Option<(ChunkId, Location)>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let Some((id, location)) = root else { return Ok(()) };
    let mut walk = Walk { reader, shape, seen: HashMap::new(), visit };
    walk.page(id, location, shape.top_level(), 0)
}

struct Walk<'a, 'b> {
    reader: &'a ChunkReader,
    shape: Shape,
    /// Each page's level and number of entries.
    seen: HashMap<ChunkId, (u8, u64)>,
    visit: &'a mut Visit<'b>,
}

impl Walk<'_, '_> {
    /// Goes through a page; `first` is the number of its first entry at its level.
    fn page(&mut self, id: ChunkId, location: Location, level: u8, first: u64) -> Result<()> {
        let expected = (level, self.shape.page_entries(level, first));
        match self.seen.get(&id) {
            // The last page of a level has other pieces at its end than one that is said to be equal.
            Some(seen) if *seen == expected && !self.ends_the_disk(level, first) => return Ok(()),
            _ => {}
        }
        (self.visit)(Step::Page(&id, &location))?;
        let page = match self.reader.read_page(&id, &location) {
            Ok(page) if (page.level, page.entries.len() as u64) == expected => page,
            Ok(page) => {
                let found = (page.level, page.entries.len());
                let detail = format!("page {id} has level and entries {found:?}, expected {expected:?}");
                return (self.visit)(Step::Damaged(ImageError::corrupt("read a page of the map", detail)));
            }
            Err(cause) => return (self.visit)(Step::Damaged(cause)),
        };
        self.seen.insert(id, expected);
        for (index, entry) in (first..).zip(&page.entries) {
            match entry {
                Entry::Data(id, location) if level == 0 => {
                    (self.visit)(Step::Chunk(id, location, self.shape.chunk_length(index)))?;
                }
                Entry::Data(id, location) => self.page(*id, *location, level - 1, index * PAGE_ENTRIES)?,
                Entry::Hole | Entry::Zero => {}
            }
        }
        Ok(())
    }

    fn ends_the_disk(&self, level: u8, first: u64) -> bool {
        first + PAGE_ENTRIES >= self.shape.entries(level)
    }
}
