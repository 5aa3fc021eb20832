//! Chunks: a piece of a disk, or a page of its map, compressed, sealed, and described by its own header (FORMAT.md §6).

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::compression;
use crate::error::{Result, TinError};
use crate::id::{ChunkId, Id};
use crate::keys::KeyRing;
use crate::seal::SegmentKey;

/// The length of a chunk's header, in bytes.
pub const HEADER_BYTES: usize = 104;

/// How much of the header is authenticated with the stored bytes: all but the check.
const ASSOCIATED_BYTES: usize = 72;

/// The length of the tag at the end of the stored bytes.
const TAG_BYTES: usize = 16;

/// The longest plain bytes of any chunk.
pub const MAX_PLAIN_BYTES: usize = 8 << 20;

/// The longest chunk, with its header, in bytes.
pub const MAX_CHUNK_BYTES: usize = HEADER_BYTES + MAX_PLAIN_BYTES + TAG_BYTES;

const MAGIC: [u8; 4] = *b"TCHK";

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// A piece of a disk.
    Data,
    /// A page of a map.
    MapPage,
}

impl ChunkKind {
    /// Its number on disk.
    pub fn number(self) -> u8 {
        match self {
            ChunkKind::Data => 1,
            ChunkKind::MapPage => 2,
        }
    }

    /// The kind of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        [ChunkKind::Data, ChunkKind::MapPage].into_iter().find(|kind| kind.number() == number)
    }
}

/// The header in front of a chunk's stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    magic: [u8; 4],
    kind: u8,
    codec: u8,
    reserved: [u8; 2],
    plain_bytes: U32,
    stored_bytes: U32,
    segment: [u8; 16],
    number: U32,
    reserved_too: U32,
    id: [u8; 32],
    check: [u8; 32],
}

const _: () = assert!(size_of::<ChunkHeader>() == HEADER_BYTES);

const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;

impl ChunkHeader {
    /// Reads a header and checks what needs no key and no stored bytes.
    pub fn parse(bytes: &[u8]) -> Result<ChunkHeader> {
        const DOING: &str = "read the header of a chunk";
        let Ok((header, _)) = ChunkHeader::read_from_prefix(bytes) else {
            return Err(TinError::truncated(DOING, format!("{} bytes are left of {HEADER_BYTES}", bytes.len())));
        };
        let corrupt = |detail: String| Err(TinError::corrupt(DOING, detail));
        if header.magic != MAGIC {
            return corrupt(format!("it begins with {:02x?}, expected {MAGIC:02x?}", header.magic));
        }
        let (plain, stored) = (header.plain_bytes.get(), header.stored_bytes.get());
        if ChunkKind::from_number(header.kind).is_none() || header.codec > CODEC_ZSTD {
            return corrupt(format!("kind {} and codec {} are not known", header.kind, header.codec));
        }
        if header.reserved != [0; 2] || header.reserved_too.get() != 0 {
            return corrupt("reserved bytes are not zero".to_owned());
        }
        let longest = u64::from(plain) + TAG_BYTES as u64;
        if plain as usize > MAX_PLAIN_BYTES || u64::from(stored) > longest || (stored as usize) < TAG_BYTES {
            return corrupt(format!("{stored} stored bytes for {plain} plain ones"));
        }
        if header.codec == CODEC_STORED && u64::from(stored) != longest {
            return corrupt(format!("{stored} bytes are stored uncompressed, expected {longest}"));
        }
        Ok(header)
    }

    /// What the chunk holds.
    pub fn kind(&self) -> ChunkKind {
        ChunkKind::from_number(self.kind).unwrap_or(ChunkKind::Data)
    }

    /// The chunk's id.
    pub fn id(&self) -> ChunkId {
        ChunkId(self.id)
    }

    /// The segment that it was sealed in.
    pub fn segment(&self) -> Id {
        Id(self.segment)
    }

    /// How long the plain bytes are.
    pub fn plain_bytes(&self) -> usize {
        self.plain_bytes.get() as usize
    }

    /// How long the chunk is with its header.
    pub fn chunk_bytes(&self) -> usize {
        HEADER_BYTES + self.stored_bytes.get() as usize
    }

    /// Whether these stored bytes are the ones that were written; needs no key.
    pub fn check_matches(&self, stored: &[u8]) -> bool {
        stored.len() == self.stored_bytes.get() as usize && self.check_of(stored) == self.check
    }

    fn check_of(&self, stored: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.associated()).update(stored);
        *hasher.finalize().as_bytes()
    }

    fn associated(&self) -> &[u8] {
        &self.as_bytes()[..ASSOCIATED_BYTES]
    }
}

/// A chunk that is compressed, and not sealed yet.
pub struct Packed {
    kind: ChunkKind,
    id: ChunkId,
    codec: u8,
    plain_bytes: u32,
    /// The bytes to seal, with capacity for the tag.
    buffer: Vec<u8>,
}

