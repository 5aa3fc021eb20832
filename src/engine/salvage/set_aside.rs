//! The first pass: reads that fail are put off, while there are few of them and the source is still there.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ImageError};

use super::area_map::{AreaMap, MAX_AREAS, State};
use super::journal::Journal;
use super::retry::{Retry, RetryOptions};
use super::witness::Witness;
use crate::error::{Error, Kind, Result, in_words};
use crate::progress::Progress;

/// The longest read whose failure sets all of it aside, in bytes.
const STEP_BYTES: usize = 1 << 20;

/// A read that fails may hold a single bad sector: so many times the bound may be set aside before anything is retried.
const MAX_SET_ASIDE: u64 = 64;

/// So much may be set aside in any case, in bytes.
const MIN_SET_ASIDE_BYTES: u64 = 1 << 30;

/// How long reads may fail, in all, once more was set aside than may be unreadable in the end.
const MAX_FAILING: Duration = Duration::from_secs(10 * 60);

/// What the workers of a first pass could not read.
pub struct SetAside {
    map: Mutex<AreaMap>,
    witness: Witness,
    /// How much may be unreadable in the end, in bytes.
    max_unreadable: Option<u64>,
    /// Retry at once, where nothing can be stored late.
    at_once: Option<RetryOptions>,
    journal: Option<Journal>,
    set_aside_bytes: AtomicU64,
    failing_ns: AtomicU64,
}

impl SetAside {
    /// A first pass over the areas of `map` that were not tried; the others are left out.
    pub fn new(map: AreaMap, max_unreadable: Option<u64>) -> Self {
        SetAside {
            witness: Witness::of(&map),
            map: Mutex::new(map),
            max_unreadable,
            at_once: None,
            journal: None,
            set_aside_bytes: AtomicU64::new(0),
            failing_ns: AtomicU64::new(0),
        }
    }

    /// A pass in which each read that fails is retried at once, for targets that take nothing late.
    pub fn at_once(size_bytes: u64, options: RetryOptions) -> Self {
        let map = AreaMap::new(size_bytes, State::NotTried);
        SetAside { at_once: Some(options), ..Self::new(map, options.max_unreadable) }
    }

    /// Keeps the map in a file.
    pub fn with_journal(self, journal: Option<Journal>) -> Self {
        SetAside { journal, ..self }
    }

    /// Writes a map to the file that follows the run, if there is one and it is time.
    pub fn note(&self, map: &AreaMap) -> Result<()> {
        match &self.journal {
            Some(journal) if journal.is_due() => journal.write(map),
            _ => Ok(()),
        }
    }

