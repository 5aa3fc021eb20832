//! What a changed or cut image may do: for formats that are read, but not created (those go through `tests/mutation.rs`).

use std::ops::Range;
use std::sync::Arc;

use super::{MemoryFile, exercise, open_disk, read_all};
use crate::error::Result;
use crate::format::Format;

/// Cuts a small image at every place and flips each byte of `flipped`: an error or the same disk, never a panic.
///
/// `is_unprotected` says which bytes may give another disk, because nothing in the format contradicts it.
pub fn check_damage(
    format: &'static Format,
    image: &[u8],
    flipped: Range<usize>,
    is_unprotected: impl Fn(usize) -> bool,
) {
    let content = |bytes: &[u8]| -> Result<Vec<u8>> {
        let file = Arc::new(MemoryFile::from_bytes(bytes));
        let _ = exercise(format, file.clone());
        let disk = open_disk(file, Some(format))?;
        if crate::BlockSource::geometry(&disk).size_bytes <= 64 << 20 {
            return read_all(&disk);
        }
        // Another disk, if any of it can be read.
        crate::BlockSource::read_at(&disk, 0, &mut [0; 4096])?;
        Ok(Vec::new())
    };
    let expected = content(image).expect("the image itself");
    let step = (image.len() / 512).max(1);
    for cut in (0..image.len()).step_by(step).chain(flipped.clone()).chain([image.len() - 1]) {
        let found = content(&image[..cut]);
        assert!(found.map_or(true, |found| found == expected), "cut at {cut:#x} of {:#x}", image.len());
    }
    for place in flipped {
        for flip in [0xff, 0x01, 0x80] {
            let mut changed = image.to_vec();
            changed[place] ^= flip;
            let harmless = content(&changed).map_or(true, |found| found == expected);
            assert!(harmless || is_unprotected(place), "byte {place:#x} flipped by {flip:#x}");
        }
    }
}
