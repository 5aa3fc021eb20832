//! Disks on other machines and in other processes, by the NBD protocol: an export is a file to read and write.
//!
//! ```text
//!   NbdFile ── aligned requests ──► Pool ── round robin ──► Connection ──► Channel (TCP, Unix; TLS)
//!   (cuts by the server's limits)   (connects again)        (many requests at once)
//! ```
//!
//! Invariants: nothing that a server says is believed before it is checked, and nothing it sends is read past a bound; a
//! write that was answered and is not flushed is never forgotten (see `pool`).

mod address;
mod answer;
mod connection;
mod handshake;
#[cfg(test)]
mod hostile_tests;
mod pool;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tintype_formats::host_file::{FileIdentity, HostExtent, HostFile, HostFileMut};
use tintype_formats::locks::Unpoisoned as _;

pub use self::address::{NbdAddress, is_nbd, nbd_uri_part};
use self::connection::Connection;
use self::handshake::{Wanted, negotiate};
use self::pool::{Connector, Pool};
use self::wire::{Command, Request};
use crate::error::{Error, Kind, Result};
use crate::nbd_protocol;

/// How NBD servers are talked to.
#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// Where `ca-cert.pem`, `client-cert.pem` and `client-key.pem` are.
    pub tls_folder: Option<PathBuf>,
    /// How long to wait for a server that does not answer, and for one that is gone to come back.
    pub patience: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        NbdOptions { tls_folder: None, patience: Duration::from_secs(30) }
    }
}

/// The longest range that is asked about or zeroed at once, in bytes: no bytes of it go over the wire.
const MAX_RANGE_BYTES: u64 = 128 << 20;

/// An export of an NBD server.
pub struct NbdFile {
    pool: Arc<Pool>,
    /// What the server said last about holes: runs in ascending order, without gaps, and where the first begins.
    known: Mutex<Known>,
    /// Held to change a part of one of the server's blocks.
    edges: Mutex<()>,
    is_changed: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// Ends of runs, and whether they are holes.
    runs: Vec<(u64, bool)>,
    begin: u64,
    /// Counts the changes of the disk: an answer from before one of them is not kept.
    changes: u64,
}

impl Known {
    fn at(&self, offset: u64, max_bytes: u64) -> Option<HostExtent> {
        let index = self.runs.partition_point(|(end, _)| *end <= offset);
        let (end, hole) = *self.runs.get(index)?;
        let known = offset >= self.begin && end > offset;
        known.then(|| HostExtent { length_bytes: (end - offset).min(max_bytes), hole })
    }
}

impl NbdFile {
    /// Connects to the server that a path names, if it is an address; also says who the disk is.
    pub fn open_path(path: &Path, options: &NbdOptions) -> Result<(Self, FileIdentity)> {
        let text = path.to_str().ok_or_else(|| Error::new(Kind::Usage, "the NBD address is not UTF-8"))?;
        let address = NbdAddress::parse(text).map_err(|wrong| Error::new(Kind::Usage, wrong))?;
        Ok((NbdFile::open(&address, options)?, address.identity()))
    }

    /// Connects to a server.
    pub fn open(address: &NbdAddress, options: &NbdOptions) -> Result<Self> {
        let config = match &address.tls_name {
            Some(_) => Some(tls::configure(options.tls_folder.as_deref())?),
            None => None,
        };
        let (address, patience) = (address.clone(), options.patience);
        let connector = move |deadline: Instant| {
            let socket = transport::connect(&address.endpoint, deadline)?;
            let tls = config.as_ref().zip(address.tls_name.as_deref());
            let wanted = Wanted { export: &address.export, tls, deadline };
            let negotiated = negotiate(socket, &wanted);
            let (channel, export) = if tls.is_some() { negotiated.map_err(tls::explained)? } else { negotiated? };
            Ok(Connection::new(channel, export, patience))
        };
        Self::over(Arc::new(connector), patience).map_err(|cause| Error::io("connect to the NBD server", cause))
    }

