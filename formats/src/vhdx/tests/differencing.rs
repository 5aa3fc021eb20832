//! Differencing disks, built by hand: nothing at hand writes them.

use crate::layer::Choice;
use uuid::{Uuid, uuid};

use super::*;
use crate::Disk;
use crate::error::ImageError;
use crate::extent::DiskKind;
use crate::reference_gate::{FileReference, ReferenceGate, Referenced};
use crate::testing::{Random, read_all};

/// Opens one file for every reference.
struct Only(Arc<MemoryFile>);

impl ReferenceGate for Only {
    fn open(&self, _: &FileReference) -> Result<Referenced> {
        Ok(Referenced { file: open_file(self.0.clone()), gate: Arc::new(Only(self.0.clone())) })
    }
}

fn locator(locator_type: Uuid, pairs: &[(&str, &str)]) -> Vec<u8> {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let header = ParentLocatorHeader {
        locator_type: locator_type.into(),
        reserved: 0.into(),
        entry_count: (pairs.len() as u16).into(),
    };
    let (mut item, mut texts) = (header.as_bytes().to_vec(), Vec::new());
    let first_text = item.len() + pairs.len() * size_of::<ParentLocatorEntry>();
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        let entry = ParentLocatorEntry {
            key_offset: ((first_text + texts.len()) as u32).into(),
            value_offset: ((first_text + texts.len() + key.len()) as u32).into(),
            key_length_bytes: (key.len() as u16).into(),
            value_length_bytes: (value.len() as u16).into(),
        };
        item.extend_from_slice(entry.as_bytes());
        texts.extend(key.into_iter().chain(value));
    }
    item.extend(texts);
    item
}

fn make_differencing(file: &MemoryFile, locator: &[u8]) {
    file.write_all_at(METADATA_OFFSET + METADATA_TABLE_BYTES + 4, &[HAS_PARENT as u8]).unwrap();
    add_item(file, PARENT_LOCATOR, ITEM_IS_REQUIRED, locator);
}

fn linkage_of(file: &Arc<MemoryFile>) -> String {
    (FORMAT.open)(open_file(file.clone())).unwrap().info().identity.clone().unwrap()
}

fn locator_for(parent: &Arc<MemoryFile>) -> Vec<u8> {
    let nil = Uuid::nil().braced().to_string();
    let pairs = [
        ("parent_linkage", linkage_of(parent).to_uppercase()),
        ("absolute_win32_path", r"C:\Disks\parent.vhdx".to_owned()),
        ("relative_path", r".\parent.vhdx".to_owned()),
        ("parent_linkage2", nil),
    ];
    locator(VHDX_LOCATOR_TYPE, &pairs.each_ref().map(|(key, value)| (*key, value.as_str())))
}

/// A chain over a disk of several chunks whose last chunk is not whole, with every state; and what it must read as.
fn chain(sector_bytes: u32, seed: u64) -> (Arc<MemoryFile>, Arc<MemoryFile>, Vec<u64>) {
    let size_bytes = CHUNK_SECTORS * u64::from(sector_bytes) * 2 + 7 * MIB;
    let mut random = Random(seed);
    let (mut below, mut above) = (ModelDisk::new(size_bytes), ModelDisk::new(size_bytes));
    let chunk_blocks = CHUNK_SECTORS * u64::from(sector_bytes) / MIB;
    let blocks: Vec<u64> =
        (0..6).chain(chunk_blocks - 3..chunk_blocks + 3).chain(chunk_blocks * 2..chunk_blocks * 2 + 7).collect();
    for block in &blocks {
        for part in 0..256 {
            below.write(block * 256 + part, random.next_u64() | 1);
            above.write(block * 256 + part, random.next_u64() | 1);
        }
    }
    let own = [("block_size", "1M")];
    let below = image_of(&below.with_sectors(sector_bytes, 4096), "dynamic", &own);
    let above = image_of(&above.with_sectors(sector_bytes, 4096), "dynamic", &own);
    // Both come from one seed: give the parent an identity of its own.
    let guid = uuid!("83ed0ec3-24c8-49a6-a959-5e4bf1288bfb");
    (0..2).for_each(|number| change_header(&below, number, |header| header.data_write_guid = guid.into()));
    make_differencing(&above, &locator_for(&below));
    (above, below, blocks)
}

