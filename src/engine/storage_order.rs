//! Reads a disk in the order in which its pieces are stored, for targets where every byte has its place already: each stored
//! object is read from front to back, and what lies side by side at once.

use std::collections::VecDeque;
use std::ops::Range;

use tintype_formats::sink::WriterLayout;
use tintype_formats::{BlockSource, StorageOrder, StoredPiece};

use super::plan::{DiskPlan, Feed, Part, PlanOptions, Unit, Work};
use crate::error::Result;

/// The part of the disk that is sorted at a time, in the source's own units: as much as fits into memory together with what
/// tells where it is stored. In pieces of 256 KiB that is 16 GiB, and 64 pages of a map.
const WINDOW_UNITS: u64 = 64 << 10;

/// How much is loaded together at most, in bytes, unless a single unit is larger.
const BATCH_BYTES: u64 = 2 << 20;

/// Plans the reading of `source` in storage order, or in guest order if it has no other.
pub fn plan<'a>(source: &'a dyn BlockSource, layout: WriterLayout, options: PlanOptions<'a>) -> Box<dyn Feed + 'a> {
    let guest_order = DiskPlan::new(source, Some(layout), options);
    match source.storage_order() {
        Some(disk) => Box::new(StorageOrderPlan {
            batch_bytes: BATCH_BYTES.max(guest_order.batch_bytes()),
            guest_order,
            disk,
            options,
            align_bytes: layout.unit_bytes,
            window_bytes: source.geometry().unit_bytes.saturating_mul(WINDOW_UNITS),
            ahead: None,
            window: VecDeque::new(),
            window_range: 0..0,
            window_pieces_bytes: 0,
            done_bytes: 0,
            next_index: 0,
        }),
        None => Box::new(guest_order),
    }
}

/// Units of a disk, in storage order within windows of the disk.
struct StorageOrderPlan<'a> {
    guest_order: DiskPlan<'a>,
    disk: &'a dyn StorageOrder,
    options: PlanOptions<'a>,
    align_bytes: u64,
    window_bytes: u64,
    batch_bytes: u64,
    /// The unit that the next window begins with.
    ahead: Option<Unit>,
    window: VecDeque<Piece>,
    /// Where the window begins and ends on the disk.
    window_range: Range<u64>,
    /// What is in the window, and what of it was handed out, in bytes: all but what is passed over.
    window_pieces_bytes: u64,
    done_bytes: u64,
    next_index: u64,
}

/// A part of the disk that is stored in one place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    stored: Stored,
    guest_offset: u64,
    length_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stored {
    /// It is zeros.
    Zeros,
    /// Nobody knows where it is: reading it will tell why.
    Unknown,
    At(StoredPiece),
}

impl Stored {
    /// Whether `next` lies right behind this in the same object, or is the same piece.
    fn adjoins(&self, next: &Stored) -> bool {
        let (Stored::At(this), Stored::At(next)) = (self, next) else { return false };
        let same_object = this.object == next.object;
        same_object && (this.offset == next.offset || this.offset.checked_add(this.stored_bytes) == Some(next.offset))
    }
}

