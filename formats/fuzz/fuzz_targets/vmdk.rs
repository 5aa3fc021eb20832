//! Any bytes as a VMDK file; or, as tables and streams are hard to hit on, a good image with patches.
//!
//! The first byte chooses: any bytes, a sparse image, or a stream. A patch is a place (16 bits, in steps of 4 bytes from
//! the beginning or back from the end), a length and its bytes.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image, exercise};
use tintype_formats::{BlockSource, CreateOptions, HostFile, HostFileMut};

static BASES: LazyLock<[Arc<MemoryFile>; 2]> = LazyLock::new(|| {
    ["monolithicSparse", "streamOptimized"].map(|subformat| {
        let disk = ModelDisk::random(1, 34 << 20, 5, 20);
        let mut options = CreateOptions::new(disk.geometry());
        options.subformat = Some(subformat.to_owned());
        create_image(&tintype_formats::vmdk::FORMAT, &options, &disk, None).expect("a good image")
    })
});

fn patched(base: &MemoryFile, mut patches: &[u8]) -> MemoryFile {
    let file = base.duplicate();
    while let [low, high, how, rest @ ..] = patches {
        let length = usize::from(*how & 0x1f).min(rest.len());
        let place = u64::from(u16::from_le_bytes([*low, *high])) * 4;
        let end = file.len_bytes().unwrap_or(0);
        match how >> 6 {
            0 | 1 => _ = file.write_all_at(place, &rest[..length]),
            2 => _ = file.write_all_at(end.saturating_sub(place / 4), &rest[..length]),
            _ => _ = file.set_len_bytes(end.saturating_sub(place / 4)),
        }
        patches = &rest[length..];
    }
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = match mode {
        1 => patched(&BASES[0], rest),
        2 => patched(&BASES[1], rest),
        _ => MemoryFile::from_bytes(data),
    };
    let _ = exercise(&tintype_formats::vmdk::FORMAT, Arc::new(file));
});
