//! A gzip file (RFC 1952) as the file inside it, read at any place.
//!
//! ```text
//!   inflated   |chunk 0|chunk 1|chunk 2|chunk 3| ...             the chunks that were used last are kept
//!                      ▲       ▲               ▲
//!              checkpoint   cursor          cursor               a chunk is inflated from the nearest one before it
//! ```
//!
//! A *cursor* is an inflater in the middle of its work, a *checkpoint* a copy of one, to begin from again. Checkpoints are
//! made while going forward; when there are too many, every other one goes, so that their memory does not depend on the
//! length. Threads that read ahead of each other find what the first one passed in the kept chunks.
//!
//! Invariants: chunks begin at multiples of [`CHUNK_BYTES`], and so do cursors at rest and checkpoints; each of these knows
//! the checksum of its gzip member up to there, so that whoever reaches the member's end has checked all of it.

mod cursor;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::host_file::HostFile;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;
use cursor::{Checkpoint, Cursor};
pub use cursor::{MAGIC, inflate_head};

/// How much is inflated at a time. It is the inflater's window, too, and so a power of two of at least 32 KiB.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// 16 MiB: more than the workers of an ordinary machine are apart.
const MAX_CHUNKS: u64 = 64;

/// Of 43 KiB each, 11 MiB together.
const MAX_CHECKPOINTS: usize = 256;

/// How far checkpoints are apart at first.
const FIRST_SPACING_BYTES: u64 = 1 << 20;

/// Somebody who reads tables and data in turn goes forward in a few places.
const MAX_CURSORS: usize = 4;

/// The file inside a gzip file.
pub struct GzipFile {
    file: Arc<dyn HostFile>,
    file_bytes: u64,
    state: Mutex<State>,
}

struct State {
    cursors: Vec<Cursor>,
    checkpoints: BTreeMap<u64, Arc<Checkpoint>>,
    spacing_bytes: u64,
    chunks: Lru<u64, Arc<[u8]>>,
    /// The length of the file inside, once somebody was at its end.
    len_bytes: Option<u64>,
}

impl GzipFile {
    /// Wraps `file`, which does not change its length any more. Nothing is read yet.
    pub fn new(file: Arc<dyn HostFile>) -> io::Result<Self> {
        let file_bytes = file.len_bytes()?;
        let state = State {
            cursors: Vec::new(),
            checkpoints: BTreeMap::new(),
            spacing_bytes: FIRST_SPACING_BYTES,
            chunks: Lru::new(MAX_CHUNKS),
            len_bytes: None,
        };
        Ok(GzipFile { file, file_bytes, state: Mutex::new(state) })
    }

    /// Inflates what nobody has seen yet, up to the end, and so checks every checksum. Returns the length of the file inside.
    pub fn check_to_end(&self) -> io::Result<u64> {
        let mut state = self.lock();
        if let Some(len_bytes) = state.len_bytes {
            return Ok(len_bytes);
        }
        let mut cursor = state.cursor_before(u64::MAX);
        while !cursor.is_at_end() {
            cursor.inflate_chunk(self.file.as_ref(), self.file_bytes)?;
            state.passed(&cursor);
        }
        Ok(cursor.inflated_bytes())
    }

    /// A chunk, by its number; the last one is shorter, and past the end there are none.
    fn chunk(&self, number: u64) -> io::Result<Arc<[u8]>> {
        let mut state = self.lock();
        if let Some(bytes) = state.chunks.get(number) {
            return Ok(bytes);
        }
        if state.len_bytes.is_some_and(|len_bytes| len_bytes.div_ceil(CHUNK_BYTES) <= number) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut cursor = state.cursor_before(number);
        loop {
            let current = cursor.next_chunk();
            cursor.inflate_chunk(self.file.as_ref(), self.file_bytes)?;
            state.passed(&cursor);
            if number - current < MAX_CHUNKS && !cursor.chunk_bytes().is_empty() {
                state.chunks.insert(current, cursor.chunk_bytes().into(), 1);
            }
            if current == number || cursor.is_at_end() {
                break;
            }
        }
        state.put_back(cursor);
        state.chunks.get(number).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

impl HostFile for GzipFile {
    /// Inflates all of it when asked for the first time: no other place can be trusted to say how long it is.
    fn len_bytes(&self) -> io::Result<u64> {
        self.check_to_end()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if host_offset.checked_add(buffer.len() as u64).is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let offset = host_offset + done as u64;
            let chunk = self.chunk(offset / CHUNK_BYTES)?;
            let rest = chunk.get((offset % CHUNK_BYTES) as usize..).unwrap_or_default();
            let step = rest.len().min(buffer.len() - done);
            if step == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[done..done + step].copy_from_slice(&rest[..step]);
            done += step;
        }
        Ok(())
    }
}

impl State {
    /// Takes the cursor, or copies the checkpoint, that has the shortest way to a chunk.
    fn cursor_before(&mut self, number: u64) -> Cursor {
        let nearest = self.cursors.iter().enumerate().filter(|(_, cursor)| cursor.next_chunk() <= number);
        let nearest = nearest.max_by_key(|(_, cursor)| cursor.next_chunk()).map(|(index, _)| index);
        let checkpoint = self.checkpoints.range(..=number).next_back().map(|(_, checkpoint)| Arc::clone(checkpoint));
        match (nearest, checkpoint) {
            (Some(index), None) => self.cursors.remove(index),
            (Some(index), Some(checkpoint)) if self.cursors[index].next_chunk() >= checkpoint.next_chunk => {
                self.cursors.remove(index)
            }
            (_, Some(checkpoint)) => Cursor::resume(&checkpoint),
            (None, None) => Cursor::new(),
        }
    }

    fn put_back(&mut self, cursor: Cursor) {
        if cursor.is_at_end() {
            return;
        }
        if self.cursors.len() >= MAX_CURSORS {
            self.cursors.remove(0);
        }
        self.cursors.push(cursor);
    }

    /// Notes what a cursor that has inflated a chunk came to.
    fn passed(&mut self, cursor: &Cursor) {
        if cursor.is_at_end() {
            self.len_bytes = Some(cursor.inflated_bytes());
            return;
        }
        let number = cursor.next_chunk();
        if !cursor.inflated_bytes().is_multiple_of(self.spacing_bytes) || self.checkpoints.contains_key(&number) {
            return;
        }
        if self.checkpoints.len() >= MAX_CHECKPOINTS {
            self.spacing_bytes = self.spacing_bytes.saturating_mul(2);
            let spacing_chunks = self.spacing_bytes / CHUNK_BYTES;
            self.checkpoints.retain(|number, _| number.is_multiple_of(spacing_chunks));
            if !cursor.inflated_bytes().is_multiple_of(self.spacing_bytes) {
                return;
            }
        }
        self.checkpoints.insert(number, Arc::new(cursor.checkpoint()));
    }
}
