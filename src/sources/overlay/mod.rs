//! Disks that can be written to although what is below them never is.
//!
//! ```text
//!            write, zeros, discard                  flush
//!                     │                               │
//!   Overlay ──► group's lock ──► data area    sync ── table ── sync
//!      │                            ▲
//!      └► OverlayReader ── states ──┤ data          no lock: a read never waits for a write
//!                                   ├ zero
//!                                   └ inherited ──► the disk below
//! ```
//!
//! Invariants, and why they hold through crashes: SPEC.md. A block is *data* only after all of its bytes were written; it
//! never becomes inherited again; what a flush puts into the table was in the data area before the flush's first sync.

mod block_states;
mod file;
mod layout;
mod reader;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Mutex, RwLock};

use tintype_formats::extent::DiskExtent;
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ErrorKind, Geometry, HostFileMut, ImageError, OpenFile};

use self::block_states::{BlockState, PageCopy};
use self::file::LocalOverlay;
use self::layout::{BLOCK_BYTES, Layout, PAGE_BYTES, fingerprint};
pub use self::reader::OverlayReader;
use crate::error::{Error, OnPath as _, Result};

/// A disk that takes writes.
///
/// What an implementer promises: every method may be called from many threads at once; what one call wrote is seen by every
/// read that begins after it returned; two writes that overlap in time may leave either's bytes in every sector of 512
/// bytes, never others. Ranges past the end of the disk fail with
/// [`OutOfRange`](tintype_formats::ErrorKind::OutOfRange) and change nothing. A full disk fails with the operating system's
/// error as its cause, and leaves what was written before whole.
pub trait WritableDisk: BlockSource {
    /// Writes all of `bytes` at `guest_offset`.
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError>;

    /// Makes a range read as zeros.
    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError>;

    /// Says that the content of a range is no longer wanted: it then reads as it did, or as zeros.
    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError>;

    /// Returns when every write that returned before this call would survive a crash.
    fn flush(&self) -> Result<(), ImageError>;
}

impl<D: WritableDisk + ?Sized> WritableDisk for Arc<D> {
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        (**self).write_at(guest_offset, bytes)
    }

    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        (**self).write_zeros_at(guest_offset, length_bytes)
    }

    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        (**self).discard_at(guest_offset, length_bytes)
    }

    fn flush(&self) -> Result<(), ImageError> {
        (**self).flush()
    }
}

/// Blocks are locked in groups of 256 KiB: two words of states each, and a part of one page of the table.
const GROUP_BYTES: u64 = 64 * BLOCK_BYTES;

/// How many locks there are for all groups.
const LOCKS: u64 = 256;

/// A disk of which nothing is changed, and a file that takes what is written to it.
pub struct Overlay {
    reader: OverlayReader,
    file: Arc<dyn HostFileMut>,
    /// Held shared to write over data in place, alone for what changes the state of a block.
    group_locks: Box<[RwLock<()>]>,
    flushing: Mutex<()>,
    /// Whether there is anything to flush.
    is_changed: AtomicBool,
    /// Whether a sync has failed: what it was to make durable may be lost, and no later one would tell.
    is_broken: AtomicBool,
    /// Whether the file is to be found again.
    is_kept: bool,
}

impl Overlay {
    /// Makes an overlay of this disk in a new file at `path`.
    pub fn create(path: &Path, base: Arc<dyn BlockSource>) -> Result<Self> {
        let layout = Layout::of_size(base.geometry().size_bytes).on_path(path)?;
        let made = file::create(path, |file| prepare(file, &layout, base.as_ref())).on_path(path)?;
        Ok(Self::over(OverlayReader::empty(made.known_as, base, layout), made.file, true))
    }

    /// Opens an overlay to go on with it; fails if another process uses it, or if it was made for another disk.
    pub fn open(path: &Path, base: Arc<dyn BlockSource>) -> Result<Self> {
        let found = LocalOverlay::open(path, true).on_path(path)?;
        Ok(Self::over(OverlayReader::load(found.known_as, base).on_path(path)?, found.file, true))
    }

    /// Opens the overlay at `path`, or makes it if there is nothing.
    pub fn open_or_create(path: &Path, base: Arc<dyn BlockSource>) -> Result<Self> {
        if path.symlink_metadata().is_ok() { Self::open(path, base) } else { Self::create(path, base) }
    }

    /// An overlay that is gone when it is dropped, in a file without a name in this folder.
    pub fn temporary(folder: &Path, base: Arc<dyn BlockSource>) -> Result<Self> {
        let layout = Layout::of_size(base.geometry().size_bytes)?;
        let made = LocalOverlay::unnamed(folder).on_path(folder)?;
        set_length(made.file.as_ref(), &layout).on_path(folder)?;
        Ok(Self::over(OverlayReader::empty(made.known_as, base, layout), made.file, false))
    }

