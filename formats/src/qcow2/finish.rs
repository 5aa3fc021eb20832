//! Finishing an image: the tables that need to be known whole, and the header that makes the file valid.

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U32, U64};

use super::on_disk::*;
use super::place::{Allocator, Places, RefcountBlock};
use crate::error::Result;
use crate::sink::invalid_option;

/// Where the tables came to lie, for the header.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TablePlaces {
    pub l1_offset: u64,
    pub refcount_table_offset: u64,
    pub refcount_table_clusters: u64,
    /// Where the file ends.
    pub end: u64,
}

/// How many clusters the tables at the end of the file need: they lie in a row, and have to be counted themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TailClusters {
    pub l1: u64,
    pub refcount_table: u64,
    /// Refcount blocks beyond those that there are.
    pub refcount_blocks: u64,
}

impl TailClusters {
    /// For a file with `used` clusters and `blocks` refcount blocks before the tail.
    pub fn new(shape: Shape, l1_entries: u64, used: u64, blocks: u64) -> Self {
        let mut tail = TailClusters { l1: shape.clusters_for(l1_entries * 8), refcount_table: 0, refcount_blocks: 0 };
        loop {
            // Each number only grows, and each block counts 256 clusters at least: this ends soon.
            let all_blocks = (used + tail.sum()).div_ceil(shape.cluster_bytes() / 2).max(blocks);
            let next = TailClusters {
                refcount_table: shape.clusters_for(all_blocks * 8),
                refcount_blocks: all_blocks - blocks,
                ..tail
            };
            if next == tail {
                return tail;
            }
            tail = next;
        }
    }

    pub fn sum(&self) -> u64 {
        self.l1 + self.refcount_table + self.refcount_blocks
    }
}

/// Places the L1 table, the refcount table and the last refcount blocks; returns all that is left to write, too.
pub(super) fn place_tables(mut allocator: Allocator) -> Result<(TablePlaces, Places)> {
    let mut places = allocator.place_last_l2()?;
    let shape = allocator.shape;
    let cluster_bytes = shape.cluster_bytes();
    let start = allocator.next_cluster;
    let old_blocks = allocator.refcount_table.len() as u64;
    let tail = TailClusters::new(shape, allocator.l1.len() as u64, start, old_blocks);
    allocator.check_refcount_table_bytes(old_blocks + tail.refcount_blocks)?;

    let end = start + tail.sum();
    let refcount_table = start + tail.l1;
    let first_new_block = refcount_table + tail.refcount_table;
    let new_blocks = count_tail(&mut allocator, start, end);
    let current_block_offset = allocator.refcount_table.last().copied().unwrap_or(cluster_bytes);
    places.push_table(current_block_offset, allocator.refcounts.into_bytes());
    allocator.refcount_table.extend((first_new_block..end).map(|cluster| cluster * cluster_bytes));
    places.push_table(start * cluster_bytes, table_bytes(&allocator.l1, tail.l1 * cluster_bytes));
    let table = table_bytes(&allocator.refcount_table, tail.refcount_table * cluster_bytes);
    places.push_table(refcount_table * cluster_bytes, table);
    for (cluster, block) in (first_new_block..end).zip(new_blocks) {
        places.push_table(cluster * cluster_bytes, block.into_bytes());
    }
    let tables = TablePlaces {
        l1_offset: if tail.l1 > 0 { start * cluster_bytes } else { 0 },
        refcount_table_offset: refcount_table * cluster_bytes,
        refcount_table_clusters: tail.refcount_table,
        end: end * cluster_bytes,
    };
    Ok((tables, places))
}

/// Counts the clusters from `start` to `end` once, in the current block and in new ones.
fn count_tail(allocator: &mut Allocator, start: u64, end: u64) -> Vec<RefcountBlock> {
    let block_clusters = allocator.refcounts.clusters();
    let first_new = allocator.refcount_table.len() as u64 * block_clusters;
    allocator.refcounts.add(start, end.min(first_new) - start.min(first_new));
    let count_block = |first: u64| {
        let mut block = RefcountBlock::new(allocator.shape);
        block.add(first, block_clusters.min(end - first));
        block
    };
    (first_new..end).step_by(block_clusters as usize).map(count_block).collect()
}

/// The table's entries, filled up to whole clusters.
fn table_bytes(entries: &[u64], length_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length_bytes as usize);
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_be_bytes()));
    bytes.resize(length_bytes as usize, 0);
    bytes
}

/// What the header says that does not depend on where tables lie.
#[derive(Debug, Clone)]
pub(super) struct HeaderSettings {
    pub shape: Shape,
    pub version: u32,
    pub zstd: bool,
    pub disk_bytes: u64,
    pub backing: Option<Backing>,
}

/// The parent, as the header names it.
#[derive(Debug, Clone)]
pub(super) struct Backing {
    pub name: String,
    pub format: String,
}

