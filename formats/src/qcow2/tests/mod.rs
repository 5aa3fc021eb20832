//! Images made by hand and by the writer, read back; no other tool takes part.

mod check;
mod create;
mod read;

use crate::layer::Choice;
use std::sync::Arc;

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::Result;
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::sink::{GuestUnit, IdentitySeed, InTurn, RunKind, SingleFile, UnitContent, UnitRun};
use crate::testing::{MemoryFile, open_file};
use crate::{CreateOptions, Disk, Geometry, HostFile, Image};

/// An image of 512-byte clusters, laid out by hand: header, L1 table, L2 table, snapshot table, then data clusters from
/// number 4 on, each filled with its own number.
struct Handmade {
    bytes: Vec<u8>,
}

const CLUSTER: u64 = 512;

impl Handmade {
    fn new(version: u32, size_bytes: u64, l2_entries: &[u64]) -> Self {
        let mut image = Handmade { bytes: vec![0; 12 * CLUSTER as usize] };
        image.bytes[..4].copy_from_slice(&MAGIC);
        image.put_u32(4, version).put_u32(20, 9).put_u64(24, size_bytes);
        image.put_u32(36, 1).put_u64(40, CLUSTER);
        if version >= 3 {
            image.put_u32(96, 4).put_u32(100, 104);
        }
        image.put_u64(CLUSTER, (2 * CLUSTER) | ENTRY_COPIED);
        for (index, entry) in (0..).zip(l2_entries) {
            image.put_u64(2 * CLUSTER + index * 8, *entry);
        }
        for cluster in 4..12u64 {
            image.put(cluster * CLUSTER, &[cluster as u8; CLUSTER as usize]);
        }
        image
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> &mut Self {
        let end = offset as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(bytes);
        self
    }

    fn put_u32(&mut self, offset: u64, value: u32) -> &mut Self {
        self.put(offset, &value.to_be_bytes())
    }

    fn put_u64(&mut self, offset: u64, value: u64) -> &mut Self {
        self.put(offset, &value.to_be_bytes())
    }

    fn cut(&mut self, length: u64) -> &mut Self {
        self.bytes.truncate(length as usize);
        self
    }

    fn file(&self) -> Arc<MemoryFile> {
        Arc::new(MemoryFile::from_bytes(&self.bytes))
    }

    fn open(&self) -> Result<Box<dyn Image>> {
        (FORMAT.open)(open_file(self.file()))
    }

    fn disk(&self) -> Result<Disk> {
        Disk::open(open_file(self.file()), Some(&FORMAT), Choice::default(), Arc::new(NoReferences))
    }
}

/// Lets exactly one file through, whatever name it is asked for.
struct OneFile(Arc<dyn HostFile>);

impl ReferenceGate for OneFile {
    fn open(&self, _: &FileReference) -> Result<Referenced> {
        Ok(Referenced { file: open_file(self.0.clone()), gate: Arc::new(NoReferences) })
    }
}

/// An image of a disk of which only the first block is stored, or nothing.
fn nearly_empty(size_bytes: u64, first_block: Option<&[u8; 4096]>) -> Arc<MemoryFile> {
    let file = Arc::new(MemoryFile::new());
    let options = CreateOptions::new(Geometry::of_512_byte_sectors(size_bytes, 1));
    let writer = FORMAT.begin(&SingleFile(file.clone()), &options).unwrap();
    if let Some(bytes) = first_block {
        let mut unit = vec![0; 64 << 10];
        unit[..4096].copy_from_slice(bytes);
        let runs = [UnitRun { offset: 0, length_bytes: 64 << 10, kind: RunKind::Data }];
        let content = UnitContent::Bytes(&unit);
        writer.store(&GuestUnit { guest_offset: 0, length_bytes: 64 << 10, content, runs: &runs }, &InTurn).unwrap();
    }
    writer.finish(&IdentitySeed([0; 32])).unwrap();
    file
}

fn check(file: Arc<dyn HostFile>) -> CheckReport {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file)).unwrap().check(&mut report).unwrap();
    report
}
