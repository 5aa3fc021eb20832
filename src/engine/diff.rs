//! What differs between two stored disks, by their maps alone.
//!
//! Pages with the same id say the same and are not read, so that the cost is that of the difference.

use std::ops::Range;
use std::sync::Arc;

use tintype_formats::tin::read::ChunkReader;
use tintype_tin::id::ChunkId;
use tintype_tin::manifest::DiskRecord;
use tintype_tin::map::{Entry, Location, PAGE_ENTRIES, Page, Shape};

use super::pipeline::joined;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::Repository;

/// What a comparison of two maps found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The sizes of the disks, in bytes.
    pub sizes_bytes: [u64; 2],
    /// Guest ranges that differ, in whole chunks, ascending. What lies past the end of the shorter disk counts as zeros there.
    pub ranges: Vec<Range<u64>>,
    /// Of those, how many bytes are data in the second disk; the others became zeros.
    pub data_bytes: u64,
    /// How many pages of the maps were read.
    pub pages: u64,
}

impl Difference {
    /// How many bytes differ.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// Compares two disks of one repository; `None` is a disk that is not there.
pub fn diff(repository: &Arc<Repository>, disks: [Option<&DiskRecord>; 2], progress: &Progress) -> Result<Difference> {
    let shapes = disks.map(|disk| repository.shape_of(disk.map_or(0, |disk| disk.size_bytes)));
    let reader = repository.chunk_reader();
    let size_bytes = shapes[0].size_bytes.max(shapes[1].size_bytes);
    progress.begin(size_bytes);
    let mut differ = Differ { reader, progress, shapes, size_bytes, found: Difference::default() };
    // The roots as entries of a level above both.
    let level = shapes[0].top_level().max(shapes[1].top_level()) + 1;
    let roots = disks.map(|disk| disk.and_then(DiskRecord::root));
    differ.compare(level, 0, roots)?;
    let mut found = differ.found;
    found.sizes_bytes = shapes.map(|shape| shape.size_bytes);
    found.ranges = joined(found.ranges);
    Ok(found)
}

/// What one side has at some place: a chunk or page, or nothing but zeros.
type Side = Option<(ChunkId, Location)>;

struct Differ<'a> {
    reader: Arc<ChunkReader>,
    progress: &'a Progress,
    shapes: [Shape; 2],
    /// Of the longer disk.
    size_bytes: u64,
    found: Difference,
}

impl Differ<'_> {
    /// Compares entry `index` of a level.
    fn compare(&mut self, level: u8, index: u64, sides: [Side; 2]) -> Result<()> {
        let chunk_bytes = self.shapes[0].chunk_bytes;
        let under = Shape::chunks_under(level);
        let offset = |entry: u64| entry.saturating_mul(under).saturating_mul(chunk_bytes).min(self.size_bytes);
        let range = offset(index)..offset(index + 1);
        // An id stands for the level too: the same id at the same place is the same part of the disk.
        if sides[0].map(|(id, _)| id) == sides[1].map(|(id, _)| id) {
            self.progress.reach(range.end);
            return Ok(());
        }
        if level == 0 {
            self.found.data_bytes += if sides[1].is_some() { range.end - range.start } else { 0 };
            self.found.ranges.push(range);
            return Ok(());
        }
        self.progress.check_cancelled()?;
        let [a, b] = sides;
        let pages = [self.children(0, level, index, a)?, self.children(1, level, index, b)?];
        let count = pages.iter().map(Vec::len).max().unwrap_or(0);
        for child in 0..count {
            let sides = [0, 1].map(|side: usize| pages[side].get(child).copied().flatten());
            self.compare(level - 1, index * PAGE_ENTRIES + child as u64, sides)?;
        }
        self.progress.reach(range.end);
        Ok(())
    }

    /// What is below an entry.
    fn children(&mut self, side: usize, level: u8, index: u64, entry: Side) -> Result<Vec<Side>> {
        let Some((id, location)) = entry else { return Ok(Vec::new()) };
        let shape = self.shapes[side];
        if level > shape.top_level() + 1 {
            return Ok(vec![entry]);
        }
        self.found.pages += 1;
        let page: Page = self.reader.read_page(&id, &location)?;
        let begin = index * PAGE_ENTRIES;
        let expected = if begin < shape.entries(level - 1) { shape.page_entries(level - 1, begin) } else { 0 };
        if page.level != level - 1 || page.entries.len() as u64 != expected {
            let found = format!("level {} with {} entries", page.level, page.entries.len());
            let message = format!("read a page of the map: {found}, expected level {} with {expected}", level - 1);
            return Err(Error::new(Kind::Io, message));
        }
        let side = |entry: &Entry| match entry {
            Entry::Data(id, location) => Some((*id, *location)),
            Entry::Hole | Entry::Zero => None,
        };
        Ok(page.entries.iter().map(side).collect())
    }
}
