//! A disk that is known by heart, and the shortest way to make an image of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{MemoryFile, Random};
use crate::error::Result;
use crate::extent::{DiskExtent, DiskKind};
use crate::format::Format;
use crate::host_file::HostFileMut;
use crate::sink::{
    CreateOptions, GuestUnit, IdentitySeed, ImageWriter, InTurn, RunKind, SingleFile, TargetFiles, UnitContent, UnitRun,
};
use crate::source::{BlockSource, Geometry};
use crate::zeros::is_zero;

/// The granularity of a model disk, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// A disk whose every block is a hole or pseudo-random bytes of a seed.
#[derive(Debug, Clone)]
pub struct ModelDisk {
    geometry: Geometry,
    /// Seeds of the blocks that hold data; seed 0 is a block of zeros that were written.
    blocks: BTreeMap<u64, u64>,
}

impl ModelDisk {
    /// A disk of one hole.
    pub fn new(size_bytes: u64) -> Self {
        ModelDisk { geometry: Geometry::of_512_byte_sectors(size_bytes, BLOCK_BYTES), blocks: BTreeMap::new() }
    }

    /// Sets the sector size.
    pub fn with_sectors(mut self, logical: u32, physical: u32) -> Self {
        (self.geometry.logical_sector_bytes, self.geometry.physical_sector_bytes) = (logical, physical);
        self
    }

    /// The same disk, cut or extended.
    pub fn resized(mut self, size_bytes: u64) -> Self {
        self.geometry.size_bytes = size_bytes;
        self.blocks.retain(|block, _| block * BLOCK_BYTES < size_bytes);
        self
    }

    /// A disk with `runs` random runs of data of up to `max_run_blocks` blocks of 4 KiB, some of them zeros.
    pub fn random(seed: u64, size_bytes: u64, runs: u64, max_run_blocks: u64) -> Self {
        let mut disk = Self::new(size_bytes);
        let mut random = Random(seed);
        let blocks = size_bytes.div_ceil(BLOCK_BYTES).max(1);
        for _ in 0..runs {
            let (first, length) = (random.below(blocks), 1 + random.below(max_run_blocks));
            let zeros = random.below(5) == 0;
            for block in first..(first + length).min(blocks) {
                disk.write(block, if zeros { 0 } else { random.next_u64() | 1 });
            }
        }
        disk
    }

    /// Writes block number `block` with the bytes of `seed`; 0 writes zeros.
    pub fn write(&mut self, block: u64, seed: u64) {
        if block * BLOCK_BYTES < self.geometry.size_bytes {
            self.blocks.insert(block, seed);
        }
    }

    /// How many bytes are not zero.
    pub fn data_bytes(&self) -> u64 {
        self.blocks.values().filter(|seed| **seed != 0).count() as u64 * BLOCK_BYTES
    }

    fn block_bytes(seed: u64) -> [u8; BLOCK_BYTES as usize] {
        let mut bytes = [0; BLOCK_BYTES as usize];
        let mut random = Random(seed);
        // A third of the seeds gives bytes that compress.
        let mask = if seed.is_multiple_of(3) { 0x0303_0303_0303_0303 } else { u64::MAX };
        if seed != 0 {
            bytes
                .chunks_exact_mut(8)
                .for_each(|chunk| chunk.copy_from_slice(&(random.next_u64() & mask).to_le_bytes()));
        }
        bytes
    }
}

impl BlockSource for ModelDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        let length = self.geometry.clamp(guest_offset, max_bytes)?;
        let block = guest_offset / BLOCK_BYTES;
        let (next, kind) = match self.blocks.get(&block) {
            Some(0) => ((block + 1) * BLOCK_BYTES, DiskKind::Zero),
            Some(_) => ((block + 1) * BLOCK_BYTES, DiskKind::Data(None)),
            None => {
                (self.blocks.range(block..).next().map_or(u64::MAX, |(next, _)| next * BLOCK_BYTES), DiskKind::Hole)
            }
        };
        Ok(DiskExtent { length_bytes: length.min(next - guest_offset), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let mut done = 0;
        while done < buffer.len() {
            let offset = guest_offset + done as u64;
            let within = (offset % BLOCK_BYTES) as usize;
            let step = (BLOCK_BYTES as usize - within).min(buffer.len() - done);
            let part = &mut buffer[done..done + step];
            match self.blocks.get(&(offset / BLOCK_BYTES)) {
                Some(seed) => part.copy_from_slice(&Self::block_bytes(*seed)[within..within + step]),
                None => part.fill(0),
            }
            done += step;
        }
        Ok(())
    }
}

