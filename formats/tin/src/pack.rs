//! Packs: many chunks in one object, with a signed table of them at the end (FORMAT.md §7).

use std::collections::HashMap;

use zerocopy::IntoBytes as _;

use crate::chunk::{ChunkHeader, ChunkKind, HEADER_BYTES, MAX_CHUNK_BYTES};
use crate::error::{Result, TinError};
use crate::id::Id;
use crate::keys::{Certificate, KeyRing};
use crate::seal::SegmentRecord;
use crate::signed::ObjectKind;

/// Where a writer begins a new pack, in bytes.
pub const TARGET_BYTES: usize = 16 << 20;

/// The longest pack that is read, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;

/// The length of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 32;

/// The part of the header that says how long it is.
pub const HEADER_PREFIX_BYTES: usize = 16;

const MAGIC: &[u8; 8] = b"TINPACK1";
const TRAILER_MAGIC: &[u8; 8] = b"TINTAIL1";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 56;
const HASH_BYTES: usize = 32;
const TABLE_ENTRY_BYTES: usize = 4 + HEADER_BYTES;

/// The longest header: segment records of as many segments as a pack can have chunks of any use.
const MAX_HEADER_BYTES: usize = 8 << 20;

/// The name of a pack in a repository, which its table is signed with.
pub fn name(id: Id) -> String {
    let id = id.to_string();
    format!("packs/{}/{id}", &id[..2])
}

/// Where a chunk lies in a pack, and its header.
pub type PlacedChunk = (u32, ChunkHeader);

/// A pack that is being filled.
pub struct PackBuilder {
    id: Id,
    bytes: Vec<u8>,
    entries: Vec<(u32, ChunkHeader)>,
    end: usize,
}

impl PackBuilder {
    /// Begins a pack of one kind, whose chunks are sealed in these segments.
    pub fn new(repository: Id, id: Id, kind: ChunkKind, records: &[SegmentRecord]) -> PackBuilder {
        let mut segments = Vec::new();
        records.iter().for_each(|record| record.encode(&mut segments));
        let header_bytes = FIXED_BYTES + segments.len() + HASH_BYTES;
        let mut bytes = Vec::with_capacity(TARGET_BYTES + (2 << 20));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u16::from(kind.number()).to_le_bytes());
        bytes.extend_from_slice(&(header_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&repository.0);
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&(records.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&segments);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        PackBuilder { id, end: bytes.len(), bytes, entries: Vec::new() }
    }

    /// The pack's id.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Makes room for a chunk of this length, header included, and says where.
    pub fn reserve(&mut self, chunk_bytes: usize) -> u32 {
        let offset = self.end;
        self.end += chunk_bytes;
        offset as u32
    }

    /// How long the pack is so far, with what is reserved.
    pub fn reserved_bytes(&self) -> usize {
        self.end
    }

    /// Puts a chunk where room was made for it.
    pub fn fill(&mut self, offset: u32, header: ChunkHeader, stored: &[u8]) {
        let begin = offset as usize;
        let end = begin + HEADER_BYTES + stored.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let (head, tail) = self.bytes[begin..end].split_at_mut(HEADER_BYTES);
        head.copy_from_slice(header.as_bytes());
        tail.copy_from_slice(stored);
        self.entries.push((offset, header));
    }

    /// Completes the pack: all of its bytes, and its chunks in order. `author` is who sealed them.
    pub fn finish(mut self, ring: &KeyRing, author: &Certificate) -> Result<(Vec<u8>, Vec<PlacedChunk>)> {
        self.entries.sort_unstable_by_key(|(offset, _)| *offset);
        let mut body = Vec::with_capacity(1024 + self.entries.len() * TABLE_ENTRY_BYTES);
        body.extend_from_slice(&(author.as_bytes().len() as u16).to_le_bytes());
        body.extend_from_slice(author.as_bytes());
        body.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for (offset, header) in &self.entries {
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(header.as_bytes());
        }
        let table = ring.sign(ObjectKind::PackTable, &name(self.id), &body)?;
        let table_offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&table);
        self.bytes.extend_from_slice(&trailer(table_offset, table.len() as u64));
        Ok((self.bytes, self.entries))
    }
}

