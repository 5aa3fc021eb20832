//! Disks of snapshots, read in place.

use std::io;
use std::sync::{Arc, Mutex};

use tintype_formats::error::{ImageError, Result as ImageResult};
use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::tin::read::{ChunkReader, MappedDisk, PackSource};
use tintype_formats::{BlockSource, Geometry, StorageOrder, StoredPiece};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::manifest::DiskRecord;
use tintype_tin::map::{Entry, Location, Shape};

use super::index::Index;
use super::session::to_image;
use super::store::{StoreError, StoreErrorKind};
use super::{Repository, names};
use crate::error::Result;

/// The packs of a repository, where nothing is looked for elsewhere.
pub struct StorePacks<'a>(pub &'a Repository);

impl PackSource for StorePacks<'_> {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        self.0.store().get_range(&names::pack(pack), offset, buffer).map_err(store_to_image)
    }

    fn find_again(&self, _: &ChunkId, _: &Location) -> ImageResult<Vec<Location>> {
        Ok(Vec::new())
    }
}

/// The packs of a repository, and the index where a map's word is not good any more.
struct RepositoryPacks {
    repository: Arc<Repository>,
    index: Mutex<Option<Index>>,
}

impl PackSource for RepositoryPacks {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        StorePacks(&self.repository).read(pack, offset, buffer)
    }

    fn find_again(&self, id: &ChunkId, stale: &Location) -> ImageResult<Vec<Location>> {
        let mut index = self.index.lock().unpoisoned();
        for attempt in 0..3 {
            // What is loaded may be older than a prune that moved the chunk: then it is loaded again. Segments may be lost, or be
            // deleted by whoever merges them just now: then packs' tables are asked.
            match attempt {
                0 if index.is_some() => {}
                0 | 1 => *index = Some(self.repository.index_for_reading().map_err(to_image)?),
                _ => *index = Some(self.repository.index_with_tables().map_err(to_image)?),
            }
            let found = index.as_ref().map_or(Ok(Vec::new()), |index| index.find(id)).map_err(to_image)?;
            let places: Vec<_> = found.iter().map(|found| found.location).filter(|place| place != stale).collect();
            if !places.is_empty() {
                return Ok(places);
            }
        }
        Ok(Vec::new())
    }
}

/// A failure of the store while a pack was read.
pub(super) fn store_to_image(cause: StoreError) -> ImageError {
    const DOING: &str = "read a pack";
    let kind = match cause.kind() {
        StoreErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
        StoreErrorKind::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    ImageError::io(DOING, io::Error::new(kind, cause))
}

impl Repository {
    /// Reads chunks of this repository.
    pub fn chunk_reader(self: &Arc<Self>) -> Arc<ChunkReader> {
        let packs = RepositoryPacks { repository: Arc::clone(self), index: Mutex::new(None) };
        Arc::new(ChunkReader::new(Arc::clone(self.ring()), Arc::new(packs)))
    }

    /// How the map of a disk is arranged here.
    pub fn shape_of(&self, size_bytes: u64) -> Shape {
        Shape { size_bytes, chunk_bytes: self.config().chunk_bytes }
    }

    /// The mapping of a stored disk.
    pub fn mapped(self: &Arc<Self>, reader: &Arc<ChunkReader>, record: &DiskRecord) -> MappedDisk {
        MappedDisk::new(Arc::clone(reader), self.shape_of(record.size_bytes), record.root())
    }
}

/// A disk of a snapshot.
pub struct SnapshotDisk {
    mapped: MappedDisk,
    geometry: Geometry,
}

impl SnapshotDisk {
    /// Opens a disk of a snapshot.
    pub fn open(repository: &Arc<Repository>, record: &DiskRecord) -> Result<SnapshotDisk> {
        Ok(Self::of(repository.mapped(&repository.chunk_reader(), record), record))
    }

    /// A disk whose mapping is known.
    pub fn of(mapped: MappedDisk, record: &DiskRecord) -> SnapshotDisk {
        let geometry = Geometry {
            size_bytes: record.size_bytes,
            logical_sector_bytes: record.logical_sector_bytes,
            physical_sector_bytes: record.physical_sector_bytes,
            unit_bytes: mapped.shape().chunk_bytes,
        };
        SnapshotDisk { mapped, geometry }
    }

    /// Its map, and the chunks that it names.
    pub fn mapped(&self) -> &MappedDisk {
        &self.mapped
    }
}

impl BlockSource for SnapshotDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> ImageResult<DiskExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let chunk_bytes = self.mapped.shape().chunk_bytes;
        let (entry, run) = self.mapped.entry(guest_offset / chunk_bytes)?;
        let kind = match entry {
            Entry::Hole => DiskKind::Hole,
            Entry::Zero => DiskKind::Zero,
            Entry::Data(..) => DiskKind::Encoded,
        };
        let run_bytes = run.saturating_mul(chunk_bytes) - guest_offset % chunk_bytes;
        Ok(DiskExtent { length_bytes: run_bytes.min(max_bytes), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> ImageResult<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        self.mapped.read_at(guest_offset, buffer)
    }
    fn storage_order(&self) -> Option<&dyn StorageOrder> {
        Some(self)
    }
}

impl StorageOrder for SnapshotDisk {
    fn stored_at(&self, guest_offset: u64) -> ImageResult<Option<(StoredPiece, u64)>> {
        self.geometry.clamp(guest_offset, 1)?;
        let chunk_bytes = self.mapped.shape().chunk_bytes;
        let (index, within) = (guest_offset / chunk_bytes, guest_offset % chunk_bytes);
        let (Entry::Data(_, Location { pack, offset, length }), _) = self.mapped.entry(index)? else { return Ok(None) };
        let piece = StoredPiece { object: pack.0, offset: offset.into(), stored_bytes: length.into() };
        Ok(Some((piece, self.mapped.shape().chunk_length(index) as u64 - within)))
    }

    fn read_parts(&self, parts: &mut [(u64, &mut [u8])]) -> ImageResult<()> {
        for (guest_offset, buffer) in parts.iter() {
            self.geometry.check_range(*guest_offset, buffer.len() as u64)?;
        }
        self.mapped.read_parts(parts)
    }
}
