//! Decides what is read, here from front to back: the disk is cut into units, and what reads as zeros is left out.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use tintype_formats::extent::{DiskExtent, DiskKind, HostRange};
use tintype_formats::sink::WriterLayout;
use tintype_formats::{BlockSource, ImageError};

use super::data_budget::DataBudget;
use super::salvage::is_lost;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// The smallest unit, in bytes: large enough for system calls not to matter, small enough for the processor's cache.
const MIN_UNIT_BYTES: u64 = 1 << 20;

/// The largest unit that is read into memory. A source's own unit may be larger; it is then read in parts.
const MAX_UNIT_BYTES: u64 = 64 << 20;

/// The longest run of zeros, and of cloned blocks, in one unit: these hold no memory.
const MAX_UNREAD_BYTES: u64 = 256 << 20;

/// Blocks that file systems can clone begin at multiples of this.
const CLONE_ALIGNMENT_BYTES: u64 = 4096;

/// A part of the disk for one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its number, from 0, without gaps.
    pub index: u64,
    /// Where it begins on the guest's disk.
    pub guest_offset: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What is to be done for it.
    pub work: Work,
    /// How much of the disk is passed when it is done, holes included, in bytes.
    pub passed_bytes: u64,
}

impl Unit {
    /// Where it ends on the guest's disk.
    pub fn end(&self) -> u64 {
        self.guest_offset + self.length_bytes
    }

    /// Whether it takes part of the buffer that it is loaded into.
    pub fn has_bytes(&self) -> bool {
        matches!(self.work, Work::Read(_) | Work::Arrived)
    }
}

/// What a worker does to have the bytes of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Read these parts; the rest is zeros.
    Read(Vec<Part>),
    /// Nothing: all of it is zeros.
    Zero,
    /// Nothing: the blocks are cloned from here.
    Clone(HostRange),
    /// Nothing: the bytes came with the unit, from a pipe.
    Arrived,
}

/// A part of a unit that has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins, from the unit's begin.
    pub offset: u64,
    /// How long it is.
    pub length_bytes: u64,
}

/// Where units come from.
pub trait Feed: Send {
    /// The next units, which one worker loads together; none at the end. A pipe fills `buffer`, which is as long as
    /// [`batch_bytes`](Self::batch_bytes).
    fn next(&mut self, buffer: &mut [u8]) -> Result<Vec<Unit>>;

    /// How many bytes units that are handed out together have at most.
    fn batch_bytes(&self) -> u64;
}

/// How large the units are that suit both sides: a power of two.
pub fn unit_bytes(source_unit_bytes: u64, layout: Option<WriterLayout>) -> u64 {
    let source = source_unit_bytes.checked_next_power_of_two().unwrap_or(MAX_UNIT_BYTES).min(MAX_UNIT_BYTES);
    let target = layout.map_or(1, |layout| layout.unit_bytes.next_power_of_two());
    source.max(target).max(MIN_UNIT_BYTES)
}

/// What becomes of parts that are as in the source's declared parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherited {
    /// They are read like others.
    Read,
    /// They are left out as far as they fill whole pieces of the target, which inherits them.
    LeftOut,
}

/// What a plan takes into account.
#[derive(Clone, Copy)]
pub struct PlanOptions<'a> {
    /// What the new image inherits from.
    pub parent: Option<&'a dyn BlockSource>,
    /// Zeros are units too: the target holds old data, or somebody hashes them.
    pub with_zeros: bool,
    /// What becomes of parts that are as in the source's declared parent.
    pub inherited: Inherited,
    /// Which host files can be cloned from.
    pub clonable: &'a [bool],
    /// Ranges whose mapping is damaged are handed out to be read (and to fail there), instead of failing here.
    pub salvage: bool,
}

/// Units of a disk.
pub struct DiskPlan<'a> {
    source: &'a dyn BlockSource,
    options: PlanOptions<'a>,
    unit_bytes: u64,
    /// Units begin and end at multiples of this.
    align_bytes: u64,
    position: u64,
    next_index: u64,
    /// The extent that was looked up last, and where it begins: the same one is asked for several times in a row.
    recent: Cell<(u64, DiskExtent)>,
    budget: Cell<DataBudget>,
}

