//! Opening `.tin` files: keys, packs and manifest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use tintype_tin::chunk::ChunkHeader;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::{self, DiskRecord, Manifest};
use tintype_tin::map::{Location, Shape};
use tintype_tin::pack::{self, PackTable, TRAILER_BYTES};
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::slot::{self, SlotInfo, SlotSecret};

use super::file::{self, Directory, Frame, Header, Place};
use super::read::{ChunkReader, MappedDisk, PackSource};
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, OpenFile};
use crate::limits::MAX_DISK_BYTES;
use crate::locks::Unpoisoned as _;
use crate::secrets::Secret;

const OPEN: &str = "open a .tin file";

/// Chunks that are found again by the packs' tables, where a map's word is not good: 1 TiB of a disk, 96 MiB of memory.
const MAX_FOUND_AGAIN: usize = 4 << 20;

/// The packs of a file.
pub struct TinPacks {
    file: OpenFile,
    ring: Arc<KeyRing>,
    /// In the file's order.
    places: Vec<Place>,
    by_id: HashMap<Id, usize>,
    /// Where every chunk is, by the packs' tables; made when it is first needed.
    tables: OnceLock<Vec<TableEntry>>,
    making: Mutex<()>,
}

/// A chunk in a pack's table: the beginning of its id, the pack's number, offset and length.
type TableEntry = ([u8; 8], u32, u32, u32);

impl TinPacks {
    fn new(file: OpenFile, ring: Arc<KeyRing>, places: Vec<Place>) -> Result<TinPacks> {
        let by_id: HashMap<Id, usize> = places.iter().enumerate().map(|(index, place)| (place.id, index)).collect();
        if by_id.len() != places.len() {
            return Err(ImageError::corrupt(OPEN, "two of its packs have the same id"));
        }
        Ok(TinPacks { file, ring, places, by_id, tables: OnceLock::new(), making: Mutex::default() })
    }

    /// The packs, in the file's order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Whether the file has this pack.
    pub fn has(&self, pack: Id) -> bool {
        self.by_id.contains_key(&pack)
    }

    /// The file.
    pub fn file(&self) -> &dyn HostFile {
        self.file.file.as_ref()
    }

    /// The table of a pack.
    pub fn table(&self, place: &Place) -> Result<PackTable> {
        let mut trailer = [0; TRAILER_BYTES];
        self.read(place.id, place.length_bytes.saturating_sub(TRAILER_BYTES as u64), &mut trailer)?;
        let (offset, length) = pack::table_range(&trailer, place.length_bytes)?;
        let mut bytes = vec![0; length];
        self.read(place.id, offset, &mut bytes)?;
        Ok(PackTable::parse(&self.ring, place.id, &bytes, offset)?)
    }

    fn tables(&self) -> &[TableEntry] {
        let _one_at_a_time = self.making.lock().unpoisoned();
        self.tables.get_or_init(|| {
            let mut entries: Vec<TableEntry> = Vec::new();
            for (number, place) in (0..).zip(&self.places) {
                // What a damaged table named is not found again.
                let Ok(table) = self.table(place) else { continue };
                let room = MAX_FOUND_AGAIN.saturating_sub(entries.len());
                let entry = |(offset, header): &(u32, ChunkHeader)| {
                    let begin = std::array::from_fn(|index| header.id().0[index]);
                    (begin, number, *offset, header.chunk_bytes() as u32)
                };
                entries.extend(table.chunks.iter().take(room).map(entry));
            }
            entries.sort_unstable();
            entries
        })
    }
}

impl PackSource for TinPacks {
    fn read(&self, pack: Id, offset: u64, buffer: &mut [u8]) -> Result<()> {
        const DOING: &str = "read a pack";
        let place = self.by_id.get(&pack).and_then(|index| self.places.get(*index));
        let place = place.ok_or_else(|| ImageError::corrupt(DOING, format!("the file has no pack {pack}")))?;
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= place.length_bytes);
        if end.is_none() {
            let detail = format!("{} bytes at {offset:#x} of pack {pack}: it has {}", buffer.len(), place.length_bytes);
            return Err(ImageError::truncated(DOING, detail).at_host(place.host_offset));
        }
        let host_offset = place.host_offset + offset;
        self.file
            .file
            .read_exact_at(host_offset, buffer)
            .map_err(|cause| ImageError::io(DOING, cause).at_host(host_offset))
    }

    fn find_again(&self, id: &ChunkId, _stale: &Location) -> Result<Vec<Location>> {
        let tables = self.tables();
        let wanted = &id.0[..8];
        let first = tables.partition_point(|(begin, ..)| begin[..] < *wanted);
        let same = tables[first..].iter().take_while(|(begin, ..)| begin[..] == *wanted);
        let location = |(_, pack, offset, length): &TableEntry| {
            let place = self.places.get(*pack as usize)?;
            Some(Location { pack: place.id, offset: *offset, length: *length })
        };
        Ok(same.filter_map(location).collect())
    }
}

