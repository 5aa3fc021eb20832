//! Packs: their structure, their stored bytes, and the plain bytes of their chunks.

use std::cell::RefCell;
use std::collections::HashMap;

use rayon::ThreadPool;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use tintype_formats::tin::read::read_header;
use tintype_tin::chunk::{self, ChunkHeader, ChunkKind, HEADER_BYTES};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::map::{Location, Page};
use tintype_tin::pack::{self, PackHeader, PackTable, TRAILER_BYTES};
use tintype_tin::seal::{Purpose, SegmentKey};

use super::Depth;
use crate::error::{Error, Kind, Result, in_words};
use crate::repository::disk::StorePacks;
use crate::repository::protocol::ListedPack;
use crate::repository::store::StoreErrorKind;
use crate::repository::{Repository, names};

/// How many bytes of an id are kept: enough to tell all chunks apart.
const KEPT_ID_BYTES: usize = 16;

/// The begin of a chunk's id.
pub type ShortId = [u8; KEPT_ID_BYTES];

/// The begin of this id.
pub fn short(id: &ChunkId) -> ShortId {
    std::array::from_fn(|index| id.0[index])
}

/// A chunk in a pack.
#[derive(Debug, Clone, Copy)]
pub struct ChunkState {
    /// The begin of its id.
    pub id: ShortId,
    /// Where in the pack it begins.
    pub offset: u32,
    /// How long it is, with its header.
    pub length: u32,
    /// Whether it is whole, as far as that was looked at.
    pub good: bool,
}

/// What is known of a pack. It takes 24 bytes of memory for each chunk.
#[derive(Debug, Clone)]
pub struct PackState {
    /// The pack.
    pub pack: ListedPack,
    /// Its kind, if anything says it.
    pub kind: Option<ChunkKind>,
    /// Its chunks, in order.
    pub chunks: Vec<ChunkState>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Whether it was deleted while it was looked at.
    pub gone: bool,
}

impl PackState {
    fn new(pack: ListedPack) -> PackState {
        PackState { pack, kind: None, chunks: Vec::new(), problem: None, gone: false }
    }

    fn unreadable(pack: ListedPack, problem: String) -> PackState {
        PackState { problem: Some(problem), ..PackState::new(pack) }
    }

    /// Whether a whole chunk with this id is there.
    pub fn has(&self, id: &ChunkId, location: &Location) -> bool {
        let found = self.chunks.binary_search_by_key(&location.offset, |chunk| chunk.offset);
        let chunk = found.ok().map(|index| self.chunks[index]);
        chunk.is_some_and(|chunk| chunk.good && chunk.length == location.length && chunk.id == short(id))
    }

    /// The places of whole chunks with this id.
    pub fn find(&self, id: &ChunkId) -> impl Iterator<Item = Location> {
        let (wanted, pack) = (short(id), self.pack.id);
        let found = self.chunks.iter().filter(move |chunk| chunk.good && chunk.id == wanted);
        found.map(move |chunk| Location { pack, offset: chunk.offset, length: chunk.length })
    }

    fn fail(&mut self, problem: impl Into<String>) {
        self.problem.get_or_insert(problem.into());
    }
}

/// Looks at a pack as deeply as asked; the threads of `pool` share the work.
///
/// A failure of the store to give this pack is a problem of the pack.
pub fn look_at_pack(repository: &Repository, pack: ListedPack, depth: Depth, pool: &ThreadPool) -> Result<PackState> {
    if depth == Depth::Structure {
        let state = look_at_frame(repository, pack);
        // What its table does not tell is looked for in its bytes.
        if state.problem.is_none() || state.gone {
            return Ok(state);
        }
    }
    let bytes = match repository.store().get(&names::pack(pack.id), pack::MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == StoreErrorKind::NotFound => {
            return Ok(PackState { gone: true, ..PackState::new(pack) });
        }
        Err(cause) => return Ok(PackState::unreadable(pack, in_words(&cause))),
    };
    Ok(look_at_bytes(repository, pack, &bytes, depth, pool))
}