impl StorageOrderPlan<'_> {
    /// Takes the units of the next part of the disk to pieces, and sorts them; there are none at the end of the disk.
    fn fill_window(&mut self) -> Result<()> {
        let mut pieces = Vec::new();
        let mut window_begin = None;
        self.window_range.start = self.window_range.end;
        while let Some(unit) = self.ahead.take().map_or_else(|| self.guest_order.next_unit(), |unit| Ok(Some(unit)))? {
            let begin = *window_begin.get_or_insert(unit.guest_offset);
            if unit.end() - begin > self.window_bytes && !pieces.is_empty() {
                self.ahead = Some(unit);
                break;
            }
            self.window_range.end = unit.end();
            self.take_to_pieces(&unit, &mut pieces)?;
        }
        pieces.sort_unstable();
        (self.window_pieces_bytes, self.done_bytes) = (pieces.iter().map(|piece| piece.length_bytes).sum(), 0);
        self.window = pieces.into();
        Ok(())
    }

    fn take_to_pieces(&self, unit: &Unit, pieces: &mut Vec<Piece>) -> Result<()> {
        let whole = [Part { offset: 0, length_bytes: unit.length_bytes }];
        let parts = match &unit.work {
            Work::Read(parts) => parts.as_slice(),
            Work::Zero => &[],
            Work::Clone(_) | Work::Arrived => &whole,
        };
        let mut zeros_from = unit.guest_offset;
        for part in parts {
            let begin = unit.guest_offset + part.offset;
            self.push_zeros(zeros_from, begin, pieces);
            zeros_from = begin + part.length_bytes;
            self.push_data(begin, zeros_from, pieces)?;
        }
        self.push_zeros(zeros_from, unit.end(), pieces);
        Ok(())
    }

    fn push_zeros(&self, begin: u64, end: u64, pieces: &mut Vec<Piece>) {
        if self.options.with_zeros && begin < end {
            pieces.push(Piece { stored: Stored::Zeros, guest_offset: begin, length_bytes: end - begin });
        }
    }

    fn push_data(&self, begin: u64, end: u64, pieces: &mut Vec<Piece>) -> Result<()> {
        let mut offset = begin;
        while offset < end {
            let (stored, length_bytes) = match self.disk.stored_at(offset) {
                Ok(Some((piece, length_bytes))) => (Stored::At(piece), length_bytes.max(1)),
                Err(cause) if !self.options.salvage => return Err(cause.into()),
                Ok(None) | Err(_) => (Stored::Unknown, end - offset),
            };
            let piece_end = offset.saturating_add(length_bytes).min(end).next_multiple_of(self.align_bytes).min(end);
            pieces.push(Piece { stored, guest_offset: offset, length_bytes: piece_end - offset });
            offset = piece_end;
        }
        Ok(())
    }

    /// The next piece of the window, if it goes well with the one before in a batch that has room for so much.
    fn next_adjoining(&mut self, before: &Piece, room_bytes: u64) -> Option<Piece> {
        self.window.pop_front_if(|next| before.stored.adjoins(&next.stored) && next.length_bytes <= room_bytes)
    }

    /// How much of the disk is passed, if what there is to do was spread evenly over the window.
    fn passed_bytes(&self) -> u64 {
        let Range { start, end } = self.window_range;
        let share = u128::from(end - start) * u128::from(self.done_bytes) / u128::from(self.window_pieces_bytes.max(1));
        start + share as u64
    }

    /// Adds a piece to a batch: to its last unit, if it goes on there.
    fn push_unit(&mut self, units: &mut Vec<Unit>, piece: &Piece) {
        self.done_bytes += piece.length_bytes;
        let passed_bytes = self.passed_bytes();
        if let Some(Unit { guest_offset, length_bytes, work: Work::Read(parts), passed_bytes: passed, .. }) =
            units.last_mut()
            && *guest_offset + *length_bytes == piece.guest_offset
        {
            *length_bytes += piece.length_bytes;
            parts.iter_mut().for_each(|part| part.length_bytes = *length_bytes);
            *passed = passed_bytes;
            return;
        }
        let Piece { stored, guest_offset, length_bytes } = *piece;
        let work = match stored {
            Stored::Zeros => Work::Zero,
            Stored::Unknown | Stored::At(_) => Work::Read(vec![Part { offset: 0, length_bytes }]),
        };
        units.push(Unit { index: self.next_index, guest_offset, length_bytes, work, passed_bytes });
        self.next_index += 1;
    }
}

