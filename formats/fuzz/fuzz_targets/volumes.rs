//! Any bytes as a raw disk with sectors of both sizes, as they are and as a GPT whose checksums fit: its partition table, the FAT
//! file systems in it, and what it starts.
#![no_main]

#[path = "../../volumes/tests/hostile/mod.rs"]
mod hostile;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::MemoryDisk;

fuzz_target!(|data: &[u8]| {
    for sector_bytes in [512, 4096] {
        for bytes in [data.to_vec(), hostile::mended(data, sector_bytes)] {
            let _ = hostile::check(&MemoryDisk::new(bytes).with_sectors(sector_bytes as u32));
        }
    }
});
