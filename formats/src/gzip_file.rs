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

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};

use crate::host_file::HostFile;

/// How much is inflated at a time. It is the inflater's window, too, and so a power of two of at least 32 KiB.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// How far back deflate can refer.
const HISTORY_BYTES: usize = 32 << 10;

/// 16 MiB: more than the workers of an ordinary machine are apart.
const MAX_CHUNKS: u64 = 64;

/// Of 43 KiB each, 11 MiB together.
const MAX_CHECKPOINTS: usize = 256;

/// How far checkpoints are apart at first.
const FIRST_SPACING_BYTES: u64 = 1 << 20;

/// Somebody who reads tables and data in turn goes forward in a few places.
const MAX_CURSORS: usize = 4;

/// How much compressed data is read at a time. A gzip member's header must be shorter.
const INPUT_BYTES: u64 = 64 << 10;

/// The magic number and the only method that there is: deflate.
pub const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

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
    chunks: HashMap<u64, Kept>,
    clock: u64,
    /// The length of the file inside, once somebody was at its end.
    len_bytes: Option<u64>,
}

struct Kept {
    bytes: Arc<[u8]>,
    used: u64,
}

impl GzipFile {
    /// Wraps `file`, which does not change its length any more. Nothing is read yet.
    pub fn new(file: Arc<dyn HostFile>) -> io::Result<Self> {
        let file_bytes = file.len_bytes()?;
        let state = State {
            cursors: Vec::new(),
            checkpoints: BTreeMap::new(),
            spacing_bytes: FIRST_SPACING_BYTES,
            chunks: HashMap::new(),
            clock: 0,
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
        while cursor.stage != Stage::End {
            cursor.inflate_chunk(self.file.as_ref(), self.file_bytes)?;
            state.passed(&cursor);
        }
        Ok(cursor.inflated_bytes)
    }

    /// A chunk, by its number; the last one is shorter, and past the end there are none.
    fn chunk(&self, number: u64) -> io::Result<Arc<[u8]>> {
        let mut state = self.lock();
        if let Some(bytes) = state.kept(number) {
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
            if number - current < MAX_CHUNKS {
                state.keep(current, cursor.chunk_bytes());
            }
            if current == number || cursor.stage == Stage::End {
                break;
            }
        }
        state.put_back(cursor);
        state.kept(number).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn kept(&mut self, number: u64) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let kept = self.chunks.get_mut(&number)?;
        kept.used = self.clock;
        Some(Arc::clone(&kept.bytes))
    }

    fn keep(&mut self, number: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.chunks.len() as u64 >= MAX_CHUNKS
            && let Some(oldest) = self.chunks.iter().min_by_key(|(_, kept)| kept.used).map(|(number, _)| *number)
        {
            self.chunks.remove(&oldest);
        }
        self.chunks.insert(number, Kept { bytes: bytes.into(), used: self.clock });
    }

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
        if cursor.stage == Stage::End {
            return;
        }
        if self.cursors.len() >= MAX_CURSORS {
            self.cursors.remove(0);
        }
        self.cursors.push(cursor);
    }

