//! One index segment: its bytes, and lookups in a file that holds them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;

use tintype_tin::chunk::ChunkHeader;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::Role;
use tintype_tin::map::Location;

use super::Found;
use crate::error::{Error, Kind, Result};

pub(super) const HEAD_BYTES: usize = 16;
pub(super) const PACK_BYTES: usize = 56;
pub(super) const ENTRY_BYTES: usize = 44;
const MAX_FANOUT_BITS: u32 = 24;

/// About how many chunks there are to an entry of the fanout, as a power of two.
const FANOUT_RUN_BITS: u32 = 6;

/// A pack that a segment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Its id.
    pub id: Id,
    /// The signing key of who sealed its chunks.
    pub author: [u8; 32],
    /// The author's role.
    pub role: Option<Role>,
    /// The kind of its chunks, as a number.
    pub kind: u8,
    /// Its length in bytes.
    pub length_bytes: u32,
}

impl PackRow {
    pub(super) fn encode(&self) -> [u8; PACK_BYTES] {
        let mut bytes = [0; PACK_BYTES];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..48].copy_from_slice(&self.author);
        bytes[48..50].copy_from_slice(&[self.role.map_or(0, Role::number), self.kind]);
        bytes[52..].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes
    }
}

/// A segment that is being made.
#[derive(Default)]
pub struct SegmentBuilder {
    packs: Vec<PackRow>,
    numbers: HashMap<Id, u32>,
    chunks: Vec<[u8; ENTRY_BYTES]>,
}

impl SegmentBuilder {
    /// Adds a pack with its chunks.
    pub fn add_pack(&mut self, row: PackRow, chunks: &[(u32, ChunkHeader)]) {
        let number = self.number_of(row);
        for (offset, header) in chunks {
            self.push(&header.id(), number, *offset, header.chunk_bytes() as u32);
        }
    }

    /// Adds an entry of another segment.
    pub fn add_entry(&mut self, row: &PackRow, id: &ChunkId, offset: u32, length: u32) {
        let number = self.number_of(row.clone());
        self.push(id, number, offset, length);
    }

    fn number_of(&mut self, row: PackRow) -> u32 {
        let packs = &mut self.packs;
        *self.numbers.entry(row.id).or_insert_with(|| {
            packs.push(row);
            (packs.len() - 1) as u32
        })
    }

    fn push(&mut self, id: &ChunkId, pack: u32, offset: u32, length: u32) {
        let mut entry = [0; ENTRY_BYTES];
        entry[..32].copy_from_slice(&id.0);
        entry[32..36].copy_from_slice(&pack.to_le_bytes());
        entry[36..40].copy_from_slice(&offset.to_le_bytes());
        entry[40..].copy_from_slice(&length.to_le_bytes());
        self.chunks.push(entry);
    }

    /// How many chunks it names.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether it names nothing, not even a pack.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// The ids of the chunks.
    pub fn ids(&self) -> impl Iterator<Item = ChunkId> {
        self.chunks.iter().map(|entry| {
            let mut id = [0; 32];
            id.copy_from_slice(&entry[..32]);
            ChunkId(id)
        })
    }

    /// The body of the segment's object.
    pub fn encode(mut self) -> Vec<u8> {
        self.chunks.sort_unstable();
        self.chunks.dedup();
        let bits = fanout_bits(self.chunks.len() as u64);
        let mut bytes = Vec::new();
        for number in [self.packs.len() as u32, self.chunks.len() as u32, bits, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.packs.iter().for_each(|row| bytes.extend_from_slice(&row.encode()));
        let mut below = 0;
        for bucket in 0..=1u64 << bits {
            while below < self.chunks.len() && u64::from(bucket_of(&self.chunks[below], bits)) < bucket {
                below += 1;
            }
            bytes.extend_from_slice(&(below as u32).to_le_bytes());
        }
        bytes.extend(self.chunks.iter().flatten());
        bytes
    }
}

/// How many bits the fanout of so many chunks has.
pub(super) fn fanout_bits(chunks: u64) -> u32 {
    chunks.checked_ilog2().map_or(0, |log| log.saturating_sub(FANOUT_RUN_BITS)).min(MAX_FANOUT_BITS)
}

/// The first `bits` bits of an id.
pub(super) fn bucket_of(id: &[u8], bits: u32) -> u32 {
    let first = id.iter().take(4).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    (first >> (32 - bits)) as u32
}

/// A segment in a file.
#[derive(Debug)]
pub struct SegmentFile {
    file: File,
    /// Where the entries begin in the file.
    entries_at: u64,
    chunks: u32,
    bits: u32,
    packs: Vec<PackRow>,
    fanout: Vec<u32>,
}

impl SegmentFile {
    /// Opens the segment whose body begins at `offset` in the file and goes on to its end, which is `length_bytes` further.
    ///
    /// The bytes are known to be the ones that were written.
    pub fn open(file: File, offset: u64, length_bytes: u64) -> Result<SegmentFile> {
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            let result = file.read_exact_at(&mut bytes, offset + at);
            result.map(|()| bytes).map_err(|cause| Error::io("read an index segment", cause))
        };
        let head = read(0, HEAD_BYTES)?;
        let [packs, chunks, bits] = [0, 4, 8].map(|at| number(&head, at));
        if bits > MAX_FANOUT_BITS {
            return Err(damaged(&format!("its fanout has {bits} bits")));
        }
        let fanout_at = HEAD_BYTES as u64 + u64::from(packs) * PACK_BYTES as u64;
        let entries_at = fanout_at + ((1u64 << bits) + 1) * 4;
        if entries_at + u64::from(chunks) * ENTRY_BYTES as u64 != length_bytes {
            return Err(damaged(&format!("{length_bytes} bytes for {packs} packs and {chunks} chunks")));
        }
        let rows = read(HEAD_BYTES as u64, fanout_at as usize - HEAD_BYTES)?;
        let fanout = read(fanout_at, (entries_at - fanout_at) as usize)?;
        let fanout: Vec<u32> = fanout.chunks_exact(4).map(|entry| number(entry, 0)).collect();
        if !fanout.is_sorted() || fanout.last() != Some(&chunks) {
            return Err(damaged("its fanout is not ascending"));
        }
        let packs = rows.chunks_exact(PACK_BYTES).map(pack_row).collect();
        Ok(SegmentFile { file, entries_at: offset + entries_at, chunks, bits, packs, fanout })
    }