fn open_chain(above: &Arc<MemoryFile>, below: &Arc<MemoryFile>) -> Result<Disk> {
    Disk::open(open_file(above.clone()), Some(&FORMAT), Choice::default(), Arc::new(Only(below.clone())))
}

/// Gives a block of the child a state, and sectors to one of the two files by turns; returns what it must read as.
fn divide(state: u64, sector_bytes: usize, child: &[u8], parent: &[u8], random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let sectors = child.len() / sector_bytes;
    let (mut bitmap, mut expected, mut present) = (vec![0_u8; sectors / 8], Vec::new(), false);
    for sector in 0..sectors {
        present ^= random.below(30) == 0;
        bitmap[sector / 8] |= u8::from(present) << (sector % 8);
        let bytes = sector * sector_bytes..(sector + 1) * sector_bytes;
        match state {
            FULLY_PRESENT => expected.extend_from_slice(&child[bytes]),
            PARTIALLY_PRESENT if present => expected.extend_from_slice(&child[bytes]),
            PARTIALLY_PRESENT | NOT_PRESENT => expected.extend_from_slice(&parent[bytes]),
            _ => expected.resize(expected.len() + bytes.len(), 0),
        }
    }
    (bitmap, expected)
}

fn block_of(disk: &Disk, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    disk.read_at(block * MIB, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_state_gives_its_sectors_to_the_right_file() {
    const STATES: [u64; 6] = [FULLY_PRESENT, PARTIALLY_PRESENT, PARTIALLY_PRESENT, ZERO, UNDEFINED, NOT_PRESENT];
    for sector_bytes in [512, 4096] {
        let (above, below, blocks) = chain(sector_bytes, 5);
        let (child, parent) = (open_chain(&above, &below).unwrap(), open_disk(below.clone(), None).unwrap());
        let chunk_blocks = CHUNK_SECTORS * u64::from(sector_bytes) / MIB;
        let first_bitmap = above.len_bytes().unwrap();
        above.set_len_bytes(first_bitmap + 3 * MIB).unwrap();
        for chunk in 0..3 {
            set_bat(&above, (chunk + 1) * (chunk_blocks + 1) - 1, (first_bitmap + chunk * MIB) | BITMAP_PRESENT);
        }
        let (mut random, mut expected) = (Random(6), Vec::new());
        for block in &blocks {
            let (chunk, within) = (block / chunk_blocks, block % chunk_blocks);
            let state = STATES[(block % 6) as usize];
            let (child, parent) = (block_of(&child, *block), block_of(&parent, *block));
            let (bitmap, bytes) = divide(state, sector_bytes as usize, &child, &parent, &mut random);
            set_bat(&above, block + chunk, bat(&above, block + chunk) & OFFSET_MASK | state);
            above.write_all_at(first_bitmap + chunk * MIB + within * bitmap.len() as u64, &bitmap).unwrap();
            expected.push(bytes);
        }
        let image = open_chain(&above, &below).unwrap();
        for (block, expected) in blocks.iter().zip(expected) {
            assert!(block_of(&image, *block) == expected, "block {block} with sectors of {sector_bytes}");
        }
        check_disk(&image, 7).unwrap();
        let report = check_file(above.clone()).unwrap();
        let kept = blocks.iter().filter(|block| **block % 6 < 3).count() as u64;
        assert_eq!((report.corruptions, report.allocated_bytes), (0, kept * MIB), "{report:?}");
        assert!(report.leaks > 0, "blocks were given up");
        set_bat(&above, chunk_blocks, 0);
        let error = open_chain(&above, &below).unwrap().read_at(MIB, &mut [0; 512]).unwrap_err();
        assert!(error.to_string().contains("the sector bitmap"), "{error}");
        assert!(check_file(above).unwrap().corruptions > 0);
    }
}

#[test]
fn absent_blocks_are_the_parents() {
    let mut disk = ModelDisk::new(64 * MIB);
    disk.write(3, 3);
    let below = small_blocks(&disk);
    let above = small_blocks(&ModelDisk::new(64 * MIB));
    make_differencing(&above, &locator_for(&below));
    let image = open_chain(&above, &below).unwrap();
    assert_eq!(read_all(&image).unwrap(), read_all(&disk).unwrap());
    assert!(matches!(image.extent_at(3 * 4096, 9).unwrap().kind, DiskKind::Data(Some(range)) if range.file.0 == 1));
    let info = (FORMAT.open)(open_file(above)).unwrap();
    let parent = info.parent().unwrap();
    assert_eq!(parent.names, [r".\parent.vhdx", r"C:\Disks\parent.vhdx"]);
    assert_eq!((parent.format.as_deref(), &parent.identities), (Some("vhdx"), &vec![linkage_of(&below)]));
}

#[test]
fn a_parent_that_changed_is_refused() {
    let below = small_blocks(&ModelDisk::new(8 * MIB));
    let above = small_blocks(&ModelDisk::new(8 * MIB));
    make_differencing(&above, &locator_for(&below));
    assert!(open_chain(&above, &below).is_ok());
    let other = uuid!("00112233-4455-6677-8899-aabbccddeeff");
    (0..2).for_each(|number| change_header(&below, number, |header| header.data_write_guid = other.into()));
    let refused = open_chain(&above, &below).err().map(|error: ImageError| error.kind());
    assert_eq!(refused, Some(ErrorKind::Corrupt));
}

#[test]
fn a_parent_with_other_sectors_is_refused() {
    let with_sectors = |bytes| image_of(&ModelDisk::new(8 * MIB).with_sectors(bytes, 4096), "dynamic", &[]);
    for (child, parent) in [(512, 4096), (4096, 512)] {
        let (above, below) = (with_sectors(child), with_sectors(parent));
        make_differencing(&above, &locator_for(&below));
        let error = open_chain(&above, &below).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains(&format!("have {parent} bytes, the child's have {child}")), "{cause}");
    }
}

#[test]
fn locators_are_checked() {
    let linkage = ("parent_linkage", "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}");
    let path = ("relative_path", "a.vhdx");
    let open = |item: &[u8]| {
        let file = small_blocks(&ModelDisk::new(8 * MIB));
        make_differencing(&file, item);
        (FORMAT.open)(open_file(file)).err().map(|error| error.kind())
    };
    let of = |pairs: &[(&str, &str)]| locator(VHDX_LOCATOR_TYPE, pairs);
    assert_eq!(open(&of(&[linkage, path])), None);
    assert_eq!(open(&of(&[linkage])), Some(ErrorKind::Corrupt), "no name");
    assert_eq!(open(&of(&[path])), Some(ErrorKind::Corrupt), "no linkage");
    assert_eq!(open(&of(&[("parent_linkage", "me"), path])), Some(ErrorKind::Corrupt));
    assert_eq!(open(&of(&[linkage, path, path])), Some(ErrorKind::Corrupt), "a key twice");
    assert_eq!(open(&of(&vec![linkage; 300])), Some(ErrorKind::LimitExceeded));
    assert_eq!(open(&of(&[linkage, ("volume_path", &"x".repeat(5000))])), Some(ErrorKind::LimitExceeded));
    assert_eq!(open(&locator(FILE_PARAMETERS, &[linkage, path])), Some(ErrorKind::Unsupported), "another type");
    let whole = of(&[linkage, path]);
    for cut in 0..whole.len() {
        assert!(open(&whole[..cut]).is_some(), "cut at {cut}");
    }
    let file = small_blocks(&ModelDisk::new(8 * MIB));
    add_item(&file, PARENT_LOCATOR, ITEM_IS_REQUIRED, &whole);
    assert_eq!(open_error(file), ErrorKind::Corrupt, "a locator without a parent");
    let file = small_blocks(&ModelDisk::new(8 * MIB));
    file.write_all_at(METADATA_OFFSET + METADATA_TABLE_BYTES + 4, &[HAS_PARENT as u8]).unwrap();
    assert_eq!(open_error(file), ErrorKind::Corrupt, "a parent without a locator");
}
