//! The extents: going through their headers once, and finding clusters in them.

use std::sync::{Arc, Mutex};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::header::Archive;
use super::on_disk::*;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::HostFile;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

const READ: &str = "read VMA extent header";

/// Most runs of clusters that are remembered, of 12 bytes each: 96 MiB. They are long where a disk was saved from begin to
/// end, and cut only at extents and where the machine wrote while it was saved; each run takes 8 bytes of the file.
const MAX_RUNS: usize = 8 << 20;

/// Headers are read through a window of this size, in bytes: where a disk is empty, they lie side by side.
const WINDOW_BYTES: usize = 4096;

/// How many extent headers a layer keeps, of some 700 bytes each.
const MAX_CACHED_EXTENTS: u64 = 1024;

/// Clusters of one device that follow each other in an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub device: u8,
    pub first_cluster: u32,
    /// Index into [`Index::extents`].
    pub extent: u32,
    /// Where in the extent it begins.
    pub slot: u8,
    pub count: u8,
}

impl Run {
    /// The cluster after the last one.
    pub fn end_cluster(&self) -> u64 {
        u64::from(self.first_cluster) + u64::from(self.count)
    }
}

/// Where the clusters of the wanted devices are.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By device and cluster.
    pub runs: Vec<Run>,
    /// The host offsets of the extents that the runs are in.
    pub extents: Vec<u64>,
    /// Why there may be more extents than were found.
    pub ended_early: Option<String>,
    /// Where the last good extent ends.
    pub end_offset: u64,
    /// How many blocks are stored, of the wanted devices.
    pub stored_blocks: u64,
}

/// Reads all extent headers; remembers what concerns the wanted devices.
///
/// A damaged header ends the archive: where the next one is, only it could say.
pub(super) fn scan(file: &dyn HostFile, archive: &Archive, wanted: &dyn Fn(u8) -> bool) -> Result<Index> {
    let mut window = Window { file, start: 0, bytes: Vec::new(), file_len_bytes: archive.file_len_bytes };
    let mut index = Index { end_offset: archive.header_bytes, ..Index::default() };
    while index.end_offset < archive.file_len_bytes {
        let offset = index.end_offset;
        let extent_bytes =
            match window.header_at(offset).and_then(|header| check_header(&header, archive).map(|()| header)) {
                Ok(header) => {
                    index.add(offset, &header, wanted)?;
                    size_of::<ExtentHeader>() as u64 + u64::from(header.block_count.get()) * BLOCK_BYTES
                }
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => {
                    index.ended_early = Some(error.at_host(offset).to_string());
                    break;
                }
            };
        index.end_offset = offset + extent_bytes;
        if index.end_offset > archive.file_len_bytes {
            let end = index.end_offset;
            index.ended_early =
                Some(format!("the extent at {offset:#x} would end at {end:#x}, after the end of the file"));
        }
    }
    index.runs.sort_unstable();
    Ok(index)
}

fn check_header(header: &ExtentHeader, archive: &Archive) -> Result<()> {
    let corrupt = |detail: &str| Err(ImageError::corrupt(READ, detail));
    if header.magic != EXTENT_MAGIC || header.reserved.get() != 0 {
        return corrupt("it does not begin like one");
    }
    if md5_without(header.as_bytes(), EXTENT_MD5) != header.md5 {
        return corrupt("its checksum is wrong");
    }
    if header.uuid != archive.uuid {
        return corrupt("it is of another archive");
    }
    let used = header.clusters.iter().filter(|info| info.device != 0);
    let stored: u32 = used.map(|info| info.stored_blocks.get().count_ones()).sum();
    if stored != u32::from(header.block_count.get()) {
        return corrupt("its number of blocks is not that of its clusters");
    }
    Ok(())
}

