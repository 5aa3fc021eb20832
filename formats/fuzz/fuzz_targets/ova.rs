//! Any bytes as a package, as the descriptor in one, or as a disk in one.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};
use tintype_formats_fuzz::ova::image;

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::registry::OVA, Arc::new(MemoryFile::from_bytes(&image(data))));
});
