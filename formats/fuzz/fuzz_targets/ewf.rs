//! Any bytes as an EWF segment, or as the sections of one.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};
use tintype_formats_fuzz::ewf::image;

fuzz_target!(|data: &[u8]| {
    let _ = exercise(&tintype_formats::ewf::FORMAT, Arc::new(MemoryFile::from_bytes(&image(data))));
});