    fn over(reader: OverlayReader, file: Arc<dyn HostFileMut>, is_kept: bool) -> Self {
        Overlay {
            reader,
            file,
            group_locks: (0..LOCKS).map(|_| RwLock::new(())).collect(),
            flushing: Mutex::new(()),
            is_changed: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_kept,
        }
    }

    fn group_lock(&self, guest_offset: u64) -> &RwLock<()> {
        &self.group_locks[(guest_offset / GROUP_BYTES % LOCKS) as usize]
    }

    fn check_not_broken(&self) -> Result<(), ImageError> {
        match self.is_broken.load(Acquire) {
            false => Ok(()),
            true => Err(ImageError::new(
                ErrorKind::Io,
                "write to the overlay",
                "a sync has failed before, and what was written since the last flush may be lost",
            )),
        }
    }

    /// Writes within one group.
    fn write_in_group(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let blocks = blocks_around(guest_offset..guest_offset + bytes.len() as u64);
        let lock = self.group_lock(guest_offset);
        {
            let _shared = lock.read().unpoisoned();
            if self.reader.states.are_all(&blocks, BlockState::Data) {
                self.put(guest_offset, bytes)?;
                self.is_changed.store(true, Release);
                return Ok(());
            }
        }
        let _alone = lock.write().unpoisoned();
        self.reserve_page(blocks.start)?;
        let size_bytes = self.reader.layout.size_bytes;
        for part in parts(guest_offset..guest_offset + bytes.len() as u64, size_bytes) {
            let content = &bytes[(part.start - guest_offset) as usize..(part.end - guest_offset) as usize];
            self.put_whole_blocks(part, content)?;
        }
        self.reader.states.set(&blocks, BlockState::Data);
        self.is_changed.store(true, Release);
        Ok(())
    }

    /// Writes whole blocks, or a part of one, which is filled up unless it is data already.
    fn put_whole_blocks(&self, range: Range<u64>, bytes: &[u8]) -> Result<(), ImageError> {
        let block = range.start / BLOCK_BYTES;
        let begin = block * BLOCK_BYTES;
        let end = (begin + BLOCK_BYTES).min(self.reader.layout.size_bytes);
        let is_whole = range.start == begin && range.end >= end;
        if is_whole || self.reader.states.state(block) == BlockState::Data {
            return self.put(range.start, bytes);
        }
        let mut whole = [0; BLOCK_BYTES as usize];
        let whole = &mut whole[..(end - begin) as usize];
        self.reader.read_at(begin, whole)?;
        whole[(range.start - begin) as usize..(range.end - begin) as usize].copy_from_slice(bytes);
        self.put(begin, whole)
    }

    fn put(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.file
            .write_all_at(self.reader.host_offset(guest_offset), bytes)
            .map_err(|cause| ImageError::io("write to the overlay", cause).at_guest(guest_offset))
    }

    /// Makes room for the page of the table, so that a full disk fails this write and not a later flush.
    fn reserve_page(&self, block: u64) -> Result<(), ImageError> {
        if !self.is_kept {
            return Ok(());
        }
        self.reader.states.reserve(block, |index| self.write_page(index, &[0; PAGE_BYTES as usize]))
    }

    fn write_page(&self, index: usize, bytes: &[u8]) -> Result<(), ImageError> {
        let host_offset = self.reader.layout.table_offset + index as u64 * PAGE_BYTES;
        self.file
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io("write the overlay's table", cause).at_host(host_offset))
    }

    /// Makes whole blocks of one group zero, and gives their place back to the file system.
    fn zero_in_group(&self, range: Range<u64>) -> Result<(), ImageError> {
        let blocks = blocks_around(range.clone());
        let _alone = self.group_lock(range.start).write().unpoisoned();
        if self.reader.states.are_all(&blocks, BlockState::Zero) {
            return Ok(());
        }
        self.reserve_page(blocks.start)?;
        let data = self.data_runs(&blocks);
        self.reader.states.set(&blocks, BlockState::Zero);
        self.is_changed.store(true, Release);
        for run in data {
            // That it fails costs room, and nothing else: nobody looks there any more.
            let length_bytes = (run.end - run.start) * BLOCK_BYTES;
            let _ = self.file.write_zeros_at(self.reader.host_offset(run.start * BLOCK_BYTES), length_bytes);
        }
        Ok(())
    }

    fn data_runs(&self, blocks: &Range<u64>) -> Vec<Range<u64>> {
        let (mut runs, mut block) = (Vec::new(), blocks.start);
        while block < blocks.end {
            let (state, length) = self.reader.states.run(block, blocks.end - block);
            if state == BlockState::Data {
                runs.push(block..block + length);
            }
            block += length;
        }
        runs
    }

    /// The whole blocks inside of a range.
    fn whole_blocks(&self, guest_offset: u64, length_bytes: u64) -> Range<u64> {
        let (end, size_bytes) = (guest_offset + length_bytes, self.reader.layout.size_bytes);
        let begin = guest_offset.next_multiple_of(BLOCK_BYTES).min(end);
        let end = if end == size_bytes { end } else { end / BLOCK_BYTES * BLOCK_BYTES };
        begin..end.max(begin)
    }

    fn write_down(&self, pages: &[PageCopy]) -> Result<(), ImageError> {
        self.sync()?;
        if pages.is_empty() {
            return Ok(());
        }
        pages.iter().try_for_each(|page| self.write_page(page.index, page.bytes.as_slice()))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), ImageError> {
        self.file.sync_data().map_err(|cause| {
            self.is_broken.store(true, Release);
            ImageError::io("make the overlay durable", cause)
        })
    }
}

