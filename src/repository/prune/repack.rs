//! P3: copies the used chunks of some packs into new ones, as they are: sealed, with the records of their segments.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tintype_formats::error::{ImageError, Result as ImageResult};
use tintype_formats::tin::read::{PackSource, read_header};
use tintype_tin::chunk::{ChunkHeader, ChunkKind, HEADER_BYTES};
use tintype_tin::id::Id;
use tintype_tin::keys::Certificate;
use tintype_tin::map::Location;
use tintype_tin::pack::{self, PackBuilder, PackHeader, PackTable};
use tintype_tin::seal::SegmentRecord;

use super::survey::Survey;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::disk::store_to_image;
use crate::repository::index::{PackRow, SegmentBuilder};
use crate::repository::protocol::{ListedPack, put_own};
use crate::repository::store::StoreErrorKind;
use crate::repository::{Repository, names};

/// Chunks that lie side by side are read at once, up to so many bytes.
const READ_BYTES: usize = 8 << 20;

/// A pack's header has a record for each segment that its chunks come from; at most so many.
const MAX_RECORDS: usize = 4096;

/// How many chunks an index segment of new packs has before the next is begun.
const SEGMENT_CHUNKS: usize = 128 << 10;

/// Counts and digest of the copy.
#[derive(Debug, Default)]
pub struct Repacked {
    /// The packs that are not needed any more.
    pub replaced: Vec<Id>,
    /// The packs in which a damaged chunk was found: they stay as they are.
    pub damaged: Vec<Id>,
    /// The packs for whose copies there was no space: they stay as they are.
    pub no_space: Vec<Id>,
    /// The new packs.
    pub new_packs: usize,
    /// The length of the new packs.
    pub new_bytes: u64,
}

/// A chunk as it is stored.
struct Stored {
    header: ChunkHeader,
    bytes: Vec<u8>,
}

/// Copies the used chunks of these packs.
pub fn repack(repository: &Arc<Repository>, survey: &Survey, packs: &[Id], progress: &Progress) -> Result<Repacked> {
    let known = |id: &Id| survey.packs.get(id).map(|pack| (*id, *pack));
    let mut packs: Vec<_> = packs.iter().filter_map(known).collect();
    packs.sort_by_key(|(id, pack)| (pack.author, pack.kind.map(ChunkKind::number), *id));
    progress.enter("copying what is used");
    progress.begin(packs.iter().map(|(_, pack)| pack.used_bytes).sum());
    let mut work =
        Work { repository, survey, open: None, index: SegmentBuilder::default(), repacked: Repacked::default() };
    let mut done = 0;
    // Those whose last copy is in the new pack of this number, which may not be stored yet.
    let mut pending: Vec<(Id, usize)> = Vec::new();
    for (place, (id, pack)) in packs.iter().enumerate() {
        progress.check_cancelled()?;
        match work.copy(ListedPack { id: *id, len_bytes: pack.len_bytes }) {
            Ok(()) => pending.push((*id, work.repacked.new_packs)),
            Err(cause) if is_damage(&cause) => work.repacked.damaged.push(*id),
            Err(cause) if cause.kind() == Kind::NoSpace => {
                // What is copied already is of use.
                work.open = None;
                work.repacked.no_space = packs[place..].iter().map(|(id, _)| *id).collect();
                break;
            }
            Err(cause) => return Err(cause),
        }
        done += pack.used_bytes;
        progress.reach(done);
    }
    match work.close() {
        Err(cause) if cause.kind() != Kind::NoSpace => return Err(cause),
        _ => {}
    }
    for (id, last) in pending {
        let is_stored = last < work.repacked.new_packs;
        if is_stored { &mut work.repacked.replaced } else { &mut work.repacked.no_space }.push(id);
    }
    work.put_index()?;
    repository.store().sync()?;
    Ok(work.repacked)
}

/// Whether the pack is not as it was written; all else is a failure of the work.
fn is_damage(cause: &Error) -> bool {
    use tintype_formats::ErrorKind::{Corrupt, Truncated};
    matches!(cause.kind(), crate::error::Kind::Image(Corrupt | Truncated))
}

struct Work<'a> {
    repository: &'a Arc<Repository>,
    survey: &'a Survey,
    open: Option<Open>,
    index: SegmentBuilder,
    repacked: Repacked,
}

/// A new pack that is being filled. Its header comes before its chunks, and is known when the last one is there.
struct Open {
    author: Certificate,
    kind: ChunkKind,
    chunks: Vec<Stored>,
    records: BTreeMap<Id, SegmentRecord>,
    bytes: usize,
}