impl<'a> DiskPlan<'a> {
    /// Plans the reading of `source`, for a writer of this layout.
    pub fn new(source: &'a dyn BlockSource, layout: Option<WriterLayout>, options: PlanOptions<'a>) -> Self {
        let unit_bytes = unit_bytes(source.geometry().unit_bytes, layout);
        let cloning = options.clonable.contains(&true);
        let align_bytes = match layout {
            Some(layout) if cloning || options.inherited == Inherited::LeftOut => {
                layout.unit_bytes.max(CLONE_ALIGNMENT_BYTES)
            }
            _ => unit_bytes,
        };
        let recent = Cell::new((0, DiskExtent { length_bytes: 0, kind: DiskKind::Hole }));
        let budget = Cell::new(DataBudget::of(source));
        DiskPlan { source, options, unit_bytes, align_bytes, position: 0, next_index: 0, recent, budget }
    }

    fn size_bytes(&self) -> u64 {
        self.source.geometry().size_bytes
    }

    fn unit(&mut self, length_bytes: u64, work: Work) -> Unit {
        let (index, guest_offset) = (self.next_index, self.position);
        self.next_index += 1;
        self.position += length_bytes;
        Unit { index, guest_offset, length_bytes, work, passed_bytes: self.position }
    }

    /// The extent at `offset`; with salvage, a range of unknown kind where the lookup fails.
    fn extent_at(&self, offset: u64) -> Result<(u64, DiskKind)> {
        let (begin, recent) = self.recent.get();
        let within = offset.wrapping_sub(begin);
        if within < recent.length_bytes {
            return Ok((recent.length_bytes - within, recent.kind.advanced(within)));
        }
        match self.source.extent_at(offset, self.size_bytes() - offset) {
            Ok(extent) => {
                // Whoever salvages takes what there is.
                if !self.options.salvage {
                    self.budget.set(self.budget.get().take(offset, extent)?);
                }
                self.recent.set((offset, extent));
                Ok((extent.length_bytes, extent.kind))
            }
            Err(cause) if self.options.salvage && !is_lost(&cause) => {
                let to_boundary = self.align_bytes - offset % self.align_bytes;
                Ok((to_boundary.min(self.size_bytes() - offset), DiskKind::Encoded))
            }
            Err(cause) => Err(cause.into()),
        }
    }

    /// How much of `length` from here on fills whole units: up to a boundary, or to the end of the disk.
    fn whole_units(&self, length: u64) -> u64 {
        let end = self.position + length;
        if end >= self.size_bytes() { length } else { (end - end % self.align_bytes).saturating_sub(self.position) }
    }

    /// How many bytes from here on need not even be mentioned.
    fn skippable(&self, length: u64, kind: DiskKind) -> Result<u64> {
        let length = match kind {
            DiskKind::Inherited if self.options.inherited == Inherited::LeftOut => length,
            kind if kind.reads_as_zeros() && !self.options.with_zeros => match self.options.parent {
                None => length,
                Some(parent) => zeros_at(parent, self.position, length)?,
            },
            _ => return Ok(0),
        };
        Ok(self.whole_units(length))
    }

    /// A long run of zeros as one unit.
    fn zero_unit(&self, length: u64, kind: DiskKind) -> u64 {
        if !kind.reads_as_zeros() || !self.options.with_zeros || self.options.parent.is_some() {
            return 0;
        }
        let length = self.whole_units(length).min(MAX_UNREAD_BYTES);
        // Whoever hashes units in parallel needs them to be whole subtrees: powers of two, at their own multiples.
        let aligned = if self.position == 0 { MAX_UNREAD_BYTES } else { 1 << self.position.trailing_zeros() };
        let subtree = (1 << length.max(1).ilog2()).min(aligned);
        if subtree < self.align_bytes { length.min(aligned) } else { subtree }
    }

