//! Two levels of tables of 64-bit entries, the mapping of QED and of the first QCOW.
//!
//! ```text
//!   guest offset = | L1 index | L2 index | within the cluster |
//!   L1 table ──► L2 table ──► host cluster, compressed bytes, zeros, or nothing (the parent decides)
//! ```
//!
//! Neither format has a use for two entries that name one place. Two L1 entries with one L2 table, and two entries of a
//! table's part with one cluster, are errors; so a small file cannot stand for a huge disk of one repeated cluster. What
//! two different parts have in common is found by [`check`] alone.
//!
//! Invariants: the L1 table is in memory and in the file; whatever host range an entry names lies in the file, as far as
//! the disk reaches into it, and not in the header or the L1 table. Errors belong to the place they are found at.

pub(crate) mod check;
mod parts;
pub(crate) mod read;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use parts::{Part, PartCache, PartKey};

const READ_L1: &str = "read L1 table";
const READ_L2: &str = "read L2 table";

/// Longest L1 table, in bytes: it is held in memory. QEMU makes 4 MiB for 1 TiB of QCOW with its smallest clusters.
const MAX_L1_BYTES: u64 = 32 << 20;

/// The L1 table is read in steps of this size.
const STEP_BYTES: u64 = 1 << 20;

/// How many table entries one lookup of an extent goes through at most, so that it does not read all tables at once.
const MAX_ENTRIES_PER_LOOKUP: u64 = 65536;

/// What an L2 entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cluster {
    Absent,
    Zero,
    /// Stored as it is.
    Data {
        host_offset: u64,
    },
    /// One raw deflate stream.
    Compressed {
        host_offset: u64,
        stored_bytes: u64,
    },
}

/// How a format writes its entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryRules {
    pub big_endian: bool,
    /// What stored clusters and tables begin at multiples of.
    pub alignment_bytes: u64,
    /// What an L2 entry says, in an image with clusters of so many bytes (a power of two).
    pub cluster: fn(u64, u64) -> Cluster,
}

impl EntryRules {
    fn number(self, bytes: [u8; 8]) -> u64 {
        if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
    }
}

/// Where the tables of an image are, and of what size; a format's header has been held against its bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub rules: EntryRules,
    pub file_bytes: u64,
    /// In whole sectors.
    pub disk_bytes: u64,
    /// A power of two from 512 bytes to 64 MiB.
    pub cluster_bytes: u64,
    /// The entries of one L2 table, a power of two.
    pub l2_entries: u64,
    pub l1_offset: u64,
    /// What the L1 table takes of the file, also without being needed.
    pub l1_held_bytes: u64,
    /// What of the file's begin belongs to the header.
    pub header_bytes: u64,
}

impl Shape {
    /// How much of the disk one L2 table maps.
    pub fn span_bytes(&self) -> u64 {
        self.cluster_bytes.saturating_mul(self.l2_entries)
    }

    /// The L1 entries that the disk needs.
    pub fn l1_entries(&self) -> u64 {
        self.disk_bytes.div_ceil(self.span_bytes())
    }

    fn l2_bytes(&self) -> u64 {
        self.l2_entries * 8
    }

    fn l1_range(&self) -> Range<u64> {
        self.l1_offset..self.l1_offset.saturating_add(self.l1_entries().saturating_mul(8))
    }

    /// Checks that the L1 table can be held in memory and is in the file.
    pub fn check_l1(&self) -> Result<()> {
        let (entries, range) = (self.l1_entries(), self.l1_range());
        if entries > MAX_L1_BYTES / 8 {
            let detail = format!("the L1 table has {entries} entries, at most {} are read", MAX_L1_BYTES / 8);
            return Err(ImageError::limit_exceeded(READ_L1, detail));
        }
        if entries > 0 && range.start < self.header_bytes {
            let detail = format!("it begins at {:#x}, in the header", range.start);
            return Err(ImageError::corrupt(READ_L1, detail));
        }
        if entries > 0 && range.end > self.file_bytes {
            let detail = format!("it ends at {:#x}, past the end of the file ({:#x})", range.end, self.file_bytes);
            return Err(ImageError::truncated(READ_L1, detail).at_host(range.start));
        }
        Ok(())
    }

