//! Any bytes as a VHD file, or a good image with patches; with the checksums of both footers and of the dynamic header mended
//! if they can be found, so that changes get past them.
//!
//! The first byte of the input is no part of the file: its lowest bit asks for the mending, the next one for patches. A patch
//! is a place (16 bits, from the beginning or back from the end), a length and its bytes.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, ModelDisk, create_image, exercise};
use tintype_formats::{BlockSource, CreateOptions, HostFile, HostFileMut};

const FOOTER_BYTES: usize = 512;
const HEADER_BYTES: usize = 1024;

/// A dynamic disk of five blocks, some of them absent.
static BASE: LazyLock<Arc<MemoryFile>> = LazyLock::new(|| {
    let mut disk = ModelDisk::new(5 << 19);
    [3, 4, 130, 600].into_iter().for_each(|block| disk.write(block, block | 1));
    let mut options = CreateOptions::new(disk.geometry());
    options.options.insert("block_size".to_owned(), "512k".to_owned());
    create_image(&tintype_formats::vhd::FORMAT, &options, &disk, None).expect("a good image")
});

/// Gives a structure the complement of its bytes' sum, as a big-endian number at `checksum_at`. Returns it.
fn mend<const BYTES: usize>(file: &MemoryFile, host_offset: u64, checksum_at: usize) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    file.read_exact_at(host_offset, &mut bytes).ok()?;
    bytes[checksum_at..checksum_at + 4].fill(0);
    let sum = bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    file.write_all_at(host_offset + checksum_at as u64, &(!sum).to_be_bytes()).ok()?;
    Some(bytes)
}

fn mend_all(file: &MemoryFile) {
    let end = file.len_bytes().unwrap_or(0);
    for place in [0, end.saturating_sub(FOOTER_BYTES as u64)] {
        let Some(footer) = mend::<FOOTER_BYTES>(file, place, 64) else { continue };
        let header_offset = u64::from_be_bytes(footer[16..24].try_into().expect("eight bytes"));
        if header_offset < end {
            mend::<HEADER_BYTES>(file, header_offset, 36);
        }
    }
}

fn patched(mut patches: &[u8]) -> MemoryFile {
    let file = BASE.duplicate();
    while let [low, high, how, rest @ ..] = patches {
        let length = usize::from(*how & 0x1f).min(rest.len());
        let place = u64::from(u16::from_le_bytes([*low, *high]));
        let end = file.len_bytes().unwrap_or(0);
        match how >> 6 {
            0 | 1 => _ = file.write_all_at(place, &rest[..length]),
            2 => _ = file.write_all_at(end.saturating_sub(place), &rest[..length]),
            _ => _ = file.set_len_bytes(end.saturating_sub(place)),
        }
        patches = &rest[length..];
    }
    file
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = if mode & 2 == 0 { MemoryFile::from_bytes(rest) } else { patched(rest) };
    if mode & 1 != 0 {
        mend_all(&file);
    }
    let _ = exercise(&tintype_formats::vhd::FORMAT, Arc::new(file));
});
