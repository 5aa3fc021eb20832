//! Any bytes as an ASIF file.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::asif::FORMAT, Arc::new(MemoryFile::from_bytes(data)));
});
