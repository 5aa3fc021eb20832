//! Placing: gives clusters and tables their places in the file, front to back, in guest order.
//!
//! ```text
//!  0        1           2                                    N
//!  │ header │ refcounts │ data, L2 tables, packed clusters … │ refcounts │ data … │ L1 │ refcount table │ refcounts …
//!            of 0..N                                          of N..2N
//! ```
//!
//! *Packed*: compressed clusters, one behind the other at any byte. Each refcount block begins the range that it counts,
//! so that only the current one is kept; of the L2 tables also only the current one, because units come in guest order.
//! What was completed goes into the [`Places`] of the unit that completed it, to be written with it.
//!
//! Invariants: every host cluster before `next_cluster` is counted, none after; a packed cluster never crosses a
//! refcount block; the same units give the same places, whoever encodes and writes them.

use super::on_disk::*;
use super::plan::{Piece, Storage};
use crate::error::{ImageError, Result};

const PLACE: &str = "place clusters";

/// Where the parts of a unit, and the tables that it completed, are to be written.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Plain clusters.
    pub data: Vec<Segment>,
    /// Bytes of [`super::plan::UnitPlan::packed`].
    pub packed: Vec<Segment>,
    pub tables: Vec<TableWrite>,
}

/// A range of the unit, and where it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub length_bytes: u64,
    pub host_offset: u64,
}

/// Whole clusters of tables.
#[derive(Debug)]
pub(super) struct TableWrite {
    pub host_offset: u64,
    pub bytes: Vec<u8>,
}

impl Places {
    /// Adds a table; one that lies behind the one before becomes one write with it.
    pub fn push_table(&mut self, host_offset: u64, bytes: Vec<u8>) {
        match self.tables.last_mut() {
            Some(last) if last.host_offset + last.bytes.len() as u64 == host_offset => last.bytes.extend(bytes),
            _ => self.tables.push(TableWrite { host_offset, bytes }),
        }
    }
}

fn push_segment(segments: &mut Vec<Segment>, next: Segment) {
    match segments.last_mut() {
        Some(last)
            if last.offset + last.length_bytes == next.offset
                && last.host_offset + last.length_bytes == next.host_offset =>
        {
            last.length_bytes += next.length_bytes;
        }
        _ => segments.push(next),
    }
}

/// What has been given away of the file, and the tables that say so.
pub(super) struct Allocator {
    pub shape: Shape,
    /// Everything before this host cluster is used.
    pub next_cluster: u64,
    /// Where the next packed cluster may begin; a multiple of the cluster size if nowhere in a used cluster.
    packed_end: u64,
    pub refcounts: RefcountBlock,
    /// Where each refcount block lies.
    pub refcount_table: Vec<u64>,
    pub l1: Vec<u64>,
    l2: Option<L2Table>,
    completed_l2: Vec<L2Table>,
}

struct L2Table {
    l1_index: usize,
    bytes: Vec<u8>,
}

impl Allocator {
    /// A file with nothing but its header and the first refcount block.
    pub fn new(shape: Shape, disk_bytes: u64) -> Self {
        let mut refcounts = RefcountBlock::new(shape);
        refcounts.add(0, 2);
        Allocator {
            shape,
            next_cluster: 2,
            packed_end: 0,
            refcounts,
            refcount_table: vec![shape.cluster_bytes()],
            l1: vec![0; shape.l1_entries_for(disk_bytes) as usize],
            l2: None,
            completed_l2: Vec::new(),
        }
    }

    /// Places the clusters of a unit that begins at a guest cluster.
    pub fn place(&mut self, first_cluster: u64, pieces: &[Piece]) -> Result<Places> {
        let mut places = Places::default();
        let packed_offsets = self.place_packed(pieces, &mut places)?;
        let mut packed_offsets = packed_offsets.into_iter();
        let mut cluster = first_cluster;
        for piece in pieces {
            match piece.storage {
                Storage::Absent => {}
                Storage::Zero { bitmap } => {
                    let descriptor = if self.shape.extended_l2 { 0 } else { L2_ZERO };
                    for index in 0..piece.clusters {
                        self.set_entry(cluster + index, descriptor, bitmap);
                    }
                }
                Storage::Plain { bitmap } => {
                    self.place_plain(cluster, piece.clusters, bitmap, cluster - first_cluster, &mut places)?;
                }
                Storage::Packed { length_bytes } => {
                    let host_offset = packed_offsets.next().unwrap_or_default();
                    self.set_entry(cluster, self.packed_descriptor(host_offset, length_bytes), 0);
                }
            }
            cluster += piece.clusters;
        }
        self.place_completed_l2(&mut places)?;
        Ok(places)
    }

    /// Places the last L2 table.
    pub fn place_last_l2(&mut self) -> Result<Places> {
        let mut places = Places::default();
        self.completed_l2.extend(self.l2.take());
        self.place_completed_l2(&mut places)?;
        Ok(places)
    }

