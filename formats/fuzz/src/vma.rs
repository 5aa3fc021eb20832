//! A VMA archive, or what is in its header and extents, whose checksums are made right.
//!
//! The header of a real archive is 12 KiB of zeros, mostly. A shape has the places in it that are used, then the extents:
//!
//! ```text
//!   places of the header, 196 bytes | byte of the blocks, number of clusters, clusters | ...
//! ```

use std::ops::Range;

use md5::{Digest, Md5};

const MAGIC: [u8; 4] = *b"VMA\0";
const HEADER_BYTES: usize = 12288;
const BLOB_BYTES: usize = 64;
const EXTENT_BYTES: usize = 512;
const MAX_CLUSTERS: usize = 59;

/// A few bytes of a shape are megabytes of blocks, and what comes after the first ones is like them.
const MAX_FILE_BYTES: usize = 256 << 10;

/// Where the header's own fields, the configurations' names, two devices and the blobs are.
const PLACES: [Range<usize>; 4] = [0..60, 2044..2052, 4128..4192, HEADER_BYTES..HEADER_BYTES + BLOB_BYTES];

/// The file that an input stands for.
pub fn image(input: &[u8]) -> Vec<u8> {
    if input.starts_with(&MAGIC) {
        return input.to_vec();
    }
    let (mut file, mut rest) = header(input);
    let uuid: [u8; 16] = file[8..24].try_into().expect("16 bytes");
    while let [fill, count, clusters @ ..] = rest
        && file.len() < MAX_FILE_BYTES
    {
        let (clusters, after) = clusters.split_at((usize::from(*count) * 8).min(clusters.len()));
        extent(&mut file, &uuid, *fill, clusters);
        rest = after;
    }
    file
}

/// The header, and what follows of the input.
fn header(input: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut file = vec![0; HEADER_BYTES + BLOB_BYTES];
    let mut rest = input;
    for place in PLACES {
        let (content, after) = rest.split_at(place.len().min(rest.len()));
        file[place.start..place.start + content.len()].copy_from_slice(content);
        rest = after;
    }
    file[..8].copy_from_slice(b"VMA\0\0\0\0\x01");
    let numbers = [HEADER_BYTES, BLOB_BYTES, HEADER_BYTES + BLOB_BYTES];
    file[48..60].copy_from_slice(&numbers.map(|number| (number as u32).to_be_bytes()).concat());
    sign(&mut file, 32..48);
    (file, rest)
}

/// As many blocks as the clusters say follow; a `fill` of 1 claims another number.
fn extent(file: &mut Vec<u8>, uuid: &[u8; 16], fill: u8, clusters: &[u8]) {
    let mut extent = [0; EXTENT_BYTES];
    extent[..4].copy_from_slice(b"VMAE");
    extent[8..24].copy_from_slice(uuid);
    let clusters = &clusters[..clusters.len().min(MAX_CLUSTERS * 8)];
    extent[40..40 + clusters.len()].copy_from_slice(clusters);
    let used = extent[40..].chunks_exact(8).filter(|info| info[3] != 0);
    let blocks: u32 = used.map(|info| u16::from_be_bytes([info[0], info[1]]).count_ones()).sum();
    let claimed = if fill == 1 { 1 } else { blocks as u16 };
    extent[6..8].copy_from_slice(&claimed.to_be_bytes());
    sign(&mut extent, 24..40);
    file.extend_from_slice(&extent);
    file.resize(file.len() + blocks as usize * 4096, fill);
}

fn sign(bytes: &mut [u8], place: Range<usize>) {
    bytes[place.clone()].fill(0);
    let sum = Md5::digest(&*bytes);
    bytes[place].copy_from_slice(&sum);
}
