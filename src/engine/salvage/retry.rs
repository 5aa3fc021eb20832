//! The passes after the first: by one worker, with as few requests into bad areas as there are bad sectors.

use std::ops::Range;
use std::time::Instant;

use tintype_formats::BlockSource;
use tintype_formats::extent::DiskKind;

use super::area_map::{AreaMap, State};
use super::witness::Witness;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::sources::AlignedBuffer;

/// The longest read of what was not tried yet, in bytes.
const STEP_BYTES: u64 = 1 << 20;

/// The smallest part that is tried of what fails as a whole, in bytes.
const HALVE_BYTES: u64 = 4096;

/// The pass that reads single sectors; later ones try the bad ones again.
const SECTOR_PASS: u32 = 3;

/// How hard to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryOptions {
    /// Number of passes, the first one included: 1 large reads, 2 edges, 3 single sectors, more try bad sectors again.
    pub passes: u32,
    /// When to stop.
    pub deadline: Option<Instant>,
    /// Most bytes that may stay unreadable.
    pub max_unreadable: Option<u64>,
}

/// The job of reading what was set aside.
pub struct Retry<'a> {
    /// The disk.
    pub source: &'a dyn BlockSource,
    /// Tells whether the source is still there.
    pub witness: &'a Witness,
    /// How hard to try.
    pub options: RetryOptions,
    /// Observer.
    pub progress: &'a Progress,
}

/// Takes bytes that were read, with their guest offset.
pub type Store<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + 'a;

/// Gets the map now and then, after what it says is finished was stored.
pub type Watch<'a> = dyn FnMut(&AreaMap) -> Result<()> + 'a;

/// The state of a run.
struct Run<'a, 'b> {
    job: &'a Retry<'a>,
    map: &'a mut AreaMap,
    store: &'a mut Store<'b>,
    watch: &'a mut Watch<'b>,
    buffer: AlignedBuffer,
    done_bytes: u64,
    bad_bytes: u64,
}

/// The time is up, or the map is full.
struct TimeUp;

/// What a step came to, if the source is still there.
type Outcome<T> = Result<std::result::Result<T, TimeUp>>;

impl Retry<'_> {
    /// Reads what is not finished in `map`, as far as it can be read.
    pub fn run<'b>(&self, map: &mut AreaMap, store: &mut Store<'b>, watch: &mut Watch<'b>) -> Result<()> {
        let phase = self.progress.now().phase;
        self.progress.enter("retrying");
        self.progress.begin(map.unfinished_bytes());
        let buffer = AlignedBuffer::zeroed(STEP_BYTES as usize);
        let mut run = Run { job: self, map: &mut *map, store, watch, buffer, done_bytes: 0, bad_bytes: 0 };
        let (Ok(()) | Err(TimeUp)) = run.all_passes()?;
        self.progress.enter(phase);
        self.check_bound(map.unfinished_bytes())
    }

    fn check_bound(&self, unreadable_bytes: u64) -> Result<()> {
        match self.options.max_unreadable {
            Some(max_bytes) if unreadable_bytes > max_bytes => {
                let message = format!("at least {unreadable_bytes} bytes cannot be read, {max_bytes} are allowed");
                Err(Error::new(Kind::Unreadable, message))
            }
            _ => Ok(()),
        }
    }
}

