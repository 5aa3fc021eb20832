//! From guest offsets to the parts of the file, through the L1 and L2 tables.
//!
//! ```text
//!   guest offset = | L1 index | L2 index | within the cluster |
//!   L1 table ──► L2 table (one cluster) ──► host cluster, compressed bytes, zeros, or nothing (the parent decides)
//! ```
//!
//! Invariants: a part lies in one guest cluster, or is a range that whole empty L1 entries leave out; whatever host
//! range a part names begins in the file. Errors belong to the place they are found at: the parts before it are good.

use std::ops::Range;
use std::sync::Arc;

use super::entry::{Cluster, EntryRules, L2Entry};
use super::header::TablePlace;
use super::on_disk::{ENTRY_OFFSET_MASK, L1_RESERVED_MASK, SUBCLUSTERS, Shape};
use crate::error::{ImageError, Result};
use crate::table_cache::TableCache;

const READ_L1: &str = "read L1 table";
const READ_L2: &str = "read L2 table";

/// The mapping of one disk: the active one, or a snapshot's.
pub(super) struct Mapping {
    pub cache: TableCache,
    pub shape: Shape,
    pub rules: EntryRules,
    pub disk_bytes: u64,
    pub l1: TablePlace,
    /// The image file's length.
    pub file_bytes: u64,
    /// The length of the file that holds the clusters: the image, or its external data file.
    pub data_bytes: u64,
    /// What neither an L2 table nor a cluster can overlap.
    pub metadata: Vec<(&'static str, Range<u64>)>,
}

/// A guest range of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub length_bytes: u64,
    pub kind: PartKind,
}

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    Absent,
    Zero,
    /// Stored at this offset of the data's file, all of it.
    Data {
        host_offset: u64,
    },
    /// Stored at this offset, in a cluster that the file ends in: what the file lacks reads as zeros.
    DataToEnd {
        host_offset: u64,
    },
    /// The part begins `skip_bytes` into the cluster that this decodes to.
    Compressed {
        host_offset: u64,
        length_bytes: u64,
        skip_bytes: u64,
    },
}

impl Part {
    /// Whether `next` goes on where this part ends, as the same kind.
    pub fn goes_on_with(&self, next: &Part) -> bool {
        match (self.kind, next.kind) {
            (PartKind::Absent, PartKind::Absent) | (PartKind::Zero, PartKind::Zero) => true,
            (PartKind::Data { host_offset }, PartKind::Data { host_offset: next }) => {
                host_offset + self.length_bytes == next
            }
            _ => false,
        }
    }
}

