//! A DMG: the input is chunk tables (without base64 and XML, which others fuzz) and the data that they point into.
//!
//! The first two bytes say how long the tables are. They are put into a resource fork; if the first bit is set, the rest of
//! the input is any file instead.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

fuzz_target!(|data: &[u8]| {
    let file = match data {
        [first, _, rest @ ..] if first & 1 != 0 => rest.to_vec(),
        [first, second, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*first, *second])).min(rest.len());
            image(&rest[..length], &rest[length..])
        }
        _ => return,
    };
    let _ = exercise(&tintype_formats::dmg::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});

/// A file with one chunk table, a data fork, and a trailer that finds both.
fn image(table: &[u8], stored: &[u8]) -> Vec<u8> {
    let mut fork = Vec::new();
    let numbers = [16, 20 + table.len(), 4 + table.len(), 54, table.len()];
    numbers.iter().for_each(|number| fork.extend_from_slice(&(*number as u32).to_be_bytes()));
    fork.extend_from_slice(table);
    fork.extend_from_slice(&[0; 24]);
    fork.extend_from_slice(&[0, 28, 0, 28, 0, 0]);
    fork.extend_from_slice(b"blkx\0\0\0\x0a");
    fork.extend_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut trailer = [0; 512];
    trailer[..4].copy_from_slice(b"koly");
    trailer[7] = 4;
    trailer[10] = 2;
    trailer[32..40].copy_from_slice(&(stored.len() as u64).to_be_bytes());
    trailer[40..48].copy_from_slice(&(stored.len() as u64).to_be_bytes());
    trailer[48..56].copy_from_slice(&(fork.len() as u64).to_be_bytes());
    let mut file = stored.to_vec();
    file.extend(fork);
    file.extend_from_slice(&trailer);
    file
}
