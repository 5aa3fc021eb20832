//! A good VHDX file with any changes: the smallest one has megabytes, so the input is a list of patches.
//!
//! A patch is a place (region, 16-bit offset), a length and its bytes. Checksums are mended afterwards if the first byte of
//! the input is odd, so that changes get past them.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image, exercise};
use tintype_formats::{BlockSource, CreateOptions, HostFile, HostFileMut};

/// Where the structures of a file that tintype writes begin; a log entry goes to 1 MiB.
const PLACES: [u64; 8] = [0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 1 << 20, 2 << 20, 3 << 20];

/// What carries a CRC-32C at byte 4: where, and over how many bytes.
const CHECKED: [(u64, usize); 5] =
    [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536), (1 << 20, 8192)];

static BASE: LazyLock<Arc<MemoryFile>> = LazyLock::new(|| {
    let disk = ModelDisk::random(1, 20 << 20, 6, 30);
    let mut options = CreateOptions::new(disk.geometry());
    options.options.insert("block_size".to_owned(), "1M".to_owned());
    create_image(&tintype_formats::vhdx::FORMAT, &options, &disk, None).expect("a good image")
});

fn mend_checksums(file: &MemoryFile) {
    for (place, length) in CHECKED {
        let mut bytes = vec![0; length];
        if file.read_exact_at(place, &mut bytes).is_ok() {
            bytes[4..8].fill(0);
            let sum = crc32c::crc32c(&bytes);
            let _ = file.write_all_at(place + 4, &sum.to_le_bytes());
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, mut patches)) = data.split_first() else { return };
    let file = BASE.duplicate();
    while let [place, low, high, length, rest @ ..] = patches {
        let length = usize::from(*length).min(rest.len());
        let offset = PLACES[usize::from(*place) % PLACES.len()] + u64::from(u16::from_le_bytes([*low, *high]));
        let _ = file.write_all_at(offset, &rest[..length]);
        patches = &rest[length..];
    }
    if mode & 2 != 0 {
        let _ = file.set_len_bytes(u64::from(*mode) << 17);
    }
    if mode & 1 != 0 {
        mend_checksums(&file);
    }
    let _ = exercise(&tintype_formats::vhdx::FORMAT, Arc::new(file));
});
