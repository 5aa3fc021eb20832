//! `.tin` files: made by many threads, damaged, and with maps that are out of date.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tintype_tin::chunk::{ChunkKind, Packed};
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::{self, DiskRecord, Manifest, RootRecord, SourceRecord};
use tintype_tin::map::{Entry, Location, Page};
use tintype_tin::pack::{PackBuilder, TARGET_BYTES};
use tintype_tin::seal::Purpose;
use tintype_tin::slot::{Cost, SlotSecret, seal_slot};

use super::FORMAT;
use super::file::{FileBuilder, Header};
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, HostFileMut};
use crate::reference_gate::NoReferences;
use crate::secrets::{Secret, SecretSource, Secrets};
use crate::sink::{
    Compression, CreateOptions, GuestUnit, IdentitySeed, RunKind, SingleFile, Turn, UnitContent, UnitRun,
};
use crate::testing::{MemoryFile, ModelDisk, check_disk, create_image, digest, exercise, open_disk, open_file};
use crate::{BlockSource, Disk, Geometry};

const CHUNK: u64 = 64 << 10;

fn options(disk: &ModelDisk, chunk_size: &str) -> CreateOptions {
    let mut options = CreateOptions::new(disk.geometry());
    options.options.insert("chunk_size".to_owned(), chunk_size.to_owned());
    options
}

fn created(disk: &ModelDisk, chunk_size: &str) -> Arc<MemoryFile> {
    create_image(&FORMAT, &options(disk, chunk_size), disk, None).unwrap()
}

fn clean(file: Arc<MemoryFile>) -> CheckReport {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file)).unwrap().check(&mut report).unwrap();
    report
}

#[test]
fn disks_of_all_sizes_come_back() {
    for (seed, size) in [0, 512, CHUNK - 512, CHUNK, CHUNK * 1024, CHUNK * 1025 + 512, 40 << 30].into_iter().enumerate()
    {
        for chunk_size in ["64k", "4M"] {
            let disk = ModelDisk::random(seed as u64, size, 12, 100);
            let file = created(&disk, chunk_size);
            let image = open_disk(file.clone(), None).unwrap();
            assert_eq!(image.geometry().size_bytes, size);
            check_disk(&image, seed as u64).unwrap();
            assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "{size} {chunk_size}");
            let report = clean(file.clone());
            assert!(report.is_clean(), "{report:?}");
            assert_eq!(report.host_end_offset, file.len_bytes().unwrap());
        }
    }
}

#[test]
fn the_largest_empty_disk_is_small() {
    let disk = ModelDisk::new(16 << 40);
    let file = created(&disk, "256k");
    assert!(file.len_bytes().unwrap() < 16 << 10);
    assert_eq!(digest(&open_disk(file, None).unwrap()).unwrap(), digest(&disk).unwrap());
}

/// Lets units be placed in order, and written as it comes.
struct Ordered<'a> {
    placed: &'a Mutex<u64>,
    changed: &'a Condvar,
    number: u64,
}

impl Turn for Ordered<'_> {
    fn place(&self, place: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let mut placed = self.changed.wait_while(self.placed.lock().unwrap(), |placed| *placed != self.number).unwrap();
        let result = place();
        *placed += 1;
        self.changed.notify_all();
        result
    }

    fn write(&self, write: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        // Some are slower than others.
        std::thread::sleep(std::time::Duration::from_micros(self.number * 7919 % 1000));
        write()
    }
}

fn by_threads(disk: &[u8], threads: usize) -> Arc<MemoryFile> {
    let file = Arc::new(MemoryFile::new());
    let geometry = Geometry::of_512_byte_sectors(disk.len() as u64, 512);
    let mut options = CreateOptions::new(geometry);
    options.options.insert("chunk_size".to_owned(), "64k".to_owned());
    options.compression = Compression::Zstd(1);
    let writer = FORMAT.begin(&SingleFile(file.clone()), &options).unwrap();
    let (placed, changed, next) = (Mutex::new(0), Condvar::new(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bytes) = disk.chunks(CHUNK as usize).nth(number as usize) else { break };
                    let length_bytes = bytes.len() as u64;
                    let kind = if bytes.iter().any(|byte| *byte != 0) { RunKind::Data } else { RunKind::Zero };
                    let runs = [UnitRun { offset: 0, length_bytes, kind }];
                    let guest_offset = number * CHUNK;
                    let content = UnitContent::Bytes(bytes);
                    let unit = GuestUnit { guest_offset, length_bytes, content, runs: &runs };
                    let turn = Ordered { placed: &placed, changed: &changed, number };
                    writer.store(&unit, &turn).unwrap();
                }
            });
        }
    });
    writer.finish(&IdentitySeed([3; 32])).unwrap();
    file
}

