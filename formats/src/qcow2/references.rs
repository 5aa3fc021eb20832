//! How often host clusters are used: as counted by a check, and as the file says.

use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use super::info::check_refcount_table;
use super::on_disk::*;
use super::read::Qcow2Image;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::table_cache::TableCache;

const READ_BLOCK: &str = "read refcount block";

/// How many clusters are counted at once: 64 MiB of counts, 2 TiB of a file with 64 KiB clusters. Larger files are gone
/// through several times.
pub(super) const WINDOW_CLUSTERS: u64 = 1 << 25;

/// How many times at most: 2 PiB of a file with 64 KiB clusters, and 16 TiB with the smallest.
const MAX_WINDOWS: u64 = 1024;

/// The references that were found, to the clusters of one window of the file.
pub(super) struct ReferenceCounts {
    window: u64,
    counts: Vec<u16>,
    /// Which windows have anything in them; complete after the first one was counted.
    used_windows: Vec<bool>,
}

impl ReferenceCounts {
    /// For a file of so many clusters; the first window comes first.
    pub fn new(file_clusters: u64) -> Result<Self> {
        let windows = file_clusters.div_ceil(WINDOW_CLUSTERS);
        if windows > MAX_WINDOWS {
            let detail = format!(
                "the file has {file_clusters} clusters, at most {} can be checked",
                MAX_WINDOWS * WINDOW_CLUSTERS
            );
            return Err(ImageError::limit_exceeded("count references", detail));
        }
        let counts = vec![0; file_clusters.min(WINDOW_CLUSTERS) as usize];
        Ok(ReferenceCounts { window: 0, counts, used_windows: vec![false; windows as usize] })
    }

    /// Goes to the next window that is used or that `is_counted` says has refcounts.
    pub fn next_window(&mut self, is_counted: impl Fn(std::ops::Range<u64>) -> bool) -> bool {
        let clusters = |window: u64| window * WINDOW_CLUSTERS..(window + 1) * WINDOW_CLUSTERS;
        let used =
            |window: &u64| self.used_windows.get(*window as usize) == Some(&true) || is_counted(clusters(*window));
        let Some(next) = (self.window + 1..self.used_windows.len() as u64).find(used) else { return false };
        self.window = next;
        self.counts.fill(0);
        true
    }

    /// The first cluster of the window.
    pub fn first_cluster(&self) -> u64 {
        self.window * WINDOW_CLUSTERS
    }

    /// The counts of the window's clusters.
    pub fn counts(&self) -> &[u16] {
        &self.counts
    }

