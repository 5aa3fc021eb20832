//! Encoding a unit: what each of its clusters is to be, and the compressed bytes. Touches nothing shared.
//!
//! ```text
//!   runs of the unit   |  Data  | Zero |   Inherited   |  Zero  |  Data ...
//!   clusters           |  Plain or Packed   |  Absent  |  Zero  |  Plain or Packed ...
//! ```
//!
//! Invariants: the pieces of a plan cover the unit's clusters in order; a cluster of which anything must be stored is
//! stored with all that the guest sees in it, or, with subclusters, each of these is.

use super::on_disk::{SUBCLUSTERS, Shape};
use crate::codec;
use crate::error::{ErrorKind, ImageError, Result};
use crate::sink::{Compression, GuestUnit, RunKind, UnitContent, UnitRun};

/// What planning a unit needs to know of the image.
#[derive(Debug, Clone)]
pub(super) struct PlanSettings {
    pub shape: Shape,
    pub compression: Compression,
    /// Whether a cluster can be zero without being stored: not so in version 2.
    pub zero_flag: bool,
    /// The parent's size; 0 without a parent. Past it, what is absent reads as zeros.
    pub parent_bytes: u64,
    /// Whether zeros inside a stored cluster have to be written.
    pub holds_old_data: bool,
}

/// What consecutive clusters are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub clusters: u64,
    pub storage: Storage,
}

/// What a cluster is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// Nothing: the parent shows, or zeros.
    Absent,
    /// Zeros, explicitly, without a host cluster; the bitmap is 0 unless entries are extended.
    Zero { bitmap: u64 },
    /// A host cluster of its own.
    Plain { bitmap: u64 },
    /// So many compressed bytes.
    Packed { length_bytes: u32 },
}

/// Bytes of the unit to write, wherever its clusters come to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: u64,
    pub length_bytes: u64,
}

/// What is to become of a unit.
#[derive(Debug, Default)]
pub(super) struct UnitPlan {
    pub pieces: Vec<Piece>,
    /// Ascending; what lies in no plain cluster is not meant.
    pub spans: Vec<Span>,
    /// The compressed clusters, one behind the other.
    pub packed: Vec<u8>,
}

/// Zeros between two spans that are written along, because two writes would cost more: a few blocks.
const MAX_WRITTEN_GAP_BYTES: u64 = 16 << 10;

/// Decides what is stored of the unit, and compresses it.
pub(super) fn plan(settings: &PlanSettings, unit: &GuestUnit<'_>) -> Result<UnitPlan> {
    let mut planner = Planner { settings, unit, first_run: 0, plan: UnitPlan::default() };
    let cluster_bytes = settings.shape.cluster_bytes();
    for cluster in 0..unit.length_bytes.div_ceil(cluster_bytes) {
        let storage = planner.plan_cluster(cluster * cluster_bytes)?;
        planner.plan.push_piece(storage);
    }
    Ok(planner.plan)
}

struct Planner<'a> {
    settings: &'a PlanSettings,
    unit: &'a GuestUnit<'a>,
    /// The first run that reaches into the cluster being planned.
    first_run: usize,
    plan: UnitPlan,
}

/// What a cluster or subcluster needs.
#[derive(PartialEq, Eq)]
enum Need {
    Nothing,
    Zero,
    Store,
}