/// The first cluster of the file. Fails if the parent's name does not fit in.
pub(super) fn header_cluster(settings: &HeaderSettings, tables: &TablePlaces) -> Result<Vec<u8>> {
    let cluster_bytes = settings.shape.cluster_bytes() as usize;
    let mut extensions = Vec::new();
    if let Some(backing) = &settings.backing {
        push_extension(&mut extensions, EXTENSION_BACKING_FORMAT, backing.format.as_bytes());
    }
    let name = settings.backing.as_ref().map_or("", |backing| &backing.name);
    let header_bytes = if settings.version == 2 { size_of::<HeaderV2>() } else { WRITTEN_HEADER_V3_BYTES as usize };
    let names = feature_names();
    let end_bytes = size_of::<ExtensionHead>();
    let needed = header_bytes + extensions.len() + end_bytes + name.len();
    if needed > cluster_bytes || name.len() > MAX_BACKING_NAME_BYTES as usize {
        let room = (cluster_bytes + name.len()).saturating_sub(needed).min(MAX_BACKING_NAME_BYTES as usize);
        return Err(invalid_option("backing file name", name, &format!("at most {room} bytes")));
    }
    // The names are only for people; small clusters have no room for them.
    if settings.version >= 3 && needed + end_bytes + names.len() <= cluster_bytes {
        push_extension(&mut extensions, EXTENSION_FEATURE_NAMES, &names);
    }
    push_extension(&mut extensions, EXTENSION_END, &[]);

    let name_offset = header_bytes + extensions.len();
    let mut bytes = fixed_header(settings, tables, if name.is_empty() { 0 } else { name_offset as u64 });
    bytes.extend(extensions);
    bytes.extend_from_slice(name.as_bytes());
    bytes.resize(cluster_bytes, 0);
    Ok(bytes)
}

fn fixed_header(settings: &HeaderSettings, tables: &TablePlaces, name_offset: u64) -> Vec<u8> {
    let shape = settings.shape;
    let v2 = HeaderV2 {
        magic: MAGIC,
        version: settings.version.into(),
        backing_file_offset: name_offset.into(),
        backing_file_bytes: U32::new(settings.backing.as_ref().map_or(0, |backing| backing.name.len() as u32)),
        cluster_bits: shape.cluster_bits.into(),
        size_bytes: settings.disk_bytes.into(),
        crypt_method: U32::ZERO,
        l1_entries: U32::new(shape.l1_entries_for(settings.disk_bytes) as u32),
        l1_table_offset: tables.l1_offset.into(),
        refcount_table_offset: tables.refcount_table_offset.into(),
        refcount_table_clusters: U32::new(tables.refcount_table_clusters as u32),
        snapshot_count: U32::ZERO,
        snapshots_offset: U64::ZERO,
    };
    let mut bytes = v2.as_bytes().to_vec();
    if settings.version >= 3 {
        let zstd = if settings.zstd { INCOMPATIBLE_COMPRESSION_TYPE } else { 0 };
        let extended_l2 = if shape.extended_l2 { INCOMPATIBLE_EXTENDED_L2 } else { 0 };
        let v3 = HeaderV3 {
            incompatible_features: U64::new(zstd | extended_l2),
            compatible_features: U64::ZERO,
            autoclear_features: U64::ZERO,
            refcount_order: DEFAULT_REFCOUNT_ORDER.into(),
            header_bytes: WRITTEN_HEADER_V3_BYTES.into(),
        };
        bytes.extend_from_slice(v3.as_bytes());
        bytes.push(if settings.zstd { COMPRESSION_ZSTD } else { COMPRESSION_DEFLATE });
        bytes.resize(WRITTEN_HEADER_V3_BYTES as usize, 0);
    }
    bytes
}

fn push_extension(extensions: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let head = ExtensionHead { kind: kind.into(), data_bytes: U32::new(data.len() as u32) };
    extensions.extend_from_slice(head.as_bytes());
    extensions.extend_from_slice(data);
    extensions.resize(extensions.len().next_multiple_of(8), 0);
}

/// Names of all features, for software that does not know them.
fn feature_names() -> Vec<u8> {
    const NAMES: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut table = Vec::new();
    for (kind, bit, text) in NAMES {
        let mut feature = FeatureName { kind, bit, name: [0; 46] };
        feature.name.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        table.extend_from_slice(feature.as_bytes());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_counts_itself() {
        let shape = Shape { cluster_bits: 9, extended_l2: false };
        for used in [2, 200, 255, 256, 257, 511, 100_000] {
            for l1_entries in [0, 1, 1000, 4 << 20] {
                let blocks = u64::div_ceil(used, 256);
                let tail = TailClusters::new(shape, l1_entries, used, blocks);
                let all = used + tail.sum();
                assert!(all <= (blocks + tail.refcount_blocks) * 256, "{used} {l1_entries}");
                assert!(tail.refcount_table * 64 >= blocks + tail.refcount_blocks);
            }
        }
    }
}