    /// Opens a segment that is no file yet.
    pub fn of_body(body: &[u8]) -> Result<SegmentFile> {
        let in_file = tempfile::tempfile().and_then(|mut file| file.write_all(body).map(|()| file));
        let file = match in_file {
            Ok(file) => file,
            Err(_) => {
                let mut file = memory_file()?;
                file.write_all(body).map_err(|cause| Error::io("write a copy of an index segment", cause))?;
                file
            }
        };
        Self::open(file, 0, body.len() as u64)
    }

    /// The packs that it names.
    pub fn packs(&self) -> &[PackRow] {
        &self.packs
    }

    /// How many chunks it names.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Calls `visit` for each place that it says for a chunk, with the number of the entry.
    pub fn find(&self, id: &ChunkId, mut visit: impl FnMut(u32, Found)) -> Result<()> {
        let bucket = bucket_of(&id.0, self.bits) as usize;
        let (begin, end) = (self.fanout[bucket], self.fanout[bucket + 1]);
        let entries = self.entries(begin, end)?;
        let entries = entries.as_chunks::<ENTRY_BYTES>().0;
        let first = entries.partition_point(|entry| entry[..32] < id.0[..]);
        for (number, entry) in
            (begin + first as u32..).zip(&entries[first..]).take_while(|(_, entry)| entry[..32] == id.0)
        {
            self.found(entry).into_iter().for_each(|found| visit(number, found));
        }
        Ok(())
    }

    /// Calls `visit` for every entry with its number, in the order of the ids.
    pub fn for_each(&self, visit: &mut dyn FnMut(u32, &ChunkId, &Found)) -> Result<()> {
        const STEP: u32 = 16 << 10;
        for begin in (0..self.chunks).step_by(STEP as usize) {
            let entries = self.entries(begin, self.chunks.min(begin + STEP))?;
            for (number, entry) in (begin..).zip(entries.as_chunks::<ENTRY_BYTES>().0) {
                let mut id = [0; 32];
                id.copy_from_slice(&entry[..32]);
                if let Some(found) = self.found(entry) {
                    visit(number, &ChunkId(id), &found);
                }
            }
        }
        Ok(())
    }

    /// The bytes of some entries.
    pub(super) fn entries(&self, begin: u32, end: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (end - begin) as usize * ENTRY_BYTES];
        let offset = self.entries_at + u64::from(begin) * ENTRY_BYTES as u64;
        self.file.read_exact_at(&mut bytes, offset).map_err(|cause| Error::io("read an index segment", cause))?;
        Ok(bytes)
    }

    fn found(&self, entry: &[u8; ENTRY_BYTES]) -> Option<Found> {
        let row = self.packs.get(number(entry, 32) as usize)?;
        let location = Location { pack: row.id, offset: number(entry, 36), length: number(entry, 40) };
        Some(Found { location, author: row.author, role: row.role })
    }
}

/// A file in memory, for where no folder takes one.
pub(super) fn memory_file() -> Result<File> {
    let made = rustix::fs::memfd_create("tintype index", rustix::fs::MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|errno| Error::io("make a file in memory for the index", errno.into()))
}

/// The packs that a segment's body names, if it is a body at all.
pub fn parse_rows(body: &[u8]) -> Option<Vec<PackRow>> {
    let head = body.get(..HEAD_BYTES)?;
    let [packs, chunks, bits] = [0, 4, 8].map(|at| u64::from(number(head, at)));
    let entries_at = HEAD_BYTES as u64 + packs * PACK_BYTES as u64 + (1u64.checked_shl(bits as u32)? + 1) * 4;
    if bits > u64::from(MAX_FANOUT_BITS) || entries_at + chunks * ENTRY_BYTES as u64 != body.len() as u64 {
        return None;
    }
    let rows = body.get(HEAD_BYTES..)?.chunks_exact(PACK_BYTES).take(packs as usize);
    Some(rows.map(pack_row).collect())
}

fn pack_row(bytes: &[u8]) -> PackRow {
    let (mut id, mut author) = ([0; 16], [0; 32]);
    id.copy_from_slice(&bytes[..16]);
    author.copy_from_slice(&bytes[16..48]);
    let role = Role::from_number(bytes[48]);
    PackRow { id: Id(id), author, role, kind: bytes[49], length_bytes: number(bytes, 52) }
}

pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn damaged(detail: &str) -> Error {
    Error::new(Kind::Io, format!("read an index segment: {detail}"))
}
