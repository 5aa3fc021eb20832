//! Any bytes as an image, or as the archive in one: a stored deflate stream gets them past the checksum.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Makes the checksum of the archive's first header right.
fn mend(archive: &mut [u8]) {
    if let Some(header) = archive.first_chunk_mut::<512>() {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut file = GZIP_HEADER.to_vec();
    match mode % 3 {
        0 => file.clear(),
        1 => {
            // Any deflate stream.
            file.extend_from_slice(rest);
        }
        _ => {
            let mut archive = rest.to_vec();
            mend(&mut archive);
            for block in archive.chunks(65_535) {
                let length = block.len() as u16;
                file.push(0);
                file.extend(length.to_le_bytes());
                file.extend((!length).to_le_bytes());
                file.extend_from_slice(block);
            }
            file.extend([1, 0, 0, 0xff, 0xff]);
            file.extend(crc32fast::hash(&archive).to_le_bytes());
            file.extend((archive.len() as u32).to_le_bytes());
        }
    }
    if file.is_empty() {
        file.extend_from_slice(rest);
    }
    let _ = exercise(&tintype_formats::gce::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});