    fn place_plain(
        &mut self,
        first_cluster: u64,
        clusters: u64,
        bitmap: u64,
        first_in_unit: u64,
        places: &mut Places,
    ) -> Result<()> {
        let cluster_bytes = self.shape.cluster_bytes();
        let mut done = 0;
        while done < clusters {
            let (host_cluster, taken) = self.take(clusters - done, places)?;
            for index in 0..taken {
                let descriptor = ENTRY_COPIED | ((host_cluster + index) * cluster_bytes);
                self.set_entry(first_cluster + done + index, descriptor, bitmap);
            }
            let segment = Segment {
                offset: (first_in_unit + done) * cluster_bytes,
                length_bytes: taken * cluster_bytes,
                host_offset: host_cluster * cluster_bytes,
            };
            push_segment(&mut places.data, segment);
            done += taken;
        }
        Ok(())
    }

    /// Places all compressed clusters of a unit behind each other, ahead of its plain ones.
    fn place_packed(&mut self, pieces: &[Piece], places: &mut Places) -> Result<Vec<u64>> {
        let (mut offset, mut host_offsets) = (0, Vec::new());
        for piece in pieces {
            let Storage::Packed { length_bytes } = piece.storage else { continue };
            let length_bytes = u64::from(length_bytes);
            let host_offset = self.take_packed(length_bytes, places)?;
            push_segment(&mut places.packed, Segment { offset, length_bytes, host_offset });
            host_offsets.push(host_offset);
            offset += length_bytes;
        }
        Ok(host_offsets)
    }

    /// Takes room for a compressed cluster, which is shorter than a cluster: in the rest of the last packed one, beyond
    /// its end if the next cluster is free, or from the next cluster on.
    fn take_packed(&mut self, length_bytes: u64, places: &mut Places) -> Result<u64> {
        let cluster_bytes = self.shape.cluster_bytes();
        let open_end = self.packed_end.next_multiple_of(cluster_bytes);
        let open_bytes = open_end - self.packed_end;
        let open_cluster = self.packed_end / cluster_bytes;
        let usable = open_bytes > 0 && !self.refcounts.is_full(open_cluster);
        let fits = usable && length_bytes <= open_bytes;
        let extends = usable && open_end == self.next_cluster * cluster_bytes && !self.at_refcount_block();
        let host_offset = if fits {
            self.refcounts.add(open_cluster, 1);
            self.packed_end
        } else if extends {
            self.refcounts.add(open_cluster, 1);
            self.take(1, places)?;
            self.packed_end
        } else {
            self.take(1, places)?.0 * cluster_bytes
        };
        if host_offset >= 1 << (62 - (self.shape.cluster_bits - 8)) {
            let detail = "compressed data cannot lie that far into the file; smaller clusters could";
            return Err(ImageError::limit_exceeded(PLACE, detail).at_host(host_offset));
        }
        self.packed_end = host_offset + length_bytes;
        Ok(host_offset)
    }

    fn packed_descriptor(&self, host_offset: u64, length_bytes: u32) -> u64 {
        let offset_bits = 62 - (self.shape.cluster_bits - 8);
        let last_byte = host_offset + u64::from(length_bytes) - 1;
        let further_sectors = last_byte / 512 - host_offset / 512;
        L2_COMPRESSED | further_sectors << offset_bits | host_offset
    }

    fn at_refcount_block(&self) -> bool {
        self.next_cluster.is_multiple_of(self.refcounts.clusters())
    }

    /// Takes up to `clusters` adjoining host clusters, at least one; returns the first one and their number.
    fn take(&mut self, clusters: u64, places: &mut Places) -> Result<(u64, u64)> {
        if self.at_refcount_block() {
            self.begin_refcount_block(places)?;
        }
        let block_clusters = self.refcounts.clusters();
        let first = self.next_cluster;
        let taken = clusters.min(block_clusters - first % block_clusters);
        if first + taken > ENTRY_OFFSET_MASK / self.shape.cluster_bytes() {
            return Err(ImageError::limit_exceeded(PLACE, "the file would become longer than 2^56 bytes"));
        }
        self.refcounts.add(first, taken);
        self.next_cluster += taken;
        Ok((first, taken))
    }

    fn begin_refcount_block(&mut self, places: &mut Places) -> Result<()> {
        self.check_refcount_table_bytes(self.refcount_table.len() as u64 + 1)?;
        let finished = std::mem::replace(&mut self.refcounts, RefcountBlock::new(self.shape));
        if let Some(host_offset) = self.refcount_table.last() {
            places.push_table(*host_offset, finished.bytes);
        }
        self.refcount_table.push(self.next_cluster * self.shape.cluster_bytes());
        self.refcounts.add(self.next_cluster, 1);
        self.next_cluster += 1;
        // What was left of the last packed cluster is counted in the finished block.
        self.packed_end = 0;
        Ok(())
    }

