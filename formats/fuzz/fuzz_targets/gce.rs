//! Any bytes as an image for Compute Engine, or as the archive in one.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};
use tintype_formats_fuzz::gce::image;

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::gce::FORMAT, Arc::new(MemoryFile::from_bytes(&image(data))));
});
