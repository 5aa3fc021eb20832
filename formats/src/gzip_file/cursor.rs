//! Inflating a gzip file front to back, from its beginning or from a checkpoint.

use std::io;

use crc32fast::Hasher;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT};

use super::CHUNK_BYTES;
use crate::host_file::HostFile;

/// How far back deflate can refer.
pub(super) const HISTORY_BYTES: usize = 32 << 10;

/// How much compressed data is read at a time. A gzip member's header must be shorter.
pub(super) const INPUT_BYTES: u64 = 64 << 10;

/// The magic number and the only method that there is: deflate.
pub const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before a gzip member's header.
    Header,
    /// In its deflate stream.
    Deflate,
    /// After the last member.
    End,
}

/// An inflater in the middle of its work.
pub(super) struct Cursor {
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

/// A copy of an inflater between two chunks, to begin from again.
pub(super) struct Checkpoint {
    /// The number of the chunk that comes next.
    pub next_chunk: u64,
    stage: Stage,
    host_offset: u64,
    inflate: DecompressorOxide,
    history: Box<[u8]>,
    sum: Hasher,
    member_bytes: u64,
}

impl Cursor {
    /// Begins at the first byte.
    pub fn new() -> Self {
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

    /// Goes on from a checkpoint.
    pub fn resume(from: &Checkpoint) -> Self {
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

    /// Copies a cursor at rest.
    pub fn checkpoint(&self) -> Checkpoint {
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
    pub fn next_chunk(&self) -> u64 {
        self.inflated_bytes / CHUNK_BYTES
    }

    /// True after the last member: there is nothing more.
    pub fn is_at_end(&self) -> bool {
        self.stage == Stage::End
    }

    /// How many bytes come before, inflated.
    pub fn inflated_bytes(&self) -> u64 {
        self.inflated_bytes
    }

    /// The chunk that was inflated last.
    pub fn chunk_bytes(&self) -> &[u8] {
        &self.window[..self.window_bytes]
    }

    /// Inflates the next chunk: all of it, or up to the end.
    pub fn inflate_chunk(&mut self, file: &dyn HostFile, file_bytes: u64) -> io::Result<()> {
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
