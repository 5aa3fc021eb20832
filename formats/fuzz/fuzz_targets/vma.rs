//! Any bytes as a VMA archive, with its checksums mended, so that changes get past them.
//!
//! The header of a real archive is 12 KiB of zeros, mostly: the input is what is in it and what follows.
#![no_main]

use std::ops::Range;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use tintype_formats::testing::{MemoryFile, exercise};

const HEADER_BYTES: usize = 12288;
/// A few bytes of input are megabytes of blocks: without a bound, making the file would take all of the memory.
const MAX_FILE_BYTES: usize = 16 << 20;
/// Where the header's own fields, the configurations' names, two devices and the blobs are.
const PLACES: [Range<usize>; 4] = [0..60, 2044..2052, 4128..4192, HEADER_BYTES..HEADER_BYTES + 64];

fn sign(bytes: &mut [u8], place: Range<usize>) {
    bytes[place.clone()].fill(0);
    let sum = Md5::digest(&*bytes);
    bytes[place].copy_from_slice(&sum);
}

fuzz_target!(|data: &[u8]| {
    let mut file = vec![0; HEADER_BYTES + 64];
    let mut rest = data;
    for place in PLACES {
        let length = place.len().min(rest.len());
        file[place.start..place.start + length].copy_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    file[..8].copy_from_slice(b"VMA\0\0\0\0\x01");
    let uuid: [u8; 16] = file[8..24].try_into().expect("16 bytes");
    file[48..60].copy_from_slice(&[0, 0, 0x30, 0, 0, 0, 0, 64, 0, 0, 0x30, 64]);
    sign(&mut file, 32..48);
    // Extents: as many blocks as they say follow, of a few different bytes.
    while rest.len() >= 2 && file.len() < MAX_FILE_BYTES {
        let mut extent = vec![0; 512];
        let length = (2 + usize::from(rest[1]) * 8).min(rest.len()).min(474);
        extent[..4].copy_from_slice(b"VMAE");
        extent[8..24].copy_from_slice(&uuid);
        extent[40..40 + length - 2].copy_from_slice(&rest[2..length]);
        let used = extent[40..].chunks_exact(8).filter(|info| info[3] != 0);
        let blocks: u32 = used.map(|info| u16::from_be_bytes([info[0], info[1]]).count_ones()).sum();
        let said = if rest[0] == 1 { 1 } else { blocks as u16 };
        extent[6..8].copy_from_slice(&said.to_be_bytes());
        sign(&mut extent, 24..40);
        file.extend(extent);
        file.extend(std::iter::repeat_n(rest[0], blocks as usize * 4096));
        rest = &rest[length..];
    }
    let _ = exercise(&tintype_formats::vma::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});
