//! A good VHDX file with any changes: the smallest one has megabytes, so the input is a list of patches.
//!
//! The first byte of the input says which file, one that tintype wrote or a fixture, and, if it is odd, that checksums are
//! mended afterwards, so that changes get past them. A patch is a place (region, 16-bit offset), a length and its bytes.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image, exercise};
use tintype_formats::{BlockSource, CreateOptions, HostFile, HostFileMut};

/// Where the structures of all these files begin; log entries go to 1 MiB.
const PLACES: [u64; 8] = [0, 64 << 10, 128 << 10, 192 << 10, 256 << 10, 1 << 20, 2 << 20, 3 << 20];

/// What carries a CRC-32C at byte 4: where, and over how many bytes.
const CHECKED: [(u64, usize); 5] =
    [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536), (1 << 20, 8192)];

static BASES: LazyLock<Vec<Arc<MemoryFile>>> = LazyLock::new(|| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/vhdx"));
    let packed = std::fs::read_dir(folder).expect("the fixtures").map(|entry| entry.expect("a fixture").path());
    let mut packed: Vec<_> =
        packed.filter(|path| path.extension().is_some_and(|extension| extension == "zst")).collect();
    packed.sort_unstable();
    std::iter::once(created()).chain(packed.iter().map(|path| unpacked(path))).collect()
});

fn created() -> Arc<MemoryFile> {
    let disk = ModelDisk::random(1, 20 << 20, 6, 30);
    let mut options = CreateOptions::new(disk.geometry());
    options.options.insert("block_size".to_owned(), "1M".to_owned());
    create_image(&tintype_formats::vhdx::FORMAT, &options, &disk, None).expect("a good image")
}

/// Keeps the holes: each input begins with a copy.
fn unpacked(path: &Path) -> Arc<MemoryFile> {
    let packed = std::fs::File::open(path).expect("a fixture");
    let bytes = zstd::decode_all(packed).expect("a fixture in zstd");
    let file = MemoryFile::with_len(bytes.len() as u64);
    for (page, bytes) in (0..).zip(bytes.chunks(4096)).filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
        file.write_all_at(page * 4096, bytes).expect("a write to memory");
    }
    Arc::new(file)
}

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
    let file = BASES[usize::from(mode >> 2) % BASES.len()].duplicate();
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