    /// Checks that `length_bytes` at `host_offset` are in the file, and not in what is known to be something else.
    fn check_place(&self, host_offset: u64, length_bytes: u64) -> std::result::Result<(), String> {
        let end = host_offset.checked_add(length_bytes).filter(|end| *end <= self.file_bytes);
        let Some(end) = end else {
            return Err(format!("points to {host_offset:#x}, past the end of the file ({:#x})", self.file_bytes));
        };
        if host_offset < self.header_bytes {
            return Err(format!("points to {host_offset:#x}, where the header is"));
        }
        if host_offset < self.l1_range().end && self.l1_range().start < end {
            return Err(format!("points to {host_offset:#x}, where the L1 table is"));
        }
        Ok(())
    }

    /// Checks where an L2 table is.
    fn check_l2(&self, host_offset: u64) -> std::result::Result<(), String> {
        self.check_alignment(host_offset)?;
        self.check_place(host_offset, self.l2_bytes())
    }

    /// Checks where the cluster is that begins at `guest_offset` of the disk. What the file lacks of it past the end of the
    /// disk does not matter.
    fn check_cluster(&self, cluster: Cluster, guest_offset: u64) -> std::result::Result<(), String> {
        match cluster {
            Cluster::Absent | Cluster::Zero => Ok(()),
            Cluster::Data { host_offset } => {
                let used_bytes = self.disk_bytes.saturating_sub(guest_offset).min(self.cluster_bytes);
                self.check_alignment(host_offset)?;
                self.check_place(host_offset, used_bytes)
            }
            Cluster::Compressed { host_offset, stored_bytes } => self.check_place(host_offset, stored_bytes),
        }
    }

    fn check_alignment(&self, host_offset: u64) -> std::result::Result<(), String> {
        let alignment = self.rules.alignment_bytes;
        if host_offset.is_multiple_of(alignment) {
            return Ok(());
        }
        Err(format!("points to {host_offset:#x}, which is not a multiple of {alignment}"))
    }

    fn cluster(&self, raw: u64) -> Cluster {
        (self.rules.cluster)(raw, self.cluster_bytes)
    }
}

/// The L1 table, in memory.
pub(crate) struct L1 {
    pub entries: Vec<u64>,
    /// What more than one entry points to, in order.
    shared: Vec<u64>,
}

impl L1 {
    /// Reads the table; [`Shape::check_l1`] has been called.
    pub fn read(file: &dyn HostFile, shape: &Shape) -> Result<L1> {
        let range = shape.l1_range();
        let mut entries = Vec::with_capacity(shape.l1_entries() as usize);
        let mut offset = range.start;
        let mut step = vec![0; STEP_BYTES.min(range.end - range.start) as usize];
        while offset < range.end {
            step.truncate(STEP_BYTES.min(range.end - offset) as usize);
            file.read_exact_at(offset, &mut step).map_err(|cause| ImageError::io(READ_L1, cause).at_host(offset))?;
            let (numbers, _) = step.as_chunks();
            entries.extend(numbers.iter().map(|bytes| shape.rules.number(*bytes)));
            offset += step.len() as u64;
        }
        let shared = repeated(entries.iter().copied().filter(|entry| *entry != 0).collect());
        Ok(L1 { entries, shared })
    }

    /// Where the L2 table of an entry is; `None` if there is none.
    fn l2_offset(&self, shape: &Shape, index: u64) -> Result<Option<u64>> {
        let host_offset = self.entries.get(index as usize).copied().unwrap_or(0);
        if host_offset == 0 {
            return Ok(None);
        }
        let fault =
            |problem: String| ImageError::corrupt(READ_L1, format!("entry {index} {problem}")).at_host(shape.l1_offset);
        shape.check_l2(host_offset).map_err(fault)?;
        if self.shared.binary_search(&host_offset).is_ok() {
            return Err(fault(format!("points to {host_offset:#x}, and so does another one")));
        }
        Ok(Some(host_offset))
    }
}

/// The numbers that are there more than once, in order.
fn repeated(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    let mut shared: Vec<u64> = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    shared.dedup();
    shared
}

/// The tables of one image.
pub(crate) struct TwoLevel {
    pub shape: Shape,
    l1: L1,
    cache: PartCache,
}