impl Work<'_> {
    /// Copies the used chunks of a pack, all of them or none.
    fn copy(&mut self, listed: ListedPack) -> Result<()> {
        let source = StoredPacks(self.repository);
        let table = self.repository.pack_table(listed)?;
        let header = read_header(&source, self.repository.ring().repository(), listed.id)?;
        let chunks = self.used_chunks(listed.id, &table, &header)?;
        for chunk in chunks {
            self.push(&table.author, header.kind, &header, chunk)?;
        }
        Ok(())
    }

    fn used_chunks(&self, pack: Id, table: &PackTable, header: &PackHeader) -> Result<Vec<Stored>> {
        let mut used = Vec::new();
        for (offset, chunk) in &table.chunks {
            if self.survey.is_used(&chunk.id(), pack, *offset)? {
                used.push((*offset, *chunk));
            }
        }
        let mut stored = Vec::with_capacity(used.len());
        let adjoins = |one: &(u32, ChunkHeader), next: &(u32, ChunkHeader)| {
            one.0 as usize + one.1.chunk_bytes() == next.0 as usize
        };
        for run in used.chunk_by(adjoins) {
            let mut rest = run;
            while let Some((first, _)) = rest.first() {
                let fits = |(offset, chunk): &&(u32, ChunkHeader)| {
                    (offset - first) as usize + chunk.chunk_bytes() <= READ_BYTES.max(chunk.chunk_bytes())
                };
                let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
                self.read(pack, header, now, &mut stored)?;
                rest = later;
            }
        }
        Ok(stored)
    }

    /// Reads chunks that lie side by side, and proves that they are what was written.
    fn read(
        &self,
        pack: Id,
        header: &PackHeader,
        chunks: &[(u32, ChunkHeader)],
        stored: &mut Vec<Stored>,
    ) -> Result<()> {
        let Some((begin, _)) = chunks.first() else { return Ok(()) };
        let mut bytes = vec![0; chunks.iter().map(|(_, chunk)| chunk.chunk_bytes()).sum()];
        StoredPacks(self.repository).read(pack, u64::from(*begin), &mut bytes)?;
        for (offset, chunk) in chunks {
            let at = (offset - begin) as usize;
            let bytes = &bytes[at..at + chunk.chunk_bytes()];
            let whole = ChunkHeader::parse(bytes)? == *chunk && chunk.check_matches(&bytes[HEADER_BYTES..]);
            let fits = chunk.kind() == header.kind && header.segments.contains_key(&chunk.segment());
            if !whole || !fits {
                let detail = format!("the chunk at {offset:#x} of pack {pack} is not what was written");
                return Err(ImageError::corrupt("copy a chunk", detail).into());
            }
            stored.push(Stored { header: *chunk, bytes: bytes[HEADER_BYTES..].to_vec() });
        }
        Ok(())
    }

    fn push(&mut self, author: &Certificate, kind: ChunkKind, header: &PackHeader, chunk: Stored) -> Result<()> {
        let chunk_bytes = chunk.header.chunk_bytes();
        let fits = |open: &Open| {
            let alike = open.author == *author && open.kind == kind;
            alike && open.bytes + chunk_bytes <= pack::TARGET_BYTES && open.records.len() < MAX_RECORDS
        };
        if !self.open.as_ref().is_some_and(fits) {
            self.close()?;
        }
        let open = self.open.get_or_insert_with(|| Open {
            author: author.clone(),
            kind,
            chunks: Vec::new(),
            records: BTreeMap::new(),
            bytes: 0,
        });
        if let Some(record) = header.segments.get(&chunk.header.segment()) {
            open.records.entry(record.id()).or_insert_with(|| record.clone());
        }
        open.bytes += chunk_bytes;
        open.chunks.push(chunk);
        Ok(())
    }

    /// Completes the pack that is being filled, and puts it.
    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let ring = self.repository.ring();
        let id = Id::random()?;
        let records: Vec<SegmentRecord> = open.records.into_values().collect();
        let mut builder = PackBuilder::new(ring.repository(), id, open.kind, &records);
        for chunk in open.chunks {
            let offset = builder.reserve(chunk.header.chunk_bytes());
            builder.fill(offset, chunk.header, &chunk.bytes);
        }
        let (bytes, chunks) = builder.finish(ring, &open.author)?;
        put_own(self.repository.store(), &names::pack(id), &bytes)?;
        self.repacked.new_packs += 1;
        self.repacked.new_bytes += bytes.len() as u64;
        let row = PackRow {
            id,
            author: open.author.signing,
            role: Some(open.author.role),
            kind: open.kind.number(),
            length_bytes: bytes.len() as u32,
        };
        self.index.add_pack(row, &chunks);
        if self.index.len() >= SEGMENT_CHUNKS { self.put_index() } else { Ok(()) }
    }

    fn put_index(&mut self) -> Result<()> {
        let segment = std::mem::take(&mut self.index);
        if segment.is_empty() {
            return Ok(());
        }
        match self.repository.put_index(segment) {
            // The packs' tables say the same, and the next writer makes a segment of them.
            Err(cause) if cause.kind() == Kind::NoSpace => Ok(()),
            put => put.map(|_| ()),
        }
    }
}

/// The packs of a store, nothing else.
struct StoredPacks<'a>(&'a Repository);

impl PackSource for StoredPacks<'_> {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        let read = self.0.store().get_range(&names::pack(pack), offset, buffer);
        read.map_err(|cause| match cause.kind() {
            StoreErrorKind::Truncated => ImageError::truncated("read a pack", cause.to_string()),
            _ => store_to_image(cause),
        })
    }

    fn find_again(&self, _: &tintype_tin::id::ChunkId, _: &Location) -> ImageResult<Vec<Location>> {
        Ok(Vec::new())
    }
}

/// The packs that the plan would have gone.
pub fn condemned(garbage: &[Id], repacked: &Repacked) -> Vec<Id> {
    let all: HashSet<Id> = garbage.iter().chain(&repacked.replaced).copied().collect();
    let mut all: Vec<Id> = all.into_iter().collect();
    all.sort();
    all
}
