//! Differencing disks, built by hand: nothing at hand writes them.

use super::*;
use crate::Disk;
use crate::extent::DiskKind;
use crate::layer::Choice;
use crate::reference_gate::{FileReference, ReferenceGate, Referenced};
use crate::testing::{Random, read_all};

/// Opens one file for every reference.
struct Only(Arc<MemoryFile>);

impl ReferenceGate for Only {
    fn open(&self, _: &FileReference) -> Result<Referenced> {
        Ok(Referenced { file: open_file(self.0.clone()), gate: Arc::new(Only(self.0.clone())) })
    }
}

fn open_chain(above: &Arc<MemoryFile>, below: &Arc<MemoryFile>) -> Result<Disk> {
    Disk::open(open_file(above.clone()), Some(&FORMAT), Choice::default(), Arc::new(Only(below.clone())))
}

fn utf16_le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

const PARENT_ID: [u8; 16] = *b"the parent's own";

/// Makes a dynamic file the child of a parent with that identifier, with these names.
fn make_differencing(file: &MemoryFile, name: &str, locators: &[(&[u8; 4], &[u8])]) {
    // The locators go behind everything, and the footer behind them.
    let footer = footer_at(file, 0);
    let mut host_offset = footer_offset(file);
    change_header(file, |header| {
        header.parent_unique_id = PARENT_ID;
        header.parent_timestamp.set(1);
        for (unit, from) in header.parent_name.iter_mut().zip(name.encode_utf16()) {
            unit.set(from);
        }
        for (entry, (platform, bytes)) in header.parent_locators.iter_mut().zip(locators) {
            entry.platform = **platform;
            entry.space.set(1);
            entry.length_bytes.set(bytes.len() as u32);
            entry.host_offset.set(host_offset);
            file.write_all_at(host_offset, bytes).unwrap();
            host_offset += (bytes.len() as u64).next_multiple_of(512);
        }
    });
    file.write_all_at(host_offset, footer.as_bytes()).unwrap();
    change_footers(file, &|footer| footer.disk_type.set(DIFFERENCING));
}

fn with_identity(file: Arc<MemoryFile>, unique_id: [u8; 16]) -> Arc<MemoryFile> {
    let at_begin = footer_at(&file, 0).cookie == FOOTER_COOKIE;
    if at_begin {
        change_footer_at(&file, 0, &|footer| footer.unique_id = unique_id);
    }
    change_footer_at(&file, footer_offset(&file), &|footer| footer.unique_id = unique_id);
    file
}

#[test]
fn bitmaps_give_each_sector_to_its_file() {
    for (subformat, seed) in [("dynamic", 1), ("fixed", 2)] {
        let (mut below, mut above) = (ModelDisk::new(4 * MIB + 512), ModelDisk::new(4 * MIB + 512));
        let mut random = Random(seed);
        for block in (0..1025).filter(|block| block / 128 != 5) {
            below.write(block, random.next_u64() | 1);
            above.write(block, random.next_u64() | 1);
        }
        let (own, inherited) = (read_all(&above).unwrap(), read_all(&below).unwrap());
        let above = small_blocks(&above);
        let below = with_identity(image_of(&below, subformat, &[]), PARENT_ID);
        make_differencing(&above, "parent.vhd", &[]);
        let mut expected = Vec::new();
        for (block, (own, inherited)) in
            own.chunks(BLOCK_BYTES as usize).zip(inherited.chunks(BLOCK_BYTES as usize)).enumerate()
        {
            if block == 3 {
                set_bat(&above, 3, UNUSED_ENTRY);
            }
            let (mut bitmap, mut here) = ([0_u8; 128], false);
            for (sector, (own, inherited)) in own.chunks(512).zip(inherited.chunks(512)).enumerate() {
                here ^= random.below(20) == 0;
                bitmap[sector / 8] |= u8::from(here) << (7 - sector % 8);
                expected.extend_from_slice(if here && !matches!(block, 3 | 5) { own } else { inherited });
            }
            if bat(&above, block as u64) != UNUSED_ENTRY {
                above.write_all_at(u64::from(bat(&above, block as u64)) * 512, &bitmap).unwrap();
            }
        }
        let image = open_chain(&above, &below).unwrap();
        assert!(read_all(&image).unwrap() == expected, "{subformat}");
        check_disk(&image, seed).unwrap();
        assert_eq!(check_file(above).unwrap().corruptions, 0);
    }
}