/// A guest range of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub length_bytes: u64,
    pub kind: RunKind,
}

/// What a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunKind {
    Absent,
    Zero,
    /// Stored as it is at this host offset.
    Data(u64),
    /// A part of one compressed cluster, which begins `skip_bytes` before it.
    Compressed {
        host_offset: u64,
        stored_bytes: u64,
        skip_bytes: u64,
    },
}

impl Run {
    fn goes_on_with(&self, next: &Run) -> bool {
        match (self.kind, next.kind) {
            (RunKind::Data(here), RunKind::Data(there)) => here + self.length_bytes == there,
            (RunKind::Absent, RunKind::Absent) | (RunKind::Zero, RunKind::Zero) => true,
            _ => false,
        }
    }
}

impl TwoLevel {
    pub fn open(file: Arc<dyn HostFile>, shape: Shape) -> Result<TwoLevel> {
        let l1 = L1::read(file.as_ref(), &shape)?;
        Ok(TwoLevel { shape, l1, cache: PartCache::new(file) })
    }

    /// What the disk is made of from `guest_offset` on, for at most `max_bytes`, which lie within it.
    pub fn run_at(&self, guest_offset: u64, max_bytes: u64) -> Result<Run> {
        let mut lookup = Lookup { tables: self, part: None };
        let mut run = lookup.run_at(guest_offset, max_bytes)?;
        for _ in 0..MAX_ENTRIES_PER_LOOKUP {
            if run.length_bytes >= max_bytes {
                break;
            }
            // What is wrong with a later entry is told to whoever asks for its place.
            match lookup.run_at(guest_offset + run.length_bytes, max_bytes - run.length_bytes) {
                Ok(next) if run.goes_on_with(&next) => run.length_bytes += next.length_bytes,
                _ => break,
            }
        }
        Ok(run)
    }
}

/// Going through the tables in order keeps the part that was used last.
struct Lookup<'a> {
    tables: &'a TwoLevel,
    part: Option<(PartKey, Arc<Part>)>,
}

impl Lookup<'_> {
    /// What one entry says of `guest_offset`.
    fn run_at(&mut self, guest_offset: u64, max_bytes: u64) -> Result<Run> {
        let shape = &self.tables.shape;
        let (index, within) = (guest_offset / shape.span_bytes(), guest_offset % shape.span_bytes());
        let Some(table) = self.tables.l1.l2_offset(shape, index)? else {
            return Ok(Run { length_bytes: max_bytes.min(shape.span_bytes() - within), kind: RunKind::Absent });
        };
        let (entry, skip_bytes) = (within / shape.cluster_bytes, within % shape.cluster_bytes);
        let fault = |problem: String| {
            ImageError::corrupt(READ_L2, format!("entry {entry} {problem}")).at_host(table).at_guest(guest_offset)
        };
        let part = self.part_of(table, entry)?;
        let cluster = shape.cluster(part.entry(entry));
        shape.check_cluster(cluster, guest_offset - skip_bytes).map_err(fault)?;
        let kind = match cluster {
            Cluster::Absent => RunKind::Absent,
            Cluster::Zero => RunKind::Zero,
            Cluster::Data { host_offset } | Cluster::Compressed { host_offset, .. } if part.is_shared(host_offset) => {
                return Err(fault(format!("points to {host_offset:#x}, and so does another one")));
            }
            Cluster::Data { host_offset } => RunKind::Data(host_offset + skip_bytes),
            Cluster::Compressed { host_offset, stored_bytes } => {
                RunKind::Compressed { host_offset, stored_bytes, skip_bytes }
            }
        };
        Ok(Run { length_bytes: max_bytes.min(shape.cluster_bytes - skip_bytes), kind })
    }

    fn part_of(&mut self, table: u64, entry: u64) -> Result<Arc<Part>> {
        let key = Part::key(table, entry);
        match &self.part {
            Some((kept, part)) if *kept == key => Ok(Arc::clone(part)),
            _ => {
                let part = self.tables.cache.part(&self.tables.shape, key)?;
                self.part = Some((key, Arc::clone(&part)));
                Ok(part)
            }
        }
    }
}