    /// Where the first whole piece of an inherited range begins; the disk's end, if it has none.
    fn first_left_out(&self, offset: u64, length: u64) -> u64 {
        let begin = offset.next_multiple_of(self.align_bytes);
        let end = (begin + self.align_bytes).min(self.size_bytes());
        if begin > self.position && end <= offset + length { begin } else { self.size_bytes() }
    }

    fn read_unit(&mut self) -> Result<Unit> {
        let mut end = (self.position + 1).next_multiple_of(self.unit_bytes).min(self.size_bytes());
        let mut parts: Vec<Part> = Vec::new();
        let mut offset = self.position;
        while offset < end {
            let (length, kind) = self.extent_at(offset)?;
            if kind == DiskKind::Inherited && self.options.inherited == Inherited::LeftOut {
                end = end.min(self.first_left_out(offset, length));
            }
            let length_bytes = length.min(end - offset);
            if !kind.reads_as_zeros() {
                push_part(&mut parts, offset - self.position, length_bytes);
            }
            offset += length_bytes;
        }
        Ok(self.unit(end - self.position, Work::Read(parts)))
    }

    /// Blocks that can be cloned from here on: in one host file, in the same order, without a gap.
    ///
    /// Holes within a unit are cloned with it if the host file has a hole in the same place.
    fn clone_run(&self) -> Result<Option<(u64, HostRange)>> {
        let mut offset = self.position;
        let mut origin: Option<HostRange> = None;
        let mut holes = Vec::new();
        while offset < self.size_bytes() && offset - self.position < MAX_UNREAD_BYTES {
            let (length, kind) = self.extent_at(offset)?;
            let skipped = offset - self.position;
            match kind {
                DiskKind::Data(Some(range)) if range.host_offset >= skipped => {
                    let begin = HostRange { host_offset: range.host_offset - skipped, ..range };
                    if *origin.get_or_insert(begin) != begin {
                        break;
                    }
                    offset += length;
                }
                DiskKind::Hole => {
                    let to_boundary = offset.next_multiple_of(self.align_bytes) - offset;
                    if to_boundary == 0 {
                        break;
                    }
                    holes.push((skipped, length.min(to_boundary)));
                    offset += length.min(to_boundary);
                }
                _ => break,
            }
        }
        let length = (offset - self.position).min(MAX_UNREAD_BYTES);
        let length = length - length % self.align_bytes;
        match origin.filter(|origin| length > 0 && self.can_clone(*origin, length, &holes)) {
            Some(origin) => Ok(Some((length, origin))),
            None => Ok(None),
        }
    }

    fn can_clone(&self, origin: HostRange, length: u64, holes: &[(u64, u64)]) -> bool {
        let clonable = self.options.clonable.get(origin.file.0).copied().unwrap_or(false);
        if !clonable || !origin.host_offset.is_multiple_of(CLONE_ALIGNMENT_BYTES) {
            return false;
        }
        let file = &self.source.host_files()[origin.file.0].file;
        holes.iter().filter(|(offset, _)| *offset < length).all(|(offset, length)| {
            file.extent_at(origin.host_offset + offset, *length)
                .is_ok_and(|extent| extent.hole && extent.length_bytes == *length)
        })
    }
    /// The next unit, in guest order.
    pub fn next_unit(&mut self) -> Result<Option<Unit>> {
        while self.position < self.size_bytes() {
            let (length, kind) = self.extent_at(self.position)?;
            let skipped = self.skippable(length, kind)?;
            if skipped > 0 {
                self.position += skipped;
                continue;
            }
            let zeros = self.zero_unit(length, kind);
            if zeros > 0 {
                return Ok(Some(self.unit(zeros, Work::Zero)));
            }
            if self.options.clonable.contains(&true)
                && let Some((length, origin)) = self.clone_run()?
            {
                return Ok(Some(self.unit(length, Work::Clone(origin))));
            }
            return self.read_unit().map(Some);
        }
        Ok(None)
    }
}

