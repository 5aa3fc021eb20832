//! The one pipeline from a disk to where its units go.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tintype_formats::sink::{GuestUnit, RunKind, Turn, UnitContent, UnitRun};
use tintype_formats::{BlockSource, ErrorKind, ImageError, UnitTarget};

use super::digest::{Algorithm, Digest, DiskHasher};
use super::ordered_window::OrderedWindow;
use super::pipeline::{LoadedUnit, Pipeline, Stop};
use super::plan::{Feed, Work};
use super::zero_scan;
use crate::error::Result;
use crate::sources::AlignedBuffer;

/// What a copy takes into account, besides where units come from.
pub struct CopyOptions<'a> {
    /// What the new image inherits from: only what differs is stored.
    pub parent: Option<&'a dyn BlockSource>,
    /// Zeros must be written: something else would show there.
    pub explicit_zeros: bool,
    /// The target can only be appended to.
    pub ordered_writes: bool,
    /// The digest to make in the same pass.
    pub digest: Option<Algorithm>,
}

/// What a copy came to.
pub struct Copied {
    /// The digest, if one was asked for.
    pub digest: Option<Digest>,
    /// How many guest bytes were stored.
    pub stored_bytes: u64,
}

/// Stores every unit of `feed` through `writer`, which is left to be finished.
pub fn copy(
    pipeline: &Pipeline<'_>,
    feed: &mut dyn Feed,
    size_bytes: u64,
    writer: &dyn UnitTarget,
    options: &CopyOptions<'_>,
) -> Result<Copied> {
    let copy = Copy {
        writer,
        options,
        placing: (!writer.layout().in_place).then(OrderedWindow::default),
        writing: OrderedWindow::default(),
        hasher: options.digest.map(|algorithm| DiskHasher::new(algorithm, size_bytes)),
        stored_bytes: AtomicU64::new(0),
    };
    let mut windows = vec![&copy.writing];
    windows.extend(&copy.placing);
    windows.extend(copy.hasher.as_ref().map(DiskHasher::window));
    pipeline.run(feed, &windows, &|loaded| {
        copy.take(loaded)?;
        pipeline.progress.reach(loaded.unit.passed_bytes);
        Ok(())
    })?;
    let stored_bytes = copy.stored_bytes.into_inner();
    Ok(Copied { digest: copy.hasher.map(DiskHasher::finish), stored_bytes })
}

struct Copy<'a> {
    writer: &'a dyn UnitTarget,
    options: &'a CopyOptions<'a>,
    /// Nothing, where every byte has its place already.
    placing: Option<OrderedWindow>,
    writing: OrderedWindow,
    hasher: Option<DiskHasher>,
    stored_bytes: AtomicU64,
}

impl Copy<'_> {
    fn take(&self, loaded: &LoadedUnit<'_>) -> Result<(), Stop> {
        let runs = self.runs(loaded)?;
        self.store(loaded, &runs)?;
        match &self.hasher {
            Some(hasher) => hasher.add(loaded),
            None => Ok(()),
        }
    }

    /// What the parts of a unit are.
    fn runs(&self, loaded: &LoadedUnit<'_>) -> Result<Vec<UnitRun>, ImageError> {
        let unit = loaded.unit;
        let whole = |kind| vec![UnitRun { offset: 0, length_bytes: unit.length_bytes, kind }];
        let Some(bytes) = loaded.bytes else {
            return Ok(whole(if loaded.origin.is_some() { RunKind::Data } else { RunKind::Zero }));
        };
        let mut runs = Vec::new();
        match (self.options.parent, &unit.work) {
            (Some(parent), _) => {
                let inherited = parent_bytes(parent, unit.guest_offset, bytes.len())?;
                zero_scan::scan_against(bytes, &inherited, &mut runs);
            }
            (None, Work::Read(parts)) => {
                let mut end = 0;
                for part in parts {
                    zero_scan::push_run(&mut runs, end, part.offset - end, RunKind::Zero);
                    end = part.offset + part.length_bytes;
                    zero_scan::scan(bytes, part.offset as usize, end as usize, &mut runs);
                }
                zero_scan::push_run(&mut runs, end, unit.length_bytes - end, RunKind::Zero);
            }
            (None, _) => zero_scan::scan(bytes, 0, bytes.len(), &mut runs),
        }
        Ok(runs)
    }

    fn store(&self, loaded: &LoadedUnit<'_>, runs: &[UnitRun]) -> Result<(), Stop> {
        let unit = loaded.unit;
        let turn = UnitTurn {
            index: unit.index,
            placing: self.placing.as_ref(),
            writing: self.options.ordered_writes.then_some(&self.writing),
            closed: Cell::new(false),
        };
        let explicit_zeros = self.options.explicit_zeros || self.options.parent.is_some();
        let to_store = |run: &UnitRun| match run.kind {
            RunKind::Data => true,
            RunKind::Zero => explicit_zeros,
            RunKind::Inherited => false,
        };
        if !runs.iter().any(to_store) {
            return turn.let_pass();
        }
        let data: u64 = runs.iter().filter(|run| run.kind == RunKind::Data).map(|run| run.length_bytes).sum();
        self.stored_bytes.fetch_add(data, Relaxed);
        let content = match (loaded.bytes, loaded.origin) {
            (Some(bytes), _) => UnitContent::Bytes(bytes),
            (None, Some((file, host_offset))) => UnitContent::Host(file, host_offset),
            (None, None) => UnitContent::Nothing,
        };
        let guest_unit = GuestUnit { guest_offset: unit.guest_offset, length_bytes: unit.length_bytes, content, runs };
        match self.writer.store(&guest_unit, &turn) {
            Err(_) if turn.closed.get() => Err(Stop::Closed),
            other => Ok(other?),
        }
    }
}

fn parent_bytes(parent: &dyn BlockSource, guest_offset: u64, length: usize) -> Result<AlignedBuffer, ImageError> {
    let mut bytes = AlignedBuffer::zeroed(length);
    let inside = parent.geometry().size_bytes.saturating_sub(guest_offset).min(length as u64) as usize;
    if inside > 0 {
        parent.read_at(guest_offset, &mut bytes[..inside])?;
    }
    Ok(bytes)
}

/// One unit's place in the order.
struct UnitTurn<'a> {
    index: u64,
    placing: Option<&'a OrderedWindow>,
    writing: Option<&'a OrderedWindow>,
    /// Another unit failed while this one waited.
    closed: Cell<bool>,
}

impl UnitTurn<'_> {
    /// Lets the units behind this one go on: it has nothing to store.
    fn let_pass(&self) -> Result<(), Stop> {
        [self.placing, self.writing].into_iter().flatten().try_for_each(|window| window.pass(self.index, || ()))?;
        Ok(())
    }

    fn pass(&self, window: &OrderedWindow, work: &mut dyn FnMut() -> Result<(), ImageError>) -> Result<(), ImageError> {
        window.pass(self.index, work).unwrap_or_else(|_| {
            self.closed.set(true);
            Err(ImageError::new(ErrorKind::Io, "store a unit", "another unit failed"))
        })
    }
}

impl Turn for UnitTurn<'_> {
    fn place(&self, place: &mut dyn FnMut() -> Result<(), ImageError>) -> Result<(), ImageError> {
        match self.placing {
            Some(placing) => self.pass(placing, place),
            None => place(),
        }
    }

    fn write(&self, write: &mut dyn FnMut() -> Result<(), ImageError>) -> Result<(), ImageError> {
        match self.writing {
            Some(writing) => self.pass(writing, write),
            None => write(),
        }
    }
}
