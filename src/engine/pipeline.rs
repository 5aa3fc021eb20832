//! Workers that take units from a plan, load them, and hand them on.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, HostFile};

use super::ordered_window::{Closed, OrderedWindow};
use super::plan::{Feed, Part, Unit, Work};
use super::rate_limit::RateLimit;
use super::salvage::{SetAside, check_length};
use crate::error::{Error, OnPath as _, Result};
use crate::progress::Progress;
use crate::sources::AlignedBuffer;

/// What all workers of a job share.
pub struct Pipeline<'a> {
    /// The disk that units are loaded from; a pipe has none.
    pub source: Option<&'a dyn BlockSource>,
    /// The path that failures to read name.
    pub source_path: &'a Path,
    /// How many workers.
    pub workers: usize,
    /// Who watches.
    pub progress: &'a Progress,
    /// How fast to read at most.
    pub rate_limit: Option<&'a RateLimit>,
    /// What to do with ranges that cannot be read.
    pub unreadable: Unreadable<'a>,
}

/// What to do with ranges that cannot be read.
#[derive(Clone, Copy)]
pub enum Unreadable<'a> {
    /// Fail.
    Fail,
    /// Set them aside: they are loaded as zeros.
    SetAside(&'a SetAside),
}

/// A unit with its bytes.
pub struct LoadedUnit<'a> {
    /// Which one it is.
    pub unit: &'a Unit,
    /// Its bytes, unless it is all zeros or cloned.
    pub bytes: Option<&'a [u8]>,
    /// The file that it is cloned from, and where.
    pub origin: Option<(&'a dyn HostFile, u64)>,
}

/// Why a worker stops: its own failure, or another's.
pub enum Stop {
    /// This worker failed.
    Failed(Error),
    /// Another one did.
    Closed,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(cause: E) -> Self {
        Stop::Failed(cause.into())
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        Stop::Closed
    }
}

/// Wakes the other workers when one fails or panics: its unit will never pass.
struct CloseUnlessDone<'a>(&'a [&'a OrderedWindow]);

impl Drop for CloseUnlessDone<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|window| window.close());
    }
}

/// What the workers come to.
#[derive(Default)]
struct Outcome {
    failure: Option<Error>,
}

impl Pipeline<'_> {
    /// Runs `consume` for every unit of `feed`, on all workers; `windows` are closed when one fails.
    pub fn run(
        &self,
        feed: &mut dyn Feed,
        windows: &[&OrderedWindow],
        consume: &(dyn Fn(&LoadedUnit<'_>) -> Result<(), Stop> + Sync),
    ) -> Result<()> {
        let batch_bytes = feed.batch_bytes() as usize;
        let feed = Mutex::new(feed);
        let outcome = Mutex::new(Outcome::default());
        std::thread::scope(|scope| {
            for _ in 0..self.workers.max(1) {
                scope.spawn(|| {
                    let closing = CloseUnlessDone(windows);
                    match self.work(batch_bytes, &feed, &outcome, consume) {
                        Ok(()) => std::mem::forget(closing),
                        Err(Stop::Failed(failure)) => _ = outcome.lock().unpoisoned().failure.get_or_insert(failure),
                        Err(Stop::Closed) => {}
                    }
                });
            }
        });
        outcome.into_inner().unpoisoned().failure.map_or(Ok(()), Err)
    }

    /// Takes the next units, unless a worker failed. A failure is told before the next worker has its turn: each of them would
    /// wait for a source that is gone as long as the first one did.
    fn next_units(
        &self,
        feed: &Mutex<&mut dyn Feed>,
        outcome: &Mutex<Outcome>,
        buffer: &mut [u8],
    ) -> Result<Vec<Unit>, Stop> {
        let mut feed = feed.lock().unpoisoned();
        if outcome.lock().unpoisoned().failure.is_some() {
            return Err(Stop::Closed);
        }
        feed.next(buffer).on_path(self.source_path).map_err(|cause| {
            outcome.lock().unpoisoned().failure.get_or_insert(cause);
            Stop::Closed
        })
    }

    fn work(
        &self,
        batch_bytes: usize,
        feed: &Mutex<&mut dyn Feed>,
        outcome: &Mutex<Outcome>,
        consume: &(dyn Fn(&LoadedUnit<'_>) -> Result<(), Stop> + Sync),
    ) -> Result<(), Stop> {
        let mut buffer = AlignedBuffer::for_many_reads(batch_bytes);
        loop {
            self.progress.check_cancelled()?;
            let units = self.next_units(feed, outcome, &mut buffer)?;
            if units.is_empty() {
                return Ok(());
            }
            if let Some(rate_limit) = self.rate_limit {
                rate_limit.take(units.iter().map(|unit| unit.length_bytes).sum(), self.progress)?;
            }
            self.load(&units, &mut buffer).on_path(self.source_path)?;
            let mut rest = &*buffer;
            for unit in &units {
                let own_bytes = if unit.has_bytes() { unit.length_bytes as usize } else { 0 };
                let (bytes, after) = rest.split_at(own_bytes);
                rest = after;
                let bytes = unit.has_bytes().then_some(bytes);
                consume(&LoadedUnit { unit, bytes, origin: self.origin(unit) })?;
                if let Unreadable::SetAside(set_aside) = self.unreadable {
                    set_aside.finish(unit.guest_offset..unit.end())?;
                }
            }
        }
    }

    fn origin(&self, unit: &Unit) -> Option<(&dyn HostFile, u64)> {
        match (&unit.work, self.source) {
            (Work::Clone(range), Some(source)) => {
                Some((source.host_files()[range.file.0].file.as_ref(), range.host_offset))
            }
            _ => None,
        }
    }

    /// Fills the buffer with the units' bytes, one behind the other.
    fn load(&self, units: &[Unit], buffer: &mut [u8]) -> Result<()> {
        let Some(source) = self.source else { return Ok(()) };
        let mut wanted = Vec::new();
        let mut rest = buffer;
        for unit in units {
            let Work::Read(parts) = &unit.work else { continue };
            let mut end = 0;
            for Part { offset, length_bytes } in parts {
                take(&mut rest, offset - end).fill(0);
                wanted.push((unit.guest_offset + offset, take(&mut rest, *length_bytes)));
                end = offset + length_bytes;
            }
            take(&mut rest, unit.length_bytes - end).fill(0);
        }
        let read = match (self.unreadable, source.storage_order(), wanted.as_mut_slice()) {
            (Unreadable::SetAside(set_aside), ..) => return set_aside.read(source, &mut wanted),
            (Unreadable::Fail, Some(disk), [_, _, ..]) => disk.read_parts(&mut wanted),
            (Unreadable::Fail, _, wanted) => {
                wanted.iter_mut().try_for_each(|(guest_offset, part)| source.read_at(*guest_offset, part))
            }
        };
        // A source that shrank says so, and not only that its end cannot be read.
        if read.is_err() {
            check_length(source)?;
        }
        Ok(read?)
    }
}

/// The next bytes of a buffer.
fn take<'a>(rest: &mut &'a mut [u8], length_bytes: u64) -> &'a mut [u8] {
    let (next, after) = std::mem::take(rest).split_at_mut(length_bytes as usize);
    *rest = after;
    next
}

/// Sorts ranges and joins those that touch.
pub fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}
