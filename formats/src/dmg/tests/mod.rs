//! Tests of the DMG adapter that need no other program.

mod build;
mod damage;
mod reading;

use std::sync::Arc;

use build::Builder;

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::ImageError;
use crate::testing::{MemoryFile, Random, open_disk, open_file};

const STORED_KINDS: [u32; 6] = [CHUNK_RAW, CHUNK_ADC, CHUNK_ZLIB, CHUNK_BZIP2, CHUNK_LZFSE, CHUNK_LZMA];

/// Sectors of text that compresses, with some noise in it, different for every seed.
fn content(sectors: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < sectors * SECTOR_BYTES {
        match random.below(4) {
            0 => bytes.extend(random.next_u64().to_be_bytes()),
            1 => bytes.resize(bytes.len() + random.below(300) as usize, random.below(256) as u8),
            _ => bytes.extend_from_slice(format!("sector text {} ", random.below(50)).as_bytes()),
        }
    }
    bytes.truncate((sectors * SECTOR_BYTES) as usize);
    bytes
}

/// A partition map of one sector, and a partition with every kind of chunk; the last one is shorter.
fn every_kind() -> Builder {
    let mut builder = Builder::new().table("Driver Descriptor Map (DDM : 0)").chunk(CHUNK_RAW, &content(1, 1));
    builder = builder.table("disk image (Apple_HFS : 1)");
    for (number, kind) in STORED_KINDS.into_iter().chain(STORED_KINDS).enumerate() {
        builder = builder.chunk(kind, &content(64, 10 + number as u64));
        builder = match number % 3 {
            0 => builder.chunk(CHUNK_ZERO, &[0; 40 * 512]),
            1 => builder.chunk(CHUNK_IGNORE, &[0; 24 * 512]),
            _ => builder,
        };
    }
    builder.chunk(CHUNK_ZLIB, &content(3, 2)).table(" (Apple_Free : 2)").chunk(CHUNK_IGNORE, &[0; 10 * 512])
}

fn memory(bytes: &[u8]) -> Arc<MemoryFile> {
    Arc::new(MemoryFile::from_bytes(bytes))
}

fn open_error(bytes: &[u8]) -> ImageError {
    open_disk(memory(bytes), Some(&FORMAT)).err().expect("the file opens")
}

fn check_file(bytes: &[u8]) -> CheckReport {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(memory(bytes))).unwrap().check(&mut report).unwrap();
    report
}

fn findings(bytes: &[u8]) -> String {
    check_file(bytes).findings.into_iter().map(|finding| finding.text + "\n").collect()
}