fn trailer(table_offset: u64, table_bytes: u64) -> [u8; TRAILER_BYTES] {
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..8].copy_from_slice(TRAILER_MAGIC);
    trailer[8..16].copy_from_slice(&table_offset.to_le_bytes());
    trailer[16..24].copy_from_slice(&table_bytes.to_le_bytes());
    let hash = blake3::hash(&trailer[..24]);
    trailer[24..].copy_from_slice(&hash.as_bytes()[..8]);
    trailer
}

/// What stands at a pack's begin.
pub struct PackHeader {
    /// The pack's id.
    pub id: Id,
    /// What its chunks hold.
    pub kind: ChunkKind,
    /// The segments that its chunks were sealed in.
    pub segments: HashMap<Id, SegmentRecord>,
    /// Where the chunks begin.
    pub header_bytes: usize,
}

impl PackHeader {
    /// How long a header is that begins with these bytes ([`HEADER_PREFIX_BYTES`] of them).
    pub fn length(prefix: &[u8; HEADER_PREFIX_BYTES]) -> Result<usize> {
        const DOING: &str = "read the header of a pack";
        let (magic, rest) = prefix.split_at(8);
        let version = u16::from_le_bytes([rest[0], rest[1]]);
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        if magic != MAGIC {
            return Err(TinError::corrupt(DOING, format!("it begins with {magic:02x?}, expected {MAGIC:02x?}")));
        }
        if version != VERSION {
            return Err(TinError::unsupported(DOING, format!("it has version {version}, expected {VERSION}")));
        }
        if !(FIXED_BYTES + HASH_BYTES..=MAX_HEADER_BYTES).contains(&length) {
            return Err(TinError::corrupt(DOING, format!("it says that it is {length} bytes long")));
        }
        Ok(length)
    }

    /// Reads a whole header.
    pub fn parse(bytes: &[u8], repository: Id, id: Id) -> Result<PackHeader> {
        const DOING: &str = "read the header of a pack";
        let corrupt = |detail: &str| TinError::corrupt(DOING, detail);
        let prefix = bytes.first_chunk().ok_or_else(|| corrupt("it is cut short"))?;
        let length = Self::length(prefix)?;
        let bytes = bytes.get(..length).ok_or_else(|| corrupt("it is cut short"))?;
        let (content, hash) = bytes.split_at(length - HASH_BYTES);
        if blake3::hash(content).as_bytes() != hash {
            return Err(corrupt("its hash does not match"));
        }
        if content[16..32] != repository.0 || content[32..48] != id.0 {
            return Err(corrupt("it is of another repository or pack"));
        }
        let kind = u8::try_from(u16::from_le_bytes([content[10], content[11]])).ok().and_then(ChunkKind::from_number);
        let kind = kind.ok_or_else(|| corrupt("its kind is not known"))?;
        let count = u32::from_le_bytes([content[48], content[49], content[50], content[51]]);
        let mut rest = &content[FIXED_BYTES..];
        let mut segments = HashMap::new();
        for _ in 0..count {
            let (record, more) = SegmentRecord::parse(rest)?;
            segments.insert(record.id(), record);
            rest = more;
        }
        if !rest.is_empty() {
            return Err(corrupt("it is longer than its segment records"));
        }
        Ok(PackHeader { id, kind, segments, header_bytes: length })
    }
}

/// A pack's table of chunks.
pub struct PackTable {
    /// Who sealed the chunks.
    pub author: Certificate,
    /// Each chunk's place and header, in order.
    pub chunks: Vec<(u32, ChunkHeader)>,
}

