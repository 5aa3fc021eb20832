//! Copies what is whole in a damaged pack into a new one.

use std::collections::HashSet;

use tintype_tin::chunk::{ChunkHeader, ChunkKind, HEADER_BYTES};
use tintype_tin::id::Id;
use tintype_tin::pack::{self, PackBuilder, PackHeader};
use tintype_tin::seal::SegmentRecord;

use crate::error::Result;
use crate::repository::protocol::ListedPack;
use crate::repository::session::WriteSession;
use crate::repository::verify::Depth;
use crate::repository::verify::packs::{Parts, Prover, ShortId, short, take_apart};
use crate::repository::{Repository, names};

/// The longest header that is mended, in bytes: a second's work. Packs as backups write them have less than 300.
const MAX_MENDED_HEADER_BYTES: usize = 2048;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Chunks.
    pub chunks: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// Copies the whole chunks of a damaged pack, but for those that are `elsewhere`; without a session it only counts.
///
/// With its table whole, a pack says who sealed its chunks, and the copy says the same. Without it nobody knows; then only
/// chunks are taken whose plain bytes have their id, and whoever has seen that vouches for them.
pub fn salvage_pack(
    repository: &Repository,
    session: Option<&WriteSession>,
    pack: ListedPack,
    elsewhere: &HashSet<ShortId>,
) -> Result<Salvaged> {
    let Ok(bytes) = repository.store().get(&names::pack(pack.id), pack::MAX_BYTES) else {
        return Ok(Salvaged::default());
    };
    let mut parts = take_apart(repository, pack, &bytes);
    if parts.header.is_none() {
        parts.header = header_with_one_byte_mended(repository, pack, &bytes, &parts);
    }
    let Some(kind) = parts.header.as_ref().map(|header| header.kind) else { return Ok(Salvaged::default()) };
    let chunks = whole_chunks(repository, &parts, kind, &bytes, elsewhere);
    let salvaged = Salvaged {
        chunks: chunks.len() as u64,
        bytes: chunks.iter().map(|(_, chunk)| chunk.chunk_bytes() as u64).sum(),
    };
    if let Some(session) = session.filter(|_| !chunks.is_empty()) {
        let used: HashSet<Id> = chunks.iter().map(|(_, chunk)| chunk.segment()).collect();
        let segments = parts.header.iter().flat_map(|header| header.segments.values());
        let records: Vec<SegmentRecord> = segments.filter(|record| used.contains(&record.id())).cloned().collect();
        let mut builder = PackBuilder::new(repository.config().id, Id::random()?, kind, &records);
        for (offset, header) in &chunks {
            let begin = *offset as usize;
            let place = builder.reserve(header.chunk_bytes());
            builder.fill(place, *header, &bytes[begin + HEADER_BYTES..begin + header.chunk_bytes()]);
        }
        let author = parts.table.as_ref().map_or(repository.ring().certificate(), |table| &table.author);
        session.put_copied(kind, builder, author)?;
    }
    Ok(salvaged)
}

/// Tries every value of every byte: the header's hash says which one is right.
///
/// All keys of a pack are in its header, and one flipped bit of it would be the loss of every chunk.
fn header_with_one_byte_mended(
    repository: &Repository,
    pack: ListedPack,
    bytes: &[u8],
    parts: &Parts,
) -> Option<PackHeader> {
    let (first, _) = parts.chunks.first()?;
    let mut header = bytes.get(..*first as usize).filter(|header| header.len() <= MAX_MENDED_HEADER_BYTES)?.to_vec();
    for index in 0..header.len() {
        for change in 1..=u8::MAX {
            header[index] ^= change;
            if let Ok(found) = PackHeader::parse(&header, repository.config().id, pack.id) {
                return Some(found);
            }
            header[index] ^= change;
        }
    }
    None
}

fn whole_chunks(
    repository: &Repository,
    parts: &Parts,
    kind: ChunkKind,
    bytes: &[u8],
    elsewhere: &HashSet<ShortId>,
) -> Vec<(u32, ChunkHeader)> {
    let ring = repository.ring();
    let readable = match kind {
        ChunkKind::Data => ring.can_read_data(),
        ChunkKind::MapPage => ring.can_read_maps(),
    };
    if parts.table.is_none() && !readable {
        return Vec::new();
    }
    // What can be proved is proved: a chunk that its author made wrong is of no use.
    let prover = Prover::new(repository, parts, if readable { Depth::Plain } else { Depth::Stored });
    let wanted = |(offset, header): &&(u32, ChunkHeader)| {
        header.kind() == kind
            && !elsewhere.contains(&short(&header.id()))
            && prover.problem(bytes, *offset, header).is_none()
    };
    let mut chunks: Vec<_> = parts.chunks.iter().filter(wanted).copied().collect();
    let mut seen = HashSet::new();
    chunks.retain(|(_, header)| seen.insert(header.id()));
    chunks
}
