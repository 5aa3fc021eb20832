//! An image for Compute Engine, or the archive in one, whose headers' checksums are made right.

use super::tar;

/// The file that an input stands for.
pub fn image(input: &[u8]) -> Vec<u8> {
    if input.starts_with(&[0x1f, 0x8b]) {
        return input.to_vec();
    }
    let mut archive = input.to_vec();
    tar::mend(&mut archive);
    gzip(&archive)
}

/// A gzip file of stored blocks: the bytes as they are, and their checksum.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for block in bytes.chunks(65_535) {
        let length = block.len() as u16;
        file.push(0);
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend_from_slice(block);
    }
    file.extend([1, 0, 0, 0xff, 0xff]);
    file.extend(crc32fast::hash(bytes).to_le_bytes());
    file.extend((bytes.len() as u32).to_le_bytes());
    file
}