impl Run<'_, '_> {
    fn all_passes(&mut self) -> Outcome<()> {
        let states = [State::NotTried, State::NotTrimmed, State::NotScraped];
        for state in states.into_iter().take(self.job.options.passes as usize) {
            for area in self.map.areas_in(state) {
                let done = match state {
                    State::NotTried => self.copy(area)?,
                    State::NotTrimmed => self.trim(area)?,
                    _ => self.scrape(area)?,
                };
                if let Err(up) = done {
                    return Ok(Err(up));
                }
            }
        }
        for _ in SECTOR_PASS..self.job.options.passes {
            for area in self.map.areas_in(State::Bad) {
                if let Err(up) = self.scrape(area)? {
                    return Ok(Err(up));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Reads an area that was not tried in large steps.
    fn copy(&mut self, area: Range<u64>) -> Outcome<()> {
        let mut offset = area.start;
        while offset < area.end {
            let step = offset..((offset / STEP_BYTES + 1) * STEP_BYTES).min(area.end);
            offset = step.end;
            match self.read(step.clone())? {
                Ok(true) => {}
                Ok(false) => self.map.set(step, State::NotTrimmed),
                Err(up) => return Ok(Err(up)),
            }
        }
        Ok(Ok(()))
    }

    /// Reads the edges of an area, up to the first sector on each side that fails.
    fn trim(&mut self, area: Range<u64>) -> Outcome<()> {
        if !self.has_sectors(&area) {
            return self.halve(area);
        }
        let mut rest = area;
        for from_front in [true, false] {
            while !rest.is_empty() {
                let sector = if from_front { self.first_sector(&rest) } else { self.last_sector(&rest) };
                let Ok(is_read) = self.read_sector(sector.clone())? else { return Ok(Err(TimeUp)) };
                rest = if from_front { sector.end..rest.end } else { rest.start..sector.start };
                if !is_read {
                    break;
                }
            }
        }
        self.map.set(rest, State::NotScraped);
        Ok(Ok(()))
    }

    /// Reads each sector of an area.
    fn scrape(&mut self, area: Range<u64>) -> Outcome<()> {
        let mut rest = area;
        while !rest.is_empty() {
            let sector = self.first_sector(&rest);
            rest.start = sector.end;
            if let Err(up) = self.read_sector(sector)? {
                return Ok(Err(up));
            }
        }
        Ok(Ok(()))
    }

    /// Reads halves of halves, for what fails as a whole.
    fn halve(&mut self, area: Range<u64>) -> Outcome<()> {
        let mut offset = area.start;
        while offset < area.end {
            let step = offset..((offset / STEP_BYTES + 1) * STEP_BYTES).min(area.end);
            offset = step.end;
            let mut rest = vec![step];
            while let Some(range) = rest.pop() {
                let Ok(is_read) = self.read(range.clone())? else { return Ok(Err(TimeUp)) };
                let smallest_bytes = HALVE_BYTES.max(self.sector_bytes());
                match is_read {
                    true => {}
                    false if range.end - range.start <= smallest_bytes => self.give_up(range)?,
                    false => {
                        let half = ((range.end - range.start) / 2).next_multiple_of(smallest_bytes);
                        let middle = range.start + half.min(range.end - range.start - 1);
                        rest.extend([middle..range.end, range.start..middle]);
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    fn sector_bytes(&self) -> u64 {
        u64::from(self.job.source.geometry().logical_sector_bytes).clamp(1, STEP_BYTES)
    }

    fn first_sector(&self, range: &Range<u64>) -> Range<u64> {
        let sector_bytes = self.sector_bytes();
        range.start..((range.start / sector_bytes + 1) * sector_bytes).min(range.end)
    }

    fn last_sector(&self, range: &Range<u64>) -> Range<u64> {
        let sector_bytes = self.sector_bytes();
        ((range.end - 1) / sector_bytes * sector_bytes).max(range.start)..range.end
    }

    /// True if sectors of the area fail one by one: it lies in a file or on a device as it is.
    fn has_sectors(&self, area: &Range<u64>) -> bool {
        let mut offset = area.start;
        while offset < area.end {
            match self.job.source.extent_at(offset, area.end - offset) {
                Ok(extent) if matches!(extent.kind, DiskKind::Data(_)) => offset += extent.length_bytes,
                _ => return false,
            }
        }
        true
    }

    fn read_sector(&mut self, sector: Range<u64>) -> Outcome<bool> {
        let is_read = self.read(sector.clone())?;
        if matches!(is_read, Ok(false)) {
            self.give_up(sector)?;
        }
        Ok(is_read)
    }

    fn give_up(&mut self, range: Range<u64>) -> Result<()> {
        let known = self.map.parts_of(range.clone()).into_iter().filter(|(_, state)| *state == State::Bad);
        let known_bytes: u64 = known.map(|(part, _)| part.end - part.start).sum();
        self.bad_bytes += range.end - range.start - known_bytes;
        self.map.set(range, State::Bad);
        self.job.check_bound(self.bad_bytes)
    }

    /// Reads a range of at most [`STEP_BYTES`] and stores it; false if it fails, and the source is still there.
    fn read(&mut self, range: Range<u64>) -> Outcome<bool> {
        self.job.progress.check_cancelled()?;
        if self.job.options.deadline.is_some_and(|deadline| Instant::now() >= deadline) || self.map.is_full() {
            return Ok(Err(TimeUp));
        }
        let buffer = &mut self.buffer[..(range.end - range.start) as usize];
        if let Err(cause) = self.job.source.read_at(range.start, buffer) {
            self.job.witness.check(self.job.source, cause)?;
            (self.watch)(self.map)?;
            return Ok(Ok(false));
        }
        self.job.witness.note(range.start);
        (self.store)(range.start, buffer)?;
        self.done_bytes += range.end - range.start;
        self.job.progress.reach(self.done_bytes);
        self.map.set(range, State::Finished);
        (self.watch)(self.map)?;
        Ok(Ok(true))
    }
}
