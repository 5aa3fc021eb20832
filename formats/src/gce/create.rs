//! Creating: a true stream. Every part of the disk is compressed by itself, on all workers, and holes by a table.

use std::sync::{Arc, Mutex, MutexGuard};

use crc32fast::Hasher;

use crate::HostFileMut;
use crate::codec::deflate_part;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::locks::Unpoisoned as _;
use crate::sink::{
    Compression, CreateOptions, GuestUnit, IdentitySeed, ImageWriter, RunKind, TargetFiles, UnitContent, UnitWriter,
    WriterLayout,
};
use crate::tar::{self, Flavour};

/// What is compressed at a time. Deflate looks back 32 KiB: what is lost at the boundaries is below a percent.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// What Compute Engine wants disks to be multiples of.
const GIB: u64 = 1 << 30;

/// The largest disk of Compute Engine. An archive of a larger one would be gibibytes even without data.
const MAX_DISK_BYTES: u64 = 64 << 40;

/// What zlib calls its default.
const DEFAULT_LEVEL: u32 = 6;

/// Zeros are compressed once.
const ZERO_LEVEL: u32 = 9;

/// RFC 1952, 2.3: deflate, no flags, no time, no hints, an unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// RFC 1951, 3.2.4: the last block of the stream, stored, of no bytes.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Small pieces go to the file together.
const WRITE_BYTES: usize = 1 << 20;

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    check_size(options.geometry.size_bytes)?;
    begin_any_size(files, options)
}

/// As [`begin`], for disks that Compute Engine would not take: the tests have no gigabytes.
pub(super) fn begin_any_size(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    if options.target_holds_old_data {
        let detail = "an image is a new file; on a device or in an existing file only raw disks make sense";
        return Err(ImageError::unsupported(DOING, detail));
    }
    let level = match options.compression {
        Compression::Zlib(level) => level,
        _ => DEFAULT_LEVEL,
    };
    Ok(Box::new(Writer::new(files.main(), options.geometry.size_bytes, level)?))
}

/// Compute Engine refuses other sizes after the upload, which is late.
fn check_size(size_bytes: u64) -> Result<()> {
    let detail = if size_bytes > MAX_DISK_BYTES {
        format!("the disk has {size_bytes} bytes, those of Compute Engine have at most {MAX_DISK_BYTES} (64 TiB)")
    } else if size_bytes == 0 || !size_bytes.is_multiple_of(GIB) {
        let wanted = size_bytes.max(1).next_multiple_of(GIB);
        format!(
            "the disk has {size_bytes} bytes, Compute Engine takes whole GiB: extend it by {} bytes to {} GiB",
            wanted - size_bytes,
            wanted / GIB
        )
    } else {
        return Ok(());
    };
    Err(ImageError::new(ErrorKind::InvalidOption, DOING, detail))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    check_size(options.geometry.size_bytes)?;
    let zeros = Zeros::new()?;
    let fixed = GZIP_HEADER.len() as u64 + tar::RECORD_BYTES;
    let size_bytes = options.geometry.size_bytes;
    let stored = |bytes: u64| {
        // Deflate stores what does not shrink, in blocks of at most 65,535 bytes with 5 more each.
        let holes = size_bytes.saturating_sub(bytes) / BLOCK_BYTES * zeros.packed.len() as u64;
        bytes.saturating_add(bytes / 8192).saturating_add(holes + fixed)
    };
    let touched = touched_bytes(BLOCK_BYTES)?;
    Ok(Measure { required_bytes: stored(touched), fully_allocated_bytes: stored(size_bytes) })
}

const DOING: &str = "create Google Compute Engine image";

struct Writer {
    file: Arc<dyn HostFileMut>,
    size_bytes: u64,
    level: u32,
    zeros: Zeros,
    state: Mutex<State>,
}

/// How far the placing is.
struct State {
    guest_offset: u64,
    host_offset: u64,
    /// The checksum of everything before.
    sum: Hasher,
}

/// A block of zeros.
struct Zeros {
    packed: Vec<u8>,
    sum: Hasher,
}

