//! Any bytes as a VHD file, with the checksums of both footers and of the dynamic header mended if they can be found, so that
//! changes get past them.
//!
//! The first byte of the input is no part of the file: its lowest bit asks for the mending.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

const FOOTER_BYTES: usize = 512;
const HEADER_BYTES: usize = 1024;

/// Gives a structure the complement of its bytes' sum, as a big-endian number at `checksum_at`.
fn mend(bytes: &mut [u8], checksum_at: usize) {
    bytes[checksum_at..checksum_at + 4].fill(0);
    let sum = bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    bytes[checksum_at..checksum_at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn mend_all(file: &mut [u8]) {
    for place in [0, file.len().saturating_sub(FOOTER_BYTES)] {
        let Some(footer) = file.get_mut(place..place + FOOTER_BYTES) else { continue };
        mend(footer, 64);
        let header_offset = u64::from_be_bytes(footer[16..24].try_into().expect("eight bytes"));
        let header = usize::try_from(header_offset).ok().and_then(|begin| file.get_mut(begin..begin.checked_add(HEADER_BYTES)?));
        if let Some(header) = header {
            mend(header, 36);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, file)) = data.split_first() else { return };
    let mut file = file.to_vec();
    if mode & 1 != 0 {
        mend_all(&mut file);
    }
    let _ = exercise(&tintype_formats::vhd::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});
