//! Creating `.tin` files: unencrypted, of one disk, the same bytes for any number of threads.
//!
//! Packs are filled by many threads at once and are complete in any order; the file gets them in the order that guest order
//! gives. A pack of chunks has its turn from when it is begun, a pack of map pages from when it is complete: it takes a
//! hundred gigabytes of disk to fill one, and what would wait for it had to be kept in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_tin::chunk::{ChunkKind, HEADER_BYTES, Level, Packed};
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::{self, DiskRecord, Manifest, RootRecord, SourceRecord};
use tintype_tin::map::{Location, PAGE_ENTRIES, Shape};
use tintype_tin::pack;
use tintype_tin::seal::{Purpose, SegmentKey, SegmentRecord, TAG_BYTES};

use super::file::{CHUNK_BYTES, FileBuilder, Header};
use super::pack_stream::{FinishedPack, PackStream, PackTarget, Place};
use super::write::{Base, ChunkSink, DiskWriter, EncodedUnit, Reserved};
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, TouchedBytes};
use crate::limits::MAX_DISK_BYTES;
use crate::locks::Unpoisoned as _;
use crate::sink::{
    Compression, CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, UnitTarget as _, UnitWriter,
    WriterLayout, invalid_option,
};
use crate::source::Geometry;

/// The repository that images of their own are of: all the same one, whose keys are public.
const IMAGES: Id = Id(*b"tintype image 01");

/// What a repository has by default.
const DEFAULT_CHUNK_BYTES: u64 = 256 << 10;

/// Zstandard level where none is asked for.
const DEFAULT_LEVEL: i32 = 3;

/// Chunks that are remembered, so that the same bytes are stored once: 128 GiB of a disk, 40 MiB of memory. Behind them,
/// only what was among them is found again.
const MAX_KNOWN: usize = 512 << 10;

/// The time in manifests: the same disk gives the same bytes.
const NO_TIME: &str = "1970-01-01T00:00:00Z";

/// A page of the map, as stored: ids do not compress, hints do.
const PAGE_BYTES: u64 = 44 << 10;

/// A pack's header, table head and trailer, and its line in the directory.
const PACK_BYTES: u64 = 1024;

/// Header, manifest, directory and trailer of a file without packs.
const FRAME_BYTES: u64 = 4096;

fn chunk_bytes(options: &CreateOptions) -> Result<u64> {
    let chunk_bytes = options.size_option("chunk_size")?.unwrap_or(DEFAULT_CHUNK_BYTES);
    if !CHUNK_BYTES.contains(&chunk_bytes) || !chunk_bytes.is_power_of_two() {
        let found = options.options.get("chunk_size").map_or("", String::as_str);
        return Err(invalid_option("chunk_size", found, "a power of two from 64k to 4M"));
    }
    Ok(chunk_bytes)
}

fn check_geometry(geometry: &Geometry) -> Result<()> {
    if geometry.size_bytes <= MAX_DISK_BYTES {
        return Ok(());
    }
    let detail = format!("the disk has {} bytes, at most {MAX_DISK_BYTES} work", geometry.size_bytes);
    Err(ImageError::unsupported("create a .tin file", detail))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    check_geometry(&options.geometry)?;
    let chunk_bytes = chunk_bytes(options)?;
    let with = |data_bytes: u64| {
        let chunks = data_bytes.div_ceil(chunk_bytes);
        // The header, the tag, and the header's copy in the table.
        let chunks_bytes =
            data_bytes.saturating_add(chunks.saturating_mul(2 * HEADER_BYTES as u64 + 4 + TAG_BYTES as u64));
        let packs = chunks_bytes / pack::TARGET_BYTES as u64 + 2;
        let pages = chunks / PAGE_ENTRIES + u64::from(Shape { size_bytes: data_bytes, chunk_bytes }.top_level()) + 1;
        let rest = FRAME_BYTES + packs.saturating_mul(PACK_BYTES) + pages.saturating_mul(PAGE_BYTES);
        chunks_bytes.saturating_add(rest)
    };
    Ok(Measure {
        required_bytes: with(touched_bytes(chunk_bytes)?),
        fully_allocated_bytes: with(options.geometry.size_bytes),
    })
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    check_geometry(&options.geometry)?;
    let chunk_bytes = chunk_bytes(options)?;
    let level: Level = match options.compression {
        Compression::Zstd(level) => Some(level),
        Compression::None | Compression::Zlib(_) => Some(DEFAULT_LEVEL),
    };
    let ring = Arc::new(KeyRing::public(IMAGES)?);
    let header = Header { repository: IMAGES, chunk_bytes, slots: Vec::new() };
    let file = FileBuilder::begin(files.main(), &header)?;
    let sink = Arc::new(FileSink::new(&ring, file));
    let shape = Shape { size_bytes: options.geometry.size_bytes, chunk_bytes };
    let disk = DiskWriter::new(Arc::clone(&sink), Arc::clone(&ring), shape, level, Base::Nothing);
    let unreadable = options.unreadable.iter().map(|range| (range.start, range.end - range.start)).collect();
    Ok(Box::new(TinWriter { disk, sink, ring, geometry: options.geometry, unreadable }))
}