/// Where the table of a pack of `pack_bytes` is, by its trailer.
pub fn table_range(trailer_bytes: &[u8; TRAILER_BYTES], pack_bytes: u64) -> Result<(u64, usize)> {
    const DOING: &str = "read the trailer of a pack";
    let number = |at: usize| trailer_bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let (offset, length) = (number(8), number(16));
    if *trailer_bytes != trailer(offset, length) {
        return Err(TinError::corrupt(DOING, "its magic or its hash does not match"));
    }
    if pack_bytes > MAX_BYTES || offset.checked_add(length) != Some(pack_bytes.saturating_sub(TRAILER_BYTES as u64)) {
        let detail = format!("the table is at {offset:#x}, {length} bytes long, in a pack of {pack_bytes} bytes");
        return Err(TinError::corrupt(DOING, detail));
    }
    Ok((offset, length as usize))
}

impl PackTable {
    /// Reads the table of pack `id`, which lies in it at `table_offset`.
    pub fn parse(ring: &KeyRing, id: Id, bytes: &[u8], table_offset: u64) -> Result<PackTable> {
        const DOING: &str = "read the table of a pack";
        let corrupt = |detail: String| TinError::corrupt(DOING, detail);
        let signed = ring.verify(ObjectKind::PackTable, &name(id), bytes)?;
        let short = || corrupt("it is cut short".to_owned());
        let (length, rest) = signed.body.split_first_chunk::<2>().ok_or_else(short)?;
        let (author, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or_else(short)?;
        let author = ring.certified(author)?;
        if author.signing != signed.signer.signing && !signed.signer.role.maintains() {
            let detail = format!("\"{}\" signed for another author", signed.signer.name.escape_debug());
            return Err(TinError::corrupt(DOING, detail));
        }
        if !author.role.adds() {
            let detail = format!("its author \"{}\" has a {} key", author.name.escape_debug(), author.role);
            return Err(corrupt(detail));
        }
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let count = u32::from_le_bytes(*count) as usize;
        if rest.len() != count.saturating_mul(TABLE_ENTRY_BYTES) {
            return Err(corrupt(format!("it has {} bytes for {count} chunks", rest.len())));
        }
        let mut chunks = Vec::with_capacity(count);
        let mut end = FIXED_BYTES as u64;
        for entry in rest.chunks_exact(TABLE_ENTRY_BYTES) {
            let (offset, header) = entry.split_first_chunk::<4>().ok_or_else(short)?;
            let offset = u32::from_le_bytes(*offset);
            let header = ChunkHeader::parse(header)?;
            if u64::from(offset) < end || u64::from(offset) + header.chunk_bytes() as u64 > table_offset {
                return Err(corrupt(format!("the chunk at {offset:#x} overlaps what is around it")));
            }
            end = u64::from(offset) + header.chunk_bytes() as u64;
            chunks.push((offset, header));
        }
        Ok(PackTable { author, chunks })
    }
}

/// Finds the whole chunks in a pack that may be damaged, without its table and without any key.
pub fn scan(bytes: &[u8]) -> Vec<(u32, ChunkHeader)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| rest.len() >= HEADER_BYTES) {
        let step = match ChunkHeader::parse(rest) {
            Ok(header) => match rest.get(HEADER_BYTES..header.chunk_bytes()) {
                Some(stored) if header.check_matches(stored) => {
                    found.push((offset as u32, header));
                    header.chunk_bytes()
                }
                _ => 1,
            },
            Err(_) => 1,
        };
        offset += step;
    }
    found
}

/// How many bytes to read at the most for a chunk whose location says this length.
pub fn checked_length(length: u32) -> Result<usize> {
    let length = length as usize;
    if (HEADER_BYTES..=MAX_CHUNK_BYTES).contains(&length) {
        return Ok(length);
    }
    Err(TinError::corrupt("locate a chunk", format!("it is said to be {length} bytes long")))
}
