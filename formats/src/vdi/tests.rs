//! Images made by hand: each rule of the header and the map, and what of a file is looked at.

use std::sync::Arc;

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::extent::DiskKind;
use crate::layer::{Choice, Image};
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::testing::{MemoryFile, check_disk, exercise, open_disk, open_file, read_all};
use crate::{BlockSource, Disk};

const BLOCK: usize = 4096;

/// A file of version 1.1 with small blocks: block `i` of the file holds the byte `i + 1`.
#[derive(Clone)]
struct Made {
    pre: PreHeader,
    v1: HeaderV1,
    map: Vec<u32>,
    /// How many blocks the file holds.
    stored: usize,
    cut_bytes: usize,
}

fn made(map: &[u32], stored: usize) -> Made {
    let mut pre = PreHeader::new_zeroed();
    pre.signature = U32::new(SIGNATURE);
    pre.version = U32::new(VERSION);
    let mut v1 = HeaderV1::new_zeroed();
    v1.header_bytes = U32::new(NewHeader::stated_bytes());
    v1.image_type = U32::new(DYNAMIC);
    v1.map_offset = U32::new(512);
    v1.data_offset = U32::new(1024);
    v1.disk_bytes = U64::new((map.len() * BLOCK) as u64);
    v1.block_bytes = U32::new(BLOCK as u32);
    v1.block_count = U32::new(map.len() as u32);
    v1.allocated_count = U32::new(stored as u32);
    v1.create = Uuid::from_u128(0x11).into();
    v1.modify = Uuid::from_u128(0x12).into();
    Made { pre, v1, map: map.to_vec(), stored, cut_bytes: 0 }
}

impl Made {
    fn child_of(mut self, create: u128, modify: u128) -> Made {
        self.v1.image_type = U32::new(DIFFERENCING);
        self.v1.parent_create = Uuid::from_u128(create).into();
        self.v1.parent_modify = Uuid::from_u128(modify).into();
        self.v1.create = Uuid::from_u128(create + 0x100).into();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.pre.as_bytes(), self.v1.as_bytes()].concat();
        bytes.resize(self.v1.map_offset.get().clamp(456, 1 << 16) as usize, 0);
        self.map.iter().for_each(|entry| bytes.extend(entry.to_le_bytes()));
        bytes.resize(self.v1.data_offset.get().clamp(456, 1 << 16) as usize, 0);
        for number in 0..self.stored {
            bytes.extend(vec![0xee; self.v1.extra_bytes.get().min(1 << 16) as usize]);
            bytes.extend([number as u8 + 1; BLOCK]);
        }
        bytes.truncate(bytes.len() - self.cut_bytes);
        bytes
    }

    fn file(&self) -> Arc<MemoryFile> {
        Arc::new(MemoryFile::from_bytes(&self.bytes()))
    }

    fn image(&self) -> Result<Box<dyn Image>> {
        (FORMAT.open)(open_file(self.file()))
    }

    fn disk(&self) -> Result<Disk> {
        open_disk(self.file(), Some(&FORMAT))
    }

    fn fails_to_open(&self) -> (ErrorKind, String) {
        let error = self.image().err().expect("an error");
        (error.kind(), error.to_string())
    }

    fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        self.image().unwrap().check(&mut report).unwrap();
        report
    }
}