/// An open file: its keys, its packs, and what its manifest says.
pub struct TinFile {
    /// What it is a snapshot of.
    pub manifest: Manifest,
    /// The snapshot's id.
    pub snapshot: Id,
    /// Its packs.
    pub packs: Arc<TinPacks>,
    /// Reads its chunks.
    pub reader: Arc<ChunkReader>,
    chunk_bytes: u64,
    encrypted: bool,
    end: u64,
}

impl TinFile {
    /// Opens a file with the password that `file.secrets` gives, if it needs one.
    pub fn load(file: &OpenFile) -> Result<TinFile> {
        let frame = Frame::read(file.file.as_ref())?;
        let ring = Arc::new(unlock(&frame, file)?);
        Self::open_frame(file, frame, ring)
    }

    /// Opens a file with keys that are known already, if it is of their repository.
    pub fn open_with(file: &OpenFile, ring: &Arc<KeyRing>) -> Result<Option<TinFile>> {
        let frame = Frame::read(file.file.as_ref())?;
        let is_own = frame.header.repository == ring.repository();
        is_own.then(|| Self::open_frame(file, frame, Arc::clone(ring))).transpose()
    }

    fn open_frame(file: &OpenFile, frame: Frame, ring: Arc<KeyRing>) -> Result<TinFile> {
        let Directory { packs, manifest } = frame.directory(file.file.as_ref(), &ring)?;
        let object = file::read_manifest(file.file.as_ref(), &manifest)?;
        let snapshot = manifest.id;
        let manifest = manifest::open(&ring, snapshot, &object)?.manifest?;
        for disk in &manifest.disks {
            check_record(disk)?;
        }
        if manifest.disks.is_empty() {
            return Err(ImageError::corrupt(OPEN, "it holds no disk"));
        }
        let end = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let packs = Arc::new(TinPacks::new(file.clone(), Arc::clone(&ring), packs)?);
        let reader = Arc::new(ChunkReader::new(ring, Arc::clone(&packs) as Arc<dyn PackSource>));
        let (chunk_bytes, encrypted) = (frame.header.chunk_bytes, !frame.header.slots.is_empty());
        Ok(TinFile { manifest, snapshot, packs, reader, chunk_bytes, encrypted, end })
    }

    /// The length of a chunk, in bytes.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// True if a password opened it.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Where the file ends, in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The mapping of a disk.
    pub fn mapped(&self, record: &DiskRecord) -> MappedDisk {
        MappedDisk::new(Arc::clone(&self.reader), self.shape(record), record.root())
    }

    /// How the map of a disk is arranged.
    pub fn shape(&self, record: &DiskRecord) -> Shape {
        Shape { size_bytes: record.size_bytes, chunk_bytes: self.chunk_bytes }
    }
}

/// The keys that a file is for.
fn unlock(frame: &Frame, file: &OpenFile) -> Result<KeyRing> {
    let Frame { header, .. } = frame;
    if header.slots.is_empty() {
        return Ok(KeyRing::public(header.repository)?);
    }
    let mut secret = file.secrets.ask(&file.name)?;
    loop {
        match try_slots(header, &secret) {
            Err(refused) if refused.kind() == ErrorKind::WrongKey => match file.secrets.ask_again(&file.name, &refused)
            {
                Some(next) => secret = next?,
                None => return Err(refused),
            },
            other => return other,
        }
    }
}

fn try_slots(header: &Header, secret: &Secret) -> Result<KeyRing> {
    for slot in &header.slots {
        if SlotInfo::parse(slot)?.repository != header.repository {
            return Err(ImageError::corrupt(OPEN, "a key slot in it is of another repository"));
        }
        match slot::open_slot(slot, Some(SlotSecret::Password(secret.bytes()))) {
            Err(cause) if cause.kind() == tintype_tin::ErrorKind::WrongKey => {}
            other => return Ok(other?),
        }
    }
    let tried = format!("the password opens none of its {} key slots", header.slots.len());
    Err(ImageError::wrong_key(
        OPEN,
        match RecoveryKey::is_mistyped(secret.bytes()) {
            true => format!("{tried}; if it is a recovery key, it has a typing error: its check letter does not match"),
            false => tried,
        },
    ))
}

/// Fails unless the numbers of a disk can be those of a disk.
fn check_record(disk: &DiskRecord) -> Result<()> {
    let name = disk.name.escape_debug();
    if disk.size_bytes > MAX_DISK_BYTES {
        let detail = format!("disk \"{name}\" has {} bytes, at most {MAX_DISK_BYTES} work", disk.size_bytes);
        return Err(ImageError::limit_exceeded(OPEN, detail));
    }
    let (logical, physical) = (disk.logical_sector_bytes, disk.physical_sector_bytes);
    if !matches!(logical, 512 | 4096) || !physical.is_power_of_two() || physical < logical {
        let detail = format!("disk \"{name}\" has sectors of {logical} bytes (physical: {physical})");
        return Err(ImageError::corrupt(OPEN, detail));
    }
    if disk.root.is_none() != (disk.size_bytes == 0) {
        let detail = format!("disk \"{name}\" has {} bytes, and its map does not fit that", disk.size_bytes);
        return Err(ImageError::corrupt(OPEN, detail));
    }
    Ok(())
}