impl Feed for DiskPlan<'_> {
    fn next(&mut self, _: &mut [u8]) -> Result<Vec<Unit>> {
        Ok(self.next_unit()?.into_iter().collect())
    }

    fn batch_bytes(&self) -> u64 {
        self.unit_bytes
    }
}

fn push_part(parts: &mut Vec<Part>, offset: u64, length_bytes: u64) {
    match parts.last_mut() {
        Some(last) if last.offset + last.length_bytes == offset => last.length_bytes += length_bytes,
        _ => parts.push(Part { offset, length_bytes }),
    }
}

/// How much of the range reads as zeros in `disk` too; past its end everything does.
fn zeros_at(disk: &dyn BlockSource, offset: u64, length: u64) -> Result<u64, ImageError> {
    let mut zeros = 0;
    while zeros < length {
        let remaining = disk.geometry().size_bytes.saturating_sub(offset + zeros);
        if remaining == 0 {
            return Ok(length);
        }
        let extent = disk.extent_at(offset + zeros, (length - zeros).min(remaining))?;
        if !extent.kind.reads_as_zeros() {
            break;
        }
        zeros += extent.length_bytes;
    }
    Ok(zeros.min(length))
}

/// How much later than the end of a stream the signal that ended it may come.
const SIGNAL_LAG: Duration = Duration::from_millis(200);

/// Units of a pipe, which can only be read from front to back.
pub struct PipePlan<'a, R> {
    pipe: R,
    progress: &'a Progress,
    size_bytes: u64,
    unit_bytes: u64,
    position: u64,
    next_index: u64,
}

impl<'a, R: Read + Send> PipePlan<'a, R> {
    /// Plans the reading of exactly `size_bytes` from `pipe`.
    pub fn new(pipe: R, size_bytes: u64, layout: Option<WriterLayout>, progress: &'a Progress) -> Self {
        PipePlan { pipe, progress, size_bytes, unit_bytes: unit_bytes(1, layout), position: 0, next_index: 0 }
    }

    /// Fills the buffer, or says how long the stream was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.pipe.read(&mut buffer[filled..]) {
                Ok(0) => return Err(self.ended_after(self.position + filled as u64)),
                Ok(length) => filled += length,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    let doing =
                        format!("read the stream after {} of {} bytes", self.position + filled as u64, self.size_bytes);
                    return Err(Error::io(doing, cause));
                }
            }
        }
        Ok(())
    }

    /// Ctrl-C ends whoever writes to the pipe, too, and that may be seen before the signal.
    fn ended_after(&self, length_bytes: u64) -> Error {
        let deadline = Instant::now() + SIGNAL_LAG;
        while Instant::now() < deadline {
            if let Err(cancelled) = self.progress.check_cancelled() {
                return cancelled;
            }
            std::thread::sleep(SIGNAL_LAG / 20);
        }
        let message = format!("the stream ended after {length_bytes} bytes, --size says {} bytes", self.size_bytes);
        Error::new(Kind::Io, message)
    }

    fn check_end(&mut self) -> Result<()> {
        match self.pipe.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                let message = format!("the stream goes on after the {} bytes that --size says", self.size_bytes);
                Err(Error::new(Kind::Io, message))
            }
            Err(cause) => Err(Error::io("read the end of the stream", cause)),
        }
    }
}

impl<R: Read + Send> Feed for PipePlan<'_, R> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Vec<Unit>> {
        let length_bytes = self.unit_bytes.min(self.size_bytes - self.position);
        if length_bytes == 0 {
            return self.check_end().map(|()| Vec::new());
        }
        self.fill(&mut buffer[..length_bytes as usize])?;
        let (index, guest_offset) = (self.next_index, self.position);
        self.next_index += 1;
        self.position += length_bytes;
        Ok(vec![Unit { index, guest_offset, length_bytes, work: Work::Arrived, passed_bytes: self.position }])
    }

    fn batch_bytes(&self) -> u64 {
        self.unit_bytes
    }
}
