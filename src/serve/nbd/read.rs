//! Reads: data in pieces, each sent as soon as it is there; holes as a word.

use std::fs::File;
use std::io::{self, IoSlice};

use tintype_formats::extent::{DiskKind, HostRange};
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ImageError};

use super::budget::PIECE_BYTES;
use super::errno::Refusal;
use super::request::Request;
use super::transmission::Transmission;
use super::worker::{WORKER_BYTES, Worker};
use crate::nbd_protocol::command_flag;

/// From this length on, in bytes, it is worth asking where holes are, and letting the kernel pass on what is stored.
const MIN_RUN_BYTES: u64 = 32 << 10;

/// How many short extents are looked up before what they are is read.
const MAX_LOOKUPS: usize = 16;

/// A part of what is to be read, no longer than [`PIECE_BYTES`] unless it is zeros.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    Zeros(u64),
    /// Bytes, and where they are stored as they are in one run of a host file.
    Stored(u64, Option<HostRange>),
}

/// What to send next.
fn run_at(disk: &dyn BlockSource, at: u64, end: u64) -> Result<Run, ImageError> {
    let piece_bytes = (end - at).min(PIECE_BYTES as u64);
    if piece_bytes < MIN_RUN_BYTES {
        return Ok(Run::Stored(piece_bytes, None));
    }
    let first = disk.extent_at(at, end - at)?;
    let is_hole = |kind: DiskKind, length_bytes: u64| kind.reads_as_zeros() && length_bytes >= MIN_RUN_BYTES;
    if is_hole(first.kind, first.length_bytes) {
        return Ok(Run::Zeros(first.length_bytes));
    }
    let mut place = stored_at(first.kind);
    let mut length_bytes = first.length_bytes.min(piece_bytes);
    for _ in 0..MAX_LOOKUPS {
        if length_bytes == piece_bytes {
            break;
        }
        let next = disk.extent_at(at + length_bytes, piece_bytes - length_bytes)?;
        if is_hole(next.kind, next.length_bytes) {
            break;
        }
        place = place.filter(|place| stored_at(next.kind) == Some(place.advanced(length_bytes)));
        length_bytes += next.length_bytes;
    }
    Ok(Run::Stored(length_bytes, place))
}

fn stored_at(kind: DiskKind) -> Option<HostRange> {
    match kind {
        DiskKind::Data(place) => place,
        _ => None,
    }
}