impl WritableDisk for Overlay {
    fn write_at(&self, guest_offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, bytes.len() as u64)?;
        self.check_not_broken()?;
        for part in cut(guest_offset..guest_offset + bytes.len() as u64, GROUP_BYTES) {
            let content = &bytes[(part.start - guest_offset) as usize..(part.end - guest_offset) as usize];
            self.write_in_group(part.start, content)?;
        }
        Ok(())
    }

    fn write_zeros_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, length_bytes)?;
        self.check_not_broken()?;
        let (whole, end) = (self.whole_blocks(guest_offset, length_bytes), guest_offset + length_bytes);
        for edge in [guest_offset..whole.start, whole.end..end] {
            for part in cut(edge, BLOCK_BYTES) {
                self.write_in_group(part.start, &[0; BLOCK_BYTES as usize][..(part.end - part.start) as usize])?;
            }
        }
        cut(whole, GROUP_BYTES).try_for_each(|part| self.zero_in_group(part))
    }

    fn discard_at(&self, guest_offset: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, length_bytes)?;
        self.check_not_broken()?;
        cut(self.whole_blocks(guest_offset, length_bytes), GROUP_BYTES).try_for_each(|part| self.zero_in_group(part))
    }

    fn flush(&self) -> Result<(), ImageError> {
        if !self.is_kept {
            return Ok(());
        }
        let _turn = self.flushing.lock().unpoisoned();
        self.check_not_broken()?;
        if !self.is_changed.swap(false, AcqRel) {
            return Ok(());
        }
        let pages = self.reader.states.take_changed();
        self.write_down(&pages).inspect_err(|_| {
            self.reader.states.give_back(&pages);
            self.is_changed.store(true, Release);
        })
    }
}

impl BlockSource for Overlay {
    fn geometry(&self) -> Geometry {
        self.reader.geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.reader.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.reader.read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        self.reader.host_files()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Who needs to know whether it succeeds flushes before.
        let _ = self.flush();
    }
}

/// Gives an empty file its length and its header.
fn prepare(file: &dyn HostFileMut, layout: &Layout, base: &dyn BlockSource) -> Result<()> {
    set_length(file, layout)?;
    let header = layout.header(&fingerprint(base)?);
    file.write_all_at(0, &header).map_err(|cause| Error::io("write the overlay's header", cause))
}

fn set_length(file: &dyn HostFileMut, layout: &Layout) -> Result<()> {
    let doing = || {
        let (size, file) = (layout.size_bytes, layout.file_bytes);
        format!("make a sparse file of {file} bytes for an overlay over a disk of {size}")
    };
    file.set_len_bytes(layout.file_bytes).map_err(|cause| Error::io(doing(), cause))
}

/// The numbers of the blocks that a range touches.
fn blocks_around(range: Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// Cuts a range at the multiples of a length.
fn cut(range: Range<u64>, step_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let mut begin = range.start;
    std::iter::from_fn(move || {
        let from = begin;
        begin = ((from / step_bytes + 1) * step_bytes).min(range.end);
        (from < range.end).then_some(from..begin)
    })
}

/// Cuts a range into the part of its first block, whole blocks, and the part of its last one.
fn parts(range: Range<u64>, size_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let head = range.start.next_multiple_of(BLOCK_BYTES).min(range.end);
    let tail = if range.end == size_bytes { range.end } else { range.end / BLOCK_BYTES * BLOCK_BYTES };
    let tail = tail.max(head);
    [range.start..head, head..tail, tail..range.end].into_iter().filter(|part| !part.is_empty())
}