#[test]
fn absent_blocks_are_the_parents_and_a_changed_parent_is_refused() {
    let disk = ModelDisk::random(4, 8 * MIB, 9, 50);
    let below = with_identity(small_blocks(&disk), PARENT_ID);
    let above = small_blocks(&ModelDisk::new(8 * MIB));
    make_differencing(&above, "parent.vhd", &[]);
    let image = open_chain(&above, &below).unwrap();
    assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap());
    let from_parent = |kind| matches!(kind, DiskKind::Data(Some(range)) if range.file.0 == 1);
    assert!((0..16).any(|block| from_parent(image.extent_at(block * BLOCK_BYTES, 1).unwrap().kind)));
    let other = with_identity(below, *b"somebody else...");
    assert_eq!(open_chain(&above, &other).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
}

fn parent_of(file: Arc<MemoryFile>) -> Result<FileReference> {
    (FORMAT.open)(open_file(file)).map(|image| image.parent().cloned().expect("a parent"))
}

#[test]
fn names_come_relative_ones_first_in_every_encoding() {
    let file = small_blocks(&ModelDisk::new(MIB));
    let locators: &[(&[u8; 4], &[u8])] = &[
        (b"Wi2k", b"C:\\old\\parent.vhd\0junk"),
        (b"MacX", b"file://localhost/disks/Elternteil \xc3\xa4.vhd"),
        (b"Mac ", b"an alias record, which is not understood"),
        (b"W2ku", &utf16_le("C:\\Disks\\Elternteil ä.vhd")),
        (b"\0\0\0\0", b""),
        (b"W2ru", &utf16_le(".\\Elternteil ä.vhd")),
        (b"Wi2r", b".\\Elternteil \xe4.vhd"),
    ];
    make_differencing(&file, "Elternteil ä.vhd", locators);
    let parent = parent_of(file.clone()).unwrap();
    assert_eq!(
        parent.names,
        [
            ".\\Elternteil ä.vhd",
            "C:\\Disks\\Elternteil ä.vhd",
            "/disks/Elternteil ä.vhd",
            "C:\\old\\parent.vhd",
            "Elternteil ä.vhd"
        ],
        "the 8-bit relative name is the same as the other one"
    );
    assert_eq!(parent.format.as_deref(), Some("vhd"));
    assert_eq!(parent.identities, ["74686520-7061-7265-6e74-2773206f776e"]);
    assert_eq!(warnings(file), Vec::<String>::new());
}

#[test]
fn names_that_cannot_be_read_are_passed_over_if_one_is_left() {
    let damage = |file: &MemoryFile| {
        change_header(file, |header| {
            header.parent_locators[0].platform = *b"W2ku";
            header.parent_locators[0].length_bytes.set(4);
            header.parent_locators[0].host_offset.set(u64::MAX - 3);
            header.parent_locators[1].platform = *b"W2ru";
            header.parent_locators[1].length_bytes.set(1 << 20);
            header.parent_locators[2].platform = *b"Wi2r";
            header.parent_locators[2].host_offset.set(1 << 40);
        });
    };
    let file = small_blocks(&ModelDisk::new(MIB));
    make_differencing(&file, "parent.vhd", &[]);
    damage(&file);
    assert_eq!(parent_of(file.clone()).unwrap().names, ["parent.vhd"]);
    assert_eq!(warnings(file).len(), 3);
    let file = small_blocks(&ModelDisk::new(MIB));
    make_differencing(&file, "", &[]);
    assert_eq!(open_error(file.clone()).kind(), ErrorKind::Corrupt, "no name at all");
    damage(&file);
    assert_eq!(open_error(file).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_parent_without_identity_is_any_file_of_its_name_and_said() {
    let file = small_blocks(&ModelDisk::new(MIB));
    make_differencing(&file, "parent.vhd", &[]);
    change_header(&file, |header| header.parent_unique_id = [0; 16]);
    assert!(parent_of(file.clone()).unwrap().identities.is_empty());
    assert!(warnings(file)[0].contains("nothing says who the parent is"));
}

/// Without the parent there is no disk: never one with zeros in its place.
#[test]
fn a_child_alone_is_an_error() {
    let file = small_blocks(&ModelDisk::new(MIB));
    make_differencing(&file, "parent.vhd", &[]);
    assert_eq!(open_error(file).kind(), ErrorKind::ReferenceDenied);
}