/// Several packs, chunks that are there twice, and more than a page of the map.
#[test]
fn the_number_of_threads_changes_nothing() {
    let mut random = crate::testing::Random(1);
    let mut disk = vec![0; 1100 * CHUNK as usize];
    for (number, chunk) in disk.chunks_mut(CHUNK as usize).enumerate() {
        match number % 4 {
            0 | 1 => chunk.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next_u64().to_le_bytes())),
            2 => chunk.fill((number / 40) as u8),
            _ => {}
        }
    }
    let one = by_threads(&disk, 1);
    assert!(one.len_bytes().unwrap() > 2 * TARGET_BYTES as u64);
    for _ in 0..3 {
        assert!(one.to_bytes() == by_threads(&disk, 8).to_bytes());
    }
    let image = open_disk(one, None).unwrap();
    let mut found = vec![0; disk.len()];
    image.read_at(0, &mut found).unwrap();
    assert!(found == disk);
}

#[test]
fn flipped_bytes_are_found_and_cuts() {
    let mut disk = ModelDisk::new(3 * CHUNK);
    disk.write(0, 1);
    disk.write(20, 2);
    let file = created(&disk, "64k");
    let expected = digest(&disk).unwrap();
    let bytes = file.to_bytes();
    assert!(bytes.len() < 20_000, "{}", bytes.len());
    for index in (0..100).chain((100..bytes.len()).step_by(17)) {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        let changed = Arc::new(MemoryFile::from_bytes(&changed));
        if let Ok(found) = open_disk(changed, Some(&FORMAT)).and_then(|image| digest(&image)) {
            assert_eq!(found, expected, "byte {index}");
        }
        let cut = Arc::new(MemoryFile::from_bytes(&bytes[..index]));
        assert!(open_disk(cut, Some(&FORMAT)).is_err(), "cut at {index}");
    }
}

/// A file of one chunk and one page, whose map says `hint` of the chunk's pack.
fn file_with(ring: &KeyRing, slots: Vec<Vec<u8>>, hint: Option<Id>, names: &[&str]) -> Arc<MemoryFile> {
    let repository = ring.repository();
    let stored = |kind, purpose, plain: &[u8], id: ChunkId| {
        let (record, key) = ring.new_segment(purpose).unwrap();
        let packed = Packed::new(kind, id, plain, Some(3));
        let mut builder = PackBuilder::new(repository, Id::random().unwrap(), kind, &[record]);
        let length = packed.chunk_bytes() as u32;
        let location = Location { pack: builder.id(), offset: builder.reserve(packed.chunk_bytes()), length };
        let (header, stored) = packed.seal(&key, 0).unwrap();
        builder.fill(location.offset, header, &stored);
        (location, builder.finish(ring, ring.certificate()).unwrap().0)
    };
    let plain = [7; 1000];
    let id = ring.chunk_id(&plain);
    let (place, data_pack) = stored(ChunkKind::Data, Purpose::Data, &plain, id);
    let said = Location { pack: hint.unwrap_or(place.pack), ..place };
    let (bytes, core) = Page { level: 0, entries: vec![Entry::Data(id, said)] }.encode();
    let page_id = ring.page_id(&bytes[..core]);
    let (page_place, map_pack) = stored(ChunkKind::MapPage, Purpose::Map, &bytes, page_id);
    let disk = |name: &&str| DiskRecord {
        name: (*name).to_owned(),
        size_bytes: 1000,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        source: SourceRecord { path: String::new(), format: String::new() },
        identity: DiskIdentity::default(),
        unreadable: Vec::new(),
        root: Some(RootRecord::from((page_id, page_place))),
        statistics: Default::default(),
    };
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        features: Vec::new(),
        name: "web".to_owned(),
        time: "2026-11-23T02:00:00Z".to_owned(),
        host: "host".to_owned(),
        tags: Default::default(),
        original: None,
        parent: None,
        program: "test".to_owned(),
        consistency: "crash".to_owned(),
        disks: names.iter().map(disk).collect(),
        machine: None,
    };
    let snapshot = Id::random().unwrap();
    let object = manifest::seal(ring, snapshot, Id::random().unwrap(), &manifest).unwrap();
    let file = Arc::new(MemoryFile::new());
    let mut builder = FileBuilder::begin(file.clone(), &Header { repository, chunk_bytes: CHUNK, slots }).unwrap();
    builder.append_pack(place.pack, &data_pack).unwrap();
    builder.append_pack(page_place.pack, &map_pack).unwrap();
    builder.finish(ring, snapshot, &object).unwrap();
    file
}