/// An image that is being created.
struct TinWriter {
    disk: DiskWriter<FileSink>,
    sink: Arc<FileSink>,
    ring: Arc<KeyRing>,
    geometry: Geometry,
    unreadable: Vec<(u64, u64)>,
}

impl UnitWriter for TinWriter {
    type Encoded<'a> = EncodedUnit;

    fn layout(&self) -> WriterLayout {
        self.disk.layout()
    }

    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<EncodedUnit> {
        self.disk.encode(unit)
    }

    fn place(&self, encoded: &mut EncodedUnit) -> Result<()> {
        self.disk.place(encoded)
    }

    fn write(&self, encoded: &EncodedUnit) -> Result<()> {
        self.disk.write(encoded)
    }

    fn finish(self, seed: &IdentitySeed) -> Result<()> {
        let stored = self.disk.finish()?;
        self.sink.data.flush()?;
        self.sink.maps.flush()?;
        let file = self.sink.target.take_file()?;
        let geometry = self.geometry;
        let disk = DiskRecord {
            name: "disk".to_owned(),
            size_bytes: geometry.size_bytes,
            logical_sector_bytes: geometry.logical_sector_bytes,
            physical_sector_bytes: geometry.physical_sector_bytes,
            source: SourceRecord { path: String::new(), format: String::new() },
            identity: DiskIdentity::default(),
            unreadable: self.unreadable,
            root: stored.root.map(RootRecord::from),
            statistics: stored.statistics,
        };
        let manifest = Manifest {
            schema: Manifest::SCHEMA,
            features: Vec::new(),
            name: "disk".to_owned(),
            time: NO_TIME.to_owned(),
            host: String::new(),
            tags: BTreeMap::new(),
            parent: None,
            original: None,
            program: concat!("tintype ", env!("CARGO_PKG_VERSION")).to_owned(),
            consistency: "unknown".to_owned(),
            disks: vec![disk],
            machine: None,
        };
        let snapshot = Id(seed.uuid("tin snapshot").into_bytes());
        let session = Id(seed.uuid("tin session").into_bytes());
        let segment = self.ring.derived_segment(Purpose::Manifest, &snapshot.0)?;
        let object = manifest::seal_in(&self.ring, segment, (snapshot, session), &manifest)?;
        file.finish(&self.ring, snapshot, &object).map(|_| ())
    }
}

/// Where chunks go: packs, one after the other in the file.
struct FileSink {
    data: PackStream<FileTarget>,
    maps: PackStream<FileTarget>,
    target: Arc<FileTarget>,
    /// Filled in guest order until it is full, and never emptied: what is found in it does not depend on the threads.
    known: Mutex<HashMap<ChunkId, Location>>,
}

