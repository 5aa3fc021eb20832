//! Writes a stored disk over what is there, but only where that differs: what is equal is known by its hash, and not read
//! from the repository.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tintype_formats::is_zero;
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource as _, HostFileMut};
use tintype_tin::keys::KeyRing;
use tintype_tin::map::Entry;

use super::rate_limit::RateLimit;
use crate::error::{Error, OnPath as _, Result};
use crate::progress::Progress;
use crate::repository::disk::SnapshotDisk;
use crate::targets::Target;

/// How to compare and write.
#[derive(Debug, Clone, Copy)]
pub struct DeltaOptions {
    /// How many chunks may be in the works at once.
    pub workers: usize,
    /// How many bytes of data a second to compare at most.
    pub rate_limit: Option<u64>,
}

/// What a delta came to, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// How much was compared: the whole disk, or the part of it.
    pub compared_bytes: u64,
    /// How much data was written.
    pub written_bytes: u64,
    /// How much was made zeros.
    pub zeroed_bytes: u64,
}

/// Makes the target's begin what `range` of the disk is, and syncs it; or says what became of it.
pub fn rewrite(
    disk: &SnapshotDisk,
    ring: &KeyRing,
    range: Range<u64>,
    target: &Target,
    options: DeltaOptions,
    progress: &Progress,
) -> Result<Rewritten> {
    progress.begin(range.end - range.start);
    let file = target.file();
    let rate_limit = options.rate_limit.map(RateLimit::new);
    let (written, zeroed) = (AtomicU64::new(0), AtomicU64::new(0));
    let job = Job { disk, ring, range, file: file.as_ref(), rate_limit, written, zeroed };
    let synced = job.run(options.workers, progress).and_then(|()| {
        progress.check_cancelled()?;
        file.sync_data().map_err(|cause| Error::io("make durable what was written", cause))?;
        target.commit()
    });
    match synced.on_path(target.path()) {
        Ok(()) => Ok(Rewritten {
            compared_bytes: job.range.end - job.range.start,
            written_bytes: job.written.into_inner(),
            zeroed_bytes: job.zeroed.into_inner(),
        }),
        Err(cause) => Err(match target.abandon() {
            Some(aftermath) => cause.with_aftermath(aftermath),
            None => cause,
        }),
    }
}

struct Job<'a> {
    disk: &'a SnapshotDisk,
    ring: &'a KeyRing,
    range: Range<u64>,
    file: &'a dyn HostFileMut,
    rate_limit: Option<RateLimit>,
    written: AtomicU64,
    zeroed: AtomicU64,
}

/// A worker's memory.
#[derive(Default)]
struct Buffers {
    found: Vec<u8>,
    wanted: Vec<u8>,
}

impl Job<'_> {
    /// Compares all chunks, each on the next free worker.
    fn run(&self, workers: usize, progress: &Progress) -> Result<()> {
        let chunk_bytes = self.disk.mapped().shape().chunk_bytes;
        let next = AtomicU64::new(self.range.start / chunk_bytes);
        let end = self.range.end.div_ceil(chunk_bytes);
        let failed = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let work = || {
            let mut buffers = Buffers::default();
            while !failed.load(Relaxed) {
                let index = next.fetch_add(1, Relaxed);
                if index >= end {
                    return Ok(());
                }
                progress.check_cancelled()?;
                let chunk = index * chunk_bytes..(index + 1) * chunk_bytes;
                let part = chunk.start.max(self.range.start)..chunk.end.min(self.range.end);
                self.compare(index, part.clone(), &mut buffers, progress)?;
                progress.reach(part.end - self.range.start);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..workers.max(1) {
                scope.spawn(|| {
                    let outcome: Result<()> = work();
                    if let Err(cause) = outcome {
                        failed.store(true, Relaxed);
                        failure.lock().unpoisoned().get_or_insert(cause);
                    }
                });
            }
        });
        failure.into_inner().unpoisoned().map_or(Ok(()), Err)
    }

    /// Compares one chunk, or the part of it that is wanted, and writes it if it differs.
    fn compare(&self, index: u64, part: Range<u64>, buffers: &mut Buffers, progress: &Progress) -> Result<()> {
        let (entry, _) = self.disk.mapped().entry(index)?;
        let place = part.start - self.range.start;
        let length_bytes = part.end - part.start;
        buffers.found.resize(length_bytes as usize, 0);
        let is_hole = self.is_hole(place, length_bytes)?;
        if !is_hole {
            self.rate_limit.as_ref().map_or(Ok(()), |limit| limit.take(length_bytes, progress))?;
            let doing = |cause| Error::io(format!("read the target at {place:#x}"), cause);
            self.file.read_exact_at(place, &mut buffers.found).map_err(doing)?;
        }
        let Entry::Data(id, _) = entry else {
            if !is_hole && !is_zero(&buffers.found) {
                self.zeroed.fetch_add(length_bytes, Relaxed);
                let doing = |cause| Error::io(format!("write zeros to the target at {place:#x}"), cause);
                self.file.write_zeros_at(place, length_bytes).map_err(doing)?;
            }
            return Ok(());
        };
        let whole = length_bytes == self.disk.mapped().shape().chunk_length(index) as u64;
        if whole && !is_hole && self.ring.chunk_id(&buffers.found) == id {
            return Ok(());
        }
        buffers.wanted.resize(length_bytes as usize, 0);
        self.disk.read_at(part.start, &mut buffers.wanted)?;
        if is_hole {
            buffers.found.fill(0);
        }
        if buffers.found == buffers.wanted {
            return Ok(());
        }
        self.written.fetch_add(length_bytes, Relaxed);
        let doing = |cause| Error::io(format!("write to the target at {place:#x}"), cause);
        self.file.write_all_at(place, &buffers.wanted).map_err(doing)
    }

    /// Whether the target stores nothing in this range, so that it need not be read.
    fn is_hole(&self, place: u64, length_bytes: u64) -> Result<bool> {
        let doing = |cause| Error::io(format!("look for holes in the target at {place:#x}"), cause);
        let extent = self.file.extent_at(place, length_bytes).map_err(doing)?;
        Ok(extent.hole && extent.length_bytes >= length_bytes)
    }
}