impl Zeros {
    fn new() -> Result<Self> {
        let (packed, sum) = pack(&vec![0; BLOCK_BYTES as usize], ZERO_LEVEL)?;
        Ok(Zeros { packed, sum })
    }

    /// The checksum of so many blocks, by doubling: a hole of terabytes has millions.
    fn sum_of(&self, blocks: u64) -> Hasher {
        let (mut all, mut power, mut left) = (Hasher::new(), self.sum.clone(), blocks);
        while left > 0 {
            if left & 1 == 1 {
                all.combine(&power);
            }
            let half = power.clone();
            power.combine(&half);
            left >>= 1;
        }
        all
    }
}

fn pack(bytes: &[u8], level: u32) -> Result<(Vec<u8>, Hasher)> {
    let packed = deflate_part(bytes, level).map_err(|cause| ImageError::unsupported(DOING, cause.to_string()))?;
    let mut sum = Hasher::new();
    sum.update(bytes);
    Ok((packed, sum))
}

enum Piece {
    /// Whole blocks of zeros.
    Zeros(u64),
    /// A block, or the part of one at the end of the disk.
    Packed(Vec<u8>, Hasher),
}

struct Encoded {
    guest_offset: u64,
    length_bytes: u64,
    pieces: Vec<Piece>,
    host_offset: u64,
}

