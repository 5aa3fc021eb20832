//! Makes one segment of many without holding them: their entries are sorted already.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use tintype_tin::id::Id;

use super::segment::{ENTRY_BYTES, HEAD_BYTES, PACK_BYTES, PackRow, SegmentFile, bucket_of, fanout_bits, number};
use crate::error::{Error, Result};

/// How many entries of each file are in memory.
const WINDOW: u32 = 512;

/// With how many entries of the same chunk a further one is compared. More copies are not harmful, only useless.
const COMPARED: usize = 64;

type EntryBytes = [u8; ENTRY_BYTES];

/// A segment's body that is written from front to back.
pub struct BodyWriter<'a> {
    file: BufWriter<&'a File>,
    offset: u64,
    packs: u32,
    bits: u32,
    /// How many chunks each bucket has.
    buckets: Vec<u32>,
    chunks: u32,
}

impl<'a> BodyWriter<'a> {
    /// Begins a body at `offset` in the file, of these packs and at most so many chunks.
    pub fn new(file: &'a File, offset: u64, packs: &[PackRow], max_chunks: u64) -> Result<BodyWriter<'a>> {
        let bits = fanout_bits(max_chunks);
        let buckets = vec![0; 1 << bits];
        let mut writer =
            BodyWriter { file: BufWriter::new(file), offset, packs: packs.len() as u32, bits, buckets, chunks: 0 };
        let entries_at = HEAD_BYTES + packs.len() * PACK_BYTES + ((1 << bits) + 1) * 4;
        let mut write = || -> io::Result<()> {
            writer.file.seek(SeekFrom::Start(offset + HEAD_BYTES as u64))?;
            packs.iter().try_for_each(|row| writer.file.write_all(&row.encode()))?;
            writer.file.seek(SeekFrom::Start(offset + entries_at as u64)).map(|_| ())
        };
        write().map_err(failed)?;
        Ok(writer)
    }

    /// Appends an entry; they come in the order of their ids.
    pub fn push(&mut self, entry: &EntryBytes) -> Result<()> {
        self.buckets[bucket_of(entry, self.bits) as usize] += 1;
        self.chunks += 1;
        self.file.write_all(entry).map_err(failed)
    }

    /// Writes what is known only at the end: the fanout and the numbers in front.
    pub fn finish(mut self) -> Result<()> {
        let mut write = || -> io::Result<()> {
            self.file.seek(SeekFrom::Start(self.offset))?;
            for number in [self.packs, self.chunks, self.bits, 0] {
                self.file.write_all(&number.to_le_bytes())?;
            }
            self.file.seek(SeekFrom::Current(i64::from(self.packs) * PACK_BYTES as i64))?;
            let mut below = 0;
            self.file.write_all(&u32::to_le_bytes(below))?;
            for count in &self.buckets {
                below += count;
                self.file.write_all(&below.to_le_bytes())?;
            }
            self.file.flush()
        };
        write().map_err(failed)
    }
}

fn failed(cause: io::Error) -> Error {
    Error::io("write the index", cause)
}

/// The packs of all files that are alive, and for each file what its packs' numbers become.
struct Packs {
    rows: Vec<PackRow>,
    numbers: Vec<Vec<Option<u32>>>,
}

impl Packs {
    fn of(files: &[&SegmentFile], live: Option<&HashSet<Id>>) -> Packs {
        let mut packs = Packs { rows: Vec::new(), numbers: Vec::new() };
        let mut known: HashMap<Id, u32> = HashMap::new();
        for file in files {
            let mut numbers = Vec::with_capacity(file.packs().len());
            for row in file.packs() {
                let alive = live.is_none_or(|live| live.contains(&row.id));
                numbers.push(alive.then(|| {
                    *known.entry(row.id).or_insert_with(|| {
                        packs.rows.push(row.clone());
                        (packs.rows.len() - 1) as u32
                    })
                }));
            }
            packs.numbers.push(numbers);
        }
        packs
    }
}

/// A file on its way through the merge.
struct Cursor<'a> {
    file: &'a SegmentFile,
    numbers: &'a [Option<u32>],
    window: std::vec::IntoIter<EntryBytes>,
    next: u32,
}

impl Cursor<'_> {
    /// The next entry of a pack that is alive, with the pack's new number.
    fn next(&mut self) -> Result<Option<EntryBytes>> {
        loop {
            let Some(mut entry) = self.window.next() else {
                let end = self.file.chunks().min(self.next + WINDOW);
                if end == self.next {
                    return Ok(None);
                }
                let bytes = self.file.entries(self.next, end)?;
                self.window = bytes.as_chunks::<ENTRY_BYTES>().0.to_vec().into_iter();
                self.next = end;
                continue;
            };
            if let Some(Some(pack)) = self.numbers.get(number(&entry, 32) as usize) {
                entry[32..36].copy_from_slice(&pack.to_le_bytes());
                return Ok(Some(entry));
            }
        }
    }
}

/// Writes the body of a segment that says what all `files` say of the packs in `live` (of all, if that is nothing).
pub fn merge(files: &[&SegmentFile], live: Option<&HashSet<Id>>, out: &File, offset: u64) -> Result<()> {
    let packs = Packs::of(files, live);
    let most = files.iter().map(|file| u64::from(file.chunks())).sum::<u64>();
    if most > u64::from(u32::MAX) {
        return Err(Error::new(crate::error::Kind::Io, format!("write the index: {most} chunks are too many")));
    }
    let mut writer = BodyWriter::new(out, offset, &packs.rows, most)?;
    let cursor = |(file, numbers)| Cursor { file, numbers, window: Vec::new().into_iter(), next: 0 };
    let mut cursors: Vec<Cursor<'_>> =
        files.iter().copied().zip(packs.numbers.iter().map(Vec::as_slice)).map(cursor).collect();
    let mut heads: BinaryHeap<Reverse<(EntryBytes, usize)>> = BinaryHeap::new();
    for (number, cursor) in cursors.iter_mut().enumerate() {
        heads.extend(cursor.next()?.map(|entry| Reverse((entry, number))));
    }
    let mut same: Vec<EntryBytes> = Vec::new();
    while let Some(Reverse((entry, number))) = heads.pop() {
        heads.extend(cursors[number].next()?.map(|next| Reverse((next, number))));
        if same.first().is_some_and(|first| first[..32] != entry[..32]) {
            same.clear();
        }
        if !same.contains(&entry) {
            writer.push(&entry)?;
            same.truncate(COMPARED - 1);
            same.push(entry);
        }
    }
    writer.finish()
}