impl Planner<'_> {
    fn plan_cluster(&mut self, begin: u64) -> Result<Storage> {
        let is_before = |run: &&UnitRun| run.offset + run.length_bytes <= begin;
        self.first_run += self.unit.runs.iter().skip(self.first_run).take_while(is_before).count();
        let (mut stored, mut zero) = (0u64, 0u64);
        for index in 0..self.settings.shape.allocations_per_cluster() {
            match self.need(self.allocation(begin, index)) {
                Need::Nothing => {}
                Need::Zero => zero |= 1 << index,
                Need::Store => stored |= 1 << index,
            }
        }
        if !self.settings.zero_flag {
            (stored, zero) = (stored | zero, 0);
        }
        let bitmap = if self.settings.shape.extended_l2 { zero << SUBCLUSTERS | stored } else { 0 };
        match (stored, zero) {
            (0, 0) => Ok(Storage::Absent),
            (0, _) => Ok(Storage::Zero { bitmap }),
            _ => self.store_cluster(begin, stored, bitmap),
        }
    }

    /// The range of the unit that one bit of an allocation bitmap stands for.
    fn allocation(&self, cluster_begin: u64, index: u64) -> std::ops::Range<u64> {
        let begin = cluster_begin + index * self.settings.shape.allocation_bytes();
        begin..(begin + self.settings.shape.allocation_bytes()).min(self.unit.length_bytes)
    }

    /// The parts of runs in a range of the current cluster.
    fn runs_in(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = UnitRun> {
        let (begin, end) = (range.start, range.end);
        let from_here = self.unit.runs.get(self.first_run..).unwrap_or_default().iter();
        from_here.take_while(move |run| run.offset < end).filter_map(move |run| {
            let (first, last) = (run.offset.max(begin), (run.offset + run.length_bytes).min(end));
            (first < last).then(|| UnitRun { offset: first, length_bytes: last - first, kind: run.kind })
        })
    }

    fn need(&self, range: std::ops::Range<u64>) -> Need {
        let (mut hides_parent, mut shows_parent) = (false, false);
        for run in self.runs_in(range) {
            match run.kind {
                RunKind::Data => return Need::Store,
                RunKind::Zero => hides_parent |= self.unit.guest_offset + run.offset < self.settings.parent_bytes,
                RunKind::Inherited => shows_parent = true,
            }
        }
        match (hides_parent, shows_parent) {
            (true, true) => Need::Store,
            (true, false) => Need::Zero,
            (false, _) => Need::Nothing,
        }
    }

    fn store_cluster(&mut self, begin: u64, stored: u64, bitmap: u64) -> Result<Storage> {
        if let UnitContent::Bytes(bytes) = self.unit.content
            && let Some(packed) = compress(self.settings, bytes.get(begin as usize..).unwrap_or_default())
        {
            self.plan.packed.extend_from_slice(&packed);
            return Ok(Storage::Packed { length_bytes: packed.len() as u32 });
        }
        for index in 0..self.settings.shape.allocations_per_cluster() {
            if stored >> index & 1 == 1 {
                self.store_allocation(self.allocation(begin, index))?;
            }
        }
        Ok(Storage::Plain { bitmap })
    }

    fn store_allocation(&mut self, range: std::ops::Range<u64>) -> Result<()> {
        let mut spans = Vec::new();
        for run in self.runs_in(range) {
            if run.kind != RunKind::Zero && matches!(self.unit.content, UnitContent::Nothing) {
                let detail = "a unit without bytes has a cluster that must be stored";
                return Err(ImageError::new(ErrorKind::InvalidOption, "store unit", detail)
                    .at_guest(self.unit.guest_offset + run.offset));
            }
            if run.kind != RunKind::Zero || self.settings.holds_old_data {
                spans.push(Span { offset: run.offset, length_bytes: run.length_bytes });
            }
        }
        spans.into_iter().for_each(|span| self.plan.push_span(span));
        Ok(())
    }
}

/// Compresses the cluster that `bytes` begins with, if that makes it shorter. The last one of the disk is filled up.
fn compress(settings: &PlanSettings, bytes: &[u8]) -> Option<Vec<u8>> {
    let cluster_bytes = settings.shape.cluster_bytes() as usize;
    let pack = |cluster: &[u8]| match settings.compression {
        Compression::None => None,
        Compression::Zlib(level) => codec::deflate_raw_small_window(cluster, level, cluster_bytes),
        Compression::Zstd(level) => codec::encode_zstd(cluster, level, cluster_bytes),
    };
    if settings.compression == Compression::None {
        return None;
    }
    match bytes.get(..cluster_bytes) {
        Some(cluster) => pack(cluster),
        None => {
            let mut cluster = bytes.to_vec();
            cluster.resize(cluster_bytes, 0);
            pack(&cluster)
        }
    }
}

impl UnitPlan {
    fn push_piece(&mut self, storage: Storage) {
        match self.pieces.last_mut() {
            // Each compressed cluster has a place of its own.
            Some(last) if last.storage == storage && !matches!(storage, Storage::Packed { .. }) => last.clusters += 1,
            _ => self.pieces.push(Piece { clusters: 1, storage }),
        }
    }