    /// Fails if a refcount table of so many blocks would be longer than readers accept.
    pub fn check_refcount_table_bytes(&self, blocks: u64) -> Result<()> {
        if blocks * 8 > MAX_REFCOUNT_TABLE_BYTES {
            let detail = format!(
                "the refcount table would become longer than {MAX_REFCOUNT_TABLE_BYTES} bytes; clusters larger than {} can be more",
                self.shape.cluster_bytes()
            );
            return Err(ImageError::limit_exceeded(PLACE, detail));
        }
        Ok(())
    }

    fn set_entry(&mut self, guest_cluster: u64, descriptor: u64, bitmap: u64) {
        let l1_index = (guest_cluster / self.shape.l2_entries()) as usize;
        let begin = (guest_cluster % self.shape.l2_entries() * self.shape.l2_entry_bytes()) as usize;
        if self.l2.as_ref().is_none_or(|table| table.l1_index != l1_index) {
            let bytes = vec![0; self.shape.cluster_bytes() as usize];
            self.completed_l2.extend(self.l2.replace(L2Table { l1_index, bytes }));
        }
        if let Some(table) = &mut self.l2 {
            table.bytes[begin..begin + 8].copy_from_slice(&descriptor.to_be_bytes());
            if self.shape.extended_l2 {
                table.bytes[begin + 8..begin + 16].copy_from_slice(&bitmap.to_be_bytes());
            }
        }
    }

    fn place_completed_l2(&mut self, places: &mut Places) -> Result<()> {
        for table in std::mem::take(&mut self.completed_l2) {
            let host_offset = self.take(1, places)?.0 * self.shape.cluster_bytes();
            self.l1[table.l1_index] = ENTRY_COPIED | host_offset;
            places.push_table(host_offset, table.bytes);
        }
        Ok(())
    }
}

/// The refcounts, of 16 bits, of as many clusters as fit into one.
pub(super) struct RefcountBlock {
    bytes: Vec<u8>,
}

impl RefcountBlock {
    pub fn new(shape: Shape) -> Self {
        RefcountBlock { bytes: vec![0; shape.cluster_bytes() as usize] }
    }

    /// How many clusters a block counts.
    pub fn clusters(&self) -> u64 {
        self.bytes.len() as u64 / 2
    }

    /// Adds 1 to the counts of clusters, which must be in one block.
    pub fn add(&mut self, first_cluster: u64, clusters: u64) {
        let begin = (first_cluster % self.clusters()) as usize * 2;
        for count in self.bytes[begin..begin + clusters as usize * 2].chunks_exact_mut(2) {
            let value = u16::from_be_bytes([count[0], count[1]]).saturating_add(1);
            count.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn is_full(&self, cluster: u64) -> bool {
        let begin = (cluster % self.clusters()) as usize * 2;
        self.bytes[begin..begin + 2] == [0xff; 2]
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { cluster_bits: 9, extended_l2: false };

    fn plain(clusters: u64) -> Piece {
        Piece { clusters, storage: Storage::Plain { bitmap: 0 } }
    }

    fn packed(length_bytes: u32) -> Piece {
        Piece { clusters: 1, storage: Storage::Packed { length_bytes } }
    }

    #[test]
    fn a_refcount_block_interrupts_the_clusters_that_it_counts() {
        let mut allocator = Allocator::new(SHAPE, 1 << 30);
        let places = allocator.place(0, &[plain(300)]).unwrap();
        let data = [(0, 254, 2), (254, 46, 257)].map(|(offset, length, host)| Segment {
            offset: offset * 512,
            length_bytes: length * 512,
            host_offset: host * 512,
        });
        assert_eq!(places.data, data);
        let tables: Vec<_> = places.tables.iter().map(|table| (table.host_offset / 512, table.bytes.len())).collect();
        assert_eq!(tables, [(1, 512), (303, 4 * 512)]);
        assert_eq!(allocator.refcount_table, [512, 256 * 512]);
        assert_eq!(allocator.l1[3], ENTRY_COPIED | (306 * 512));
    }

    #[test]
    fn packed_clusters_lie_behind_each_other_and_ahead_of_the_plain_ones() {
        let mut allocator = Allocator::new(SHAPE, 1 << 20);
        let places = allocator.place(0, &[packed(300), plain(1), packed(300), packed(100)]).unwrap();
        assert_eq!(places.packed, [Segment { offset: 0, length_bytes: 700, host_offset: 1024 }]);
        assert_eq!(places.data, [Segment { offset: 512, length_bytes: 512, host_offset: 2048 }]);
        // 324 bytes are left, and what comes after them is taken.
        let places = allocator.place(4, &[packed(324), packed(10)]).unwrap();
        let hosts: Vec<_> = places.packed.iter().map(|segment| segment.host_offset).collect();
        assert_eq!(hosts, [1724, 2560]);
        assert_eq!(allocator.refcounts.bytes[4..12], [0, 2, 0, 3, 0, 1, 0, 1]);
    }
}