impl Feed for StorageOrderPlan<'_> {
    fn next(&mut self, _: &mut [u8]) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        if self.window.is_empty() {
            self.fill_window()?;
        }
        let Some(mut last) = self.window.pop_front() else { return Ok(units) };
        self.push_unit(&mut units, &last);
        let mut room_bytes = self.batch_bytes.saturating_sub(last.length_bytes);
        while let Some(piece) = self.next_adjoining(&last, room_bytes) {
            self.push_unit(&mut units, &piece);
            room_bytes -= piece.length_bytes;
            last = piece;
        }
        Ok(units)
    }

    fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::ops::RangeInclusive;
    use std::path::Path;
    use std::sync::Arc;

    use proptest::prelude::*;
    use tintype_formats::extent::DiskExtent;
    use tintype_formats::sink::SingleFile;
    use tintype_formats::testing::{MemoryFile, ModelDisk, Random, read_all};
    use tintype_formats::{CreateOptions, Geometry, HostFileMut as _, ImageError, Result as ImageResult, raw};

    use super::*;
    use crate::engine::copy::{CopyOptions, copy};
    use crate::engine::pipeline::{Pipeline, Unreadable};
    use crate::engine::plan::Inherited;
    use crate::engine::salvage::{AreaMap, Retry, SetAside, State, Tolerance};
    use crate::error::Error;
    use crate::progress::Progress;
    use crate::sources::Slice;

    const PIECE_BYTES: u64 = 16 << 10;

    /// A disk whose pieces are stored in any order in objects of sixteen, or at random the same ones over and over; some of them
    /// cannot be read, and of some nobody knows where they are.
    struct Scrambled {
        disk: ModelDisk,
        places: Vec<u64>,
        damaged: HashSet<u64>,
        unknown: HashSet<u64>,
    }

    impl Scrambled {
        fn new(seed: u64, size_bytes: u64, with_repeated: bool) -> Self {
            let mut random = Random(seed);
            let mut places: Vec<u64> = (0..size_bytes.div_ceil(PIECE_BYTES)).collect();
            for index in 0..places.len() {
                let other = random.below(places.len() as u64) as usize;
                // Runs stay in order: swapping few leaves many neighbours.
                if random.below(4) == 0 {
                    places.swap(index, other);
                } else if with_repeated && random.below(8) == 0 {
                    places[index] = places[other];
                }
            }
            let disk = ModelDisk::random(seed, size_bytes, 12, 40);
            Scrambled { disk, places, damaged: HashSet::new(), unknown: HashSet::new() }
        }

        fn damage(mut self, seed: u64) -> Self {
            let mut random = Random(seed);
            let pieces = self.places.len() as u64;
            self.damaged.extend((0..random.below(4)).map(|_| random.below(pieces)));
            self.unknown.extend((0..random.below(4)).map(|_| random.below(pieces)));
            self
        }

        /// Fails where a damaged piece is to be read.
        fn check(&self, guest_offset: u64, length: usize) -> ImageResult<()> {
            let pieces = guest_offset / PIECE_BYTES..(guest_offset + length as u64).div_ceil(PIECE_BYTES);
            match pieces.into_iter().any(|piece| self.damaged.contains(&piece)) {
                true => Err(ImageError::corrupt("read a piece", "it is damaged")),
                false => Ok(()),
            }
        }
    }

    impl BlockSource for Scrambled {
        fn geometry(&self) -> Geometry {
            Geometry { unit_bytes: PIECE_BYTES, ..self.disk.geometry() }
        }

        fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> ImageResult<DiskExtent> {
            self.disk.extent_at(guest_offset, max_bytes)
        }

        fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
            self.check(guest_offset, buffer.len())?;
            self.disk.read_at(guest_offset, buffer)
        }

        fn storage_order(&self) -> Option<&dyn StorageOrder> {
            Some(self)
        }
    }

    impl StorageOrder for Scrambled {
        fn stored_at(&self, guest_offset: u64) -> ImageResult<Option<(StoredPiece, u64)>> {
            if self.unknown.contains(&(guest_offset / PIECE_BYTES)) {
                return Err(ImageError::corrupt("look a piece up", "nobody knows"));
            }
            let place = self.places[(guest_offset / PIECE_BYTES) as usize];
            let object = [(place / 16) as u8; 16];
            let piece = StoredPiece { object, offset: place % 16 * 100, stored_bytes: 100 };
            Ok(Some((piece, PIECE_BYTES - guest_offset % PIECE_BYTES)))
        }

        fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> ImageResult<()> {
            parts.iter_mut().try_for_each(|(guest_offset, buffer)| self.read_at(*guest_offset, buffer))
        }
    }

    fn batches(source: &dyn BlockSource, with_zeros: bool) -> Vec<Vec<Unit>> {
        let options =
            PlanOptions { parent: None, with_zeros, inherited: Inherited::Read, clonable: &[], salvage: false };
        let layout = WriterLayout { unit_bytes: 4096, clones: true, in_place: true };
        let mut feed = plan(source, layout, options);
        let batches =
            std::iter::from_fn(|| Some(feed.next(&mut []).unwrap()).filter(|batch| !batch.is_empty())).collect();
        assert!(feed.next(&mut []).unwrap().is_empty());
        batches
    }

    /// Which bytes of the disk the units cover, as ranges in guest order.
    fn covered<'a>(units: impl Iterator<Item = &'a Unit>) -> Vec<std::ops::Range<u64>> {
        let mut ranges: Vec<_> = units.map(|unit| unit.guest_offset..unit.end()).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "read twice: {ranges:?}");
        super::super::pipeline::joined(ranges)
    }

    /// What a raw file full of old bytes holds after a restore that goes past what cannot be read, and what that was.
    fn restored(source: &dyn BlockSource) -> (Vec<u8>, Vec<Range<u64>>) {
        let geometry = source.geometry();
        let file = Arc::new(MemoryFile::from_bytes(&vec![0xff; geometry.size_bytes as usize]));
        let create = CreateOptions { target_holds_old_data: true, ..CreateOptions::new(geometry) };
        let writer = raw::FORMAT.begin(&SingleFile(file.clone()), &create).unwrap();
        let options =
            PlanOptions { parent: None, with_zeros: true, inherited: Inherited::Read, clonable: &[], salvage: true };
        let mut feed = plan(source, writer.layout(), options);
        let progress = Progress::new();
        let set_aside = SetAside::new(AreaMap::new(geometry.size_bytes, State::NotTried), None);
        let pipeline = Pipeline {
            source: Some(source),
            source_path: Path::new("the disk"),
            workers: 4,
            progress: &progress,
            rate_limit: None,
            unreadable: Unreadable::SetAside(&set_aside),
        };
        let options = CopyOptions { parent: None, explicit_zeros: true, ordered_writes: false, digest: None };
        copy(&pipeline, feed.as_mut(), geometry.size_bytes, writer.as_ref(), &options).unwrap();
        let mut map = set_aside.map().clone();
        map.finish_untried(0..geometry.size_bytes);
        let options = Tolerance::SALVAGE.retry();
        let retry = Retry { source, witness: set_aside.witness(), options, progress: &progress };
        let mut store = |at: u64, bytes: &[u8]| file.write_all_at(at, bytes).map_err(|cause| Error::io("write", cause));
        retry.run(&mut map, &mut store, &mut |_| Ok(())).unwrap();
        (file.to_bytes(), map.unfinished())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// All that can be read is there, and what cannot is listed, and zeros.
        #[test]
        fn a_used_target_holds_the_disk_afterwards(
            seed: u64, size_bytes in 1u64..2 << 20, begin in 0u64..100_000, with_repeated: bool, is_damaged: bool,
        ) {
            let whole = Scrambled::new(seed, size_bytes, with_repeated);
            let begin = begin.min(size_bytes);
            let mut expected = read_all(&whole.disk).unwrap().split_off(begin as usize);
            let whole = if is_damaged { whole.damage(seed) } else { whole };
            let damaged = whole.damaged.clone();
            let (found, unreadable) = restored(&Slice::new(whole, begin, None).unwrap());
            for range in &unreadable {
                // Down to steps of 4 KiB, which may reach into the next piece.
                let near = [range.start, range.end - 1].map(|at| (begin + at).saturating_sub(4095)..=begin + at + 4095);
                let is_near = |at: &RangeInclusive<u64>| {
                    damaged.iter().any(|piece| *at.start() < (piece + 1) * PIECE_BYTES && *at.end() >= piece * PIECE_BYTES)
                };
                prop_assert!(near.iter().all(is_near), "{range:?} could be read: {damaged:?}");
                expected[range.start as usize..range.end as usize].fill(0);
            }
            prop_assert!(found == expected, "begin {begin}, unreadable {unreadable:?}");
        }

        /// Whatever the guest's order reads, this one reads too, once, and zeros stay zeros.
        #[test]
        fn every_byte_is_read_once(
            seed: u64, size_bytes in 1u64..4 << 20, begin in 0u64..100_000, with_zeros: bool, with_repeated: bool,
        ) {
            let scrambled = Scrambled::new(seed, size_bytes, with_repeated);
            let slice = Slice::new(scrambled, begin.min(size_bytes), None).unwrap();
            let batches = batches(&slice, with_zeros);
            let units: Vec<_> = batches.iter().flatten().collect();
            prop_assert!(units.iter().zip(0..).all(|(unit, index)| unit.index == index));
            prop_assert!(units.last().is_none_or(|unit| unit.passed_bytes <= slice.geometry().size_bytes));
            prop_assert!(units.windows(2).all(|pair| pair[0].passed_bytes <= pair[1].passed_bytes));
            let size_bytes = slice.geometry().size_bytes;
            let data = covered(units.iter().copied().filter(|unit| unit.has_bytes()));
            let all = covered(units.iter().copied());
            let passed: u64 = all.iter().map(|range| range.end - range.start).sum();
            prop_assert!(!with_zeros || passed == size_bytes);
            let mut offset = 0;
            while offset < size_bytes {
                let extent = slice.extent_at(offset, u64::MAX).unwrap();
                let end = offset + extent.length_bytes;
                let is_read = data.iter().any(|range| range.start <= offset && range.end >= end);
                prop_assert_eq!(is_read, !extent.kind.reads_as_zeros(), "{:#x}..{:#x}", offset, end);
                offset = end;
            }
        }
    }

    #[test]
    fn neighbours_are_read_together_and_objects_from_front_to_back() {
        let mut scrambled = Scrambled::new(1, 4 << 20, false);
        scrambled.disk = ModelDisk::random(1, 4 << 20, 1, 1);
        (0..1024).for_each(|block| scrambled.disk.write(block, 7));
        let place = |unit: &Unit| scrambled.stored_at(unit.guest_offset).unwrap().unwrap().0;
        let batches = batches(&scrambled, false);
        let places: Vec<_> = batches.iter().flatten().map(place).collect();
        assert!(places.is_sorted());
        // Sixteen objects of sixteen pieces each, which fit into a batch; units are fewer than pieces where the guest's order is kept.
        assert_eq!(batches.len(), 16);
        assert!(places.len() < 200, "{}", places.len());
    }
}