impl FileSink {
    fn new(ring: &Arc<KeyRing>, file: FileBuilder) -> FileSink {
        let queue = Queue { file: Some(file), turns: 0, written: 0, turn_of: HashMap::new(), waiting: BTreeMap::new() };
        let target = Arc::new(FileTarget { ring: Arc::clone(ring), queue: Mutex::new(queue) });
        let stream = |kind| PackStream::new(Arc::clone(ring), kind, Arc::clone(&target));
        FileSink { data: stream(ChunkKind::Data), maps: stream(ChunkKind::MapPage), target, known: Mutex::default() }
    }

    fn stream(&self, kind: ChunkKind) -> &PackStream<FileTarget> {
        match kind {
            ChunkKind::Data => &self.data,
            ChunkKind::MapPage => &self.maps,
        }
    }
}

impl ChunkSink for FileSink {
    fn may_use(&self, _location: &Location) -> bool {
        true
    }

    fn find(&self, id: &ChunkId) -> Result<Option<Location>> {
        Ok(lock(&self.known).get(id).copied())
    }

    fn reserve(&self, kind: ChunkKind, id: ChunkId, chunk_bytes: usize) -> Result<Reserved> {
        let mut known = lock(&self.known);
        if let Some(location) = known.get(&id) {
            return Ok(Reserved::Known(*location));
        }
        let place = self.stream(kind).reserve(chunk_bytes)?;
        if known.len() < MAX_KNOWN {
            known.insert(id, place.location);
        }
        Ok(Reserved::New(place))
    }

    fn store(&self, kind: ChunkKind, place: Place, packed: Packed) -> Result<()> {
        self.stream(kind).store(place, packed)
    }
}

/// Puts complete packs into the file, each in its turn.
struct FileTarget {
    ring: Arc<KeyRing>,
    queue: Mutex<Queue>,
}

struct Queue {
    file: Option<FileBuilder>,
    /// How many turns are given out.
    turns: u64,
    /// Whose turn it is.
    written: u64,
    /// The turns of data packs that are being filled.
    turn_of: HashMap<u64, u64>,
    /// Packs that are complete before their turn.
    waiting: BTreeMap<u64, FinishedPack>,
}

impl Queue {
    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns - 1
    }
}

impl FileTarget {
    /// The file, when every pack is in it.
    fn take_file(&self) -> Result<FileBuilder> {
        let mut queue = lock(&self.queue);
        if queue.written != queue.turns {
            return Err(unfinished("a pack was never completed"));
        }
        queue.file.take().ok_or_else(|| unfinished("it is finished already"))
    }
}

fn unfinished(detail: &str) -> ImageError {
    ImageError::new(ErrorKind::Io, "finish a .tin file", detail)
}

impl PackTarget for FileTarget {
    /// Called in guest order, as every turn has to be taken.
    fn begin(&self, kind: ChunkKind, sequence: u64) -> Result<(Id, SegmentRecord, SegmentKey)> {
        let purpose = match kind {
            ChunkKind::Data => Purpose::Data,
            ChunkKind::MapPage => Purpose::Map,
        };
        if kind == ChunkKind::Data {
            let mut queue = lock(&self.queue);
            let turn = queue.next_turn();
            queue.turn_of.insert(sequence, turn);
        }
        let seed = sequence.to_le_bytes();
        let (record, key) = self.ring.derived_segment(purpose, &seed)?;
        let id = blake3::derive_key("tintype image pack 1", &[&[kind.number()][..], &seed].concat());
        Ok((Id(std::array::from_fn(|index| id[index])), record, key))
    }

    fn put(&self, kind: ChunkKind, pack: FinishedPack) -> Result<()> {
        let mut queue = lock(&self.queue);
        let turn = match kind {
            ChunkKind::Data => queue.turn_of.remove(&pack.sequence),
            // Pages are stored in guest order, and so packs of them are completed in it.
            ChunkKind::MapPage => None,
        };
        let turn = turn.unwrap_or_else(|| queue.next_turn());
        queue.waiting.insert(turn, pack);
        let Queue { file, written, waiting, .. } = &mut *queue;
        while let Some(pack) = waiting.remove(written) {
            let file = file.as_mut().ok_or_else(|| unfinished("a pack came after the end"))?;
            file.append_pack(pack.id, &pack.bytes)?;
            *written += 1;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}