impl Transmission<'_> {
    /// Answers a read.
    pub fn read(&self, request: &Request, worker: &mut Worker) -> io::Result<()> {
        match request.length_bytes {
            0 => self.reply_empty(request),
            _ if self.agreed.structured && !request.has(command_flag::DF) => self.read_in_pieces(request, worker),
            _ => self.read_whole(request, worker),
        }
    }

    fn read_whole(&self, request: &Request, worker: &mut Worker) -> io::Result<()> {
        let (disk, length) = (self.export.disk(), request.length_bytes as usize);
        if length <= WORKER_BYTES {
            let data = worker.buffer(length);
            return match disk.read_at(request.offset, data) {
                Ok(()) => self.answer_whole(request, &[IoSlice::new(data)]),
                Err(error) => self.disk_failed(request, &error, Some(request.offset)),
            };
        }
        let Some(mut share) = self.share_of(length) else { return self.read_while_sending(request) };
        let mut at = request.offset;
        for part in share.parts_mut() {
            if let Err(error) = disk.read_at(at, part) {
                return self.disk_failed(request, &error, Some(at));
            }
            at += part.len() as u64;
        }
        self.answer_whole(request, &share.slices().collect::<Vec<_>>())
    }

    fn answer_whole(&self, request: &Request, data: &[IoSlice<'_>]) -> io::Result<()> {
        self.count_read(request.length_bytes as usize);
        self.reply_whole(request, data)
    }

    /// Reads a range that nothing can hold. Where the disk fails then, only the end of the connection can say so.
    fn read_while_sending(&self, request: &Request) -> io::Result<()> {
        let mut reserve = self.reserve.lock().unpoisoned();
        self.reply_while_reading(request, reserve.bytes(), |at, part| {
            self.export.disk().read_at(at, part).map_err(|error| {
                self.tell_failure(&Refusal::of(&error));
                io::Error::other("the disk failed in the middle of an answer")
            })?;
            self.count_read(part.len());
            Ok(())
        })
    }

    fn read_in_pieces(&self, request: &Request, worker: &mut Worker) -> io::Result<()> {
        let (mut at, end) = (request.offset, request.end());
        while at < end {
            at += match run_at(self.export.disk(), at, end) {
                Ok(Run::Zeros(length_bytes)) => {
                    let length_bytes = length_bytes.min(end - at);
                    // Of a part of a request, whose length has as many bits.
                    self.reply_hole(request, at, at + length_bytes == end, length_bytes as u32)?;
                    length_bytes
                }
                Ok(Run::Stored(length_bytes, place)) => {
                    let piped = place.map_or(Ok(0), |place| self.pipe(request, at, length_bytes, place, worker))?;
                    if piped > 0 {
                        piped
                    } else {
                        match self.read_piece(request, at, length_bytes, worker)? {
                            Some(read_bytes) => read_bytes,
                            None => return Ok(()),
                        }
                    }
                }
                Err(error) => return self.disk_failed(request, &error, Some(at)),
            };
        }
        Ok(())
    }

    /// Reads and sends a piece, or a part of it; says how much. None if the disk failed, and the answer is at its end.
    fn read_piece(
        &self,
        request: &Request,
        at: u64,
        length_bytes: u64,
        worker: &mut Worker,
    ) -> io::Result<Option<u64>> {
        self.with_room(worker, length_bytes as usize, |data| {
            if let Err(error) = self.export.disk().read_at(at, data) {
                return self.disk_failed(request, &error, Some(at)).map(|()| None);
            }
            let read_bytes = data.len() as u64;
            self.count_read(data.len());
            self.reply_data(request, at, at + read_bytes == request.end(), data)?;
            Ok(Some(read_bytes))
        })
    }

    /// Has the kernel send what a file holds; says of how many bytes it was able to.
    ///
    /// Pages that are on their way are still the file's: where they may be overwritten they are copied instead.
    fn pipe(
        &self,
        request: &Request,
        at: u64,
        length_bytes: u64,
        place: HostRange,
        worker: &mut Worker,
    ) -> io::Result<u64> {
        if length_bytes < MIN_RUN_BYTES || self.channel.plain().is_none() || self.export.writable().is_some() {
            return Ok(0);
        }
        let (Some(file), Some(pipe)) = (self.host_file(place), worker.pipe()) else { return Ok(0) };
        pipe.fill(file, place.host_offset, length_bytes as usize);
        let piped_bytes = pipe.filled_bytes() as u64;
        if piped_bytes > 0 {
            self.count_read(pipe.filled_bytes());
            self.reply_piped(request, at, at + piped_bytes == request.end(), pipe)?;
        }
        Ok(piped_bytes)
    }

    fn host_file(&self, place: HostRange) -> Option<&File> {
        self.export.disk().host_files().get(place.file.0)?.file.as_file()
    }

    /// Reads a range so that whoever is below has it at hand.
    pub fn cache(&self, request: &Request, worker: &mut Worker) -> io::Result<()> {
        let (mut at, end) = (request.offset, request.end());
        while at < end && !self.is_stopping() {
            let found = run_at(self.export.disk(), at, end).and_then(|run| match run {
                Run::Zeros(length_bytes) => Ok(length_bytes),
                Run::Stored(length_bytes, _) => self.with_room(worker, length_bytes as usize, |room| {
                    self.export.disk().read_at(at, room).map(|()| room.len() as u64)
                }),
            });
            match found {
                Ok(length_bytes) => at += length_bytes,
                Err(error) => return self.disk_failed(request, &error, None),
            }
        }
        self.reply_done(request)
    }
}