    fn push_span(&mut self, span: Span) {
        match self.spans.last_mut() {
            Some(last) if span.offset - (last.offset + last.length_bytes) <= MAX_WRITTEN_GAP_BYTES => {
                last.length_bytes = span.offset + span.length_bytes - last.offset;
            }
            _ => self.spans.push(span),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn settings(extended_l2: bool, parent_bytes: u64) -> PlanSettings {
        PlanSettings {
            shape: Shape { cluster_bits: 16, extended_l2 },
            compression: Compression::None,
            zero_flag: true,
            parent_bytes,
            holds_old_data: false,
        }
    }

    fn runs(kinds: &[(u64, RunKind)]) -> Vec<UnitRun> {
        let mut offset = 0;
        let place = |(kib, kind): &(u64, RunKind)| {
            offset += kib * KIB;
            UnitRun { offset: offset - kib * KIB, length_bytes: kib * KIB, kind: *kind }
        };
        kinds.iter().map(place).collect()
    }

    fn plan_of(settings: &PlanSettings, kinds: &[(u64, RunKind)]) -> UnitPlan {
        let runs = runs(kinds);
        let bytes = vec![1; runs.iter().map(|run| run.length_bytes).sum::<u64>() as usize];
        let content = UnitContent::Bytes(&bytes);
        let unit = GuestUnit { guest_offset: 0, length_bytes: bytes.len() as u64, content, runs: &runs };
        plan(settings, &unit).unwrap()
    }

    #[test]
    fn zeros_are_absent_without_a_parent_and_explicit_over_one() {
        let kinds = [(64, RunKind::Data), (128, RunKind::Zero), (30, RunKind::Zero)];
        let plain = Piece { clusters: 1, storage: Storage::Plain { bitmap: 0 } };
        let absent = Piece { clusters: 3, storage: Storage::Absent };
        assert_eq!(plan_of(&settings(false, 0), &kinds).pieces, [plain, absent]);
        let zero = Piece { clusters: 1, storage: Storage::Zero { bitmap: 0 } };
        let past_the_parent = Piece { clusters: 1, storage: Storage::Absent };
        let planned = plan_of(&settings(false, 129 * KIB), &[(64, RunKind::Inherited), kinds[1], kinds[2]]);
        assert_eq!(
            planned.pieces,
            [Piece { clusters: 1, storage: Storage::Absent }, Piece { clusters: 2, ..zero }, past_the_parent]
        );
    }

    #[test]
    fn a_partly_inherited_cluster_is_stored_from_the_units_bytes() {
        let planned =
            plan_of(&settings(false, 1 << 30), &[(4, RunKind::Zero), (20, RunKind::Inherited), (40, RunKind::Zero)]);
        assert_eq!(planned.pieces, [Piece { clusters: 1, storage: Storage::Plain { bitmap: 0 } }]);
        assert_eq!(planned.spans, [Span { offset: 4 * KIB, length_bytes: 20 * KIB }]);
    }

    #[test]
    fn subclusters_are_stored_each_for_itself() {
        let kinds = [(2, RunKind::Data), (3, RunKind::Zero), (1, RunKind::Inherited), (58, RunKind::Inherited)];
        let planned = plan_of(&settings(true, 1 << 30), &kinds);
        let bitmap = 1 << 33 | 0b101;
        assert_eq!(planned.pieces, [Piece { clusters: 1, storage: Storage::Plain { bitmap } }]);
        assert_eq!(planned.spans, [Span { offset: 0, length_bytes: 6 * KIB }]);
        let zero_only = plan_of(&settings(true, 1 << 30), &[(6, RunKind::Zero), (58, RunKind::Inherited)]);
        assert_eq!(zero_only.pieces, [Piece { clusters: 1, storage: Storage::Zero { bitmap: 7 << 32 } }]);
    }

    #[test]
    fn large_gaps_are_not_written() {
        let kinds =
            [(4, RunKind::Data), (12, RunKind::Zero), (4, RunKind::Data), (40, RunKind::Zero), (4, RunKind::Data)];
        let planned = plan_of(&settings(false, 0), &kinds);
        let spans = [Span { offset: 0, length_bytes: 20 * KIB }, Span { offset: 60 * KIB, length_bytes: 4 * KIB }];
        assert_eq!(planned.spans, spans);
    }
}