impl Mapping {
    /// The parts from `guest_offset` on, for `length_bytes`, which lie within the disk.
    pub fn parts(&self, guest_offset: u64, length_bytes: u64) -> Parts<'_> {
        Parts {
            mapping: self,
            position: guest_offset,
            end: guest_offset + length_bytes,
            entries_looked_at: 0,
            l1_page: Page::default(),
            l2_page: Page::default(),
        }
    }

    /// Where the L2 table of this L1 entry begins; `None` if there is none.
    fn l2_table(&self, l1_index: u64, entry: u64) -> Result<Option<u64>> {
        let host_offset = entry & ENTRY_OFFSET_MASK;
        let problem = if entry & L1_RESERVED_MASK != 0 {
            format!("has reserved bits set ({:#x})", entry & L1_RESERVED_MASK)
        } else if self.shape.within_cluster(host_offset) != 0 {
            format!("points to {host_offset:#x}, which is not a multiple of the cluster size")
        } else if host_offset >= self.file_bytes {
            format!("points to {host_offset:#x}, past the end of the file ({:#x})", self.file_bytes)
        } else if host_offset == 0 {
            return Ok(None);
        } else if let Some(name) = self.metadata_at(host_offset, self.shape.cluster_bytes()) {
            format!("points to {host_offset:#x}, where {name} is")
        } else {
            return Ok(Some(host_offset));
        };
        Err(ImageError::corrupt(READ_L1, format!("entry {l1_index} {problem}")).at_host(self.l1.host_offset))
    }

    fn metadata_at(&self, host_offset: u64, length_bytes: u64) -> Option<&'static str> {
        let end = host_offset.saturating_add(length_bytes);
        let overlaps = |range: &Range<u64>| host_offset < range.end && range.start < end;
        self.metadata.iter().find(|(_, range)| overlaps(range)).map(|(name, _)| *name)
    }

    /// Checks that a cluster begins in the file, and not in its metadata.
    fn check_host(&self, host_offset: u64, length_bytes: u64) -> std::result::Result<(), String> {
        if host_offset >= self.data_bytes {
            return Err(format!("points to {host_offset:#x}, past the end of the file ({:#x})", self.data_bytes));
        }
        match self.metadata_at(host_offset, length_bytes) {
            Some(name) if !self.rules.data_file => Err(format!("points to {host_offset:#x}, where {name} is")),
            _ => Ok(()),
        }
    }

    /// The part that the cluster gives from `skip_bytes` on, for at most `max_bytes`.
    fn part_of(&self, cluster: Cluster, guest_offset: u64, max_bytes: u64) -> std::result::Result<Part, String> {
        let skip_bytes = self.shape.within_cluster(guest_offset);
        let length_bytes = max_bytes.min(self.shape.cluster_bytes() - skip_bytes);
        let kind = match cluster {
            Cluster::Absent => PartKind::Absent,
            Cluster::Zero { .. } => PartKind::Zero,
            Cluster::Data { host_offset } => self.data_kind(host_offset, guest_offset)?,
            Cluster::Compressed { host_offset, length_bytes } => {
                self.check_host(host_offset, length_bytes)?;
                PartKind::Compressed { host_offset, length_bytes, skip_bytes }
            }
            Cluster::Subclusters { host_offset, stored, zero } => {
                return self.subcluster_part(host_offset, stored, zero, guest_offset, length_bytes);
            }
        };
        Ok(Part { length_bytes, kind })
    }

    /// What the file's end makes of a stored cluster: all of it is looked at, so that each of its bytes is the same kind.
    fn data_kind(&self, host_offset: u64, guest_offset: u64) -> std::result::Result<PartKind, String> {
        self.check_host(host_offset, self.shape.cluster_bytes())?;
        let skip_bytes = self.shape.within_cluster(guest_offset);
        let used_bytes = (self.disk_bytes - (guest_offset - skip_bytes)).min(self.shape.cluster_bytes());
        let place = host_offset + skip_bytes;
        Ok(if used_bytes <= self.data_bytes - host_offset {
            PartKind::Data { host_offset: place }
        } else {
            PartKind::DataToEnd { host_offset: place }
        })
    }

    /// A run of subclusters of one kind, from the one at `guest_offset` on.
    fn subcluster_part(
        &self,
        host_offset: Option<u64>,
        stored: u32,
        zero: u32,
        guest_offset: u64,
        max_bytes: u64,
    ) -> std::result::Result<Part, String> {
        let subcluster_bytes = self.shape.allocation_bytes();
        let within = self.shape.within_cluster(guest_offset);
        let first = within / subcluster_bytes;
        let state = |index: u64| (stored >> index & 1, zero >> index & 1);
        let end = (first + 1..SUBCLUSTERS).find(|index| state(*index) != state(first)).unwrap_or(SUBCLUSTERS);
        let kind = match (state(first), host_offset) {
            ((1, _), Some(host_offset)) => self.data_kind(host_offset, guest_offset)?,
            ((_, 1), _) => PartKind::Zero,
            _ => PartKind::Absent,
        };
        Ok(Part { length_bytes: max_bytes.min(end * subcluster_bytes - within), kind })
    }
}

/// How many table entries one lookup of an extent goes through at most: 1 GiB of stored 64 KiB clusters, 32 TiB of
/// nothing. It keeps a lookup from reading all tables of a large disk at once.
const MAX_ENTRIES_PER_LOOKUP: u64 = 65536;