impl Index {
    fn add(&mut self, offset: u64, header: &ExtentHeader, wanted: &dyn Fn(u8) -> bool) -> Result<()> {
        let extent = self.extents.len() as u32;
        let mut current: Option<Run> = None;
        let before = self.runs.len();
        for (slot, info) in header.clusters.iter().enumerate() {
            let (device, cluster) = (info.device, info.cluster.get());
            if device == 0 || !wanted(device) {
                self.runs.extend(current.take());
                continue;
            }
            self.stored_blocks += u64::from(info.stored_blocks.get().count_ones());
            match &mut current {
                Some(run) if run.device == device && run.end_cluster() == u64::from(cluster) => run.count += 1,
                _ => {
                    self.runs.extend(current.take());
                    current = Some(Run { device, first_cluster: cluster, extent, slot: slot as u8, count: 1 });
                }
            }
        }
        self.runs.extend(current);
        if self.runs.len() > before {
            self.extents.push(offset);
        }
        if self.runs.len() > MAX_RUNS {
            let detail = format!("its clusters are in more than {MAX_RUNS} pieces");
            return Err(ImageError::limit_exceeded("read VMA archive", detail));
        }
        Ok(())
    }
}

/// A piece of the file, so that neighbouring headers need one read.
struct Window<'a> {
    file: &'a dyn HostFile,
    start: u64,
    bytes: Vec<u8>,
    file_len_bytes: u64,
}

impl Window<'_> {
    fn header_at(&mut self, offset: u64) -> Result<ExtentHeader> {
        let length = size_of::<ExtentHeader>();
        let within = |start: u64, bytes: &[u8]| {
            let begin = usize::try_from(offset.checked_sub(start)?).ok()?;
            ExtentHeader::read_from_bytes(bytes.get(begin..begin.checked_add(length)?)?).ok()
        };
        if let Some(header) = within(self.start, &self.bytes) {
            return Ok(header);
        }
        let available = self.file_len_bytes.saturating_sub(offset).min(WINDOW_BYTES as u64);
        self.bytes.resize(available as usize, 0);
        self.start = offset;
        self.file
            .read_exact_at(offset, &mut self.bytes)
            .map_err(|cause| ImageError::io(READ, cause).at_host(offset))?;
        within(self.start, &self.bytes)
            .ok_or_else(|| ImageError::truncated(READ, format!("the file ends at {:#x}", self.file_len_bytes)))
    }
}

/// The clusters of an extent, and where each one's first stored block is.
pub(super) struct ExtentMap {
    pub stored_blocks: [u16; CLUSTERS_PER_EXTENT],
    pub host_offsets: [u64; CLUSTERS_PER_EXTENT],
}

/// The extents that were used last.
pub(super) struct ExtentCache(Mutex<Lru<u64, Arc<ExtentMap>>>);

impl Default for ExtentCache {
    fn default() -> Self {
        ExtentCache(Mutex::new(Lru::new(MAX_CACHED_EXTENTS)))
    }
}

impl ExtentCache {
    /// The extent at `offset`, whose header was checked before.
    pub fn get(&self, file: &dyn HostFile, offset: u64) -> Result<Arc<ExtentMap>> {
        if let Some(map) = self.0.lock().unpoisoned().get(offset) {
            return Ok(map);
        }
        let mut header = ExtentHeader::new_zeroed();
        file.read_exact_at(offset, header.as_mut_bytes())
            .map_err(|cause| ImageError::io(READ, cause).at_host(offset))?;
        let map = Arc::new(ExtentMap::new(offset, &header));
        self.0.lock().unpoisoned().insert(offset, Arc::clone(&map), 1);
        Ok(map)
    }
}

impl ExtentMap {
    fn new(offset: u64, header: &ExtentHeader) -> Self {
        let mut map = ExtentMap { stored_blocks: [0; CLUSTERS_PER_EXTENT], host_offsets: [0; CLUSTERS_PER_EXTENT] };
        let mut next = offset + size_of::<ExtentHeader>() as u64;
        let places = map.stored_blocks.iter_mut().zip(&mut map.host_offsets);
        for (info, (stored, host_offset)) in header.clusters.iter().zip(places) {
            *stored = if info.device == 0 { 0 } else { info.stored_blocks.get() };
            *host_offset = next;
            next += u64::from(stored.count_ones()) * BLOCK_BYTES;
        }
        map
    }
}

/// Returns true if two neighbours in the sorted runs share a cluster.
pub(super) fn overlap(pair: &[Run]) -> bool {
    matches!(pair, [one, other] if one.device == other.device && one.end_cluster() > u64::from(other.first_cluster))
}
