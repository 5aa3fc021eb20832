//! Any bytes as a VMA archive, or as what is in its header and extents.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};
use tintype_formats_fuzz::vma::image;

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::vma::FORMAT, Arc::new(MemoryFile::from_bytes(&image(data))));
});
