//! Any bytes as a DMG, or as the chunk table and the data of one.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};
use tintype_formats_fuzz::dmg::image;

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::dmg::FORMAT, Arc::new(MemoryFile::from_bytes(&image(data))));
});