impl Writer {
    fn new(file: Arc<dyn HostFileMut>, size_bytes: u64, level: u32) -> Result<Self> {
        let header = tar::file_header(Flavour::OldGnu, super::DISK_NAME, size_bytes)
            .ok_or_else(|| ImageError::unsupported(DOING, "the name disk.raw is too long"))?;
        let (packed, sum) = pack(&header, level)?;
        let begin = [&GZIP_HEADER[..], &packed].concat();
        write(file.as_ref(), 0, &begin)?;
        let state = Mutex::new(State { guest_offset: 0, host_offset: begin.len() as u64, sum });
        Ok(Writer { file, size_bytes, level, zeros: Zeros::new()?, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Zeros of any length: whole blocks, and at the end of the disk a part of one.
    fn zero_pieces(&self, length_bytes: u64, pieces: &mut Vec<Piece>) -> Result<()> {
        if length_bytes >= BLOCK_BYTES {
            pieces.push(Piece::Zeros(length_bytes / BLOCK_BYTES));
        }
        if !length_bytes.is_multiple_of(BLOCK_BYTES) {
            let (packed, sum) = pack(&vec![0; (length_bytes % BLOCK_BYTES) as usize], ZERO_LEVEL)?;
            pieces.push(Piece::Packed(packed, sum));
        }
        Ok(())
    }

    /// Moves the state over a piece.
    fn pass(&self, state: &mut State, piece: &Piece) {
        let (packed_bytes, sum) = match piece {
            Piece::Zeros(blocks) => (blocks * self.zeros.packed.len() as u64, &self.zeros.sum_of(*blocks)),
            Piece::Packed(packed, sum) => (packed.len() as u64, sum),
        };
        state.host_offset += packed_bytes;
        state.sum.combine(sum);
    }

    fn write_pieces(&self, pieces: &[Piece], mut host_offset: u64) -> Result<()> {
        let mut buffer = Vec::with_capacity(WRITE_BYTES + BLOCK_BYTES as usize);
        let mut flush = |buffer: &mut Vec<u8>, least_bytes: usize| {
            if buffer.len() >= least_bytes.max(1) {
                write(self.file.as_ref(), host_offset, buffer)?;
                host_offset += buffer.len() as u64;
                buffer.clear();
            }
            Ok(())
        };
        for piece in pieces {
            match piece {
                Piece::Packed(packed, _) => buffer.extend_from_slice(packed),
                Piece::Zeros(blocks) => {
                    for _ in 0..*blocks {
                        buffer.extend_from_slice(&self.zeros.packed);
                        flush(&mut buffer, WRITE_BYTES)?;
                    }
                }
            }
            flush(&mut buffer, WRITE_BYTES)?;
        }
        flush(&mut buffer, 1)
    }
}

fn write(file: &dyn HostFileMut, host_offset: u64, bytes: &[u8]) -> Result<()> {
    let written = file.write_all_at(host_offset, bytes);
    written.map_err(|cause| ImageError::io("write Google Compute Engine image", cause).at_host(host_offset))
}

/// Whether a block of the unit holds anything but zeros.
fn has_data(unit: &GuestUnit<'_>, begin: u64, end: u64) -> bool {
    let after = unit.runs.partition_point(|run| run.offset + run.length_bytes <= begin);
    unit.runs[after..].iter().take_while(|run| run.offset < end).any(|run| run.kind == RunKind::Data)
}

impl UnitWriter for Writer {
    type Encoded<'a> = Encoded;

    fn layout(&self) -> WriterLayout {
        WriterLayout { unit_bytes: BLOCK_BYTES, clones: false, in_place: false }
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Encoded> {
        let mut pieces = Vec::new();
        let mut zeros = 0;
        for begin in (0..unit.length_bytes).step_by(BLOCK_BYTES as usize) {
            let end = (begin + BLOCK_BYTES).min(unit.length_bytes);
            match unit.content {
                UnitContent::Bytes(bytes) if has_data(unit, begin, end) => {
                    self.zero_pieces(std::mem::take(&mut zeros), &mut pieces)?;
                    let (packed, sum) = pack(&bytes[begin as usize..end as usize], self.level)?;
                    pieces.push(Piece::Packed(packed, sum));
                }
                UnitContent::Host(..) => return Err(ImageError::unsupported(DOING, "blocks cannot be cloned into it")),
                _ => zeros += end - begin,
            }
        }
        self.zero_pieces(zeros, &mut pieces)?;
        Ok(Encoded { guest_offset: unit.guest_offset, length_bytes: unit.length_bytes, pieces, host_offset: 0 })
    }

    /// What was left out before the unit belongs to it from here on.
    fn place(&self, encoded: &mut Encoded) -> Result<()> {
        let mut state = self.state();
        let hole_bytes = encoded.guest_offset - state.guest_offset;
        if hole_bytes > 0 {
            // A hole before a unit is made of whole blocks.
            encoded.pieces.insert(0, Piece::Zeros(hole_bytes / BLOCK_BYTES));
        }
        encoded.host_offset = state.host_offset;
        encoded.pieces.iter().for_each(|piece| self.pass(&mut state, piece));
        state.guest_offset = encoded.guest_offset + encoded.length_bytes;
        Ok(())
    }

    fn write(&self, encoded: &Encoded) -> Result<()> {
        self.write_pieces(&encoded.pieces, encoded.host_offset)
    }

    fn finish(self, _: &IdentitySeed) -> Result<()> {
        let mut state = self.state();
        let (host_offset, mut pieces) = (state.host_offset, Vec::new());
        self.zero_pieces(self.size_bytes - state.guest_offset, &mut pieces)?;
        let disk_end = tar::BLOCK_BYTES + self.size_bytes;
        let archive_bytes =
            (disk_end.next_multiple_of(tar::BLOCK_BYTES) + 2 * tar::BLOCK_BYTES).next_multiple_of(tar::RECORD_BYTES);
        let (packed, sum) = pack(&vec![0; (archive_bytes - disk_end) as usize], ZERO_LEVEL)?;
        pieces.push(Piece::Packed(packed, sum));
        pieces.iter().for_each(|piece| self.pass(&mut state, piece));
        let sum = state.sum.clone().finalize().to_le_bytes();
        // The length is kept modulo 2^32 (RFC 1952, 2.3.1).
        let trailer = [&LAST_BLOCK[..], &sum, &(archive_bytes as u32).to_le_bytes()].concat();
        pieces.push(Piece::Packed(trailer, Hasher::new()));
        self.write_pieces(&pieces, host_offset)?;
        self.file.sync_data().map_err(|cause| ImageError::io("flush the Google Compute Engine image", cause))
    }
}