/// Reads the header and the table only.
fn look_at_frame(repository: &Repository, pack: ListedPack) -> PackState {
    let mut state = PackState::new(pack);
    let gone = || matches!(repository.store().len_bytes(&names::pack(pack.id)), Err(cause) if cause.kind() == StoreErrorKind::NotFound);
    let header = read_header(&StorePacks(repository), repository.config().id, pack.id);
    let table = repository.pack_table(pack);
    match (header, table) {
        (Ok(header), Ok(table)) => {
            state.kind = Some(header.kind);
            state.chunks = table.chunks.iter().map(|(offset, header)| chunk_state(*offset, header, true)).collect();
            state.problem = frame_problem(&header, &table.chunks, table_offset(&table, &header));
        }
        (Err(cause), _) => state.fail(in_words(&cause)),
        (_, Err(cause)) => state.fail(in_words(&cause)),
    }
    state.gone = state.problem.is_some() && gone();
    state
}

/// Where the table of a pack without gaps begins.
fn table_offset(table: &PackTable, header: &PackHeader) -> u64 {
    table
        .chunks
        .last()
        .map_or(header.header_bytes as u64, |(offset, last)| u64::from(*offset) + last.chunk_bytes() as u64)
}

fn chunk_state(offset: u32, header: &ChunkHeader, good: bool) -> ChunkState {
    ChunkState { id: short(&header.id()), offset, length: header.chunk_bytes() as u32, good }
}

/// What is wrong with the order of a pack: every byte of it belongs to something, and every chunk to a segment.
fn frame_problem(header: &PackHeader, chunks: &[(u32, ChunkHeader)], table_offset: u64) -> Option<String> {
    let mut end = header.header_bytes as u64;
    for (offset, chunk) in chunks {
        if u64::from(*offset) != end {
            return Some(format!("the bytes from {end:#x} to {offset:#x} belong to nothing"));
        }
        if chunk.kind() != header.kind {
            return Some(format!("the chunk at {offset:#x} is of another kind than the pack"));
        }
        if !header.segments.contains_key(&chunk.segment()) {
            return Some(format!("the chunk at {offset:#x} is of segment {}, which is not listed", chunk.segment()));
        }
        end = u64::from(*offset) + chunk.chunk_bytes() as u64;
    }
    (end != table_offset).then(|| format!("the bytes from {end:#x} to {table_offset:#x} belong to nothing"))
}

/// A pack's parts, as far as they are whole.
pub struct Parts {
    /// Its header.
    pub header: Option<PackHeader>,
    /// Its table; without one, the chunks are those that a scan found.
    pub table: Option<PackTable>,
    /// The chunks that the table, or the scan, says.
    pub chunks: Vec<(u32, ChunkHeader)>,
    /// What is wrong with the header or the table.
    pub problem: Option<String>,
}

/// Takes a pack's bytes apart.
pub fn take_apart(repository: &Repository, pack: ListedPack, bytes: &[u8]) -> Parts {
    let mut problem = None;
    if bytes.len() as u64 != pack.len_bytes {
        problem = Some(format!("it has {} bytes, and was listed with {}", bytes.len(), pack.len_bytes));
    }
    let header = PackHeader::parse(bytes, repository.config().id, pack.id);
    let header = header.map_err(|cause| _ = problem.get_or_insert(in_words(&cause))).ok();
    let table = parse_table(repository, pack.id, bytes);
    let table = table.map_err(|cause| _ = problem.get_or_insert(in_words(&cause))).ok();
    let chunks = match &table {
        Some((table, _)) => table.chunks.clone(),
        None => pack::scan(bytes),
    };
    if let (Some(header), Some((table, offset))) = (&header, &table)
        && problem.is_none()
    {
        problem = frame_problem(header, &table.chunks, *offset);
    }
    Parts { header, table: table.map(|(table, _)| table), chunks, problem }
}

fn parse_table(repository: &Repository, id: Id, bytes: &[u8]) -> tintype_formats::error::Result<(PackTable, u64)> {
    let cut_short = || tintype_formats::ImageError::truncated("read the trailer of a pack", "it is cut short");
    let trailer: &[u8; TRAILER_BYTES] = bytes.last_chunk().ok_or_else(cut_short)?;
    let (offset, length) = pack::table_range(trailer, bytes.len() as u64)?;
    let table = bytes.get(offset as usize..).and_then(|rest| rest.get(..length)).ok_or_else(cut_short)?;
    Ok((PackTable::parse(repository.ring(), id, table, offset)?, offset))
}