    /// Notes what a cursor that has inflated a chunk came to.
    fn passed(&mut self, cursor: &Cursor) {
        if cursor.stage == Stage::End {
            self.len_bytes = Some(cursor.inflated_bytes);
            return;
        }
        let number = cursor.next_chunk();
        if !cursor.inflated_bytes.is_multiple_of(self.spacing_bytes) || self.checkpoints.contains_key(&number) {
            return;
        }
        if self.checkpoints.len() >= MAX_CHECKPOINTS {
            self.spacing_bytes = self.spacing_bytes.saturating_mul(2);
            let spacing_chunks = self.spacing_bytes / CHUNK_BYTES;
            self.checkpoints.retain(|number, _| number.is_multiple_of(spacing_chunks));
            if !cursor.inflated_bytes.is_multiple_of(self.spacing_bytes) {
                return;
            }
        }
        self.checkpoints.insert(number, Arc::new(cursor.checkpoint()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before a gzip member's header.
    Header,
    /// In its deflate stream.
    Deflate,
    /// After the last member.
    End,
}

struct Cursor {
    stage: Stage,
    /// Where in the gzip file the inflater goes on.
    host_offset: u64,
    /// Bytes of the gzip file from `input_begin` on.
    input: Vec<u8>,
    input_begin: u64,
    inflate: DecompressorOxide,
    /// The chunk in the works; before that the one before it, which its first bytes refer to.
    window: Box<[u8]>,
    window_bytes: usize,
    inflated_bytes: u64,
    /// The checksum of what this member has given so far.
    sum: Hasher,
    /// How long that is.
    member_bytes: u64,
}

struct Checkpoint {
    next_chunk: u64,
    stage: Stage,
    host_offset: u64,
    inflate: DecompressorOxide,
    history: Box<[u8]>,
    sum: Hasher,
    member_bytes: u64,
}

impl Cursor {
    fn new() -> Self {
        Cursor {
            stage: Stage::Header,
            host_offset: 0,
            input: Vec::new(),
            input_begin: 0,
            inflate: DecompressorOxide::new(),
            window: vec![0; CHUNK_BYTES as usize].into(),
            window_bytes: 0,
            inflated_bytes: 0,
            sum: Hasher::new(),
            member_bytes: 0,
        }
    }

    fn resume(from: &Checkpoint) -> Self {
        let mut window = vec![0; CHUNK_BYTES as usize];
        window[CHUNK_BYTES as usize - HISTORY_BYTES..].copy_from_slice(&from.history);
        Cursor {
            stage: from.stage,
            host_offset: from.host_offset,
            inflate: from.inflate.clone(),
            window: window.into(),
            window_bytes: CHUNK_BYTES as usize,
            inflated_bytes: from.next_chunk * CHUNK_BYTES,
            sum: from.sum.clone(),
            member_bytes: from.member_bytes,
            ..Self::new()
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            next_chunk: self.next_chunk(),
            stage: self.stage,
            host_offset: self.host_offset,
            inflate: self.inflate.clone(),
            history: self.window[CHUNK_BYTES as usize - HISTORY_BYTES..].into(),
            sum: self.sum.clone(),
            member_bytes: self.member_bytes,
        }
    }

    /// The number of the chunk that comes next; a cursor at rest is at its beginning.
    fn next_chunk(&self) -> u64 {
        self.inflated_bytes / CHUNK_BYTES
    }

    /// The chunk that was inflated last.
    fn chunk_bytes(&self) -> &[u8] {
        &self.window[..self.window_bytes]
    }

    /// Inflates the next chunk: all of it, or up to the end.
    fn inflate_chunk(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
        self.window_bytes = 0;
        while self.window_bytes < self.window.len() && self.stage != Stage::End {
            match self.stage {
                Stage::Header => self.read_header(file, file_bytes)?,
                _ => self.inflate_some(file, file_bytes)?,
            }
        }
        Ok(())
    }

    fn inflate_some(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
        let input = match self.host_offset.checked_sub(self.input_begin) {
            Some(within) if within < self.input.len() as u64 => &self.input[within as usize..],
            _ => {
                self.read_input(file, file_bytes)?;
                &self.input[..]
            }
        };
        if input.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (status, used, made) =
            decompress(&mut self.inflate, input, &mut self.window, self.window_bytes, TINFL_FLAG_HAS_MORE_INPUT);
        self.sum.update(&self.window[self.window_bytes..self.window_bytes + made]);
        self.window_bytes += made;
        self.inflated_bytes += made as u64;
        self.member_bytes += made as u64;
        self.host_offset += used as u64;
        match status {
            TINFLStatus::Done => self.check_trailer(file, file_bytes),
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput if used + made > 0 => Ok(()),
            _ => {
                Err(damaged(format!("the deflate stream is damaged before compressed offset {:#x}", self.host_offset)))
            }
        }
    }

    fn read_input(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
        self.input.clear();
        self.input_begin = self.host_offset;
        self.input.resize(file_bytes.saturating_sub(self.host_offset).min(INPUT_BYTES) as usize, 0);
        file.read_exact_at(self.host_offset, &mut self.input)
    }

    /// RFC 1952, 2.3: the fixed part, then what its flags announce.
    fn read_header(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
        self.read_input(file, file_bytes)?;
        if self.host_offset > 0 && !self.input.starts_with(&MAGIC) {
            // Padding after the last member, which gzip ignores, too.
            self.stage = Stage::End;
            return Ok(());
        }
        let length = header_bytes(&self.input)?;
        self.host_offset += length as u64;
        self.inflate = DecompressorOxide::new();
        self.sum = Hasher::new();
        self.member_bytes = 0;
        self.stage = Stage::Deflate;
        Ok(())
    }

    /// Finds and checks the checksum and length that follow the deflate stream.
    ///
    /// The inflater reads ahead by up to 7 bytes, which it cannot always give back; so the place is looked for.
    fn check_trailer(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
        let mut expected = [0; 8];
        expected[..4].copy_from_slice(&self.sum.clone().finalize().to_le_bytes());
        expected[4..].copy_from_slice(&(self.member_bytes as u32).to_le_bytes());
        let begin = self.host_offset.saturating_sub(7);
        let mut around = vec![0; file_bytes.saturating_sub(begin).min(15) as usize];
        file.read_exact_at(begin, &mut around)?;
        let Some(found) = around.windows(8).rposition(|place| place == expected) else {
            if around.len() < 15 && self.host_offset + 8 > file_bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let detail = "the checksum or the length at the end is not that of what was inflated";
            return Err(damaged(format!("{detail} (compressed offset {:#x})", self.host_offset)));
        };
        self.host_offset = begin + found as u64 + 8;
        self.stage = if self.host_offset == file_bytes { Stage::End } else { Stage::Header };
        Ok(())
    }
}

/// The length of a gzip member's header.
fn header_bytes(input: &[u8]) -> io::Result<usize> {
    let missing = || damaged("the gzip header is cut short, or longer than 64 KiB".to_owned());
    let fixed = input.get(..10).ok_or_else(missing)?;
    let flags = fixed[3];
    if !fixed.starts_with(&MAGIC) || flags & 0xe0 != 0 {
        return Err(damaged("there is no gzip header".to_owned()));
    }
    let mut length = 10;
    if flags & 4 != 0 {
        let extra = input.get(length..length + 2).ok_or_else(missing)?;
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    // The name and the comment, each up to a zero byte.
    for flag in [8, 16] {
        if flags & flag != 0 {
            let rest = input.get(length..).ok_or_else(missing)?;
            length += rest.iter().position(|byte| *byte == 0).ok_or_else(missing)? + 1;
        }
    }
    if flags & 2 != 0 {
        length += 2;
    }
    if length > input.len() { Err(missing()) } else { Ok(length) }
}

/// Inflates the beginning of a gzip file, as far as `head` and `output` go; for probing. Returns how much there is.
pub fn inflate_head(head: &[u8], output: &mut [u8]) -> usize {
    let Ok(begin) = header_bytes(head) else { return 0 };
    // Without the flag for a wrapping buffer it would have to be a power of two.
    let flags =
        TINFL_FLAG_HAS_MORE_INPUT | miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    decompress(&mut DecompressorOxide::new(), &head[begin..], output, 0, flags).2
}

fn damaged(detail: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, GzBuilder};

    use super::*;
    use crate::testing::{CountingFile, MemoryFile, Random};

    /// Text, noise and zeros in turn.
    fn content(length: usize) -> Vec<u8> {
        let mut random = Random(3);
        let mut bytes = Vec::with_capacity(length + 70_000);
        while bytes.len() < length {
            let run = 1 + random.below(70_000) as usize;
            match random.below(3) {
                0 => bytes.extend((0..run).map(|_| random.next_u64() as u8)),
                1 => bytes.extend((0..run).map(|i| ((i * i) >> 5) as u8 & 0x1f)),
                _ => bytes.extend(vec![0; run]),
            }
        }
        bytes.truncate(length);
        bytes
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let builder = GzBuilder::new().filename("a name").comment("a comment").extra(vec![7; 300]);
        let mut encoder = builder.write(Vec::new(), Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn gzip(bytes: &[u8]) -> GzipFile {
        GzipFile::new(Arc::new(MemoryFile::from_bytes(bytes))).unwrap()
    }

    #[test]
    fn any_place_can_be_read_and_the_end_is_known() {
        let bytes = content(9 << 20);
        let file = gzip(&packed(&bytes));
        let mut random = Random(8);
        for _ in 0..300 {
            let offset = random.below(bytes.len() as u64);
            let mut found = vec![0; (1 + random.below(400_000)).min(bytes.len() as u64 - offset) as usize];
            file.read_exact_at(offset, &mut found).unwrap();
            assert!(found == bytes[offset as usize..][..found.len()], "{offset:#x}");
        }
        assert_eq!(file.len_bytes().unwrap(), bytes.len() as u64);
        for (offset, length) in [(bytes.len() as u64, 1), (bytes.len() as u64 - 3, 4), (u64::MAX, 2), (1 << 60, 1)] {
            let error = file.read_exact_at(offset, &mut vec![0; length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn members_follow_each_other_and_padding_is_ignored() {
        let bytes = content(1 << 20);
        let mut file = Vec::new();
        let cuts = [0, 10, 10, CHUNK_BYTES as usize, CHUNK_BYTES as usize + 1, 777_777, bytes.len()];
        cuts.windows(2).for_each(|cut| file.extend(packed(&bytes[cut[0]..cut[1]])));
        for padding in [0, 1, 512] {
            let mut padded = file.clone();
            padded.resize(file.len() + padding, 0);
            let found = gzip(&padded);
            let mut whole = vec![0; bytes.len()];
            found.read_exact_at(0, &mut whole).unwrap();
            assert!(whole == bytes);
            assert_eq!(found.len_bytes().unwrap(), bytes.len() as u64);
        }
        assert_eq!(gzip(&packed(&[])).len_bytes().unwrap(), 0);
    }

    #[test]
    fn reading_on_never_begins_again_and_readers_may_overtake_each_other() {
        let bytes = content(20 << 20);
        let packed = packed(&bytes);
        let counting = Arc::new(CountingFile::new(MemoryFile::from_bytes(&packed)));
        let file = GzipFile::new(counting.clone()).unwrap();
        // Four workers with units of 1 MiB: groups of four come in any order.
        for group in 0..5u64 {
            for unit in [2, 0, 3, 1] {
                let offset = (group * 4 + unit) << 20;
                let mut found = vec![0; 1 << 20];
                file.read_exact_at(offset, &mut found).unwrap();
                assert!(found == bytes[offset as usize..][..1 << 20]);
            }
        }
        assert!(counting.read_bytes() <= packed.len() as u64 + INPUT_BYTES, "{}", counting.read_bytes());
    }

    #[test]
    fn memory_does_not_depend_on_the_length() {
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(1));
        let zeros = vec![0; 1 << 20];
        (0..600).for_each(|_| encoder.write_all(&zeros).unwrap());
        let file = gzip(&encoder.finish().unwrap());
        assert_eq!(file.len_bytes().unwrap(), 600 << 20);
        let state = file.lock();
        let each = size_of::<Checkpoint>() + HISTORY_BYTES;
        assert!(state.checkpoints.len() > MAX_CHECKPOINTS / 2 && state.checkpoints.len() <= MAX_CHECKPOINTS);
        assert!(each * MAX_CHECKPOINTS + (MAX_CHUNKS * CHUNK_BYTES) as usize <= 30 << 20, "{each}");
    }

    #[test]
    fn damage_and_cuts_are_errors() {
        let bytes = content(700_000);
        let whole = packed(&bytes);
        for cut in [0, 5, 11, 200, whole.len() / 2, whole.len() - 9, whole.len() - 8, whole.len() - 1] {
            assert!(gzip(&whole[..cut]).len_bytes().is_err(), "cut at {cut}");
        }
        let mut random = Random(1);
        for _ in 0..200 {
            // Bytes 4 to 9 are a time, hints and an operating system; the name and the rest follow.
            let place = 400 + random.below(whole.len() as u64 - 400) as usize;
            let mut changed = whole.clone();
            changed[place] ^= 1 << random.below(8);
            assert!(gzip(&changed).len_bytes().is_err(), "changed at {place}");
        }
    }

    #[test]
    fn a_head_is_inflated_as_far_as_it_goes() {
        let bytes = content(100_000);
        let packed = packed(&bytes);
        let mut found = [0; 512];
        assert_eq!(inflate_head(&packed[..4096], &mut found), 512);
        assert_eq!(found[..], bytes[..512]);
        assert_eq!(inflate_head(&packed[..8], &mut found), 0);
        assert_eq!(inflate_head(b"no gzip file at all", &mut found), 0);
    }
}
