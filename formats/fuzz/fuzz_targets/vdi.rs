//! A header and a block map of any bytes, with blocks behind them: a list of changes to a small good VDI file.
//!
//! A change is a 16-bit place in the first 2 KiB, a length and its bytes.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::HostFileMut;
use tintype_formats::testing::{MemoryFile, exercise};

const BLOCK_BYTES: u32 = 4096;

/// Version 1.1, eight blocks of 4 KiB, of which five are there.
static BASE: LazyLock<MemoryFile> = LazyLock::new(|| {
    let mut bytes = vec![0; 1024 + 5 * BLOCK_BYTES as usize];
    let map = [4, u32::MAX, 0, u32::MAX - 1, 2, 1, u32::MAX, 3];
    let fields = [
        (64, 0xbeda_107f),
        (68, 0x0001_0001),
        (72, 400),
        (76, 1),
        (340, 512),
        (344, 1024),
        (368, 8 * BLOCK_BYTES),
        (376, BLOCK_BYTES),
        (384, 8),
        (388, 5),
        (392, 1),
        (408, 2),
    ];
    let entries = (512..).step_by(4).zip(map);
    for (place, number) in fields.into_iter().chain(entries) {
        bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
    }
    bytes[1024..].fill(0x5a);
    MemoryFile::from_bytes(&bytes)
});

fuzz_target!(|data: &[u8]| {
    let Some((mode, mut changes)) = data.split_first() else { return };
    let file = BASE.duplicate();
    while let [low, high, length, rest @ ..] = changes {
        let length = usize::from(*length).min(rest.len());
        let place = u64::from(u16::from_le_bytes([*low, *high]) % 2048);
        let _ = file.write_all_at(place, &rest[..length]);
        changes = &rest[length..];
    }
    if mode & 1 != 0 {
        let _ = file.set_len_bytes(u64::from(*mode) << 8);
    }
    if mode & 2 != 0 {
        let _ = file.set_len_bytes(u64::from(*mode) << 34);
    }
    let _ = exercise(&tintype_formats::vdi::FORMAT, Arc::new(file));
});