    /// Counts one more reference to each cluster from `first` to `last`.
    pub fn add(&mut self, first: u64, last: u64) {
        for window in first / WINDOW_CLUSTERS..=last / WINDOW_CLUSTERS {
            if let Some(used) = self.used_windows.get_mut(window as usize) {
                *used = true;
            }
        }
        let begin = self.first_cluster();
        for cluster in first.max(begin)..=last.min(begin + WINDOW_CLUSTERS - 1) {
            if let Some(count) = self.counts.get_mut((cluster - begin) as usize) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// The count of a cluster, if it is in the window.
    pub fn get(&self, cluster: u64) -> Option<u16> {
        self.counts.get(cluster.checked_sub(self.first_cluster())? as usize).copied()
    }
}

/// Whether the file's refcount is the number that was counted, as far as that could count.
pub(super) fn same_count(stored: u64, counted: u16) -> bool {
    stored == u64::from(counted) || (counted == u16::MAX && stored > u64::from(counted))
}

/// The refcounts in the file.
pub(super) struct StoredRefcounts {
    /// The entries of the refcount table, as they are; at most 8 MiB.
    pub table: Vec<u64>,
    file: Arc<dyn HostFile>,
    cache: TableCache,
    shape: Shape,
    order: u32,
    file_bytes: u64,
}

impl StoredRefcounts {
    /// Reads the refcount table; the inner error says what is wrong with where it lies.
    pub fn read(image: &Qcow2Image) -> Result<std::result::Result<Self, String>> {
        let place = image.header.refcount_table;
        if let Err(problem) = check_refcount_table(&image.header, image.file_bytes) {
            return Ok(Err(problem));
        }
        let mut bytes = vec![0; place.length_bytes() as usize];
        let read = image.file.file.read_exact_at(place.host_offset, &mut bytes);
        read.map_err(|cause| ImageError::io("read refcount table", cause).at_host(place.host_offset))?;
        let mut table = vec![0; place.entries as usize];
        BigEndian::read_u64_into(&bytes, &mut table);
        Ok(Ok(StoredRefcounts {
            table,
            file: image.file.file.clone(),
            cache: TableCache::new(image.file.file.clone(), image.file_bytes),
            shape: image.header.shape,
            order: image.header.refcount_order,
            file_bytes: image.file_bytes,
        }))
    }

    /// How many clusters one refcount block counts.
    pub fn block_clusters(&self) -> u64 {
        (self.shape.cluster_bytes() * 8) >> self.order
    }

    /// Whether there is any refcount block for these clusters.
    pub fn has_blocks_for(&self, clusters: std::ops::Range<u64>) -> bool {
        let first = clusters.start / self.block_clusters();
        let blocks = clusters.end.div_ceil(self.block_clusters()).saturating_sub(first);
        self.table.iter().skip(first as usize).take(blocks as usize).any(|entry| *entry != 0)
    }

    /// Says what is wrong with an entry of the table, if anything is.
    pub fn entry_problem(&self, entry: u64) -> Option<String> {
        if entry & REFCOUNT_TABLE_RESERVED_MASK != 0 {
            Some(format!("has reserved bits set ({:#x})", entry & REFCOUNT_TABLE_RESERVED_MASK))
        } else if self.shape.within_cluster(entry) != 0 {
            Some(format!("points to {entry:#x}, which is not a multiple of the cluster size"))
        } else if entry >= self.file_bytes {
            Some(format!("points to {entry:#x}, past the end of the file ({:#x})", self.file_bytes))
        } else {
            None
        }
    }

    /// The refcount of a cluster; `None` if its block is not to be found.
    pub fn get(&self, cluster: u64) -> Result<Option<u64>> {
        let entry = self.entry(cluster / self.block_clusters());
        let bit = (cluster % self.block_clusters()) << self.order;
        let place = entry.saturating_add(bit / 8);
        if entry == 0 || self.entry_problem(entry).is_some() || place >= self.file_bytes {
            return Ok((entry == 0).then_some(0));
        }
        let (page, within) = self.cache.page_at(READ_BLOCK, place)?;
        Ok(Some(decode_refcount(page.get(within..).unwrap_or_default(), self.order, bit % 8)))
    }

    /// All of a block, for going through it.
    pub fn block(&self, index: u64) -> Result<RefcountBlock> {
        let entry = self.entry(index);
        if entry == 0 || self.entry_problem(entry).is_some() {
            return Ok(if entry == 0 { RefcountBlock::Absent } else { RefcountBlock::Lost });
        }
        // What the file's end cuts off is zeros.
        let available = self.shape.cluster_bytes().min(self.file_bytes - entry) as usize;
        let mut bytes = vec![0; available];
        let read = self.file.read_exact_at(entry, &mut bytes);
        read.map_err(|cause| ImageError::io(READ_BLOCK, cause).at_host(entry))?;
        bytes.resize(self.shape.cluster_bytes() as usize, 0);
        Ok(RefcountBlock::Stored { bytes, order: self.order })
    }

    fn entry(&self, index: u64) -> u64 {
        self.table.get(index as usize).copied().unwrap_or(0)
    }
}

/// The refcounts of as many clusters as one block counts.
pub(super) enum RefcountBlock {
    /// There is none: all are 0.
    Absent,
    /// The refcount table's entry is damaged.
    Lost,
    Stored {
        bytes: Vec<u8>,
        order: u32,
    },
}

impl RefcountBlock {
    /// The refcount of the cluster at `index` in the block; `None` if it is lost.
    pub fn get(&self, index: u64) -> Option<u64> {
        match self {
            RefcountBlock::Absent => Some(0),
            RefcountBlock::Lost => None,
            RefcountBlock::Stored { bytes, order } => {
                let bit = index << order;
                Some(decode_refcount(bytes.get((bit / 8) as usize..).unwrap_or_default(), *order, bit % 8))
            }
        }
    }
}

/// Reads the refcount that begins with these bytes; those of less than 8 bits are packed from the lowest bit on.
fn decode_refcount(bytes: &[u8], order: u32, bit: u64) -> u64 {
    let big_endian = |length: usize| {
        // What the file's end cuts off is zeros.
        let padded = bytes.iter().copied().chain(std::iter::repeat(0));
        padded.take(length).fold(0, |value: u64, byte| value << 8 | u64::from(byte))
    };
    match order {
        0..3 => big_endian(1) >> bit & ((1 << (1 << order)) - 1),
        _ => big_endian(1 << (order - 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_all_widths() {
        let bytes = [0b1110_0100, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde];
        assert_eq!([0, 1, 2, 5].map(|bit| decode_refcount(&bytes, 0, bit)), [0, 0, 1, 1]);
        assert_eq!([0, 2, 4, 6].map(|bit| decode_refcount(&bytes, 1, bit)), [0, 1, 2, 3]);
        assert_eq!([0, 4].map(|bit| decode_refcount(&bytes, 2, bit)), [4, 14]);
        assert_eq!(decode_refcount(&bytes, 3, 0), 0xe4);
        assert_eq!(decode_refcount(&bytes, 4, 0), 0xe412);
        assert_eq!(decode_refcount(&bytes, 5, 0), 0xe412_3456);
        assert_eq!(decode_refcount(&bytes, 6, 0), 0xe412_3456_789a_bcde);
    }

    #[test]
    fn references_are_counted_in_the_window_that_they_are_in() {
        let mut counts = ReferenceCounts::new(3 * WINDOW_CLUSTERS).unwrap();
        counts.add(5, 6);
        counts.add(6, 6);
        counts.add(2 * WINDOW_CLUSTERS, 2 * WINDOW_CLUSTERS);
        assert_eq!((counts.get(5), counts.get(6), counts.get(2 * WINDOW_CLUSTERS)), (Some(1), Some(2), None));
        assert!(counts.next_window(|_| false));
        assert_eq!(counts.first_cluster(), 2 * WINDOW_CLUSTERS);
        counts.add(2 * WINDOW_CLUSTERS, 2 * WINDOW_CLUSTERS);
        assert_eq!((counts.get(5), counts.get(2 * WINDOW_CLUSTERS)), (None, Some(1)));
        assert!(!counts.next_window(|_| false));
    }
}