fn first_bytes(disk: &dyn BlockSource) -> Vec<u8> {
    read_all(disk).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

#[test]
fn blocks_are_found_wherever_they_are() {
    let made = made(&[2, ENTRY_FREE, 0, ENTRY_ZERO, 1, ENTRY_FREE], 3);
    let disk = made.disk().unwrap();
    assert_eq!(first_bytes(&disk), [3, 0, 1, 0, 2, 0]);
    check_disk(&disk, 1).unwrap();
    assert_eq!(disk.extent_at(3 * BLOCK as u64, 1 << 20).unwrap().kind, DiskKind::Zero);
    assert!(made.check().is_clean(), "{:?}", made.check());
    assert_eq!(made.check().allocated_bytes, 3 * BLOCK as u64);
}

#[test]
fn runs_of_blocks_are_one_extent_unless_bytes_stand_between() {
    let mut made = made(&[0, 1, 2, ENTRY_FREE, ENTRY_FREE], 3);
    let run = |made: &Made, offset: usize| {
        made.disk().unwrap().extent_at(offset as u64, u64::MAX).unwrap().length_bytes as usize / BLOCK
    };
    assert_eq!((run(&made, 0), run(&made, 3 * BLOCK)), (3, 2));
    made.v1.extra_bytes = U32::new(512);
    assert_eq!((run(&made, 0), run(&made, 3 * BLOCK)), (1, 2));
    assert_eq!(first_bytes(&made.disk().unwrap()), [1, 2, 3, 0, 0]);
    check_disk(&made.disk().unwrap(), 2).unwrap();
    assert!(made.check().is_clean());
}

#[test]
fn versions_1_0_and_0_are_read_and_others_refused() {
    let mut made = made(&[0, ENTRY_FREE], 1);
    made.pre.version = U32::new(0x0001_0000);
    assert_eq!(first_bytes(&made.disk().unwrap()), [1, 0]);
    for version in [0x0001_0002, 0x0002_0000, 0xffff_ffff] {
        made.pre.version = U32::new(version);
        assert_eq!(made.fails_to_open().0, ErrorKind::Unsupported);
    }
}

fn version_0(image_type: u32) -> Vec<u8> {
    let mut pre = PreHeader::new_zeroed();
    pre.signature = U32::new(SIGNATURE);
    pre.version = U32::new(1);
    let mut v0 = HeaderV0::new_zeroed();
    v0.image_type = U32::new(image_type);
    v0.disk_bytes = U64::new(2 * BLOCK as u64);
    v0.block_bytes = U32::new(BLOCK as u32);
    v0.block_count = U32::new(2);
    v0.allocated_count = U32::new(1);
    v0.create = Uuid::from_u128(1).into();
    v0.modify = Uuid::from_u128(2).into();
    if image_type == DIFFERENCING {
        v0.parent_create = Uuid::from_u128(3).into();
    }
    let mut bytes = [pre.as_bytes(), v0.as_bytes()].concat();
    [ENTRY_FREE, 0].iter().for_each(|entry| bytes.extend(entry.to_le_bytes()));
    bytes.extend([9; BLOCK]);
    bytes
}

#[test]
fn in_version_0_the_blocks_follow_the_map() {
    let open = |image_type| open_disk(Arc::new(MemoryFile::from_bytes(&version_0(image_type))), Some(&FORMAT));
    assert_eq!(first_bytes(&open(DYNAMIC).unwrap()), [0, 9]);
    check_disk(&open(DYNAMIC).unwrap(), 3).unwrap();
    let error = open(DIFFERENCING).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("do not say which state of their parent"), "{error}");
}

#[test]
fn the_header_is_checked() {
    let base = made(&[0, ENTRY_FREE], 1);
    let wrong = |change: &dyn Fn(&mut Made)| {
        let mut made = base.clone();
        change(&mut made);
        made.fails_to_open()
    };
    type Case<'a> = (&'a dyn Fn(&mut Made), ErrorKind, &'a str);
    let cases: [Case<'_>; 13] = [
        (&|m| m.pre.signature = U32::new(1), ErrorKind::NotThisFormat, "no signature"),
        (&|m| m.v1.header_bytes = U32::new(383), ErrorKind::Corrupt, "383 bytes"),
        (&|m| m.v1.image_type = U32::new(5), ErrorKind::Corrupt, "type is 5"),
        (&|m| m.v1.image_type = U32::new(0), ErrorKind::Corrupt, "type is 0"),
        (&|m| m.v1.block_bytes = U32::new(0), ErrorKind::Corrupt, "block size is 0"),
        (&|m| m.v1.block_bytes = U32::new(5000), ErrorKind::Corrupt, "block size is 5000"),
        (&|m| m.v1.block_bytes = U32::new(256), ErrorKind::Corrupt, "block size is 256"),
        (&|m| m.v1.disk_bytes = U64::new(2 * BLOCK as u64 + 1), ErrorKind::Corrupt, "too few"),
        (&|m| m.v1.disk_bytes = U64::new(u64::MAX), ErrorKind::LimitExceeded, "at most"),
        (&|m| m.v1.map_offset = U32::new(452), ErrorKind::Corrupt, "block map is at 0x1c4"),
        (&|m| m.v1.map_offset = U32::new(513), ErrorKind::Corrupt, "block map is at 0x201"),
        (&|m| m.v1.data_offset = U32::new(519), ErrorKind::Corrupt, "inside of the block map"),
        (&|m| m.v1.block_count = U32::new(u32::MAX), ErrorKind::LimitExceeded, "4294967295 entries"),
    ];
    for (change, kind, words) in cases {
        let (found, text) = wrong(change);
        assert!(found == kind && text.contains(words), "{found:?}: {text}");
    }
    let past_the_end = wrong(&|m| {
        m.v1.block_count = U32::new(100_000);
        m.v1.data_offset = U32::new(1 << 20);
    });
    assert_eq!(past_the_end.0, ErrorKind::Truncated);
}

#[test]
fn two_entries_for_one_block_are_errors_and_the_others_can_be_read() {
    let made = made(&[0, 1, 0, 2], 3);
    let disk = made.disk().unwrap();
    let error = disk.read_at(0, &mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("entry 0 is 0, and so is another one"), "{error}");
    assert!(disk.extent_at(2 * BLOCK as u64, 1).is_err());
    let mut block = [0; BLOCK];
    disk.read_at(BLOCK as u64, &mut block).unwrap();
    assert_eq!(block, [2; BLOCK]);
    assert_eq!(made.check().corruptions, 1);
}