/// How hard to compress chunks: a level of Zstandard, or not at all.
pub type Level = Option<i32>;

impl Packed {
    /// Compresses `plain`, unless it does not shrink.
    pub fn new(kind: ChunkKind, id: ChunkId, plain: &[u8], level: Level) -> Packed {
        let mut buffer = Vec::with_capacity(plain.len() + TAG_BYTES);
        let shrunk = level.is_some_and(|level| compression::append(plain, level, &mut buffer));
        if !shrunk {
            buffer.extend_from_slice(plain);
        }
        let codec = if shrunk { CODEC_ZSTD } else { CODEC_STORED };
        Packed { kind, id, codec, plain_bytes: plain.len() as u32, buffer }
    }

    /// The chunk's id.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// What it holds.
    pub fn kind(&self) -> ChunkKind {
        self.kind
    }

    /// How long the sealed chunk will be, with its header.
    pub fn chunk_bytes(&self) -> usize {
        HEADER_BYTES + self.buffer.len() + TAG_BYTES
    }

    /// Seals it as number `number` of a segment: its header and its stored bytes.
    pub fn seal(self, key: &SegmentKey, number: u32) -> Result<(ChunkHeader, Vec<u8>)> {
        let mut buffer = self.buffer;
        let mut header = ChunkHeader {
            magic: MAGIC,
            kind: self.kind.number(),
            codec: self.codec,
            reserved: [0; 2],
            plain_bytes: self.plain_bytes.into(),
            stored_bytes: ((buffer.len() + TAG_BYTES) as u32).into(),
            segment: key.id().0,
            number: number.into(),
            reserved_too: 0.into(),
            id: self.id.0,
            check: [0; 32],
        };
        key.seal(number, header.associated(), &mut buffer)?;
        header.check = header.check_of(&buffer);
        Ok((header, buffer))
    }
}

/// Opens the chunk in `bytes` (header and stored bytes, which are decrypted in place) into exactly `plain`.
///
/// The caller compares the id with [`id_of`].
pub fn open(header: &ChunkHeader, key: &SegmentKey, bytes: &mut [u8], plain: &mut [u8]) -> Result<()> {
    const DOING: &str = "open a chunk";
    if bytes.len() != header.chunk_bytes() || plain.len() != header.plain_bytes() {
        let detail = format!("{} bytes for {} plain ones", bytes.len(), plain.len());
        return Err(TinError::corrupt(DOING, format!("{detail}; its header says otherwise")));
    }
    let packed = key.open(header.number.get(), header.associated(), &mut bytes[HEADER_BYTES..])?;
    match header.codec {
        CODEC_STORED => plain.copy_from_slice(packed),
        _ => compression::decode(packed, plain)
            .map_err(|cause| TinError::corrupt(DOING, format!("chunk {}", header.id())).caused_by(cause))?,
    }
    Ok(())
}

/// The id that these plain bytes of a data chunk have.
pub fn id_of(ring: &KeyRing, plain: &[u8]) -> ChunkId {
    ring.chunk_id(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Purpose;

    fn sealed(plain: &[u8], level: Level) -> (KeyRing, SegmentKey, Vec<u8>) {
        let ring = KeyRing::public(Id([1; 16])).unwrap();
        let (_, key) = ring.new_segment(Purpose::Data).unwrap();
        let packed = Packed::new(ChunkKind::Data, ring.chunk_id(plain), plain, level);
        let length = packed.chunk_bytes();
        let (header, stored) = packed.seal(&key, 7).unwrap();
        let bytes = [header.as_bytes(), &stored].concat();
        assert_eq!(bytes.len(), length);
        (ring, key, bytes)
    }

    #[test]
    fn what_was_sealed_opens_as_the_same_bytes() {
        let text: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        for level in [None, Some(3)] {
            for plain in [&text[..], &text[..1], &[]] {
                let (ring, key, mut bytes) = sealed(plain, level);
                let header = ChunkHeader::parse(&bytes).unwrap();
                assert!(header.check_matches(&bytes[HEADER_BYTES..]));
                let mut found = vec![0; header.plain_bytes()];
                open(&header, &key, &mut bytes, &mut found).unwrap();
                assert_eq!(found, plain);
                assert_eq!(id_of(&ring, &found), header.id());
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let (_, key, bytes) = sealed(&[9; 300], Some(3));
        for index in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[index] ^= 1;
            let Ok(header) = ChunkHeader::parse(&bytes) else { continue };
            assert!(!header.check_matches(&bytes[HEADER_BYTES..]), "byte {index}");
            let mut plain = vec![0; header.plain_bytes()];
            let opened = open(&header, &key, &mut bytes, &mut plain);
            // The check itself is not under the seal: it is what one has without the key.
            assert_eq!(opened.is_ok(), (ASSOCIATED_BYTES..HEADER_BYTES).contains(&index), "byte {index}");
        }
    }
}