    fn over(connector: Connector, patience: Duration) -> io::Result<Self> {
        let pool = Pool::open(connector, patience)?;
        Ok(NbdFile { pool, known: Mutex::default(), edges: Mutex::default(), is_changed: AtomicBool::new(false) })
    }

    /// Whether the server takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.pool.export().flags & nbd_protocol::export_flag::READ_ONLY != 0
    }

    /// Whether anything was written, or begun to be.
    pub fn is_changed(&self) -> bool {
        self.is_changed.load(Relaxed)
    }

    fn size_bytes(&self) -> u64 {
        self.pool.export().size_bytes
    }

    fn min_bytes(&self) -> u64 {
        self.pool.export().min_bytes.into()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unpoisoned()
    }

    fn check_range(&self, offset: u64, length_bytes: u64) -> io::Result<()> {
        match offset.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads a range that begins and ends with the server's blocks.
    fn read_blocks(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let step = self.pool.export().max_bytes as usize;
        let mut offset = offset;
        for part in buffer.chunks_mut(step) {
            self.pool.read(offset, part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn write_blocks(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let step = self.pool.export().max_bytes as usize;
        let mut offset = offset;
        for part in bytes.chunks(step) {
            let request = Request { command: Command::Write, offset, length_bytes: part.len() as u32 };
            self.pool.change(&request, part)?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// The whole blocks of the server that a range lies in.
    fn around(&self, offset: u64, length_bytes: u64) -> (u64, u64) {
        let min_bytes = self.min_bytes();
        (offset / min_bytes * min_bytes, (offset + length_bytes).next_multiple_of(min_bytes))
    }

    fn is_whole(&self, offset: u64, length_bytes: u64) -> bool {
        self.around(offset, length_bytes) == (offset, offset + length_bytes)
    }

    /// Notes that what was known about holes is known no longer.
    fn note_change(&self) {
        self.is_changed.store(true, Relaxed);
        let mut known = self.known();
        known.runs.clear();
        known.changes += 1;
    }

    /// Writes zeros at the beginning of a range; says how many.
    fn write_some_zeros(&self, offset: u64, length_bytes: u64) -> io::Result<u64> {
        const STEP_BYTES: u64 = 1 << 20;
        let can_zero = self.pool.export().flags & nbd_protocol::export_flag::SEND_WRITE_ZEROES != 0;
        let whole = length_bytes.min(MAX_RANGE_BYTES) / self.min_bytes() * self.min_bytes();
        if can_zero && whole > 0 && self.is_whole(offset, whole) {
            self.note_change();
            let request = Request { command: Command::WriteZeroes, offset, length_bytes: whole as u32 };
            let zeroed = self.pool.change(&request, &[]);
            self.note_change();
            return zeroed.map(|()| whole);
        }
        // Up to the server's next block, if only a part of one is in the way.
        let to_next = (offset + 1).next_multiple_of(self.min_bytes()) - offset;
        let step = if can_zero { to_next } else { STEP_BYTES }.min(length_bytes);
        self.write_all_at(offset, &vec![0; step as usize])?;
        Ok(step)
    }

    /// Asks the server about a range, and keeps what it says beyond.
    fn ask_for_extents(&self, offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        let data = HostExtent { length_bytes: max_bytes, hole: false };
        let changes = self.known().changes;
        let begin = self.around(offset, 0).0;
        let length = (self.size_bytes() - begin).min(MAX_RANGE_BYTES);
        let runs = match self.pool.block_status(begin, length as u32) {
            Ok(runs) => runs,
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => return Err(cause),
            // A server that cannot say what is allocated there may still read it.
            Err(_) => return Ok(data),
        };
        let found = Known { runs: joined(&runs, begin, begin + length), begin, changes };
        let extent = found.at(offset, max_bytes).unwrap_or(data);
        let mut known = self.known();
        if known.changes == changes {
            *known = found;
        }
        Ok(extent)
    }
}

/// The smallest hole that counts, in bytes; less is data, which is always true.
const LEAST_HOLE_BYTES: u64 = 4096;

/// How much of the disk an answer is taken to be about at least, in bytes: what a server leaves out is data.
const LEAST_ANSWER_BYTES: u64 = 64 << 10;

/// What a server says of a range, as ends of runs and whether they are holes. However small its pieces are, there are few runs,
/// and they reach far enough.
fn joined(pieces: &[answer::StatusRun], begin: u64, end: u64) -> Vec<(u64, bool)> {
    let mut runs: Vec<(u64, bool)> = Vec::new();
    let mut add = |to: u64, hole: bool| match runs.last_mut() {
        Some(last) if last.1 == hole => last.0 = to,
        _ => runs.push((to, hole)),
    };
    // Where the runs end, and where the hole after them does.
    let (mut at, mut hole_end) = (begin, begin);
    let mut close = |at: &mut u64, hole_end: u64, next: u64| {
        if hole_end - *at >= LEAST_HOLE_BYTES {
            add(hole_end, true);
            *at = hole_end;
        }
        if next > *at {
            add(next, false);
            *at = next;
        }
    };
    let mut place = begin;
    for (length_bytes, flags) in pieces {
        place = place.saturating_add((*length_bytes).into()).min(end);
        match flags & nbd_protocol::allocation::ZERO != 0 {
            true => hole_end = place,
            false => {
                close(&mut at, hole_end, place);
                hole_end = place;
            }
        }
    }
    let least = end.min(begin.saturating_add(LEAST_ANSWER_BYTES));
    close(&mut at, hole_end, hole_end.max(least));
    runs
}

impl HostFile for NbdFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes())
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length_bytes = buffer.len() as u64;
        self.check_range(host_offset, length_bytes)?;
        if self.is_whole(host_offset, length_bytes) {
            return self.read_blocks(host_offset, buffer);
        }
        let (begin, end) = self.around(host_offset, length_bytes);
        let mut blocks = vec![0; (end - begin) as usize];
        self.read_blocks(begin, &mut blocks)?;
        buffer.copy_from_slice(&blocks[(host_offset - begin) as usize..][..buffer.len()]);
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.check_range(host_offset, max_bytes)?;
        if self.pool.export().allocation.is_none() {
            return Ok(HostExtent { length_bytes: max_bytes, hole: false });
        }
        let known = self.known().at(host_offset, max_bytes);
        known.map_or_else(|| self.ask_for_extents(host_offset, max_bytes), Ok)
    }
}

impl HostFileMut for NbdFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length_bytes = bytes.len() as u64;
        self.check_range(host_offset, length_bytes)?;
        self.note_change();
        let written = match self.is_whole(host_offset, length_bytes) {
            true => self.write_blocks(host_offset, bytes),
            false => {
                let _alone = self.edges.lock().unpoisoned();
                let (begin, end) = self.around(host_offset, length_bytes);
                let mut blocks = vec![0; (end - begin) as usize];
                self.read_blocks(begin, &mut blocks)?;
                blocks[(host_offset - begin) as usize..][..bytes.len()].copy_from_slice(bytes);
                self.write_blocks(begin, &blocks)
            }
        };
        self.note_change();
        written
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.check_range(host_offset, length_bytes)?;
        let (mut offset, end) = (host_offset, host_offset + length_bytes);
        while offset < end {
            // What reads as zeros stays as it is: a new target is not filled with them.
            let found = self.extent_at(offset, end - offset)?;
            offset += if found.hole { found.length_bytes } else { self.write_some_zeros(offset, found.length_bytes)? };
        }
        Ok(())
    }

    /// A server has the room that it says it has.
    fn allocate(&self, _host_offset: u64, _length_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Its length is what it is.
    fn set_len_bytes(&self, _length_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pool.flush()
    }
}