    /// Writes a map to the file that follows the run, if there is one.
    pub fn save(&self, map: &AreaMap) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), |journal| journal.write(map))
    }

    /// True if what fails is retried at once.
    pub fn is_at_once(&self) -> bool {
        self.at_once.is_some()
    }

    /// The map.
    pub fn map(&self) -> MutexGuard<'_, AreaMap> {
        self.map.lock().unpoisoned()
    }

    /// The block that tells whether the source is still there.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Fails if all that was tried failed: a copy of zeros is none.
    pub fn check_anything_was_read(&self) -> Result<()> {
        if self.witness.has_seen() || self.map().unfinished_bytes() == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Io, "nothing of the disk could be read"))
    }

    /// Fills each buffer with the bytes from its offset on; with zeros, where they are set aside.
    pub fn read(&self, source: &dyn BlockSource, parts: &mut [(u64, &mut [u8])]) -> Result<()> {
        if let (Some(disk), [_, _, ..]) = (source.storage_order(), &*parts) {
            let began = Instant::now();
            match disk.read_parts(parts) {
                Ok(()) => parts.iter().for_each(|(guest_offset, _)| self.witness.note(*guest_offset)),
                Err(cause) => self.fail(source, parts, cause, began)?,
            }
            return Ok(());
        }
        for (guest_offset, buffer) in parts {
            let mut offset = *guest_offset;
            for step in buffer.chunks_mut(STEP_BYTES) {
                let length_bytes = step.len() as u64;
                self.read_step(source, offset, step)?;
                offset += length_bytes;
            }
        }
        Ok(())
    }

    /// Reads what is to be read of a step.
    fn read_step(&self, source: &dyn BlockSource, offset: u64, step: &mut [u8]) -> Result<()> {
        let range = offset..offset + step.len() as u64;
        let parts = self.map().parts_of(range);
        for (part, state) in parts {
            let buffer = &mut step[(part.start - offset) as usize..(part.end - offset) as usize];
            // A map that was continued says that it fails, and that is not tried again in the first pass.
            if !matches!(state, State::NotTried | State::Finished) {
                buffer.fill(0);
                continue;
            }
            let began = Instant::now();
            match source.read_at(part.start, buffer) {
                Ok(()) => self.witness.note(part.start),
                Err(cause) => self.fail(source, &mut [(part.start, buffer)], cause, began)?,
            }
        }
        Ok(())
    }

    fn fail(
        &self,
        source: &dyn BlockSource,
        parts: &mut [(u64, &mut [u8])],
        cause: ImageError,
        began: Instant,
    ) -> Result<()> {
        self.failing_ns.fetch_add(began.elapsed().as_nanos().try_into().unwrap_or(u64::MAX), Relaxed);
        let words = in_words(&cause);
        self.witness.check(source, cause)?;
        for (guest_offset, buffer) in parts {
            buffer.fill(0);
            if let Some(options) = self.at_once {
                self.retry(source, *guest_offset, buffer, options)?;
                continue;
            }
            let range = *guest_offset..*guest_offset + buffer.len() as u64;
            self.set_aside_bytes.fetch_add(buffer.len() as u64, Relaxed);
            let mut map = self.map();
            map.set(range, State::NotTrimmed);
            if map.is_full() {
                let message = format!("too many areas cannot be read: more than {MAX_AREAS}; the last one: {words}");
                return Err(Error::new(Kind::Unreadable, message));
            }
        }
        self.check_bound(&words)
    }

    fn retry(
        &self,
        source: &dyn BlockSource,
        guest_offset: u64,
        buffer: &mut [u8],
        options: RetryOptions,
    ) -> Result<()> {
        let range = guest_offset..guest_offset + buffer.len() as u64;
        let mut map = AreaMap::new(source.geometry().size_bytes, State::Finished);
        map.set(range, State::NotTrimmed);
        let retry = Retry { source, witness: &self.witness, options, progress: &Progress::new() };
        let mut store = |at: u64, bytes: &[u8]| {
            buffer[(at - guest_offset) as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        };
        retry.run(&mut map, &mut store, &mut |_| Ok(()))?;
        for (range, state) in map.areas().filter(|(_, state)| *state != State::Finished) {
            self.map().set(range, state);
        }
        Ok(())
    }

    fn check_bound(&self, cause: &str) -> Result<()> {
        let Some(max_bytes) = self.max_unreadable else { return Ok(()) };
        let bytes = self.set_aside_bytes.load(Relaxed);
        let failing = Duration::from_nanos(self.failing_ns.load(Relaxed));
        let most_bytes = max_bytes.saturating_mul(MAX_SET_ASIDE).max(MIN_SET_ASIDE_BYTES);
        if bytes > most_bytes || (bytes > max_bytes && failing > MAX_FAILING) {
            let message = format!("too many reads failed, of {bytes} bytes in all; the last one: {cause}");
            return Err(Error::new(Kind::Unreadable, message));
        }
        Ok(())
    }

    /// Notes that what was read of a range is stored.
    pub fn finish(&self, range: Range<u64>) -> Result<()> {
        let mut map = self.map();
        map.finish_untried(range);
        match &self.journal {
            Some(journal) if journal.is_due() => {
                let map = AreaMap::clone(&map);
                self.save(&map)
            }
            _ => Ok(()),
        }
    }
}