/// Goes through the parts of a guest range in order.
pub(super) struct Parts<'a> {
    mapping: &'a Mapping,
    position: u64,
    end: u64,
    entries_looked_at: u64,
    l1_page: Page,
    l2_page: Page,
}

impl Parts<'_> {
    /// Whether it is time to answer with what there is.
    pub fn has_looked_far(&self) -> bool {
        self.entries_looked_at >= MAX_ENTRIES_PER_LOOKUP
    }

    fn next_part(&mut self) -> Result<Part> {
        let span_bytes = self.mapping.shape.l2_span_bytes();
        let l1_index = self.position / span_bytes;
        let entry = self.l1_entry(l1_index)?;
        match self.mapping.l2_table(l1_index, entry)? {
            Some(table) => self.l2_part(table),
            None => self.unmapped_part(l1_index),
        }
    }

    fn l1_entry(&mut self, l1_index: u64) -> Result<u64> {
        self.entries_looked_at += 1;
        let mapping = self.mapping;
        self.l1_page.entry_at(mapping, READ_L1, mapping.l1.host_offset + l1_index * 8)
    }

    /// The range that this and the following empty L1 entries leave out.
    fn unmapped_part(&mut self, l1_index: u64) -> Result<Part> {
        let span_bytes = self.mapping.shape.l2_span_bytes();
        let mut covered = (l1_index + 1) * span_bytes;
        while covered < self.end && !self.has_looked_far() && self.l1_entry(covered / span_bytes)? == 0 {
            covered += span_bytes;
        }
        Ok(Part { length_bytes: covered.min(self.end) - self.position, kind: PartKind::Absent })
    }

    fn l2_part(&mut self, table: u64) -> Result<Part> {
        self.entries_looked_at += 1;
        let mapping = self.mapping;
        let shape = mapping.shape;
        let l2_index = self.position % shape.l2_span_bytes() / shape.cluster_bytes();
        let place = table + l2_index * shape.l2_entry_bytes();
        let descriptor = self.l2_page.entry_at(mapping, READ_L2, place)?;
        let bitmap = if shape.extended_l2 { self.l2_page.entry_at(mapping, READ_L2, place + 8)? } else { 0 };
        let cluster_start = self.position - shape.within_cluster(self.position);
        L2Entry { descriptor, bitmap }
            .decode(mapping.rules, cluster_start)
            .and_then(|cluster| mapping.part_of(cluster, self.position, self.end - self.position))
            .map_err(|detail| {
                ImageError::corrupt(READ_L2, format!("entry {l2_index} {detail}"))
                    .at_host(table)
                    .at_guest(cluster_start)
            })
    }
}

impl Iterator for Parts<'_> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Result<Part>> {
        if self.position >= self.end {
            return None;
        }
        let part = self.next_part();
        // Nothing comes after an error.
        self.position = part.as_ref().map_or(self.end, |part| self.position + part.length_bytes);
        Some(part)
    }
}

/// The page of a table that was used last: going through a table asks the cache once a page.
#[derive(Default)]
struct Page {
    bytes: Option<Arc<[u8]>>,
    start: u64,
}

impl Page {
    /// The 8 bytes at `host_offset`, a multiple of 8, of a table in the image file.
    fn entry_at(&mut self, mapping: &Mapping, doing: &'static str, host_offset: u64) -> Result<u64> {
        if let Some(entry) = self.get(host_offset) {
            return Ok(entry);
        }
        let (bytes, within) = mapping.cache.page_at(doing, host_offset)?;
        self.start = host_offset - within as u64;
        self.bytes = Some(bytes);
        self.get(host_offset).ok_or_else(|| {
            let detail = format!("the file ends at {:#x}, in the middle of the table", mapping.file_bytes);
            ImageError::truncated(doing, detail).at_host(host_offset)
        })
    }

    fn get(&self, host_offset: u64) -> Option<u64> {
        let within = host_offset.checked_sub(self.start)? as usize;
        let entry = self.bytes.as_ref()?.get(within..)?.first_chunk()?;
        Some(u64::from_be_bytes(*entry))
    }
}