fn read_all(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.geometry().size_bytes as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_chunk_that_was_moved_is_found_by_the_packs_tables() {
    let ring = KeyRing::public(Id([5; 16])).unwrap();
    for hint in [None, Some(Id([9; 16]))] {
        let file = file_with(&ring, Vec::new(), hint, &["sda"]);
        assert_eq!(read_all(&open_disk(file.clone(), None).unwrap()), [7; 1000]);
        assert!(clean(file).is_clean());
    }
}

struct Password(&'static str);

impl SecretSource for Password {
    fn secret(&self, _file_name: &str) -> Result<Secret> {
        Ok(Secret::passphrase(self.0.as_bytes().to_vec()))
    }
}

#[test]
fn encrypted_files_open_with_their_password_only() {
    let ring = KeyRing::generate(Id([5; 16]), "anna").unwrap();
    let cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };
    let slot = seal_slot(&ring, Some(SlotSecret::Password(b"right")), "anna", cost).unwrap();
    let file = file_with(&ring, vec![slot], None, &["sda", "sdb"]);
    let open = |secrets: Secrets| (FORMAT.open)(crate::OpenFile { secrets, ..open_file(file.clone()) });
    let with = |password| open(Secrets::from_source(Arc::new(Password(password))));
    assert_eq!(open(Secrets::default()).err().unwrap().kind(), ErrorKind::WrongKey);
    assert_eq!(with("wrong").err().unwrap().kind(), ErrorKind::WrongKey);
    let image = with("right").unwrap();
    let names: Vec<_> = image.disks().iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["sda", "sdb"]);
    assert!(image.layer(None, &NoReferences).is_err());
    for index in 0..2 {
        let disk = image.open_disk(index, &NoReferences).unwrap();
        let mut bytes = [0; 1000];
        disk.layer(None, &NoReferences).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 1000]);
    }
    assert!(image.open_disk(2, &NoReferences).is_err());
    assert_eq!(
        image.layer(Some("no"), &NoReferences).err().map(|error: ImageError| error.kind()),
        Some(ErrorKind::NotFound)
    );
}

#[test]
fn random_damage_never_panics() {
    let ring = KeyRing::public(Id([5; 16])).unwrap();
    let file = file_with(&ring, Vec::new(), None, &["sda"]);
    let mut random = crate::testing::Random(5);
    for _ in 0..2000 {
        let changed = Arc::new(file.duplicate());
        for _ in 0..1 + random.below(4) {
            let place = random.below(file.len_bytes().unwrap() - 8);
            changed.write_all_at(place, &random.next_u64().to_le_bytes()[..1 + random.below(8) as usize]).unwrap();
        }
        let _ = exercise(&FORMAT, changed);
    }
}

#[test]
fn measure_is_no_less_than_what_is_written() {
    for data in [0, 1, 400] {
        let mut disk = ModelDisk::new(80 << 20);
        (0..data).for_each(|block| disk.write(block * 33, block + 1));
        let options = options(&disk, "64k");
        let touched = |unit: u64| Ok(data * 4096 * (unit / 4096).min(16));
        let measured = FORMAT.measure(&options, &touched).unwrap();
        let written = create_image(&FORMAT, &options, &disk, None).unwrap().len_bytes().unwrap();
        assert!(measured.required_bytes >= written, "{measured:?} {written}");
        assert!(measured.fully_allocated_bytes >= measured.required_bytes.min(80 << 20));
    }
    let mut wrong = options(&ModelDisk::new(512), "100k");
    assert_eq!(FORMAT.measure(&wrong, &|_| Ok(0)).err().map(|error| error.kind()), Some(ErrorKind::InvalidOption));
    wrong.options.insert("chunk_size".to_owned(), "8M".to_owned());
    assert_eq!(FORMAT.measure(&wrong, &|_| Ok(0)).err().map(|error| error.kind()), Some(ErrorKind::InvalidOption));
}
