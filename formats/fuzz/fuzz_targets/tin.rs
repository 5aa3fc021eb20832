//! Any bytes as a `.tin` file; or a good one with patches; or one whose manifest says anything, properly signed.
//!
//! The first byte chooses. A patch is a place (16 bits, from the beginning or back from the end), a length and its bytes. The keys
//! of an unencrypted file are known to everybody, so that whoever makes a bad one can sign it.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image, exercise};
use tintype_formats::tin::FORMAT;
use tintype_formats::tin::file::{FileBuilder, Header};
use tintype_formats::{BlockSource, CreateOptions, HostFile, HostFileMut};
use tintype_tin::chunk::{ChunkKind, Packed};
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest::{self, DiskRecord, Manifest, RootRecord, SourceRecord};
use tintype_tin::pack::PackBuilder;
use tintype_tin::seal::Purpose;

static BASE: LazyLock<Arc<MemoryFile>> = LazyLock::new(|| {
    let disk = ModelDisk::random(1, 3 << 20, 5, 20);
    create_image(&FORMAT, &CreateOptions::new(disk.geometry()), &disk, None).expect("a good image")
});

static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::public(Id([1; 16])).expect("the public keys"));

fn patched(base: &MemoryFile, mut patches: &[u8]) -> MemoryFile {
    let file = base.duplicate();
    while let [low, high, how, rest @ ..] = patches {
        let length = usize::from(*how & 0x1f).min(rest.len());
        let place = u64::from(u16::from_le_bytes([*low, *high]));
        let end = file.len_bytes().unwrap_or(0);
        match how >> 6 {
            0 | 1 => _ = file.write_all_at(place.min(end), &rest[..length]),
            2 => _ = file.write_all_at(end.saturating_sub(place), &rest[..length]),
            _ => _ = file.set_len_bytes(end.saturating_sub(place)),
        }
        patches = &rest[length..];
    }
    file
}

/// A file with one pack of a map page that is any bytes, and a disk of any size whose root it is said to be.
fn signed(data: &[u8]) -> Option<MemoryFile> {
    let (size, rest) = data.split_first_chunk::<8>()?;
    let (numbers, page) = rest.split_first_chunk::<8>()?;
    let ring = &*RING;
    let repository = ring.repository();
    let (record, key) = ring.new_segment(Purpose::Map).ok()?;
    let mut core_bytes = page.len();
    if let Ok((_, length)) = tintype_tin::map::Page::parse(page) {
        core_bytes = length;
    }
    let id = ring.page_id(&page[..core_bytes]);
    let packed = Packed::new(ChunkKind::MapPage, id, page, Some(1));
    let mut builder = PackBuilder::new(repository, Id([2; 16]), ChunkKind::MapPage, &[record]);
    let length = packed.chunk_bytes() as u32;
    let offset = builder.reserve(packed.chunk_bytes());
    let (header, stored) = packed.seal(&key, 0).ok()?;
    builder.fill(offset, header, &stored);
    let (pack, _) = builder.finish(ring, ring.certificate()).ok()?;
    let number = |at: usize| u32::from(u16::from_le_bytes([numbers[at], numbers[at + 1]]));
    let root = RootRecord {
        id: if numbers[7] & 1 == 0 { id } else { ChunkId([numbers[6]; 32]) },
        pack: Id([2; 16]),
        offset: offset.wrapping_add(number(0)),
        length: length.wrapping_add(number(2)),
    };
    let disk = DiskRecord {
        name: "sda".to_owned(),
        size_bytes: u64::from_le_bytes(*size),
        logical_sector_bytes: 512,
        physical_sector_bytes: if number(4) == 0 { 512 } else { number(4) },
        source: SourceRecord { path: String::new(), format: String::new() },
        identity: DiskIdentity::default(),
        unreadable: Vec::new(),
        root: Some(root),
        statistics: Default::default(),
    };
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        features: Vec::new(),
        name: String::new(),
        time: String::new(),
        host: String::new(),
        tags: BTreeMap::new(),
        parent: None,
        program: String::new(),
        consistency: String::new(),
        disks: vec![disk; 1 + usize::from(numbers[7] >> 6)],
        machine: None,
        original: None,
    };
    let object = manifest::seal(ring, Id([3; 16]), Id([4; 16]), &manifest).ok()?;
    let file = Arc::new(MemoryFile::new());
    let header = Header { repository, chunk_bytes: 65536, slots: Vec::new() };
    let mut builder = FileBuilder::begin(file.clone(), &header).ok()?;
    builder.append_pack(Id([2; 16]), &pack).ok()?;
    builder.finish(ring, Id([3; 16]), &object).ok()?;
    Some(file.duplicate())
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = match mode {
        1 => Some(patched(&BASE, rest)),
        2 => signed(rest),
        _ => Some(MemoryFile::from_bytes(data)),
    };
    if let Some(file) = file {
        let _ = exercise(&FORMAT, Arc::new(file));
    }
});
