//! Images of both formats, made by hand, and what holds for both.

use std::sync::Arc;

use crate::chain::Disk;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::format::Format;
use crate::layer::Image;
use crate::source::BlockSource;
use crate::testing::{MemoryFile, check_disk, exercise, open_disk, open_file, read_all};

/// A file: header, L1 table in the second cluster, an L2 table in the third, and three clusters.
#[derive(Clone)]
pub(crate) struct Made {
    pub format: &'static Format,
    pub bytes: Vec<u8>,
    pub cluster_bytes: usize,
    pub big_endian: bool,
    pub l1: usize,
    pub l2: usize,
}

impl Made {
    fn set(&mut self, offset: usize, entry: u64) {
        let bytes = if self.big_endian { entry.to_be_bytes() } else { entry.to_le_bytes() };
        self.bytes[offset..offset + 8].copy_from_slice(&bytes);
    }

    pub fn set_l1(&mut self, index: usize, entry: u64) {
        self.set(self.l1 + index * 8, entry);
    }

    pub fn set_l2(&mut self, index: usize, entry: u64) {
        self.set(self.l2 + index * 8, entry);
    }

    pub fn l2_entry(&self, index: usize) -> u64 {
        let bytes = self.bytes[self.l2 + index * 8..][..8].try_into().unwrap();
        if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
    }

    /// Fills clusters of the file with their number.
    pub fn fill(&mut self, clusters: std::ops::Range<usize>) {
        for cluster in clusters {
            self.bytes[cluster * self.cluster_bytes..][..self.cluster_bytes].fill(cluster as u8);
        }
    }

    pub fn image(&self) -> Result<Box<dyn Image>> {
        (self.format.open)(open_file(Arc::new(MemoryFile::from_bytes(&self.bytes))))
    }

    pub fn disk(&self) -> Result<Disk> {
        open_disk(Arc::new(MemoryFile::from_bytes(&self.bytes)), Some(self.format))
    }

    pub fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        self.image().unwrap().check(&mut report).unwrap();
        report
    }

    fn error_at(&self, guest_offset: u64) -> String {
        self.disk().unwrap().read_at(guest_offset, &mut [0; 16]).expect_err("an error").to_string()
    }
}

/// What is to hold for every format with these tables. `make` makes an image with those L2 entries.
pub(crate) fn check_corners(make: fn(&[u64]) -> Made) {
    let cluster = make(&[]).cluster_bytes as u64;
    good_tables_are_read(&make(&[5 * cluster, 0, 3 * cluster, 4 * cluster]));
    repeated_places_are_errors(&make(&[3 * cluster, 4 * cluster, 3 * cluster]));
    wrong_places_are_errors(&make(&[5 * cluster, 3 * cluster]));
    lost_and_doubly_used_places_are_found(&make(&[3 * cluster, 4 * cluster]));
    damage_never_panics(&make(&[5 * cluster, 0, 3 * cluster, 4 * cluster]));
}

fn good_tables_are_read(made: &Made) {
    let disk = made.disk().unwrap();
    let bytes = read_all(&disk).unwrap();
    let found: Vec<u8> = bytes.chunks(made.cluster_bytes).take(5).map(|cluster| cluster[7]).collect();
    assert_eq!(found, [5, 0, 3, 4, 0]);
    check_disk(&disk, 1).unwrap();
    let run = disk.extent_at(2 * made.cluster_bytes as u64 + 5, u64::MAX).unwrap();
    assert_eq!(run.length_bytes, 2 * made.cluster_bytes as u64 - 5);
    let report = made.check();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.allocated_bytes, 3 * made.cluster_bytes as u64);
    assert_eq!(report.host_end_offset, made.bytes.len() as u64);
}

fn repeated_places_are_errors(made: &Made) {
    assert!(made.error_at(0).contains("entry 0 points to 0x3000, and so does another one"), "{}", made.error_at(0));
    let mut block = [0; 16];
    made.disk().unwrap().read_at(made.cluster_bytes as u64, &mut block).unwrap();
    assert_eq!(block, [4; 16]);
    assert_eq!(made.check().corruptions, 1);
    // The same for the L2 tables.
    let mut twice = made.clone();
    twice.set_l1(1, made.l2 as u64);
    assert!(twice.error_at(made.cluster_bytes as u64).contains("read L1 table"));
}

fn wrong_places_are_errors(made: &Made) {
    let cluster = made.cluster_bytes as u64;
    let end = made.bytes.len() as u64;
    for (entry, words) in [
        (end, "past the end of the file"),
        (cluster, "where the L1 table is"),
        (3 * cluster + 8, "not a multiple"),
        (!0 >> 1 & !(cluster - 1), "past the end of the file"),
    ] {
        let mut wrong = made.clone();
        wrong.set_l2(1, entry);
        assert!(wrong.error_at(cluster).contains(words), "{entry:#x}: {}", wrong.error_at(cluster));
        assert!(wrong.check().corruptions > 0);
        let mut wrong = made.clone();
        wrong.set_l1(0, entry);
        assert!(wrong.error_at(0).contains(words), "{entry:#x}: {}", wrong.error_at(0));
        assert!(wrong.check().corruptions > 0);
    }
    let mut cut = made.clone();
    cut.bytes.truncate(cut.bytes.len() - 1);
    assert!(cut.error_at(0).contains("past the end of the file"));
}

fn lost_and_doubly_used_places_are_found(made: &Made) {
    assert_eq!((made.check().leaks, made.check().corruptions), (1, 0));
    let mut table_as_data = made.clone();
    table_as_data.set_l2(5, made.l2 as u64);
    assert_eq!(table_as_data.check().corruptions, 1);
}

fn damage_never_panics(made: &Made) {
    for cut in (0..made.bytes.len()).step_by(97) {
        let _ = exercise(made.format, Arc::new(MemoryFile::from_bytes(&made.bytes[..cut])));
    }
    let tables = (0..64).chain(made.l1..made.l1 + 16).chain(made.l2..made.l2 + 40);
    for place in tables {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = made.bytes.clone();
            changed[place] ^= flip;
            let file = Arc::new(MemoryFile::from_bytes(&changed));
            if let Err(error) = exercise(made.format, file) {
                assert_ne!(error.kind(), ErrorKind::Io, "{error}");
            }
        }
    }
}