/// A few KiB that claim to be a disk of 2 TiB, all of it in one place: refused at the first block.
#[test]
fn a_bomb_of_one_block_is_refused() {
    let mut made = made(&vec![0; 4096], 1);
    made.v1.block_bytes = U32::new(1 << 29);
    made.v1.disk_bytes = U64::new(4096 << 29);
    made.v1.data_offset = U32::new(20 << 10);
    let file = made.file();
    crate::HostFileMut::set_len_bytes(file.as_ref(), 1 << 40).unwrap();
    let disk = open_disk(file, Some(&FORMAT)).unwrap();
    assert_eq!(disk.extent_at(0, u64::MAX).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn blocks_past_the_end_of_the_file_are_errors() {
    let mut made = made(&[0, 7, 1], 2);
    let disk = made.disk().unwrap();
    assert_eq!(disk.extent_at(0, 1 << 20).unwrap().length_bytes, BLOCK as u64);
    let error = disk.read_at(BLOCK as u64, &mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.to_string().contains("past the end of the file"), "{error}");
    assert_eq!(made.check().corruptions, 1);
    made.map = vec![0, 0xffff_fffd, 1];
    assert_eq!(made.disk().unwrap().extent_at(BLOCK as u64, 1).unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn what_the_file_lacks_past_the_end_of_the_disk_does_not_matter() {
    let mut made = made(&[0, 1], 2);
    made.v1.disk_bytes = U64::new(BLOCK as u64 + 1000);
    made.cut_bytes = BLOCK - 1024;
    let image = made.image().unwrap();
    assert_eq!(image.info().geometry.size_bytes, BLOCK as u64 + 1024);
    assert!(image.info().warnings[0].contains("24 are added"));
    check_disk(&made.disk().unwrap(), 4).unwrap();
    made.cut_bytes += 1;
    assert!(made.disk().unwrap().read_at(BLOCK as u64, &mut [0]).is_err());
}

#[test]
fn check_finds_wrong_counts_and_lost_blocks() {
    let mut made = made(&[0, ENTRY_FREE, 2], 3);
    assert_eq!((made.check().leaks, made.check().corruptions), (1, 0));
    made.v1.allocated_count = U32::new(2);
    assert_eq!(made.check().corruptions, 1);
    made.v1.allocated_count = U32::new(9);
    assert_eq!(made.check().corruptions, 1);
    made.v1.allocated_count = U32::new(3);
    made.v1.create = Uuid::nil().into();
    assert_eq!(made.check().corruptions, 1);
    // The space of a fixed image is held on purpose.
    made.v1.create = Uuid::from_u128(1).into();
    made.v1.image_type = U32::new(FIXED);
    assert!(made.check().is_clean());
}

/// Gives one file, whatever is asked for.
struct Gives(Made);

impl ReferenceGate for Gives {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        assert!(reference.names.is_empty() && reference.format.as_deref() == Some("vdi"));
        Ok(Referenced { file: open_file(self.0.file()), gate: Arc::new(NoReferences) })
    }
}

#[test]
fn children_read_free_blocks_from_the_parent_and_zero_blocks_as_zeros() {
    let parent = made(&[0, 1, 2], 3);
    let child = made(&[ENTRY_FREE, ENTRY_ZERO, 0, ENTRY_FREE], 1).child_of(0x11, 0x12);
    let open = |child: &Made| {
        Disk::open(open_file(child.file()), Some(&FORMAT), Choice::default(), Arc::new(Gives(parent.clone())))
    };
    let disk = open(&child).unwrap();
    // The parent is shorter: zeros past its end.
    assert_eq!(first_bytes(&disk), [1, 0, 1, 0]);
    check_disk(&disk, 5).unwrap();
    let mut undo = child.clone();
    undo.v1.image_type = U32::new(UNDO);
    assert_eq!(first_bytes(&open(&undo).unwrap()), [1, 0, 1, 0]);
    for (create, modify) in [(0x11, 0x13), (0x10, 0x12)] {
        let error = open(&child.clone().child_of(create, modify)).err().unwrap();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("the child expects"));
    }
}

#[test]
fn parents_must_be_known_and_only_children_have_them() {
    for (create, modify) in [(0, 0x12), (0x11, 0)] {
        assert_eq!(made(&[0], 1).child_of(create, modify).fails_to_open().0, ErrorKind::Corrupt);
    }
    for kind in [DYNAMIC, FIXED] {
        let mut orphan = made(&[0], 1).child_of(0x11, 0x12);
        orphan.v1.image_type = U32::new(kind);
        assert_eq!(orphan.fails_to_open().0, ErrorKind::Corrupt);
    }
    let denied = made(&[0], 1).child_of(0x11, 0x12).disk().err().unwrap();
    assert_eq!(denied.kind(), ErrorKind::ReferenceDenied);
    assert!(denied.to_string().contains("the vdi file 00000000-0000-0000-0000-000000000011/"), "{denied}");
}

#[test]
fn damaged_and_cut_files_never_panic() {
    let bytes = made(&[2, ENTRY_FREE, 0, ENTRY_ZERO, 1], 3).bytes();
    for cut in 0..bytes.len().min(1100) {
        let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&bytes[..cut])));
    }
    for place in 64..540 {
        for flip in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= flip;
            let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&changed)));
        }
    }
}