/// Looks at all bytes of a pack.
fn look_at_bytes(
    repository: &Repository,
    pack: ListedPack,
    bytes: &[u8],
    depth: Depth,
    pool: &ThreadPool,
) -> PackState {
    let parts = take_apart(repository, pack, bytes);
    let mut state = PackState::new(pack);
    state.problem = parts.problem.clone();
    state.kind = parts.header.as_ref().map(|header| header.kind).or_else(|| Some(parts.chunks.first()?.1.kind()));
    let prover = Prover::new(repository, &parts, depth);
    let problem = |(offset, header): &(u32, ChunkHeader)| prover.problem(bytes, *offset, header);
    let problems: Vec<_> = pool.install(|| parts.chunks.par_iter().map(problem).collect());
    for ((offset, header), problem) in parts.chunks.iter().zip(problems) {
        state.chunks.push(chunk_state(*offset, header, problem.is_none()));
        if let Some(problem) = problem {
            state.fail(format!("the chunk at {offset:#x}: {problem}"));
        }
    }
    state
}

/// Says of single chunks of one pack whether they are whole.
pub struct Prover<'a> {
    repository: &'a Repository,
    keys: HashMap<Id, SegmentKey>,
    /// Without its header, nobody finds the keys of a pack.
    header_is_lost: bool,
    depth: Depth,
}

impl<'a> Prover<'a> {
    /// For the chunks of this pack.
    pub fn new(repository: &'a Repository, parts: &Parts, depth: Depth) -> Prover<'a> {
        let mut keys = HashMap::new();
        if depth == Depth::Plain
            && let Some(header) = &parts.header
        {
            let purpose = match header.kind {
                ChunkKind::Data => Purpose::Data,
                ChunkKind::MapPage => Purpose::Map,
            };
            let used: std::collections::HashSet<Id> = parts.chunks.iter().map(|(_, chunk)| chunk.segment()).collect();
            let records = header.segments.values().filter(|record| used.contains(&record.id()));
            let open = |record| repository.ring().open_segment(purpose, record).ok();
            keys.extend(records.filter_map(|record| Some((record.id(), open(record)?))));
        }
        Prover { repository, keys, header_is_lost: parts.header.is_none(), depth }
    }

    /// What is wrong with the chunk that has this header, by the pack's table.
    pub fn problem(&self, pack: &[u8], offset: u32, header: &ChunkHeader) -> Option<String> {
        let chunk = pack.get(offset as usize..).and_then(|rest| rest.get(..header.chunk_bytes()));
        let Some(chunk) = chunk else { return Some("the pack ends before it does".to_owned()) };
        match ChunkHeader::parse(chunk) {
            Err(cause) => return Some(in_words(&cause)),
            Ok(found) if found != *header => return Some("its header is not the one in the table".to_owned()),
            Ok(_) => {}
        }
        if !header.check_matches(&chunk[HEADER_BYTES..]) {
            return Some("its stored bytes are not the ones that were written".to_owned());
        }
        if self.header_is_lost {
            return Some("the header of the pack is lost, and the key with it".to_owned());
        }
        match self.depth {
            Depth::Plain => self.plain_problem(chunk, header),
            Depth::Structure | Depth::Stored => None,
        }
    }

    fn plain_problem(&self, chunk: &[u8], header: &ChunkHeader) -> Option<String> {
        let ring = self.repository.ring();
        // Whoever may prune but not read proves the maps by their bytes, and the data by what was stored.
        if header.kind() == ChunkKind::Data && !ring.can_read_data() {
            return None;
        }
        with_plain(&self.keys, chunk, header, |plain| match header.kind() {
            ChunkKind::Data => Ok(ring.chunk_id(plain)),
            ChunkKind::MapPage => {
                let (_, core_bytes) = Page::parse(plain)?;
                Ok(ring.page_id(&plain[..core_bytes]))
            }
        })
        .map_err(|cause| in_words(&cause))
        .and_then(|found| match found == header.id() {
            true => Ok(()),
            false => Err(format!("its bytes have the id {found}, not {}", header.id())),
        })
        .err()
    }
}

/// Opens a chunk, and hands its plain bytes on.
fn with_plain<R>(
    keys: &HashMap<Id, SegmentKey>,
    chunk: &[u8],
    header: &ChunkHeader,
    hand_on: impl FnOnce(&[u8]) -> tintype_formats::error::Result<R>,
) -> Result<R> {
    thread_local!(static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) });
    let Some(key) = keys.get(&header.segment()) else {
        return Err(Error::new(Kind::WrongKey, "these keys do not open its segment"));
    };
    BUFFERS.with_borrow_mut(|(stored, plain)| {
        stored.clear();
        stored.extend_from_slice(chunk);
        plain.resize(header.plain_bytes(), 0);
        chunk::open(header, key, stored, plain)?;
        Ok(hand_on(plain)?)
    })
}