/// Makes an image of `source` in memory, over `parent` if the options name one.
pub fn create_image(
    format: &Format,
    options: &CreateOptions,
    source: &dyn BlockSource,
    parent: Option<&dyn BlockSource>,
) -> Result<Arc<MemoryFile>> {
    let file = Arc::new(MemoryFile::new());
    store_disk(format, options, source, parent, file.clone())?;
    Ok(file)
}

/// Makes an image of `source` in `file`, by one thread.
pub fn store_disk(
    format: &Format,
    options: &CreateOptions,
    source: &dyn BlockSource,
    parent: Option<&dyn BlockSource>,
    file: Arc<dyn HostFileMut>,
) -> Result<()> {
    store_disk_in(format, options, source, parent, &SingleFile(file))
}

/// Makes an image of `source` that may consist of several files, by one thread.
pub fn store_disk_in(
    format: &Format,
    options: &CreateOptions,
    source: &dyn BlockSource,
    parent: Option<&dyn BlockSource>,
    files: &dyn TargetFiles,
) -> Result<()> {
    let writer = format.begin(files, options)?;
    let unit_bytes = writer.layout().unit_bytes.max(256 << 10);
    let size_bytes = source.geometry().size_bytes;
    let mut guest_offset = 0;
    while guest_offset < size_bytes {
        let length = unit_bytes.min(size_bytes - guest_offset);
        let untouched = |disk: &dyn BlockSource| {
            let end = disk.geometry().size_bytes;
            guest_offset >= end
                || disk.extent_at(guest_offset, length).is_ok_and(|extent| {
                    extent.kind.reads_as_zeros() && extent.length_bytes == length.min(end - guest_offset)
                })
        };
        if !(untouched(source) && parent.is_none_or(untouched)) {
            store_unit(writer.as_ref(), source, parent, guest_offset, length)?;
        }
        guest_offset += length;
    }
    writer.finish(&IdentitySeed([1; 32]))
}

fn store_unit(
    writer: &dyn ImageWriter,
    source: &dyn BlockSource,
    parent: Option<&dyn BlockSource>,
    guest_offset: u64,
    length: u64,
) -> Result<()> {
    let mut bytes = vec![0; length as usize];
    source.read_at(guest_offset, &mut bytes)?;
    let mut inherited = vec![0; length as usize];
    if let Some(parent) = parent {
        let inside = parent.geometry().size_bytes.saturating_sub(guest_offset).min(length) as usize;
        parent.read_at(guest_offset.min(parent.geometry().size_bytes), &mut inherited[..inside])?;
    }
    let kind_of = |part: std::ops::Range<usize>| {
        if parent.is_some() && bytes[part.clone()] == inherited[part.clone()] {
            RunKind::Inherited
        } else if is_zero(&bytes[part]) {
            RunKind::Zero
        } else {
            RunKind::Data
        }
    };
    let mut runs: Vec<UnitRun> = Vec::new();
    for offset in (0..length).step_by(BLOCK_BYTES as usize) {
        let length_bytes = BLOCK_BYTES.min(length - offset);
        let kind = kind_of(offset as usize..(offset + length_bytes) as usize);
        match runs.last_mut() {
            Some(last) if last.kind == kind => last.length_bytes += length_bytes,
            _ => runs.push(UnitRun { offset, length_bytes, kind }),
        }
    }
    let has = |kind| runs.iter().any(|run| run.kind == kind);
    let needs_bytes = has(RunKind::Data) || (has(RunKind::Zero) && has(RunKind::Inherited));
    let content = if needs_bytes { UnitContent::Bytes(&bytes) } else { UnitContent::Nothing };
    writer.store(&GuestUnit { guest_offset, length_bytes: length, content, runs: &runs }, &InTurn)
}
